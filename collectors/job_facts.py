"""Container facts -> what the GPU job ledger looks at: a `Seen` for each container, with a draft if it holds GPUs.

Pure. The Docker inventory and the demo build their looks with the same functions, so both ledgers come about alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from fleet.gpu_job_fields import time_text, to_milliseconds
from fleet.gpu_jobs import OPEN
from fleet.model import Container, Event, Gpu, GpuJob
from fleet.settings_table import JobSettings, TenancySettings

#: In these a container has its devices; "restarting" is between two runs.
HOLDING_STATES = frozenset({"running", "paused"})
#: Key in `sources`: when the container itself was started, which names the run (a job may begin later in it).
RUN_STARTED = "run_started_at"
#: Docker's word for a set of GPUs that the tooling counts; "privileged" reaches all and holds none.
_HOLDS_NOTHING = frozenset({"", "none", "privileged"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """What a job's row says of one GPU. share: of a whole GPU; 1 but for a MIG device."""

    name: str
    share: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One container as a look found it. started_at: of its newest run, finished_at: of its newest ended run.

    draft: its job, None when it holds no GPU as far as is known. waiting: it asks for GPUs that nobody could list yet.
    at_least: the draft's GPUs are those it was seen to use without holding them; there may be more.
    """

    container_id: str
    name: str
    running: bool
    started_at: datetime | None
    finished_at: datetime | None
    exit_code: int | None
    oom_killed: bool = False
    draft: GpuJob | None = None
    waiting: bool = False
    at_least: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """All containers of one host at one moment."""

    host: str
    at: datetime
    containers: tuple[Seen, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """When a run ended and with which exit code, and who says so."""

    at: datetime
    exit_code: int | None
    source: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRules:
    """Which labels say what: the settings [jobs] and [tenancy]."""

    jobs: JobSettings
    tenancy: TenancySettings


def look_at(
    host: str,
    at: datetime,
    containers: Iterable[Container],
    gpus: Mapping[str, GpuFacts],
    rules: JobRules,
    *,
    chain: str,
    used: Mapping[str, tuple[str, ...]] | None = None,
) -> Look:
    """The look of these containers. gpus: by UUID; used: container id -> GPUs that its processes were seen on."""
    found = tuple(_seen(row, gpus, rules, chain, at, (used or {}).get(row.container_id, ())) for row in containers)
    return Look(host=host, at=at, containers=found)


def gpu_facts(row: Gpu) -> GpuFacts:
    """What a job's row says of this GPU or MIG device."""
    named = f"{row.name} MIG {row.mig_profile}" if row.mig_profile and row.mig_profile not in row.name else row.name
    return GpuFacts(name=named, share=row.slice_ratio)


def ending_of(event: Event) -> Ending | None:
    """The end that a Docker event tells of; None for any other event."""
    if event.source != "docker" or event.kind != "die":
        return None
    text = event.attributes.get("exit_code", "")
    code = int(text) if text.removeprefix("-").isdecimal() else None
    return Ending(at=event.at, exit_code=code, source="docker event", reason=reason_of(code))


def reason_of(exit_code: int | None, *, oom_killed: bool = False) -> str:
    """How a run ended, in words."""
    if exit_code is None:
        return "ended"
    words = f"ended with exit code {exit_code}"
    return f"{words} (out of memory)" if oom_killed else f"{words} (killed)" if exit_code == 137 else words


def _seen(
    row: Container, gpus: Mapping[str, GpuFacts], rules: JobRules, chain: str, at: datetime, used: tuple[str, ...]
) -> Seen:
    running = row.state in HOLDING_STATES and not row.removed and row.started_at is not None
    known = bool(row.gpu_uuids) and all(uuid in gpus or not uuid.startswith("MIG-") for uuid in row.gpu_uuids)
    absent = bool(row.gpu_unresolved) and not row.gpu_uuids  # the list is known, and what it asks for is not on it
    draft = _draft(row, gpus, rules, chain) if running and known else None
    undeclared = running and bool(used) and not row.gpu_uuids and row.gpu_request_kind in _HOLDS_NOTHING
    if undeclared:  # privileged, or given the device nodes in a way that inspect does not tell
        draft = _draft(replace(row, gpu_uuids=used), gpus, rules, chain)
        begun = {"gpu_uuids": "used, not declared: its processes are on them", "started_at": "first seen using them"}
        draft = replace(draft, started_at=to_milliseconds(at), sources={**draft.sources, **begun})
    return Seen(
        container_id=row.container_id,
        name=row.name,
        running=running,
        started_at=None if row.started_at is None else to_milliseconds(row.started_at),
        finished_at=None if row.finished_at is None else to_milliseconds(row.finished_at),
        exit_code=row.exit_code,
        oom_killed=row.oom_killed,
        draft=draft,
        at_least=undeclared,
        waiting=running and not known and not absent and row.gpu_request_kind not in _HOLDS_NOTHING,
    )


def _draft(row: Container, gpus: Mapping[str, GpuFacts], rules: JobRules, chain: str) -> GpuJob:
    started = to_milliseconds(row.started_at or row.seen_at)
    facts = [gpus.get(uuid, GpuFacts(name="")) for uuid in row.gpu_uuids]
    tenant_from = _tenant_source(row, rules.tenancy)
    user, user_from = _labelled(row, rules.jobs.user_labels)
    if not user:
        user, user_from = row.user, "user of the container" if row.user else "not set: the image's default user"
    workload, workload_from = _labelled(row, rules.jobs.workload_labels)
    sources = {
        "tenant": tenant_from,
        "user": user_from,
        "workload": workload_from or "container name",
        "gpu_uuids": f"{row.gpu_request or 'GPU request'}, resolved on the host's list",
        "started_at": "docker inspect",
        RUN_STARTED: time_text(started),
    }
    if row.team:
        sources["team"] = "operator's rule" if row.tenant_origin == "mapped" else "label"
    if row.image_digest:
        sources["image_digest"] = "docker image inspect"
    return GpuJob(
        at=row.seen_at, chain=chain, sequence=0, entry=OPEN, job_id="", host=row.host, tenant=row.tenant,
        team=row.team, user=user, workload=workload or row.name, container_key=row.container_key,
        container_id=row.container_id, container_name=row.name, image=row.image, image_digest=row.image_digest,
        gpu_uuids=row.gpu_uuids, gpu_names=tuple(fact.name for fact in facts),
        gpu_count=round(sum(fact.share for fact in facts), 6), started_at=started, sources=sources,
    )  # fmt: skip


def _tenant_source(row: Container, tenancy: TenancySettings) -> str:
    match row.tenant_origin:
        case "mapped":
            return "operator's rule"
        case "label":
            return f"label {next((key for key in tenancy.tenant_labels if row.labels.get(key)), 'of the container')}"
        case "compose":
            return "compose project"
        case _:
            return "nobody named"


def _labelled(row: Container, keys: Iterable[str]) -> tuple[str, str]:
    """(value, where from) of the first label that is set; two empty texts for none."""
    return next(((row.labels[key], f"label {key}") for key in keys if row.labels.get(key, "").strip()), ("", ""))
