"""Findings as text for a person, JSON for a program, SARIF 2.1.0 for a code scanner.

Everything from a stranger's container was made inert where it was read; nothing here sees the original JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from fleet.posture.catalogue import Check, Severity, checks
from fleet.posture.evaluation import Finding

_LEVELS = {
    Severity.CRITICAL: "error", Severity.HIGH: "error", Severity.MEDIUM: "warning", Severity.LOW: "note",
    Severity.INFO: "note",
}  # fmt: skip
#: GitHub sorts by this number; the scale is CVSS's.
_SECURITY_SEVERITY = {
    Severity.CRITICAL: "9.5", Severity.HIGH: "8.0", Severity.MEDIUM: "5.5", Severity.LOW: "2.0", Severity.INFO: "0.0",
}  # fmt: skip


def coverage(findings: Sequence[Finding]) -> tuple[int, int]:
    """(known, applicable): how many of the (subject, check) pairs that apply got an answer."""
    results: dict[tuple[str, str, str], set[str]] = {}
    for one in findings:
        if one.result != "not_applicable":
            results.setdefault((one.kind, one.subject, one.check), set()).add(one.result)
    return sum(found != {"unknown"} for found in results.values()), len(results)


def as_json(findings: Sequence[Finding]) -> str:
    """A list with one object a result: subject, check, severity, result, observed, expected, path, remedy, and more."""
    return json.dumps([_row(one) for one in findings], indent=1, ensure_ascii=False) + "\n"


def _row(one: Finding) -> dict[str, object]:
    check = checks()[one.check]
    return {
        "subject": f"{one.kind}/{one.subject}",
        "check": one.check,
        "severity": one.severity.word,
        "result": one.result,
        "observed": one.observed,
        "expected": one.expected,
        "path": one.path,
        "remedy": {"compose": check.compose, "cli": check.cli},
        "title": check.title,
        "why": one.why,
        "key": one.key,
        "cause": one.cause,
        "base_severity": one.base_severity.word,
        "modifiers": list(one.modifiers),
        "state": one.state,
        "cis": list(check.cis),
        "version": one.version,
        "details": dict(one.details),
    }


def listing() -> str:
    """The catalogue, one line a check: id, severity, subject, CIS numbers, title."""
    rows = [
        f"{one.id:8}{one.severity.word:10}{one.subject:11}{', '.join(one.cis):12}{one.title}{'  (AI)' * one.ai}"
        for one in checks().values()
    ]
    return "\n".join(rows) + "\n"


def as_text(findings: Sequence[Finding]) -> str:
    """Failures by subject, worst first, then what is unknown, then the sums."""
    lines: list[str] = []
    subjects: dict[tuple[str, str], list[Finding]] = {}
    for one in findings:
        subjects.setdefault((one.kind, one.subject), []).append(one)
    for (kind, subject), own in subjects.items():
        failing = sorted((one for one in own if one.counts), key=lambda one: -one.severity)
        unknown = sorted({one.check for one in own if one.result == "unknown"})
        if not failing and not unknown:
            continue
        lines += ["", f"{kind} {subject}"]
        for one in failing:
            check = checks()[one.check]
            moved = f" ({', '.join(one.modifiers)})" if one.modifiers else ""
            lines.append(f"  {one.severity.word:9}{one.check:8}{check.title}{moved}")
            lines.append(f"           found {one.observed} at {one.path}{f'; {one.why}' if one.why else ''}")
            lines.append(f"           write {check.cli if one.kind != 'container' else check.compose}")
        if unknown:
            lines.append(f"  unknown  {', '.join(unknown)}")
    counted = Counter(one.severity for one in findings if one.counts)
    known, applicable = coverage(findings)
    sums = ", ".join(f"{counted[level]} {level.word}" for level in sorted(Severity, reverse=True) if counted[level])
    share = f"{known / applicable:.0%}" if applicable else "none"
    lines += ["", f"{sums or 'nothing'} found; answered {known} of {applicable} questions ({share})", ""]
    return "\n".join(lines).lstrip("\n")


def as_sarif(findings: Sequence[Finding], *, files: Mapping[str, str], version: str) -> str:
    """A SARIF 2.1.0 log of the failures and, as kind "open", of what is unknown. `files`: subject -> input file.

    A failure that another one explains is left out, as everywhere.
    """
    listed = list(checks().values())
    index = {check.id: number for number, check in enumerate(listed)}
    shown = [one for one in findings if one.counts or one.result == "unknown"]
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "AI Fleet posture",
                        "semanticVersion": version,
                        "rules": [_rule(check) for check in listed],
                    }
                },
                "results": [_result(one, index[one.check], files) for one in shown],
            }
        ],
    }
    return json.dumps(log, indent=1, ensure_ascii=False) + "\n"


def _rule(check: Check) -> dict[str, object]:
    help_text = f"{check.rationale}\nExpected: {check.expected}.\nCompose: {check.compose}\nCommand line: {check.cli}"
    tags = ["security", *(f"CIS-Docker-1.6/{number}" for number in check.cis), *(["ai"] if check.ai else [])]
    return {
        "id": check.id,
        "name": check.title,
        "shortDescription": {"text": check.title},
        "fullDescription": {"text": check.rationale},
        "help": {"text": help_text},
        "defaultConfiguration": {"level": _LEVELS[check.severity]},
        "properties": {"security-severity": _SECURITY_SEVERITY[check.severity], "tags": tags},
    }


def _result(one: Finding, rule: int, files: Mapping[str, str]) -> dict[str, object]:
    subject = f"{one.kind}/{one.subject}"
    what = f"found {one.observed}" if one.result == "fail" else f"unknown: {one.why}"
    identity = hashlib.sha256("\0".join((one.check, subject, one.key)).encode("utf-8", "replace")).hexdigest()[:32]
    return {
        "ruleId": one.check,
        "ruleIndex": rule,
        "kind": "fail" if one.result == "fail" else "open",
        "level": _LEVELS[one.severity] if one.result == "fail" else "none",
        "message": {"text": f"{subject}: {checks()[one.check].title}; {what}; expected {one.expected}"},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": quote(files.get(subject, "unknown"))}},
                "logicalLocations": [{"fullyQualifiedName": f"{subject}.{one.path}" if one.path else subject}],
            }
        ],
        "partialFingerprints": {"identity/v1": identity},
        "properties": {"severity": one.severity.word, "modifiers": list(one.modifiers)},
    }
