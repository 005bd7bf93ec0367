"""GPUs in MIG mode: their parts, their memory, and partitions that change."""

from __future__ import annotations

import time

import pytest

from fleet.inventory import GpuRequest
from fleet.model import Gpu
from tests.fakes.gpu_host import A, facts, gpus, parts
from tests.fakes.mig_world import M0, M1, M2, mig_world
from tests.fakes.nvml_stub import device, gpu

pytestmark = pytest.mark.cc
ALL = GpuRequest(kind="all", text="--gpus all")


def test_mig_devices_are_listed_with_their_parent_and_memory_is_counted_per_gpu_instance(make_host):
    host = make_host(*mig_world())
    host.publish(facts("a", 11, GpuRequest(kind="ids", ids=("0:0",))), facts("b", 22), facts("c", 12), facts("d", 23))
    host.poll()
    reading = host.poll()
    found = gpus(reading.rows)
    assert {uuid: row.parent_uuid for uuid, row in found.items()} == {A: "", M0: A, M1: A, M2: A}
    assert (found[M0].memory_used_bytes, found[M0].power_watts, found[A].power_watts) == (2000, None, 70)
    assert (found[A].process_count, found[M2].process_count) == (4, 2)
    shares = parts(reading.rows)
    assert shares["a", M0].held
    assert (shares["a", M0].memory_bytes, shares["c", M1].memory_bytes) == (900, 700)
    # 2000 used in GPU instance 2, 1600 by processes: the rest is counted once, on its first compute instance.
    assert (shares["", M0].memory_bytes, shares["", M1].memory_bytes) == (400, 0)
    assert shares["", M2].memory_bytes == 300
    # The board: 50000 - 2000 - 800; its power belongs to no instance.
    assert (shares["", A].memory_bytes, shares["", A].power_watts) == (47200, 70)
    assert shares["b", M2].sm_ratio is None
    assert "MIG" in shares["b", M2].attribution_reason
    total = sum(row.memory_bytes for row in shares.values())
    assert total == 50000


def test_the_only_user_of_a_mig_instance_has_its_sm_activity(make_host):
    host = make_host(*mig_world("22 300 3 0"))
    host.publish(facts("a", 11), facts("b", 22), facts("c", 12))
    host.poll()
    time.sleep(0.12)
    reading = host.poll()
    found = parts(reading.rows)
    assert gpus(reading.rows)[M2].sm_active_ratio == pytest.approx(0.3)
    assert found["b", M2].sm_ratio == pytest.approx(0.3)
    assert "only user" in found["b", M2].attribution_reason
    # GPU instance 2 was 64 % active, but which of its two compute instances was it?
    assert found["a", M0].sm_ratio is found["c", M1].sm_ratio is found["", M0].sm_ratio is None


def test_a_reconfigured_gpu_is_listed_anew(make_host):
    host = make_host(*mig_world())
    rows = host.poll().rows
    assert {row.mig_profile for row in rows if isinstance(row, Gpu)} == {"", "1c.3g.71gb", "1g.18gb"}
    assert len(host.source.gpu_list()) == 4
    host.stub.write(gpu(0, A, mig=0))
    rows = host.poll(60).rows
    assert list(gpus(rows)) == [A]
    assert [one.uuid for one in host.source.gpu_list()] == [A]


def test_a_mig_device_is_busy_as_gpm_says_and_is_a_part_of_its_gpu(make_host):
    world = mig_world("22 300 3 0")
    world[3] += ["0.2 gpm.1 55", "0.2 attributes 16 1 1 0 1 1 1 1 18000"]
    host = make_host(*world)
    host.publish(facts("b", 22))
    slices = {row.gpu_uuid: row.slice_ratio for row in host.poll().rows if isinstance(row, Gpu)}
    assert slices == {A: 1.0, M0: 1 / 7, M1: 1 / 7, M2: 1 / 7}
    time.sleep(0.12)
    rows = host.poll().rows
    assert gpus(rows)[M2].busy_ratio == pytest.approx(0.55)
    part = parts(rows)["b", M2]
    assert (part.sm_ratio, part.sm_active_ratio, part.processes) == (pytest.approx(0.55), pytest.approx(0.3), 1)
    assert part.attribution == "measured"
    assert "told only for the whole GPU" in part.attribution_reason


@pytest.mark.parametrize(
    ("profile", "places", "ratio"),
    [("3g.40gb", 7, 3 / 7), ("1g.10gb+me", 7, 1 / 7), ("2c.4g.48gb", 7, 2 / 7), ("2g.12gb", 4, 0.5), ("7g.80gb", 7, 1)],
)
def test_a_slice_is_told_by_its_profile_where_the_driver_does_not(make_host, profile, places, ratio):
    host = make_host(
        gpu(0, A, mig=1, mig_max=places),
        device("0.0", uuid=M0, name=f"NVIDIA H100 80GB HBM3 MIG {profile}", gi=1, ci=0, memory="40000 10 20"),
    )
    facts_ = {row.gpu_uuid: row for row in host.poll().rows if isinstance(row, Gpu)}
    assert facts_[M0].slice_ratio == pytest.approx(ratio)
    assert (facts_[A].mig_enabled, facts_[M0].mig_enabled, facts_[M0].mig_profile) == (True, False, profile)


def test_mig_devices_of_before_driver_470_are_known_by_their_old_names(make_host):
    old = f"MIG-{A}/3/0"
    host = make_host(
        gpu(0, A, mig=1, sample="!3", proc=["11 900 3 0"]),
        device("0.0", uuid=old, name="NVIDIA A100 MIG 1g.5gb", gi=3, ci=0, memory="5000 10 1000"),
    )
    host.publish(facts("a", 11, GpuRequest(kind="ids", ids=(old,))))
    found = parts(host.poll().rows)
    assert (found["a", old].held, found["a", old].memory_bytes, found["", old].memory_bytes) == (True, 900, 100)


def test_dead_mig_handles_are_listed_anew_with_the_next_reading(make_host):
    world = mig_world()
    host = make_host(*world)
    host.publish(facts("a", 11))
    host.poll()
    # Partitioned anew: the handle that is held answers INVALID_ARGUMENT, the list has another device.
    world[3] = device("0.2", uuid="MIG-new", name="NVIDIA H200 MIG 2g.35gb", gi=5, ci=0, memory="!2")
    host.stub.write(*world)
    rows = host.poll().rows
    assert M2 not in gpus(rows)
    world[3] = device("0.2", uuid="MIG-new", name="NVIDIA H200 MIG 2g.35gb", gi=5, ci=0, memory="35000 10 800")
    host.stub.write(*world)
    found = gpus(host.poll().rows)
    assert found["MIG-new"].memory_used_bytes == 800
    assert M2 not in found
    assert "MIG-new" in {one.uuid for one in host.source.gpu_list()}


def test_a_device_that_stays_strange_is_not_listed_with_every_reading(make_host):
    world = mig_world()
    world[3] = device("0.2", uuid=M2, name="NVIDIA H200 MIG 1g.18gb", gi=3, ci=0, memory="!2")
    host = make_host(*world)
    host.poll()
    host.stub.forget_calls()
    rows = [host.poll(2).rows for _ in range(5)]
    assert host.stub.count_calls()["nvmlDeviceGetCount_v2"] <= 1
    assert gpus(rows[-1])[M2].memory_used_bytes is None
    assert "the driver refuses the question" in gpus(rows[-1])[M2].unknown_reason
