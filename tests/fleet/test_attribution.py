"""Whose process it is, by the cgroup lines real runtimes write, and how a device's numbers are split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.attribution import DeviceUse, ProcessUse, place_of, shares, sm_ratios, unmeasured

I = "1" * 64  # noqa: E741
J = "2" * 64
POD = "c2f32d1a-6b7e-4e0b-9d0c-8a2b4f6d1e33"


@pytest.mark.parametrize(
    "text",
    [
        f"0::/system.slice/docker-{I}.scope",  # v2, systemd driver
        f"0::/system.slice/docker-{I}.scope/init",
        f"0::/docker/{I}",  # v2, cgroupfs
        f"12:pids:/docker/{I}\n9:name=systemd:/docker/{I}\n0::/system.slice/containerd.service",  # hybrid
        f"13:hugetlb:/system.slice/docker-{I}.scope",  # v1, systemd
        f"0::/../{I}",  # reader in a private cgroup namespace
        f"0::/../docker-{I}.scope",
        f"0::/foo/bar/{I}",  # --cgroup-parent
        f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{I}.scope",  # rootless
        f"0::/docker/{I}/kubelet.slice/kubelet-kubepods.slice/cri-containerd-{J}.scope",  # kind
        f"0::/docker/{I}/docker/{J}",  # docker in docker
        f"11:memory:/docker/{I}\n0::/",
    ],
)
def test_a_known_id_anywhere_in_the_path_is_the_container(text):
    place = place_of(text, {I})
    assert (place.kind, place.container_id) == ("container", I)


def test_the_innermost_known_container_wins():
    assert place_of(f"0::/docker/{I}/docker/{J}", {I, J}).container_id == J


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (f"0::/machine.slice/libpod-{I}.scope/container", "foreign", "podman container"),
        (f"0::/user.slice/user-1000.slice/libpod-payload-{I}", "foreign", "podman container"),
        (f"0::/machine.slice/libpod-conmon-{I}.scope", "foreign", "podman monitor"),
        (f"0::/kubepods/burstable/pod{POD}/{I}", "foreign", "Kubernetes pod"),
        (f"0::/a/pod{POD.replace('-', '_')}.slice/cri-containerd-{I}.scope", "foreign", "containerd container"),
        (f"0::/a.slice:cri-containerd:{I}", "foreign", "containerd container"),
        (f"0::/a/crio-{I}.scope/container", "foreign", "cri-o container"),
        (f"0::/docker/{I}", "foreign", "Docker container of another daemon"),
        ("0::/slurm/uid_1000/job_77/step_0", "foreign", "Slurm job"),
        ("0::/lxc.payload.web/init", "foreign", "LXC container"),
        (f"0::/foo/{I}", "foreign", "container that is not in the list"),
        ("0::/user.slice/user-0.slice/session-1.scope", "host", "host process"),
        ("0::/system.slice/docker.service", "host", "host process"),  # the daemon is no container
        ("0::/", "host", "host process"),
        ("", "host", "host process"),
        (f"0::/docker/{'a' * 65}", "host", "host process"),  # not 64 digits
    ],
)
def test_what_is_not_ours_has_a_word(text, kind, words):
    place = place_of(text, {J})
    assert (place.kind, place.container_id, place.words) == (kind, "", words)


# --- utilisation ---------------------------------------------------------------------------------------------------


def test_the_first_reading_publishes_nothing_but_remembers_the_newest_sample():
    assert sm_ratios([(7, 1_000_000, 50)], None, {7}) == (None, 1_000_000)


def test_a_listed_process_without_a_row_did_not_run():
    assert sm_ratios([], 5, {7, 8}) == ({7: 0.0, 8: 0.0}, 5)


def test_rows_that_are_old_or_above_a_hundred_or_of_strangers_are_noise():
    rows = [(7, 10, 90), (7, 11, 40), (7, 12, 20), (7, 13, 101), (9, 14, 50)]
    # 10 is not newer than 10; 40 and 20 average to 30; 101 is garbage; 9 is not listed but moves the clock.
    assert sm_ratios(rows, 10, {7, 8}) == ({7: 0.3, 8: 0.0}, 14)


def test_an_empty_first_reading_is_not_repeated_for_ever():
    _, newest = sm_ratios([], None, {7})
    assert newest == 0
    assert sm_ratios([(7, 5, 60)], newest, {7}) == ({7: 0.6}, 5)


# --- shares ---------------------------------------------------------------------------------------------------------


def test_two_containers_and_a_host_process_share_one_gpu():
    device = DeviceUse(
        busy_ratio=0.9, memory_used_bytes=1000, power_watts=370, energy_joules=1850, idle_watts=70, interval_seconds=5
    )
    uses = [ProcessUse(I, 300, 0.4), ProcessUse(I, 100, 0.1), ProcessUse(J, 200, 0.25), ProcessUse("", 250, 0.1)]
    one, two, rest = shares(device, uses, {I})
    assert (one.container_id, one.held, one.memory_bytes, one.sm_ratio) == (I, True, 400, 0.5)
    assert (two.container_id, two.held, two.memory_bytes, two.sm_ratio) == (J, False, 200, 0.25)
    # 300 W above idle: 0.5/0.9 and 0.25/0.9 of it; the same shares of 1850 - 70*5 = 1500 J.
    assert one.power_watts == pytest.approx(300 * 5 / 9)
    assert two.energy_joules == pytest.approx(1500 * 2.5 / 9)
    assert (rest.container_id, rest.memory_bytes) == ("", 400)
    assert rest.sm_ratio == pytest.approx(0.15)
    assert rest.power_watts == pytest.approx(370 - 300 * 7.5 / 9)
    assert {share.attribution for share in (one, two, rest)} == {"measured"}


def test_a_holder_without_a_process_uses_nothing_and_that_is_measured():
    held, rest = shares(DeviceUse(busy_ratio=0, memory_used_bytes=5, power_watts=70, interval_seconds=5), [], {I})
    assert (held.held, held.memory_bytes, held.sm_ratio, held.power_watts) == (True, 0, 0, 0)
    assert held.attribution == "measured"
    assert rest.power_watts == 70


def test_unreadable_memory_makes_the_sum_an_at_least():
    device = DeviceUse(busy_ratio=0.1, memory_used_bytes=100, interval_seconds=5)
    part, rest = shares(device, [ProcessUse(I, 30, 0.1), ProcessUse(I, None, 0.0)], ())
    assert (part.memory_bytes, part.attribution) == (30, "estimated")
    assert "1 of 2 processes" in part.reason
    assert (rest.memory_bytes, rest.attribution) == (70, "estimated")
    nothing, rest = shares(device, [ProcessUse(I, None, 0.0)], ())
    assert nothing.memory_bytes is None
    assert rest.memory_bytes is None


def test_without_sm_samples_the_share_is_unknown_and_the_power_an_equal_split():
    device = DeviceUse(busy_ratio=0.5, power_watts=270, idle_watts=70, interval_seconds=5, memory_used_bytes=9)
    uses = [ProcessUse(I, 1, None), ProcessUse(J, 1, None)]
    one, two, rest = shares(device, uses, {I}, sm_reason="SM share: not supported")
    assert one.sm_ratio is two.sm_ratio is rest.sm_ratio is None
    assert one.power_watts == two.power_watts == 100
    assert rest.power_watts == 70
    assert one.reason == "SM share: not supported; power: split equally among 2, an estimate"
    only, rest = shares(device, [ProcessUse(I, 1, None), ProcessUse("", 1, None)], ())
    assert only.power_watts == rest.power_watts - 70 == 100  # the host process is the other user


def test_power_is_unknown_until_the_idle_draw_was_seen():
    device = DeviceUse(busy_ratio=0.5, power_watts=270, interval_seconds=5)
    share, rest = shares(device, [ProcessUse(I, 1, 0.5)], ())
    assert share.power_watts is rest.power_watts is None
    assert "idle" in share.reason


def test_mps_is_an_estimate():
    share, _ = shares(DeviceUse(interval_seconds=5), [ProcessUse(I, 1, 0.5, mps=True)], ())
    assert share.attribution == "estimated"
    assert "MPS" in share.reason


def test_when_processes_cannot_be_told_only_the_declaration_remains():
    own, rest = unmeasured({I}, "declared", "no process list")
    assert (own.held, own.memory_bytes, own.sm_ratio, own.attribution) == (True, None, None, "declared")
    assert (rest.container_id, rest.memory_bytes, rest.attribution) == ("", None, "unknown")


_uses = st.lists(
    st.builds(ProcessUse, st.sampled_from(["", I, J]), st.integers(0, 10**11), st.floats(0, 1)), max_size=8
)


@given(_uses, st.floats(0, 1), st.floats(50, 700), st.floats(0, 200), st.integers(0, 10**12))
def test_the_parts_sum_to_the_device_and_none_is_negative(uses, busy, watts, idle, used):
    device = DeviceUse(
        busy_ratio=busy, memory_used_bytes=used, power_watts=watts, energy_joules=watts * 5, idle_watts=idle,
        interval_seconds=5,
    )  # fmt: skip
    found = shares(device, uses, {I})
    assert sum(share.power_watts for share in found) == pytest.approx(watts)
    assert sum(share.energy_joules for share in found) == pytest.approx(watts * 5)
    assert sum(share.memory_bytes for share in found) >= used
    assert all(min(share.power_watts, share.memory_bytes, share.sm_ratio) >= 0 for share in found)
    if sum(use.memory_bytes for use in uses if use.container_id) <= used:
        assert sum(share.memory_bytes for share in found) == used


# --- the idle part --------------------------------------------------------------------------------------------------

DEVICE = DeviceUse(
    busy_ratio=0.5, sm_active_ratio=0.3, power_watts=370, energy_joules=1850, idle_watts=70, interval_seconds=5
)


def test_the_idle_draw_stays_with_the_host_unless_told_otherwise():
    holder, user, rest = shares(DEVICE, [ProcessUse(I, 1, 0.5)], {J})
    assert (user.power_watts, user.idle_power_watts, user.energy_joules, user.idle_energy_joules) == (300, 0, 1500, 0)
    assert (holder.power_watts, holder.idle_power_watts, holder.idle_energy_joules) == (0, 0, 0)
    assert (rest.power_watts, rest.idle_power_watts, rest.energy_joules, rest.idle_energy_joules) == (70, 70, 350, 350)


def test_the_idle_draw_goes_equally_to_those_who_hold_the_gpu_whether_they_use_it_or_not():
    user, holder, rest = shares(DEVICE, [ProcessUse(I, 1, 0.5)], {I, J}, idle_to="holders")
    assert (user.power_watts, user.idle_power_watts, user.energy_joules, user.idle_energy_joules) == (
        335,
        35,
        1675,
        175,
    )
    assert (holder.power_watts, holder.idle_power_watts, holder.energy_joules) == (35, 35, 175)
    assert (rest.power_watts, rest.idle_power_watts, rest.idle_energy_joules) == (0, 0, 0)
    # Who uses it without holding it is charged with its work alone.
    user, rest = shares(DEVICE, [ProcessUse(I, 1, 0.5)], (), idle_to="holders")
    assert (user.power_watts, user.idle_power_watts, rest.idle_power_watts) == (300, 0, 70)


def test_an_idle_draw_that_is_not_known_leaves_the_holders_power_unknown_only_when_they_are_charged_with_it():
    device = DeviceUse(busy_ratio=0, power_watts=70, interval_seconds=5)
    holder, rest = shares(device, [], {I})
    assert (holder.power_watts, holder.idle_power_watts, rest.power_watts, rest.idle_power_watts) == (0, 0, 70, None)
    holder, rest = shares(device, [], {I}, idle_to="holders")
    assert holder.power_watts is holder.idle_power_watts is rest.power_watts is rest.idle_power_watts is None


def test_a_gpu_that_draws_less_than_it_usually_does_when_idle_has_no_active_part():
    device = DeviceUse(busy_ratio=0.1, power_watts=60, energy_joules=300, idle_watts=70, interval_seconds=5)
    user, rest = shares(device, [ProcessUse(I, 1, 0.1)], ())
    assert (user.power_watts, rest.power_watts, rest.idle_power_watts, rest.idle_energy_joules) == (0, 60, 60, 300)


# --- who is alone, how many, MPS ------------------------------------------------------------------------------------


def test_the_sm_activity_of_a_gpu_is_that_of_its_only_user():
    holder, user, rest = shares(DEVICE, [ProcessUse(I, 1, 0.5), ProcessUse(I, 1, 0.0)], {J})
    assert (user.sm_active_ratio, user.processes, user.attribution) == (0.3, 2, "measured")
    assert holder.sm_active_ratio is rest.sm_active_ratio is None
    assert (holder.processes, rest.processes) == (0, 0)
    user, rest = shares(DEVICE, [ProcessUse(I, 1, 0.5), ProcessUse("", 1, 0.0)], ())
    assert (user.sm_active_ratio, rest.processes) == (None, 1)  # a process of the host may have done it
    one, two, _ = shares(DEVICE, [ProcessUse(I, 1, 0.5), ProcessUse(J, 1, 0.0)], ())
    assert one.sm_active_ratio is two.sm_active_ratio is None


def test_an_mps_server_makes_every_share_an_estimate():
    holder, user, _ = shares(DEVICE, [ProcessUse(I, 1, 0.5), ProcessUse("", 1, 0.0)], {J}, mps_server=True)
    assert (user.attribution, holder.attribution) == ("estimated", "estimated")
    assert "an MPS server works on this GPU" in holder.reason


@given(_uses, st.floats(0, 1), st.floats(0, 700), st.floats(0, 200), st.sampled_from(["host", "holders"]))
def test_the_idle_parts_sum_to_the_idle_draw_by_either_rule(uses, busy, watts, idle, rule):
    device = DeviceUse(
        busy_ratio=busy, power_watts=watts, energy_joules=watts * 5, idle_watts=idle, interval_seconds=5
    )  # fmt: skip
    found = shares(device, uses, {I}, idle_to=rule)
    assert sum(share.power_watts for share in found) == pytest.approx(watts, abs=1e-9)
    assert sum(share.energy_joules for share in found) == pytest.approx(watts * 5, abs=1e-9)
    assert sum(share.idle_power_watts for share in found) == pytest.approx(min(idle, watts), abs=1e-9)
    assert sum(share.idle_energy_joules for share in found) == pytest.approx(min(idle, watts) * 5, abs=1e-9)
    assert sum(share.processes for share in found) == len(uses)
    for share in found:
        assert 0 <= share.idle_power_watts <= share.power_watts + 1e-9
