"""Forgetting old months of the ledger, in two steps that a crash may part.

First each collector notes on its own chain which entry is the last to go ("pruned", one for each month), and writes
jobs that still run down again. A month is dropped only when every chain in it has such a note in the store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from collectors.job_ledger import JobLedger, LedgerStore
from fleet.gpu_jobs import PRUNED, PRUNED_HASH, PRUNED_SEQUENCE
from fleet.model import GpuJob

log = logging.getLogger(__name__)


def forget(
    ledger: JobLedger, store: LedgerStore, command: Callable[[str], None], *, months: int, now: datetime
) -> list[int]:
    """Note and drop months that ended more than `months` months ago; those dropped, as YYYYMM. months 0 = keep all.

    Raises StoreUnavailable, StoreError, OSError (nothing was lost: the next call goes on).
    """
    if months <= 0:
        return []
    oldest = now.year * 12 + now.month - 1 - months
    parts: list[dict[str, Any]] = store.query(
        "SELECT toYYYYMM(at) AS month, chain, max(sequence) AS newest, argMax(hash, sequence) AS newest_hash,"
        " argMax(host, sequence) AS newest_host FROM gpu_jobs WHERE toYYYYMM(at) < {oldest:UInt32}"
        " GROUP BY month, chain ORDER BY month, chain",
        {"oldest": oldest // 12 * 100 + oldest % 12 + 1},
    ).to_pylist()
    if not parts:
        return []
    notes = {
        (str(row["chain"]), str(row["note"]))
        for row in store.query(
            f"SELECT chain, sources['{PRUNED_SEQUENCE}'] AS note FROM gpu_jobs WHERE entry = '{PRUNED}'"
        ).to_pylist()
    }
    missing = [part for part in parts if (str(part["chain"]), str(part["newest"])) not in notes]
    own = [part for part in missing if part["chain"] == ledger.chain]
    if own:
        ledger.append([*(_note(part, ledger.chain, now) for part in own), *_carried(ledger, own, now)], "", now)
        ledger.flush()
        return []  # the next call finds the notes in the store, and then it is sure that they are there
    dropped: list[int] = []
    for month in sorted({int(part["month"]) for part in parts} - {int(part["month"]) for part in missing}):
        for name in _tables(store, month):
            command(f"ALTER TABLE `{name}` DROP PARTITION ID '{month}'")
        log.info("forgot %d of the GPU job ledger", month)
        dropped.append(month)
    return dropped


def _note(part: dict[str, Any], chain: str, now: datetime) -> GpuJob:
    return GpuJob(
        at=now, chain=chain, sequence=0, entry=PRUNED, job_id="", host="", tenant="", started_at=now,
        end_reason=f"entries up to {part['newest']} are older than retention.ledger_months",
        sources={PRUNED_SEQUENCE: str(part["newest"]), PRUNED_HASH: str(part["newest_hash"])},
    )  # fmt: skip


def _carried(ledger: JobLedger, parts: list[dict[str, Any]], now: datetime) -> list[GpuJob]:
    """Jobs that still run and whose open entry goes: the same once more."""
    last = max(int(part["newest"]) for part in parts)
    return [
        replace(job, at=now, sources={**job.sources, "carried_from": str(job.sequence)})
        for job in ledger.all_open_jobs()
        if job.sequence <= last
    ]


def _tables(store: LedgerStore, month: int) -> list[str]:
    """The table that holds the month; on a cluster the local one of this node."""
    rows = store.query(
        "SELECT DISTINCT table FROM system.parts WHERE active AND database = currentDatabase()"
        " AND table IN ('gpu_jobs', 'gpu_jobs_local') AND partition_id = {month:String}",
        {"month": str(month)},
    ).to_pylist()
    return [str(row["table"]) for row in rows]
