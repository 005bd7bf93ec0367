"""The ledger's chain on disk and in the store: no number is given twice, no entry is lost, whatever dies when.

The order of every addition: (1) seal the entries after the present head; (2) write `gpu-jobs.json` with the new head
and the entries, aside, synced to disk, then renamed; (3) insert the entries into the store under a token made of their
numbers; (4) forget them from the file once the store has acknowledged them. A crash after 2 sends them again under the
same token, which counts once. The usual spool is not used: it drops the oldest when it is full, and a chain has no
place for a hole; entries are few, so this file is spool enough.

LedgerAwayError      neither the file nor the store can tell where the chain ends; try again later
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, cast

from fleet.gpu_job_fields import FIELDS, LedgerError, time_text, to_milliseconds, values_of
from fleet.gpu_jobs import CLOSE, EMPTY, OPEN, Head, Line, Unreadable, entry_from, head_of, line_from, seal
from fleet.model import Batch, GpuJob
from store.columns import Insert, prepare
from store.errors import StoreError, StoreUnavailable

log = logging.getLogger(__name__)
FILE = "gpu-jobs.json"
_FORMAT = "ai-fleet-gpu-jobs-head-1"
#: Entries kept after the store acknowledged them: without `sync_to_disk` a power loss may take them back out of it.
_RECENT = 50
_CLOSED_KEPT = 1000
_HEARTBEAT = timedelta(seconds=30)
COLUMNS = ", ".join(FIELDS)


class LedgerAwayError(Exception):
    """The chain's end is not known yet: the store is away and this machine has no file about it."""


class LedgerStore(Protocol):
    """What the ledger needs of a store."""

    def insert(self, inserts: Sequence[Insert]) -> None:
        """Store inserts once. Raises StoreUnavailable (later) or StoreError (never)."""
        ...

    def query(self, sql: str, parameters: Mapping[str, object] | None = None) -> Any:  # noqa: ANN401 - an Arrow table
        """Rows of a query. Raises StoreUnavailable or StoreError."""
        ...


@dataclass(slots=True)
class _State:
    """What `gpu-jobs.json` holds. waiting: batches that the store has not acknowledged; recent: entries it has."""

    head: Head = EMPTY
    at: datetime | None = None
    waiting: list[list[GpuJob]] = field(default_factory=list[list[GpuJob]])
    recent: list[GpuJob] = field(default_factory=list[GpuJob])
    open: dict[str, GpuJob] = field(default_factory=dict[str, GpuJob])
    closed: list[str] = field(default_factory=list[str])
    looks: dict[str, datetime] = field(default_factory=dict[str, datetime])


class JobLedger:
    """The chain of one collector. All calls from one thread at a time."""

    def __init__(self, folder: Path, chain: str, store: LedgerStore) -> None:
        self._file = folder / FILE
        self._chain = chain
        self._store = store
        self._state: _State | None = None
        self._agreed = False
        self._saved_at: datetime | None = None

    @property
    def chain(self) -> str:
        """Name of the chain."""
        return self._chain

    @property
    def head(self) -> Head:
        """The newest entry. Raises LedgerAwayError before `load`."""
        return self._loaded.head

    @property
    def waiting_entries(self) -> int:
        """Entries that the store has not acknowledged."""
        return sum(len(batch) for batch in self._loaded.waiting)

    @property
    def open_count(self) -> int:
        """Jobs that run."""
        return len(self._loaded.open)

    def load(self) -> None:
        """Find the end of the chain and the open jobs, and bring the store up to date if it answers.

        Raises LedgerAwayError when only the store could tell and it does not answer; StoreError; OSError.
        """
        if self._state is None:
            self._state = read_file(self._file, self._chain)
        if not self._agreed:
            try:
                self._agree()
            except StoreUnavailable as error:
                if self._state is None:
                    raise LedgerAwayError(str(error)) from error

    def open_jobs(self, host: str) -> list[GpuJob]:
        """Open entries without a close entry."""
        return [job for job in self._loaded.open.values() if job.host == host]

    def all_open_jobs(self) -> list[GpuJob]:
        """Open entries without a close entry, of every host."""
        return list(self._loaded.open.values())

    def looked_at(self, host: str) -> datetime | None:
        """When the host was last looked at, by this process or one before."""
        return self._loaded.looks.get(host)

    def was_closed(self, name: str) -> bool:
        """Whether a job of this id was closed lately."""
        return name in self._loaded.closed

    def append(self, drafts: Sequence[GpuJob], host: str, at: datetime) -> None:
        """Add entries after a look at the host. They are safe on return, and in the store when it answers.

        Raises OSError (nothing was added).
        """
        state = self._loaded
        looks = {**state.looks, host: to_milliseconds(at)} if host else state.looks
        if not drafts:
            state.looks = looks
            self._heartbeat(at)
            return
        sealed = self._sealed(drafts)
        new = replace(
            state,
            head=head_of(sealed[-1]), at=sealed[-1].at, looks=looks, waiting=[*state.waiting, sealed],
            open=_open_after(state.open, sealed), closed=_closed_after(state.closed, sealed),
        )  # fmt: skip
        self._save(new)
        self._state = new
        self.flush()

    def flush(self) -> None:
        """Send what the store has not acknowledged. Raises StoreError when it refuses an entry for good."""
        try:
            if not self._agreed:
                self._agree()
            state = self._loaded
            if not state.waiting:
                return
            while state.waiting:
                # One batch as it was first sent: whether a lost answer was a yes is known by its token only.
                self._insert(state.waiting[0], "")
                state.recent = [*state.recent, *state.waiting.pop(0)][-_RECENT:]
        except StoreUnavailable as error:
            log.debug("ledger %s: the store is away, %d entries wait: %s", self._chain, self.waiting_entries, error)
            return
        self._save(state)

    def save(self) -> None:
        """Write down when each host was last looked at. Raises OSError."""
        if self._state is not None:
            self._save(self._state)

    @property
    def _loaded(self) -> _State:
        if self._state is None:
            raise LedgerAwayError("the ledger is not loaded yet")
        return self._state

    def _sealed(self, drafts: Sequence[GpuJob]) -> list[GpuJob]:
        state, sealed = self._loaded, list[GpuJob]()
        head, newest = state.head, state.at
        for draft in drafts:
            row = replace(draft, chain=self._chain)
            if newest is not None and to_milliseconds(row.at) < newest:
                # Months are forgotten by `at`, so it must rise with the numbers; the truth is told beside it.
                words = f"a clock went back to {time_text(row.at)}"
                row = replace(row, at=newest, sources={**row.sources, "at": words})
            sealed.append(seal(row, head))
            head, newest = head_of(sealed[-1]), sealed[-1].at
        return sealed

    def _agree(self) -> None:
        """Compare file and store once. Raises StoreUnavailable, StoreError."""
        rows = self._store.query(
            "SELECT sequence, hash FROM gpu_jobs WHERE chain = {chain:String} ORDER BY sequence DESC LIMIT 1",
            {"chain": self._chain},
        ).to_pylist()
        stored = Head(int(rows[0]["sequence"]), str(rows[0]["hash"])) if rows else EMPTY
        state = self._state
        if state is None or stored.sequence > state.head.sequence:
            if state is not None:
                log.warning("ledger %s: the store is ahead of %s, going on after it", self._chain, self._file)
            self._state = self._from_store(stored)
        else:
            self._send_missing(state, stored)
        self._agreed = True

    def _send_missing(self, state: _State, stored: Head) -> None:
        if stored.sequence == state.head.sequence and stored.hash != state.head.hash:
            log.error(
                "ledger %s: entry %d is not the same in the store and in %s", self._chain, stored.sequence, self._file
            )
        state.waiting = [batch for batch in state.waiting if batch[-1].sequence > stored.sequence]
        missing = [row for row in state.recent if row.sequence > stored.sequence]
        left = [*missing, *(row for batch in state.waiting for row in batch)]
        next_sequence = left[0].sequence if left else state.head.sequence + 1
        if next_sequence > stored.sequence + 1:
            lost = f"{stored.sequence + 1} to {next_sequence - 1}"
            log.error("ledger %s: the store does not hold entries %s, nor does %s", self._chain, lost, self._file)
        if missing:
            log.warning(
                "ledger %s: the store lost %d entries it had acknowledged, sent again", self._chain, len(missing)
            )
            # Another token: the store may remember the old one although its rows are gone.
            self._insert(missing, f"-again-{stored.sequence}")

    def _from_store(self, head: Head) -> _State:
        lines = read_entries(self._store, self._chain, only_jobs=True)
        entries = [line for line in lines if isinstance(line, GpuJob)]
        runs = self._store.query(
            "SELECT target, toUnixTimestamp64Milli(max(at)) AS newest FROM source_runs"
            " WHERE source = 'docker' AND state != 'failed' GROUP BY target"
        ).to_pylist()
        newest = self._store.query(
            "SELECT max(at) AS newest FROM gpu_jobs WHERE chain = {chain:String}", {"chain": self._chain}
        ).to_pylist()
        opened = _open_after({}, entries)
        hosts = {entry.host for entry in entries}
        looks = {row["target"]: _from_ms(row["newest"]) for row in runs if row["target"] in hosts}
        at = to_milliseconds(cast("datetime", newest[0]["newest"])) if head.sequence else None
        return _State(head=head, at=at, open=opened, closed=_closed_after([], entries), looks=looks)

    def _insert(self, rows: Sequence[GpuJob], suffix: str) -> None:
        name = f"gpu_jobs/{self._chain}/{rows[0].sequence}-{rows[-1].sequence}/{rows[-1].hash[:16]}{suffix}"
        self._store.insert(prepare(Batch(token=name, rows=tuple(rows))))

    def _heartbeat(self, at: datetime) -> None:
        if self._saved_at is None or not timedelta(0) <= at - self._saved_at < _HEARTBEAT:
            self._saved_at = at
            self.save()

    def _save(self, state: _State) -> None:
        document = {
            "format": _FORMAT,
            "chain": self._chain,
            "sequence": state.head.sequence,
            "hash": state.head.hash,
            "at": None if state.at is None else time_text(state.at),
            "looks": {host: time_text(at) for host, at in sorted(state.looks.items())},
            "waiting": [[values_of(row) for row in batch] for batch in state.waiting],
            "recent": [values_of(row) for row in state.recent],
            "open": [values_of(row) for row in state.open.values()],
            "closed": state.closed,
        }
        temporary = self._file.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(document, file, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._file)
        folder = os.open(self._file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too, must survive a power loss
        finally:
            os.close(folder)


def read_file(file: Path, chain: str) -> _State | None:
    """What the file says of the chain; None without a file. Raises StoreError for one that cannot be used."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    advice = "restore it from a copy, or move it away: the chain then goes on after what the store holds"
    try:
        document = cast("dict[str, Any]", json.loads(text))
        if document["format"] != _FORMAT or document["chain"] != chain:
            found = f"{document['format']} of chain {document['chain']!r}"
            raise StoreError(0, f"{file}: found {found}, chain {chain!r} belongs there; {advice}")
        return _State(
            head=Head(document["sequence"], document["hash"]),
            at=None if document["at"] is None else datetime.fromisoformat(document["at"]),
            looks={host: datetime.fromisoformat(at) for host, at in document["looks"].items()},
            waiting=[[entry_from(row) for row in batch] for batch in document["waiting"]],
            recent=[entry_from(row) for row in document["recent"]],
            open={row["job_id"]: entry_from(row) for row in document["open"]},
            closed=list(document["closed"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, LedgerError) as error:
        raise StoreError(0, f"{file}: cannot be read ({type(error).__name__}: {error}); {advice}") from error


def read_entries(store: LedgerStore, chain: str | None = None, *, only_jobs: bool = False) -> list[Line]:
    """Entries of one chain, or all, by chain and sequence. Raises StoreUnavailable, StoreError."""
    conditions = ["1", *(["chain = {chain:String}"] if chain is not None else [])]
    if only_jobs:
        conditions.append(f"entry IN ('{OPEN}', '{CLOSE}')")
    rows = store.query(
        f"SELECT {COLUMNS} FROM gpu_jobs WHERE {' AND '.join(conditions)} ORDER BY chain, sequence",
        {} if chain is None else {"chain": chain},
    ).to_pylist()
    return [line_from(row) for row in rows]


def expected_head(folder: Path, chain: str) -> tuple[Head, list[GpuJob]] | None:
    """(head, entries that wait for the store) as the collector's file has them; None without a file.

    Raises StoreError when the file cannot be used.
    """
    state = read_file(folder / FILE, chain)
    return None if state is None else (state.head, [row for batch in state.waiting for row in batch])


def with_waiting(lines: Sequence[Line], waiting: Sequence[GpuJob]) -> list[Line]:
    """Stored lines and those that are still on their way there."""
    stored = {line.sequence for line in lines if not isinstance(line, Unreadable)}
    return [*lines, *(row for row in waiting if row.sequence not in stored)]


def _from_ms(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _open_after(opened: Mapping[str, GpuJob], entries: Sequence[GpuJob]) -> dict[str, GpuJob]:
    found = dict(opened)
    for entry in entries:
        if entry.entry == OPEN:
            found[entry.job_id] = entry
        elif entry.entry == CLOSE:
            found.pop(entry.job_id, None)
    return found


def _closed_after(closed: Sequence[str], entries: Sequence[GpuJob]) -> list[str]:
    return [*closed, *(entry.job_id for entry in entries if entry.entry == CLOSE)][-_CLOSED_KEPT:]
