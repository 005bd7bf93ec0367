"""The demo as a source like any other: polled on a schedule, it answers the rows of an invented fleet."""

from __future__ import annotations

from datetime import datetime, timedelta

from collectors.base import Reading
from collectors.synthetic.generator import SyntheticFleet
from fleet.model import Container, Row

_FACTS_EVERY = timedelta(seconds=60)


class SyntheticSource:
    """Live end of the demo: continues where the back-fill stopped (`since`)."""

    kind = "synthetic"
    target = "demo"

    def __init__(
        self, fleet: SyntheticFleet, since: datetime, *, interval_seconds: float = 5.0, timeout_seconds: float = 5.0
    ) -> None:
        self._fleet = fleet
        self._last = since
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
        rows: list[Row] = list(self._fleet.rows(at, (at - self._last).total_seconds()))
        rows.extend(self._fleet.events(self._last, at))
        facts = self._fleet.facts(at)
        states = tuple(fact.state for fact in facts if isinstance(fact, Container))
        if self._facts_at is None or at - self._facts_at >= _FACTS_EVERY or states != self._states:
            rows.extend(facts)
            self._facts_at, self._states = at, states
        self._last = at
        return Reading(rows=tuple(rows), detail=self._fleet.detail)

    def close(self) -> None:
        """Nothing is held open."""
