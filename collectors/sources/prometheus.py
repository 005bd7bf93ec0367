"""The Prometheus source: inference servers as a Prometheus sees them, counted and joined to containers.

Uses prometheus-api-client for instant queries and targets only. Its other calls overlap samples, need a frame per
slice, or take any web page for a healthy server; its defaults wait for ever and retry a dead host for 6 s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import urlsplit

from prometheus_api_client.exceptions import PrometheusApiClientException
from prometheus_api_client.prometheus_connect import PrometheusConnect
from urllib3.util.retry import Retry

from collectors.base import Reading, SourceError
from collectors.prometheus_claims import Claims
from collectors.prometheus_dialects import DETECT_SECONDS, Dialects
from collectors.prometheus_errors import explain, in_words
from collectors.prometheus_exporters import ExporterRows, Seen
from collectors.prometheus_http import BoundedSession, FileCredentials, is_near
from collectors.prometheus_reading import PollReadings
from collectors.prometheus_rows import Place, RowMaker
from collectors.prometheus_targets import Sample, Target, TargetIndex, targets_from_api, with_up
from collectors.prometheus_tenants import said_tenants
from fleet.inventory import Inventory
from fleet.joining import Joiner, MapRule
from fleet.model import Gap, InferenceSample
from fleet.profiles import Profile, builtin_profiles
from fleet.settings import PrometheusServer
from fleet.tenancy import Tenancy

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: Server clock and ours may differ by this much before we say so.
SKEW_SECONDS = 5.0
#: All queries of a poll look at one moment this long ago. A scrape is stamped when it begins and stored when it ends:
#: looking at the present, one query would see a server's old count and the next the count after its restart.
SETTLE_SECONDS = 1.0
#: Facts that hardly ever change are asked for this often.
SLOW_SECONDS = 300.0
NO_TARGETS_STEP = "add a scrape job; deploy/prometheus/prometheus.yml is an example"
#: How long a target that is down may have been silent and still be known as an inference server.
REMEMBER = "1h"


#: What the library raises (a RequestException is an OSError, and so is a ca_file that cannot be read), and what a
#: shape that is not the API's makes of its answers and of ours.
_FAILURES = (
    OSError, PrometheusApiClientException, ValueError, LookupError, TypeError, AttributeError,
)  # fmt: skip


class Rule(Protocol):
    """An operator's rule on an endpoint, as in `fleet.settings.EndpointRule`."""

    @property
    def job(self) -> str: ...  # noqa: D102

    @property
    def instance(self) -> str: ...  # noqa: D102

    @property
    def container(self) -> str: ...  # noqa: D102


class _QueryApi(Protocol):
    """What is used of PrometheusConnect, with the types it does not declare."""

    def custom_query(self, query: str, params: dict[str, str] | None = None) -> object: ...
    def get_targets(self, state: str) -> object: ...
    def close(self) -> None: ...


class PrometheusClient:
    """One server's query API. Every failure is a SourceError; nothing blocks longer than the time given to `begin`."""

    def __init__(self, server: PrometheusServer) -> None:
        self._server = server
        url = server.url.rstrip("/")
        secret_file = server.token_file or server.password_file
        credentials = None
        if secret_file:
            credentials = FileCredentials(Path(secret_file), "" if server.token_file else server.username)
        self._session = BoundedSession(
            body_limit_bytes=server.body_limit_bytes,
            credentials=credentials,
            ca_file=server.ca_file,
            near=is_near(url),
        )
        # Only connecting is tried again: the next poll is soon, and a server that answers 503 is too busy already.
        retry = Retry(total=1, connect=1, read=False, redirect=0, status=0, other=0, backoff_factor=0.2)
        connect = PrometheusConnect(
            url=url, session=self._session, retry=retry, timeout=max(1, round(server.timeout_seconds))
        )
        self._connect = cast("_QueryApi", connect)

    def begin(self, seconds: float) -> None:
        """Start a poll that may take so many seconds."""
        self._session.begin(seconds)

    def query(self, query: str, *, time: float | None = None) -> list[Sample]:
        """Instant vector at `time` (server clock, unix seconds; None = now). Raises SourceError."""
        params = {"timeout": f"{max(1, int(self._session.seconds_left))}s"}  # so that the server stops working too
        if time is not None:
            params["time"] = f"{time:.3f}"
        return self._ask(lambda: _vector(self._connect.custom_query(query, params=params)))

    def server_time(self) -> float:
        """The server's clock, unix seconds: shows too that its query API works. Raises SourceError."""
        return self._ask(lambda: _clock(self._connect.custom_query("vector(1)")))

    def targets(self) -> list[Target]:
        """Active scrape targets. Raises SourceError, "unsupported" where a server has no targets API."""
        return self._ask(lambda: targets_from_api(self._connect.get_targets(state="active")))

    def close(self) -> None:
        """Release the connections."""
        self._connect.close()

    def _ask(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except _FAILURES as error:
            raise explain(error, self._server) from error


class PrometheusSource:
    """Polls one Prometheus server. The memory of its counters lives as long as the object does."""

    kind = "prometheus"

    def __init__(
        self,
        server: PrometheusServer,
        inventory: Inventory,
        *,
        rules: Sequence[Rule] = (),
        profiles: Sequence[Profile] | None = None,
        claims: Claims | None = None,
        tenancy: Tenancy | None = None,
        seen: Callable[[], Seen] = Seen,
        settle_seconds: float = SETTLE_SECONDS,
        detect_seconds: float = DETECT_SECONDS,
    ) -> None:
        """rules: an operator's word on endpoints; profiles: those of the product if None.

        claims: one for all sources of a process, so that a server scraped by two Prometheus counts once.
        tenancy: whose a gateway's requests, and the containers that only exporters see, are.
        seen: what collectors of other processes see, so that exporters do not count it again.
        """
        self._server = server
        self._inventory = inventory
        self._rules = tuple(MapRule(job=r.job, instance=r.instance, container=r.container) for r in rules)
        found = builtin_profiles() if profiles is None else profiles
        self._dialects = Dialects(found, detect_seconds=detect_seconds)
        self._tenant_of = said_tenants(tenancy or Tenancy())
        self._seen = seen
        self._slow_at: float | None = None
        self._client = PrometheusClient(server)
        self._settle_seconds = settle_seconds
        claims = Claims() if claims is None else claims
        self._rows = RowMaker(
            prometheus=self.target,
            interval_seconds=server.interval_seconds,
            claims=claims,
        )
        self._exporters = ExporterRows(
            prometheus=self.target,
            interval_seconds=server.interval_seconds,
            tenancy=tenancy or Tenancy(),
            claims=claims,
        )
        self._spoke_before: frozenset[Hashable] | None = None
        self._state = ""

    @property
    def target(self) -> str:
        """Name of the server in the settings, else its host and port."""
        return self._server.name or urlsplit(self._server.url).netloc.rpartition("@")[2]

    @property
    def interval_seconds(self) -> float:
        """Seconds between two polls."""
        return self._server.interval_seconds

    @property
    def timeout_seconds(self) -> float:
        """Seconds one poll may take."""
        return self._server.timeout_seconds

    def collect(self, at: datetime) -> Reading:
        """Read every endpoint once. Raises SourceError when the server cannot be read at all."""
        client = self._client
        # The poll ends by itself before the runner gives it up, with what it has.
        client.begin(self._server.timeout_seconds * 0.9)
        clock = client.server_time()
        now = clock - self._settle_seconds
        problems: list[tuple[str, SourceError]] = []
        notes: list[str] = []
        targets = self._targets(now, problems, notes)
        index = TargetIndex(targets)
        self._detect(now, index, targets, problems)
        filed = self._fields(now, index, problems)
        readings = [reading for reading in filed.readings if reading.profile.table == "inference"]
        exporters = [reading for reading in filed.readings if reading.profile.table != "inference"]
        joiner = Joiner(self._inventory.hosts(), rules=self._rules, prometheus_host=self._server.docker_host or None)
        everything = {target.key: target for target in (*targets, *(reading.target for reading in readings))}
        places: dict[Hashable, Place] = {
            key: Place(target=target, join=joiner.join(target.to_endpoint())) for key, target in everything.items()
        }
        # A web framework's own counters would make any web service a model server: only what runs here or was mapped.
        readings = [
            one for one in readings
            if not one.profile.generic or places[one.target.key].join.by not in ("none", "ambiguous")
        ]  # fmt: skip
        down = [place for place in places.values() if place.target.up is False]
        rows = self._rows.up_rows(at, now, readings, places, filed.starts, filed.failures)
        spoken = {reading.target.key for reading in readings}
        silent = [place for place in down if place.target.key not in spoken]
        rows += self._rows.down_rows(at, now, silent, self._remembered(silent, index, now))
        self._rows.end_poll(now, frozenset(everything))
        if exporters:
            seen = Seen.of(self._inventory.hosts(), self._inventory.gpu_uuids(), self._seen())
            rows += self._exporters.rows(at, now, exporters, seen)
        gaps = [_gap(subject, error) for subject, error in problems]
        gaps += [
            Gap(subject=row.endpoint, reason="unreachable", detail=row.unknown_reason)
            for row in rows
            if isinstance(row, InferenceSample) and not row.up
        ]
        skew = clock - at.timestamp()
        if abs(skew) > SKEW_SECONDS:
            notes.append(f"its clock differs from ours by {skew:+.0f} s")
        unnamed = sum(len(reading.subjects) - len(reading.shown()) for reading in readings)
        if unnamed:
            notes.append(f"{unnamed} more models are named by their servers than are kept")
        unjoined = sum(1 for key in spoken if places[key].join.container is None and places[key].join.by != "map")
        telling = len({reading.target.key for reading in exporters})
        if telling:
            notes.insert(0, f"{telling} exporter{'' if telling == 1 else 's'}")
        notes.insert(0, _summary(len(everything), len(down), len(spoken), unjoined))
        self._note_state(notes[0])
        return Reading(
            rows=tuple(rows),
            gaps=tuple(gaps),
            absent=not everything and not problems,
            detail="; ".join(notes),
            next_step=problems[0][1].next_step if problems else "" if everything else NO_TARGETS_STEP,
        )

    def close(self) -> None:
        """Release the connections."""
        self._client.close()

    def _targets(self, now: float, problems: list[tuple[str, SourceError]], notes: list[str]) -> list[Target]:
        found: list[Target] = []
        try:
            found = self._client.targets()
        except SourceError as error:
            if error.reason == "unsupported":  # Mimir, Thanos and others: the series themselves must do
                notes.append("it has no targets API: joined by series labels only")
            else:
                problems.append(("targets", error))
        up: list[Sample] = []
        scraped: list[Sample] = []
        try:
            up = self._client.query("up", time=now)
            scraped = self._client.query("timestamp(up)", time=now)
        except SourceError as error:
            problems.append(("up", error))
        return with_up(found, up, scraped)

    def _detect(
        self, now: float, index: TargetIndex, targets: Sequence[Target], problems: list[tuple[str, SourceError]]
    ) -> None:
        """Ask what the targets speak when that is due. Raises SourceError when it has never been answered."""
        up = frozenset(target.key for target in targets if target.up)
        if not self._dialects.due(now, up):
            return
        try:
            self._dialects.learn(self._client.query(self._dialects.detection(index), time=now), index, now, up)
        except SourceError as error:
            if not self._dialects.learnt:
                raise
            problems.append(("dialects", error))

    def _fields(self, now: float, index: TargetIndex, problems: list[tuple[str, SourceError]]) -> PollReadings:
        """Everything the targets expose of their dialects. Raises SourceError when no query was answered."""
        filed = PollReadings(self._dialects.by_target, index, self._tenant_of)
        last: SourceError | None = None
        answered = False
        slow = self._slow_at is None or now - self._slow_at >= SLOW_SECONDS
        self._slow_at = now if slow else self._slow_at
        for query in self._dialects.queries:
            if query.slow and not slow:
                continue
            try:
                # Filed at once: no more than one answer of the server is ever held whole.
                filed.take(query, self._client.query(query.text, time=now) if query.text else ())
                answered = answered or bool(query.text)
            except SourceError as error:
                last = error
                problems.append((query.subject, error))
                filed.fail(query, in_words(error))
        if last is not None and not answered:
            raise last
        return filed

    def _remembered(self, silent: Sequence[Place], index: TargetIndex, now: float) -> frozenset[Hashable]:
        """Targets that spoke a profile before this collector began to watch; asked once."""
        if self._spoke_before is None and silent:
            anchors = self._dialects.anchors()
            try:
                samples = self._client.query(
                    f"count by (job, instance) (last_over_time({anchors}[{REMEMBER}]))", time=now
                )
            except SourceError:
                return frozenset()
            self._spoke_before = frozenset(index.find(labels).key for labels, _ in samples)
        return self._spoke_before or frozenset()

    def _note_state(self, state: str) -> None:
        if state != self._state:
            logger.info("prometheus %s: %s", self.target, state)
            self._state = state


def _gap(subject: str, error: SourceError) -> Gap:
    return Gap(subject=subject, reason=error.reason, detail=error.detail)


def _summary(targets: int, down: int, endpoints: int, unjoined: int) -> str:
    if not targets:
        return "it has no scrape targets"
    parts = [
        f"{targets} target{'' if targets == 1 else 's'}, {targets - down} up",
        f"{endpoints} inference endpoint{'' if endpoints == 1 else 's'}",
    ]
    if unjoined:
        parts.append(f"{unjoined} not joined to a container")
    return ", ".join(parts)


def _vector(result: object) -> list[Sample]:
    """Samples of an instant query's result. Raises ValueError, TypeError or LookupError when it is no vector."""
    if not isinstance(result, list):
        raise TypeError("the result is no vector")
    items = cast("list[dict[str, Any]]", result)
    for item in items:
        "".join(item["metric"].values())  # the quickest way to find a label that is no text: a TypeError
    # An item without a value is a native histogram: its buckets are not exposed as series.
    return [(item["metric"], float(item["value"][1])) for item in items if "value" in item]


def _clock(result: object) -> float:
    values = cast("list[Mapping[str, Sequence[float]]]", result)
    if not isinstance(result, list) or not values:
        raise ValueError("vector(1) gave no sample")
    return float(values[0]["value"][0])
