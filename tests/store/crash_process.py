"""Appends numbered batches and acknowledges each on stdout, until it is killed."""

from __future__ import annotations

import itertools
import math
from datetime import UTC, datetime, timedelta

from fleet.model import Batch, ContainerSample, Histogram
from store import open_store

BEGIN = datetime(2026, 11, 22, 10, tzinfo=UTC)
ROWS = 40


def numbered_batch(number: int) -> Batch:
    """The same number is the same batch: 40 samples and one histogram, told apart by `container_key`."""
    at = BEGIN + timedelta(seconds=number)
    who = {"host": "h", "tenant": "t", "container_key": f"batch-{number}"}
    samples = tuple(
        ContainerSample(at=at, **who, container_id=str(row), interval_seconds=1, cpu_seconds=0.5) for row in range(ROWS)
    )
    histogram = Histogram(
        at=at, **who, container_id="", endpoint="e", server="s", model="m", field="f", interval_seconds=1,
        bounds=(1.0, math.inf), increments=(2.0, 1.0),
    )  # fmt: skip
    return Batch(token=f"batch-{number}", rows=(*samples, histogram))


def main(path: str, first: int) -> None:
    store = open_store(f"chdb://{path}")
    store.migrate()
    print("open", flush=True)
    for number in itertools.count(first):
        store.append(numbered_batch(number))
        print(number, flush=True)
