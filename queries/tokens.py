"""Where do the tokens go: in, out and from cache by tenant and model, how fast one user is served, and what a GPU and a
watt bring.

Servers only are added up; a gateway counts the tokens of the servers behind it, so it is a row of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from fleet.latency import Quantile
from fleet.model import Scope, Window
from queries.activity import devices, pieces
from queries.answer import Answer
from queries.freshness import EVERYTHING, PROMETHEUS, answer
from queries.latency import Measured, distributions, inside
from queries.resolution import grid, on_grid, resolution, series_table
from queries.scoping import Where, during, of_tenants
from store import Store

By = Literal["tenant", "model"]
_GROUPS: Mapping[By, tuple[str, ...]] = {"tenant": ("role", "tenant"), "model": ("role", "server", "model")}
_COUNTERS = ("prompt_tokens", "generation_tokens", "cached_tokens")
_SCHEMA = pa.schema(
    [
        ("role", pa.string()), ("tenant", pa.string()), ("server", pa.string()), ("model", pa.string()),
        ("containers", pa.int64()), *((f"{name}_per_second", pa.float64()) for name in _COUNTERS),
        ("cached_ratio", pa.float64()), ("user_tokens_per_second", pa.float64()),
        ("user_tokens_lower", pa.float64()), ("user_tokens_upper", pa.float64()), ("user_state", pa.string()),
        ("gpus", pa.float64()), ("tokens_per_second_per_gpu", pa.float64()), ("gpu_reason", pa.string()),
        ("tokens_per_joule", pa.float64()), ("power_reason", pa.string()),
    ]
)  # fmt: skip


@dataclass(slots=True)
class _Served:
    """What one container said for one group: tokens, and the seconds in which they were counted."""

    totals: dict[str, float] = field(default_factory=dict[str, float])
    known_seconds: float = 0.0


@dataclass(slots=True)
class _Gpus:
    """GPU time of one container: seconds held (a MIG device counts as its share), seconds seen, joules."""

    held_seconds: float = 0.0
    seen_seconds: float = 0.0
    joules: float | None = 0.0


def token_table(store: Store, scope: Scope, window: Window, *, host: str | None = None, by: By = "tenant") -> Answer:
    """One row per tenant, or per server kind and model, most generated tokens first, gateways last.

    Columns: role (server, gateway), tenant, server, model ("" where the row does not say), containers,
    {prompt,generation,cached}_tokens_per_second (over the window; NULL = not told), cached_ratio (of the prompt
    tokens), user_tokens_per_second (1 / median time between two tokens: what one user reads) with user_tokens_lower and
    _upper (NULL = open) and user_state, gpus (held by its containers while tokens were counted, mean),
    tokens_per_second_per_gpu (generated), tokens_per_joule (generated; the same as tokens per second per watt), and
    gpu_reason and power_reason: why they are NULL, else "".
    """
    where = of_tenants(scope, host=host)
    names = _GROUPS[by]
    served = _served(store, where, window, names)
    speeds = distributions(store, where, window, by, fields=("itl_seconds",))
    keys = sorted({key for parts in served.values() for key in parts if key})
    gpus = _gpus(store, where, window, keys) if keys else {}
    groups_of: dict[str, set[tuple[str, ...]]] = {}
    for group, parts in served.items():
        for key in parts:
            groups_of.setdefault(key, set()).add(group)
    rows: list[dict[str, Any]] = []
    for group, parts in served.items():
        row: dict[str, Any] = dict.fromkeys(("tenant", "server", "model"), "") | dict(zip(names, group, strict=True))
        totals = {
            name: math.fsum(one.totals[name] for one in parts.values() if name in one.totals)
            if any(name in one.totals for one in parts.values())
            else None
            for name in _COUNTERS
        }
        row |= {f"{name}_per_second": None if v is None else v / window.seconds for name, v in totals.items()}
        row["containers"] = sum(bool(key) for key in parts)
        cached, prompt = totals["cached_tokens"], totals["prompt_tokens"]
        row["cached_ratio"] = min(1.0, cached / prompt) if cached is not None and prompt else None
        row |= _speed(speeds.get((group, "itl_seconds")))
        shared = any(len(groups_of[key]) > 1 for key in parts)
        row |= _per_gpu(parts, gpus, window, gateway=row["role"] == "gateway", shared=shared)
        rows.append(row)
    rows.sort(key=lambda row: (row["role"] == "gateway", -(row["generation_tokens_per_second"] or 0.0), str(row)))
    return answer(store, scope, window, pa.Table.from_pylist(rows, schema=_SCHEMA), EVERYTHING)


def _speed(found: Measured | None) -> dict[str, Any]:
    median = Quantile(q=0.5, state="not_measured", count=0.0) if found is None else found.all.quantile(0.5)
    upper, lower = median.upper, median.lower
    return {
        "user_tokens_per_second": 1.0 / median.value if median.value else None,
        "user_tokens_lower": 1.0 / upper if upper and math.isfinite(upper) else None,
        "user_tokens_upper": 1.0 / lower if lower else None,
        "user_state": median.state,
    }


def _per_gpu(
    parts: Mapping[str, _Served], gpus: Mapping[str, _Gpus], window: Window, *, gateway: bool, shared: bool
) -> dict[str, Any]:
    """Tokens against the GPU time and energy of the same containers, in the time in which tokens were counted."""
    row: dict[str, Any] = dict.fromkeys(("gpus", "tokens_per_second_per_gpu", "tokens_per_joule"))
    why = ""
    told = {key: one for key, one in parts.items() if "generation_tokens" in one.totals}
    if gateway:
        why = "a gateway: the servers behind it hold the GPUs"
    elif "" in told:
        why = "some endpoints are joined to no container"
    elif shared:
        why = "its containers serve several models"
    elif not told:
        why = "generated tokens are not measured"
    elif not any(key in gpus and gpus[key].held_seconds for key in told):
        why = "its containers held no GPU"
    row |= {"gpu_reason": why, "power_reason": why}
    if why:
        return row
    tokens = math.fsum(one.totals["generation_tokens"] for one in told.values())
    held, joules = 0.0, 0.0
    for key, one in told.items():
        mine = gpus.get(key)
        if mine is None or not mine.seen_seconds:
            continue
        share = min(1.0, one.known_seconds / mine.seen_seconds)
        held += mine.held_seconds * share
        if mine.joules is None:
            row["power_reason"] = "the power of its GPUs is not attributed"
        else:
            joules += mine.joules * share
    row["gpus"] = held / window.seconds
    row["tokens_per_second_per_gpu"] = tokens / held if held else None
    if not row["power_reason"]:
        row["tokens_per_joule"] = tokens / joules if joules else None
        row["power_reason"] = "" if joules else "the power of its GPUs is not attributed"
    return row


def _served(
    store: Store, where: Where, window: Window, names: Sequence[str]
) -> dict[tuple[str, ...], dict[str, _Served]]:
    sums = ", ".join(f"sum({name}) AS t_{name}" for name in _COUNTERS)
    keys = ", ".join(dict.fromkeys((*names, "container_key", "endpoint", "server", "model")))
    totals: dict[tuple[str, ...], dict[str, _Served]] = {}
    known: dict[tuple[tuple[str, ...], str, str], dict[tuple[str, str], float]] = {}
    for piece, asked in inside(where, window):
        told = "sumIf(toFloat64(interval_seconds), isNotNull(generation_tokens))"
        if not piece.tier.raw:
            seconds = "if(isNull(generation_tokens), 0, toFloat64(interval_seconds))"
            told = f"sum(if(tokens_weight_seconds > 0, tokens_weight_seconds, {seconds}))"
        rows = store.query(
            f"SELECT {keys}, {sums}, {told} AS told FROM {piece.tier.table('inference_samples')}"
            f" WHERE {asked.sql} GROUP BY {keys}",
            asked.parameters,
        ).to_pylist()
        for row in rows:
            group, key = tuple(str(row[name]) for name in names), str(row["container_key"])
            one = totals.setdefault(group, {}).setdefault(key, _Served())
            for name in _COUNTERS:
                if row[f"t_{name}"] is not None:
                    one.totals[name] = one.totals.get(name, 0.0) + row[f"t_{name}"]
            models = known.setdefault((group, key, str(row["endpoint"])), {})
            model = str(row["server"]), str(row["model"])
            models[model] = models.get(model, 0.0) + (row["told"] or 0.0)
    # Models of one endpoint are counted at the same time, endpoints of one container follow one another.
    for (group, key, _), models in known.items():
        totals[group][key].known_seconds += max(models.values())
    return totals


def _gpus(store: Store, where: Where, window: Window, keys: Sequence[str]) -> dict[str, _Gpus]:
    """GPU time and energy of the serving containers."""
    weights = devices(store, window)
    seen: dict[tuple[str, str], list[float | None]] = {}
    for piece in pieces(window):
        tier = piece.tier
        asked = during(where, window) if tier.raw else where.also(piece.time_sql)
        weight = (
            "sumIf(toFloat64(interval_seconds), isNotNull(energy_joules))" if tier.raw else "sum(energy_weight_seconds)"
        )
        rows = store.query(
            f"SELECT container_key, gpu_uuid, {tier.held_seconds} AS held, sum(toFloat64(interval_seconds)) AS own,"
            f" sum(energy_joules) AS joules, {weight} AS told FROM {tier.table('container_gpu_samples')}"
            f" WHERE {asked.sql} AND container_key IN {{serving:Array(String)}} GROUP BY container_key, gpu_uuid",
            {**asked.parameters, "serving": list(keys)},
        ).to_pylist()
        for row in rows:
            held = seen.setdefault((row["container_key"], row["gpu_uuid"]), [0.0, 0.0, 0.0, 0.0])
            for place, name in enumerate(("held", "own", "joules", "told")):
                held[place] = (held[place] or 0.0) + (row[name] or 0.0)
    found: dict[str, _Gpus] = {}
    for (key, uuid), (held_seconds, own, joules, told) in seen.items():
        one = found.setdefault(key, _Gpus())
        device = weights.get(uuid)
        one.held_seconds += (held_seconds or 0.0) * (device.weight if device else 1.0)
        one.seen_seconds = max(one.seen_seconds, own or 0.0)
        # Energy known for a part of the time stands for all of it; for none of it, it stays unknown.
        if not told:
            one.joules = None
        elif one.joules is not None:
            one.joules += (joules or 0.0) * (own or 0.0) / told
    return found


def token_series(store: Store, scope: Scope, window: Window, *, host: str | None = None, by: By = "tenant") -> Answer:
    """Tokens over time by tenant or model, servers only, most generated first: name, t (epoch ms),
    {prompt,generation,cached}_tokens_per_second. One row per group and point; NULL where nobody counted.
    """
    tier = resolution(window, finest_seconds=60)
    where = during(of_tenants(scope, host=host).also("role = 'server'"), window, tier)
    rates = ", ".join(f"{tier.rate(name)} AS r_{name}" for name in _COUNTERS)
    # An endpoint that was there for a part of a point counts for that part, so followers are not added up.
    sums = ", ".join(f"sum(r_{name} * own / nullIf(longest, 0)) AS v_{name}" for name in _COUNTERS)
    column = "tenant" if by == "tenant" else "model"
    found = store.query(
        f"SELECT {column} AS name, bucket, {sums} FROM (SELECT *, max(own) OVER (PARTITION BY bucket, prometheus) AS"
        f" longest FROM (SELECT {column}, {tier.bucket} AS bucket, prometheus, {rates},"
        f" sum(toFloat64(interval_seconds)) AS own FROM {tier.table('inference_samples')} WHERE {where.sql}"
        f" GROUP BY {column}, bucket, prometheus, container_key, endpoint, server, model)) GROUP BY name, bucket",
        where.parameters,
    )
    laid = on_grid(found, window, tier.step_seconds, ("name",))
    order = sorted(laid, key=lambda key: (-float(np.nansum(laid[key]["v_generation_tokens"])), str(key[0])))
    empty = np.full(len(grid(window, tier.step_seconds)), np.nan)
    tables: list[pa.Table] = []
    for key in order:
        columns = {f"{name}_per_second": laid[key].get(f"v_{name}", empty) for name in _COUNTERS}
        rows = series_table(window, tier.step_seconds, columns)
        tables.append(rows.add_column(0, "name", pa.array([str(key[0])] * rows.num_rows, type=pa.string())))
    schema = pa.schema(
        [("name", pa.string()), ("t", pa.float64()), *((f"{name}_per_second", pa.float64()) for name in _COUNTERS)]
    )
    return answer(store, scope, window, pa.concat_tables(tables) if tables else schema.empty_table(), PROMETHEUS)
