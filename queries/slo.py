"""Is what was promised kept: each objective by tenant and model, its error budget, and how fast it burns.

An objective's window ends at the end of what is looked at, whatever the span on the page. Whole hours of it that have
ended are kept for a while; the last hours are read from minutes, in one scan for all four burn windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from fleet.latency import Distribution, distribution
from fleet.model import Scope, Window
from fleet.severity import Level
from fleet.slo import (
    FAST_SECONDS,
    FAST_SHORT_SECONDS,
    SLOW_SECONDS,
    SLOW_SHORT_SECONDS,
    Burn,
    Met,
    Objective,
    Verdict,
    judge,
    met,
)
from queries.answer import Answer
from queries.freshness import PROMETHEUS, answer
from queries.resolution import Resolution, moment
from queries.scoping import Where, during, of_tenants
from queries.sharing import KEPT_SECONDS, Frozen, frozen, shared_for, thawed
from store import Store

_MINUTES = Resolution(suffix="_1m", step_seconds=60)
_HOURS = Resolution(suffix="_1h", step_seconds=3600)
_SPANS = (FAST_SECONDS, FAST_SHORT_SECONDS, SLOW_SECONDS, SLOW_SHORT_SECONDS)
#: Width of the steps in which the beginning of a burn is looked for.
_STEP_SECONDS = 300
_MOST_FOLLOWED = 40

_Key = tuple[str, str, str]  # tenant, model, field
_Part = tuple[Sequence[float], Sequence[float], float | None]
_SCHEMA = pa.schema(
    [
        ("level", pa.int8()), ("word", pa.string()), ("words", pa.string()), ("name", pa.string()),
        ("tenant", pa.string()), ("model", pa.string()), ("field", pa.string()), ("state", pa.string()),
        ("assumed", pa.bool_()), ("target_seconds", pa.float64()), ("at_seconds", pa.float64()),
        ("objective_ratio", pa.float64()), ("window_days", pa.float64()), ("requests", pa.float64()),
        ("met_ratio", pa.float64()), ("met_lower", pa.float64()), ("met_upper", pa.float64()),
        ("budget_left_ratio", pa.float64()), ("burn_hour", pa.float64()), ("burn_five_minutes", pa.float64()),
        ("burn_six_hours", pa.float64()), ("burn_half_hour", pa.float64()), ("gone_in_seconds", pa.float64()),
        ("since", pa.timestamp("ms", tz="UTC")),
    ]
)  # fmt: skip


@dataclass(slots=True)
class _Counted:
    """Buckets of one tenant, model and field: of the objective's whole window by its days, and of the four spans."""

    whole: dict[float, list[_Part]] = field(default_factory=dict[float, list[_Part]])
    spans: dict[int, list[_Part]] = field(default_factory=dict[int, list[_Part]])


def slo_table(
    store: Store, scope: Scope, window: Window, *, host: str | None = None, objectives: tuple[Objective, ...] = ()
) -> Answer:
    """One row per objective, tenant and model it covers, worst first; none without objectives.

    Columns: level (0 ok, 1 unknown, 2 warning, 3 critical), word, words ("burning 14x: budget gone in 2 h"), name,
    tenant, model, field, state (ok, no_traffic, mean_only, different_buckets, not_measured), assumed, target_seconds,
    at_seconds (the bucket bound it is counted at), objective_ratio, window_days, requests (in the objective's window),
    met_ratio (exact, at at_seconds), met_lower and met_upper (what is known of the share within target_seconds),
    budget_left_ratio (below 0: overspent), burn_{hour,five_minutes,six_hours,half_hour} (NULL under 10 requests),
    gone_in_seconds (NULL = not burning, or gone), since (burning without a break; NULL = not, or for over 6 hours).
    """
    if not objectives:
        return answer(store, scope, window, _SCHEMA.empty_table(), PROMETHEUS)
    where = of_tenants(scope, host=host).also("role = 'server'")
    fields = tuple(sorted({one.field for one in objectives}))
    counted = _count(store, where, window.end, fields, {one.window_days for one in objectives})
    pairs = sorted({key[:2] for key in counted} | _served(store, where, window.end))
    rows: list[dict[str, Any]] = []
    for objective in objectives:
        for tenant, model in pairs:
            if objective.covers(tenant, model):
                rows.append(_row(objective, tenant, model, counted.get((tenant, model, objective.field))))
    for row, since in zip(rows, _since(store, where, window.end, rows), strict=True):
        row["since"] = since
    rows.sort(key=lambda row: (-row["level"], -_burning(row), row["name"], row["tenant"], row["model"]))
    return answer(store, scope, window, pa.Table.from_pylist(rows, schema=_SCHEMA), PROMETHEUS)


def _burning(row: Mapping[str, Any]) -> float:
    return max(row["burn_hour"] or 0.0, row["burn_six_hours"] or 0.0)


def _row(objective: Objective, tenant: str, model: str, counted: _Counted | None) -> dict[str, Any]:
    parts = counted.whole.get(objective.window_days, []) if counted else []
    whole = met(distribution(parts) if parts else None, objective.target_seconds)
    rates = [
        _met_in(distribution(counted.spans.get(span, [])), objective, whole).burn_rate(objective) if counted else None
        for span in _SPANS
    ]
    burn = Burn(hour=rates[0], five_minutes=rates[1], six_hours=rates[2], half_hour=rates[3])
    verdict: Verdict = judge(objective, whole, burn)
    return {
        "level": int(verdict.level), "word": verdict.level.word, "words": verdict.words, "name": objective.name,
        "tenant": tenant, "model": model, "field": objective.field, "state": whole.state,
        "assumed": objective.assumed, "target_seconds": objective.target_seconds, "at_seconds": whole.at_seconds,
        "objective_ratio": objective.objective_ratio, "window_days": objective.window_days, "requests": whole.count,
        "met_ratio": whole.ratio, "met_lower": whole.lower, "met_upper": whole.upper,
        "budget_left_ratio": whole.budget_left(objective), "burn_hour": burn.hour,
        "burn_five_minutes": burn.five_minutes, "burn_six_hours": burn.six_hours, "burn_half_hour": burn.half_hour,
        "gone_in_seconds": verdict.gone_in_seconds, "since": None,
    }  # fmt: skip


def _met_in(found: Distribution, objective: Objective, whole: Met) -> Met:
    """As the whole window is counted: its bound is one of every ladder, so also of those of a part."""
    return met(found, objective.target_seconds, at_seconds=whole.at_seconds)


def _floor(at: datetime, seconds: int) -> datetime:
    return datetime.fromtimestamp(int(at.timestamp()) // seconds * seconds, tz=UTC)


def _count(
    store: Store, where: Where, end: datetime, fields: tuple[str, ...], days: set[float]
) -> dict[_Key, _Counted]:
    cut = _floor(end - timedelta(seconds=SLOW_SECONDS), 3600)
    counted: dict[_Key, _Counted] = {}
    for length in sorted(days):
        start = _floor(end - timedelta(days=length), 3600)
        if start < cut:
            for key, part in _ended(store, where.sql, frozen(where.parameters), fields, start, cut):
                counted.setdefault(key, _Counted()).whole.setdefault(length, []).append(part)
    for row in _latest(store, where, fields, cut, end):
        one = counted.setdefault((row["tenant"], row["model"], row["field"]), _Counted())
        for length in days:
            one.whole.setdefault(length, []).append((row["bounds"], row["merged"], None))
        for span in _SPANS:
            if row[f"merged_{span}"]:
                one.spans.setdefault(span, []).append((row["bounds"], row[f"merged_{span}"], None))
    return counted


@shared_for(KEPT_SECONDS)
def _ended(
    store: Store, sql: str, parameters: Frozen, fields: tuple[str, ...], start: datetime, end: datetime
) -> list[tuple[_Key, _Part]]:
    asked = during(Where(sql, thawed(parameters)), Window(start=start, end=end), _HOURS)
    rows = store.query(
        "SELECT tenant, model, field, any(bounds) AS ladder, sumForEachMerge(increments) AS merged"
        f" FROM {_HOURS.table('histograms')} WHERE {asked.sql} AND field IN {{slo_fields:Array(String)}}"
        " GROUP BY tenant, model, field, cityHash64(bounds)",
        {**asked.parameters, "slo_fields": list(fields)},
    ).to_pylist()
    return [((row["tenant"], row["model"], row["field"]), (row["ladder"], row["merged"], None)) for row in rows]


def _latest(
    store: Store, where: Where, fields: tuple[str, ...], start: datetime, end: datetime
) -> list[dict[str, Any]]:
    asked = during(where, Window(start=start, end=end), _MINUTES)
    spans = ", ".join(
        f"sumForEachMergeIf(increments, at >= toDateTime({int(_floor(end, 60).timestamp()) - span}, 'UTC'))"
        f" AS merged_{span}"
        for span in _SPANS
    )
    return store.query(
        f"SELECT tenant, model, field, bounds, sumForEachMerge(increments) AS merged, {spans}"
        f" FROM {_MINUTES.table('histograms')} WHERE {asked.sql} AND field IN {{slo_fields:Array(String)}}"
        " GROUP BY tenant, model, field, bounds",
        {**asked.parameters, "slo_fields": list(fields)},
    ).to_pylist()


def _served(store: Store, where: Where, end: datetime) -> set[tuple[str, str]]:
    """Tenant and model of everything served in the last day, also by servers that do not measure durations."""
    asked = during(where, Window(start=end - timedelta(days=1), end=end), _HOURS)
    rows = store.query(
        f"SELECT DISTINCT tenant, model FROM {_HOURS.table('inference_samples')} WHERE {asked.sql}", asked.parameters
    ).to_pylist()
    return {(row["tenant"], row["model"]) for row in rows}


def _since(store: Store, where: Where, end: datetime, rows: Sequence[Mapping[str, Any]]) -> list[datetime | None]:
    """For each row that burns: the end of the last five minutes in which it did not."""
    followed = [row for row in rows if row["level"] >= Level.WARNING and row["words"].startswith("burning")]
    if not followed:
        return [None] * len(rows)
    followed = sorted(followed, key=lambda row: -_burning(row))[:_MOST_FOLLOWED]
    asked = during(where, Window(start=end - timedelta(seconds=SLOW_SECONDS), end=end), _MINUTES)
    asked = asked.also(
        "tenant IN {burning_tenants:Array(String)} AND model IN {burning_models:Array(String)}"
        " AND field IN {burning_fields:Array(String)}",
        burning_tenants=sorted({row["tenant"] for row in followed}),
        burning_models=sorted({row["model"] for row in followed}),
        burning_fields=sorted({row["field"] for row in followed}),
    )
    found = store.query(
        f"SELECT tenant, model, field, intDiv(toUnixTimestamp(at), {_STEP_SECONDS}) AS step, bounds,"
        f" sumForEachMerge(increments) AS merged FROM {_MINUTES.table('histograms')} WHERE {asked.sql}"
        " GROUP BY tenant, model, field, step, bounds",
        asked.parameters,
    ).to_pylist()
    steps: dict[_Key, dict[int, list[_Part]]] = {}
    for row in found:
        mine = steps.setdefault((row["tenant"], row["model"], row["field"]), {})
        mine.setdefault(row["step"], []).append((row["bounds"], row["merged"], None))
    told: dict[int, datetime | None] = {}
    for row in followed:
        since = _last_fine(row, steps.get((row["tenant"], row["model"], row["field"]), {}))
        told[id(row)] = None if since is None else min(since, end)
    return [told.get(id(row)) for row in rows]


def _last_fine(row: Mapping[str, Any], steps: Mapping[int, Sequence[_Part]]) -> datetime | None:
    objective = Objective(name="", target_seconds=row["target_seconds"], objective_ratio=row["objective_ratio"])
    for step in sorted(steps, reverse=True):
        rate = met(distribution(steps[step]), row["target_seconds"], at_seconds=row["at_seconds"]).burn_rate(objective)
        if rate is not None and rate <= 1.0:
            return moment((step + 1) * _STEP_SECONDS)
    return None
