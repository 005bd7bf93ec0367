"""Keeps the GPU job ledger: looks at the containers of each host, opens and closes jobs, writes down what nobody saw.

What was seen decides, never what should have happened: a job ends by a Docker event, by what an inspection says, or, if
neither is to be had, when it was last seen. Times in which nobody looked are entries of their own.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from collectors.job_facts import RUN_STARTED, Ending, GpuFacts, Look, Seen, ending_of, gpu_facts, reason_of
from fleet.gpu_job_fields import time_text, to_milliseconds
from fleet.gpu_jobs import CLOSE, GAP, OPEN, job_id
from fleet.model import ContainerGpuSample, Event, Gpu, GpuJob, Row

#: A host that nobody looked at for longer than this has a gap; polls that come late by a little are none.
GAP_SECONDS = 60.0
#: From the end of a run to its close entry: its last samples are still on their way, and so may be its event.
SETTLE_SECONDS = 10.0
#: A container that is in no list, and of which no event tells: its inspection may just have failed.
GONE_SECONDS = 60.0
#: How long a close entry waits for a store that is away, which alone knows the energy.
ENERGY_WAIT_SECONDS = 600.0
_CONTAINERS_KEPT, _ENDINGS_KEPT = 5000, 50
_NOT_RUNNING = "the collector was not running"
_STORE_AWAY = (None, "not known: the store was away")
_NOT_READ = "the Docker daemon could not be read"

#: (joules or None, where from or why not) of a job up to its end. Raises EnergyUnknownError: ask again later.
Energy = Callable[[GpuJob, datetime], tuple[float | None, str]]


class EnergyUnknownError(Exception):
    """The energy of a job cannot be asked for at the moment."""


class Ledger(Protocol):
    """The chain, as far as the keeper needs it."""

    @property
    def chain(self) -> str:
        """Name of the chain."""
        ...

    def open_jobs(self, host: str) -> Sequence[GpuJob]:
        """Open entries without a close entry."""
        ...

    def looked_at(self, host: str) -> datetime | None:
        """When the host was last looked at, by this process or one before."""
        ...

    def was_closed(self, name: str) -> bool:
        """Whether a job of this id was closed lately."""
        ...

    def append(self, drafts: Sequence[GpuJob], host: str, at: datetime) -> None:
        """Add entries after a look at the host; all of them or none. Raises OSError."""
        ...


@dataclass(slots=True)
class _Missing:
    """An open job whose run is over: since when we know, and when it was last seen."""

    noticed: datetime
    last_seen: datetime


class JobKeeper:
    """One ledger's keeper. `look` is called from one thread at a time, `hear` from any."""

    def __init__(
        self,
        ledger: Ledger,
        energy: Energy,
        *,
        gap_seconds: float | None = GAP_SECONDS,
        settle_seconds: float = SETTLE_SECONDS,
        gone_seconds: float = GONE_SECONDS,
    ) -> None:
        """gap_seconds None: time in which nobody looked is no gap."""
        self._ledger = ledger
        self._energy = energy
        self._gap = timedelta.max if gap_seconds is None else timedelta(seconds=gap_seconds)
        self._settle = timedelta(seconds=settle_seconds)
        self._gone = timedelta(seconds=gone_seconds)
        self._lock = threading.Lock()
        self._endings: OrderedDict[str, list[Ending]] = OrderedDict()
        self._gpus: dict[str, GpuFacts] = {}
        self._used: OrderedDict[str, set[str]] = OrderedDict()
        self._missing: dict[str, _Missing] = {}
        self._last_seen: dict[str, datetime] = {}
        self._hosts: set[str] = set()
        self._waiting: dict[str, tuple[str, ...]] = {}

    @property
    def chain(self) -> str:
        """Name of the ledger's chain."""
        return self._ledger.chain

    def waiting(self) -> tuple[str, ...]:
        """Names of running containers that ask for GPUs which nobody could list."""
        return tuple(name for host in sorted(self._waiting) for name in self._waiting[host])

    def gpus(self) -> dict[str, GpuFacts]:
        """GPUs and MIG devices that were heard of, by UUID."""
        with self._lock:
            return dict(self._gpus)

    def used(self) -> dict[str, tuple[str, ...]]:
        """Container id -> GPUs that it was seen to use without holding them."""
        with self._lock:
            return {container_id: tuple(sorted(uuids)) for container_id, uuids in self._used.items()}

    def hear(self, rows: Iterable[Row]) -> None:
        """Take note of what sources brought: ends of containers, names and sizes of GPUs."""
        with self._lock:
            for row in rows:
                if isinstance(row, Gpu):
                    self._gpus[row.gpu_uuid] = gpu_facts(row)
                elif isinstance(row, ContainerGpuSample):
                    if row.container_id and not row.held and (row.memory_bytes or row.sm_ratio or row.processes):
                        self._used.setdefault(row.container_id, set()).add(row.gpu_uuid)
                        self._used.move_to_end(row.container_id)
                        if len(self._used) > _CONTAINERS_KEPT:
                            self._used.popitem(last=False)
                elif isinstance(row, Event) and (ending := ending_of(row)) is not None:
                    self._used.pop(row.container_id, None)  # the next run may use others
                    kept = self._endings.setdefault(row.container_id, [])
                    kept.append(ending)
                    del kept[:-_ENDINGS_KEPT]
                    self._endings.move_to_end(row.container_id)
                    if len(self._endings) > _CONTAINERS_KEPT:
                        self._endings.popitem(last=False)

    def look(self, look: Look) -> None:
        """Write down what changed since the last look at this host. Raises OSError: nothing was written down."""
        first = look.host not in self._hosts
        before = self._ledger.looked_at(look.host)
        drafts = self._gap_entries(look, before, first=first)
        seen = {each.container_id: each for each in look.containers}
        running: dict[tuple[str, str], GpuJob] = {}
        for job in self._ledger.open_jobs(look.host):
            found = seen.get(job.container_id)
            if found is None or not _is_same_run(job, found):
                drafts += self._close_when_settled(job, found, look.at, before)
                continue
            self._missing.pop(job.job_id, None)
            self._last_seen[job.job_id] = look.at
            running[job.container_id, job.sources[RUN_STARTED]] = job
            if found.draft is not None and _differ(job, found.draft, at_least=found.at_least):
                drafts += self._changed(job, found.draft, look.at)
        for each in look.containers:
            if each.draft is not None and (each.container_id, each.draft.sources[RUN_STARTED]) not in running:
                drafts.append(self._opened(each.draft, look.at))
        self._ledger.append(drafts, look.host, look.at)
        for draft in drafts:
            if draft.entry == CLOSE:
                self._missing.pop(draft.job_id, None)
                self._last_seen.pop(draft.job_id, None)
            elif draft.entry == OPEN:
                self._last_seen[draft.job_id] = look.at
        self._hosts.add(look.host)
        self._waiting[look.host] = tuple(each.name for each in look.containers if each.waiting)

    def _gap_entries(self, look: Look, before: datetime | None, *, first: bool) -> list[GpuJob]:
        if before is None or look.at - before <= self._gap:
            return []
        seconds = round((look.at - before).total_seconds(), 3)
        return [
            GpuJob(
                at=look.at, chain=self.chain, sequence=0, entry=GAP, job_id="", host=look.host, tenant="",
                started_at=before, ended_at=look.at, duration_seconds=seconds,
                end_reason=_NOT_RUNNING if first else _NOT_READ,
                sources={"started_at": "last look", "ended_at": "this look"},
            )
        ]  # fmt: skip

    def _opened(self, draft: GpuJob, at: datetime) -> GpuJob:
        name = job_id(draft.host, draft.container_id, draft.started_at, draft.gpu_uuids)
        if self._ledger.was_closed(name):  # closed as gone, and there it is again: not the same job twice
            return self._begun_at(draft, at, "the poll that saw it again")
        return replace(draft, at=at, job_id=name)

    @staticmethod
    def _begun_at(draft: GpuJob, at: datetime, source: str) -> GpuJob:
        at = to_milliseconds(at)
        name = job_id(draft.host, draft.container_id, at, draft.gpu_uuids)
        return replace(draft, at=at, job_id=name, started_at=at, sources={**draft.sources, "started_at": source})

    def _changed(self, job: GpuJob, draft: GpuJob, at: datetime) -> list[GpuJob]:
        """The run goes on with other GPUs: the end of one job and the begin of another, when it was seen."""
        end = Ending(at=at, exit_code=None, source="the poll that saw the change", reason="its set of GPUs changed")
        try:
            closed = self._closed(job, end, at)
        except EnergyUnknownError:
            closed = self._closed(job, end, at, energy=_STORE_AWAY)
        return [closed, self._begun_at(draft, at, "the poll that saw its set of GPUs change")]

    def _close_when_settled(
        self, job: GpuJob, found: Seen | None, at: datetime, before: datetime | None
    ) -> list[GpuJob]:
        missing = self._missing.get(job.job_id)
        if missing is None:
            last_seen = self._last_seen.get(job.job_id) or before or job.started_at
            missing = self._missing[job.job_id] = _Missing(noticed=at, last_seen=last_seen)
        ending = self._ending(job, found)
        patience = self._settle if ending is not None or found is not None else self._gone
        if timedelta(0) <= at - missing.noticed < patience:
            return []
        if ending is None:
            # `_last_seen` knows the jobs that this process saw run.
            seen_here = job.job_id in self._last_seen
            words = "its end was not seen" if seen_here else "not seen since the collector was down"
            ending = Ending(at=missing.last_seen, exit_code=None, source="last seen", reason=words)
        try:
            return [self._closed(job, ending, at)]
        except EnergyUnknownError:
            if at - missing.noticed < timedelta(seconds=ENERGY_WAIT_SECONDS):
                return []
            return [self._closed(job, ending, at, energy=_STORE_AWAY)]

    def _ending(self, job: GpuJob, found: Seen | None) -> Ending | None:
        """How the job's run ended, by the best witness there is; None when there is none."""
        next_start = found.started_at if found is not None and found.running else None
        with self._lock:
            heard = [
                ending
                for ending in self._endings.get(job.container_id, ())
                if ending.at >= job.started_at and (next_start is None or ending.at <= next_start)
            ]
        if heard:
            ending = min(heard, key=lambda one: one.at)
            if found is not None and found.oom_killed and not found.running and ending.exit_code is not None:
                return replace(ending, reason=reason_of(ending.exit_code, oom_killed=True))
            return ending
        if found is None or found.finished_at is None or found.finished_at < job.started_at:
            return None
        if found.running:
            # Inspect keeps the end of the run before; its exit code is gone.
            return Ending(at=found.finished_at, exit_code=None, source="docker inspect of the next run", reason="ended")
        reason = reason_of(found.exit_code, oom_killed=found.oom_killed)
        return Ending(at=found.finished_at, exit_code=found.exit_code, source="docker inspect", reason=reason)

    def _closed(
        self, job: GpuJob, ending: Ending, at: datetime, *, energy: tuple[float | None, str] | None = None
    ) -> GpuJob:
        # A clock that went back may put the end before the start; a job of no length is all that can be said then.
        end = max(to_milliseconds(ending.at), job.started_at)
        seconds = round((end - job.started_at).total_seconds(), 3)
        joules, energy_source = energy or self._energy(job, end)
        sources = {**job.sources, "ended_at": ending.source, "energy_joules": energy_source}
        if end != to_milliseconds(ending.at):
            sources["ended_at"] = f"{ending.source}, which says {time_text(ending.at)}: a clock went back"
        if ending.exit_code is not None:
            sources["exit_code"] = ending.source
        return replace(
            job, at=at, entry=CLOSE, ended_at=end, duration_seconds=seconds,
            gpu_hours=round(seconds / 3600.0 * job.gpu_count, 6), energy_joules=joules, exit_code=ending.exit_code,
            end_reason=ending.reason, sources=sources, sequence=0, previous_hash="", hash="",
        )  # fmt: skip


def _differ(job: GpuJob, draft: GpuJob, *, at_least: bool) -> bool:
    now, before = set(draft.gpu_uuids), set(job.gpu_uuids)
    return bool(now - before) if at_least else now != before


def _is_same_run(job: GpuJob, found: Seen) -> bool:
    return found.running and found.started_at is not None and time_text(found.started_at) == job.sources[RUN_STARTED]
