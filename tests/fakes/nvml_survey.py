"""Asks a driver everything once and says what it answered and how long that took, as JSON.

    python -m tests.fakes.nvml_survey          # {"call": [return code, median microseconds], ...}

The driver is the one that the loader finds: the machine's own, or the stub with its environment.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

_ROUNDS = 9
_GPM_SECONDS = 0.11  # the driver wants 100 ms between two samples


def calls(nvml: Any, handle: Any) -> dict[str, Callable[[], object]]:
    """Every question that a reading may ask of a GPU, by the name of the driver's function."""
    field_ids = [186, 185, 82, 197, 198, (138, 0xFFFFFFFF), (139, 0xFFFFFFFF), 230, 269, 270, 271]
    return {
        "nvmlDeviceGetCount_v2": nvml.nvmlDeviceGetCount,
        "nvmlDeviceGetHandleByIndex_v2": lambda: nvml.nvmlDeviceGetHandleByIndex(0),
        "nvmlDeviceGetUUID": lambda: nvml.nvmlDeviceGetUUID(handle),
        "nvmlDeviceGetName": lambda: nvml.nvmlDeviceGetName(handle),
        "nvmlDeviceGetSerial": lambda: nvml.nvmlDeviceGetSerial(handle),
        "nvmlDeviceGetMinorNumber": lambda: nvml.nvmlDeviceGetMinorNumber(handle),
        "nvmlDeviceGetPciInfo_v3": lambda: nvml.nvmlDeviceGetPciInfo_v3(handle),
        "nvmlDeviceGetMigMode": lambda: nvml.nvmlDeviceGetMigMode(handle),
        "nvmlDeviceGetMaxMigDeviceCount": lambda: nvml.nvmlDeviceGetMaxMigDeviceCount(handle),
        "nvmlDeviceGetMigDeviceHandleByIndex": lambda: nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, 0),
        "nvmlDeviceGetAttributes_v2": lambda: nvml.nvmlDeviceGetAttributes_v2(handle),
        "nvmlDeviceGetUtilizationRates": lambda: nvml.nvmlDeviceGetUtilizationRates(handle),
        "nvmlDeviceGetEncoderUtilization": lambda: nvml.nvmlDeviceGetEncoderUtilization(handle),
        "nvmlDeviceGetDecoderUtilization": lambda: nvml.nvmlDeviceGetDecoderUtilization(handle),
        "nvmlDeviceGetMemoryInfo": lambda: nvml.nvmlDeviceGetMemoryInfo(handle),
        "nvmlDeviceGetMemoryInfo_v2": lambda: nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2),
        "nvmlDeviceGetFieldValues": lambda: nvml.nvmlDeviceGetFieldValues(handle, field_ids),
        **{f"nvmlDeviceGetFieldValues[{one}]": lambda one=one: _field(nvml, handle, one) for one in field_ids},
        "nvmlDeviceGetPowerUsage": lambda: nvml.nvmlDeviceGetPowerUsage(handle),
        "nvmlDeviceGetEnforcedPowerLimit": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle),
        "nvmlDeviceGetTotalEnergyConsumption": lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle),
        "nvmlDeviceGetTemperature": lambda: nvml.nvmlDeviceGetTemperature(handle, 0),
        "nvmlDeviceGetMarginTemperature": lambda: nvml.nvmlDeviceGetMarginTemperature(handle),
        "nvmlDeviceGetFanSpeed": lambda: nvml.nvmlDeviceGetFanSpeed(handle),
        "nvmlDeviceGetClockInfo": lambda: nvml.nvmlDeviceGetClockInfo(handle, 1),
        "nvmlDeviceGetCurrentClocksEventReasons": lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle),
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
        "nvmlDeviceGetTotalEccErrors": lambda: nvml.nvmlDeviceGetTotalEccErrors(handle, 1, 0),
        "nvmlDeviceGetRemappedRows": lambda: nvml.nvmlDeviceGetRemappedRows(handle),
        "nvmlDeviceGetRetiredPages": lambda: nvml.nvmlDeviceGetRetiredPages(handle, 1),
        "nvmlDeviceGetRetiredPagesPendingStatus": lambda: nvml.nvmlDeviceGetRetiredPagesPendingStatus(handle),
        "nvmlDeviceGetPcieReplayCounter": lambda: nvml.nvmlDeviceGetPcieReplayCounter(handle),
        "nvmlDeviceGetComputeRunningProcesses_v3": lambda: nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle),
        "nvmlDeviceGetGraphicsRunningProcesses_v3": lambda: nvml.nvmlDeviceGetGraphicsRunningProcesses_v3(handle),
        "nvmlDeviceGetMPSComputeRunningProcesses_v3": lambda: nvml.nvmlDeviceGetMPSComputeRunningProcesses_v3(handle),
        "nvmlDeviceGetProcessUtilization": lambda: nvml.nvmlDeviceGetProcessUtilization(handle, 0),
        "nvmlDeviceGetProcessesUtilizationInfo": lambda: nvml.nvmlDeviceGetProcessesUtilizationInfo(handle, 0),
        "nvmlDeviceGetSupportedEventTypes": lambda: nvml.nvmlDeviceGetSupportedEventTypes(handle),
        "nvmlGpmQueryDeviceSupport": lambda: nvml.nvmlGpmQueryDeviceSupport(handle),
        **{f"nvmlGpmMetricsGet[{one}]": lambda one=one: _gpm(nvml, handle, one) for one in (1, 2, 3, 5, 10)},
    }  # fmt: skip


def _field(nvml: Any, handle: Any, field_id: object) -> object:
    (answer,) = nvml.nvmlDeviceGetFieldValues(handle, [field_id])
    if answer.nvmlReturn:
        raise nvml.NVMLError(answer.nvmlReturn)
    return answer


def _gpm(nvml: Any, handle: Any, number: int) -> object:
    first, second = nvml.nvmlGpmSampleAlloc(), nvml.nvmlGpmSampleAlloc()
    try:
        nvml.nvmlGpmSampleGet(handle, first)
        time.sleep(_GPM_SECONDS)
        nvml.nvmlGpmSampleGet(handle, second)
        get = nvml.c_nvmlGpmMetricsGet_t()
        get.version, get.numMetrics, get.sample1, get.sample2 = 1, 1, first, second
        get.metrics[0].metricId = number
        nvml.nvmlGpmMetricsGet(get)
        if get.metrics[0].nvmlReturn:
            raise nvml.NVMLError(get.metrics[0].nvmlReturn)
        return get.metrics[0].value
    finally:
        nvml.nvmlGpmSampleFree(first)
        nvml.nvmlGpmSampleFree(second)


def survey(nvml: Any) -> dict[str, tuple[int, float]]:
    """Return code of each call on the first GPU, and the median of its time in microseconds."""
    nvml.nvmlInit()
    found: dict[str, tuple[int, float]] = {}
    for name, call in calls(nvml, nvml.nvmlDeviceGetHandleByIndex(0)).items():
        took: list[float] = []
        code = 0
        for _ in range(1 if "[" in name else _ROUNDS):
            began = time.perf_counter()
            try:
                call()
                code = 0
            except nvml.NVMLError as error:
                code = int(error.value)
            took.append((time.perf_counter() - began) * 1e6)
        found[name] = (code, statistics.median(took))
    nvml.nvmlShutdown()
    return found


def compare(driver: Mapping[str, tuple[int, float]], stub: Mapping[str, tuple[int, float]]) -> str:
    """A table of both answers; a star marks the calls whose return codes differ."""
    lines = [f"{'call':50} {'driver':>7} {'us':>9} {'stub':>6} {'us':>9}"]
    for name, (code, took) in driver.items():
        stub_code, stub_took = stub.get(name, (-1, 0.0))
        star = "*" if code != stub_code else ""
        lines.append(f"{name:50} {code:7} {took:9.1f} {stub_code:6} {stub_took:9.1f} {star}".rstrip())
    differ = sum(code != stub.get(name, (-1, 0.0))[0] for name, (code, _) in driver.items())
    return "\n".join([*lines, f"{len(driver)} calls, {differ} with another return code than the stub"])


if __name__ == "__main__":
    import pynvml

    json.dump(survey(pynvml), sys.stdout)
