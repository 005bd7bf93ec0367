"""What the live fleet shows of a container whose newest rows are not those of the newest poll."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from fleet.model import Batch, Container, ContainerGpuSample, ContainerSample, Gpu, GpuSample, Row, Window
from fleet.severity import Thresholds
from queries.gpus import gpu_table
from queries.live import LiveContainer, live_containers
from queries.newest import newest_samples
from queries.scoping import of_tenants
from queries.since import beyond_since
from store import Store
from tests.queries.three_tenants import END, EVERYONE
from tests.store.stores import KINDS, embedded_store, store_of_kind

HOUR = Window(start=END - timedelta(hours=1), end=END)


def fact(name: str) -> Container:
    return Container(
        seen_at=END - timedelta(hours=2), host="h1", tenant="acme", team="", owner="", tenant_origin="mapped",
        container_key=f"h1:{name}", container_id=name, name=name, image="x:1", image_id="", image_digest="",
        state="running", created_at=END - timedelta(days=2), started_at=END - timedelta(days=2),
    )  # fmt: skip


def sample(name: str, at: datetime, **values: object) -> ContainerSample:
    return ContainerSample(
        at=at, host="h1", tenant="acme", container_key=f"h1:{name}", container_id=name, interval_seconds=5.0,
        state="running", **values,
    )  # type: ignore[arg-type]  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def uneven(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Polled every 5 s for an hour. late: until 4 minutes ago; denied: its last poll read nothing; lost: 20 min ago."""
    rows: list[Row] = [fact(name) for name in ("steady", "late", "denied", "lost")]
    for second in range(0, 3600, 5):
        at = END - timedelta(seconds=second)
        rows.append(sample("steady", at, cpu_seconds=5.0, memory_working_set_bytes=100, restarts=int(second == 3000)))
        if second >= 240:
            rows.append(sample("late", at, cpu_seconds=2.5, memory_working_set_bytes=200))
        if second >= 1200:
            rows.append(sample("lost", at, cpu_seconds=2.5, oom_kills=1 if second == 1800 else 0))
        if second:
            rows.append(sample("denied", at, cpu_seconds=5.0, memory_working_set_bytes=300))
        else:
            rows.append(sample("denied", at, unknown_reason="denied"))
        rows.append(
            GpuSample(
                at=at, host="h1", gpu_uuid="GPU-1", gpu_index=0, interval_seconds=5.0,
                busy_ratio=0.5 if second else None, memory_used_bytes=7,
                remapped_rows=3 if second == 55 else None, ecc_uncorrected=int(second == 3000),
            )
        )  # fmt: skip
    rows.append(Gpu(seen_at=END, host="h1", gpu_uuid="GPU-1", gpu_index=0, name="H100"))
    with store_of_kind(request.param, tmp_path_factory.mktemp("uneven")) as store:
        store.append(Batch(token="uneven", rows=tuple(rows)))
        yield store


@pytest.fixture
def live(uneven: Store) -> dict[str, LiveContainer]:
    return {str(c.facts["name"]): c for c in live_containers(uneven, EVERYONE, HOUR)}


def test_one_that_was_polled_minutes_ago_keeps_its_reading_and_says_its_age(live: dict[str, LiveContainer]):
    late = live["late"]
    assert (late.age_seconds, late.cpu_cores, late.memory_working_set_bytes) == (240.0, 0.5, 200)
    assert late.judgement.level.word == "unknown"
    assert (live["steady"].age_seconds, live["steady"].cpu_cores) == (0.0, 1.0)


def test_a_poll_that_could_read_nothing_is_unknown_and_not_the_value_before(live: dict[str, LiveContainer]):
    denied = live["denied"]
    assert (denied.age_seconds, denied.unknown_reason) == (0.0, "denied")
    assert (denied.cpu_cores, denied.memory_working_set_bytes) == (None, None)


def test_one_that_was_lost_longer_ago_has_no_reading_but_what_it_counted(live: dict[str, LiveContainer]):
    lost = live["lost"]
    assert (lost.at, lost.cpu_cores, lost.age_seconds, lost.oom_kills) == (None, None, None, 1)
    assert live["steady"].restarts == 1


def test_a_gpus_newest_sample_counts_and_of_slow_readings_the_newest_known(uneven: Store):
    [gpu] = gpu_table(uneven, EVERYONE, HOUR).rows.to_pylist()
    assert (gpu["busy_ratio"], gpu["memory_used_bytes"]) == (None, 7)
    assert (gpu["remapped_rows"], gpu["ecc_uncorrected"]) == (3, 1)


def test_many_different_moments_answer_the_same(tmp_path):
    """A poll that stamps every container apart: more moments than are listed one by one."""
    rows: list[Row] = []
    for number in range(150):
        for back in (0, 5):
            at = END - timedelta(seconds=back, milliseconds=number)
            rows.append(sample(f"c{number}", at, memory_working_set_bytes=number if back == 0 else 0))
    with embedded_store(tmp_path) as store:
        store.append(Batch(token="apart", rows=tuple(rows)))
        found = newest_samples(store, EVERYONE, HOUR)
    assert sorted(found["memory_bytes"].to_pylist()) == list(range(150))


def minute_rows(at: datetime, *, throttled: bool) -> list[list[Row]]:
    """One minute in twelve batches: half of it at SM 0.08, half at 0; if throttled, in all but the first."""
    batches: list[list[Row]] = []
    for second in range(0, 60, 5):
        who = {"at": at + timedelta(seconds=second), "host": "h1", "tenant": "acme", "container_key": "h1:quiet",
               "container_id": "quiet", "interval_seconds": 5.0}  # fmt: skip
        batches.append(
            [
                ContainerGpuSample(
                    **who, gpu_uuid="GPU-1", held=True, sm_ratio=0.08 if second < 30 else 0.0, attribution="measured"
                ),
                ContainerSample(
                    **who,
                    state="running",
                    cpu_periods=10,
                    cpu_throttled_periods=10 if second and throttled else 0,
                    cpu_seconds=1.0,
                ),
            ]
        )
    return batches


def test_a_minute_is_judged_as_a_whole_however_its_rows_arrived(tmp_path):
    """SM 0.04 over each minute is idle (limit 0.05), 11 of 12 polls throttled is throttled, before any merge too."""
    with embedded_store(tmp_path) as store:
        store.append(Batch(token="facts", rows=(fact("quiet"),)))
        store.command("SYSTEM STOP MERGES")  # of all databases of this engine
        try:
            for minute in (45, 2, 1):
                at = END - timedelta(minutes=minute)
                for number, rows in enumerate(minute_rows(at, throttled=minute == 45)):
                    store.append(Batch(token=f"{minute}-{number}", rows=tuple(rows)))
            [quiet] = live_containers(store, EVERYONE, HOUR, limits=Thresholds(idle_warning_seconds=600.0))
            then = Window(start=HOUR.start, end=END - timedelta(minutes=44))
            since = beyond_since(store, of_tenants(EVERYONE), then, {"throttled": ["h1:quiet"]}, Thresholds())
        finally:
            store.command("SYSTEM START MERGES")
    assert quiet.judgement.rule == "idle"
    # Never busy for a minute: idle since it was first seen, with the peak of a single poll.
    assert quiet.since == END - timedelta(minutes=45)
    assert "8%" in quiet.judgement.why
    # Never fine for a minute either, so the beginning was not seen.
    assert since == {}
