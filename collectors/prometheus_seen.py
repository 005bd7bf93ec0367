"""What collectors of other processes see, as the common store knows it: exporters must not count it again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from collectors.prometheus_exporters import Seen
from store import Store, StoreError

log = logging.getLogger(__name__)
#: How long an answer of the store is good for; a GPU host that is new is counted twice no longer than that.
SECONDS = 60.0
_QUERIES = {
    "gpus": "SELECT DISTINCT gpu_uuid AS name FROM gpus FINAL WHERE via = '' AND seen_at > now() - INTERVAL 1 DAY",
    "containers": "SELECT DISTINCT container_id AS name FROM containers FINAL WHERE via = '' AND removed = 0",
    "hosts": "SELECT DISTINCT host AS name FROM hosts FINAL WHERE via = ''",
}


@dataclass(slots=True)
class SeenInStore:
    """Asks the store at most once a minute; while it is away the last answer stands."""

    store: Store
    monotonic: Callable[[], float] = time.monotonic
    _seen: Seen = field(init=False, default_factory=Seen)
    _asked_at: float | None = field(init=False, default=None)

    def __call__(self) -> Seen:
        """GPUs, containers and hosts that no exporter had to tell of."""
        now = self.monotonic()
        if self._asked_at is None or now - self._asked_at >= SECONDS:
            self._asked_at = now
            try:
                found = {
                    key: frozenset(str(row["name"]) for row in self.store.query(text).to_pylist())
                    for key, text in _QUERIES.items()
                }
                self._seen = Seen(**found)
            except StoreError as error:
                log.warning("what other collectors see is not known: %s", str(error).partition("\n")[0])
        return self._seen
