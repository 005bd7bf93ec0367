"""Forgetting: whole partitions are dropped, which takes milliseconds and gives the disk back at once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from store.client import Store

_RAW = frozenset(
    {"container_samples", "gpu_samples", "container_gpu_samples", "inference_samples", "histograms", "source_runs"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """How long rows are kept. A partition goes when all of it is older: up to a day, or a month, more stays."""

    raw_days: int = 14
    minute_days: int = 90
    hour_days: int = 400
    event_months: int = 13


@dataclass(frozen=True, slots=True)
class DroppedPartition:
    """A partition that is gone: `partition` is YYYYMMDD or YYYYMM."""

    table: str
    partition: str
    rows: int
    bytes_on_disk: int


def _oldest_kept(table: str, policy: RetentionPolicy, now: datetime) -> str | None:
    """Partition id below which partitions of the table go; None for a table that is kept."""
    if table in _RAW:
        return (now - timedelta(days=policy.raw_days)).strftime("%Y%m%d")
    if table.endswith("_1m"):
        return (now - timedelta(days=policy.minute_days)).strftime("%Y%m%d")
    if table.endswith("_1h"):
        return (now - timedelta(days=policy.hour_days)).strftime("%Y%m")
    if table == "events":
        months = now.year * 12 + now.month - 1 - policy.event_months
        return f"{months // 12:04d}{months % 12 + 1:02d}"
    return None


def apply_retention(store: Store, policy: RetentionPolicy, now: datetime) -> list[DroppedPartition]:
    """Drop what is older than the policy allows; returns what was dropped. Raises StoreUnavailable or StoreError.

    On a cluster it reaches the node that the store is connected to.
    """
    now = now.astimezone(UTC)
    parts = store.query(
        "SELECT table, partition_id, sum(rows) AS rows, sum(bytes_on_disk) AS bytes_on_disk FROM system.parts "
        "WHERE active AND database = currentDatabase() GROUP BY table, partition_id ORDER BY table, partition_id"
    )
    dropped: list[DroppedPartition] = []
    for part in parts.to_pylist():
        table, partition = str(part["table"]), str(part["partition_id"])
        oldest = _oldest_kept(table.removesuffix("_local"), policy, now)
        if oldest is not None and partition < oldest:
            store.command(f"ALTER TABLE `{table}` DROP PARTITION ID '{partition}'")
            dropped.append(DroppedPartition(table, partition, part["rows"], part["bytes_on_disk"]))
    return dropped
