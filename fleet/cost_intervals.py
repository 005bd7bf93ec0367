"""Spans of time and values that hold over them: what the allocation is cut by.

A span is half-open, [start, end), in whole microseconds since 1970 UTC: additions are exact, and a day of 23 or 25
hours is only another length. Leap seconds do not exist in it, as they do not in any clock that samples come from.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from itertools import pairwise, zip_longest
from typing import Generic, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class IntervalError(ValueError):
    """A span that ends before it starts, a time without a zone, or two values at once; says which."""


def instant(at: datetime) -> int:
    """Microseconds since 1970 UTC. Raises IntervalError for a time without a zone."""
    if at.tzinfo is None:
        raise IntervalError(f"{at.isoformat()} has no time zone; write it with an offset, like {at.isoformat()}Z")
    return (at - _EPOCH) // _MICROSECOND


def moment(at: int) -> datetime:
    """The time of an instant, aware UTC."""
    return _EPOCH + timedelta(microseconds=at)


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """[start, end) in microseconds since 1970 UTC; may be empty."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise IntervalError(
                f"ends at {moment(self.end).isoformat()}, before it starts at {moment(self.start).isoformat()}"
            )

    @classmethod
    def of(cls, start: datetime, end: datetime) -> Span:
        """The span between two aware times. Raises IntervalError."""
        return cls(instant(start), instant(end))

    @property
    def length(self) -> int:
        """Microseconds."""
        return self.end - self.start

    @property
    def words(self) -> str:
        """Both ends, as ISO 8601 in UTC."""
        return f"{moment(self.start):%Y-%m-%dT%H:%M:%SZ} to {moment(self.end):%Y-%m-%dT%H:%M:%SZ}"

    def within(self, other: Span) -> Span:
        """The common part, empty where there is none."""
        start = min(max(self.start, other.start), other.end)
        return Span(start, max(start, min(self.end, other.end)))


class Timeline(Generic[T]):
    """Values that hold over spans, one at a time, with holes where none does. Empty spans are left out."""

    def __init__(self, entries: Iterable[tuple[Span, T]] = (), *, what: str = "values") -> None:
        """Raises IntervalError when two spans overlap, also with equal values: one of them is a slip."""
        found = sorted((entry for entry in entries if entry[0].length), key=lambda entry: entry[0])
        for (before, _), (after, _) in pairwise(found):
            if after.start < before.end:
                raise IntervalError(f"{what} overlap: {before.words} and {after.words}; end the first one earlier")
        self.entries: tuple[tuple[Span, T], ...] = tuple(found)
        self._starts = [span.start for span, _ in found]

    def at(self, instant: int) -> T | None:
        """The value at an instant; None in a hole."""
        place = bisect_right(self._starts, instant) - 1
        if place < 0:
            return None
        span, value = self.entries[place]
        return value if instant < span.end else None

    def edges(self, within: Span) -> Iterator[int]:
        """Instants inside the span at which the value may change."""
        for span, _ in self.entries:
            for edge in (span.start, span.end):
                if within.start < edge < within.end:
                    yield edge

    def clipped(self, within: Span) -> Timeline[T]:
        """What holds inside the span."""
        return Timeline((span.within(within), value) for span, value in self.entries)

    def carried(self, longest: int) -> Timeline[T]:
        """Each value goes on into the hole after it, at most `longest` microseconds: a missed sample or two."""
        return Timeline(
            (Span(span.start, span.end + longest if end is None else min(span.end + longest, end)), value)
            for (span, value), end in zip_longest(self.entries, self._starts[1:])
        )


def pieces(whole: Span, edges: Iterable[int]) -> Iterator[Span]:
    """The span cut at the edges inside it; nothing for an empty one."""
    at = whole.start
    for edge in sorted({edge for edge in edges if whole.start < edge < whole.end} | {whole.end}):
        if edge > at:
            yield Span(at, edge)
            at = edge


def merged(spans: Iterable[Span]) -> list[Span]:
    """The union of the spans, in order, without overlaps."""
    found: list[Span] = []
    for span in sorted(one for one in spans if one.length):
        if found and span.start <= found[-1].end:
            found[-1] = Span(found[-1].start, max(found[-1].end, span.end))
        else:
            found.append(span)
    return found


def site_days(whole: Span, zone: tzinfo) -> Timeline[date]:
    """The calendar days of a site that the span touches, from local midnight to local midnight: 23, 24 or 25 hours."""
    if not whole.length:
        return Timeline()
    day = moment(whole.start).astimezone(zone).date()
    found: list[tuple[Span, date]] = []
    start = _midnight(day, zone)
    while start < whole.end:
        following = day + timedelta(days=1)
        end = _midnight(following, zone)
        # A site that moved across the date line had a day of no length: it is not one.
        found.append((Span(start, max(start, end)).within(whole), day))
        day, start = following, max(start, end)
    return Timeline(found)


def _midnight(day: date, zone: tzinfo) -> int:
    """When the day begins; where clocks skip midnight, the first instant after it."""
    # fold=0 in a skipped hour gives the offset before the change, which is the instant of the change or after it.
    return instant(datetime.combine(day, time(), zone).astimezone(UTC))


def local_instant(at: datetime, zone: tzinfo) -> int:
    """A local time without offset as an instant. Raises IntervalError where clocks skip it or show it twice."""
    first, second = (at.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first == second:
        return instant(first)
    happened = first.astimezone(zone).replace(tzinfo=None) == at
    told = "happens twice" if happened else "does not exist"
    raise IntervalError(
        f"{at.isoformat()} {told} in {zone}: clocks change then; write it with an offset, like {at.isoformat()}+01:00"
    )


def sweep(whole: Span, timelines: Mapping[K, Timeline[T]]) -> Iterator[tuple[Span, Mapping[K, T]]]:
    """Cuts the span wherever a value changes and gives with each piece what holds in it.

    The mapping is the same one every time, changed in between: take out of it what is needed, do not keep it.
    """
    # (instant, ends before starts, place in the order given): the values themselves are never compared.
    changes: list[tuple[int, int, int, K, T | None]] = []
    for key, line in timelines.items():
        for span, value in line.entries:
            inside = span.within(whole)
            if inside.length:
                changes.append((inside.start, 1, len(changes), key, value))
                changes.append((inside.end, 0, len(changes), key, None))
    changes.sort(key=lambda change: change[:3])
    holding: dict[K, T] = {}
    at = whole.start
    for instant, starts, _, key, value in changes:
        if instant > at:
            yield Span(at, instant), holding
            at = instant
        if starts and value is not None:
            holding[key] = value
        else:
            del holding[key]
    if at < whole.end:
        yield Span(at, whole.end), holding
