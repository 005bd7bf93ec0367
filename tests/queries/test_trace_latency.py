"""Stored percentiles and shares against the raw durations of real arrivals, in five families of bucket ladders."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from fleet.model import Window
from fleet.slo import Objective
from queries.latency import latency_table
from queries.slo import slo_table
from store import Store
from tests.queries import trace_latency as trace
from tests.store.stores import KINDS, store_of_kind

FOUND = trace.observations()


@pytest.fixture(scope="module", params=KINDS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_of_kind(request.param, tmp_path_factory.mktemp("trace")) as store:
        trace.plant(store, FOUND)
        yield store


def test_every_interval_holds_the_exact_percentile_of_the_raw_durations(served: Store):
    table = list(trace.cases(served, FOUND))
    assert [case.line() for case in table if not case.right] == []
    told = [case for case in table if case.state == "ok"]
    assert len(told) > 200
    assert {case.window for case in told} == set(trace.WINDOWS)


def test_every_point_over_time_holds_it_in_all_three_tiers(served: Store):
    points = list(trace.series_cases(served, FOUND))
    assert [case.line() for case in points if not case.right] == []
    assert {case.group for case in points if case.state == "ok"} >= {"point of _1m", "point of _1h"}


@pytest.mark.parametrize("target", [0.1, 0.25, 1.0, 2.0, 3.3])
@pytest.mark.parametrize("tenant", ["acme", "beta"])
def test_the_share_within_a_target_is_exact_at_a_bound_and_bracketed_elsewhere(
    served: Store, target: float, tenant: str
):
    objective = Objective(
        name="x", target_seconds=target, objective_ratio=0.9, window_days=1, tenant=tenant, model="llama"
    )
    window = Window(start=trace.END - timedelta(hours=1), end=trace.END)
    (row,) = slo_table(served, trace.EVERYONE, window, objectives=(objective,)).rows.to_pylist()
    raw = [
        one.seconds
        for one in FOUND
        if one.field == "ttft_seconds" and one.server.tenant == tenant and one.server.role == "server"
    ]
    assert row["requests"] == len(raw)
    assert row["met_ratio"] == pytest.approx(sum(value <= row["at_seconds"] for value in raw) / len(raw), abs=1e-12)
    share = sum(value <= target for value in raw) / len(raw)
    assert row["met_lower"] - 1e-12 <= share <= row["met_upper"] + 1e-12
    if row["at_seconds"] == target:
        assert row["met_lower"] == row["met_upper"] == row["met_ratio"]


def test_parts_add_up_to_the_whole(served: Store):
    """Requests of containers, tenants and models are the same requests, whatever is asked."""
    window = Window(start=trace.END - timedelta(hours=10), end=trace.END)
    totals = {
        by: sum(
            row["ttft_count"] or 0
            for row in latency_table(served, trace.EVERYONE, window, by=by).rows.to_pylist()  # type: ignore[arg-type]
            if row["role"] == "server"
        )
        for by in ("container", "tenant", "model", "fleet")
    }
    assert len(set(totals.values())) == 1, totals
