"""What happened in the fleet, newest first."""

from __future__ import annotations

from fleet.model import Scope, Window
from queries.answer import Answer
from queries.freshness import EVERYTHING, answer
from queries.scoping import during, of_tenants
from store import Store


def recent_events(
    store: Store,
    scope: Scope,
    window: Window,
    *,
    host: str | None = None,
    severity: str | None = None,
    limit: int = 200,
) -> Answer:
    """Events of a window: at, kind, severity, title, detail, source, host, tenant, container_key, gpu_uuid.

    severity: only this word (info, warning, critical). A limited scope sees the events of its own containers.
    """
    where = during(of_tenants(scope, host=host), window)
    if severity is not None:
        where = where.also("severity = {severity:String}", severity=severity)
    rows = store.query(
        "SELECT at, kind, severity, title, detail, source, host, tenant, container_key, gpu_uuid FROM events FINAL"
        f" WHERE {where.sql} ORDER BY at DESC, event_id LIMIT {int(limit)}",
        where.parameters,
    )
    return answer(store, scope, window, rows, EVERYTHING)
