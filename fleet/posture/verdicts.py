"""What a predicate says about one subject, and the error that makes missing data unknown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fleet.posture.catalogue import Severity

Result = Literal["pass", "fail", "unknown", "not_applicable"]


class Unread(Exception):  # noqa: N818  no mistake: it says that a fact is not there
    """A fact that a check needs is missing or of a wrong shape. Never holds the value that was found."""

    def __init__(self, path: str, why: str = "not in the data") -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One answer. `key` tells several failures of one check on one subject apart (a mount, a variable's name).

    `severity` None means the check's own; `cause` is the id of the check that this failure is a consequence of.
    """

    result: Result
    observed: str = ""
    path: str = ""
    why: str = ""
    severity: Severity | None = None
    key: str = ""
    cause: str = ""
    details: Mapping[str, str] = field(default_factory=dict)


Answer = Verdict | list[Verdict]


def passed(observed: str, path: str) -> Verdict:
    """The control holds, and that was seen."""
    return Verdict(result="pass", observed=observed, path=path)


def failed(
    observed: str, path: str, *, severity: Severity | None = None, key: str = "", cause: str = "", why: str = ""
) -> Verdict:
    """The control does not hold."""
    return Verdict(result="fail", observed=observed, path=path, severity=severity, key=key, cause=cause, why=why)


def unknown(path: str, why: str, observed: str = "") -> Verdict:
    """It could not be seen whether the control holds."""
    return Verdict(result="unknown", observed=observed, path=path, why=why)


def not_applicable(why: str, path: str = "", observed: str = "") -> Verdict:
    """The control makes no sense for this subject."""
    return Verdict(result="not_applicable", observed=observed, path=path, why=why)


def judged(good: bool, observed: str, path: str) -> Verdict:
    """Pass when `good`, fail otherwise."""
    return passed(observed, path) if good else failed(observed, path)
