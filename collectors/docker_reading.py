"""Where a container's numbers come from: the kernel's files if the daemon is on this machine, else its API."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from collectors.base import SourceError
from collectors.cgroups import CgroupFiles, Cgroups, ContainerGoneError, Counters, read_counters
from collectors.docker_inventory import Known
from collectors.docker_statistics import Lifetime, counters_from_stats, lifetime_of
from fleet.model import Gap, Reason
from fleet.settings_table import DockerDaemon

Statistics = Callable[[Iterable[str], float], Mapping[str, "Mapping[str, object] | SourceError"]]


class StatisticsReader:
    """Reads live containers, each its numbers or the gap. Remembers where each one's files are."""

    def __init__(self, daemon: DockerDaemon, ask_daemon: Statistics) -> None:
        self._daemon = daemon
        self._ask_daemon = ask_daemon
        self._cgroups = Cgroups(daemon.cgroup_root, daemon.proc_root)
        self._files: dict[Lifetime, CgroupFiles] = {}
        self.path = ""

    @property
    def host_pids(self) -> bool:
        """The daemon's cgroups, and so its machine, are ours to read."""
        return bool(self._files)

    def read(self, live: Sequence[Known], deadline: float) -> dict[str, Counters | Gap]:
        """Container id -> its reading, or why there is none. Never raises."""
        how = self._daemon.statistics
        if not live:
            self._files.clear()
            return {}
        if how == "cgroup" or (how == "auto" and self._daemon.url.startswith("unix:")):
            readings = self._from_files(live)
            if self._files:
                self.path = "cgroup"
                return readings
            if how == "cgroup":
                self.path = "cgroup"
                detail = (
                    f"no cgroup of it under {self._daemon.cgroup_root}: mount the host's /sys/fs/cgroup and /proc, "
                    'or set statistics = "auto"'
                )
                return {each.listed.container_id: _gap(each, "unsupported", detail) for each in live}
        self.path = "api"
        return self._from_daemon(live, deadline)

    def _from_files(self, live: Sequence[Known]) -> dict[str, Counters | Gap]:
        readings: dict[str, Counters | Gap] = {}
        remembered, self._files = self._files, {}
        for each in live:
            lifetime = lifetime_of(each)
            files = remembered.get(lifetime) or self._locate(each)
            if files is None:
                readings[lifetime[0]] = _gone(each)
                continue
            try:
                readings[lifetime[0]] = read_counters(files)
            except ContainerGoneError:
                readings[lifetime[0]] = _gone(each)
                continue
            self._files[lifetime] = files
        return readings

    def _locate(self, each: Known) -> CgroupFiles | None:
        return self._cgroups.locate(
            each.listed.container_id,
            0 if each.facts is None else each.facts.pid,
            cgroup_parent=each.place.cgroup_parent,
            network_mode=each.place.network_mode,
        )

    def _from_daemon(self, live: Sequence[Known], deadline: float) -> dict[str, Counters | Gap]:
        known = {each.listed.container_id: each for each in live}
        readings: dict[str, Counters | Gap] = {}
        for key, answer in self._ask_daemon(known, deadline).items():
            if isinstance(answer, SourceError):
                gone = answer.reason == "gone"
                readings[key] = _gone(known[key]) if gone else _gap(known[key], answer.reason, answer.detail)
                continue
            try:
                readings[key] = counters_from_stats(answer, network_mode=known[key].place.network_mode)
            except ContainerGoneError:
                readings[key] = _gone(known[key])
        return readings


def _gone(each: Known) -> Gap:
    return _gap(each, "gone", "ended between the list and the reading")


def _gap(each: Known, reason: Reason, detail: str) -> Gap:
    name = each.listed.container_id[:12] if each.facts is None else each.facts.row.name
    return Gap(subject=name, reason=reason, detail=detail)
