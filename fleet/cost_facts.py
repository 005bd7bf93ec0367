"""What an allocation is made from: devices, holds, tenants, readings; and the timelines that come of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, tzinfo
from decimal import Decimal
from itertools import zip_longest

from fleet.cost_intervals import IntervalError, Span, Timeline, merged
from fleet.money import SHARE, apportion, share_of
from fleet.price_book import Price


class CostError(ValueError):
    """Facts that cannot be: says of what, what was found, what to write."""


# --- what is known ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU, a MIG device, or what was not cut of a GPU, with its own price over time; a hole in it is "no price".

    present: when it was there and so is billed. watched: somebody reads it, so that silence is a gap; False = nobody
    does, its holders are all that is known. size: of a whole GPU, out of `SHARE`, for GPU-hours.
    """

    gpu_uuid: str
    prices: Timeline[Price]
    present: tuple[Span, ...]
    host: str = ""
    name: str = ""
    watched: bool = True
    size: int = SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A container was given a device. weight: its part where several hold it, e.g. an MPS thread percentage."""

    span: Span
    gpu_uuid: str
    container: str
    weight: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenancy:
    """Whose a container was. Without one it is `UNASSIGNED`'s."""

    span: Span
    container: str
    tenant: str
    team: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """A reading: the mean share (0-1) of a device that worked over the span.

    container: whose processes; UNATTRIBUTED ("") = no known container's; None = the whole device.
    ratio: None = somebody looked and it could not be read. Of two that overlap the later one takes over.
    """

    span: Span
    gpu_uuid: str
    container: str | None
    ratio: float | Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A tenant's part of what a shared server did in a span. weight: None = not known, so it is split evenly.

    Spans of one server are the same or apart: what was done in a span is taken as done evenly over it.
    """

    span: Span
    container: str
    tenant: str
    team: str = ""
    weight: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blind:
    """Nobody could be asked who holds the devices of a host. Holders that are known all the same stay holders."""

    span: Span
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """Money given back on a day, below 0. tenant: "" = to nobody in particular."""

    day: date
    micros: int
    currency: str
    tenant: str = ""
    team: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that an allocation is made from. window: what is asked for; facts outside it do no harm."""

    window: Span
    zone: tzinfo
    devices: Sequence[Device]
    holds: Sequence[Hold] = ()
    tenancies: Sequence[Tenancy] = ()
    activities: Sequence[Activity] = ()
    served: Sequence[Served] = ()
    blind: Sequence[Blind] = ()
    credits: Sequence[Credit] = ()


# --- timelines ----------------------------------------------------------------------------------------------------

#: A timeline's value cannot be None, which means "nothing holds": a reading that could not be taken is this.
NOT_READ = -1


@dataclass(frozen=True, slots=True)
class Split:
    """Tenants of a shared server and their weights; estimated where the weights are not known."""

    tenants: tuple[tuple[str, str], ...]
    weights: tuple[int, ...]
    estimated: bool

    def of(self, parts: int) -> list[tuple[str, str, int, bool]]:
        """The parts of each."""
        found = apportion(parts, self.weights)
        return [(*who, part, self.estimated) for who, part in zip(self.tenants, found, strict=True)]


def check(facts: Facts) -> None:
    """Raises CostError for the first fact that cannot be."""
    seen: set[str] = set()
    for device in facts.devices:
        if device.gpu_uuid in seen:
            raise CostError(f"GPU {device.gpu_uuid!r} is there twice; name each one once")
        seen.add(device.gpu_uuid)
    for what, named in (("hold", facts.holds), ("reading", facts.activities)):
        for one in named:
            if one.gpu_uuid not in seen:
                raise CostError(f"{what} of GPU {one.gpu_uuid!r}: no such GPU; write one of the GPUs' ids")
    for hold in facts.holds:
        if hold.weight < 1:
            raise CostError(f"hold of {hold.container!r}: found the weight {hold.weight}; write at least 1")
    for one in facts.activities:
        if one.ratio is not None and not 0 <= one.ratio <= 1:  # also false for NaN
            raise CostError(f"reading of GPU {one.gpu_uuid!r}: found the ratio {one.ratio}; write 0 to 1")
    for one in facts.served:
        if one.weight is not None and one.weight < 0:
            raise CostError(f"tokens of {one.container!r}: found {one.weight}; write at least 0")
    for one in facts.credits:
        if one.micros >= 0:
            raise CostError(f"credit of {one.day}: found {one.micros}; write an amount below 0")


def by_device(facts: Facts, carry_microseconds: int) -> dict[str, dict[tuple[str, str], Timeline[object]]]:
    """For each device the timelines of all that bears on it."""
    found: dict[str, dict[tuple[str, str], Timeline[object]]] = {one.gpu_uuid: {} for one in facts.devices}
    holds: dict[tuple[str, str], list[Hold]] = defaultdict(list)
    for hold in facts.holds:
        holds[hold.gpu_uuid, hold.container].append(hold)
    for (gpu_uuid, container), ones in holds.items():
        found[gpu_uuid]["hold", container] = _held(ones)
    series: dict[tuple[str, str, str], list[Activity]] = defaultdict(list)
    for one in facts.activities:
        key = (one.gpu_uuid, "device", "") if one.container is None else (one.gpu_uuid, "busy", one.container)
        series[key].append(one)
    for (gpu_uuid, what, container), ones in series.items():
        found[gpu_uuid][what, container] = _read(ones).carried(carry_microseconds)
    owners = _owners(facts.tenancies)
    served = _splits(facts.served)
    blind: dict[str, list[Span]] = defaultdict(list)
    for one in facts.blind:
        blind[one.host].append(one.span)
    for device in facts.devices:
        lines = found[device.gpu_uuid]
        own: dict[str, list[Timeline[object]]] = defaultdict(list)
        for (what, container), line in lines.items():
            if what in ("hold", "busy") and container:
                own[container].append(line)
        for container, ones in own.items():
            # Only while it has to do with the device: what holds all the time is looked at in every piece.
            extent = _extent(ones)
            if container in owners:
                lines["tenant", container] = owners[container].clipped(extent)
            if container in served:
                lines["served", container] = served[container].clipped(extent)
        if device.host in blind:
            lines["blind", ""] = Timeline((span, True) for span in merged(blind[device.host]))
    return found


def _extent(lines: Sequence[Timeline[object]]) -> Span:
    entries = [span for line in lines if line.entries for span in (line.entries[0][0], line.entries[-1][0])]
    return Span(min(span.start for span in entries), max(span.end for span in entries)) if entries else Span(0, 0)


def _held(ones: Sequence[Hold]) -> Timeline[object]:
    """Runs of one container on one device: a restart that overlaps its old run is one hold."""
    weights = {one.weight for one in ones}
    if len(weights) == 1:
        return Timeline((span, weights.copy().pop()) for span in merged(one.span for one in ones))
    return Timeline(((one.span, one.weight) for one in ones), what=f"holds of {ones[0].container!r} by weight")


def _read(ones: Sequence[Activity]) -> Timeline[object]:
    """Readings of one series, as parts of `SHARE`; each ends where the next one starts."""
    order = sorted((one for one in ones if one.span.length), key=lambda one: one.span)
    entries: list[tuple[Span, object]] = []
    for one, after in zip_longest(order, order[1:]):
        value = NOT_READ if one.ratio is None else share_of(one.ratio)
        if after is None or after.span.start > one.span.start:
            end = one.span.end if after is None else min(one.span.end, after.span.start)
            entries.append((Span(one.span.start, end), value))
        elif after.ratio != one.ratio:
            raise IntervalError(
                f"readings of GPU {one.gpu_uuid!r} start together at {one.span.words.split()[0]}: {one.ratio} and"
                f" {after.ratio}; keep one of them"
            )
    return Timeline(entries)


def _owners(tenancies: Iterable[Tenancy]) -> dict[str, Timeline[object]]:
    found: dict[str, list[tuple[Span, object]]] = defaultdict(list)
    for one in tenancies:
        found[one.container].append((one.span, (one.tenant, one.team)))
    return {name: Timeline(entries, what=f"tenants of {name!r}") for name, entries in found.items()}


def _splits(served: Iterable[Served]) -> dict[str, Timeline[object]]:
    groups: dict[str, dict[Span, list[Served]]] = defaultdict(lambda: defaultdict(list))
    for one in served:
        groups[one.container][one.span].append(one)
    found: dict[str, Timeline[object]] = {}
    for container, by_span in groups.items():
        entries: list[tuple[Span, object]] = []
        for span, ones in by_span.items():
            unknown = any(one.weight is None for one in ones)
            sums: dict[tuple[str, str], int] = defaultdict(int)
            for one in ones:
                sums[one.tenant, one.team] += 1 if unknown else one.weight or 0
            if unknown:
                sums = dict.fromkeys(sums, 1)  # type: ignore[assignment]
            if any(sums.values()):  # what nobody asked for is its own tenant's
                who = sorted(sums)
                entries.append((span, Split(tuple(who), tuple(sums[one] for one in who), unknown)))
        found[container] = Timeline(entries, what=f"tokens of {container!r}")
    return found
