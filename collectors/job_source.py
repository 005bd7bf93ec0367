"""The ledger as a source like any other: on the runner's schedule it looks at what the Docker source published.

It stores its entries itself (see `collectors/job_ledger.py`); to the runner it brings no rows, only how it went.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from collectors.base import Reading, Source, SourceError
from collectors.job_facts import JobRules, Look, look_at
from collectors.job_ledger import FILE, JobLedger, LedgerAwayError
from collectors.jobs import JobKeeper
from fleet.inventory import HostInventory, Inventory
from fleet.model import Gap, Row
from store.errors import StoreError

INTERVAL_SECONDS = 5.0
#: An insert or a question may take as long as the store's own limits allow.
TIMEOUT_SECONDS = 40.0
_PRUNE_EVERY = timedelta(hours=1)


class Overheard:
    """A source whose rows somebody else hears too."""

    def __init__(self, source: Source, listener: Callable[[Iterable[Row]], None]) -> None:
        self._source = source
        self._listener = listener

    @property
    def kind(self) -> str:
        """As the source."""
        return self._source.kind

    @property
    def target(self) -> str:
        """As the source."""
        return self._source.target

    @property
    def interval_seconds(self) -> float:
        """As the source."""
        return self._source.interval_seconds

    @property
    def timeout_seconds(self) -> float:
        """As the source."""
        return self._source.timeout_seconds

    def collect(self, at: datetime) -> Reading:
        """As the source."""
        reading = self._source.collect(at)
        self._listener(reading.rows)
        return reading

    def close(self) -> None:
        """As the source."""
        self._source.close()


class InventoryLooks:
    """Looks made from what the Docker sources published since the last call."""

    def __init__(self, inventory: Inventory, keeper: JobKeeper, rules: JobRules) -> None:
        self._inventory = inventory
        self._keeper = keeper
        self._rules = rules
        self._last: dict[str, datetime] = {}

    def __call__(self, _: datetime) -> list[Look]:
        """The new looks, one a host at most."""
        found = [snapshot for snapshot in self._inventory.hosts() if self._last.get(snapshot.host) != snapshot.at]
        return [self._look(snapshot) for snapshot in found]

    def _look(self, snapshot: HostInventory) -> Look:
        self._last[snapshot.host] = snapshot.at
        rows = [facts.row for facts in snapshot.containers]
        gpus, used, chain = self._keeper.gpus(), self._keeper.used(), self._keeper.chain
        return look_at(snapshot.host, snapshot.at, rows, gpus, self._rules, chain=chain, used=used)


class JobSource:
    """Keeps the ledger: a look, then whatever waits for the store."""

    kind = "ledger"

    def __init__(
        self,
        ledger: JobLedger,
        keeper: JobKeeper,
        looks: Callable[[datetime], Iterable[Look]],
        *,
        forget: Callable[[datetime], object] | None = None,
        interval_seconds: float = INTERVAL_SECONDS,
        timeout_seconds: float = TIMEOUT_SECONDS,
        detail: str = "",
    ) -> None:
        """forget(at): drop what is too old, called hourly. detail: what a run says of itself, in place of numbers."""
        self._ledger = ledger
        self._keeper = keeper
        self._looks = looks
        self._forget = forget
        self._forgot_at: datetime | None = None
        self._interval_seconds = interval_seconds
        self._timeout_seconds = timeout_seconds
        self._detail = detail

    @property
    def target(self) -> str:
        """Name of the chain."""
        return self._ledger.chain

    @property
    def interval_seconds(self) -> float:
        """Time between two looks."""
        return self._interval_seconds

    @property
    def timeout_seconds(self) -> float:
        """A look without an end for this long failed."""
        return self._timeout_seconds

    def collect(self, at: datetime) -> Reading:
        """Look once. Raises SourceError when nothing can be written down."""
        try:
            self._ledger.load()
            for look in self._looks(at):
                self._keeper.look(look)
            self._ledger.flush()
            if self._forget is not None and (self._forgot_at is None or at - self._forgot_at >= _PRUNE_EVERY):
                self._forgot_at = at
                self._forget(at)
        except LedgerAwayError as error:
            step = "Start the store; where the chain ends is not known before"
            raise SourceError("unreachable", f"the store: {error}", step) from error
        except StoreError as error:
            raise SourceError("malformed", error.message, "See docs/ledger.md") from error
        except OSError as error:
            step = f"Make room, or let data_dir be written to; {FILE} must be safe on disk before an entry is stored"
            raise SourceError("denied", f"{error.filename or FILE}: {error.strerror}", step) from error
        return self._reading()

    def _reading(self) -> Reading:
        waiting = self._keeper.waiting()
        gaps = [
            Gap(subject=name, reason="unsupported", detail="asks for GPUs of a host whose GPUs nobody lists here")
            for name in waiting
        ]
        if self._ledger.waiting_entries:
            words = f"{self._ledger.waiting_entries} entries wait in {FILE}"
            gaps.append(Gap(subject="store", reason="unreachable", detail=words))
        words = f"{self._ledger.open_count} jobs run, newest entry {self._ledger.head.sequence}"
        step = "Run a collector on that host, with its GPUs" if waiting else ""
        return Reading(gaps=tuple(gaps), detail=self._detail or words, next_step=step)

    def close(self) -> None:
        """Write down when the last look was, so that the next start knows how long nobody looked."""
        self._ledger.save()
