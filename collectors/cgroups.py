"""What a container uses, from the kernel's own files: cgroup v1 and v2, either driver, and /proc/<pid>/net/dev.

Reading the files of 100 containers takes milliseconds and costs the daemon nothing; its statistics API takes a
second or more for the same numbers. Paths come from /proc/<pid>/cgroup where that is the host's, else from the places
where Docker's two drivers put a container (`docker/<id>`, `system.slice/docker-<id>.scope`, a --cgroup-parent).
A path that does not hold the container's id is never read: the pid has been given to somebody else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

#: cgroup v1 writes "no limit" as the largest page-aligned number; no machine has an exbibyte of memory.
_NO_LIMIT_BYTES = 1 << 60


class ContainerGoneError(LookupError):
    """The cgroup is not there any more: the container ended between the list and the reading."""


@dataclass(slots=True, kw_only=True)
class Counters:
    """One reading: counters since the container's start, gauges of now. None = could not be read (see `unknown`)."""

    cpu_seconds: float | None = None
    cpu_periods: int | None = None
    cpu_throttled_periods: int | None = None
    cpu_throttled_seconds: float | None = None
    memory_working_set_bytes: int | None = None
    memory_cache_bytes: int | None = None
    memory_limit_bytes: int | None = None
    network_receive_bytes: int | None = None
    network_transmit_bytes: int | None = None
    block_read_bytes: int | None = None
    block_write_bytes: int | None = None
    pids: int | None = None
    oom_kills: int | None = None
    unknown: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupFiles:
    """Where the numbers of one container stand; None where its controller is not there."""

    cpu: str | None = None  # v2: cpu.stat; v1: cpuacct.usage
    cpu_v2: bool = False
    throttling: str | None = None  # v1 only: cpu.stat of the cpu controller
    memory: str | None = None  # folder
    memory_v2: bool = False
    pids: str | None = None
    block: str | None = None
    block_v2: bool = False
    network: str | None = None
    network_unknown: str = ""
    host_pid: bool = False  # /proc/<pid> is this container's: the daemon's PIDs are ours to read


class Cgroups:
    """The cgroup file systems of one machine."""

    def __init__(self, cgroup_root: str | Path = "/sys/fs/cgroup", proc_root: str | Path = "/proc") -> None:
        self._root = str(cgroup_root)
        self._proc = str(proc_root)
        self._mounts: dict[str, str] | None = None

    def locate(
        self, container_id: str, pid: int, *, cgroup_parent: str = "", network_mode: str = ""
    ) -> CgroupFiles | None:
        """The files of a running container; None when this machine does not have its cgroup (remote, gone)."""
        if self._mounts is None:
            self._mounts = self._find_mounts()
        paths = self._own_paths(container_id, pid)
        folders = {
            controller: folder
            for controller, mount in self._mounts.items()
            if (folder := self._folder(controller, mount, paths, container_id, cgroup_parent)) is not None
        }
        network, network_unknown = self._network(pid, network_mode, visible=bool(paths))
        unified = folders.get("")
        memory = folders.get("memory") or unified
        cpu = folders.get("cpuacct") or unified
        if memory is None and cpu is None:
            return None
        pids = folders.get("pids") or unified
        block = folders.get("blkio") or unified
        return CgroupFiles(
            cpu=cpu and (f"{cpu}/cpuacct.usage" if "cpuacct" in folders else f"{cpu}/cpu.stat"),
            cpu_v2="cpuacct" not in folders,
            throttling=f"{folders['cpu']}/cpu.stat" if "cpu" in folders else None,
            memory=memory,
            memory_v2="memory" not in folders,
            pids=pids and f"{pids}/pids.current",
            block=block and _block_file(block, v2="blkio" not in folders),
            block_v2="blkio" not in folders,
            network=network,
            network_unknown=network_unknown,
            host_pid=bool(paths),
        )

    def _find_mounts(self) -> dict[str, str]:
        """Controller -> mount of its v1 hierarchy; "" -> the unified hierarchy, on a v2 or a hybrid host."""
        mounts: dict[str, str] = {}
        for unified in (self._root, f"{self._root}/unified"):
            if Path(unified, "cgroup.controllers").exists():
                mounts[""] = unified
                break
        if mounts.get("") == self._root:
            return mounts
        try:
            folders = sorted(entry.name for entry in os.scandir(self._root) if entry.is_dir())
        except OSError:
            return mounts
        for folder in folders:
            for controller in folder.split(","):
                if controller in {"cpu", "cpuacct", "memory", "pids", "blkio"}:
                    mounts.setdefault(controller, f"{self._root}/{folder}")
        return mounts

    def _own_paths(self, container_id: str, pid: int) -> dict[str, str]:
        """Controller -> path as the process itself has it, cut behind the container; empty when it is not ours."""
        text = _read(f"{self._proc}/{pid}/cgroup") if pid > 0 else None
        paths: dict[str, str] = {}
        for line in (text or b"").decode(errors="replace").splitlines():
            _, controllers, path = (*line.split(":", 2), "", "")[:3]
            at = path.find(container_id)
            if at < 0:
                continue
            end = path.find("/", at)
            for controller in controllers.split(","):
                paths[controller] = path if end < 0 else path[:end]
        return paths

    @staticmethod
    def _folder(
        controller: str, mount: str, paths: Mapping[str, str], container_id: str, cgroup_parent: str
    ) -> str | None:
        candidates: list[str] = []
        # A reader in a private cgroup namespace sees "/../<id>", which leads nowhere from the mount.
        if (own := paths.get(controller)) is not None and "/.." not in own:
            candidates.append(own)
        parent = cgroup_parent.strip("/")
        for base in (parent,) if parent else ("docker", "system.slice"):
            candidates += [f"/{base}/{container_id}", f"/{base}/docker-{container_id}.scope"]
        if parent.endswith(".slice"):  # systemd nests a-b.slice in a.slice
            words = parent.removesuffix(".slice").split("-")
            nested = "/".join("-".join(words[: i + 1]) + ".slice" for i in range(len(words)))
            candidates.append(f"/{nested}/docker-{container_id}.scope")
        for candidate in candidates:
            if Path(mount + candidate).is_dir():
                return mount + candidate
        return None

    def _network(self, pid: int, network_mode: str, *, visible: bool) -> tuple[str | None, str]:
        if network_mode == "host":
            return None, "network: uses the host's, so its traffic cannot be told from the host's"
        if network_mode.startswith("container:"):
            return None, "network: shares that of another container, where it is counted"
        if not visible:
            return None, "network: the host's processes are not visible to the collector (run it with --pid=host)"
        return f"{self._proc}/{pid}/net/dev", ""


def read_counters(files: CgroupFiles) -> Counters:
    """One reading of one container. Raises ContainerGoneError when it has ended."""
    counters = Counters(unknown=files.network_unknown)
    missing: list[str] = [files.network_unknown] if files.network_unknown else []
    known = 0
    for subject, read in _READERS:
        try:
            outcome = read(files, counters)
        except ValueError:  # not the numbers that the kernel writes
            outcome = None
        if outcome is None:
            missing.append(f"{subject}: not readable in this cgroup")
        known += outcome is True and subject != "network"
    if known == 0:
        raise ContainerGoneError(files.cpu or files.memory or "")
    if missing:
        counters.unknown = "; ".join(missing)
    return counters


def _read(path: str) -> bytes | None:
    """The file's bytes, None when it cannot be read. Plain system calls: open() takes several times as long."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(handle, 65536)
    except OSError:  # ENODEV: the cgroup was removed between open and read
        return None
    finally:
        os.close(handle)


def _value(text: bytes, key: bytes) -> int | None:
    """Number on the line `key number`; None without such a line."""
    start = 0 if text.startswith(key) else text.find(b"\n" + key) + 1
    if start == 0 and not text.startswith(key):
        return None
    start += len(key)
    end = text.find(b"\n", start)
    try:
        return int(text[start : end if end >= 0 else None])
    except ValueError:
        return None


def _number(text: bytes | None) -> int | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _read_cpu(files: CgroupFiles, into: Counters) -> bool | None:
    """True when read, None when a file is missing, False when there is nothing to read by nature."""
    text = _read(files.cpu) if files.cpu else None
    if text is None:
        return None
    if not files.cpu_v2:
        nanoseconds = _number(text)
        into.cpu_seconds = None if nanoseconds is None else nanoseconds / 1e9
        text = _read(files.throttling) if files.throttling else None
        if text is not None:
            into.cpu_periods = _value(text, b"nr_periods ")
            into.cpu_throttled_periods = _value(text, b"nr_throttled ")
            throttled = _value(text, b"throttled_time ")
            into.cpu_throttled_seconds = None if throttled is None else throttled / 1e9
        return True if into.cpu_seconds is not None else None
    used = _value(text, b"usage_usec ")
    if used is None:
        return None
    into.cpu_seconds = used / 1e6
    into.cpu_periods = _value(text, b"nr_periods ")
    into.cpu_throttled_periods = _value(text, b"nr_throttled ")
    throttled = _value(text, b"throttled_usec ")
    into.cpu_throttled_seconds = None if throttled is None else throttled / 1e6
    return True


def _read_memory(files: CgroupFiles, into: Counters) -> bool | None:
    if files.memory is None:
        return None
    stat = _read(files.memory + "/memory.stat")
    used = _number(_read(files.memory + ("/memory.current" if files.memory_v2 else "/memory.usage_in_bytes")))
    if stat is None or used is None:
        return None
    if files.memory_v2:
        inactive, cache = _value(stat, b"inactive_file "), _value(stat, b"file ")
        limit = _number(_read(files.memory + "/memory.max"))  # "max" is no number: no limit
        kills = _read(files.memory + "/memory.events")
    else:
        inactive, cache = _value(stat, b"total_inactive_file "), _value(stat, b"total_cache ")
        limit = _value(stat, b"hierarchical_memory_limit ")  # the parents' limits are in it
        kills = _read(files.memory + "/memory.oom_control")
    into.memory_working_set_bytes = working_set(used, inactive)
    into.memory_cache_bytes = cache
    into.memory_limit_bytes = None if limit is None or limit >= _NO_LIMIT_BYTES else limit
    into.oom_kills = None if kills is None else _value(kills, b"oom_kill ")
    return True


def working_set(used_bytes: int, inactive_file_bytes: int | None) -> int:
    """Memory in use without the page cache that the kernel drops first, in bytes.

    The rule of `docker stats` (docker/cli, cli/command/container/stats_helpers.go, calculateMemUsageUnixNoCache):
    usage minus total_inactive_file (v1) or inactive_file (v2), unless that is larger than the usage.
    """
    if inactive_file_bytes is None or inactive_file_bytes >= used_bytes:
        return used_bytes
    return used_bytes - inactive_file_bytes


def _read_pids(files: CgroupFiles, into: Counters) -> bool | None:
    into.pids = _number(_read(files.pids)) if files.pids else None
    return True if into.pids is not None else None


def _read_block(files: CgroupFiles, into: Counters) -> bool | None:
    text = _read(files.block) if files.block else None
    if text is None:
        return None
    read = written = 0
    for line in text.splitlines():
        words = line.split()
        if files.block_v2:  # 8:0 rbytes=1 wbytes=2 rios=3 ...
            for word in words[1:]:
                if word.startswith(b"rbytes="):
                    read += int(word[7:])
                elif word.startswith(b"wbytes="):
                    written += int(word[7:])
        elif len(words) == 3:  # 8:0 Read 1
            if words[1] == b"Read":
                read += int(words[2])
            elif words[1] == b"Write":
                written += int(words[2])
    into.block_read_bytes, into.block_write_bytes = read, written
    return True


def _read_network(files: CgroupFiles, into: Counters) -> bool | None:
    if files.network is None:
        return False
    text = _read(files.network)
    if text is None:
        return None
    received = transmitted = 0
    for line in text.splitlines()[2:]:
        name, _, numbers = line.partition(b":")
        if name.strip() == b"lo":
            continue
        words = numbers.split()
        if len(words) >= 9:
            received += int(words[0])
            transmitted += int(words[8])
    into.network_receive_bytes, into.network_transmit_bytes = received, transmitted
    return True


def _block_file(folder: str, *, v2: bool) -> str:
    if v2:
        return f"{folder}/io.stat"
    recursive = f"{folder}/blkio.throttle.io_service_bytes_recursive"
    return recursive if Path(recursive).exists() else f"{folder}/blkio.throttle.io_service_bytes"


_READERS: tuple[tuple[str, Callable[[CgroupFiles, Counters], bool | None]], ...] = (
    ("cpu", _read_cpu),
    ("memory", _read_memory),
    ("pids", _read_pids),
    ("block I/O", _read_block),
    ("network", _read_network),
)
