"""Settings -> the ledger and the source that keeps it, for this machine or for the demo fleet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from collectors.build import MigratingStore
from collectors.job_energy import energy_from
from collectors.job_facts import JobRules, Look, look_at
from collectors.job_forgetting import forget
from collectors.job_ledger import JobLedger
from collectors.job_source import InventoryLooks, JobSource
from collectors.jobs import JobKeeper
from collectors.synthetic.generator import SyntheticFleet
from fleet.gpu_jobs import CLOSE, OPEN
from fleet.inventory import Inventory
from fleet.model import Container, GpuJob, Row
from fleet.settings import Settings
from store.columns import Insert

#: The demo's history is looked at this often; ends are told to the second by its facts.
DEMO_STEP = timedelta(minutes=20)
#: Says to the dashboard and to the next start of the demo that a run is none of a real source.
SYNTHETIC = "synthetic"


class MigratedStore:
    """The collector's store as the ledger uses it: its schema is in place before the first question."""

    def __init__(self, store: MigratingStore, fresh: Callable[[], object]) -> None:
        """fresh: called before each question; what it stores, the answer has."""
        self._store = store
        self._fresh = fresh

    def insert(self, inserts: Sequence[Insert]) -> None:
        """As Store.insert."""
        self._store.insert(inserts)

    def query(self, sql: str, parameters: Mapping[str, object] | None = None) -> Any:  # noqa: ANN401 - an Arrow table
        """As Store.query."""
        self._store.migrate()
        self._fresh()
        return self._store.store.query(sql, parameters)


def job_rules(settings: Settings) -> JobRules:
    """Which labels say what."""
    return JobRules(jobs=settings.jobs, tenancy=settings.tenancy)


def job_source(
    settings: Settings, store: MigratingStore, inventory: Inventory, *, fresh: Callable[[], object] = bool
) -> tuple[JobSource, JobKeeper]:
    """The source that keeps this machine's ledger, and the keeper, which must hear the rows of Docker and NVML.

    fresh: brings what was read but not stored yet to the store, which is asked for the energy of a job.
    """
    migrated = MigratedStore(store, fresh)
    ledger = JobLedger(settings.data_dir, settings.general.host, migrated)
    keeper = JobKeeper(ledger, energy_from(migrated.query))
    looks = InventoryLooks(inventory, keeper, job_rules(settings))
    months = settings.retention.ledger_months

    def forget_old(now: datetime) -> object:
        return forget(ledger, migrated, store.store.command, months=months, now=now)

    return JobSource(ledger, keeper, looks, forget=forget_old), keeper


def demo_job_source(
    settings: Settings,
    store: MigratingStore,
    fleet: SyntheticFleet,
    begin: datetime,
    filled_to: datetime,
    *,
    fresh: Callable[[], object] = bool,
) -> JobSource:
    """The demo's ledger, filled up to `filled_to`; begin: where a new one starts. Raises StoreError, OSError."""
    migrated = MigratedStore(store, fresh)
    ledger = JobLedger(settings.data_dir, settings.general.host, migrated)
    ledger.load()
    energy = energy_from(migrated.query)
    # Nobody looks at the demo while it is off, and it lives on all the same: it has no gaps.
    keeper = JobKeeper(ledger, energy, gap_seconds=None)
    looks = DemoLooks(fleet, keeper, job_rules(settings))
    drafts = _Drafts(ledger)
    filler = JobKeeper(drafts, energy, gap_seconds=None, settle_seconds=0.0, gone_seconds=0.0)
    at = max((seen for host in looks.hosts(filled_to) if (seen := ledger.looked_at(host)) is not None), default=begin)
    while at < filled_to:
        at = min(at + DEMO_STEP, filled_to)
        for look in looks(at):
            filler.look(look)
    if drafts.entries:
        ledger.append(drafts.entries, "", filled_to)
    for host in looks.hosts(filled_to):
        ledger.append([], host, filled_to)
    ledger.save()
    return JobSource(ledger, keeper, looks, detail=SYNTHETIC)


class _Drafts:
    """A ledger in memory that goes on after another one: a history of a week is then one addition, not hundreds."""

    def __init__(self, ledger: JobLedger) -> None:
        self._ledger = ledger
        self._open = {job.job_id: job for job in ledger.all_open_jobs()}
        self._closed: set[str] = set()
        self._looks: dict[str, datetime] = {}
        self.entries: list[GpuJob] = []

    @property
    def chain(self) -> str:
        """Name of the chain."""
        return self._ledger.chain

    def open_jobs(self, host: str) -> list[GpuJob]:
        """Open entries without a close entry."""
        return [job for job in self._open.values() if job.host == host]

    def looked_at(self, host: str) -> datetime | None:
        """When the host was last looked at."""
        return self._looks.get(host) or self._ledger.looked_at(host)

    def was_closed(self, name: str) -> bool:
        """Whether a job of this id was closed lately."""
        return name in self._closed or self._ledger.was_closed(name)

    def append(self, drafts: Sequence[GpuJob], host: str, at: datetime) -> None:
        """Keep entries for later."""
        self._looks[host] = at
        self.entries += drafts
        for draft in drafts:
            if draft.entry == OPEN:
                self._open[draft.job_id] = draft
            elif draft.entry == CLOSE:
                self._open.pop(draft.job_id, None)
                self._closed.add(draft.job_id)


class DemoLooks:
    """Looks made from the facts of the invented fleet at an instant."""

    def __init__(self, fleet: SyntheticFleet, keeper: JobKeeper, rules: JobRules) -> None:
        self._fleet = fleet
        self._keeper = keeper
        self._rules = rules

    def hosts(self, at: datetime) -> set[str]:
        """Names of the hosts."""
        return {row.host for row in self._fleet.facts(at) if isinstance(row, Container)}

    def __call__(self, at: datetime) -> list[Look]:
        """One look a host."""
        rows: Sequence[Row] = self._fleet.facts(at)
        self._keeper.hear(rows)
        containers: dict[str, list[Container]] = {}
        for row in rows:
            if isinstance(row, Container):
                containers.setdefault(row.host, []).append(row)
        gpus = self._keeper.gpus()
        return [
            look_at(host, at, found, gpus, self._rules, chain=self._keeper.chain) for host, found in containers.items()
        ]
