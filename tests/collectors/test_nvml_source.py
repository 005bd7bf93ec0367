"""The NVML source over unmodified pynvml in a child process, against a stub of the driver's library."""

from __future__ import annotations

import subprocess
import time

import pytest

from collectors.base import SourceError
from collectors.sources.nvml import NvmlSource
from fleet.inventory import GpuRequest
from fleet.model import Batch, Event, Gpu
from store import open_store
from tests.fakes.gpu_host import HOST, T0, A, B, GpuHost, facts, gpus
from tests.fakes.mig_world import mig_world
from tests.fakes.nvml_stub import NvmlStub, gpu

pytestmark = pytest.mark.cc
ALL = GpuRequest(kind="all", text="--gpus all")


def test_every_number_of_a_gpu_arrives_in_its_unit(make_host):
    host = make_host(
        gpu(
            0, A, busy=35, memory="80000000000 600000000 20000000000", field_186=251500, field_82=61, energy=9000000,
            temperature=55, clock_1=1980, clock_2=2619, reasons=0x24, power_limit=700000, remapped="2 1 1 0",
            ecc_corrected=4, ecc_uncorrected=1, gpm_support=1, gpm_2=41.5, gpm_3=20, gpm_5=12, gpm_10=7,
        )
    )  # fmt: skip
    first = gpus(host.poll().rows)[A]
    assert first.at.tzinfo is not None
    assert (first.host, first.gpu_index, first.parent_uuid, first.state) == (HOST, 0, "", "ok")
    assert (first.busy_ratio, first.power_watts, first.power_limit_watts) == (0.35, 251.5, 700.0)
    assert (first.memory_used_bytes, first.memory_reserved_bytes) == (20_000_000_000, 600_000_000)
    assert (first.temperature_celsius, first.memory_temperature_celsius) == (55, 61)
    assert (first.sm_clock_mhz, first.memory_clock_mhz, first.throttle_reasons) == (1980, 2619, 0x24)
    assert (first.remapped_rows, first.remap_pending) == (3, True)
    # Counters have no increment and GPM no span yet.
    assert first.energy_joules is first.ecc_corrected is first.sm_active_ratio is None
    host.stub.write(gpu(0, A, energy=9251000, ecc_corrected=6, gpm_support=1, gpm_2=41.5, gpm_3=20, gpm_5=12, gpm_10=7))
    time.sleep(0.12)  # GPM wants 100 ms between its samples
    second = gpus(host.poll(60).rows)[A]
    assert second.energy_joules == 251.0
    assert (second.ecc_corrected, second.ecc_uncorrected) == (2, 0)
    assert second.sm_active_ratio == pytest.approx(0.415)
    assert (second.sm_occupancy_ratio, second.tensor_active_ratio, second.dram_active_ratio) == (0.2, 0.12, 0.07)


def test_a_driver_reload_counts_as_a_reset_of_the_energy_counter(make_host):
    host = make_host(gpu(0, A, energy=5_000_000))
    host.poll()
    host.stub.write(gpu(0, A, energy=2000))
    assert gpus(host.poll().rows)[A].energy_joules == 2.0


def test_one_failing_metric_costs_that_metric_only(make_host):
    host = make_host(gpu(0, A, busy="!3", temperature="!999", field_82="!3", remapped="!4", energy="!3"))
    row = gpus(host.poll().rows)[A]
    assert row.busy_ratio is row.temperature_celsius is row.energy_joules is None
    assert row.power_watts == 70
    assert row.state == "ok"
    assert "no permission: remapped_rows" in row.unknown_reason
    unsupported = row.unknown_reason.partition("not supported by this GPU or mode: ")[2].partition(";")[0].split(", ")
    assert {"busy_ratio", "energy_joules", "memory_temperature_celsius"} < set(unsupported)
    assert "power_watts" not in unsupported


def test_an_old_driver_is_read_through_what_it_has(make_host):
    host = make_host(
        gpu(0, A, memory="100 10 50", field_186="!3", reasons=4),
        omit=("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetFieldValues"),
    )
    row = gpus(host.poll().rows)[A]
    # Version 1 counts the reserved part as used and does not tell it apart.
    assert (row.memory_used_bytes, row.memory_reserved_bytes, row.memory_total_bytes) == (60, None, 100)
    assert (row.power_watts, row.throttle_reasons) == (70, 4)
    host.stub.forget_calls()
    host.poll()
    assert host.stub.count_calls()["nvmlDeviceGetMemoryInfo"] == 1


def test_without_a_library_there_is_nothing_to_read_and_that_is_normal(tmp_path, library):
    stub = NvmlStub(tmp_path, tmp_path / "nowhere" / "libnvidia-ml.so.1")
    host = GpuHost(tmp_path, stub)
    reading = host.poll()
    assert reading.absent
    assert reading.rows == ()
    assert "no NVIDIA driver library" in reading.detail
    assert reading.next_step
    assert host.process._child is None  # no process is kept for a host without GPUs
    assert host.poll() == reading
    strict = GpuHost(tmp_path / "strict", stub, proc_root=host.proc, enabled="on")
    with pytest.raises(SourceError, match="no NVIDIA driver library"):
        strict.poll()
    strict.source.close()


@pytest.mark.parametrize(("lines", "words"), [(["- init !9"], "driver is not loaded"), ([], "there is no GPU")])
def test_a_host_without_a_driver_or_gpu_is_looked_at_again_later(make_host, lines, words):
    host = make_host(*lines)
    reading = host.poll()
    assert reading.absent
    assert words in reading.detail
    host.stub.write(gpu(0, A))
    assert host.poll().absent
    assert A in gpus(host.poll(300).rows)


def test_a_mismatch_of_driver_and_library_restarts_the_child_and_says_so(make_host):
    host = make_host(gpu(0, A))
    host.poll()
    first = host.process._child.pid
    host.stub.write("- init !18", gpu(0, A, uuid="!18", handle="!18"), ["- count !18"])
    # A running child notices when it lists the GPUs anew, once a minute.
    with pytest.raises(SourceError, match=r"do not match.*restarted") as caught:
        host.poll(60)
    assert gpus(caught.value.rows)[A].state == "driver_unavailable"
    host.stub.write(gpu(0, A), driver="600.10")
    rows = host.poll().rows
    assert host.process._child.pid != first
    assert gpus(rows)[A].state == "ok"
    assert [row.driver_version for row in rows if isinstance(row, Gpu)] == ["600.10"]


def test_a_library_that_breaks_while_running_is_loaded_anew(make_host):
    broken = dict.fromkeys(
        ["busy", "memory", "fields", "power", "power_limit", "energy", "temperature", "clock_1", "clock_2", "reasons"],
        "!999",
    )
    host = make_host(gpu(0, A))
    host.poll()
    first = host.process._child.pid
    host.stub.write(gpu(0, A, **broken))
    with pytest.raises(SourceError, match=r"device nodes|/dev/nvidia"):
        host.poll()
    host.stub.write(gpu(0, A))
    assert gpus(host.poll().rows)[A].state == "ok"
    assert host.process._child.pid != first


# --- hangs and losses -------------------------------------------------------------------------------------------------


def test_a_hung_driver_is_said_killed_and_left_alone_for_a_while(make_host):
    host = make_host(gpu(0, A), call_timeout_seconds=1.0)
    host.poll()
    child = host.process._child
    host.stub.write(gpu(0, A, busy="~30000 5"))
    with pytest.raises(SourceError) as caught:
        host.poll()
    assert caught.value.reason == "timeout"
    assert caught.value.detail.startswith("driver did not answer for 1 s")
    assert "dmesg" in caught.value.next_step
    assert gpus(caught.value.rows)[A].state == "driver_unresponsive"
    assert [row.kind for row in caught.value.rows if isinstance(row, Event)] == ["driver_unresponsive"]
    assert child.poll() == -9
    host.stub.write(gpu(0, A))
    with pytest.raises(SourceError) as caught:
        host.poll()  # still left alone: it is not asked, the state stands
    assert gpus(caught.value.rows)[A].state == "driver_unresponsive"
    assert not [row for row in caught.value.rows if isinstance(row, Event)]
    rows = host.poll(10).rows
    assert gpus(rows)[A].state == "ok"
    assert [row.kind for row in rows if isinstance(row, Event)] == ["gpu_recovered"]


def test_a_gpu_that_hangs_does_not_hide_the_other(make_host):
    host = make_host(gpu(0, A), gpu(1, B), call_timeout_seconds=1.0)
    host.poll()
    host.stub.write(gpu(0, A), gpu(1, B, temperature="~30000 5"))
    reading = host.poll()
    assert {uuid: row.state for uuid, row in gpus(reading.rows).items()} == {A: "ok", B: "driver_unresponsive"}
    assert [(gap.subject, gap.reason) for gap in reading.gaps] == [(B, "timeout")]
    assert "dmesg" in reading.next_step
    # The next sweep does not touch it, not even to list it anew: here that would hang as well.
    host.stub.write(gpu(0, A), gpu(1, B, handle="~30000 0"))
    reading = host.poll()
    assert gpus(reading.rows)[A].state == "ok"
    assert gpus(reading.rows)[A].busy_ratio == 0


def test_a_hang_on_the_first_gpu_says_nothing_bad_of_the_second(make_host):
    host = make_host(gpu(0, A), gpu(1, B), call_timeout_seconds=1.0)
    host.poll()
    host.stub.write(gpu(0, A, memory="~30000 1 1 1"), gpu(1, B))
    reading = host.poll()
    assert {uuid: row.state for uuid, row in gpus(reading.rows).items()} == {A: "driver_unresponsive"}
    assert [gap.detail for gap in reading.gaps if gap.subject == B] == [f"not reached: the driver hung on {A}"]
    rows = host.poll().rows
    assert gpus(rows)[B].state == "ok"
    assert not [row for row in rows if isinstance(row, Event)]


def test_a_driver_that_hangs_while_opening_is_asked_again_with_growing_pauses(make_host):
    host = make_host("- init ~30000 0", gpu(0, A), call_timeout_seconds=1.0)
    host.process._start_timeout = 1.0
    pauses = []
    for _ in range(3):
        with pytest.raises(SourceError, match="did not answer"):
            host.poll()
        pauses.append(host.source._blocked_until - host.monotonic)
        host.monotonic = host.source._blocked_until
    assert pauses == [10, 20, 40]


def test_two_children_may_be_lost_but_no_third_is_started(make_host):
    host = make_host(gpu(0, A), call_timeout_seconds=1.0)
    host.poll()
    real = host.process._spawn
    started = []

    class Unkillable:
        """A child in uninterruptible sleep: no signal ends it (the real one behind it does end)."""

        def __init__(self):
            self.real = real()
            self.stdin, self.stdout, self.pid, self.stuck = self.real.stdin, self.real.stdout, self.real.pid, True
            started.append(self)

        def poll(self):
            return None if self.stuck else self.real.poll()

        def kill(self):
            self.real.kill()

        def wait(self, timeout):
            raise subprocess.TimeoutExpired("child", timeout)

    host.process._start_child = Unkillable
    host.process.stop()
    host.stub.write("- init ~30000 0", gpu(0, A))
    host.process._start_timeout = 0.5
    for _ in range(4):
        with pytest.raises(SourceError):
            host.poll()
        host.monotonic = host.source._blocked_until
    assert len(started) == host.process.lost_children == 2
    for child in started:
        child.stuck = False
        child.real.wait(5)
    assert host.process.lost_children == 0


def test_a_lost_gpu_keeps_the_other_one_going(make_host):
    host = make_host(gpu(0, A), gpu(1, B))
    host.poll()
    host.stub.write(gpu(0, A, busy="!15", memory="!15"), gpu(1, B, busy=50))
    reading = host.poll()
    found = gpus(reading.rows)
    assert (found[A].state, found[A].busy_ratio, found[A].gpu_index) == ("lost", None, 0)
    assert "fallen off the bus" in found[A].unknown_reason
    assert (found[B].state, found[B].busy_ratio) == ("ok", 0.5)
    assert [(row.kind, row.gpu_uuid) for row in reading.rows if isinstance(row, Event)] == [("gpu_lost", A)]
    # Later the driver does not even open it.
    host.stub.write(gpu(0, A, handle="!15"), gpu(1, B))
    assert gpus(host.poll(60).rows)[A].state == "lost"
    # After a restart of the collector its UUID is not known any more, but that it is missing is said.
    host.restart()
    host.process.stop()
    gap = host.poll().gaps[0]
    assert (gap.subject, gap.reason) == ("GPU 0", "gone")
    host.stub.write(gpu(0, A), gpu(1, B))
    assert gpus(host.poll(60).rows)[A].state == "ok"


def test_a_child_that_dies_is_replaced(make_host):
    host = make_host(gpu(0, A))
    host.poll()
    host.process._child.kill()
    host.process._child.wait(5)
    assert A in gpus(host.poll().rows)


# --- facts, budget ----------------------------------------------------------------------------------------------------


def test_facts_come_on_change_and_hourly(make_host):
    host = make_host(gpu(0, A))
    first = [row for row in host.poll().rows if isinstance(row, Gpu)]
    assert [(row.gpu_uuid, row.name, row.pci_bus_id) for row in first] == [
        (A, "NVIDIA H100 80GB HBM3", "00000000:1B:00.0")
    ]
    assert (first[0].memory_total_bytes, first[0].power_limit_watts) == (80_000_000_000, 700)
    assert first[0].driver_version == "595.45.04"
    assert not [row for row in host.poll().rows if isinstance(row, Gpu)]
    host.stub.write(gpu(0, A, power_limit=500000))
    assert [row.power_limit_watts for row in host.poll().rows if isinstance(row, Gpu)] == [500]
    assert len([row for row in host.poll(3600).rows if isinstance(row, Gpu)]) == 1


def test_a_minute_of_polling_keeps_to_the_budget(make_host):
    host = make_host(gpu(0, A), gpu(1, B))
    host.publish(facts("a", 11, ALL))
    host.poll()
    host.stub.forget_calls()
    for _ in range(30):
        host.poll(2)
    calls = host.stub.count_calls()
    polls = {name: count for name, count in calls.items() if not name.startswith("nvmlEventSet")}
    # Two GPUs, 30 polls in 60 s: device numbers each time, process lists at most every 5 s, health once.
    assert polls["nvmlDeviceGetUtilizationRates"] == 60
    assert polls["nvmlDeviceGetFieldValues"] == 60
    assert "nvmlDeviceGetPowerUsage" not in polls  # field 186 answered
    assert polls["nvmlDeviceGetComputeRunningProcesses_v3"] <= 2 * 12
    assert polls["nvmlDeviceGetGraphicsRunningProcesses_v3"] <= 2 * 12
    assert polls["nvmlDeviceGetTotalEccErrors"] == 2 * 2
    assert polls["nvmlDeviceGetRemappedRows"] == 2
    assert polls["nvmlDeviceGetCount_v2"] == 1
    assert "nvmlInitWithFlags" not in polls


def test_the_idle_draw_survives_a_restart(make_host, tmp_path):
    host = make_host(gpu(0, A))
    kept = tmp_path / "idle.json"
    source = NvmlSource(host.settings, host.inventory, host=HOST, idle_file=kept, process=host.process)
    source.collect(T0)
    assert NvmlSource(host.settings, host.inventory, host=HOST, idle_file=kept)._idle.watts(A, "595.45.04") == 70
    kept.write_text("[]")
    assert NvmlSource(host.settings, host.inventory, host=HOST, idle_file=kept)._idle.watts(A, "595.45.04") is None


def test_closing_releases_the_driver(make_host):
    host = make_host(gpu(0, A))
    host.poll()
    child = host.process._child
    host.source.close()
    assert child.poll() == 0
    assert host.stub.count_calls()["nvmlShutdown"] == 1


def test_what_was_read_goes_into_a_real_store(make_host, tmp_path):
    host = make_host(*mig_world())
    host.publish(facts("a", 11), facts("b", 22), facts("c", 12), facts("d", 23))
    host.poll()
    store = open_store(f"chdb://{tmp_path / 'store'}")
    try:
        store.migrate()
        store.append(Batch(token="nvml-1", rows=host.poll().rows))
        sums = store.query(
            "SELECT sum(memory_bytes) AS used, countIf(container_key = '') AS rests FROM container_gpu_samples"
        ).to_pylist()
        assert sums == [{"used": 50000, "rests": 4}]
        states = store.query("SELECT gpu_uuid, state, power_watts FROM gpu_samples ORDER BY gpu_uuid").to_pylist()
        assert states[0] == {"gpu_uuid": A, "state": "ok", "power_watts": 70.0}
    finally:
        store.close()
