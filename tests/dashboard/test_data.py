import threading

import pytest

from dashboard.data import Reader
from store import StoreError, StoreUnavailable


class Shelf:
    """Stands for an open store; counts how often it was let go."""

    closed = 0

    def close(self):
        self.closed += 1


@pytest.fixture
def reader():
    found = Reader(Shelf, threads=2, entries=3)
    yield found
    found.close()


def test_the_same_question_of_the_same_snapshot_is_asked_once(reader):
    seen = []

    def question(store, *, scope):
        seen.append(scope)
        return len(seen)

    assert [reader.ask(1, question, scope="a") for _ in range(3)] == [1, 1, 1]
    assert reader.ask(2, question, scope="a") == 2
    assert seen == ["a", "a"]


def test_another_scope_never_gets_an_answer_that_was_read_for_somebody_else(reader):
    def question(store, *, scope):
        return f"rows of {scope}"

    assert reader.ask(1, question, scope="acme") == "rows of acme"
    assert reader.ask(1, question, scope="globex") == "rows of globex"


def test_two_viewers_at_once_cause_one_question(reader):
    release, seen, got = threading.Event(), [], []

    def question(store):
        seen.append(1)
        release.wait(5)
        return "answer"

    viewers = [threading.Thread(target=lambda: got.append(reader.ask(1, question))) for _ in range(4)]
    for viewer in viewers:
        viewer.start()
    release.set()
    for viewer in viewers:
        viewer.join()
    assert (seen, got) == ([1], ["answer"] * 4)


def test_a_failure_is_not_remembered(reader):
    answers = [StoreUnavailable(0, "away"), "back"]

    def question(store):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(StoreUnavailable):
        reader.ask(1, question)
    assert reader.ask(1, question) == "back"


def test_the_memory_is_bounded(reader):
    for snapshot in range(10):
        reader.ask(snapshot, lambda store: None)
    assert len(reader._answers) == 3


def test_the_pulse_is_read_at_most_once_a_second():
    now = [0.0]
    reader = Reader(Shelf, monotonic=lambda: now[0])
    counted = []

    def newest(store):
        counted.append(1)
        return len(counted)

    assert [reader.pulse(newest), reader.pulse(newest)] == [1, 1]
    now[0] = 1.5
    assert reader.pulse(newest) == 2
    reader.close()


def test_refused_credentials_open_the_store_anew_with_the_new_token():
    opened = []

    def opener():
        opened.append(Shelf())
        return opened[-1]

    def question(store):
        if store is opened[0]:
            raise StoreError(516, "Authentication failed")
        return "ok"

    reader = Reader(opener)
    with pytest.raises(StoreError):
        reader.ask(None, question)
    assert reader.ask(None, question) == "ok"
    assert opened[0].closed == 1
    reader.close()


class Counting(Shelf):
    def __init__(self):
        self.statements = []

    def query(self, sql, parameters=None, *, settings=None):
        self.statements.append((sql, parameters))
        return len(self.statements)


def test_questions_of_one_snapshot_share_their_statements_and_another_snapshot_reads_anew():
    store = Counting()
    reader = Reader(lambda: store)

    def first(seen):
        return seen.query("SELECT 1", {"tenants": ["a"]})

    def second(seen):
        return seen.query("SELECT 1", {"tenants": ["a"]}), seen.query("SELECT 1", {"tenants": ["b"]})

    assert reader.ask(1, first) == 1
    assert reader.ask(1, second) == (1, 2)
    assert reader.ask(2, first) == 3
    reader.close()


def test_questions_of_all_snapshots_see_one_store_so_that_what_outlives_a_snapshot_is_kept():
    reader = Reader(Counting)

    def seen_by(store):
        return store

    assert len({id(reader.ask(snapshot, seen_by)) for snapshot in range(20)}) == 1
    assert len(reader.ask(0, seen_by)._tables) == 0
    for snapshot in range(20):
        reader.ask(snapshot, lambda store: store.query("SELECT 1"))
    assert len(reader.ask(0, seen_by)._tables) == 6  # statements of old snapshots are let go
    reader.close()


def test_the_first_window_of_a_slot_is_everybodys_until_the_next_slot(reader):
    assert [reader.first(("1h", 15, 7), end) for end in ("12:00:05", "12:00:10")] == ["12:00:05", "12:00:05"]
    assert reader.first(("6h", 15, 7), "12:00:10") == "12:00:10"
    assert reader.first(("1h", 15, 8), "12:00:15") == "12:00:15"
    for slot in range(100):
        reader.first(slot, slot)
    assert len(reader._slots) <= 64
