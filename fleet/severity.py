"""When a container or GPU counts as trouble, and the one short sentence that says why.

Pure rules over facts already read; thresholds are arguments with the values that operators of such fleets use. The
worst rule wins and gives the sentence; a thing whose readings stopped is unknown, never ok.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from fleet.gpu_words import xid


class Level(IntEnum):
    """How bad it is; sorts from fine to worst. Unknown is worse than fine and better than a warning."""

    OK = 0
    UNKNOWN = 1
    WARNING = 2
    CRITICAL = 3

    @property
    def word(self) -> str:
        """The word beside the glyph."""
        return ("ok", "unknown", "warning", "critical")[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Where fine ends. Ratios are 0-1."""

    memory_warning_ratio: float = 0.90
    throttled_warning_ratio: float = 0.25
    error_warning_ratio: float = 0.01
    error_critical_ratio: float = 0.05
    ttft_warning_seconds: float = 2.0
    ttft_critical_seconds: float = 5.0
    restarts_critical: int = 3
    idle_sm_ratio: float = 0.05
    busy_sm_ratio: float = 0.5
    idle_warning_seconds: float = 3600.0
    gpu_hot_celsius: float = 87.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerFacts:
    """What is known of one container at a moment; None = could not be read."""

    state: str
    health: str = ""
    exit_code: int | None = None
    error: str = ""
    age_seconds: float | None = None  # of its newest sample; None = never sampled
    interval_seconds: float = 5.0
    restarts: int = 0  # in the window looked at
    oom_kills: int = 0
    memory_ratio: float | None = None
    throttled_ratio: float | None = None
    error_ratio: float | None = None
    ttft_p95_seconds: float | None = None
    ttft_at_least: bool = False  # the p95 lies beyond the last bucket
    endpoint_up: bool | None = None
    idle_gpus: int = 0
    idle_seconds: float | None = None
    idle_peak_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The worst that is true of something. `rule` names it, for finding out since when."""

    level: Level
    rule: str = ""
    why: str = ""


FINE = Judgement(level=Level.OK)


def judge_container(facts: ContainerFacts, limits: Thresholds) -> Judgement:
    """The worst thing that holds of a container; `FINE` when nothing does."""
    found = [*_life(facts, limits), *_service(facts, limits), *_resources(facts, limits)]
    return max(found, key=lambda item: item.level, default=FINE)


Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.object_]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerColumns:
    """`ContainerFacts` of many containers, one place each: numbers with NaN and words with "" for None.

    endpoint_up: 1 = True, 0 = False.
    """

    state: Words
    health: Words
    exit_code: Floats
    error: Words
    age_seconds: Floats
    interval_seconds: Floats
    restarts: Floats
    oom_kills: Floats
    memory_ratio: Floats
    throttled_ratio: Floats
    error_ratio: Floats
    ttft_p95_seconds: Floats
    endpoint_up: Floats
    idle_gpus: Floats
    idle_seconds: Floats


def containers_in_trouble(facts: ContainerColumns, limits: Thresholds) -> Mask:
    """True where `judge_container` finds anything: most of a fleet is fine, and only the rest is judged one by one.

    The conditions of the rules below, all at once; a test holds the two together.
    """
    running = facts.state == "running"
    # As in `is_stale`: a container that was never sampled is stale too, which a comparison with NaN would deny.
    stale = ~(facts.age_seconds <= np.maximum(15.0, 3.0 * facts.interval_seconds))
    failed = (facts.exit_code != 0) & ~np.isnan(facts.exit_code)
    life = (facts.oom_kills > 0) | (facts.restarts > 0) | (facts.restarts >= limits.restarts_critical)
    life |= np.isin(facts.state, ("restarting", "dead", "paused"))
    life |= ((facts.state == "created") & (facts.error != "")) | ((facts.state == "exited") & failed)
    life |= running & (stale | (facts.health == "unhealthy"))
    service = running & (facts.endpoint_up == 0)
    service |= facts.error_ratio >= limits.error_warning_ratio
    service |= facts.ttft_p95_seconds >= limits.ttft_warning_seconds
    resources = running & (facts.memory_ratio >= limits.memory_warning_ratio)
    resources |= facts.throttled_ratio >= limits.throttled_warning_ratio
    resources |= (facts.idle_gpus != 0) & (facts.idle_seconds >= limits.idle_warning_seconds)
    return life | service | resources


def is_stale(age_seconds: float | None, interval_seconds: float) -> bool:
    """True when the newest sample is older than three intervals (at least 15 s): one missed poll is no news."""
    return age_seconds is None or age_seconds > max(15.0, 3.0 * interval_seconds)


def _life(facts: ContainerFacts, limits: Thresholds) -> list[Judgement]:
    found: list[Judgement] = []
    if facts.oom_kills > 0:
        times = "once" if facts.oom_kills == 1 else f"{facts.oom_kills} times"
        found.append(Judgement(level=Level.CRITICAL, rule="oom", why=f"out of memory, killed {times}"))
    if facts.restarts >= limits.restarts_critical or facts.state == "restarting":
        # A loop that Docker is between two starts of shows as restarting even when few starts fall into the window.
        code = f", last exit code {facts.exit_code}" if facts.exit_code else ""
        count = f"{facts.restarts} restarts" if facts.restarts else "restarting"
        found.append(Judgement(level=Level.CRITICAL, rule="restarts", why=f"crash loop: {count}{code}"))
    elif facts.restarts > 0:
        count = "restarted once" if facts.restarts == 1 else f"restarted {facts.restarts} times"
        found.append(Judgement(level=Level.WARNING, rule="restarts", why=count))
    if facts.state == "dead":
        found.append(Judgement(level=Level.CRITICAL, rule="state", why="dead: Docker could not remove it"))
    elif facts.state == "created" and facts.error:
        found.append(Judgement(level=Level.CRITICAL, rule="state", why=f"never started: {facts.error[:120]}"))
    elif facts.state == "exited" and facts.exit_code:
        found.append(Judgement(level=Level.CRITICAL, rule="state", why=f"stopped with exit code {facts.exit_code}"))
    elif facts.state == "paused":
        found.append(Judgement(level=Level.WARNING, rule="state", why="paused"))
    elif facts.state == "running" and is_stale(facts.age_seconds, facts.interval_seconds):
        found.append(Judgement(level=Level.UNKNOWN, rule="stale", why="no readings: its source does not answer"))
    if facts.state == "running" and facts.health == "unhealthy":
        found.append(Judgement(level=Level.CRITICAL, rule="health", why="health check fails"))
    return found


def _service(facts: ContainerFacts, limits: Thresholds) -> list[Judgement]:
    found: list[Judgement] = []
    if facts.endpoint_up is False and facts.state == "running":
        found.append(Judgement(level=Level.CRITICAL, rule="endpoint", why="metrics endpoint does not answer"))
    if facts.error_ratio is not None and facts.error_ratio >= limits.error_warning_ratio:
        level = Level.CRITICAL if facts.error_ratio >= limits.error_critical_ratio else Level.WARNING
        found.append(Judgement(level=level, rule="errors", why=f"{facts.error_ratio:.1%} of requests fail"))
    if facts.ttft_p95_seconds is not None and facts.ttft_p95_seconds >= limits.ttft_warning_seconds:
        level = Level.CRITICAL if facts.ttft_p95_seconds >= limits.ttft_critical_seconds else Level.WARNING
        least = "≥ " if facts.ttft_at_least else ""
        why = f"p95 TTFT {least}{facts.ttft_p95_seconds:.3g} s (limit {limits.ttft_warning_seconds:g} s)"
        found.append(Judgement(level=level, rule="ttft", why=why))
    return found


def _resources(facts: ContainerFacts, limits: Thresholds) -> list[Judgement]:
    found: list[Judgement] = []
    if (
        facts.state == "running"
        and facts.memory_ratio is not None
        and facts.memory_ratio >= limits.memory_warning_ratio
    ):
        found.append(
            Judgement(level=Level.WARNING, rule="memory", why=f"memory at {facts.memory_ratio:.0%} of its limit")
        )
    if facts.throttled_ratio is not None and facts.throttled_ratio >= limits.throttled_warning_ratio:
        found.append(
            Judgement(
                level=Level.WARNING, rule="throttled", why=f"CPU throttled in {facts.throttled_ratio:.0%} of periods"
            )
        )
    if facts.idle_gpus and facts.idle_seconds is not None and facts.idle_seconds >= limits.idle_warning_seconds:
        peak = "" if facts.idle_peak_ratio is None else f", max {facts.idle_peak_ratio:.0%} SM"
        gpus = "1 GPU" if facts.idle_gpus == 1 else f"{facts.idle_gpus} GPUs"
        why = f"holds {gpus} idle for {span_words(facts.idle_seconds)}{peak}"
        found.append(Judgement(level=Level.WARNING, rule="idle", why=why))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """What is known of one GPU at a moment; None = could not be read."""

    state: str = "ok"
    unknown_reason: str = ""
    age_seconds: float | None = None
    interval_seconds: float = 5.0
    xid: int | None = None
    ecc_uncorrected: int = 0  # in the window looked at
    remap_pending: bool | None = None
    temperature_celsius: float | None = None
    thermal_throttle: bool = False
    power_brake: bool = False


# An XID that asks for nothing (a program was ended) is no reason to wake anybody.
_XID_LEVELS = {"info": Level.OK, "warning": Level.WARNING, "critical": Level.CRITICAL}


def worst_xid(seen: Iterable[tuple[int, int]]) -> int | None:
    """Of XIDs with the time of each, the worst, and of equally bad ones the latest; None of none."""
    worst = max(seen, key=lambda one: (_XID_LEVELS[xid(one[0]).severity], one[1], one[0]), default=None)
    return worst[0] if worst else None


def judge_gpu(facts: GpuFacts, limits: Thresholds) -> Judgement:
    """The worst thing that holds of a GPU; `FINE` when nothing does."""
    found: list[Judgement] = []
    if facts.state == "released":
        why = facts.unknown_reason or "released by the operator"
        found.append(Judgement(level=Level.UNKNOWN, rule="released", why=why))
    elif facts.state != "ok":
        why = facts.unknown_reason or facts.state.replace("_", " ")
        found.append(Judgement(level=Level.CRITICAL, rule="state", why=why))
    elif is_stale(facts.age_seconds, facts.interval_seconds):
        found.append(Judgement(level=Level.UNKNOWN, rule="stale", why="no readings: its source does not answer"))
    if facts.xid and (level := _XID_LEVELS[xid(facts.xid).severity]) > Level.OK:
        found.append(Judgement(level=level, rule="xid", why=f"XID {facts.xid}: {xid(facts.xid).words}"))
    if facts.ecc_uncorrected > 0:
        found.append(
            Judgement(level=Level.CRITICAL, rule="ecc", why=f"{facts.ecc_uncorrected} uncorrectable memory errors")
        )
    if facts.remap_pending:
        found.append(Judgement(level=Level.WARNING, rule="remap", why="row remapping pending: reset the GPU"))
    if facts.thermal_throttle:
        at = "" if facts.temperature_celsius is None else f" at {facts.temperature_celsius:.0f} °C"
        found.append(Judgement(level=Level.WARNING, rule="thermal", why=f"slowed by heat{at}"))
    elif facts.temperature_celsius is not None and facts.temperature_celsius >= limits.gpu_hot_celsius:
        found.append(Judgement(level=Level.WARNING, rule="hot", why=f"{facts.temperature_celsius:.0f} °C"))
    if facts.power_brake:
        found.append(Judgement(level=Level.WARNING, rule="brake", why="external power brake slows it"))
    return max(found, key=lambda item: item.level, default=FINE)


#: Bits of the clocks event reasons (nvml.h): software and hardware thermal slowdown; hardware power brake.
THERMAL_BITS = 0x20 | 0x40
BRAKE_BIT = 0x80


def span_words(seconds: float) -> str:
    """A span of time in its two largest units: 42 s, 3 min, 5 h 10 min, 6 d 4 h."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    for unit, size, smaller, small_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "", 1)):
        if whole >= size:
            rest = whole % size // small_size if smaller else 0
            return f"{whole // size} {unit} {rest} {smaller}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"
