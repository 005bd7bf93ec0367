from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from collectors.writing import WritingThread
from fleet.model import Batch, ContainerSample, Event, SourceRun
from store.client import Engine
from store.errors import StoreUnavailable
from store.gateway import GatewayTokens, gateway_app
from store.spool import Spool, SpooledWriter
from tests.store.stores import ROOT, embedded_store

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
WAIT_SECONDS = 10.0


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class MemoryWriter:
    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.may_write = threading.Event()
        self.may_write.set()

    def append(self, batch: Batch) -> str:
        self.may_write.wait(WAIT_SECONDS)
        self.batches.append(batch)
        return "stored"

    def drain(self) -> int:
        return 0


def sampled(number: int, containers: int = 3) -> Batch:
    """The batch of one poll at its own second."""
    at = NOON + timedelta(seconds=5 * number)
    samples = tuple(
        ContainerSample(
            at=at, host="h1", tenant="t", container_key=f"h1:{name}", container_id="c", interval_seconds=5.0,
            cpu_seconds=0.5,
        )
        for name in range(containers)
    )  # fmt: skip
    went = SourceRun(at=at, source="docker", target="h1", state="ok", interval_seconds=5.0, took_seconds=0.1, rows=1)
    return Batch(token=f"docker/h1/boot/{number}", rows=(*samples, went))


def eventually(condition) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


@pytest.fixture
def begin():
    """Starts a writing thread; nobody looks, unless the options say otherwise. Ends it."""
    started: list[WritingThread] = []

    def start(writer, **options) -> WritingThread:
        options = {"unwatched_seconds": 15.0, "watched_seconds": 0.0, **options}
        thread = WritingThread(writer, **options)
        started.append(thread)
        thread.start()
        return thread

    yield start
    for thread in started:
        thread.stop(WAIT_SECONDS)


def test_nothing_is_written_while_nobody_looks_until_the_time_is_over(begin):
    clock, writer = Clock(), MemoryWriter()
    thread = begin(writer, monotonic=clock)
    for number in range(3):
        assert thread.put(sampled(number))
    eventually(lambda: thread.health().gathered_batches == 3)
    assert writer.batches == []
    clock.now += 15.0
    thread.put(sampled(3))  # wakes the thread, which looks at the clock
    eventually(lambda: len(writer.batches) == 1)
    eventually(lambda: thread.health().written_batches == 3)
    assert [row.at.second for row in writer.batches[0].rows if isinstance(row, SourceRun)] == [0, 5, 10]
    assert thread.health().gathered_batches == 1


def test_who_looks_waits_for_what_was_gathered_and_finds_it_stored(begin):
    writer = MemoryWriter()
    thread = begin(writer)
    thread.put(sampled(0))
    thread.put(sampled(1))
    eventually(lambda: thread.health().gathered_batches == 2)
    assert thread.look(WAIT_SECONDS) is True
    assert [batch.token.split("/and")[0] for batch in writer.batches] == ["docker/h1/boot/0"]
    assert len(writer.batches[0].rows) == 8
    assert thread.health().gathered_batches == 0


def test_a_look_is_over_at_once_when_nothing_was_gathered_even_while_a_write_hangs(begin):
    writer = MemoryWriter()
    writer.may_write.clear()
    thread = begin(writer, watched_seconds=60.0)
    thread.put(sampled(0))
    eventually(lambda: thread.health().waiting_batches == 0)
    assert thread.look(0.0) is True
    writer.may_write.set()


def test_a_look_does_not_wait_for_a_store_that_hangs(begin):
    writer = MemoryWriter()
    writer.may_write.clear()
    thread = begin(writer)
    thread.put(sampled(0))
    eventually(lambda: thread.health().gathered_batches == 1)
    assert thread.look(0.05) is False
    assert thread.flush(0.05) is False
    writer.may_write.set()
    assert thread.flush(WAIT_SECONDS) is True


def test_while_a_write_hangs_only_the_first_who_look_wait_for_it(begin):
    clock, writer = Clock(), MemoryWriter()
    writer.may_write.clear()
    thread = begin(writer, monotonic=clock)
    thread.put(sampled(0))
    eventually(lambda: thread.health().gathered_batches == 1)
    assert thread.look(0.05) is False
    clock.now += 2 * WAIT_SECONDS
    began = time.monotonic()
    assert thread.look(WAIT_SECONDS) is False
    assert time.monotonic() - began < WAIT_SECONDS
    writer.may_write.set()


def test_many_readers_and_batches_at_the_same_time_lose_and_double_nothing(begin):
    writer = MemoryWriter()
    thread = begin(writer)
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            thread.look(0.5)
            thread.flush(0.5)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for number in range(200):
        while not thread.put(sampled(number, 1)):
            time.sleep(0.001)
    done.set()
    for reader in readers:
        reader.join(WAIT_SECONDS)
    assert thread.stop(WAIT_SECONDS)
    runs = [row.at for batch in writer.batches for row in batch.rows if isinstance(row, SourceRun)]
    assert runs == [NOON + timedelta(seconds=5 * number) for number in range(200)]
    assert len({batch.token for batch in writer.batches}) == len(writer.batches)


def test_the_end_writes_what_was_gathered(begin):
    writer = MemoryWriter()
    thread = begin(writer)
    thread.put(sampled(0))
    thread.put(sampled(1))
    eventually(lambda: thread.health().gathered_batches == 2)
    assert thread.stop(WAIT_SECONDS)
    assert len(writer.batches) == 1
    assert thread.health().written_batches == 2
    assert thread.put(sampled(2)) is False


def test_while_the_store_hangs_batches_are_bounded_as_ever(begin):
    writer = MemoryWriter()
    writer.may_write.clear()
    thread = begin(writer, limit=4)
    warning = Event(at=NOON, event_id="e", host="h", source="s", kind="k", severity="warning", title="t")
    thread.put(Batch(token="urgent", rows=(warning,)))
    eventually(lambda: thread.health().stuck_seconds > 0)
    assert [thread.put(sampled(number)) for number in range(6)] == [True] * 4 + [False] * 2
    health = thread.health()
    assert (health.waiting_batches, health.gathered_batches, health.refused_batches) == (4, 0, 2)
    writer.may_write.set()


COUNTS = (
    "SELECT (SELECT count() FROM container_samples) AS raw, (SELECT sum(samples) FROM container_samples_1m) AS minute,"
    " (SELECT sum(samples) FROM container_samples_1h) AS hour, (SELECT count() FROM source_runs) AS runs"
)


class LostAnswer:
    """A store that takes an insert and says it did not, as often as told."""

    def __init__(self, store, failures: int) -> None:
        self.store, self.failures = store, failures
        self.tokens: list[tuple[str, ...]] = []

    def insert(self, inserts) -> None:
        self.tokens.append(tuple(insert.token for insert in inserts))
        self.store.insert(inserts)
        if len(self.tokens) <= self.failures:
            raise StoreUnavailable(0, "the answer was lost")


def test_gathered_polls_are_one_insert_a_table_sent_again_as_it_was_and_count_once(begin, tmp_path):
    with embedded_store(tmp_path) as store:
        answering = LostAnswer(store, failures=2)
        writer = SpooledWriter(answering, Spool(tmp_path / "spool", 1 << 24), retry_seconds=0.0)
        thread = begin(writer)
        for number in range(3):
            thread.put(sampled(number))
        eventually(lambda: thread.health().gathered_batches == 3)
        assert thread.look(WAIT_SECONDS)
        eventually(lambda: writer.drain() == 0)
        assert len(answering.tokens) == 3
        assert len(set(answering.tokens)) == 1
        assert len(answering.tokens[0]) == 2  # container_samples and source_runs
        assert store.query(COUNTS).to_pylist() == [{"raw": 9, "minute": 9, "hour": 9, "runs": 3}]
        times = store.query("SELECT DISTINCT toUnixTimestamp64Milli(at) AS at FROM container_samples ORDER BY at")
        assert [row["at"] / 1000 - NOON.timestamp() for row in times.to_pylist()] == [0, 5, 10]


def test_a_value_that_fits_no_column_takes_no_other_poll_with_it(begin, tmp_path, caplog):
    with embedded_store(tmp_path) as store:
        writer = SpooledWriter(store, Spool(tmp_path / "spool", 1 << 24))
        thread = begin(writer)
        thread.put(sampled(0))
        far = Event(at=NOON.replace(tzinfo=None), event_id="e", host="h1", source="docker", kind="k", title="no zone")
        thread.put(Batch(token="bad", rows=(far,)))
        thread.put(sampled(1))
        eventually(lambda: thread.health().gathered_batches == 3)
        assert thread.look(WAIT_SECONDS)
        assert store.query(COUNTS).to_pylist() == [{"raw": 6, "minute": 6, "hour": 6, "runs": 2}]
    assert "batch bad: the store refuses it" in caplog.text


def test_the_first_page_after_a_quiet_time_sees_what_was_read_a_moment_ago(begin, tmp_path):
    with embedded_store(tmp_path) as store:
        thread = begin(SpooledWriter(store, Spool(tmp_path / "spool", 1 << 24)))
        engine = Engine(f"chdb://{store.dsn.path}?database={store.dsn.database}")
        app = gateway_app(engine, GatewayTokens(writer="w", reader="r"), on_look=thread.look)

        async def ask() -> str:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
                sql = "SELECT count() FROM container_samples"
                return (await client.post("/", content=sql, headers={"X-ClickHouse-Key": "r"})).text

        thread.put(sampled(0))
        thread.put(sampled(1))
        eventually(lambda: thread.health().gathered_batches == 2)
        assert asyncio.run(ask()) == "6\n"
        engine.close()


KILLED = """
import itertools, sys, time
from pathlib import Path
from collectors.writing import WritingThread
from store import open_store
from store.spool import Spool, SpooledWriter
from tests.collectors.test_writing import numbered

folder, first = Path(sys.argv[1]), int(sys.argv[2])
store = open_store(f"chdb://{folder}/store")
store.migrate()
spooled = SpooledWriter(store, Spool(folder / "spool", 1 << 24))

class Telling:
    drain = staticmethod(spooled.drain)
    def append(self, batch):
        outcome = spooled.append(batch)
        names = " ".join(sorted({row.container_key for row in batch.rows}, key=int))
        print(f"{outcome} {names}", flush=True)
        return outcome

thread = WritingThread(Telling(), unwatched_seconds=0.05, watched_seconds=0.0)
thread.start()
print("open", flush=True)
for number in itertools.count(first):
    thread.put(numbered(number))
    time.sleep(0.01)
"""


def numbered(number: int) -> Batch:
    """Five samples of a container of that number."""
    who = {"host": "h", "tenant": "t", "container_key": str(number), "container_id": "c"}
    at = NOON + timedelta(seconds=number)
    rows = tuple(ContainerSample(at=at, **who, interval_seconds=1.0, cpu_seconds=0.1, pids=row) for row in range(5))
    return Batch(token=f"n/{number}", rows=rows)


@pytest.mark.timeout(180)
def test_three_kills_lose_no_acknowledged_row_and_double_none(tmp_path):
    acknowledged: set[str] = set()
    largest, first = 0, 0
    for turn in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path), str(first)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n", "the folder did not open again"
        lines = [process.stdout.readline() for _ in range(2)]
        time.sleep(0.02 + 0.03 * turn)
        process.kill()
        process.wait(20)
        lines += process.stdout.read().splitlines(keepends=True)
        process.stdout.close()
        for line in lines:
            if line.endswith("\n"):
                outcome, *names = line.split()
                assert outcome == "stored"
                acknowledged |= set(names)
                largest = max(largest, len(names))
        first += 10_000
    assert largest > 1, "nothing was gathered"
    found = count(tmp_path)
    for table in ("container_samples", "container_samples_1m", "container_samples_1h"):
        assert {name: found[table][name] for name in acknowledged} == dict.fromkeys(acknowledged, 5), table
        assert set(found[table].values()) == {5}, table


def count(folder: Path) -> dict[str, Counter[str]]:
    """Rows of each container, from a process of its own: this one has another folder open."""
    code = """
import json, sys
from store import open_store
store = open_store("chdb://" + sys.argv[1] + "/store")
found = {}
for ending, total in (("", "count()"), ("_1m", "sum(samples)"), ("_1h", "sum(samples)")):
    rows = store.query(f"SELECT container_key AS k, {total} AS n FROM container_samples{ending} GROUP BY k").to_pylist()
    found["container_samples" + ending] = {row["k"]: row["n"] for row in rows}
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )

    return {table: Counter(rows) for table, rows in json.loads(done.stdout).items()}
