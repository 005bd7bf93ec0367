"""What the driver said, as stored rows of the devices themselves: samples, facts, events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from collectors.nvml_events import DOUBLE_BIT_ECC, RECOVERY_ACTION, XID
from collectors.nvml_messages import DeviceReading, DriverEvent, Identity
from collectors.nvml_states import DRIVER_UNAVAILABLE, DRIVER_UNRESPONSIVE, LOST, OK, RELEASED, RESET_REQUIRED
from fleet.gpu_words import metric_gap, recovery, xid
from fleet.increase import IncreaseTracker
from fleet.inventory import HostGpu
from fleet.model import Event, Gpu, GpuSample, Severity

_FACTS_PERIOD = timedelta(hours=1)
# A gauge stands for its interval; after a longer silence it stands for one poll only, not for what was not seen.
_LONGEST_INTERVALS = 3
_TURN = 1 << 32
# What the child calls by another unit than the stored column.
_COLUMNS = {
    "energy_millijoules": "energy_joules",
    "ecc_corrected_count": "ecc_corrected",
    "ecc_uncorrected_count": "ecc_uncorrected",
    "nvlink_receive_kibibytes": "nvlink_receive_bytes",
    "nvlink_transmit_kibibytes": "nvlink_transmit_bytes",
}
_TITLES: dict[str, tuple[Severity, str, str]] = {
    LOST: ("critical", "gpu_lost", "GPU lost"),
    RESET_REQUIRED: ("critical", "gpu_reset_required", "GPU needs a reset"),
    DRIVER_UNRESPONSIVE: ("critical", "driver_unresponsive", "NVIDIA driver does not answer"),
    DRIVER_UNAVAILABLE: ("critical", "driver_unavailable", "NVIDIA driver cannot be used"),
    RELEASED: ("info", "gpu_released", "GPU released"),
    OK: ("info", "gpu_recovered", "GPU answers again"),
}


@dataclass(slots=True)
class _Known:
    identity: Identity
    state: str = OK
    sampled_at: datetime | None = None
    facts: Gpu | None = None
    memory_total_bytes: int | None = None
    power_limit_watts: float | None = None
    recovery_action: int | None = None
    remap_failed: bool = False


class Intervals:
    """Seconds since the last row of a series, at least something and never a long silence."""

    def __init__(self, usual_seconds: float) -> None:
        self._usual = usual_seconds
        self._last: dict[str, datetime] = {}

    def since_last(self, series: str, at: datetime) -> float:
        """Seconds that a row at `at` stands for."""
        last = self._last.get(series)
        self._last[series] = at
        elapsed = (at - last).total_seconds() if last else 0.0
        return elapsed if 0 < elapsed <= self._usual * _LONGEST_INTERVALS else self._usual


class GpuRows:
    """Remembers each GPU of one host: what it was, how it was, when it was seen."""

    def __init__(self, host: str, interval_seconds: float) -> None:
        self._host = host
        self._known: dict[str, _Known] = {}
        self._intervals = Intervals(interval_seconds)
        self._increases = IncreaseTracker()
        self._last: dict[tuple[str, str], int] = {}

    def identities(self) -> tuple[Identity, ...]:
        """Every device seen, in the driver's order, MIG devices after their parent."""
        places = sorted(
            (known.identity for known in self._known.values()),
            key=lambda one: (one.index, -1 if one.mig_index is None else one.mig_index, one.uuid),
        )
        return tuple(places)

    def host_gpus(self) -> tuple[HostGpu, ...]:
        """The same, as requests for GPUs are resolved on."""
        return tuple(
            HostGpu(
                uuid=one.uuid,
                index=one.index,
                name=one.name,
                minor_number=one.minor_number,
                mig_enabled=one.mig_enabled,
                parent_uuid=one.parent_uuid,
                mig_index=one.mig_index,
                gpu_instance=one.gpu_instance,
                compute_instance=one.compute_instance,
            )
            for one in self.identities()
        )

    def state(self, uuid: str) -> str:
        """How a known device was last: one of the state words."""
        return self._known[uuid].state

    def learn(self, identity: Identity) -> None:
        """Take over what a device says of itself."""
        known = self._known.setdefault(identity.uuid, _Known(identity))
        known.identity = identity

    def forget_mig(self, listed: Iterable[str], parents_read: Iterable[str]) -> None:
        """Drop the MIG devices that a reconfiguration removed: their GPU answered without them."""
        keep, read = set(listed), set(parents_read)
        for uuid, known in list(self._known.items()):
            if known.identity.parent_uuid in read and uuid not in keep:
                del self._known[uuid]

    def sample(
        self,
        reading: DeviceReading,
        at: datetime,
        *,
        process_count: int | None,
        last_xid: int | None,
        idle_watts: float | None,
        holders: int | None,
    ) -> GpuSample:
        """The sample row of a device that answered and was learnt.

        idle_watts: what it draws when nothing runs; holders: containers that were given it, None = nobody was asked.
        """
        one, metrics = reading.identity, reading.metrics
        known = self._known[one.uuid]
        known.memory_total_bytes = metrics.memory_total_bytes or known.memory_total_bytes
        known.power_limit_watts = metrics.power_limit_watts or known.power_limit_watts
        reloaded = self._fell(one.uuid, "energy", metrics.energy_millijoules)
        joules = self._increase(one.uuid, "energy", metrics.energy_millijoules)
        joules = None if joules is None else joules / 1000
        pcie_in = self._turning(
            one.uuid, "pcie in", metrics.pcie_receive_bytes, metrics.pcie_receive_about_bytes, reloaded=reloaded
        )
        pcie_out = self._turning(
            one.uuid, "pcie out", metrics.pcie_transmit_bytes, metrics.pcie_transmit_about_bytes, reloaded=reloaded
        )
        nvlink_in = self._increase(one.uuid, "nvlink in", metrics.nvlink_receive_kibibytes)
        nvlink_out = self._increase(one.uuid, "nvlink out", metrics.nvlink_transmit_kibibytes)
        corrected = self._increase(one.uuid, "ecc corrected", metrics.ecc_corrected_count)
        uncorrected = self._increase(one.uuid, "ecc uncorrected", metrics.ecc_uncorrected_count)
        return GpuSample(
            at=at,
            host=self._host,
            gpu_uuid=one.uuid,
            parent_uuid=one.parent_uuid,
            gpu_index=one.index,
            interval_seconds=self._intervals.since_last(one.uuid, at),
            busy_ratio=metrics.busy_ratio,
            sm_active_ratio=metrics.sm_active_ratio,
            sm_occupancy_ratio=metrics.sm_occupancy_ratio,
            tensor_active_ratio=metrics.tensor_active_ratio,
            dram_active_ratio=metrics.dram_active_ratio,
            memory_used_bytes=metrics.memory_used_bytes,
            memory_reserved_bytes=metrics.memory_reserved_bytes,
            memory_total_bytes=metrics.memory_total_bytes,
            power_watts=metrics.power_watts,
            power_limit_watts=metrics.power_limit_watts,
            energy_joules=joules,
            temperature_celsius=metrics.temperature_celsius,
            memory_temperature_celsius=metrics.memory_temperature_celsius,
            sm_clock_mhz=metrics.sm_clock_mhz,
            memory_clock_mhz=metrics.memory_clock_mhz,
            throttle_reasons=metrics.throttle_reasons,
            ecc_corrected=None if corrected is None else int(corrected),
            ecc_uncorrected=None if uncorrected is None else int(uncorrected),
            remapped_rows=metrics.remapped_rows,
            remap_pending=metrics.remap_pending,
            xid=last_xid,
            process_count=process_count,
            unknown_reason=unknown_reason(reading),
            encoder_ratio=metrics.encoder_ratio,
            decoder_ratio=metrics.decoder_ratio,
            pcie_receive_bytes=pcie_in,
            pcie_transmit_bytes=pcie_out,
            nvlink_receive_bytes=None if nvlink_in is None else int(nvlink_in) * 1024,
            nvlink_transmit_bytes=None if nvlink_out is None else int(nvlink_out) * 1024,
            idle_power_watts=idle_watts,
            recovery_action=metrics.recovery_action,
            holders=holders,
        )

    def silent_sample(
        self, uuid: str, state: str, reason: str, at: datetime, *, last_xid: int | None = None
    ) -> GpuSample:
        """The row of a known device that did not answer: nothing but its state, and the XID that came before."""
        known = self._known[uuid]
        return GpuSample(
            at=at,
            host=self._host,
            gpu_uuid=uuid,
            parent_uuid=known.identity.parent_uuid,
            gpu_index=known.identity.index,
            interval_seconds=self._intervals.since_last(uuid, at),
            state=state,
            xid=last_xid,
            unknown_reason=reason,
        )

    def change(self, uuid: str, state: str, detail: str, next_step: str, at: datetime) -> Event | None:
        """The event of a change of state, None when nothing changed. MIG devices follow their GPU silently."""
        known = self._known[uuid]
        if known.state == state:
            return None
        known.state = state
        if known.identity.parent_uuid:
            return None
        severity, kind, title = _TITLES[state]
        name = f"{known.identity.name} {known.identity.index}".strip()
        return Event(
            at=at,
            event_id=f"nvml:{self._host}:{uuid}:{kind}:{at.isoformat()}",
            host=self._host,
            gpu_uuid=uuid,
            source="nvml",
            kind=kind,
            severity=severity,
            title=f"{title}: {name}",
            detail=f"{detail}; {next_step}" if next_step else detail,
        )

    def sick(self, reading: DeviceReading, at: datetime) -> tuple[Event, ...]:
        """Events of a GPU that begins to ask for a recovery action or runs out of spare memory rows.

        Field 230 is looked at besides the driver's own event, which older drivers do not send.
        """
        uuid, metrics = reading.identity.uuid, reading.metrics
        known = self._known[uuid]
        found: list[Event] = []
        action = metrics.recovery_action
        if action is not None and action != known.recovery_action:
            known.recovery_action = action
            if words := recovery(action):
                found.append(self._sickness(uuid, "gpu_recovery_needed", words.words, words.next_step, at))
        if metrics.remap_failed is not None and metrics.remap_failed != known.remap_failed:
            known.remap_failed = metrics.remap_failed
            if metrics.remap_failed:
                step = "drain the GPU, run the vendor's diagnostics and have the board replaced"
                found.append(
                    self._sickness(uuid, "gpu_remap_failed", "bad memory rows can no longer be remapped", step, at)
                )
        return tuple(found)

    def _sickness(self, uuid: str, kind: str, title: str, detail: str, at: datetime) -> Event:
        return Event(
            at=at,
            event_id=f"nvml:{self._host}:{uuid}:{kind}:{at.isoformat()}",
            host=self._host,
            gpu_uuid=uuid,
            source="nvml",
            kind=kind,
            severity="critical",
            title=title,
            detail=detail,
        )

    def facts(self, driver_version: str, at: datetime) -> tuple[Gpu, ...]:
        """Fact rows of devices that are new or changed, and of all once an hour."""
        found: list[Gpu] = []
        for known in self._known.values():
            one = known.identity
            old = known.facts
            row = Gpu(
                seen_at=at if old is None else old.seen_at,
                host=self._host,
                gpu_uuid=one.uuid,
                parent_uuid=one.parent_uuid,
                gpu_index=one.index,
                name=one.name,
                mig_profile=_mig_profile(one),
                memory_total_bytes=known.memory_total_bytes,
                pci_bus_id=one.pci_bus_id,
                driver_version=driver_version,
                power_limit_watts=known.power_limit_watts,
                mig_enabled=one.mig_enabled and not one.parent_uuid,
                slice_ratio=one.slice_ratio,
            )
            if old == row and timedelta(0) <= at - row.seen_at < _FACTS_PERIOD:
                continue
            known.facts = Gpu(**{name: getattr(row, name) for name in Gpu.__slots__ if name != "seen_at"}, seen_at=at)
            found.append(known.facts)
        return tuple(found)

    def _increase(self, uuid: str, name: str, value: int | None) -> float | None:
        """Since the driver was loaded, so a reload starts at 0: the tracker takes that as a reset."""
        return None if value is None else self._increases.increase((uuid, name), float(value))

    def _fell(self, uuid: str, name: str, value: int | None) -> bool:
        """Whether a counter is lower than when it was last looked at: the driver was loaded anew."""
        last = self._last.get((uuid, name))
        if value is not None:
            self._last[uuid, name] = value
        return value is not None and last is not None and value < last

    def _turning(self, uuid: str, name: str, value: int | None, about: float | None, *, reloaded: bool) -> int | None:
        """Increase of a counter that may have 32 bits, so that a fall is a turn of it.

        4 GiB pass in less than a second at full speed. How many turns there were, only `about` tells, the increase as
        GPM saw it; without it one turn or none is assumed, and a busy link is told too low.
        """
        last = self._last.get((uuid, name))
        if value is None:
            return None
        self._last[uuid, name] = value
        if last is None:
            return None
        if reloaded or last >= _TURN or value >= _TURN:  # a wide counter that fell was set to 0
            return value if value < last else value - last
        increase = (value - last) % _TURN
        turns = 0 if about is None else max(0, round((about - increase) / _TURN))
        return increase + turns * _TURN


def driver_event(event: DriverEvent, host: str) -> Event:
    """A stored event from one that the driver reported."""
    severity: Severity = "critical"
    if event.kind == XID:
        words = xid(event.data)
        severity, kind, title = words.severity, "xid", f"XID {event.data}: {words.words}"
        detail = words.next_step
    elif event.kind == DOUBLE_BIT_ECC:
        kind, title = "ecc_double_bit", "uncorrectable (double-bit) memory error"
        detail = xid(48).next_step
    elif event.kind == RECOVERY_ACTION:
        severity, kind, title = "warning", "gpu_recovery_action", "the driver asks for a recovery action"
        detail = xid(154).next_step
    else:
        severity, kind, title, detail = "warning", "gpu_event", f"driver event {event.kind:#x}", ""
    attributes = {"xid": str(event.data)} if event.kind == XID else {}
    if event.gpu_instance is not None:
        attributes["gpu_instance"] = str(event.gpu_instance)
    if event.compute_instance is not None:
        attributes["compute_instance"] = str(event.compute_instance)
    return Event(
        at=datetime.fromtimestamp(event.at, UTC),
        event_id=f"nvml:{host}:{event.uuid}:{kind}:{event.data}:{round(event.at * 1000)}:{event.sequence}",
        host=host,
        gpu_uuid=event.uuid,
        source="nvml",
        kind=kind,
        severity=severity,
        title=title,
        detail=detail,
        attributes=attributes,
    )


def unknown_reason(reading: DeviceReading) -> str:
    """Which numbers are missing and why, in words; empty when all were read."""
    by_words: dict[str, list[str]] = defaultdict(list)
    one = reading.identity
    if one.parent_uuid:
        by_words["MIG, told only for the whole GPU"] = ["clocks, energy, errors, power, temperature"]
    for name, code in reading.errors.items():
        words = metric_gap(name, code, mig=one.mig_enabled, part=bool(one.parent_uuid))
        by_words[words].append(_COLUMNS.get(name, name))
    return "; ".join(f"{words}: {', '.join(sorted(names))}" for words, names in sorted(by_words.items()))


def _mig_profile(identity: Identity) -> str:
    """`1g.10gb` from a name like `NVIDIA H100 80GB HBM3 MIG 1g.10gb`."""
    return identity.name.rpartition(" MIG ")[2] if identity.parent_uuid and " MIG " in identity.name else ""
