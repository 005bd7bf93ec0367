"""What travels between the NVML child process and its parent: one JSON object a line.

The child answers one request with a `Begin` per device it is about to touch, a `DeviceReading` per device and one
`End`. So whatever was read before the driver stopped answering is not lost, and the device that hangs has a name.
A `Happened` may come at any time, also between two requests: an XID often is the last thing heard of a driver.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import starmap
from typing import NamedTuple, TypeVar, cast

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
    encoder_ratio: float | None = None
    decoder_ratio: float | None = None
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
    recovery_action: int | None = None  # field 230; 0 = none
    # Since the driver was loaded. PCIe may be a 32-bit counter that wraps; NVLink is the sum of all links.
    pcie_receive_bytes: int | None = None
    pcie_transmit_bytes: int | None = None
    pcie_receive_about_bytes: float | None = None  # since the last sweep, from GPM
    pcie_transmit_about_bytes: float | None = None
    nvlink_receive_kibibytes: int | None = None
    nvlink_transmit_kibibytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What does not change while a device exists. MIG devices have a parent and their instance ids.

    mig_enabled: the GPU is in MIG mode, also said of its MIG devices. slice_ratio: by compute slices, 1 = a whole GPU.
    """

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
    slice_ratio: float = 1.0


class Process(NamedTuple):
    """A process with a context on a device. `memory_bytes` None = not available; `kinds`: letters of C, G, M (MPS)."""

    pid: int
    memory_bytes: int | None
    gpu_instance: int | None
    compute_instance: int | None
    kinds: str


class Sample(NamedTuple):
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
    """Something the driver reported by itself. `kind` is the NVML event type bit; `data` is the XID for type 8.

    sequence: counts the events of one child, so that the same XID twice within a millisecond is two events.
    """

    at: float  # Unix time of arrival
    uuid: str
    kind: int
    data: int
    sequence: int = 0
    gpu_instance: int | None = None
    compute_instance: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """The driver reported something."""

    event: DriverEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """The child is about to touch this device."""

    uuid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The sweep is over. code: 0, or the NVML error that ended it as a whole; `doing` says in which step.

    missing: index -> code of GPUs that the driver counts but does not open. relisted: the devices were looked for anew.
    """

    code: int = 0
    doing: str = ""
    driver_version: str = ""
    relisted: bool = False
    missing: Mapping[str, int] = field(default_factory=dict[str, int])


Answer = Begin | DeviceReading | End | Happened


def encode(message: Request | Answer) -> bytes:
    """One line of JSON."""
    document: dict[str, object] = {"type": type(message).__name__, **_of(message)}
    match message:
        case DeviceReading():
            # Most numbers of most devices are there or None together, and a list of processes is the long part:
            # `dataclasses.asdict` would copy all of it, which takes longer than asking the driver.
            metrics = _of(message.metrics)
            document["identity"] = _of(message.identity)
            document["metrics"] = {name: value for name, value in metrics.items() if value is not None}
        case Happened():
            document["event"] = _of(message.event)
        case _:
            pass
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
        return _built(End, fields)
    if kind == "Happened":
        return Happened(event=_built(DriverEvent, fields.get("event")))
    if kind != "DeviceReading":
        raise ValueError(f"message: found type {kind!r}, expected Begin, DeviceReading, Happened or End")
    fields["identity"] = _built(Identity, cast("dict[str, object]", fields.get("identity")))
    fields["metrics"] = _built(Metrics, cast("dict[str, object]", fields.get("metrics")))
    try:
        fields["processes"] = _tuples(Process, fields.get("processes"))
        fields["samples"] = _tuples(Sample, fields.get("samples"))
    except TypeError as error:
        raise ValueError(f"message: {error}") from error
    return _built(DeviceReading, fields)


def _fields(line: bytes) -> tuple[str, dict[str, object]]:
    document = json.loads(line)  # JSONDecodeError is a ValueError
    if not isinstance(document, dict):
        raise ValueError(f"message: found {type(document).__name__}, expected an object")  # noqa: TRY004 - one kind for the caller
    fields = cast("dict[str, object]", document)
    return str(fields.pop("type", "")), fields


def _of(message: object) -> dict[str, object]:
    """The fields of a dataclass, not those of the dataclasses in it."""
    return {name: getattr(message, name) for name in _names(type(message))}


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _tuples(kind: Callable[..., _T], value: object) -> tuple[_T, ...] | None:
    """Rows sent as arrays. Raises TypeError."""
    return tuple(starmap(kind, cast("list[list[object]]", value))) if isinstance(value, list) else None


def _built(kind: type[_T], fields: object) -> _T:
    try:
        return kind(**cast("dict[str, object]", fields))
    except TypeError as error:
        raise ValueError(f"message: {error}") from error
