"""The GPU job ledger: who held which GPU, from when to when, for whom, and whether its chains are whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from fleet.gpu_job_fields import FIELDS
from fleet.gpu_jobs import (
    CLOSE,
    GAP,
    OPEN,
    Head,
    Job,
    Stub,
    Unreadable,
    Verification,
    by_chain,
    fold,
    line_from,
    verify,
)
from fleet.model import Gap, GpuJob, Scope, Window
from queries.answer import Answer
from queries.freshness import DOCKER, answer
from queries.resolution import epoch_ms
from queries.scoping import Where, of_tenants
from store import Store

#: Entries that `ledger_state` hashes at most: about a second of work.
VERIFIED_AT_MOST = 20_000
_COLUMNS = ", ".join(FIELDS)
_IS_JOB = f"entry IN ('{OPEN}', '{CLOSE}')"
_TIME = pa.timestamp("ms", tz="UTC")
_TEXTS = pa.list_(pa.string())
_SEARCHED = ("job_id", "tenant", "team", "user", "workload", "container_name", "image", "host", "end_reason")


def gpu_jobs(
    store: Store, scope: Scope, window: Window, *, host: str | None = None, container_key: str | None = None,
    text: str = "", limit: int = 5000,
) -> Answer:  # fmt: skip
    """One row for each job that touches the window, newest start first; at most `limit`.

    Columns: job_id, host, tenant, team, user, workload, container_key, container_name, image, image_digest, gpu_uuids,
    gpu_names, gpu_count (whole GPUs, a MIG device counts as its share), started_at, ended_at (NULL = still running),
    duration_seconds and gpu_hours (up to the window's end while it runs), gpu_hours_in_window, energy_joules (NULL =
    not known, or still running), exit_code, end_reason, sources (text: one line a fact, "field: where from"), verified
    (every entry of the job has the hash its values give), hash (of its newest entry), chain.
    container_key: the jobs of this container only. text: anywhere in ids, names and words of the row, case ignored.
    Gaps: first, when there are more than `limit`, how many there are; then when nobody looked at a host of these jobs.
    """
    where = of_tenants(scope, host=host).also(_IS_JOB)
    if container_key is not None:
        where = where.also("container_key = {container:String}", container=container_key)
    touching, chosen = _touching(where, window, text.strip())
    found = store.query(
        f"SELECT {_COLUMNS} FROM gpu_jobs WHERE {where.sql} AND (chain, job_id) IN ("
        f"{chosen} ORDER BY min(started_at) DESC, job_id LIMIT {int(limit)}) ORDER BY chain, sequence",
        touching.parameters,
    ).to_pylist()
    jobs = fold(_entries(found))
    result = answer(store, scope, window, _table(jobs, window), DOCKER)
    if scope.tenants == frozenset():
        return result
    gaps = _unwatched(store, window, host, {job.row.host for job in jobs} if scope.tenants is not None else None)
    if len({(row["chain"], row["job_id"]) for row in found}) >= limit:
        total = store.query(f"SELECT count() AS jobs FROM ({chosen})", touching.parameters).to_pylist()[0]["jobs"]
        if total > limit:
            words = f"only the newest {limit} of {total} jobs are read; choose a shorter range, a host or a search text"
            return replace(
                result, gaps=(Gap(subject="ledger", reason="unsupported", detail=words), *result.gaps, *gaps)
            )
    return replace(result, gaps=(*result.gaps, *gaps)) if gaps else result


def _touching(where: Where, window: Window, text: str) -> tuple[Where, str]:
    """The jobs that touch the window and hold the text, by (chain, job_id): parameters, and the query up to its order.

    The text is looked for by the engine: looked for afterwards, it would miss the jobs that the limit cut off.
    """
    touching = where.also("1", window_start=epoch_ms(window.start), window_end=epoch_ms(window.end))
    query = (
        f"SELECT chain, job_id FROM gpu_jobs WHERE {touching.sql} GROUP BY chain, job_id"
        " HAVING toUnixTimestamp64Milli(min(started_at)) < {window_end:Int64}"
        f" AND (countIf(entry = '{CLOSE}') = 0"
        " OR toUnixTimestamp64Milli(assumeNotNull(max(ended_at))) > {window_start:Int64})"
    )
    if text:
        touching = touching.also("1", text=text)
        places = f"arrayConcat([{', '.join(f'toString({name})' for name in _SEARCHED)}], gpu_uuids, gpu_names)"
        holds = f"arrayExists(place -> positionCaseInsensitiveUTF8(place, {{text:String}}) > 0, {places})"
        query += f" AND argMax({holds}, (entry = '{CLOSE}', sequence))"  # of the entry that `fold` shows
    return touching, query


def ledger_state(store: Store, scope: Scope, window: Window) -> Answer:
    """Each chain of the ledger, whatever the window; it only says how fresh the answer is.

    Columns: chain, entries, first_at, last_at (of its entries), head_sequence, head_hash, jobs, running_jobs,
    verified_from (the first entry looked at: of a long chain its last VERIFIED_AT_MOST), findings, first_bad (NULL =
    no entry), what (of the first finding, else ""). Entries missing at the very end are not seen here:
    `python -m collectors jobs verify` knows the head that is kept outside the store.
    A limited scope sees its own entries only: their number and times, and whether each has the hash its values give.
    Their places in the chain would tell how much others do, so verified_from and first_bad are NULL for it.
    """
    where = of_tenants(scope)
    if scope.tenants is not None:
        where = where.also(_IS_JOB)
    totals = store.query(
        "SELECT chain, count() AS entries, min(at) AS first_at, max(at) AS last_at, max(sequence) AS newest,"
        f" uniqExactIf(job_id, {_IS_JOB}) AS jobs, uniqExactIf(job_id, entry = '{CLOSE}') AS closed"
        f" FROM gpu_jobs WHERE {where.sql} GROUP BY chain ORDER BY chain",
        where.parameters,
    ).to_pylist()
    rows: list[dict[str, object]] = []
    for total in totals:
        checked = _checked(store, where, str(total["chain"]), int(total["newest"]), whole=scope.tenants is None)
        first = checked.findings[0] if checked.findings else None
        whole = scope.tenants is None and checked.last is not None
        rows.append(
            {
                "chain": total["chain"], "entries": total["entries"], "first_at": total["first_at"],
                "last_at": total["last_at"], "head_sequence": checked.last.sequence if whole and checked.last else None,
                "head_hash": checked.last.hash if whole and checked.last else None, "jobs": total["jobs"],
                "running_jobs": total["jobs"] - total["closed"],
                "verified_from": checked.first if scope.tenants is None else None, "findings": len(checked.findings),
                "first_bad": None if first is None or scope.tenants is not None else first.sequence,
                "what": "" if first is None else first.what,
            }
        )  # fmt: skip
    return answer(store, scope, window, pa.Table.from_pylist(rows, schema=_STATE), DOCKER)


_STATE = pa.schema(
    [
        ("chain", pa.string()), ("entries", pa.int64()), ("first_at", _TIME), ("last_at", _TIME),
        ("head_sequence", pa.int64()), ("head_hash", pa.string()), ("jobs", pa.int64()), ("running_jobs", pa.int64()),
        ("verified_from", pa.int64()), ("findings", pa.int64()), ("first_bad", pa.int64()), ("what", pa.string()),
    ]
)  # fmt: skip
_JOBS = pa.schema(
    [
        ("job_id", pa.string()), ("host", pa.string()), ("tenant", pa.string()), ("team", pa.string()),
        ("user", pa.string()), ("workload", pa.string()), ("container_key", pa.string()),
        ("container_name", pa.string()), ("image", pa.string()), ("image_digest", pa.string()), ("gpu_uuids", _TEXTS),
        ("gpu_names", _TEXTS), ("gpu_count", pa.float64()), ("started_at", _TIME), ("ended_at", _TIME),
        ("duration_seconds", pa.float64()), ("gpu_hours", pa.float64()), ("gpu_hours_in_window", pa.float64()),
        ("energy_joules", pa.float64()), ("exit_code", pa.int64()), ("end_reason", pa.string()),
        ("sources", pa.string()), ("verified", pa.bool_()), ("hash", pa.string()), ("chain", pa.string()),
    ]
)  # fmt: skip


def _table(jobs: Sequence[Job], window: Window) -> pa.Table:
    rows: list[dict[str, object]] = []
    for job in jobs:
        row = job.row
        seconds, hours = job.hours_until(window.end)
        end = min(row.ended_at or window.end, window.end)
        inside = max(0.0, (end - max(row.started_at, window.start)).total_seconds())
        values: dict[str, object] = {name: getattr(row, name, None) for name in _JOBS.names}
        rows.append(
            values
            | {
                "gpu_uuids": list(row.gpu_uuids), "gpu_names": list(row.gpu_names), "duration_seconds": seconds,
                "gpu_hours": hours, "gpu_hours_in_window": inside / 3600.0 * row.gpu_count,
                "sources": "\n".join(f"{field}: {source}" for field, source in sorted(row.sources.items())),
                "verified": job.verified,
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=_JOBS)


def _entries(rows: Sequence[dict[str, object]]) -> list[GpuJob]:
    """Rows as entries; one that is none is left out here and shown by `ledger_state`."""
    return [line for row in rows if isinstance(line := line_from(row), GpuJob)]


def _unwatched(store: Store, window: Window, host: str | None, hosts: set[str] | None) -> list[Gap]:
    """When nobody looked, of all hosts or of these."""
    where = Where("1") if host is None else Where("host = {scope_host:String}", {"scope_host": host})
    if hosts is not None:
        where = where.also("host IN {own_hosts:Array(String)}", own_hosts=sorted(hosts))
    where = where.also(
        f"entry = '{GAP}' AND toUnixTimestamp64Milli(started_at) < {{window_end:Int64}}"
        " AND toUnixTimestamp64Milli(assumeNotNull(ended_at)) > {window_start:Int64}",
        window_start=epoch_ms(window.start),
        window_end=epoch_ms(window.end),
    )
    rows = store.query(
        "SELECT host, started_at, ended_at, end_reason FROM gpu_jobs"
        f" WHERE {where.sql} ORDER BY started_at DESC LIMIT 20",
        where.parameters,
    ).to_pylist()
    return [
        Gap(
            subject=f"ledger {row['host']}",
            reason="stale",
            detail=f"nobody looked from {row['started_at']:%F %T} to {row['ended_at']:%F %T} UTC: {row['end_reason']}",
        )
        for row in rows
    ]


def _before(line: GpuJob | Stub) -> Head:
    """The place before an entry, as the entry itself has it."""
    return Head(line.sequence - 1, line.previous_hash)


def _checked(store: Store, where: Where, chain: str, newest: int, *, whole: bool) -> Verification:
    """The verification of one chain; of a limited scope, of each of its entries by itself."""
    asked = where.also("chain = {chain:String}", chain=chain)
    if newest > VERIFIED_AT_MOST:
        asked = asked.also("sequence > {after:UInt64}", after=newest - VERIFIED_AT_MOST)
    found = store.query(f"SELECT {_COLUMNS} FROM gpu_jobs WHERE {asked.sql} ORDER BY sequence", asked.parameters)
    lines = by_chain(line_from(row) for row in found.to_pylist()).get(chain, [])
    entries = [line for line in lines if not isinstance(line, Unreadable)]
    if whole:
        begins_later = newest > VERIFIED_AT_MOST and bool(entries)
        return verify(lines, before=_before(entries[0]) if begins_later else None)
    single = [verify([line], before=None if isinstance(line, Unreadable) else _before(line)) for line in lines]
    findings = tuple(finding for each in single for finding in each.findings)
    first = entries[0].sequence if entries else None
    return Verification(chain=chain, entries=len(lines), withheld=0, first=first, last=None, findings=findings)
