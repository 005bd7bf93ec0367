"""Declared against observed: does each container use the GPUs it was given, all of them, and no others?

Three facts go in and stay apart: what was asked for (the request and the devices it comes to), where its processes have
memory, and how much they ran. What nobody could read is never held against a container: it is told as not known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fleet.gpu_claims import (
    ASKED,
    KINDS,
    Claim,
    GpuUse,
    Rules,
    Violation,
    capital,
    listed,
    numbers,
    option,
    peak,
)
from fleet.gpu_sharing import sharing
from fleet.gpu_start import start_failure
from fleet.model import Severity
from fleet.severity import span_words

__all__ = ["Claim", "GpuUse", "Rules", "Violation", "check"]

_SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")
#: Share of a span that must be seen before its quiet counts; polls that came late are no reason to say nothing.
_SEEN_ENOUGH = 0.9
_ENDED_SECONDS = 600.0
#: Without a reading for so long, nobody knows what a device is used for.
_UNREAD_SECONDS = 600.0


def check(claims: Sequence[Claim], rules: Rules) -> tuple[Violation, ...]:
    """Everything that is not as declared, worst first; containers of somebody else only count as the other party."""
    found: list[Violation] = []
    for claim in claims:
        if claim.name:
            for judge in _JUDGES:
                violation = judge(claim, rules)
                if violation is not None:
                    found.append(violation)
    found += sharing(claims, rules)
    order = {kind: place for place, kind in enumerate(KINDS)}
    return tuple(
        sorted(
            found, key=lambda one: (_SEVERITIES.index(one.severity), order[one.kind], one.container_key, one.gpu_uuids)
        )
    )


# --- one container -----------------------------------------------------------------------------------------------


def _failed_start(claim: Claim, rules: Rules) -> Violation | None:
    failure = None if claim.running else start_failure(claim.error)
    if failure is None:
        return None
    asked = f" (it asks with {claim.request})" if claim.request else ""
    return Violation(
        kind="failed_start",
        severity="warning",
        container_key=claim.container_key,
        gpu_uuids=(),
        sentence=f"{claim.name} did not start: {failure.what}{asked}. Next: {failure.next_step}.",
        since=claim.created_at if claim.state == "created" else None,
        evidence={"error": claim.error, "request": claim.request},
    )


def _requested_absent(claim: Claim, rules: Rules) -> Violation | None:
    if not claim.unresolved or not (claim.running or claim.state == "created"):
        return None
    prefix = "/dev/nvidia" if claim.kind == "device_nodes" else "GPU "
    missing = listed([f"{prefix}{name}" if name.isdigit() else name for name in claim.unresolved])
    rest = f"; of what it asked for it has {rules.names(claim.gpu_uuids)}" if claim.gpu_uuids else ""
    lost = ", so it was lost after the start" if claim.running else ", so it cannot start"
    return Violation(
        kind="requested_absent",
        severity="warning",
        container_key=claim.container_key,
        gpu_uuids=claim.gpu_uuids,
        sentence=(
            f"{claim.name} asks for {missing} ({claim.request}), which {claim.host} does not have{lost}{rest}. "
            f"`nvidia-smi -L` lists what there is; name one of those."
        ),
        since=None,
        evidence={"unresolved": ", ".join(claim.unresolved[:16]), "request": claim.request},
    )


def _uses_unasked(claim: Claim, rules: Rules) -> Violation | None:
    # An id that names nothing may be a spelling that we do not resolve: then nobody can say what was not asked for.
    if not claim.running or claim.unresolved:
        return None
    held = set(claim.held)
    boards = {rules.parents[uuid] for uuid in held if uuid in rules.parents}  # show what belongs to no MIG device
    uses = [
        use
        for use in claim.uses
        if use.unasked_since is not None
        and use.gpu_uuid not in held | boards
        and rules.parents.get(use.gpu_uuid) not in held
    ]
    if not uses:
        return None
    uuids = tuple(use.gpu_uuid for use in uses)
    since = min((use.unasked_since for use in uses if use.unasked_since), default=None)
    ended = all(use.last_used_at and (rules.at - use.last_used_at).total_seconds() > _ENDED_SECONDS for use in uses)
    if claim.privileged:
        how, fix = "It runs --privileged, which reaches every GPU", ", without --privileged"
    else:
        how = "Nothing it asked for explains that (a device rule, a mounted /dev, a privileged exec?)"
        fix = ""
    return Violation(
        kind="uses_unasked",
        severity="warning",
        container_key=claim.container_key,
        gpu_uuids=uuids,
        sentence=(
            f"{claim.name} {'used' if ended else 'uses'} {rules.names(uuids)}, which it did not ask for"
            f"{rules.since(since)}: {peak(uses)}. "
            f"{how}. Write {option(claim, (*claim.held, *uuids))}{fix}."
        ),
        since=since,
        evidence={**numbers(uses), "request": claim.request, "privileged": "yes" if claim.privileged else "no"},
    )


def _asked_all(claim: Claim, rules: Rules) -> Violation | None:
    held = claim.held
    if not claim.running or claim.kind != "all" or len(held) < 2:
        return None
    seen = {use.gpu_uuid: use for use in claim.uses}
    used = tuple(uuid for uuid in held if uuid in seen and seen[uuid].last_used_at is not None)
    unknown = [uuid for uuid in held if uuid not in used and not _seen_quiet(seen.get(uuid))]
    devices = "GPUs and MIG devices" if any(uuid in rules.parents for uuid in held) else "GPUs"
    begin = f"{claim.name} asks for all {len(held)} {devices} of {claim.host} ({claim.request})"
    span = f"in the last {span_words(rules.span_seconds)}"
    severity: Severity = "warning"
    if unknown and len(used) < len(held):
        reason = next((seen[uuid].unknown_reason for uuid in unknown if uuid in seen), "") or "not seen long enough"
        severity = "info"
        sentence = f"{begin}; how many it uses is not known: {reason}. Name those it needs: {option(claim, held[:1])}."
    elif len(used) == len(held):
        severity = "info"
        sentence = f"{begin} and used all of them {span}. It will take every GPU that is added, too."
    elif used:
        sentence = (
            f"{begin} and used at most {len(used)} of them {span}: {rules.names(used)}. Write {option(claim, used)}."
        )
    else:
        sentence = f"{begin} and used none of them {span}. Name what it needs: {option(claim, held[:1])}."
    return Violation(
        kind="asked_all",
        severity=severity,
        container_key=claim.container_key,
        gpu_uuids=held,
        sentence=sentence,
        since=claim.started_at,
        evidence={
            "asked": str(len(held)), "used": str(len(used)), "unknown": str(len(unknown)),
            **numbers([seen[uuid] for uuid in used]),
        },
    )  # fmt: skip


def _held_unused(claim: Claim, rules: Rules) -> Violation | None:
    if not claim.running:
        return None
    after = rules.held_unused_after_seconds
    if claim.started_at is not None and (rules.at - claim.started_at).total_seconds() < after:
        return None
    idle = [
        use
        for use in claim.uses
        if use.held
        and use.quiet_seconds >= _SEEN_ENOUGH * after
        and not _used_in_parts(use.gpu_uuid, claim, rules)
        and (use.last_used_at is None or (rules.at - use.last_used_at).total_seconds() >= after)
    ]
    if not idle:
        return None
    uuids = tuple(use.gpu_uuid for use in idle)
    held = claim.held
    ends = [use.last_used_at or use.held_since for use in idle]
    since = None if None in ends else max((end for end in ends if end is not None), default=None)
    rest = tuple(uuid for uuid in held if uuid not in uuids)
    whole = f"{len(uuids)} of its {len(held)} GPUs" if rest else f"{len(uuids)} GPU{'s' if len(uuids) > 1 else ''}"
    fix = f"Write {option(claim, rest)}" if rest else "Stop it, or start it without a GPU"
    percent = f"{rules.idle_below_ratio * 100:g} %"
    return Violation(
        kind="held_unused",
        severity="warning",
        container_key=claim.container_key,
        gpu_uuids=uuids,
        sentence=(
            f"{claim.name} holds {whole} without using {'them' if len(uuids) > 1 else 'it'}{rules.since(since)}: "
            f"no process on {rules.names(uuids)}, never above {percent} SM in the last {span_words(after)}. {fix}."
        ),
        since=since,
        evidence={
            **numbers(idle), "quiet_seconds": f"{min(use.quiet_seconds for use in idle):.0f}",
            "after_seconds": f"{after:.0f}", "request": claim.request,
        },
    )  # fmt: skip


def _privileged_reach(claim: Claim, rules: Rules) -> Violation | None:
    if not claim.running or not claim.privileged or claim.held or claim.kind in ASKED:
        return None
    if claim.host not in rules.gpu_hosts or any(use.unasked_since for use in claim.uses):
        return None
    return Violation(
        kind="privileged_reach",
        severity="info",
        container_key=claim.container_key,
        gpu_uuids=(),
        sentence=(
            f"{claim.name} can reach every GPU of {claim.host} because it runs --privileged, and holds none. "
            "If it needs one, ask for it with --gpus; if not, drop --privileged."
        ),
        since=claim.started_at,
        evidence={"privileged": "yes"},
    )


def _unknown(claim: Claim, rules: Rules) -> Violation | None:
    if not claim.running or claim.kind not in ASKED:
        return None
    if not claim.held and not claim.unresolved:
        sentence = (
            f"Not known: which GPUs {claim.name} holds ({claim.request}). The GPUs of {claim.host} have not been listed"
            " since it was seen; is the collector's NVML source running there?"
        )
        return Violation(
            kind="unknown", severity="info", container_key=claim.container_key, gpu_uuids=(), sentence=sentence,
            since=claim.started_at, evidence={"request": claim.request},
        )  # fmt: skip
    unread = _unread(claim, rules)
    if unread:
        seen = [use.seen_at for use in claim.uses if use.gpu_uuid in unread]
        newest = None if len(seen) < len(unread) or None in seen else min(at for at in seen if at is not None)
        when = f"in the last {span_words(rules.span_seconds)}" if newest is None else rules.since(newest).strip()
        verb = "they have" if len(unread) > 1 else "it has"
        sentence = (
            f"Not known: whether {claim.name} uses {rules.names(unread)}, which it holds: {verb} not been read {when}."
            " Is the collector's NVML source running there?"
        )
        return Violation(
            kind="unknown", severity="info", container_key=claim.container_key, gpu_uuids=unread, sentence=sentence,
            since=newest, evidence={"unread": str(len(unread)), "held": str(len(claim.held))},
        )  # fmt: skip
    least = (1 - _SEEN_ENOUGH) * rules.held_unused_after_seconds
    blind = [use for use in claim.uses if use.held and use.last_used_at is None and use.unknown_seconds > least]
    if not blind:
        return None
    uuids = tuple(use.gpu_uuid for use in blind)
    reason = next((use.unknown_reason for use in blind if use.unknown_reason), "its processes could not be told")
    return Violation(
        kind="unknown",
        severity="info",
        container_key=claim.container_key,
        gpu_uuids=uuids,
        sentence=f"Not known: whether {claim.name} uses {rules.names(uuids)}, which it holds. {capital(reason)}.",
        since=None,
        evidence={"unknown_seconds": f"{max(use.unknown_seconds for use in blind):.0f}", "reason": reason},
    )


_JUDGES: tuple[Callable[[Claim, Rules], Violation | None], ...] = (
    _failed_start, _requested_absent, _uses_unasked, _asked_all, _held_unused, _privileged_reach, _unknown,
)  # fmt: skip


def _unread(claim: Claim, rules: Rules) -> tuple[str, ...]:
    """Devices it holds of which no reading is recent; none for a container too young to have been read."""
    if claim.started_at is not None and (rules.at - claim.started_at).total_seconds() < _UNREAD_SECONDS:
        return ()
    current = {
        use.gpu_uuid
        for use in claim.uses
        if use.seen_at is None or (rules.at - use.seen_at).total_seconds() < _UNREAD_SECONDS
    }
    current |= {rules.parents[uuid] for uuid in current if uuid in rules.parents}  # read in its MIG devices
    return tuple(uuid for uuid in claim.held if uuid not in current)


def _seen_quiet(use: GpuUse | None) -> bool:
    """It is known that nothing ran there, not only unknown that something did."""
    return use is not None and use.quiet_seconds > 0 and use.unknown_seconds <= use.quiet_seconds


def _used_in_parts(uuid: str, claim: Claim, rules: Rules) -> bool:
    """A GPU in MIG mode has no processes of its own: it is used when one of its devices is."""
    return any(
        rules.parents.get(use.gpu_uuid) == uuid and (use.last_used_at is not None or use.unasked_since is not None)
        for use in claim.uses
    )
