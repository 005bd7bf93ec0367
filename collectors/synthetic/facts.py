"""The demo's slowly changing facts: hosts, GPUs, containers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from collectors.synthetic.devices import GPUS
from collectors.synthetic.layout import GIB, HOSTS, MEMBERS, TEAMS, Identities, Member
from collectors.synthetic.story import (
    CRASH_PERIOD,
    CRASHER,
    DEPLOYED,
    LEAK,
    LEAK_PERIOD,
    NOISY,
    NOISY_LENGTH,
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
    **{("nvml", host): 4 + sum(len(member.gpus) for member in MEMBERS if member.host == host) + 4 for host, _ in HOSTS},
}
_DRIVER = "590.48.01"
_CHECKED_ROLES = ("vllm", "embedding", "gateway")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts of one demo."""

    seed: int
    story: Story
    identities: Identities
    uuids: dict[tuple[str, int], str]

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
        for host, index, model in GPUS:
            rows.append(
                Gpu(
                    seen_at=at, host=host, gpu_uuid=self.uuids[host, index], gpu_index=index, name=model.name,
                    memory_total_bytes=model.memory_bytes, pci_bus_id=f"00000000:{0x1B + 0x20 * index:02X}:00.0",
                    driver_version=_DRIVER, power_limit_watts=model.limit_watts,
                )
            )  # fmt: skip
        moment = at.timestamp()
        rows.extend(self._container(index, at, bool(running[index])) for index in range(len(MEMBERS)))
        if moment >= self.story.deploy_at:
            rows.append(self._container(DEPLOYED, at, False, retired=True))
        return tuple(rows)

    def _container(self, index: int, at: datetime, running: bool, *, retired: bool = False) -> Container:
        member, moment, story = MEMBERS[index], at.timestamp(), self.story
        recreated = index == DEPLOYED and moment >= story.deploy_at and not retired
        before = index == DEPLOYED and not recreated
        image = OLD_IMAGE if before else member.image
        team, owner = TEAMS[member.tenant]
        created = (
            story.deploy_at + 4.0 if recreated else min(story.leak_born, story.origin - (9 + index % 23) * 86400.0)
        )
        started, finished, exit_code = created + 1.0, None, None
        restart_count = 0
        if index == LEAK:
            restart_count = int((moment - story.leak_born) // LEAK_PERIOD)
            created = story.leak_born - 2.0
            started = story.leak_born + restart_count * LEAK_PERIOD + 1.4
            finished, exit_code = (started - 1.2, 137) if restart_count else (None, None)
        elif index == CRASHER and moment >= story.crash_from:
            restart_count = int((moment - story.crash_from) // CRASH_PERIOD)
            started = story.crash_from + restart_count * CRASH_PERIOD
            finished, exit_code = (started + 240.0 if not running else started - 60.0), 1
        elif index == TRAINER and moment >= story.xid_at:
            finished, exit_code = story.xid_at + 2.0, 1
            started = story.xid_at + 720.0 if running else started
        elif index == NOISY:
            cycle = (moment - story.origin + 1500.0) // 21600.0
            started = story.origin - 1500.0 + cycle * 21600.0
            finished, exit_code = (None, None) if running else (started + NOISY_LENGTH, 0)
        elif retired:
            finished, exit_code = story.deploy_at, 0
        state = "running" if running else "exited" if retired or index == NOISY else "restarting"
        sick = index == UNHEALTHY and moment >= story.unhealthy_from
        digest = self.identities.digest("image", image)
        return Container(
            seen_at=at, host=member.host, tenant=member.tenant, team=team, owner=owner, tenant_origin=member.origin,
            container_key=member.key, container_id=self.identities.container_id(member.key, 1 if recreated else 0),
            name=member.name, image=image, image_id=f"sha256:{digest}",
            image_digest=f"sha256:{self.identities.digest('repository', image)}",
            image_created_at=_utc(created) - timedelta(days=3 + int(digest[:2], 16) % 200),
            compose_project=member.project, compose_service=member.service if member.project else "",
            labels=_labels(member), user=member.user, state=state,
            health=("unhealthy" if sick else self.healthy_word(member)) if running else "",
            exit_code=exit_code, oom_killed=index == LEAK and not running, created_at=_utc(created),
            started_at=_utc(started), finished_at=None if finished is None else _utc(finished),
            restart_count=restart_count, cpu_limit_cores=member.core_limit,
            memory_limit_bytes=None if member.memory_limit_gib is None else round(member.memory_limit_gib * GIB),
            gpu_request=f"--gpus device={','.join(str(gpu) for gpu, _ in member.gpus)}" if member.gpus else "",
            gpu_uuids=tuple(self.uuids[member.host, gpu] for gpu, _ in member.gpus), privileged=member.privileged,
            removed=retired,
        )  # fmt: skip


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
