"""NVML codes, XID numbers, recovery actions and clock event bits in words, from `fleet/catalog`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

from fleet.model import Reason, Severity

_CATALOG = Path(__file__).with_name("catalog")
_NO_PERMISSION = 4
_UNSUPPORTED = frozenset({3, 13, 25})
_GPM_METRICS = frozenset({"sm_active_ratio", "sm_occupancy_ratio", "tensor_active_ratio", "dram_active_ratio"})
_XID_PAGE = "look the number up at docs.nvidia.com/deploy/xid-errors and look at `dmesg | grep -i xid`"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorWords:
    """An NVML return code. `absent`: that there is nothing to read is a normal state."""

    words: str
    reason: Reason
    next_step: str
    absent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class XidWords:
    """An XID number: how bad, what it means, what to do."""

    severity: Severity
    words: str
    next_step: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryWords:
    """What a GPU asks for after an error, and how to do it."""

    words: str
    next_step: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleReason:
    """One bit of the clock event reasons; `slows` False for those that cost no speed (idle)."""

    bit: int
    words: str
    slows: bool


def nvml_error(code: int) -> ErrorWords:
    """Words for a return code, also for one that is not in the catalogue."""
    found = _errors().get(str(code))
    return found or ErrorWords(words=f"NVML code {code}", reason="malformed", next_step="look at `dmesg`")


def metric_gap(metric: str, code: int, *, mig: bool = False, part: bool = False) -> str:
    """Why one metric of a GPU could not be read, where the bare code would not tell an operator.

    mig: the GPU is in MIG mode; part: it is about a MIG device of it.
    """
    if mig and not part and metric in _GPM_METRICS and code in _UNSUPPORTED:
        return "under MIG, SM activity is told for MIG devices alone, by GPM (Hopper or newer)"
    if metric in _GPM_METRICS and code in _UNSUPPORTED:
        return "SM activity needs Hopper or newer (GPM)"
    if metric in _GPM_METRICS and code == _NO_PERMISSION:
        return (
            "no permission for SM activity (GPM): run the collector as root, its container with --cap-add SYS_ADMIN, "
            "or the driver with NVreg_RestrictProfilingToAdminUsers=0"
        )
    if mig and metric == "busy_ratio" and code in _UNSUPPORTED:
        return "under MIG the driver tells no busy time, except through GPM (Hopper or newer)"
    if mig and metric == "remapped_rows" and code in _UNSUPPORTED:
        return "not told while MIG instances exist"
    return nvml_error(code).words


def recovery(action: int) -> RecoveryWords | None:
    """Words for a recovery action; None for 0, nothing to do."""
    if action == 0:
        return None
    unknown = RecoveryWords(words=f"recovery action {action}", next_step="see `nvidia-smi -q | grep -A2 Recovery`")
    return _recoveries().get(str(action), unknown)


def xid(number: int) -> XidWords:
    """Words for an XID, also for one that is not in the catalogue."""
    found = _xids().get(str(number))
    return found or XidWords(severity="warning", words="not in the catalogue", next_step=_XID_PAGE)


def throttle_words(bits: int) -> tuple[str, ...]:
    """What slows a GPU down, from the bit mask; empty when nothing does (idle is not throttling)."""
    return tuple(reason.words for reason in throttle_reasons() if reason.slows and bits & reason.bit)


@cache
def throttle_reasons() -> tuple[ThrottleReason, ...]:
    """All known bits, lowest first."""
    rows = cast("Iterable[Mapping[str, object]]", _read("throttle_reasons.toml")["reason"])
    return tuple(ThrottleReason(**row) for row in rows)  # type: ignore[arg-type]


@cache
def _recoveries() -> dict[str, RecoveryWords]:
    return {number: RecoveryWords(**row) for number, row in _read("recovery_actions.toml").items()}  # type: ignore[arg-type]


@cache
def _errors() -> dict[str, ErrorWords]:
    return {code: ErrorWords(**row) for code, row in _read("nvml_errors.toml").items()}  # type: ignore[arg-type]


@cache
def _xids() -> dict[str, XidWords]:
    rows = {numbers: XidWords(**row) for numbers, row in _read("xids.toml").items()}  # type: ignore[arg-type]
    return {number: words for numbers, words in rows.items() for number in numbers.split()}


def _read(name: str) -> dict[str, dict[str, object]]:
    return tomllib.loads((_CATALOG / name).read_text(encoding="utf-8"))
