"""Lets an operator have the NVIDIA driver for a while: to upgrade it, to reset a GPU, to change MIG partitions.

A file in the data folder is the request, and the running collector's answer in it is the receipt. A file rather than
a call over the network: it needs no token, works with every store, and outlives a restart of the collector, which
would otherwise take the driver in the middle of its upgrade.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from fleet.settings_table import Settings

FILE = "gpus-released.json"
LONGEST = timedelta(hours=24)
_ASK_SECONDS = 0.2
_STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """`until`: when the GPUs are taken back. left_behind: processes that hang in the driver, None = not let go yet."""

    until: datetime
    left_behind: int | None = None


class ReleaseError(Exception):
    """The request cannot be made; the message says where, what was found, what to do."""


class GpuRelease:
    """The request in one data folder. Reading it costs one look at a file that usually is not there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(self, until: datetime) -> None:
        """Ask the collector to let go until then. Raises ReleaseError."""
        self._write(Released(until=until))

    def confirm(self, released: Released, left_behind: int) -> None:
        """Say that the driver is let go, but for `left_behind` processes that hang in it. Raises ReleaseError."""
        self._write(Released(until=released.until, left_behind=left_behind))

    def end(self) -> bool:
        """Withdraw the request; False when there was none. Raises ReleaseError."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise ReleaseError(f"{self._path}: cannot be removed ({error.strerror}); remove it by hand") from error
        return True

    def now(self, at: datetime) -> Released | None:
        """The request in force. One that cannot be read counts for nothing, and neither does one of over a day."""
        try:
            document: object = json.loads(self._path.read_text(encoding="utf-8"))
            fields = cast("dict[str, object]", document) if isinstance(document, dict) else {}
            until = datetime.fromisoformat(str(fields.get("until")))
            left = fields.get("left_behind")
        except (OSError, ValueError):
            return None
        if until.tzinfo is None or not at < until <= at + LONGEST:
            return None
        return Released(until=until, left_behind=left if isinstance(left, int) else None)

    def _write(self, released: Released) -> None:
        new = self._path.with_suffix(".new")
        document = {"until": released.until.isoformat(), "left_behind": released.left_behind}
        try:
            new.write_text(json.dumps(document) + "\n", encoding="utf-8")
            new.replace(self._path)
        except OSError as error:
            raise ReleaseError(
                f"{self._path}: cannot be written ({error.strerror}); run this as the collector's user"
            ) from error


def collector_runs(data_dir: Path) -> bool:
    """Whether a collector holds this data folder: its lock says so, also to another user and another container."""
    try:
        with (data_dir / "collector.lock").open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a request. `free`: nothing of the collector is left in the driver."""

    free: bool
    words: str


def release_gpus(
    settings: Settings,
    period: timedelta,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    sleep: Callable[[float], None] = time.sleep,
) -> Answer:
    """Ask the running collector to let go of the driver, and wait for its word. Raises ReleaseError."""
    until = clock() + period
    shown = f"{until.astimezone():%H:%M}"
    if settings.nvml.enabled == "off":
        return Answer(free=True, words="nvml.enabled is off: this collector does not read GPUs")
    request = GpuRelease(settings.data_dir / FILE)
    request.ask(until)
    if not collector_runs(settings.data_dir):
        words = f"no collector runs on {settings.data_dir}; one that starts before {shown} leaves the GPUs alone"
        return Answer(free=True, words=words)
    # It looks with every poll, and the poll in flight may take its whole time.
    wait_seconds = settings.nvml.interval_seconds + settings.nvml.timeout_seconds + _STOP_SECONDS
    deadline = clock() + timedelta(seconds=wait_seconds)
    while clock() < deadline:
        found = request.now(clock())
        if found is not None and found.left_behind == 0:
            return Answer(free=True, words=f"released until {shown}: the collector holds nothing of the driver")
        if found is not None and found.left_behind:
            words = (
                f"released until {shown}, but {found.left_behind} processes of the collector hang in the driver and "
                "cannot be ended: restart the host before you unload the driver"
            )
            return Answer(free=False, words=words)
        sleep(_ASK_SECONDS)
    words = (
        f"no word from the collector within {wait_seconds:.0f} s (a driver that fails is polled less often): look at "
        f"Status and the log, or stop the collector. The request stands until {shown}"
    )
    return Answer(free=False, words=words)


def take_back(settings: Settings) -> Answer:
    """Withdraw the request before its time. Raises ReleaseError."""
    if GpuRelease(settings.data_dir / FILE).end():
        return Answer(free=False, words="the GPUs are read again from the next poll on")
    return Answer(free=False, words="the GPUs were not released")
