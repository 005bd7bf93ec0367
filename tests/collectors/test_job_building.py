"""The ledger of the demo, forgetting old months, and the source around it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from collectors.base import SourceError
from collectors.build import MigratingStore
from collectors.job_building import demo_job_source, job_source
from collectors.job_forgetting import forget
from collectors.job_ledger import FILE, JobLedger, expected_head, read_entries
from collectors.synthetic.generator import SyntheticFleet
from fleet.gpu_jobs import EMPTY, fold, verify
from fleet.inventory import ContainerFacts, HostInventory, Inventory
from fleet.model import Batch, Container, ContainerGpuSample, Gpu, GpuJob
from fleet.settings import Settings, load_settings
from store import Store
from tests.store.stores import embedded_store

T = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)


@pytest.fixture
def store() -> Iterator[Store]:
    with embedded_store() as opened:
        yield opened


def settings_in(folder: Path) -> Settings:
    return load_settings(f'data_dir = "{folder}"', {}, host="gpu-box")


def checked(store: Store, folder: Path, chain: str = "gpu-box") -> list[GpuJob]:
    lines = read_entries(store)
    known = expected_head(folder, chain)
    assert known is not None
    assert verify(lines, head=known[0]).findings == ()
    return [line for line in lines if isinstance(line, GpuJob)]


def test_a_week_of_the_demo_gives_a_believable_ledger_and_a_second_start_adds_nothing(tmp_path: Path, store: Store):
    settings, migrating = settings_in(tmp_path), MigratingStore(store)
    fleet, begin = SyntheticFleet(7, T), T - timedelta(days=7)
    source = demo_job_source(settings, migrating, fleet, begin, T)
    jobs = fold(checked(store, tmp_path))
    ended = [job for job in jobs if job.row.ended_at is not None]
    assert len(jobs) > 40
    assert len({job.row.tenant for job in jobs}) >= 4
    assert all(job.row.gpu_count > 0 and job.row.gpu_names and job.row.sources["tenant"] for job in jobs)
    assert {job.row.exit_code for job in ended} >= {0, 1}
    assert all(job.row.duration_seconds == round(job.hours_until(T)[0], 3) for job in ended)
    count = len(read_entries(store))
    demo_job_source(settings, migrating, fleet, begin, T)
    assert len(read_entries(store)) == count
    # Live, it goes on with the same jobs; its runs are marked as those of a demo.
    reading = source.collect(T + timedelta(seconds=5))
    assert (reading.detail, reading.gaps) == ("synthetic", ())
    later = demo_job_source(settings, migrating, fleet, begin, T + timedelta(hours=6))
    later.collect(T + timedelta(hours=6, seconds=5))
    assert len(checked(store, tmp_path)) > count


def facts(name: str, **changes: object) -> ContainerFacts:
    values: dict[str, object] = {
        "seen_at": T, "host": "gpu-box", "tenant": "acme", "team": "", "owner": "", "tenant_origin": "none",
        "container_key": f"gpu-box:{name}", "container_id": f"{name}-id", "name": name, "image": "i", "image_id": "",
        "image_digest": "", "state": "running", "started_at": T, "gpu_request_kind": "all",
    }  # fmt: skip
    return ContainerFacts(row=Container(**(values | changes)))  # type: ignore[arg-type]


def test_the_source_looks_at_each_snapshot_once_and_says_what_it_cannot_tell(tmp_path: Path, store: Store):
    inventory = Inventory()
    source, keeper = job_source(settings_in(tmp_path), MigratingStore(store), inventory)
    assert source.collect(T).detail == "0 jobs run, newest entry 0"
    keeper.hear([Gpu(seen_at=T, host="gpu-box", gpu_uuid="GPU-1", gpu_index=0, name="L4")])
    snapshot = HostInventory(
        host="gpu-box", at=T, local=True, containers=(facts("a", gpu_uuids=("GPU-1",)), facts("early"))
    )  # fmt: skip
    inventory.publish(snapshot)
    for seconds in (5, 10):
        reading = source.collect(T + timedelta(seconds=seconds))
    assert reading.detail == "1 jobs run, newest entry 1"
    assert [(gap.subject, gap.reason) for gap in reading.gaps] == [("early", "unsupported")]
    (row,) = checked(store, tmp_path)
    assert (row.gpu_names, row.at, row.chain) == (("L4",), T, "gpu-box")
    source.close()


def test_the_energy_of_a_job_counts_what_was_read_but_not_stored_yet(tmp_path: Path, store: Store):
    end = T + timedelta(seconds=60)
    who = {"host": "gpu-box", "tenant": "acme", "container_key": "gpu-box:a", "container_id": "a-id"}
    sample = ContainerGpuSample(
        at=end, **who, gpu_uuid="GPU-1", interval_seconds=60.0, held=True, energy_joules=1200.0
    )  # fmt: skip
    gathered = [Batch(token="gathered", rows=(sample,))]

    def fresh() -> None:
        if ended:
            store.append(gathered.pop())

    ended, inventory = False, Inventory()
    source, keeper = job_source(settings_in(tmp_path), MigratingStore(store), inventory, fresh=fresh)
    keeper.hear([Gpu(seen_at=T, host="gpu-box", gpu_uuid="GPU-1", gpu_index=0, name="L4")])
    run = facts("a", gpu_uuids=("GPU-1",))
    inventory.publish(HostInventory(host="gpu-box", at=T + timedelta(seconds=5), local=True, containers=(run,)))
    source.collect(T + timedelta(seconds=5))
    ended, over = True, facts("a", gpu_uuids=("GPU-1",), state="exited", finished_at=end, exit_code=0)
    for seconds in (65, 80):
        at = T + timedelta(seconds=seconds)
        inventory.publish(HostInventory(host="gpu-box", at=at, local=True, containers=(over,)))
        source.collect(at)
    row = checked(store, tmp_path)[-1]
    assert (row.entry, row.energy_joules) == ("close", 1200.0)
    source.close()


def test_a_file_that_cannot_be_used_is_a_failed_source_with_a_next_step(tmp_path: Path, store: Store):
    (tmp_path / FILE).write_text("{")
    source, _ = job_source(settings_in(tmp_path), MigratingStore(store), Inventory())
    with pytest.raises(SourceError, match="restore it from a copy"):
        source.collect(T)
    source.close()


def opened(name: str, **changes: object) -> GpuJob:
    values: dict[str, object] = {
        "at": T, "chain": "", "sequence": 0, "entry": "open", "job_id": name, "host": "gpu-box", "tenant": "acme",
        "started_at": T, "sources": {"tenant": "x"},
    }  # fmt: skip
    return GpuJob(**(values | changes))  # type: ignore[arg-type]


def month(number: int, day: int = 10) -> datetime:
    return datetime(2026, number, day, tzinfo=UTC)


def test_months_are_noted_first_and_dropped_when_the_note_is_stored(tmp_path: Path, store: Store):
    ledger = JobLedger(tmp_path, "gpu-box", store)
    ledger.load()
    for number in (5, 6, 7, 11):
        ledger.append([opened(f"job-{number}", at=month(number))], "gpu-box", month(number))
    ledger.append([opened("job-6", entry="close", ended_at=month(11), at=month(11))], "gpu-box", month(11))

    def again(months: int, now: datetime = T) -> list[int]:
        dropped = forget(ledger, store, store.command, months=months, now=now)
        checked(store, tmp_path)
        return dropped

    assert again(0) == again(12) == []
    assert again(4) == []  # two notes, and job-5, which still runs, once more
    entries = checked(store, tmp_path)
    assert [(row.entry, row.sources.get("pruned_sequence"), row.job_id) for row in entries[5:]] == [
        ("pruned", "1", ""), ("pruned", "2", ""), ("open", None, "job-5"),
    ]  # fmt: skip
    assert again(4) == [202605, 202606]
    assert [row.sequence for row in checked(store, tmp_path)] == [3, 4, 5, 6, 7, 8]
    assert again(4) == []
    # A collector without its file still finds what runs: job-6 is closed, its open entry is forgotten.
    (tmp_path / FILE).unlink()
    fresh = JobLedger(tmp_path, "gpu-box", store)
    fresh.load()
    assert sorted(job.job_id for job in fresh.open_jobs("gpu-box")) == ["job-11", "job-5", "job-7"]


def test_a_month_with_another_collectors_chain_waits_for_its_note(tmp_path: Path, store: Store):
    ledgers = {name: JobLedger(tmp_path / name, name, store) for name in ("h1", "h2")}
    for name, ledger in ledgers.items():
        (tmp_path / name).mkdir()
        ledger.load()
        ledger.append([opened(f"job-{name}", at=month(1))], name, month(1))
    now = month(11)
    assert forget(ledgers["h1"], store, store.command, months=2, now=now) == []
    assert forget(ledgers["h1"], store, store.command, months=2, now=now) == []
    assert forget(ledgers["h2"], store, store.command, months=2, now=now) == []
    assert forget(ledgers["h1"], store, store.command, months=2, now=now) == [202601]
    for name in ledgers:
        assert verify(read_entries(store, name)).findings == ()
    assert ledgers["h1"].head != EMPTY
