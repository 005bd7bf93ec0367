"""Metric profiles: what each inference server calls its numbers, as data that users can add to.

A profile file is TOML. Each field names a metric (and older or newer names), its type, the scale to our units, and
how several engines of one model combine. `load_profile` reports every mistake at once with file, field and fix.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Literal, cast

MetricType = Literal["counter", "gauge", "histogram"]
Combine = Literal["sum", "max"]

#: Columns of `inference_samples` that a profile can fill, with the only type that fits each.
SAMPLE_FIELDS: Mapping[str, MetricType] = {
    "requests": "counter",
    "errors": "counter",
    "prompt_tokens": "counter",
    "generation_tokens": "counter",
    "cached_tokens": "counter",
    "requests_waiting": "gauge",
    "requests_running": "gauge",
    "kv_cache_ratio": "gauge",
}
#: `histograms.field` values. Fields named `<name>_histogram` in a profile are stored as <name>: a column and a
#: distribution may share their name.
HISTOGRAM_FIELDS = frozenset(
    {"e2e_seconds", "ttft_seconds", "itl_seconds", "queue_seconds", "prompt_tokens", "generation_tokens"}
)

_METRIC = re.compile(r"^[a-zA-Z_:][a-zA-Z0-9_:]*$")
_LABEL = re.compile(r"^[a-zA-Z_][a-zA-Z0-9_]*$")
_ID = re.compile(r"^[a-z0-9][a-z0-9_-]*$")
_PROFILE_KEYS = frozenset({"id", "title", "source", "anchors", "labels", "fields"})
_FIELD_KEYS = frozenset({"metric", "aliases", "type", "scale", "match", "combine", "stored_as", "note"})


class ProfileError(ValueError):
    """A profile file that cannot be used. `mistakes`: one line each, with file, field and fix."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileField:
    """One number of ours and where it is found. `metrics` in order of preference; only the first found counts.

    scale: factor to our unit (s, bytes, ratio); for a histogram it applies to bounds and sum.
    match: label name -> whole-match pattern that a series must fit to count. combine: over engines and replicas.
    """

    name: str
    metrics: tuple[str, ...]
    type: MetricType
    scale: float = 1.0
    match: Mapping[str, str] = field(default_factory=dict[str, str])
    combine: Combine = "sum"
    note: str = ""

    @property
    def key(self) -> str:
        """Name among all fields of a profile: a column and a distribution may share theirs."""
        return f"{self.name} distribution" if self.type == "histogram" else self.name

    def accepts(self, labels: Mapping[str, str]) -> bool:
        """Whether a series with these labels counts for this field."""
        return all(re.fullmatch(pattern, labels.get(label, "")) for label, pattern in self.match.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One server dialect: it speaks on a target where one of `anchors` is found."""

    id: str
    title: str
    source: str
    anchors: tuple[str, ...]
    model_labels: tuple[str, ...]
    samples: tuple[ProfileField, ...]
    histograms: tuple[ProfileField, ...]

    def model(self, labels: Mapping[str, str]) -> str:
        """Model name among the labels of a series, "" when the server does not say."""
        return next((labels[label] for label in self.model_labels if labels.get(label)), "")


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


def builtin_profiles() -> tuple[Profile, ...]:
    """The profiles that come with the product, by id."""
    folder = resources.files("fleet") / "catalog" / "profiles"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return tuple(load_profile(file.read_text(encoding="utf-8"), origin=file.name) for file in files)


class _Reader:
    """Collects mistakes instead of stopping at the first."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.mistakes: list[str] = []

    def profile(self, document: Mapping[str, object]) -> Profile:
        for key in document.keys() - _PROFILE_KEYS:
            self.wrong(key, "is not known", f"use one of {', '.join(sorted(_PROFILE_KEYS))}")
        profile_id = self.text(document, "id", "id")
        if profile_id and not _ID.match(profile_id):
            self.wrong("id", f"is {profile_id!r}", "use small letters, digits, - and _")
        labels = self.table(document, "labels")
        fields = self.table(document, "fields")
        if not fields:
            self.wrong("fields", "is empty", "add a [fields.<name>] table for at least one number")
        samples: list[ProfileField] = []
        histograms: list[ProfileField] = []
        for name, content in fields.items():
            read = self.field(name, content)
            if read is not None:
                (histograms if read.type == "histogram" else samples).append(read)
        for label in labels.keys() - {"model"}:
            self.wrong(f"labels.{label}", "is not known", "only labels.model can be set")
        return Profile(
            id=profile_id,
            title=self.text(document, "title", "title"),
            source=self.text(document, "source", "source"),
            anchors=self.names(document, "anchors", "anchors", _METRIC, "a metric name", needed=True),
            model_labels=self.names(labels, "model", "labels.model", _LABEL, "a label name"),
            samples=tuple(samples),
            histograms=tuple(histograms),
        )

    def field(self, name: str, content: object) -> ProfileField | None:
        where = f"fields.{name}"
        if not isinstance(content, dict):
            self.wrong(where, f"is {content!r}", f"write a table [{where}] with metric and type")
            return None
        values = cast("dict[str, object]", content)
        before = len(self.mistakes)
        for key in values.keys() - _FIELD_KEYS:
            self.wrong(f"{where}.{key}", "is not known", f"use one of {', '.join(sorted(_FIELD_KEYS))}")
        kind = self.choice(values, "type", f"{where}.type", ("counter", "gauge", "histogram"), None)
        stored_as = self.text(values, "stored_as", f"{where}.stored_as", needed=False) or name
        self.check_place(where, stored_as, kind)
        metric = self.text(values, "metric", f"{where}.metric")
        if metric and not _METRIC.match(metric):
            self.wrong(f"{where}.metric", f"is {metric!r}", "write a metric name, labels go into match")
        aliases = self.names(values, "aliases", f"{where}.aliases", _METRIC, "a metric name")
        combine = self.choice(values, "combine", f"{where}.combine", ("sum", "max"), "sum")
        if combine == "max" and kind != "gauge":
            self.wrong(f"{where}.combine", f"is 'max' for a {kind}", "only gauges take the maximum; leave it out")
        scale = self.scale(values, f"{where}.scale")
        match = self.match(values, f"{where}.match")
        if len(self.mistakes) > before:
            return None
        return ProfileField(
            name=stored_as,
            metrics=(metric, *aliases),
            type=cast("MetricType", kind),
            scale=scale,
            match=match,
            combine=cast("Combine", combine),
            note=self.text(values, "note", f"{where}.note", needed=False),
        )

    def check_place(self, where: str, stored_as: str, kind: str) -> None:
        if kind == "histogram":
            if stored_as not in HISTOGRAM_FIELDS:
                known = ", ".join(sorted(HISTOGRAM_FIELDS))
                self.wrong(where, f"would be stored as {stored_as!r}", f"name it, or set stored_as to, one of {known}")
        elif kind and SAMPLE_FIELDS.get(stored_as) != kind:
            fits = ", ".join(sorted(name for name, wanted in SAMPLE_FIELDS.items() if wanted == kind))
            self.wrong(where, f"is a {kind} stored as {stored_as!r}", f"a {kind} can fill one of {fits}")

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

    def scale(self, values: Mapping[str, object], where: str) -> float:
        value = values.get("scale", 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            self.wrong(where, f"is {value!r}", "write a number above 0, like 0.001 for milliseconds")
            return 1.0
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
