from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fleet.model import Batch, ContainerSample, Event, Host, SourceRun
from store import Store
from store.retention import DroppedPartition, RetentionPolicy, apply_retention

NOW = datetime(2026, 11, 22, 0, 30, tzinfo=UTC)
POLICY = RetentionPolicy(raw_days=2, minute_days=5, hour_days=40, event_months=1)


def rows_at(at: datetime) -> tuple[ContainerSample | Event | SourceRun | Host, ...]:
    return (
        ContainerSample(at=at, host="h", tenant="t", container_key="k", container_id="i", interval_seconds=5),
        SourceRun(at=at, source="docker", target="h", state="ok", interval_seconds=5, took_seconds=0.1, rows=1),
        Event(at=at, event_id=at.isoformat(), host="h", source="docker", kind="die", title="x"),
        Host(seen_at=at, host=f"h{at:%Y%m%d}"),
    )


def days_of(store: Store, table: str) -> list[str]:
    got = store.query(f"SELECT DISTINCT toString(toDate(at)) AS day FROM {table} ORDER BY day").to_pylist()
    return [row["day"] for row in got]


def test_what_is_older_than_its_days_goes_and_what_is_not_stays(store: Store) -> None:
    for days in (0, 1, 2, 3, 5, 6, 40, 60, 90):
        store.append(Batch(token=f"d{days}", rows=rows_at(NOW - timedelta(days=days))))
    dropped = apply_retention(store, POLICY, NOW)
    assert days_of(store, "container_samples") == ["2026-11-20", "2026-11-21", "2026-11-22"]
    assert days_of(store, "source_runs") == ["2026-11-20", "2026-11-21", "2026-11-22"]
    assert days_of(store, "container_samples_1m") == [
        "2026-11-17",
        "2026-11-19",
        "2026-11-20",
        "2026-11-21",
        "2026-11-22",
    ]
    # 40 days before is 13 October: all of October stays, September goes.
    assert days_of(store, "container_samples_1h")[0] == "2026-10-13"
    assert days_of(store, "events")[0] == "2026-10-13"
    assert store.query("SELECT count() AS n FROM hosts").to_pylist() == [{"n": 9}]
    assert DroppedPartition("container_samples", "20261119", 1, dropped[0].bytes_on_disk) in [
        DroppedPartition(drop.table, drop.partition, drop.rows, dropped[0].bytes_on_disk) for drop in dropped
    ]
    assert {drop.table for drop in dropped} == {
        "container_samples",
        "container_samples_1m",
        "container_samples_1h",
        "source_runs",
        "events",
    }
    assert all(drop.bytes_on_disk > 0 for drop in dropped)


def test_nothing_is_dropped_twice_or_without_need(store: Store) -> None:
    store.append(Batch(token="a", rows=rows_at(NOW)))
    assert apply_retention(store, POLICY, NOW) == []
    store.append(Batch(token="b", rows=rows_at(NOW - timedelta(days=3))))
    assert len(apply_retention(store, POLICY, NOW)) == 2
    assert apply_retention(store, POLICY, NOW) == []


def test_the_turn_of_the_year_is_counted_in_months(store: Store) -> None:
    for at in (datetime(2025, 11, 30, tzinfo=UTC), datetime(2025, 12, 1, tzinfo=UTC), datetime(2026, 1, 5, tzinfo=UTC)):
        store.append(Batch(token=at.isoformat(), rows=rows_at(at)))
    apply_retention(store, POLICY, datetime(2026, 1, 5, tzinfo=UTC))
    assert days_of(store, "events") == ["2025-12-01", "2026-01-05"]
