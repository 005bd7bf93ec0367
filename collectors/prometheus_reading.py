"""Series of one poll, filed by target, dialect, model, tenant and field; nothing is counted here yet."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from collectors.prometheus_dialects import PROCESS_START, FieldQuery
from collectors.prometheus_increments import Buckets
from collectors.prometheus_ladders import Ladder, bounds_of, fault, ladders_of
from collectors.prometheus_subjects import NAME_LENGTH, Subject, TenantOf, as_said, facts_of, subject_of
from collectors.prometheus_targets import Sample, Target, TargetIndex
from fleet.profiles import Profile, ProfileField

#: Models, tenants, GPUs and containers are named by the scraped server: no more of them than anybody would have.
SUBJECTS_PER_TARGET = {"server": 200, "gateway": 2000}
DEVICES_PER_TARGET = 20_000
#: (profile id, key of a field) of a query that failed -> why.
Failures = Mapping[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class CounterSeries:
    """One counter. `rank_of`: equal for series that repeat one count, None where none do."""

    series: Hashable
    value: float
    rank_of: Hashable | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistogramSeries:
    """One histogram of one engine, with its sum if exposed. That of a mean has the one bound +Inf."""

    series: Hashable
    buckets: Buckets
    sum_series: Hashable | None
    sum_value: float | None


@dataclass(slots=True)
class TargetReading:
    """What one target exposes of one dialect, by field and subject; problems by field.

    Gauges are combined and in our unit; counters and sums are as exposed, by series.
    """

    target: Target
    profile: Profile
    subjects: set[Subject] = field(default_factory=set[Subject])
    counters: dict[str, dict[Subject, list[CounterSeries]]] = field(default_factory=dict)
    gauges: dict[str, dict[Subject, float]] = field(default_factory=dict)
    histograms: dict[str, dict[Subject, list[HistogramSeries]]] = field(default_factory=dict)
    infos: dict[str, dict[Subject, str]] = field(default_factory=dict)
    facts: dict[Subject, dict[str, str]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict[str, str])

    def note(self, labels: Mapping[str, str], tenant_of: TenantOf) -> Subject:
        """What a series is about, kept with what else its labels say of that."""
        subject = subject_of(self.profile, labels, tenant_of)
        self.subjects.add(subject)
        if self.profile.table != "inference":
            facts = self.facts.setdefault(subject, {})
            for about, said in facts_of(self.profile, labels):
                # Another series may carry a better label: a node's name is only on node_uname_info.
                if said and (about not in facts or self.profile.labels[about][0] in labels):
                    facts[about] = said
        return subject

    def shown(self) -> list[Subject]:
        """Models and tenants that become rows, in a stable order."""
        limit = SUBJECTS_PER_TARGET[self.profile.role] if self.profile.table == "inference" else DEVICES_PER_TARGET
        return sorted(self.subjects)[:limit]

    def counted_values(self) -> Iterator[tuple[Hashable, float]]:
        """Every counter, by series."""
        for by_subject in self.counters.values():
            for found in by_subject.values():
                for each in found:
                    yield each.series, each.value

    def counted_histograms(self) -> Iterator[tuple[Hashable, Buckets]]:
        """Every histogram, by series."""
        for by_subject in self.histograms.values():
            for found in by_subject.values():
                for histogram in found:
                    yield histogram.series, histogram.buckets


class PollReadings:
    """The readings of one poll, filed answer by answer: no more than one answer is ever held whole."""

    def __init__(
        self, spoken: Mapping[Hashable, Sequence[Profile]], index: TargetIndex, tenant_of: TenantOf = as_said
    ) -> None:
        """spoken: by target key, the dialects whose fields are taken from it."""
        self._spoken = spoken
        self._index = index
        self._tenant_of = tenant_of
        self._readings: dict[tuple[int, str], TargetReading] = {}
        # What fields of later queries read too. By identity of the target: its key holds all its labels, and hashing
        # them for every series costs as much as all the rest.
        self._kept: dict[int, tuple[Target, dict[str, list[Sample]]]] = {}
        self._failed: dict[str, str] = {}
        self.failures: dict[tuple[str, str], str] = {}
        self.starts: dict[Hashable, float] = {}

    @property
    def readings(self) -> list[TargetReading]:
        """All of them."""
        return list(self._readings.values())

    def take(self, query: FieldQuery, vector: Iterable[Sample]) -> None:
        """File the answer to one query; an empty one for a query without a text."""
        by_target = self._sorted(vector)
        for place, (target, kept) in self._kept.items():
            ours = {name: samples for name, samples in kept.items() if name in query.names}
            if ours:
                by_target.setdefault(place, (target, {}))[1].update(ours)
        for place, (target, by_metric) in by_target.items():
            spoken = self._spoken.get(target.key)
            if spoken is None:
                continue
            for _, value in by_metric.pop(PROCESS_START, ()):
                self.starts[target.key] = value
            for name in query.kept.intersection(by_metric):
                copies = [(labels.copy(), value) for labels, value in by_metric[name]]
                self._kept.setdefault(place, (target, {}))[1][name] = copies
            if by_metric:
                self._take_target(place, target, spoken, query, by_metric)
        self._note_failures(query)

    def _sorted(self, vector: Iterable[Sample]) -> dict[int, tuple[Target, dict[str, list[Sample]]]]:
        """Samples by target and metric."""
        # By job and instance first: that is all there is to know of a series, but where targets share them.
        by_name: dict[tuple[str | None, str | None], dict[str, list[Sample]]] = {}
        for sample in vector:
            get = sample[0].get
            name = (get("job"), get("instance"))
            metrics = by_name.get(name)
            if metrics is None:
                metrics = by_name[name] = {}
            metric = get("__name__", "")
            same = metrics.get(metric)
            if same is None:
                metrics[metric] = [sample]
            else:
                same.append(sample)
        by_target: dict[int, tuple[Target, dict[str, list[Sample]]]] = {}
        for (job, instance), metrics in by_name.items():
            target = self._index.only(job or "", instance or "")
            if target is not None:
                by_target[id(target)] = (target, metrics)
                continue
            for metric, samples in metrics.items():
                for sample in samples:
                    own = self._index.find(sample[0])
                    by_target.setdefault(id(own), (own, {}))[1].setdefault(metric, []).append(sample)
        return by_target

    def fail(self, query: FieldQuery, why: str) -> None:
        """Note that a query was not answered: none of its names is known in this poll."""
        self._failed |= dict.fromkeys(query.names, why)
        self._note_failures(query)

    def _note_failures(self, query: FieldQuery) -> None:
        if not self._failed:
            return
        for profile, fields in query.fields.items():
            for wanted in fields:
                why = next((self._failed[name] for name in wanted.series_names() if name in self._failed), None)
                if why is not None:
                    self.failures[profile, wanted.key] = why

    def _take_target(
        self,
        place: int,
        target: Target,
        spoken: Sequence[Profile],
        query: FieldQuery,
        by_metric: Mapping[str, list[Sample]],
    ) -> None:
        ladders: dict[str, list[Ladder]] = {}
        for profile in spoken:
            fields = query.fields.get(profile.id)
            if fields is None:
                continue
            reading = self._readings.get((place, profile.id))
            if reading is None:
                reading = self._readings[place, profile.id] = TargetReading(target, profile)
            for wanted in fields:
                _take(reading, wanted, by_metric, ladders, self._tenant_of)


def _take(
    reading: TargetReading,
    wanted: ProfileField,
    by_metric: Mapping[str, list[Sample]],
    ladders: dict[str, list[Ladder]],
    tenant_of: TenantOf,
) -> None:
    """File the series of the first metric name that this target exposes."""
    end = "_bucket" if wanted.type == "histogram" else ""
    place = next((place for place, name in enumerate(wanted.metrics) if name + end in by_metric), None)
    if place is None:
        return
    metric = wanted.metrics[place]
    if wanted.type == "histogram":
        found = ladders.get(metric)
        if found is None:
            found = ladders[metric] = ladders_of(by_metric[f"{metric}_bucket"])
        _take_histograms(reading, wanted, metric, found, by_metric.get(f"{metric}_sum", ()), tenant_of)
    elif wanted.type == "mean":
        counts = by_metric.get(wanted.counts[place], ())
        _take_means(reading, wanted, metric, counts, by_metric[metric], tenant_of)
    elif wanted.type == "info":
        infos = reading.infos.setdefault(wanted.name, {})
        for labels, _ in by_metric[metric]:
            subject = reading.note(labels, tenant_of)
            if labels.get(wanted.label) and wanted.accepts(labels):
                infos[subject] = labels[wanted.label][:NAME_LENGTH]
    elif wanted.type == "counter":
        _take_counters(reading, wanted, by_metric[metric], tenant_of)
    else:
        _take_gauges(reading, wanted, by_metric[metric], by_metric.get(wanted.divide_by, ()), tenant_of)


def _known(reading: TargetReading, wanted: ProfileField, value: float) -> bool:
    if not math.isfinite(value):
        reading.problems[wanted.key] = f"{wanted.name} is {value}"
    elif value >= reading.profile.blank_from:
        reading.problems[wanted.key] = f"{wanted.name} is blank"
    else:
        return True
    return False


def _rank_of(wanted: ProfileField, labels: Mapping[str, str]) -> Hashable:
    return frozenset(item for item in labels.items() if item[0] not in wanted.dedup)


def _take_counters(
    reading: TargetReading, wanted: ProfileField, samples: Iterable[Sample], tenant_of: TenantOf
) -> None:
    counters = reading.counters.setdefault(wanted.name, {})
    blank_from = reading.profile.blank_from
    for labels, value in samples:
        subject = reading.note(labels, tenant_of)
        if not (-math.inf < value < blank_from or _known(reading, wanted, value)):
            continue
        # A metric that is there without the labels asked for counts as 0: it was never raised.
        found = counters.setdefault(subject, [])
        if not wanted.match or wanted.accepts(labels):
            series = (wanted.name, frozenset(labels.items()))
            found.append(CounterSeries(series, value, _rank_of(wanted, labels) if wanted.dedup else None))


def _take_gauges(
    reading: TargetReading,
    wanted: ProfileField,
    samples: Iterable[Sample],
    below: Iterable[Sample],
    tenant_of: TenantOf,
) -> None:
    profile = reading.profile
    values: dict[Subject, dict[Hashable, float]] = {}
    for number, (labels, value) in enumerate(samples):
        subject = reading.note(labels, tenant_of)
        if _known(reading, wanted, value) and (not wanted.match or wanted.accepts(labels)):
            # Ranks of one engine repeat one value: the largest stands for all of them.
            rank_of = _rank_of(wanted, labels) if wanted.dedup else number
            ranks = values.setdefault(subject, {})
            ranks[rank_of] = max(ranks.get(rank_of, -math.inf), value)
    divisors: dict[Subject, float] = {}
    for labels, value in below:
        if math.isfinite(value):
            subject = subject_of(profile, labels, tenant_of)
            divisors[subject] = divisors.get(subject, 0.0) + value
    gauges = reading.gauges.setdefault(wanted.name, {})
    for subject, ranks in values.items():
        found = ranks.values()
        # What is counted has been counted by the server: of node_cpu_seconds_total there are eight series a core.
        combined = max(found) if wanted.combine == "max" else sum(found)
        if wanted.divide_by:
            divisor = divisors.get(subject, sum(divisors.values()))
            if divisor <= 0.0:
                reading.problems[wanted.key] = f"{wanted.name}: {wanted.divide_by} is missing or 0"
                continue
            combined /= divisor
        gauges[subject] = combined * wanted.scale


def _take_means(
    reading: TargetReading,
    wanted: ProfileField,
    metric: str,
    counts: Iterable[Sample],
    totals: Iterable[Sample],
    tenant_of: TenantOf,
) -> None:
    """A sum and how many it is of, as a histogram of one bucket."""
    sums = _by_labels(totals)
    by_subject = reading.histograms.setdefault(wanted.name, {})
    for labels, value in counts:
        if wanted.match and not wanted.accepts(labels):
            continue
        subject = reading.note(labels, tenant_of)
        if not _known(reading, wanted, value):
            continue
        rest = _identity(labels)
        base = (wanted.name, metric, rest)
        by_subject.setdefault(subject, []).append(_series(base, wanted, Buckets((math.inf,), (value,)), sums.get(rest)))


def _take_histograms(
    reading: TargetReading,
    wanted: ProfileField,
    metric: str,
    ladders: Iterable[Ladder],
    totals: Iterable[Sample],
    tenant_of: TenantOf,
) -> None:
    sums = _by_labels(totals)
    by_subject = reading.histograms.setdefault(wanted.name, {})
    for labels, texts, values in ladders:
        if wanted.match and not wanted.accepts(labels):
            continue
        subject = reading.note(labels, tenant_of)
        bounds, order, problem = bounds_of(tuple(texts), wanted.scale)
        cumulative = tuple(order(values)) if len(values) > 1 else tuple(values)
        problem = problem or fault(cumulative)
        if problem:
            reading.problems[wanted.key] = f"{wanted.name}: {problem}"
            continue
        rest = _identity(labels)
        base = (wanted.name, metric, rest)
        by_subject.setdefault(subject, []).append(_series(base, wanted, Buckets(bounds, cumulative), sums.get(rest)))


def _series(base: Hashable, wanted: ProfileField, buckets: Buckets, total: float | None) -> HistogramSeries:
    known = total is not None and math.isfinite(total)
    return HistogramSeries(
        series=base,
        buckets=buckets,
        sum_series=(base, "sum") if known else None,
        sum_value=total * wanted.scale if total is not None and known else None,
    )


def _by_labels(samples: Iterable[Sample]) -> dict[Hashable, float]:
    return {_identity(labels): value for labels, value in samples}


def _identity(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(item for item in labels.items() if item[0] != "__name__")
