"""GPUs that several running containers hold: meant so, or because each asked by count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

from fleet.gpu_claims import ASKED, NAMED, Claim, Rules, Violation, option, parties


def sharing(claims: Iterable[Claim], rules: Rules) -> list[Violation]:
    """One violation per container and kind. One that asked by count has the first GPUs without meaning those."""
    holders: dict[tuple[str, str], list[Claim]] = defaultdict(list)
    for claim in claims:
        if claim.running and claim.kind in ASKED:
            for uuid in claim.held:
                holders[claim.host, uuid].append(claim)
    by_count: dict[str, list[tuple[str, list[Claim]]]] = defaultdict(list)
    on_purpose: dict[str, list[tuple[str, list[Claim]]]] = defaultdict(list)
    own: dict[str, Claim] = {}
    for (_, uuid), sharing in holders.items():
        for claim in sharing:
            others = [other for other in sharing if other is not claim and other.kind != "all"]
            if not claim.name or not others:
                continue
            own[claim.container_key] = claim
            if claim.kind == "count":
                by_count[claim.container_key].append((uuid, others))
            elif claim.kind in NAMED and any(other.kind in NAMED for other in others):
                named = [other for other in others if other.kind in NAMED]
                on_purpose[claim.container_key].append((uuid, named))
    return [
        *(_by_count(own[key], shared, rules) for key, shared in by_count.items()),
        *(_on_purpose(own[key], shared, rules) for key, shared in on_purpose.items()),
    ]


def _by_count(claim: Claim, shared: Sequence[tuple[str, list[Claim]]], rules: Rules) -> Violation:
    uuids = tuple(uuid for uuid in claim.held if uuid in {uuid for uuid, _ in shared})
    others = _others(shared)
    counted = all(other.kind == "count" for other in others)
    why = "Both asked by count" if counted and len(others) == 1 else "It asked by count"
    return Violation(
        kind="shared_by_count",
        severity="warning",
        container_key=claim.container_key,
        gpu_uuids=uuids,
        sentence=(
            f"{claim.name} shares {rules.names(uuids)} with {parties(others)}. {why} ({claim.request}), and Docker"
            f" gives each count the first GPUs, 0 to N-1, busy or not. Name one each: {option(claim, uuids)}"
            " for one of them, another UUID of `nvidia-smi -L` for the next."
        ),
        since=_later(claim, others),
        evidence={"request": claim.request, "with": parties(others, most=16)},
    )


def _on_purpose(claim: Claim, shared: Sequence[tuple[str, list[Claim]]], rules: Rules) -> Violation:
    uuids = tuple(uuid for uuid in claim.held if uuid in {uuid for uuid, _ in shared})
    others = _others(shared)
    return Violation(
        kind="shared_on_purpose",
        severity="info",
        container_key=claim.container_key,
        gpu_uuids=uuids,
        sentence=(
            f"{claim.name} shares {rules.names(uuids)} with {parties(others)}; each names it ({claim.request})."
            " Their memory adds up to one device and neither is kept from the other's."
        ),
        since=_later(claim, others),
        evidence={"request": claim.request, "with": parties(others, most=16)},
    )


def _others(shared: Sequence[tuple[str, list[Claim]]]) -> list[Claim]:
    found = {other.container_key: other for _, others in shared for other in others}
    return [found[key] for key in sorted(found)]


def _later(claim: Claim, others: Sequence[Claim]) -> datetime | None:
    """When the sharing began: at the start of the second one. Of somebody else's container not even that is told."""
    if claim.started_at is None or any(not other.name or other.started_at is None for other in others):
        return claim.started_at
    return max(claim.started_at, min(other.started_at for other in others if other.started_at))
