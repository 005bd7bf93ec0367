"""The fleet of `live_tick`: as many containers as asked for, a tenth of them with a GPU and an inference server."""

from __future__ import annotations

import random
from datetime import datetime

from fleet.model import (
    Container,
    ContainerGpuSample,
    ContainerSample,
    Gpu,
    GpuSample,
    Host,
    InferenceSample,
    Row,
    SourceRun,
)

HOSTS = 8
GPUS_PER_HOST = 8
_GIB = 2**30


def _identity(number: int) -> dict[str, str]:
    host = f"gpu-host-{number % HOSTS}"
    return {
        "host": host,
        "tenant": f"team-{number % 12:02d}",
        "container_key": f"{host}:svc-{number:04d}",
        "container_id": f"{number:012x}",
    }


def facts(at: datetime, containers: int) -> tuple[Row, ...]:
    """Hosts, GPUs and containers."""
    rows: list[Row] = [
        Host(seen_at=at, host=f"gpu-host-{host}", docker_version="20.10.24", cpu_count=64) for host in range(HOSTS)
    ]
    rows += [
        Gpu(
            seen_at=at, host=f"gpu-host-{host}", gpu_uuid=f"GPU-{host:04x}{index:04x}", gpu_index=index,
            name="NVIDIA H100 80GB HBM3", memory_total_bytes=80 * _GIB,
        )
        for host in range(HOSTS)
        for index in range(GPUS_PER_HOST)
    ]  # fmt: skip
    for number in range(containers):
        identity = _identity(number)
        rows.append(
            Container(
                seen_at=at, **identity, team=identity["tenant"], owner="", tenant_origin="label",
                name=f"svc-{number:04d}", image=f"registry.example/app-{number % 40}:1.{number % 7}", image_id="",
                image_digest="", state="running", health="healthy", started_at=at, memory_limit_bytes=16 * _GIB,
            )
        )  # fmt: skip
    return tuple(rows)


def cycle(at: datetime, interval_seconds: float, containers: int, randomness: random.Random) -> tuple[Row, ...]:
    """All samples of one moment."""
    rows: list[Row] = []
    for number in range(containers):
        identity = _identity(number)
        rows.append(
            ContainerSample(
                at=at, **identity, interval_seconds=interval_seconds,
                cpu_seconds=interval_seconds * randomness.random() * 4,
                memory_working_set_bytes=int(randomness.random() * 16 * _GIB), memory_limit_bytes=16 * _GIB,
                network_receive_bytes=randomness.randrange(10**7), network_transmit_bytes=randomness.randrange(10**7),
                block_read_bytes=0, block_write_bytes=randomness.randrange(10**6), pids=20,
                state="running", health="healthy",
            )
        )  # fmt: skip
        if number % 10:
            continue
        gpu = (number // 10) % GPUS_PER_HOST
        uuid = f"GPU-{number % HOSTS:04x}{gpu:04x}"
        rows.append(
            ContainerGpuSample(
                at=at, **identity, gpu_uuid=uuid, interval_seconds=interval_seconds, held=True,
                memory_bytes=int(randomness.random() * 40 * _GIB), sm_ratio=randomness.random(), attribution="measured",
            )
        )  # fmt: skip
        rows.append(
            InferenceSample(
                at=at, **identity, prometheus="main", endpoint=f"10.0.0.{number % 250}:8000", server="vllm",
                model=f"model-{number % 5}", interval_seconds=interval_seconds, up=True,
                requests=randomness.random() * 50, errors=0.0,
                prompt_tokens=randomness.random() * 9000, generation_tokens=randomness.random() * 3000,
                requests_waiting=0.0, requests_running=4.0, kv_cache_ratio=randomness.random(), joined_by="label",
            )
        )  # fmt: skip
    rows += [
        GpuSample(
            at=at, host=f"gpu-host-{host}", gpu_uuid=f"GPU-{host:04x}{index:04x}", gpu_index=index,
            interval_seconds=interval_seconds, busy_ratio=randomness.random(), memory_used_bytes=40 * _GIB,
            memory_total_bytes=80 * _GIB, power_watts=400 * randomness.random(), temperature_celsius=60.0,
        )
        for host in range(HOSTS)
        for index in range(GPUS_PER_HOST)
    ]  # fmt: skip
    rows += [
        SourceRun(
            at=at, source=source, target=f"gpu-host-{host}", state="ok", interval_seconds=interval_seconds,
            took_seconds=0.1, rows=containers // HOSTS,
        )
        for source in ("docker", "nvml")
        for host in range(HOSTS)
    ]  # fmt: skip
    return tuple(rows)
