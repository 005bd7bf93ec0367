"""How is each GPU doing over a span: utilisation, saturation, errors, in numbers and in words with the next step?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pyarrow as pa

from fleet.gpu_words import recovery, throttle_reasons, xid
from fleet.model import Scope, Window
from queries.activity import aligned
from queries.answer import Answer
from queries.freshness import NVML, answer
from queries.live import gpu_names
from queries.resolution import Resolution, resolution
from queries.scoping import during, of_gpus
from store import Store

_MEANS = (
    "busy_ratio", "sm_active_ratio", "sm_occupancy_ratio", "tensor_active_ratio", "dram_active_ratio",
    "encoder_ratio", "decoder_ratio", "memory_used_bytes", "power_watts", "sm_clock_mhz",
    "process_count",
)  # fmt: skip
_PEAKS = (
    "busy_ratio", "sm_active_ratio", "encoder_ratio", "decoder_ratio", "memory_used_bytes", "power_watts",
    "temperature_celsius", "memory_temperature_celsius", "process_count", "remapped_rows", "recovery_action",
    "memory_total_bytes", "power_limit_watts", "idle_power_watts",
)  # fmt: skip
_TRAFFIC = ("pcie_receive", "pcie_transmit", "nvlink_receive", "nvlink_transmit")
_RECENT = timedelta(hours=1)
_SCHEMA = pa.schema(
    [
        ("host", pa.string()), ("gpu_uuid", pa.string()), ("parent_uuid", pa.string()), ("gpu_index", pa.int64()),
        ("name", pa.string()), ("mig_profile", pa.string()),
        *((f"{name}_mean", pa.float64()) for name in _MEANS), *((f"{name}_max", pa.float64()) for name in _PEAKS),
        *((f"{name}_bytes_per_second", pa.float64()) for name in _TRAFFIC),
        ("unknown_reason", pa.string()), ("energy_joules", pa.float64()), ("power_at_limit_ratio", pa.float64()),
        ("slowed_ratio", pa.float64()), ("throttle_words", pa.list_(pa.string())),
        ("throttle_ratios", pa.list_(pa.float64())), ("throttle_step_seconds", pa.int64()),
        ("ecc_corrected", pa.int64()), ("ecc_uncorrected", pa.int64()), ("remap_pending", pa.bool_()),
        ("xids", pa.list_(pa.int64())), ("xid_words", pa.list_(pa.string())), ("recovery_words", pa.string()),
        ("observed_seconds", pa.float64()),
    ]
)  # fmt: skip


def gpu_use(store: Store, scope: Scope, window: Window, *, host: str | None = None, gpu_uuid: str = "") -> Answer:
    """One row per GPU and MIG device, by host and index; gpu_uuid: only that one.

    Utilisation: {busy, sm_active, sm_occupancy, tensor_active, dram_active, encoder, decoder}_ratio_mean (and _max),
    {pcie,nvlink}_{receive,transmit}_bytes_per_second; unknown_reason says what this GPU cannot tell, and why.
    Saturation: memory_used_bytes_mean/_max of memory_total_bytes_max, power_watts_mean/_max of power_limit_watts_max,
    power_at_limit_ratio, slowed_ratio (any throttling), throttle_words with throttle_ratios: share of the time in
    which each happened, told in steps of throttle_step_seconds (a step counts whole), process_count (NULL for a
    limited scope), temperatures, clocks. Errors: ECC counts, remapped rows, xids with xid_words (meaning and next
    step), recovery_words ("" when the driver asks for nothing, NULL when it does not tell).
    A MIG device has activity and memory; the rest stands with its GPU. Energy is joules over the window.
    """
    tier = resolution(window)
    where = of_gpus(scope, window, tier, host=host)
    if gpu_uuid:
        where = where.also("gpu_uuid = {gpu:String}", gpu=gpu_uuid)
    inside = during(where, window if tier.raw else aligned(window), tier)
    known = {str(fact["gpu_uuid"]): fact for fact in gpu_names(store)}
    rows = [
        _row(row, known.get(row["uuid"], {}), tier, limited=scope.tenants is not None)
        for row in store.query(_sql(tier, inside.sql), inside.parameters).to_pylist()
    ]
    if rows:
        told = _reasons(store, scope, window, host)
        for row in rows:
            row["unknown_reason"] = told.get(row["gpu_uuid"], "")
    rows.sort(key=lambda row: (row["host"], row["gpu_index"], row["parent_uuid"] != "", row["gpu_uuid"]))
    return answer(store, scope, window, pa.Table.from_pylist(rows, schema=_SCHEMA), NVML)


def _sql(tier: Resolution, condition: str) -> str:
    seconds = "toFloat64(interval_seconds)"
    xids, action = ("xid", "recovery_action") if tier.raw else ("xid_max", "recovery_action_max")
    pending = "remap_pending" if tier.raw else "remap_pending_max"
    slows = sum(reason.bit for reason in throttle_reasons() if reason.slows)
    bits = [f"sumIf({seconds}, bitAnd(throttle_reasons, {one.bit}) != 0) AS b{one.bit}" for one in throttle_reasons()]
    traffic = [
        f"sum({name}_bytes) / nullIf("
        + (
            f"sumIf({seconds}, isNotNull({name}_bytes))"
            if tier.raw
            else f"sum({name.partition('_')[0]}_weight_seconds)"
        )
        + f", 0) AS t_{name}"
        for name in _TRAFFIC
    ]
    columns = [
        *(f"{tier.mean(name)} AS m_{name}" for name in _MEANS), *(f"{tier.peak(name)} AS p_{name}" for name in _PEAKS),
        *bits, *traffic, "sum(energy_joules) AS joules", f"sum({seconds}) AS observed",
        f"sumIf({seconds}, isNotNull(throttle_reasons)) AS told",
        f"sumIf({seconds}, bitAnd(throttle_reasons, {slows}) != 0) AS slowed",
        "sum(ecc_corrected) AS fixed", "sum(ecc_uncorrected) AS bad", f"max({pending}) AS pending",
        f"arraySort(groupUniqArray(assumeNotNull({xids}))) AS numbers", f"argMax(tuple({action}), at).1 AS action",
    ]  # fmt: skip
    return (
        "SELECT host, gpu_uuid AS uuid, any(parent_uuid) AS parent, any(gpu_index) AS idx, "
        + ", ".join(columns)
        + f" FROM {tier.table('gpu_samples')} WHERE {condition} GROUP BY host, gpu_uuid"
    )


def _row(row: Mapping[str, Any], fact: Mapping[str, object], tier: Resolution, *, limited: bool) -> dict[str, Any]:
    told = row["told"] or 0.0
    reasons = [(one.words, row[f"b{one.bit}"] / told) for one in throttle_reasons() if one.slows and told]
    reasons = sorted((one for one in reasons if one[1] > 0), key=lambda one: -one[1])
    numbers = [number for number in row["numbers"] if number]
    action = row["action"]
    asks = None if action is None else recovery(action)
    found: dict[str, Any] = {
        "host": row["host"], "gpu_uuid": row["uuid"], "parent_uuid": row["parent"], "gpu_index": row["idx"],
        "name": fact.get("name", ""), "mig_profile": fact.get("mig_profile", ""),
        "energy_joules": row["joules"], "power_at_limit_ratio": row["b4"] / told if told else None,
        "slowed_ratio": row["slowed"] / told if told else None,
        "throttle_words": [words for words, _ in reasons], "throttle_ratios": [share for _, share in reasons],
        "throttle_step_seconds": 0 if tier.raw else 3600 if tier.suffix == "_1h" else 60,
        "ecc_corrected": row["fixed"], "ecc_uncorrected": row["bad"],
        "remap_pending": None if row["pending"] is None else bool(row["pending"]), "xids": numbers,
        "xid_words": [f"XID {number}: {xid(number).words}. {_sentence(xid(number).next_step)}" for number in numbers],
        "recovery_words": None if action is None else "" if asks is None else f"{asks.words}: {asks.next_step}",
        "observed_seconds": row["observed"],
    }  # fmt: skip
    found |= {f"{name}_mean": row[f"m_{name}"] for name in _MEANS}
    found |= {f"{name}_max": row[f"p_{name}"] for name in _PEAKS}
    found |= {f"{name}_bytes_per_second": row[f"t_{name}"] for name in _TRAFFIC}
    if limited:  # how many processes others run is not this scope's business
        found |= {"process_count_mean": None, "process_count_max": None}
    return found


def _sentence(step: str) -> str:
    return step[:1].upper() + step[1:] + ("" if step.endswith(".") else ".")


def _reasons(store: Store, scope: Scope, window: Window, host: str | None) -> dict[str, str]:
    """GPU -> why some of its numbers are missing, as its newest sample of the window's last hours said."""
    span = Window(start=max(window.start, window.end - _RECENT), end=window.end)
    where = during(of_gpus(scope, span, resolution(span), host=host), span)
    rows: Sequence[Mapping[str, Any]] = store.query(
        f"SELECT gpu_uuid, argMax(unknown_reason, at) AS reason FROM gpu_samples WHERE {where.sql} GROUP BY gpu_uuid",
        where.parameters,
    ).to_pylist()
    return {row["gpu_uuid"]: row["reason"] for row in rows}
