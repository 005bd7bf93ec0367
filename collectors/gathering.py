"""Which batches are stored at once, and which wait to be stored with others. No I/O; the time is an argument.

An insert costs the store nearly as much for one poll as for three, and twice more for the rollups behind the table.
While nobody looks, the batches of several polls therefore share one insert a table. A look, and everything that went
wrong, ends the wait. While somebody looks, only the rows of polls that went well wait, a moment, for each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from fleet.model import Batch, Event, GpuJob, Row, SourceRun

#: States of a poll that nobody needs to see this very second.
QUIET = frozenset({"ok", "absent"})
#: Longer than the followers of a Docker poll start after it; shorter than any sensible interval.
RUNS_WAIT_SECONDS = 2.0
#: A page that is open asks every few seconds, at most once a minute.
WATCHED_SECONDS = 60.0
#: About 20 MB of rows.
ROWS_LIMIT = 20_000


@dataclass(frozen=True, slots=True)
class Parcel:
    """Batches to be stored now as one. `late`: they waited, so a reader may miss them."""

    batches: tuple[Batch, ...]
    late: bool


class Gathering:
    """Batches on their way. One caller at a time; `now` is monotonic, in seconds."""

    def __init__(
        self,
        now: float,
        *,
        unwatched_seconds: float = 0.0,
        runs_wait_seconds: float = 0.0,
        watched_seconds: float = WATCHED_SECONDS,
        rows_limit: int = ROWS_LIMIT,
    ) -> None:
        """The start counts as a look.

        unwatched_seconds: longest wait of a batch while nobody looks; 0 for none. runs_wait_seconds: longest wait of
        the row of a poll that went well while somebody does; 0 for none. watched_seconds: how long a look counts.
        """
        self._unwatched_seconds = unwatched_seconds
        self._runs_wait_seconds = runs_wait_seconds
        self._watched_seconds = watched_seconds
        self._rows_limit = rows_limit
        self._looked = now
        self._held: list[Batch] = []
        self._held_rows = 0
        self._held_due = 0.0
        self._late = False
        self._runs: list[Row] = []
        self._runs_token = ""
        self._runs_due = 0.0

    @property
    def held_batches(self) -> int:
        """Batches that wait for others."""
        return len(self._held)

    def look(self, now: float) -> None:
        """Somebody looks: what waits is due, and for a while nothing more will wait."""
        self._looked = now
        self.hurry(now)

    def hurry(self, now: float) -> None:
        """What waits is due; those that follow may wait again."""
        self._held_due = min(self._held_due, now)

    def add(self, batch: Batch, now: float) -> None:
        """Take in a batch; `take` gives it out, alone or with those before it."""
        watched = not self._unwatched_seconds or now - self._looked < self._watched_seconds
        if watched and not self._held:
            batch = self._without_runs(batch, now)
            self._late, self._held_due = False, now
        elif not self._held:
            self._late, self._held_due = True, now + self._unwatched_seconds
        if not batch.rows:
            return
        self._held.append(batch)
        self._held_rows += len(batch.rows)
        if watched or self._held_rows >= self._rows_limit or any(_urgent(row) for row in batch.rows):
            self.hurry(now)

    def take(self, now: float, *, everything: bool = False) -> Parcel | None:
        """What is to be stored now, oldest first; None when there is nothing, or nothing yet."""
        if self._held and (everything or now >= self._held_due):
            parcel = Parcel(tuple(self._held), self._late)
            self._held, self._held_rows = [], 0
            return parcel
        if self._runs and (everything or now >= self._runs_due):
            parcel = Parcel((Batch(token=f"{self._runs_token}/runs", rows=tuple(self._runs)),), late=False)
            self._runs = []
            return parcel
        return None

    def pause(self, now: float) -> float | None:
        """Seconds until `take` has something without a further `add` or `look`; None when it will not."""
        due = [*([self._held_due] if self._held else []), *([self._runs_due] if self._runs else [])]
        return max(0.0, min(due) - now) if due else None

    def _without_runs(self, batch: Batch, now: float) -> Batch:
        """The batch less the row of its poll, which waits: unless something went wrong, which is told at once."""
        waiting = [row for row in batch.rows if isinstance(row, SourceRun) and row.state in QUIET]
        if not waiting or not self._runs_wait_seconds:
            return batch
        if not self._runs:
            self._runs_token = batch.token
            self._runs_due = now + self._runs_wait_seconds
        self._runs.extend(waiting)
        rest = tuple(row for row in batch.rows if not (isinstance(row, SourceRun) and row.state in QUIET))
        return Batch(token=batch.token, rows=rest)


def merged(batches: Sequence[Batch]) -> Batch:
    """One batch of all rows in order; equal batches give an equal token. How polls went comes after what they brought.

    The last, because tables are stored in the order in which their first row comes, and who finds the row of a poll
    may rely on the rest of it.
    """
    if len(batches) == 1:
        return batches[0]
    digest = hashlib.sha256("\n".join(batch.token for batch in batches).encode("utf-8", "replace")).hexdigest()[:32]
    rows = [row for batch in batches for row in batch.rows]
    brought = [row for row in rows if not isinstance(row, SourceRun)]
    went = [row for row in rows if isinstance(row, SourceRun)]
    return Batch(token=f"{batches[0].token}/and-{len(batches) - 1}/{digest}", rows=(*brought, *went))


def _urgent(row: Row) -> bool:
    """Whether a row is of the kind that an operator, or a bill, must not wait for."""
    if isinstance(row, SourceRun):
        return row.state not in QUIET
    return isinstance(row, GpuJob) or (isinstance(row, Event) and row.severity != "info")
