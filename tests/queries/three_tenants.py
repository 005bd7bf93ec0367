"""A small fleet with numbers that can be worked out by hand: three tenants, two hosts, three GPUs, twelve hours.

Every container uses half a core and sends 100 bytes a second, whatever the step, so each mean and rate is known.
acme/chat: GPU-1, SM 0.60, 10 GiB, one request a second, TTFT half in (0.1, 0.25], half in (0.25, 0.5].
globex/batch: GPU-1 beside it, SM 0.30, 4 GiB. initech/notebook: holds GPU-2 and leaves it idle (SM 0.01).
GPU-1 reads SM 0.95 and 15 GiB used, so 0.05 and 1 GiB are nobody's. GPU-3 is free.
acme/worker is unhealthy; globex/old has been removed.
chat and batch asked for one GPU by count and were both given GPU-1; notebook named GPU-2 and one that is not there.
Half an hour before the end Prometheus named an endpoint that the operator says is acme's and that could be any of three
containers; it told no numbers.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from fleet.gpu_jobs import EMPTY, head_of, seal
from fleet.model import (
    Batch,
    Container,
    ContainerGpuSample,
    ContainerSample,
    Event,
    Gpu,
    GpuJob,
    GpuSample,
    Histogram,
    Host,
    InferenceSample,
    Row,
    Scope,
    SourceRun,
    Window,
)  # fmt: skip
from store import Store

END = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
STEP = 60
HOURS = 12
GIB = 1 << 30
EVERYONE = Scope(tenants=None)
TENANTS = ("acme", "globex", "initech")

#: name, tenant, host, GPU, SM share, GPU memory
CONTAINERS = (
    ("chat", "acme", "h1", "GPU-1", 0.60, 10 * GIB),
    ("worker", "acme", "h2", "", None, None),
    ("batch", "globex", "h1", "GPU-1", 0.30, 4 * GIB),
    ("notebook", "initech", "h2", "GPU-2", 0.01, 1 * GIB),
)
#: container -> how it asked for GPUs
REQUESTS: dict[str, dict[str, object]] = {
    "chat": {"gpu_request": "--gpus 1", "gpu_request_kind": "count", "gpu_uuids": ("GPU-1",)},
    "batch": {"gpu_request": "--gpus 1", "gpu_request_kind": "count", "gpu_uuids": ("GPU-1",)},
    "notebook": {"gpu_request": "--gpus device=GPU-2,GPU-gone", "gpu_request_kind": "ids", "gpu_uuids": ("GPU-2",),
                 "gpu_unresolved": ("GPU-gone",)},
}  # fmt: skip
HOLDERS = {"GPU-1": 2, "GPU-2": 1, "GPU-3": 0}
GPUS = (("GPU-1", "h1", 0, 0.95, 15 * GIB), ("GPU-2", "h2", 0, 0.01, 1 * GIB), ("GPU-3", "h2", 1, 0.0, 0))
BOUNDS = (0.1, 0.25, 0.5, float("inf"))


def window(**ago: float) -> Window:
    """The last span before the fleet's end."""
    return Window(start=END - timedelta(**ago), end=END)


def key_of(name: str) -> str:
    """Container key by name."""
    return next(f"{host}:{n}" for n, _, host, *_ in CONTAINERS if n == name)


def plant(store: Store) -> None:
    """Store twelve hours of the fleet, in one batch."""
    rows: list[Row] = []
    for second in range(0, HOURS * 3600, STEP):
        rows += _instant(END - timedelta(seconds=second))
    rows += _facts()
    rows += ledger()
    store.append(Batch(token="three-tenants", rows=tuple(rows)))


def ledger() -> list[GpuJob]:
    """Three jobs of three tenants on one chain: chat and notebook run on, batch ended two hours before the end.

    From 06:00 to 06:30 nobody looked at h1.
    """
    began = END - timedelta(hours=10)
    rows: list[GpuJob] = []
    for name, tenant, host, gpu, _, _ in CONTAINERS:
        if gpu:
            rows.append(
                GpuJob(
                    at=began, chain="h1", sequence=0, entry="open", job_id=f"job-{name}", host=host, tenant=tenant,
                    team=f"team-{tenant}", user="10001", workload=name, container_key=f"{host}:{name}",
                    container_id=f"id-{name}", container_name=name, image=f"registry.example/{name}:1.0",
                    gpu_uuids=(gpu,), gpu_names=("H100",), gpu_count=1.0, started_at=began,
                    sources={"tenant": "operator's rule"},
                )
            )  # fmt: skip
    gap = {"started_at": END - timedelta(hours=6), "ended_at": END - timedelta(hours=5.5)}
    rows.append(GpuJob(at=gap["ended_at"], chain="h1", sequence=0, entry="gap", job_id="", host="h1", tenant="",
                       end_reason="the collector was not running", **gap))  # fmt: skip
    end = END - timedelta(hours=2)
    batch = next(row for row in rows if row.workload == "batch")
    rows.append(replace(batch, at=end, entry="close", ended_at=end, duration_seconds=28800.0, gpu_hours=8.0,
                        energy_joules=5e6, exit_code=3, end_reason="ended with exit code 3"))  # fmt: skip
    sealed: list[GpuJob] = []
    head = EMPTY
    for row in rows:
        sealed.append(seal(row, head))
        head = head_of(sealed[-1])
    return sealed


def _instant(at: datetime) -> list[Row]:
    rows: list[Row] = []
    for name, tenant, host, gpu, sm, memory in CONTAINERS:
        who = {
            "at": at,
            "host": host,
            "tenant": tenant,
            "container_key": f"{host}:{name}",
            "container_id": f"id-{name}",
        }
        rows.append(
            ContainerSample(
                **who, interval_seconds=STEP, cpu_seconds=0.5 * STEP, cpu_periods=10 * STEP, cpu_throttled_periods=0,
                memory_working_set_bytes=1 * GIB, memory_limit_bytes=4 * GIB, network_transmit_bytes=100 * STEP,
                state="running", health="unhealthy" if name == "worker" else "",
            )
        )  # fmt: skip
        if gpu:
            rows.append(
                ContainerGpuSample(
                    **who, gpu_uuid=gpu, interval_seconds=STEP, held=True, sm_ratio=sm, memory_bytes=memory,
                    power_watts=100.0, attribution="measured",
                )
            )  # fmt: skip
    chat = {"at": at, "host": "h1", "tenant": "acme", "container_key": "h1:chat", "container_id": "id-chat"}
    rows.append(
        InferenceSample(
            **chat, prometheus="main", endpoint="10.0.0.5:8000", server="vllm", model="llama", interval_seconds=STEP,
            up=True, requests=1.0 * STEP, errors=0.0, prompt_tokens=100.0 * STEP, generation_tokens=20.0 * STEP,
            requests_waiting=2.0, requests_running=3.0, kv_cache_ratio=0.5, joined_by="id",
        )
    )  # fmt: skip
    rows.append(
        Histogram(
            **chat, endpoint="10.0.0.5:8000", server="vllm", model="llama", field="ttft_seconds", interval_seconds=STEP,
            bounds=BOUNDS, increments=(0.0, STEP / 2, STEP / 2, 0.0), sum_increment=0.3 * STEP,
        )
    )  # fmt: skip
    for uuid, host, index, sm, memory in GPUS:
        rows.append(
            GpuSample(
                at=at, host=host, gpu_uuid=uuid, gpu_index=index, interval_seconds=STEP, busy_ratio=sm,
                sm_active_ratio=sm, memory_used_bytes=memory, memory_total_bytes=80 * GIB, power_watts=300.0,
                temperature_celsius=50.0, process_count=1, holders=HOLDERS[uuid],
            )
        )  # fmt: skip
    rows.append(
        ContainerGpuSample(
            at=at, host="h1", tenant="", container_key="", container_id="", gpu_uuid="GPU-1", interval_seconds=STEP,
            held=False, sm_ratio=0.05, memory_bytes=1 * GIB, power_watts=100.0, attribution="measured",
        )
    )  # fmt: skip
    for source, target in (("docker", "h1"), ("docker", "h2"), ("nvml", "h1"), ("nvml", "h2"), ("prometheus", "main")):
        # Prometheus fails for the half hour from 10:00 to 10:30.
        failed = source == "prometheus" and END - timedelta(hours=2) < at <= END - timedelta(hours=1.5)
        rows.append(
            SourceRun(
                at=at, source=source, target=target, state="failed" if failed else "ok", interval_seconds=STEP,
                took_seconds=0.01, rows=5, reason="timeout" if failed else "", error="no answer" if failed else "",
                next_step="is it running?" if failed else "",
            )
        )  # fmt: skip
    return rows


def _facts() -> list[Row]:
    rows: list[Row] = [
        Container(
            seen_at=END - timedelta(hours=1), host=host, tenant=tenant, team=f"team-{tenant}", owner="",
            tenant_origin="mapped", container_key=f"{host}:{name}", container_id=f"id-{name}", name=name,
            image=f"registry.example/{name}:1.0", image_id="sha256:1", image_digest="sha256:2", state="running",
            created_at=END - timedelta(days=2), started_at=END - timedelta(days=2), labels={"role": name},
            memory_limit_bytes=4 * GIB, **REQUESTS.get(name, {}),
        )
        for name, tenant, host, *_ in CONTAINERS
    ]  # fmt: skip
    rows.append(
        Container(
            seen_at=END - timedelta(hours=3), host="h1", tenant="globex", team="", owner="", tenant_origin="mapped",
            container_key="h1:old", container_id="id-old", name="old", image="x:1", image_id="", image_digest="",
            state="exited", created_at=END - timedelta(days=3), removed=True,
        )
    )  # fmt: skip
    rows.append(
        InferenceSample(
            at=END - timedelta(minutes=30), host="h1", tenant="acme", container_key="", container_id="",
            prometheus="main", endpoint="10.0.0.5:9000", server="vllm", model="", interval_seconds=STEP, up=True,
            joined_by="ambiguous", join_reason="fits chat (acme), batch (globex) and notebook (initech) equally",
        )
    )  # fmt: skip
    rows += [
        Gpu(seen_at=END, host=host, gpu_uuid=uuid, gpu_index=index, name="H100", memory_total_bytes=80 * GIB,
            driver_version="590.48")
        for uuid, host, index, *_ in GPUS
    ]  # fmt: skip
    rows += [
        Host(seen_at=END, host=host, docker_version="28", cpu_count=8, stats_path="cgroup") for host in ("h1", "h2")
    ]
    rows += [
        Event(
            at=END - timedelta(minutes=minutes), event_id=f"e{minutes}", host=host, tenant=tenant,
            container_key=f"{host}:{name}", container_id=f"id-{name}", source="docker", kind=kind, severity="warning",
            title=title,
        )
        for minutes, name, tenant, host, kind, title in (
            (40, "worker", "acme", "h2", "health_status", "unhealthy"),
            (20, "batch", "globex", "h1", "start", "started"),
        )
    ]  # fmt: skip
    return rows
