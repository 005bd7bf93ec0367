"""The child's side: asks the driver, device by device, and lets no single failing call cost the rest.

`library` is the pynvml module, handed in by `collectors/sources/nvml.py`, the only module that imports it.
Which call, how often and what its errors mean: nvml.h and the behaviour of other monitors, see the comments.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType

from collectors.nvml_calls import (
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    INVALID_ARGUMENT,
    NOT_SUPPORTED,
    VERSION_MISMATCH,
    Calls,
    DeviceLostError,
    Handle,
)
from collectors.nvml_events import EventListener, Tell
from collectors.nvml_fields import FieldValues
from collectors.nvml_gpm import Gpm
from collectors.nvml_lists import read_processes, read_samples
from collectors.nvml_messages import Answer, Begin, DeviceReading, End, Identity, Metrics, Process, Request, Sample

_UNSUPPORTED = frozenset({NOT_SUPPORTED, FUNCTION_NOT_FOUND})
# `1c.3g.40gb`: compute slices of the compute instance, else those of the whole GPU instance.
_SLICES = re.compile(r"(?:(\d+)c\.)?(\d+)g\.")
_USUAL_SLICES = 7


@dataclass(slots=True)
class Device:
    """An opened device, with what is remembered of it from sweep to sweep."""

    identity: Identity
    handle: Handle
    gpm: Gpm
    fields: FieldValues
    parent: Handle = None
    memory_v1: bool = field(default=False)


class NvmlReader:
    """Holds the library open and the devices listed. One thread at a time, but for the event listener."""

    def __init__(
        self, library: ModuleType, *, tell: Tell | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """tell: takes each event of the driver at once, from a thread of its own; None = nobody listens."""
        self._calls = Calls(library)
        self._nvml = library
        self._tell = tell
        self._monotonic = monotonic
        self._devices: list[Device] | None = None
        self._places: set[tuple[str, int, int]] = set()  # GPU, GPU instance, compute instance of each MIG device
        self._doubtful = False
        self._doubted: set[str] = set()  # devices that listing anew did not mend: not again before it is asked for
        self._missing: dict[str, int] = {}
        self._driver_version = ""
        self._events: EventListener | None = None

    def sweep(self, request: Request) -> Iterator[Answer]:
        """Answers one request; ends with `End` whatever happens in the driver."""
        doing = "opening the driver"
        relist = request.relist or self._doubtful
        try:
            if self._devices is None:
                relist = True
                self._nvml.nvmlInitWithFlags(0)
                self._driver_version = str(self._nvml.nvmlSystemGetDriverVersion())
            if request.relist:
                self._doubted.clear()
            if relist:
                doing = "listing the GPUs"
                self._list(request.skip_indices)
        except self._nvml.NVMLError as error:
            self._devices = None
            yield End(code=error.value, doing=doing, driver_version=self._driver_version)
            return
        self._listen()
        for device in list(self._devices or ()):
            uuid, parent = device.identity.uuid, device.identity.parent_uuid
            if uuid in request.skip or parent in request.skip:
                continue
            yield Begin(uuid=uuid)
            reading = self._read(device, request)
            if self._doubt(reading) and parent and not relist:
                continue  # a MIG device that a reconfiguration took away: it is looked for before it is said to fail
            yield reading
        yield End(driver_version=self._driver_version, missing=self._missing, relisted=relist)

    def close(self) -> None:
        """Stop listening and release the driver, so that it can be unloaded."""
        if self._events:
            self._events.stop()
        if self._devices is not None:
            self._devices = None
            self._nvml.nvmlShutdown()

    # --- listing -------------------------------------------------------------------------------------------------

    def _list(self, skip: tuple[int, ...]) -> None:
        """Open every GPU and MIG device. What is known and still there keeps its memory."""
        known = {device.identity.uuid: device for device in self._devices or ()}
        found: list[Device] = []
        self._missing = {}
        for index in range(int(self._nvml.nvmlDeviceGetCount())):
            if index in skip:  # do not touch it, do not forget it
                found += [device for device in known.values() if device.identity.index == index]
                continue
            try:
                handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                device = self._open(handle, index, known)
                found += [device, *self._open_mig(device, known)]
            except self._nvml.NVMLError as error:
                # A lost GPU keeps its number but cannot be opened: the others must not suffer.
                self._missing[str(index)] = error.value
        self._devices = found
        kept = {id(device) for device in found}
        for device in known.values():
            if id(device) not in kept:
                device.gpm.close()
        self._places = {
            (one.identity.parent_uuid, one.identity.gpu_instance or 0, one.identity.compute_instance or 0)
            for one in found
            if one.identity.parent_uuid
        }
        self._doubtful = False

    def _open(self, handle: Handle, index: int, known: Mapping[str, Device]) -> Device:
        """The device behind a handle: the known one, or one that is asked for what does not change."""
        nvml, attempt = self._nvml, self._calls.attempt
        uuid = str(nvml.nvmlDeviceGetUUID(handle))
        mode = attempt(lambda: nvml.nvmlDeviceGetMigMode(handle)[0])
        old = known.get(uuid)
        if old and old.identity.index == index and old.identity.mig_enabled == (mode == 1) and _same(old, handle):
            return old
        bus = attempt(lambda: nvml.nvmlDeviceGetPciInfo_v3(handle).busId)
        identity = Identity(
            uuid=uuid,
            index=index,
            name=str(attempt(lambda: nvml.nvmlDeviceGetName(handle)) or ""),
            pci_bus_id=bus.decode("ascii", "replace") if isinstance(bus, bytes) else str(bus or ""),
            minor_number=attempt(lambda: int(nvml.nvmlDeviceGetMinorNumber(handle))),
            mig_enabled=mode == 1,
        )
        gpm = Gpm(self._calls, handle, busy=mode == 1, monotonic=self._monotonic)
        return Device(identity, handle, gpm, FieldValues(self._calls, handle))

    def _open_mig(self, parent: Device, known: Mapping[str, Device]) -> Iterator[Device]:
        """MIG devices of a GPU in MIG mode; NOT_FOUND and INVALID_ARGUMENT are empty places, not ends."""
        if not parent.identity.mig_enabled:
            return
        nvml, attempt = self._nvml, self._calls.attempt
        places = attempt(lambda: int(nvml.nvmlDeviceGetMaxMigDeviceCount(parent.handle))) or 0
        for place in range(places):
            parts = (parent.identity.uuid, place)
            try:
                handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(parent.handle, place)
                uuid = str(nvml.nvmlDeviceGetUUID(handle))
                old = known.get(uuid)
                if old and (old.identity.parent_uuid, old.identity.mig_index) == parts and _same(old, handle):
                    yield old
                    continue
                name = str(attempt(lambda handle=handle: nvml.nvmlDeviceGetName(handle)) or parent.identity.name)
                identity = replace(
                    parent.identity,
                    uuid=uuid,
                    name=name,
                    minor_number=None,
                    parent_uuid=parent.identity.uuid,
                    mig_index=place,
                    gpu_instance=int(nvml.nvmlDeviceGetGpuInstanceId(handle)),
                    compute_instance=int(nvml.nvmlDeviceGetComputeInstanceId(handle)),
                    slice_ratio=self._slice_ratio(handle, name, places),
                )
            except nvml.NVMLError as error:
                if error.value == GPU_IS_LOST:
                    raise
                continue
            gpm = Gpm(self._calls, parent.handle, identity.gpu_instance, busy=True, monotonic=self._monotonic)
            yield Device(identity, handle, gpm, parent.fields, parent.handle)

    def _slice_ratio(self, handle: Handle, name: str, places: int) -> float:
        """Share of the GPU by compute slices; a GPU has as many as it can have MIG devices (7, some 4)."""
        attributes = self._calls.attempt(lambda: self._nvml.nvmlDeviceGetAttributes_v2(handle))
        slices = 0 if attributes is None else int(attributes.computeInstanceSliceCount)
        if not slices and (profile := _SLICES.search(name.rpartition(" ")[2])):
            slices = int(profile[1] or profile[2])
        return min(1.0, slices / (places or _USUAL_SLICES)) if slices else 1.0 / (places or _USUAL_SLICES)

    def _listen(self) -> None:
        if self._tell is None:
            return
        if self._events is None:
            self._events = EventListener(self._nvml, self._tell)
        self._events.watch({device.identity.uuid: device.handle for device in self._devices or () if not device.parent})

    def _doubt(self, reading: DeviceReading) -> bool:
        """Whether this handle died, which listing anew may mend; also notes that the parts of a GPU changed."""
        one = reading.identity
        dead = INVALID_ARGUMENT in {reading.errors.get("memory_used_bytes"), reading.errors.get("processes")}
        places = {(one.uuid, each.gpu_instance or 0, each.compute_instance or 0) for each in reading.processes or ()}
        moved = one.mig_enabled and bool(places - self._places - {(one.uuid, 0, 0)})
        if not (dead or moved) or one.uuid in self._doubted:
            return False
        self._doubted.add(one.uuid)
        self._doubtful = True
        return dead

    # --- reading -------------------------------------------------------------------------------------------------

    def _read(self, device: Device, request: Request) -> DeviceReading:
        errors: dict[str, int] = {}
        values: dict[str, Handle] = {}
        processes: tuple[Process, ...] | None = None
        samples: tuple[Sample, ...] | None = None
        try:
            self._read_metrics(device, request, values, errors)
            if request.processes and not device.parent:
                processes = read_processes(self._calls, device.handle, errors)
                since_us = request.since_us.get(device.identity.uuid, 0)
                samples = read_samples(self._calls, device.handle, since_us, errors)
        except DeviceLostError:
            errors["device"] = GPU_IS_LOST
        return DeviceReading(
            identity=device.identity, metrics=Metrics(**values), errors=errors, processes=processes, samples=samples
        )

    def _read_metrics(
        self, device: Device, request: Request, values: dict[str, Handle], errors: dict[str, int]
    ) -> None:
        nvml, handle = self._nvml, device.handle

        def ask(name: str, call: Callable[[], Handle]) -> Handle:
            answer = self._calls.ask(name, call, errors)
            if answer is not None:
                values[name] = answer
            return answer

        self._memory(device, values, errors)
        if device.parent:
            device.gpm.read(values, errors)
            return  # power, temperature, clocks and errors belong to the whole board
        ask("busy_ratio", lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
        ask("encoder_ratio", lambda: nvml.nvmlDeviceGetEncoderUtilization(handle)[0] / 100)
        ask("decoder_ratio", lambda: nvml.nvmlDeviceGetDecoderUtilization(handle)[0] / 100)
        device.gpm.read(values, errors)
        device.fields.read(values, errors, health=request.health)
        if "power_watts" not in values:
            ask("power_watts", lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000)
        ask("power_limit_watts", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000)
        ask("energy_millijoules", lambda: int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)))
        ask("temperature_celsius", lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)))
        ask("sm_clock_mhz", lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)))
        ask("memory_clock_mhz", lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)))
        ask("throttle_reasons", lambda: self._reasons(handle))
        if request.health:
            corrected, uncorrected = nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
            volatile, count = nvml.NVML_VOLATILE_ECC, nvml.nvmlDeviceGetTotalEccErrors
            ask("ecc_corrected_count", lambda: int(count(handle, corrected, volatile)))
            ask("ecc_uncorrected_count", lambda: int(count(handle, uncorrected, volatile)))
            remapped = self._calls.ask("remapped_rows", lambda: nvml.nvmlDeviceGetRemappedRows(handle), errors)
            if remapped is not None:
                values["remapped_rows"] = int(remapped[0] + remapped[1])
                values["remap_pending"], values["remap_failed"] = bool(remapped[2]), bool(remapped[3])
            elif errors["remapped_rows"] in _UNSUPPORTED and not device.identity.mig_enabled:
                # Before Ampere bad pages are retired instead; that one waits for a reset is told in the same column.
                pending = self._calls.attempt(lambda: nvml.nvmlDeviceGetRetiredPagesPendingStatus(handle))
                if pending is not None:
                    values["remap_pending"] = bool(pending)

    def _reasons(self, handle: Handle) -> int:
        try:
            return int(self._nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        except self._nvml.NVMLError as error:
            if error.value != FUNCTION_NOT_FOUND:
                raise
            return int(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))  # its name before driver 535

    def _memory(self, device: Device, values: dict[str, Handle], errors: dict[str, int]) -> None:
        """Version 2 tells the reserved part apart; version 1 counts it as used (614 MiB on an H200)."""
        nvml = self._nvml
        version = None if device.memory_v1 else nvml.nvmlMemory_v2
        found: dict[str, int] = {}
        memory = self._calls.ask(
            "memory_used_bytes", lambda: nvml.nvmlDeviceGetMemoryInfo(device.handle, version), found
        )
        too_old = found.get("memory_used_bytes") in {FUNCTION_NOT_FOUND, VERSION_MISMATCH}
        if memory is None and too_old and not device.memory_v1:
            device.memory_v1 = True
            self._memory(device, values, errors)
            return
        errors.update(found)
        if memory is not None:
            values["memory_total_bytes"], values["memory_used_bytes"] = int(memory.total), int(memory.used)
            if device.memory_v1:
                errors["memory_reserved_bytes"] = FUNCTION_NOT_FOUND
            else:
                values["memory_reserved_bytes"] = int(memory.reserved)


def _same(device: Device, handle: Handle) -> bool:
    return EventListener.address(device.handle) == EventListener.address(handle)
