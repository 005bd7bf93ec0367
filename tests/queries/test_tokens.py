"""Tokens by tenant and model, per user, per GPU and per joule, worked by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from fleet.model import Batch, ContainerGpuSample, GpuSample, Histogram, InferenceSample, Row, Scope, Window
from queries.tokens import token_series, token_table
from store import Store
from tests.queries.three_tenants import EVERYONE
from tests.store.stores import KINDS, store_of_kind

END = datetime(2026, 11, 21, 15, 0, tzinfo=UTC)
HOUR = Window(start=END - timedelta(hours=1), end=END)


def _rows(minute: int) -> Iterator[Row]:
    at = END - timedelta(minutes=minute)
    for key, tenant, model, role, out, cached in (
        ("h:a", "acme", "llama", "server", 600.0, 1500.0),  # 10 a second out, 50 in, half of it cached
        ("h:b", "beta", "llama", "server", 1200.0, None),
        ("h:b", "beta", "qwen", "server", 60.0, None),  # a second model in the same container
        ("h:gate", "acme", "llama", "gateway", 600.0, None),
        ("", "lost", "phi", "server", 300.0, None),
    ):
        if key == "h:a" and minute >= 30:
            continue  # its endpoint was read for the last half hour only
        who = {"at": at, "host": "h", "tenant": tenant, "container_key": key, "container_id": key, "model": model,
               "endpoint": key or "e", "server": "vllm", "interval_seconds": 60.0, "role": role}  # fmt: skip
        yield InferenceSample(
            **who, prometheus="p", up=True, requests=60.0, prompt_tokens=3000.0, generation_tokens=out,
            cached_tokens=cached,
        )  # fmt: skip
        if key == "h:a":
            yield Histogram(**who, field="itl_seconds", bounds=(0.02, 0.04, math.inf), increments=(0.0, 60.0, 0.0))
    for key, tenant, gpu, watts in (
        ("h:a", "acme", "G1", 200.0),
        ("h:a", "acme", "G2", 200.0),
        ("h:b", "beta", "G3", None),
    ):
        yield ContainerGpuSample(
            at=at, host="h", tenant=tenant, container_key=key, container_id=key, gpu_uuid=gpu, interval_seconds=60.0,
            held=True, sm_ratio=0.5, memory_bytes=1, power_watts=watts, attribution="measured",
            energy_joules=None if watts is None else watts * 60.0,
        )  # fmt: skip
        yield GpuSample(at=at, host="h", gpu_uuid=gpu, gpu_index=int(gpu[1]), interval_seconds=60.0, busy_ratio=0.5)


@pytest.fixture(scope="module", params=KINDS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_of_kind(request.param, tmp_path_factory.mktemp("served")) as store:
        store.append(Batch(token="nine hours", rows=tuple(row for minute in range(540) for row in _rows(minute))))
        yield store


def _by_tenant(
    store: Store, window: Window = HOUR, scope: Scope = EVERYONE
) -> dict[tuple[str, str], dict[str, object]]:
    rows = token_table(store, scope, window, by="tenant").rows.to_pylist()
    return {(row["role"], row["tenant"]): row for row in rows}


def test_tokens_are_counted_by_tenant_and_a_gateway_stands_alone(served: Store):
    rows = _by_tenant(served)
    acme = rows["server", "acme"]
    # Half an hour of 10 a second, over the hour.
    assert acme["generation_tokens_per_second"] == pytest.approx(5.0)
    assert acme["prompt_tokens_per_second"] == pytest.approx(25.0)
    assert acme["cached_ratio"] == pytest.approx(0.5)
    assert rows["server", "beta"]["cached_ratio"] is None
    assert rows["gateway", "acme"]["generation_tokens_per_second"] == pytest.approx(10.0)
    assert rows["gateway", "acme"]["gpus"] is None
    assert list(rows)[-1] == ("gateway", "acme")


def test_one_user_reads_at_the_pace_of_the_median_gap_between_tokens(served: Store):
    row = _by_tenant(served)["server", "acme"]
    assert row["user_tokens_per_second"] == pytest.approx(1 / 0.03)
    assert (row["user_tokens_lower"], row["user_tokens_upper"]) == (pytest.approx(25.0), pytest.approx(50.0))
    assert _by_tenant(served)["server", "beta"]["user_state"] == "not_measured"


def test_a_gpu_and_a_watt_are_held_against_the_tokens_of_the_time_in_which_they_were_counted(served: Store):
    """10 a second from two GPUs at 200 W each, while its endpoint was read: 5 a GPU, 10 / 400 a joule."""
    row = _by_tenant(served)["server", "acme"]
    assert row["tokens_per_second_per_gpu"] == pytest.approx(5.0)
    assert row["tokens_per_joule"] == pytest.approx(10.0 / 400.0)
    assert row["gpus"] == pytest.approx(1.0)  # two, for half of the hour


def test_what_cannot_be_told_says_why(served: Store):
    rows = _by_tenant(served)
    beta = rows["server", "beta"]
    assert beta["tokens_per_second_per_gpu"] == pytest.approx(21.0)
    assert (beta["tokens_per_joule"], beta["power_reason"]) == (None, "the power of its GPUs is not attributed")
    assert rows["server", "lost"]["gpu_reason"] == "some endpoints are joined to no container"
    models = {(r["role"], r["model"]): r for r in token_table(served, EVERYONE, HOUR, by="model").rows.to_pylist()}
    assert models["server", "qwen"]["gpu_reason"] == "its containers serve several models"
    assert models["server", "llama"]["tokens_per_second_per_gpu"] is None


def test_hours_and_minutes_tell_what_samples_tell(served: Store):
    """Nine hours: half an hour of acme is left in them, beta throughout."""
    rows = _by_tenant(served, Window(start=END - timedelta(hours=9), end=END))
    assert rows["server", "beta"]["generation_tokens_per_second"] == pytest.approx(21.0, rel=1e-2)
    assert rows["server", "acme"]["tokens_per_second_per_gpu"] == pytest.approx(5.0, rel=0.05)
    assert rows["server", "acme"]["tokens_per_joule"] == pytest.approx(10.0 / 400.0, rel=0.05)


@pytest.mark.parametrize("hours", [1, 9])
def test_the_series_has_one_line_a_tenant_without_gateways(served: Store, hours: int):
    rows = token_series(served, EVERYONE, Window(start=END - timedelta(hours=hours), end=END)).rows.to_pylist()
    assert rows[0]["name"] == "beta"
    late = [r for r in rows if r["name"] == "acme" and r["t"] == (END - timedelta(minutes=20)).timestamp() * 1000]
    assert [row["generation_tokens_per_second"] for row in late] == [pytest.approx(10.0)]
    early = [r for r in rows if r["name"] == "acme" and r["t"] == (END - timedelta(minutes=50)).timestamp() * 1000]
    assert [row["generation_tokens_per_second"] for row in early] == [None]


def test_a_tenant_sees_its_own_tokens_only(served: Store):
    own = _by_tenant(served, scope=Scope(tenants=frozenset({"beta"})))
    assert own == {("server", "beta"): _by_tenant(served)["server", "beta"]}
