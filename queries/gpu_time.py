"""Where did the GPU time go: busy, low, held but idle, or free?

Seconds are GPU-seconds: a whole GPU counts 1, a MIG device the share of its GPU that it is; a GPU in MIG mode stands
back behind its devices. Every row of a device adds up: busy + low + held_idle + free + unknown + gap = capacity.

A device's state goes by the device's activity, a container's by the container's own. So when two containers hold one
GPU and one works, the device is busy and the other container is held_idle at the same time: containers on a shared
GPU do not add up to the device, the device's own row does. Time on a device that a container does not hold comes in a
row of its own, with held = false ("used, not held").

A limited scope sees what its own containers held and used; free capacity and gaps of devices are not its business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from fleet.model import Scope, Window
from fleet.severity import Thresholds
from queries.activity import Device, aligned, container_seconds, device_seconds, devices
from queries.answer import Answer
from queries.freshness import NVML, answer
from queries.resolution import Resolution, grid, nullable, resolution
from queries.scoping import Where, of_tenants
from store import Store

By = Literal["gpu", "container", "tenant", "host", "fleet"]
STATES = ("busy", "low", "held_idle", "free", "unknown", "gap")
_KEYS: dict[str, tuple[str, ...]] = {
    "gpu": ("host", "gpu_uuid"), "host": ("host",), "fleet": (), "tenant": ("tenant",),
    "container": ("tenant", "host", "container_key", "gpu_uuid", "held"),
}  # fmt: skip
_KINDS = {"held": pa.bool_(), "gpu_index": pa.int64(), "weight": pa.float64()}
_FACTS = ("gpu_index", "name", "mig_profile", "parent_uuid", "weight")
_BY_HOLDING = ("held_seconds", "used_not_held_seconds", "holders_unknown_seconds", "used_holders_unknown_seconds")
#: Flags of the activity key -> whether a container held the device; None = nobody could be asked.
_HELD = {0: False, 1: True, 2: None}
Total = dict[str, float]


def gpu_time(
    store: Store, scope: Scope, window: Window, *, by: By = "gpu", host: str | None = None,
    limits: Thresholds | None = None,
) -> Answer:  # fmt: skip
    """GPU time by state, most idle first. Columns: what it is told by, then

    {busy,low,held_idle,free,unknown,gap}_seconds, the same as shares of the capacity ({state}_ratio), and
    capacity_seconds, held_seconds, used_not_held_seconds (busy or low while no container held it),
    holders_unknown_seconds (nobody could say whether a container held it: neither of the two),
    used_holders_unknown_seconds (the part of that in which it was busy or low), idle_below, busy_from (the thresholds
    behind the states, 0-1).

    by "gpu": host, gpu_uuid, gpu_index, name, mig_profile, parent_uuid, weight; "container": tenant, host,
    container_key, gpu_uuid, held (NULL = not known) and the GPU's facts; "tenant": tenant; "host": host; "fleet": one
    row.
    gap: time in which no reading came, from the device's first one on. For containers, tenants and limited scopes
    gap and free are NULL and the capacity is the time seen.
    """
    thresholds = limits or Thresholds()
    known = devices(store, window, host=host)
    keys = _KEYS[by]
    own = by in ("container", "tenant") or scope.tenants is not None
    parts = _of_containers(store, scope, window, host, thresholds, known) if own else _of_devices(
        store, window, host, thresholds, known
    )  # fmt: skip
    totals: dict[tuple[object, ...], Total] = {}
    for part, total in parts:
        key = tuple(part[name] for name in keys)
        _add(totals.setdefault(key, {}), total)
    rows = [_row(dict(zip(keys, key, strict=True)), total, own, thresholds, known) for key, total in totals.items()]
    rows.sort(key=lambda row: (-float(row["held_idle_seconds"]), *(str(row[name]) for name in keys)))
    table = pa.Table.from_pylist(rows, schema=_schema(keys))
    return answer(store, scope, window, table, NVML)


def _of_devices(
    store: Store, window: Window, host: str | None, limits: Thresholds, known: dict[str, Device]
) -> Iterable[tuple[dict[str, object], Total]]:
    where = Where("1") if host is None else Where("host = {scope_host:String}", {"scope_host": host})
    seen: dict[str, Total] = {}
    for row in device_seconds(store, where, window, limits).to_pylist():
        total = seen.setdefault(row["gpu_uuid"], {})
        if row["in_mig"]:
            total["in_mig"] = total.get("in_mig", 0.0) + row["seconds"]
            continue
        _count(total, row["state"], _HELD[row["flags"]], row["seconds"])
    for uuid, device in known.items():
        total = seen.get(uuid, {})
        elsewhere = total.pop("in_mig", 0.0)
        observed = sum(total.get(state, 0.0) for state in STATES)
        expected = device.expected_seconds(aligned(window)) - elsewhere
        if observed <= 0 and expected <= 0:
            continue
        total["gap"] = max(0.0, expected - observed)
        yield {"host": device.host, "gpu_uuid": uuid}, {name: value * device.weight for name, value in total.items()}


def _of_containers(
    store: Store, scope: Scope, window: Window, host: str | None, limits: Thresholds, known: dict[str, Device]
) -> Iterable[tuple[dict[str, object], Total]]:
    for row in container_seconds(store, of_tenants(scope, host=host), window, limits).to_pylist():
        device, held = known.get(row["gpu_uuid"]), _HELD[row["flags"]]
        if row["state"] == "free":
            continue  # there, without having been given the device and without using it: nobody's time
        total: Total = {}
        _count(total, row["state"], held, row["seconds"] * (device.weight if device else 1.0))
        yield {**row, "held": held}, total


def _count(total: Total, state: str, held: bool | None, seconds: float) -> None:
    total[state] = total.get(state, 0.0) + seconds
    used = state in ("busy", "low")
    if held is None:
        kinds = ("holders_unknown", "used_holders_unknown") if used else ("holders_unknown",)
    else:
        kinds = ("held",) if held else ("not_held",) if used else ()
    for kind in kinds:
        total[kind] = total.get(kind, 0.0) + seconds


def _add(whole: Total, part: Total) -> None:
    for name, value in part.items():
        whole[name] = whole.get(name, 0.0) + value


def _row(row: dict[str, Any], total: Total, own: bool, limits: Thresholds, known: dict[str, Device]) -> dict[str, Any]:
    capacity = sum(total.get(state, 0.0) for state in STATES)
    for state in STATES:
        absent = own and state in ("free", "gap")
        seconds = total.get(state, 0.0)
        row[f"{state}_seconds"] = None if absent else seconds
        row[f"{state}_ratio"] = None if absent or not capacity else seconds / capacity
    row |= {
        "capacity_seconds": capacity, "held_seconds": total.get("held", 0.0),
        "used_not_held_seconds": total.get("not_held", 0.0),
        "holders_unknown_seconds": total.get("holders_unknown", 0.0),
        "used_holders_unknown_seconds": total.get("used_holders_unknown", 0.0),
        "idle_below": limits.idle_sm_ratio, "busy_from": limits.busy_sm_ratio,
    }  # fmt: skip
    device = known.get(str(row.get("gpu_uuid")))
    if device is not None:
        row |= {name: getattr(device, name) for name in _FACTS}
    return row


def _schema(keys: Sequence[str]) -> pa.Schema:
    facts = _FACTS if "gpu_uuid" in keys else ()
    numbers = [f"{state}_{unit}" for unit in ("seconds", "ratio") for state in STATES]
    numbers += ["capacity_seconds", *_BY_HOLDING, "idle_below", "busy_from"]
    words = [(name, _KINDS.get(name, pa.string())) for name in (*keys, *facts)]
    return pa.schema([*words, *((name, pa.float64()) for name in numbers)])


def gpu_time_series(
    store: Store, scope: Scope, window: Window, *, host: str | None = None, gpu_uuid: str = "",
    container_key: str = "", tenant: str | None = None, limits: Thresholds | None = None,
) -> Answer:  # fmt: skip
    """GPU time over time, for stacked areas: t (epoch ms), {busy,low,held_idle,free,unknown,gap}_ratio, gpus.

    The shares of a point add up to 1; gpus is what they are shares of (mean GPUs there, or held by the containers
    asked for). A point at which nothing was there is NULL. With a container, a tenant or a limited scope the parts
    are those of its containers, and free and gap are NULL; else those of the devices. Also idle_below, busy_from.
    """
    thresholds = limits or Thresholds()
    asked = scope.narrow(tenant)
    tier = resolution(window, finest_seconds=60)
    known = devices(store, window, host=host)
    points = grid(window, tier.step_seconds)
    own = bool(container_key) or asked.tenants is not None
    where = of_tenants(asked, host=host)
    if container_key:
        where = where.also("container_key = {container:String}", container=container_key)
    if gpu_uuid:
        where = where.also("gpu_uuid = {gpu:String}", gpu=gpu_uuid)
        known = {uuid: device for uuid, device in known.items() if uuid == gpu_uuid}
    read = container_seconds if own else device_seconds
    found = read(store, where, window, thresholds, tier=tier).to_pylist()
    laid = {state: np.zeros(len(points)) for state in STATES}
    observed: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
    for row in found:
        place = (int(row["bucket"]) - int(points[0])) // tier.step_seconds
        if not 0 <= place < len(points) or (own and row["state"] == "free"):
            continue
        device = known.get(row["gpu_uuid"])
        weight = device.weight if device else 1.0
        seen = observed.setdefault(row["gpu_uuid"], np.zeros(len(points)))
        seen[place] += row["seconds"] * weight
        if not row.get("in_mig"):
            laid[row["state"]][place] += row["seconds"] * weight
    if not own:
        laid["gap"] = _gaps(known, observed, window, tier, points)
    capacity = np.sum(list(laid.values()), axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = {state: np.where(capacity > 0, values / capacity, np.nan) for state, values in laid.items()}
    if own:
        shares |= {state: np.full(len(points), np.nan) for state in ("free", "gap")}
    there = capacity / np.maximum(_point_seconds(window, tier, points), 1e-9)
    table = pa.table(
        {"t": pa.array(points.astype(np.float64) * 1000.0)}
        | {f"{state}_ratio": nullable(values) for state, values in shares.items()}
        | {"gpus": nullable(np.where(capacity > 0, there, np.nan))}
        | {
            "idle_below": pa.array([thresholds.idle_sm_ratio] * len(points), pa.float64()),
            "busy_from": pa.array([thresholds.busy_sm_ratio] * len(points), pa.float64()),
        }
    )
    return answer(store, scope, window, table if capacity.any() else table.slice(0, 0), NVML)


Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]


def _point_seconds(window: Window, tier: Resolution, points: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Numbers:
    """Seconds of each point that lie in the window as its tier sees it."""
    start = window.start.timestamp()
    if not tier.raw:
        unit = 3600 if tier.suffix == "_1h" else 60
        start = start // unit * unit
    ends = np.minimum(points + tier.step_seconds, window.end.timestamp())
    return np.asarray(np.maximum(0.0, ends - np.maximum(points, start)), dtype=np.float64)


def _gaps(
    known: dict[str, Device], observed: dict[str, Numbers], window: Window, tier: Resolution,
    points: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> Numbers:  # fmt: skip
    """Weighted seconds per point in which a reading was due and none came."""
    total = np.zeros(len(points))
    whole = _point_seconds(window, tier, points)
    for uuid, device in known.items():
        if device.mig:
            continue
        begins, ends = device.first_seen.timestamp(), device.last_seen.timestamp()
        there = np.minimum(points + tier.step_seconds, ends) - np.maximum(points, begins)
        due = np.clip(there, 0.0, whole) * device.weight
        missing = due - observed.get(uuid, np.zeros(len(points)))
        # One sample more or less falls into a point when its edge cuts an interval: that is no gap.
        total += np.where(missing > 0.02 * due, missing, 0.0).clip(min=0.0)
    return np.asarray(total, dtype=np.float64)


def _unknown_words(row: dict[str, Any]) -> str:
    """What the funnel's allocated time does not know: which part is which, and how much more might be held."""
    used, every = row["used_holders_unknown_seconds"], row["holders_unknown_seconds"]
    words = f"; whether it was held is not known of {_hours(used)} of it" if used else ""
    return words + (f"; {_hours(every - used)} more may have been held: not known" if every - used > 0 else "")


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.3g} GPU-h"


def gpu_funnel_time(
    store: Store, scope: Scope, window: Window, *, host: str | None = None, limits: Thresholds | None = None
) -> Answer:
    """How far the GPU time got, in order: stage (total, allocated, active, effective), gpu_hours, share, note.

    allocated: held by a container, or used without being held (which of them need not be known of what was used);
    active: at or above the idle threshold; effective: at or above the busy one. share: of the first stage. note: what
    the stage is, and of how much of it nobody could say whether it was held. A limited scope has no total. Also
    idle_below, busy_from.
    """
    thresholds = limits or Thresholds()
    rows = gpu_time(store, scope, window, by="fleet", host=host, limits=limits).rows.to_pylist()
    row: dict[str, Any] = rows[0] if rows else dict.fromkeys(_schema(()).names, 0.0)
    own = scope.tenants is not None
    active = row["busy_seconds"] + row["low_seconds"]
    # Used time is allocated whether it was held or not; what was not used is not when nobody knows that it was held.
    allocated = row["held_seconds"] + row["used_not_held_seconds"] + row["used_holders_unknown_seconds"]
    idle, busy = (f"{limit * 100:g} %" for limit in (thresholds.idle_sm_ratio, thresholds.busy_sm_ratio))
    stages = [
        ("total", row["capacity_seconds"], "GPUs there x time, gaps in the readings included"),
        ("allocated", allocated, f"held by a container, or used without being held{_unknown_words(row)}"),
        ("active", active, f"activity at or above {idle}"),
        ("effective", row["busy_seconds"], f"activity at or above {busy}"),
    ][1 if own else 0 :]
    first = stages[0][1]
    table = pa.Table.from_pylist(
        [
            {"stage": stage, "gpu_hours": seconds / 3600, "share": seconds / first if first else None, "note": note,
             "idle_below": thresholds.idle_sm_ratio, "busy_from": thresholds.busy_sm_ratio}
            for stage, seconds, note in stages
        ],
        schema=pa.schema(
            [("stage", pa.string()), ("gpu_hours", pa.float64()), ("share", pa.float64()), ("note", pa.string()),
             ("idle_below", pa.float64()), ("busy_from", pa.float64())]
        ),
    )  # fmt: skip
    return answer(store, scope, window, table, NVML)
