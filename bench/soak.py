"""Memory of the store over a long time, pressed into minutes; prints one JSON object.

    nice -n 19 python -m bench.soak [--hours 6] [--seconds 1200] [--rows 200] [--seed 7]

Writes the cycles of so many simulated hours as fast as the processor allows, as the collector does: five tables with
their rollups through the spooled writer, retention every hour, and the questions of a live page every twelfth cycle.
RSS is sampled every simulated ten minutes. `slope_mb_per_hour` is that of a straight line through the second half:
about 0 is a plateau, null that the run was too short to say. The baseline is RSS after the first simulated half hour,
when every cache has been touched.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from bench.memory import resident_bytes
from bench.store_ingest import BEGIN, CYCLE_SECONDS, mixed_rows
from fleet.model import Batch
from store import open_store
from store.retention import RetentionPolicy, apply_retention
from store.spool import Spool, SpooledWriter

CYCLES_AN_HOUR = 3600 // CYCLE_SECONDS
_SAMPLES_OF_A_SLOPE = 6
QUESTIONS = (
    "SELECT container_key, argMax(cpu_seconds, at) FROM container_samples"
    " WHERE at > fromUnixTimestamp64Milli({since:Int64}) GROUP BY container_key",
    "SELECT tenant, sum(cpu_seconds), sum(interval_seconds) FROM container_samples_1m GROUP BY tenant",
    "SELECT gpu_uuid, max(busy_ratio) FROM gpu_samples"
    " WHERE at > fromUnixTimestamp64Milli({since:Int64}) GROUP BY gpu_uuid",
)


def slope(points: list[tuple[float, float]]) -> float:
    """Of the least-squares line; 0 for fewer than two points."""
    return statistics.linear_regression(*zip(*points, strict=True)).slope if len(points) > 1 else 0.0


def run(folder: Path, hours: float, seconds: float, rows: int, seed: int) -> dict[str, object]:
    chance = random.Random(seed)
    store = open_store(f"chdb://{folder}/store")
    store.migrate()
    writer = SpooledWriter(store, Spool(folder / "spool", 1 << 28))
    policy = RetentionPolicy()
    samples: list[tuple[float, float]] = []
    began, used = time.monotonic(), time.process_time()
    cycle = 0
    while cycle < hours * CYCLES_AN_HOUR and time.monotonic() - began < seconds:
        at = BEGIN + timedelta(seconds=cycle * CYCLE_SECONDS)
        writer.append(Batch(token=str(cycle), rows=tuple(mixed_rows(chance, at, rows))))
        if cycle % 12 == 0:
            for question in QUESTIONS:
                store.query(question, {"since": round((at - timedelta(minutes=15)).timestamp() * 1000)})
        if cycle % CYCLES_AN_HOUR == 0:
            apply_retention(store, policy, at)
        cycle += 1
        if cycle % (CYCLES_AN_HOUR // 6) == 0:
            samples.append((cycle / CYCLES_AN_HOUR, resident_bytes(os.getpid()) / 1e6))
    took = time.monotonic() - began
    spent = time.process_time() - used
    store.close()
    rise = slope(samples[len(samples) // 2 :]) if len(samples) >= _SAMPLES_OF_A_SLOPE else None
    return {
        "bench": "soak", "seed": seed, "rows_per_cycle": rows, "simulated_hours": round(cycle / CYCLES_AN_HOUR, 2),
        "wall_seconds": round(took), "cpu_ms_per_cycle": round(spent * 1000 / max(cycle, 1), 1),
        "baseline_rss_mb": round(samples[min(2, len(samples) - 1)][1]) if samples else None,
        "rss_mb": [round(value) for _, value in samples],
        "peak_rss_mb": round(max((value for _, value in samples), default=0.0)),
        "slope_mb_per_hour": None if rise is None else round(rise, 2),
        "python": platform.python_version(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=6.0, help="simulated")
    parser.add_argument("--seconds", type=float, default=1200.0, help="stop after this long, however far it came")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(Path(folder), options.hours, options.seconds, options.rows, options.seed)))


if __name__ == "__main__":
    main()
