"""Whose GPU work is it: process -> container, and a device's numbers split so that the parts sum to the whole.

Three facts stay apart: what a container was given (`held`), what its processes keep in memory, and how much of the
time they ran. Whatever no container accounts for stays in the row with an empty container id.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from fleet.model import UNATTRIBUTED, Attribution

_N = TypeVar("_N", int, float)
PlaceKind = Literal["container", "foreign", "host", "gone", "unknown"]
#: Who is charged with what a device draws when nothing runs: the host (its unattributed row), or those who hold it.
IdleTo = Literal["host", "holders"]

#: Process ids that no process has: drivers 535.43 to 535.86 returned them when the list was misread.
IMPOSSIBLE_PIDS = frozenset({0, 0xFFFFFFFF})
BROKEN_LIST = "the driver's process list is damaged (seen with drivers 535.43 to 535.86): update the NVIDIA driver"
FIRST_READING = "SM share: first reading, known from the next one on"
MPS_SERVER = "MPS server"
_MPS_CLIENT = "MPS: the driver credits one client per engine sample, so the SM share is an estimate"
_MPS_THROUGH_SERVER = "an MPS server works on this GPU: what it does for this container counts for the server"

_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_I = r"[0-9a-f]{64}(?![0-9a-f])"
# Tried in order on a path without a known id. Forms: docker, podman, containerd, cri-o and kubelet documentation.
_FOREIGN = (
    ("podman monitor", re.compile(r"(?:libpod|crio)-conmon-")),
    ("podman container", re.compile(rf"libpod-(?:payload-)?{_I}")),
    ("cri-o container", re.compile(rf"crio-{_I}")),
    ("containerd container", re.compile(rf"cri-containerd[-:]{_I}")),
    ("Docker container of another daemon", re.compile(rf"(?:^|/)docker[-/]{_I}")),
    ("Kubernetes pod", re.compile(r"pod[0-9a-f]{8}[-_][0-9a-f_-]{27}")),
    ("Slurm job", re.compile(r"/job_\d+")),
    ("LXC container", re.compile(r"/lxc(?:\.payload)?[./][^/]+")),
    ("container that is not in the list", _ID),
)
_CONTROLLERS_FIRST = ("pids", "devices", "memory")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process runs. `container_id` only for kind "container"; `words` for a person."""

    kind: PlaceKind
    container_id: str = ""
    words: str = ""


def place_of(cgroup: str, known: Collection[str]) -> Place:
    """The place of a process from the text of its /proc/PID/cgroup; `known`: full ids of this daemon's containers.

    Membership, not a path prefix, decides: `--cgroup-parent` and private cgroup namespaces have no prefix. The
    innermost known id wins, so a container inside a container counts for the outer one when only that is ours.
    """
    paths = list(_paths(cgroup))
    for path in paths:
        for found in reversed(_ID.findall(path)):
            if found in known:
                return Place("container", found)
    for path in paths:
        for words, pattern in _FOREIGN:
            if pattern.search(path):
                return Place("foreign", words=words)
    return Place("host", words="host process")


def _paths(cgroup: str) -> Iterator[str]:
    """Unified hierarchy first, then the v1 controllers that Docker always uses: hybrid hosts may fill only one."""
    lines = [parts for line in cgroup.splitlines() if len(parts := line.split(":", 2)) == 3]

    def order(parts: Sequence[str]) -> int:
        if parts[0] == "0" and not parts[1]:
            return 0
        return 1 if set(parts[1].split(",")) & set(_CONTROLLERS_FIRST) else 2

    return (parts[2] for parts in sorted(lines, key=order))


# --- utilisation samples -----------------------------------------------------------------------------------------


def sm_ratios(
    samples: Sequence[tuple[int, int, int]], since_us: int | None, pids: Collection[int]
) -> tuple[dict[int, float] | None, int]:
    """SM share (0-1) of each listed process and the newest sample time, from (pid, time in us, SM %) rows.

    since_us: newest time seen on this device before, by the driver's own clock; None on the first reading, which
    answers None because its rows cover an unknown span. A listed process without a row did not run: 0.
    Several rows of a process are averaged; rows above 100 % and of unlisted processes are driver noise.
    """
    newest = max((at for _, at, _ in samples), default=0)
    if since_us is None:
        return None, newest
    rows: dict[int, list[int]] = defaultdict(list)
    for pid, at, percent in samples:
        if at > since_us and percent <= 100 and pid in pids:
            rows[pid].append(percent)
    ratios = {pid: sum(rows[pid]) / len(rows[pid]) / 100 if rows[pid] else 0.0 for pid in pids}
    return ratios, max(since_us, newest)


# --- shares ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUse:
    """One device over one interval. None = not known.

    idle_watts: what it draws when nothing runs. power_reason: why its power is None, where that is known.
    """

    busy_ratio: float | None = None
    sm_active_ratio: float | None = None
    memory_used_bytes: int | None = None
    power_watts: float | None = None
    energy_joules: float | None = None
    idle_watts: float | None = None
    power_reason: str = "the GPU does not report it"
    interval_seconds: float


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """One process on the device. `container_id` is empty when it is in no container of ours; None = not known."""

    container_id: str
    memory_bytes: int | None
    sm_ratio: float | None
    mps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One container's part of one device, or with an empty id what no container accounts for.

    Power and energy include the idle part, which is also told alone. `processes` None = they cannot be told.
    """

    container_id: str
    held: bool
    processes: int | None = None
    memory_bytes: int | None = None
    sm_ratio: float | None = None
    sm_active_ratio: float | None = None
    power_watts: float | None = None
    energy_joules: float | None = None
    idle_power_watts: float | None = None
    idle_energy_joules: float | None = None
    attribution: Attribution
    reason: str = ""


def shares(
    device: DeviceUse,
    processes: Sequence[ProcessUse],
    held: Collection[str],
    *,
    sm_reason: str = "",
    idle_to: IdleTo = "host",
    mps_server: bool = False,
) -> tuple[Share, ...]:
    """Split a device among containers; the last share is the unattributed rest, which closes every sum.

    held: ids of the containers that were given the device. sm_reason: why the processes' SM shares are None.
    idle_to: who is charged with the idle draw. mps_server: a process here works for others, who may not be listed.
    A container without a process uses nothing: its 0 is measured.
    """
    by_container: dict[str, list[ProcessUse]] = {container: [] for container in sorted(held)}
    strangers = 0
    for process in processes:
        if process.container_id:
            by_container.setdefault(process.container_id, []).append(process)
        else:
            strangers += 1
    sm = {container: _sm(own) for container, own in by_container.items()}
    memory = {container: _memory(own) for container, own in by_container.items()}
    users = sum(1 for own in by_container.values() if own)
    weights, split_reason = _weights(device, by_container, sm, strangers=strangers > 0)
    idle_joules = None if device.idle_watts is None else device.idle_watts * device.interval_seconds
    watts = _parts(device.power_watts, device.idle_watts, weights, held, idle_to)
    joules = _parts(device.energy_joules, idle_joules, weights, held, idle_to)
    power_reason = _power_reason(device, watts) or split_reason

    found: list[Share] = []
    partly = False
    for container, own in by_container.items():
        unreadable = sum(process.memory_bytes is None for process in own)
        reasons: list[str] = []
        if unreadable:
            at_least = "" if memory[container] is None else ", so it is at least this much"
            reasons.append(f"memory: {unreadable} of {len(own)} processes cannot be read{at_least}")
            partly = True
        if sm[container] is None:
            reasons.append(sm_reason or "SM share: not known")
        mps = any(process.mps for process in own)
        if mps or (mps_server and own):
            reasons.append(_MPS_CLIENT)
        elif mps_server:
            reasons.append(_MPS_THROUGH_SERVER)
        if own and power_reason:
            reasons.append(power_reason)
        found.append(
            Share(
                container_id=container,
                held=container in held,
                processes=len(own),
                memory_bytes=memory[container],
                sm_ratio=sm[container],
                sm_active_ratio=device.sm_active_ratio if own and users == 1 and not strangers else None,
                power_watts=watts.power[container],
                energy_joules=joules.power[container],
                idle_power_watts=watts.idle[container],
                idle_energy_joules=joules.idle[container],
                attribution=_attribution(
                    held=container in held,
                    nothing=memory[container] is None and sm[container] is None,
                    partly=mps or mps_server or unreadable > 0,
                ),
                reason="; ".join(reasons),
            )
        )
    found.append(
        Share(
            container_id=UNATTRIBUTED,
            held=False,
            processes=strangers,
            memory_bytes=_rest(device.memory_used_bytes, memory.values()),
            sm_ratio=_rest(device.busy_ratio, sm.values()),
            power_watts=_rest(device.power_watts, watts.power.values()),
            energy_joules=_rest(device.energy_joules, joules.power.values()),
            idle_power_watts=_rest(watts.whole_idle, watts.idle.values()),
            idle_energy_joules=_rest(joules.whole_idle, joules.idle.values()),
            attribution="estimated" if partly else "measured",
            reason="some memory of containers cannot be read and is counted here" if partly else "",
        )
    )
    return tuple(found)


def unmeasured(held: Collection[str], attribution: Attribution, reason: str) -> tuple[Share, ...]:
    """Shares when processes cannot be told: who holds the device is all that is known."""
    own = [Share(container_id=name, held=True, attribution=attribution, reason=reason) for name in sorted(held)]
    return (*own, Share(container_id=UNATTRIBUTED, held=False, attribution="unknown", reason=reason))


def _attribution(*, held: bool, nothing: bool, partly: bool) -> Attribution:
    if nothing:  # there are processes, and the driver tells no more of them (WSL)
        return "declared" if held else "unknown"
    return "estimated" if partly else "measured"


def _sm(own: Sequence[ProcessUse]) -> float | None:
    values = [process.sm_ratio for process in own]
    known = [value for value in values if value is not None]
    return min(1.0, sum(known)) if len(known) == len(values) else None


def _memory(own: Sequence[ProcessUse]) -> int | None:
    known = [process.memory_bytes for process in own if process.memory_bytes is not None]
    return sum(known) if known or not own else None


def _weights(
    device: DeviceUse,
    by_container: Mapping[str, Sequence[ProcessUse]],
    sm: Mapping[str, float | None],
    *,
    strangers: bool,
) -> tuple[dict[str, float], str]:
    """Each container's part (sum <= 1) of the active power, and a word when that is an estimate."""
    known = {container: value for container, value in sm.items() if value is not None}
    if len(known) == len(sm):
        # What the device was busy without any container's process stays unattributed.
        whole = max(sum(known.values()), device.busy_ratio or 0.0)
        return {container: value / whole if whole else 0.0 for container, value in known.items()}, ""
    users = [container for container, own in by_container.items() if own]
    parts = len(users) + strangers  # processes outside our containers count as one user, whose part stays over
    words = "power: all of the active part, the only user" if parts == 1 else f"power: split equally among {parts}"
    return {container: 1 / parts if container in users else 0.0 for container in sm}, f"{words}, an estimate"


@dataclass(frozen=True, slots=True)
class _Parts:
    """Power (or energy) of each container, idle part included, and that idle part; None = not known."""

    power: Mapping[str, float | None]
    idle: Mapping[str, float | None]
    whole_idle: float | None


def _parts(
    whole: float | None, idle: float | None, weights: Mapping[str, float], held: Collection[str], idle_to: IdleTo
) -> _Parts:
    """The active part by weight and the idle part by the rule. Who has no part of either has 0, known or not."""
    # A GPU may for a moment draw less than it usually does when idle: a part is never more than the whole.
    known_idle = None if whole is None or idle is None else min(whole, idle)
    charged = set(held) if idle_to == "holders" else set[str]()
    idle_each = None if known_idle is None else known_idle / max(1, len(charged))
    active = None if whole is None or known_idle is None else whole - known_idle
    idles: dict[str, float | None] = {name: idle_each if name in charged else 0.0 for name in weights}
    powers: dict[str, float | None] = {}
    for name, weight in weights.items():
        own_active = 0.0 if not weight else None if active is None else active * weight
        own_idle = idles[name]
        powers[name] = None if own_active is None or own_idle is None else own_active + own_idle
    return _Parts(powers, idles, known_idle)


def _power_reason(device: DeviceUse, watts: _Parts) -> str:
    if None not in watts.power.values():
        return ""
    if device.power_watts is None:
        return f"power: {device.power_reason}"
    return "power: known once this GPU was seen without work, or with [nvml] idle_power_watts written"


def _rest(whole: _N | None, parts: Collection[_N | None]) -> _N | None:
    if whole is None or any(part is None for part in parts):
        return None
    return max(type(whole)(0), whole - sum(part for part in parts if part is not None))
