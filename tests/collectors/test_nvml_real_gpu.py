"""The NVML source against a real driver. Opt-in, on a host with an NVIDIA GPU:

    .venv/bin/python -m pytest --gpu tests/collectors/test_nvml_real_gpu.py -s

It prints what the driver answered, so that differences from the stub can be written down. It allocates GPU memory
through libcuda alone (no toolkit needed) and gives it back.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from collectors.sources.nvml import NvmlSource
from fleet.inventory import HostInventory, Inventory
from fleet.model import Gpu
from fleet.settings_table import NvmlSettings
from tests.fakes.gpu_host import gpus, parts

pytestmark = pytest.mark.gpu
MEBIBYTE = 1 << 20

#: Holds `sys.argv[1]` MiB on GPU 0 until its standard input ends.
HOLDER = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
context, memory = ctypes.c_void_p(), ctypes.c_uint64()
assert cuda.cuInit(0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cuda.cuCtxSetCurrent(context) == 0
assert cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(int(sys.argv[1]) << 20)) == 0
assert cuda.cuMemsetD8_v2(memory, 1, ctypes.c_size_t(int(sys.argv[1]) << 20)) == 0
print("ready", flush=True)
for line in sys.stdin:
    if line == "work\\n":
        for _ in range(2000):
            cuda.cuMemsetD8_v2(memory, 1, ctypes.c_size_t(int(sys.argv[1]) << 20))
        cuda.cuCtxSynchronize()
        print("done", flush=True)
"""


@pytest.fixture
def source():
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        pytest.skip("no NVIDIA driver here: run this file on a GPU host with --gpu")
    inventory = Inventory()
    inventory.publish(HostInventory(host="here", at=datetime.now(UTC), local=True, containers=()))
    made = NvmlSource(NvmlSettings(call_timeout_seconds=5), inventory, host="here")
    yield made
    made.close()


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


def test_a_process_outside_containers_is_unattributed_with_its_memory(source):
    first = source.collect(datetime.now(UTC))
    uuid = next(row.gpu_uuid for row in gpus(first.rows).values() if row.gpu_index == 0)
    before = parts(first.rows)["", uuid]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, "512"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        if holder.stdout.readline() != "ready\n":
            pytest.skip("libcuda did not give memory: the GPU is full, in exclusive use or in MIG mode")
        holder.stdin.write("work\n")
        holder.stdin.flush()
        time.sleep(5)
        reading = source.collect(datetime.now(UTC))
        after = parts(reading.rows)["", uuid]
        print(f"\nbefore {before}\nafter {after}\n{gpus(reading.rows)[uuid]}")
        assert after.memory_bytes - before.memory_bytes >= 500 * MEBIBYTE
        assert gpus(reading.rows)[uuid].process_count >= 1
    finally:
        holder.stdin.close()
        holder.wait(30)
        holder.stdout.close()


def test_a_sweep_of_the_driver_is_quick(source):
    source.collect(datetime.now(UTC))
    took = []
    for _ in range(10):
        began = time.perf_counter()
        source.collect(datetime.now(UTC))
        took.append(time.perf_counter() - began)
    print(f"\nsweeps without process lists: median {sorted(took)[5] * 1000:.1f} ms, most {max(took) * 1000:.1f} ms")
    assert sorted(took)[5] < 1.0
