"""How a GPU is as a whole: answering, lost, hung, released; read from the codes of its answers."""

from __future__ import annotations

from collections.abc import Sequence

from collectors.nvml_messages import DeviceReading, Metrics
from fleet.gpu_words import nvml_error

OK = "ok"
LOST = "lost"
RESET_REQUIRED = "reset_required"
DRIVER_UNRESPONSIVE = "driver_unresponsive"
DRIVER_UNAVAILABLE = "driver_unavailable"  # unloaded, or replaced under running processes
RELEASED = "released"  # by an operator, who wants the driver for a while
#: NVML codes that mean the device as a whole, not one question to it.
STATES = {15: LOST, 16: RESET_REQUIRED}
#: The library in memory is not the driver's, was shut down, or lost its device nodes: only a new process helps.
RESTART_CODES = frozenset({1, 18, 999})


def device_state(reading: DeviceReading) -> str:
    """The device's state: lost, when the driver said so to any question."""
    found = [STATES[code] for code in reading.errors.values() if code in STATES]
    return LOST if LOST in found else found[0] if found else OK


def broken_code(readings: Sequence[DeviceReading]) -> int:
    """The code with which the library as a whole is broken: every device answers nothing but it; else 0."""
    codes = {code for reading in readings for code in reading.errors.values()} & RESTART_CODES
    return min(codes) if codes and all(reading.metrics == Metrics() for reading in readings) else 0


def state_words(state: str) -> tuple[str, str]:
    """What a lost or sick GPU is, and what to do."""
    code = next((code for code, name in STATES.items() if name == state), 15)
    words = nvml_error(code)
    return words.words, words.next_step


def process_count(reading: DeviceReading, readings: Sequence[DeviceReading]) -> int | None:
    """Processes on a device, None when not read; those of a MIG device are listed with its GPU."""
    one = reading.identity
    if not one.parent_uuid:
        return None if reading.processes is None else len(reading.processes)
    parent = next((each for each in readings if each.identity.uuid == one.parent_uuid), None)
    if parent is None or parent.processes is None:
        return None
    place = (one.gpu_instance, one.compute_instance)
    return sum((each.gpu_instance, each.compute_instance) == place for each in parent.processes)
