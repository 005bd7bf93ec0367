"""`docker inspect` -> the facts of a container that may be stored, and those that joining needs.

Every text passes redaction here, and nothing else of an inspect object leaves: no environment, no command line.
Parts of an unexpected shape are read as not there, so that one odd container never costs the others their reading.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import cast

from fleet.allocation import Allocation, request_from_inspect, resolve
from fleet.inventory import ContainerFacts, HostGpu
from fleet.model import Container
from fleet.redaction import inert, redact_labels, redact_text
from fleet.tenancy import COMPOSE_PROJECT, COMPOSE_SERVICE, Tenancy, container_key

#: States in which a container has a cgroup and can use something.
LIVE_STATES = frozenset({"running", "paused", "restarting"})
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)?")
_HEALTH_IN_STATUS = re.compile(r"\((healthy|unhealthy|health: starting)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """What is stored about a container's image: registry digest ("" when it was built here) and when it was built."""

    digest: str = ""
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to look for a container's cgroup and network; never stored."""

    cgroup_parent: str = ""
    network_mode: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One line of `docker ps --all`, as far as a poll needs it."""

    container_id: str
    state: str
    health: str
    #: Changes when the container must be inspected again; does not change with its age.
    fingerprint: tuple[object, ...]


def listed(entry: Mapping[str, object]) -> Listed | None:
    """An entry of the list call; None when it has no id."""
    container_id = _text(entry.get("Id"))
    if not container_id:
        return None
    state, status = _text(entry.get("State")).lower(), _text(entry.get("Status"))
    found = _HEALTH_IN_STATUS.search(status)
    health = "" if found is None else found[1].removeprefix("health: ")
    exit_status = "" if state == "running" else status.partition(")")[0]
    return Listed(
        container_id=container_id,
        state=inert(state, 32),
        health=health,
        fingerprint=(state, health, exit_status, _text(entry.get("ImageID")), str(entry.get("Names"))),
    )


def facts_from_inspect(
    inspect: Mapping[str, object], *, host: str, tenancy: Tenancy, image: ImageFacts, seen_at: datetime
) -> ContainerFacts:
    """The facts of one container. Raises ValueError when the object has no id."""
    container_id = _text(inspect.get("Id"))
    if not container_id:
        raise ValueError("inspect object without Id")
    config, host_config = _mapping(inspect.get("Config")), _mapping(inspect.get("HostConfig"))
    state, network = _mapping(inspect.get("State")), _mapping(inspect.get("NetworkSettings"))
    labels = _labels(config.get("Labels"))
    name = _text(inspect.get("Name")).removeprefix("/")
    reference = _text(config.get("Image"))
    tenant = tenancy.resolve(name, reference, labels)
    gpu = request_from_inspect(inspect)
    gpu = replace(gpu, text=inert(redact_text(gpu.text), 256))
    status = _text(state.get("Status")).lower()
    ports = _mapping(network.get("Ports"))
    row = Container(
        seen_at=seen_at,
        host=host,
        tenant=tenant.tenant,
        team=tenant.team,
        owner=tenant.owner,
        tenant_origin=tenant.origin,
        container_key=container_key(host, name, labels),
        container_id=inert(container_id, 64),
        name=inert(redact_text(name), 256),
        image=inert(redact_text(reference), 256),
        image_id=inert(_text(inspect.get("Image")), 80),
        image_digest=image.digest,
        image_created_at=image.created_at,
        compose_project=inert(labels.get(COMPOSE_PROJECT, ""), 128),
        compose_service=inert(labels.get(COMPOSE_SERVICE, ""), 128),
        labels=redact_labels(labels),
        user=inert(_text(config.get("User")), 128),
        state=inert(status, 32),
        health=_health(state),
        exit_code=None if status in {"running", "paused", "created"} else _integer(state.get("ExitCode")),
        oom_killed=state.get("OOMKilled") is True,
        error=inert(redact_text(_text(state.get("Error")))),
        created_at=parse_time(inspect.get("Created")),
        started_at=parse_time(state.get("StartedAt")),
        finished_at=parse_time(state.get("FinishedAt")),
        restart_count=_integer(inspect.get("RestartCount")) or 0,
        cpu_limit_cores=_cpu_limit(host_config),
        memory_limit_bytes=_integer(host_config.get("Memory")) or None,
        gpu_request=gpu.text,
        gpu_request_kind=gpu.kind,
        privileged=host_config.get("Privileged") is True,
    )
    networks = {key: _mapping(value) for key, value in _mapping(network.get("Networks")).items()}
    return ContainerFacts(
        row=row,
        pid=max(_integer(state.get("Pid")) or 0, 0),
        network_addresses={
            inert(key, 128): address for key, value in networks.items() if (address := _text(value.get("IPAddress")))
        },
        aliases=_aliases(name, container_id, labels, config, networks),
        published_ports=_published(ports),
        exposed_ports=frozenset(
            port
            for key in (*_mapping(config.get("ExposedPorts")), *ports)
            if (port := _tcp_port(key)) is not None
        ),
        host_network=_text(host_config.get("NetworkMode")) == "host",
        gpu=gpu,
    )  # fmt: skip


def with_gpus(facts: ContainerFacts, gpus: Sequence[HostGpu] | None) -> ContainerFacts:
    """The facts with the request resolved on the host's full list; without a list nothing is known of either."""
    found = Allocation() if gpus is None else resolve(facts.gpu, gpus)
    unresolved = tuple(inert(redact_text(name), 128) for name in found.unresolved)
    return replace(facts, row=replace(facts.row, gpu_uuids=found.uuids, gpu_unresolved=unresolved))


def place_from_inspect(inspect: Mapping[str, object]) -> Place:
    """Where the container's cgroup and network are to be looked for."""
    host_config = _mapping(inspect.get("HostConfig"))
    return Place(
        cgroup_parent=_text(host_config.get("CgroupParent")), network_mode=_text(host_config.get("NetworkMode"))
    )


def image_facts(inspect: Mapping[str, object], reference: str) -> ImageFacts:
    """Digest and age from an image inspect object; the digest of the repository in `reference` before any other."""
    digests = [_text(item) for item in _sequence(inspect.get("RepoDigests"))]
    repository = reference.partition("@")[0]
    if "/" in repository or ":" in repository:  # a port in the registry's name is no tag
        head, _, tail = repository.rpartition("/")
        repository = f"{head}/{tail.partition(':')[0]}" if head else tail.partition(":")[0]
    digests.sort(key=lambda text: text.partition("@")[0] != repository)
    return ImageFacts(
        digest=inert(digests[0].partition("@")[2], 80) if digests else "", created_at=parse_time(inspect.get("Created"))
    )


def parse_time(value: object) -> datetime | None:
    """A time of the daemon (RFC 3339 with nanoseconds) as aware UTC; None for its zero time and for no time."""
    found = _TIME.fullmatch(_text(value))
    if found is None or found[1].startswith("0001-"):
        return None
    fraction = (found[2] or "")[:6].ljust(6, "0")
    zone = "+00:00" if found[3] in {None, "Z"} else found[3]
    try:
        return datetime.fromisoformat(f"{found[1]}.{fraction}{zone}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _health(state: Mapping[str, object]) -> str:
    health = _text(_mapping(state.get("Health")).get("Status")).lower()
    return "" if health == "none" else inert(health, 32)


def _cpu_limit(host_config: Mapping[str, object]) -> float | None:
    nano = _integer(host_config.get("NanoCpus")) or 0
    if nano > 0:
        return nano / 1e9
    quota, period = _integer(host_config.get("CpuQuota")) or 0, _integer(host_config.get("CpuPeriod")) or 100_000
    return quota / period if quota > 0 and period > 0 else None


def _aliases(
    name: str,
    container_id: str,
    labels: Mapping[str, str],
    config: Mapping[str, object],
    networks: Mapping[str, Mapping[str, object]],
) -> frozenset[str]:
    names = {name, container_id[:12], labels.get(COMPOSE_SERVICE, ""), _text(config.get("Hostname"))}
    for settings in networks.values():
        for key in ("Aliases", "DNSNames"):
            names.update(_text(alias) for alias in _sequence(settings.get(key)))
    return frozenset(inert(alias, 256) for alias in names if alias)


def _published(ports: Mapping[str, object]) -> tuple[tuple[str, int, int], ...]:
    found: set[tuple[str, int, int]] = set()
    for key, bindings in ports.items():
        port = _tcp_port(key)
        for binding in _sequence(bindings):
            host_port = _text(_mapping(binding).get("HostPort"))
            if port is not None and host_port.isascii() and host_port.isdigit():
                found.add((_text(_mapping(binding).get("HostIp")) or "0.0.0.0", int(host_port), port))  # noqa: S104
    return tuple(sorted(found))


def _tcp_port(key: str) -> int | None:
    number, _, protocol = key.partition("/")
    return int(number) if number.isascii() and number.isdigit() and protocol in {"", "tcp"} else None


def _labels(value: object) -> dict[str, str]:
    return {key: item for key, item in _mapping(value).items() if isinstance(item, str)}


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _sequence(value: object) -> Sequence[object]:
    return cast("Sequence[object]", value) if isinstance(value, list | tuple) else ()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
