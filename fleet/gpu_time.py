"""What a GPU's time was: busy, low, held but idle, or free; told from seconds by activity.

The store keeps, per minute and hour, the seconds that a device (or a container on it) spent in each bucket of
activity. A state is a sum over buckets, so it holds over any span, and for any threshold on a bucket's edge, also
afterwards. Keeping seconds by state instead would freeze the thresholds of the day into history.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

#: Lower edges of the activity buckets: one percent wide below 10 %, five percent above.
EDGES = (*(step / 100 for step in range(10)), *(step / 100 for step in range(10, 100, 5)))
#: Bucket of an activity that is not known.
UNKNOWN_BUCKET = 31
#: Added to the bucket when a container held the device, or when nobody could be asked who holds it.
HELD, HOLDERS_UNKNOWN = 32, 64

# Ratios are stored as 32-bit floats: 0.35 comes back as 0.34999999. The same margins stand in the rollups' SQL.
_FINE_MARGIN, _COARSE_MARGIN = 0.00005, 0.00001


def activity_bucket(ratio: float | None) -> int:
    """Bucket of an activity (0-1): index into `EDGES`; `UNKNOWN_BUCKET` for None."""
    if ratio is None:
        return UNKNOWN_BUCKET
    if ratio < 0.0999995:
        return math.floor(ratio * 100 + _FINE_MARGIN)
    return min(27, 10 + math.floor((ratio - 0.1) * 20 + _COARSE_MARGIN))


def bucket_sql(ratio: str) -> str:
    """`activity_bucket` as a SQL expression over a Nullable(Float64) expression."""
    known = f"assumeNotNull({ratio})"
    return (
        f"multiIf(isNull({ratio}), 31, {known} < 0.0999995, toUInt8(floor({known} * 100 + 0.00005)), "
        f"toUInt8(least(27, 10 + floor(({known} - 0.1) * 20 + 0.00001))))"
    )


def is_edge(ratio: float) -> bool:
    """Whether a threshold lies on a bucket's edge, so that no bucket is cut in two by it."""
    return any(math.isclose(ratio, edge, abs_tol=1e-9) for edge in (*EDGES, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSeconds:
    """Seconds of a device's time, or of a container's on it, by state. They add up to the time observed.

    busy: activity at or above the busy threshold; low: between the two; held_idle: below the idle threshold while a
    container holds it; free: the same and nobody holds it; unknown: activity or holders could not be read.
    """

    busy: float = 0.0
    low: float = 0.0
    held_idle: float = 0.0
    free: float = 0.0
    unknown: float = 0.0

    @property
    def observed(self) -> float:
        """All of it."""
        return sum(getattr(self, one.name) for one in fields(self))

    def __add__(self, other: GpuSeconds) -> GpuSeconds:
        return GpuSeconds(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})


def states_by_key(*, idle_below: float, busy_from: float) -> dict[int, str]:
    """The state (a field of `GpuSeconds`) of every key that the store can hold: bucket, + HELD or + HOLDERS_UNKNOWN.

    Raises ValueError when a threshold is not on a bucket's edge, or idle_below > busy_from.
    """
    if not (is_edge(idle_below) and is_edge(busy_from) and idle_below <= busy_from):
        raise ValueError(
            f"thresholds {idle_below:g} and {busy_from:g}: write edges out of {EDGES}, the lower one first"
        )
    idle_bucket = len(EDGES) if idle_below >= 1 else activity_bucket(idle_below)
    busy_bucket = len(EDGES) if busy_from >= 1 else activity_bucket(busy_from)
    found: dict[int, str] = {}
    for flags in (0, HELD, HOLDERS_UNKNOWN):
        quiet = {0: "free", HELD: "held_idle"}.get(flags, "unknown")
        for bucket in range(len(EDGES)):
            found[bucket + flags] = "busy" if bucket >= busy_bucket else "low" if bucket >= idle_bucket else quiet
        found[UNKNOWN_BUCKET + flags] = "unknown"
    return found


def gpu_seconds(activity_seconds: Mapping[int, float], *, idle_below: float, busy_from: float) -> GpuSeconds:
    """Seconds by state from seconds by bucket (key as in the store: bucket + HELD or + HOLDERS_UNKNOWN).

    Raises ValueError when a threshold is not on a bucket's edge, or idle_below > busy_from.
    """
    by_key = states_by_key(idle_below=idle_below, busy_from=busy_from)
    states = dict.fromkeys((one.name for one in fields(GpuSeconds)), 0.0)
    for key, seconds in activity_seconds.items():
        states[by_key.get(key, "unknown")] += seconds
    return GpuSeconds(**states)
