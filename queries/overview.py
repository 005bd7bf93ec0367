"""Is anything wrong, where, since when? The numbers, the worst ten, the map and the sentence of the first page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute  # its functions are made at run time, no type checker sees them

from fleet.latency import Quantile, quantile_from_buckets
from fleet.model import Scope, Window
from fleet.severity import Level, Thresholds
from queries.answer import Answer
from queries.containers import live_table
from queries.freshness import EVERYTHING, NVML, answer
from queries.gpus import boards, gpu_rows
from queries.live import floats, live_fleet
from queries.newest import NOW, Rows, newest_gpus, newest_inference, newest_samples, newest_shares, newest_ttft
from queries.parts import device_parts
from queries.resolution import RAW_UP_TO, Resolution, grid, on_grid, resolution
from queries.scoping import Where, during, last, of_gpus, of_tenants
from queries.sharing import shared_for
from queries.status import source_freshness
from store import Store

pc: Any = pyarrow.compute
SPARK_POINTS = 60
#: Trends hold whole points only, so nothing but late rows changes them until the next one is full.
_SPARK_SECONDS = 30.0


def fleet_numbers(
    store: Store, scope: Scope, window: Window, *, host: str | None = None, limits: Thresholds | None = None
) -> Answer:
    """The numbers of the first screen, one row each.

    Columns: name, value (now, None = unknown), previous (as long before the window's start), total (for "x of y"),
    lower and upper (bounds of a percentile), state (ok, beyond, too_few, no_traffic, not_measured), spark (60 points).
    Names: containers_running (total: containers), gpus_active (total), gpu_memory_used_bytes (total), cpu_cores,
    memory_working_set_bytes, restarts (last hour), power_watts, ttft_p95_seconds, error_ratio, requests_per_second,
    tokens_per_second, warnings, criticals.
    "Now" is the mean of the last 5 minutes, and is compared with the 5 minutes before the window began.
    """
    containers = live_fleet(store, scope, window, host=host, limits=limits)
    gpus = gpu_rows(store, scope, window, host=host, limits=limits)
    whole = [row for row in gpus if not row["parent_uuid"]]
    tier = resolution(window, finest_seconds=60, most_points=SPARK_POINTS)
    drawn = _whole_points(window, tier)
    idle = (limits or Thresholds()).idle_sm_ratio
    rates = _rates(store, scope, drawn, host, tier, idle) if drawn else {}
    # What a limited scope uses is its own containers' part: the rest of a shared GPU is a neighbour's.
    used: list[object] = (
        [row["memory_used_bytes"] for row in whole] if scope.tenants is None
        else [row["memory_bytes"] for row in newest_shares(store, scope, window, host=host)]
    )  # fmt: skip
    running = int(np.count_nonzero(containers.samples["state"].to_numpy() == "running"))
    seen = "ok" if len(containers) else "not_measured"
    rows: list[dict[str, object]] = [
        {
            "name": "containers_running", "value": running,
            "total": len(containers), "state": seen,
            **_sparked(rates.get("running")),
        },
        {
            "name": "gpus_active",
            "value": sum(any(part["use"] in ("low", "busy") for part in parts) for parts in boards(gpus))
            if whole else None,
            "total": len(whole) if scope.tenants is None else None, "state": "ok" if whole else "not_measured",
            **_sparked(rates.get("active")),
        },
        {
            "name": "gpu_memory_used_bytes", "value": _sum(used),
            "total": _sum(row["memory_total_bytes"] for row in whole) if scope.tenants is None else None,
            "state": "ok" if whole else "not_measured",
            **_sparked(rates.get("memory")),
        },
    ]  # fmt: skip
    for name, column in (("memory_working_set_bytes", "memory_bytes"), ("restarts", "restarts")):
        rows.append({"name": name, "value": pc.sum(containers.samples[column]).as_py(), "state": seen})
    now = _now(store, scope, window, host)
    then = _then(store, scope, _before(window), host, idle)
    for name in _RATE_NAMES:
        value = now[name]
        state = "ok" if value is not None else "not_measured"
        rows.append({"name": name, "value": value, "previous": then.get(name), "state": state,
                     "spark": rates.get(name, [])})  # fmt: skip
    rows.append(_ttft(store, scope, window, host))
    for name, level in (("warnings", Level.WARNING), ("criticals", Level.CRITICAL)):
        count = containers.count(level) + sum(row["level"] == level for row in whole)
        rows.append({"name": name, "value": count, "state": "ok"})
    schema = pa.schema(
        [("name", pa.string()), ("value", pa.float64()), ("previous", pa.float64()), ("total", pa.float64()),
         ("lower", pa.float64()), ("upper", pa.float64()), ("state", pa.string()), ("spark", pa.list_(pa.float32()))]
    )  # fmt: skip
    return answer(store, scope, window, pa.Table.from_pylist(rows, schema=schema), EVERYTHING)


def _sum(values: object) -> float | None:
    known = [float(value) for value in values if isinstance(value, int | float)]  # type: ignore[attr-defined]
    return sum(known) if known else None


def _sparked(series: list[float | None] | None) -> dict[str, object]:
    known = [value for value in series or [] if value is not None]
    return {"spark": series or [], "previous": known[0] if known else None}


_RATE_NAMES = ("cpu_cores", "power_watts", "requests_per_second", "tokens_per_second", "error_ratio")


def _selection(scope: Scope, window: Window, tier: Resolution, host: str | None, table: str) -> Where:
    if table != "gpu_samples":
        where = of_tenants(scope, host=host)
        # A gateway counts the requests of the servers behind it.
        return during(where.also("role = 'server'") if table == "inference_samples" else where, window, tier)
    return during(of_gpus(scope, window, tier, host=host), window, tier)


def _summed(scope: Scope) -> tuple[str, ...]:
    """The tables that tell of a scope: of GPUs the devices, for a limited one its own containers' part of them."""
    gpus = "gpu_samples" if scope.tenants is None else "container_gpu_samples"
    return ("container_samples", gpus, "inference_samples")


def _sums(table: str, tier: Resolution, condition: str, bucket: str, idle: float) -> str:
    """SQL: everything that is told of the fleet from one table, per point, in one pass over its rows.

    A rate counts for the part of the point's observed time in which its entity was there. Observed is what the
    longest-seen entity behind the same poll was. A rate over its own life alone would count containers that follow one
    another within a point as if they ran side by side. With nothing there throughout, the span is taken too short and
    the rate comes out too high; the rollups do not keep what would tell.
    """
    poll = "prometheus" if table == "inference_samples" else "host"
    own = "own / nullIf(longest, 0)"
    if table == "container_samples":
        key = "container_key"
        means = f"{tier.rate('cpu_seconds')} AS cpu, {'count()' if not tier.raw else _RUNNING} AS alive"
        sums = f"sum(cpu * {own}) AS cpu_cores, countIf(alive > 0) AS running"
    elif table == "gpu_samples":
        key = "gpu_uuid, parent_uuid"
        means = (
            f"gpu_uuid, parent_uuid, {tier.mean('power_watts')} AS power, {tier.mean('memory_used_bytes')} AS used,"
            f" coalesce({tier.mean('sm_active_ratio')}, {tier.mean('busy_ratio')}) AS share"
        )
        # Power and memory of MIG devices are their board's; a board in MIG mode is active when one of them is.
        board = "if(parent_uuid = '', gpu_uuid, parent_uuid)"
        sums = (
            f"sum(if(parent_uuid = '', power * {own}, NULL)) AS power_watts,"
            " sum(if(parent_uuid = '', used, NULL)) AS memory,"
            f" if(countIf(share IS NOT NULL) = 0, NULL, uniqExactIf({board}, share >= {idle:g})) AS active"
        )
    elif table == "container_gpu_samples":
        key = "container_key, gpu_uuid"
        means = (
            f"gpu_uuid, {tier.mean('power_watts')} AS power, {tier.mean('memory_bytes')} AS used,"
            f" coalesce({tier.mean('sm_active_ratio')}, {tier.mean('sm_ratio')}) AS share"
        )
        sums = (
            f"sum(power * {own}) AS power_watts, sum(used) AS memory,"
            f" if(countIf(share IS NOT NULL) = 0, NULL, uniqExactIf(gpu_uuid, share >= {idle:g})) AS active"
        )
    else:
        key = "container_key, endpoint, model"
        means = (
            f"{tier.rate('requests')} AS asked, {tier.rate('generation_tokens')} AS said,"
            " sum(errors) AS bad, sum(requests) AS every"
        )
        sums = (
            f"sum(asked * {own}) AS requests_per_second, sum(said * {own}) AS tokens_per_second,"
            " sum(bad) / nullIf(sum(every), 0) AS error_ratio"
        )
    return (
        f"SELECT bucket, {sums} FROM (SELECT *, max(own) OVER (PARTITION BY bucket, {poll}) AS longest FROM ("
        f"SELECT {bucket} AS bucket, {poll}, {means}, sum(toFloat64(interval_seconds)) AS own"
        f" FROM {tier.table(table)} WHERE {condition} GROUP BY bucket, {poll}, {key})) GROUP BY bucket"
    )


_RUNNING = "countIf(state = 'running')"


def _now(store: Store, scope: Scope, window: Window, host: str | None) -> dict[str, float | None]:
    """The rates of the last minutes, from what the live fleet was read for."""
    cpu = _cpu_cores(newest_samples(store, scope, window, host=host))
    served = [row for row in newest_inference(store, scope, window, host=host) if row["role"] == "server"]
    found: dict[str, float | None] = {
        "cpu_cores": cpu,
        "requests_per_second": _shared_time(served, "prometheus", _asked),
        "tokens_per_second": _shared_time(served, "prometheus", _said),
    }
    failed = [float(str(row["failed"])) for row in served if row["failed"] is not None]
    asked = sum(float(str(row["asked"])) for row in served if row["asked"] is not None)
    found["error_ratio"] = sum(failed) / asked if failed and asked else None
    if scope.tenants is None:
        boards = [row for row in newest_gpus(store, scope, window, host=host) if not row["parent"]]
        return {**found, "power_watts": _shared_time(boards, "host", _mean_power)}
    power = _over(store, scope, last(window, NOW), host, 0.0, tables=("container_gpu_samples",))
    return {**found, "power_watts": power.get("power_watts")}


def _mean_power(row: Mapping[str, Any]) -> float | None:
    return row["mean_power"]


def _asked(row: Mapping[str, Any]) -> float | None:
    return row["asked"] / row["asked_seconds"] if row["asked"] is not None and row["asked_seconds"] else None


def _said(row: Mapping[str, Any]) -> float | None:
    return row["tokens"] / row["tokens_seconds"] if row["tokens"] is not None and row["tokens_seconds"] else None


def _shared_time(rows: Rows, poll: str, rate: Callable[[Mapping[str, Any]], float | None]) -> float | None:
    """The rule of `_sums` over rows with `own_seconds`: the sum of the rates, each for its share of the time."""
    longest: dict[object, float] = {}
    for row in rows:
        longest[row[poll]] = max(longest.get(row[poll], 0.0), float(str(row["own_seconds"])))
    known = [
        value * float(str(row["own_seconds"])) / longest[row[poll]]
        for row in rows
        if (value := rate(row)) is not None and longest[row[poll]] > 0
    ]
    return sum(known) if known else None


def _cpu_cores(samples: pa.Table) -> float | None:
    """`_shared_time` of all containers at once."""
    own, rate = floats(samples["own_seconds"]), floats(samples["mean_cpu_cores"])
    hosts = samples["host"].combine_chunks().dictionary_encode().indices.to_numpy()
    longest = np.zeros(len(own))
    np.maximum.at(longest, hosts, own)
    known = ~np.isnan(rate) & (longest[hosts] > 0)
    return float((rate[known] * own[known] / longest[hosts[known]]).sum()) if known.any() else None


def _before(window: Window) -> Window:
    """As long as "now", up to the last full minute before the window: for a minute the same, so it can be shared."""
    minute = datetime.fromtimestamp(window.start.timestamp() // 60 * 60, UTC)
    return Window(start=minute - NOW, end=minute)


@shared_for(_SPARK_SECONDS)
def _then(store: Store, scope: Scope, window: Window, host: str | None, idle: float) -> dict[str, float | None]:
    return _over(store, scope, window, host, idle)


def _over(
    store: Store, scope: Scope, window: Window, host: str | None, idle: float, *, tables: tuple[str, ...] = ()
) -> dict[str, float | None]:
    """The rates over a whole window."""
    tier = resolution(window)
    found: dict[str, float | None] = {}
    for table in tables or _summed(scope):
        where = _selection(scope, window, tier, host, table)
        for row in store.query(_sums(table, tier, where.sql, "0", idle), where.parameters).to_pylist():
            found |= {name: row[name] for name in row if name in _RATE_NAMES}
    return {name: None if value is None or math.isnan(value) else float(value) for name, value in found.items()}


@shared_for(_SPARK_SECONDS)
def _rates(
    store: Store, scope: Scope, window: Window, host: str | None, tier: Resolution, idle: float
) -> dict[str, list[float | None]]:
    """Sparklines of everything that is a sum over entities, one value a point; None where nothing was seen."""
    result: dict[str, list[float | None]] = {}
    for table in _summed(scope):
        where = _selection(scope, window, tier, host, table)
        found = store.query(_sums(table, tier, where.sql, tier.bucket, idle), where.parameters)
        for name, values in on_grid(found, window, tier.step_seconds).get((), {}).items():
            result[name] = _trimmed(values, window, tier)
    return result


def _whole_points(window: Window, tier: Resolution) -> Window | None:
    """The part of the window that whole points cover (None: not one), for the others are not drawn.

    It changes only once a point, so that what is asked of it can be shared.
    """
    step = tier.step_seconds
    start, end = -(-window.start.timestamp() // step) * step, window.end.timestamp() // step * step
    if start >= end:
        return None
    return Window(start=datetime.fromtimestamp(start, UTC), end=datetime.fromtimestamp(end, UTC))


def _trimmed(
    values: np.ndarray[tuple[int], np.dtype[np.float64]], window: Window, tier: Resolution
) -> list[float | None]:
    """Without the points at both edges that the window covers only in part: their sums would dip."""
    points = grid(window, tier.step_seconds)
    whole = (points >= window.start.timestamp() - 0.5) & (points + tier.step_seconds <= window.end.timestamp() + 0.5)
    return [None if math.isnan(value) else float(value) for value in values[whole]]


def _ttft(store: Store, scope: Scope, window: Window, host: str | None) -> dict[str, object]:
    now = _dominant([row for row in newest_ttft(store, scope, window, host=host) if row["role"] == "server"])
    then = _ttft_before(store, scope, _before(window), host)
    # An hour's buckets are cheap where a day's minutes of all servers are not, and a day then has 24 points.
    finest = 60 if window.end - window.start <= RAW_UP_TO else 3600
    tier = resolution(window, finest_seconds=finest, most_points=SPARK_POINTS)
    drawn = _whole_points(window, tier)
    return {
        "name": "ttft_p95_seconds", "value": now.value if now else None, "previous": then.value if then else None,
        "lower": now.lower if now else None, "upper": now.upper if now else None,
        "state": now.state if now else "not_measured",
        "spark": _ttft_spark(store, scope, drawn, host, tier) if drawn else [],
    }  # fmt: skip


@shared_for(_SPARK_SECONDS)
def _ttft_before(store: Store, scope: Scope, window: Window, host: str | None) -> Quantile | None:
    tier = resolution(window)
    where = during(of_tenants(scope, host=host).also("field = 'ttft_seconds' AND role = 'server'"), window, tier)
    return _dominant(
        store.query(
            f"SELECT bounds, {tier.buckets} AS merged FROM {tier.table('histograms')} WHERE {where.sql}"
            " GROUP BY bounds",
            where.parameters,
        ).to_pylist()
    )


def _dominant(rows: Rows) -> Quantile | None:
    """p95 over all rows. Different ladders cannot be added: the one with the most requests speaks."""
    ladders: dict[tuple[float, ...], np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
    for row in rows:
        bounds = tuple(cast("list[float]", row["bounds"]))
        merged = np.asarray(row["merged"], dtype=np.float64)
        ladders[bounds] = merged if bounds not in ladders else ladders[bounds] + merged
    if not ladders:
        return None
    bounds, merged = max(ladders.items(), key=lambda ladder: float(ladder[1].sum()))
    return quantile_from_buckets(list(bounds), merged.tolist(), 0.95)


@shared_for(_SPARK_SECONDS)
def _ttft_spark(store: Store, scope: Scope, window: Window, host: str | None, tier: Resolution) -> list[float | None]:
    where = during(of_tenants(scope, host=host).also("field = 'ttft_seconds' AND role = 'server'"), window, tier)
    points = grid(window, tier.step_seconds)
    spark = np.full(len(points), np.nan)
    place = {int(second): number for number, second in enumerate(points)}
    for row in store.query(
        f"SELECT {tier.bucket} AS bucket, bounds, {tier.buckets} AS merged FROM {tier.table('histograms')}"
        f" WHERE {where.sql} GROUP BY bucket, bounds ORDER BY bucket, arraySum(merged)",
        where.parameters,
    ).to_pylist():
        found = quantile_from_buckets(row["bounds"], row["merged"], 0.95)
        value = found.value if found.state == "ok" else found.lower if found.state == "beyond" else None
        if value is not None and int(row["bucket"]) in place:
            spark[place[int(row["bucket"])]] = value
    return _trimmed(spark, window, tier)


def worst_containers(
    store: Store, scope: Scope, window: Window, *, host: str | None = None, limit: int = 10,
    limits: Thresholds | None = None,
) -> Answer:  # fmt: skip
    """The `limit` containers in most trouble; columns of `containers.container_table` without sparklines."""
    found = live_fleet(store, scope, window, host=host, limits=limits)
    return answer(store, scope, window, live_table(found, found.order[:limit]), EVERYTHING)


def verdict(
    store: Store, scope: Scope, window: Window, *, host: str | None = None, limits: Thresholds | None = None
) -> Answer:
    """The page's sentence, one row: criticals, warnings, unknowns, sources_fresh, sources_total, worst_key,
    worst_name, worst_tenant, worst_level, worst_word, worst_why, since (empty or NULL when nothing is wrong).
    """
    containers = live_fleet(store, scope, window, host=host, limits=limits)
    gpus = gpu_rows(store, scope, window, host=host, limits=limits)
    sources = [
        row for row in source_freshness(store, scope, window, host=host)
        if row["state"] != "absent" and row["source"] != "synthetic"
    ]  # fmt: skip
    counts = {level: containers.count(level) + sum(row["level"] == level for row in gpus) for level in Level}
    first = containers.containers(containers.order[:1].tolist())
    worst = first[0] if first and first[0].judgement.level >= Level.WARNING else None
    gpu = max(gpus, key=lambda row: row["level"], default=None)
    row: dict[str, object] = {
        "criticals": counts[Level.CRITICAL], "warnings": counts[Level.WARNING],
        "unknowns": counts[Level.UNKNOWN], "sources_fresh": sum(r["state"] in ("ok", "partial") for r in sources),
        "sources_total": len(sources), "worst_key": "", "worst_name": "", "worst_tenant": "", "worst_level": 0,
        "worst_word": "ok", "worst_why": "", "since": None,
    }  # fmt: skip
    if worst is not None and (gpu is None or worst.judgement.level >= gpu["level"]):
        row |= {
            "worst_key": worst.key, "worst_name": worst.facts["name"], "worst_tenant": worst.facts["tenant"],
            "worst_level": int(worst.judgement.level), "worst_word": worst.judgement.level.word,
            "worst_why": worst.judgement.why, "since": worst.since,
        }  # fmt: skip
    elif gpu is not None and gpu["level"] >= Level.WARNING:
        row |= {
            "worst_name": f"GPU {gpu['gpu_index']} on {gpu['host']}",
            "worst_level": gpu["level"],
            "worst_word": gpu["word"],
            "worst_why": gpu["why"],
        }
    kind = pa.timestamp("ms", tz="UTC")
    schema = pa.schema(
        [(name, pa.int64()) for name in ("criticals", "warnings", "unknowns", "sources_fresh", "sources_total")]
        + [(name, pa.string()) for name in ("worst_key", "worst_name", "worst_tenant")]
        + [("worst_level", pa.int64()), ("worst_word", pa.string()), ("worst_why", pa.string()), ("since", kind)]
    )
    return answer(store, scope, window, pa.Table.from_pylist([row], schema=schema), EVERYTHING)


def host_map(
    store: Store, scope: Scope, window: Window, *, host: str | None = None, limits: Thresholds | None = None
) -> Answer:
    """What the map draws: one row per GPU (kind "gpu") and per container without a GPU (kind "container").

    Columns: kind, host, key (GPU uuid or container_key), gpu_index, name, tenant, tenants, holders, level, why, use
    (free, held_idle, low, busy, unknown; "" for a container), ratio (SM 0-1, or memory against limit),
    memory_used_bytes, memory_total_bytes. By host, GPUs first, then containers by tenant and name.
    """
    rows: list[dict[str, object]] = [
        {
            "kind": "gpu", "host": row["host"], "key": row["gpu_uuid"], "gpu_index": row["gpu_index"],
            "name": row["name"], "tenant": row["tenants"][0] if len(row["tenants"]) == 1 else "",
            "tenants": row["tenants"], "holders": row["holders"], "level": row["level"], "why": row["why"],
            "use": row["use"], "ratio": row["sm_ratio"], "memory_used_bytes": row["memory_used_bytes"],
            "memory_total_bytes": row["memory_total_bytes"],
        }
        for row in gpu_rows(store, scope, window, host=host, limits=limits)
    ]  # fmt: skip
    fleet = live_fleet(store, scope, window, host=host, limits=limits)
    for c in fleet.containers([place for place in range(len(fleet)) if not fleet.has_gpus(place)]):
        ratio = None
        if c.memory_working_set_bytes is not None and c.memory_limit_bytes:
            ratio = c.memory_working_set_bytes / c.memory_limit_bytes
        rows.append(
            {
                "kind": "container", "host": c.facts["host"], "key": c.key, "name": c.facts["name"],
                "tenant": c.facts["tenant"], "tenants": [c.facts["tenant"]], "holders": [],
                "level": int(c.judgement.level), "why": c.judgement.why, "use": "", "ratio": ratio,
                "memory_used_bytes": c.memory_working_set_bytes, "memory_total_bytes": c.memory_limit_bytes,
            }
        )  # fmt: skip
    rows.sort(key=lambda row: (str(row["host"]), row["kind"] != "gpu", row.get("gpu_index") or 0,
                               str(row["tenant"]), str(row["name"])))  # fmt: skip
    schema = pa.schema(
        [("kind", pa.string()), ("host", pa.string()), ("key", pa.string()), ("gpu_index", pa.int64()),
         ("name", pa.string()), ("tenant", pa.string()), ("tenants", pa.list_(pa.string())),
         ("holders", pa.list_(pa.string())), ("level", pa.int8()), ("why", pa.string()), ("use", pa.string()),
         ("ratio", pa.float64()), ("memory_used_bytes", pa.int64()), ("memory_total_bytes", pa.int64())]
    )  # fmt: skip
    return answer(store, scope, window, pa.Table.from_pylist(rows, schema=schema), EVERYTHING)


def gpu_activity_by_tenant(store: Store, scope: Scope, window: Window, *, host: str | None = None) -> Answer:
    """GPUs' worth of SM activity by tenant over time: tenant ("" = unattributed), t (epoch ms), gpus_busy."""
    tier = resolution(window, finest_seconds=30, most_points=200)
    rows = of_tenants(scope, host=host)
    found = device_parts(store, scope, window, tier, rows, by="tenant", gauges={"gpus_busy": "sm_ratio"})
    return answer(store, scope, window, stacked(found, window, tier, "tenant", "gpus_busy"), NVML)


def stacked(found: pa.Table, window: Window, tier: Resolution, by: str, value: str) -> pa.Table:
    """Long table of series on the grid: `by`, t (epoch ms), `value`; the largest series first, "" last."""
    laid = on_grid(found, window, tier.step_seconds, (by,))
    points = grid(window, tier.step_seconds)
    order: Sequence[tuple[object, ...]] = sorted(
        laid, key=lambda key: (key[0] == "", -float(np.nansum(laid[key][value])), str(key[0]))
    )
    whole = points + tier.step_seconds <= window.end.timestamp() + timedelta(seconds=1).total_seconds()
    names = [str(key[0]) for key in order for _ in range(int(whole.sum()))]
    values = np.concatenate([laid[key][value][whole] for key in order]) if order else np.array([], dtype=np.float64)
    return pa.table(
        {
            by: pa.array(names, type=pa.string()),
            "t": pa.array(np.tile(points[whole].astype(np.float64) * 1000.0, len(order))),
            value: pa.array(values, type=pa.float64(), from_pandas=True),
        }
    )
