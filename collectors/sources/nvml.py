"""The NVML source: this machine's GPUs, and which container has what part of them.

Two processes: the parent (`NvmlSource`) never loads the driver's library; the child (`main`, started with
`python -m collectors.sources.nvml`) is the only code that imports pynvml, and may be abandoned when the driver hangs.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from collectors.base import Reading, SourceError
from collectors.idle_file import load_idle, save_idle
from collectors.nvml_events import XID
from collectors.nvml_holders import Holders
from collectors.nvml_messages import DeviceReading, End, Request
from collectors.nvml_process import ChildGoneError, NvmlProcess, Sweep, TooManyLostError
from collectors.nvml_release import GpuRelease, ReleaseError
from collectors.nvml_rows import GpuRows, driver_event
from collectors.nvml_shares import GpuShares
from collectors.nvml_states import (
    DRIVER_UNAVAILABLE,
    DRIVER_UNRESPONSIVE,
    LOST,
    OK,
    RELEASED,
    RESTART_CODES,
    broken_code,
    device_state,
    process_count,
    state_words,
)
from collectors.process_places import ProcessPlaces
from fleet.allocation import HostGpu
from fleet.gpu_words import nvml_error
from fleet.idle_power import IdlePower
from fleet.inventory import Inventory
from fleet.model import Event, Gap, GpuSample, Row
from fleet.settings_table import NvmlSettings

logger = logging.getLogger(__name__)

_PROCESSES_PERIOD = timedelta(seconds=5)  # a process list costs milliseconds in the driver, all else microseconds
_HEALTH_PERIOD = timedelta(seconds=60)
_ABSENT_PERIOD_SECONDS = 300.0
_BACKOFF_SECONDS = 10.0
_LONGEST_BACKOFF_SECONDS = 300.0
_START_TIMEOUT_SECONDS = 15.0  # opening eight GPUs without nvidia-persistenced takes that long
_NO_GPU = 28
_CLOCK_STEP_SECONDS = 1.0
_RELEASED_NEXT_STEP = "it comes back by itself; `python -m collectors release-gpus --end` takes the GPUs back at once"
_HUNG_NEXT_STEP = (
    "look at `dmesg | grep -iE 'nvrm|xid'` and for processes in state D; a hung driver needs a host restart"
)


class NvmlSource:
    """Polls the GPUs of this machine."""

    kind = "nvml"

    def __init__(
        self,
        settings: NvmlSettings,
        inventory: Inventory,
        *,
        host: str,
        idle: IdlePower | None = None,
        idle_file: Path | None = None,
        release: GpuRelease | None = None,
        process: NvmlProcess | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """host: this machine's name in every row, the same as its Docker daemon's.

        idle: configured idle draws; idle_file: where those that were seen are kept. release: where an operator asks
        for the driver. process and the clocks: for tests.
        """
        self.target = host
        self.interval_seconds = settings.interval_seconds
        self.timeout_seconds = settings.timeout_seconds
        self._settings = settings
        self._inventory = inventory
        self._process = process or NvmlProcess(
            call_timeout_seconds=settings.call_timeout_seconds,
            start_timeout_seconds=max(_START_TIMEOUT_SECONDS, settings.call_timeout_seconds),
            library=settings.library,
        )
        self._monotonic = monotonic
        self._wall = wall
        self._clock_offset = wall() - monotonic()
        self._idle = idle or IdlePower(every_watts=settings.idle_power_watts or None)
        self._idle_file = idle_file
        load_idle(self._idle, idle_file)
        self._gpus = GpuRows(host, settings.interval_seconds)
        places = ProcessPlaces(Path(settings.proc_root))
        self._holders = Holders()
        idle_to = "holders" if settings.idle_power_to == "holders" else "host"
        self._shares = GpuShares(host, places, self._idle, max(settings.interval_seconds, 5.0), idle_to)
        self._release = release
        self._driver_version = ""
        self._processes_at: datetime | None = None
        self._process_lists = 0
        self._health_at: datetime | None = None
        self._absent_until = 0.0
        self._absent = Reading()
        self._blocked_until = 0.0  # the driver as a whole
        self._blocked = 0
        self._hung: dict[str, tuple[float, int]] = {}  # device -> (not touched until, times in a row)
        self._news: list[Row] = []  # events that go out with whatever is told next, be it a failure

    def gpu_list(self) -> tuple[HostGpu, ...]:
        """Every GPU and MIG device of this host seen so far, in the driver's order; empty before the first poll."""
        return self._gpus.host_gpus()

    def collect(self, at: datetime) -> Reading:
        """Rows of all GPUs and of the containers on them.

        absent when this host has no NVIDIA GPU or driver. Raises SourceError; when it is the driver that does not
        answer, with a row for each known GPU that says so.
        """
        now = self._monotonic()
        if (released := self._released(at)) is not None:
            return released
        if now < self._absent_until:
            return self._absent
        if now < self._blocked_until:
            raise self._unresponsive(f"asked again in {self._blocked_until - now:.0f} s", at)
        due = self._due(at, now)
        try:
            sweep = self._process.sweep(due)
        except TooManyLostError as error:
            self._block(now)
            raise self._unresponsive(str(error), at) from error
        except ChildGoneError as error:
            self._block(now)
            raise SourceError(
                "malformed",
                f"the process that reads the GPUs ended: {error}",
                "look at the collector's log; it is started again",
            ) from error
        self._news += [driver_event(event, self.target) for event in sweep.events]
        if sweep.end is None:
            return self._after_hang(sweep, due, now, at)
        self._blocked = 0
        if code := sweep.end.code or broken_code(sweep.devices):
            return self._without_driver(code, sweep.end.doing or "reading the GPUs", now, at)
        if not sweep.devices and not sweep.end.missing and not due.skip and not self._gpus.identities():
            return self._set_absent(_NO_GPU, now)
        return self._unless_all_hang(self._reading(sweep, due, at))

    def close(self) -> None:
        """End the child, which releases the driver; a child that hangs is left behind."""
        save_idle(self._idle, self._idle_file)
        self._process.stop()

    # --- what to ask -------------------------------------------------------------------------------------------

    def _due(self, at: datetime, now: float) -> Request:
        # SM shares need two readings: the second may come at once, so that a single look has them.
        processes = self._process_lists < 2 or _elapsed(self._processes_at, at, _PROCESSES_PERIOD)
        health = _elapsed(self._health_at, at, _HEALTH_PERIOD)
        if processes:
            self._processes_at = at
            self._process_lists += 1
        if health:
            self._health_at = at
        offset = self._wall() - now
        if offset < self._clock_offset - _CLOCK_STEP_SECONDS:
            self._shares.forget_samples()
        self._clock_offset = offset
        skip = tuple(uuid for uuid, (until, _) in self._hung.items() if now < until)
        # MIG devices come and go: look anew with the health values, and as long as something is wrong.
        wrong = any(self._gpus.state(one.uuid) != OK for one in self._gpus.identities())
        return Request(
            processes=processes,
            health=health,
            relist=health or wrong,
            since_us=dict(self._shares.since_us),
            skip=skip,
            skip_indices=tuple({one.index for one in self._gpus.identities() if one.uuid in skip}),
        )

    # --- what came back ----------------------------------------------------------------------------------------

    def _reading(self, sweep: Sweep, due: Request, at: datetime, not_read: str = "") -> Reading:
        """Rows of what was read; `not_read`: why the other devices were not."""
        end = sweep.end or End(driver_version=self._driver_version)
        self._driver_version = end.driver_version or self._driver_version
        rows = self._take_news()
        last_xid = {event.uuid: event.data for event in sweep.events if event.kind == XID}
        gaps: list[Gap] = []
        answered = {reading.identity.uuid for reading in sweep.devices}
        for reading in sweep.devices:
            self._gpus.learn(reading.identity)
        if end.relisted:
            parents = {one.identity.uuid for one in sweep.devices if not one.identity.parent_uuid}
            self._gpus.forget_mig(answered, parents)
        gpus = self.gpu_list()
        self._inventory.publish_gpus(self.target, gpus)
        self._holders.update([one for one in self._inventory.hosts() if one.local], gpus)
        for reading in sweep.devices:
            uuid = reading.identity.uuid
            self._hung.pop(uuid, None)
            state = device_state(reading)
            if state == OK:
                rows += self._answered(reading, sweep, last_xid.get(uuid), at)
            else:
                rows += self._silent(uuid, state, *state_words(state), at, last_xid.get(uuid))
                gaps.append(Gap(subject=uuid, reason="gone", detail=state_words(state)[0]))
        rows += self._missing(answered, due.skip, not_read, at, gaps)
        unopened = {one.index for one in self._gpus.identities()}
        for index, code in end.missing.items():
            if int(index) not in unopened:
                words = nvml_error(code)
                gaps.append(Gap(subject=f"GPU {index}", reason=words.reason, detail=words.words))
        if due.processes:
            rows += self._shares.rows(sweep.devices, self._holders, self._driver_version, at)
        gaps += self._holders.gaps
        rows += self._gpus.facts(self._driver_version, at)
        save_idle(self._idle, self._idle_file)
        step = _HUNG_NEXT_STEP if not_read or due.skip else _next_step(gaps)
        return Reading(rows=tuple(rows), gaps=tuple(gaps), detail=self._summary(), next_step=step)

    def _answered(self, reading: DeviceReading, sweep: Sweep, xid: int | None, at: datetime) -> list[Row]:
        """Rows of a GPU that works."""
        uuid, metrics = reading.identity.uuid, reading.metrics
        # Under MIG nobody tells how busy the GPU is, but without any process it is not. Video engines count apart.
        busy = 0.0 if metrics.busy_ratio is None and reading.processes == () else metrics.busy_ratio
        if metrics.encoder_ratio or metrics.decoder_ratio:
            busy = None
        self._idle.observe(uuid, self._driver_version, metrics.power_watts, busy)
        sample = self._gpus.sample(
            reading,
            at,
            process_count=process_count(reading, sweep.devices),
            last_xid=xid,
            idle_watts=self._idle.watts(uuid, self._driver_version) if not reading.identity.parent_uuid else None,
            holders=self._holders.count(uuid),
        )
        change = self._gpus.change(uuid, OK, "", "", at)
        return [sample, *_some(change), *self._gpus.sick(reading, at)]

    def _missing(
        self, answered: set[str], skip: Sequence[str], not_read: str, at: datetime, gaps: list[Gap]
    ) -> list[Row]:
        """Rows of known GPUs that were not read: those that hang, those that are lost."""
        rows: list[Row] = []
        for one in self._gpus.identities():
            if one.uuid in answered or one.parent_uuid in answered:
                continue
            hangs = {one.uuid, one.parent_uuid} & (set(skip) | self._hung.keys())
            if not hangs and not_read:
                gaps.append(Gap(subject=one.uuid, reason="timeout", detail=not_read))
                continue
            state = DRIVER_UNRESPONSIVE if hangs else LOST
            detail, step = self._hung_words() if hangs else state_words(LOST)
            rows += self._silent(one.uuid, state, detail, step, at)
            gaps.append(Gap(subject=one.uuid, reason="timeout" if hangs else "gone", detail=detail))
        return rows

    def _silent(self, uuid: str, state: str, detail: str, step: str, at: datetime, xid: int | None = None) -> list[Row]:
        sample: GpuSample = self._gpus.silent_sample(uuid, state, detail, at, last_xid=xid)
        return [sample, *_some(self._gpus.change(uuid, state, detail, step, at))]

    def _all_silent(self, state: str, detail: str, step: str, at: datetime) -> list[Row]:
        """What happened, and a row for each known GPU: none of them can be read."""
        rows = self._take_news()
        for one in self._gpus.identities():
            rows += self._silent(one.uuid, state, detail, step, at)
        return rows

    def _take_news(self) -> list[Row]:
        news, self._news = self._news, []
        return news

    # --- an operator who wants the driver ---------------------------------------------------------------------------

    def _released(self, at: datetime) -> Reading | None:
        """Let go of the driver while an operator wants it; None when nobody does."""
        released = self._release.now(at) if self._release else None
        if self._release is None or released is None:
            return None
        self._process.stop()
        if (left := self._process.lost_children) != released.left_behind:
            try:
                self._release.confirm(released, left)
            except ReleaseError as error:
                logger.warning("nvml: %s", error)
        # Another driver may come back: its clocks and counters are its own, and its absence may have an end.
        self._shares.forget_samples()
        self._process_lists, self._absent_until, self._blocked_until, self._health_at = 0, 0.0, 0.0, None
        self._hung.clear()
        detail = f"released by the operator until {released.until.astimezone(UTC):%H:%M} UTC"
        rows = self._all_silent(RELEASED, detail, _RELEASED_NEXT_STEP, at)
        return Reading(absent=True, rows=tuple(rows), detail=detail, next_step=_RELEASED_NEXT_STEP)

    # --- a driver that does not answer -----------------------------------------------------------------------------

    def _after_hang(self, sweep: Sweep, due: Request, now: float, at: datetime) -> Reading:
        """One device hung: leave it alone for a while and keep what the others said; else the driver as a whole."""
        if not sweep.hung:
            self._block(now)
            raise self._unresponsive(f"{self._process.lost_children} abandoned processes", at)
        times = self._hung.get(sweep.hung, (0.0, 0))[1] + 1
        self._hung[sweep.hung] = (now + _backoff(times), times)
        return self._unless_all_hang(
            self._reading(sweep, due, at, not_read=f"not reached: the driver hung on {sweep.hung}")
        )

    def _unless_all_hang(self, reading: Reading) -> Reading:
        """The reading, unless no GPU is left that answers: then the source as a whole failed."""
        whole = {one.parent_uuid or one.uuid for one in self._gpus.identities()}
        if not self._hung or whole - self._hung.keys():
            return reading
        detail, step = self._hung_words()
        raise SourceError("timeout", f"{detail} (asked about {', '.join(sorted(self._hung))})", step, reading.rows)

    def _block(self, now: float) -> None:
        self._blocked += 1
        self._blocked_until = now + _backoff(self._blocked)

    def _unresponsive(self, more: str, at: datetime) -> SourceError:
        detail, step = self._hung_words()
        rows = self._all_silent(DRIVER_UNRESPONSIVE, detail, step, at)
        return SourceError("timeout", f"{detail} ({more})", step, tuple(rows))

    def _hung_words(self) -> tuple[str, str]:
        return f"driver did not answer for {self._settings.call_timeout_seconds:g} s", _HUNG_NEXT_STEP

    def _without_driver(self, code: int, doing: str, now: float, at: datetime) -> Reading:
        """The driver or library as a whole refused."""
        words = nvml_error(code)
        if code in RESTART_CODES:
            logger.warning("nvml: %s while %s; restarting the child process", words.words, doing)
            self._process.restart()
        if words.absent and self._settings.enabled != "on" and not self._gpus.identities():
            return self._set_absent(code, now)
        restarted = "; the process that reads the GPUs was restarted" if code in RESTART_CODES else ""
        detail = f"{words.words} (NVML code {code} while {doing}){restarted}"
        rows = self._all_silent(DRIVER_UNAVAILABLE, detail, words.next_step, at)
        raise SourceError(words.reason, detail, words.next_step, tuple(rows))

    def _set_absent(self, code: int, now: float) -> Reading:
        """Nothing to read here, which is normal: no process is kept for it, and it is looked at again rarely."""
        words = nvml_error(code)
        if self._settings.enabled == "on":
            raise SourceError(words.reason, words.words, words.next_step)
        self._process.stop()
        self._absent_until = now + _ABSENT_PERIOD_SECONDS
        self._absent = Reading(absent=True, detail=words.words, next_step=words.next_step)
        return self._absent

    def _summary(self) -> str:
        known = self._gpus.identities()
        whole = sum(not one.parent_uuid for one in known)
        mig = f", {len(known) - whole} MIG devices" if len(known) > whole else ""
        return f"{whole} GPUs{mig}, driver {self._driver_version or 'unknown'}"


def _next_step(gaps: Sequence[Gap]) -> str:
    words, step = state_words(LOST)
    return step if any(gap.detail == words for gap in gaps) else ""


def _elapsed(last: datetime | None, at: datetime, period: timedelta) -> bool:
    """Whether a period has passed; a tenth of it early is in time, and so is a clock that went back."""
    return last is None or not timedelta(0) <= at - last < period * 0.9


def _backoff(times: int) -> float:
    return min(_LONGEST_BACKOFF_SECONDS, _BACKOFF_SECONDS * 2 ** min(times - 1, 10))


def _some(event: Event | None) -> tuple[Event, ...]:
    return () if event is None else (event,)


# --- the child ---------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """The child: answers requests from standard input on standard output until input ends."""
    parser = argparse.ArgumentParser(prog="collectors.sources.nvml", description="Reads GPUs for the collector.")
    parser.add_argument("--library", default="", help="path of libnvidia-ml.so.1; the system's own by default")
    options = parser.parse_args(arguments)
    # Whatever a library prints goes to standard error: standard output carries messages only.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="nvml child: %(message)s")
    if options.library:
        try:
            # The binding asks for the library by name and gets the one that is already loaded under it.
            ctypes.CDLL(options.library)
        except OSError as error:
            logger.warning("%s: cannot be loaded (%s)", options.library, error)
    import pynvml  # pyright: ignore[reportMissingTypeStubs]

    from collectors.nvml_child import serve

    serve(pynvml, sys.stdin.buffer, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
