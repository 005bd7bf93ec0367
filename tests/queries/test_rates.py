"""Rates of counters that were known only part of the time: the unknown part lowers no rate, in any tier."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from fleet.model import Batch, ContainerSample, InferenceSample, Row, Window
from queries.containers import container_host_series, container_inference_series
from queries.overview import fleet_numbers
from store import Store
from tests.queries.three_tenants import END, EVERYONE
from tests.store.stores import KINDS, store_of_kind

KEY = "h1:half"
#: Answered from samples, from minutes and from hours.
SPANS = [timedelta(hours=1), timedelta(hours=11), timedelta(days=7)]


@pytest.fixture(scope="module", params=KINDS)
def half(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Three hours every 5 s. In the first half of each minute one core, 100 B/s, 2 requests/s; unknown in the other."""
    rows: list[Row] = []
    for second in range(5, 3 * 3600 + 1, 5):
        known = 0 < second % 60 <= 30
        who = {"at": END - timedelta(hours=3) + timedelta(seconds=second), "host": "h1", "tenant": "acme",
               "container_key": KEY, "container_id": "half", "interval_seconds": 5.0}  # fmt: skip
        rows.append(
            ContainerSample(
                **who, cpu_seconds=5.0 if known else None, network_receive_bytes=500 if known else None,
                block_read_bytes=50 if known else None, state="running",
            )
        )  # fmt: skip
        rows.append(
            InferenceSample(
                **who, prometheus="main", endpoint="e", server="vllm", model="m", up=True,
                requests=10.0 if known else None, errors=1.0 if known else None,
                generation_tokens=300.0 if known else None,
            )
        )  # fmt: skip
    with store_of_kind(request.param, tmp_path_factory.mktemp("half")) as store:
        store.append(Batch(token="half", rows=tuple(rows)))
        yield store


def known(rows: object, column: str) -> list[float]:
    return [value for value in rows.column(column).to_pylist() if value is not None]  # type: ignore[attr-defined]


@pytest.mark.parametrize("span", SPANS)
def test_a_rate_is_that_of_the_time_in_which_the_counter_was_known(half: Store, span: timedelta):
    window = Window(start=END - span, end=END)
    host = container_host_series(half, EVERYONE, window, container_key=KEY).rows
    served = container_inference_series(half, EVERYONE, window, container_key=KEY).rows
    for rows, column, value in (
        (host, "cpu_cores", 1.0), (host, "network_receive_bytes_per_second", 100.0),
        (host, "block_read_bytes_per_second", 10.0), (served, "requests_per_second", 2.0),
        (served, "errors_per_second", 0.2), (served, "generation_tokens_per_second", 60.0),
    ):  # fmt: skip
        found = known(rows, column)
        assert found, column
        assert found == pytest.approx([value] * len(found)), column


@pytest.mark.parametrize("span", SPANS)
def test_the_fleets_numbers_and_trends_say_the_same(half: Store, span: timedelta):
    rows = fleet_numbers(half, EVERYONE, Window(start=END - span, end=END)).rows.to_pylist()
    numbers = {row["name"]: row for row in rows}
    for name, value in (("cpu_cores", 1.0), ("requests_per_second", 2.0), ("tokens_per_second", 60.0)):
        assert numbers[name]["value"] == pytest.approx(value)
        spark = [point for point in numbers[name]["spark"] if point is not None]
        assert spark == pytest.approx([value] * len(spark))
        assert spark


def test_minutes_rolled_up_before_the_weights_existed_count_with_all_their_time(half: Store):
    """60 s with 30 cpu seconds and no weight: half a core, as ever. One whose counter is unknown counts for nothing."""
    for at, cpu in (("10:00:00", "30"), ("10:01:00", "NULL")):
        half.command(
            "INSERT INTO container_samples_1m (at, host, tenant, container_key, container_id, samples,"
            f" interval_seconds, cpu_seconds) VALUES ('2026-11-13 {at}', 'h1', 'acme', 'h1:old', 'o', 12, 60, {cpu})"
        )
    day = END - timedelta(days=7)
    rows = container_host_series(
        half, EVERYONE, Window(start=day - timedelta(hours=10), end=day), container_key="h1:old"
    ).rows
    assert known(rows, "cpu_cores") == pytest.approx([0.5])
