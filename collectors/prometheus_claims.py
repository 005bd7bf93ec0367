"""Who counts for an inference server that is scraped more than once, by one Prometheus or by several."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A target that counts for a server, and until when it does without being read again."""

    prometheus: str
    endpoint: str
    until: datetime


class Claims:
    """First come, first counted; the next takes over when the first falls silent. Shared by all Prometheus sources."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: dict[Hashable, Claim] = {}

    def holder(self, listener: Hashable, *, prometheus: str, endpoint: str, at: datetime, seconds: float) -> Claim:
        """The claim that holds for this listener at `at`: the caller's own, renewed for `seconds`, or an older one."""
        with self._lock:
            held = self._claims.get(listener)
            if held is None or held.until < at or (held.prometheus, held.endpoint) == (prometheus, endpoint):
                held = Claim(prometheus=prometheus, endpoint=endpoint, until=at + timedelta(seconds=seconds))
                self._claims[listener] = held
            return held

    def forget(self, before: datetime) -> None:
        """Drop what has not been renewed since."""
        with self._lock:
            self._claims = {key: claim for key, claim in self._claims.items() if claim.until >= before}
