"""What the contract check looks at and what it says: what containers asked for, what was seen, and the words for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from fleet.model import Severity
from fleet.severity import span_words

Kind = Literal[
    "failed_start",
    "requested_absent",
    "uses_unasked",
    "shared_by_count",
    "asked_all",
    "held_unused",
    "privileged_reach",
    "shared_on_purpose",
    "unknown",
]
#: What to deal with first, among equally severe ones.
KINDS: tuple[Kind, ...] = (
    "failed_start", "requested_absent", "uses_unasked", "shared_by_count", "asked_all", "held_unused",
    "privileged_reach", "shared_on_purpose", "unknown",
)  # fmt: skip
RUNNING = frozenset({"running", "paused", "restarting"})
ASKED = frozenset({"all", "count", "ids", "device_nodes"})
NAMED = frozenset({"ids", "device_nodes"})
SHOWN = 4
ANOTHER_TENANT = "another tenant's container"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUse:
    """What was seen of one container on one GPU. None = never known.

    `seen_at`: when the newest reading of it was taken.
    `last_used_at`: when it last had a process or ran there at or above the idle threshold; None = not in the span.
    `unasked_since`: when it was first seen with a process or running there without holding the GPU.
    `quiet_seconds`, `unknown_seconds`: of the last `held_unused_after_seconds` in which it held the GPU: how long it
    verifiably had no process and did not run, and how long nobody could tell (`unknown_reason` says why).
    """

    gpu_uuid: str
    held: bool
    held_since: datetime | None = None
    seen_at: datetime | None = None
    last_used_at: datetime | None = None
    unasked_since: datetime | None = None
    memory_max_bytes: int | None = None
    sm_max_ratio: float | None = None
    quiet_seconds: float = 0.0
    unknown_seconds: float = 0.0
    unknown_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One container: what it asked for, and what was seen of it. `name` "" = it belongs to somebody else."""

    container_key: str
    name: str
    host: str
    state: str
    kind: str  # of fleet.inventory.GpuRequest; "" = not known
    request: str = ""  # as a person would have typed it
    gpu_uuids: tuple[str, ...] = ()
    unresolved: tuple[str, ...] = ()
    privileged: bool = False
    error: str = ""
    created_at: datetime | None = None
    started_at: datetime | None = None
    compose: bool = False
    uses: tuple[GpuUse, ...] = ()

    @property
    def running(self) -> bool:
        """It holds what it was given."""
        return self.state in RUNNING

    @property
    def held(self) -> tuple[str, ...]:
        """The devices it was given: as resolved from its request, else as seen by the sampler."""
        return self.gpu_uuids or tuple(use.gpu_uuid for use in self.uses if use.held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One thing that is not as declared, told as a colleague would: what, since when, evidence, what to write instead.

    kind "unknown" is no violation: it says what cannot be judged, and why. `since` None = not known.
    """

    kind: Kind
    severity: Severity
    container_key: str
    gpu_uuids: tuple[str, ...]
    sentence: str
    since: datetime | None = None
    evidence: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What counts, and what things are called.

    span_seconds: how long was looked at, for the sentence. gpu_names: UUID -> "GPU 0". parents: MIG device -> its GPU.
    gpu_hosts: hosts that have a GPU.
    """

    at: datetime
    span_seconds: float
    held_unused_after_seconds: float
    idle_below_ratio: float
    gpu_names: Mapping[str, str] = field(default_factory=dict[str, str])
    parents: Mapping[str, str] = field(default_factory=dict[str, str])
    gpu_hosts: frozenset[str] = frozenset()

    def names(self, uuids: Sequence[str]) -> str:
        """GPU 0 and GPU 1; a long list is cut."""
        return listed([self.gpu_names.get(uuid, uuid) for uuid in uuids])

    def since(self, moment: datetime | None) -> str:
        """Since 16 Nov 09:12 UTC (6 d 4 h), with a space before; "" when not known."""
        if moment is None:
            return ""
        return f" since {moment:%-d %b %H:%M} UTC ({span_words((self.at - moment).total_seconds())})"


# --- words -------------------------------------------------------------------------------------------------------


def parties(others: Sequence[Claim], most: int = SHOWN) -> str:
    """Names of the others; those of other tenants once, without names and without how many there are."""
    names = [other.name for other in others if other.name]
    if any(not other.name for other in others):
        return listed([*names[:most], ANOTHER_TENANT], most + 1)
    return listed(names, most)


def option(claim: Claim, uuids: Sequence[str]) -> str:
    """What to write to be given exactly these devices."""
    wanted = tuple(dict.fromkeys(uuids))
    if claim.compose:
        ids = ", ".join(f'"{uuid}"' for uuid in wanted)
        return f"`device_ids: [{ids}]` under deploy.resources.reservations.devices"
    return f"""`--gpus '"device={",".join(wanted)}"'`"""


def peak(uses: Sequence[GpuUse]) -> str:
    """The most that was seen, in words."""
    memory = [use.memory_max_bytes for use in uses if use.memory_max_bytes is not None]
    sm = [use.sm_max_ratio for use in uses if use.sm_max_ratio is not None]
    parts = [f"up to {_gibibytes(sum(memory))}"] if any(memory) else []
    if sm:
        parts.append(f"up to {max(sm) * 100:.0f} % SM")
    return ", ".join(parts) or "a process with memory that cannot be read"


def numbers(uses: Sequence[GpuUse]) -> dict[str, str]:
    """The most that was seen, as evidence; without what is not known."""
    memory = [use.memory_max_bytes for use in uses if use.memory_max_bytes is not None]
    sm = [use.sm_max_ratio for use in uses if use.sm_max_ratio is not None]
    found = {"memory_max_bytes": str(sum(memory))} if memory else {}
    if sm:
        found["sm_max_ratio"] = f"{max(sm):.3g}"
    return found


def _gibibytes(count: int) -> str:
    return f"{count / (1 << 30):.3g} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.3g} MiB"


def listed(names: Sequence[str], most: int = SHOWN) -> str:
    """Names as a person would list them; a long list is cut."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def capital(text: str) -> str:
    """The text as the beginning of a sentence."""
    return text[:1].upper() + text[1:]
