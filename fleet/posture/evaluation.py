"""The checks over one host's evidence: findings with what was observed, where, how bad it is here and why.

A predicate that meets missing data raises Unread, and that is "unknown": no check can pass on what nobody saw. A
failure that is only the consequence of another one on the same subject names it as its `cause`; count and show those
without a cause, and no root cause is counted twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

from fleet.posture import gpu, host, images, mounts, network, resources, runtime, secrets
from fleet.posture.catalogue import Check, Severity, SubjectKind, checks
from fleet.posture.container import Container, image_name
from fleet.posture.evidence import Evidence, Image
from fleet.posture.reading import safe
from fleet.posture.verdicts import Answer, Result, Unread, Verdict

ContainerPredicate = Callable[[Container, Evidence], Answer]

CONTAINER_CHECKS: dict[str, ContainerPredicate] = {
    **runtime.CHECKS, **network.CHECKS, **mounts.CHECKS, **gpu.CHECKS, **secrets.CHECKS, **resources.CHECKS,
    **images.CHECKS,
}  # fmt: skip
#: (kind of subject, check, what lists its subjects with their verdicts)
GROUP_CHECKS: tuple[tuple[SubjectKind, str, Callable[[Evidence], list[tuple[str, Verdict]]]], ...] = (
    ("network", "NET-05", network.shared_networks),
    ("storage", "MNT-05", mounts.shared_models),
    ("gpu", "GPU-07", gpu.shared_gpus),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One result of one check on one subject.

    (check, kind, subject, key) is its identity; it survives a recreated container. `severity` is the base moved by
    `modifiers`; for results other than fail it is the check's own. `cause`: the check whose failure explains this one.
    `details` is for secrets: rule, confidence, kind, place, origin, fingerprint.
    """

    check: str
    kind: SubjectKind
    subject: str
    result: Result
    severity: Severity
    base_severity: Severity
    observed: str = ""
    expected: str = ""
    path: str = ""
    why: str = ""
    key: str = ""
    cause: str = ""
    modifiers: tuple[str, ...] = ()
    state: str = ""
    tenant: str = ""
    container_id: str = ""
    version: int = 1
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> bool:
        """True for a failure that is its own root cause."""
        return self.result == "fail" and not self.cause


@dataclass(frozen=True, slots=True, kw_only=True)
class _Who:
    """The subject that checks are about, and its context (see Modifier)."""

    kind: SubjectKind
    subject: str
    context: frozenset[str] = frozenset()
    state: str = ""
    tenant: str = ""
    container_id: str = ""
    place: Callable[[str], str] | None = None


def evaluate(evidence: Evidence, *, include_low: bool = False) -> tuple[Finding, ...]:
    """Every check on every subject of one host; low and info checks only when asked for. Never raises on any JSON."""
    found: list[Finding] = []
    for one in evidence.containers:
        found += evaluate_container(evidence, one, include_low=include_low)
    found += evaluate_images(evidence, include_low=include_low)
    found += evaluate_groups(evidence, include_low=include_low)
    found += evaluate_host(evidence, include_low=include_low)
    return tuple(found)


def evaluate_container(evidence: Evidence, one: Container, *, include_low: bool = False) -> list[Finding]:
    """The findings of one container alone: what a change of it, or of its host's facts, asks for."""
    who = _Who(
        kind="container",
        subject=evidence.subject_of(one),
        context=_context(evidence, one),
        state=one.state,
        tenant=evidence.tenants.get(one.id, ""),
        container_id=one.id,
        place=one.place,
    )
    return explained(
        [
            finding
            for check, predicate in _wanted_containers(include_low)
            for finding in _findings(check, who, partial(predicate, one, evidence))
        ]
    )


def evaluate_images(evidence: Evidence, *, include_low: bool = False) -> list[Finding]:
    """The findings of all images: of each reference in use, and of each image's content once."""
    found: list[Finding] = []
    for name, image, running, content in _image_subjects(evidence):
        wanted = {**images.REFERENCE_CHECKS, **(images.CONTENT_CHECKS if content else {})}
        who = _Who(kind="image", subject=name, state="running" if running else "")
        own: list[Finding] = []
        for identity, predicate in wanted.items():
            check = checks()[identity]
            if include_low or check.in_short_list:
                own += _findings(check, who, partial(predicate, image, evidence))
        found += explained(own)
    return found


def evaluate_groups(evidence: Evidence, *, include_low: bool = False) -> list[Finding]:
    """The findings of what several containers share: networks, model folders, GPUs."""
    found: list[Finding] = []
    for kind, identity, subjects in GROUP_CHECKS:
        check = checks()[identity]
        if not (include_low or check.in_short_list):
            continue
        found += (_finding(check, _Who(kind=kind, subject=name), verdict) for name, verdict in subjects(evidence))
    return found


def evaluate_host(evidence: Evidence, *, include_low: bool = False) -> list[Finding]:
    """The findings of the host's engine; none when nothing of the host was given."""
    if evidence.info is None and evidence.version is None and not evidence.host:
        return []
    name = evidence.host or safe((evidence.info or {}).get("Name"), 120) or "host"
    who = _Who(kind="host", subject=name)
    found: list[Finding] = []
    for identity, predicate in host.CHECKS.items():
        check = checks()[identity]
        if include_low or check.in_short_list:
            found += _findings(check, who, partial(predicate, evidence))
    return found


def explained(findings: Sequence[Finding]) -> list[Finding]:
    """The findings of one subject, each failure that another check's failure explains naming it as its cause."""
    failing = {finding.check for finding in findings if finding.result == "fail"}
    causes: dict[str, str] = {}
    for identity, check in checks().items():
        if identity in failing:
            for other in check.explains:
                causes.setdefault(other, identity)
    return [
        replace(finding, cause=causes[finding.check])
        if finding.result == "fail" and not finding.cause and finding.check in causes
        else finding
        for finding in findings
    ]


@cache
def _wanted_containers(include_low: bool) -> tuple[tuple[Check, ContainerPredicate], ...]:
    return tuple(
        (check, CONTAINER_CHECKS[identity])
        for identity, check in checks().items()
        if identity in CONTAINER_CHECKS and (include_low or check.in_short_list)
    )


def _context(evidence: Evidence, one: Container) -> frozenset[str]:
    found: set[str] = set()
    if network.published(one):
        found.add("published")
    if (evidence.tenant_count or 0) > 1:
        found.add("tenants")
    if runtime.is_development(one):
        found.add("development")
    return frozenset(found)


def _findings(check: Check, who: _Who, ask: Callable[[], Answer]) -> Iterator[Finding]:
    try:
        answer = ask()
    except Unread as missing:
        answer = Verdict(result="unknown", path=missing.path, why=missing.why)
    for verdict in answer if isinstance(answer, list) else (answer,):
        yield _finding(check, who, verdict)


def _finding(check: Check, who: _Who, verdict: Verdict) -> Finding:
    base = check.severity if verdict.severity is None else verdict.severity
    modifiers, severity = _moved(base, check, who.context) if verdict.result == "fail" else ((), base)
    return Finding(
        check=check.id,
        kind=who.kind,
        subject=who.subject,
        result=verdict.result,
        severity=severity,
        base_severity=base,
        observed=verdict.observed,
        expected=check.expected,
        path=verdict.path if who.place is None else who.place(verdict.path),
        why=verdict.why,
        key=safe(verdict.key),
        cause=verdict.cause,
        modifiers=modifiers,
        state=who.state,
        tenant=who.tenant,
        container_id=who.container_id,
        version=check.version,
        details=verdict.details,
    )


def _moved(base: Severity, check: Check, context: Collection[str]) -> tuple[tuple[str, ...], Severity]:
    """The context's steps and the severity after them: at least low, at most critical; info is context and stays."""
    if base is Severity.INFO:
        return (), base
    applied = [name for name in check.raised_by if name in context]
    level = int(base)
    for name in applied:
        level += -1 if name == "development" else 1
    signs = tuple(f"{'-1' if name == 'development' else '+1'} {name}" for name in applied)
    return signs, Severity(min(max(level, Severity.LOW), Severity.CRITICAL))


def _image_subjects(evidence: Evidence) -> Iterable[tuple[str, Image, bool, bool]]:
    """(name, image, whether a running container uses it, whether its content is judged under this name)."""
    running: dict[str, bool] = {}
    known: dict[str, Image] = {}
    for one in evidence.containers:
        name = one.image_subject
        if not name:
            continue
        image = evidence.image_of(one)
        known.setdefault(name, _named(image, one.reference))
        running[name] = running.get(name, False) or one.state in {"running", ""}
    used = {image.id for image in known.values() if image.id}
    for image in evidence.images:
        if image.id not in used or not image.id:
            reference = image.reference or next(iter(image.tags), image.id)
            known.setdefault(image_name(reference) or "unnamed image", _named(image, reference))
    judged: set[str] = set()
    for name in sorted(known):
        image = known[name]
        yield name, image, running.get(name, False), not image.id or image.id not in judged
        judged.add(image.id)


def _named(image: Image | None, reference: str) -> Image:
    if image is None:
        return Image(None, None, reference=reference)
    return Image(image.inspect, image.history, reference=reference)
