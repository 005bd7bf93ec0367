"""What every query returns: rows, how fresh they are, and how much of the window was really seen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from fleet.model import Gap


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """rows: Arrow table; as_of: newest sample that went into it, None when there was none.

    coverage: share (0-1) of the expected readings that were taken in the window, None when nothing was expected.
    gaps: what could not be read, and why; a panel shows them beside the rows.
    """

    rows: pa.Table
    as_of: datetime | None
    coverage: float | None
    gaps: tuple[Gap, ...] = ()
