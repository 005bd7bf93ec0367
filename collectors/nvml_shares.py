"""Rows of containers on GPUs: joins the driver's process lists with the inventory and closes each device's sum."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from collectors.nvml_messages import DeviceReading, Process
from collectors.nvml_rows import Intervals
from collectors.process_places import ProcessPlaces
from fleet.allocation import HostGpu, resolve
from fleet.attribution import (
    BROKEN_LIST,
    FIRST_READING,
    IMPOSSIBLE_PIDS,
    DeviceUse,
    Place,
    ProcessUse,
    Share,
    shares,
    sm_ratios,
    unmeasured,
)
from fleet.gpu_words import nvml_error
from fleet.idle_power import IdlePower
from fleet.increase import IncreaseTracker
from fleet.inventory import ContainerFacts, HostInventory
from fleet.model import ContainerGpuSample, Gap

NO_LIST = "the containers of this host have not been listed yet"
_STALE_SECONDS = 120
_ON_PARENT = "MIG: SM share is not measured for processes, power only for the whole board"
_IN_MIG = "MIG: the driver does not tell SM shares of processes"
_ALONE_IN_MIG = "SM activity of the MIG instance, whose only user this is"


@dataclass(slots=True, kw_only=True)
class _Device:
    """One device with the processes on it and what is known of its use."""

    uuid: str
    processes: Sequence[Process] | None
    sm: Mapping[int, float] | None
    sm_reason: str
    use: DeviceUse
    reason: str = ""  # why processes is None


class GpuShares:
    """Keeps, per device, the newest sample seen and the counters that shares are split from."""

    def __init__(self, host: str, places: ProcessPlaces, idle: IdlePower, interval_seconds: float) -> None:
        self._host = host
        self._places = places
        self._idle = idle
        self._intervals = Intervals(interval_seconds)
        self._increases = IncreaseTracker()
        self._since_us: dict[str, int] = {}
        self._checked_at: datetime | None = None

    @property
    def since_us(self) -> Mapping[str, int]:
        """Newest utilisation sample per device, for the next request."""
        return self._since_us

    def forget_samples(self) -> None:
        """Start over with the samples: the clock went back, and samples stamped with it would seem old for long."""
        self._since_us.clear()

    def rows(
        self,
        readings: Sequence[DeviceReading],
        gpus: Sequence[HostGpu],
        inventories: Sequence[HostInventory],
        driver_version: str,
        at: datetime,
    ) -> tuple[tuple[ContainerGpuSample, ...], tuple[Gap, ...]]:
        """One row per container and device, and per device the row that closes its sum.

        gpus: the host's full list, on which requests are resolved; inventories: daemons of this machine.
        """
        running = {
            one.row.container_id: one for inventory in inventories for one in inventory.containers if one.pid > 0
        }
        holders, gaps = _holders(running.values(), gpus)
        pids = {process.pid for reading in readings for process in reading.processes or ()} - IMPOSSIBLE_PIDS
        places = self._places.places(pids, running.keys())
        problem = self._problem(inventories, running, at)
        age = max(((at - one.at).total_seconds() for one in inventories), default=0.0)
        stale = f"the container list is {age:.0f} s old" if age > _STALE_SECONDS else ""
        found: list[ContainerGpuSample] = []
        for device in self._devices(readings, driver_version, at):
            *parts, rest = _split(device, holders[device.uuid], places, problem)
            if stale:  # containers started since then are in no list and end up in the rest
                rest = replace(rest, attribution="unknown", reason="; ".join(filter(None, (stale, rest.reason))))
            parts.append(rest)
            found += [self._row(share, device, running.get(share.container_id), at) for share in parts]
        return tuple(found), gaps

    def _problem(
        self, inventories: Sequence[HostInventory], running: Mapping[str, ContainerFacts], at: datetime
    ) -> str:
        """Why no process can be given to a container; checked until it succeeds, then once an hour."""
        if not inventories:
            return NO_LIST
        if self._checked_at is not None and 0 <= (at - self._checked_at).total_seconds() < 3600:
            return ""
        problem = self._places.problem({name: one.pid for name, one in running.items()})
        self._checked_at = None if problem or not running else at
        return problem

    def _devices(self, readings: Sequence[DeviceReading], driver_version: str, at: datetime) -> list[_Device]:
        children: dict[str, list[DeviceReading]] = defaultdict(list)
        for reading in readings:
            if reading.identity.parent_uuid:
                children[reading.identity.parent_uuid].append(reading)
        found: list[_Device] = []
        for reading in readings:
            if reading.identity.parent_uuid or "device" in reading.errors:
                continue
            device = self._device(reading, driver_version, at)
            instances = children[reading.identity.uuid]
            if instances or reading.identity.mig_enabled:
                found += _mig_devices(device, reading, instances, self._intervals, at)
            else:
                found.append(device)
        return found

    def _device(self, reading: DeviceReading, driver_version: str, at: datetime) -> _Device:
        uuid, metrics = reading.identity.uuid, reading.metrics
        interval = self._intervals.since_last(uuid, at)
        # Its own series: container rows may come less often than device rows.
        joules = (
            None
            if metrics.energy_millijoules is None
            else self._increases.increase(uuid, float(metrics.energy_millijoules))
        )
        use = DeviceUse(
            busy_ratio=metrics.busy_ratio,
            memory_used_bytes=metrics.memory_used_bytes,
            power_watts=metrics.power_watts,
            energy_joules=None if joules is None else joules / 1000,
            idle_watts=self._idle.watts(uuid, driver_version),
            interval_seconds=interval,
        )
        processes, reason = reading.processes, ""
        if processes is None:
            reason = f"process list: {nvml_error(reading.errors.get('processes', 21)).words}"
        elif any(process.pid in IMPOSSIBLE_PIDS for process in processes):
            processes, reason = None, BROKEN_LIST
        sm, sm_reason = self._sm(reading, processes)
        return _Device(uuid=uuid, processes=processes, sm=sm, sm_reason=sm_reason, use=use, reason=reason)

    def _sm(self, reading: DeviceReading, processes: Sequence[Process] | None) -> tuple[dict[int, float] | None, str]:
        uuid = reading.identity.uuid
        if reading.samples is None:
            return None, f"SM share: {nvml_error(reading.errors.get('samples', 21)).words}"
        rows = [(sample.pid, sample.at_us, sample.sm_percent) for sample in reading.samples]
        sm, newest = sm_ratios(rows, self._since_us.get(uuid), {process.pid for process in processes or ()})
        self._since_us[uuid] = newest
        return sm, FIRST_READING if sm is None else ""

    def _row(self, share: Share, device: _Device, container: ContainerFacts | None, at: datetime) -> ContainerGpuSample:
        return ContainerGpuSample(
            at=at,
            host=self._host,
            tenant=container.row.tenant if container else "",
            container_key=container.row.container_key if container else "",
            container_id=share.container_id,
            gpu_uuid=device.uuid,
            interval_seconds=device.use.interval_seconds,
            held=share.held,
            memory_bytes=share.memory_bytes,
            sm_ratio=share.sm_ratio,
            power_watts=share.power_watts,
            energy_joules=share.energy_joules,
            attribution=share.attribution,
            attribution_reason=share.reason,
        )


def _holders(
    running: Collection[ContainerFacts], gpus: Sequence[HostGpu]
) -> tuple[defaultdict[str, set[str]], tuple[Gap, ...]]:
    """Device -> containers that were given it, and a gap for every id that names nothing on this host."""
    holders: dict[str, set[str]] = defaultdict(set)
    gaps: list[Gap] = []
    for container in running:
        allocation = resolve(container.gpu, gpus)
        for uuid in allocation.uuids:
            holders[uuid].add(container.row.container_id)
        if allocation.unresolved and gpus:
            missing = ", ".join(allocation.unresolved)
            detail = f"requested GPU {missing}, which is not on this host ({container.gpu.text})"
            gaps.append(Gap(subject=container.row.container_key, reason="gone", detail=detail))
    return holders, tuple(gaps)


def _mig_devices(
    whole: _Device, reading: DeviceReading, instances: Sequence[DeviceReading], intervals: Intervals, at: datetime
) -> list[_Device]:
    """A GPU in MIG mode as its MIG devices, and itself with what belongs to none of them.

    Memory is told per GPU instance: compute instances of one GPU instance show the same number, so the instance is
    counted on its first one only. Power and energy exist only for the board and stay with it.
    """
    found: list[_Device] = []
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
    found.append(
        replace(
            whole,
            processes=loose,
            sm=None,
            sm_reason=_ON_PARENT,
            use=replace(whole.use, busy_ratio=None, memory_used_bytes=rest, idle_watts=None),
        )
    )
    counted: set[int | None] = set()
    sharing = Counter(one.identity.gpu_instance for one in instances)
    for one in sorted(instances, key=lambda each: (each.identity.gpu_instance, each.identity.compute_instance)):
        gi, ci = one.identity.gpu_instance, one.identity.compute_instance
        inside = [each for each in processes or () if each.gpu_instance == gi]
        own = [each for each in inside if each.compute_instance == ci]
        use = DeviceUse(
            # GPM measures the GPU instance: with several compute instances in it, it is nobody's own number.
            busy_ratio=one.metrics.sm_active_ratio if sharing[gi] == 1 else None,
            memory_used_bytes=_sum_memory(own),
            interval_seconds=intervals.since_last(one.identity.uuid, at),
        )
        if gi not in counted:
            others = _sum_memory([each for each in inside if each.compute_instance != ci])
            used = one.metrics.memory_used_bytes
            use = replace(use, memory_used_bytes=None if used is None or others is None else max(0, used - others))
        counted.add(gi)
        found.append(
            _Device(
                uuid=one.identity.uuid,
                processes=None if processes is None else own,
                sm=None,
                sm_reason=_IN_MIG,
                use=use,
                reason=whole.reason,
            )
        )
    return found


def _sum_memory(processes: Sequence[Process]) -> int | None:
    known = [process.memory_bytes for process in processes if process.memory_bytes is not None]
    return sum(known) if len(known) == len(processes) else None


def _split(device: _Device, held: Collection[str], places: Mapping[int, Place], problem: str) -> tuple[Share, ...]:
    if problem:
        return unmeasured(held, "unknown", problem)
    if device.processes is None:
        return unmeasured(held, "declared", device.reason)
    located = [(process, places[process.pid]) for process in device.processes]
    uses = [
        ProcessUse(
            place.container_id,
            process.memory_bytes,
            None if device.sm is None else device.sm.get(process.pid),
            mps="M" in process.kinds,
        )
        for process, place in located
        if place.kind != "gone"
    ]
    users = {use.container_id for use in uses}
    alone = device.sm_reason == _IN_MIG and len(users) == 1 and "" not in users and device.use.busy_ratio is not None
    if alone:
        # Its only user did all that the instance did.
        uses = [replace(use, sm_ratio=0.0 if place else device.use.busy_ratio) for place, use in enumerate(uses)]
    *parts, rest = shares(device.use, uses, held, sm_reason=device.sm_reason)
    if alone:
        parts = [replace(part, reason=_ALONE_IN_MIG) if part.container_id in users else part for part in parts]
    elsewhere = Counter(place.words for _, place in located if place.kind != "container")
    words = "; ".join([rest.reason, *(f"{count} x {name}" for name, count in sorted(elsewhere.items()))]).strip("; ")
    unreadable = any(place.kind == "unknown" for _, place in located)
    rest = replace(rest, reason=words, attribution="estimated" if unreadable else rest.attribution)
    return (*parts, rest)
