"""One device at one time: which part of it is whose. Pure arithmetic on parts of `SHARE`, no times and no money."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fleet.model import UNATTRIBUTED
from fleet.money import SHARE, apportion

Basis = Literal["allocation", "usage", "tokens"]
Sharing = Literal["equal", "usage"]
GapRule = Literal["apart", "holder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How money is allocated.

    basis: allocation = who holds a device pays for it, idle or not; usage = who works pays for that, idle is nobody's;
    tokens = allocation, and tenants who share a server split it by weighted tokens.
    sharing: how a device that several hold is split under allocation: by weight (equal unless said) or by usage.
    gap: what a time that nobody looked at is: apart, or its known holder's.
    carry_microseconds: how long a reading stands for a missing one.
    """

    basis: Basis = "allocation"
    sharing: Sharing = "equal"
    gap: GapRule = "apart"
    carry_microseconds: int = 300_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What is known of a device at one time. Ratios in parts of `SHARE`; None = looked, and could not be read.

    holders: weights by container. ratios: by container, UNATTRIBUTED for processes of no known one. device: of all.
    observed: somebody looked. holders_known: somebody could be asked who holds it.
    """

    holders: Mapping[str, int]
    ratios: Mapping[str, int | None]
    device: int | None
    observed: bool
    holders_known: bool = True


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the device. charged: its container's tenant pays; otherwise nobody does."""

    kind: str
    container: str
    parts: int
    charged: bool = False
    estimated: bool = False


def shares(piece: Piece, rules: Rules) -> list[Part]:
    """Parts of the device that make it up exactly; none is empty."""
    found = _gap(piece, rules) if not piece.observed else _observed(piece, rules)
    return [part for part in found if part.parts]


def _gap(piece: Piece, rules: Rules) -> list[Part]:
    if not piece.holders:
        return [Part("data_gap", "", SHARE)]
    split = _weighed(SHARE, piece.holders)
    if rules.gap == "holder":
        return [Part("held_unknown", name, parts, charged=True, estimated=True) for name, parts in split.items()]
    return [Part("data_gap", name, parts) for name, parts in split.items()]


def _observed(piece: Piece, rules: Rules) -> list[Part]:
    ratios, estimated, strangers = _ratios(piece)
    holders = piece.holders
    guests = {name: ratio for name, ratio in ratios.items() if name not in holders and ratio}
    found = [Part("unattributed", "", strangers)]
    found += [Part("used", name, ratio or 0, charged=True) for name, ratio in guests.items()]
    rest = SHARE - sum(part.parts for part in found)
    if not holders:
        # Without a holder it is free, if somebody could say so.
        return [*found, Part("unallocated" if piece.holders_known else "data_gap", "", rest)]
    inside = {name: ratios.get(name) for name in sorted(holders)}
    if rules.basis == "usage":
        return [*found, *_by_usage(rest, inside, estimated)]
    return [*found, *_by_allocation(rest, inside, holders, estimated, rules)]


def _ratios(piece: Piece) -> tuple[dict[str, int | None], str, int]:
    """Ratios by container with at most `SHARE` in all, the one that was told from the device's, and the strangers'."""
    ratios = {name: ratio for name, ratio in sorted(piece.ratios.items()) if name != UNATTRIBUTED}
    for name in sorted(piece.holders):
        ratios.setdefault(name, None)
    strangers = piece.ratios.get(UNATTRIBUTED)
    estimated = ""
    if piece.device is not None and strangers is None:
        # What the device did beyond what its containers are known to have done.
        left = max(0, piece.device - sum(ratio or 0 for ratio in ratios.values()))
        unknown = [name for name, ratio in ratios.items() if ratio is None]
        if len(unknown) == 1:
            estimated, ratios[unknown[0]] = unknown[0], left
        elif not unknown:
            strangers = left
    known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    outside = strangers or 0
    if sum(known.values()) + outside > SHARE:
        # Time slices are measured one by one and may add up to more than there is.
        *scaled, outside = apportion(SHARE, [*known.values(), outside])
        ratios |= dict(zip(known, scaled, strict=True))
    return ratios, estimated, outside


def _by_usage(rest: int, inside: Mapping[str, int | None], estimated: str) -> list[Part]:
    found = [
        Part("used", name, ratio, charged=True, estimated=name == estimated)
        for name, ratio in inside.items()
        if ratio is not None
    ]
    left = rest - sum(part.parts for part in found)
    kind = "held_unknown" if None in inside.values() else "held_idle" if len(inside) == 1 else "shared_idle"
    return [*found, Part(kind, next(iter(inside)) if len(inside) == 1 else "", left)]


def _by_allocation(
    rest: int, inside: Mapping[str, int | None], holders: Mapping[str, int], estimated: str, rules: Rules
) -> list[Part]:
    known = {name: ratio for name, ratio in inside.items() if ratio is not None}
    fallback = False
    if rules.sharing == "usage" and len(inside) > 1:
        # Nothing to go by when one of them is unknown or none did anything: by weight, and said so.
        fallback = len(known) < len(inside) or not any(known.values())
    if rules.sharing == "usage" and len(inside) > 1 and not fallback:
        split = _weighed(rest, known)
    else:
        split = _weighed(rest, holders)
    idle = "held_idle" if len(inside) == 1 else "shared_idle"
    found: list[Part] = []
    for name, ratio in inside.items():
        guessed = fallback or name == estimated
        if ratio is None:
            found.append(Part("held_unknown", name, split[name], charged=True, estimated=guessed))
            continue
        used = min(ratio, split[name])
        found.append(Part("used", name, used, charged=True, estimated=guessed))
        found.append(Part(idle, name, split[name] - used, charged=True, estimated=guessed))
    return found


def _weighed(parts: int, weights: Mapping[str, int]) -> dict[str, int]:
    names = sorted(weights)
    return dict(zip(names, apportion(parts, [weights[name] for name in names]), strict=True))
