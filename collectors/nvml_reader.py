"""The child's side: asks the driver, device by device, and lets no single failing call cost the rest.

`library` is the pynvml module, handed in by `collectors/sources/nvml.py`, the only module that imports it.
Which call, how often and what its errors mean: nvml.h and the behaviour of other monitors, see the comments.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

from collectors.nvml_events import EventListener
from collectors.nvml_messages import Answer, Begin, DeviceReading, End, Identity, Metrics, Process, Request, Sample

logger = logging.getLogger(__name__)
_T = TypeVar("_T")
Handle: TypeAlias = Any  # opaque pointers and ctypes structures of the untyped binding

# NVML return codes (nvml.h).
NOT_FOUND = 6
INVALID_ARGUMENT = 2
INSUFFICIENT_SIZE = 7
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
_NO_DATA = 21

_NOT_AVAILABLE_32 = 0xFFFFFFFF
_POWER_INSTANT, _POWER_AVERAGE, _MEMORY_TEMPERATURE = 186, 185, 82
_FIELDS = (_POWER_INSTANT, _POWER_AVERAGE, _MEMORY_TEMPERATURE)
# GPM metric ids: SM activity, occupancy, any tensor, DRAM bandwidth; percent.
_GPM = {2: "sm_active_ratio", 3: "sm_occupancy_ratio", 5: "tensor_active_ratio", 10: "dram_active_ratio"}
_GPM_VERSION = 1
# The driver wants two samples at least 100 ms apart.
_GPM_MINIMUM_SECONDS = 0.1
_LISTS = (
    ("C", "nvmlDeviceGetComputeRunningProcesses_v3"),
    ("G", "nvmlDeviceGetGraphicsRunningProcesses_v3"),
    ("M", "nvmlDeviceGetMPSComputeRunningProcesses_v3"),
)


class DeviceLostError(Exception):
    """The driver says that this GPU is gone: nothing more can be asked of it."""


@dataclass(slots=True)
class Device:
    """An opened device. `gpm`: the older of the two samples that GPM needs, and when it was taken; False = never."""

    identity: Identity
    handle: Handle
    parent: Handle = None
    memory_v1: bool = False
    gpm: tuple[Handle, float] | bool = True


class NvmlReader:
    """Holds the library open and the devices listed. One thread at a time, but for the event listener."""

    def __init__(self, library: ModuleType, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._nvml = library
        self._monotonic = monotonic
        self._devices: list[Device] | None = None
        self._missing: dict[str, int] = {}
        self._driver_version = ""
        self._events: EventListener | None = None

    def sweep(self, request: Request) -> Iterator[Answer]:
        """Answers one request; ends with `End` whatever happens in the driver."""
        doing = "opening the driver"
        try:
            if self._devices is None:
                self._nvml.nvmlInitWithFlags(0)
                self._driver_version = str(self._nvml.nvmlSystemGetDriverVersion())
            if self._devices is None or request.relist:
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
            yield self._read(device, request)
        yield End(
            driver_version=self._driver_version,
            events=self._events.drain() if self._events else (),
            missing=self._missing,
        )

    def close(self) -> None:
        """Stop listening and release the driver, so that it can be unloaded."""
        if self._events:
            self._events.stop()
        if self._devices is not None:
            self._devices = None
            self._nvml.nvmlShutdown()

    # --- listing -------------------------------------------------------------------------------------------------

    def _list(self, skip: tuple[int, ...]) -> None:
        """Open every GPU and MIG device. What is known and still there keeps its GPM sample."""
        known = {device.identity.uuid: device for device in self._devices or ()}
        found: list[Device] = []
        self._missing = {}
        for index in range(int(self._nvml.nvmlDeviceGetCount())):
            if index in skip:  # do not touch it, do not forget it
                found += [device for device in known.values() if device.identity.index == index]
                continue
            try:
                handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                device = self._open(handle, index)
            except self._nvml.NVMLError as error:
                # A lost GPU keeps its number but cannot be opened: the others must not suffer.
                self._missing[str(index)] = error.value
                continue
            found += [device, *self._open_mig(device)]
        for device in found:
            old = known.get(device.identity.uuid)
            if old is not None and old.identity == device.identity:
                device.gpm, device.memory_v1 = old.gpm, old.memory_v1
        self._devices = found

    def _open(self, handle: Handle, index: int) -> Device:
        nvml = self._nvml
        uuid = str(nvml.nvmlDeviceGetUUID(handle))
        mode = self._try(lambda: nvml.nvmlDeviceGetMigMode(handle)[0])
        bus = self._try(lambda: nvml.nvmlDeviceGetPciInfo_v3(handle).busId)
        return Device(
            Identity(
                uuid=uuid,
                index=index,
                name=str(self._try(lambda: nvml.nvmlDeviceGetName(handle)) or ""),
                pci_bus_id=bus.decode("ascii", "replace") if isinstance(bus, bytes) else str(bus or ""),
                minor_number=self._try(lambda: int(nvml.nvmlDeviceGetMinorNumber(handle))),
                mig_enabled=mode == 1,
            ),
            handle,
        )

    def _open_mig(self, parent: Device) -> Iterator[Device]:
        """MIG devices of a GPU in MIG mode; NOT_FOUND and INVALID_ARGUMENT are empty places, not ends."""
        if not parent.identity.mig_enabled:
            return
        nvml = self._nvml
        places = self._try(lambda: int(nvml.nvmlDeviceGetMaxMigDeviceCount(parent.handle))) or 0
        for place in range(places):
            try:
                handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(parent.handle, place)
                identity = replace(
                    parent.identity,
                    uuid=str(nvml.nvmlDeviceGetUUID(handle)),
                    name=str(self._try(lambda handle=handle: nvml.nvmlDeviceGetName(handle)) or parent.identity.name),
                    minor_number=None,
                    parent_uuid=parent.identity.uuid,
                    mig_index=place,
                    gpu_instance=int(nvml.nvmlDeviceGetGpuInstanceId(handle)),
                    compute_instance=int(nvml.nvmlDeviceGetComputeInstanceId(handle)),
                )
            except nvml.NVMLError:
                continue
            yield Device(identity, handle, parent.handle)

    def _listen(self) -> None:
        if self._events is None:
            self._events = EventListener(self._nvml)
        self._events.watch({device.identity.uuid: device.handle for device in self._devices or () if not device.parent})

    # --- reading -------------------------------------------------------------------------------------------------

    def _read(self, device: Device, request: Request) -> DeviceReading:
        errors: dict[str, int] = {}
        values: dict[str, Handle] = {}
        processes: tuple[Process, ...] | None = None
        samples: tuple[Sample, ...] | None = None
        try:
            self._read_metrics(device, request, values, errors)
            if request.processes and not device.parent:
                processes = self._processes(device, errors)
                samples = self._samples(device, request.since_us.get(device.identity.uuid, 0), errors)
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
            answer = self._ask(name, call, errors)
            if answer is not None:
                values[name] = answer
            return answer

        self._memory(device, values, errors)
        self._gpm(device, values, errors)
        if device.parent:
            return  # power, temperature, clocks and errors belong to the whole board
        ask("busy_ratio", lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
        self._fields(handle, values, errors)
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
            remapped = self._ask("remapped_rows", lambda: nvml.nvmlDeviceGetRemappedRows(handle), errors)
            if remapped is not None:
                values["remapped_rows"] = int(remapped[0] + remapped[1])
                values["remap_pending"], values["remap_failed"] = bool(remapped[2]), bool(remapped[3])

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
        memory = self._ask("memory_used_bytes", lambda: nvml.nvmlDeviceGetMemoryInfo(device.handle, version), found)
        if memory is None and found["memory_used_bytes"] in {FUNCTION_NOT_FOUND, 25} and not device.memory_v1:
            device.memory_v1 = True
            self._memory(device, values, errors)
            return
        errors.update(found)
        if memory is not None:
            values["memory_total_bytes"], values["memory_used_bytes"] = int(memory.total), int(memory.used)
            if not device.memory_v1:
                values["memory_reserved_bytes"] = int(memory.reserved)

    def _fields(self, handle: Handle, values: dict[str, Handle], errors: dict[str, int]) -> None:
        """Instant power (else the 1 s average) and memory temperature in one call."""
        found: dict[str, int] = {}
        answers = self._ask("fields", lambda: self._nvml.nvmlDeviceGetFieldValues(handle, list(_FIELDS)), found)
        if answers is None:
            errors["memory_temperature_celsius"] = found["fields"]
            return
        by_id = {int(answer.fieldId): answer for answer in answers}
        for field_id in (_POWER_INSTANT, _POWER_AVERAGE):
            milliwatts = int(by_id[field_id].value.uiVal)
            if by_id[field_id].nvmlReturn == 0 and milliwatts != _NOT_AVAILABLE_32 and "power_watts" not in values:
                values["power_watts"] = milliwatts / 1000
        memory = by_id[_MEMORY_TEMPERATURE]
        if memory.nvmlReturn == 0:
            values["memory_temperature_celsius"] = float(memory.value.uiVal)
        else:
            errors["memory_temperature_celsius"] = int(memory.nvmlReturn)

    def _gpm(self, device: Device, values: dict[str, Handle], errors: dict[str, int]) -> None:
        """Activity between the last sweep's sample and a new one; Hopper and later."""
        nvml = self._nvml
        if device.gpm is False:
            errors["sm_active_ratio"] = 3
            return
        if device.gpm is True:
            on = device.parent if device.parent else device.handle
            supported = self._ask(
                "sm_active_ratio", lambda: nvml.nvmlGpmQueryDeviceSupport(on).isSupportedDevice, errors
            )
            if not supported:
                device.gpm = False
                errors["sm_active_ratio"] = 3
                return
        previous = device.gpm if isinstance(device.gpm, tuple) else None
        now = self._monotonic()
        if previous and now - previous[1] < _GPM_MINIMUM_SECONDS:
            return
        sample = self._ask("sm_active_ratio", lambda: self._gpm_sample(device), errors)
        if sample is None:
            return
        device.gpm = (sample, now)
        if previous:
            found = self._ask("sm_active_ratio", lambda: self._gpm_metrics(previous[0], sample), errors)
            for metric in found or ():
                name = _GPM[metric.metricId]
                if metric.nvmlReturn == 0 and math.isfinite(metric.value):
                    values[name] = min(1.0, max(0.0, metric.value / 100))
                else:
                    errors[name] = int(metric.nvmlReturn) or _NO_DATA
            nvml.nvmlGpmSampleFree(previous[0])

    def _gpm_sample(self, device: Device) -> Handle:
        sample = self._nvml.nvmlGpmSampleAlloc()
        try:
            if device.parent:
                self._nvml.nvmlGpmMigSampleGet(device.parent, device.identity.gpu_instance, sample)
            else:
                self._nvml.nvmlGpmSampleGet(device.handle, sample)
        except self._nvml.NVMLError:
            self._nvml.nvmlGpmSampleFree(sample)
            raise
        return sample

    def _gpm_metrics(self, first: Handle, second: Handle) -> list[Handle]:
        get = self._nvml.c_nvmlGpmMetricsGet_t()
        get.version, get.numMetrics, get.sample1, get.sample2 = _GPM_VERSION, len(_GPM), first, second
        for place, metric in enumerate(_GPM):
            get.metrics[place].metricId = metric
        self._nvml.nvmlGpmMetricsGet(get)
        return [get.metrics[place] for place in range(len(_GPM))]

    def _processes(self, device: Device, errors: dict[str, int]) -> tuple[Process, ...] | None:
        """Compute, graphics and MPS lists merged by (pid, instance): one process may be in several, with one memory."""
        merged: dict[tuple[int, int | None, int | None], Process] = {}
        known = False
        for kind, function in _LISTS:
            found: dict[str, int] = {}
            rows = self._ask("processes", lambda function=function: self._process_list(function, device.handle), found)
            if rows is None:
                # Graphics or MPS lists may be missing on a compute driver; without any list nothing is known.
                if kind == "C":
                    errors.update(found)
                continue
            known = True
            for row in rows:
                key = (int(row.pid), _instance(row.gpuInstanceId), _instance(row.computeInstanceId))
                memory = None if row.usedGpuMemory is None else int(row.usedGpuMemory)
                before = merged.get(key)
                if before is None:
                    merged[key] = Process(key[0], memory, key[1], key[2], kind)
                else:
                    memory = before.memory_bytes if memory is None else max(memory, before.memory_bytes or 0)
                    merged[key] = replace(before, memory_bytes=memory, kinds=before.kinds + kind)
        return tuple(merged.values()) if known and "processes" not in errors else None

    def _process_list(self, function: str, handle: Handle) -> list[Handle]:
        call = getattr(self._nvml, function)
        try:
            return call(handle)
        except self._nvml.NVMLError as error:
            if error.value != INSUFFICIENT_SIZE:
                raise
            return call(handle)  # processes were born between the two calls of the binding

    def _samples(self, device: Device, since_us: int, errors: dict[str, int]) -> tuple[Sample, ...] | None:
        """Rows newer than `since_us`. NOT_FOUND is the driver's word for "nobody used it": the empty tuple."""
        found: dict[str, int] = {}
        rows = self._ask("samples", lambda: self._nvml.nvmlDeviceGetProcessUtilization(device.handle, since_us), found)
        if rows is not None:
            return tuple(Sample(int(row.pid), int(row.timeStamp), int(row.smUtil)) for row in rows)
        # The binding raises code 0 when the driver answers the question for the size with success: also nobody.
        if found["samples"] in {0, NOT_FOUND}:
            return ()
        errors.update(found)
        return None

    def _ask(self, name: str, call: Callable[[], _T], errors: dict[str, int]) -> _T | None:
        try:
            return call()
        except self._nvml.NVMLError as error:
            if error.value == GPU_IS_LOST:
                raise DeviceLostError from error
            errors[name] = int(error.value)
            return None

    def _try(self, call: Callable[[], _T]) -> _T | None:
        try:
            return call()
        except self._nvml.NVMLError as error:
            if error.value == GPU_IS_LOST:
                raise
            return None


def _instance(value: int) -> int | None:
    return None if value == _NOT_AVAILABLE_32 else int(value)
