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
