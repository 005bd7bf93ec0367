"""Series of one poll, sorted by target, model and field of a profile; nothing is counted here yet."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from collectors.prometheus_increments import Buckets
from collectors.prometheus_targets import Sample, Target, TargetIndex
from fleet.profiles import Profile, ProfileField

#: Model names come from the scraped server: no longer, and no more of them, than anybody would name on purpose.
MODEL_LENGTH = 256
MODELS_PER_TARGET = 200
#: Field of a query that failed -> why.
Failures = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class HistogramSeries:
    """One histogram of one engine, with its sum if exposed."""

    series: Hashable
    buckets: Buckets
    sum_series: Hashable | None
    sum_value: float | None


@dataclass(slots=True)
class TargetReading:
    """What one target exposes of one profile. Counters and gauges by field and model, problems by field."""

    target: Target
    profile: Profile
    models: set[str] = field(default_factory=set[str])
    counters: dict[str, dict[str, list[tuple[Hashable, float]]]] = field(default_factory=dict)
    gauges: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    histograms: dict[str, dict[str, list[HistogramSeries]]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict[str, str])

    def counted_values(self) -> Iterator[tuple[Hashable, float]]:
        """Every counter, by series."""
        for by_model in self.counters.values():
            for pairs in by_model.values():
                yield from pairs

    def counted_histograms(self) -> Iterator[tuple[Hashable, Buckets]]:
        """Every histogram, by series."""
        for by_model in self.histograms.values():
            for found in by_model.values():
                for histogram in found:
                    yield histogram.series, histogram.buckets


def query_of(wanted: ProfileField) -> str:
    """The instant query that reads one field for the whole fleet: raw series, no rate, no sum.

    Increments must be taken per series before anything is added: sums of counters hide restarts.
    """
    names = wanted.metrics
    if wanted.type == "histogram":
        names = tuple(f"{name}{end}" for name in names for end in ("_bucket", "_sum"))
    return selector(names)


def selector(names: Sequence[str]) -> str:
    """A selector of all these metrics."""
    return names[0] if len(names) == 1 else f'{{__name__=~"{"|".join(names)}"}}'


def queries_of(profile: Profile) -> dict[str, list[ProfileField]]:
    """Queries of a profile with the fields each one answers; fields over one metric share its query."""
    queries: defaultdict[str, list[ProfileField]] = defaultdict(list)
    for wanted in (*profile.samples, *profile.histograms):
        queries[query_of(wanted)].append(wanted)
    return dict(queries)


def sort_vector(
    readings: dict[Hashable, TargetReading],
    profile: Profile,
    fields: Sequence[ProfileField],
    vector: Sequence[Sample],
    targets: TargetIndex,
) -> None:
    """File the answer to one query into the readings of this profile, by target key; `fields` are those it is for."""
    # By identity of the target first: its key holds all its labels, and hashing them for every series costs as much
    # as all the rest here.
    by_target: dict[int, tuple[Target, dict[str, list[Sample]]]] = {}
    for sample in vector:
        labels = sample[0]
        target = targets.find(labels)
        found = by_target.get(id(target))
        if found is None:
            found = by_target[id(target)] = (target, {})
        name = labels.get("__name__", "")
        same = found[1].get(name)
        if same is None:
            found[1][name] = [sample]
        else:
            same.append(sample)
    for target, by_metric in by_target.values():
        reading = readings.get(target.key)
        if reading is None:
            reading = readings[target.key] = TargetReading(target=target, profile=profile)
        for wanted in fields:
            _take(reading, wanted, by_metric)


def _take(reading: TargetReading, wanted: ProfileField, by_metric: Mapping[str, list[Sample]]) -> None:
    """File the series of the first metric name that this target exposes."""
    ends = ("_bucket", "_sum") if wanted.type == "histogram" else ("",)
    metric = next((name for name in wanted.metrics if name + ends[0] in by_metric), None)
    if metric is None:
        return
    samples = [sample for end in ends for sample in by_metric.get(metric + end, ())]
    if wanted.type == "histogram":
        _take_histograms(reading, wanted, metric, samples)
    else:
        _take_numbers(reading, wanted, samples)


def _take_numbers(reading: TargetReading, wanted: ProfileField, samples: Iterable[Sample]) -> None:
    counters = reading.counters.setdefault(wanted.name, {}) if wanted.type == "counter" else {}
    gauges = reading.gauges.setdefault(wanted.name, {}) if wanted.type == "gauge" else {}
    for labels, value in samples:
        model = reading.profile.model(labels)[:MODEL_LENGTH]
        reading.models.add(model)
        if not math.isfinite(value):
            reading.problems[wanted.key] = f"{wanted.name} is {value}"
            continue
        accepted = not wanted.match or wanted.accepts(labels)
        if wanted.type == "gauge":
            if accepted:
                gauges.setdefault(model, []).append(value * wanted.scale)
            continue
        # A metric that is there without the labels asked for counts as 0: it was never raised.
        pairs = counters.setdefault(model, [])
        if accepted:
            pairs.append(((wanted.name, frozenset(labels.items())), value))


def _take_histograms(reading: TargetReading, wanted: ProfileField, metric: str, samples: Iterable[Sample]) -> None:
    bucket_name = f"{metric}_bucket"
    buckets: defaultdict[frozenset[tuple[str, str]], list[tuple[float, float]]] = defaultdict(list)
    sums: dict[frozenset[tuple[str, str]], float] = {}
    models: dict[frozenset[tuple[str, str]], str] = {}
    for all_labels, value in samples:
        if wanted.match and not wanted.accepts(all_labels):
            continue
        labels = all_labels.copy()
        name, bound_text = labels.pop("__name__", ""), labels.pop("le", "")
        rest = frozenset(labels.items())
        if name != bucket_name:
            sums[rest] = value
            continue
        try:
            bound = float(bound_text)
        except ValueError:
            bound = math.nan
        buckets[rest].append((bound, value))
        if rest not in models:
            models[rest] = reading.profile.model(labels)[:MODEL_LENGTH]
    by_model = reading.histograms.setdefault(wanted.name, {})
    for rest, pairs in buckets.items():
        reading.models.add(models[rest])
        pairs.sort()
        problem = _fault(pairs)
        if problem:
            reading.problems[wanted.key] = f"{wanted.name}: {problem}"
            continue
        total = sums.get(rest)
        base = (wanted.name, bucket_name, rest)
        by_model.setdefault(models[rest], []).append(
            HistogramSeries(
                series=base,
                buckets=Buckets(tuple(bound * wanted.scale for bound, _ in pairs), tuple(count for _, count in pairs)),
                sum_series=(base, "sum") if total is not None and math.isfinite(total) else None,
                sum_value=total * wanted.scale if total is not None and math.isfinite(total) else None,
            )
        )


def _fault(pairs: Sequence[tuple[float, float]]) -> str:
    """What is wrong with sorted (bound, cumulative count) pairs, "" when nothing is."""
    if any(math.isnan(bound) for bound, _ in pairs):
        return "a bucket bound is not a number"
    if pairs[-1][0] != math.inf:
        return "no +Inf bucket"
    last_bound, last_count = -math.inf, 0.0
    for bound, count in pairs:
        if not count >= last_count:  # also when it is NaN
            return "bucket counts are no numbers, or fall from one bound to the next"
        if bound == last_bound:
            return "a bucket bound is there twice"
        last_bound, last_count = bound, count
    return "" if math.isfinite(last_count) else "a bucket count is infinite"
