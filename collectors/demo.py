"""The demo: fill the store with seven days of an invented fleet, then keep it living.

DemoError        the store cannot take a demo (it holds real data, or the demo of another seed)

The back-fill is cut into chunks that lie on a fixed grid; each is one batch with a token made from seed and span,
followed by its synthetic source runs. The newest of those is where the next start continues, so a back-fill that was
killed or a demo that was off for a day fills exactly what is missing.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TextIO

from collectors.synthetic.generator import SyntheticFleet
from fleet.model import Batch, Row

HISTORY = timedelta(days=7)
FINE_HISTORY = timedelta(hours=2)
COARSE_STEP_SECONDS = 60
FINE_STEP_SECONDS = 15
_COARSE_CHUNK_SECONDS = 3 * 3600
_FINE_CHUNK_SECONDS = 1800
_ORIGIN = re.compile(r"seed (-?\d+), origin (\S+)")


class DemoError(Exception):
    """The store cannot take this demo; the message says what was found and what to write instead."""


class Rows(Protocol):
    """A result that can be read as Python rows."""

    def to_pylist(self) -> list[dict[str, Any]]:
        """One dict a row."""
        ...


class DemoStore(Protocol):
    """What the back-fill needs of a store."""

    def append(self, batch: Batch) -> None:
        """Store a batch once."""
        ...

    def query(self, sql: str) -> Rows:
        """Rows of a query."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Instants `step_seconds` apart. The first interval may be shorter, after a demo that stopped off the grid."""

    first: int
    last: int
    step_seconds: int
    first_interval_seconds: float

    @property
    def instants(self) -> list[datetime]:
        """All instants, aware UTC."""
        return [datetime.fromtimestamp(second, UTC) for second in range(self.first, self.last + 1, self.step_seconds)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far the store's demo has come. `half_done`: end and step of a chunk that was stored without its marker.

    `is_new`: the store does not know this story's origin yet.
    """

    fleet: SyntheticFleet
    filled_to: datetime
    half_done: tuple[datetime, int] | None = None
    is_new: bool = False


def find_position(store: DemoStore, seed: int, now: datetime) -> Position:
    """Where the demo in this store stands; a new one starts seven days before now.

    Raises:
        DemoError: the store holds real samples, or a demo of another seed.
    """
    real = store.query(
        "SELECT source, target FROM source_runs"
        " WHERE source NOT IN ('synthetic', 'ledger') AND detail != 'synthetic' ORDER BY at LIMIT 1"
    ).to_pylist()
    if real:
        raise DemoError(
            f"demo: the store holds real samples ({real[0]['source']} {real[0]['target']}); "
            "give the demo a store of its own, e.g. AIFLEET_DATA_DIR=data/demo"
        )
    newest = store.query(
        "SELECT toUnixTimestamp64Milli(at) AS newest, detail FROM source_runs"
        " WHERE source = 'synthetic' AND detail LIKE '%origin%' ORDER BY at DESC LIMIT 1"
    ).to_pylist()
    if not newest:
        return _new_story(seed, now)
    found = _ORIGIN.search(newest[0]["detail"])
    if found is None or int(found[1]) != seed:
        raise DemoError(
            f"demo: the store holds {newest[0]['detail']!r}, asked for seed {seed}; "
            f"use --seed {found[1] if found else '?'} or an empty store"
        )
    fleet = SyntheticFleet(seed, datetime.fromisoformat(found[2]))
    filled_to = datetime.fromtimestamp(newest[0]["newest"] / 1000, UTC)
    # A story that began lately is continued however little of it is stored: its start was killed, not left.
    if max(filled_to, fleet.origin) < now - HISTORY:
        return _new_story(seed, now, not_before=filled_to)
    beyond = store.query(
        "SELECT toUnixTimestamp64Milli(max(at)) AS newest, max(interval_seconds) AS step, count() AS n"
        " FROM container_samples"
        f" WHERE at > fromUnixTimestamp64Milli({round(filled_to.timestamp() * 1000)})"
    ).to_pylist()[0]
    if not beyond["n"]:
        return Position(fleet=fleet, filled_to=filled_to)
    end, step = datetime.fromtimestamp(beyond["newest"] / 1000, UTC), round(beyond["step"])
    if step in (COARSE_STEP_SECONDS, FINE_STEP_SECONDS):
        return Position(fleet=fleet, filled_to=filled_to, half_done=(end, step))
    # A live poll that died between its tables: its token was the runner's, so it cannot be completed, only not doubled.
    return Position(fleet=fleet, filled_to=end)


def _new_story(seed: int, now: datetime, *, not_before: datetime | None = None) -> Position:
    """A demo that begins seven days before now; also after a longer pause, when the old story is out of sight."""
    origin = datetime.fromtimestamp(now.timestamp() // 60 * 60, UTC)
    begin = datetime.fromtimestamp((origin - HISTORY).timestamp() // 3600 * 3600 - COARSE_STEP_SECONDS, UTC)
    begin = begin if not_before is None else max(begin, not_before + timedelta(seconds=1))
    return Position(fleet=SyntheticFleet(seed, origin), filled_to=begin, is_new=True)


def chunks(position: Position, now: datetime) -> Iterator[Chunk]:
    """What is missing until now, oldest first: minutes, then the last two hours in 15 s steps."""
    done = position.filled_to.timestamp()
    if position.half_done is not None:
        end, step = position.half_done
        first = _after(done, step)
        yield Chunk(
            first=first, last=int(end.timestamp()), step_seconds=step, first_interval_seconds=min(step, first - done)
        )
        done = end.timestamp()
    coarse_end = (now - FINE_HISTORY).timestamp()
    for step, size, end in (
        (COARSE_STEP_SECONDS, _COARSE_CHUNK_SECONDS, coarse_end),
        (FINE_STEP_SECONDS, _FINE_CHUNK_SECONDS, now.timestamp()),
    ):
        while (first := _after(done, step)) <= end:
            # A chunk stays inside one slot of the grid, hence inside one day, which is one partition of the store.
            last = min(int(end) // step * step, first // size * size + size - step)
            # A pause is not a long interval: the first instant after it covers one step, like all others.
            yield Chunk(first=first, last=last, step_seconds=step, first_interval_seconds=min(step, first - done))
            done = last


def _after(done: float, step: int) -> int:
    return int(done // step) * step + step


def fill(store: DemoStore, position: Position, now: datetime, progress: Callable[[float, int], None]) -> datetime:
    """Store everything missing until now; returns the last instant stored.

    progress: called with (share done 0-1, rows so far) after each chunk. Store errors pass; a later call continues.
    """
    fleet, filled_to, rows = position.fleet, position.filled_to, 0
    todo = list(chunks(position, now))
    total = sum(len(chunk.instants) for chunk in todo)
    done = 0
    if position.is_new:
        # Before any sample, so that a start that was killed at once is continued with the same origin.
        begin = fleet.run_row(filled_to, float(COARSE_STEP_SECONDS), 0.0, 0)
        store.append(Batch(token=f"synthetic/{fleet.detail}/begin", rows=(begin,)))
    for chunk in todo:
        data, markers = chunk_batches(fleet, chunk, filled_to)
        store.append(data)
        store.append(markers)
        rows += len(data.rows) + len(markers.rows)
        done += len(chunk.instants)
        filled_to = chunk.instants[-1]
        progress(done / total, rows)
    return filled_to


def chunk_batches(fleet: SyntheticFleet, chunk: Chunk, filled_to: datetime) -> tuple[Batch, Batch]:
    """(samples with events and facts, markers) of one chunk; equal arguments give equal batches and tokens."""
    instants = chunk.instants
    rows: list[Row] = []
    if chunk.first_interval_seconds < chunk.step_seconds:
        rows.extend(fleet.block(instants[:1], chunk.first_interval_seconds))
    else:
        rows.extend(fleet.block(instants[:1], chunk.step_seconds))
    if len(instants) > 1:
        rows.extend(fleet.block(instants[1:], chunk.step_seconds))
    rows.extend(fleet.events(filled_to, instants[-1]))
    rows.extend(fleet.facts(instants[-1]))
    name = f"synthetic/{fleet.seed}/{fleet.origin:%Y%m%dT%H%M%S}/{chunk.first}-{chunk.last}/{chunk.step_seconds}"
    each = len(rows) // len(instants)
    markers = tuple(fleet.run_row(at, float(chunk.step_seconds), 0.0, each) for at in instants)
    return Batch(token=name, rows=tuple(rows)), Batch(token=f"{name}/markers", rows=markers)


class ProgressBar:
    """A bar on one line of a terminal; a line at every tenth where the output is no terminal."""

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._started = clock()
        self._tenth = -1

    def __call__(self, share: float, rows: int) -> None:
        """Draw the state: share 0-1 and rows stored."""
        spent = self._clock() - self._started
        left = spent / share * (1 - share) if share else 0.0
        words = f"demo: {share:4.0%}  {rows:,} rows  {spent:.0f} s, about {left:.0f} s left"
        if self._stream.isatty():
            bar = "█" * round(share * 30)
            self._stream.write(f"\r\x1b[K[{bar:<30}] {words}" + ("\n" if share >= 1 else ""))
        elif int(share * 10) > self._tenth:
            self._tenth = int(share * 10)
            self._stream.write(words + "\n")
        self._stream.flush()
