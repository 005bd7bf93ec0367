"""A collector that was away is a gap: in the coverage, in words, and on the list of gaps."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from fleet.model import Batch, Container, Row, Scope, SourceRun, Window
from queries.containers import container_host_series
from queries.status import source_gaps, source_status
from store import Store
from tests.queries.three_tenants import END, EVERYONE
from tests.store.stores import KINDS, store_of_kind

KEY = "h1:chat"


@pytest.fixture(scope="module", params=KINDS)
def away(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Two daemons polled each minute for an hour until END - 3 h and again for the hour until END; away between."""
    runs = tuple(
        SourceRun(
            at=END - timedelta(hours=hours, minutes=minute), source="docker", target=host, state="ok",
            interval_seconds=60.0, took_seconds=0.1, rows=1,
        )
        for hours in (0, 3) for minute in range(60) for host in ("h1", "h2")
    )  # fmt: skip
    with store_of_kind(request.param, tmp_path_factory.mktemp("away")) as store:
        store.append(Batch(token="away", rows=runs))
        yield store


def span(start: float, end: float) -> Window:
    """From and to, in hours before END."""
    return Window(start=END - timedelta(hours=start), end=END - timedelta(hours=end))


def test_hours_without_a_poll_lower_the_coverage_and_are_named(away: Store):
    # Seen from END - 4 h to END - 3 h and from END - 1 h to END: two of four hours.
    answer = container_host_series(away, EVERYONE, span(4, 0), container_key=KEY)
    assert answer.coverage == pytest.approx(0.5)
    assert [(gap.subject, gap.reason, gap.detail) for gap in answer.gaps] == [
        ("docker h1", "stale", "not polled for 2 h"), ("docker h2", "stale", "not polled for 2 h"),
    ]  # fmt: skip


def test_a_window_in_which_nothing_was_polled_is_not_seen_at_all(away: Store):
    answer = container_host_series(away, EVERYONE, span(2.5, 1.5), container_key=KEY)
    assert answer.coverage == 0.0
    assert answer.as_of == END - timedelta(hours=3)


def test_time_before_the_first_poll_ever_is_no_gap(away: Store):
    answer = container_host_series(away, EVERYONE, span(9, 3), container_key=KEY)
    assert answer.coverage == pytest.approx(1.0)
    assert answer.gaps == ()


def test_a_limited_scope_is_not_told_how_many_targets_fell_silent(away: Store):
    answer = container_host_series(away, Scope(tenants=frozenset({"acme"})), span(4, 0), container_key=KEY)
    assert [(gap.subject, gap.detail) for gap in answer.gaps] == [("docker", "did not answer")]


def test_the_list_of_gaps_has_the_silence_with_its_ends(away: Store):
    rows = source_gaps(away, EVERYONE, span(4, 0)).rows.to_pylist()
    assert [(row["target"], row["start"], row["end"], row["seconds"]) for row in rows] == [
        (host, END - timedelta(hours=3), END - timedelta(hours=1), 7200.0) for host in ("h1", "h2")
    ]
    [now, _] = source_gaps(away, EVERYONE, span(2.5, 1.5)).rows.to_pylist()
    assert (now["end"], now["seconds"], now["reason"]) == (None, 5400.0, "stale")


def test_a_tenants_coverage_is_that_of_the_hosts_its_containers_run_on(tmp_path):
    """Two hosts; h2 failed for the last half hour. acme runs on h1 only, globex on both."""
    rows: list[Row] = []
    for minute in range(60):
        for host in ("h1", "h2"):
            failed = host == "h2" and minute < 30
            rows.append(
                SourceRun(
                    at=END - timedelta(minutes=minute), source="docker", target=host, interval_seconds=60.0,
                    took_seconds=0.1, rows=1, state="failed" if failed else "ok", reason="timeout" if failed else "",
                )
            )  # fmt: skip
    for host, tenant in (("h1", "acme"), ("h1", "globex"), ("h2", "globex")):
        rows.append(
            Container(
                seen_at=END, host=host, tenant=tenant, team="", owner="", tenant_origin="mapped", image="x",
                image_id="", container_key=f"{host}:{tenant}", container_id=f"{host}{tenant}", name=tenant,
                image_digest="", state="running",
            )
        )  # fmt: skip
    with store_of_kind("chdb", tmp_path / "store") as store:
        store.append(Batch(token="hosts", rows=tuple(rows)))
        told = {
            tenant: container_host_series(store, Scope(tenants=frozenset({tenant})), span(1, 0), container_key="none")
            for tenant in ("acme", "globex")
        }
    assert (told["acme"].coverage, told["acme"].gaps) == (pytest.approx(1.0), ())
    assert told["globex"].coverage == pytest.approx(0.75)
    assert [(gap.subject, gap.reason) for gap in told["globex"].gaps] == [("docker", "timeout")]


def test_one_target_that_is_silent_while_others_are_polled_may_have_been_removed(tmp_path):
    runs = tuple(
        SourceRun(at=END - timedelta(minutes=minute), source="docker", target=host, state="ok", interval_seconds=60.0,
                  took_seconds=0.1, rows=1)
        for minute in range(180) for host in ("h1", "h2") if host == "h1" or minute > 90
    )  # fmt: skip
    with store_of_kind("chdb", tmp_path / "store") as store:
        store.append(Batch(token="one", rows=runs))
        now = {row["target"]: row for row in source_status(store, EVERYONE, span(1, 0)).rows.to_pylist()}
        later = Window(start=END, end=END + timedelta(hours=2))
        all_silent = source_status(store, EVERYONE, later).rows.to_pylist()
    assert (now["h1"]["state"], now["h2"]["state"]) == ("ok", "stale")
    assert "removed from the settings" in now["h2"]["next_step"]
    assert {row["next_step"] for row in all_silent} == {"Is the collector process running?"}
