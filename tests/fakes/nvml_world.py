"""Runs a scenario of `nvml_scenarios/` through the whole path and compares what comes out with what was worked out.

stub library -> unmodified pynvml in the real child process -> NvmlSource.collect -> rows. A scenario file holds the
driver's answers: lines of `nvml_stub.c` (`32362M` means MiB), those above the first `== phase` in every phase, each
phase read once. Who owns which process, and what must come out, is a `Case` of `nvml_cases.py`.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from collectors.base import Reading, SourceError
from fleet.gpu_words import throttle_words
from fleet.inventory import GpuRequest
from fleet.model import ContainerGpuSample, Event, Gpu, GpuSample, Row
from tests.fakes.gpu_host import GpuHost, container_id, facts
from tests.fakes.nvml_stub import NvmlStub

SCENARIOS = Path(__file__).with_name("nvml_scenarios")
MIB = 1 << 20
Value = float | str | bool | None
Expected = Mapping[str, Value]
#: Field of the rows -> how it is called in a case, in what unit.
_UNITS = {
    "memory_used_bytes": ("memory", MIB), "memory_bytes": ("memory", MIB), "memory_total_bytes": ("total", MIB),
    "memory_reserved_bytes": ("reserved", MIB), "busy_ratio": ("busy", 0.01), "sm_ratio": ("sm", 0.01),
    "sm_active_ratio": ("active", 0.01), "encoder_ratio": ("encoder", 0.01), "decoder_ratio": ("decoder", 0.01),
    "power_watts": ("watts", 1), "power_limit_watts": ("limit", 1), "energy_joules": ("joules", 1),
    "idle_power_watts": ("idle", 1), "temperature_celsius": ("celsius", 1), "memory_temperature_celsius": ("hbm", 1),
    "sm_clock_mhz": ("clock", 1), "memory_clock_mhz": ("memclock", 1), "process_count": ("processes", 1),
    "processes": ("processes", 1), "ecc_uncorrected": ("ecc", 1), "remapped_rows": ("remapped", 1), "xid": ("xid", 1),
    "recovery_action": ("recovery", 1), "pcie_transmit_bytes": ("pcie_out", 1), "pcie_receive_bytes": ("pcie_in", 1),
    "nvlink_transmit_bytes": ("nvlink_out", 1), "nvlink_receive_bytes": ("nvlink_in", 1),
}  # fmt: skip
_SHOWN = {
    "busy": "{:g} %", "sm": "{:g} %", "active": "{:g} %", "encoder": "{:g} %", "decoder": "{:g} %",
    "memory": "{:g} MiB", "total": "{:g} MiB", "reserved": "{:g} MiB", "watts": "{:.2f} W", "limit": "{:g} W",
    "idle": "{:.2f} W", "joules": "{:.1f} J", "celsius": "{:g} °C", "hbm": "{:g} °C", "clock": "{:g} MHz",
    "memclock": "{:g} MHz", "pcie_out": "{:,.0f} B", "pcie_in": "{:,.0f} B", "nvlink_out": "{:,.0f} B",
    "nvlink_in": "{:,.0f} B",
}  # fmt: skip
_LABELS = {
    "idle": "idle draw",
    "fails": "failure",
    "watts": "power",
    "joules": "energy",
    "celsius": "temperature",
    "hbm": "memory temperature",
    "sm": "SM",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One scenario, who runs on it, and what must come out.

    containers: name -> (what it asked for, its processes); processes: others, pid -> cgroup (none = ended).
    expect: subject -> field -> value in the unit of the table (percent, MiB, watts). Subjects: `0` and `0.1` are
    devices, `name@0` a container on one, `@0` what is in no container there, `source` the poll as a whole, `event` the
    last event. A text is a part that must be in the words, "" means no words.
    """

    name: str
    says: str
    containers: Mapping[str, tuple[GpuRequest, Sequence[int]]] = field(default_factory=dict)
    processes: Mapping[int, str] = field(default_factory=dict)
    process_names: Mapping[int, str] = field(default_factory=dict)
    expect: Mapping[str, Expected]
    omit: tuple[str, ...] = ()
    private_pids: bool = False
    xid: tuple[int, int] | None = None  # typed before the last phase: GPU, number
    repeat: int = 1  # of the last phase
    last_seconds: float = 5.0  # before the last reading; health values and the list of GPUs come once a minute
    call_timeout_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table: what was worked out for one subject and what came out."""

    subject: str
    expected: str
    got: str
    ok: bool


def phases(name: str) -> list[list[str]]:
    """The lines of every phase of a scenario."""
    base: list[str] = []
    found: list[list[str]] = []
    for line in (SCENARIOS / f"{name}.scenario").read_text(encoding="utf-8").splitlines():
        if line.startswith("=="):
            found.append([])
        elif line and not line.startswith("#"):
            full = re.sub(r"(?<= )(\d+)M\b", lambda match: str(int(match[1]) * MIB), line)
            (found[-1] if found else base).append(full)
    return [base + extra for extra in found]


def run(case: Case, folder: Path, library: Path) -> list[Line]:
    """Play the scenario and compare; every child process is gone when this returns."""
    stub = NvmlStub(folder, library)
    host = GpuHost(folder, stub, call_timeout_seconds=case.call_timeout_seconds)
    try:
        _inhabit(host, case)
        uuids, reading, error = _play(host, case)
    finally:
        if host.process._child:
            host.process._child.kill()  # ending in order takes half a second and is shown elsewhere
        host.source.close()
    rows = error.rows if error else reading.rows
    got = _subjects(rows, {uuid: place for place, uuid in uuids.items()})
    got["source"] = _of_source(reading, error)
    return [_compare(subject, expected, got.get(subject)) for subject, expected in case.expect.items()] + _sums(rows)


def _inhabit(host: GpuHost, case: Case) -> None:
    first: list[object] = []
    for name, (request, pids) in case.containers.items():
        # A container without a process on a GPU has one all the same.
        first.append(facts(name, pids[0] if pids else 90000 + len(first), request))
    host.publish(*first)  # type: ignore[arg-type]
    for name, (_, pids) in case.containers.items():
        for pid in pids:
            host.run(pid, f"/docker/{container_id(name)}")
    for pid, cgroup in case.processes.items():
        if cgroup:
            host.run(pid, cgroup, name=case.process_names.get(pid, "python3"))
    if case.private_pids:
        (host.proc / "self").unlink()
        (host.proc / "self").symlink_to("1")


def _play(host: GpuHost, case: Case) -> tuple[dict[str, str], Reading, SourceError | None]:
    worlds = phases(case.name)
    worlds += [worlds[-1]] * (case.repeat - 1)
    uuids: dict[str, str] = {}
    reading, error = Reading(), None
    for number, world in enumerate(worlds, 1):
        host.stub.write(world)
        uuids |= {line.split()[0]: line.split()[2] for line in world if line.split()[1] == "uuid"}
        if number == len(worlds) and case.xid:
            host.stub.event(*case.xid)
            time.sleep(0.3)
        elif number > 1 and any(" gpm." in line for line in world):
            time.sleep(0.11)  # the driver wants 100 ms between two samples
        try:
            reading, error = host.poll(case.last_seconds if number == len(worlds) else 5.0), None
        except SourceError as caught:
            reading, error = Reading(), caught
    return uuids, reading, error


def _subjects(rows: Sequence[Row], places: Mapping[str, str]) -> dict[str, dict[str, Value]]:
    found: dict[str, dict[str, Value]] = {}

    def place(uuid: str) -> str:
        return places.get(uuid, uuid)

    for row in rows:
        match row:
            case GpuSample():
                values = _in_units(row)
                values |= {"state": row.state, "reason": row.unknown_reason, "remap pending": row.remap_pending}
                values["throttle"] = (
                    None if row.throttle_reasons is None else ", ".join(throttle_words(row.throttle_reasons))
                )
                found[place(row.gpu_uuid)] = values
            case ContainerGpuSample():
                name = row.container_key.rpartition(":")[2]
                values = _in_units(row)
                values |= {"held": row.held, "attribution": row.attribution, "reason": row.attribution_reason}
                found[f"{name}@{place(row.gpu_uuid)}"] = values
            case Event():
                found["event"] = {"kind": row.kind, "severity": row.severity, "title": row.title, "detail": row.detail}
            case Gpu():
                pass
            case _:
                raise AssertionError(f"unexpected row {row}")
    return found


def _in_units(row: GpuSample | ContainerGpuSample) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for name, (short, unit) in _UNITS.items():
        if hasattr(row, name):
            value = getattr(row, name)
            values[short] = None if value is None else value / unit
    return values


def _of_source(reading: Reading, error: SourceError | None) -> dict[str, Value]:
    if error:
        return {"fails": error.reason, "words": error.detail, "next": error.next_step}
    gaps = "; ".join(f"{gap.reason}: {gap.detail}" for gap in reading.gaps)
    return {"fails": "", "words": reading.detail, "next": reading.next_step, "gaps": gaps}


def _compare(subject: str, expected: Expected, got: Mapping[str, Value] | None) -> Line:
    if got is None or not expected:
        shown = "no such row"
        return Line(
            subject, _show(expected) or shown, shown if got is None else "a row", (got is None) == (not expected)
        )
    picked = {name: got.get(name, "no such field") for name in expected}
    ok = all(_equal(value, picked[name]) for name, value in expected.items())
    return Line(subject, _show(expected), _show(picked, expected), ok)


def _equal(expected: Value, got: Value) -> bool:
    if isinstance(expected, str) and isinstance(got, str):
        return expected in got if expected else not got
    if expected is None or got is None or isinstance(expected, bool | str) or isinstance(got, bool | str):
        return expected is got or (type(expected) is type(got) and expected == got)
    return math.isclose(expected, got, rel_tol=1e-6, abs_tol=1e-6)


def _show(values: Expected, expected: Expected | None = None) -> str:
    return ", ".join(_one(name, value, (expected or values)[name]) for name, value in values.items())


def _one(name: str, value: Value, expected: Value) -> str:
    label = _LABELS.get(name, name).replace("_", " ")
    if isinstance(value, bool):
        return label if value else f"not {label}"
    if value is None:
        return f"{label} unknown"
    if isinstance(value, str):
        # Words that hold what must be in them are shown as that; others in full.
        same = isinstance(expected, str) and _equal(expected, value)
        shown = expected if same else value
        return f"{label} {str(shown)!r}" if shown else f"{label} none"
    # Shares are means of whole percents: more digits are the floating point's.
    return f"{label} " + _SHOWN.get(name, "{:g}").format(round(value, 6))


def _sums(rows: Sequence[Row]) -> list[Line]:
    """Containers + unattributed = device: memory, power, energy, idle draw, and SM when nobody is capped.

    A GPU in MIG mode: the board and its devices together, where each GPU instance's memory counts once; nvidia-smi's
    rounding may leave the instances a MiB each above the board.
    """
    devices = [row for row in rows if isinstance(row, GpuSample)]
    shares = [row for row in rows if isinstance(row, ContainerGpuSample)]
    lines: list[Line] = []
    for device in devices:
        if device.parent_uuid:
            continue
        instances = {one.gpu_uuid for one in devices if one.parent_uuid == device.gpu_uuid}
        board = [row for row in shares if row.gpu_uuid == device.gpu_uuid]
        parts = board + [row for row in shares if row.gpu_uuid in instances]
        expected: dict[str, Value] = {}
        got: dict[str, Value] = {}
        for name, whole, values, unit in (
            ("memory", device.memory_used_bytes, [row.memory_bytes for row in parts], MIB),
            ("watts", device.power_watts, [row.power_watts for row in board], 1),
            ("joules", device.energy_joules, [row.energy_joules for row in board], 1),
            ("idle", device.idle_power_watts, [row.idle_power_watts for row in board], 1),
            ("sm", None if instances else device.busy_ratio, [row.sm_ratio for row in board], 0.01),
        ):
            if whole is None or not values or None in values:
                continue
            total = sum(value for value in values if value is not None)
            if (
                name == "sm" and total > whole and values[-1] == 0
            ):  # the driver's samples may add up to more than the time it was busy
                continue
            if name == "memory" and 0 < total - whole <= len(instances) * MIB:
                whole = total
            expected[name], got[name] = whole / unit, total / unit
        if expected:
            ok = all(_equal(value, got[name]) for name, value in expected.items())
            lines.append(Line(f"sums of {device.gpu_index}", _show(expected), _show(got), ok))
    return lines
