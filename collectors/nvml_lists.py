"""Who is on a GPU: the driver's process lists, and how busy each process was."""

from __future__ import annotations

from collectors.nvml_calls import (
    FUNCTION_NOT_FOUND,
    INSUFFICIENT_SIZE,
    NOT_AVAILABLE_32,
    NOT_FOUND,
    NOT_SUPPORTED,
    Calls,
    Handle,
)
from collectors.nvml_messages import Process, Sample

_LISTS = (("C", "Compute"), ("G", "Graphics"), ("M", "MPSCompute"))
# Older drivers have the same rows under the older name.
_VERSIONS = ("_v3", "_v2")
_ABSENT = frozenset({NOT_SUPPORTED, FUNCTION_NOT_FOUND})


def read_processes(calls: Calls, handle: Handle, errors: dict[str, int]) -> tuple[Process, ...] | None:
    """Compute, graphics and MPS lists merged by (pid, instance): one process may be in several, with one memory.

    None when the compute list cannot be read, or another one broke: a partial list would pass for a whole one. A
    driver without graphics or MPS lists (a compute driver) is no error.
    """
    merged: dict[tuple[int, int | None, int | None], Process] = {}
    for kind, name in _LISTS:
        found: dict[str, int] = {}
        rows = calls.ask("processes", lambda name=name: _list(calls, name, handle), found)
        if rows is None:
            if kind == "C" or found["processes"] not in _ABSENT:
                errors.update(found)
                return None
            continue
        for row in rows:
            key = (int(row.pid), _instance(row.gpuInstanceId), _instance(row.computeInstanceId))
            memory = None if row.usedGpuMemory is None else int(row.usedGpuMemory)
            before = merged.get(key)
            if before is None:
                merged[key] = Process(key[0], memory, key[1], key[2], kind)
            else:
                memory = before.memory_bytes if memory is None else max(memory, before.memory_bytes or 0)
                merged[key] = before._replace(memory_bytes=memory, kinds=before.kinds + kind)
    return tuple(merged.values())


def read_samples(calls: Calls, handle: Handle, since_us: int, errors: dict[str, int]) -> tuple[Sample, ...] | None:
    """Rows newer than `since_us`. NOT_FOUND is the driver's word for "nobody used it": the empty tuple."""
    nvml = calls.nvml
    code = 0
    for function in (nvml.nvmlDeviceGetProcessUtilization, nvml.nvmlDeviceGetProcessesUtilizationInfo):
        found: dict[str, int] = {}
        rows = calls.ask("samples", lambda function=function: function(handle, since_us), found)
        if rows is not None:
            return tuple(Sample(int(row.pid), int(row.timeStamp), int(row.smUtil)) for row in rows)
        # The binding raises code 0 when the driver answers the question for the size with success: also nobody.
        if found["samples"] in {0, NOT_FOUND}:
            return ()
        code = code or found["samples"]
        if found["samples"] not in _ABSENT:
            break  # the newer function is for drivers that lost the older one, not for those that refuse
    errors["samples"] = code
    return None


def _list(calls: Calls, name: str, handle: Handle) -> list[Handle]:
    nvml = calls.nvml
    for version in _VERSIONS:
        call = getattr(nvml, f"nvmlDeviceGet{name}RunningProcesses{version}")
        try:
            return _twice(calls, call, handle)
        except nvml.NVMLError as error:
            if error.value != FUNCTION_NOT_FOUND or version == _VERSIONS[-1]:
                raise
    raise AssertionError("no version of the list was asked for")


def _twice(calls: Calls, call: Handle, handle: Handle) -> list[Handle]:
    try:
        return call(handle)
    except calls.nvml.NVMLError as error:
        if error.value != INSUFFICIENT_SIZE:
            raise
        return call(handle)  # processes were born between the two calls of the binding


def _instance(value: int) -> int | None:
    return None if value == NOT_AVAILABLE_32 else int(value)
