"""The rows that every part shares: what is read, what is stored, what is asked.

One frozen dataclass per stored table, field for column, in the same order as `store/migrations`
(`tests/store/test_migrations.py` holds the two together). Counters arrive here already as increments
over `interval_seconds`, so every number stored can be summed over time, tenant or container.
A field that may be None means "could not be read"; the row's `unknown_reason` says why. None is never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Literal

Reason = Literal["unreachable", "denied", "unsupported", "malformed", "stale", "timeout", "gone"]
Attribution = Literal["measured", "estimated", "declared", "unknown"]
Severity = Literal["info", "warning", "critical"]

#: `container_key` and `tenant` of the row that closes the sum of a GPU: device minus all containers.
UNATTRIBUTED = ""
#: Tenant of a container that neither the mapping file nor a label names.
UNASSIGNED = "unassigned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of one stored table. `table` names it."""

    table: ClassVar[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSample(Row):
    """One container in one cycle. Increments cover the `interval_seconds` before `at`."""

    table: ClassVar[str] = "container_samples"
    at: datetime
    host: str
    tenant: str
    container_key: str
    container_id: str
    interval_seconds: float
    cpu_seconds: float | None = None
    cpu_periods: int | None = None
    cpu_throttled_periods: int | None = None
    cpu_throttled_seconds: float | None = None
    cpu_limit_cores: float | None = None
    memory_working_set_bytes: int | None = None
    memory_cache_bytes: int | None = None
    memory_limit_bytes: int | None = None
    network_receive_bytes: int | None = None
    network_transmit_bytes: int | None = None
    block_read_bytes: int | None = None
    block_write_bytes: int | None = None
    pids: int | None = None
    restarts: int = 0
    oom_kills: int | None = None
    state: str = ""
    health: str = ""
    unknown_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSample(Row):
    """One GPU, or one MIG device (`parent_uuid` set), in one cycle. Ratios are 0-1."""

    table: ClassVar[str] = "gpu_samples"
    at: datetime
    host: str
    gpu_uuid: str
    parent_uuid: str = ""
    gpu_index: int
    interval_seconds: float
    busy_ratio: float | None = None
    sm_active_ratio: float | None = None
    sm_occupancy_ratio: float | None = None
    tensor_active_ratio: float | None = None
    dram_active_ratio: float | None = None
    memory_used_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    energy_joules: float | None = None
    temperature_celsius: float | None = None
    memory_temperature_celsius: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    throttle_reasons: int | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    remapped_rows: int | None = None
    remap_pending: bool | None = None
    xid: int | None = None
    process_count: int | None = None
    state: str = "ok"
    unknown_reason: str = ""
    encoder_ratio: float | None = None
    decoder_ratio: float | None = None
    pcie_receive_bytes: int | None = None
    pcie_transmit_bytes: int | None = None
    nvlink_receive_bytes: int | None = None
    nvlink_transmit_bytes: int | None = None
    idle_power_watts: float | None = None  # what it draws when nothing runs, as configured or seen
    recovery_action: int | None = None  # NVML field 230; 0 = none
    holders: int | None = None  # containers that hold it (declared); None = nobody could be asked


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerGpuSample(Row):
    """One container on one GPU in one cycle; `container_key == UNATTRIBUTED` closes the device's sum.

    `held`: the container was given this GPU (declared), whether or not it uses it.
    `attribution`: how far the memory and SM figures can be believed; `attribution_reason` says why in words.
    `processes`: its processes with a context on the device. `sm_ratio`: share of the time its processes ran;
    `sm_active_ratio`: share of the SMs they kept active (GPM), only where this is the device's only user.
    `idle_power_watts` and `idle_energy_joules` are the part of the power and energy that is the device's idle draw.
    """

    table: ClassVar[str] = "container_gpu_samples"
    at: datetime
    host: str
    tenant: str
    container_key: str
    container_id: str
    gpu_uuid: str
    interval_seconds: float
    held: bool
    memory_bytes: int | None = None
    sm_ratio: float | None = None
    power_watts: float | None = None
    energy_joules: float | None = None
    attribution: Attribution = "unknown"
    attribution_reason: str = ""
    processes: int | None = None
    sm_active_ratio: float | None = None
    idle_power_watts: float | None = None
    idle_energy_joules: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceSample(Row):
    """One model on one inference endpoint in one cycle. An unjoined endpoint has an empty `container_key`."""

    table: ClassVar[str] = "inference_samples"
    at: datetime
    host: str
    tenant: str
    container_key: str
    container_id: str
    prometheus: str
    endpoint: str
    server: str
    model: str
    interval_seconds: float
    up: bool
    requests: float | None = None
    errors: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    cached_tokens: float | None = None
    requests_waiting: float | None = None
    requests_running: float | None = None
    kv_cache_ratio: float | None = None
    joined_by: str = ""
    join_reason: str = ""
    unknown_reason: str = ""
    role: str = "server"  # "gateway": requests that a server behind it counts too, never added to servers' numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram(Row):
    """Increments per bucket (not cumulative) of one distribution; `bounds[-1]` is +Inf.

    `field` is ours: e2e_seconds, ttft_seconds, itl_seconds, queue_seconds, prompt_tokens, generation_tokens.
    A server that tells only sum and count has the one bound +Inf: a mean can be told, no quantile.
    """

    table: ClassVar[str] = "histograms"
    at: datetime
    host: str
    tenant: str
    container_key: str
    container_id: str
    endpoint: str
    server: str
    model: str
    field: str
    interval_seconds: float
    bounds: tuple[float, ...]
    increments: tuple[float, ...]
    sum_increment: float | None = None
    role: str = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Row):
    """Something that happened at one moment. The same `event_id` twice is one event."""

    table: ClassVar[str] = "events"
    at: datetime
    event_id: str
    host: str
    tenant: str = ""
    container_key: str = ""
    container_id: str = ""
    gpu_uuid: str = ""
    source: str
    kind: str
    severity: Severity = "info"
    title: str
    detail: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Container(Row):
    """The newest known facts of one container (versioned by `seen_at`). No environment, no secret."""

    table: ClassVar[str] = "containers"
    seen_at: datetime
    host: str
    tenant: str
    team: str
    owner: str
    tenant_origin: str  # "mapped" | "label" | "compose" | "none"
    container_key: str
    container_id: str
    name: str
    image: str
    image_id: str
    image_digest: str
    image_created_at: datetime | None = None
    compose_project: str = ""
    compose_service: str = ""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    user: str = ""
    state: str = ""
    health: str = ""
    exit_code: int | None = None
    oom_killed: bool = False
    error: str = ""
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    restart_count: int = 0
    cpu_limit_cores: float | None = None
    memory_limit_bytes: int | None = None
    gpu_request: str = ""
    gpu_uuids: tuple[str, ...] = ()  # what the request comes to on its host; empty also when not known yet
    privileged: bool = False
    removed: bool = False
    gpu_request_kind: str = ""  # kind of `fleet.inventory.GpuRequest`
    gpu_unresolved: tuple[str, ...] = ()  # ids asked for that name nothing on the host
    via: str = ""  # "prometheus:<name>" when known only through that server, "" when read by our own collectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu(Row):
    """The newest known facts of one GPU or MIG device."""

    table: ClassVar[str] = "gpus"
    seen_at: datetime
    host: str
    gpu_uuid: str
    parent_uuid: str = ""
    gpu_index: int
    name: str
    mig_profile: str = ""
    memory_total_bytes: int | None = None
    pci_bus_id: str = ""
    driver_version: str = ""
    power_limit_watts: float | None = None
    mig_enabled: bool = False
    slice_ratio: float = 1.0  # share of its GPU that a MIG device is, by compute slices; 1 for a whole GPU
    via: str = ""  # as in `Container`


@dataclass(frozen=True, slots=True, kw_only=True)
class Host(Row):
    """The newest known facts of one Docker host."""

    table: ClassVar[str] = "hosts"
    seen_at: datetime
    host: str
    docker_version: str = ""
    os: str = ""
    kernel: str = ""
    cgroup_version: str = ""
    cgroup_driver: str = ""
    cpu_count: int | None = None
    memory_total_bytes: int | None = None
    stats_path: str = ""  # "cgroup" | "api": how container statistics are read
    via: str = ""  # as in `Container`


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRun(Row):
    """How one poll of one source went: the material of every freshness line and of coverage."""

    table: ClassVar[str] = "source_runs"
    at: datetime
    source: str  # "docker" | "nvml" | "prometheus" | "synthetic"
    target: str  # daemon, host or server name as in the settings
    state: str  # "ok" | "partial" | "failed" | "absent" (nothing to read here, a normal state)
    interval_seconds: float
    took_seconds: float
    rows: int
    reason: str = ""
    error: str = ""
    next_step: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuJob(Row):
    """One entry of the GPU job ledger: a container run was given a set of GPUs ("open"), or that ended ("close").

    Entries are only ever appended; a job is the entries of one `job_id`, and its "close" repeats all facts. `hash`
    covers the canonical row and `previous_hash`, so a chain (one per collector) shows any entry edited, removed or
    moved (fleet/gpu_jobs.py, docs/ledger.md). A "gap" entry says from `started_at` to `ended_at` nobody looked at the
    host; a "pruned" one, up to which entry older ones were forgotten (both without job and tenant).
    """

    table: ClassVar[str] = "gpu_jobs"
    at: datetime  # when the entry was written
    chain: str
    sequence: int
    entry: str  # "open" | "close" | "gap" | "pruned"
    job_id: str
    host: str
    tenant: str
    team: str = ""
    user: str = ""
    workload: str = ""
    container_key: str = ""
    container_id: str = ""
    container_name: str = ""
    image: str = ""
    image_digest: str = ""
    gpu_uuids: tuple[str, ...] = ()
    gpu_names: tuple[str, ...] = ()
    gpu_count: float = 0.0  # whole GPUs; a MIG device counts as its share
    started_at: datetime
    ended_at: datetime | None = None
    duration_seconds: float | None = None
    gpu_hours: float | None = None
    energy_joules: float | None = None
    exit_code: int | None = None
    end_reason: str = ""
    sources: Mapping[str, str] = field(default_factory=dict[str, str])  # field -> where the fact comes from
    previous_hash: str = ""
    hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one poll of one source brought; stored whole, and once, however often it is sent.

    `token` names the batch for deduplication: unique per poll, the same on every retry.
    """

    token: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A reading that could not be taken, and why."""

    subject: str
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A half-open span of time [start, end), aware UTC."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise ValueError("window: start and end must be aware datetimes")
        if self.start >= self.end:
            raise ValueError(f"window: start {self.start:%F %T} is not before end {self.end:%F %T}")

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return (self.end - self.start).total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Whose data may be read: made only in `dashboard/access.py`, required by every query.

    tenants None = the whole fleet (operators); a set = those tenants and nothing else; empty = nothing.
    """

    tenants: frozenset[str] | None

    def narrow(self, tenant: str | None) -> Scope:
        """This scope limited to one tenant; a tenant outside it gives the empty scope."""
        if tenant is None:
            return self
        if self.tenants is None or tenant in self.tenants:
            return Scope(tenants=frozenset({tenant}))
        return Scope(tenants=frozenset())


ROW_TYPES: tuple[type[Row], ...] = (
    ContainerSample, GpuSample, ContainerGpuSample, InferenceSample, Histogram,
    Event, Container, Gpu, Host, SourceRun, GpuJob,
)  # fmt: skip
