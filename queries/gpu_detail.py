"""One GPU, or one container's GPUs, in full: what was asked for, who is there, who works, and what happened.

Allocation, presence and activity stay three columns; how far the last two can be believed stands beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

import numpy as np
import pyarrow as pa

from fleet.gpu_words import throttle_reasons
from fleet.model import Scope, Window
from queries.answer import Answer
from queries.freshness import DOCKER, EVERYTHING, NVML, answer
from queries.newest import gpu_names, newest_gpus
from queries.resolution import Resolution, epoch_ms, grid, on_grid, resolution, series_table
from queries.scoping import Where, during, last, of_gpus, of_tenants
from store import Store

_TIME = pa.timestamp("ms", tz="UTC")
#: How far back the newest row of a container on a GPU is looked for, and how old it may be to count as "now".
_RECENT, _NOW = timedelta(minutes=10), timedelta(seconds=90)
_MEANS = (
    "busy_ratio", "sm_active_ratio", "sm_occupancy_ratio", "tensor_active_ratio", "dram_active_ratio",
    "memory_used_bytes", "memory_total_bytes", "power_watts", "power_limit_watts", "temperature_celsius",
    "memory_temperature_celsius", "sm_clock_mhz",
)  # fmt: skip
_TRAFFIC = ("pcie_receive", "pcie_transmit", "nvlink_receive", "nvlink_transmit")
_PRESENCE = pa.schema(
    [
        ("gpu_uuid", pa.string()), ("gpu_index", pa.int64()), ("gpu_name", pa.string()), ("mig_profile", pa.string()),
        ("container_key", pa.string()), ("name", pa.string()), ("tenant", pa.string()), ("gpu_request", pa.string()),
        ("here_now", pa.bool_()), ("held", pa.bool_()), ("processes", pa.int64()), ("memory_bytes", pa.int64()),
        ("sm_ratio", pa.float64()), ("sm_active_ratio", pa.float64()), ("power_watts", pa.float64()),
        ("attribution", pa.string()), ("attribution_reason", pa.string()), ("age_seconds", pa.float64()),
        ("sm_mean_ratio", pa.float64()), ("sm_max_ratio", pa.float64()), ("memory_max_bytes", pa.int64()),
        ("held_seconds", pa.float64()), ("observed_seconds", pa.float64()),
    ]
)  # fmt: skip
_ALLOCATION = pa.schema(
    [
        ("container_key", pa.string()), ("tenant", pa.string()), ("gpu_request", pa.string()),
        ("gpu_request_kind", pa.string()), ("gpu_uuids", pa.list_(pa.string())), ("devices", pa.list_(pa.string())),
        ("gpu_unresolved", pa.list_(pa.string())), ("privileged", pa.bool_()), ("state", pa.string()),
        ("error", pa.string()),
    ]
)  # fmt: skip
_FACTS = pa.schema(
    [
        ("host", pa.string()), ("gpu_uuid", pa.string()), ("parent_uuid", pa.string()), ("gpu_index", pa.int64()),
        ("name", pa.string()), ("mig_profile", pa.string()), ("memory_total_bytes", pa.int64()),
        ("power_limit_watts", pa.float64()), ("driver_version", pa.string()), ("pci_bus_id", pa.string()),
        ("mig_devices", pa.list_(pa.string())),
    ]
)  # fmt: skip


def gpu_facts(store: Store, scope: Scope, window: Window, *, gpu_uuid: str) -> Answer:
    """What one GPU or MIG device is: 0 or 1 rows; none as well when it is not this scope's to see.

    Columns: host, gpu_uuid, parent_uuid ("" = a whole GPU), gpu_index, name, mig_profile, memory_total_bytes,
    power_limit_watts, driver_version, pci_bus_id, mig_devices (UUIDs of the devices it is cut into).
    """
    known = gpu_names(store)
    found = [fact for fact in known if fact["gpu_uuid"] == gpu_uuid]
    if found and scope.tenants is not None:
        visible = {str(row["gpu_uuid"]) for row in newest_gpus(store, scope, window)}
        found = [fact for fact in found if str(fact["gpu_uuid"]) in visible]
    devices = [str(fact["gpu_uuid"]) for fact in known if fact["parent_uuid"] == gpu_uuid]
    rows = [
        {
            **{name: fact.get(name) for name in _FACTS.names},
            "mig_devices": devices if scope.tenants is None else [],
        }
        for fact in found[:1]
    ]
    return answer(store, scope, window, pa.Table.from_pylist(rows, schema=_FACTS), NVML)


def gpu_presence(store: Store, scope: Scope, window: Window, *, gpu_uuid: str) -> Answer:
    """Who holds one GPU, who is on it, who works on it: now, and over the window. Those here now come first.

    One row a container and device (a GPU's MIG devices are its own); container_key "" is what nobody owns, last, and
    the fleet's only. Now: held (declared), processes and memory_bytes (present), sm_ratio and sm_active_ratio (at
    work), power_watts, attribution with attribution_reason, age_seconds; NULL where here_now is false, or not known.
    Over the window: sm_mean_ratio, sm_max_ratio, memory_max_bytes, held_seconds, observed_seconds.
    """
    known = {str(fact["gpu_uuid"]): fact for fact in gpu_names(store)}
    own = [gpu_uuid, *(uuid for uuid, fact in known.items() if fact["parent_uuid"] == gpu_uuid)]
    where = of_tenants(scope).also("gpu_uuid IN {gpus:Array(String)}", gpus=own)
    return answer(store, scope, window, _presence(store, scope, where, window, known), NVML)


def container_presence(store: Store, scope: Scope, window: Window, *, container_key: str) -> Answer:
    """The GPUs that one container holds or was seen on: one row a device, with the columns of `gpu_presence`."""
    known = {str(fact["gpu_uuid"]): fact for fact in gpu_names(store)}
    where = of_tenants(scope).also("container_key = {key:String}", key=container_key)
    return answer(store, scope, window, _presence(store, scope, where, window, known), NVML)


def _presence(
    store: Store, scope: Scope, where: Where, window: Window, known: Mapping[str, Mapping[str, Any]]
) -> pa.Table:
    now = {(row["container_key"], row["gpu_uuid"]): row for row in _newest(store, where, window)}
    over = {(row["container_key"], row["gpu_uuid"]): row for row in _over(store, where, window)}
    # Who has no row in a reading of the device that others have, or that the device itself has, is gone.
    newest = {str(row["gpu_uuid"]): cast("datetime", row["newest"]).timestamp()
              for row in newest_gpus(store, scope, window)}  # fmt: skip
    for (_, uuid), row in now.items():
        newest[uuid] = max(newest.get(uuid, 0.0), row["newest"])
    facts = _named(store, {key for key, _ in now.keys() | over.keys()}, window)
    rows: list[dict[str, Any]] = []
    for key, uuid in sorted(now.keys() | over.keys()):
        one, span = now.get((key, uuid), {}), over.get((key, uuid), {})
        here = bool(one) and one["newest"] >= newest[uuid] - _NOW.total_seconds()
        device, fact = known.get(uuid, {}), facts.get(key, {})
        rows.append(
            {
                "gpu_uuid": uuid, "gpu_index": device.get("gpu_index"), "gpu_name": device.get("name", ""),
                "mig_profile": device.get("mig_profile", ""), "container_key": key,
                "name": fact.get("name") or key.partition(":")[2], "tenant": (one or span)["owner"],
                "gpu_request": fact.get("gpu_request", ""), "here_now": here,
                **{name: one.get(name) if here else None for name in _OF_NOW},
                "held": bool(one["held"]) if here else None,
                "age_seconds": window.end.timestamp() - one["newest"] if one else None,
                **{name: span.get(name) for name in _OVER},
            }
        )  # fmt: skip
    rows.sort(
        key=lambda row: (
            row["container_key"] == "", not row["here_now"], row["gpu_index"] or 0, row["gpu_uuid"],
            -(row["memory_bytes"] or 0), row["container_key"],
        )
    )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=_PRESENCE)


_OF_NOW = (
    "processes", "memory_bytes", "sm_ratio", "sm_active_ratio", "power_watts", "attribution", "attribution_reason",
)  # fmt: skip
_OVER = ("sm_mean_ratio", "sm_max_ratio", "memory_max_bytes", "held_seconds", "observed_seconds")


def _newest(store: Store, where: Where, window: Window) -> Sequence[dict[str, Any]]:
    recent = during(where, last(window, _RECENT))
    newest = ", ".join(
        f"argMax(tuple({name}), at).1 AS n_{name}"
        for name in (*_OF_NOW[:5], "held", "attribution", "attribution_reason")
    )
    rows = store.query(
        f"SELECT container_key, gpu_uuid, argMax(tenant, at) AS owner, toUnixTimestamp64Milli(max(at)) / 1000 AS"
        f" newest, {newest} FROM container_gpu_samples WHERE {recent.sql} GROUP BY container_key, gpu_uuid",
        recent.parameters,
    ).to_pylist()
    return [{name.removeprefix("n_"): value for name, value in row.items()} for row in rows]


def _over(store: Store, where: Where, window: Window) -> Sequence[dict[str, Any]]:
    tier = resolution(window)
    inside = during(where, window, tier)
    return (
        store.query(
            f"SELECT container_key, gpu_uuid, any(tenant) AS owner, {tier.mean('sm_ratio')} AS sm_mean_ratio,"
            f" {tier.peak('sm_ratio')} AS sm_max_ratio, {tier.peak('memory_bytes')} AS memory_max_bytes,"
            f" {tier.held_seconds} AS own_held_seconds, sum(toFloat64(interval_seconds)) AS observed_seconds"
            f" FROM {tier.table('container_gpu_samples')} WHERE {inside.sql} GROUP BY container_key, gpu_uuid",
            inside.parameters,
        )
        .rename_columns(["container_key", "gpu_uuid", "owner", *_OVER])
        .to_pylist()
    )


def _named(store: Store, keys: set[str], window: Window) -> dict[str, dict[str, Any]]:
    """Name and request of the newest container under each key; only of keys that the scope was found to own."""
    if not keys:
        return {}
    rows = store.query(
        "SELECT container_key, name, gpu_request FROM containers FINAL WHERE container_key IN {keys:Array(String)}"
        " AND (created_at IS NULL OR created_at <= fromUnixTimestamp64Milli({window_end:Int64}, 'UTC'))"
        " ORDER BY container_key, created_at DESC LIMIT 1 BY container_key",
        {"keys": sorted(keys), "window_end": epoch_ms(window.end)},
    ).to_pylist()
    return {row["container_key"]: row for row in rows}


def container_allocation(store: Store, scope: Scope, window: Window, *, container_key: str) -> Answer:
    """What one container asked for and what it came to; 0 or 1 rows.

    Columns: container_key, tenant, gpu_request (as a person types it), gpu_request_kind, gpu_uuids, devices (the same
    in words), gpu_unresolved (ids that name nothing here), privileged, state, error (of a failed start).
    """
    where = of_tenants(scope).also(
        "container_key = {key:String}"
        " AND (created_at IS NULL OR created_at <= fromUnixTimestamp64Milli({window_end:Int64}, 'UTC'))",
        key=container_key, window_end=epoch_ms(window.end),
    )  # fmt: skip
    rows = store.query(
        "SELECT container_key, tenant, gpu_request, gpu_request_kind, gpu_uuids, gpu_unresolved, privileged, state,"
        f" error FROM containers FINAL WHERE {where.sql} ORDER BY created_at DESC LIMIT 1",
        where.parameters,
    ).to_pylist()
    known = {str(fact["gpu_uuid"]): fact for fact in gpu_names(store)}
    for row in rows:
        row["privileged"] = bool(row["privileged"])
        row["devices"] = [_device_words(uuid, known.get(uuid)) for uuid in row["gpu_uuids"]]
    return answer(store, scope, window, pa.Table.from_pylist(rows, schema=_ALLOCATION), DOCKER)


def _device_words(uuid: str, fact: Mapping[str, Any] | None) -> str:
    if fact is None:
        return uuid
    whole = f"GPU {fact['gpu_index']}"
    return f"MIG {fact['mig_profile']} of {whole}" if fact["parent_uuid"] else whole


def gpu_signals(store: Store, scope: Scope, window: Window, *, gpu_uuid: str) -> Answer:
    """One device over time: t (epoch ms), {busy,sm_active,sm_occupancy,tensor_active,dram_active}_ratio,
    memory_used_bytes, memory_total_bytes, power_watts, power_limit_watts, temperature_celsius,
    memory_temperature_celsius, sm_clock_mhz, slowed_ratio (share of the time in which anything throttled it),
    {pcie,nvlink}_{receive,transmit}_bytes_per_second.
    """
    tier = resolution(window, finest_seconds=15)
    where = during(of_gpus(scope, window, tier).also("gpu_uuid = {gpu:String}", gpu=gpu_uuid), window, tier)
    slows = sum(reason.bit for reason in throttle_reasons() if reason.slows)
    seconds = "toFloat64(interval_seconds)"
    expressions = {
        **{name: _mean(tier, name) for name in _MEANS},
        "slowed_ratio": f"sumIf({seconds}, bitAnd(throttle_reasons, {slows}) != 0)"
        f" / nullIf(sumIf({seconds}, isNotNull(throttle_reasons)), 0)",
        **{f"{name}_bytes_per_second": _per_second(tier, name) for name in _TRAFFIC},
    }
    aliased = ", ".join(f"{expression} AS v{number}" for number, expression in enumerate(expressions.values()))
    found = store.query(
        f"SELECT {tier.bucket} AS bucket, {aliased} FROM {tier.table('gpu_samples')} WHERE {where.sql} GROUP BY bucket",
        where.parameters,
    )
    laid = on_grid(found, window, tier.step_seconds).get((), {})
    empty = np.full(len(grid(window, tier.step_seconds)), np.nan)
    rows = series_table(
        window, tier.step_seconds, {name: laid.get(f"v{number}", empty) for number, name in enumerate(expressions)}
    )
    return answer(store, scope, window, rows if laid else rows.slice(0, 0), NVML)


def _mean(tier: Resolution, name: str) -> str:
    # The rollups keep the peak of what hardly moves: limits, and the temperature of the memory.
    kept = name not in {"memory_total_bytes", "power_limit_watts", "memory_temperature_celsius"}
    return tier.mean(name) if kept else tier.peak(name)


def _per_second(tier: Resolution, name: str) -> str:
    known = (
        f"sumIf(toFloat64(interval_seconds), isNotNull({name}_bytes))"
        if tier.raw
        else f"sum({name.partition('_')[0]}_weight_seconds)"
    )
    return f"sum({name}_bytes) / nullIf({known}, 0)"


def gpu_events(store: Store, scope: Scope, window: Window, *, gpu_uuid: str, limit: int = 100) -> Answer:
    """What happened on one GPU, newest first: its own events, and those of the containers that were on it.

    Columns: at, kind, severity, title, detail, source, host, tenant, container_key, gpu_uuid. A limited scope sees
    its containers' events, and those of the device when it was theirs in the window.
    """
    tier = resolution(window)
    mine = of_tenants(scope)
    on_it = during(mine.also("gpu_uuid = {gpu:String} AND container_key != ''", gpu=gpu_uuid), window, tier)
    of_device = of_gpus(scope, window, tier)
    inside = during(
        Where(
            f"(({mine.sql}) AND container_key IN (SELECT container_key FROM {tier.table('container_gpu_samples')}"
            f" WHERE {on_it.sql}) OR tenant = '' AND gpu_uuid = {{gpu:String}} AND ({of_device.sql}))",
            {**mine.parameters, **on_it.parameters, **of_device.parameters},
        ),
        window,
    )
    rows = store.query(
        "SELECT at, kind, severity, title, detail, source, host, tenant, container_key, gpu_uuid FROM events FINAL"
        f" WHERE {inside.sql} ORDER BY at DESC, event_id LIMIT {int(limit)}",
        inside.parameters,
    )
    return answer(store, scope, window, rows, EVERYTHING)
