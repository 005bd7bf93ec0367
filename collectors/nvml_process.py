"""The parent's side of the NVML child process: deadlines, abandoned children, and no hope of joining them.

A hung driver leaves a thread or process in uninterruptible sleep that no signal ends. So the library is only ever
loaded in a child, which is killed and left behind when it does not answer; two may be left behind at most.
This module must not import pynvml.
"""

from __future__ import annotations

import logging
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from collectors.nvml_messages import Begin, DeviceReading, DriverEvent, End, Happened, Request, decode_answer, encode

logger = logging.getLogger(__name__)

MOST_LOST = 2
_REAP_SECONDS = 0.5
_STOP_SECONDS = 3.0
_ROOT = Path(__file__).resolve().parent.parent
_MODULE = "collectors.sources.nvml"


class ChildGoneError(Exception):
    """The child ended or spoke nonsense in the middle of a sweep."""


class TooManyLostError(Exception):
    """As many children as allowed hang in the driver: no other is started until one of them ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What came back. `end` None: the driver stopped answering; `hung` is the device it was asked about, if any."""

    devices: tuple[DeviceReading, ...] = ()
    events: tuple[DriverEvent, ...] = ()
    end: End | None = None
    hung: str = ""


class NvmlProcess:
    """Starts the child when needed and keeps it; every sweep has a deadline per device."""

    def __init__(
        self,
        *,
        call_timeout_seconds: float = 5.0,
        start_timeout_seconds: float = 15.0,
        library: str = "",
        environment: Mapping[str, str] | None = None,
        start: Callable[[], subprocess.Popen[bytes]] | None = None,
    ) -> None:
        """library: path of libnvidia-ml.so.1, "" = the system's own. environment: additional variables."""
        self._call_timeout = call_timeout_seconds
        self._start_timeout = start_timeout_seconds
        self._library = library
        self._environment = dict(environment or {})
        self._start_child = start or self._spawn
        self._child: subprocess.Popen[bytes] | None = None
        self._lost: list[subprocess.Popen[bytes]] = []
        self._events: list[DriverEvent] = []  # kept over a child that goes: the next sweep tells them
        self._buffer = bytearray()
        self._fresh = False

    @property
    def lost_children(self) -> int:
        """Killed children that have not ended: each sits in the driver."""
        self._lost = [child for child in self._lost if child.poll() is None]
        return len(self._lost)

    def sweep(self, request: Request) -> Sweep:
        """One sweep. Raises ChildGoneError, and TooManyLostError before starting a child too many."""
        child = self._running()
        devices: list[DeviceReading] = []
        hung = ""
        try:
            cast("IO[bytes]", child.stdin).write(encode(request))
            cast("IO[bytes]", child.stdin).flush()
            while True:
                line = self._line(child, self._start_timeout if self._fresh else self._call_timeout)
                if line is None:
                    self._abandon("no answer from the driver")
                    return Sweep(devices=tuple(devices), events=self._take_events(), hung=hung)
                message = decode_answer(line)
                # The time to start Python is over as soon as anything is heard.
                self._fresh = False
                match message:
                    case Begin():
                        hung = message.uuid
                    case DeviceReading():
                        devices.append(message)
                    case Happened():
                        self._events.append(message.event)
                    case End():
                        return Sweep(devices=tuple(devices), events=self._take_events(), end=message)
        except (OSError, ValueError) as error:
            self._abandon("the child is gone or spoke nonsense")
            raise ChildGoneError(str(error)) from error

    def stop(self) -> None:
        """Release the driver: ask the child to end, then kill it; never waits without bound."""
        child, self._child = self._child, None
        if child is None:
            return
        _close(child.stdin)  # end of input is the child's word to shut NVML down and leave
        try:
            child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill(child)
        _close(child.stdout)

    def restart(self) -> None:
        """Give up this child, so that the next sweep loads the library anew (after a driver upgrade)."""
        self.stop()

    def _take_events(self) -> tuple[DriverEvent, ...]:
        events, self._events = tuple(self._events), []
        return events

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is None:
            return self._child
        if self._child is not None:
            logger.warning("nvml: the child process ended with %s; starting another", self._child.returncode)
            _close(self._child.stdin)
            _close(self._child.stdout)
        if (lost := self.lost_children) >= MOST_LOST:
            raise TooManyLostError(f"{lost} processes hang in the driver and cannot be killed")
        self._buffer.clear()
        self._child = self._start_child()
        self._fresh = True
        return self._child

    def _spawn(self) -> subprocess.Popen[bytes]:
        """A new interpreter, not a fork: this process has threads."""
        arguments = [sys.executable, "-m", _MODULE]
        if self._library:
            arguments += ["--library", self._library]
        return subprocess.Popen(  # noqa: S603 - our own module, no shell
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            env={**os.environ, **self._environment},
            # Its own group, so that Ctrl-C reaches the parent alone, which then ends it in order.
            start_new_session=True,
        )

    def _line(self, child: subprocess.Popen[bytes], timeout_seconds: float) -> bytes | None:
        """The next line, or None at the deadline. Raises ChildGoneError at the end of output."""
        deadline = time.monotonic() + timeout_seconds
        output = cast("IO[bytes]", child.stdout)
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while (end := self._buffer.find(b"\n")) < 0:
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not selector.select(remaining):
                    return None
                chunk = os.read(output.fileno(), 1 << 16)
                if not chunk:
                    self._abandon("the child ended")
                    raise ChildGoneError("the child process ended without an answer")
                self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _abandon(self, why: str) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        logger.warning("nvml: giving up child process %d: %s", child.pid, why)
        self._kill(child)
        _close(child.stdin)
        _close(child.stdout)

    def _kill(self, child: subprocess.Popen[bytes]) -> None:
        child.kill()
        try:
            child.wait(_REAP_SECONDS)
        except subprocess.TimeoutExpired:
            self._lost.append(child)  # uninterruptible: it ends when the driver lets go of it, if ever


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        try:
            pipe.close()
        except OSError:  # flushing into a pipe whose reader is dead
            logger.debug("nvml: the child's pipe was already broken")
