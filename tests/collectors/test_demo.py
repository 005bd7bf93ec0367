"""The back-fill against a real embedded store."""

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from collectors import demo
from fleet.model import Batch, SourceRun
from store.client import Store, open_store

NOW = datetime(2026, 3, 4, 10, 20, 7, tzinfo=UTC)
COUNTED = (
    "container_samples",
    "gpu_samples",
    "container_gpu_samples",
    "inference_samples",
    "histograms",
    "source_runs",
)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    # Three hours instead of seven days, half an hour of it fine: the same code over fewer chunks.
    monkeypatch.setattr(demo, "HISTORY", timedelta(hours=3))
    monkeypatch.setattr(demo, "FINE_HISTORY", timedelta(minutes=30))
    opened = open_store(f"chdb://{tmp_path}/store")
    opened.migrate()
    yield opened
    opened.close()


def counts(store: Store) -> dict[str, int]:
    return {name: store.query(f"SELECT count() AS n FROM {name}")["n"][0].as_py() for name in COUNTED}


def fill(store: Store, now: datetime = NOW, seed: int = 7) -> datetime:
    return demo.fill(store, demo.find_position(store, seed, now), now, lambda share, rows: None)


def test_a_new_store_is_filled_from_the_hour_in_which_the_history_begins_until_now(store: Store) -> None:
    end = fill(store)
    # Minutes from 07:00 to 09:50 are 171 instants; 15 s steps from 09:50:15 to 10:20:00 are 120.
    assert counts(store)["gpu_samples"] == (171 + 120) * 20
    # One of 46 never started. The batch job runs 90 minutes of every six hours and has no sample otherwise: from 09:55.
    # The evaluation job ran from 07:12 for 61 minutes, and runs since 10:00.
    assert counts(store)["container_samples"] == (171 + 120) * 43 + 101 + 61 + 81
    span = store.query("SELECT min(at) AS first, max(at) AS last FROM gpu_samples").to_pylist()[0]
    assert span == {"first": datetime(2026, 3, 4, 7, tzinfo=UTC), "last": datetime(2026, 3, 4, 10, 20, tzinfo=UTC)}
    assert end == span["last"]


def test_a_second_start_at_the_same_time_adds_nothing(store: Store) -> None:
    fill(store)
    before = counts(store)
    fill(store)
    assert counts(store) == before


def test_a_chunk_that_is_sent_again_counts_once_in_raw_tables_and_rollups(store: Store) -> None:
    position = demo.find_position(store, 7, NOW)
    chunk = next(demo.chunks(position, NOW))
    samples, markers = demo.chunk_batches(position.fleet, chunk, position.filled_to)
    total = "SELECT sum(requests) AS n FROM inference_samples UNION ALL SELECT sum(requests) FROM inference_samples_1m"
    seen = []
    for _ in range(2):
        store.append(samples)
        store.append(markers)
        seen.append((counts(store), sorted(store.query(total)["n"].to_pylist())))
    assert seen[0] == seen[1]
    assert seen[0][1][0] == pytest.approx(seen[0][1][1])


def test_a_back_fill_killed_after_each_append_still_counts_every_instant_once(store: Store) -> None:
    class Killed(BaseException):
        pass

    class Dying:
        def __init__(self, left: int) -> None:
            self.left = left
            self.query = store.query

        def append(self, batch: Batch) -> None:
            if not self.left:
                raise Killed
            self.left -= 1
            store.append(batch)

    # Each start is a little later than the one before, as in life, and dies one append further on.
    now = NOW
    for allowed in (1, 1, 2, 2, 3, 1, 1):
        dying = Dying(allowed)
        with pytest.raises(Killed):
            demo.fill(dying, demo.find_position(store, 7, now), now, lambda share, rows: None)
        now += timedelta(seconds=40)
    fill(store, now)
    doubled = store.query(
        "SELECT at, gpu_uuid, count() AS n FROM gpu_samples GROUP BY at, gpu_uuid HAVING n > 1 LIMIT 5"
    )
    assert doubled.to_pylist() == []
    per_instant = store.query("SELECT at, count() AS n FROM gpu_samples GROUP BY at HAVING n != 20")
    assert per_instant.to_pylist() == []
    seconds = store.query("SELECT sum(interval_seconds) / 20 AS s, max(at) AS last FROM gpu_samples").to_pylist()[0]
    # No second missing and none twice: the intervals cover everything from 06:59 to the last instant.
    assert seconds["s"] == (seconds["last"] - datetime(2026, 3, 4, 6, 59, tzinfo=UTC)).total_seconds()


def test_a_demo_that_was_off_for_an_hour_fills_that_hour_with_the_same_story(store: Store) -> None:
    fill(store)
    origin = demo.find_position(store, 7, NOW).fleet.origin
    later = NOW + timedelta(hours=1)
    assert demo.find_position(store, 7, later).fleet.origin == origin
    assert fill(store, later) == datetime(2026, 3, 4, 11, 20, tzinfo=UTC)
    seconds = store.query("SELECT sum(interval_seconds) / 20 AS s FROM gpu_samples").to_pylist()[0]["s"]
    assert seconds == timedelta(hours=4, minutes=21).total_seconds()


def test_after_a_pause_longer_than_the_history_a_new_story_begins_and_overlaps_nothing(store: Store) -> None:
    fill(store)
    later = NOW + timedelta(hours=4)
    position = demo.find_position(store, 7, later)
    assert position.fleet.origin == datetime(2026, 3, 4, 14, 20, tzinfo=UTC)
    assert position.filled_to == datetime(2026, 3, 4, 10, 59, tzinfo=UTC)
    fill(store, later)
    doubled = store.query("SELECT at, count() AS n FROM gpu_samples GROUP BY at HAVING n != 20")
    assert doubled.to_pylist() == []
    assert demo.find_position(store, 7, later).fleet.origin == position.fleet.origin


def test_another_seed_on_the_same_store_is_refused_with_what_to_write(store: Store) -> None:
    fill(store)
    with pytest.raises(demo.DemoError, match=r"asked for seed 8; use --seed 7"):
        demo.find_position(store, 8, NOW)


def test_a_store_with_real_samples_is_never_mixed_with_a_demo(store: Store) -> None:
    run = SourceRun(
        at=NOW, source="docker", target="host-1", state="ok", interval_seconds=5.0, took_seconds=0.1, rows=3
    )
    store.append(Batch(token="real", rows=(run,)))
    with pytest.raises(demo.DemoError, match=r"holds real samples \(docker host-1\)"):
        demo.find_position(store, 7, NOW)


def test_no_value_in_the_store_is_not_a_number(store: Store) -> None:
    fill(store)
    for table, column in (
        ("gpu_samples", "power_watts"),
        ("gpu_samples", "busy_ratio"),
        ("inference_samples", "kv_cache_ratio"),
        ("histograms", "sum_increment"),
        ("container_gpu_samples", "sm_ratio"),
    ):
        row = store.query(f"SELECT countIf(NOT isFinite({column})) AS bad, count({column}) AS n FROM {table}")
        assert row.to_pylist()[0]["bad"] == 0, (table, column)
        assert row.to_pylist()[0]["n"] > 0


def test_the_bar_draws_on_a_terminal_and_prints_lines_elsewhere() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    ticks = iter([0.0, 5.0, 10.0])
    terminal = Terminal()
    bar = demo.ProgressBar(terminal, clock=lambda: next(ticks))
    bar(0.5, 1000)
    assert "about 5 s left" in terminal.getvalue()
    assert terminal.getvalue().count("█") == 15
    bar(1.0, 2000)
    assert terminal.getvalue().endswith("\n")
    plain = io.StringIO()
    bar = demo.ProgressBar(plain, clock=lambda: 0.0)
    for step in range(1, 101):
        bar(step / 100, step)
    assert len(plain.getvalue().splitlines()) == 11
