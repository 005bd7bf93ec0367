"""One source on its own thread: poll, report, wait for the next deadline.

A poll that outlives its timeout is reported as failed by `check`, which another thread calls; this one is left alone,
because a thread that hangs in a driver or a socket cannot be ended from outside. What it brings when it does return is
still true and is kept, but the source counts as failed until it answers in time.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from collectors.base import Source
from collectors.outcome import Outcome, State, poll, timed_out
from collectors.schedule import DeadlineSchedule, RowClock
from fleet.model import Batch, Event, Row

log = logging.getLogger(__name__)
#: Sources whose target is a host of the fleet; of the others (a Prometheus server) it is not.
HOST_KINDS = frozenset({"docker", "nvml"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceHealth:
    """One source at one moment. `..._seconds` count back from now; None = never, or not at the moment."""

    source: str
    target: str
    state: State | Literal["starting"]
    since_seconds: float
    last_read_seconds: float | None
    last_took_seconds: float | None
    in_flight_seconds: float | None
    interval_seconds: float
    polls: Mapping[str, int]
    missed_ticks: int
    rows: int
    reason: str
    error: str
    next_step: str


@dataclass(slots=True)
class _Flight:
    """A poll that has not come back yet. `report_at`: when it is reported as timed out (again)."""

    began: float
    at: datetime
    report_at: float
    reported: bool = False


class SourceLoop:
    """Polls one source until stopped. `emit` takes a batch without waiting."""

    def __init__(
        self,
        source: Source,
        emit: Callable[[Batch], object],
        *,
        boot_id: str,
        rng: random.Random,
        monotonic: Callable[[], float],
        wall: Callable[[], datetime],
        delay_seconds: float = 0.0,
    ) -> None:
        self.source = source
        self.name = f"{source.kind}/{source.target}"
        self._emit = emit
        self._boot_id = boot_id
        self._monotonic = monotonic
        self._wall = wall
        now = monotonic()
        self._schedule = DeadlineSchedule(source.interval_seconds, now + delay_seconds, rng)
        self._clock = RowClock()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._flight: _Flight | None = None
        self._sequence = 0
        self._up: bool | None = None
        self._outcome: Outcome | None = None
        self._state_since = self._down_since = now
        self._last_read: float | None = None
        self._last_took: float | None = None
        self._polls: Counter[str] = Counter()
        self._rows = self._missed = 0
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def start(self) -> None:
        """Start polling."""
        self._thread.start()

    def stop(self) -> None:
        """Poll no more; a poll that is running may still bring its rows."""
        self._stopping.set()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread; False when it hangs in a poll."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def check(self) -> None:
        """Report the running poll as failed once it has outlived the timeout, and again with every interval."""
        with self._lock:
            now = self._monotonic()
            flight = self._flight
            if flight is None or now < flight.report_at:
                return
            flight.reported = True
            flight.report_at = now + self.source.interval_seconds
            waited = now - flight.began
            self._record(timed_out(self.source.timeout_seconds, waited), waited, now, "when it answers")

    def health(self) -> SourceHealth:
        """A snapshot, from any thread."""
        with self._lock:
            now = self._monotonic()
            outcome = self._outcome
            return SourceHealth(
                source=self.source.kind,
                target=self.source.target,
                state=outcome.state if outcome else "starting",
                since_seconds=now - self._state_since,
                last_read_seconds=None if self._last_read is None else now - self._last_read,
                last_took_seconds=self._last_took,
                in_flight_seconds=None if self._flight is None else now - self._flight.began,
                interval_seconds=self.source.interval_seconds,
                polls=dict(self._polls),
                missed_ticks=self._missed,
                rows=self._rows,
                reason=outcome.reason if outcome else "",
                error=outcome.error if outcome else "",
                next_step=outcome.next_step if outcome else "",
            )

    def _run(self) -> None:
        while not self._stopping.wait(max(0.0, self._schedule.due - self._monotonic())):
            self._poll()

    def _poll(self) -> None:
        with self._lock:
            began = self._monotonic()
            at = self._stamp(began)
            self._flight = _Flight(began, at, began + self.source.timeout_seconds)
        outcome = poll(self.source, at)
        with self._lock:
            now = self._monotonic()
            took = now - began
            late = self._flight.reported or took > self.source.timeout_seconds
            self._flight = None
            if late:
                outcome = _late(outcome, took, self.source.timeout_seconds)
            if late or outcome.failed:
                self._missed += int(took / self.source.interval_seconds)
                pause = self._schedule.failed(now)
                self._record(outcome, took, now, f"in {pause:.0f} s")
            else:
                self._missed += self._schedule.succeeded(now)
                self._record(outcome, took, now, "", at=at)

    def _stamp(self, now: float) -> datetime:
        stamp = self._clock.stamp(self._wall(), now)
        if stamp.stepped_back_seconds:
            log.warning("source %s: the clock stepped back by %.1f s", self.name, stamp.stepped_back_seconds)
            event = self._event(
                stamp.at,
                "clock_step",
                f"The clock stepped back by {stamp.stepped_back_seconds:.1f} s",
                "Rows keep their order and are up to that much ahead until the clock has caught up. "
                "Synchronise this machine's clock; after a step of hours restart the collector",
            )
            self._send((event,))
        return stamp.at

    def _record(self, outcome: Outcome, took: float, now: float, retry: str, *, at: datetime | None = None) -> None:
        """Emit what a poll brought with the row of how it went; log and mark a change of state. Lock is held."""
        # A poll in time is stamped when it began, like its rows; a report after a timeout must come later than those.
        when = at or self._stamp(now)
        up = retry == ""
        rows = [*outcome.rows, outcome.run(self.source, when, took)]
        title = f"{self.source.kind} {self.source.target}"
        if not up and self._up is not False:
            self._down_since = now
            problem = f"{outcome.reason}: {outcome.error}"
            log.warning("source %s failed (%s), retry %s; %s", self.name, problem, retry, outcome.next_step)
            rows.append(
                self._event(
                    when, "gap", f"{title} cannot be read ({outcome.reason})", f"{outcome.error}. {outcome.next_step}"
                )
            )
        elif up and self._up is False:
            out = now - self._down_since
            log.info("source %s recovered after %.0f s", self.name, out)
            rows.append(self._event(when, "recovered", f"{title} is read again after {out:.0f} s", ""))
        elif up and (self._outcome is None or self._outcome.state != outcome.state):
            words = outcome.error or outcome.detail or f"{len(outcome.rows)} rows in {took * 1000:.0f} ms"
            log.info("source %s is %s: %s", self.name, outcome.state, words)
        if self._outcome is None or self._outcome.state != outcome.state:
            self._state_since = now
        if up:
            self._last_read = now
        self._up = up
        self._outcome = replace(outcome, rows=(), gaps=())
        self._last_took = took
        self._polls[outcome.state] += 1
        self._rows += len(outcome.rows)
        self._send(tuple(rows))

    def _send(self, rows: tuple[Row, ...]) -> None:
        self._emit(Batch(token=f"{self.name}/{self._boot_id}/{self._sequence}", rows=rows))
        self._sequence += 1

    def _event(self, at: datetime, kind: str, title: str, detail: str) -> Event:
        return Event(
            at=at,
            event_id=f"{self.name}/{self._boot_id}/{self._sequence}/{kind}",
            host=self.source.target if self.source.kind in HOST_KINDS else "",
            source=self.source.kind,
            kind=kind,
            severity="info" if kind == "recovered" else "warning",
            title=title,
            detail=detail,
            attributes={"target": self.source.target},
        )


def _late(outcome: Outcome, took_seconds: float, timeout_seconds: float) -> Outcome:
    """The outcome of a poll that came back after its timeout: its rows are true, and the source is too slow."""
    if outcome.failed:
        return outcome
    return replace(
        outcome,
        state="partial",
        reason="timeout",
        error=f"answered after {took_seconds:.1f} s (limit {timeout_seconds:g} s)",
        next_step="Look why it is slow, or set a longer timeout_seconds",
    )
