"""One thread between the sources and the store, so that a slow store never delays a poll.

Batches wait in memory for a short time only: the spooled writer behind it acknowledges them to disk when the store is
away. When even that blocks, the newest batches are refused and counted, and /healthz says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from collectors.outcome import guarded
from fleet.model import Batch

log = logging.getLogger(__name__)
STUCK_AFTER_SECONDS = 60.0
DRAIN_INTERVAL_SECONDS = 5.0


class Writer(Protocol):
    """Takes batches for good: to the store, or to disk while the store is away."""

    def append(self, batch: Batch) -> object:
        """Returns when the batch is safe, or given up and counted."""
        ...

    def drain(self) -> object:
        """Bring what waits on disk to the store, if it is back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterHealth:
    """How the writing thread is doing. `stuck_seconds`: how long the running write has taken, 0 when idle."""

    alive: bool
    waiting_batches: int
    written_batches: int
    refused_batches: int
    lost_batches: int
    stuck_seconds: float
    last_written: float | None

    @property
    def stuck(self) -> bool:
        """Nothing gets through any more."""
        return not self.alive or self.stuck_seconds > STUCK_AFTER_SECONDS


class WritingThread:
    """Queue of at most `limit` batches and the thread that empties it."""

    def __init__(self, writer: Writer, *, limit: int = 512, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._writer = writer
        self._limit = limit
        self._monotonic = monotonic
        self._batches: deque[Batch] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._began: float | None = None
        self._last_written: float | None = None
        self._written = self._refused = self._lost = 0
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, batch: Batch) -> bool:
        """Hand over a batch without waiting; False when it had to be refused."""
        with self._changed:
            if self._stopping:
                return False
            if len(self._batches) >= self._limit:
                self._refused += 1
                if self._refused == 1:
                    log.error("writer has %d batches waiting, new ones are refused until it moves", self._limit)
                return False
            self._batches.append(batch)
            self._changed.notify()
            return True

    def stop(self, timeout_seconds: float) -> bool:
        """Write what waits, then end the thread; False when it did not end in time."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def health(self) -> WriterHealth:
        """A snapshot, from any thread."""
        with self._changed:
            return WriterHealth(
                alive=self._thread.is_alive(),
                waiting_batches=len(self._batches),
                written_batches=self._written,
                refused_batches=self._refused,
                lost_batches=self._lost,
                stuck_seconds=0.0 if self._began is None else self._monotonic() - self._began,
                last_written=self._last_written,
            )

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._batches and not self._stopping:
                    self._changed.wait(DRAIN_INTERVAL_SECONDS)
                if not self._batches and self._stopping:
                    return
                batch = self._batches.popleft() if self._batches else None
                self._began = self._monotonic()
            self._step(batch)

    def _step(self, batch: Batch | None) -> None:
        if batch is None:
            fault = guarded("spool", lambda: _ignore(self._writer.drain()))
        else:
            fault = guarded(f"writer, batch {batch.token}", lambda: _ignore(self._writer.append(batch)))
        with self._changed:
            self._began = None
            if batch is None:
                return
            if fault is None:
                self._written += 1
                self._last_written = self._monotonic()
            else:
                self._lost += 1


def _ignore(_: object) -> None:
    """What became of a batch is for the spool's own state and log."""
