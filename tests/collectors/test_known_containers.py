"""What the store knows of a host before a collector starts, and what a restart of the collector finds with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from collectors.known_containers import KnownBefore, known_containers
from collectors.sources.docker import DockerSource
from fleet.inventory import Inventory
from fleet.model import Batch, Container
from fleet.settings_table import DockerDaemon
from fleet.tenancy import Tenancy
from store import Store, open_store
from tests.services.docker_readings import poll, poll_until, rows
from tests.services.dockerd import Dockerd
from tests.store.stores import embedded_store

AT = datetime(2026, 11, 22, 6, 0, 0, 123000, tzinfo=UTC)


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with embedded_store(tmp_path) as opened:
        yield opened


def container(name: str, *, host: str = "h1", seen: datetime = AT, removed: bool = False) -> Container:
    return Container(
        seen_at=seen, host=host, tenant="acme", team="", owner="", tenant_origin="label",
        container_key=f"{host}:{name}",
        container_id=f"id-{name}", name=name, image="i:1", image_id="sha256:1", image_digest="", started_at=AT,
        labels={"stage": "test"}, gpu_uuids=("GPU-1", "GPU-2"), gpu_request_kind="ids", gpu_unresolved=("7",),
        exit_code=3, oom_killed=True, removed=removed, memory_limit_bytes=5, cpu_limit_cores=0.5,
    )  # fmt: skip


def test_a_row_comes_back_as_it_was_stored(store: Store) -> None:
    store.append(Batch(token="1", rows=(container("a"), container("b", host="h2"))))
    assert known_containers(store, "h1") == {"id-a": container("a")}


def test_the_newest_row_counts_and_removed_containers_are_left_out(store: Store) -> None:
    later = AT + timedelta(minutes=1)
    store.append(Batch(token="1", rows=(container("a"), container("b"))))
    store.append(Batch(token="2", rows=(container("a", seen=later, removed=True), container("b", seen=later))))
    known = known_containers(store, "h1")
    assert known is not None
    assert {key: row.seen_at for key, row in known.items()} == {"id-b": later}


def test_a_store_that_is_away_says_nothing_instead_of_nobody() -> None:
    away = open_store("clickhouse://default@127.0.0.1:9/fleet")
    assert known_containers(away, "h1") is None
    away.close()


def test_what_was_known_is_read_at_the_start_and_asked_for_only_once(store: Store) -> None:
    store.append(Batch(token="1", rows=(container("a"), container("b", host="h2"))))
    before = KnownBefore(store, ["h1", "h2"])
    store.append(Batch(token="2", rows=(container("new"),)))
    assert before("h1") == {"id-a": container("a")}
    assert before("h2") == {"id-b": container("b", host="h2")}
    again = before("h1")  # the second time it is the store's answer of now
    assert again is not None
    assert set(again) == {"id-a", "id-new"}


@pytest.mark.docker
@pytest.mark.timeout(120)
def test_a_container_removed_while_the_collector_was_down_is_removed_after_its_restart(
    dockerd: Dockerd, store: Store
) -> None:
    def collector() -> DockerSource:
        daemon = DockerDaemon(url=dockerd.url, name="h1", timeout_seconds=10.0)
        return DockerSource(daemon, Tenancy(), Inventory(), known_before=KnownBefore(store, ["h1"]))

    dockerd.run("stays")
    dockerd.run("goes")
    first = collector()
    try:
        reading = poll(first)
    finally:
        first.close()
    assert {name: row.removed for name, row in rows(reading, Container).items()} == {"stays": False, "goes": False}
    store.append(Batch(token="1", rows=reading.rows))

    dockerd.cli("rm", "-f", "goes")
    second = collector()
    try:
        reading, after = poll(second), poll(second)
    finally:
        second.close()
    assert {name: row.removed for name, row in rows(reading, Container).items()} == {"stays": False, "goes": True}
    assert rows(after, Container) == {}
    store.append(Batch(token="2", rows=reading.rows))
    known = known_containers(store, "h1")
    assert known is not None
    assert [row.name for row in known.values()] == ["stays"]


@pytest.mark.docker
@pytest.mark.timeout(120)
def test_a_store_that_is_away_at_first_is_asked_again_a_minute_later(dockerd: Dockerd) -> None:
    answers: list[dict[str, Container] | None] = [None, {"id-old": container("old")}]
    asked: list[str] = []

    def before(host: str) -> dict[str, Container] | None:
        asked.append(host)
        return answers[len(asked) - 1]

    now = [0.0]
    daemon = DockerDaemon(url=dockerd.url, name="h1", timeout_seconds=10.0)
    source = DockerSource(daemon, Tenancy(), Inventory(), known_before=before, monotonic=lambda: now[0])
    try:
        assert rows(poll(source), Container) == {}
        now[0] = 30.0
        assert rows(poll(source), Container) == {}
        now[0] = 61.0
        assert {name: row.removed for name, row in rows(poll(source), Container).items()} == {"old": True}
        now[0] = 200.0
        assert rows(poll(source), Container) == {}
    finally:
        source.close()
    assert asked == ["h1", "h1"]


@pytest.mark.docker
@pytest.mark.timeout(120)
def test_a_slow_answer_of_the_store_is_taken_in_when_it_comes(dockerd: Dockerd) -> None:
    told = threading.Event()

    def before(_: str) -> dict[str, Container]:
        told.wait(30)
        return {"id-old": container("old")}

    daemon = DockerDaemon(url=dockerd.url, name="h1", timeout_seconds=2.0)
    source = DockerSource(daemon, Tenancy(), Inventory(), known_before=before)
    try:
        assert rows(poll(source), Container) == {}
        told.set()
        readings = poll_until(source, lambda seen: bool(rows(seen[-1], Container)))
    finally:
        told.set()
        source.close()
    assert {name: row.removed for name, row in rows(readings[-1], Container).items()} == {"old": True}
