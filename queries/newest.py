"""The newest row of every container, GPU and share of a GPU, without weighing the other rows of the last minutes.

Two reads each: one that finds when every entity was last seen, with what it counted meanwhile, and one of the rows of
those few moments. A poll stamps all rows of a host alike, so the moments are few and the second read touches only the
newest parts of the table. `argMax` of every column over all rows answers the same and took four times as long.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from fleet.model import Scope, Window
from queries.resolution import Resolution, epoch_ms
from queries.scoping import Where, during, last, of_gpus, of_tenants
from queries.sharing import shared
from store import Store

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


def _at(where: Where, newest: Iterable[object]) -> Where:
    """The condition limited to rows of the moments (epoch ms); to the span from the oldest of them if they are many."""
    moments = sorted({int(str(value)) for value in newest})
    if len(moments) > _MOST_MOMENTS:
        return where.also("at >= fromUnixTimestamp64Milli({oldest:Int64}, 'UTC')", oldest=moments[0])
    listed = "arrayMap(ms -> fromUnixTimestamp64Milli(ms, 'UTC'), {moments:Array(Int64)})"
    return where.also(f"at IN (SELECT arrayJoin({listed}))", moments=moments)


@shared
def newest_samples(store: Store, scope: Scope, window: Window, *, host: str | None = None) -> Rows:
    """Per container that was polled in the last hour: its newest sample of the last minutes, and its counts.

    Columns: container_key, host, restarts and oom_kills (last hour), throttled_ratio (last minutes), own_seconds and
    mean_cpu_cores (observed time of the last 5 minutes, and the mean over it), and of the newest sample: newest (None,
    as all that follow, when it is older than `RECENT`), step, state, health, unknown_reason, cpu_cores,
    cpu_limit_cores, memory_bytes, memory_limit_bytes.
    """
    where = of_tenants(scope, host=host)
    counted = during(where, last(window, COUNTED))
    starts = {"recent_start": epoch_ms(window.end - RECENT), "now_start": epoch_ms(window.end - NOW)}
    recently, now = (f"at > fromUnixTimestamp64Milli({{{name}:Int64}}, 'UTC')" for name in starts)
    counts = store.query(
        f"""
        SELECT container_key, any(host) AS polled_host, toUnixTimestamp64Milli(maxIf(at, {recently})) AS newest_ms,
            sum(restarts) AS restarted, sum(oom_kills) AS killed,
            sumIf(cpu_throttled_periods, {recently}) / nullIf(sumIf(cpu_periods, {recently}), 0) AS throttled_ratio,
            sumIf(toFloat64(interval_seconds), {now}) AS own_seconds,
            sumIf(cpu_seconds, {now}) / nullIf(sumIf(toFloat64(interval_seconds), {now} AND isNotNull(cpu_seconds)), 0)
                AS mean_cpu_cores
        FROM container_samples WHERE {counted.sql} GROUP BY container_key
        """,
        {**counted.parameters, **starts},
    ).to_pylist()
    seen = [row["newest_ms"] for row in counts if row["newest_ms"] > 0]
    found: dict[object, dict[str, object]] = {}
    if seen:
        recent = _at(during(where, last(window, RECENT)), seen)
        rows = store.query(
            f"""
            SELECT container_key, at AS newest, interval_seconds AS step, state, health, unknown_reason,
                cpu_seconds / nullIf(interval_seconds, 0) AS cpu_cores, cpu_limit_cores,
                memory_working_set_bytes AS memory_bytes, memory_limit_bytes
            FROM container_samples WHERE {recent.sql} ORDER BY container_key, at DESC LIMIT 1 BY container_key
            """,
            recent.parameters,
        ).to_pylist()
        found = {row["container_key"]: row for row in rows}
    return [
        {
            "newest": None, **found.get(row["container_key"], {}), "container_key": row["container_key"],
            "host": row["polled_host"], "own_seconds": row["own_seconds"], "mean_cpu_cores": row["mean_cpu_cores"],
            "restarts": int(row["restarted"] or 0), "oom_kills": int(row["killed"] or 0),
            "throttled_ratio": row["throttled_ratio"],
        }
        for row in counts
    ]  # fmt: skip


@shared
def newest_gpus(store: Store, scope: Scope, window: Window, *, host: str | None = None) -> Rows:
    """Newest sample of every GPU the scope may see that was polled in the last hour, with what it counted in it.

    Columns: host, gpu_uuid, newest, step, state, reason, busy, sm_active, memory_used, memory_all, power,
    power_limit, temperature, sm_clock, throttled, processes; ecc_bad, ecc_fixed and last_xid of the hour; remapped and
    pending: the newest known value, as row remapping is read once a minute only; parent; own_seconds and mean_power
    of the last 5 minutes.
    """
    hour = last(window, COUNTED)
    now = "at > fromUnixTimestamp64Milli({now_start:Int64}, 'UTC')"
    where = during(of_gpus(scope, hour, _RAW, host=host), hour)
    counts = store.query(
        f"""
        SELECT host, gpu_uuid, toUnixTimestamp64Milli(max(at)) AS newest_ms, sum(ecc_uncorrected) AS ecc_bad,
            sum(ecc_corrected) AS ecc_fixed, max(xid) AS last_xid, argMax(remapped_rows, at) AS remapped,
            argMax(remap_pending, at) AS pending, any(parent_uuid) AS parent,
            sumIf(toFloat64(interval_seconds), {now}) AS own_seconds,
            sumIf(toFloat64(power_watts) * interval_seconds, {now})
                / nullIf(sumIf(toFloat64(interval_seconds), {now} AND isNotNull(power_watts)), 0) AS mean_power
        FROM gpu_samples WHERE {where.sql} GROUP BY host, gpu_uuid
        """,
        {**where.parameters, "now_start": epoch_ms(window.end - NOW)},
    ).to_pylist()
    if not counts:
        return []
    # Whose GPU it is was told by the first read; the second needs no look at the holders.
    seen = Where("gpu_uuid IN {seen_gpus:Array(String)}", {"seen_gpus": sorted({str(c["gpu_uuid"]) for c in counts})})
    moments = _at(during(seen, hour), (c["newest_ms"] for c in counts))
    rows = store.query(
        f"""
        SELECT host, gpu_uuid, at AS newest, interval_seconds AS step, state, unknown_reason AS reason,
            busy_ratio AS busy, sm_active_ratio AS sm_active, memory_used_bytes AS memory_used,
            memory_total_bytes AS memory_all, power_watts AS power, power_limit_watts AS power_limit,
            temperature_celsius AS temperature, sm_clock_mhz AS sm_clock, throttle_reasons AS throttled,
            process_count AS processes
        FROM gpu_samples WHERE {moments.sql} ORDER BY host, gpu_uuid, at DESC LIMIT 1 BY host, gpu_uuid
        """,
        moments.parameters,
    ).to_pylist()
    counted = {(row["host"], row["gpu_uuid"]): row for row in counts}
    return [
        {**row, **counted[row["host"], row["gpu_uuid"]]} for row in rows if (row["host"], row["gpu_uuid"]) in counted
    ]


@shared
def newest_shares(store: Store, scope: Scope, window: Window, *, host: str | None = None) -> Rows:
    """Newest row of every container (key "" = what nobody owns) on every GPU, of the last minutes.

    Columns: gpu_uuid, container_key, owner (its tenant), host, newest, held, memory_bytes, sm_ratio, attribution,
    attribution_reason; by container, then GPU.
    """
    recent = during(of_tenants(scope, host=host), last(window, RECENT))
    return store.query(
        f"""
        SELECT container_key, host, gpu_uuid, any(tenant) AS owner, max(at) AS newest, argMax(held, at) AS held,
            argMax(tuple(memory_bytes), at).1 AS memory_bytes, argMax(tuple(sm_ratio), at).1 AS sm_ratio,
            argMax(attribution, at) AS attribution, argMax(attribution_reason, at) AS attribution_reason
        FROM container_gpu_samples WHERE {recent.sql} GROUP BY container_key, host, gpu_uuid
        ORDER BY container_key, gpu_uuid
        """,
        recent.parameters,
    ).to_pylist()


@shared
def newest_inference(store: Store, scope: Scope, window: Window, *, host: str | None = None) -> Rows:
    """What every model server did in the last 5 minutes, as each Prometheus server saw it.

    Columns: prometheus, container_key ("" = not joined), endpoint, model, newest_ms, is_up, own_seconds (observed),
    asked, asked_seconds (requests, and the time in which they were known), tokens, tokens_seconds, failed.
    """
    now = during(of_tenants(scope, host=host), last(window, NOW))
    return store.query(
        f"""
        SELECT prometheus, container_key, endpoint, model, toUnixTimestamp64Milli(max(at)) AS newest_ms,
            argMax(up, at) AS is_up, sum(toFloat64(interval_seconds)) AS own_seconds, sum(requests) AS asked,
            sumIf(toFloat64(interval_seconds), isNotNull(requests)) AS asked_seconds, sum(generation_tokens) AS tokens,
            sumIf(toFloat64(interval_seconds), isNotNull(generation_tokens)) AS tokens_seconds, sum(errors) AS failed
        FROM inference_samples WHERE {now.sql} GROUP BY prometheus, container_key, endpoint, model
        """,
        now.parameters,
    ).to_pylist()


@shared
def newest_ttft(store: Store, scope: Scope, window: Window, *, host: str | None = None) -> Rows:
    """Buckets of the time to first token of the last 5 minutes: container_key ("" = not joined), bounds, merged."""
    now = during(of_tenants(scope, host=host).also("field = 'ttft_seconds'"), last(window, NOW))
    return store.query(
        f"SELECT container_key, bounds, sumForEach(increments) AS merged FROM histograms WHERE {now.sql}"
        " GROUP BY container_key, bounds ORDER BY container_key, arraySum(merged) DESC, bounds",
        now.parameters,
    ).to_pylist()


@shared
def gpu_names(store: Store) -> Rows:
    """Index and model of every known GPU; who may see which is the caller's matter."""
    return store.query(
        "SELECT host, gpu_uuid, parent_uuid, gpu_index, name, mig_profile, memory_total_bytes, driver_version,"
        " pci_bus_id, power_limit_watts FROM gpus FINAL ORDER BY host, gpu_index, gpu_uuid"
    ).to_pylist()
