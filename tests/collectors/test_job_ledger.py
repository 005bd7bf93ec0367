"""The chain survives whatever dies when: no number twice, no hole, and the head outside the store betrays a cut end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from collectors.job_ledger import FILE, JobLedger, LedgerAwayError, expected_head, read_entries, with_waiting
from fleet.gpu_jobs import EMPTY, GENESIS, head_of, verify
from fleet.model import Batch, GpuJob, SourceRun
from store import Store
from store.columns import Insert
from store.errors import StoreError, StoreUnavailable
from tests.store.stores import KINDS, store_of_kind

T = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)


class Line:
    """A store behind a line that can be cut: before a request arrives, or before its answer does."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.cut = ""

    def insert(self, inserts: Sequence[Insert]) -> None:
        if self.cut == "before":
            raise StoreUnavailable(0, "away")
        self.store.insert(inserts)
        if self.cut == "after":
            raise StoreUnavailable(0, "the answer was lost")

    def query(self, sql: str, parameters: Mapping[str, object] | None = None) -> Any:
        if self.cut:
            raise StoreUnavailable(0, "away")
        return self.store.query(sql, parameters)


@pytest.fixture(scope="module", params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_of_kind(request.param, tmp_path_factory.mktemp("store")) as store:
        if request.param == "gateway":
            store = store.writer  # type: ignore[attr-defined] - the collector reads and writes with one token
        yield store


@pytest.fixture
def line(opened: Store) -> Iterator[Line]:
    yield Line(opened)
    opened.command("TRUNCATE TABLE gpu_jobs")
    opened.command("TRUNCATE TABLE source_runs")


def draft(name: str, minute: float = 0, **changes: object) -> GpuJob:
    values: dict[str, object] = {
        "at": T, "chain": "h1", "sequence": 0, "entry": "open", "job_id": name, "host": "h1", "tenant": "acme",
        "gpu_uuids": ("GPU-1",), "gpu_names": ("H100",), "gpu_count": 1.0, "started_at": T + timedelta(minutes=minute),
        "sources": {"tenant": "label", "a": "b"},
    }  # fmt: skip
    return GpuJob(**(values | changes))  # type: ignore[arg-type]


def ledger(folder: Path, line: Line, *, load: bool = True) -> JobLedger:
    made = JobLedger(folder, "h1", line)
    if load:
        made.load()
    return made


def sequences(line: Line) -> list[int]:
    lines = read_entries(line.store, "h1")  # type: ignore[arg-type]
    assert verify(lines).findings == ()
    return [row.sequence for row in lines]  # type: ignore[misc]


def test_entries_are_stored_as_they_were_sealed(tmp_path: Path, line: Line):
    made = ledger(tmp_path, line)
    assert made.head == EMPTY
    made.append([draft("a"), draft("b", energy_joules=0.1 + 0.2, exit_code=-1, end_reason='say "x"\n')], "h1", T)
    lines = read_entries(line.store)  # type: ignore[arg-type]
    assert verify(lines, head=made.head).findings == ()
    assert [row.previous_hash for row in lines] == [GENESIS, lines[0].hash]  # type: ignore[union-attr]
    assert made.waiting_entries == 0


def test_the_chain_goes_on_after_a_restart(tmp_path: Path, line: Line):
    ledger(tmp_path, line).append([draft("a")], "h1", T)
    again = ledger(tmp_path, line)
    again.append([draft("b")], "h1", T)
    assert sequences(line) == [1, 2]
    assert [job.job_id for job in ledger(tmp_path, line).open_jobs("h1")] == ["a", "b"]


@pytest.mark.parametrize("cut", ["before", "after"])
def test_entries_wait_in_the_file_while_the_store_is_away_and_count_once(tmp_path: Path, line: Line, cut: str):
    made = ledger(tmp_path, line)
    made.append([draft("a")], "h1", T)
    line.cut = cut
    made.append([draft("b")], "h1", T)
    made.append([draft("c"), draft("d")], "h1", T)
    assert made.waiting_entries == 3
    line.cut = ""
    made.append([draft("e")], "h1", T)
    assert sequences(line) == [1, 2, 3, 4, 5]
    assert made.waiting_entries == 0


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_process_killed_between_file_and_store_repeats_nothing(tmp_path: Path, line: Line, cut: str):
    made = ledger(tmp_path, line)
    line.cut = cut
    made.append([draft("a")], "h1", T)
    made.append([draft("b")], "h1", T)
    line.cut = ""
    again = ledger(tmp_path, line)  # the first one is gone without another word
    again.append([draft("c")], "h1", T)
    assert sequences(line) == [1, 2, 3]


def test_a_process_killed_before_the_file_is_in_place_has_added_nothing(
    tmp_path: Path, line: Line, monkeypatch: pytest.MonkeyPatch
):
    made = ledger(tmp_path, line)
    made.append([draft("a")], "h1", T)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            made.append([draft("b")], "h1", T)
    assert sequences(line) == [1]
    assert [job.job_id for job in made.open_jobs("h1")] == ["a"]
    made.append([draft("b")], "h1", T)
    assert sequences(line) == [1, 2]


def test_a_start_without_store_goes_on_from_the_file(tmp_path: Path, line: Line):
    ledger(tmp_path, line).append([draft("a")], "h1", T)
    line.cut = "before"
    made = ledger(tmp_path, line)
    made.append([draft("b"), draft("a", entry="close", ended_at=T)], "h1", T)
    assert [job.job_id for job in made.open_jobs("h1")] == ["b"]
    line.cut = ""
    made.flush()
    assert sequences(line) == [1, 2, 3]


def test_a_start_without_file_goes_on_from_the_store(tmp_path: Path, line: Line):
    first = ledger(tmp_path, line)
    first.append([draft("a"), draft("b")], "h1", T + timedelta(seconds=0.25))
    first.append([draft("a", entry="close", ended_at=T)], "h1", T)
    run = {"interval_seconds": 5.0, "took_seconds": 0.1, "rows": 1}
    seen = SourceRun(at=T + timedelta(hours=1), source="docker", target="h1", state="ok", **run)  # type: ignore[arg-type]
    later = SourceRun(at=T + timedelta(hours=2), source="docker", target="h1", state="failed", **run)  # type: ignore[arg-type]
    line.store.append(Batch(token="runs" + tmp_path.name, rows=(seen, later)))
    (tmp_path / FILE).unlink()
    line.cut = "before"
    with pytest.raises(LedgerAwayError):
        ledger(tmp_path, line)
    line.cut = ""
    made = ledger(tmp_path, line)
    assert [job.job_id for job in made.open_jobs("h1")] == ["b"]
    assert made.was_closed("a")
    assert made.looked_at("h1") == T + timedelta(hours=1)
    made.append([draft("c")], "h1", T)
    assert sequences(line) == [1, 2, 3, 4]


def test_an_older_file_does_not_give_numbers_twice(tmp_path: Path, line: Line):
    made = ledger(tmp_path, line)
    made.append([draft("a")], "h1", T)
    old = (tmp_path / FILE).read_bytes()
    made.append([draft("b")], "h1", T)
    (tmp_path / FILE).write_bytes(old)
    again = ledger(tmp_path, line)
    again.append([draft("c")], "h1", T)
    assert sequences(line) == [1, 2, 3]
    assert [job.job_id for job in again.open_jobs("h1")] == ["a", "b", "c"]


def test_what_a_power_loss_took_out_of_the_store_is_sent_again(tmp_path: Path, line: Line):
    made = ledger(tmp_path, line)
    for name in "abc":
        made.append([draft(name)], "h1", T)
    line.store.command("ALTER TABLE gpu_jobs DELETE WHERE sequence > 1 SETTINGS mutations_sync = 2")
    assert sequences(line) == [1]
    again = ledger(tmp_path, line)
    again.append([draft("d")], "h1", T)
    assert sequences(line) == [1, 2, 3, 4]


def test_edits_and_a_cut_end_in_the_store_are_found_with_the_head_of_the_file(tmp_path: Path, line: Line):
    made = ledger(tmp_path, line)
    for name in "abcd":
        made.append([draft(name)], "h1", T)
    known = expected_head(tmp_path, "h1")
    assert known is not None
    assert verify(read_entries(line.store, "h1"), head=known[0]).findings == ()  # type: ignore[arg-type]
    line.store.command("ALTER TABLE gpu_jobs UPDATE tenant = 'globex' WHERE sequence = 2 SETTINGS mutations_sync = 2")
    line.store.command("ALTER TABLE gpu_jobs DELETE WHERE sequence = 4 SETTINGS mutations_sync = 2")
    found = verify(with_waiting(read_entries(line.store, "h1"), known[1]), head=known[0])  # type: ignore[arg-type]
    assert [(finding.sequence, finding.what) for finding in found.findings] == [
        (2, "was edited: its content does not give its hash"),
        (4, "entry 4 at the end: removed (the recorded head is 4)"),
    ]


def test_entries_on_their_way_are_not_missing(tmp_path: Path, line: Line):
    made = ledger(tmp_path, line)
    made.append([draft("a")], "h1", T)
    line.cut = "before"
    made.append([draft("b")], "h1", T)
    known = expected_head(tmp_path, "h1")
    assert known is not None
    lines = with_waiting(read_entries(line.store, "h1"), known[1])  # type: ignore[arg-type]
    assert verify(lines, head=known[0]).findings == ()
    assert known[0] == made.head == head_of(known[1][-1])


def test_the_time_of_the_last_look_is_kept_every_half_minute(tmp_path: Path, line: Line):
    made = ledger(tmp_path, line)
    made.append([], "h1", T)
    made.append([], "h1", T + timedelta(seconds=20))
    assert ledger(tmp_path, line).looked_at("h1") == T
    made.append([], "h1", T + timedelta(seconds=31))
    assert ledger(tmp_path, line).looked_at("h1") == T + timedelta(seconds=31)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "other", "chain": "h1"}', '{"format": 1}', "\x00"])
def test_a_file_that_is_none_of_ours_stops_the_ledger_and_says_what_to_do(tmp_path: Path, line: Line, text: str):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(StoreError, match=r"gpu-jobs\.json.*restore it from a copy"):
        ledger(tmp_path, line)


def test_the_file_of_another_machine_is_not_gone_on_with(tmp_path: Path, line: Line):
    ledger(tmp_path, line).append([draft("a")], "h1", T)
    document = json.loads((tmp_path / FILE).read_text())
    assert document["chain"] == "h1"
    with pytest.raises(StoreError, match="chain 'h2' belongs there"):
        JobLedger(tmp_path, "h2", line).load()


def test_entries_of_two_months_keep_their_order(tmp_path: Path, line: Line):
    made = ledger(tmp_path, line)
    line.cut = "before"
    made.append([draft("a")], "h1", datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC))
    made.append([draft("b")], "h1", datetime(2026, 11, 1, 0, 0, 1, tzinfo=UTC))
    line.cut = ""
    made.flush()
    assert sequences(line) == [1, 2]
