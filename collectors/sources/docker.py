"""One Docker daemon as a source: its containers, what they use, what happened to them. The only importer of `docker`.

One list call a poll; an inspection only of what changed; statistics from the kernel's files when the daemon is on this
machine, else from all containers at once through the API. Every call runs in a thread of its own and is waited for no
longer than the poll has left: a stopped daemon accepts connections, and a slow one answers byte by byte.
"""

# The SDK is untyped; what comes out of it is checked by `json_object` and `json_array`.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from threading import Lock
from typing import TypeVar, cast
from urllib.parse import urlsplit
from zlib import crc32

import docker
import docker.errors
import docker.tls
import requests.exceptions
import urllib3.exceptions

from collectors.base import Reading, SourceError
from collectors.bounded_calls import BoundedCalls
from collectors.cgroups import Counters
from collectors.containers import (
    Listed,
    listed,
    parse_time,
)
from collectors.docker_answers import json_array, json_object, probe_unix
from collectors.docker_errors import plain_tcp_refusal, source_error, timeout_error
from collectors.docker_events import LISTENED, DockerMessage, EventListener, event_row
from collectors.docker_host import host_addresses, host_row
from collectors.docker_inspecting import Inspector
from collectors.docker_inventory import REPEAT_SECONDS, DockerInventory
from collectors.docker_reading import StatisticsReader
from collectors.docker_statistics import Sampler, lifetime_of
from collectors.known_containers import KnownContainers
from collectors.ssh_bridge import SshBridge
from fleet.inventory import HostInventory, Inventory
from fleet.model import Container, ContainerSample, Gap, Host, Row
from fleet.settings_table import DockerDaemon
from fleet.tenancy import Tenancy

log = logging.getLogger(__name__)
T = TypeVar("T")

#: What the SDK lets through: its own errors, requests', urllib3's, the socket's, and JSON that is none.
FOREIGN_ERRORS: tuple[type[Exception], ...] = (
    docker.errors.DockerException,
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    OSError,
    ValueError,
)
INSPECTORS = 8
STATISTICS_READERS = 64  # a one-shot call may wait for the daemon's one-second tick, so many wait for it together
_BLIND_SECONDS = 60.0  # without an event stream, look at everything this often
_HISTORY_NANOSECONDS = 3_600 * 1_000_000_000


class _Client(docker.APIClient):
    """The SDK's client without the environment: its proxies, its .netrc, and REQUESTS_CA_BUNDLE, which would win over
    the daemon's own certificate authority already in the constructor's first call.
    """

    @property
    def trust_env(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return False

    @trust_env.setter
    def trust_env(self, value: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        pass


class DockerApi:
    """Calls to one daemon that never take longer than they may."""

    def __init__(self, daemon: DockerDaemon, monotonic: Callable[[], float]) -> None:
        self._daemon = daemon
        self._monotonic = monotonic
        self._client: docker.APIClient | None = None
        self._bridge: SshBridge | None = None
        self._connecting = Lock()
        self._calls = BoundedCalls(f"docker-{daemon.name}", monotonic)
        scheme = urlsplit(daemon.url).scheme
        tls_files = (daemon.tls_ca_file, daemon.tls_cert_file, daemon.tls_key_file)
        if scheme == "tcp" and not any(tls_files) and not daemon.allow_plain_tcp:
            raise plain_tcp_refusal(daemon.url)
        self._tls_files = tls_files if scheme == "tcp" and any(tls_files) else None

    def call(self, function: Callable[[docker.APIClient], T], deadline: float) -> T:
        """Answer of one call. Raises SourceError; a connection that a restarted daemon closed is opened again once."""
        fresh = self._client is None
        outcome = self.each({"": function}, deadline, workers=1)[""]
        if isinstance(outcome, SourceError) and outcome.reason == "unreachable" and not fresh:
            outcome = self.each({"": function}, deadline, workers=1)[""]
        if isinstance(outcome, SourceError):
            raise outcome
        return outcome

    def containers(self, deadline: float) -> list[Listed]:
        """`docker ps --all`. Raises SourceError."""

        def entries(client: docker.APIClient) -> list[Listed]:
            found = (listed(json_object(raw)) for raw in json_array(client.containers(all=True)))
            return [entry for entry in found if entry is not None]

        return self.call(entries, deadline)

    def inspections(self, ids: Iterable[str], deadline: float) -> dict[str, Mapping[str, object] | SourceError]:
        """`docker inspect` of containers."""
        return self.each({key: partial(_inspect_container, key) for key in ids}, deadline, workers=INSPECTORS)

    def image_inspections(self, ids: Iterable[str], deadline: float) -> dict[str, Mapping[str, object] | SourceError]:
        """`docker image inspect`."""
        return self.each({key: partial(_inspect_image, key) for key in ids}, deadline, workers=INSPECTORS)

    def statistics(self, ids: Iterable[str], deadline: float) -> dict[str, Mapping[str, object] | SourceError]:
        """One reading each of the statistics API, all at once."""
        one_shot = True if self.one_shot else None
        jobs = {key: partial(_statistics, key, one_shot) for key in ids}
        return self.each(jobs, deadline, workers=STATISTICS_READERS)

    def each(
        self, jobs: Mapping[str, Callable[[docker.APIClient], T]], deadline: float, *, workers: int
    ) -> dict[str, T | SourceError]:
        """Answers of many calls at once; each its own error. What is not answered by the deadline is a timeout."""
        bounded = {
            key: partial(self._outcome, function, deadline, probe=workers == 1) for key, function in jobs.items()
        }
        answered = self._calls.each(bounded, deadline, workers=workers)
        late = timeout_error(self._daemon.url, self._daemon.timeout_seconds)
        answers = {key: answered.get(key, late) for key in jobs}
        if any(isinstance(answer, SourceError) and answer.reason in {"timeout", "unreachable"}
               for answer in answers.values()):  # fmt: skip
            self.drop()
        return answers

    @contextmanager
    def events(self, since_nanoseconds: int) -> Generator[Iterator[Mapping[str, object]]]:
        """The daemon's messages after a moment of its clock, over a connection of their own."""
        client = self._connect(self._daemon.timeout_seconds)
        try:
            stream = client.events(  # pyright: ignore[reportCallIssue]
                since=f"{since_nanoseconds // 10**9}.{since_nanoseconds % 10**9:09d}",  # pyright: ignore[reportArgumentType]
                filters={"type": "container", "event": list(LISTENED)},
                decode=True,
            )
            try:
                yield cast("Iterator[Mapping[str, object]]", stream)
            finally:
                with suppress(AttributeError, *FOREIGN_ERRORS):  # the SDK looks for a socket that may be closed
                    stream.close()
        finally:
            client.close()

    @property
    def one_shot(self) -> bool:
        """The daemon can answer statistics without waiting for a second tick (API 1.41, Docker 20.10)."""
        version = "" if self._client is None else str(self._client.api_version)
        return tuple(int(part) for part in version.split(".") if part.isdigit()) >= (1, 41)

    def drop(self) -> None:
        """Forget the connection; the next call opens another."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def close(self) -> None:
        """Close every connection."""
        self.drop()
        if self._bridge is not None:
            self._bridge.close()

    def _outcome(self, function: Callable[[docker.APIClient], T], deadline: float, *, probe: bool) -> T | SourceError:
        remaining = deadline - self._monotonic()
        if remaining <= 0:
            return timeout_error(self._daemon.url, self._daemon.timeout_seconds)
        try:
            with self._connecting:
                client = self._client
                if client is None:
                    client = self._client = self._connect(remaining)
                elif probe:
                    probe_unix(self._daemon.url, remaining)
            client.timeout = max(deadline - self._monotonic(), 0.001)  # pyright: ignore[reportAttributeAccessIssue]
            return function(client)
        except SourceError as error:
            return error
        except FOREIGN_ERRORS as error:
            mapped = source_error(error, self._daemon.url, self._daemon.timeout_seconds)
            mapped.__cause__ = error
            return mapped

    def _connect(self, timeout_seconds: float) -> docker.APIClient:
        url = self._daemon.url
        try:
            if urlsplit(url).scheme == "ssh":
                self._bridge = self._bridge or SshBridge(url)
                url = self._bridge.url
            probe_unix(url, timeout_seconds)
            tls = False
            if self._tls_files is not None:
                ca, certificate, key = self._tls_files
                pair = (certificate, key) if certificate and key else None
                tls = docker.tls.TLSConfig(client_cert=pair, ca_cert=ca or None, verify=True)
            client = _Client(
                base_url=url,
                version="auto",
                timeout=timeout_seconds,  # pyright: ignore[reportArgumentType]
                tls=tls,
                max_pool_size=STATISTICS_READERS,
            )
        except FOREIGN_ERRORS as error:
            failed = source_error(error, self._daemon.url, self._daemon.timeout_seconds)
            if self._bridge is not None and self._bridge.last_error and failed.reason == "unreachable":
                step = f"try it by hand: ssh {urlsplit(self._daemon.url).hostname} docker version"
                failed = SourceError("unreachable", f"ssh: {self._bridge.last_error}", step)
            raise failed from error
        return client


class DockerSource:
    """See the module. `collect` is called from one thread at a time."""

    kind = "docker"

    def __init__(
        self,
        daemon: DockerDaemon,
        tenancy: Tenancy,
        inventory: Inventory,
        *,
        images_before: Mapping[str, str] | None = None,
        known_before: KnownContainers | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """images_before: container_key -> image id of an earlier run; known_before: the store's containers of a host.

        Raises SourceError for plain tcp that is not allowed.
        """
        self._daemon = daemon if daemon.name else replace(daemon, name=urlsplit(daemon.url).hostname or "local")
        self._host = self._daemon.name
        self._tenancy = tenancy
        self._inventory = inventory
        self._monotonic = monotonic
        self._api = DockerApi(self._daemon, monotonic)
        self._containers = DockerInventory(
            self._host, inspect_interval_seconds=daemon.inspect_interval_seconds, images_before=images_before
        )
        self._known_before = known_before
        self._memory = BoundedCalls(f"known-before-{self._host}", monotonic)
        self._asked_before_at: float | None = None
        self._before: Mapping[str, Container] | None = None
        self._sampler = Sampler(daemon.interval_seconds)
        self._events = EventListener(
            self._api.events,
            name=self._host,
            foreign_errors=(SourceError, *FOREIGN_ERRORS),
            seed=crc32(self._host.encode()),
        )
        self._info: Mapping[str, object] = {}
        self._version: Mapping[str, object] = {}
        self._info_at: float | None = None
        self._pending: list[DockerMessage] = []
        self._missed = False
        self._inspector = Inspector(self._api, self._containers, self._host, tenancy, monotonic)
        self._reader = StatisticsReader(self._daemon, self._api.statistics)
        self._stored_host: Host | None = None
        self._addresses: frozenset[str] = frozenset()
        self._looked_at_all = 0.0
        self._is_unix = urlsplit(daemon.url).scheme == "unix"

    @property
    def target(self) -> str:
        """Host name of this daemon in every row."""
        return self._host

    @property
    def interval_seconds(self) -> float:
        """Time between two polls."""
        return self._daemon.interval_seconds

    @property
    def timeout_seconds(self) -> float:
        """A poll takes no longer than this."""
        return self._daemon.timeout_seconds

    def close(self) -> None:
        """Stop listening and close the connections."""
        self._events.close()
        self._api.close()

    def collect(self, at: datetime) -> Reading:
        """Read the daemon once. Raises SourceError when it cannot be listed; one container's failure is a Gap."""
        now = self._monotonic()
        deadline = now + self.timeout_seconds
        self._learn_host(now, deadline)
        messages, missed = self._events.drain()
        self._pending += messages
        self._missed |= missed or (not self._events.listening and now - self._looked_at_all >= _BLIND_SECONDS)
        listing = self._api.containers(deadline)
        # From here on nothing raises, so what was heard and seen is told exactly once.
        if self._missed:
            self._looked_at_all = now
        self._remember(now)
        waiting = self._containers.observe(listing, self._pending, missed=self._missed, now=now)
        self._missed = False
        events, gaps = self._inspector.inspect(waiting, at, deadline)
        samples = self._sample(at, now, deadline, gaps)
        events += [
            row for message in self._pending if (row := event_row(message, host=self._host, tenancy=self._tenancy))
        ]
        self._pending = []
        self._containers.resolve_gpus(self._inventory.host_gpus(self._host, local=self._is_local()))
        containers = self._containers.rows(at, now)
        self._publish(at)
        rows: list[Row] = [*self._host_rows(at, now), *containers, *samples, *events]
        path = {"cgroup": "the kernel's cgroup files", "api": "the daemon's API"}.get(self._reader.path, "nothing yet")
        heard = "" if self._events.listening else "; its events are not heard, so changes are found by looking"
        return Reading(
            rows=tuple(rows),
            gaps=tuple(gaps),
            detail=f"{len(listing)} containers, {len(samples)} read through {path}{heard}",
        )

    def _learn_host(self, now: float, deadline: float) -> None:
        """Once in an hour what the daemon says of itself; the first time also begin to listen."""
        if self._info_at is not None and now - self._info_at < REPEAT_SECONDS:
            return
        try:
            self._info = self._api.call(lambda client: json_object(client.info()), deadline)
        except SourceError as error:
            if error.reason != "denied":
                raise
            self._info = {}  # a socket proxy may keep /info shut: containers are read all the same
        self._version = self._api.call(lambda client: json_object(client.version()), deadline)
        if self._info_at is None:
            clock = parse_time(self._info.get("SystemTime"))
            baseline = 0 if clock is None else int(clock.timestamp()) * 10**9 + clock.microsecond * 1000
            self._containers.begin(baseline)
            self._events.start(max(baseline - _HISTORY_NANOSECONDS, 0))
            self._events.wait_listening(min(1.0, max(deadline - self._monotonic(), 0.0)))
        self._info_at = now
        self._addresses = frozenset()
        self._inspector.forget_images()  # a push gives an old image a digest

    def _remember(self, now: float) -> None:
        """Once after the start, what the store knew: a container removed while we were down is in no list and event."""
        known_before = self._known_before
        if known_before is None:
            return
        if self._before is None and (self._asked_before_at is None or now - self._asked_before_at >= _BLIND_SECONDS):
            self._asked_before_at = now

            def ask() -> None:
                self._before = known_before(self._host)

            # A store that is away or slow must not cost the poll its time: what it says later is taken in later.
            self._memory.each({"": ask}, now + 0.25 * self.timeout_seconds, workers=1)
        if self._before is not None:
            self._containers.remember(self._before)
            self._known_before = self._before = None

    def _is_local(self) -> bool:
        """The daemon runs on this machine and its PIDs are ours to read."""
        live = any(each.is_live for each in self._containers.containers())
        return self._is_unix and (self._reader.host_pids or not live)

    def _sample(self, at: datetime, now: float, deadline: float, gaps: list[Gap]) -> list[ContainerSample]:
        known = self._containers.containers()
        live = [each for each in known if each.is_live]
        gaps += [
            Gap(subject=each.listed.container_id[:12], reason="timeout", detail="new, not inspected yet")
            for each in self._containers.waiting()
        ]
        self._sampler.begin({each.listed.container_id for each in (*live, *self._containers.waiting())}, now)
        readings = self._reader.read([each for each in live if each.listed.state != "restarting"], deadline)
        heard = self._events.listening
        samples: list[ContainerSample] = []
        for each in live:
            reading = readings.get(each.listed.container_id)
            if isinstance(reading, Counters):
                samples.append(self._sampler.sample(each, reading, at, self._monotonic(), ooms_known=heard))
                continue
            words = "restarting: between two runs" if reading is None else f"{reading.reason}: {reading.detail}"
            samples.append(self._sampler.unreadable(each, at, words, ooms_known=heard))
            if reading is not None:
                self._containers.look_again(each.listed.container_id)
                gaps.append(reading)
        for each in (*known, *self._containers.removed()):  # the last restart or OOM kill of one that is down now
            life = each.life
            if not each.is_live and (life.pending_restarts or life.pending_ooms):
                samples.append(self._sampler.unreadable(each, at, "not running", ooms_known=heard))
        self._sampler.end({lifetime_of(each) for each in live})
        return samples

    def _host_rows(self, at: datetime, now: float) -> list[Row]:
        row = host_row(self._info, self._version, host=self._host, stats_path=self._reader.path, seen_at=at)
        stored = self._stored_host
        if stored is not None and replace(row, seen_at=stored.seen_at) == stored and self._info_at != now:
            return []
        self._stored_host = row
        return [row]

    def _publish(self, at: datetime) -> None:
        known = self._containers.containers()
        facts = tuple(each.facts for each in known if each.facts is not None)
        if not self._addresses:
            self._addresses = host_addresses(
                self._info, host=self._host, url=self._daemon.url, proc_root=self._daemon.proc_root, containers=facts
            )
        self._inventory.publish(
            HostInventory(host=self._host, at=at, local=self._is_local(), containers=facts, addresses=self._addresses)
        )


def _inspect_container(container_id: str, client: docker.APIClient) -> Mapping[str, object]:
    return json_object(client.inspect_container(container_id))


def _inspect_image(image: str, client: docker.APIClient) -> Mapping[str, object]:
    return json_object(client.inspect_image(image))


def _statistics(container_id: str, one_shot: bool | None, client: docker.APIClient) -> Mapping[str, object]:
    return json_object(client.stats(container_id, stream=False, one_shot=one_shot))
