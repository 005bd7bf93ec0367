"""The demo's slowly changing facts: hosts, GPUs, containers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from collectors.synthetic.devices import GPUS, gpu_number
from collectors.synthetic.layout import GIB, HOSTS, MEMBERS, MIG, TEAMS, Identities, Member
from collectors.synthetic.story import (
    CRASH_PERIOD,
    CRASH_UP,
    CRASHER,
    DEPLOYED,
    FAILED,
    FAILED_ERROR,
    HOLDER,
    JOB,
    LEAK,
    LEAK_PERIOD,
    NOISY,
    NOISY_LENGTH,
    NOISY_PERIOD,
    OLD_IMAGE,
    TRAINER,
    UNHEALTHY,
    Story,
)
from fleet.model import Container, Gpu, Host, Row

PROMETHEUS = "prometheus-main"
#: What a poll of a real source would bring from each host.
HOST_ROWS_TARGET: dict[tuple[str, str], int] = {
    **{("docker", host): sum(member.host == host for member in MEMBERS) for host, _ in HOSTS},
    **{
        ("nvml", host): 2 * sum(gpu.host == host for gpu in GPUS)
        + sum(len(member.gpus) for member in MEMBERS if member.host == host)
        for host, _ in HOSTS
    },
}
_DRIVER = "590.48.01"
_CHECKED_ROLES = ("vllm", "embedding", "gateway")


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One container's times (seconds since 1970). `generation`: which container under its name."""

    created: float
    started: float | None = None
    finished: float | None = None
    exit_code: int | None = None
    state: str = "running"
    restarts: int = 0
    generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts of one demo."""

    seed: int
    story: Story
    identities: Identities
    uuids: tuple[str, ...]  # as in GPUS

    def healthy_word(self, member: Member) -> str:
        """Health while nothing is wrong; "" for a container without a health check."""
        return "healthy" if member.role in _CHECKED_ROLES else ""

    def address(self, index: int, port: int) -> str:
        """The endpoint's address as Prometheus names the instance."""
        host = next(number for number, (name, _) in enumerate(HOSTS) if name == MEMBERS[index].host)
        return f"10.20.{host}.{20 + index}:{port}"

    def rows(self, at: datetime, running: NDArray[np.bool_]) -> tuple[Row, ...]:
        """All facts as they are at that instant."""
        rows: list[Row] = []
        for host, _ in HOSTS:
            rows.append(
                Host(
                    seen_at=at, host=host, docker_version="29.1.3", os="Ubuntu 24.04.3 LTS", kernel="6.8.0-87-generic",
                    cgroup_version="2", cgroup_driver="systemd", cpu_count=96, memory_total_bytes=1024 * GIB,
                    stats_path="cgroup",
                )
            )  # fmt: skip
        for number, gpu in enumerate(GPUS):
            sliced = gpu.mig is not None
            rows.append(
                Gpu(
                    seen_at=at, host=gpu.host, gpu_uuid=self.uuids[number], gpu_index=gpu.index,
                    parent_uuid=self.uuids[gpu_number((gpu.host, gpu.index))] if sliced else "",
                    name=f"{gpu.model.name} MIG {gpu.profile}" if sliced else gpu.model.name, mig_profile=gpu.profile,
                    memory_total_bytes=gpu.memory_bytes, pci_bus_id=f"00000000:{0x1B + 0x20 * gpu.index:02X}:00.0",
                    driver_version=_DRIVER, power_limit_watts=None if sliced else gpu.model.limit_watts,
                    mig_enabled=gpu.cut, slice_ratio=gpu.slices / 7,
                )
            )  # fmt: skip
        moment = at.timestamp()
        born = {HOLDER: self.story.hold_from, FAILED: self.story.failed_at}
        there = [index for index in range(len(MEMBERS)) if moment >= born.get(index, moment)]
        rows.extend(self._container(index, at, bool(running[index])) for index in there)
        if moment >= self.story.deploy_at:
            rows.append(self._container(DEPLOYED, at, False, retired=True))
        rows.append(self._container(JOB, at, False, retired=True))
        return tuple(rows)

    def _container(self, index: int, at: datetime, running: bool, *, retired: bool = False) -> Container:
        member, moment, story = MEMBERS[index], at.timestamp(), self.story
        life = self._life(index, moment, running, retired)
        recreated = index == DEPLOYED and moment >= story.deploy_at and not retired
        image = OLD_IMAGE if index == DEPLOYED and not recreated else member.image
        team, owner = TEAMS[member.tenant]
        sick = index == UNHEALTHY and moment >= story.unhealthy_from
        digest = self.identities.digest("image", image)
        kind, request, uuids, unresolved = self.gpus(member)
        return Container(
            seen_at=at, host=member.host, tenant=member.tenant, team=team, owner=owner, tenant_origin=member.origin,
            container_key=member.key, container_id=self.identities.container_id(member.key, life.generation),
            name=member.name, image=image, image_id=f"sha256:{digest}",
            image_digest=f"sha256:{self.identities.digest('repository', image)}",
            image_created_at=_utc(life.created) - timedelta(days=3 + int(digest[:2], 16) % 200),
            compose_project=member.project, compose_service=member.service if member.project else "",
            labels=_labels(member), user=member.user, state=life.state,
            health=("unhealthy" if sick else self.healthy_word(member)) if running else "",
            exit_code=life.exit_code, oom_killed=index == LEAK and not running,
            error=FAILED_ERROR if index == FAILED else "", created_at=_utc(life.created),
            started_at=None if life.started is None else _utc(life.started),
            finished_at=None if life.finished is None else _utc(life.finished),
            restart_count=life.restarts, cpu_limit_cores=member.core_limit,
            memory_limit_bytes=None if member.memory_limit_gib is None else round(member.memory_limit_gib * GIB),
            gpu_request=request, gpu_uuids=uuids, gpu_request_kind=kind, gpu_unresolved=unresolved,
            privileged=member.privileged, removed=retired,
        )  # fmt: skip

    def gpus(self, member: Member) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
        """How it asked for GPUs: (kind, as typed, UUIDs that this comes to, ids that name nothing)."""
        uuids = tuple(self.uuids[gpu_number((member.host, index))] for index, _ in member.gpus)
        if member.takes or (member.privileged and not uuids):
            return "privileged", "--privileged", (), ()
        if member.asks == "all":
            return "all", "--gpus all", uuids, ()
        if member.asks == "count":
            return "count", f"--gpus {len(uuids)}", uuids, ()
        if member.asks:
            return "ids", f"--gpus device={member.asks}", (), (member.asks,)
        if not uuids:
            return "none", "", (), ()
        names = [
            self.uuids[gpu_number((member.host, index))] if index >= MIG else str(index) for index, _ in member.gpus
        ]
        return "ids", f"--gpus device={','.join(names)}", uuids, ()

    def _life(self, index: int, moment: float, running: bool, retired: bool) -> Life:
        """When the newest container under a name was created, started and ended; retired: the one before it."""
        story = self.story
        created = min(story.leak_born, story.origin - (9 + index % 23) * 86400.0)
        usual = Life(created=created, started=created + 1.0, state="running" if running else "restarting")
        if index == DEPLOYED and retired:
            return replace(usual, state="exited", finished=story.deploy_at, exit_code=0)
        if index == DEPLOYED and moment >= story.deploy_at:
            return replace(usual, created=story.deploy_at + 4.0, started=story.deploy_at + 5.0, generation=1)
        if index == JOB:
            cycle = int(story.job_cycle(np.array([moment]))[0]) - retired
            run = self.job(cycle)
            ended = run.finished is not None and run.finished <= moment
            return replace(run, state="exited") if ended else replace(run, finished=None, exit_code=None)
        if index == FAILED:
            return Life(created=story.failed_at, state="created", exit_code=128)
        if index == HOLDER and moment >= story.hold_from:
            return Life(created=story.hold_from - 1.0, started=story.hold_from)
        if index == LEAK:
            count = int((moment - story.leak_born) // LEAK_PERIOD)
            started = story.leak_born + count * LEAK_PERIOD + 1.4
            ended = (started - 1.2, 137) if count else (None, None)
            return replace(usual, created=story.leak_born - 2.0, started=started, restarts=count, finished=ended[0],
                           exit_code=ended[1])  # fmt: skip
        if index == CRASHER and moment >= story.crash_from:
            count = int((moment - story.crash_from) // CRASH_PERIOD)
            started = story.crash_from + count * CRASH_PERIOD
            ended = started + CRASH_UP if not running else started - 60.0
            return replace(usual, started=started, restarts=count, finished=ended, exit_code=1)
        if index == TRAINER and moment >= story.xid_at:
            started = story.xid_at + 720.0 if running else usual.started
            return replace(usual, started=started, finished=story.xid_at + 2.0, exit_code=1)
        if index == NOISY:
            cycle = (moment - story.origin + 1500.0) // NOISY_PERIOD
            started = story.origin - 1500.0 + cycle * NOISY_PERIOD
            ended = (None, None) if running else (started + NOISY_LENGTH, 0)
            return replace(usual, started=started, finished=ended[0], exit_code=ended[1],
                           state="running" if running else "exited")  # fmt: skip
        return usual

    def runs(self, start: datetime, end: datetime) -> tuple[Run, ...]:
        """Every run with GPUs that lies in [start, end) with any part of it, by start. Running ones are open."""
        first, last = start.timestamp(), end.timestamp()
        found = [
            self._run(index, at, life, last)
            for index, member in enumerate(MEMBERS)
            if member.gpus and not member.takes and index != FAILED
            for at, life in self._lives(index, first, last)
        ]
        return tuple(sorted(found, key=lambda run: (run.started_at, run.container.container_key)))

    def _lives(self, index: int, first: float, last: float) -> list[tuple[float, Life]]:
        """(an instant in the run, the run) for each of one container's runs that touches the span."""
        story = self.story
        usual = self._life(index, story.leak_born, True, False)
        if index == JOB:
            cycles = range(int(story.job_cycle(np.array([first]))[0]), int(story.job_cycle(np.array([last]))[0]) + 1)
            lives = [self.job(cycle) for cycle in cycles]
        elif index == NOISY:
            begin, until = (int((edge - story.origin + 1500.0) // NOISY_PERIOD) for edge in (first, last))
            starts = [story.origin - 1500.0 + cycle * NOISY_PERIOD for cycle in range(begin, until + 1)]
            lives = [replace(usual, started=at, finished=at + NOISY_LENGTH, exit_code=0) for at in starts]
        elif index == DEPLOYED:
            old = replace(usual, finished=story.deploy_at, exit_code=0)
            lives = [old, replace(usual, started=story.deploy_at + 5.0, generation=1)]
        elif index == TRAINER:
            lives = [
                replace(usual, finished=story.xid_at + 2.0, exit_code=1),
                replace(usual, started=story.xid_at + 720.0),
            ]
        elif index == HOLDER:
            lives = [replace(usual, started=story.hold_from)]
        else:
            lives = [usual]
        return [
            (min(last, life.finished or last), life)
            for life in lives
            if life.started is not None and life.started < last and (life.finished is None or life.finished > first)
        ]

    def _run(self, index: int, at: float, life: Life, last: float) -> Run:
        ended = life.finished if life.finished is not None and life.finished < last else None
        old = index == DEPLOYED and life.generation == 0 and at >= self.story.deploy_at
        # Just inside the run, so that the facts are those of this run and not of the next one.
        facts = self._container(index, _utc(at - 0.001), ended is None, retired=old)
        container = replace(
            facts, container_id=self.identities.container_id(MEMBERS[index].key, life.generation), removed=False,
            started_at=_utc(life.started or at), finished_at=None if ended is None else _utc(ended),
            exit_code=None if ended is None else life.exit_code, state="running" if ended is None else "exited",
        )  # fmt: skip
        return Run(
            container=container, gpu_uuids=facts.gpu_uuids, started_at=_utc(life.started or at),
            ended_at=None if ended is None else _utc(ended), exit_code=None if ended is None else life.exit_code,
        )  # fmt: skip

    def job(self, cycle: int) -> Life:
        """The life of one evaluation job."""
        started = self.story.job_start(cycle)
        length = float(self.story.job_length(np.array([cycle]))[0])
        return Life(
            created=started - 1.0, started=started, finished=started + length, exit_code=self.story.job_exit(cycle),
            generation=cycle,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One container run with the GPUs it was given. `container`: its facts at the end of the run, or now."""

    container: Container
    gpu_uuids: tuple[str, ...]
    started_at: datetime
    ended_at: datetime | None = None  # None = it still runs
    exit_code: int | None = None


def _labels(member: Member) -> dict[str, str]:
    labels: dict[str, str] = {"aifleet.demo": "synthetic"}
    if member.project:
        labels["com.docker.compose.project"] = member.project
        labels["com.docker.compose.service"] = member.service
        labels["com.docker.compose.container-number"] = str(member.number)
    if member.origin == "label":
        labels["aifleet.tenant"] = member.tenant
    return labels


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(round(seconds, 3), UTC)
