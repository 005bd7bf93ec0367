"""The chain finds any edit, hole, exchange and repetition; jobs are what their entries say."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.gpu_job_fields import FIELDS, KINDS, LedgerError, values_of
from fleet.gpu_jobs import (
    EMPTY,
    GENESIS,
    PRUNED_HASH,
    PRUNED_SEQUENCE,
    Head,
    Line,
    Stub,
    by_chain,
    content_text,
    digest,
    entry_from,
    fold,
    hash_of,
    head_of,
    header_text,
    job_id,
    line_from,
    overlaps,
    seal,
    stub_of,
    verify,
)
from fleet.model import GpuJob

T = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
TEXT = st.text(max_size=12)
TIMES = st.integers(946_684_800_000, 7_258_118_400_000).map(
    lambda ms: datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


def entry(number: int = 1, **changes: object) -> GpuJob:
    """An open entry with hand-worked values."""
    values: dict[str, object] = {
        "at": T + timedelta(minutes=number), "chain": "h1", "sequence": 0, "entry": "open", "job_id": f"job-{number}",
        "host": "h1", "tenant": "acme", "team": "chat", "user": "10001", "workload": "llm", "container_key": "h1:llm",
        "container_id": "c" * 64, "container_name": "llm", "image": "vllm:1", "image_digest": "sha256:1",
        "gpu_uuids": ("GPU-1", "GPU-2"), "gpu_names": ("H100", "H100"), "gpu_count": 2.0, "started_at": T,
        "sources": {"tenant": "mapping file"},
    }  # fmt: skip
    return GpuJob(**(values | changes))  # type: ignore[arg-type]


def chain_of(*rows: GpuJob, after: Head = EMPTY) -> list[GpuJob]:
    sealed: list[GpuJob] = []
    for row in rows:
        sealed.append(seal(row, after))
        after = head_of(sealed[-1])
    return sealed


def chain(length: int = 5) -> list[GpuJob]:
    return chain_of(*(entry(number) for number in range(1, length + 1)))


def whats(lines: list[Line], **known: object) -> list[tuple[int | None, str]]:
    return [(found.sequence, found.what) for found in verify(lines, **known).findings]  # type: ignore[arg-type]


def test_the_hash_is_what_the_page_for_auditors_says():
    row = chain(1)[0]
    content = (
        '{"at":"2026-11-20T08:01:00.000Z","container_id":"' + "c" * 64 + '","container_key":"h1:llm",'
        '"container_name":"llm","duration_seconds":null,"end_reason":"","ended_at":null,"energy_joules":null,'
        '"entry":"open","exit_code":null,"gpu_count":2.0,"gpu_hours":null,"gpu_names":["H100","H100"],'
        '"gpu_uuids":["GPU-1","GPU-2"],"host":"h1","image":"vllm:1","image_digest":"sha256:1","job_id":"job-1",'
        '"sources":{"tenant":"mapping file"},"started_at":"2026-11-20T08:00:00.000Z","team":"chat","tenant":"acme",'
        '"user":"10001","workload":"llm"}'
    )
    assert content_text(row) == content
    inner = hashlib.sha256(content.encode()).hexdigest()
    header = f'{{"chain":"h1","content":"{inner}","previous_hash":"{GENESIS}","sequence":1}}'
    assert row.hash == hashlib.sha256(header.encode()).hexdigest()


def test_a_whole_chain_has_no_findings_and_tells_its_head():
    rows = chain()
    found = verify(rows, head=head_of(rows[-1]))
    assert (found.findings, found.entries, found.first, found.last) == ((), 5, 1, head_of(rows[4]))


def test_the_first_bad_entry_is_named_with_what_is_wrong():
    rows = chain()
    assert whats([rows[0], replace(rows[1], tenant="globex"), *rows[2:]]) == [
        (2, "was edited: its content does not give its hash")
    ]
    assert whats([*rows[:2], *rows[3:]]) == [(4, "entry 3 before it: removed")]
    assert whats([rows[0], rows[4]]) == [(5, "entries 2 to 4 before it: removed")]
    assert whats([*rows[:2], rows[1], *rows[2:]]) == [(2, "comes after entry 2: inserted, repeated or moved")]
    assert whats(rows[2:])[0] == (
        3, "entries 1 to 2 before it: removed, and no entry says that they were forgotten",
    )  # fmt: skip


def test_an_edited_entry_with_a_new_hash_does_not_fit_its_neighbour():
    rows = chain()
    edited = replace(rows[1], gpu_count=1.0)
    edited = replace(edited, hash=hash_of(edited))
    assert whats([rows[0], edited, *rows[2:]]) == [
        (3, "does not follow entry 2: one of the two was edited or exchanged")
    ]


def test_entries_missing_at_the_end_are_found_by_a_recorded_head_only():
    rows = chain()
    assert whats(rows[:3]) == []
    assert whats(rows[:3], head=head_of(rows[4])) == [
        (4, "entries 4 to 5 at the end: removed (the recorded head is 5)")
    ]
    assert whats([], head=head_of(rows[0])) == [(1, "entry 1 at the end: removed (the recorded head is 1)")]
    assert whats(rows, head=head_of(rows[3])) == [(5, "goes beyond the recorded head, entry 4: added")]
    other = chain_of(*(entry(number, host="h2") for number in range(1, 6)))
    assert "the recorded head is" in whats(list(other), head=head_of(rows[4]))[0][1]


def test_an_exported_stretch_begins_after_a_recorded_entry():
    rows = chain()
    assert whats(rows[2:], before=head_of(rows[1])) == []
    assert whats(rows[3:], before=head_of(rows[1])) == [(4, "entry 3 before it: removed")]
    assert whats(rows[2:], before=Head(2, "f" * 64))[0][0] == 3


def test_withheld_entries_keep_the_chain_but_cannot_be_made_up():
    rows = chain()
    stubs: list[Line] = [rows[0], stub_of(rows[1]), rows[2], stub_of(rows[3]), rows[4]]
    found = verify(stubs, head=head_of(rows[4]))
    assert (found.findings, found.withheld) == ((), 2)
    # A bare hash could hide that entry 3 was edited between two stubs; the header of the stub betrays it.
    forged = replace(rows[2], tenant="globex")
    forged = replace(forged, hash=hash_of(forged))
    neighbour = replace(stub_of(rows[3]), previous_hash=forged.hash)
    assert whats([*stubs[:2], forged, neighbour, rows[4]]) == [(4, "was edited: its content does not give its hash")]


def test_a_chain_may_begin_after_what_it_says_was_forgotten():
    rows = chain(4)
    note = entry(5, entry="pruned", sources={PRUNED_SEQUENCE: "2", PRUNED_HASH: rows[1].hash})
    rows = [*rows, *chain_of(note, after=head_of(rows[3]))]
    assert whats(rows) == []
    assert whats(rows[2:]) == []
    assert whats(rows[1:])[0][0] == 2
    assert whats(rows[3:])[0][0] == 4
    lying = chain_of(replace(note, sources={PRUNED_SEQUENCE: "2", PRUNED_HASH: "0" * 64}), after=head_of(rows[3]))
    assert whats([*rows[2:4], *lying])[0] == (3, "does not follow entry 2: one of the two was edited or exchanged")


OTHER = {
    "text": TEXT, "integer": st.integers(-(2**31), 2**31), "number": NUMBERS, "time": TIMES,
    "texts": st.lists(TEXT, max_size=3).map(tuple), "map": st.dictionaries(TEXT, TEXT, max_size=3),
}  # fmt: skip


@st.composite
def any_entry(draw: st.DrawFn) -> GpuJob:
    values = {
        name: draw(st.none() | OTHER[kind[:-1]] if kind.endswith("?") else OTHER[kind]) for name, kind in KINDS.items()
    }
    return GpuJob(**(values | {"chain": "h1", "entry": draw(st.sampled_from(["open", "close", "gap"]))}))


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(any_entry(), min_size=3, max_size=6), data=st.data())
def test_any_single_change_of_a_field_is_found(rows: list[GpuJob], data: st.DataObject):
    sealed = chain_of(*rows)
    place = data.draw(st.integers(0, len(sealed) - 1))
    name = data.draw(st.sampled_from(FIELDS))
    kind = KINDS[name]
    before = values_of(sealed[place])
    values = st.none() | OTHER[kind[:-1]] if kind.endswith("?") else OTHER[kind]
    changed = replace(sealed[place], **{name: data.draw(values)})
    if values_of(seal(changed, EMPTY))[name] == values_of(seal(sealed[place], EMPTY))[name] and name not in (
        "sequence", "previous_hash", "hash",
    ):  # fmt: skip
        return
    if values_of(changed) == before:
        return
    damaged = [*sealed[:place], changed, *sealed[place + 1 :]]
    assert verify(damaged, head=head_of(sealed[-1])).findings


@settings(max_examples=100, deadline=None)
@given(length=st.integers(2, 7), data=st.data())
def test_any_removal_repetition_or_exchange_is_found(length: int, data: st.DataObject):
    sealed = chain(length)
    one, two = data.draw(st.lists(st.integers(0, length - 1), min_size=2, max_size=2, unique=True))
    swapped = list(sealed)
    swapped[one], swapped[two] = swapped[two], swapped[one]
    removed = sealed[:one] + sealed[one + 1 :]
    repeated = [*sealed[:two], sealed[one], *sealed[two:]]
    exchanged = list(sealed)  # the same numbers on each other's content
    exchanged[one], exchanged[two] = (
        replace(sealed[two], sequence=sealed[one].sequence, previous_hash=sealed[one].previous_hash),
        replace(sealed[one], sequence=sealed[two].sequence, previous_hash=sealed[two].previous_hash),
    )
    for damaged in (swapped, removed, repeated, exchanged):
        assert verify(damaged, head=head_of(sealed[-1])).findings


@settings(max_examples=150, deadline=None)
@given(row=any_entry())
def test_an_entry_survives_being_written_and_read(row: GpuJob):
    sealed = seal(row, EMPTY)
    again = entry_from(json.loads(json.dumps(values_of(sealed))))
    assert again == sealed
    assert hash_of(again) == sealed.hash


def test_values_are_sealed_as_the_store_gives_them_back():
    east = timezone(timedelta(hours=2))
    row = seal(
        entry(
            started_at=datetime(2026, 11, 20, 10, 0, 0, 123999, tzinfo=east), gpu_count=2, tenant="a\ud800b",
            energy_joules=float("nan"),
        ),
        EMPTY,
    )  # fmt: skip
    assert row.started_at == datetime(2026, 11, 20, 8, 0, 0, 123000, tzinfo=UTC)
    assert (row.tenant, row.energy_joules, type(row.gpu_count)) == ("a�b", None, float)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("gpu_count", "two", "a number belongs there"),
        ("sequence", 1.5, "a whole number belongs there"),
        ("started_at", "2026-11-20 08:00", "a UTC time"),
        ("started_at", "2026-11-20T10:00:00.000+02:00", "a UTC time"),
        ("gpu_uuids", "GPU-1", "a list of texts"),
        ("sources", [("a", "1"), ("a", "2")], "a map of texts"),
        ("tenant", None, "text belongs there"),
        ("exit_code", True, "a whole number belongs there"),
    ],
)
def test_a_row_of_another_shape_is_a_finding_with_its_field(name: str, value: object, words: str):
    values = values_of(chain(1)[0]) | {name: value}
    with pytest.raises(LedgerError, match=name):
        entry_from(values)
    found = verify([line_from(values)]).findings
    assert words in found[0].what


def test_a_row_without_a_field_or_with_one_more_is_a_finding():
    values = values_of(chain(1)[0])
    with pytest.raises(LedgerError, match="'team' is missing"):
        entry_from({name: value for name, value in values.items() if name != "team"})
    with pytest.raises(LedgerError, match="'colour' is no field"):
        entry_from(values | {"colour": "red"})
    assert isinstance(line_from({"content": "0"}), type(line_from({"x": 1})))


def test_withheld_entries_are_read_back():
    stub = stub_of(chain(1)[0])
    values = {name: getattr(stub, name) for name in ("chain", "sequence", "previous_hash", "content", "hash")}
    assert line_from(values) == stub
    assert isinstance(stub, Stub)
    assert digest(header_text(stub.chain, 1, GENESIS, stub.content)) == stub.hash


def test_a_job_is_its_open_entry_until_a_close_entry_tells_the_end():
    end = T + timedelta(hours=3)
    rows = chain_of(
        entry(1),
        entry(2, job_id="other", started_at=T + timedelta(hours=1), gpu_count=0.5),
        entry(3, entry="gap", job_id=""),
        entry(4, entry="close", job_id="job-1", ended_at=end, exit_code=137, gpu_hours=6.0),
    )
    other, first = fold(rows)
    assert (first.row.exit_code, first.sequences, first.verified) == (137, (1, 4), True)
    assert first.hours_until(T + timedelta(days=9)) == (10800.0, 6.0)
    assert other.row.ended_at is None
    assert other.hours_until(T + timedelta(hours=5)) == (14400.0, 2.0)
    assert other.hours_until(T) == (0.0, 0.0)
    assert not fold([replace(rows[0], tenant="globex")])[0].verified


def test_an_entry_touches_a_period_by_its_own_span():
    ended = entry(ended_at=T + timedelta(hours=2))
    assert overlaps(ended, T + timedelta(hours=1), T + timedelta(hours=9))
    assert not overlaps(ended, T + timedelta(hours=2), T + timedelta(hours=9))
    assert not overlaps(ended, T - timedelta(hours=2), T)
    assert overlaps(entry(), T + timedelta(days=900), T + timedelta(days=901))


def test_the_same_run_on_the_same_gpus_has_one_name():
    name = job_id("h1", "c0ffee" * 10, T, ("GPU-1",))
    assert name.startswith("c0ffeec0ffee-20261120T080000Z-")
    assert name == job_id("h1", "c0ffee" * 10, T, ("GPU-1",))
    different = {
        job_id(*run)
        for run in (
            ("h2", "c0ffee" * 10, T, ("GPU-1",)), ("h1", "c0ffee" * 10, T, ("GPU-2",)),
            ("h1", "c0ffee" * 10, T + timedelta(milliseconds=1), ("GPU-1",)),
        )
    }  # fmt: skip
    assert len(different | {name}) == 4


def test_lines_are_told_apart_by_chain():
    two = [*chain(2), *(replace(row, chain="h2") for row in chain(1))]
    assert {name: len(lines) for name, lines in by_chain(two).items()} == {"h1": 2, "h2": 1}
