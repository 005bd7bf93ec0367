"""The NVML source against a real driver. Opt-in, on a host with an NVIDIA GPU:

    .venv/bin/python -m pytest --gpu tests/collectors/test_nvml_real_gpu.py -s

It prints what the driver answered beside what the stub answers, so that differences can be written down. GPU work
needs the driver alone: libcuda allocates memory and spins a kernel given as PTX; everything is given back.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from collectors.sources.docker import DockerSource
from collectors.sources.nvml import NvmlSource
from fleet.gpu_words import nvml_error
from fleet.inventory import HostInventory, Inventory
from fleet.model import Gpu
from fleet.settings_table import DockerDaemon, NvmlSettings
from fleet.tenancy import Tenancy
from tests.fakes.gpu_host import gpus, parts
from tests.fakes.nvml_stub import NvmlStub, build
from tests.fakes.nvml_survey import compare
from tests.fakes.nvml_world import phases
from tests.services.dockerd import running_dockerd

pytestmark = pytest.mark.gpu
MEBIBYTE = 1 << 20
ROOT = Path(__file__).resolve().parents[2]

#: Holds argv[1] MiB on GPU 0 until its input ends. `spin SECONDS BLOCKS` keeps that many blocks busy for so long.
WORKER = r"""
import ctypes, sys, time
cuda = ctypes.CDLL("libcuda.so.1")
PTX = '''.version 6.0
.target %s
.address_size 64
.visible .entry spin(.param .u64 cycles)
{
    .reg .u64 %%rd<4>;
    .reg .pred %%p<2>;
    ld.param.u64 %%rd1, [cycles];
    mov.u64 %%rd2, %%clock64;
again:
    mov.u64 %%rd3, %%clock64;
    sub.u64 %%rd3, %%rd3, %%rd2;
    setp.lt.u64 %%p1, %%rd3, %%rd1;
    @%%p1 bra again;
    ret;
}
'''
def must(code, what):
    if code:
        print("cannot", what, code, flush=True)
        sys.exit(3)
context, memory, module, spin = (ctypes.c_void_p() for _ in range(4))
pointer = ctypes.c_uint64()
must(cuda.cuInit(0), "cuInit")
must(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0), "cuDevicePrimaryCtxRetain")
must(cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent")
must(cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(int(sys.argv[1]) << 20)), "cuMemAlloc")
code = 1
for target in ("sm_52", "sm_75", "sm_90"):  # the oldest that this driver still takes
    code = cuda.cuModuleLoadData(ctypes.byref(module), (PTX % target).encode() + b"\0")
    if code == 0:
        break
must(code, "cuModuleLoadData")
must(cuda.cuModuleGetFunction(ctypes.byref(spin), module, b"spin"), "cuModuleGetFunction")
cycles = ctypes.c_uint64(50_000_000)
arguments = (ctypes.c_void_p * 1)(ctypes.addressof(cycles))
print("ready", flush=True)
for line in sys.stdin:
    word, seconds, blocks = line.split()
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        must(cuda.cuLaunchKernel(spin, int(blocks), 1, 1, 32, 1, 1, 0, None, arguments, None), "cuLaunchKernel")
        must(cuda.cuCtxSynchronize(), "cuCtxSynchronize")
    print("done", flush=True)
"""


@contextlib.contextmanager
def worker(command, mebibytes):
    """A process that holds memory; `say` sends it a line and waits for the end of the work when told to."""
    process = subprocess.Popen(
        [*command, "-c", WORKER, str(mebibytes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            first = process.stdout.readline()
            if first != "ready\n":
                pytest.skip(
                    f"libcuda gave nothing ({first.strip() or 'ended'}): GPU full, in exclusive use or in MIG mode"
                )

            def say(line):
                process.stdin.write(f"{line}\n")
                process.stdin.flush()

            yield process, say
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="module", autouse=True)
def _driver():
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        pytest.skip("no NVIDIA driver here: run this file on a GPU host with --gpu")


@pytest.fixture
def source():
    inventory = Inventory()
    inventory.publish(HostInventory(host="here", at=datetime.now(UTC), local=True, containers=()))
    made = NvmlSource(NvmlSettings(call_timeout_seconds=5), inventory, host="here")
    yield made
    made.close()


def first_gpu(reading):
    return next(row for row in gpus(reading.rows).values() if row.gpu_index == 0 and not row.parent_uuid)


# --- the driver beside the stub -------------------------------------------------------------------------------------


def test_every_call_beside_the_stub(tmp_path):
    command = [sys.executable, "-m", "tests.fakes.nvml_survey"]
    run = {"capture_output": True, "text": True, "timeout": 120, "check": True, "cwd": ROOT}
    driver = {name: tuple(value) for name, value in json.loads(subprocess.run(command, **run).stdout).items()}
    if shutil.which("gcc"):
        stub = NvmlStub(tmp_path, build(tmp_path))
        stub.write(phases("h200-load")[-1])
        answers = json.loads(subprocess.run(command, env={**os.environ, **stub.environment}, **run).stdout)
        print("\n" + compare(driver, {name: tuple(value) for name, value in answers.items()}))
    # What the product asks on every GPU, and codes that it has words for.
    for name in ("nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetComputeRunningProcesses_v3"):
        assert driver[name][0] == 0, name
    unknown = {name: code for name, (code, _) in driver.items() if nvml_error(code).words == f"NVML code {code}"}
    assert not {name: code for name, code in unknown.items() if code}, "codes without words"


# --- readings -------------------------------------------------------------------------------------------------------


def test_every_gpu_answers_with_believable_numbers(source):
    source.collect(datetime.now(UTC))
    time.sleep(5)
    reading = source.collect(datetime.now(UTC))
    print(f"\n{reading.detail}; gaps: {reading.gaps}")
    found = gpus(reading.rows)
    assert found
    for row in found.values():
        print(row)
        assert row.gpu_uuid.startswith(("GPU-", "MIG-"))
        assert row.state == "ok"
        assert 0 < row.memory_total_bytes < 1 << 41
        assert 0 <= row.memory_used_bytes + (row.memory_reserved_bytes or 0) <= row.memory_total_bytes
        if not row.parent_uuid:
            assert row.power_watts is None or 5 < row.power_watts < 3000
            assert row.temperature_celsius is None or 10 < row.temperature_celsius < 110
            if row.energy_joules is not None and row.power_watts is not None:
                mean = row.energy_joules / row.interval_seconds
                print(f"mean from the energy counter {mean:.1f} W, instant {row.power_watts:.1f} W")
                assert 0 < mean < 3000


def test_facts_name_the_driver(source):
    facts = [row for row in source.collect(datetime.now(UTC)).rows if isinstance(row, Gpu)]
    assert facts
    assert all(row.driver_version and row.name and row.pci_bus_id for row in facts)


def test_a_process_outside_containers_is_unattributed_with_its_memory_and_share(source):
    before = source.collect(datetime.now(UTC))
    uuid = first_gpu(before).gpu_uuid
    with worker([sys.executable], 512) as (_, say):
        say("spin 12 1")
        time.sleep(3)
        source.collect(datetime.now(UTC))
        time.sleep(6)
        reading = source.collect(datetime.now(UTC))
    gpu, rest = gpus(reading.rows)[uuid], parts(reading.rows)["", uuid]
    print(f"\nbefore {parts(before.rows)['', uuid]}\nafter {rest}\n{gpu}")
    assert rest.memory_bytes - parts(before.rows)["", uuid].memory_bytes >= 500 * MEBIBYTE
    assert gpu.process_count >= 1
    # One block of one warp: the time is full, the GPU is empty.
    assert gpu.busy_ratio > 0.5
    assert rest.sm_ratio is None or rest.sm_ratio > 0.5
    assert gpu.sm_active_ratio is None or gpu.sm_active_ratio < 0.2
    own = [row for (_, place), row in parts(reading.rows).items() if place == uuid]
    assert sum(row.memory_bytes for row in own) == gpu.memory_used_bytes


def test_processes_inside_containers_are_theirs(tmp_path):
    """Two containers whose root is the host's own, so that they need no image with Python and libcuda."""
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        pytest.skip("needs root and dockerd")
    access = ["--gpus", "1"] if shutil.which("nvidia-container-runtime-hook") else ["--privileged"]
    with running_dockerd() as daemon:
        inventory = Inventory()
        docker = DockerSource(DockerDaemon(url=daemon.url, name="here"), Tenancy(()), inventory)
        source = NvmlSource(NvmlSettings(call_timeout_seconds=5), inventory, host="here")
        with contextlib.ExitStack() as stack:
            stack.callback(docker.close)
            stack.callback(source.close)
            says = {}
            for name in ("busy", "holding"):
                run = [
                    "docker",
                    "-H",
                    daemon.url,
                    "run",
                    "-i",
                    "--rm",
                    "--name",
                    name,
                    "--network=none",
                    "-v",
                    "/:/host",
                ]
                command = [*run, *access, "busybox:latest", "chroot", "/host", sys.executable]
                says[name] = stack.enter_context(worker(command, 512))[1]
            says["busy"]("spin 15 4")
            docker.collect(datetime.now(UTC))
            source.collect(datetime.now(UTC))
            time.sleep(6)
            reading = source.collect(datetime.now(UTC))
            uuid = first_gpu(reading).gpu_uuid
            found = parts(reading.rows)
            for row in found.values():
                print(row)
            assert found["busy", uuid].memory_bytes >= 500 * MEBIBYTE
            assert found["holding", uuid].memory_bytes >= 500 * MEBIBYTE
            assert found["busy", uuid].attribution == "measured"
            if found["busy", uuid].sm_ratio is not None:
                assert found["busy", uuid].sm_ratio > 0.5
                assert found["holding", uuid].sm_ratio < 0.1
            own = [row for (_, place), row in found.items() if place == uuid]
            assert sum(row.memory_bytes for row in own) == gpus(reading.rows)[uuid].memory_used_bytes


def test_a_sweep_of_the_driver_is_quick(source):
    source.collect(datetime.now(UTC))
    took = []
    for _ in range(10):
        began = time.perf_counter()
        source.collect(datetime.now(UTC))
        took.append(time.perf_counter() - began)
    print(f"\nsweeps without process lists: median {sorted(took)[5] * 1000:.1f} ms, most {max(took) * 1000:.1f} ms")
    assert sorted(took)[5] < 1.0


def test_a_closed_source_keeps_no_device_open(source):
    source.collect(datetime.now(UTC))
    child = source._process._child
    files = {str(path.readlink()) for path in Path(f"/proc/{child.pid}/fd").iterdir()}
    print("\nopen while reading:", sorted(name for name in files if name.startswith("/dev/nvidia")))
    source.close()
    assert not Path(f"/proc/{child.pid}/fd").exists()
