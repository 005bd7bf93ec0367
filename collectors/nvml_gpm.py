"""GPU performance monitoring (GPM): how much of a GPU really worked. Hopper and later; also of MIG devices.

It measures between two samples, so the older one is kept from sweep to sweep.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping

from collectors.nvml_calls import NO_DATA, NOT_SUPPORTED, Calls, Handle

# nvmlGpmMetricId_t, all in percent: time with any work (GR_ENGINE_ACTIVE); SMs active; warps resident of those
# possible; any tensor pipe; memory interface.
_GRAPHICS = 1
_METRICS = {2: "sm_active_ratio", 3: "sm_occupancy_ratio", 5: "tensor_active_ratio", 10: "dram_active_ratio"}
# MiB/s. Not told themselves: the byte counters are exact, but may turn over several times between two sweeps.
_TRAFFIC = {20: "pcie_transmit_about_bytes", 21: "pcie_receive_about_bytes"}
_VERSION = 1
# The driver wants two samples at least 100 ms apart.
_MINIMUM_SECONDS = 0.1
_MEBIBYTE = 1 << 20


class Gpm:
    """One device's: of the GPU behind `handle`, or with `gpu_instance` of that part of it."""

    def __init__(
        self,
        calls: Calls,
        handle: Handle,
        gpu_instance: int | None = None,
        *,
        busy: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """busy: also tell the share of time with any work, where the driver tells it in no other way (MIG)."""
        self._calls = calls
        self._handle = handle
        self._instance = gpu_instance
        self._names: Mapping[int, str] = {**({_GRAPHICS: "busy_ratio"} if busy else {}), **_METRICS}
        if gpu_instance is None:
            self._names = {**self._names, **_TRAFFIC}
        self._monotonic = monotonic
        self._refused = -1  # not asked yet; 0 = supported; else the code for ever
        self._older: tuple[Handle, float] | None = None

    def read(self, values: dict[str, Handle], errors: dict[str, int]) -> None:
        """Ratios since the last sweep into `values`. Raises DeviceLostError."""
        if self._refused < 0:
            self._refused = self._support()
        if self._refused:
            errors["sm_active_ratio"] = self._refused
            return
        now = self._monotonic()
        if self._older and now - self._older[1] < _MINIMUM_SECONDS:
            errors["sm_active_ratio"] = NO_DATA
            return
        sample = self._calls.ask("sm_active_ratio", self._sample, errors)
        if sample is None:
            return
        older, self._older = self._older, (sample, now)
        if older is None:
            errors["sm_active_ratio"] = NO_DATA
            return
        found = self._calls.ask("sm_active_ratio", lambda: self._metrics(older[0], sample), errors)
        for metric in found or ():
            name = self._names[metric.metricId]
            known = metric.nvmlReturn == 0 and math.isfinite(metric.value)
            if metric.metricId in _TRAFFIC:
                if known:
                    values[name] = metric.value * _MEBIBYTE * (now - older[1])
            elif known:
                values[name] = min(1.0, max(0.0, metric.value / 100))
                errors.pop(name, None)
            else:
                errors.setdefault(name, int(metric.nvmlReturn) or NO_DATA)
        self._free(older[0])

    def close(self) -> None:
        """Give the kept sample back."""
        older, self._older = self._older, None
        if older is not None:
            self._free(older[0])

    def _free(self, sample: Handle) -> None:
        with contextlib.suppress(self._calls.nvml.NVMLError):  # nothing can be done, and nothing is lost but memory
            self._calls.nvml.nvmlGpmSampleFree(sample)

    def _support(self) -> int:
        found: dict[str, int] = {}
        answer = self._calls.ask("", lambda: self._calls.nvml.nvmlGpmQueryDeviceSupport(self._handle), found)
        if answer is None:
            return found[""]
        return 0 if answer.isSupportedDevice else NOT_SUPPORTED

    def _sample(self) -> Handle:
        nvml = self._calls.nvml
        sample = nvml.nvmlGpmSampleAlloc()
        try:
            if self._instance is None:
                nvml.nvmlGpmSampleGet(self._handle, sample)
            else:
                nvml.nvmlGpmMigSampleGet(self._handle, self._instance, sample)
        except nvml.NVMLError:
            self._free(sample)
            raise
        return sample

    def _metrics(self, first: Handle, second: Handle) -> list[Handle]:
        get = self._calls.nvml.c_nvmlGpmMetricsGet_t()
        get.version, get.numMetrics, get.sample1, get.sample2 = _VERSION, len(self._names), first, second
        for place, metric in enumerate(self._names):
            get.metrics[place].metricId = metric
        self._calls.nvml.nvmlGpmMetricsGet(get)
        return [get.metrics[place] for place in range(len(self._names))]
