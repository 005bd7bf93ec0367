"""`python -m collectors once`: read every source, say what each brought, store nothing.

Counters become increments only between two readings, so every source is read twice, a moment apart.
"""

from __future__ import annotations

import dataclasses
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar, cast

from collectors.base import Source
from collectors.outcome import Outcome, poll_within
from collectors.runner import utc_now
from fleet.model import Container, ContainerGpuSample, ContainerSample, GpuSample, InferenceSample, Row

R = TypeVar("R", bound=Row)
WAIT_SECONDS = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What one source brought. `first` is there for facts that are only told once; `outcome` is the second reading."""

    source: Source
    first: Outcome
    outcome: Outcome
    took_seconds: float

    @property
    def rows(self) -> tuple[Row, ...]:
        """Rows of both readings, older first."""
        return (*self.first.rows, *self.outcome.rows)


def read_all(
    groups: Sequence[Sequence[Source]],
    *,
    wait_seconds: float = WAIT_SECONDS,
    wall: Callable[[], datetime] = utc_now,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Read]:
    """Read all sources twice. Groups go one after the other (Docker before those that join to it), each at once."""
    first = {id(source): (outcome, took) for group in groups for source, outcome, took in _round(group, wall)}
    # A thread that hangs is still inside its source: that one is not entered a second time.
    again = [[source for source in group if first[id(source)][0].reason != "timeout"] for group in groups]
    if any(again):
        sleep(wait_seconds)
    second = {id(source): (outcome, took) for group in again for source, outcome, took in _round(group, wall)}
    found: list[Read] = []
    for source in (source for group in groups for source in group):
        outcome, took = second.get(id(source), first[id(source)])
        found.append(Read(source=source, first=first[id(source)][0], outcome=outcome, took_seconds=took))
    return found


def _round(group: Sequence[Source], wall: Callable[[], datetime]) -> list[tuple[Source, Outcome, float]]:
    found: dict[int, tuple[Source, Outcome, float]] = {}

    def read(source: Source) -> None:
        found[id(source)] = (source, *poll_within(source, wall()))

    threads = [threading.Thread(target=read, args=(source,), daemon=True) for source in group]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[id(source)] for source in group]


def report(reads: Sequence[Read], at: datetime) -> dict[str, object]:
    """Everything that was read, as JSON-ready values: sources, containers, GPUs, shares of GPUs, endpoints.

    null is "could not be read"; `unknown_reason` says why. Containers are those of the second reading.
    """
    facts = {row.container_id: row for read in reads for row in read.rows if isinstance(row, Container)}
    return {
        "at": at.isoformat(),
        "sources": [_source(read) for read in reads],
        "containers": [_container(row, facts.get(row.container_id)) for row in _newest(reads, ContainerSample)],
        "gpus": [_values(row) for row in _newest(reads, GpuSample)],
        "gpu_shares": [_values(row) for row in _newest(reads, ContainerGpuSample)],
        "endpoints": [_values(row) for row in _newest(reads, InferenceSample)],
    }


def _newest(reads: Sequence[Read], kind: type[R]) -> list[R]:
    return [row for read in reads for row in read.outcome.rows if isinstance(row, kind)]


def _source(read: Read) -> dict[str, object]:
    outcome = read.outcome
    return {
        "source": read.source.kind,
        "target": read.source.target,
        "state": outcome.state,
        "took_seconds": round(read.took_seconds, 4),
        "rows": dict(Counter(row.table for row in outcome.rows)),
        "gaps": [dataclasses.asdict(gap) for gap in outcome.gaps],
        "reason": outcome.reason,
        "error": outcome.error,
        "next_step": outcome.next_step,
        "detail": outcome.detail,
    }


def _container(row: ContainerSample, facts: Container | None) -> dict[str, object]:
    cores = None if row.cpu_seconds is None or row.interval_seconds <= 0 else row.cpu_seconds / row.interval_seconds
    named = {
        "name": facts.name if facts else row.container_key.rpartition(":")[2],
        "image": facts.image if facts else None,
        "cpu_cores": None if cores is None else round(cores, 6),
    }
    return {**named, **_values(row)}


def _values(row: Row) -> dict[str, object]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in dataclasses.asdict(row).items()
    }


def as_json(found: dict[str, object]) -> str:
    """The report as JSON text; what is no number in JSON (NaN, infinity) is null."""
    return json.dumps(_finite(found), indent=1, ensure_ascii=False)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in cast("dict[object, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in cast("Sequence[object]", value)]
    return value


def as_text(reads: Sequence[Read]) -> str:
    """The report for a person: one line a source, one line a container, GPU and endpoint."""
    lines: list[str] = []
    for read in reads:
        outcome = read.outcome
        lines.append(f"{outcome.state:8}{read.source.kind} {read.source.target}: {_words(read)}")
        lines += [f"{'':8}gap: {plain(gap.subject)}: {gap.reason} ({plain(gap.detail)})" for gap in outcome.gaps]
        if outcome.next_step:
            lines.append(f"{'':8}next: {plain(outcome.next_step)}")
    containers = _newest(reads, ContainerSample)
    if containers:
        lines += ["", f"{'container':40}{'tenant':20}{'state':12}{'CPU cores':>10}{'memory MB':>12}"]
    for row in sorted(containers, key=lambda row: row.container_key):
        cores = None if row.cpu_seconds is None or row.interval_seconds <= 0 else row.cpu_seconds / row.interval_seconds
        memory = None if row.memory_working_set_bytes is None else row.memory_working_set_bytes / 1e6
        numbers = f"{_number(cores, 3):>10}{_number(memory, 1):>12}"
        key, tenant = plain(row.container_key), plain(row.tenant)
        lines.append(f"{key:39.39} {tenant:19.19} {row.state:12}{numbers}  {plain(row.unknown_reason)}".rstrip())
    for gpu in _newest(reads, GpuSample):
        used = None if gpu.memory_used_bytes is None else gpu.memory_used_bytes / 1e9
        lines.append(
            f"GPU {gpu.gpu_index} {gpu.gpu_uuid}: busy {_number(gpu.busy_ratio, 2)}, memory {_number(used, 2)} GB"
        )
    for endpoint in _newest(reads, InferenceSample):
        joined = plain(endpoint.container_key) or f"no container ({plain(endpoint.join_reason)})"
        lines.append(f"endpoint {plain(endpoint.endpoint)} {plain(endpoint.model)}: {joined}")
    return "\n".join(lines)


def _words(read: Read) -> str:
    outcome = read.outcome
    if outcome.failed:
        return f"{outcome.reason}: {plain(outcome.error)}"
    counts = ", ".join(f"{count} {table}" for table, count in sorted(Counter(r.table for r in outcome.rows).items()))
    words = counts or "no rows"
    return f"{words} in {read.took_seconds * 1000:.0f} ms" + (f"; {plain(outcome.detail)}" if outcome.detail else "")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def plain(text: str) -> str:
    """The text without anything a terminal would obey: names and labels of containers are strangers' input."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
