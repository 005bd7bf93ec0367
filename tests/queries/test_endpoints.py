"""Which container every metrics endpoint belongs to, and why not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fleet.model import Batch, InferenceSample, Scope, Window
from queries.endpoints import endpoints
from queries.storage import store_tables
from tests.queries.three_tenants import EVERYONE
from tests.store.stores import KINDS, store_of_kind

END = datetime(2026, 11, 21, 15, 0, tzinfo=UTC)
HOUR = Window(start=END - timedelta(hours=1), end=END)


def _poll(endpoint: str, model: str, at: datetime, **more: object) -> InferenceSample:
    fields: dict[str, object] = {
        "at": at, "host": "h", "tenant": "a", "container_key": "", "container_id": "", "prometheus": "p",
        "endpoint": endpoint, "server": "vllm", "model": model, "interval_seconds": 15.0, "up": True, "requests": 2.0,
    }  # fmt: skip
    return InferenceSample(**{**fields, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_an_endpoint_says_what_it_belongs_to_now_and_the_unjoined_come_first(kind: str, tmp_path):
    early, late = END - timedelta(minutes=30), END - timedelta(minutes=1)
    rows = (
        _poll("10.0.0.1:8000", "llama", early, joined_by="none", join_reason="no container has the address 10.0.0.1"),
        # Since then the container list knows it: the newest word counts.
        _poll("10.0.0.1:8000", "llama", late, joined_by="address", join_reason="address 10.0.0.1", container_key="h:c"),
        _poll(
            "10.0.0.1:8000", "mistral", late, joined_by="address", join_reason="address 10.0.0.1", container_key="h:c"
        ),
        _poll("10.0.0.2:8000", "", late, joined_by="ambiguous", join_reason="2 containers fit (h:c, x:other)"),
        _poll("10.0.0.3:8000", "x", late, joined_by="map", join_reason="mapped as external", up=False, requests=None),
        _poll("10.0.0.4:8000", "x", late, joined_by="none", join_reason="nothing listens there", tenant="b"),
    )
    with store_of_kind(kind, tmp_path / "store") as store:
        store.append(Batch(token="polls", rows=rows))
        found = endpoints(store, EVERYONE, HOUR).rows.to_pylist()
        limited = endpoints(store, Scope(tenants=frozenset({"b"})), HOUR).rows.to_pylist()
        tables = {row["table"]: row for row in store_tables(store, EVERYONE, HOUR).rows.to_pylist()}
        mine = endpoints(store, Scope(tenants=frozenset({"a"})), HOUR).rows.to_pylist()
        hidden = store_tables(store, Scope(tenants=frozenset({"b"})), HOUR).rows
    assert [(row["endpoint"], row["state"]) for row in found] == [
        ("10.0.0.2:8000", "ambiguous"),
        ("10.0.0.4:8000", "unjoined"),
        ("10.0.0.3:8000", "external"),
        ("10.0.0.1:8000", "joined"),
    ]
    assert found[3]["models"] == ["llama", "mistral"]
    assert found[3]["requests"] == 6.0
    assert found[2]["requests"] is None
    assert found[2]["up"] is False
    assert [row["endpoint"] for row in limited] == ["10.0.0.4:8000"]
    # The reason of an ambiguous endpoint lists candidates, which may be other tenants' containers.
    assert {row["endpoint"]: row["join_reason"] for row in mine} == {
        "10.0.0.2:8000": "several containers fit",
        "10.0.0.3:8000": "mapped as external",
        "10.0.0.1:8000": "address 10.0.0.1",
    }
    assert tables["inference_samples"]["rows"] == 6
    assert tables["inference_samples"]["bytes_on_disk"] > 0
    assert tables["inference_samples"]["oldest"] == datetime(2026, 11, 21, tzinfo=UTC)
    assert tables["inference_samples_1h"]["oldest"] == datetime(2026, 11, 1, tzinfo=UTC)
    assert hidden.num_rows == 0
