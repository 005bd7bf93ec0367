"""What the metric profiles read out of one exposition text: values, units, what is missing, what nobody reads."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fleet.exposition import Exposition, RefusedLine, Sample
from fleet.latency import Quantile, quantile_from_buckets
from fleet.profile import Profile, ProfileField
from fleet.profiles import detection_names, speaking

_RUNTIME = ("python_", "process_", "go_", "promhttp_", "scrape_", "up", "jvm_", "nodejs_")
_ENDS = ("_bucket", "_sum", "_count", "_total", "_created", "_info", "_max", "_min")
Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldReading:
    """One field on one text. `value` is None when it was not found, `why` then says why not.

    value: of a counter its total so far, of a gauge its present value, of a distribution its mean; `unit` is ours.
    count: observations of a distribution; p95: with its interval, None where only a mean can be told.
    """

    name: str
    type: str
    metric: str = ""
    series: int = 0
    value: float | None = None
    unit: str = ""
    count: float | None = None
    p95: Quantile | None = None
    text: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileReading:
    """One profile that speaks on the text."""

    profile: Profile
    models: tuple[str, ...]
    tenants: tuple[str, ...]
    fields: tuple[FieldReading, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The whole text. unmapped: metric name -> why nothing reads it."""

    lines: int
    samples: int
    matched: tuple[ProfileReading, ...]
    unmapped: Mapping[str, str]
    refused: tuple[RefusedLine, ...]


def check_exposition(lines: Iterable[str], profiles: Sequence[Profile]) -> Check:
    """Which profiles match a text and what each of their fields reads. Keeps only series that some profile reads."""
    wanted = {name for one in profiles for read in one.fields for name in read.series_names()}
    wanted |= set(detection_names(profiles))
    text = Exposition()
    names: dict[str, int] = defaultdict(int)
    kept: dict[str, list[Sample]] = defaultdict(list)
    total = 0
    for sample in text.samples(lines):
        total += 1
        names[sample.name] += 1
        if sample.name in wanted:
            kept[sample.name].append(sample)
    matched = speaking(profiles, names)
    readings = tuple(_reading(profile, kept, text.types) for profile in matched)
    mapped = {name for one in matched for read in one.fields for name in read.series_names()}
    # The count of a histogram is its +Inf bucket.
    mapped |= {
        f"{metric}_count"
        for one in matched
        for read in one.fields
        if read.type == "histogram"
        for metric in read.metrics
    }
    mapped |= set(detection_names(matched))
    unmapped = {name: _why_unmapped(name, names, matched) for name in sorted(names) if name not in mapped}
    return Check(lines=text.lines, samples=total, matched=readings, unmapped=unmapped, refused=tuple(text.refused))


def unit_of(name: str) -> str:
    """Unit of one of our fields, by its name."""
    for end, unit in (("_seconds", "s"), ("_ratio", "0-1"), ("_bytes", "B"), ("_watts", "W"), ("_joules", "J"),
                      ("_celsius", "°C"), ("_mhz", "MHz"), ("_tokens", "tokens"), ("_cores", "cores")):  # fmt: skip
        if name.endswith(end):
            return unit
    return "requests" if name.startswith(("requests", "errors")) else ""


def _reading(profile: Profile, kept: Mapping[str, Sequence[Sample]], types: Mapping[str, str]) -> ProfileReading:
    models: set[str] = set()
    tenants: set[str] = set()
    fields: list[FieldReading] = []
    for wanted in profile.fields:
        for name in wanted.series_names():
            for sample in kept.get(name, ()):
                models.add(profile.model(sample.labels))
                tenants.add(profile.said("tenant", sample.labels))
        fields.append(_field(profile, wanted, kept, types))
    return ProfileReading(
        profile=profile,
        models=tuple(sorted(models - {""})),
        tenants=tuple(sorted(tenants - {""})),
        fields=tuple(fields),
    )


def _field(
    profile: Profile, wanted: ProfileField, kept: Mapping[str, Sequence[Sample]], types: Mapping[str, str]
) -> FieldReading:
    end = "_bucket" if wanted.type == "histogram" else ""
    place = next((place for place, metric in enumerate(wanted.metrics) if kept.get(metric + end)), None)
    base = FieldReading(name=wanted.name, type=wanted.type, unit=unit_of(wanted.name))
    if place is None:
        return _missing(base, wanted, types)
    metric = wanted.metrics[place]
    samples = [sample for sample in kept[metric + end] if wanted.accepts(sample.labels)]
    found = FieldReading(
        name=base.name, type=base.type, unit=base.unit, metric=metric, series=len(samples),
    )  # fmt: skip
    if wanted.type == "histogram":
        return _distribution(found, wanted, samples, kept.get(f"{metric}_sum", ()))
    if wanted.type == "mean":
        counts = [s for s in kept.get(wanted.counts[place], ()) if wanted.accepts(s.labels)]
        return _mean(found, wanted, samples, counts)
    if wanted.type == "info":
        texts = sorted({sample.labels.get(wanted.label, "") for sample in samples} - {""})
        why = "" if texts else f"label {wanted.label} is empty"
        return _with(found, text=", ".join(texts[:3]), why=why)
    if not samples and wanted.type == "counter":
        # There without the labels asked for: it was never raised.
        return _with(found, value=0.0)
    known = [s for s in samples if math.isfinite(s.value) and s.value < profile.blank_from]
    if not known:
        return _with(
            found, why="no series fits " + _pattern_words(wanted) if not samples else "the value is blank or NaN"
        )
    value = _combined(wanted, known) * wanted.scale
    if wanted.divide_by:
        below = math.fsum(s.value for s in kept.get(wanted.divide_by, ()) if math.isfinite(s.value))
        if below <= 0:
            return _with(found, why=f"{wanted.divide_by} is missing or 0")
        value /= below
    return _with(found, value=value)


def _combined(wanted: ProfileField, samples: Sequence[Sample]) -> float:
    """Ranks that repeat one value count once, then engines and replicas combine."""
    if wanted.combine == "count":
        return float(len(samples))
    groups: dict[Labels, float] = {}
    for sample in samples:
        key = frozenset((name, text) for name, text in sample.labels.items() if name not in wanted.dedup)
        groups[key] = max(groups.get(key, -math.inf), sample.value)
    return max(groups.values()) if wanted.combine == "max" else math.fsum(groups.values())


def _distribution(
    found: FieldReading, wanted: ProfileField, samples: Sequence[Sample], sums: Sequence[Sample]
) -> FieldReading:
    ladders: dict[Labels, dict[float, float]] = defaultdict(dict)
    for sample in samples:
        try:
            bound = float(sample.labels.get("le", ""))
        except ValueError:
            return _with(found, why=f"a bucket bound is {sample.labels.get('le', '')!r}, no number")
        ladders[_without_le(sample.labels)][bound] = sample.value
    by_bounds: dict[tuple[float, ...], list[float]] = {}
    for ladder in ladders.values():
        bounds = tuple(sorted(ladder))
        if not bounds or bounds[-1] != math.inf:
            return _with(found, why="no +Inf bucket")
        counts = [ladder[bound] for bound in bounds]
        steps = [after - before for before, after in zip([0.0, *counts], counts, strict=False)]
        if any(not step >= 0 for step in steps):
            return _with(found, why="bucket counts fall from one bound to the next, or are no numbers")
        merged = by_bounds.setdefault(bounds, [0.0] * len(bounds))
        by_bounds[bounds] = [one + more for one, more in zip(merged, steps, strict=True)]
    count = math.fsum(math.fsum(steps) for steps in by_bounds.values())
    total = math.fsum(s.value for s in sums if wanted.accepts(s.labels) and math.isfinite(s.value)) * wanted.scale
    mean = total / count if count and sums else None
    p95 = None
    why = "" if count else "no traffic"
    if len(by_bounds) == 1:
        [(bounds, steps)] = by_bounds.items()
        p95 = quantile_from_buckets([bound * wanted.scale for bound in bounds], steps, 0.95)
    elif by_bounds:
        why = f"{len(by_bounds)} different bucket ladders: each container by itself, never added"
    return _with(found, value=mean, count=count, p95=p95, why=why)


def _mean(found: FieldReading, wanted: ProfileField, sums: Sequence[Sample], counts: Sequence[Sample]) -> FieldReading:
    count = math.fsum(s.value for s in counts if math.isfinite(s.value))
    total = math.fsum(s.value for s in sums if math.isfinite(s.value)) * wanted.scale
    if not counts:
        return _with(found, why="its count is not exposed")
    return _with(found, value=total / count if count else None, count=count, why="" if count else "no traffic")


def _missing(base: FieldReading, wanted: ProfileField, types: Mapping[str, str]) -> FieldReading:
    for metric in wanted.metrics:
        kind = types.get(metric) or types.get(metric.removesuffix("_total"))
        if kind == "summary" and wanted.type == "histogram":
            return _with(base, metric=metric, why=f"{metric} is a summary here: its quantiles cannot be added up")
        if kind:
            return _with(base, metric=metric, why=f"{metric} is declared, but has no series yet")
    return _with(base, why=f"not exposed: {' or '.join(wanted.metrics)}")


def _with(reading: FieldReading, **changes: object) -> FieldReading:
    values = {name: getattr(reading, name) for name in FieldReading.__slots__}
    return FieldReading(**{**values, **changes})  # type: ignore[arg-type]


def _without_le(labels: Mapping[str, str]) -> Labels:
    return frozenset((name, text) for name, text in labels.items() if name != "le")


def _pattern_words(wanted: ProfileField) -> str:
    return ", ".join(f'{label}=~"{pattern}"' for label, pattern in wanted.match.items())


def _why_unmapped(name: str, names: Mapping[str, int], matched: Sequence[Profile]) -> str:
    if name.endswith("_created"):
        return "the time a series began"
    if name.startswith(_RUNTIME):
        return "the process's own runtime"
    base = name
    for end in _ENDS:
        base = base.removesuffix(end)
    read = {metric for one in matched for wanted in one.fields for metric in wanted.series_names()}
    if any(other.startswith(base) for other in read if base):
        return "another form of a metric that is read"
    if not matched:
        return "no profile speaks here"
    return f"no field for it in {', '.join(one.id for one in matched)}"
