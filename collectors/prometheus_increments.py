"""Cumulative series of Prometheus to increments: whole servers restart, so whole servers are reset.

`fleet.increase` follows one series. Here a target's series share one life: when the process behind it began anew,
every counter and every bucket began at 0 together. Judging each alone would subtract an old bucket from a new one
wherever the new process has already overtaken the old count.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from operator import sub

from fleet.increase import IncreaseTracker

#: A process start is read from the boot time and may move by a clock correction; no model server restarts so fast.
START_TOLERANCE_SECONDS = 2.0
#: What has not been seen for so long begins anew: one row is not made to stand for more than that.
FORGET_SECONDS = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """When the process behind a target began, on its own clock. kind: "process" (its own metric) or "container"."""

    kind: str
    identity: str
    at_seconds: float

    def same_life(self, other: Start) -> bool:
        """Whether this and earlier evidence of the same kind speak of one process."""
        return self.identity == other.identity and abs(self.at_seconds - other.at_seconds) <= START_TOLERANCE_SECONDS


@dataclass(frozen=True, slots=True)
class Buckets:
    """One histogram as exposed: rising bounds ending in +Inf, and cumulative counts."""

    bounds: tuple[float, ...]
    cumulative: tuple[float, ...]

    def fell_since(self, before: Buckets) -> bool:
        """Whether any bucket holds less than it did."""
        return self.bounds == before.bounds and min(map(sub, self.cumulative, before.cumulative)) < 0.0


class SeriesTracker(IncreaseTracker):
    """An IncreaseTracker that can be asked what it remembers before it is told more."""

    def last(self, series: Hashable) -> float | None:
        """Value of the last call, None for a series not seen."""
        return self._last.get(series)

    def keep(self, series: Hashable) -> None:
        """Do not forget this series in the next sweep."""
        if series in self._last:
            self._seen.add(series)


@dataclass(slots=True)
class _Life:
    number: int
    starts: dict[str, Start]  # by kind: the evidence of one poll may be missing in the next
    readings: int
    read_at: float
    scraped_at: float | None
    fields: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """How one reading of one target is to be counted.

    life: part of each series' identity. fresh: there is a scrape newer than the last counted one.
    born: all its series began at 0 since the last reading. seconds: what the increments cover, None at first sight.
    known_fields: fields read for this life before, whose new series are therefore genuinely new.
    same_process: these are sums, and the process that counts them is known to be the same: one that fell has lost a
    series, and what the others added meanwhile is not known. It counts 0; a reset would count all of it again.
    """

    life: int
    fresh: bool
    born: bool
    seconds: float | None
    known_fields: frozenset[str]
    same_process: bool = False


class Lives:
    """Remembers the life of each target and counts its series."""

    def __init__(self) -> None:
        self._tracker = SeriesTracker()
        # Whole histograms, not buckets: 24 times fewer entries, and they are counted together anyway.
        self._buckets: dict[Hashable, Buckets] = {}
        self._buckets_seen: set[Hashable] = set()
        self._lives: dict[Hashable, _Life] = {}
        self._numbers = itertools.count(1)
        self._polled_at: float | None = None
        self._swept_at: float | None = None

    def turn(
        self,
        target: Hashable,
        *,
        now: float,
        scraped_at: float | None,
        start: Start | None,
        values: Iterable[tuple[Hashable, float]],
        histograms: Iterable[tuple[Hashable, Buckets]],
        fields: frozenset[str],
        sums: bool = False,
    ) -> Turn:
        """Decide how this reading counts. now, scraped_at: server clock, seconds; values, histograms: by series.

        sums: the server has added the series up, as for a gateway: one sum that falls says nothing of the others.
        Call once per target and poll, before `count` and `count_buckets`.
        """
        life = self._lives.get(target)
        if life is not None and now - life.read_at > FORGET_SECONDS:
            life = None
        if life is None:
            # Under way before our last poll, or unknown: what it has counted until now was not counted by us.
            born = start is not None and self._polled_at is not None and start.at_seconds > self._polled_at
            self._lives[target] = _Life(
                next(self._numbers), {} if start is None else {start.kind: start}, 1, now, scraped_at, fields
            )
            return Turn(life=self._lives[target].number, fresh=True, born=born, seconds=None, known_fields=frozenset())
        fresh = scraped_at is None or life.scraped_at is None or scraped_at > life.scraped_at
        born = False
        known = None if start is None or start.kind != "process" else life.starts.get(start.kind)
        same_process = sums and start is not None and known is not None and start.same_life(known)
        if fresh:
            born = self._began_anew(life, start, () if sums else values, () if sums else histograms)
            if born:
                life.number, life.readings, life.starts = next(self._numbers), 0, {}
            if start is not None:
                life.starts[start.kind] = start
        # Two readings: the first scrape of a target may be half visible to the queries of one poll.
        known_fields = life.fields if life.readings > 1 else frozenset[str]()
        answer = Turn(
            life=life.number, fresh=fresh, born=born, seconds=now - life.read_at, known_fields=known_fields,
            same_process=same_process,
        )  # fmt: skip
        if fresh:
            life.readings += 1
            life.scraped_at, life.fields = scraped_at, fields
        life.read_at = now
        return answer

    def _began_anew(
        self,
        life: _Life,
        start: Start | None,
        values: Iterable[tuple[Hashable, float]],
        histograms: Iterable[tuple[Hashable, Buckets]],
    ) -> bool:
        known = None if start is None else life.starts.get(start.kind)
        if start is not None and known is not None:
            if not start.same_life(known):
                return True
            if start.kind == "process":
                return False  # the same process: a counter that falls is a fault of that one counter
        number = life.number
        last = self._tracker.last
        if any((before := last((number, series))) is not None and value < before for series, value in values):
            return True
        known_buckets = self._buckets.get
        return any(
            (before := known_buckets((number, series))) is not None and buckets.fell_since(before)
            for series, buckets in histograms
        )

    def count(self, turn: Turn, field: str, series: Hashable, value: float) -> float | None:
        """Increment of one counter, None at first sight."""
        key = (turn.life, series)
        if not turn.fresh:
            self._tracker.keep(key)
            return None if self._tracker.last(key) is None else 0.0
        before = self._tracker.last(key) if turn.same_process else None
        increase = self._tracker.increase(key, value, born_now=turn.born or field in turn.known_fields)
        return 0.0 if before is not None and value < before else increase

    def count_buckets(self, turn: Turn, field: str, series: Hashable, now: Buckets) -> tuple[float, ...] | None:
        """Increments (cumulative too) of one histogram's buckets; None at first sight, or when its bounds changed.

        One bucket that fell resets them all.
        """
        key = (turn.life, series)
        before = self._buckets.get(key)
        self._buckets_seen.add(key)
        if not turn.fresh:
            return None if before is None else (0.0,) * len(now.cumulative)
        self._buckets[key] = now
        if before is None:
            return now.cumulative if turn.born or field in turn.known_fields else None
        if before.bounds != now.bounds:
            return None
        increments = tuple(map(sub, now.cumulative, before.cumulative))
        if min(increments) < 0.0:
            return (0.0,) * len(increments) if turn.same_process else now.cumulative
        return increments

    def end_poll(self, now: float) -> None:
        """Close a poll at `now`, server clock: forgets what has long been gone."""
        self._polled_at = now if self._polled_at is None else max(self._polled_at, now)
        if self._swept_at is None:
            self._swept_at = now
        elif now - self._swept_at > FORGET_SECONDS:
            self._tracker.sweep()
            self._buckets = {key: value for key, value in self._buckets.items() if key in self._buckets_seen}
            self._buckets_seen.clear()
            self._lives = {key: life for key, life in self._lives.items() if now - life.read_at <= FORGET_SECONDS}
            self._swept_at = now
