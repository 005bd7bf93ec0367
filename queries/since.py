"""Since when a level is beyond its limit: the minute after the last one in which it was not.

Looks back a day over the 1-minute rollup, for the few containers in trouble only. A minute without readings or with too
few requests says nothing and is passed over. Beyond all day long = no answer, as the beginning was not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from fleet.latency import quantile_from_buckets
from fleet.model import Window
from fleet.severity import Thresholds
from queries.resolution import Resolution, moment
from queries.scoping import Where, during
from store import Store

_MINUTES = Resolution(suffix="_1m", step_seconds=60)
_DAY = timedelta(days=1)
#: Rule -> table and the condition under which a minute was fine.
_FINE = {
    "memory": ("container_samples", "memory_working_set_bytes_max < {memory:Float64} * memory_limit_bytes_max"),
    "throttled": ("container_samples", "cpu_throttled_periods < {throttled:Float64} * cpu_periods"),
    "errors": ("inference_samples", "requests > 0 AND errors < {errors:Float64} * requests"),
}


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
            f"SELECT container_key, toUnixTimestamp(maxIf(at, {fine})) AS last_fine"
            f" FROM {_MINUTES.table(table)} WHERE {asked.sql} GROUP BY container_key",
            {**asked.parameters, rule: bounds[rule]},
        ).to_pylist()
        for row in rows:
            if (at := moment(row["last_fine"])) is not None:
                found[rule, row["container_key"]] = at + timedelta(minutes=1)
    if keys := rules.get("ttft"):
        for key, at in _slow_since(store, where, day, keys, limits).items():
            found["ttft", key] = at
    return found


def _slow_since(
    store: Store, where: Where, day: Window, keys: Sequence[str], limits: Thresholds
) -> dict[str, datetime]:
    asked = during(
        where.also("container_key IN {beyond:Array(String)} AND field = 'ttft_seconds'", beyond=list(keys)),
        day,
        _MINUTES,
    )
    rows = store.query(
        f"SELECT container_key, toUnixTimestamp(at) AS minute, bounds, {_MINUTES.buckets} AS merged"
        f" FROM {_MINUTES.table('histograms')} WHERE {asked.sql} GROUP BY container_key, minute, bounds"
        " ORDER BY container_key, minute DESC",
        asked.parameters,
    ).to_pylist()
    found: dict[str, datetime] = {}
    for row in rows:  # newest first
        if row["container_key"] in found:
            continue
        p95 = quantile_from_buckets(row["bounds"], row["merged"], 0.95)
        fine = p95.state == "ok" and p95.value is not None and p95.value < limits.ttft_warning_seconds
        if fine and (at := moment(row["minute"])) is not None:
            found[row["container_key"]] = at + timedelta(minutes=1)
    return found
