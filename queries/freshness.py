"""How much of a window was really seen: the coverage and gaps that every answer carries, from the sources' own runs."""

from __future__ import annotations

from datetime import datetime
from typing import cast, get_args

import pyarrow as pa

from fleet.model import Gap, Reason, Scope, Window
from queries.answer import Answer
from queries.scoping import Where, during
from store import Store

DOCKER = ("docker",)
NVML = ("nvml",)
PROMETHEUS = ("prometheus",)
EVERYTHING = ("docker", "nvml", "prometheus")
_REASONS = frozenset(get_args(Reason))


def answer(
    store: Store,
    scope: Scope,
    window: Window,
    rows: pa.Table,
    sources: tuple[str, ...],
    *,
    as_of: datetime | None = None,
) -> Answer:
    """The rows with what the sources saw in the window.

    as_of: newest sample behind the rows; None takes the newest poll of the sources that worked.
    """
    if scope.tenants is not None and not scope.tenants:
        return Answer(rows=rows, as_of=None, coverage=None)
    seen = during(Where("source IN {seen_sources:Array(String)}", {"seen_sources": list(sources)}), window)
    runs = store.query(
        f"""
        SELECT source, target,
            sumIf(toFloat64(interval_seconds), state != 'failed') AS good_seconds,
            sum(toFloat64(interval_seconds)) AS tried_seconds,
            toUnixTimestamp64Milli(maxIf(at, state != 'failed')) AS good_ms,
            toUnixTimestamp64Milli(min(at)) - toInt64(any(interval_seconds) * 1000) AS first_ms,
            argMax(state, at) AS newest_state, argMaxIf(reason, at, state = 'failed') AS failed_reason,
            argMaxIf(error, at, state = 'failed') AS failed_error
        FROM source_runs WHERE {seen.sql} GROUP BY source, target ORDER BY source, target
        """,
        seen.parameters,
    ).to_pylist()
    runs = [run for run in runs if run["newest_state"] != "absent"]
    # Time before a source's first run is not a gap: the product was not installed yet. Time after its last one is.
    expected = sum(max(1.0, window.end.timestamp() - max(window.start.timestamp(), r["first_ms"] / 1000)) for r in runs)
    good = sum(min(run["good_seconds"], window.seconds) for run in runs)
    gaps = tuple(
        Gap(
            subject=f"{run['source']} {run['target']}" if scope.tenants is None else run["source"],
            reason=cast("Reason", run["failed_reason"]) if run["failed_reason"] in _REASONS else "unreachable",
            detail=run["failed_error"] if scope.tenants is None else "did not answer",
        )
        for run in runs
        if run["good_seconds"] < 0.999 * run["tried_seconds"]
    )
    newest = max((run["good_ms"] for run in runs), default=0)
    if as_of is None and newest > 0:
        as_of = datetime.fromtimestamp(newest / 1000, tz=window.end.tzinfo)
    return Answer(rows=rows, as_of=as_of, coverage=min(1.0, good / expected) if expected else None, gaps=gaps)
