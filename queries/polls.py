"""What the sources did in a span of time, from their own polls.

Every answer of every page rests on this, and polls have no rollup: a week of 30 targets is 3.6 million rows. So their
sums by hour are kept for a while, and of each look only the last hours and the broken hour at the start are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fleet.model import Window
from queries.resolution import epoch_ms
from queries.scoping import Where, during
from queries.sharing import KEPT_SECONDS, shared, shared_for
from store import Store

_HOUR_MS = 3_600_000
#: A poll stamped at a full hour tells of the hour before it.
_HOUR = f"intDiv(toUnixTimestamp64Milli(at) - 1, {_HOUR_MS})"


@dataclass(slots=True, kw_only=True)
class Polls:
    """One source and target. Seconds are sums of polls' intervals; times are epoch milliseconds, 0 = never."""

    source: str
    target: str
    good_seconds: float = 0.0
    tried_seconds: float = 0.0
    good_last_hour_seconds: float = 0.0
    first_ms: int = 0
    newest_ms: int = 0
    good_ms: int = 0
    step_seconds: float = 0.0
    state: str = ""

    def add(self, row: dict[str, Any], *, inside: bool) -> None:
        """Count the polls of a row, in the sums too if they are inside the window."""
        if inside:
            self.good_seconds += row["good"]
            self.tried_seconds += row["tried"]
        self.first_ms = min(self.first_ms or row["first_ms"], row["first_ms"])
        self.good_ms = max(self.good_ms, row["good_ms"])
        if row["newest_ms"] >= self.newest_ms:
            self.newest_ms, self.step_seconds, self.state = row["newest_ms"], row["step"], row["last_state"]


@shared
def polls(store: Store, window: Window, memory: timedelta) -> list[Polls]:
    """What each source and target did in the window, of those polled in it or within `memory` before; by name.

    The sums are of the window, the times and the state also of the memory before it.
    """
    start_ms, end_ms = epoch_ms(window.start), epoch_ms(window.end)
    oldest_ms = start_ms - round(memory.total_seconds() * 1000)
    cut = (end_ms - _HOUR_MS) // _HOUR_MS  # hours from here on are read poll by poll, so the last one always is
    first_whole = -(-start_ms // _HOUR_MS)
    found: dict[tuple[str, str], Polls] = {}

    def of(row: dict[str, Any]) -> Polls:
        return found.setdefault((row["source"], row["target"]), Polls(source=row["source"], target=row["target"]))

    for row in _hours(store, oldest_ms // _HOUR_MS, cut):
        of(row).add(row, inside=first_whole <= row["hour"] < cut)
    after_ms, hour_ms = max(start_ms, cut * _HOUR_MS), end_ms - _HOUR_MS
    # Pages ask for the day and for the last hour: both are in one reading.
    of_hour = after_ms == hour_ms
    for row in _tail(store, cut * _HOUR_MS, cut * _HOUR_MS if of_hour else after_ms, end_ms):
        one = of(row)
        one.add({**row, "good": row["good_hour"], "tried": row["tried_hour"]} if of_hour else row, inside=True)
        one.good_last_hour_seconds += row["good_hour"]
    if start_ms < (head_ms := min(first_whole, cut) * _HOUR_MS):
        for row in _between(store, start_ms, head_ms):
            of(row).add(row, inside=True)
    known = [one for one in found.values() if one.newest_ms > oldest_ms]
    return sorted(known, key=lambda one: (one.source, one.target))


_COLUMNS = (
    "toUnixTimestamp64Milli(min(at)) - toInt64(argMin(interval_seconds, at) * 1000) AS first_ms,"
    " toUnixTimestamp64Milli(max(at)) AS newest_ms, toUnixTimestamp64Milli(maxIf(at, state != 'failed')) AS good_ms,"
    " argMax(interval_seconds, at) AS step, argMax(state, at) AS last_state"
)


@shared_for(KEPT_SECONDS)
def _hours(store: Store, first: int, end: int) -> list[dict[str, Any]]:
    """Polls by source, target and hour; hours since 1970, from `first` to before `end`."""
    if first >= end:
        return []
    span = Window(start=_hour_time(first), end=_hour_time(end))
    where = during(Where("1"), span)
    return store.query(
        f"SELECT source, target, {_HOUR} AS hour, sumIf(toFloat64(interval_seconds), state != 'failed') AS good,"
        f" sum(toFloat64(interval_seconds)) AS tried, {_COLUMNS} FROM source_runs WHERE {where.sql}"
        " GROUP BY source, target, hour",
        where.parameters,
    ).to_pylist()


def _hour_time(hour: int) -> datetime:
    return datetime.fromtimestamp(hour * _HOUR_MS / 1000, tz=UTC)


_GOOD = "sumIf(toFloat64(interval_seconds), state != 'failed'"


def _after(name: str) -> str:
    return f"at > fromUnixTimestamp64Milli({{{name}:Int64}}, 'UTC')"


@shared
def _tail(store: Store, cut_ms: int, start_ms: int, end_ms: int) -> list[dict[str, Any]]:
    """Polls after `cut_ms`, with the sums of those after `start_ms` and of the last hour."""
    return store.query(
        f"""
        SELECT source, target, {_GOOD} AND {_after("start_ms")}) AS good, {_GOOD} AND {_after("hour_ms")}) AS good_hour,
            sumIf(toFloat64(interval_seconds), {_after("start_ms")}) AS tried,
            sumIf(toFloat64(interval_seconds), {_after("hour_ms")}) AS tried_hour, {_COLUMNS}
        FROM source_runs WHERE {_after("cut_ms")} AND NOT {_after("end_ms")} GROUP BY source, target
        """,
        {"cut_ms": cut_ms, "start_ms": start_ms, "end_ms": end_ms, "hour_ms": end_ms - _HOUR_MS},
    ).to_pylist()


def _between(store: Store, start_ms: int, end_ms: int) -> list[dict[str, Any]]:
    """Polls of a part of an hour."""
    return store.query(
        f"""
        SELECT source, target, {_GOOD}) AS good, sum(toFloat64(interval_seconds)) AS tried, {_COLUMNS}
        FROM source_runs WHERE {_after("start_ms")} AND NOT {_after("end_ms")} GROUP BY source, target
        """,
        {"start_ms": start_ms, "end_ms": end_ms},
    ).to_pylist()


def last_failures(store: Store, window: Window) -> dict[tuple[str, str], tuple[str, str]]:
    """(source, target) -> reason and error of its last failed poll in the window."""
    where = during(Where("state = 'failed'"), window)
    rows = store.query(
        "SELECT source, target, argMax(reason, at) AS why, argMax(error, at) AS words FROM source_runs"
        f" WHERE {where.sql} GROUP BY source, target",
        where.parameters,
    ).to_pylist()
    return {(row["source"], row["target"]): (row["why"], row["words"]) for row in rows}


@dataclass(frozen=True, slots=True)
class Silence:
    """Where silence can be: hours to read (epoch seconds), and in which hours each (source, target) was polled."""

    hours: frozenset[int]
    polled: dict[tuple[str, str], frozenset[int]]

    def between(self, source: str, target: str, start: datetime, end: datetime) -> bool:
        """True when nothing was polled in the whole hours between two polls of the hours that were read."""
        first, last = (int(moment.timestamp()) // 3600 for moment in (start, end))
        polled = self.polled.get((source, target), frozenset())
        return not any(hour in polled for hour in range(first + 1, last))


def silences(store: Store, window: Window) -> Silence:
    """The hours that are short of polls of any target, with those around them; the last one or two always."""
    first, end = epoch_ms(window.start) // _HOUR_MS, epoch_ms(window.end) // _HOUR_MS
    cut = (epoch_ms(window.end) - _HOUR_MS) // _HOUR_MS
    seen: dict[tuple[str, str], dict[int, float]] = {}
    for row in _hours(store, first, cut):
        seen.setdefault((row["source"], row["target"]), {})[row["hour"]] = row["tried"]
    read: set[int] = set(range(cut - 1, end + 1))
    for hours in seen.values():
        polled = sorted(hours)
        for number, hour in enumerate(polled):
            following = polled[number + 1] if number + 1 < len(polled) else cut
            # Fifteen seconds are the shortest silence that is told.
            if hours[hour] <= 3600.0 - 15.0 or following != hour + 1:
                read |= {hour, hour + 1, following, polled[max(0, number - 1)]}
    return Silence(frozenset(hour * 3600 for hour in read), {key: frozenset(hours) for key, hours in seen.items()})
