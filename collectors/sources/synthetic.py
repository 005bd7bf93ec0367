"""The demo as a source like any other: polled on a schedule, it answers the rows of an invented fleet."""

from __future__ import annotations

from datetime import datetime, timedelta

from collectors.base import Reading
from collectors.synthetic.generator import SyntheticFleet
from fleet.model import Container, Row

_FACTS_EVERY = timedelta(seconds=60)
_CATCH_UP = timedelta(minutes=10)
_CATCH_UP_STEP = timedelta(seconds=15)


class SyntheticSource:
    """Live end of the demo: continues where the back-fill stopped (`since`)."""

    kind = "synthetic"
    target = "demo"

    def __init__(
        self, fleet: SyntheticFleet, since: datetime, *, interval_seconds: float = 5.0, timeout_seconds: float = 5.0
    ) -> None:
        self._fleet = fleet
        self._last = self._covered = since
        self._facts_at: datetime | None = None
        self._states: tuple[str, ...] = ()
        self._interval_seconds = interval_seconds
        self._timeout_seconds = timeout_seconds

    @property
    def interval_seconds(self) -> float:
        """Seconds between polls."""
        return self._interval_seconds

    @property
    def timeout_seconds(self) -> float:
        """Seconds one poll may take."""
        return self._timeout_seconds

    def collect(self, at: datetime) -> Reading:
        """The fleet at that instant; increments cover the time since the poll before. Nothing after a step back."""
        if at <= self._last:
            return Reading(
                detail=f"{self._fleet.detail}; the clock stepped back, waiting for it to pass {self._last:%T}"
            )
        rows: list[Row] = self._missed(at)
        rows.extend(self._fleet.rows(at, (at - self._covered).total_seconds()))
        rows.extend(self._fleet.events(self._last, at))
        facts = self._fleet.facts(at)
        states = tuple(fact.state for fact in facts if isinstance(fact, Container))
        if self._facts_at is None or at - self._facts_at >= _FACTS_EVERY or states != self._states:
            rows.extend(facts)
            self._facts_at, self._states = at, states
        self._last = self._covered = at
        return Reading(rows=tuple(rows), detail=self._fleet.detail)

    def _missed(self, at: datetime) -> list[Row]:
        """Samples every 15 s since the last poll, at most the last ten minutes; nothing when polls come in time.

        The back-fill takes most of a minute, and a laptop sleeps: one long interval would be a hole in every chart.
        """
        gap = at - self._last
        if gap <= timedelta(seconds=3 * self._interval_seconds):
            return []
        count = int(min(gap, _CATCH_UP) / _CATCH_UP_STEP)
        if not count:
            return []
        first = self._last if gap <= _CATCH_UP else at - _CATCH_UP
        instants = [first + _CATCH_UP_STEP * number for number in range(1, count + 1)]
        if instants[-1] >= at:
            instants.pop()
        self._covered = instants[-1] if instants else self._last
        return self._fleet.block(instants, _CATCH_UP_STEP.total_seconds()) if instants else []

    def close(self) -> None:
        """Nothing is held open."""
