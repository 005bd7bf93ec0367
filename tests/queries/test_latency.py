"""Percentiles of a small fleet, worked by hand, from every tier."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from fleet.model import Batch, Container, Histogram, InferenceSample, Row, Scope, Window
from queries.latency import latency_heatmap, latency_series, latency_table
from queries.overview import fleet_numbers
from queries.tenants import tenant_models, tenant_series, tenant_table
from store import Store
from tests.queries.three_tenants import EVERYONE
from tests.store.stores import KINDS, store_of_kind

END = datetime(2026, 11, 21, 15, 0, tzinfo=UTC)
FINE, COARSE, MEAN = (0.1, 0.5, 1.0, math.inf), (0.5, 2.0, math.inf), (math.inf,)


def _rows(minute: int) -> Iterator[Row]:
    at = END - timedelta(minutes=minute)
    slow = minute < 30  # the last half hour
    for key, tenant, server, role, bounds, counts in (
        ("h:a", "acme", "vllm", "server", FINE, (0, 0, 10, 0) if slow else (0, 10, 0, 0)),
        ("h:b", "beta", "vllm", "server", COARSE, (5, 5, 0)),
        ("h:c", "acme", "triton", "server", MEAN, (10,)),
        ("h:gate", "acme", "litellm", "gateway", FINE, (0, 0, 0, 20)),
    ):
        who = {"at": at, "host": "h", "tenant": tenant, "container_key": key, "container_id": key, "endpoint": key,
               "server": server, "model": "m", "interval_seconds": 60.0, "role": role}  # fmt: skip
        count = float(sum(counts))
        yield InferenceSample(
            **who, prometheus="p", up=True, requests=count, errors=count / 10, requests_waiting=3.0, kv_cache_ratio=0.5
        )
        yield Histogram(
            **who, field="ttft_seconds", bounds=bounds, increments=tuple(map(float, counts)), sum_increment=count * 0.4
        )


def _containers() -> Iterator[Row]:
    for key, tenant in (("h:a", "acme"), ("h:b", "beta"), ("h:c", "acme"), ("h:gate", "acme")):
        yield Container(
            seen_at=END, host="h", tenant=tenant, team="", owner="", tenant_origin="mapped", container_key=key,
            container_id=key, name=key, image="x:1", image_id="", image_digest="", state="running",
            created_at=END - timedelta(days=1), started_at=END - timedelta(days=1),
        )  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_of_kind(request.param, tmp_path_factory.mktemp("served")) as store:
        rows = (*(row for minute in range(60 * 10) for row in _rows(minute)), *_containers())
        store.append(Batch(token="ten hours", rows=rows))
        yield store


def _by(served: Store, window: Window, by: str) -> dict[tuple[str, ...], dict[str, object]]:
    rows = latency_table(served, EVERYONE, window, by=by).rows.to_pylist()  # type: ignore[arg-type]
    return {(row["role"], row["server"], row["tenant"], row["container_key"]): row for row in rows}


HALF_HOUR = Window(start=END - timedelta(minutes=30), end=END)


def test_a_percentile_of_different_ladders_lies_where_both_put_it(served: Store):
    """300 of h:a in (0.5, 1], h:b 150 below 0.5 and 150 in (0.5, 2]: 450 are within 1, 150 within 0.5."""
    row = _by(served, HALF_HOUR, "model")["server", "vllm", "", ""]
    assert row["ttft_ladders"] == 2
    assert row["ttft_count"] == 600
    assert (row["ttft_p50_state"], row["ttft_p50_lower"], row["ttft_p50_upper"]) == ("ok", 0.5, 1.0)
    assert row["ttft_odd"] == ["h:b"]
    assert row["tenants"] == ["acme", "beta"]


def test_each_state_has_its_word(served: Store):
    rows = _by(served, HALF_HOUR, "container")
    mine = rows["server", "vllm", "acme", "h:a"]
    assert (mine["ttft_p95_state"], mine["ttft_p95_lower"], mine["ttft_p95_upper"]) == ("ok", 0.5, 1.0)
    assert mine["ttft_p95_seconds"] == pytest.approx(0.975)
    assert rows["server", "triton", "acme", "h:c"]["ttft_p95_state"] == "mean_only"
    assert rows["server", "triton", "acme", "h:c"]["ttft_mean_seconds"] == pytest.approx(0.4)
    gate = rows["gateway", "litellm", "acme", "h:gate"]
    assert (gate["ttft_p95_state"], gate["ttft_p95_lower"]) == ("beyond", 1.0)
    assert mine["e2e_p95_state"] == "not_measured"
    few = _by(served, Window(start=END - timedelta(minutes=1), end=END), "container")
    assert few["server", "vllm", "acme", "h:a"]["ttft_p99_state"] == "too_few"


def test_a_change_is_told_when_the_intervals_do_not_touch(served: Store):
    """Half an hour ago h:a answered in (0.1, 0.5], now in (0.5, 1]: surely slower. h:b is as it was."""
    rows = _by(served, HALF_HOUR, "container")
    assert rows["server", "vllm", "acme", "h:a"]["ttft_changed"] is True
    assert rows["server", "vllm", "acme", "h:a"]["ttft_before_seconds"] == pytest.approx(0.48)
    assert rows["server", "vllm", "beta", "h:b"]["ttft_changed"] is False
    assert rows["server", "triton", "acme", "h:c"]["ttft_changed"] is None


def test_gateways_stand_apart_and_in_no_sum(served: Store):
    rows = _by(served, HALF_HOUR, "fleet")
    assert rows["server", "", "", ""]["requests"] == 900
    assert rows["gateway", "", "", ""]["requests"] == 600
    assert rows["server", "", "", ""]["requests_per_second"] == pytest.approx(0.5)
    assert rows["server", "", "", ""]["error_ratio"] == pytest.approx(0.1)
    assert rows["server", "", "", ""]["requests_waiting"] == pytest.approx(9.0)
    assert rows["server", "", "", ""]["kv_cache_ratio"] == 0.5


def test_samples_minutes_and_hours_tell_the_same(served: Store):
    """Nine hours end at an hour: the hours answer; the same rows counted in samples give the same distribution."""
    long = Window(start=END - timedelta(hours=9), end=END)
    row = _by(served, long, "container")["server", "vllm", "acme", "h:a"]
    assert row["requests"] == 9 * 60 * 10
    # 30 of the 540 minutes are slow; the row stamped 06:00:00 belongs to the minute and hour that begin then.
    assert row["ttft_count"] == 9 * 60 * 10
    assert (row["ttft_p95_lower"], row["ttft_p95_upper"]) in (((0.1, 0.5)), ((0.5, 1.0)))
    assert row["ttft_p99_lower"] == 0.5


def test_the_series_and_the_heatmap_show_when_it_became_slow(served: Store):
    hour = Window(start=END - timedelta(hours=1), end=END)
    rows = latency_series(served, EVERYONE, hour, model="m").rows.to_pylist()
    known = [row for row in rows if row["count"]]
    # Only ladders differ in a point: the shared bound 0.5 is all that can be said of both.
    assert {row["p95_lower"] for row in known} <= {0.0, 0.5}
    cells = latency_heatmap(served, EVERYONE, hour).rows.to_pylist()
    assert {cell["ladders"] for cell in cells} == {2}
    early = [cell for cell in cells if cell["t"] < (END - timedelta(minutes=31)).timestamp() * 1000]
    late = [cell for cell in cells if cell["t"] > (END - timedelta(minutes=29)).timestamp() * 1000]
    assert {cell["upper"] for cell in early if cell["count"]} == {0.5}
    assert {cell["upper"] for cell in late if cell["count"]} == {1.0}
    assert all(cell["share"] == 1.0 for cell in late if cell["count"])


def test_a_tenants_series_leave_its_gateway_out(served: Store):
    """acme has h:a and h:c with 10 a minute each, and a gateway that counts 20 again."""
    acme = Scope(tenants=frozenset({"acme"}))
    rows = [row for row in tenant_series(served, acme, HALF_HOUR).rows.to_pylist() if row["requests_per_second"]]
    assert {round(row["requests_per_second"], 6) for row in rows} == {round(20 / 60, 6)}
    # h:a keeps buckets, h:c a mean only, the gateway's all lie beyond 1 s: the p95 is that of h:a.
    assert {(row["ttft_p95_lower_seconds"], row["ttft_p95_upper_seconds"]) for row in rows} <= {
        (0.5, 1.0),
        (None, None),
    }
    models = {row["endpoint"]: row["role"] for row in tenant_models(served, acme, HALF_HOUR).rows.to_pylist()}
    assert models == {"h:a": "server", "h:c": "server", "h:gate": "gateway"}


def test_the_fleets_numbers_and_the_tenants_leave_gateways_out(served: Store):
    numbers = {row["name"]: row for row in fleet_numbers(served, EVERYONE, HALF_HOUR).rows.to_pylist()}
    assert numbers["requests_per_second"]["value"] == pytest.approx(0.5)
    assert {round(value, 6) for value in numbers["requests_per_second"]["spark"] if value} == {0.5}
    assert numbers["ttft_p95_seconds"]["lower"] != 1.0  # where all of the gateway's lie
    rates = {
        row["tenant"]: row["requests_per_second"] for row in tenant_table(served, EVERYONE, HALF_HOUR).rows.to_pylist()
    }
    assert rates == {"acme": pytest.approx(20 / 60), "beta": pytest.approx(10 / 60)}


@pytest.mark.parametrize("kind", KINDS)
def test_time_that_nobody_saw_lowers_no_rate_and_no_queue(kind: str, tmp_path):
    """4 waited and 1 request a second was served, seen for the last half of the hour only: 2.0 and 0.5 were shown."""
    rows = [
        InferenceSample(
            at=END - timedelta(minutes=minute), host="h", tenant="acme", container_key="h:a", container_id="a",
            prometheus="p", endpoint="h:a", server="vllm", model=model, interval_seconds=60.0, up=True, requests=60.0,
            requests_waiting=4.0,
        )
        for minute in range(30)
        for model in ("m", "n")
    ]  # fmt: skip
    with store_of_kind(kind, tmp_path / "store") as store:
        store.append(Batch(token="half", rows=tuple(rows)))
        hour = Window(start=END - timedelta(hours=1), end=END)
        [by_model, _] = latency_table(store, EVERYONE, hour, by="model").rows.to_pylist()
        [by_tenant] = latency_table(store, EVERYONE, hour, by="tenant").rows.to_pylist()
    assert (by_model["requests_waiting"], by_model["requests_per_second"]) == (4.0, 1.0)
    # Two models on one endpoint with 4 waiting each are 8 waiting.
    assert (by_tenant["requests_waiting"], by_tenant["requests_per_second"]) == (8.0, 2.0)
