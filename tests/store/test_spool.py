from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fleet.model import Batch, SourceRun
from store import Store, StoreError, StoreUnavailable
from store.columns import Insert, prepare
from store.spool import CorruptFile, Spool, SpooledWriter
from tests.store.stores import embedded_store

AT = datetime(2026, 11, 22, 10, 0, 5, tzinfo=UTC)


def batch(token: str, detail: str = "") -> Batch:
    row = SourceRun(
        at=AT, source="docker", target="h", state="ok", interval_seconds=5, took_seconds=0.1, rows=1, detail=detail
    )
    return Batch(token=token, rows=(row,))


class Door:
    """A real store behind a door that can be shut, as a network is."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = store
        self.error: StoreError | None = None
        self.lose_answer = False
        self.tries = 0
        self.tokens: list[str] = []

    def insert(self, inserts: Sequence[Insert]) -> None:
        self.tries += 1
        if self.error is not None:
            raise self.error
        if self.store is not None:
            self.store.insert(inserts)
        if self.lose_answer:
            raise StoreUnavailable(0, "the answer was lost")
        self.tokens += [insert.token.partition("/")[0] for insert in inserts]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def writer(door: Door, folder: Path, clock: Clock | None = None, limit_bytes: int = 1 << 20) -> SpooledWriter:
    return SpooledWriter(door, Spool(folder, limit_bytes), retry_seconds=5, clock=clock or Clock())


def test_a_batch_comes_back_from_the_spool_as_it_went_in(tmp_path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    wanted = prepare(batch("b", "<b>\x00 ünï"))
    assert spool.put(wanted) == 0
    (name,) = spool.names()
    (got,) = spool.read(name)
    assert (got.table, got.token) == ("source_runs", "b/source_runs/2026-11-22")
    assert got.rows.equals(wanted[0].rows)


def test_while_the_store_is_away_batches_wait_and_then_go_in_order(tmp_path) -> None:
    with embedded_store() as store:
        clock, door = Clock(), Door(store)
        door.error = StoreUnavailable(0, "away")
        write = writer(door, tmp_path, clock)
        assert [write.append(batch(token)) for token in "abc"] == ["spooled"] * 3
        assert (write.state.waiting_batches, write.state.error) == (3, "away")
        door.error = None
        clock.now = 5.0
        assert write.append(batch("d")) == "stored"
        assert door.tokens == ["a", "b", "c", "d"]
        assert (write.state.waiting_batches, write.state.waiting_bytes, write.state.error) == (0, 0, "")
        assert store.query("SELECT count() AS n FROM source_runs").to_pylist() == [{"n": 4}]


def test_a_batch_whose_answer_was_lost_is_sent_again_and_counts_once(tmp_path) -> None:
    with embedded_store() as store:
        clock, door = Clock(), Door(store)
        door.lose_answer = True
        write = writer(door, tmp_path, clock)
        assert write.append(batch("a")) == "spooled"
        door.lose_answer = False
        clock.now = 5.0
        assert write.drain() == 0
        assert door.tries == 2
        assert store.query("SELECT count() AS n FROM source_runs").to_pylist() == [{"n": 1}]


def test_a_store_that_is_away_is_asked_again_only_after_the_pause(tmp_path) -> None:
    clock, door = Clock(), Door()
    door.error = StoreUnavailable(0, "away")
    write = writer(door, tmp_path, clock)
    for token in "abcd":
        write.append(batch(token))
    assert door.tries == 1
    clock.now = 4.9
    write.append(batch("e"))
    assert door.tries == 1
    clock.now = 5.0
    write.append(batch("f"))
    assert door.tries == 2


def test_a_full_spool_drops_the_oldest_and_counts_them(tmp_path) -> None:
    clock, door = Clock(), Door()
    door.error = StoreUnavailable(0, "away")
    size = len(b"".join(path.read_bytes() for path in _one_file(tmp_path / "probe")))
    write = writer(door, tmp_path / "spool", clock, limit_bytes=3 * size + size // 2)
    for token in "abcde":
        write.append(batch(token))
    assert write.state.dropped_batches == 2
    assert write.state.waiting_bytes <= 3 * size + size // 2
    door.error = None
    clock.now = 5.0
    write.drain()
    assert door.tokens == ["c", "d", "e"]


def _one_file(folder: Path) -> list[Path]:
    Spool(folder, 1 << 20).put(prepare(batch("a")))
    return list(folder.iterdir())


def test_a_batch_larger_than_the_whole_spool_is_dropped_and_the_others_stay(tmp_path) -> None:
    door = Door()
    door.error = StoreUnavailable(0, "away")
    write = writer(door, tmp_path, limit_bytes=4000)
    write.append(batch("a"))
    write.append(batch("b", os.urandom(9000).hex()))
    assert (write.state.waiting_batches, write.state.dropped_batches) == (1, 1)


def test_waiting_batches_survive_a_restart_and_half_written_files_are_removed(tmp_path) -> None:
    door = Door()
    door.error = StoreUnavailable(0, "away")
    write = writer(door, tmp_path)
    write.append(batch("a"))
    (tmp_path / "00000000000000000009.batch.tmp").write_bytes(b"half")
    door.error = None
    again = writer(door, tmp_path)
    assert again.state.waiting_batches == 1
    assert again.append(batch("b")) == "stored"
    assert door.tokens == ["a", "b"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-7], lambda data: b"", lambda data: data[:60] + b"!" + data[61:]]
)
def test_a_damaged_file_is_set_aside_with_one_message_and_the_others_go_on(tmp_path, caplog, damage) -> None:
    door = Door()
    door.error = StoreUnavailable(0, "away")
    write = writer(door, tmp_path)
    for token in "abc":
        write.append(batch(token))
    victim = sorted(tmp_path.iterdir())[1]
    victim.write_bytes(damage(victim.read_bytes()))
    with pytest.raises(CorruptFile):
        Spool(tmp_path, 1 << 20).read(victim.name)
    door.error = None
    again = writer(door, tmp_path)
    with caplog.at_level(logging.ERROR):
        again.drain()
    assert door.tokens == ["a", "c"]
    assert again.state.corrupt_files == 1
    assert [path.name for path in tmp_path.iterdir()] == [victim.with_suffix(".corrupt").name]
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    assert "set aside, the others go on" in caplog.text


def test_a_batch_the_store_refuses_does_not_stop_the_ones_behind_it(tmp_path) -> None:
    class Picky(Door):
        def insert(self, inserts: Sequence[Insert]) -> None:
            if self.error is None and inserts[0].token.startswith("bad"):
                raise StoreError(53, "type mismatch")
            super().insert(inserts)

    clock, door = Clock(), Picky()
    door.error = StoreUnavailable(0, "away")
    write = writer(door, tmp_path, clock)
    for token in ("a", "bad", "c"):
        write.append(batch(token))
    door.error = None
    clock.now = 5.0
    assert write.append(batch("d")) == "stored"
    assert door.tokens == ["a", "c", "d"]
    assert write.append(batch("bad2")) == "refused"
    assert write.state.refused_batches == 2
    assert len(list(tmp_path.glob("*.refused"))) == 1


def test_a_change_of_state_is_logged_once(tmp_path, caplog) -> None:
    clock, door = Clock(), Door()
    write = writer(door, tmp_path, clock)
    with caplog.at_level(logging.INFO):
        door.error = StoreUnavailable(0, "away")
        for _ in range(5):
            write.append(batch("a"))
            clock.now += 5
        door.error = None
        for _ in range(3):
            write.append(batch("b"))
    assert [record.message.partition(",")[0] for record in caplog.records] == [
        "store is away",
        "store takes batches again",
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_is_one_clear_state_and_nothing_crashes(tmp_path, caplog) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        clock, door = Clock(), Door()
        door.error = StoreUnavailable(0, "away")
        write = writer(door, folder, clock, limit_bytes=1 << 30)
        with caplog.at_level(logging.ERROR):
            outcomes = [write.append(batch(str(turn), os.urandom(4000).hex())) for turn in range(20)]
        assert outcomes[0] == "spooled"
        assert outcomes[-1] == "dropped"
        assert [record.levelname for record in caplog.records].count("ERROR") == 1
        assert "No space left on device; free disk space" in write.state.spool_error
        assert write.state.dropped_batches == outcomes.count("dropped")
        assert not list(folder.glob("*.tmp"))
        door.error = None
        clock.now = 5.0
        assert write.drain() == 0
        assert len(door.tokens) == outcomes.count("spooled")
        door.error = StoreUnavailable(0, "away")
        write.append(batch("x"))
        assert write.append(batch("y")) == "spooled"
        assert write.state.spool_error == ""
    finally:
        subprocess.run(["umount", folder], check=True)
