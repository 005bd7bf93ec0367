"""CPU of the Docker source and of the daemon it reads, at a steady cycle with many containers.

    python -m bench.cycle_cpu [--containers 100] [--cycle-seconds 5] [--cycles 6]

The source polls in this process, its event listener included. What dockerd and containerd use in the same time is
counted in full; what they use while nobody polls is measured before and given beside it. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path

from bench.docker_sweep import machine, start_containers
from collectors.sources.docker import DockerSource
from fleet.inventory import Inventory
from fleet.settings_table import DockerDaemon
from fleet.tenancy import Tenancy
from tests.services.dockerd import Dockerd, running_dockerd


def process_seconds(pids: tuple[int, ...]) -> float:
    """User and system time of all threads, from schedstat: /proc/<pid>/stat counts in hundredths only."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def measure(containers: int, cycle_seconds: float, cycles: int, seed: int) -> dict[str, object]:
    about = machine()
    with running_dockerd() as daemon:
        start_containers(daemon, containers, seed)
        time.sleep(2.0)
        idle = watch(daemon, None, cycle_seconds, max(cycles // 2, 2))
        source = DockerSource(DockerDaemon(url=daemon.url, name="bench"), Tenancy(), Inventory())
        first_began, first_cpu = time.perf_counter(), time.process_time()
        source.collect(datetime.now(UTC))
        first = {
            "first_poll_wall_ms": round((time.perf_counter() - first_began) * 1e3, 1),
            "first_poll_cpu_ms": round((time.process_time() - first_cpu) * 1e3, 1),
        }
        source.collect(datetime.now(UTC))
        busy = watch(daemon, source, cycle_seconds, cycles)
        source.close()
    percent = {
        "source_percent": busy["source"],
        "docker_percent": busy["docker"],
        "docker_percent_without_us": idle["docker"],
        "total_percent": busy["source"] + busy["docker"],
        "total_percent_less_idle_docker": busy["source"] + max(busy["docker"] - idle["docker"], 0.0),
    }
    return {
        "bench": "cycle_cpu", "seed": seed, "containers": containers, "cycle_seconds": cycle_seconds, "cycles": cycles,
        **{key: round(value, 3) for key, value in percent.items()}, **first,
        "unit": "percent of one core", "goals": {"total_percent": "< 1.5"}, **about,
    }  # fmt: skip


def watch(daemon: Dockerd, source: DockerSource | None, cycle_seconds: float, cycles: int) -> dict[str, float]:
    """CPU in percent of a core, ours and Docker's, over some cycles."""
    ours, theirs, began = time.process_time(), process_seconds(daemon.pids), time.monotonic()
    for number in range(1, cycles + 1):
        if source is not None:
            source.collect(datetime.now(UTC))
        time.sleep(max(began + number * cycle_seconds - time.monotonic(), 0.0))
    wall = time.monotonic() - began
    return {
        "source": (time.process_time() - ours) / wall * 100,
        "docker": (process_seconds(daemon.pids) - theirs) / wall * 100,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--containers", type=int, default=100)
    parser.add_argument("--cycle-seconds", type=float, default=5.0)
    parser.add_argument("--cycles", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(json.dumps(measure(options.containers, options.cycle_seconds, options.cycles, options.seed), indent=1))
