"""Two containers take turns on one GPU every 30 s: whatever the width of a point, the parts are the device."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from fleet.model import Batch, ContainerGpuSample, ContainerSample, GpuSample, Row, Scope, Window
from queries.containers import container_gpu_series
from queries.gpus import gpu_holders_series
from queries.overview import fleet_numbers, gpu_activity_by_tenant
from queries.tenants import tenant_series
from store import Store
from tests.store.stores import KINDS, store_of_kind

END = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
EVERYONE = Scope(tenants=None)
SPANS = [timedelta(minutes=15), timedelta(hours=6, minutes=30), timedelta(days=8)]


@pytest.fixture(scope="module", params=KINDS)
def turns(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One hour of GPU-9 at SM 0.9: acme/a and globex/b alternate at 0.8, 0.1 is nobody's."""
    rows: list[Row] = []
    for second in range(5, 3601, 5):
        at = END - timedelta(hours=1) + timedelta(seconds=second)
        name, tenant = ("a", "acme") if (second - 1) // 30 % 2 == 0 else ("b", "globex")
        for key, owner, sm in ((f"h1:{name}", tenant, 0.8), ("", "", 0.1)):
            rows.append(
                ContainerGpuSample(
                    at=at, host="h1", tenant=owner, container_key=key, container_id=key, gpu_uuid="GPU-9",
                    interval_seconds=5.0, held=bool(key), sm_ratio=sm, memory_bytes=int(sm * 100),
                    attribution="measured",
                )
            )  # fmt: skip
        rows += [
            ContainerSample(
                at=at, host="h1", tenant=tenant, container_key=f"h1:{who}", container_id=who, interval_seconds=5.0,
                cpu_seconds=5.0, state="running",
            )
            for who in (name, "steady")
        ]  # fmt: skip
        rows.append(
            GpuSample(at=at, host="h1", gpu_uuid="GPU-9", gpu_index=9, interval_seconds=5.0, sm_active_ratio=0.9)
        )
    with store_of_kind(request.param, tmp_path_factory.mktemp("turns")) as store:
        store.append(Batch(token="turns", rows=tuple(rows)))
        yield store


def totals(rows: list[dict[str, float | None]], column: str) -> list[float]:
    """Sum of the known values at each time."""
    sums: dict[float, float] = {}
    for row in rows:
        if (value := row[column]) is not None:
            sums[row["t"] or 0.0] = sums.get(row["t"] or 0.0, 0.0) + value
    return list(sums.values())


@pytest.mark.parametrize("span", SPANS)
def test_the_parts_of_a_device_never_exceed_it_when_containers_take_turns(turns: Store, span: timedelta):
    window = Window(start=END - span, end=END)
    held = gpu_holders_series(turns, EVERYONE, window, gpu_uuid="GPU-9").rows.to_pylist()
    assert totals(held, "sm_ratio") == pytest.approx([0.9] * len(totals(held, "sm_ratio")), rel=1e-5)
    assert totals(held, "memory_bytes") == pytest.approx([90.0] * len(totals(held, "memory_bytes")))
    busy = gpu_activity_by_tenant(turns, EVERYONE, window).rows.to_pylist()
    assert totals(busy, "gpus_busy") == pytest.approx([0.9] * len(totals(busy, "gpus_busy")), rel=1e-5)
    assert totals(held, "sm_ratio")
    assert totals(busy, "gpus_busy")


def inner(rows: list[dict[str, float | None]], column: str) -> list[float]:
    """As `totals`, without the points at both ends, which hold one sample less or more."""
    return totals(rows, column)[1:-1]


def test_a_container_there_half_of_the_time_fills_half_of_a_point(turns: Store):
    window = Window(start=END - SPANS[1], end=END)
    own = container_gpu_series(turns, EVERYONE, window, container_key="h1:a").rows.to_pylist()
    for column, value in (("sm_ratio", 0.4), ("others_sm_ratio", 0.4), ("unattributed_sm_ratio", 0.1)):
        assert inner(own, column) == pytest.approx([value] * len(inner(own, column)), rel=1e-5)
        assert len(inner(own, column)) > 20


def test_a_tenants_own_part_is_the_one_the_fleet_sees(turns: Store):
    window = Window(start=END - SPANS[1], end=END)
    scope = Scope(tenants=frozenset({"acme"}))
    own = tenant_series(turns, scope, window).rows.to_pylist()
    assert inner(own, "gpus_busy") == pytest.approx([0.4] * len(inner(own, "gpus_busy")), rel=1e-5)
    assert len(inner(own, "gpus_busy")) > 20
    fleet = gpu_activity_by_tenant(turns, EVERYONE, window).rows.to_pylist()
    mine = gpu_activity_by_tenant(turns, scope, window).rows.to_pylist()
    assert mine == [row for row in fleet if row["tenant"] == "acme"]


def test_a_container_without_a_gpu_has_the_columns_and_no_rows(turns: Store):
    window = Window(start=END - SPANS[0], end=END)
    some = container_gpu_series(turns, EVERYONE, window, container_key="h1:a").rows
    none = container_gpu_series(turns, EVERYONE, window, container_key="h1:cpu-only").rows
    assert none.num_rows == 0
    assert none.schema.names == some.schema.names


def test_containers_that_follow_one_another_do_not_count_twice(turns: Store):
    window = Window(start=END - SPANS[0], end=END)
    [cpu] = [row for row in fleet_numbers(turns, EVERYONE, window).rows.to_pylist() if row["name"] == "cpu_cores"]
    # One steady core, and one that a and b share by turns; over the life of each alone it would read 3.
    assert cpu["value"] == pytest.approx(2.0)
    assert cpu["spark"] == pytest.approx([2.0] * len(cpu["spark"]))
