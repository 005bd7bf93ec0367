"""Where processes run, read from /proc, with a memory that survives pid reuse.

The text of /proc/PID/cgroup is kept until the process's start time changes; the container is looked up anew each time,
because a container that was not in the list yet may be there now.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from fleet.attribution import Place, place_of

_START_TIME_FIELD = 22
# One container may be between dying and being removed; three at once show a pattern.
_MOST_CHECKED = 3


class ProcessPlaces:
    """Reads below `proc_root`, which must be the host's /proc."""

    def __init__(self, proc_root: Path = Path("/proc")) -> None:
        self._root = proc_root
        self._known: dict[int, tuple[str, str]] = {}  # pid -> (start time, cgroup text)

    def places(self, pids: Iterable[int], containers: Collection[str]) -> dict[int, Place]:
        """Place of each process. A process that ended meanwhile is "gone", one that may not be read "unknown"."""
        wanted = list(pids)
        found = {pid: self._place(pid, containers) for pid in wanted}
        self._known = {pid: kept for pid, kept in self._known.items() if pid in found}
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
            return f"the collector is not in the PID namespace of {self._root}; run it on the host or with --pid=host"
        checked = 0
        for container, pid in running.items():
            if checked == _MOST_CHECKED:
                break
            place = self._place(pid, {container})
            if place.kind == "container":
                return ""
            checked += place.kind != "gone"
        if not checked:
            return ""
        return (
            "no running container's process is found in its container: "
            "the collector does not see the host's processes; run it on the host or with --pid=host"
        )

    def _place(self, pid: int, containers: Collection[str]) -> Place:
        try:
            started = self._start_time(pid)
            kept = self._known.get(pid)
            if kept is None or kept[0] != started:
                kept = (started, (self._root / str(pid) / "cgroup").read_text(encoding="utf-8", errors="replace"))
                self._known[pid] = kept
        except (FileNotFoundError, ProcessLookupError):
            return Place("gone", words="process ended")
        except OSError as error:
            return Place("unknown", words=f"process cannot be read ({error.strerror})")
        return place_of(kept[1], containers)

    def _start_time(self, pid: int) -> str:
        """Field 22 of stat; the name before it may hold spaces and brackets, so count from the last bracket."""
        stat = (self._root / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        fields = stat.rpartition(")")[2].split()
        return fields[_START_TIME_FIELD - 3] if len(fields) > _START_TIME_FIELD - 3 else ""
