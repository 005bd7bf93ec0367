"""CPU of one reading of eight busy GPUs, outside the driver's library.

    python -m bench.nvml_cycle [--gpus 8] [--processes 64] [--containers 200] [--cycles 30]

A stub stands for the driver (no GPU needed); everything else is the product: unmodified pynvml in the child process,
the pipe, /proc, attribution, rows. The stub adds up the CPU time spent inside it, which is taken off. The baseline in
the same run is a loop that makes the same calls through pynvml and does nothing with the answers. Prints JSON.

`outside_library_ms` = parent + child - library: what the goal is about. `bare_loop_ms` is the baseline with its
library time, `above_bare_loop_ms` what the product needs more than that.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import mmap
import os
import pstats
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.docker_sweep import machine
from fleet.inventory import GpuRequest
from tests.fakes.gpu_host import GpuHost, container_id, facts
from tests.fakes.nvml_stub import NvmlStub, build, gpu

_MIB = 1 << 20
_GOAL_MS = 20.0
_FIRST_PID = 10_000


class CountingStub(NvmlStub):
    """A stub that adds up the CPU of its calls instead of writing down their names, unless told to."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.cpu = folder / "cpu"
        self.cpu.write_bytes(bytes(16))
        self.names = False
        super().__init__(folder, library)

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the child."""
        own = {**super().environment, "NVML_STUB_CPU": str(self.cpu)}
        if not self.names:
            del own["NVML_STUB_CALLS"]
        return own

    def inside(self) -> tuple[int, float]:
        """Calls so far and CPU seconds in them."""
        with self.cpu.open("rb") as file, mmap.mmap(file.fileno(), 16, access=mmap.ACCESS_READ) as shared:
            calls, nanoseconds = struct.unpack("=QQ", shared[:])
        return calls, nanoseconds / 1e9


class Fleet:
    """Processes, containers and the driver's answers, all from one seed."""

    def __init__(self, gpus: int, processes: int, containers: int, seed: int) -> None:
        self.chance = random.Random(seed)
        self.uuids = [f"GPU-{index:08x}-0000-0000-0000-000000000000" for index in range(gpus)]
        self.pids = [list(range(_FIRST_PID + index * processes, _FIRST_PID + (index + 1) * processes))
                     for index in range(gpus)]  # fmt: skip
        everyone = [pid for pids in self.pids for pid in pids]
        self.chance.shuffle(everyone)
        self.owners: dict[str, list[int]] = {f"c{number:03d}": [] for number in range(containers)}
        names = list(self.owners)
        for number, pid in enumerate(everyone):
            self.owners[names[number % containers]].append(pid)

    def world(self, cycle: int) -> list[list[str]]:
        """All GPUs at one moment: every process has a new sample."""
        at = (cycle + 1) * 5_000_000
        return [
            gpu(
                index, uuid, busy=100, memory=f"{143771 * _MIB} {614 * _MIB} {130000 * _MIB}", encoder=3, decoder=2,
                field_186=600_000 + cycle, field_185=600_000, field_197=at, field_198=at, field_138=at, field_139=at,
                field_230=0, energy=at, gpm_support=1, gpm_2=60, gpm_3=30, gpm_5=20, gpm_10=10,
                proc=[f"{pid} {2000 * _MIB}" for pid in self.pids[index]],
                sample=[f"{pid} {at + pid} {self.chance.randint(0, 3)} 1 0 0" for pid in self.pids[index]],
            )
            for index, uuid in enumerate(self.uuids)
        ]  # fmt: skip

    def request(self, number: int, pids: list[int]) -> GpuRequest:
        """Every tenth container asked for all GPUs, the others for those that their processes are on."""
        if number % 10 == 0:
            return GpuRequest(kind="all", text="--gpus all")
        indices = sorted({index for index, here in enumerate(self.pids) if set(here) & set(pids)})
        ids = tuple(str(index) for index in indices)
        return GpuRequest(kind="ids", ids=ids, text=f"--gpus device={','.join(ids)}")

    def inhabit(self, host: GpuHost) -> None:
        """/proc and the inventory."""
        host.publish(*(facts(name, pids[0], self.request(number, pids))
                       for number, (name, pids) in enumerate(self.owners.items()) if pids))  # fmt: skip
        for name, pids in self.owners.items():
            for pid in pids:
                host.run(pid, f"/docker/{container_id(name)}")


# The same calls as a reading of the product (their numbers come from a counted reading), and nothing else.
BARE = """
import json, sys, time, pynvml as n
counts, rounds = json.loads(sys.argv[1]), int(sys.argv[2])
n.nvmlInit()
handles = [n.nvmlDeviceGetHandleByIndex(i) for i in range(n.nvmlDeviceGetCount())]
last = {}
def sample(h):
    new = n.nvmlGpmSampleAlloc()
    n.nvmlGpmSampleGet(h, new)
    old = last.get(id(h))
    if old is not None:
        get = n.c_nvmlGpmMetricsGet_t()
        get.version, get.numMetrics, get.sample1, get.sample2 = 1, 4, old, new
        for place, metric in enumerate((2, 3, 5, 10)):
            get.metrics[place].metricId = metric
        n.nvmlGpmMetricsGet(get)
        n.nvmlGpmSampleFree(old)
    last[id(h)] = new
FIELDS = [186, 185, 82, 197, 198, (138, 0xFFFFFFFF), (139, 0xFFFFFFFF), 230]
CALLS = {
    "nvmlDeviceGetMemoryInfo_v2": lambda h: n.nvmlDeviceGetMemoryInfo(h, n.nvmlMemory_v2),
    "nvmlDeviceGetUtilizationRates": n.nvmlDeviceGetUtilizationRates,
    "nvmlDeviceGetEncoderUtilization": n.nvmlDeviceGetEncoderUtilization,
    "nvmlDeviceGetDecoderUtilization": n.nvmlDeviceGetDecoderUtilization,
    "nvmlDeviceGetFieldValues": lambda h: n.nvmlDeviceGetFieldValues(h, FIELDS),
    "nvmlDeviceGetEnforcedPowerLimit": n.nvmlDeviceGetEnforcedPowerLimit,
    "nvmlDeviceGetTotalEnergyConsumption": n.nvmlDeviceGetTotalEnergyConsumption,
    "nvmlDeviceGetTemperature": lambda h: n.nvmlDeviceGetTemperature(h, 0),
    "nvmlDeviceGetClockInfo": lambda h: n.nvmlDeviceGetClockInfo(h, 1),
    "nvmlDeviceGetCurrentClocksEventReasons": n.nvmlDeviceGetCurrentClocksEventReasons,
    "nvmlDeviceGetComputeRunningProcesses_v3": n.nvmlDeviceGetComputeRunningProcesses_v3,
    "nvmlDeviceGetGraphicsRunningProcesses_v3": n.nvmlDeviceGetGraphicsRunningProcesses_v3,
    "nvmlDeviceGetMPSComputeRunningProcesses_v3": n.nvmlDeviceGetMPSComputeRunningProcesses_v3,
    "nvmlDeviceGetProcessUtilization": lambda h: n.nvmlDeviceGetProcessUtilization(h, 0),
    "nvmlDeviceGetProcessesUtilizationInfo": lambda h: n.nvmlDeviceGetProcessesUtilizationInfo(h, 0),
    "nvmlGpmSampleGet": sample,
}
TWICE = {"nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetProcessUtilization",
         "nvmlDeviceGetProcessesUtilizationInfo"}
plan = [(CALLS[name], max(1, round(count / len(handles) / (2 if name in TWICE else 1))))
        for name, count in counts.items() if name in CALLS]
took = []
for _ in range(rounds):
    began = time.process_time()
    for h in handles:
        for call, times in plan:
            for _ in range(times):
                try:
                    call(h)
                except n.NVMLError:
                    pass
    took.append(time.process_time() - began)
print(json.dumps({"seconds": sorted(took)[len(took) // 2], "left_out": sorted(set(counts) - set(CALLS))}))
"""


def measure(gpus: int, processes: int, containers: int, cycles: int, seed: int) -> dict[str, object]:
    """One run: the calls of a reading, the readings, the bare calls."""
    about = machine()
    fleet = Fleet(gpus, processes, containers, seed)
    with tempfile.TemporaryDirectory() as place:
        library = build(Path(place))
        stub = CountingStub(Path(place), library)
        counts = _calls_of_a_reading(Path(place), library, fleet)
        stub.write(*fleet.world(0))
        host = GpuHost(Path(place), stub)
        fleet.inhabit(host)
        readings = [_reading(host, fleet, number) for number in range(cycles + 2)][2:]
        host.source.close()
        done = subprocess.run(
            [sys.executable, "-c", BARE, json.dumps(counts), str(cycles)],
            env=stub.environment, capture_output=True, check=True, text=True, timeout=300,
        )  # fmt: skip
        bare = json.loads(done.stdout)
        proc = _real_proc_costs_more(host.proc / str(fleet.pids[0][0]) / "stat", gpus * processes)
    usual = {name: statistics.median(one[name] for one in readings) for name in readings[0]}
    outside = [one["parent"] + one["child"] - one["library"] for one in readings]
    bare_ms = bare["seconds"] * 1e3
    return {
        "bench": "nvml_cycle", "seed": seed, "gpus": gpus, "processes_per_gpu": processes, "containers": containers,
        "cycles": cycles, "outside_library_ms": round(statistics.median(outside), 2),
        "outside_library_worst_ms": round(max(outside), 2),
        "parent_ms": round(usual["parent"], 2), "child_outside_library_ms": round(usual["child"] - usual["library"], 2),
        "library_ms": round(usual["library"], 2), "library_calls": int(usual["calls"]), "rows": int(usual["rows"]),
        "bare_loop_ms": round(bare_ms, 2), "bare_loop_leaves_out": bare["left_out"],
        "above_bare_loop_ms": round(usual["parent"] + usual["child"] - bare_ms, 2),
        "real_proc_would_add_ms": round(proc, 2),
        "goals": {"outside_library_ms": f"< {_GOAL_MS:g}"},
        "unit": "CPU milliseconds of one reading with process lists",
        **about,
    }  # fmt: skip


def _reading(host: GpuHost, fleet: Fleet, number: int) -> dict[str, float]:
    host.stub.write(*fleet.world(number))
    time.sleep(0.11)  # GPM wants 100 ms between two samples
    stub = host.stub
    assert isinstance(stub, CountingStub)
    (calls, library), child, parent = stub.inside(), _child_seconds(host), time.process_time()
    rows = len(host.poll(5).rows)
    parent = time.process_time() - parent
    after_calls, after_library = stub.inside()
    return {
        "parent": parent * 1e3, "child": (_child_seconds(host) - child) * 1e3, "rows": float(rows),
        "library": (after_library - library) * 1e3, "calls": float(after_calls - calls),
    }  # fmt: skip


def _child_seconds(host: GpuHost) -> float:
    """User and system time of the child's threads, from schedstat: /proc/<pid>/stat counts in hundredths only."""
    child = host.process._child
    if child is None:
        return 0.0
    tasks = Path(f"/proc/{child.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _calls_of_a_reading(place: Path, library: Path, fleet: Fleet) -> dict[str, int]:
    """How often each function is called in one reading with process lists, without health values."""
    folder = place / "counted"
    folder.mkdir()
    stub = CountingStub(folder, library)
    stub.names = True
    host = GpuHost(folder, stub)
    fleet.inhabit(host)
    for number in range(3):
        stub.write(*fleet.world(number))
        time.sleep(0.11)
        stub.forget_calls()
        host.poll(5)
    host.source.close()
    return {name: count for name, count in stub.count_calls().items() if name.startswith("nvmlDevice") or "Gpm" in name}


def _real_proc_costs_more(here: Path, processes: int) -> float:
    """CPU milliseconds that looking at so many processes costs more in the kernel's /proc than in the one made here."""

    def cost(path: Path) -> float:
        name = str(path)
        began = time.process_time()
        for _ in range(processes):
            os.stat(name)  # noqa: PTH116 - what the product does for a process that it knows
        return time.process_time() - began

    return statistics.median(cost(Path("/proc/self/stat")) - cost(here) for _ in range(9)) * 1e3


def profile(gpus: int, processes: int, containers: int, seed: int, lines: int) -> None:
    """Where the parent's time goes in twenty readings; the child's own: run it under a sampling profiler."""
    fleet = Fleet(gpus, processes, containers, seed)
    with tempfile.TemporaryDirectory() as place:
        stub = CountingStub(Path(place), build(Path(place)))
        stub.write(*fleet.world(0))
        host = GpuHost(Path(place), stub)
        fleet.inhabit(host)
        host.poll(5)
        watch = cProfile.Profile()
        for number in range(1, 21):
            stub.write(*fleet.world(number))
            watch.runcall(host.poll, 5)
        host.source.close()
    pstats.Stats(watch).sort_stats("tottime").print_stats(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--processes", type=int, default=64)
    parser.add_argument("--containers", type=int, default=200)
    parser.add_argument("--cycles", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profile", type=int, default=0, metavar="LINES", help="show where the parent's time goes")
    options = parser.parse_args()
    if options.profile:
        profile(options.gpus, options.processes, options.containers, options.seed, options.profile)
    else:
        figures = measure(options.gpus, options.processes, options.containers, options.cycles, options.seed)
        print(json.dumps(figures, indent=1))
