"""Which container answers at a Prometheus target: evidence in a fixed order, and never a guess.

    map        the operator's own rule
    id         a container id among the target's labels
    discovery  the container id that Prometheus' service discovery saw, kept by its targets API
    name       container or compose names among the labels, one candidate on the host they name
    address    the dialled address: a network IP, a published port, a container name or alias
    ambiguous  several containers fit equally: reported, not picked
    none       nothing fits; the reason lists what was tried

Stronger evidence that names something we do not know ends the search: a target that carries the id of a removed
container must not fall through to whichever container has since been given its IP.
"""

from __future__ import annotations

import ipaddress
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, TypeVar
from urllib.parse import urlsplit

from fleet.inventory import ContainerFacts, HostInventory

JoinedBy = Literal["map", "id", "discovery", "name", "address", "ambiguous", "none"]
K = TypeVar("K")

EXTERNAL = "external"
ID_LABELS = ("container_id", "docker_container_id", "container_runtime_id", "id")
NAME_LABELS = ("container", "container_name", "name", "exported_container")
HOST_LABELS = ("docker_host", "host", "hostname", "node", "nodename")
DISCOVERED_IDS = ("__meta_docker_container_id", "__meta_dockerswarm_task_container_id")
COMPOSE_LABELS = (
    ("compose_project", "compose_service", "container_number"),
    ("com_docker_compose_project", "com_docker_compose_service", "com_docker_compose_container_number"),
    (
        "container_label_com_docker_compose_project",
        "container_label_com_docker_compose_service",
        "container_label_com_docker_compose_container_number",
    ),
)
ANY_ADDRESS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - how Docker writes "published on every address"
LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost", "host.docker.internal"})
#: A scrape is stamped when it begins, on another clock than the daemon's; a second of disagreement is no evidence.
CLOCK_TOLERANCE = timedelta(seconds=1)

_LONG_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_SHORT_ID = re.compile(r"^[0-9a-f]{12}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class MapRule:
    """An operator's word on a target: both patterns must match whole; an empty one matches everything.

    container: a container id, `container_key` or name, or "external" for what runs outside the watched daemons.
    """

    container: str
    job: str = ""
    instance: str = ""

    def __post_init__(self) -> None:
        for name, pattern in (("job", self.job), ("instance", self.instance)):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"prometheus map rule for {self.container!r}: {name} = {pattern!r} is not a regular expression"
                    f" ({error}); escape special characters with a backslash"
                ) from error
        if not self.container:
            raise ValueError("prometheus map rule: container is empty, write a container name, key, id or 'external'")

    def matches(self, job: str, instance: str) -> bool:
        """Whether this rule speaks of the target."""
        return bool(re.fullmatch(self.job or ".*", job) and re.fullmatch(self.instance or ".*", instance))


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What is known of one scrape target. `scrape_url` is what Prometheus dials, whatever `instance` was renamed to."""

    job: str
    instance: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    discovered: Mapping[str, str] = field(default_factory=dict[str, str])
    scrape_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """The answer: `container` is None for "ambiguous" and "none", and for a target mapped as external."""

    by: JoinedBy
    reason: str
    container: ContainerFacts | None = None
    port: int | None = None  # the container's own port behind the dialled one, when it is known
    candidates: tuple[str, ...] = ()


class Joiner:
    """All watched containers, indexed once per poll; `join` then costs a few dictionary look-ups per target."""

    def __init__(
        self, hosts: Sequence[HostInventory], *, rules: Sequence[MapRule] = (), prometheus_host: str | None = None
    ) -> None:
        """prometheus_host: name of the watched host that Prometheus runs on, None when unknown or elsewhere."""
        self._hosts = {host.host: host for host in hosts}
        self._rules = tuple(rules)
        self._prometheus_host = prometheus_host
        everything = [(host.host, facts) for host in hosts for facts in host.containers]
        running = [(name, facts) for name, facts in everything if _holds_addresses(facts)]
        self._by_id = {facts.row.container_id: facts for _, facts in everything}
        self._by_short_id = _index((facts.row.container_id[:12], facts) for _, facts in everything)
        self._by_key = _index((facts.row.container_key, facts) for _, facts in everything)
        self._by_name = _index((facts.row.name.lstrip("/"), facts) for _, facts in everything)
        self._by_service = _index(
            ((facts.row.compose_project, facts.row.compose_service), facts)
            for _, facts in everything
            if facts.row.compose_service
        )
        self._by_ip = _index((ip, facts) for _, facts in running for ip in set(facts.network_addresses.values()) if ip)
        self._by_published = _index(
            ((host, port), facts) for host, facts in running for port in {port for _, port, _ in facts.published_ports}
        )
        self._by_dns = _index((dns, facts) for _, facts in running for dns in _dns_names(facts))
        self._host_networked = _index((host, facts) for host, facts in running if facts.host_network)
        self._host_of = {address: host.host for host in hosts for address in {host.host, *host.addresses}}

    def join(self, endpoint: Endpoint) -> Join:
        """The container behind one target, how it was found, and why not when it was not."""
        if not self._hosts:
            return Join(by="none", reason="no container list has been read yet; see the Docker source")
        tried: list[str] = []
        steps = (self._mapped, self._explicit_id, self._discovered_id, self._named, self._addressed)
        for step in steps:
            answer = step(endpoint, tried)
            if answer is not None:
                return answer
        return Join(by="none", reason="; ".join(tried) or "the target has neither labels nor an address to go by")

    def _mapped(self, endpoint: Endpoint, tried: list[str]) -> Join | None:
        del tried
        rule = next((rule for rule in self._rules if rule.matches(endpoint.job, endpoint.instance)), None)
        if rule is None:
            return None
        if rule.container == EXTERNAL:
            return Join(by="map", reason="mapped as external: it runs outside the watched daemons")
        wanted = rule.container.lstrip("/")
        found = (
            _listed(self._by_id.get(wanted)) or self._by_short_id[wanted] or self._by_key[wanted]
        ) or self._by_name[wanted]
        why = f"map rule says {rule.container}"
        return _decide("map", found, why) or Join(by="none", reason=f"{why}, but no such container is known")

    def _explicit_id(self, endpoint: Endpoint, tried: list[str]) -> Join | None:
        for label in ID_LABELS:
            text = endpoint.labels.get(label, "").lower()
            answer = self._by_container_id("id", f"label {label}", text, exclusive=label != "id")
            if answer is not None:
                return answer
        # With the containerd image store, cAdvisor knows no names and writes the id instead.
        name = endpoint.labels.get("name", "").lower()
        answer = self._by_container_id("id", "label name", name, exclusive=False) if _LONG_ID.search(name) else None
        if answer is not None:
            return answer
        tried.append("no container id among the labels")
        return None

    def _discovered_id(self, endpoint: Endpoint, tried: list[str]) -> Join | None:
        for label in DISCOVERED_IDS:
            answer = self._by_container_id("discovery", label, endpoint.discovered.get(label, "").lower())
            if answer is not None:
                return answer
        tried.append("not found by Docker service discovery")
        return None

    def _by_container_id(self, by: JoinedBy, where: str, text: str, *, exclusive: bool = True) -> Join | None:
        """exclusive: an id that nobody knows ends the search. Plain `id` labels are also used for other things."""
        long = _LONG_ID.search(text)
        if long is not None:
            facts = self._by_id.get(long.group())
            found, shown = _listed(facts), long.group()[:12]
        elif _SHORT_ID.match(text):
            found, shown = self._by_short_id[text], text
        else:
            return None
        answer = _decide(by, found, f"{where} is {shown}")
        if answer is not None or not exclusive:
            return answer
        return Join(
            by="none", reason=f"{where} is {shown}, which no watched daemon has: removed, or a daemon not watched"
        )

    def _named(self, endpoint: Endpoint, tried: list[str]) -> Join | None:
        labels = endpoint.labels
        for project_label, service_label, number_label in COMPOSE_LABELS:
            project, service = labels.get(project_label, ""), labels.get(service_label, "")
            if not (project and service):
                continue
            found = self._by_service[project, service]
            number = labels.get(number_label, "")
            if number:
                found = [c for c in found if c.row.labels.get("com.docker.compose.container-number") == number]
            answer = self._on_host(found, labels, f"compose service {project}/{service}")
            if answer is not None:
                return answer
            tried.append(f"no container of compose service {project}/{service}")
        for label in NAME_LABELS:
            name = labels.get(label, "").lstrip("/")
            if not name:
                continue
            answer = self._on_host(self._by_name[name], labels, f"label {label} is {name}")
            if answer is not None:
                return answer
            tried.append(f"label {label} is {name}, no container has that name")
        return None

    def _on_host(self, found: list[ContainerFacts], labels: Mapping[str, str], why: str) -> Join | None:
        """Names are unique per daemon only: take the host the labels name, or the one candidate there is."""
        if not found:
            return None
        for label in HOST_LABELS:
            if labels.get(label):
                host = self._host_of.get(labels[label])
                here = [facts for facts in found if facts.row.host == host]
                if here:
                    return _decide("name", here, f"{why} on {host}")
                return Join(
                    by="none",
                    reason=f"{why}, but label {label} is {labels[label]}, where no such container is known",
                    candidates=_names(found),
                )
        return _decide("name", found, why)

    def _addressed(self, endpoint: Endpoint, tried: list[str]) -> Join | None:
        addresses = (_netloc(endpoint.scrape_url), endpoint.discovered.get("__address__", ""), endpoint.instance)
        for address in dict.fromkeys(address for address in addresses if address):
            host, port = _split(address)
            answer = self._at(host, port, tried)
            if answer is not None:
                return answer
        return None

    def _at(self, host: str, port: int | None, tried: list[str]) -> Join | None:
        ip = _ip(host)
        shown = f"{host}:{port}" if port else host
        if (ip is not None and ip.is_loopback) or host in LOOPBACK_NAMES:
            if self._prometheus_host is None:
                tried.append(f"{shown} is Prometheus' own machine, and no watched host is named as that")
                return None
            return self._on_port(self._prometheus_host, host, port, tried)
        if host in self._host_of:
            return self._on_port(self._host_of[host], host, port, tried)
        if ip is None:
            return self._by_network_name(host, port, shown, tried)
        found = self._by_ip[host]
        if not found:
            tried.append(f"no container has the address {host}")
            return None
        if self._prometheus_host is not None:
            near = [facts for facts in found if facts.row.host == self._prometheus_host]
            if not near:
                tried.append(
                    f"{host} belongs to {', '.join(_names(found))}, but Prometheus runs on {self._prometheus_host}"
                    " and bridge addresses do not reach over hosts"
                )
                return None
            found = near
        return _decide("address", found, f"address {host}", port)

    def _by_network_name(self, host: str, port: int | None, shown: str, tried: list[str]) -> Join | None:
        found = self._by_dns[host]
        if self._prometheus_host is not None:
            found = [facts for facts in found if facts.row.host == self._prometheus_host] or found
        if not found:
            tried.append(f"{shown} is no container name, alias, service or watched host")
            return None
        return _decide("address", found, f"network name {host}", port)

    def _on_port(self, host: str, dialled: str, port: int | None, tried: list[str]) -> Join | None:
        if port is None:
            tried.append(f"{dialled} is host {host}, but without a port")
            return None
        found: list[ContainerFacts] = []
        inner: set[int] = set()
        for facts in self._by_published[host, port]:
            inside = {
                c for ip, p, c in facts.published_ports if p == port and (ip in ANY_ADDRESS or _reaches(ip, dialled))
            }
            if inside:
                found.append(facts)
                inner |= inside
        if found:
            return _decide(
                "address", found, f"published port {port} of {host}", inner.pop() if len(inner) == 1 else port
            )
        sharing = [facts for facts in self._host_networked[host] if port in facts.exposed_ports]
        if sharing:
            return _decide("address", sharing, f"port {port} exposed on the network of {host}", port)
        tried.append(f"nothing known listens on port {port} of {host}")
        return None


def is_older_than_start(scraped_at: datetime, container: ContainerFacts) -> bool:
    """Whether a scrape was taken before the container began its present life, so of somebody else."""
    started = container.row.started_at
    return started is not None and scraped_at < started - CLOCK_TOLERANCE


def _decide(by: JoinedBy, found: list[ContainerFacts], why: str, port: int | None = None) -> Join | None:
    if not found:
        return None
    if len(found) > 1:
        names = _names(found)
        reason = f"{why}: {len(names)} containers fit ({', '.join(names[:5])}); add a container_id label or a map rule"
        return Join(by="ambiguous", reason=reason, candidates=names)
    return Join(by=by, reason=why, container=found[0], port=port)


def _index(pairs: Iterable[tuple[K, ContainerFacts]]) -> defaultdict[K, list[ContainerFacts]]:
    index: defaultdict[K, list[ContainerFacts]] = defaultdict(list)
    for key, facts in pairs:
        index[key].append(facts)
    return index


def _listed(facts: ContainerFacts | None) -> list[ContainerFacts]:
    return [] if facts is None else [facts]


def _names(found: Sequence[ContainerFacts]) -> tuple[str, ...]:
    return tuple(sorted(facts.row.container_key for facts in found))


def _holds_addresses(facts: ContainerFacts) -> bool:
    return facts.row.state in ("", "running", "paused")


def _dns_names(facts: ContainerFacts) -> set[str]:
    names = {facts.row.name.lstrip("/"), facts.row.compose_service, facts.row.container_id[:12], *facts.aliases}
    return {name for name in names if name}


def _netloc(url: str) -> str:
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return ""


def _split(address: str) -> tuple[str, int | None]:
    """("::1", 8000) of "[::1]:8000"; the port is None when there is none."""
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return address, None
    return host, port


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _reaches(published: str, dialled: str) -> bool:
    """Whether a port published on one address of a host answers when that host is dialled by this name or address."""
    mine, theirs = _ip(published), _ip(dialled)
    loopback = dialled in LOOPBACK_NAMES or (theirs is not None and theirs.is_loopback)
    if mine is None or mine.is_loopback or loopback:
        return mine is not None and mine.is_loopback and loopback
    return theirs is None or mine == theirs  # a host name stands for whichever outer address it resolves to
