"""The demo fleet as rows: the same dataclasses the real sources produce, for one instant or for many at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import numpy as np

from collectors.synthetic.devices import GPUS, HOLDINGS, DeviceModel, Devices
from collectors.synthetic.facts import HOST_ROWS_TARGET, PROMETHEUS, Facts
from collectors.synthetic.layout import ENDPOINTS, GIB, HOSTS, MEMBERS, MIB, Identities
from collectors.synthetic.load import Load, LoadModel
from collectors.synthetic.noise import Floats, Noise
from collectors.synthetic.processes import Processes, ProcessModel
from collectors.synthetic.story import DEPLOYED, NOISY, UNHEALTHY, Story
from fleet.model import (
    UNATTRIBUTED,
    Attribution,
    ContainerGpuSample,
    ContainerSample,
    Event,
    GpuSample,
    Histogram,
    InferenceSample,
    Row,
    SourceRun,
)

SYNTHETIC = "synthetic"
_IDLE_REASON = "idle power and processes outside any container"


class SyntheticFleet:
    """Rows of the demo fleet: a pure function of (seed, origin, instant, interval)."""

    def __init__(self, seed: int, origin: datetime) -> None:
        self.seed = seed
        self.origin = origin
        self.identities = Identities(seed)
        self.story = Story(origin=origin.timestamp())
        noise = Noise(seed)
        self._noise = noise
        self._load = LoadModel(noise, self.story)
        self._devices = DeviceModel(noise, self.story)
        self._processes = ProcessModel(noise, self.story)
        self._uuids = {(host, index): self.identities.gpu_uuid(host, index) for host, index, _ in GPUS}
        self._facts = Facts(seed=seed, story=self.story, identities=self.identities, uuids=self._uuids)

    @property
    def detail(self) -> str:
        """What a synthetic source run says of itself; `collectors.demo` reads the origin back from it."""
        return f"synthetic, seed {self.seed}, origin {self.origin:%Y-%m-%dT%H:%M:%SZ}"

    def rows(self, at: datetime, interval_seconds: float) -> tuple[Row, ...]:
        """All samples of one instant; increments cover the `interval_seconds` before it."""
        return tuple(self.block([at], interval_seconds))

    def facts(self, at: datetime) -> tuple[Row, ...]:
        """Hosts, GPUs and containers as they are at that instant."""
        running = self._processes.running(np.array([at.timestamp()]))[0]
        return self._facts.rows(at, running)

    def events(self, start: datetime, end: datetime) -> tuple[Event, ...]:
        """What happened in [start, end)."""
        return tuple(self.story.events(start.timestamp(), end.timestamp(), self.identities, self._uuids))

    def block(self, instants: Sequence[datetime], interval_seconds: float) -> list[Row]:
        """All samples of the instants, which lie `interval_seconds` apart."""
        seconds = np.array([at.timestamp() for at in instants])
        load = self._load.load(seconds, interval_seconds)
        running = self._processes.running(seconds)
        devices = self._devices.devices(seconds, interval_seconds, load, running)
        processes = self._processes.processes(seconds, interval_seconds, load, running)
        readable = ~self.story.in_gap(seconds)
        rows: list[Row] = []
        rows.extend(self._container_rows(instants, seconds, interval_seconds, processes))
        rows.extend(self._gpu_rows(instants, interval_seconds, devices))
        rows.extend(self._holder_rows(instants, seconds, interval_seconds, devices))
        rows.extend(self._inference_rows(instants, seconds, interval_seconds, load, readable))
        rows.extend(self._histogram_rows(instants, seconds, interval_seconds, load, readable))
        rows.extend(self._run_rows(instants, seconds, interval_seconds, readable))
        return rows

    def run_row(self, at: datetime, interval_seconds: float, took_seconds: float, rows: int) -> SourceRun:
        """The marker of one synthetic poll: the dashboard says DEMO for it, a later back-fill continues after it."""
        return SourceRun(
            at=at, source=SYNTHETIC, target="demo", state="ok", interval_seconds=interval_seconds,
            took_seconds=took_seconds, rows=rows, detail=self.detail,
        )  # fmt: skip

    def _ids(self, index: int, seconds: Floats) -> list[str]:
        key = MEMBERS[index].key
        if index != DEPLOYED:
            return [self.identities.container_id(key)] * seconds.size
        old, new = self.identities.container_id(key), self.identities.container_id(key, 1)
        return [old if at < self.story.deploy_at else new for at in seconds.tolist()]

    def _container_rows(
        self, instants: Sequence[datetime], seconds: Floats, interval: float, processes: Processes
    ) -> Iterable[Row]:
        for index, member in enumerate(MEMBERS):
            limit = None if member.memory_limit_gib is None else round(member.memory_limit_gib * GIB)
            host, tenant, key, cores = member.host, member.tenant, member.key, member.core_limit
            columns = (
                getattr(processes, name)[:, index].tolist()
                for name in (
                    "cpu_seconds", "cpu_periods", "throttled_periods", "throttled_seconds", "memory", "cache",
                    "received", "sent", "read", "written", "pids", "restarts", "oom_kills", "running",
                )
            )  # fmt: skip
            health = self._facts.healthy_word(member)
            for (
                at,
                moment,
                identity,
                cpu,
                periods,
                held,
                held_seconds,
                memory,
                cache,
                rx,
                tx,
                read,
                write,
                pids,
                again,
                oom,
                up,
            ) in zip(instants, seconds.tolist(), self._ids(index, seconds), *columns, strict=True):
                if not up and index == NOISY:
                    continue  # a container that has ended has no sample, as from the Docker source
                if not up:
                    yield ContainerSample(
                        at=at, host=host, tenant=tenant, container_key=key, container_id=identity,
                        interval_seconds=interval, cpu_limit_cores=cores, memory_limit_bytes=limit, restarts=again,
                        oom_kills=oom, state="restarting", unknown_reason="restarting: between two runs",
                    )  # fmt: skip
                    continue
                sick = index == UNHEALTHY and moment >= self.story.unhealthy_from
                yield ContainerSample(
                    at=at, host=host, tenant=tenant, container_key=key, container_id=identity,
                    interval_seconds=interval, cpu_seconds=cpu, cpu_periods=periods, cpu_throttled_periods=held,
                    cpu_throttled_seconds=held_seconds, cpu_limit_cores=cores, memory_working_set_bytes=memory,
                    memory_cache_bytes=cache, memory_limit_bytes=limit, network_receive_bytes=rx,
                    network_transmit_bytes=tx, block_read_bytes=read, block_write_bytes=write, pids=pids,
                    restarts=again, oom_kills=oom, state="running", health="unhealthy" if sick else health,
                )  # fmt: skip

    def _gpu_rows(self, instants: Sequence[datetime], interval: float, devices: Devices) -> Iterable[Row]:
        for number, (host, index, model) in enumerate(GPUS):
            columns = (
                getattr(devices, name)[:, number].tolist()
                for name in (
                    "busy", "sm_active", "memory_used", "watts", "temperature", "clock_mhz", "throttle", "processes",
                    "xid", "broken",
                )
            )  # fmt: skip
            uuid = self._uuids[host, index]
            for at, busy, active, memory, watts, celsius, clock, throttle, count, xid, broken in zip(
                instants, *columns, strict=True
            ):
                yield GpuSample(
                    at=at, host=host, gpu_uuid=uuid, gpu_index=index, interval_seconds=interval, busy_ratio=busy,
                    sm_active_ratio=active if model.reports_sm_activity else None,
                    sm_occupancy_ratio=round(active * 0.48, 4) if model.reports_sm_activity else None,
                    tensor_active_ratio=round(active * 0.41, 4) if model.reports_sm_activity else None,
                    dram_active_ratio=round(active * 0.66, 4) if model.reports_sm_activity else None,
                    memory_used_bytes=memory, memory_reserved_bytes=614 * MIB, memory_total_bytes=model.memory_bytes,
                    power_watts=watts, power_limit_watts=model.limit_watts, energy_joules=watts * interval,
                    temperature_celsius=celsius, memory_temperature_celsius=celsius + 6.0, sm_clock_mhz=clock,
                    memory_clock_mhz=model.memory_clock_mhz, throttle_reasons=throttle, ecc_corrected=0,
                    ecc_uncorrected=1 if xid else 0, remapped_rows=1 if broken else 0, remap_pending=broken,
                    xid=xid or None, process_count=count,
                )  # fmt: skip

    def _holder_rows(
        self, instants: Sequence[datetime], seconds: Floats, interval: float, devices: Devices
    ) -> Iterable[Row]:
        for column, (member_index, number, _) in enumerate(HOLDINGS):
            member, (host, index, _) = MEMBERS[member_index], GPUS[number]
            shared = (host, index) == ("gpu-b01", 3)
            attribution: Attribution = "estimated" if shared else "measured"
            reason = "two holders under MPS: activity is credited to one process a sample" if shared else ""
            uuid, tenant, key = self._uuids[host, index], member.tenant, member.key
            columns = (
                getattr(devices, name)[:, column].tolist()
                for name in ("held_present", "held_memory", "held_sm", "held_watts")
            )
            for at, identity, present, memory, sm, watts in zip(
                instants, self._ids(member_index, seconds), *columns, strict=True
            ):
                if present:
                    yield ContainerGpuSample(
                        at=at, host=host, tenant=tenant, container_key=key, container_id=identity, gpu_uuid=uuid,
                        interval_seconds=interval, held=True, memory_bytes=memory, sm_ratio=sm, power_watts=watts,
                        energy_joules=watts * interval, attribution=attribution, attribution_reason=reason,
                    )  # fmt: skip
        for number, (host, index, _) in enumerate(GPUS):
            uuid = self._uuids[host, index]
            columns = (
                getattr(devices, name)[:, number].tolist() for name in ("stray_memory", "stray_sm", "stray_watts")
            )
            for at, memory, sm, watts in zip(instants, *columns, strict=True):
                yield ContainerGpuSample(
                    at=at, host=host, tenant=UNATTRIBUTED, container_key=UNATTRIBUTED, container_id="", gpu_uuid=uuid,
                    interval_seconds=interval, held=False, memory_bytes=memory, sm_ratio=sm, power_watts=watts,
                    energy_joules=watts * interval, attribution="measured", attribution_reason=_IDLE_REASON,
                )  # fmt: skip

    def _inference_rows(
        self, instants: Sequence[datetime], seconds: Floats, interval: float, load: Load, readable: np.ndarray
    ) -> Iterable[Row]:
        names = (
            "requests", "errors", "prompt_tokens", "generation_tokens", "cached_tokens", "waiting", "running",
            "kv_cache",
        )  # fmt: skip
        arrays = [getattr(load, name) for name in names]
        seen = readable.tolist()
        for column, endpoint in enumerate(ENDPOINTS):
            member = MEMBERS[endpoint.member]
            address = self._facts.address(endpoint.member, endpoint.port)
            columns = (array[:, column].tolist() for array in arrays)
            for at, identity, ok, requests, errors, prompt, generated, cached, waiting, running, kv in zip(
                instants, self._ids(endpoint.member, seconds), seen, *columns, strict=True
            ):
                if ok:
                    yield InferenceSample(
                        at=at, host=member.host, tenant=member.tenant, container_key=member.key, container_id=identity,
                        prometheus=PROMETHEUS, endpoint=address, server="vllm", model=endpoint.model,
                        interval_seconds=interval, up=True, requests=requests, errors=errors, prompt_tokens=prompt,
                        generation_tokens=generated, cached_tokens=cached, requests_waiting=waiting,
                        requests_running=running, kv_cache_ratio=kv, joined_by="container_id",
                        join_reason="the series carries the container's id",
                    )  # fmt: skip

    def _histogram_rows(
        self, instants: Sequence[datetime], seconds: Floats, interval: float, load: Load, readable: np.ndarray
    ) -> Iterable[Row]:
        seen = readable.tolist()
        for column, endpoint in enumerate(ENDPOINTS):
            member = MEMBERS[endpoint.member]
            identities = self._ids(endpoint.member, seconds)
            address = self._facts.address(endpoint.member, endpoint.port)
            for name, buckets in load.buckets.items():
                if endpoint.itl_seconds == 0 and name in ("itl_seconds", "generation_tokens"):
                    continue
                counts, sums = buckets.counts[:, column].tolist(), buckets.sums[:, column].tolist()
                for at, identity, ok, increments, total in zip(instants, identities, seen, counts, sums, strict=True):
                    if ok:
                        yield Histogram(
                            at=at, host=member.host, tenant=member.tenant, container_key=member.key,
                            container_id=identity, endpoint=address, server="vllm", model=endpoint.model, field=name,
                            interval_seconds=interval, bounds=buckets.bounds, increments=tuple(increments),
                            sum_increment=total,
                        )  # fmt: skip

    def _run_rows(
        self, instants: Sequence[datetime], seconds: Floats, interval: float, readable: np.ndarray
    ) -> Iterable[Row]:
        ticks = np.round(seconds * 1000).astype(np.int64)
        took = np.round(0.004 + 0.02 * self._noise.uniform(40, 2 * len(HOSTS) + 1, ticks) ** 3, 4).tolist()
        for position, (at, ok) in enumerate(zip(instants, readable.tolist(), strict=True)):
            for number, (host, _) in enumerate(HOSTS):
                for offset, source in enumerate(("docker", "nvml")):
                    yield SourceRun(
                        at=at, source=source, target=host, state="ok", interval_seconds=interval,
                        took_seconds=took[position][2 * number + offset], rows=HOST_ROWS_TARGET[source, host],
                        detail=SYNTHETIC,
                    )  # fmt: skip
            yield SourceRun(
                at=at, source="prometheus", target=PROMETHEUS, state="ok" if ok else "failed",
                interval_seconds=interval, took_seconds=took[position][-1] * 8 if ok else 0.002,
                rows=len(ENDPOINTS) * 6 if ok else 0, reason="" if ok else "unreachable",
                error="" if ok else "http://10.20.0.11:9090: connection refused",
                next_step="" if ok else "start Prometheus or correct prometheus.url", detail=SYNTHETIC,
            )  # fmt: skip
