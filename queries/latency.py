"""Are users served in time? Rate, errors and durations by model, tenant or container; percentiles from summed buckets.

Every percentile carries the two bounds it lies between, or a word for why there is none. Buckets are added first and
asked after; different ladders are never added but bracketed (`fleet.latency.Distribution`). Gateways are rows of their
own and in no sum: a server behind them counts the same requests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as made
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from fleet.latency import Distribution, Quantile, distribution
from fleet.model import Scope, Window
from queries.activity import Piece, pieces
from queries.answer import Answer
from queries.freshness import PROMETHEUS, answer
from queries.resolution import Resolution, grid, resolution, series_table
from queries.scoping import Where, during, of_tenants
from queries.sharing import KEPT_SECONDS, Frozen, frozen, shared_for, thawed
from store import Store

By = Literal["model", "tenant", "container", "fleet"]
#: What a group is, as columns of both tables.
GROUPS: Mapping[By, tuple[str, ...]] = {
    "model": ("role", "server", "model"),
    "tenant": ("role", "tenant"),
    "container": ("role", "tenant", "container_key", "server", "model"),
    "fleet": ("role",),
}
FIELDS = ("e2e_seconds", "ttft_seconds", "itl_seconds", "queue_seconds")
QUANTILES = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
_COUNTERS = ("requests", "errors", "prompt_tokens", "generation_tokens", "cached_tokens")
_GAUGES = ("requests_waiting", "requests_running")

Group = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Load:
    """Counters of a group per second (None = not told) and its gauges."""

    rates: Mapping[str, float | None]
    errors_ratio: float | None
    gauges: Mapping[str, float | None]
    requests: float | None
    tenants: tuple[str, ...]


def latency_table(store: Store, scope: Scope, window: Window, *, host: str | None = None, by: By = "model") -> Answer:
    """One row per group, most requests first, gateways after servers.

    Columns: role, server, model, tenant, container_key ("" where the group does not say), tenants (list), requests (in
    the window), requests_per_second (over the time seen, as all rates), error_ratio, prompt_tokens_per_second,
    generation_tokens_per_second, cached_tokens_per_second, requests_waiting, requests_running (mean, added over
    endpoints), kv_cache_ratio (the fullest), and for each of e2e, ttft, itl, queue: {x}_count, {x}_mean_seconds,
    {x}_ladders (how many different bucket ladders), {x}_odd (containers whose ladder is not the usual one of the
    group), and for p50, p95, p99: {x}_{p}_seconds, {x}_{p}_lower, {x}_{p}_upper (NULL = open), {x}_{p}_state (ok,
    beyond, too_few, no_traffic, mean_only, not_measured); {x}_before_seconds: p95 of the period before; {x}_changed:
    whether the two p95 lie in intervals that do not touch (NULL = cannot say).
    """
    where = of_tenants(scope, host=host)
    found = distributions(store, where, window, by)
    loads = _loads(store, where, window, by)
    earlier = Window(start=window.start - (window.end - window.start), end=window.start)
    before = distributions(store, where, earlier, by)
    names = GROUPS[by]
    rows: list[dict[str, object]] = []
    for group in sorted({group for group, _ in found} | loads.keys()):
        load = loads.get(group)
        row: dict[str, object] = dict.fromkeys(("role", "server", "model", "tenant", "container_key"), "")
        row |= dict(zip(names, group, strict=True))
        row["tenants"] = list(load.tenants) if load else []
        row["requests"] = load.requests if load else None
        for name in _COUNTERS:
            if name != "errors":
                row[f"{name}_per_second"] = load.rates[name] if load else None
        row["error_ratio"] = load.errors_ratio if load else None
        row |= {name: load.gauges[name] if load else None for name in (*_GAUGES, "kv_cache_ratio")}
        for field in FIELDS:
            row |= _cells(field.removesuffix("_seconds"), found.get((group, field)), before.get((group, field)))
        rows.append(row)
    rows.sort(key=lambda row: (row["role"] == "gateway", -float(str(row["requests"] or 0))))
    return answer(store, scope, window, pa.Table.from_pylist(rows, schema=_table_schema()), PROMETHEUS)


def _table_schema() -> pa.Schema:
    columns: list[tuple[str, pa.DataType]] = [
        (name, pa.string()) for name in ("role", "server", "model", "tenant", "container_key")
    ]
    columns.append(("tenants", pa.list_(pa.string())))
    numbers = ["requests", *(f"{name}_per_second" for name in _COUNTERS if name != "errors"), "error_ratio"]
    columns += [(name, pa.float64()) for name in (*numbers, *_GAUGES, "kv_cache_ratio")]
    for field in FIELDS:
        short = field.removesuffix("_seconds")
        columns += [(f"{short}_count", pa.float64()), (f"{short}_mean_seconds", pa.float64())]
        columns.append((f"{short}_ladders", pa.int64()))
        columns.append((f"{short}_odd", pa.list_(pa.string())))
        for _, word in QUANTILES:
            columns += [(f"{short}_{word}_{part}", pa.float64()) for part in ("seconds", "lower", "upper")]
            columns.append((f"{short}_{word}_state", pa.string()))
        columns += [(f"{short}_before_seconds", pa.float64()), (f"{short}_changed", pa.bool_())]
    return pa.schema(columns)


def _cells(short: str, found: Measured | None, earlier: Measured | None) -> dict[str, object]:
    now, before = found.all if found else None, earlier.all if earlier else None
    cells: dict[str, object] = {
        f"{short}_count": now.count if now else None,
        f"{short}_mean_seconds": now.mean if now else None,
        f"{short}_ladders": now.ladders if now else 0,
        f"{short}_odd": list(found.odd) if found else [],
    }
    for q, word in QUANTILES:
        quantile = _quantile(now, q)
        cells |= {
            f"{short}_{word}_seconds": quantile.value,
            f"{short}_{word}_lower": quantile.lower,
            f"{short}_{word}_upper": _finite(quantile.upper),
            f"{short}_{word}_state": quantile.state,
        }
    present, past = _quantile(now, 0.95), _quantile(before, 0.95)
    return cells | {f"{short}_before_seconds": past.value, f"{short}_changed": _apart(past, present)}


def _quantile(found: Distribution | None, q: float) -> Quantile:
    return Quantile(q=q, state="not_measured", count=0.0) if found is None else found.quantile(q)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _apart(one: Quantile, other: Quantile) -> bool | None:
    """Whether two quantiles surely differ: their intervals (lower, upper] have nothing in common."""
    if one.lower is None or one.upper is None or other.lower is None or other.upper is None:
        return None
    return one.upper <= other.lower or other.upper <= one.lower


def inside(where: Where, window: Window) -> list[tuple[Piece, Where]]:
    """The tables and conditions that make up a window: samples, or hours with minutes at both ends."""
    if resolution(window).raw:
        return [(piece, during(where, window)) for piece in pieces(window)]
    return [(piece, where.also(piece.time_sql)) for piece in pieces(window)]


@dataclass(frozen=True, slots=True)
class Measured:
    """A group's observations of one field, and the containers whose bucket ladder is not the commonest of the group."""

    all: Distribution
    odd: tuple[str, ...]


def distributions(
    store: Store, where: Where, window: Window, by: By, *, fields: Sequence[str] = FIELDS
) -> dict[tuple[Group, str], Measured]:
    """What was measured of each field in each group, by the group's columns and the field."""
    names = GROUPS[by]
    parts: dict[tuple[Group, str], list[tuple[Sequence[float], Sequence[float], float | None]]] = {}
    holders: dict[tuple[Group, str], dict[tuple[float, ...], set[str]]] = {}
    for piece, asked in inside(where, window):
        # Whole hours that have ended are the bulk of a long window, and are the same at the next look.
        ended = piece.tier.suffix == "_1h"
        ask = _ended if ended else _merged
        found = ask(store, piece.tier, asked.sql, frozen(asked.parameters), names, tuple(fields))
        for row in found:
            group = tuple(str(row[name]) for name in names), str(row["field"])
            parts.setdefault(group, []).append((row["ladder"], row["merged"], row["total"]))
            holders.setdefault(group, {}).setdefault(tuple(row["ladder"]), set()).update(row["holders"])
    return {group: Measured(distribution(some), _odd(holders[group])) for group, some in parts.items()}


def _merged(
    store: Store, tier: Resolution, sql: str, parameters: Frozen, names: tuple[str, ...], fields: tuple[str, ...]
) -> list[dict[str, Any]]:
    key = ", ".join(names)
    # Grouped by a hash: an array as key costs three times as much.
    return store.query(
        f"SELECT {key}, field, any(bounds) AS ladder, {tier.buckets} AS merged, sum(sum_increment) AS total,"
        f" groupUniqArray(100)(container_key) AS holders FROM {tier.table('histograms')}"
        f" WHERE {sql} AND field IN {{fields:Array(String)}} GROUP BY {key}, field, cityHash64(bounds)",
        {**thawed(parameters), "fields": list(fields)},
    ).to_pylist()


@shared_for(KEPT_SECONDS)
def _ended(
    store: Store, tier: Resolution, sql: str, parameters: Frozen, names: tuple[str, ...], fields: tuple[str, ...]
) -> list[dict[str, Any]]:
    return _merged(store, tier, sql, parameters, names, fields)


def _odd(holders: Mapping[tuple[float, ...], set[str]]) -> tuple[str, ...]:
    usual = max(holders, key=lambda ladder: (len(holders[ladder]), len(ladder), ladder))
    return tuple(sorted({key for ladder, keys in holders.items() if ladder != usual for key in keys if key}))


@dataclass(slots=True)
class _Seen:
    """One model on one endpoint, its part of a group: sums of counters, of gauges times seconds, and the seconds."""

    counters: dict[str, float] = made(default_factory=dict[str, float])
    weighted: dict[str, float] = made(default_factory=dict[str, float])
    known_seconds: dict[str, float] = made(default_factory=dict[str, float])
    seconds: float = 0.0


def _loads(store: Store, where: Where, window: Window, by: By) -> dict[Group, _Load]:
    """Rates and gauges of each group, over the time that was seen.

    Seen is what the longest-seen endpoint behind the same Prometheus was: time in which nobody looked lowers nothing,
    and endpoints that follow one another do not count as if they ran side by side (the rule of `overview._sums`).
    """
    names = GROUPS[by]
    sums = ", ".join(f"sum({name}) AS sum_{name}" for name in _COUNTERS)
    entity = ("prometheus", "endpoint", "server", "model")
    columns = ", ".join(dict.fromkeys((*names, *entity)))
    seen: dict[Group, dict[Group, _Seen]] = {}
    tenants: dict[Group, set[str]] = {}
    fullest: dict[Group, float] = {}
    for piece, asked in inside(where, window):
        tier = piece.tier
        gauges = ", ".join(
            f"sum(toFloat64({name}) * interval_seconds) AS sum_{name},"
            f" sumIf(toFloat64(interval_seconds), isNotNull({name})) AS known_{name}"
            if tier.raw
            else f"sum({name}_weighted) AS sum_{name}, sum({name}_weight_seconds) AS known_{name}"
            for name in _GAUGES
        )
        kv = "max(kv_cache_ratio)" if tier.raw else "max(kv_cache_ratio_max)"
        found = store.query(
            f"SELECT {columns}, {sums}, {gauges}, {kv} AS fullest,"
            " sum(toFloat64(interval_seconds)) AS own, groupUniqArray(tenant) AS owners"
            f" FROM {tier.table('inference_samples')} WHERE {asked.sql} GROUP BY {columns}",
            asked.parameters,
        ).to_pylist()
        for row in found:
            group = tuple(str(row[name]) for name in names)
            tenants.setdefault(group, set()).update(row["owners"])
            one = seen.setdefault(group, {}).setdefault(tuple(str(row[name]) for name in entity), _Seen())
            one.seconds += row["own"]
            for name in _COUNTERS:
                if row[f"sum_{name}"] is not None:
                    one.counters[name] = one.counters.get(name, 0.0) + row[f"sum_{name}"]
            for name in _GAUGES:
                if row[f"sum_{name}"] is not None:
                    one.weighted[name] = one.weighted.get(name, 0.0) + row[f"sum_{name}"]
                    one.known_seconds[name] = one.known_seconds.get(name, 0.0) + row[f"known_{name}"]
            if row["fullest"] is not None:
                fullest[group] = max(fullest.get(group, 0.0), row["fullest"])
    longest: dict[str, float] = {}
    for endpoints in seen.values():
        for (prometheus, *_), one in endpoints.items():
            longest[prometheus] = max(longest.get(prometheus, 0.0), one.seconds)
    return {
        group: _load(endpoints, longest, fullest.get(group), tuple(sorted(tenants[group])))
        for group, endpoints in seen.items()
    }


def _load(
    endpoints: Mapping[Group, _Seen],
    longest: Mapping[str, float],
    fullest: float | None,
    tenants: tuple[str, ...],
) -> _Load:
    counted: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    gauges: dict[str, list[float]] = {}
    for (prometheus, *_), one in endpoints.items():
        for name, value in one.counters.items():
            counted.setdefault(name, []).append(value)
            if longest[prometheus]:
                rates.setdefault(name, []).append(value / longest[prometheus])
        for name, value in one.weighted.items():
            if one.known_seconds[name] and longest[prometheus]:
                there = min(1.0, one.seconds / longest[prometheus])
                gauges.setdefault(name, []).append(value / one.known_seconds[name] * there)
    requests = math.fsum(counted["requests"]) if "requests" in counted else None
    errors = math.fsum(counted["errors"]) if "errors" in counted else None
    return _Load(
        rates={name: math.fsum(rates[name]) if name in rates else None for name in _COUNTERS},
        errors_ratio=None if errors is None or not requests else min(1.0, errors / requests),
        gauges={name: math.fsum(gauges[name]) if name in gauges else None for name in _GAUGES}
        | {"kv_cache_ratio": fullest},
        requests=requests,
        tenants=tenants,
    )


def latency_series(
    store: Store, scope: Scope, window: Window, *, host: str | None = None, model: str | None = None,
    field: str = "ttft_seconds",
) -> Answer:  # fmt: skip
    """Percentiles over time of all servers (of one model if given): t (epoch ms), count, mean_seconds, p50_seconds,
    p95_seconds, p95_lower, p95_upper, p99_seconds, before_p95_seconds (as long before as the window is long). NULL
    where a point has too few observations or no common buckets; beyond the last bound p95_lower alone is known.
    """
    tier = resolution(window, finest_seconds=60)
    where = _of_model(of_tenants(scope, host=host), model)
    names = ("count", "mean_seconds", "p50_seconds", "p95_seconds", "p95_lower", "p95_upper", "p99_seconds")
    points = len(grid(window, tier.step_seconds))
    columns = {name: np.full(points, np.nan) for name in (*names, "before_p95_seconds")}
    for number, merged in _points(store, where, window, tier, field).items():
        p50, p95, p99 = (merged.quantile(q) for q, _ in QUANTILES)
        cells = {
            "count": merged.count, "mean_seconds": merged.mean, "p50_seconds": p50.value, "p95_seconds": p95.value,
            "p95_lower": p95.lower, "p95_upper": _finite(p95.upper), "p99_seconds": p99.value,
        }  # fmt: skip
        for name, value in cells.items():
            if value is not None:
                columns[name][number] = value
    earlier = Window(start=window.start - (window.end - window.start), end=window.start)
    for number, merged in _points(store, where, earlier, tier, field).items():
        value = merged.quantile(0.95).value
        if value is not None and number < points:
            columns["before_p95_seconds"][number] = value
    return answer(store, scope, window, series_table(window, tier.step_seconds, columns), PROMETHEUS)


def _points(store: Store, where: Where, window: Window, tier: Resolution, field: str) -> dict[int, Distribution]:
    """Distribution of a field in each point of a window, by the point's number."""
    asked = during(where, window, tier)
    found = store.query(
        f"SELECT {tier.bucket} AS bucket, any(bounds) AS ladder, {tier.buckets} AS merged, sum(sum_increment) AS total"
        f" FROM {tier.table('histograms')} WHERE {asked.sql} AND role = 'server' AND field = {{field:String}}"
        " GROUP BY bucket, cityHash64(bounds)",
        {**asked.parameters, "field": field},
    ).to_pylist()
    place = {int(second): number for number, second in enumerate(grid(window, tier.step_seconds))}
    parts: dict[int, list[tuple[Sequence[float], Sequence[float], float | None]]] = {}
    for row in found:
        number = place.get(int(row["bucket"]))
        if number is not None:
            parts.setdefault(number, []).append((row["ladder"], row["merged"], row["total"]))
    return {number: distribution(some) for number, some in parts.items()}


def latency_heatmap(
    store: Store, scope: Scope, window: Window, *, host: str | None = None, model: str | None = None,
    field: str = "ttft_seconds", points: int = 120,
) -> Answer:  # fmt: skip
    """Where the mass of the durations lies over time, on the ladder that most observations share: one row per point
    and bucket, t (epoch ms), lower, upper (NULL = open), count, share (of all observations of the point).

    `ladders` on every row says how many different ladders there were; the others are left out, not added.
    """
    tier = resolution(window, finest_seconds=60, most_points=points)
    where = during(_of_model(of_tenants(scope, host=host), model), window, tier)
    found = store.query(
        f"SELECT {tier.bucket} AS bucket, bounds, {tier.buckets} AS merged FROM {tier.table('histograms')}"
        f" WHERE {where.sql} AND role = 'server' AND field = {{field:String}} AND length(bounds) > 1"
        " GROUP BY bucket, bounds ORDER BY bucket",
        {**where.parameters, "field": field},
    ).to_pylist()
    weights: dict[tuple[float, ...], float] = {}
    for row in found:
        bounds = tuple(row["bounds"])
        weights[bounds] = weights.get(bounds, 0.0) + math.fsum(row["merged"])
    chosen = max(weights, key=lambda bounds: (weights[bounds], len(bounds), bounds), default=())
    rows: list[dict[str, object]] = []
    for row in found:
        if tuple(row["bounds"]) != chosen:
            continue
        count = math.fsum(row["merged"])
        for lower, upper, value in zip((0.0, *chosen[:-1]), chosen, row["merged"], strict=True):
            cell: dict[str, object] = {
                "t": int(row["bucket"]) * 1000.0, "lower": lower, "upper": _finite(upper), "count": value,
                "share": value / count if count else None, "ladders": len(weights),
            }  # fmt: skip
            rows.append(cell)
    schema = pa.schema(
        [("t", pa.float64()), ("lower", pa.float64()), ("upper", pa.float64()), ("count", pa.float64()),
         ("share", pa.float64()), ("ladders", pa.int64())]
    )  # fmt: skip
    return answer(store, scope, window, pa.Table.from_pylist(rows, schema=schema), PROMETHEUS)


def _of_model(where: Where, model: str | None) -> Where:
    return where if model is None else where.also("model = {model:String}", model=model)
