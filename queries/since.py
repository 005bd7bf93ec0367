"""Since when a level is beyond its limit: the minute after the last one in which it was not.

Looks back a day (6 hours for latency) over the 1-minute rollup, for the few containers in trouble only.
A minute without readings or with too few requests says nothing and is passed over. Beyond all that time means
no answer, as the beginning was not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from fleet.latency import fewest_observations
from fleet.model import Window
from fleet.severity import Thresholds
from queries.resolution import Resolution, epoch_ms, moment
from queries.scoping import Where, during, since_minute
from queries.sharing import KEPT_SECONDS, Frozen, frozen, round_time_before, shared_for, thawed
from store import Store

_RAW = Resolution(suffix="", step_seconds=60)
_MINUTES = Resolution(suffix="_1m", step_seconds=60)
_DAY = timedelta(days=1)
#: Buckets are heavier than gauges, so slowness is followed back less far.
_SLOW_BACK = timedelta(hours=6)
#: Rows come so late after the minute they tell of; what is older is read again once in so many seconds only.
_LATE = timedelta(minutes=1)
_MINUTES_KEPT_SECONDS = 30.0
#: Rule -> table and the condition under which a minute was fine, over all its rows: a rollup's may be unmerged.
_FINE = {
    "memory": (
        "container_samples",
        "max(memory_working_set_bytes_max) < {memory:Float64} * max(memory_limit_bytes_max)",
    ),
    "throttled": ("container_samples", "sum(cpu_throttled_periods) < {throttled:Float64} * sum(cpu_periods)"),
    "errors": ("inference_samples", "sum(requests) > 0 AND sum(errors) < {errors:Float64} * sum(requests)"),
}


#: Rule -> kinds of events, the newest of which began the trouble.
_EVENTS = {"oom": ("oom",), "health": ("health_status",), "state": ("die", "pause"), "restarts": ("die",)}
_WEEK = timedelta(days=7)


def trouble_since(
    store: Store, where: Where, window: Window, rules: Mapping[str, str], limits: Thresholds
) -> dict[str, datetime]:
    """Container key -> since when the rule holds that it is in trouble by; absent when that cannot be told.

    rules: container key -> rule of its judgement.
    """
    beyond = {rule: [key for key, own in rules.items() if own == rule] for rule in (*_FINE, "ttft")}
    found = {key: at for (_, key), at in beyond_since(store, where, window, beyond, limits).items()}
    told = {key: rule for key, rule in rules.items() if rule in _EVENTS}
    if not told:
        return found
    asked = during(
        where.also("container_key IN {troubled:Array(String)}", troubled=list(told)),
        Window(start=window.end - _WEEK, end=window.end),
    )
    events = store.query(
        f"""
        SELECT container_key, kind, toUnixTimestamp64Milli(max(at)) AS newest_ms,
            toUnixTimestamp64Milli(minIf(at, at > fromUnixTimestamp64Milli({{shown_start:Int64}}, 'UTC'))) AS shown_ms
        FROM events WHERE {asked.sql} GROUP BY container_key, kind
        """,
        {**asked.parameters, "shown_start": epoch_ms(window.start)},
    ).to_pylist()
    for row in events:
        rule = told[row["container_key"]]
        # A crash loop began with its first end that the page shows, everything else with the newest event.
        at = moment((row["shown_ms"] if rule == "restarts" and row["shown_ms"] > 0 else row["newest_ms"]) / 1000)
        if row["kind"] in _EVENTS[rule] and at is not None:
            found[row["container_key"]] = max(at, found.get(row["container_key"], at))
    return found


def beyond_since(
    store: Store, where: Where, window: Window, rules: Mapping[str, Sequence[str]], limits: Thresholds
) -> dict[tuple[str, str], datetime]:
    """(rule, container key) -> since when.

    rules: memory, throttled, errors, ttft -> keys of the containers that are beyond that limit now.
    """
    found: dict[tuple[str, str], datetime] = {}
    day = Window(start=window.end - _DAY, end=window.end)
    bounds: dict[str, object] = {
        "memory": limits.memory_warning_ratio,
        "throttled": limits.throttled_warning_ratio,
        "errors": limits.error_warning_ratio,
    }
    for rule, (table, fine) in _FINE.items():
        keys = rules.get(rule)
        if not keys:
            continue
        asked = during(where.also("container_key IN {beyond:Array(String)}", beyond=list(keys)), day, _MINUTES)
        rows = store.query(
            f"SELECT container_key, toUnixTimestamp(maxIf(minute, fine)) AS last_fine FROM ("
            f"SELECT container_key, at AS minute, {fine} AS fine FROM {_MINUTES.table(table)} WHERE {asked.sql}"
            " GROUP BY container_key, minute) GROUP BY container_key",
            {**asked.parameters, rule: bounds[rule]},
        ).to_pylist()
        for row in rows:
            if (at := moment(row["last_fine"])) is not None:
                found[rule, row["container_key"]] = at + timedelta(minutes=1)
    if keys := rules.get("ttft"):
        for key, at in _slow_since(store, where, window, keys, limits).items():
            found["ttft", key] = at
    return found


def _slow_since(
    store: Store, where: Where, window: Window, keys: Sequence[str], limits: Thresholds
) -> dict[str, datetime]:
    """Per container: the minute after the last one whose p95 was within the limit."""
    limit = limits.ttft_warning_seconds
    cut = round_time_before(window.end)
    minute = window.end.replace(second=0, microsecond=0) - _LATE
    found = _last_fine(store, where, since_minute(minute, window), keys, limit, _RAW)
    own = (where.sql, frozen(where.parameters))
    for read, start, end in ((_fine_in_minutes, cut, minute), (_fine_before, cut - _SLOW_BACK, cut)):
        if (missing := tuple(sorted(set(keys) - set(found)))) and start < end:
            found |= read(store, *own, missing, Window(start=start, end=end), limit)
    return {key: at + timedelta(minutes=1) for key, at in found.items()}


@shared_for(_MINUTES_KEPT_SECONDS)
def _fine_in_minutes(
    store: Store, sql: str, parameters: Frozen, keys: tuple[str, ...], span: Window, limit: float
) -> dict[str, datetime]:
    raw = since_minute(span.start, Window(start=span.start, end=span.end - timedelta(milliseconds=1)))
    return _last_fine(store, Where(sql, thawed(parameters)), raw, keys, limit, _RAW)


@shared_for(KEPT_SECONDS)
def _fine_before(
    store: Store, sql: str, parameters: Frozen, keys: tuple[str, ...], span: Window, limit: float
) -> dict[str, datetime]:
    return _last_fine(store, Where(sql, thawed(parameters)), span, keys, limit, _MINUTES)


def _last_fine(
    store: Store, where: Where, span: Window, keys: Sequence[str], limit: float, tier: Resolution
) -> dict[str, datetime]:
    """Per container: the last minute of the span whose p95 was below the limit; absent if none was.

    The p95 is below the limit exactly when more than 95 % of the requests are, counted with the same interpolation
    inside a bucket; so the engine answers with one row a container. Fetching every minute's buckets instead took two
    seconds when a hundred servers were slow at once, which is when the page is needed. Both counts are sums over the
    buckets, so rows are counted one by one and no buckets are merged.
    """
    asked = during(
        where.also("container_key IN {beyond:Array(String)} AND field = 'ttft_seconds'", beyond=list(keys)), span, tier
    )
    minute, counts = ("toStartOfMinute(at)", "increments") if tier.raw else ("at", "finalizeAggregation(increments)")
    rows = store.query(
        f"""
        SELECT container_key, toUnixTimestamp(maxIf(minute, n >= {{fewest:Float64}} AND below > 0.95 * n)) AS last_fine
        FROM (
            SELECT container_key, {minute} AS minute, sum(arraySum({counts})) AS n,
                sum(arraySum(
                    (c, upper, lower) -> c * greatest(0., least(1., ({{limit:Float64}} - lower) / (upper - lower))),
                    {counts}, bounds, arrayPushFront(arrayPopBack(bounds), 0.))) AS below
            FROM {tier.table("histograms")} WHERE {asked.sql} GROUP BY container_key, minute, cityHash64(bounds)
        ) GROUP BY container_key
        """,
        {**asked.parameters, "limit": limit, "fewest": float(fewest_observations(0.95))},
    ).to_pylist()
    return {row["container_key"]: at for row in rows if (at := moment(row["last_fine"])) is not None}
