"""CPU of the collector and of the daemon it reads, at a steady cycle with many containers.

    python -m bench.cycle_cpu [--containers 100] [--cycle-seconds 5] [--cycles 36]

First the parts: the Docker source polls in this process, its event listener included. Then the whole: `python -m
collectors` with the embedded store as a process of its own, after a minute to settle, so merges of the engine and the
child that reads NVML are in it: once while somebody looks (a question every 20 s, of next to no cost itself; what pages
ask is measured by bench.queries), and once after nobody has for a minute. What dockerd and containerd use in the same
time is counted in full; what they use while nobody polls is measured before and given beside it. Prints JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from bench.docker_sweep import machine, start_containers
from collectors.gathering import WATCHED_SECONDS
from collectors.sources.docker import DockerSource
from fleet.inventory import Inventory
from fleet.settings_table import DockerDaemon
from fleet.tenancy import Tenancy
from tests.services.dockerd import Dockerd, running_dockerd

SETTLE_SECONDS = 60.0
LOOK_SECONDS = 20.0
PORT = 18711


def process_seconds(pids: tuple[int, ...]) -> float:
    """User and system time of all threads, from schedstat: /proc/<pid>/stat counts in hundredths only."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def measure(
    containers: int, cycle_seconds: float, cycles: int, seed: int, settle_seconds: float = SETTLE_SECONDS
) -> dict[str, object]:
    about = machine()
    with running_dockerd() as daemon:
        start_containers(daemon, containers, seed)
        time.sleep(2.0)
        idle = watch(daemon, None, cycle_seconds, max(cycles // 12, 2))
        source = DockerSource(DockerDaemon(url=daemon.url, name="bench"), Tenancy(), Inventory())
        first_began, first_cpu = time.perf_counter(), time.process_time()
        source.collect(datetime.now(UTC))
        first = {
            "first_poll_wall_ms": round((time.perf_counter() - first_began) * 1e3, 1),
            "first_poll_cpu_ms": round((time.process_time() - first_cpu) * 1e3, 1),
        }
        source.collect(datetime.now(UTC))
        busy = watch(daemon, source, cycle_seconds, max(cycles // 6, 2))
        source.close()
        with running_collector(daemon, cycle_seconds) as (collector, folder):
            time.sleep(settle_seconds)
            if collector.poll() is not None:
                raise RuntimeError(f"the collector ended with status {collector.returncode}")
            watched = watch(daemon, None, cycle_seconds, cycles, collector.pid, partial(look, folder))
            time.sleep(WATCHED_SECONDS + cycle_seconds)
            unwatched = watch(daemon, None, cycle_seconds, cycles, collector.pid)
    percent = {
        "source_percent": busy["source"],
        "docker_percent": busy["docker"],
        "docker_percent_without_us": idle["docker"],
        "source_and_docker_percent": busy["source"] + busy["docker"],
        "collector_percent_watched": watched["source"],
        "collector_percent_unwatched": unwatched["source"],
        "docker_percent_with_collector": (watched["docker"] + unwatched["docker"]) / 2,
        "whole_percent_watched": watched["source"] + watched["docker"],
        "whole_percent_unwatched": unwatched["source"] + unwatched["docker"],
    }
    return {
        "bench": "cycle_cpu", "seed": seed, "containers": containers, "cycle_seconds": cycle_seconds, "cycles": cycles,
        **{key: round(value, 3) for key, value in percent.items()}, **first,
        "unit": "percent of one core", "load_after": os.getloadavg()[0],
        "goals": {"whole_percent_unwatched": "< 1.5", "whole_percent_watched": "< 1.5"}, **about,
    }  # fmt: skip


@contextlib.contextmanager
def running_collector(daemon: Dockerd, cycle_seconds: float) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A collector with a store of its own, reading the daemon, and its data folder."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "fleet.toml"
        settings.write_text(
            f'data_dir = "{folder}/data"\n[gateway]\nport = {PORT}\n'
            f'[[docker]]\nname = "bench"\nurl = "{daemon.url}"\ninterval_seconds = {cycle_seconds}\n'
        )
        command = [sys.executable, "-m", "collectors", "run", "--config", str(settings)]
        process = subprocess.Popen(command, cwd=Path(__file__).parents[1], env={"PATH": os.environ["PATH"]})
        try:
            yield process, Path(folder) / "data"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def look(folder: Path) -> None:
    """Ask the gateway something, as a page would."""
    token = (folder / "gateway-reader.token").read_text().strip()
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/", data=b"SELECT 1", headers={"X-ClickHouse-Key": token})
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()


def with_children(pid: int) -> tuple[int, ...]:
    """The process and its children, such as the one that reads NVML."""
    listed = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(word) for path in listed for word in path.read_text().split()]
    return (pid, *(found for child in children for found in with_children(child)))


def watch(
    daemon: Dockerd,
    source: DockerSource | None,
    cycle_seconds: float,
    cycles: int,
    collector: int | None = None,
    asking: Callable[[], None] | None = None,
) -> dict[str, float]:
    """CPU in percent of a core, ours (this process, or the collector's) and Docker's, over some cycles.

    asking: called every 20 s meanwhile.
    """
    every = max(1, round(LOOK_SECONDS / cycle_seconds))

    def ours() -> float:
        return time.process_time() if collector is None else process_seconds(with_children(collector))

    before, theirs, began = ours(), process_seconds(daemon.pids), time.monotonic()
    for number in range(1, cycles + 1):
        if source is not None:
            source.collect(datetime.now(UTC))
        if asking is not None and number % every == 1 % every:
            asking()
        time.sleep(max(began + number * cycle_seconds - time.monotonic(), 0.0))
    wall = time.monotonic() - began
    return {
        "source": (ours() - before) / wall * 100,
        "docker": (process_seconds(daemon.pids) - theirs) / wall * 100,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--containers", type=int, default=100)
    parser.add_argument("--cycle-seconds", type=float, default=5.0)
    parser.add_argument("--cycles", type=int, default=36)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(json.dumps(measure(options.containers, options.cycle_seconds, options.cycles, options.seed), indent=1))
