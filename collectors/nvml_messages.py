"""What travels between the NVML child process and its parent: one JSON object a line.

The child answers one request with a `Begin` per device it is about to touch, a `DeviceReading` per device and one
`End`. So whatever was read before the driver stopped answering is not lost, and the device that hangs has a name.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar, cast

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sweep. `processes`, `health`: also read what is read less often; `relist`: look for devices anew.

    since_us: per device, the newest utilisation sample already seen (the driver's own clock, microseconds).
    skip: devices not to be touched, because they hung the driver; skip_indices: the same GPUs for listing, because a
    new child cannot ask for their UUID without touching them.
    """

    processes: bool = True
    health: bool = False
    relist: bool = False
    since_us: Mapping[str, int] = field(default_factory=dict[str, int])
    skip: tuple[str, ...] = ()
    skip_indices: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Numbers of one device as read; None = not read, and `DeviceReading.errors` has the driver's code."""

    busy_ratio: float | None = None
    sm_active_ratio: float | None = None
    sm_occupancy_ratio: float | None = None
    tensor_active_ratio: float | None = None
    dram_active_ratio: float | None = None
    memory_used_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    energy_millijoules: int | None = None  # since the driver was loaded
    temperature_celsius: float | None = None
    memory_temperature_celsius: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    throttle_reasons: int | None = None
    ecc_corrected_count: int | None = None  # since the driver was loaded
    ecc_uncorrected_count: int | None = None
    remapped_rows: int | None = None
    remap_pending: bool | None = None
    remap_failed: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What does not change while a device exists. MIG devices have a parent and their instance ids."""

    uuid: str
    index: int
    name: str = ""
    pci_bus_id: str = ""
    minor_number: int | None = None
    mig_enabled: bool = False
    parent_uuid: str = ""
    mig_index: int | None = None
    gpu_instance: int | None = None
    compute_instance: int | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """A process with a context on a device. `memory_bytes` None = not available; `kinds`: letters of C, G, M (MPS)."""

    pid: int
    memory_bytes: int | None
    gpu_instance: int | None
    compute_instance: int | None
    kinds: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of the driver's process utilisation, unfiltered."""

    pid: int
    at_us: int
    sm_percent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReading:
    """One device in one sweep. errors: name of what was asked -> NVML code.

    processes, samples None = not read (not asked for, or see `errors`); no process at all is the empty tuple.
    """

    identity: Identity
    metrics: Metrics = field(default_factory=Metrics)
    errors: Mapping[str, int] = field(default_factory=dict[str, int])
    processes: tuple[Process, ...] | None = None
    samples: tuple[Sample, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverEvent:
    """Something the driver reported by itself. `kind` is the NVML event type bit; `data` is the XID for type 8."""

    at: float  # Unix time of arrival
    uuid: str
    kind: int
    data: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """The child is about to touch this device."""

    uuid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The sweep is over. code: 0, or the NVML error that ended it as a whole; `doing` says in which step.

    missing: index -> code of GPUs that the driver counts but does not open.
    """

    code: int = 0
    doing: str = ""
    driver_version: str = ""
    events: tuple[DriverEvent, ...] = ()
    missing: Mapping[str, int] = field(default_factory=dict[str, int])


Answer = Begin | DeviceReading | End


def encode(message: Request | Answer) -> bytes:
    """One line of JSON."""
    document = {"type": type(message).__name__, **dataclasses.asdict(message)}
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def decode_request(line: bytes) -> Request:
    """The request on this line. Raises ValueError."""
    _, fields = _fields(line)
    for name in ("skip", "skip_indices"):
        fields[name] = tuple(cast("list[object]", fields.get(name, ())))
    return _built(Request, fields)


def decode_answer(line: bytes) -> Answer:
    """The message on this line. Raises ValueError when it is none."""
    kind, fields = _fields(line)
    if kind == "Begin":
        return _built(Begin, fields)
    if kind == "End":
        fields["events"] = tuple(_built(DriverEvent, event) for event in _objects(fields.get("events")) or ())
        return _built(End, fields)
    if kind != "DeviceReading":
        raise ValueError(f"message: found type {kind!r}, expected Begin, DeviceReading or End")
    fields["identity"] = _built(Identity, cast("dict[str, object]", fields.get("identity")))
    fields["metrics"] = _built(Metrics, cast("dict[str, object]", fields.get("metrics")))
    for name, item_type in (("processes", Process), ("samples", Sample)):
        found = _objects(fields.get(name))
        fields[name] = None if found is None else tuple(_built(item_type, item) for item in found)
    return _built(DeviceReading, fields)


def _fields(line: bytes) -> tuple[str, dict[str, object]]:
    document = json.loads(line)  # JSONDecodeError is a ValueError
    if not isinstance(document, dict):
        raise ValueError(f"message: found {type(document).__name__}, expected an object")  # noqa: TRY004 - one kind for the caller
    fields = cast("dict[str, object]", document)
    return str(fields.pop("type", "")), fields


def _objects(value: object) -> list[dict[str, object]] | None:
    return cast("list[dict[str, object]]", value) if isinstance(value, list) else None


def _built(kind: type[_T], fields: object) -> _T:
    try:
        return kind(**cast("dict[str, object]", fields))
    except TypeError as error:
        raise ValueError(f"message: {error}") from error
