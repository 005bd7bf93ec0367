"""Since when something is beyond its limit, to the minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fleet.model import Batch, ContainerSample, Histogram, InferenceSample, Row, Window
from fleet.severity import Thresholds
from queries.scoping import of_tenants
from queries.since import beyond_since
from tests.queries.three_tenants import EVERYONE
from tests.store.stores import KINDS, store_of_kind

END = datetime(2026, 11, 21, 15, 0, tzinfo=UTC)
BEGAN = END - timedelta(minutes=30)


@pytest.mark.parametrize("kind", KINDS)
def test_each_level_is_told_since_the_minute_after_the_last_fine_one(kind: str, tmp_path):
    """Two hours of minutes; from 14:30 on everything is beyond its limit. One idle minute in between says nothing."""
    rows: list[Row] = []
    for minute in range(120):
        at = END - timedelta(minutes=minute)
        bad = at > BEGAN
        who = {
            "at": at,
            "host": "h",
            "tenant": "t",
            "container_key": "h:c",
            "container_id": "c",
            "interval_seconds": 60,
        }
        rows.append(
            ContainerSample(
                **who, cpu_periods=100, cpu_throttled_periods=50 if bad else 0, memory_limit_bytes=1000,
                memory_working_set_bytes=950 if bad else 500,
            )
        )  # fmt: skip
        idle = minute == 10
        rows.append(
            InferenceSample(
                **who, prometheus="p", endpoint="e", server="vllm", model="m", up=True, requests=0 if idle else 100,
                errors=0 if idle else 10 if bad else 0,
            )
        )  # fmt: skip
        slow = (0.0, 100.0, 0.0) if bad else (100.0, 0.0, 0.0)
        rows.append(
            Histogram(
                **who, endpoint="e", server="vllm", model="m", field="ttft_seconds", bounds=(1.0, 10.0, float("inf")),
                increments=(0.0, 0.0, 0.0) if idle else slow,
            )
        )  # fmt: skip
    with store_of_kind(kind, tmp_path / "store") as store:
        store.append(Batch(token="minutes", rows=tuple(rows)))
        window = Window(start=END - timedelta(hours=1), end=END)
        rules = {rule: ["h:c"] for rule in ("memory", "throttled", "errors", "ttft")}
        found = beyond_since(store, of_tenants(EVERYONE), window, rules, Thresholds())
    # The row stamped 14:30 is the last fine one and stands in the minute that starts then.
    assert found == {(rule, "h:c"): BEGAN + timedelta(minutes=1) for rule in rules}
