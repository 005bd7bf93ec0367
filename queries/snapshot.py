"""The newest data marker: what pages key their caches by, and what "now" means to them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from fleet.model import Scope
from queries.resolution import epoch_ms
from store import Store


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The newest moment of which the store knows. `newest` None = nothing was ever collected.

    `synthetic`: the newest runs come from the demo fleet, which every page must say.
    """

    newest: datetime | None
    synthetic: bool


def newest_snapshot(store: Store, scope: Scope, now: datetime) -> Snapshot:
    """Time of the newest poll of any source; reads the last day first, older data only when that is empty."""
    if scope.tenants is not None and not scope.tenants:
        return Snapshot(newest=None, synthetic=False)
    for condition in ("at > fromUnixTimestamp64Milli({since:Int64}, 'UTC')", "1"):
        row = store.query(
            "SELECT toUnixTimestamp64Milli(max(at)) AS newest_ms,"
            " countIf(source = 'synthetic' OR detail = 'synthetic') AS synthetic FROM source_runs"
            # The ledger's own polls bring nothing that a page shows: they make no new snapshot.
            f" WHERE source != 'ledger' AND {condition}",
            {"since": epoch_ms(now - timedelta(minutes=10))} if "since" in condition else None,
        ).to_pylist()[0]
        if row["newest_ms"]:
            newest = datetime.fromtimestamp(row["newest_ms"] / 1000, tz=now.tzinfo)
            return Snapshot(newest=newest, synthetic=row["synthetic"] > 0)
    return Snapshot(newest=None, synthetic=False)
