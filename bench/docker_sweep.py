"""Full statistics sweep of many real containers against `docker stats --no-stream` and against only reading the files.

    python -m bench.docker_sweep [--containers 100] [--rounds 15]

Starts a private daemon (needs root, dockerd, busybox) with containers that do a little work. In every round, in turn:
`ours` reads all containers through DockerSource's own reader and sampler; `files` reads the same files and throws
the bytes away; `docker stats --no-stream` runs less often, because it takes seconds. Prints medians as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from datetime import UTC, datetime

from collectors.cgroups import CgroupFiles
from collectors.sources.docker import DockerSource
from fleet.inventory import Inventory
from fleet.settings_table import DockerDaemon
from fleet.tenancy import Tenancy
from tests.services.dockerd import Dockerd, running_dockerd


def start_containers(daemon: Dockerd, count: int, seed: int) -> None:
    """Containers with limits that wake up now and then, as idle model servers do."""
    chance = random.Random(seed)
    pauses = [chance.uniform(2, 10) for _ in range(count)]

    def start(number: int) -> None:
        work = f"while true; do i=0; while [ $i -lt 500 ]; do i=$((i+1)); done; sleep {pauses[number]:.2f}; done"
        daemon.run(f"c{number:04d}", "sh", "-c", work, wait=False, mem_limit="64m", nano_cpus=500_000_000)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(start, range(count)))


def paths(files: CgroupFiles) -> list[str]:
    """The files that one reading of one container opens."""
    memory = [
        f"{files.memory}/{name}"
        for name in (
            ("memory.stat", "memory.current", "memory.max", "memory.events")
            if files.memory_v2
            else ("memory.stat", "memory.usage_in_bytes", "memory.oom_control")
        )
    ]
    return [path for path in (files.cpu, files.throttling, *memory, files.pids, files.block, files.network) if path]


def only_read(all_paths: list[str]) -> None:
    """The floor: open, read and close, nothing else."""
    for path in all_paths:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.read(handle, 65536)
        os.close(handle)


def machine() -> dict[str, object]:
    """What the numbers depend on."""
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "docker": subprocess.run(["dockerd", "--version"], capture_output=True, text=True).stdout.strip(),
        "load_1m_before": os.getloadavg()[0],
    }


def measure(containers: int, rounds: int, docker_rounds: int, seed: int) -> dict[str, object]:
    about = machine()
    with running_dockerd() as daemon:
        start_containers(daemon, containers, seed)
        source = DockerSource(DockerDaemon(url=daemon.url, name="bench", timeout_seconds=120.0), Tenancy(), Inventory())
        source.collect(datetime.now(UTC))
        source.collect(datetime.now(UTC))
        reader, sampler = source._reader, source._sampler
        live = [each for each in source._containers.containers() if each.is_live]
        all_paths = [path for files in reader._files.values() for path in paths(files)]
        ours: list[float] = []
        floor: list[float] = []
        cycle: list[float] = []
        docker_stats: list[float] = []
        rows = 0
        for number in range(rounds):
            began = time.perf_counter()
            sampler.begin(set(), time.monotonic())
            readings = reader.read(live, time.monotonic() + 60)
            at = datetime.now(UTC)
            samples = [
                sampler.sample(each, readings[each.listed.container_id], at, time.monotonic(), ooms_known=True)
                for each in live
            ]
            ours.append(time.perf_counter() - began)
            rows = sum(sample.cpu_seconds is not None for sample in samples)
            began = time.perf_counter()
            only_read(all_paths)
            floor.append(time.perf_counter() - began)
            began = time.perf_counter()
            source.collect(datetime.now(UTC))
            cycle.append(time.perf_counter() - began)
            if number < docker_rounds:
                began = time.perf_counter()
                daemon.cli("stats", "--no-stream", "--no-trunc")
                docker_stats.append(time.perf_counter() - began)
        source.close()
    medians = {
        "sweep_ms": statistics.median(ours) * 1e3,
        "only_reading_ms": statistics.median(floor) * 1e3,
        "whole_poll_with_list_ms": statistics.median(cycle) * 1e3,
        "docker_stats_no_stream_ms": statistics.median(docker_stats) * 1e3,
    }
    return {
        "bench": "docker_sweep", "seed": seed, "containers": containers, "rows": rows, "files": len(all_paths),
        "fields_per_row": len(fields(samples[0])), "rounds": rounds, "docker_rounds": docker_rounds,
        **{key: round(value, 3) for key, value in medians.items()},
        "times_faster_than_docker_stats": round(medians["docker_stats_no_stream_ms"] / medians["sweep_ms"], 1),
        "times_faster_whole_poll": round(medians["docker_stats_no_stream_ms"] / medians["whole_poll_with_list_ms"], 1),
        "times_only_reading": round(medians["sweep_ms"] / medians["only_reading_ms"], 2),
        "goals": {"times_faster_than_docker_stats": ">= 50", "times_only_reading": "<= 3"},
        **about,
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--containers", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--docker-rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(json.dumps(measure(options.containers, options.rounds, options.docker_rounds, options.seed), indent=1))
