"""GPUs, containers and hosts that only Prometheus sees: readings of exporters to rows, marked with their origin.

What our own collectors see is left to them: the same watt must not be counted twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from collectors.prometheus_claims import Claims
from collectors.prometheus_increments import FORGET_SECONDS, SeriesTracker
from collectors.prometheus_reading import TargetReading
from collectors.prometheus_subjects import NAME_LENGTH, Subject
from collectors.prometheus_targets import Target
from fleet.inventory import HostInventory
from fleet.model import Container, ContainerSample, Gpu, GpuSample, Host, Row
from fleet.redaction import inert
from fleet.tenancy import Tenancy, Tenant

CLAIM_INTERVALS = 2.5
#: Facts that did not change are written again this often, so that they are seen to be fresh.
FACTS_SECONDS = 60.0
FIRST_READING = "first reading: counters are counted from here"
NAMESPACE = "namespace"
_WHOLE = frozenset(
    each.name
    for kind in (GpuSample, ContainerSample, Container, Gpu, Host)
    for each in dataclasses.fields(kind)
    if str(each.type).startswith("int")
)
_PAUSE = "POD"  # the container that only holds a pod's network
Numbers = dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What our own collectors see, here or elsewhere: GPUs by UUID, containers by id, hosts by name or address."""

    gpus: frozenset[str] = frozenset()
    containers: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, hosts: Iterable[HostInventory], gpus: Iterable[str], more: Seen) -> Seen:
        """Of this process's inventory, and `more` of other collectors."""
        everywhere = list(hosts)
        return cls(
            gpus=frozenset(map(bare_uuid, gpus)) | frozenset(map(bare_uuid, more.gpus)),
            containers=more.containers | {facts.row.container_id for h in everywhere for facts in h.containers},
            hosts=more.hosts | {name for h in everywhere for name in (h.host, *h.addresses)},
        )


@dataclass(slots=True)
class _Entity:
    """One GPU, container or host, put together from all exporters that tell of it."""

    target: Target
    server: str
    seconds: float
    numbers: Numbers = field(default_factory=dict[str, float | None])
    facts: dict[str, str] = field(default_factory=dict[str, str])
    reasons: dict[str, None] = field(default_factory=dict[str, None])


@dataclass(slots=True)
class ExporterRows:
    """Makes the rows of one Prometheus server's exporters. Holds the memory of their counters between polls."""

    prometheus: str
    interval_seconds: float
    tenancy: Tenancy
    claims: Claims
    _tracker: SeriesTracker = field(init=False, default_factory=SeriesTracker)
    _read_at: dict[Hashable, float] = field(init=False, default_factory=dict[Hashable, float])
    _swept_at: float | None = field(init=False, default=None)
    _written: dict[Hashable, tuple[Gpu | Container | Host, datetime]] = field(
        init=False, default_factory=dict[Hashable, tuple[Gpu | Container | Host, datetime]]
    )

    @property
    def via(self) -> str:
        """Origin of every row."""
        return f"prometheus:{self.prometheus}"

    def rows(self, at: datetime, now: float, readings: Sequence[TargetReading], seen: Seen) -> list[Row]:
        """Rows of what nobody else sees. now: server clock, seconds."""
        made: list[Row] = []
        for table, make in (("gpu", self._gpu), ("container", self._container), ("host", self._host)):
            entities: dict[Hashable, _Entity] = {}
            for reading in readings:
                if reading.profile.table == table and not reading.target.is_stale(now):
                    self._gather(entities, now, reading)
            for key, entity in entities.items():
                rows = make(at, entity, key, seen)
                if rows and self._counts(at, (table, key)):
                    made += rows
        self._end_poll(now, {reading.target.key for reading in readings})
        return made

    def _gather(self, entities: dict[Hashable, _Entity], now: float, reading: TargetReading) -> None:
        before = self._read_at.get(reading.target.key)
        seconds = self.interval_seconds if before is None or now <= before else now - before
        for subject in reading.shown():
            key = self._key(reading, subject)
            entity = entities.get(key)
            if entity is None:
                entity = entities[key] = _Entity(reading.target, reading.profile.id, seconds)
            for about, said in reading.facts.get(subject, {}).items():
                entity.facts.setdefault(about, said)
            for wanted in reading.profile.infos:
                said = reading.infos.get(wanted.name, {}).get(subject, "")
                if said:
                    entity.facts.setdefault(wanted.name, said)
            for wanted in reading.profile.samples:
                value: float | None = None
                if wanted.type == "gauge":
                    value = reading.gauges.get(wanted.name, {}).get(subject)
                elif subject in reading.counters.get(wanted.name, {}):
                    series = reading.counters[wanted.name][subject]
                    grown = [self._tracker.increase((reading.target.key, one.series), one.value) for one in series]
                    known = [each for each in grown if each is not None]
                    value = sum(known) * wanted.scale if known or not series else None
                    if value is None:
                        entity.reasons[FIRST_READING] = None
                if wanted.name == "memory_limit_bytes" and value == 0.0:
                    continue  # cAdvisor's way to say that there is none
                if value is not None and entity.numbers.get(wanted.name) is None:
                    entity.numbers[wanted.name] = value
            for problem in reading.problems.values():
                if reading.profile.table != "container":  # its problems are those of some container, not of each
                    entity.reasons[problem] = None

    def _key(self, reading: TargetReading, subject: Subject) -> Hashable:
        table = reading.profile.table
        if table == "gpu":
            return (bare_uuid(subject[0]), subject[1])
        if table == "container":
            if subject[0]:
                return (self._cluster(reading.target), *subject)
            return subject if len(subject[2]) == 64 else (reading.target.endpoint, *subject)
        return reading.target.key

    def _cluster(self, target: Target) -> str:
        return target.labels.get("cluster", "") or self.prometheus

    def _counts(self, at: datetime, key: Hashable) -> bool:
        """Whether this server's rows count, where two of them scrape one exporter."""
        seconds = CLAIM_INTERVALS * self.interval_seconds
        held = self.claims.holder(key, prometheus=self.prometheus, endpoint="", at=at, seconds=seconds)
        return held.prometheus == self.prometheus

    def _gpu(self, at: datetime, entity: _Entity, key: Hashable, seen: Seen) -> list[Row]:
        del key
        facts, numbers = entity.facts, entity.numbers
        uuid = facts.get("gpu", "")
        if not uuid or bare_uuid(uuid) in seen.gpus:
            return []
        uuid = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
        instance = facts.get("mig_instance", "")
        host = facts.get("host", "") or host_of(entity.target)
        parts = [numbers.get(f"memory_{part}_bytes") for part in ("used", "free", "reserved")]
        if numbers.get("memory_total_bytes") is None and parts[0] is not None and parts[1] is not None:
            numbers["memory_total_bytes"] = sum(part for part in parts if part is not None)
        index = facts.get("index", "")
        common: dict[str, Any] = {
            "host": host,
            "gpu_uuid": f"{uuid}/{instance}" if instance else uuid,
            "parent_uuid": uuid if instance else "",
            "gpu_index": int(index) if index.isascii() and index.isdigit() else 0,
        }
        sample = GpuSample(
            at=at,
            interval_seconds=entity.seconds,
            unknown_reason="; ".join(entity.reasons),
            **common,
            **_columns(GpuSample, numbers),
        )
        gpu = Gpu(
            seen_at=at,
            name=facts.get("name", ""),
            mig_profile=facts.get("mig_profile", ""),
            driver_version=facts.get("driver_version", ""),
            via=self.via,
            **common,
            **_columns(Gpu, numbers),
        )
        return [sample, *self._changed(at, gpu)]

    def _container(self, at: datetime, entity: _Entity, key: Hashable, seen: Seen) -> list[Row]:
        facts, numbers = entity.facts, entity.numbers
        cid, name = facts.get("container_id", ""), facts.get("name", "")
        namespace, pod = facts.get("namespace", ""), facts.get("pod", "")
        if isinstance(key, tuple) and namespace and pod:
            name = str(key[-1])  # pyright: ignore[reportUnknownArgumentType]
        if cid in seen.containers or name == _PAUSE or not (cid or name) or (pod and not name):
            return []
        host = facts.get("host", "") or ("" if pod else host_of(entity.target))
        if pod:
            shown = f"{namespace}/{pod}/{name}"
            container_key = f"{self._cluster(entity.target)}:{shown}"
        else:
            shown = name if name and name != cid else cid[:12]
            container_key = f"{host}:{shown}"
        image = facts.get("image", "")
        owner = self._tenant(shown, image, namespace, pod, facts.get("tenant", ""))
        restarts = numbers.pop("restarts", None)
        running = numbers.get("cpu_seconds") is not None or numbers.get("memory_working_set_bytes") is not None
        state = facts.get("state", "") or ("running" if running else "")
        started = numbers.get("started_seconds")
        gpus = numbers.get("gpu_count")
        common: dict[str, Any] = {
            "host": host,
            "tenant": owner.tenant,
            "container_key": container_key,
            "container_id": cid,
        }
        sample = ContainerSample(
            at=at,
            interval_seconds=entity.seconds,
            restarts=round(restarts or 0.0),
            state=state,
            unknown_reason="; ".join(entity.reasons),
            **common,
            **_columns(ContainerSample, numbers),
        )
        labels = {name: text for name, text in (("namespace", namespace), ("pod", pod)) if text}
        row = Container(
            seen_at=at,
            team=owner.team,
            owner=owner.owner,
            tenant_origin=owner.origin,
            name=shown,
            image=image,
            image_id="",
            image_digest="",
            labels=labels,
            state=state,
            started_at=None if not started else datetime.fromtimestamp(started, UTC),
            gpu_request="" if not gpus else f"{gpus:g} GPUs",
            gpu_request_kind="" if not gpus else "count",
            via=self.via,
            **common,
            **_columns(Container, numbers),
        )
        return [sample, *self._changed(at, row)]

    def _tenant(self, name: str, image: str, namespace: str, pod: str, said: str) -> Tenant:
        """By the operator's rules, which may name the namespace as a label; else as labelled; else the namespace."""
        labels = {label: text for label, text in ((NAMESPACE, namespace), ("pod", pod), ("tenant", said)) if text}
        found = self.tenancy.resolve(name, image, labels)
        said = inert(said or namespace, NAME_LENGTH).strip()
        return dataclasses.replace(found, tenant=said, origin="label") if found.origin == "none" and said else found

    def _host(self, at: datetime, entity: _Entity, key: Hashable, seen: Seen) -> list[Row]:
        del key
        facts = entity.facts
        address = host_of(entity.target)
        host = facts.get("host", "")
        host = address if not host or host == entity.target.instance else host
        if host in seen.hosts or address in seen.hosts:
            return []
        row = Host(
            seen_at=at, host=host, os=facts.get("os", ""), kernel=facts.get("kernel", ""), via=self.via,
            **_columns(Host, entity.numbers),
        )  # fmt: skip
        return self._changed(at, row)

    def _changed(self, at: datetime, row: Gpu | Container | Host) -> list[Row]:
        """The row, unless the same was written a moment ago."""
        key: Hashable = (row.table, row.host, getattr(row, "gpu_uuid", ""), getattr(row, "container_key", ""))
        before = self._written.get(key)
        same = before is not None and dataclasses.replace(before[0], seen_at=at) == row
        if before is not None and same and (at - before[1]).total_seconds() < FACTS_SECONDS:
            return []
        self._written[key] = (row, at)
        return [row]

    def _end_poll(self, now: float, present: Collection[Hashable]) -> None:
        for key in present:
            self._read_at[key] = now
        if self._swept_at is None:
            self._swept_at = now
        elif now - self._swept_at > FORGET_SECONDS:
            self._tracker.sweep()
            self._read_at = {key: at for key, at in self._read_at.items() if now - at <= FORGET_SECONDS}
            self._written = {}
            self._swept_at = now


def bare_uuid(uuid: str) -> str:
    """A GPU's UUID without what some tools put in front of it."""
    return uuid.lower().removeprefix("gpu-").removeprefix("mig-")


def host_of(target: Target) -> str:
    """The machine behind a target, by its labels, else the host part of its address."""
    for label in ("node", "nodename", "docker_host", "host", "hostname"):
        if target.labels.get(label):
            return target.labels[label]
    return target.instance.rpartition(":")[0].strip("[]") or target.instance


def _columns(kind: type[Row], numbers: Mapping[str, float | None]) -> dict[str, Any]:
    names = {each.name for each in dataclasses.fields(kind)}
    return {
        name: round(value) if value is not None and name in _WHOLE else value
        for name, value in numbers.items()
        if name in names
    }
