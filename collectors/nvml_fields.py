"""Field values: many numbers of a GPU in one call of the driver.

The call costs the sum of its fields, some of which take milliseconds also where they are not supported. So what a GPU
does not support is asked again with the health values only.
"""

from __future__ import annotations

from collectors.nvml_calls import NOT_AVAILABLE_32, NOT_SUPPORTED, Calls, Handle

_ALL_LINKS = 0xFFFFFFFF  # scope of the NVLink fields: the sum of all links
_POWER_AVERAGE, _POWER_INSTANT = 185, 186
_MEMORY_TEMPERATURE = 82
# NVML_FI_* -> metric; nvml.h: 197/198 bytes that wrap, 138/139 KiB. Power in milliwatts is apart.
_COUNTERS = {
    138: "nvlink_transmit_kibibytes",
    139: "nvlink_receive_kibibytes",
    197: "pcie_transmit_bytes",
    198: "pcie_receive_bytes",
}
_RECOVERY_ACTION = 230
_NAMES = {
    **_COUNTERS,
    _MEMORY_TEMPERATURE: "memory_temperature_celsius",
    _RECOVERY_ACTION: "recovery_action",
}
_USUAL = (_POWER_INSTANT, _MEMORY_TEMPERATURE, *_COUNTERS)
_SCOPED = frozenset({138, 139})
# nvmlValueType_t -> member of the union.
_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


class FieldValues:
    """One GPU's, with a memory of what it does not support."""

    def __init__(self, calls: Calls, handle: Handle) -> None:
        self._calls = calls
        self._handle = handle
        self._refused: dict[int, int] = {}  # field -> code

    def read(self, values: dict[str, Handle], errors: dict[str, int], *, health: bool) -> None:
        """Power, memory temperature and counters into `values`; with `health` also what is asked rarely."""
        if health:
            self._refused.clear()
        wanted = [field for field in _USUAL if field not in self._refused]
        if health or (_POWER_INSTANT in self._refused and _POWER_AVERAGE not in self._refused):
            wanted.append(_POWER_AVERAGE)
        if health:
            wanted.append(_RECOVERY_ACTION)
        for field, code in self._refused.items():
            if field in _NAMES and field != _RECOVERY_ACTION:
                errors[_NAMES[field]] = code
        if not wanted:
            return
        found: dict[str, int] = {}
        # A pair is (field, scope); a lone number has scope 0, the whole GPU.
        question = [(field, _ALL_LINKS) if field in _SCOPED else field for field in wanted]
        answers = self._calls.ask(
            "fields", lambda: self._calls.nvml.nvmlDeviceGetFieldValues(self._handle, question), found
        )
        if answers is None:
            errors.update(dict.fromkeys((_NAMES[field] for field in wanted if field in _NAMES), found["fields"]))
            return
        power: dict[int, float] = {}
        for answer in answers:
            field, code = int(answer.fieldId), int(answer.nvmlReturn)
            if code:
                self._refused[field] = code
                if field in _NAMES:
                    errors[_NAMES[field]] = code
                continue
            value = getattr(answer.value, _MEMBERS[answer.valueType] if answer.valueType < len(_MEMBERS) else "ullVal")
            if field in {_POWER_INSTANT, _POWER_AVERAGE}:
                if value == NOT_AVAILABLE_32:
                    self._refused[field] = NOT_SUPPORTED
                else:
                    power[field] = value / 1000
            else:
                values[_NAMES[field]] = float(value) if field == _MEMORY_TEMPERATURE else int(value)
        watts = power.get(_POWER_INSTANT, power.get(_POWER_AVERAGE))
        if watts is not None:
            values["power_watts"] = watts
