"""What a source is, and how it fails.

SourceError          the source as a whole could not be read in this cycle
(a single container, GPU or endpoint that could not be read is a Gap in the Reading, never an exception)
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from fleet.model import Gap, Reason, Row


class SourceError(Exception):
    """One poll of one source failed as a whole.

    reason: one of the Reason words; detail: what was found, in words; next_step: what a person should do now.
    rows: what is to be stored all the same, such as the state of every GPU whose driver does not answer.
    """

    def __init__(self, reason: Reason, detail: str, next_step: str, rows: tuple[Row, ...] = ()) -> None:
        super().__init__(f"{reason}: {detail}; {next_step}")
        self.reason: Reason = reason
        self.detail = detail
        self.next_step = next_step
        self.rows = rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one poll brought.

    absent: there is nothing to read here and that is normal (no GPU in this host); `detail` says so in words.
    """

    rows: tuple[Row, ...] = ()
    gaps: tuple[Gap, ...] = ()
    absent: bool = False
    detail: str = ""
    next_step: str = ""


class Source(Protocol):
    """Something polled on a schedule. The runner calls `collect` from one thread at a time."""

    @property
    def kind(self) -> str:
        """Docker | nvml | prometheus | synthetic."""
        ...

    @property
    def target(self) -> str:
        """Which daemon, host or server, as named in the settings."""
        ...

    @property
    def interval_seconds(self) -> float:
        """Time between two polls."""
        ...

    @property
    def timeout_seconds(self) -> float:
        """After this long without an answer the poll counts as failed."""
        ...

    def collect(self, at: datetime) -> Reading:
        """Read once. Raises SourceError when the source as a whole cannot be read."""
        ...

    def close(self) -> None:
        """Release connections, threads and children; called once."""
        ...
