"""Every metrics endpoint: which container it belongs to, how that was found, and why not when it was not."""

from __future__ import annotations

import pyarrow as pa

from fleet.model import Scope, Window
from queries.answer import Answer
from queries.freshness import PROMETHEUS, answer
from queries.resolution import RAW_UP_TO, moment, resolution
from queries.scoping import during, last, of_tenants
from store import Store


def endpoints(store: Store, scope: Scope, window: Window, *, host: str | None = None) -> Answer:
    """Endpoints of model servers seen in the window (of a long one: in its last six hours), unjoined ones first.

    Columns: state (joined, external, ambiguous, unjoined), prometheus, endpoint, server, models (list), up,
    container_key ("" = none), tenant, joined_by (map, id, discovery, name, address, none, ambiguous), join_reason,
    requests (in the window, NULL = not told), seen_at (last poll that named it). A limited scope is not told the other
    containers that an endpoint might have been.
    """
    # Rollups do not keep how an endpoint was joined.
    span = window if resolution(window).raw else last(window, RAW_UP_TO)
    where = during(of_tenants(scope, host=host), span)
    found = store.query(
        f"""
        SELECT prometheus, endpoint, server, groupUniqArray(50)(model) AS models, argMax(up, at) AS is_up,
            argMax(container_key, at) AS key, argMax(tenant, at) AS owner, argMax(joined_by, at) AS joined,
            argMax(join_reason, at) AS why, sum(requests) AS asked, toUnixTimestamp64Milli(max(at)) / 1000 AS seen
        FROM inference_samples WHERE {where.sql} GROUP BY prometheus, endpoint, server
        ORDER BY prometheus, endpoint, server LIMIT 5000
        """,
        where.parameters,
    ).to_pylist()
    rows = [
        {
            "state": _state(str(row["joined"]), str(row["key"])),
            "prometheus": row["prometheus"],
            "endpoint": row["endpoint"],
            "server": row["server"],
            "models": sorted(name for name in row["models"] if name),
            "up": bool(row["is_up"]),
            "container_key": row["key"],
            "tenant": row["owner"],
            "joined_by": row["joined"],
            "join_reason": row["why"] if scope.tenants is None else own_words(str(row["joined"]), str(row["why"])),
            "requests": row["asked"],
            "seen_at": moment(row["seen"]),
        }
        for row in found
    ]
    order = {"ambiguous": 0, "unjoined": 1, "external": 2, "joined": 3}
    rows.sort(key=lambda row: order[str(row["state"])])
    schema = pa.schema(
        [("state", pa.string()), ("prometheus", pa.string()), ("endpoint", pa.string()), ("server", pa.string()),
         ("models", pa.list_(pa.string())), ("up", pa.bool_()), ("container_key", pa.string()),
         ("tenant", pa.string()), ("joined_by", pa.string()), ("join_reason", pa.string()),
         ("requests", pa.float64()), ("seen_at", pa.timestamp("ms", tz="UTC"))]
    )  # fmt: skip
    return answer(store, scope, window, pa.Table.from_pylist(rows, schema=schema), PROMETHEUS)


def own_words(joined_by: str, reason: str) -> str:
    """The reason without what it may say of others: only a join that succeeded names nothing but one's own."""
    if joined_by in ("ambiguous", "none", ""):
        return "several containers fit" if joined_by == "ambiguous" else "no container of the watched hosts fits"
    return reason


def _state(joined_by: str, container_key: str) -> str:
    if container_key:
        return "joined"
    if joined_by == "map":
        return "external"
    return "ambiguous" if joined_by == "ambiguous" else "unjoined"
