"""Who keeps GPUs without using them, ranked, each with its evidence in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from fleet.idle_ranking import IdleHolder, idle_sentence, idle_suggestion, model_weight, short_model
from fleet.model import Gap, Scope, Window
from fleet.severity import Thresholds
from queries.activity import Device, container_seconds, devices
from queries.answer import Answer
from queries.freshness import NVML, answer
from queries.resolution import Resolution, epoch_ms, moment, resolution
from queries.scoping import Where, during, of_tenants
from store import Store

#: How far back the last activity and the last request are looked for, by the hour; and how far by the minute.
_BACK, _NEAR = timedelta(days=90), timedelta(hours=6)
_HOURS = Resolution(suffix="_1h", step_seconds=3600)
_MINUTES = Resolution(suffix="_1m", step_seconds=60)
_TIME = pa.timestamp("ms", tz="UTC")
_SCHEMA = pa.schema(
    [
        ("rank", pa.int64()), ("holders_total", pa.int64()), ("container_key", pa.string()), ("name", pa.string()),
        ("tenant", pa.string()), ("team", pa.string()), ("owner", pa.string()), ("host", pa.string()),
        ("gpus", pa.int64()), ("gpu_uuids", pa.list_(pa.string())), ("gpu_models", pa.list_(pa.string())),
        ("holding", pa.bool_()), ("held_since", _TIME), ("idle_since", _TIME), ("idle_gpu_hours", pa.float64()),
        ("held_gpu_hours", pa.float64()), ("idle_share", pa.float64()), ("weighted_idle_hours", pa.float64()),
        ("peak_ratio", pa.float64()), ("memory_bytes", pa.int64()), ("has_request_metrics", pa.bool_()),
        ("last_request", _TIME), ("sentence", pa.string()), ("suggestion", pa.string()), ("idle_below", pa.float64()),
        ("busy_from", pa.float64()),
    ]
)  # fmt: skip


def idle_ranking(
    store: Store, scope: Scope, window: Window, *, host: str | None = None, limits: Thresholds | None = None,
    limit: int = 50,
) -> Answer:  # fmt: skip
    """Containers by what they held idle in the window: GPU-hours x what their GPU is worth, most first.

    Listed from half the window or the idle limit (`idle_warning_seconds`) on, whichever is shorter. holding: it still
    holds them at the window's end. held_since: start of the container (else of its readings). idle_since: from when
    on it stayed below the idle threshold, NULL when it worked lately. peak_ratio: highest SM share since then, or in
    the window. memory_bytes: held now (its peak). last_request: NULL when none is known; without inference metrics
    has_request_metrics is false. sentence and suggestion are for a person. Thresholds: idle_below, busy_from.
    holders_total: how many there are, of which the first `limit` are listed.
    Coverage and gaps are those of the GPU readings: with a coverage of None or 0 nothing was seen, so an empty answer
    says nothing. A gap names the containers whose activity was not known for most of the time that they held.
    """
    thresholds = limits or Thresholds()
    where = of_tenants(scope, host=host)
    known = devices(store, window, host=host)
    held = _held(container_seconds(store, where, window, thresholds).to_pylist(), known)
    blind = sorted(key for key, facts in held.items() if facts["unknown"] > 0.5 * facts["held"])
    least = min(thresholds.idle_warning_seconds, 0.5 * window.seconds) / 3600
    chosen = {key: facts for key, facts in held.items() if facts["idle"] >= least}
    if not chosen:
        return _answered(store, scope, window, _SCHEMA.empty_table(), blind)
    keys = sorted(chosen)
    mine = where.also("container_key IN {holders:Array(String)}", holders=keys)
    facts = _facts(store, mine, window)
    evidence = _evidence(store, mine, window, thresholds)
    requests = _requests(store, mine, window)
    rows: list[dict[str, Any]] = []
    for key, one in chosen.items():
        seen, known_facts = evidence.get(key, {}), facts.get(key, {})
        since, worked = known_facts.get("started") or seen.get("first"), seen.get("worked")
        metrics, asked = requests.get(key, (False, None))
        # A restart under the same key begins a new hold; what the container did before does not count for it.
        if worked is not None and since is not None and worked < since:
            worked = None
        quiet = worked or since
        lately = worked is not None and (window.end - worked).total_seconds() < thresholds.idle_warning_seconds
        models = [_model(known.get(uuid)) for uuid in one["uuids"]]
        holder = IdleHolder(
            models=models, holding=bool(seen.get("holding")), held_since=since, idle_since=None if lately else quiet,
            now=window.end, idle_gpu_hours=one["idle"], held_gpu_hours=one["held"],
            peak_ratio=seen.get("peak_window") if lately else seen.get("peak_since"), metrics=metrics,
            last_request=asked, used_gpus=len(one["active"]), memory_peak_bytes=seen.get("memory"),
            memory_total_bytes=_memory_total(one["uuids"], known, seen.get("memory_read", 0)),
        )  # fmt: skip
        rows.append(
            {
                "container_key": key, "name": known_facts.get("name") or key.partition(":")[2], "tenant": one["tenant"],
                "team": known_facts.get("team", ""), "owner": known_facts.get("owner", ""), "host": one["host"],
                "gpus": len(one["uuids"]), "gpu_uuids": one["uuids"], "gpu_models": models,
                "holding": holder.holding, "held_since": since, "idle_since": holder.idle_since,
                "idle_gpu_hours": one["idle"], "held_gpu_hours": one["held"],
                "idle_share": one["idle"] / one["held"] if one["held"] else None,
                "weighted_idle_hours": one["weighted"], "peak_ratio": holder.peak_ratio,
                "memory_bytes": seen.get("memory"), "has_request_metrics": metrics, "last_request": asked,
                "sentence": idle_sentence(holder), "suggestion": idle_suggestion(holder),
                "idle_below": thresholds.idle_sm_ratio, "busy_from": thresholds.busy_sm_ratio,
            }
        )  # fmt: skip
    rows.sort(key=lambda row: (-row["weighted_idle_hours"], row["container_key"]))
    table = pa.Table.from_pylist(
        [{**row, "rank": place, "holders_total": len(rows)} for place, row in enumerate(rows[:limit], start=1)],
        schema=_SCHEMA,
    )
    return _answered(store, scope, window, table, blind)


def _answered(store: Store, scope: Scope, window: Window, table: pa.Table, blind: Sequence[str]) -> Answer:
    """The answer by the GPU readings alone: Docker and Prometheus that go on must not hide that those are missing."""
    result = answer(store, scope, window, table, NVML)
    if not blind:
        return result
    names = ", ".join(key.partition(":")[2] or key for key in blind[:3]) + (", ..." if len(blind) > 3 else "")
    holders = "1 container" if len(blind) == 1 else f"{len(blind)} containers"
    words = f"what {holders} did on the GPUs held is not known: {names}"
    return replace(result, gaps=(*result.gaps, Gap(subject="idle GPUs", reason="unsupported", detail=words)))


def _memory_total(uuids: Sequence[str], known: Mapping[str, Device], read: int) -> int | None:
    """Memory of all these devices; None when that or what was used of one of them is not known."""
    sizes = [known[uuid].memory_total_bytes if uuid in known else None for uuid in uuids]
    return sum(size or 0 for size in sizes) if read >= len(uuids) and all(sizes) else None


def _model(device: Device | None) -> str:
    if device is None:
        return "GPU"
    return f"{short_model(device.name)} {device.mig_profile}".strip()


def _held(rows: Sequence[Mapping[str, Any]], known: Mapping[str, Device]) -> dict[str, dict[str, Any]]:
    """Per container: GPU-hours held and held idle, its devices, and those that it worked on."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["flags"] != 1:
            continue
        device = known.get(row["gpu_uuid"])
        hours = row["seconds"] / 3600 * (device.weight if device else 1.0)
        one = found.setdefault(
            row["container_key"],
            {"tenant": row["tenant"], "host": row["host"], "idle": 0.0, "held": 0.0, "unknown": 0.0, "weighted": 0.0,
             "uuids": set(),
             "active": set()},
        )  # fmt: skip
        one["held"] += hours
        one["uuids"].add(row["gpu_uuid"])
        if row["state"] == "held_idle":
            one["idle"] += hours
            one["weighted"] += hours * model_weight(device.name if device else "")
        elif row["state"] == "unknown":
            one["unknown"] += hours
        elif row["state"] in ("busy", "low"):
            one["active"].add(row["gpu_uuid"])
    for one in found.values():
        order = {uuid: device.gpu_index for uuid, device in known.items()}
        one["uuids"] = sorted(one["uuids"], key=lambda uuid: (order.get(uuid, 0), uuid))
    return found


def _facts(store: Store, mine: Where, window: Window) -> dict[str, dict[str, Any]]:
    """Name, team, owner and start of the newest container under each key."""
    where = mine.also(
        "(created_at IS NULL OR created_at <= fromUnixTimestamp64Milli({window_end:Int64}, 'UTC'))",
        window_end=epoch_ms(window.end),
    )
    rows = store.query(
        "SELECT container_key, name, team, owner, toUnixTimestamp64Milli(started_at) / 1000 AS started FROM containers"
        f" FINAL WHERE {where.sql} ORDER BY container_key, created_at DESC LIMIT 1 BY container_key",
        where.parameters,
    ).to_pylist()
    # A container that started again after the window held its GPUs under an earlier start, which is not known.
    limit = window.end.timestamp()
    return {
        row["container_key"]: {
            **row, "started": moment(row["started"]) if (row["started"] or limit) < limit else None,
        }
        for row in rows
    }  # fmt: skip


def _evidence(store: Store, mine: Where, window: Window, limits: Thresholds) -> dict[str, dict[str, Any]]:
    """Per container: first reading, when it last worked (above the idle share), peaks, memory, and whether it holds.

    Hours are read far back, minutes for the last six hours: there an hour would hide when the work ended.
    """
    mine = mine.also("container_key != '' AND held_seconds > 0")
    peak = "coalesce(sm_active_ratio_max, sm_ratio_max)"
    found: dict[str, dict[str, Any]] = {}
    for tier, span in ((_HOURS, _BACK), (_MINUTES, _NEAR)):
        asked = during(mine, Window(start=window.end - span, end=window.end), tier)
        rows = store.query(
            f"""
            SELECT container_key, toUnixTimestamp(min(at)) AS first, toUnixTimestamp(max(at)) AS newest,
                toUnixTimestamp(maxIf(at, {peak} >= {{idle:Float64}})) AS worked
            FROM {tier.table("container_gpu_samples")} WHERE {asked.sql} GROUP BY container_key
            """,
            {**asked.parameters, "idle": _stored(limits.idle_sm_ratio)},
        ).to_pylist()
        for row in rows:
            one = found.setdefault(row["container_key"], {"first": moment(row["first"])})
            if row["worked"]:
                end = moment(row["worked"] + tier.step_seconds)
                one["worked"] = min(end, window.end) if end else None
            one["newest"] = row["newest"] + tier.step_seconds
    last = _last_reading(store, window) or max((one["newest"] for one in found.values()), default=0)
    for one in found.values():
        one["holding"] = one["newest"] >= min(last, window.end.timestamp()) - 180
    _peaks(store, mine, window, found, peak)
    return found


def _last_reading(store: Store, window: Window) -> int | None:
    """The newest minute of any GPU reading, epoch seconds, whoever's it is; None when there was none lately."""
    where = during(Where("1"), Window(start=window.end - _NEAR, end=window.end), _MINUTES)
    row = store.query(
        f"SELECT toUnixTimestamp(max(at)) AS newest FROM gpu_samples_1m WHERE {where.sql}", where.parameters
    ).to_pylist()[0]
    return row["newest"] or None


def _peaks(store: Store, mine: Where, window: Window, found: dict[str, dict[str, Any]], peak: str) -> None:
    """Add peak_since (after the last work), peak_window and memory (its peak in the window, all GPUs together)."""
    keys = list(found)
    since = [int(found[key]["worked"].timestamp()) if found[key].get("worked") else 0 for key in keys]
    after = "transform(container_key, {keys:Array(String)}, {worked:Array(Int64)}, toInt64(0))"
    for tier, span in ((_HOURS, _BACK), (_MINUTES, _NEAR)):
        asked = during(mine, Window(start=window.end - span, end=window.end), tier)
        rows = store.query(
            f"SELECT container_key, maxIf({peak}, toUnixTimestamp(at) >= {after}) AS since"
            f" FROM {tier.table('container_gpu_samples')} WHERE {asked.sql} GROUP BY container_key",
            {**asked.parameters, "keys": keys, "worked": since},
        ).to_pylist()
        for row in rows:
            one = found.setdefault(row["container_key"], {})
            known = [value for value in (one.get("peak_since"), row["since"]) if value is not None]
            one["peak_since"] = max(known, default=None)
    tier = _MINUTES if resolution(window).raw else _HOURS
    inside = during(mine, window, tier)
    rows = store.query(
        f"""
        SELECT container_key, max(top) AS inside, sum(most) AS bytes, count(most) AS read FROM (
            SELECT container_key, gpu_uuid, max({peak}) AS top, max(memory_bytes_max) AS most
            FROM {tier.table("container_gpu_samples")} WHERE {inside.sql} GROUP BY container_key, gpu_uuid
        ) GROUP BY container_key
        """,
        inside.parameters,
    ).to_pylist()
    for row in rows:
        told = {"peak_window": row["inside"], "memory": row["bytes"], "memory_read": row["read"]}
        found.setdefault(row["container_key"], {}).update(told)


def _stored(ratio: float) -> float:
    """The threshold a little lower, because ratios are stored as 32-bit floats."""
    return ratio - 0.000001


def _requests(store: Store, mine: Where, window: Window) -> dict[str, tuple[bool, datetime | None]]:
    """Container -> (it reports requests, time of its newest one); a container that is missing reports none."""
    back = Window(start=window.end - _BACK, end=window.end)
    asked = during(mine, back, _HOURS)
    rows = store.query(
        "SELECT container_key, count(requests) AS told, toUnixTimestamp(maxIf(at, requests > 0)) AS newest"
        f" FROM {_HOURS.table('inference_samples')} WHERE {asked.sql} GROUP BY container_key",
        asked.parameters,
    ).to_pylist()
    # The hour in which it came; the minute is not worth another read, but it lies not behind the window's end.
    return {
        row["container_key"]: (
            row["told"] > 0,
            min(at, window.end) if (at := moment(row["newest"])) else None,
        )
        for row in rows
    }
