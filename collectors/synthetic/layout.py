"""Who and what the demo fleet consists of: 4 hosts x 4 GPUs, one of them in MIG mode, 46 containers, 6 tenants.

Names are invented; sizes follow published recordings (H100 SXM 81,559 MiB and 700 W, A100 SXM 80 GB and 400 W,
L40S 46,068 MiB and 350 W).
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass

MIB = 1024**2
GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuModel:
    """One product; idle and limit in watts, `warmth` in degrees Celsius per watt."""

    name: str
    memory_bytes: int
    idle_watts: float
    limit_watts: float
    warmth: float
    clock_mhz: int
    memory_clock_mhz: int
    reports_sm_activity: bool  # GPM exists from Hopper on
    nvlink: bool = False


H100 = GpuModel(
    name="NVIDIA H100 80GB HBM3", memory_bytes=81559 * MIB, idle_watts=70.0, limit_watts=700.0, warmth=0.055,
    clock_mhz=1980, memory_clock_mhz=2619, reports_sm_activity=True, nvlink=True,
)  # fmt: skip
A100 = GpuModel(
    name="NVIDIA A100-SXM4-80GB", memory_bytes=81920 * MIB, idle_watts=55.0, limit_watts=400.0, warmth=0.09,
    clock_mhz=1410, memory_clock_mhz=1593, reports_sm_activity=False, nvlink=True,
)  # fmt: skip
L40S = GpuModel(
    name="NVIDIA L40S", memory_bytes=46068 * MIB, idle_watts=36.0, limit_watts=350.0, warmth=0.13,
    clock_mhz=2520, memory_clock_mhz=9001, reports_sm_activity=False,
)  # fmt: skip

HOSTS: tuple[tuple[str, GpuModel], ...] = (("gpu-a01", H100), ("gpu-a02", H100), ("gpu-b01", A100), ("gpu-c01", L40S))
GPUS_PER_HOST = 4
#: The GPU in MIG mode, and its devices: (profile, compute slices of seven, memory in MiB). Sizes as `nvidia-smi mig
#: -lgi` shows them on an H100 80GB.
MIG_GPU = ("gpu-a01", 3)
MIG_DEVICES = (("3g.40gb", 3, 40448), ("2g.20gb", 2, 20096), ("1g.10gb", 1, 9984), ("1g.10gb", 1, 9984))
#: Index of the first MIG device in `Member.gpus`: 4 is the first one, 5 the second.
MIG = GPUS_PER_HOST


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One container as planned. `gpus`: (index on its host, GiB used there). `cores`: idle, added at full load.

    `asks`: how it was given its GPUs; "" = each by index. `takes`: it uses its GPUs without having been given them.
    """

    host: str
    tenant: str
    project: str  # compose project; "" = started by hand
    service: str
    number: int = 1
    image: str
    role: str  # vllm | embedding | batch | notebook | training | gateway | support
    gpus: tuple[tuple[int, float], ...] = ()
    cores: tuple[float, float] = (0.02, 0.3)
    core_limit: float | None = None
    memory_gib: float = 0.5
    memory_limit_gib: float | None = None
    user: str = "10001:10001"
    privileged: bool = False
    origin: str = "mapped"
    asks: str = ""  # "all", "count", or an id that no GPU of its host has
    takes: bool = False

    @property
    def name(self) -> str:
        """The container's name as Docker shows it."""
        return f"{self.project}-{self.service}-{self.number}" if self.project else self.service

    @property
    def key(self) -> str:
        """Stable key: host and compose identity, else host and name."""
        return (
            f"{self.host}:{self.project}/{self.service}/{self.number}" if self.project else f"{self.host}:{self.name}"
        )


TEAMS: dict[str, tuple[str, str]] = {
    "acme": ("conversational-ai", "dana@acme.example"),
    "globex": ("search-and-assist", "lee@globex.example"),
    "initech": ("document-automation", "peter@initech.example"),
    "umbrella-research": ("foundation-models", "marcus@umbrella.example"),
    "hooli": ("developer-tools", "gavin@hooli.example"),
    "platform": ("gpu-platform", "oncall@platform.example"),
}

_VLLM = "vllm/vllm-openai:v0.33.0"
_EXPORTER = "nvcr.io/nvidia/k8s/dcgm-exporter:4.5.2-4.8.1-ubuntu24.04"
_CADVISOR = "gcr.io/cadvisor/cadvisor:v0.55.1"
_LITELLM = "ghcr.io/berriai/litellm:v1.109.1"


def _llm(
    host: str, tenant: str, project: str, service: str, gpus: tuple[tuple[int, float], ...], number: int = 1,
    asks: str = "",
) -> Member:  # fmt: skip
    return Member(
        host=host, tenant=tenant, project=project, service=service, number=number, image=_VLLM, role="vllm", gpus=gpus,
        asks=asks, cores=(0.9, 3.2), core_limit=16.0, memory_gib=14.0, memory_limit_gib=96.0,
    )  # fmt: skip


def _support(host: str, tenant: str, project: str, service: str, image: str, memory_gib: float = 0.4) -> Member:
    return Member(host=host, tenant=tenant, project=project, service=service, image=image, role="support",
                  memory_gib=memory_gib, memory_limit_gib=memory_gib * 4)  # fmt: skip


def _gateway(host: str, tenant: str, project: str) -> Member:
    return Member(host=host, tenant=tenant, project=project, service="gateway", image=_LITELLM, role="gateway",
                  cores=(0.05, 1.9), core_limit=2.0, memory_gib=0.7, memory_limit_gib=2.0)  # fmt: skip


def _probe(host: str, service: str, image: str) -> Member:
    return Member(host=host, tenant="platform", project="monitoring", service=service, image=image, role="support",
                  cores=(0.04, 0.08), memory_gib=0.25, user="root", privileged=True)  # fmt: skip


MEMBERS: tuple[Member, ...] = (
    _llm("gpu-a01", "acme", "acme-chat", "llm-chat", ((0, 71.5), (1, 71.5))),
    _llm("gpu-a01", "acme", "acme-chat", "llm-fast", ((2, 43.8),)),
    _gateway("gpu-a01", "acme", "acme-chat"),
    _support("gpu-a01", "acme", "acme-chat", "redis", "redis:8.4.0-bookworm"),
    _support("gpu-a01", "acme", "acme-chat", "chat-ui", "ghcr.io/acme/chat-ui:2.14.3"),
    Member(host="gpu-a01", tenant="initech", project="initech-index", service="nightly-batch",
           image="registry.initech.example/index/batch:latest", role="batch", gpus=((2, 27.0),), cores=(0.05, 6.0),
           core_limit=8.0, memory_gib=9.0, memory_limit_gib=32.0, user="", origin="compose"),
    Member(host="gpu-a01", tenant="globex", project="globex-search", service="embed", image=_VLLM, role="embedding",
           gpus=((MIG, 24.0),), cores=(0.6, 3.0), core_limit=8.0, memory_gib=7.0, memory_limit_gib=48.0),
    _support("gpu-a01", "globex", "globex-search", "vectordb", "qdrant/qdrant:v1.18.2", 11.0),
    _support("gpu-a01", "platform", "monitoring", "prometheus", "prom/prometheus:v3.9.1", 2.4),
    _probe("gpu-a01", "dcgm-exporter", _EXPORTER),
    _probe("gpu-a01", "cadvisor", _CADVISOR),
    Member(host="gpu-a02", tenant="umbrella-research", project="", service="research-nb",
           image="quay.io/jupyter/pytorch-notebook:latest", role="notebook", gpus=((0, 38.2), (1, 38.2)),
           cores=(0.03, 0.2), memory_gib=21.0, user="root", origin="label"),
    _llm("gpu-a02", "globex", "globex-assist", "llm-assist", ((2, 72.0),), 1),
    _llm("gpu-a02", "globex", "globex-assist", "llm-assist", ((3, 72.0),), 2),
    _gateway("gpu-a02", "globex", "globex-assist"),
    _support("gpu-a02", "globex", "globex-assist", "redis", "redis:8.4.0-bookworm"),
    _support("gpu-a02", "umbrella-research", "umbrella-lab", "mlflow", "ghcr.io/mlflow/mlflow:v3.12.0", 1.1),
    Member(host="gpu-a02", tenant="umbrella-research", project="umbrella-lab", service="data-loader",
           image="registry.umbrella.example/lab/loader:0.9.1", role="support", cores=(0.4, 3.0), core_limit=6.0,
           memory_gib=12.0, memory_limit_gib=32.0),
    _probe("gpu-a02", "dcgm-exporter", _EXPORTER),
    _probe("gpu-a02", "cadvisor", _CADVISOR),
    Member(host="gpu-a02", tenant="acme", project="acme-rag", service="retriever", image="ghcr.io/acme/retriever:1.8.0",
           role="support", cores=(0.2, 1.2), core_limit=4.0, memory_gib=1.2, memory_limit_gib=8.0),
    _llm("gpu-b01", "hooli", "hooli-copilot", "llm-code", ((0, 71.8),), 1),
    _llm("gpu-b01", "hooli", "hooli-copilot", "llm-code", ((1, 71.8),), 2),
    _gateway("gpu-b01", "hooli", "hooli-copilot"),
    _support("gpu-b01", "hooli", "hooli-copilot", "postgres", "postgres:18.1-bookworm", 2.0),
    Member(host="gpu-b01", tenant="umbrella-research", project="umbrella-train", service="finetune",
           image="nvcr.io/nvidia/pytorch:26.09-py3", role="training", gpus=((2, 61.0),), cores=(4.0, 5.0),
           memory_gib=48.0, memory_limit_gib=128.0, user="root"),
    Member(host="gpu-b01", tenant="platform", project="shared-models", service="rerank", image=_VLLM, role="embedding",
           gpus=((3, 12.5),), cores=(0.4, 2.0), core_limit=8.0, memory_gib=5.0, memory_limit_gib=32.0),
    Member(host="gpu-b01", tenant="platform", project="shared-models", service="embed", image=_VLLM, role="embedding",
           gpus=((3, 18.5),), cores=(0.4, 2.0), core_limit=8.0, memory_gib=5.5, memory_limit_gib=32.0),
    _probe("gpu-b01", "dcgm-exporter", _EXPORTER),
    Member(host="gpu-b01", tenant="hooli", project="hooli-copilot", service="worker",
           image="registry.hooli.example/copilot/worker:3.2.0", role="support", cores=(0.3, 0.8), core_limit=2.0,
           memory_gib=0.3, memory_limit_gib=1.0),
    Member(host="gpu-b01", tenant="umbrella-research", project="", service="tensorboard",
           image="tensorflow/tensorflow:latest", role="support", memory_gib=0.9, user="root", origin="label",
           gpus=((0, 0.0), (1, 0.0), (2, 0.0), (3, 0.0)), asks="all"),
    _llm("gpu-c01", "initech", "initech-docs", "summarizer", ((0, 28.2),), asks="count"),
    Member(host="gpu-c01", tenant="initech", project="initech-docs", service="ocr",
           image="registry.initech.example/docs/ocr:5.1.0", role="batch", gpus=((1, 21.0),), cores=(1.0, 5.0),
           core_limit=8.0, memory_gib=8.0, memory_limit_gib=24.0),
    _gateway("gpu-c01", "initech", "initech-docs"),
    _support("gpu-c01", "initech", "initech-docs", "queue", "rabbitmq:4.2.1-management", 0.6),
    _llm("gpu-c01", "hooli", "hooli-voice", "whisper", ((2, 36.0),)),
    Member(host="gpu-c01", tenant="hooli", project="hooli-voice", service="api",
           image="registry.hooli.example/voice/api:1.4.2", role="gateway", cores=(0.1, 0.9), core_limit=2.0,
           memory_gib=0.6, memory_limit_gib=1.5),
    _probe("gpu-c01", "dcgm-exporter", _EXPORTER),
    _support("gpu-c01", "initech", "initech-docs", "web", "nginx:1.29.4-bookworm", 0.1),
    Member(host="gpu-c01", tenant="acme", project="acme-eval", service="eval-runner", image="ghcr.io/acme/eval:latest",
           role="batch", cores=(0.02, 3.5), core_limit=4.0, memory_gib=2.2, memory_limit_gib=8.0, origin="compose"),
    # A small model on a MIG device that nobody has asked anything for days.
    _llm("gpu-a01", "umbrella-research", "umbrella-lab", "playground", ((MIG + 1, 17.5),)),
    # Evaluation jobs, one after the other on a MIG device; each run is a container of its own.
    Member(host="gpu-a01", tenant="acme", project="acme-eval", service="eval-job", image="ghcr.io/acme/eval:4.2.0",
           role="job", gpus=((MIG + 2, 8.2),), cores=(0.3, 1.5), core_limit=4.0, memory_gib=3.0, memory_limit_gib=16.0),
    # `--gpus 1` as the summarizer beside it: Docker gives both the first GPU.
    Member(host="gpu-c01", tenant="hooli", project="hooli-voice", service="diarizer",
           image="registry.hooli.example/voice/diarizer:0.7.0", role="batch", gpus=((0, 9.5),), cores=(0.5, 2.0),
           core_limit=4.0, memory_gib=4.0, memory_limit_gib=16.0, asks="count"),
    # Privileged, so it reaches every GPU; it was given none and encodes video on one.
    Member(host="gpu-c01", tenant="hooli", project="hooli-voice", service="transcode",
           image="registry.hooli.example/voice/transcode:2.0.1", role="transcode", gpus=((3, 3.1),), cores=(0.2, 3.0),
           core_limit=8.0, memory_gib=1.5, memory_limit_gib=8.0, user="root", privileged=True, takes=True),
    # It was given a board that has since been replaced.
    Member(host="gpu-a02", tenant="acme", project="acme-rag", service="reranker", image="ghcr.io/acme/reranker:1.8.0",
           role="support", cores=(0.4, 2.0), core_limit=4.0, memory_gib=2.0, memory_limit_gib=8.0,
           asks="GPU-5d1f8c2e-77aa-4b1e-9c35-0e6b2f4a9d10"),
    # It never started: the host has four GPUs, and it asks for the eighth.
    Member(host="gpu-b01", tenant="initech", project="initech-index", service="reindex",
           image="registry.initech.example/index/batch:latest", role="failed", asks="7", user="", origin="compose"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One inference endpoint. Rates at its busiest; lengths as multiples of the trace's."""

    member: int
    model: str
    port: int
    peak_requests_per_second: float
    capacity_requests_per_second: float  # where the engine saturates, at the base lengths
    itl_seconds: float  # at low load; 0 = generates nothing
    prefill_seconds: float  # of a mean prompt, at low load
    prompt_scale: float = 1.0
    generation_scale: float = 1.0
    kv_tokens: float = 200_000.0
    bounds_max: int = 32768
    silent_days: float = 0.0  # before the demo's start: nobody has asked anything since; 0 = asked all the time


def member_index(key: str) -> int:
    """Position of a container in MEMBERS by its key."""
    return next(index for index, member in enumerate(MEMBERS) if member.key == key)


def _endpoint(
    key: str,
    model: str,
    rates: tuple[float, float],
    itl: float,
    prefill: float,
    scales: tuple[float, float],
    kv_tokens: float,
    silent_days: float = 0.0,
) -> Endpoint:
    return Endpoint(
        member=member_index(key), model=model, port=8000, peak_requests_per_second=rates[0],
        capacity_requests_per_second=rates[1], itl_seconds=itl, prefill_seconds=prefill, prompt_scale=scales[0],
        generation_scale=scales[1], kv_tokens=kv_tokens, silent_days=silent_days,
    )  # fmt: skip


ENDPOINTS: tuple[Endpoint, ...] = (
    _endpoint(
        "gpu-a01:acme-chat/llm-chat/1",
        "meta-llama/Llama-3.3-70B-Instruct",
        (6.0, 6.5),
        0.027,
        0.16,
        (1.0, 1.0),
        190_000,
    ),
    _endpoint(
        "gpu-a01:acme-chat/llm-fast/1",
        "meta-llama/Llama-3.1-8B-Instruct",
        (11.0, 20.0),
        0.009,
        0.035,
        (0.7, 0.6),
        260_000,
    ),
    _endpoint("gpu-a01:globex-search/embed/1", "BAAI/bge-m3", (60.0, 110.0), 0.0, 0.012, (0.25, 0.0), 1.0),
    _endpoint("gpu-a02:globex-assist/llm-assist/1", "Qwen/Qwen3-32B", (5.2, 7.4), 0.019, 0.11, (1.2, 1.1), 170_000),
    _endpoint("gpu-a02:globex-assist/llm-assist/2", "Qwen/Qwen3-32B", (5.0, 7.4), 0.019, 0.11, (1.2, 1.1), 170_000),
    _endpoint(
        "gpu-b01:hooli-copilot/llm-code/1", "Qwen/Qwen3-Coder-30B-A3B", (9.0, 14.0), 0.014, 0.09, (1.6, 0.35), 240_000
    ),
    _endpoint(
        "gpu-b01:hooli-copilot/llm-code/2", "Qwen/Qwen3-Coder-30B-A3B", (9.0, 14.0), 0.014, 0.09, (1.6, 0.35), 240_000
    ),
    _endpoint("gpu-b01:shared-models/rerank/1", "BAAI/bge-reranker-v2-m3", (25.0, 70.0), 0.0, 0.02, (0.4, 0.0), 1.0),
    _endpoint(
        "gpu-b01:shared-models/embed/1", "intfloat/multilingual-e5-large", (40.0, 120.0), 0.0, 0.015, (0.3, 0.0), 1.0
    ),
    _endpoint(
        "gpu-c01:initech-docs/summarizer/1",
        "mistralai/Mistral-Small-3.2-24B",
        (1.5, 3.6),
        0.031,
        0.22,
        (1.5, 0.9),
        90_000,
    ),
    _endpoint("gpu-c01:hooli-voice/whisper/1", "openai/whisper-large-v3", (4.0, 9.0), 0.012, 0.25, (0.2, 0.4), 60_000),
    _endpoint(
        "gpu-a01:umbrella-lab/playground/1",
        "Qwen/Qwen3-8B",
        (0.8, 6.0),
        0.016,
        0.08,
        (0.6, 0.8),
        40_000,
        4.2,
    ),
)


class Identities:
    """The ids that a seed gives to GPUs, containers and images: stable, and different for another seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def digest(self, *parts: object) -> str:
        """64 hex digits for a thing of this fleet."""
        return hashlib.sha256("/".join(["ai-fleet-demo", str(self._seed), *map(str, parts)]).encode()).hexdigest()

    def gpu_uuid(self, host: str, index: int) -> str:
        """UUID of one GPU in NVML's spelling."""
        return f"GPU-{uuid.UUID(self.digest('gpu', host, index)[:32])}"

    def mig_uuid(self, host: str, index: int, place: int) -> str:
        """UUID of one MIG device."""
        return f"MIG-{uuid.UUID(self.digest('mig', host, index, place)[:32])}"

    def container_id(self, key: str, generation: int = 0) -> str:
        """Full container id; a recreated container is the next generation."""
        return self.digest("container", key, generation)
