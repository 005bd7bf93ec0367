"""The newest row of every container, GPU and share of a GPU, without weighing the other rows of the last minutes.

Two reads each: one that finds when every entity was last seen, with what it counted meanwhile, and one of the rows of
those few moments. A poll stamps all rows of a host alike, so the moments are few and the second read touches only the
newest parts of the table. `argMax` of every column over all rows answers the same and took four times as long.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute  # its functions are made at run time, no type checker sees them

from fleet.model import Scope, Window
from fleet.severity import worst_xid
from queries.known import gpu_names
from queries.records import records
from queries.resolution import Resolution, epoch_ms
from queries.scoping import Where, during, last, of_gpus, of_tenants
from queries.sharing import shared
from store import Store

pc: Any = pyarrow.compute

#: How far back the newest sample of a container is looked for; older than that it has no current readings.
RECENT = timedelta(minutes=10)
#: Restarts, kills and errors are trouble of now for this long, whatever range is looked at: last week's are history.
COUNTED = timedelta(hours=1)
#: Span of "now" for rates and percentiles: short enough to see a spike, long enough for 20 requests.
NOW = timedelta(minutes=5)
#: Beyond so many moments their list is longer than what it saves, and as a parameter too long for a URL.
_MOST_MOMENTS = 100
_RAW = Resolution(suffix="", step_seconds=1)

Rows = list[dict[str, object]]
__all__ = ["gpu_names", "newest_gpus", "newest_inference", "newest_samples", "newest_shares", "newest_ttft"]


def _at(where: Where, newest: Iterable[object]) -> Where:
    """The condition limited to rows of the moments (epoch ms); to the span from the oldest of them if they are many."""
    moments = sorted({int(str(value)) for value in newest})
    if len(moments) > _MOST_MOMENTS:
        return where.also("at >= fromUnixTimestamp64Milli({oldest:Int64}, 'UTC')", oldest=moments[0])
    listed = "arrayMap(ms -> fromUnixTimestamp64Milli(ms, 'UTC'), {moments:Array(Int64)})"
    return where.also(f"at IN (SELECT arrayJoin({listed}))", moments=moments)


_OF_SAMPLE = pa.schema(
    [
        ("newest_ms", pa.int64()), ("step", pa.float64()), ("state", pa.string()), ("health", pa.string()),
        ("unknown_reason", pa.string()), ("cpu_cores", pa.float64()), ("cpu_limit_cores", pa.float64()),
        ("memory_bytes", pa.int64()), ("memory_limit_bytes", pa.int64()),
    ]
)  # fmt: skip


@shared
def newest_samples(store: Store, scope: Scope, window: Window, *, host: str | None = None) -> pa.Table:
    """Per container that was polled in the last minutes, or restarted or killed in the last hour: its newest sample.

    Columns: container_key, host, restarts and oom_kills (last hour), throttled_ratio (last minutes), own_seconds and
    mean_cpu_cores (observed time of the last 5 minutes, and the mean over it), and of the newest sample: newest_ms
    (NULL, as all that follow, when it is older than `RECENT`), step, state, health, unknown_reason, cpu_cores,
    cpu_limit_cores, memory_bytes, memory_limit_bytes.
    """
    where = of_tenants(scope, host=host)
    counted = during(where, last(window, COUNTED))
    starts = {"recent_start": epoch_ms(window.end - RECENT), "now_start": epoch_ms(window.end - NOW)}
    recently, now = (f"at > fromUnixTimestamp64Milli({{{name}:Int64}}, 'UTC')" for name in starts)
    counts = store.query(
        f"""
        SELECT container_key, any(host) AS polled_host, toUnixTimestamp64Milli(maxIf(at, {recently})) AS newest_ms,
            toInt64(sum(restarts)) AS restarted, toInt64(ifNull(sum(oom_kills), 0)) AS killed,
            sumIf(cpu_throttled_periods, {recently}) / nullIf(sumIf(cpu_periods, {recently}), 0) AS throttled_ratio,
            sumIf(toFloat64(interval_seconds), {now}) AS own_seconds,
            sumIf(cpu_seconds, {now}) / nullIf(sumIf(toFloat64(interval_seconds), {now} AND isNotNull(cpu_seconds)), 0)
                AS mean_cpu_cores
        FROM container_samples WHERE {counted.sql} AND ({recently} OR restarts > 0 OR oom_kills > 0)
        GROUP BY container_key
        """,
        {**counted.parameters, **starts},
    )
    keys = counts["container_key"].combine_chunks()
    seen = pc.unique(counts["newest_ms"].filter(pc.greater(counts["newest_ms"], 0)))
    found = pa.table({"container_key": pa.array([], pa.string())})
    if len(seen):
        recent = _at(during(where, last(window, RECENT)), seen.to_pylist())
        found = store.query(
            f"""
            SELECT container_key, toUnixTimestamp64Milli(at) AS newest_ms, toFloat64(interval_seconds) AS step, state,
                health, unknown_reason, cpu_seconds / nullIf(interval_seconds, 0) AS cpu_cores,
                toFloat64(cpu_limit_cores) AS cpu_limit_cores, toInt64(memory_working_set_bytes) AS memory_bytes,
                toInt64(memory_limit_bytes) AS memory_limit_bytes
            FROM container_samples WHERE {recent.sql} ORDER BY container_key, at DESC LIMIT 1 BY container_key
            """,
            recent.parameters,
        )
    place = pc.index_in(keys, value_set=found["container_key"].combine_chunks())
    columns = {"container_key": keys, "host": counts["polled_host"]}
    columns |= {"restarts": counts["restarted"], "oom_kills": counts["killed"]}
    columns |= {name: counts[name] for name in ("throttled_ratio", "own_seconds", "mean_cpu_cores")}
    for name, kind in zip(_OF_SAMPLE.names, _OF_SAMPLE.types, strict=True):
        column = found[name].combine_chunks().cast(kind).take(place) if found.num_rows else pa.nulls(len(keys), kind)
        columns[name] = column
    return pa.table(columns)


@shared
def newest_gpus(store: Store, scope: Scope, window: Window, *, host: str | None = None) -> Rows:
    """Newest sample of every GPU the scope may see that was polled in the last hour, with what it counted in it.

    Columns: host, gpu_uuid, newest, step, state, reason, busy, sm_active, memory_used, memory_all, power,
    power_limit, temperature, sm_clock, throttled, processes; ecc_bad, ecc_fixed and worst_xid (of equals the
    latest) of the hour; remapped and
    pending: the newest known value, as row remapping is read once a minute only; parent; own_seconds and mean_power
    of the last 5 minutes.
    """
    hour = last(window, COUNTED)
    now = "at > fromUnixTimestamp64Milli({now_start:Int64}, 'UTC')"
    where = during(of_gpus(scope, hour, _RAW, host=host), hour)
    counted = store.query(
        f"""
        SELECT host, gpu_uuid, toUnixTimestamp64Milli(max(at)) AS newest_ms, sum(ecc_uncorrected) AS ecc_bad,
            sum(ecc_corrected) AS ecc_fixed, argMax(remapped_rows, at) AS remapped,
            groupArrayIf((assumeNotNull(xid), toUnixTimestamp64Milli(at)), xid > 0) AS xids,
            argMax(remap_pending, at) AS pending, any(parent_uuid) AS parent,
            sumIf(toFloat64(interval_seconds), {now}) AS own_seconds,
            sumIf(toFloat64(power_watts) * interval_seconds, {now})
                / nullIf(sumIf(toFloat64(interval_seconds), {now} AND isNotNull(power_watts)), 0) AS mean_power
        FROM gpu_samples WHERE {where.sql} GROUP BY host, gpu_uuid
        """,
        {**where.parameters, "now_start": epoch_ms(window.end - NOW)},
    )
    counts = records(counted)
    if not counts:
        return []
    # Whose GPU it is was told by the first read; the second needs no look at the holders.
    seen = Where("gpu_uuid IN {seen_gpus:Array(String)}", {"seen_gpus": sorted({str(c["gpu_uuid"]) for c in counts})})
    moments = _at(during(seen, hour), (c["newest_ms"] for c in counts))
    rows = store.query(
        f"""
        SELECT host, gpu_uuid, interval_seconds AS step, state, unknown_reason AS reason,
            busy_ratio AS busy, sm_active_ratio AS sm_active, memory_used_bytes AS memory_used,
            memory_total_bytes AS memory_all, power_watts AS power, power_limit_watts AS power_limit,
            temperature_celsius AS temperature, sm_clock_mhz AS sm_clock, throttle_reasons AS throttled,
            process_count AS processes
        FROM gpu_samples WHERE {moments.sql} ORDER BY host, gpu_uuid, at DESC LIMIT 1 BY host, gpu_uuid
        """,
        moments.parameters,
    )
    newest = {(row["host"], row["gpu_uuid"]): row for row in records(rows)}
    found: Rows = []
    for row in counts:
        sample = newest.get((row["host"], row["gpu_uuid"]))
        if sample is not None:
            at = datetime.fromtimestamp(int(str(row["newest_ms"])) / 1000, UTC)
            xids = [(one["1"], one["2"]) for one in cast("list[dict[str, int]]", row["xids"])]
            found.append({**sample, **row, "newest": at, "worst_xid": worst_xid(xids)})
    return found


@shared
def newest_shares(store: Store, scope: Scope, window: Window, *, host: str | None = None) -> Rows:
    """Newest row of every container (key "" = what nobody owns) on every GPU, of the last minutes.

    Columns: gpu_uuid, container_key, owner (its tenant), host, newest_ms, held, memory_bytes, sm_ratio, attribution,
    attribution_reason; by container, then GPU.
    """
    recent = during(of_tenants(scope, host=host), last(window, RECENT))
    found = store.query(
        f"""
        SELECT container_key, host, gpu_uuid, any(tenant) AS owner,
            toUnixTimestamp64Milli(max(at)) AS newest_ms, argMax(held, at) AS held,
            argMax(tuple(memory_bytes), at).1 AS memory_bytes, argMax(tuple(sm_ratio), at).1 AS sm_ratio,
            argMax(attribution, at) AS attribution, argMax(attribution_reason, at) AS attribution_reason
        FROM container_gpu_samples WHERE {recent.sql} GROUP BY container_key, host, gpu_uuid
        ORDER BY container_key, gpu_uuid
        """,
        recent.parameters,
    )
    return records(found)


@shared
def newest_inference(store: Store, scope: Scope, window: Window, *, host: str | None = None) -> Rows:
    """What every model server did in the last 5 minutes, as each Prometheus server saw it.

    Columns: prometheus, container_key ("" = not joined), endpoint, model, role (server, gateway: it counts what the
    servers behind it count too, and belongs in no sum over servers), newest_ms, is_up, own_seconds (observed),
    asked, asked_seconds (requests, and the time in which they were known), tokens, tokens_seconds, failed.
    """
    now = during(of_tenants(scope, host=host), last(window, NOW))
    found = store.query(
        f"""
        SELECT prometheus, container_key, endpoint, model, any(role) AS role,
            toUnixTimestamp64Milli(max(at)) AS newest_ms, argMax(up, at) AS is_up,
            sum(toFloat64(interval_seconds)) AS own_seconds, sum(requests) AS asked,
            sumIf(toFloat64(interval_seconds), isNotNull(requests)) AS asked_seconds, sum(generation_tokens) AS tokens,
            sumIf(toFloat64(interval_seconds), isNotNull(generation_tokens)) AS tokens_seconds, sum(errors) AS failed
        FROM inference_samples WHERE {now.sql} GROUP BY prometheus, container_key, endpoint, model
        """,
        now.parameters,
    )
    return records(found)


@shared
def newest_ttft(store: Store, scope: Scope, window: Window, *, host: str | None = None) -> Rows:
    """Time to first token in the last 5 minutes: container_key ("" = not joined), role, bounds, merged buckets."""
    now = during(of_tenants(scope, host=host).also("field = 'ttft_seconds'"), last(window, NOW))
    return store.query(
        f"SELECT container_key, role, bounds, sumForEach(increments) AS merged FROM histograms WHERE {now.sql}"
        " GROUP BY container_key, role, bounds ORDER BY container_key, arraySum(merged) DESC, bounds",
        now.parameters,
    ).to_pylist()
