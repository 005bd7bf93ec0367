"""When a source is polled next, and which time its rows carry. Pure: every clock reading is an argument.

Deadlines lie on a fixed grid of monotonic time, so a slow poll shifts nothing: a tick that passed is skipped and
counted, never made up for. Sleeping for the interval after each poll would drift by the length of every poll.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import datetime, timedelta

BACKOFF_LIMIT_SECONDS = 300.0


class DeadlineSchedule:
    """Grid of deadlines `first + n * interval`, with longer pauses while a source fails."""

    def __init__(self, interval_seconds: float, first: float, rng: random.Random) -> None:
        self.interval_seconds = interval_seconds
        self.due = first
        self._first = first
        self._rng = rng
        self._failures = 0

    def succeeded(self, now: float) -> int:
        """Move `due` to the next point of the grid after `now`; how many points passed unused since the last one."""
        self._failures = 0
        steps = math.floor((now - self._first) / self.interval_seconds) + 1
        following = self._first + steps * self.interval_seconds
        missed = round((following - self.due) / self.interval_seconds) - 1
        self.due = following
        return max(0, missed)

    def failed(self, now: float) -> float:
        """Move `due` away from `now`, further with every failure in a row; the pause in seconds, at most 300."""
        self._failures += 1
        # The jitter keeps collectors that lost the same server from coming back to it in step.
        doubled = self.interval_seconds * 2.0 ** min(self._failures, 30)
        limit = max(BACKOFF_LIMIT_SECONDS, self.interval_seconds)
        pause = max(self.interval_seconds, min(limit, doubled) * self._rng.uniform(0.5, 1.0))
        self.due = now + pause
        return pause


@dataclass(frozen=True, slots=True)
class Stamp:
    """Time of a poll. `stepped_back_seconds`: how far the wall clock fell behind just now, 0 in normal times."""

    at: datetime
    stepped_back_seconds: float = 0.0


class RowClock:
    """Wall-clock time that never runs backwards, for the rows of one source.

    After a step back the time given goes on at half the speed of monotonic time until the wall clock has caught up:
    the order of rows and a positive distance between them are kept, and the error shrinks instead of staying.
    """

    def __init__(self) -> None:
        self._at: datetime | None = None
        self._monotonic = 0.0
        self._wall: datetime | None = None

    def stamp(self, wall: datetime, monotonic: float) -> Stamp:
        """The time for rows read at this moment (aware UTC, whole milliseconds, later than any given before)."""
        wall = wall.replace(microsecond=wall.microsecond // 1000 * 1000)
        stepped = 0.0
        at = wall
        if self._at is not None and self._wall is not None:
            elapsed = max(0.0, monotonic - self._monotonic)
            if wall < self._wall:
                stepped = (self._wall - wall).total_seconds() + elapsed
            milliseconds = max(1, int(elapsed * 500))
            at = max(wall, self._at + timedelta(milliseconds=milliseconds)) if wall <= self._at else wall
        self._at, self._monotonic, self._wall = at, monotonic, wall
        return Stamp(at, stepped)
