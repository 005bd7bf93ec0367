"""A GPU in MIG mode as its MIG devices, and itself with what belongs to none of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from collectors.nvml_messages import DeviceReading, Process
from fleet.attribution import DeviceUse

ON_PARENT = "MIG: SM share is not measured for processes, power only for the whole board"
IN_MIG = (
    "MIG: the driver does not tell SM shares of processes; the activity of a MIG device whose only user a container is "
    "is known where there is GPM (Hopper or newer)"
)
_POWER = "MIG: told only for the whole GPU, in its unattributed row"


@dataclass(slots=True, kw_only=True)
class DeviceState:
    """One device with the processes on it and what is known of its use."""

    uuid: str
    processes: Sequence[Process] | None
    sm: Mapping[int, float] | None
    sm_reason: str
    use: DeviceUse
    reason: str = ""  # why processes is None


def mig_devices(
    whole: DeviceState, instances: Sequence[DeviceReading], interval: Callable[[str], float]
) -> list[DeviceState]:
    """The GPU first, then its MIG devices. interval: seconds that a row of a device stands for.

    Memory is told per GPU instance: compute instances of one GPU instance show the same number, so the instance is
    counted on its first one only. Power and energy exist only for the board and stay with it.
    """
    processes = whole.processes
    places = {(one.identity.gpu_instance, one.identity.compute_instance) for one in instances}
    loose = None
    if processes is not None:
        loose = [one for one in processes if (one.gpu_instance, one.compute_instance) not in places]
    used_by_instance = {one.identity.gpu_instance: one.metrics.memory_used_bytes for one in instances}
    known = [used for used in used_by_instance.values() if used is not None]
    rest = whole.use.memory_used_bytes
    if rest is not None:
        rest = max(0, rest - sum(known)) if len(known) == len(used_by_instance) else None
    # What a process outside all instances draws cannot be told from what those inside draw.
    idle_watts = None if loose else whole.use.idle_watts
    use = replace(
        whole.use, busy_ratio=None, sm_active_ratio=None, memory_used_bytes=rest, idle_watts=idle_watts,
        power_reason=_POWER,
    )  # fmt: skip
    found = [replace(whole, processes=loose, sm=None, sm_reason=ON_PARENT, use=use)]
    counted: set[int | None] = set()
    sharing = Counter(one.identity.gpu_instance for one in instances)
    for one in sorted(instances, key=lambda each: (each.identity.gpu_instance, each.identity.compute_instance)):
        gi, ci = one.identity.gpu_instance, one.identity.compute_instance
        inside = [each for each in processes or () if each.gpu_instance == gi]
        own = [each for each in inside if each.compute_instance == ci]
        # GPM measures the GPU instance: with several compute instances in it, it is nobody's own number.
        sm_active = one.metrics.sm_active_ratio if sharing[gi] == 1 else None
        busy = one.metrics.busy_ratio if sharing[gi] == 1 else None
        memory = _sum_memory(own)
        if gi not in counted:
            others = _sum_memory([each for each in inside if each.compute_instance != ci])
            used = one.metrics.memory_used_bytes
            memory = None if used is None or others is None else max(0, used - others)
        counted.add(gi)
        use = DeviceUse(
            busy_ratio=sm_active if busy is None else busy,
            sm_active_ratio=sm_active,
            memory_used_bytes=memory,
            power_reason=_POWER,
            interval_seconds=interval(one.identity.uuid),
        )
        found.append(
            DeviceState(
                uuid=one.identity.uuid,
                processes=None if processes is None else own,
                sm=None,
                sm_reason=IN_MIG,
                use=use,
                reason=whole.reason,
            )
        )
    return found


def _sum_memory(processes: Sequence[Process]) -> int | None:
    known = [process.memory_bytes for process in processes if process.memory_bytes is not None]
    return sum(known) if len(known) == len(processes) else None
