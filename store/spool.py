"""Batches wait here while the store is away: one file a batch, oldest out first, bounded in bytes.

A file is what would have been inserted (Arrow and the deduplication tokens), so a batch that did arrive before its
answer was lost is sent again under the same token and counts once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import pyarrow as pa

from fleet.model import Batch
from store.columns import Insert, prepare
from store.errors import StoreError, StoreUnavailable

log = logging.getLogger(__name__)

_MAGIC = b"ai-fleet-spool-1\n"
_NAME = re.compile(r"(\d{20})\.batch")
#: Files kept for a person to look at, of each kind.
_ASIDE_KEPT = 20


class CorruptFile(ValueError):  # noqa: N818 - it names what was found
    """A spool file that does not hold what was written."""


class Spool:
    """A folder of batches. One process, any thread under the owner's lock."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Open or create the folder; left-over temporary files are removed. Raises OSError."""
        self.folder = folder
        self.limit_bytes = limit_bytes
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.tmp"):
            path.unlink(missing_ok=True)
        self._sizes = {
            path.name: path.stat().st_size for path in sorted(folder.glob("*.batch")) if _NAME.fullmatch(path.name)
        }
        self._next = 1 + max((int(name[:20]) for name in self._sizes), default=0)

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def bytes_used(self) -> int:
        """Bytes of all waiting batches."""
        return sum(self._sizes.values())

    def put(self, inserts: Sequence[Insert]) -> int:
        """Keep one batch; returns how many old batches were dropped to make room. Raises OSError (disk full)."""
        data = _encode(inserts)
        if len(data) > self.limit_bytes:
            return 1
        dropped = 0
        while self._sizes and self.bytes_used + len(data) > self.limit_bytes:
            self.remove(next(iter(self._sizes)))
            dropped += 1
        name = f"{self._next:020d}.batch"
        temporary = self.folder / f"{name}.tmp"
        try:
            temporary.write_bytes(data)
            temporary.replace(self.folder / name)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        self._next += 1
        self._sizes[name] = len(data)
        return dropped

    def names(self) -> Iterator[str]:
        """Waiting batches, oldest first."""
        return iter(tuple(self._sizes))

    def read(self, name: str) -> tuple[Insert, ...]:
        """One waiting batch. Raises CorruptFile, or OSError."""
        return _decode((self.folder / name).read_bytes())

    def remove(self, name: str) -> None:
        """Forget one batch: it is stored, or given up."""
        (self.folder / name).unlink(missing_ok=True)
        self._sizes.pop(name, None)

    def set_aside(self, name: str, ending: str) -> Path:
        """Take a batch that cannot be stored out of the queue but leave it for a person to look at."""
        path = (self.folder / name).with_suffix(f".{ending}")
        (self.folder / name).replace(path)
        self._sizes.pop(name, None)
        for old in sorted(self.folder.glob(f"*.{ending}"))[:-_ASIDE_KEPT]:
            old.unlink(missing_ok=True)
        return path


def _encode(inserts: Sequence[Insert]) -> bytes:
    body = bytearray()
    for insert in inserts:
        names = {"fleet.table": insert.table, "fleet.token": insert.token}
        sink = pa.BufferOutputStream()
        table = insert.rows.replace_schema_metadata(names)
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(table)
        data = sink.getvalue().to_pybytes()
        body += len(data).to_bytes(8, "big") + data
    return _MAGIC + hashlib.sha256(body).digest() + bytes(body)


def _decode(data: bytes) -> tuple[Insert, ...]:
    start = len(_MAGIC) + 32
    if not data.startswith(_MAGIC) or hashlib.sha256(data[start:]).digest() != data[len(_MAGIC) : start]:
        raise CorruptFile("the checksum does not match")
    inserts: list[Insert] = []
    while start < len(data):
        end = start + 8 + int.from_bytes(data[start : start + 8], "big")
        table = pa.ipc.open_stream(data[start + 8 : end]).read_all()
        metadata = table.schema.metadata
        names = (metadata[b"fleet.table"].decode(), metadata[b"fleet.token"].decode())
        inserts.append(Insert(*names, table.replace_schema_metadata(None)))
        start = end
    return tuple(inserts)


class Inserter(Protocol):
    """Where batches go: a Store."""

    def insert(self, inserts: Sequence[Insert]) -> None:
        """Store all of it. Raises StoreUnavailable (later) or StoreError (never)."""
        ...


@dataclass(frozen=True, slots=True)
class WriterState:
    """What the Status page says about writing. Counts are since the start of the process.

    error: why the store does not take batches; spool_error: why the disk does not; "" when all is well.
    """

    stored_batches: int = 0
    waiting_batches: int = 0
    waiting_bytes: int = 0
    dropped_batches: int = 0
    refused_batches: int = 0
    corrupt_files: int = 0
    error: str = ""
    spool_error: str = ""


Outcome = Literal["stored", "spooled", "dropped", "refused"]


class SpooledWriter:
    """Writes batches, and never raises for a store or disk that is away: it waits, counts, and says so once."""

    def __init__(
        self,
        store: Inserter,
        spool: Spool,
        *,
        retry_seconds: float = 5.0,
        drain_batches: int = 50,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """drain_batches: waiting batches sent by one call at most, so that a long queue blocks nobody for long."""
        self._store = store
        self._spool = spool
        self._retry_seconds = retry_seconds
        self._drain_batches = drain_batches
        self._clock = clock
        self._next_try = float("-inf")
        self._lock = threading.Lock()
        self._state = WriterState(waiting_batches=len(spool), waiting_bytes=spool.bytes_used)

    @property
    def state(self) -> WriterState:
        """The newest state; safe from any thread."""
        return self._state

    def append(self, batch: Batch) -> Outcome:
        """Store the batch, or keep it for later. Order is kept: waiting batches go first."""
        try:
            inserts = prepare(batch)
        except StoreError as error:
            self._refused(f"batch {batch.token}", error)
            return "refused"
        with self._lock:
            self._drain_locked()
            if len(self._spool) == 0 and self._may_try():
                try:
                    self._store.insert(inserts)
                except StoreUnavailable as error:
                    self._away(error)
                except StoreError as error:
                    self._refused(f"batch {batch.token}", error)
                    return "refused"
                else:
                    self._well()
                    return "stored"
            return self._keep(inserts)

    def drain(self) -> int:
        """Send waiting batches, oldest first; returns how many are still waiting."""
        with self._lock:
            self._drain_locked()
            return len(self._spool)

    def _may_try(self) -> bool:
        return self._clock() >= self._next_try

    def _drain_locked(self) -> None:
        for name in tuple(self._spool.names())[: self._drain_batches]:
            if not self._may_try():
                return
            try:
                inserts = self._spool.read(name)
            except (CorruptFile, OSError, pa.ArrowException, KeyError, UnicodeDecodeError) as error:
                self._corrupt(name, error)
                continue
            try:
                self._store.insert(inserts)
            except StoreUnavailable as error:
                self._away(error)
                return
            except StoreError as error:
                self._refused(f"spool file {self._aside(name, 'refused')}", error)
                continue
            self._spool.remove(name)
            self._well()

    def _keep(self, inserts: Sequence[Insert]) -> Outcome:
        try:
            dropped = self._spool.put(inserts)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            text = f"spool {self._spool.folder}: {reason}; free disk space, batches are lost until then"
            self._change(dropped_batches=self._state.dropped_batches + 1, spool_error=text)
            return "dropped"
        if dropped and not self._state.dropped_batches:
            log.error("spool %s: full at %d bytes, the oldest are dropped", self._spool.folder, self._spool.limit_bytes)
        self._change(dropped_batches=self._state.dropped_batches + dropped, spool_error="")
        return "spooled"

    def _corrupt(self, name: str, error: Exception) -> None:
        log.error("spool file %s cannot be read (%s); set aside, the others go on", self._aside(name, "corrupt"), error)
        self._change(corrupt_files=self._state.corrupt_files + 1)

    def _aside(self, name: str, ending: str) -> Path:
        try:
            return self._spool.set_aside(name, ending)
        except OSError:
            # Renaming needs no room, so the file itself is gone or the disk is broken: forget it either way.
            self._spool.remove(name)
            return self._spool.folder / name

    def _refused(self, what: str, error: StoreError) -> None:
        log.error("%s: the store refuses it: %s", what, error)
        self._change(refused_batches=self._state.refused_batches + 1)

    def _away(self, error: StoreUnavailable) -> None:
        self._next_try = self._clock() + self._retry_seconds
        self._change(error=str(error))

    def _well(self) -> None:
        self._next_try = float("-inf")
        self._change(stored_batches=self._state.stored_batches + 1, error="")

    def _change(self, *, error: str | None = None, spool_error: str | None = None, **counts: int) -> None:
        before = self._state
        self._state = replace(
            before,
            waiting_batches=len(self._spool),
            waiting_bytes=self._spool.bytes_used,
            error=before.error if error is None else error,
            spool_error=before.spool_error if spool_error is None else spool_error,
            **counts,
        )
        if self._state.error and not before.error:
            log.warning("store is away, batches wait on disk: %s", self._state.error)
        elif before.error and not self._state.error:
            log.warning("store takes batches again, %d wait", len(self._spool))
        if self._state.spool_error and not before.spool_error:
            log.error("%s", self._state.spool_error)
