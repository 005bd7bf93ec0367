"""What one check of the doctor found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["PASS", "WARN", "FAIL"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding.

    target: which daemon, server or file; "" when there is only one. next_step: what to do now; "" when it passed.
    """

    id: str
    title: str
    state: State
    found: str
    next_step: str = ""
    target: str = ""
