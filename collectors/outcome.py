"""How one poll of one source went: a reading, a failure with its reason, or a bug, all in one shape."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from collectors.base import Source, SourceError
from fleet.model import Gap, Row, SourceRun

log = logging.getLogger(__name__)
State = Literal["ok", "partial", "failed", "absent"]
#: Gaps named in a run's row; the rest is a number. 2,000 unreadable containers must not make a megabyte of text.
GAPS_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One poll. `reason`, `error` and `next_step` are empty unless it failed or was partial."""

    state: State
    rows: tuple[Row, ...] = ()
    gaps: tuple[Gap, ...] = ()
    reason: str = ""
    error: str = ""
    next_step: str = ""
    detail: str = ""

    @property
    def failed(self) -> bool:
        """Nothing was read that should have been."""
        return self.state == "failed"

    def run(self, source: Source, at: datetime, took_seconds: float) -> SourceRun:
        """The row that tells pages how the poll went."""
        return SourceRun(
            at=at,
            source=source.kind,
            target=source.target,
            state=self.state,
            interval_seconds=source.interval_seconds,
            took_seconds=took_seconds,
            rows=len(self.rows),
            reason=self.reason,
            error=self.error,
            next_step=self.next_step,
            detail=self.detail,
        )


def guarded(what: str, action: Callable[[], None]) -> Exception | None:
    """Run one step of one thread; a bug in it is logged with its type and given back instead of ending the thread."""
    try:
        action()
    except Exception as error:  # thread boundary: a bug in one source must not silence the others
        log.exception("%s: unexpected %s", what, type(error).__name__)
        return error
    return None


def poll(source: Source, at: datetime) -> Outcome:
    """Collect once; never raises."""
    found: list[Outcome] = []

    def collect() -> None:
        try:
            reading = source.collect(at)
        except SourceError as error:
            # What a failed poll still knows (a GPU that fell silent, an XID before it) is a row like any other.
            rows = tuple(error.rows)
            found.append(
                Outcome(
                    state="failed", rows=rows, reason=error.reason, error=error.detail, next_step=error.next_step
                )
            )  # fmt: skip
            return
        state: State = "absent" if reading.absent else "partial" if reading.gaps else "ok"
        found.append(
            Outcome(
                state=state,
                rows=tuple(reading.rows),
                gaps=tuple(reading.gaps),
                reason=reading.gaps[0].reason if reading.gaps else "",
                error=describe(reading.gaps),
                next_step=reading.next_step,
                detail=reading.detail,
            )
        )

    bug = guarded(f"source {source.kind}/{source.target}", collect)
    if bug is not None:
        # Its text may quote a label or an environment value, so only the type goes into the store.
        return Outcome(
            state="failed",
            reason="malformed",
            error=f"unexpected {type(bug).__name__}",
            next_step="This is a fault of AI Fleet: report it with the collector's log",
        )
    return found[0]


def poll_within(
    source: Source, at: datetime, *, monotonic: Callable[[], float] = time.monotonic
) -> tuple[Outcome, float]:
    """(outcome, seconds it took) of one poll, on a thread that is left behind when the source outlives its timeout."""
    found: list[Outcome] = []
    began = monotonic()
    thread = threading.Thread(target=lambda: found.append(poll(source, at)), name=f"poll {source.kind}", daemon=True)
    thread.start()
    thread.join(source.timeout_seconds)
    took = monotonic() - began
    return (found[0] if found else timed_out(source.timeout_seconds, took)), took


def timed_out(timeout_seconds: float, waited_seconds: float) -> Outcome:
    """The outcome of a poll that has not come back."""
    return Outcome(
        state="failed",
        reason="timeout",
        error=f"no answer for {waited_seconds:.1f} s (limit {timeout_seconds:g} s)",
        next_step="Look whether it hangs or is overloaded; it is polled again as soon as it answers",
    )


def describe(gaps: tuple[Gap, ...]) -> str:
    """What could not be read, in one line: the first few by name, the rest as a number."""
    shown = "; ".join(f"{gap.subject}: {gap.reason} ({gap.detail})" for gap in gaps[:GAPS_SHOWN])
    return f"{shown}; and {len(gaps) - GAPS_SHOWN} more" if len(gaps) > GAPS_SHOWN else shown
