"""One thread between the sources and the store, so that a slow store never delays a poll.

Batches wait in memory for a short, bounded time: the spooled writer behind it acknowledges them to disk when the store
is away. When even that blocks, the newest batches are refused and counted, and /healthz says so.

What may wait so that several batches share an insert is decided in `collectors/gathering.py`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from collectors.gathering import WATCHED_SECONDS, Gathering, Parcel, merged
from collectors.outcome import guarded
from fleet.model import Batch
from store.columns import prepare
from store.errors import StoreError

log = logging.getLogger(__name__)
STUCK_AFTER_SECONDS = 60.0
DRAIN_INTERVAL_SECONDS = 5.0
#: A reader who comes after a quiet time waits for what was gathered, an insert or two; not for a store that hangs.
LOOK_WAIT_SECONDS = 1.0


class Writer(Protocol):
    """Takes batches for good: to the store, or to disk while the store is away."""

    def append(self, batch: Batch) -> object:
        """Returns when the batch is safe, or given up and counted: then "refused" when it can never be stored."""
        ...

    def drain(self) -> object:
        """Bring what waits on disk to the store, if it is back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterHealth:
    """How the writing thread is doing. `stuck_seconds`: how long the running write has taken, 0 when idle.

    gathered_batches: those that wait on purpose, to be stored with others.
    """

    alive: bool
    waiting_batches: int
    written_batches: int
    refused_batches: int
    lost_batches: int
    stuck_seconds: float
    last_written: float | None
    gathered_batches: int = 0

    @property
    def stuck(self) -> bool:
        """Nothing gets through any more."""
        return not self.alive or self.stuck_seconds > STUCK_AFTER_SECONDS


class WritingThread:
    """Queue of at most `limit` batches and the thread that empties it."""

    def __init__(
        self,
        writer: Writer,
        *,
        limit: int = 512,
        monotonic: Callable[[], float] = time.monotonic,
        runs_wait_seconds: float = 0.0,
        unwatched_seconds: float = 0.0,
        watched_seconds: float = WATCHED_SECONDS,
    ) -> None:
        """The waits are those of `Gathering`; without them every batch is stored on its own, at once."""
        self._writer = writer
        self._limit = limit
        self._monotonic = monotonic
        self._gathering = Gathering(
            monotonic(),
            unwatched_seconds=unwatched_seconds,
            runs_wait_seconds=runs_wait_seconds,
            watched_seconds=watched_seconds,
        )
        self._late = False
        self._batches: deque[Batch] = deque()
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        # Readers wait here: `put` wakes one of those that wait for a change, and that must be the thread.
        self._settled = threading.Condition(lock)
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

    def look(self, wait_seconds: float = LOOK_WAIT_SECONDS) -> bool:
        """Somebody looks: store what was gathered, and gather no more for a while.

        Returns at once when nothing was gathered; False when it was not stored, or kept on disk, in time.
        """
        with self._changed:
            self._gathering.look(self._monotonic())
            return self._wait_for_late(wait_seconds)

    def flush(self, wait_seconds: float) -> bool:
        """Store what was gathered, for a question of our own: as `look`, but the gathering goes on."""
        with self._changed:
            self._gathering.hurry(self._monotonic())
            return self._wait_for_late(wait_seconds)

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
                gathered_batches=self._gathering.held_batches,
            )

    def _wait_for_late(self, wait_seconds: float) -> bool:
        if not self._gathering.held_batches and not self._late:
            return True
        if self._late and self._began is not None and self._monotonic() - self._began > wait_seconds:
            return False  # it hangs; who asks again shall not wait again
        self._changed.notify()
        return self._settled.wait_for(lambda: not self._gathering.held_batches and not self._late, wait_seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                parcel = self._next()
                if parcel is None:
                    if self._stopping:
                        return
                    if self._changed.wait(self._pause()):
                        continue
                    parcel = self._next()
                self._began = self._monotonic()
                self._late = parcel is not None and parcel.late
            self._step(parcel)

    def _pause(self) -> float:
        due = self._gathering.pause(self._monotonic())
        return DRAIN_INTERVAL_SECONDS if due is None else min(due, DRAIN_INTERVAL_SECONDS)

    def _next(self) -> Parcel | None:
        """What to write now; None when there is nothing, or nothing yet. The lock is held."""
        now = self._monotonic()
        while True:
            parcel = self._gathering.take(now, everything=self._stopping)
            if parcel is not None or not self._batches:
                return parcel
            self._gathering.add(self._batches.popleft(), now)

    def _step(self, parcel: Parcel | None) -> None:
        if parcel is None:
            fault = guarded("spool", lambda: _ignore(self._writer.drain()))
        else:
            name = f"writer, batch {parcel.batches[0].token}"
            fault = guarded(name, lambda: self._store(parcel.batches))
        with self._changed:
            self._began = None
            self._late = False
            self._settled.notify_all()
            if parcel is None:
                return
            if fault is None:
                self._written += len(parcel.batches)
                self._last_written = self._monotonic()
            else:
                self._lost += len(parcel.batches)

    def _store(self, batches: Sequence[Batch]) -> None:
        outcome = self._writer.append(merged(batches))
        # One value that fits no column must not take other polls with it. It is found before anything is stored; a
        # refusal by the store itself may come after some tables, and those would count twice under other tokens.
        if outcome == "refused" and len(batches) > 1 and not all(_fits(batch) for batch in batches):
            for batch in batches:
                self._writer.append(batch)


def _fits(batch: Batch) -> bool:
    try:
        prepare(batch)
    except StoreError:
        return False
    return True


def _ignore(_: object) -> None:
    """What became of a batch is for the spool's own state and log."""
