"""Facts are read again when one was written, and tell of the moment that is asked about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace

import pyarrow as pa
import pytest

from fleet.model import Batch, Container, Window
from queries import sharing
from queries.known import known_containers
from store import Store
from tests.queries.three_tenants import END, EVERYONE
from tests.store.stores import embedded_store


class Counting:
    """A store that remembers which statements read facts."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.read = 0

    def query(self, sql: str, parameters: Mapping[str, object] | None = None) -> pa.Table:
        self.read += "FROM containers FINAL" in sql
        return self.store.query(sql, parameters)


def fact(name: str, seen_at: datetime, created_at: datetime) -> Container:
    return Container(
        seen_at=seen_at, host="h1", tenant="acme", team="", owner="", tenant_origin="mapped",
        container_key=f"h1:{name}", container_id=name, name=name, image="x:1", image_id="", image_digest="",
        state="running", created_at=created_at, started_at=created_at,
    )  # fmt: skip


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(sharing, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def names(store: Counting, end: datetime) -> list[str]:
    window = Window(start=end - timedelta(hours=1), end=end)
    return known_containers(store, EVERYONE, window, None).table["name"].to_pylist()  # type: ignore[arg-type]


def test_facts_are_read_once_until_one_is_written(tmp_path, clock: list[float]):
    old = END - timedelta(days=1)
    with embedded_store(tmp_path) as real:
        store = Counting(real)
        real.append(Batch(token="1", rows=(fact("b", old, old), fact("a", old, old))))
        for look in range(4):
            assert names(store, END + timedelta(seconds=5 * look)) == ["a", "b"]
            clock[0] += 5
        assert store.read == 1
        now = END + timedelta(seconds=18)
        real.append(Batch(token="2", rows=(replace(fact("b", now, old), removed=True), fact("c", now, now))))
        assert names(store, END + timedelta(seconds=20)) == ["a", "c"]
        assert store.read == 2
        # Asked about the moment before, c is not yet there, b still is.
        assert names(store, END + timedelta(seconds=15)) == ["a", "b"]
