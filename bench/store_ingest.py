"""How long a batch takes to be acknowledged by the embedded store, and what a row costs on disk once merged.

    python -m bench.store_ingest [--batches 200] [--rows 1000] [--seed 7] [--folder DIR]

Prints JSON. A batch is one poll of `rows` containers every 5 s with both rollups fed in the same insert; a second
figure is the same number of rows spread over five tables, as one cycle of all sources brings them.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fleet.model import Batch, ContainerGpuSample, ContainerSample, GpuSample, Histogram, InferenceSample, Row
from store import Store, open_store

BEGIN = datetime(2026, 11, 22, 10, tzinfo=UTC)
CYCLE_SECONDS = 5
TTFT_BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, math.inf)


def who(number: int) -> dict[str, str]:
    return {
        "host": f"host-{number % 10}",
        "tenant": f"tenant-{number % 40}",
        "container_key": f"host-{number % 10}:app-{number}",
        "container_id": f"{number * 2654435761 % 2**48:012x}",
    }


def container_row(chance: random.Random, at: datetime, number: int) -> ContainerSample:
    return ContainerSample(
        at=at,
        **who(number),
        interval_seconds=CYCLE_SECONDS + chance.gauss(0, 0.01),
        cpu_seconds=round(abs(chance.gauss(1, 0.5)), 6),
        cpu_periods=50,
        cpu_throttled_periods=0,
        cpu_throttled_seconds=0.0,
        memory_working_set_bytes=int(2e9 + chance.gauss(0, 1e7)) // 4096 * 4096,
        memory_cache_bytes=int(5e8 + number * 4096),
        memory_limit_bytes=8 << 30,
        network_receive_bytes=int(chance.expovariate(1e-5)),
        network_transmit_bytes=int(chance.expovariate(1e-5)),
        block_read_bytes=0,
        block_write_bytes=int(chance.expovariate(1e-4)),
        pids=30 + number % 7,
        oom_kills=0,
        state="running",
        health="healthy",
    )


def mixed_rows(chance: random.Random, at: datetime, rows: int) -> Iterator[Row]:
    """Half container rows, then GPUs, shares, inference and histograms."""
    for number in range(rows // 2):
        yield container_row(chance, at, number)
    for number in range(rows // 10):
        yield GpuSample(
            at=at, host=f"host-{number % 10}", gpu_uuid=f"GPU-{number:08x}", gpu_index=number % 8,
            interval_seconds=CYCLE_SECONDS, busy_ratio=chance.random(), memory_used_bytes=int(chance.random() * 80e9),
            power_watts=chance.gauss(400, 50), energy_joules=chance.gauss(2000, 250), temperature_celsius=60.0,
        )  # fmt: skip
    for number in range(rows // 5):
        yield ContainerGpuSample(
            at=at, **who(number), gpu_uuid=f"GPU-{number % (rows // 10):08x}", interval_seconds=CYCLE_SECONDS,
            held=True, memory_bytes=int(chance.random() * 40e9), sm_ratio=chance.random(), attribution="measured",
        )  # fmt: skip
    for number in range(rows // 10):
        yield InferenceSample(
            at=at, **who(number), prometheus="main", endpoint=f"10.0.0.{number}:8000", server="vllm", model="llama",
            interval_seconds=CYCLE_SECONDS, up=True, requests=float(chance.randrange(50)), errors=0.0,
            prompt_tokens=float(chance.randrange(50_000)), generation_tokens=float(chance.randrange(10_000)),
        )  # fmt: skip
    for number in range(rows - rows // 2 - rows // 10 - rows // 5 - rows // 10):
        yield Histogram(
            at=at, **who(number), endpoint=f"10.0.0.{number}:8000", server="vllm", model="llama", field="ttft_seconds",
            interval_seconds=CYCLE_SECONDS, bounds=TTFT_BOUNDS, sum_increment=chance.random() * 30,
            increments=tuple(float(chance.randrange(6)) for _ in TTFT_BOUNDS),
        )  # fmt: skip


def timed_appends(store: Store, name: str, batches: list[Batch]) -> dict[str, float]:
    """Milliseconds until a batch is acknowledged; the first five are warm-up."""
    took: list[float] = []
    used = time.process_time()
    for batch in batches:
        began = time.perf_counter()
        store.append(Batch(token=f"{name}-{batch.token}", rows=batch.rows))
        took.append((time.perf_counter() - began) * 1000)
    used = time.process_time() - used
    warm = sorted(took[5:])
    return {
        "batches": len(warm),
        "min_ms": round(warm[0], 1),
        "median_ms": round(statistics.median(warm), 1),
        "p99_ms": round(warm[min(len(warm) - 1, math.ceil(len(warm) * 0.99) - 1)], 1),
        "max_ms": round(warm[-1], 1),
        "cpu_ms_per_batch": round(used * 1000 / len(batches), 1),
    }


def bytes_per_row(store: Store) -> dict[str, dict[str, float]]:
    """Rows and bytes a row of every table, each partition merged into one part."""
    listing = "SELECT DISTINCT table AS t FROM system.parts WHERE active AND database = currentDatabase()"
    tables = [row["t"] for row in store.query(listing).to_pylist()]
    for table in tables:
        store.command(f"OPTIMIZE TABLE {table} FINAL")
    sizes = store.query(
        "SELECT table AS t, sum(rows) AS n, sum(bytes_on_disk) AS b FROM system.parts "
        "WHERE active AND database = currentDatabase() GROUP BY table ORDER BY table"
    ).to_pylist()
    return {size["t"]: {"rows": size["n"], "bytes_per_row": round(size["b"] / size["n"], 1)} for size in sizes}


def run(folder: Path, batches: int, rows: int, seed: int) -> dict[str, object]:
    chance = random.Random(seed)
    store = open_store(f"chdb://{folder}")
    store.migrate()
    times = [BEGIN + timedelta(seconds=CYCLE_SECONDS * number) for number in range(batches)]
    one_table = [
        Batch(token=str(number), rows=tuple(container_row(chance, at, container) for container in range(rows)))
        for number, at in enumerate(times)
    ]
    five_tables = [
        Batch(token=str(number), rows=tuple(mixed_rows(chance, at, rows)))
        for number, at in enumerate(times[: batches // 4])
    ]
    gc.freeze()
    result = {
        "bench": "store_ingest",
        "seed": seed,
        "rows_per_batch": rows,
        "one_table": timed_appends(store, "one", one_table),
        "five_tables": timed_appends(store, "five", five_tables),
    }
    result["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    result["merged"] = bytes_per_row(store)
    engine = store.query("SELECT version() AS v").to_pylist()[0]["v"]
    result["versions"] = {"python": platform.python_version(), "engine": engine, "cores": os.cpu_count()}
    store.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to put the store; default: a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        print(json.dumps(run(Path(folder), arguments.batches, arguments.rows, arguments.seed), indent=2))


if __name__ == "__main__":
    main()
