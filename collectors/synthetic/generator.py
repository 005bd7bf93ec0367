"""The demo fleet as rows: the same dataclasses the real sources produce, for one instant or for many at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import numpy as np

from collectors.synthetic.devices import GPUS, HOLDINGS, Device, DeviceModel, Devices, gpu_number
from collectors.synthetic.facts import HOST_ROWS_TARGET, PROMETHEUS, Facts, Run
from collectors.synthetic.layout import ENDPOINTS, GIB, HOSTS, MEMBERS, MIB, Identities
from collectors.synthetic.load import Load, LoadModel
from collectors.synthetic.noise import Floats, Noise
from collectors.synthetic.processes import Processes, ProcessModel
from collectors.synthetic.story import DEPLOYED, JOB, PASSING, STRAY_GPU, UNHEALTHY, XID_GPU, Story
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
_BOARD_REASON = "MIG: power only for the whole board; memory beside the MIG devices"
_NO_GPM = (
    "SM activity needs Hopper or newer (GPM): dram_active_ratio, sm_active_ratio, sm_occupancy_ratio,"
    " tensor_active_ratio"
)
_IN_MIG = "MIG, told only for the whole GPU: clocks, energy, errors, power, temperature"
_CUT_INTO_MIG = "under MIG the driver tells no busy time, except through GPM (Hopper or newer): busy_ratio"
_MPS, _STRAY = gpu_number(("gpu-b01", 3)), gpu_number(STRAY_GPU)


def _how_sure(gpu: Device, *, with_mps: bool) -> tuple[Attribution, str]:
    if with_mps:
        return "estimated", "two holders under MPS: activity is credited to one process a sample"
    if gpu.mig is not None:
        return "measured", "SM activity of the MIG instance, whose only user this is"
    return "measured", ""


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
        self._uuids = tuple(
            self.identities.gpu_uuid(gpu.host, gpu.index)
            if gpu.mig is None
            else self.identities.mig_uuid(gpu.host, gpu.index, gpu.mig)
            for gpu in GPUS
        )
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
        return tuple(
            self.story.events(start.timestamp(), end.timestamp(), self.identities, self._uuids[gpu_number(XID_GPU)])
        )

    def runs(self, start: datetime, end: datetime) -> tuple[Run, ...]:
        """Every container run with GPUs that touches [start, end), by start: what a ledger of GPU jobs should hold."""
        return self._facts.runs(start, end)

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
        if index == JOB:
            names = {
                cycle: self.identities.container_id(key, cycle) for cycle in self.story.job_cycle(seconds).tolist()
            }
            return [names[cycle] for cycle in self.story.job_cycle(seconds).tolist()]
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
                if not up and index in PASSING:
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
        for number, gpu in enumerate(GPUS):
            sliced = gpu.mig is not None
            busy, active = devices.busy[:, number], devices.sm_active[:, number]
            uuid, model = self._uuids[number], gpu.model
            parent = self._uuids[gpu_number((gpu.host, gpu.index))] if sliced else ""
            columns = (
                getattr(devices, name)[:, number].tolist()
                for name in (
                    "memory_used", "watts", "temperature", "clock_mhz", "throttle", "processes", "xid", "broken",
                    "holders", "encoder", "decoder", "received", "nvlink",
                )
            )  # fmt: skip
            # What NVML tells of a MIG device is memory and, through GPM, activity; of its GPU everything but activity.
            told = [None] * len(instants) if gpu.cut else (busy if sliced else active).tolist()
            if not model.reports_sm_activity:
                told = [None] * len(instants)
            kernels = [None] * len(instants) if gpu.cut or sliced else busy.tolist()
            reason = _IN_MIG if sliced else _CUT_INTO_MIG if gpu.cut else "" if model.reports_sm_activity else _NO_GPM
            for (
                at, ran, sm, memory, watts, celsius, clock, throttle, count, xid, broken, holders, encoder, decoder,
                received, nvlink,
            ) in zip(instants, kernels, told, *columns, strict=True):  # fmt: skip
                if sliced:
                    yield GpuSample(
                        at=at, host=gpu.host, gpu_uuid=uuid, parent_uuid=parent, gpu_index=gpu.index,
                        interval_seconds=interval, sm_active_ratio=sm, sm_occupancy_ratio=round(sm * 0.48, 4),
                        tensor_active_ratio=round(sm * 0.41, 4), dram_active_ratio=round(sm * 0.66, 4),
                        memory_used_bytes=memory, memory_total_bytes=gpu.memory_bytes, process_count=count,
                        holders=holders, unknown_reason=reason,
                    )  # fmt: skip
                    continue
                yield GpuSample(
                    at=at, host=gpu.host, gpu_uuid=uuid, gpu_index=gpu.index, interval_seconds=interval,
                    busy_ratio=ran, sm_active_ratio=sm, sm_occupancy_ratio=None if sm is None else round(sm * 0.48, 4),
                    tensor_active_ratio=None if sm is None else round(sm * 0.41, 4),
                    dram_active_ratio=None if sm is None else round(sm * 0.66, 4),
                    memory_used_bytes=memory, memory_reserved_bytes=614 * MIB, memory_total_bytes=gpu.memory_bytes,
                    power_watts=watts, power_limit_watts=model.limit_watts, energy_joules=watts * interval,
                    temperature_celsius=celsius, memory_temperature_celsius=celsius + 6.0, sm_clock_mhz=clock,
                    memory_clock_mhz=model.memory_clock_mhz, throttle_reasons=throttle,
                    ecc_corrected=3 if xid == 63 else 0, ecc_uncorrected=1 if xid == 94 else 0,
                    remapped_rows=1 if broken else 0, remap_pending=broken, xid=xid or None, process_count=count,
                    unknown_reason=reason, encoder_ratio=encoder, decoder_ratio=decoder,
                    pcie_receive_bytes=int(received * interval), pcie_transmit_bytes=int(received * interval * 0.4),
                    nvlink_receive_bytes=int(nvlink * interval) if model.nvlink else None,
                    nvlink_transmit_bytes=int(nvlink * interval) if model.nvlink else None,
                    idle_power_watts=model.idle_watts, recovery_action=1 if broken else 0, holders=holders,
                )  # fmt: skip

    def _holder_rows(
        self, instants: Sequence[datetime], seconds: Floats, interval: float, devices: Devices
    ) -> Iterable[Row]:
        for column, (member_index, number, size) in enumerate(HOLDINGS):
            member, gpu = MEMBERS[member_index], GPUS[number]
            attribution, reason = _how_sure(gpu, with_mps=number == _MPS)
            uuid, tenant, key = self._uuids[number], member.tenant, member.key
            sliced, held = gpu.mig is not None, not member.takes
            # GPM tells what the SMs of a device did; that is one container's own number where it works there alone.
            gpm = gpu.model.reports_sm_activity
            own = devices.held_sm[:, column] if sliced else devices.sm_active[:, number]
            columns = (
                getattr(devices, name)[:, column].tolist()
                for name in ("held_present", "held_memory", "held_sm", "held_watts", "alone")
            )
            for at, identity, present, memory, sm, watts, alone, active in zip(
                instants, self._ids(member_index, seconds), *columns, own.tolist(), strict=True
            ):
                if present:
                    yield ContainerGpuSample(
                        at=at, host=gpu.host, tenant=tenant, container_key=key, container_id=identity, gpu_uuid=uuid,
                        interval_seconds=interval, held=held, memory_bytes=memory, sm_ratio=sm,
                        power_watts=None if sliced else watts, energy_joules=None if sliced else watts * interval,
                        attribution=attribution, attribution_reason=reason, processes=1 if size else 0,
                        sm_active_ratio=active if gpm and alone else None,
                        idle_power_watts=None if sliced else 0.0, idle_energy_joules=None if sliced else 0.0,
                    )  # fmt: skip
        for number, gpu in enumerate(GPUS):
            uuid, sliced = self._uuids[number], gpu.mig is not None
            columns = (
                getattr(devices, name)[:, number].tolist()
                for name in ("stray_memory", "stray_sm", "stray_watts", "watts")
            )
            idle = gpu.model.idle_watts
            strays = 1 if number == _STRAY else 0
            for at, memory, sm, watts, whole in zip(instants, *columns, strict=True):
                rest = min(idle, whole)
                yield ContainerGpuSample(
                    at=at, host=gpu.host, tenant=UNATTRIBUTED, container_key=UNATTRIBUTED, container_id="",
                    gpu_uuid=uuid, interval_seconds=interval, held=False, memory_bytes=memory,
                    sm_ratio=None if gpu.cut else sm, power_watts=None if sliced else watts,
                    energy_joules=None if sliced else watts * interval, attribution="measured",
                    attribution_reason=_BOARD_REASON if gpu.cut else "" if sliced else _IDLE_REASON, processes=strays,
                    idle_power_watts=None if sliced else rest,
                    idle_energy_joules=None if sliced else rest * interval,
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
