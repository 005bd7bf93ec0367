"""Readings of one poll to stored rows: counted, joined, and with a reason for every number that is missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import sub
from urllib.parse import urlsplit

from collectors.prometheus_claims import Claims
from collectors.prometheus_increments import Lives, Start, Turn
from collectors.prometheus_reading import Failures, HistogramSeries, TargetReading
from collectors.prometheus_subjects import Subject
from collectors.prometheus_targets import Target
from fleet.joining import Join, is_older_than_start
from fleet.model import UNASSIGNED, Histogram, InferenceSample, Row
from fleet.profiles import ProfileField

#: A target that missed so many of its polls no longer counts for a server that others scrape too.
CLAIM_INTERVALS = 2.5
FIRST_READING = "first reading: counters are counted from here"
OLDER_THAN_START = "the last scrape is older than the container's start"
#: Labels that an operator may put on a target to name the tenant of something that is in no watched container.
TENANT_LABELS = ("tenant", "aifleet_tenant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a target's rows belong."""

    target: Target
    join: Join

    @property
    def tenant(self) -> str:
        """Tenant of the container; else as the target's own labels say (never what the server itself exposes)."""
        if self.join.container is not None:
            return self.join.container.row.tenant
        labels = self.target.labels
        return next((labels[name] for name in TENANT_LABELS if labels.get(name)), UNASSIGNED)

    @property
    def host(self) -> str:
        """Host of the container, "" without one."""
        return "" if self.join.container is None else self.join.container.row.host

    @property
    def container_key(self) -> str:
        """Key of the container, "" without one."""
        return "" if self.join.container is None else self.join.container.row.container_key

    @property
    def container_id(self) -> str:
        """Id of the container, "" without one."""
        return "" if self.join.container is None else self.join.container.row.container_id

    @property
    def listener(self) -> Hashable | None:
        """The socket behind the target, equal for two ways of dialling it; None when it cannot be told."""
        facts = self.join.container
        if facts is None:
            return None
        try:
            url = urlsplit(self.target.scrape_url)
            port = self.join.port or url.port
        except ValueError:
            return None
        if port is None:
            return None
        if self.join.port is None and url.hostname not in facts.network_addresses.values():
            port = next((inner for _, outer, inner in facts.published_ports if outer == port), port)
        return (facts.row.container_id, port, url.path)


@dataclass(slots=True)
class RowMaker:
    """Makes the rows of one server. Holds the memory of its series between polls."""

    prometheus: str
    interval_seconds: float
    claims: Claims = field(default_factory=Claims)
    lives: Lives = field(default_factory=Lives)
    _spoken: dict[Hashable, set[tuple[str, str, str]]] = field(
        init=False, default_factory=dict[Hashable, set[tuple[str, str, str]]]
    )
    _polled_at: float | None = field(init=False, default=None)

    def up_rows(
        self,
        at: datetime,
        now: float,
        readings: Sequence[TargetReading],
        places: Mapping[Hashable, Place],
        process_starts: Mapping[Hashable, float],
        failures: Failures,
    ) -> list[Row]:
        """Rows of the targets that were read. now: server clock, seconds; process_starts by target key."""
        rows: list[Row] = []
        self.claims.forget(at)
        read = {
            one.id: frozenset(w.key for w in one.fields if (one.id, w.key) not in failures)
            for one in {reading.profile.id: reading.profile for reading in readings}.values()
        }
        for reading in sorted(readings, key=lambda each: each.target.endpoint):
            place = places[reading.target.key]
            names = {(reading.profile.id, reading.profile.role, model) for model, _ in reading.shown()}
            self._spoken.setdefault(reading.target.key, set()).update(names)
            start = _start(process_starts.get(reading.target.key), place)
            made = self._rows(at, now, reading, place, start, read[reading.profile.id], failures)
            listener = place.listener
            counted = any(isinstance(row, InferenceSample) and row.up for row in made)
            if listener is not None and counted:  # a stale target must not hold the place of a live one
                holder = self.claims.holder(
                    (reading.profile.id, listener),
                    prometheus=self.prometheus,
                    endpoint=reading.target.endpoint,
                    at=at,
                    seconds=CLAIM_INTERVALS * self.interval_seconds,
                )
                if (holder.prometheus, holder.endpoint) != (self.prometheus, reading.target.endpoint):
                    other = "" if holder.prometheus == self.prometheus else f" of {holder.prometheus}"
                    made = _without_numbers(made, f"the same server as {holder.endpoint}{other}, counted there")
            rows += made
        return rows

    def down_rows(
        self, at: datetime, now: float, places: Sequence[Place], spoke_before: frozenset[Hashable]
    ) -> list[Row]:
        """Rows of targets that are down: those that spoke a profile before, or are joined to a container."""
        rows: list[Row] = []
        for place in places:
            names = self._spoken.get(place.target.key, set())
            if not names and place.target.key not in spoke_before and place.join.container is None:
                continue
            seconds = self.interval_seconds if self._polled_at is None else now - self._polled_at
            reason = f"down: {place.target.error or 'the scrape failed'}"
            for server, role, model in sorted(names) or [("", "server", "")]:
                rows.append(
                    self._sample(at, place, server, role, (model, ""), seconds, up=False, unknown_reason=reason)
                )
        return rows

    def end_poll(self, now: float, present: frozenset[Hashable]) -> None:
        """Close a poll; `present` are the keys of all targets there are, others are forgotten."""
        self.lives.end_poll(now)
        self._polled_at = now
        self._spoken = {key: names for key, names in self._spoken.items() if key in present}

    def _rows(
        self,
        at: datetime,
        now: float,
        reading: TargetReading,
        place: Place,
        start: Start | None,
        fields: frozenset[str],
        failures: Failures,
    ) -> list[Row]:
        target, facts = reading.target, place.join.container
        reason = ""
        if target.is_stale(now):
            reason = "stale: not scraped any more"
        elif facts is not None and target.scraped_at is not None:
            old = is_older_than_start(datetime.fromtimestamp(target.scraped_at, UTC), facts)
            reason = OLDER_THAN_START if old else ""
        if reason:
            return [
                self._sample(
                    at, place, reading.profile.id, reading.profile.role, subject, self.interval_seconds, up=False,
                    unknown_reason=reason,
                )
                for subject in reading.shown()
            ]  # fmt: skip
        turn = self.lives.turn(
            (target.key, reading.profile.id),
            now=now,
            scraped_at=target.scraped_at,
            start=start,
            values=reading.counted_values(),
            histograms=reading.counted_histograms(),
            sums=reading.profile.role == "gateway",
            fields=fields,
        )
        seconds = self.interval_seconds if turn.seconds is None else turn.seconds
        rows: list[Row] = []
        for subject in reading.shown():
            numbers, reasons = self._numbers(reading, subject, turn, failures)
            rows.append(
                self._sample(
                    at, place, reading.profile.id, reading.profile.role, subject, seconds, up=True,
                    unknown_reason="; ".join(reasons), **numbers,
                )
            )  # fmt: skip
            rows += self._histograms(at, place, reading, subject, turn, seconds)
        return rows

    def _numbers(
        self, reading: TargetReading, subject: Subject, turn: Turn, failures: Failures
    ) -> tuple[dict[str, float | None], list[str]]:
        numbers: dict[str, float | None] = {}
        reasons: list[str] = []
        first, absent = False, list[str]()
        for wanted in reading.profile.samples:
            value, known = self._number(reading, wanted, subject, turn)
            numbers[wanted.name] = value
            if value is not None:
                continue
            if (reading.profile.id, wanted.key) in failures:
                reasons.append(f"{wanted.name}: {failures[reading.profile.id, wanted.key]}")
            elif wanted.key in reading.problems:
                reasons.append(reading.problems[wanted.key])
            elif known:
                first = True
            else:
                absent.append(wanted.name)
        if first:
            reasons.insert(0, FIRST_READING)
        if absent:
            reasons.append(f"not exposed: {', '.join(absent)}")
        return numbers, reasons

    def _number(
        self, reading: TargetReading, wanted: ProfileField, subject: Subject, turn: Turn
    ) -> tuple[float | None, bool]:
        """The value, and whether its series were there at all."""
        if wanted.type == "gauge":
            value = reading.gauges.get(wanted.name, {}).get(subject)
            return value, value is not None
        by_subject = reading.counters.get(wanted.name, {})
        found = by_subject.get(subject)
        if found is None:
            if not by_subject or reading.profile.role != "gateway":
                return None, False
            found = []  # counted for other tenants or models only: the series of a gateway begin with the first event
        ranks: dict[Hashable, float] = {}
        for number, each in enumerate(found):
            counted = self.lives.count(turn, wanted.key, each.series, each.value)
            if counted is not None:
                rank_of = number if each.rank_of is None else each.rank_of
                ranks[rank_of] = max(ranks.get(rank_of, 0.0), counted)
        if ranks:
            return sum(ranks.values()) * wanted.scale, True
        if not found and (turn.seconds is not None or turn.born):
            return 0.0, True  # the metric is there, none of its series matches: it never happened
        return None, True

    def _histograms(
        self, at: datetime, place: Place, reading: TargetReading, subject: Subject, turn: Turn, seconds: float
    ) -> list[Row]:
        rows: list[Row] = []
        for wanted in reading.profile.histograms:
            # Engines of one model are added only if they share one bucket layout.
            by_bounds: defaultdict[tuple[float, ...], list[tuple[tuple[float, ...], float | None]]] = defaultdict(list)
            for histogram in reading.histograms.get(wanted.name, {}).get(subject, ()):
                counted = self._count(turn, wanted.key, histogram)
                if counted is not None:
                    by_bounds[histogram.buckets.bounds].append(counted)
            for bounds, parts in by_bounds.items():
                sums = [part[1] for part in parts]
                known_sums = [value for value in sums if value is not None]
                rows.append(
                    Histogram(
                        at=at,
                        host=place.host,
                        tenant=subject[1] or place.tenant,
                        container_key=place.container_key,
                        container_id=place.container_id,
                        endpoint=place.target.endpoint,
                        server=reading.profile.id,
                        model=subject[0],
                        field=wanted.name,
                        interval_seconds=seconds,
                        bounds=bounds,
                        increments=parts[0][0]
                        if len(parts) == 1
                        else tuple(map(sum, zip(*(part[0] for part in parts), strict=True))),
                        sum_increment=sum(known_sums) if len(known_sums) == len(sums) else None,
                        role=reading.profile.role,
                    )
                )
        return rows

    def _count(
        self, turn: Turn, name: str, histogram: HistogramSeries
    ) -> tuple[tuple[float, ...], float | None] | None:
        """Increments per bucket, not cumulative, and of the sum; None at first sight."""
        cumulative = self.lives.count_buckets(turn, name, histogram.series, histogram.buckets)
        total = None
        if histogram.sum_series is not None and histogram.sum_value is not None:
            total = self.lives.count(turn, name, histogram.sum_series, histogram.sum_value)
        if cumulative is None:
            return None
        steps = tuple(map(sub, cumulative, (0.0, *cumulative)))
        # Counts are whole numbers: a difference below 0 is a rounding error of two large floats.
        return steps if min(steps) >= 0.0 else tuple(max(0.0, step) for step in steps), total

    def _sample(
        self,
        at: datetime,
        place: Place,
        server: str,
        role: str,
        subject: Subject,
        seconds: float,
        *,
        up: bool,
        unknown_reason: str,
        **numbers: float | None,
    ) -> InferenceSample:
        return InferenceSample(
            at=at,
            host=place.host,
            tenant=subject[1] or place.tenant,
            container_key=place.container_key,
            container_id=place.container_id,
            prometheus=self.prometheus,
            endpoint=place.target.endpoint,
            server=server,
            role=role,
            model=subject[0],
            interval_seconds=seconds,
            up=up,
            joined_by=place.join.by,
            join_reason=place.join.reason,
            unknown_reason=unknown_reason,
            **numbers,
        )


def _start(process_start: float | None, place: Place) -> Start | None:
    """The best evidence of when the process began: its own metric, else the container's start."""
    if process_start is not None:
        return Start(kind="process", identity="", at_seconds=process_start)
    facts = place.join.container
    if facts is None or facts.row.started_at is None:
        return None
    return Start(kind="container", identity=facts.row.container_id, at_seconds=facts.row.started_at.timestamp())


def _without_numbers(rows: Sequence[Row], reason: str) -> list[Row]:
    """The samples of a target whose server is counted elsewhere: visible, without a number that would count twice."""
    return [
        InferenceSample(
            at=row.at,
            host=row.host,
            tenant=row.tenant,
            container_key=row.container_key,
            container_id=row.container_id,
            prometheus=row.prometheus,
            endpoint=row.endpoint,
            server=row.server,
            model=row.model,
            interval_seconds=row.interval_seconds,
            up=row.up,
            joined_by=row.joined_by,
            join_reason=row.join_reason,
            unknown_reason=reason,
            role=row.role,
        )
        for row in rows
        if isinstance(row, InferenceSample)
    ]
