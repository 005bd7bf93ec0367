"""What the store holds, and how much room it takes."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa

from fleet.model import Scope, Window
from queries.answer import Answer
from queries.freshness import EVERYTHING, answer
from store import Store

_DAY_ID, _MONTH_ID = len("YYYYMMDD"), len("YYYYMM")


def store_tables(store: Store, scope: Scope, window: Window) -> Answer:
    """Per table, largest first: table, rows, bytes_on_disk, oldest (first day or month kept; NULL = not kept by time).

    Rows of rollups may still be unmerged. On a cluster it tells of the node that answers. For the fleet's own
    operators; a limited scope sees none.
    """
    rows: list[dict[str, object]] = []
    if scope.tenants is None:
        # Parts know their rows, bytes and partition: nothing is read to count them.
        found = store.query(
            "SELECT table AS name, sum(rows) AS row_count, sum(bytes_on_disk) AS bytes, min(partition_id) AS first "
            "FROM system.parts WHERE active AND database = currentDatabase() AND table != 'schema_migrations' "
            "GROUP BY name ORDER BY bytes DESC, name"
        ).to_pylist()
        rows = [
            {
                "table": str(row["name"]).removesuffix("_local"),
                "rows": row["row_count"],
                "bytes_on_disk": row["bytes"],
                "oldest": _first_moment(str(row["first"])),
            }
            for row in found
        ]
    schema = pa.schema(
        [("table", pa.string()), ("rows", pa.int64()), ("bytes_on_disk", pa.int64()),
         ("oldest", pa.timestamp("ms", tz="UTC"))]
    )  # fmt: skip
    return answer(store, scope, window, pa.Table.from_pylist(rows, schema=schema), EVERYTHING)


def _first_moment(partition: str) -> datetime | None:
    """Start of a partition named by day or month; None for a table without such partitions."""
    if not partition.isdigit() or len(partition) not in (_DAY_ID, _MONTH_ID):
        return None
    return datetime.strptime(partition, "%Y%m%d" if len(partition) == _DAY_ID else "%Y%m").replace(tzinfo=UTC)
