"""How much of a window was really seen: the coverage and gaps that every answer carries, from the sources' own runs."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import cast, get_args

import pyarrow as pa

from fleet.model import Gap, Reason, Scope, Window
from fleet.severity import span_words
from queries.answer import Answer
from queries.polls import last_failures, polls
from queries.scoping import of_tenants
from queries.sharing import shared
from store import Store

DOCKER = ("docker",)
NVML = ("nvml",)
PROMETHEUS = ("prometheus",)
EVERYTHING = ("docker", "nvml", "prometheus")
#: How long a source that stopped is missed before a window; one removed from the settings is forgotten after it.
MEMORY = timedelta(days=1)
#: Sources whose targets are hosts.
OF_A_HOST = ("docker", "nvml")
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
    hosts = own_hosts(store, scope)
    runs = [
        run
        for run in polls(store, window, MEMORY)
        if run.source in sources
        and run.state != "absent"
        # What is not seen on hosts that are not a tenant's takes nothing from what it sees.
        and (not hosts or run.source not in OF_A_HOST or run.target in hosts)
    ]
    failures: dict[tuple[str, str], tuple[str, str]] = {}
    if any(run.good_seconds < 0.999 * run.tried_seconds for run in runs):
        failures = _failures(store, window)
    # Time before a source's first run is not a gap: the product was not installed yet. Time after its last one is.
    expected, good = 0.0, 0.0
    gaps: dict[Gap, None] = {}  # in order, each once: a limited scope is not told how many targets there are
    for run in runs:
        due = max(1.0, window.end.timestamp() - max(window.start.timestamp(), run.first_ms / 1000))
        expected += due
        good += min(run.good_seconds, due)
        subject = f"{run.source} {run.target}" if scope.tenants is None else run.source
        if run.good_seconds < 0.999 * run.tried_seconds:
            why, words = failures.get((run.source, run.target), ("", ""))
            reason = cast("Reason", why) if why in _REASONS else "unreachable"
            gaps[Gap(subject=subject, reason=reason, detail=words if scope.tenants is None else "did not answer")] = (
                None
            )
        silent = due - run.tried_seconds
        # Polls that come late by a little are no gap; three missed ones are (the rule of fleet.severity.is_stale).
        if silent > max(0.01 * due, 15.0, 3.0 * run.step_seconds):
            detail = f"not polled for {span_words(silent)}" if scope.tenants is None else "did not answer"
            gaps[Gap(subject=subject, reason="stale", detail=detail)] = None
    newest = max((run.good_ms for run in runs), default=0)
    if as_of is None and newest > 0:
        as_of = datetime.fromtimestamp(newest / 1000, tz=window.end.tzinfo)
    return Answer(rows=rows, as_of=as_of, coverage=min(1.0, good / expected) if expected else None, gaps=tuple(gaps))


@shared
def own_hosts(store: Store, scope: Scope) -> frozenset[str]:
    """Hosts that a limited scope's containers run on or ran on last; empty = all, or not known."""
    if scope.tenants is None:
        return frozenset()
    where = of_tenants(scope)
    rows = store.query(f"SELECT DISTINCT host FROM containers WHERE {where.sql}", where.parameters).to_pylist()
    return frozenset(row["host"] for row in rows)


@shared
def _failures(store: Store, window: Window) -> dict[tuple[str, str], tuple[str, str]]:
    return last_failures(store, window)
