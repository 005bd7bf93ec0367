"""What is asked of the driver and how: traffic, encoders, health, older and newer drivers."""

from __future__ import annotations

import time

import pytest

from fleet.inventory import GpuRequest
from fleet.model import Event
from tests.fakes.gpu_host import A, B, facts, gpus, parts
from tests.fakes.mig_world import mig_world
from tests.fakes.nvml_stub import build, gpu

pytestmark = pytest.mark.cc
ALL = GpuRequest(kind="all", text="--gpus all")


def test_bytes_and_encoders_arrive_in_their_units(make_host):
    host = make_host(gpu(0, A, encoder=40, decoder=5, field_138=100, field_139=200, field_197=1000, field_198=2000))
    first = gpus(host.poll().rows)[A]
    assert (first.encoder_ratio, first.decoder_ratio) == (0.4, 0.05)
    assert first.pcie_receive_bytes is first.nvlink_transmit_bytes is None  # a counter has no increment yet
    host.stub.write(gpu(0, A, field_138=110, field_139=230, field_197=1500, field_198=2700))
    row = gpus(host.poll().rows)[A]
    assert (row.pcie_transmit_bytes, row.pcie_receive_bytes) == (500, 700)
    assert (row.nvlink_transmit_bytes, row.nvlink_receive_bytes) == (10 * 1024, 30 * 1024)
    assert row.encoder_ratio is None
    assert "nvmlDeviceGetPcieThroughput" not in host.stub.count_calls()  # it blocks 20 ms for each direction


def test_a_pcie_counter_that_turns_over_goes_on_and_one_of_a_new_driver_starts_anew(make_host):
    host = make_host(gpu(0, A, energy=5000, field_197=2**32 - 100))
    host.poll()
    host.stub.write(gpu(0, A, energy=6000, field_197=50))
    assert gpus(host.poll().rows)[A].pcie_transmit_bytes == 150
    host.stub.write(gpu(0, A, energy=10, field_197=20))
    assert gpus(host.poll().rows)[A].pcie_transmit_bytes == 20


def test_a_pcie_counter_that_turned_over_several_times_is_put_right_by_gpm(make_host):
    keys = {"gpm_support": 1, "gpm_2": 50, "gpm_21": 0}
    host = make_host(gpu(0, A, field_197=1000, field_198=1000, **keys))
    host.poll()
    time.sleep(0.2)
    # GPM tells MiB/s: over at least 0.2 s a hundred thousand of them are more than four turns of 4 GiB.
    host.stub.write(gpu(0, A, field_197=2000, field_198=2000, **{**keys, "gpm_20": 100_000}))
    row = gpus(host.poll().rows)[A]
    assert row.pcie_transmit_bytes % 2**32 == 1000
    assert row.pcie_transmit_bytes >= 4 * 2**32
    assert row.pcie_receive_bytes == 1000
    assert "pcie" not in row.unknown_reason


def test_what_a_gpu_does_not_support_is_asked_again_only_with_the_health_values(make_host):
    host = make_host(gpu(0, A, field_186="!3", field_185=99000, field_82="!3"))
    first = gpus(host.poll().rows)[A]
    assert first.power_watts == 99
    host.stub.write(gpu(0, A, field_186=120000, field_185=99000, field_82=51))
    second = gpus(host.poll().rows)[A]
    assert (second.power_watts, second.memory_temperature_celsius) == (99, None)
    assert "memory_temperature_celsius" in second.unknown_reason
    third = gpus(host.poll(60).rows)[A]
    assert (third.power_watts, third.memory_temperature_celsius) == (120, 51)


def test_a_recovery_action_is_told_once_in_words(make_host):
    host = make_host(gpu(0, A, field_230=0))
    assert gpus(host.poll().rows)[A].recovery_action == 0
    host.stub.write(gpu(0, A, field_230=2))
    assert gpus(host.poll().rows)[A].recovery_action is None  # asked with the health values only
    rows = host.poll(60).rows
    assert gpus(rows)[A].recovery_action == 2
    event = next(row for row in rows if isinstance(row, Event))
    assert (event.kind, event.severity, event.title) == ("gpu_recovery_needed", "critical", "the host needs a restart")
    assert not [row for row in host.poll(60).rows if isinstance(row, Event)]


def test_memory_rows_that_cannot_be_remapped_are_told_once(make_host):
    host = make_host(gpu(0, A, remapped="1 1 0 1"))
    assert [row.kind for row in host.poll().rows if isinstance(row, Event)] == ["gpu_remap_failed"]
    assert not [row for row in host.poll(60).rows if isinstance(row, Event)]


def test_process_lists_are_found_under_their_older_names_or_said_to_be_missing(make_host):
    def lists(*versions):
        kinds = ("Compute", "Graphics", "MPSCompute")
        return [f"nvmlDeviceGet{kind}RunningProcesses_{version}" for kind in kinds for version in versions]

    host = make_host(gpu(0, A, proc=["11 400"]), omit=lists("v3"))
    host.publish(facts("a", 11, ALL))
    row = parts(host.poll().rows)["a", A]
    assert (row.attribution, row.memory_bytes) == ("measured", 400)
    host.process.stop()
    build(host.stub.folder, lists("v2", "v3"))
    row = parts(host.poll().rows)["a", A]
    assert (row.attribution, row.memory_bytes) == ("declared", None)
    assert "too old to report it (update the NVIDIA driver)" in row.attribution_reason


def test_a_driver_without_the_older_utilisation_call_is_asked_with_the_newer(make_host):
    host = make_host(gpu(0, A, proc=["11 400"], sample=["11 1000000 50"]), omit=["nvmlDeviceGetProcessUtilization"])
    host.publish(facts("a", 11, ALL))
    host.poll()
    host.stub.write(gpu(0, A, proc=["11 400"], sample=["11 1000000 50", "11 2000000 40"]))
    assert parts(host.poll().rows)["a", A].sm_ratio == 0.4
    host.stub.write(gpu(0, A, proc=["11 400"], sample=["11 2000000 40"]))
    assert parts(host.poll().rows)["a", A].sm_ratio == 0


def test_a_list_that_breaks_makes_the_processes_unknown_and_not_fewer(make_host):
    host = make_host(gpu(0, A, proc=["11 400"], graphics="!999"))
    host.publish(facts("a", 11, ALL))
    row = parts(host.poll().rows)["a", A]
    assert (row.memory_bytes, row.attribution) == (None, "declared")
    host.stub.write(gpu(0, A, proc=["11 400"], graphics="!3", mps="!13"))  # a compute driver has neither
    assert parts(host.poll().rows)["a", A].memory_bytes == 400


def test_facts_are_asked_once_in_the_life_of_a_handle(make_host):
    host = make_host(*mig_world(), gpu(1, B))
    host.poll()
    host.stub.forget_calls()
    for _ in range(3):
        host.poll(60)
    calls = host.stub.count_calls()
    assert calls["nvmlDeviceGetCount_v2"] == 3
    for name in ("Name", "MinorNumber", "PciInfo_v3", "GpuInstanceId", "ComputeInstanceId", "Attributes_v2"):
        assert calls[f"nvmlDeviceGet{name}"] == 0
    assert calls["nvmlInitWithFlags"] == 0
