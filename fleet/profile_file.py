"""Reads a profile file and reports every mistake at once, with file, field and fix."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from typing import Literal, cast

from fleet.profile import (
    HISTOGRAM_FIELDS,
    SUBJECTS,
    TABLE_FIELDS,
    Combine,
    MetricType,
    Profile,
    ProfileError,
    ProfileField,
    Role,
    Table,
)

_METRIC = re.compile(r"^[a-zA-Z_:][a-zA-Z0-9_:]*$")
_LABEL = re.compile(r"^[a-zA-Z_][a-zA-Z0-9_]*$")
_ID = re.compile(r"^[a-z0-9][a-z0-9_-]*$")
_PROFILE_KEYS = frozenset(
    {"id", "title", "source", "table", "role", "generic", "path", "anchors", "requires", "excludes", "labels"}
    | {"absent_values", "blank_from", "fields"}
)
_FIELD_KEYS = frozenset(
    {"metric", "aliases", "type", "scale", "match", "combine", "dedup", "count", "count_aliases", "divide_by", "label"}
    | {"weight", "stored_as", "note"}
)
_TYPES = ("counter", "gauge", "histogram", "mean", "info")


def load_profile(text: str, *, origin: str) -> Profile:
    """The profile written in `text`; `origin` is the file named in messages. Raises ProfileError with all mistakes."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError([f"{origin}: not TOML: {error}"]) from error
    reader = _Reader(origin)
    profile = reader.profile(document)
    if reader.mistakes:
        raise ProfileError(reader.mistakes)
    return profile


class _Reader:
    """Collects mistakes instead of stopping at the first."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.mistakes: list[str] = []

    def profile(self, document: Mapping[str, object]) -> Profile:
        for key in sorted(document.keys() - _PROFILE_KEYS):
            self.wrong(key, "is not known", f"use one of {', '.join(sorted(_PROFILE_KEYS))}")
        profile_id = self.text(document, "id", "id")
        if profile_id and not _ID.match(profile_id):
            self.wrong("id", f"is {profile_id!r}", "use small letters, digits, - and _")
        table = cast("Table", self.choice(document, "table", "table", tuple(TABLE_FIELDS), "inference") or "inference")
        fields = self.table(document, "fields")
        if not fields:
            self.wrong("fields", "is empty", "add a [fields.<name>] table for at least one number")
        samples: list[ProfileField] = []
        histograms: list[ProfileField] = []
        infos: list[ProfileField] = []
        for name, content in fields.items():
            read = self.field(name, content, table)
            if read is not None:
                (histograms if read.distributed else infos if read.type == "info" else samples).append(read)
        return Profile(
            id=profile_id,
            title=self.text(document, "title", "title"),
            source=self.text(document, "source", "source"),
            table=table,
            role=cast("Role", self.choice(document, "role", "role", ("server", "gateway"), "server") or "server"),
            generic=self.truth(document, "generic"),
            path=self.path(document),
            anchors=self.names(document, "anchors", "anchors", _METRIC, "a metric name", needed=True),
            requires=self.names(document, "requires", "requires", _METRIC, "a metric name"),
            excludes=self.names(document, "excludes", "excludes", _METRIC, "a metric name"),
            labels=self.labels(document, table),
            absent_values=self.names(document, "absent_values", "absent_values", re.compile(""), "a text"),
            blank_from=self.number(document, "blank_from", "blank_from", math.inf),
            samples=tuple(samples),
            histograms=tuple(histograms),
            infos=tuple(infos),
        )

    def labels(self, document: Mapping[str, object], table: Table) -> dict[str, tuple[str, ...]]:
        labels = self.table(document, "labels")
        allowed = SUBJECTS[table]
        for key in sorted(labels.keys() - allowed):
            self.wrong(f"labels.{key}", "is not known", f"for {table}, use one of {', '.join(sorted(allowed))}")
        return {
            key: self.names(labels, key, f"labels.{key}", _LABEL, "a label name") for key in labels if key in allowed
        }

    def path(self, document: Mapping[str, object]) -> str:
        path = self.text(document, "path", "path", needed=False) or "/metrics"
        if not path.startswith("/"):
            self.wrong("path", f"is {path!r}", 'write a path that begins with /, like "/metrics"')
        return path

    def field(self, name: str, content: object, table: Table) -> ProfileField | None:
        where = f"fields.{name}"
        if not isinstance(content, dict):
            self.wrong(where, f"is {content!r}", f"write a table [{where}] with metric and type")
            return None
        values = cast("dict[str, object]", content)
        before = len(self.mistakes)
        for key in sorted(values.keys() - _FIELD_KEYS):
            self.wrong(f"{where}.{key}", "is not known", f"use one of {', '.join(sorted(_FIELD_KEYS))}")
        kind = self.choice(values, "type", f"{where}.type", _TYPES, None)
        stored_as = self.text(values, "stored_as", f"{where}.stored_as", needed=False) or name
        self.check_place(where, stored_as, kind, table)
        metric = self.text(values, "metric", f"{where}.metric")
        if metric and not _METRIC.match(metric):
            self.wrong(f"{where}.metric", f"is {metric!r}", "write a metric name, labels go into match")
        aliases = self.names(values, "aliases", f"{where}.aliases", _METRIC, "a metric name")
        combine = self.choice(values, "combine", f"{where}.combine", ("sum", "max", "count"), "sum")
        if combine != "sum" and kind != "gauge":
            advice = "only gauges take the maximum or a count; leave it out"
            self.wrong(f"{where}.combine", f"is {combine!r} for a {kind}", advice)
        if values.get("dedup") and kind not in ("counter", "gauge"):
            self.wrong(
                f"{where}.dedup", f"is set for a {kind}", "only counters and gauges repeat by rank; leave it out"
            )
        weight = self.choice(values, "weight", f"{where}.weight", ("request", "token"), "request")
        read = ProfileField(
            name=stored_as,
            metrics=(metric, *aliases),
            type=cast("MetricType", kind or "gauge"),
            scale=self.number(values, "scale", f"{where}.scale", 1.0),
            match=self.match(values, f"{where}.match"),
            combine=cast("Combine", combine or "sum"),
            dedup=self.names(values, "dedup", f"{where}.dedup", _LABEL, "a label name"),
            counts=self.counts(values, where, kind, 1 + len(aliases)),
            divide_by=self.only_for(values, "divide_by", where, kind, "gauge", _METRIC, "a metric name"),
            label=self.only_for(values, "label", where, kind, "info", _LABEL, "a label name"),
            weight=cast('Literal["request", "token"]', weight or "request"),
            note=self.text(values, "note", f"{where}.note", needed=False),
        )
        if kind == "info" and not read.label:
            self.wrong(f"{where}.label", "is missing", "name the label whose value is the fact")
        return read if len(self.mistakes) == before else None

    def counts(self, values: Mapping[str, object], where: str, kind: str, wanted: int) -> tuple[str, ...]:
        """The counters of how many, of a mean: one for each of its metrics."""
        first = self.text(values, "count", f"{where}.count", needed=kind == "mean")
        more = self.names(values, "count_aliases", f"{where}.count_aliases", _METRIC, "a metric name")
        if kind != "mean":
            if first or more:
                self.wrong(f"{where}.count", f"is set for a {kind}", 'only type = "mean" has a count; leave it out')
            return ()
        if first and not _METRIC.match(first):
            self.wrong(f"{where}.count", f"is {first!r}", "write a metric name")
        if len(more) + 1 != wanted:
            self.wrong(f"{where}.count_aliases", f"has {len(more)} names", f"write {wanted - 1}, one for each alias")
        return (first, *more)

    def only_for(
        self, values: Mapping[str, object], key: str, where: str, kind: str, fits: str, pattern: re.Pattern[str],
        what: str,
    ) -> str:  # fmt: skip
        found = self.text(values, key, f"{where}.{key}", needed=False)
        if found and kind != fits:
            self.wrong(f"{where}.{key}", f"is set for a {kind}", f'only type = "{fits}" takes it; leave it out')
        elif found and not pattern.match(found):
            self.wrong(f"{where}.{key}", f"is {found!r}", f"write {what}")
        return found

    def check_place(self, where: str, stored_as: str, kind: str, table: Table) -> None:
        fields = TABLE_FIELDS[table]
        if kind in ("histogram", "mean"):
            if table != "inference":
                self.wrong(where, f"is a {kind}", f"{table} profiles hold counters, gauges and infos")
            elif stored_as not in HISTOGRAM_FIELDS:
                known = ", ".join(sorted(HISTOGRAM_FIELDS))
                self.wrong(where, f"would be stored as {stored_as!r}", f"name it, or set stored_as to, one of {known}")
        elif kind and fields.get(stored_as) != kind:
            fits = ", ".join(sorted(name for name, wanted in fields.items() if wanted == kind)) or "nothing"
            self.wrong(where, f"is a {kind} stored as {stored_as!r}", f"a {kind} can fill one of {fits}")

    def truth(self, values: Mapping[str, object], key: str) -> bool:
        value = values.get(key, False)
        if not isinstance(value, bool):
            self.wrong(key, f"is {value!r}", "write true or false")
            return False
        return value

    def text(self, values: Mapping[str, object], key: str, where: str, *, needed: bool = True) -> str:
        value = values.get(key, "")
        if not isinstance(value, str):
            self.wrong(where, f"is {value!r}", "write a text in quotes")
            return ""
        if needed and not value:
            self.wrong(where, "is missing" if key not in values else "is empty", f'write {key} = "..."')
        return value

    def table(self, values: Mapping[str, object], key: str) -> dict[str, object]:
        value = values.get(key, {})
        if not isinstance(value, dict):
            self.wrong(key, f"is {value!r}", f"write a table [{key}]")
            return {}
        return cast("dict[str, object]", value)

    def names(
        self,
        values: Mapping[str, object],
        key: str,
        where: str,
        pattern: re.Pattern[str],
        what: str,
        *,
        needed: bool = False,
    ) -> tuple[str, ...]:
        value = values.get(key, [])
        if not isinstance(value, list):
            self.wrong(where, f"is {value!r}", f'write a list, like {key} = ["..."]')
            return ()
        names = cast("list[object]", value)
        if needed and not names:
            self.wrong(where, "is missing or empty", f"name at least one: {what}")
        for name in names:
            if not isinstance(name, str) or not pattern.match(name):
                self.wrong(where, f"holds {name!r}", f"write {what}")
        return tuple(str(name) for name in names)

    def choice(
        self, values: Mapping[str, object], key: str, where: str, allowed: tuple[str, ...], default: str | None
    ) -> str:
        value = values.get(key, default)
        if value not in allowed:
            self.wrong(where, "is missing" if value is None else f"is {value!r}", f"write one of {', '.join(allowed)}")
            return ""
        return str(value)

    def number(self, values: Mapping[str, object], key: str, where: str, default: float) -> float:
        value = values.get(key, default)
        if key not in values:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            example = "like 0.001 for milliseconds" if key == "scale" else "like 9.2e18"
            self.wrong(where, f"is {value!r}", f"write a number above 0, {example}")
            return default
        return float(value)

    def match(self, values: Mapping[str, object], where: str) -> dict[str, str]:
        value = values.get("match", {})
        if not isinstance(value, dict):
            self.wrong(where, f"is {value!r}", 'write a table, like match = { code = "5.." }')
            return {}
        match: dict[str, str] = {}
        for label, text in cast("dict[str, object]", value).items():
            if not _LABEL.match(label) or not isinstance(text, str):
                self.wrong(f"{where}.{label}", f"is {text!r}", "write a label name and a pattern in quotes")
                continue
            try:
                re.compile(text)
            except re.error as error:
                self.wrong(f"{where}.{label}", f"is {text!r}, no regular expression ({error})", "mend the pattern")
                continue
            match[label] = text
        return match

    def wrong(self, where: str, found: str, fix: str) -> None:
        self.mistakes.append(f"{self.origin}: {where} {found}; {fix}")
