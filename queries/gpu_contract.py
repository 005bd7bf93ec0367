"""Which containers do not use the GPUs they asked for, or use others?

The judgement is `fleet.gpu_contract`; here its facts are read: what each container asked for, and per GPU what was seen
of it, from the 1-minute rollup (the 1-hour one beyond a day). How long a GPU has been held without use is looked up
over months, but only for those that are found unused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from fleet.gpu_contract import Claim, GpuUse, Rules, Violation, check
from fleet.model import Scope, Window
from queries.answer import Answer
from queries.freshness import DOCKER, NVML, answer
from queries.resolution import Resolution, epoch_ms, moment
from queries.scoping import Where, during, last, of_tenants
from queries.sharing import shared
from store import Store

_TIME = pa.timestamp("ms", tz="UTC")
_RAW = Resolution(suffix="", step_seconds=15)
_MINUTES = Resolution(suffix="_1m", step_seconds=60)
_HOURS = Resolution(suffix="_1h", step_seconds=3600)
#: A GPU whose newest row is older than this is not held now.
_RECENT = timedelta(minutes=10)
#: Spans shorter than this are read from the samples: a minute is too coarse for them.
_FINE = timedelta(minutes=30)
_MINUTES_UP_TO = timedelta(days=1)
#: How far back a GPU's last use is looked for.
_HISTORY = timedelta(days=90)
_SCHEMA = pa.schema(
    [
        ("severity", pa.string()), ("kind", pa.string()), ("host", pa.string()), ("tenant", pa.string()),
        ("container_key", pa.string()), ("name", pa.string()), ("gpu_uuids", pa.list_(pa.string())),
        ("sentence", pa.string()), ("since", _TIME), ("evidence", pa.string()),
    ]
)  # fmt: skip
_Uses = dict[tuple[str, str], dict[str, GpuUse]]


@shared
def gpu_contract(
    store: Store,
    scope: Scope,
    window: Window,
    *,
    host: str | None = None,
    held_unused_after_seconds: float = 14_400.0,
    idle_below_ratio: float = 0.05,
) -> Answer:
    """What is not as declared, worst first; looked at over the window, at least over `held_unused_after_seconds`.

    Columns: severity (warning, info), kind (failed_start, requested_absent, uses_unasked, shared_by_count, asked_all,
    held_unused, privileged_reach, shared_on_purpose, unknown), host, tenant, container_key, name, gpu_uuids, sentence,
    since (NULL = not known), evidence ("name=value; ..."). kind "unknown" says what cannot be judged and why. A limited
    scope sees its own containers; of another tenant's only that it shares a GPU.
    """
    where = of_tenants(scope, host=host)
    containers = {
        (str(row["container_key"]), str(row["container_id"])): row for row in _containers(store, where, window)
    }
    violations: Sequence[Violation] = ()
    if containers:
        after = timedelta(seconds=held_unused_after_seconds)
        span = last(window, max(window.end - window.start, after))
        uses = _seen(store, where, span, idle_below_ratio)
        _add_quiet(store, where, last(window, after), idle_below_ratio, uses)
        _add_reasons(store, where, window, uses)
        _add_history(store, where, window, after, idle_below_ratio, uses, containers)
        claims = [_claim(row, uses.get(key, {})) for key, row in containers.items()]
        if scope.tenants is not None:
            claims += _strangers(store, scope, claims)
        violations = check(claims, _rules(store, window, span, held_unused_after_seconds, idle_below_ratio))
    facts = {key: row for (key, _), row in containers.items()}
    rows = [
        {
            "severity": one.severity, "kind": one.kind, "host": facts[one.container_key]["host"],
            "tenant": facts[one.container_key]["tenant"], "container_key": one.container_key,
            "name": facts[one.container_key]["name"], "gpu_uuids": list(one.gpu_uuids), "sentence": one.sentence,
            "since": one.since, "evidence": "; ".join(f"{key}={value}" for key, value in one.evidence.items()),
        }
        for one in violations
    ]  # fmt: skip
    return answer(store, scope, window, pa.Table.from_pylist(rows, schema=_SCHEMA), (*DOCKER, *NVML))


def _containers(store: Store, where: Where, window: Window) -> list[dict[str, Any]]:
    """The newest container of each key that exists at the window's end."""
    exists = where.also(
        "(created_at IS NULL OR created_at <= fromUnixTimestamp64Milli({window_end:Int64}, 'UTC'))"
        " AND (removed = 0 OR seen_at > fromUnixTimestamp64Milli({window_end:Int64}, 'UTC'))",
        window_end=epoch_ms(window.end),
    )
    return store.query(
        f"""
        SELECT container_key, container_id, name, host, tenant, state, error, gpu_request, gpu_request_kind, gpu_uuids,
            gpu_unresolved, privileged, compose_project, created_at, started_at
        FROM containers FINAL WHERE {exists.sql}
        ORDER BY container_key, created_at DESC LIMIT 1 BY container_key LIMIT 5000
        """,
        exists.parameters,
    ).to_pylist()


def _claim(row: Mapping[str, Any], uses: Mapping[str, GpuUse]) -> Claim:
    return Claim(
        container_key=row["container_key"],
        name=row["name"] or row["container_key"],
        host=row["host"],
        state=row["state"],
        kind=row["gpu_request_kind"],
        request=row["gpu_request"],
        gpu_uuids=tuple(row["gpu_uuids"]),
        unresolved=tuple(row["gpu_unresolved"]),
        privileged=bool(row["privileged"]),
        error=row["error"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        compose=bool(row["compose_project"]),
        uses=tuple(uses[uuid] for uuid in sorted(uses)),
    )


def _strangers(store: Store, scope: Scope, claims: Sequence[Claim]) -> list[Claim]:
    """Running containers outside the scope on the GPUs that those inside hold: how they asked, and nothing else."""
    own = sorted({uuid for claim in claims for uuid in claim.held})
    if not own:
        return []
    inside = of_tenants(scope)
    rows = store.query(
        "SELECT host, gpu_request_kind, arrayIntersect(gpu_uuids, {own:Array(String)}) AS on_own FROM containers FINAL"
        f" WHERE NOT ({inside.sql}) AND removed = 0 AND hasAny(gpu_uuids, {{own:Array(String)}})"
        " AND state IN ('running', 'paused', 'restarting') LIMIT 5000",
        {**inside.parameters, "own": own},
    ).to_pylist()
    return [
        Claim(
            container_key="", name="", host=row["host"], state="running", kind=row["gpu_request_kind"],
            gpu_uuids=tuple(row["on_own"]),
        )
        for row in rows
    ]  # fmt: skip


def _rules(store: Store, window: Window, span: Window, after_seconds: float, idle_below_ratio: float) -> Rules:
    known = store.query("SELECT host, gpu_uuid, parent_uuid, gpu_index, mig_profile FROM gpus FINAL").to_pylist()
    return Rules(
        at=window.end,
        span_seconds=span.seconds,
        held_unused_after_seconds=after_seconds,
        idle_below_ratio=idle_below_ratio,
        gpu_names={str(row["gpu_uuid"]): _gpu_name(row) for row in known},
        parents={str(row["gpu_uuid"]): str(row["parent_uuid"]) for row in known if row["parent_uuid"]},
        gpu_hosts=frozenset(str(row["host"]) for row in known),
    )


def _gpu_name(row: Mapping[str, object]) -> str:
    whole = f"GPU {row['gpu_index']}"
    if not row["parent_uuid"]:
        return whole
    return f"MIG {row['mig_profile']} of {whole} ({str(row['gpu_uuid'])[:8]})"


# --- what was seen -----------------------------------------------------------------------------------------------


class _Columns:
    """Expressions over the samples or a rollup of them."""

    def __init__(self, tier: Resolution) -> None:
        end = "" if tier.raw else "_max"
        self.memory, self.processes, self.sm = f"memory_bytes{end}", f"processes{end}", f"sm_ratio{end}"
        present = f"ifNull({self.memory} > 0, 0) OR ifNull({self.processes} > 0, 0)"
        self.used = f"({present} OR ifNull({self.sm} >= {{idle:Float64}}, 0))"
        self.there = f"({present} OR ifNull({self.sm} > 0, 0))"
        if tier.raw:
            self.held = "held = 1"
            self.held_seconds = "held * toFloat64(interval_seconds)"
            seen = "isNotNull(memory_bytes) OR isNotNull(processes)"
            self.known_seconds = f"if({seen}, toFloat64(interval_seconds), 0.)"
        else:
            self.held = "held_seconds > 0"
            self.held_seconds = "held_seconds"
            self.known_seconds = "greatest(memory_bytes_weight_seconds, processes_weight_seconds)"


def _tier(span: Window) -> Resolution:
    """Samples for minutes, minutes up to a day, hours beyond: over a week minutes cost three times as much."""
    length = span.end - span.start
    return _RAW if length < _FINE else _MINUTES if length <= _MINUTES_UP_TO else _HOURS


def _seen(store: Store, where: Where, span: Window, idle_below_ratio: float) -> _Uses:
    """(container key, id) -> GPU -> what was seen in the span."""
    tier = _tier(span)
    columns = _Columns(tier)
    asked = during(where.also("container_key != ''"), span, tier)
    rows = store.query(
        f"""
        SELECT container_key, container_id, gpu_uuid, toUnixTimestamp(max(at)) AS newest,
            argMax({columns.held}, at) AS held_last, toUnixTimestamp(minIf(at, {columns.held})) AS held_first,
            toUnixTimestamp(maxIf(at, {columns.used})) AS used_last,
            toUnixTimestamp(minIf(at, NOT ({columns.held}) AND {columns.there})) AS unasked_first,
            max({columns.memory}) AS memory_most, max({columns.sm}) AS sm_most
        FROM {tier.table("container_gpu_samples")} WHERE {asked.sql} GROUP BY container_key, container_id, gpu_uuid
        """,
        {**asked.parameters, "idle": idle_below_ratio},
    ).to_pylist()
    width = 0 if tier.raw else tier.step_seconds
    current = (span.end - _RECENT).timestamp() - width
    found: _Uses = defaultdict(dict)
    for row in rows:
        found[row["container_key"], row["container_id"]][row["gpu_uuid"]] = GpuUse(
            gpu_uuid=row["gpu_uuid"],
            held=bool(row["held_last"]) and row["newest"] >= current,
            held_since=moment(row["held_first"]),
            seen_at=_end_of(row["newest"], width, span.end),
            last_used_at=_end_of(row["used_last"], width, span.end),
            unasked_since=moment(row["unasked_first"]),
            memory_max_bytes=row["memory_most"],
            sm_max_ratio=row["sm_most"],
        )
    return found


def _end_of(start: float | None, width: int, latest: datetime) -> datetime | None:
    """The end of the rollup row that starts there: what it counted may have happened until then."""
    at = moment(start)
    return None if at is None else min(at + timedelta(seconds=width), latest)


def _add_quiet(store: Store, where: Where, span: Window, idle_below_ratio: float, uses: _Uses) -> None:
    """How long each held GPU was verifiably unused, and how long nobody could tell, in the span."""
    tier = _tier(span)
    columns = _Columns(tier)
    asked = during(where.also(f"container_key != '' AND {columns.held} AND NOT {columns.used}"), span, tier)
    known = f"least({columns.known_seconds}, {columns.held_seconds})"
    rows = store.query(
        f"""
        SELECT container_key, container_id, gpu_uuid, sum({known}) AS quiet_sum,
            sum({columns.held_seconds}) - quiet_sum AS unknown_sum
        FROM {tier.table("container_gpu_samples")} WHERE {asked.sql} GROUP BY container_key, container_id, gpu_uuid
        """,
        {**asked.parameters, "idle": idle_below_ratio},
    ).to_pylist()
    for row in rows:
        own = uses.get((row["container_key"], row["container_id"]), {})
        if use := own.get(row["gpu_uuid"]):
            own[use.gpu_uuid] = replace(use, quiet_seconds=row["quiet_sum"], unknown_seconds=row["unknown_sum"])


def _add_reasons(store: Store, where: Where, window: Window, uses: _Uses) -> None:
    """Why the newest reading of a use could not be taken, for those that have one."""
    if not any(use.unknown_seconds > 0 for own in uses.values() for use in own.values()):
        return
    recent = during(where.also("container_key != '' AND isNull(memory_bytes)"), last(window, _RECENT))
    rows = store.query(
        "SELECT container_key, container_id, gpu_uuid, argMax(attribution_reason, at) AS reason"
        f" FROM container_gpu_samples WHERE {recent.sql} GROUP BY container_key, container_id, gpu_uuid",
        recent.parameters,
    ).to_pylist()
    for row in rows:
        own = uses.get((row["container_key"], row["container_id"]), {})
        if use := own.get(row["gpu_uuid"]):
            own[use.gpu_uuid] = replace(use, unknown_reason=row["reason"])


def _add_history(
    store: Store,
    where: Where,
    window: Window,
    after: timedelta,
    idle_below_ratio: float,
    uses: _Uses,
    containers: Mapping[tuple[str, str], Mapping[str, Any]],
) -> None:
    """Since when: the last use of GPUs that were not used in the span looked at, from the hours before it."""
    latest = window.end - after
    unused = {
        key
        for key, own in uses.items()
        if key in containers
        and any(use.held and use.quiet_seconds > 0 and use.last_used_at is None for use in own.values())
    }
    if not unused:
        return
    columns = _Columns(_HOURS)
    asked = during(
        where.also("container_key IN {unused:Array(String)}", unused=sorted({key for key, _ in unused})),
        Window(start=window.end - _HISTORY, end=window.end),
        _HOURS,
    )
    rows = store.query(
        f"""
        SELECT container_key, container_id, gpu_uuid, toUnixTimestamp(minIf(at, {columns.held})) AS held_first,
            toUnixTimestamp(maxIf(at, {columns.used})) AS used_last
        FROM {_HOURS.table("container_gpu_samples")} WHERE {asked.sql} GROUP BY container_key, container_id, gpu_uuid
        """,
        {**asked.parameters, "idle": idle_below_ratio},
    ).to_pylist()
    for row in rows:
        key = (row["container_key"], row["container_id"])
        use = uses.get(key, {}).get(row["gpu_uuid"])
        if use is None or key not in unused or use.last_used_at is not None:
            continue
        first, started = moment(row["held_first"]), containers[key]["started_at"]
        # An hour begins before what happened in it, a container holds nothing before it starts.
        held_since = max(first, started) if first and started else first or use.held_since
        uses[key][use.gpu_uuid] = replace(
            use, held_since=held_since, last_used_at=_end_of(row["used_last"], 3600, latest)
        )
