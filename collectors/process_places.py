"""Where processes run, read from /proc, with a memory that survives pid reuse.

What was found is kept until the process is another one, or the list of containers changed: a container that was not in
the list yet may be there now.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fleet.attribution import MPS_SERVER, Place, place_of

_START_TIME_FIELD = 22
# One container may be between dying and being removed; three at once show a pattern.
_MOST_CHECKED = 3
_READ_BYTES = 1 << 14
# Inode of the first PID namespace of a machine (PROC_PID_INIT_INO of the kernel).
_FIRST_NAMESPACE = "pid:[4026531836]"
# The kernel keeps 15 characters of `nvidia-cuda-mps-server`.
_MPS_COMMAND = "nvidia-cuda-mps"


@dataclass(slots=True)
class _Known:
    """`seen`: number and time of the inode of its stat file; `cgroup`: the text of its cgroup file."""

    seen: tuple[int, int]
    started: str
    mps: bool
    cgroup: str
    place: Place | None = None


class ProcessPlaces:
    """Reads below `proc_root`, which must be the host's /proc."""

    def __init__(self, proc_root: Path = Path("/proc")) -> None:
        self._root = proc_root
        self._folder = str(proc_root)
        self._known: dict[int, _Known] = {}
        self._containers: frozenset[str] = frozenset()

    def places(self, pids: Iterable[int], containers: Collection[str]) -> dict[int, Place]:
        """Place of each process. A process that ended meanwhile is "gone", one that may not be read "unknown"."""
        if self._containers != containers:
            self._containers = frozenset(containers)
            for known in self._known.values():
                known.place = None
        found: dict[int, Place] = {}
        before, self._known = self._known, {}
        for pid in pids:
            try:
                known = self._look(pid, before.get(pid))
            except (FileNotFoundError, ProcessLookupError):
                found[pid] = Place("gone", words="process ended")
                continue
            except OSError as error:
                found[pid] = Place("unknown", words=f"process cannot be read ({error.strerror})")
                continue
            self._known[pid] = known
            if known.place is None:
                known.place = _place(known, self._containers)
            found[pid] = known.place
        return found

    def problem(self, running: Mapping[str, int]) -> str:
        """Why processes cannot be told apart from here, "" when they can. running: container id -> State.Pid.

        Drivers since 535.113 number processes in the caller's PID namespace, so both our own numbering and the
        daemon's must be that of `proc_root`: we must find ourselves under our own number, and a container's first
        process in that container.
        """
        try:
            ourselves = str((self._root / "self").readlink())
        except OSError as error:
            return f"{self._root}: cannot be read as a process list ({error.strerror}); mount the host's /proc there"
        if ourselves != str(os.getpid()):
            return (
                f"the collector is not in the PID namespace of {self._root}, so the driver's process numbers mean "
                "others here: run it on the host or with --pid=host"
            )
        checked = 0
        for container, pid in running.items():
            if checked == _MOST_CHECKED:
                break
            try:
                known = self._look(pid, None)
            except (FileNotFoundError, ProcessLookupError):
                continue
            except OSError:
                checked += 1
                continue
            if place_of(known.cgroup, {container}).kind == "container":
                return ""
            checked += 1
        if not checked and (not running or self._in_first_namespace()):
            return ""  # they died meanwhile: no evidence either way
        return (
            "no running container's process is found in its container: "
            "the collector does not see the host's processes; run it on the host or with --pid=host"
        )

    def _in_first_namespace(self) -> bool:
        """Whether no process can be hidden from here; elsewhere a container's number may be nobody's."""
        try:
            return str((self._root / "self/ns/pid").readlink()) == _FIRST_NAMESPACE
        except OSError:
            return True

    def wsl(self) -> bool:
        """Whether this is Windows' Linux (WSL), whose driver tells nothing of processes."""
        try:
            release = self._read("sys/kernel/osrelease")
        except OSError:
            return False
        return "microsoft" in release.lower()

    def _look(self, pid: int, before: _Known | None) -> _Known:
        """What is known of a process, read anew when it is not the one of before. Raises OSError.

        The inode of a /proc file lives no longer than its process, so an unchanged one saves reading the start time,
        which costs five times as much. The kernel may drop it earlier: then the start time decides.
        """
        status = os.stat(f"{self._folder}/{pid}/stat")  # noqa: PTH116 - a Path for each of 500 processes costs more than the call
        seen = (status.st_ino, status.st_mtime_ns)
        if before is not None and before.seen == seen:
            return before
        command, started = _stat(self._read(f"{pid}/stat"))
        if before is not None and before.started == started:
            before.seen = seen
            return before
        return _Known(seen, started, command.startswith(_MPS_COMMAND), self._read(f"{pid}/cgroup"))

    def _read(self, name: str) -> str:
        """The text of a file below the root. Raises OSError."""
        descriptor = os.open(f"{self._folder}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, _READ_BYTES).decode("utf-8", "replace")
        finally:
            os.close(descriptor)


def _place(known: _Known, containers: Collection[str]) -> Place:
    place = place_of(known.cgroup, containers)
    if not known.mps:
        return place
    return Place(place.kind, place.container_id, MPS_SERVER)


def _stat(text: str) -> tuple[str, str]:
    """Command and start time (field 22). The command may hold spaces and brackets, so count from the last bracket."""
    head, _, tail = text.rpartition(")")
    fields = tail.split(maxsplit=_START_TIME_FIELD - 2)
    place = _START_TIME_FIELD - 3
    return head.partition("(")[2], fields[place] if len(fields) > place else ""
