"""Who has what part of a GPU: processes to containers, and numbers that sum to the device."""

from __future__ import annotations

import time

import pytest

from fleet.inventory import GpuRequest
from tests.fakes.gpu_host import HOST, A, B, container_id, facts, gpus, parts
from tests.fakes.mig_world import M0, M1, M2, mig_world
from tests.fakes.nvml_stub import device, gpu

pytestmark = pytest.mark.cc
ALL = GpuRequest(kind="all", text="--gpus all")


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


# --- published recordings (utkuozdemir/nvidia_gpu_exporter, internal/captures; values retyped) ------------------------


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
