"""The checks as data: what each one is called, how bad its failure is, why, and what to write instead."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Literal, cast, get_args

FOLDER = Path(__file__).parent.parent / "catalog" / "posture"
#: The order of files, and so of checks in every listing.
FILES = ("run", "net", "mnt", "gpu", "sec", "res", "img", "hst")
FAMILIES = frozenset("ABCDEFGHIJ")
SubjectKind = Literal["container", "image", "host", "network", "storage", "gpu"]
Modifier = Literal["published", "tenants", "development"]


class Severity(IntEnum):
    """How bad a failure is; sorts from context to worst."""

    INFO = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4

    @property
    def word(self) -> str:
        """The word for it, lower case."""
        return self.name.lower()


class CatalogueError(ValueError):
    """A check is described wrongly; says in which file, what was found, what to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check. `severity` is its base; `explains` names the checks whose failure it is the cause of."""

    id: str
    title: str
    severity: Severity
    subject: SubjectKind
    families: tuple[str, ...]
    expected: str
    rationale: str
    compose: str
    cli: str
    cis: tuple[str, ...] = ()
    ai: bool = False
    raised_by: tuple[Modifier, ...] = ()
    explains: tuple[str, ...] = ()
    version: int = 1

    @property
    def in_short_list(self) -> bool:
        """True for critical, high and medium checks; the others are behind a toggle."""
        return self.severity >= Severity.MEDIUM


def severity_named(word: str) -> Severity:
    """The severity of that name. Raises ValueError."""
    try:
        return Severity[word.upper()]
    except KeyError:
        names = ", ".join(one.word for one in sorted(Severity, reverse=True))
        raise ValueError(f"severity: found {word[:40]!r}; write one of {names}") from None


@cache
def checks() -> Mapping[str, Check]:
    """All checks by id, in listing order. Raises CatalogueError."""
    found: dict[str, Check] = {}
    for name in FILES:
        path = FOLDER / f"{name}.toml"
        found.update(checks_from(path.name, tomllib.loads(path.read_text(encoding="utf-8"))))
    for check in found.values():
        if lost := [other for other in check.explains if other not in found]:
            raise CatalogueError(f"{check.id}: explains {', '.join(lost)}, which are no checks")
    return found


def checks_from(where: str, document: Mapping[str, object]) -> dict[str, Check]:
    """The checks of one file's content. Raises CatalogueError."""
    found: dict[str, Check] = {}
    for identity, row in document.items():
        if not isinstance(row, dict):
            raise CatalogueError(f'{where}: {identity} is no table; write ["RUN-01"] above its keys')
        found[identity] = _check(f"{where}: {identity}", identity, cast("dict[str, object]", row))
    return found


def _check(where: str, identity: str, row: Mapping[str, object]) -> Check:
    known = {one.name for one in fields(Check)} - {"id"}
    if strange := sorted(set(row) - known):
        raise CatalogueError(f"{where}: found {strange[0]!r}; write one of {', '.join(sorted(known))}")
    subject = _text(where, row, "subject")
    if subject not in get_args(SubjectKind):
        raise CatalogueError(f"{where}.subject: found {subject!r}; write one of {', '.join(get_args(SubjectKind))}")
    raised_by = _texts(where, row, "raised_by")
    if strange := sorted(set(raised_by) - set(get_args(Modifier))):
        raise CatalogueError(f"{where}.raised_by: found {strange[0]!r}; write some of {', '.join(get_args(Modifier))}")
    families = _texts(where, row, "families")
    if not families or set(families) - FAMILIES:
        raise CatalogueError(f"{where}.families: found {list(families)}; write at least one letter from A to J")
    version = row.get("version", 1)
    if type(version) is not int or version < 1:
        raise CatalogueError(f"{where}.version: found {version!r}; write a whole number from 1")
    ai = row.get("ai", False)
    if not isinstance(ai, bool):
        raise CatalogueError(f"{where}.ai: found {ai!r}; write true or false")
    try:
        severity = severity_named(_text(where, row, "severity"))
    except ValueError as error:
        raise CatalogueError(f"{where}.{error}") from None
    return Check(
        id=identity,
        title=_text(where, row, "title"),
        severity=severity,
        subject=cast("SubjectKind", subject),
        families=families,
        expected=_text(where, row, "expected"),
        rationale=_text(where, row, "rationale"),
        compose=_text(where, row, "compose"),
        cli=_text(where, row, "cli"),
        cis=_texts(where, row, "cis"),
        ai=ai,
        raised_by=cast("tuple[Modifier, ...]", raised_by),
        explains=_texts(where, row, "explains"),
        version=version,
    )


def _text(where: str, row: Mapping[str, object], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value:
        raise CatalogueError(f"{where}.{key}: found {value!r}; write a text")
    return value


def _texts(where: str, row: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = row.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in cast("list[object]", value)):
        raise CatalogueError(f"{where}.{key}: found {value!r}; write a list of texts")
    return tuple(cast("list[str]", value))
