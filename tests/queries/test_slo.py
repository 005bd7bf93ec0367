"""Objectives over a planted fleet: ten hours in which one tenant becomes slow 40 minutes before the end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from fleet.model import Batch, Histogram, InferenceSample, Row, Scope, Window
from fleet.slo import Objective
from queries.slo import slo_table
from store import Store
from tests.queries.three_tenants import EVERYONE
from tests.store.stores import KINDS, store_of_kind

END = datetime(2026, 11, 21, 15, 0, tzinfo=UTC)
BOUNDS = (1.0, 2.5, math.inf)
SLOW_MINUTES = 40
HOUR = Window(start=END - timedelta(hours=1), end=END)
PROMISE = Objective(name="fast", target_seconds=2.0, objective_ratio=0.9, window_days=1)


def _rows(minute: int) -> Iterator[Row]:
    at = END - timedelta(minutes=minute)
    slow = minute < SLOW_MINUTES
    for key, tenant, role, server, bounds, counts in (
        ("h:a", "acme", "server", "vllm", BOUNDS, (2.0, 0.0, 18.0) if slow else (20.0, 0.0, 0.0)),
        ("h:b", "beta", "server", "vllm", BOUNDS, (19.0, 0.0, 1.0)),
        ("h:c", "calm", "server", "triton", (math.inf,), (20.0,)),
        ("h:gate", "acme", "gateway", "litellm", BOUNDS, (0.0, 0.0, 99.0)),
    ):
        who = {"at": at, "host": "h", "tenant": tenant, "container_key": key, "container_id": key, "endpoint": key,
               "server": server, "model": "m", "interval_seconds": 60.0, "role": role}  # fmt: skip
        yield InferenceSample(**who, prometheus="p", up=True, requests=sum(counts))
        yield Histogram(**who, field="ttft_seconds", bounds=bounds, increments=counts, sum_increment=9.0)
    silent = {"at": at, "host": "h", "tenant": "mute", "container_key": "h:d", "container_id": "h:d", "endpoint": "h:d",
              "server": "tfs", "model": "m", "interval_seconds": 60.0}  # fmt: skip
    yield InferenceSample(**silent, prometheus="p", up=True, requests=5.0)


@pytest.fixture(scope="module", params=KINDS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_of_kind(request.param, tmp_path_factory.mktemp("served")) as store:
        store.append(Batch(token="ten hours", rows=tuple(row for minute in range(600) for row in _rows(minute))))
        yield store


def _by_tenant(store: Store, *objectives: Objective, scope: Scope = EVERYONE) -> dict[str, dict[str, object]]:
    return {row["tenant"]: row for row in slo_table(store, scope, HOUR, objectives=objectives).rows.to_pylist()}


def test_without_objectives_there_are_no_rows(served: Store):
    assert slo_table(served, EVERYONE, HOUR).rows.num_rows == 0


def test_the_share_is_counted_over_the_whole_window_of_the_objective(served: Store):
    """Ten hours of 20 a minute, 40 minutes of them with 18 too slow: 720 of 12,000 late, of 1,200 allowed."""
    row = _by_tenant(served, PROMISE)["acme"]
    # 1.0 and 2.5 are the bounds: 2.5 lies nearer to 2.0, and the late ones are beyond it.
    assert row["at_seconds"] == 2.5
    # The row stamped exactly at the end belongs to the minute that begins there.
    assert row["requests"] == pytest.approx(12_000, abs=20)
    late = 18.0 * SLOW_MINUTES
    assert row["met_ratio"] == pytest.approx(1 - late / 12_000, abs=2e-3)
    assert row["budget_left_ratio"] == pytest.approx(1 - late / 1200, abs=0.02)


def test_burning_is_told_with_when_it_began_and_when_the_budget_is_gone(served: Store):
    row = _by_tenant(served, PROMISE)["acme"]
    # 90 % late of 10 % allowed: 9 times; in the hour 40 of 60 minutes: 6 times.
    assert row["burn_five_minutes"] == pytest.approx(9.0)
    assert row["burn_half_hour"] == pytest.approx(9.0)
    assert row["burn_hour"] == pytest.approx(6.0, abs=0.2)
    assert row["burn_six_hours"] == pytest.approx(1.0, abs=0.05)
    assert (row["level"], row["word"]) == (3, "critical")
    # 40 % of the budget of a day is left, at 6 times the pace: 0.4 * 24 h / 6.
    assert row["gone_in_seconds"] == pytest.approx(0.4 * 86_400 / 6.0, rel=0.08)
    assert str(row["words"]).startswith("burning 5.9x: budget gone in 1 h")
    assert row["since"] == END - timedelta(minutes=SLOW_MINUTES)


def test_a_kept_promise_is_met_and_others_say_why_they_cannot_be_counted(served: Store):
    rows = _by_tenant(served, PROMISE)
    assert (rows["beta"]["words"], rows["beta"]["met_ratio"]) == ("met", pytest.approx(0.95))
    assert rows["beta"]["budget_left_ratio"] == pytest.approx(0.5)
    assert (rows["calm"]["state"], rows["calm"]["level"]) == ("mean_only", 1)
    assert (rows["mute"]["state"], rows["mute"]["words"]) == ("not_measured", "not measured")


def test_gateways_are_not_counted_twice(served: Store):
    assert _by_tenant(served, PROMISE)["acme"]["requests"] < 12_100


def test_expressions_choose_tenants_and_the_worst_row_is_first(served: Store):
    only = Objective(name="beta only", target_seconds=1.0, objective_ratio=0.9, window_days=1, tenant="^beta$")
    found = slo_table(served, EVERYONE, HOUR, objectives=(only, PROMISE)).rows.to_pylist()
    assert [(row["name"], row["tenant"]) for row in found if row["name"] == "beta only"] == [("beta only", "beta")]
    assert found[0]["tenant"] == "acme"
    assert [row["level"] for row in found] == sorted((row["level"] for row in found), reverse=True)


def test_a_tenant_sees_its_own_rows_only(served: Store):
    whole = _by_tenant(served, PROMISE)
    own = _by_tenant(served, PROMISE, scope=Scope(tenants=frozenset({"beta"})))
    assert own == {"beta": whole["beta"]}
