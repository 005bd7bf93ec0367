"""The NVML source over unmodified pynvml in a child process, against a stub of the driver's library."""

from __future__ import annotations

import subprocess
import time

import pytest

from collectors.base import SourceError
from collectors.nvml_messages import DriverEvent
from collectors.nvml_rows import driver_event
from collectors.sources.nvml import NvmlSource
from fleet.inventory import GpuRequest
from fleet.model import Batch, Event, Gpu, GpuSample
from store import open_store
from tests.fakes.gpu_host import HOST, T0, A, B, GpuHost, container_id, facts, gpus, parts
from tests.fakes.nvml_stub import NvmlStub, build, device, gpu

pytestmark = pytest.mark.cc
ALL = GpuRequest(kind="all", text="--gpus all")


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def make_host(tmp_path, library):
    hosts = []

    def make(*lines, omit=(), **settings):
        built = build(tmp_path, omit) if omit else library
        stub = NvmlStub(tmp_path, built)
        stub.write(*lines)
        hosts.append(GpuHost(tmp_path, stub, **settings))
        return hosts[-1]

    yield make
    for host in hosts:
        if host.process._child:
            host.process._child.kill()  # ending in order is shown in one test and takes half a second
        host.source.close()


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


# --- hangs and losses ------------------------------------------------------------------------------------------------


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


# --- containers ----------------------------------------------------------------------------------------------------


def test_two_containers_and_the_host_share_one_gpu(make_host):
    host = make_host(gpu(0, A, field_186=70000), gpu(1, B))
    host.publish(facts("a", 11, ALL), facts("b", 22))
    host.run(33, "/user.slice/session-1.scope")
    host.poll()  # idle: 70 W are learnt as the idle draw
    lines = gpu(
        0, A, busy=90, memory="80000000000 600000000 1000", field_186=370000, energy=1000000,
        proc=["11 400", "22 200", "33 250"],
    )  # fmt: skip
    host.stub.write(lines, device("0", sample=["11 1000000 50", "22 1000001 25", "33 1000002 10"]), gpu(1, B))
    host.poll()
    host.stub.write(
        lines, "0 energy 2850000", device("0", sample=["11 6000000 50", "22 6000001 25", "33 6000002 10"]), gpu(1, B)
    )
    found = parts(host.poll().rows)
    a, b, rest = found["a", A], found["b", A], found["", A]
    assert (a.held, a.memory_bytes, a.sm_ratio, a.attribution, a.tenant) == (True, 400, 0.5, "measured", "acme")
    assert a.container_id == container_id("a")
    assert (b.held, b.memory_bytes, b.sm_ratio) == (False, 200, 0.25)
    assert (rest.held, rest.memory_bytes, rest.tenant, rest.container_id) == (False, 400, "", "")
    assert rest.sm_ratio == pytest.approx(0.15)
    assert rest.attribution_reason == "1 x host process"
    # 300 W above idle, 0.5 and 0.25 of 0.9 busy; 1850 J - 350 J idle by the same shares.
    assert a.power_watts == pytest.approx(300 * 5 / 9)
    assert a.power_watts + b.power_watts + rest.power_watts == pytest.approx(370)
    assert b.energy_joules == pytest.approx(1500 * 2.5 / 9)
    # Held and unused: a's other GPU.
    idle = found["a", B]
    assert (idle.held, idle.memory_bytes, idle.sm_ratio, idle.power_watts) == (True, 0, 0, 0)
    assert ("b", B) not in found


def test_no_sample_means_idle_and_not_unknown(make_host):
    host = make_host(gpu(0, A, proc=["11 400"]))
    host.publish(facts("a", 11, ALL))
    first = parts(host.poll().rows)["a", A]
    assert first.sm_ratio is None
    assert "first reading" in first.attribution_reason
    second = parts(host.poll().rows)["a", A]
    assert (second.sm_ratio, second.attribution_reason) == (0.0, "")


def test_samples_that_are_not_supported_are_unknown_and_not_idle(make_host):
    host = make_host(gpu(0, A, proc=["11 400"], sample="!3"))
    host.publish(facts("a", 11, ALL))
    host.poll()
    row = parts(host.poll().rows)["a", A]
    assert row.sm_ratio is None
    assert row.memory_bytes == 400
    assert "not supported" in row.attribution_reason


def test_the_last_seen_sample_is_kept_per_device_and_in_microseconds(make_host):
    # GPU 1's clock is far ahead of GPU 0's: one common last-seen time would hide everything on GPU 0.
    host = make_host(
        gpu(0, A, proc=["11 1"], sample=["11 1000000 90"]), gpu(1, B, proc=["11 1"], sample=["11 9000000 90"])
    )
    host.publish(facts("a", 11, ALL))
    host.poll()
    host.stub.write(
        gpu(0, A, proc=["11 1"], sample=["11 1000000 90", "11 1500000 20", "11 1600000 40"]),
        gpu(1, B, proc=["11 1"], sample=["11 9000000 90"]),
    )
    found = parts(host.poll().rows)
    assert found["a", A].sm_ratio == pytest.approx(0.3)  # the old 90 % does not come back
    assert found["a", B].sm_ratio == 0
    assert host.source._shares.since_us == {A: 1_600_000, B: 9_000_000}


def test_the_same_process_in_three_lists_has_its_memory_once(make_host):
    host = make_host(gpu(0, A, memory="1000 0 600", proc=["11 500"], graphics=["11 500"], mps=["11 -1", "12 -1"]))
    host.publish(facts("a", 11, ALL), facts("b", 12))
    host.poll()
    rows = host.poll().rows
    found = parts(rows)
    assert gpus(rows)[A].process_count == 2
    assert (found["a", A].memory_bytes, found["a", A].attribution) == (500, "estimated")
    assert "MPS" in found["a", A].attribution_reason
    assert found["b", A].memory_bytes is None
    assert found["", A].memory_bytes is None


@pytest.mark.parametrize("pid", [0, 4294967295])
def test_a_process_list_with_impossible_pids_is_not_believed(make_host, pid):
    host = make_host(gpu(0, A, proc=["11 400", f"{pid} 7"]))
    host.publish(facts("a", 11, ALL))
    row = parts(host.poll().rows)["a", A]
    assert (row.held, row.memory_bytes, row.attribution) == (True, None, "declared")
    assert "damaged" in row.attribution_reason


def test_without_a_process_list_only_the_declaration_remains(make_host):
    host = make_host(gpu(0, A, proc="!3"))
    host.publish(facts("a", 11, ALL))
    found = parts(host.poll().rows)
    assert (found["a", A].held, found["a", A].memory_bytes, found["a", A].attribution) == (True, None, "declared")
    assert found["", A].memory_bytes is None


def test_a_pid_used_again_by_another_container_is_seen_by_its_start_time(make_host):
    host = make_host(gpu(0, A, proc=["77 400"]))
    host.publish(facts("a", 11), facts("b", 22))
    host.run(77, f"/docker/{container_id('a')}", started=100)
    assert ("a", A) in parts(host.poll().rows)
    host.run(77, f"/docker/{container_id('b')}", started=200)
    assert ("b", A) in parts(host.poll().rows)


def test_a_process_that_ended_between_list_and_look_belongs_to_nobody(make_host):
    host = make_host(gpu(0, A, memory="1000 0 400", proc=["77 400"]))
    host.publish(facts("a", 11))
    found = parts(host.poll().rows)
    assert list(found) == [("", A)]
    assert found["", A].memory_bytes == 400


def test_a_container_listed_only_later_gets_its_process_then(make_host):
    host = make_host(gpu(0, A, proc=["77 400"]))
    host.publish(facts("a", 11))
    host.run(77, f"/docker/{container_id('b')}")
    assert ("b", A) not in parts(host.poll().rows)
    host.publish(facts("a", 11), facts("b", 77))
    assert ("b", A) in parts(host.poll().rows)


def test_outside_the_hosts_pid_namespace_nothing_is_attributed_and_the_reason_is_said(make_host):
    host = make_host(gpu(0, A, proc=["11 400"]))
    host.publish(facts("a", 11, ALL))
    (host.proc / "self").unlink()
    (host.proc / "self").symlink_to("1")
    row = parts(host.poll().rows)["a", A]
    assert (row.held, row.memory_bytes, row.sm_ratio, row.attribution) == (True, None, None, "unknown")
    assert "--pid=host" in row.attribution_reason


def test_container_pids_that_lie_elsewhere_are_noticed(make_host):
    host = make_host(gpu(0, A, proc=["11 400"]))
    host.publish(facts("a", 11, ALL))
    host.run(11, "/user.slice")  # State.Pid means another process here
    assert parts(host.poll().rows)["a", A].attribution == "unknown"
    host.run(11, f"/docker/{container_id('a')}", started=300)
    assert parts(host.poll().rows)["a", A].attribution == "measured"


def test_before_docker_has_answered_nothing_is_attributed(make_host):
    host = make_host(gpu(0, A, proc=["11 400"]))
    row = parts(host.poll().rows)["", A]
    assert (row.attribution, row.memory_bytes) == ("unknown", None)
    assert "not been listed" in row.attribution_reason


def test_an_old_container_list_takes_the_certainty_from_the_rest(make_host):
    host = make_host(gpu(0, A, proc=["11 400", "22 100"], memory="1000 0 600"))
    host.publish(facts("a", 11, ALL))
    host.run(22, f"/docker/{container_id('b')}")
    host.poll(300)
    found = parts(host.poll().rows)
    assert found["a", A].attribution == "measured"
    assert (found["", A].memory_bytes, found["", A].attribution) == (200, "unknown")
    assert "305 s old" in found["", A].attribution_reason
    assert "Docker container of another daemon" in found["", A].attribution_reason


def test_a_requested_gpu_that_is_not_here_is_a_gap(make_host):
    host = make_host(gpu(0, A))
    host.publish(facts("a", 11, GpuRequest(kind="ids", ids=("0", "7"), text="--gpus device=0,7")))
    reading = host.poll()
    assert parts(reading.rows)["a", A].held
    assert [(gap.subject, gap.reason) for gap in reading.gaps] == [(f"{HOST}:a", "gone")]
    assert "requested GPU 7" in reading.gaps[0].detail


def test_a_clock_that_steps_back_starts_the_samples_over(make_host):
    host = make_host(gpu(0, A, proc=["11 1"], sample=["11 5000000 90"]))
    host.publish(facts("a", 11, ALL))
    host.poll()
    host.stub.write(gpu(0, A, proc=["11 1"], sample=["11 2000000 90"]))
    host.wall -= 3600  # the driver stamps samples with it; the time of rows never goes back
    row = parts(host.poll().rows)["a", A]
    assert row.sm_ratio is None
    host.stub.write(gpu(0, A, proc=["11 1"], sample=["11 2500000 80"]))
    assert parts(host.poll().rows)["a", A].sm_ratio == 0.8


# --- MIG -----------------------------------------------------------------------------------------------------------

M0, M1, M2 = (f"MIG-{n}0000000-0000-0000-0000-000000000000" for n in (1, 2, 3))


def mig_world(*last: str) -> list[list[str]]:
    """One GPU in MIG mode: GPU instance 2 with two compute instances, and GPU instance 3 with processes `last`."""
    name = "NVIDIA H200 MIG"
    return [
        gpu(0, A, mig=1, busy="!3", remapped="!3", sample="!3", memory="143000 600 50000", gpm_support=1,
            proc=["11 900 2 0", "12 700 2 1", *(last or ("22 300 3 0", "23 200 3 0"))]),
        device("0.0", uuid=M0, name=f"{name} 1c.3g.71gb", gi=2, ci=0, memory="71000 10 2000", gpm_2=64),
        device("0.1", uuid=M1, name=f"{name} 1c.3g.71gb", gi=2, ci=1, memory="71000 10 2000"),
        device("0.2", uuid=M2, name=f"{name} 1g.18gb", gi=3, ci=0, memory="18000 10 800", gpm_2=30),
    ]  # fmt: skip


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


# --- idle power, activity, holders ------------------------------------------------------------------------------------


def test_the_idle_draw_is_charged_by_the_rule_of_the_settings(make_host):
    host = make_host(gpu(0, A, field_186=70000), idle_power_to="holders")
    host.publish(facts("a", 11, ALL), facts("b", 22, ALL))
    host.poll()
    host.stub.write(gpu(0, A, busy=50, field_186=270000, energy=1000000, proc=["11 400"], sample=["11 1000000 50"]))
    host.poll()
    host.stub.write(gpu(0, A, busy=50, field_186=270000, energy=2350000, proc=["11 400"], sample=["11 6000000 50"]))
    rows = host.poll().rows
    found = parts(rows)
    a, b, rest = found["a", A], found["b", A], found["", A]
    assert (a.power_watts, a.idle_power_watts, a.energy_joules, a.idle_energy_joules) == (235, 35, 1175, 175)
    assert (b.power_watts, b.idle_power_watts, b.energy_joules, b.processes) == (35, 35, 175, 0)
    assert (rest.power_watts, rest.idle_power_watts, rest.energy_joules, rest.idle_energy_joules) == (0, 0, 0, 0)
    assert gpus(rows)[A].idle_power_watts == 70


def test_a_configured_idle_draw_needs_no_idle_gpu(make_host):
    host = make_host(gpu(0, A, busy=50, field_186=270000, proc=["11 400"], sample="!3"), idle_power_watts=70.0)
    host.publish(facts("a", 11, ALL))
    found = parts(host.poll().rows)
    assert (found["a", A].power_watts, found["", A].idle_power_watts) == (200, 70)


def test_a_gpu_that_encodes_does_not_show_its_idle_draw(make_host):
    host = make_host(gpu(0, A, field_186=112000, encoder=60))
    assert gpus(host.poll().rows)[A].idle_power_watts is None
    host.stub.write(gpu(0, A, field_186=35000, encoder=0))
    assert gpus(host.poll().rows)[A].idle_power_watts == 35


def test_a_gpu_in_mig_mode_shows_its_idle_draw_while_it_has_no_process(make_host):
    world = mig_world("22 300 3 0")
    host = make_host(*world)
    host.publish(facts("b", 22))
    assert gpus(host.poll().rows)[A].idle_power_watts is None
    idle = [line for line in world[0] if not line.startswith("0 proc")]
    host.stub.write(idle, *world[1:])
    rows = host.poll().rows
    assert gpus(rows)[A].idle_power_watts == 70
    rest = parts(rows)["", A]
    assert (rest.power_watts, rest.idle_power_watts) == (70, 70)


def test_the_sm_activity_of_a_gpu_goes_to_its_only_user(make_host):
    lines = gpu(0, A, busy=50, gpm_support=1, gpm_2=30, proc=["11 400"]), gpu(1, B, proc=["22 1"])
    host = make_host(*lines)
    host.publish(facts("a", 11, ALL), facts("b", 22))
    first = gpus(host.poll().rows)
    assert "no data yet" in first[A].unknown_reason
    assert "SM activity needs Hopper or newer (GPM)" in first[B].unknown_reason
    time.sleep(0.12)
    found = parts(host.poll().rows)
    assert found["a", A].sm_active_ratio == pytest.approx(0.3)
    assert found["a", B].sm_active_ratio is found["b", B].sm_active_ratio is found["", A].sm_active_ratio is None
    host.stub.write(gpu(0, A, busy=50, gpm_support=1, gpm_2=30, proc=["11 400", "22 1"]), gpu(1, B))
    time.sleep(0.12)
    assert parts(host.poll().rows)["a", A].sm_active_ratio is None


def test_a_gpu_says_how_many_containers_hold_it(make_host):
    host = make_host(*mig_world(), gpu(1, B))
    assert {row.holders for row in gpus(host.poll().rows).values()} == {None}  # no daemon has been asked
    ids = GpuRequest(kind="ids", ids=("0:0", "1"))
    host.publish(facts("a", 11, ids), facts("b", 22, GpuRequest(kind="ids", ids=("0:0",))), facts("c", 12, ALL))
    counts = {uuid: row.holders for uuid, row in gpus(host.poll().rows).items()}
    # A GPU in MIG mode is held by whoever holds a part of it.
    assert counts == {A: 3, M0: 3, M1: 1, M2: 1, B: 2}
    assert host.inventory.host_gpus(HOST, local=True) == host.source.gpu_list()


def test_an_mps_server_makes_what_is_seen_an_estimate(make_host):
    host = make_host(gpu(0, A, busy=50, proc=["900 30"], sample=["900 5 50"]))
    host.publish(facts("a", 11, ALL))
    host.run(900, "/system.slice/mps.service")
    (host.proc / "900" / "stat").write_text(f"900 (nvidia-cuda-mps) S {'0 ' * 18}7 0\n")
    found = parts(host.poll().rows)
    assert (found["a", A].attribution, found["a", A].processes) == ("estimated", 0)
    assert "an MPS server works on this GPU" in found["a", A].attribution_reason
    assert found["", A].attribution_reason == "1 x MPS server"


def test_under_wsl_only_the_declaration_remains(make_host):
    host = make_host(gpu(0, A, busy=50))
    (host.proc / "sys" / "kernel").mkdir(parents=True)
    (host.proc / "sys" / "kernel" / "osrelease").write_text("5.15.153.1-microsoft-standard-WSL2\n")
    host.restart()
    host.publish(facts("a", 11, ALL))
    row = parts(host.poll().rows)["a", A]
    # An empty list does not mean there that nobody works.
    assert (row.held, row.memory_bytes, row.processes, row.attribution) == (True, None, None, "declared")
    assert row.attribution_reason.startswith("WSL")


# --- traffic, encoders, older and newer drivers ----------------------------------------------------------------------


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


# --- facts, events, budget -------------------------------------------------------------------------------------------


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


def test_an_xid_is_an_event_in_words_and_marks_the_sample(make_host):
    host = make_host(gpu(0, A), gpu(1, B))
    host.poll()
    host.stub.write(gpu(0, A), gpu(1, B, event=["1 79"]))
    event = None
    for _ in range(30):
        time.sleep(0.1)
        rows = host.poll(0.1).rows
        if event := next((row for row in rows if isinstance(row, Event)), None):
            break
    assert (event.kind, event.gpu_uuid, event.severity) == ("xid", B, "critical")
    assert event.title == "XID 79: the GPU has fallen off the bus"
    assert "seating, power" in event.detail
    assert event.attributes == {"xid": "79"}
    assert gpus(rows)[B].xid == 79
    assert not [row for row in host.poll().rows if isinstance(row, Event)]


def heard(host, poll, count=1):
    """Rows of readings until `count` XIDs have come: the listener has a thread of its own."""
    rows = []
    for _ in range(50):
        try:
            rows += poll(0.1).rows
        except SourceError as error:
            rows += error.rows
        if len([row for row in rows if isinstance(row, Event) and row.kind == "xid"]) >= count:
            break
        time.sleep(0.05)
    return rows


def listening(host):
    for _ in range(100):
        if host.stub.count_calls()["nvmlEventSetWait_v2"]:
            return
        time.sleep(0.02)
    raise AssertionError("nobody listens")


def test_xids_between_two_readings_are_stored_once_each_with_their_own_time(make_host):
    host = make_host(gpu(0, A))
    host.poll()
    listening(host)
    before = time.time()
    for number in (31, 31, 94):
        host.stub.event(0, number)
    time.sleep(0.3)
    after = time.time()
    rows = heard(host, host.poll, 3)
    events = [row for row in rows if isinstance(row, Event)]
    assert [row.attributes["xid"] for row in events] == ["31", "31", "94"]
    assert len({row.event_id for row in events}) == 3  # twice the same number is two events
    assert all(before <= row.at.timestamp() <= after for row in events)  # not the time of the reading
    assert {row.xid for row in rows if isinstance(row, GpuSample)} >= {94}
    assert not [row for row in host.poll().rows if isinstance(row, Event)]


def test_the_xid_that_came_before_the_driver_hung_is_not_lost(make_host):
    host = make_host(gpu(0, A), call_timeout_seconds=1.0)
    host.poll()
    listening(host)
    host.stub.event(0, 119)
    time.sleep(0.3)
    host.stub.write(gpu(0, A, busy="~30000 5"))
    with pytest.raises(SourceError) as caught:
        host.poll()
    kinds = [row.kind for row in caught.value.rows if isinstance(row, Event)]
    assert kinds == ["xid", "driver_unresponsive"]


def test_events_are_heard_again_after_the_driver_came_back(make_host):
    host = make_host(gpu(0, A))
    host.poll()
    listening(host)
    host.stub.write("- init !18", gpu(0, A, uuid="!18", handle="!18"), ["- count !18"])
    with pytest.raises(SourceError):
        host.poll(60)
    host.stub.write(gpu(0, A), driver="600.10")
    host.stub.forget_calls()
    host.poll()
    listening(host)
    host.stub.event(0, 79)
    events = [row for row in heard(host, host.poll) if isinstance(row, Event) and row.kind == "xid"]
    assert [row.attributes["xid"] for row in events] == ["79"]


def test_an_event_of_a_mig_instance_names_it():
    event = driver_event(DriverEvent(at=1.0, uuid=A, kind=8, data=13, gpu_instance=2, compute_instance=0), HOST)
    assert event.attributes == {"xid": "13", "gpu_instance": "2", "compute_instance": "0"}


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


# --- published recordings (utkuozdemir/nvidia_gpu_exporter, internal/captures; values retyped)

MIB = 1 << 20


def test_a_recorded_h200_under_load_adds_up(make_host):
    # H200, driver 590.48.01: 32362 MiB used, processes of 2566, 1542 and 28234 MiB; SM 79 and 19; 628 of 700 W.
    h200 = gpu(
        0, A, name="NVIDIA H200", busy=100, memory=f"{143771 * MIB} {614 * MIB} {32362 * MIB}", field_186=628000,
        proc=[f"11 {28234 * MIB}", f"22 {2566 * MIB}", f"33 {1542 * MIB}"],
    )  # fmt: skip
    host = make_host(gpu(0, A, field_186=77000))
    host.publish(facts("a", 11, ALL), facts("b", 22), facts("c", 33))
    host.poll()
    host.stub.write(h200, device("0", sample=["11 5000000 79", "22 5000000 19"]), driver="595.45.04")
    found = parts(host.poll().rows)
    assert {name: row.sm_ratio for (name, _), row in found.items() if name} == {"a": 0.79, "b": 0.19, "c": 0.0}
    assert found["", A].memory_bytes == 20 * MIB
    assert found["", A].sm_ratio == pytest.approx(0.02)
    assert found["a", A].power_watts == pytest.approx((628 - 77) * 0.79)
    assert sum(row.power_watts for row in found.values()) == pytest.approx(628)


def test_a_recorded_l40s_that_is_busy_without_a_process_is_shown_as_unattributed(make_host):
    # "Idle" capture: 100 %, 242 W, no process at all.
    host = make_host(gpu(0, A, name="NVIDIA L40S", busy=100, field_186=242000, gpm_support=0))
    host.publish(facts("a", 11, ALL))
    host.poll()
    found = parts(host.poll().rows)
    assert (found["a", A].sm_ratio, found["a", A].memory_bytes, found["a", A].power_watts) == (0, 0, 0)
    assert (found["", A].sm_ratio, found["", A].power_watts) == (1.0, 242)


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
