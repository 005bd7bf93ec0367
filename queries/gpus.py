"""Who holds the GPUs, who uses them, what is wasted?

Ratios are 0-1. "Busy" is the share of time in which any kernel ran; "SM" is SM activity where the GPU measures it,
else the sum of what its processes used, else busy, and `sm_source` says which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from fleet.model import Scope, Window
from fleet.severity import BRAKE_BIT, THERMAL_BITS, GpuFacts, Thresholds, judge_gpu
from queries.answer import Answer
from queries.freshness import NVML, answer
from queries.known import Known, known_containers
from queries.live import live_containers
from queries.newest import gpu_names, newest_gpus, newest_shares
from queries.parts import device_parts
from queries.resolution import grid, on_grid, resolution, series_table
from queries.scoping import during, of_gpus, of_tenants
from queries.sharing import shared
from store import Store

_TIME = pa.timestamp("ms", tz="UTC")
Series = np.ndarray[tuple[int], np.dtype[np.float64]]


def _holders(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """GPU uuid -> its containers' newest rows (key "" = what nobody owns), those not given back a while ago."""
    newest: dict[str, int] = {}
    for row in rows:
        newest[row["gpu_uuid"]] = max(row["newest_ms"], newest.get(row["gpu_uuid"], 0))
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if newest[row["gpu_uuid"]] - row["newest_ms"] <= 90_000:
            found.setdefault(row["gpu_uuid"], []).append(row)
    return found


def _numbers(values: Iterable[object]) -> list[float]:
    return [float(value) for value in values if isinstance(value, int | float)]


@shared
def gpu_rows(
    store: Store, scope: Scope, window: Window, *, host: str | None = None, limits: Thresholds | None = None
) -> list[dict[str, Any]]:
    """The rows of `gpu_table` as Python ones, for the questions that look at each; shared, so not to be changed."""
    thresholds = limits or Thresholds()
    samples = {str(row["gpu_uuid"]): row for row in newest_gpus(store, scope, window, host=host)}
    holders = _holders(newest_shares(store, scope, window, host=host))
    containers = known_containers(store, scope, window, host)
    rows: list[dict[str, Any]] = []
    for fact in gpu_names(store):
        uuid = str(fact["gpu_uuid"])
        sample = samples.get(uuid)
        if sample is None and (scope.tenants is not None or (host is not None and fact["host"] != host)):
            continue
        rows.append(_gpu_row(fact, sample or {}, holders.get(uuid, []), containers, window, scope, thresholds))
    return rows


def gpu_table(
    store: Store, scope: Scope, window: Window, *, host: str | None = None, limits: Thresholds | None = None
) -> Answer:
    """Every GPU and MIG device by host and index: utilisation, saturation, errors, and who is on it now.

    Columns: level, word, why, host, gpu_uuid, parent_uuid, gpu_index, name, mig_profile, state, age_seconds,
    busy_ratio, sm_ratio, sm_source (gpm, processes, busy, unknown), memory_used_bytes, memory_total_bytes,
    power_watts, power_limit_watts, temperature_celsius, sm_clock_mhz, throttle_reasons (bits), thermal (bool),
    ecc_uncorrected and ecc_corrected (last hour), remapped_rows, xid (last hour: the worst, then latest),
    process_count, thermal NULL where no reason is told,
    holders (container names), holder_keys, tenants, use (free, held_idle, low, busy, unknown),
    held_memory_bytes (by containers), unattributed_memory_bytes (NULL for a limited scope).
    """
    rows = gpu_rows(store, scope, window, host=host, limits=limits)
    schema = pa.schema(
        [
            ("level", pa.int8()), ("word", pa.string()), ("why", pa.string()), ("host", pa.string()),
            ("gpu_uuid", pa.string()), ("parent_uuid", pa.string()), ("gpu_index", pa.int64()), ("name", pa.string()),
            ("mig_profile", pa.string()), ("state", pa.string()), ("age_seconds", pa.float64()),
            ("busy_ratio", pa.float64()), ("sm_ratio", pa.float64()), ("sm_source", pa.string()),
            ("memory_used_bytes", pa.int64()), ("memory_total_bytes", pa.int64()), ("power_watts", pa.float64()),
            ("power_limit_watts", pa.float64()), ("temperature_celsius", pa.float64()), ("sm_clock_mhz", pa.int64()),
            ("throttle_reasons", pa.int64()), ("thermal", pa.bool_()), ("ecc_uncorrected", pa.int64()),
            ("ecc_corrected", pa.int64()), ("remapped_rows", pa.int64()), ("xid", pa.int64()),
            ("process_count", pa.int64()), ("holders", pa.list_(pa.string())), ("holder_keys", pa.list_(pa.string())),
            ("tenants", pa.list_(pa.string())), ("use", pa.string()), ("held_memory_bytes", pa.int64()),
            ("unattributed_memory_bytes", pa.int64()),
        ]
    )  # fmt: skip
    return answer(store, scope, window, pa.Table.from_pylist(rows, schema=schema), NVML)


def _gpu_row(
    fact: dict[str, object],
    sample: dict[str, object],
    on_it: list[Mapping[str, Any]],
    containers: Known,
    window: Window,
    scope: Scope,
    limits: Thresholds,
) -> dict[str, object]:
    newest = sample.get("newest")
    age = (window.end - newest).total_seconds() if isinstance(newest, datetime) else None
    throttled = sample.get("throttled")
    bits = throttled if isinstance(throttled, int) else 0
    own = [row for row in on_it if row["container_key"]]
    used = _numbers(row["sm_ratio"] for row in on_it)
    sm, sm_source = sample.get("sm_active"), "gpm"
    if sm is None:
        sm, sm_source = (min(1.0, sum(used)), "processes") if used else (sample.get("busy"), "busy")
    held = any(row["held"] for row in own)
    use = "unknown"
    if isinstance(sm, float):
        active = sm >= limits.idle_sm_ratio
        use = ("busy" if sm >= limits.busy_sm_ratio else "low") if active else ("held_idle" if held else "free")
    temperature = sample.get("temperature")
    xid, pending, step = sample.get("worst_xid"), sample.get("pending"), sample.get("step")
    judgement = judge_gpu(
        GpuFacts(
            state=str(sample.get("state") or "ok"),
            unknown_reason=str(sample.get("reason") or ""),
            age_seconds=age,
            interval_seconds=float(step) if isinstance(step, int | float) else 5.0,
            xid=xid if isinstance(xid, int) else None,
            ecc_uncorrected=int(sum(_numbers([sample.get("ecc_bad")]))),
            remap_pending=bool(pending) if pending is not None else None,
            temperature_celsius=temperature if isinstance(temperature, float) else None,
            thermal_throttle=bool(bits & THERMAL_BITS),
            power_brake=bool(bits & BRAKE_BIT),
        ),
        limits,
    )
    nobody = [row["memory_bytes"] for row in on_it if not row["container_key"]]
    held_memory = _numbers(row["memory_bytes"] for row in own)
    return {
        "level": int(judgement.level), "word": judgement.level.word, "why": judgement.why, "host": fact["host"],
        "gpu_uuid": fact["gpu_uuid"], "parent_uuid": fact["parent_uuid"], "gpu_index": fact["gpu_index"],
        "name": fact["name"], "mig_profile": fact["mig_profile"], "state": sample.get("state") or "unknown",
        "age_seconds": age, "busy_ratio": sample.get("busy"), "sm_ratio": sm,
        "sm_source": sm_source if sm is not None else "unknown", "memory_used_bytes": sample.get("memory_used"),
        "memory_total_bytes": sample.get("memory_all") or fact["memory_total_bytes"],
        "power_watts": sample.get("power"), "power_limit_watts": sample.get("power_limit"),
        "temperature_celsius": temperature, "sm_clock_mhz": sample.get("sm_clock"), "throttle_reasons": throttled,
        "thermal": None if throttled is None else bool(bits & THERMAL_BITS), "ecc_uncorrected": sample.get("ecc_bad"),
        "ecc_corrected": sample.get("ecc_fixed"), "remapped_rows": sample.get("remapped"), "xid": xid,
        "process_count": sample.get("processes") if scope.tenants is None else None,
        "holders": [_name_of(containers, str(row["container_key"])) for row in own],
        "holder_keys": [str(row["container_key"]) for row in own],
        "tenants": sorted({str(row["owner"]) for row in own}), "use": use,
        "held_memory_bytes": int(sum(held_memory)) if held_memory else None,
        "unattributed_memory_bytes": nobody[0] if nobody and scope.tenants is None else None,
    }  # fmt: skip


def _name_of(containers: Known, key: str) -> str:
    place = containers.keys.get(key)
    return key.partition(":")[2] if place is None else containers.table["name"][place].as_py()


def boards(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Every whole GPU with its MIG devices: a GPU in MIG mode does nothing itself, its devices do."""
    slices: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["parent_uuid"]:
            slices.setdefault(row["parent_uuid"], []).append(row)
    return [[row, *slices.get(row["gpu_uuid"], [])] for row in rows if not row["parent_uuid"]]


def gpu_funnel(
    store: Store, scope: Scope, window: Window, *, host: str | None = None, limits: Thresholds | None = None
) -> Answer:
    """How far the GPUs get: one row per stage, in order: stage (total, allocated, active, effective), gpus, note.

    allocated = held by a container; active = at or above the idle SM share; effective = at or above the busy share. MIG
    devices count by their parent. A limited scope has no "total": free capacity is not its business.
    """
    rows = gpu_rows(store, scope, window, host=host, limits=limits)
    stages = {"total": 0, "allocated": 0, "active": 0, "effective": 0}
    for parts in boards(rows):
        stages["total"] += 1
        stages["allocated"] += any(part["holder_keys"] for part in parts)
        stages["active"] += any(part["use"] in ("low", "busy") for part in parts)
        stages["effective"] += any(part["use"] == "busy" for part in parts)
    thresholds = limits or Thresholds()
    notes = {
        "total": "seen by NVML", "allocated": "held or used by a container",
        "active": f"SM at or above {thresholds.idle_sm_ratio * 100:g} %",
        "effective": f"SM at or above {thresholds.busy_sm_ratio * 100:g} %",
    }  # fmt: skip
    names = [name for name in stages if name != "total" or scope.tenants is None]
    table = pa.table(
        {
            "stage": pa.array(names, type=pa.string()),
            "gpus": pa.array([stages[name] for name in names], type=pa.int64()),
            "note": pa.array([notes[name] for name in names], type=pa.string()),
        }
    )
    return answer(store, scope, window, table, NVML)


def gpu_heatmap(store: Store, scope: Scope, window: Window, *, host: str | None = None, points: int = 120) -> Answer:
    """GPU x time: host, gpu_uuid, gpu_index, t (epoch ms), sm_ratio (SM activity, else busy; NULL = not seen)."""
    tier = resolution(window, finest_seconds=15, most_points=points)
    visible = during(of_gpus(scope, window, tier, host=host), window, tier)
    found = store.query(
        f"SELECT host, gpu_index, gpu_uuid, {tier.bucket} AS bucket,"
        f" coalesce({tier.mean('sm_active_ratio')}, {tier.mean('busy_ratio')}) AS value"
        f" FROM {tier.table('gpu_samples')} WHERE {visible.sql} GROUP BY host, gpu_index, gpu_uuid, bucket",
        visible.parameters,
    )
    tables: list[pa.Table] = []
    laid = on_grid(found, window, tier.step_seconds, ("host", "gpu_index", "gpu_uuid"))
    for key in sorted(laid, key=lambda key: (str(key[0]), int(str(key[1])), str(key[2]))):
        rows = series_table(window, tier.step_seconds, {"sm_ratio": laid[key]["value"]})
        for column, value in (("gpu_index", str(key[1])), ("gpu_uuid", str(key[2])), ("host", str(key[0]))):
            rows = rows.add_column(0, column, pa.array([value] * rows.num_rows, type=pa.string()))
        tables.append(rows)
    empty = pa.table({"host": pa.array([], pa.string()), "gpu_uuid": pa.array([], pa.string()),
                      "gpu_index": pa.array([], pa.string()), "t": pa.array([], pa.float64()),
                      "sm_ratio": pa.array([], pa.float64())})  # fmt: skip
    return answer(store, scope, window, pa.concat_tables(tables) if tables else empty, NVML)


def gpu_holders_series(store: Store, scope: Scope, window: Window, *, gpu_uuid: str) -> Answer:
    """One GPU over time, by container and what nobody owns; the parts add up to the device.

    One row per part and point: container_key ("" = unattributed), tenant, t (epoch ms), sm_ratio, memory_bytes,
    power_watts. A limited scope sees its own containers only.
    """
    tier = resolution(window, finest_seconds=15)
    found = device_parts(
        store, scope, window, tier, of_tenants(scope).also("gpu_uuid = {gpu:String}", gpu=gpu_uuid),
        by="container_key, tenant",
        gauges={"sm_mean": "sm_ratio", "memory_mean": "memory_bytes", "power_mean": "power_watts"},
    )  # fmt: skip
    tables: list[pa.Table] = []
    laid = on_grid(found, window, tier.step_seconds, ("container_key", "tenant"))
    # The unattributed part comes last, so that it lies on top of a stack.
    for key in sorted(laid, key=lambda key: (key[0] == "", str(key[0]))):
        series = laid[key]
        rows = series_table(
            window, tier.step_seconds,
            {"sm_ratio": series["sm_mean"], "memory_bytes": series["memory_mean"],
             "power_watts": series["power_mean"]},
        )  # fmt: skip
        for column, value in (("tenant", str(key[1])), ("container_key", str(key[0]))):
            rows = rows.add_column(0, column, pa.array([value] * rows.num_rows, type=pa.string()))
        tables.append(rows)
    columns = ("container_key", "tenant", "t", "sm_ratio", "memory_bytes", "power_watts")
    kinds = (pa.string(), pa.string(), *(pa.float64() for _ in columns[2:]))
    empty = pa.table({name: pa.array([], kind) for name, kind in zip(columns, kinds, strict=True)})
    return answer(store, scope, window, pa.concat_tables(tables) if tables else empty, NVML)


def gpu_series(store: Store, scope: Scope, window: Window, *, gpu_uuid: str) -> Answer:
    """One device over time: t (epoch ms), busy_ratio, sm_active_ratio, memory_used_bytes, memory_total_bytes,
    power_watts, temperature_celsius, sm_clock_mhz.
    """
    tier = resolution(window, finest_seconds=15)
    where = during(of_gpus(scope, window, tier).also("gpu_uuid = {gpu:String}", gpu=gpu_uuid), window, tier)
    names = ("busy_ratio", "sm_active_ratio", "memory_used_bytes", "memory_total_bytes", "power_watts",
             "temperature_celsius", "sm_clock_mhz")  # fmt: skip
    aliased = ", ".join(f"{tier.mean(name)} AS v{number}" for number, name in enumerate(names))
    found = store.query(
        f"SELECT {tier.bucket} AS bucket, {aliased} FROM {tier.table('gpu_samples')} WHERE {where.sql} GROUP BY bucket",
        where.parameters,
    )
    laid = on_grid(found, window, tier.step_seconds).get((), {})
    empty = np.full(len(grid(window, tier.step_seconds)), np.nan)
    rows = series_table(
        window, tier.step_seconds, {name: laid.get(f"v{number}", empty) for number, name in enumerate(names)}
    )
    return answer(store, scope, window, rows if laid else rows.slice(0, 0), NVML)


def idle_holders(
    store: Store, scope: Scope, window: Window, *, host: str | None = None, limits: Thresholds | None = None
) -> Answer:
    """Containers that hold GPUs without using them, longest first.

    Columns: container_key, name, tenant, host, gpus (how many), gpu_names, since, seconds, sentence.
    """
    names = {str(row["gpu_uuid"]): str(row["name"]) for row in gpu_names(store)}
    rows = [
        {
            "container_key": c.key, "name": c.facts["name"], "tenant": c.facts["tenant"], "host": c.facts["host"],
            "gpus": len(c.gpus), "gpu_names": sorted({names.get(str(gpu["gpu_uuid"]), "") for gpu in c.gpus}),
            "since": c.since, "seconds": (window.end - c.since).total_seconds() if c.since else None,
            "sentence": c.judgement.why,
        }
        for c in live_containers(store, scope, window, host=host, limits=limits)
        if c.judgement.rule == "idle"
    ]  # fmt: skip
    rows.sort(key=lambda row: -(row["seconds"] or 0.0))  # type: ignore[operator]
    schema = pa.schema(
        [("container_key", pa.string()), ("name", pa.string()), ("tenant", pa.string()), ("host", pa.string()),
         ("gpus", pa.int64()), ("gpu_names", pa.list_(pa.string())), ("since", _TIME), ("seconds", pa.float64()),
         ("sentence", pa.string())]
    )  # fmt: skip
    return answer(store, scope, window, pa.Table.from_pylist(rows, schema=schema), NVML)
