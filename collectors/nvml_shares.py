"""Rows of containers on GPUs: joins the driver's process lists with the inventory and closes each device's sum."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from collectors.nvml_holders import Holders
from collectors.nvml_messages import DeviceReading, Process
from collectors.nvml_mig import IN_MIG, DeviceState, mig_devices
from collectors.nvml_rows import Intervals
from collectors.process_places import ProcessPlaces
from fleet.attribution import (
    BROKEN_LIST,
    FIRST_READING,
    IMPOSSIBLE_PIDS,
    MPS_SERVER,
    DeviceUse,
    IdleTo,
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
from fleet.inventory import ContainerFacts
from fleet.model import ContainerGpuSample

NO_LIST = "the containers of this host have not been listed yet: look at the Docker source on Status"
WSL = (
    "WSL: the driver tells nothing of processes there; run on Linux itself to see which container uses the GPU, "
    "or believe what was declared"
)
_STALE_SECONDS = 120
_ALONE_IN_MIG = "activity of the MIG instance (GPM), whose only user this is"
# What an operator can do something about; the other codes' words say all.
_ACTIONABLE = frozenset({4, 13, 25})


class GpuShares:
    """Keeps, per device, the newest sample seen and the counters that shares are split from."""

    def __init__(
        self,
        host: str,
        places: ProcessPlaces,
        idle: IdlePower,
        interval_seconds: float,
        idle_to: IdleTo = "host",
    ) -> None:
        """idle_to: who is charged with what a GPU draws when nothing runs."""
        self._host = host
        self._places = places
        self._idle = idle
        self._idle_to: IdleTo = idle_to
        self._wsl = places.wsl()
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
        self, readings: Sequence[DeviceReading], holders: Holders, driver_version: str, at: datetime
    ) -> tuple[ContainerGpuSample, ...]:
        """One row per container and device, and per device the row that closes its sum."""
        running = holders.running
        pids = {process.pid for reading in readings for process in reading.processes or ()} - IMPOSSIBLE_PIDS
        places = self._places.places(pids, running.keys())
        problem = self._problem(holders, at)
        age = 0.0 if holders.oldest is None else (at - holders.oldest).total_seconds()
        stale = (
            f"the container list is {age:.0f} s old, and what started since is counted here: "
            "look at the Docker source on Status"
            if age > _STALE_SECONDS
            else ""
        )
        found: list[ContainerGpuSample] = []
        for device in self._devices(readings, driver_version, at):
            *parts, rest = _split(device, holders.of(device.uuid), places, problem, self._idle_to)
            if stale:
                rest = replace(rest, attribution="unknown", reason="; ".join(filter(None, (stale, rest.reason))))
            parts.append(rest)
            found += [self._row(share, device, running.get(share.container_id), at) for share in parts]
        return tuple(found)

    def _problem(self, holders: Holders, at: datetime) -> str:
        """Why no process can be given to a container; checked until it succeeds, then once an hour."""
        if holders.oldest is None:
            return NO_LIST
        if self._checked_at is not None and 0 <= (at - self._checked_at).total_seconds() < 3600:
            return ""
        problem = self._places.problem({name: one.pid for name, one in holders.running.items()})
        self._checked_at = None if problem or not holders.running else at
        return problem

    def _devices(self, readings: Sequence[DeviceReading], driver_version: str, at: datetime) -> list[DeviceState]:
        children: dict[str, list[DeviceReading]] = defaultdict(list)
        for reading in readings:
            if reading.identity.parent_uuid:
                children[reading.identity.parent_uuid].append(reading)
        found: list[DeviceState] = []
        for reading in readings:
            if reading.identity.parent_uuid or "device" in reading.errors:
                continue
            device = self._device(reading, driver_version, at)
            instances = children[reading.identity.uuid]
            if instances or reading.identity.mig_enabled:
                found += mig_devices(device, instances, lambda uuid: self._intervals.since_last(uuid, at))
            else:
                found.append(device)
        return found

    def _device(self, reading: DeviceReading, driver_version: str, at: datetime) -> DeviceState:
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
            sm_active_ratio=metrics.sm_active_ratio,
            memory_used_bytes=metrics.memory_used_bytes,
            power_watts=metrics.power_watts,
            energy_joules=None if joules is None else joules / 1000,
            idle_watts=self._idle.watts(uuid, driver_version),
            interval_seconds=interval,
        )
        processes, reason = reading.processes, ""
        if self._wsl and not any(process.memory_bytes is not None for process in processes or ()):
            processes, reason = None, WSL  # an empty list there does not mean that nobody works
        elif processes is None:
            reason = _why("process list", reading.errors.get("processes", 21))
        elif any(process.pid in IMPOSSIBLE_PIDS for process in processes):
            processes, reason = None, BROKEN_LIST
        sm, sm_reason = self._sm(reading, processes)
        return DeviceState(uuid=uuid, processes=processes, sm=sm, sm_reason=sm_reason, use=use, reason=reason)

    def _sm(self, reading: DeviceReading, processes: Sequence[Process] | None) -> tuple[dict[int, float] | None, str]:
        uuid = reading.identity.uuid
        if reading.samples is None:
            return None, _why("SM share", reading.errors.get("samples", 21))
        rows = [(sample.pid, sample.at_us, sample.sm_percent) for sample in reading.samples]
        sm, newest = sm_ratios(rows, self._since_us.get(uuid), {process.pid for process in processes or ()})
        self._since_us[uuid] = newest
        return sm, FIRST_READING if sm is None else ""

    def _row(
        self, share: Share, device: DeviceState, container: ContainerFacts | None, at: datetime
    ) -> ContainerGpuSample:
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
            processes=share.processes,
            sm_active_ratio=share.sm_active_ratio,
            idle_power_watts=share.idle_power_watts,
            idle_energy_joules=share.idle_energy_joules,
        )


def _why(what: str, code: int) -> str:
    words = nvml_error(code)
    return f"{what}: {words.words}" + (f" ({words.next_step})" if code in _ACTIONABLE else "")


def _split(
    device: DeviceState, held: Collection[str], places: Mapping[int, Place], problem: str, idle_to: IdleTo
) -> tuple[Share, ...]:
    if problem:
        return unmeasured(held, "unknown", problem)
    if device.processes is None:
        return unmeasured(held, "declared", device.reason)
    uses: list[ProcessUse] = []
    elsewhere: Counter[str] = Counter()
    unreadable = mps_server = False
    for process in device.processes:
        place = places[process.pid]
        if place.kind != "gone":
            sm = None if device.sm is None else device.sm.get(process.pid)
            uses.append(ProcessUse(place.container_id, process.memory_bytes, sm, mps="M" in process.kinds))
        if place.kind != "container":
            elsewhere[place.words] += 1
            unreadable = unreadable or place.kind == "unknown"
        mps_server = mps_server or place.words == MPS_SERVER
    users = {use.container_id for use in uses}
    alone = device.sm_reason == IN_MIG and len(users) == 1 and "" not in users and device.use.busy_ratio is not None
    if alone:
        # Its only user did all that the instance did.
        uses = [replace(use, sm_ratio=0.0 if place else device.use.busy_ratio) for place, use in enumerate(uses)]
    *parts, rest = shares(device.use, uses, held, sm_reason=device.sm_reason, idle_to=idle_to, mps_server=mps_server)
    if alone:
        parts = [
            replace(part, reason="; ".join(filter(None, (_ALONE_IN_MIG, part.reason))))
            if part.container_id in users
            else part
            for part in parts
        ]
    words = "; ".join([rest.reason, *(f"{count} x {name}" for name, count in sorted(elsewhere.items()))]).strip("; ")
    if words or unreadable:
        rest = replace(rest, reason=words, attribution="estimated" if unreadable else rest.attribution)
    return (*parts, rest)
