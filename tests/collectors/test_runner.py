from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from collectors import runner as runner_module
from collectors.base import Reading, SourceError
from collectors.runner import Runner
from fleet.model import Batch, Event, Gap, Host, SourceRun

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
WAIT_SECONDS = 10.0


class ScriptedSource:
    """A source that does in its n-th poll what the n-th step says, and what the last one says from then on."""

    def __init__(self, *steps: Callable[[datetime], Reading], kind="docker", target="h1", interval=0.05, timeout=1.0):
        self.kind, self.target, self.interval_seconds, self.timeout_seconds = kind, target, interval, timeout
        self.steps = list(steps)
        self.polls: list[datetime] = []
        self.threads: set[str] = set()
        self.running = self.most_running = self.closed = 0

    def collect(self, at: datetime) -> Reading:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.threads.add(threading.current_thread().name)
        self.polls.append(at)
        try:
            return self.steps[min(len(self.polls), len(self.steps)) - 1](at)
        finally:
            self.running -= 1

    def close(self) -> None:
        self.closed += 1


class MemoryWriter:
    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.drains = 0

    def append(self, batch: Batch) -> None:
        self.batches.append(batch)

    def drain(self) -> int:
        self.drains += 1
        return 0

    def rows(self, kind):
        return [row for batch in list(self.batches) for row in batch.rows if isinstance(row, kind)]

    def runs(self, target: str = "h1") -> list[SourceRun]:
        return [row for row in self.rows(SourceRun) if row.target == target]

    def events(self) -> list[Event]:
        return self.rows(Event)


def ok(at: datetime) -> Reading:
    return Reading(rows=(Host(seen_at=at, host="h1"),))


def refused(at: datetime) -> Reading:
    raise SourceError("unreachable", "connect: connection refused", "start the Docker daemon")


def bug(at: datetime) -> Reading:
    raise ZeroDivisionError("password=hunter2")


def hang(release: threading.Event) -> Callable[[datetime], Reading]:
    def step(at: datetime) -> Reading:
        release.wait(30)
        return ok(at)

    return step


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def run():
    """Starts a runner over sources and a writer in memory; stops it at the end."""
    started: list[Runner] = []

    def start(*sources, writer=None, **options) -> tuple[Runner, MemoryWriter]:
        writer = writer or MemoryWriter()
        options = {"runs_wait_seconds": 0.0, **options}
        runner = Runner(sources, writer, rng=random.Random(1), boot_id="boot", **options)
        started.append(runner)
        runner.start()
        return runner, writer

    yield start
    for runner in started:
        runner.stop()


def test_the_rows_of_polls_that_went_well_are_written_together_and_a_failure_at_once(run):
    sources = [ScriptedSource(ok, target="h1"), ScriptedSource(ok, target="h2"), ScriptedSource(refused, target="h3")]
    runner, writer = run(*sources, runs_wait_seconds=0.3)
    eventually(lambda: any(batch.token.endswith("/runs") for batch in writer.batches))
    together = next(batch for batch in writer.batches if batch.token.endswith("/runs"))
    assert {row.target for row in together.rows} == {"h1", "h2"}
    assert len(writer.runs("h3")) >= 1
    failed = next(batch for batch in writer.batches if any(getattr(row, "target", "") == "h3" for row in batch.rows))
    assert writer.batches.index(failed) < writer.batches.index(together)
    runner.stop()
    polls = {source.target: source.polls for source in runner.health().sources}
    assert {target: len(writer.runs(target)) for target in polls} == {
        target: sum(counts.values()) for target, counts in polls.items()
    }
    tokens = [batch.token for batch in writer.batches]
    assert len(tokens) == len(set(tokens))


def test_a_poll_becomes_one_batch_of_its_rows_and_the_row_of_how_it_went(run):
    _, writer = run(ScriptedSource(ok))
    eventually(lambda: len(writer.batches) >= 2)
    first, second = writer.batches[:2]
    assert (first.token, second.token) == ("docker/h1/boot/0", "docker/h1/boot/1")
    host, went = first.rows
    assert isinstance(host, Host)
    assert isinstance(went, SourceRun)
    assert (went.state, went.rows, went.interval_seconds, went.reason) == ("ok", 1, 0.05, "")
    assert went.at == host.seen_at
    assert went.at.tzinfo is UTC


def test_each_start_of_the_collector_has_tokens_of_its_own():
    tokens = set()
    for _ in range(2):
        writer = MemoryWriter()
        runner = Runner([ScriptedSource(ok)], writer, rng=random.Random(1))
        runner.start()
        eventually(lambda found=writer.batches: bool(found))
        runner.stop()
        tokens.add(writer.batches[0].token)
    assert len(tokens) == 2


def test_a_hung_source_is_marked_failed_and_delays_nobody(run):
    release = threading.Event()
    stuck = ScriptedSource(hang(release), target="stuck", timeout=0.2)
    fine = ScriptedSource(ok)
    runner, writer = run(stuck, fine)
    eventually(lambda: bool(writer.runs("stuck")))
    polled = len(fine.polls)
    eventually(lambda: len(fine.polls) >= polled + 10)
    went = writer.runs("stuck")[0]
    assert (went.state, went.reason) == ("failed", "timeout")
    assert went.error.startswith("no answer for 0.")
    assert went.next_step
    # its thread is left alone: one poll, not one per tick
    assert len(stuck.polls) == 1
    health = {source.target: source for source in runner.health().sources}
    assert health["stuck"].state == "failed"
    assert health["stuck"].in_flight_seconds > 0.2
    assert health["h1"].state == "ok"
    release.set()


def test_a_source_that_comes_back_from_hanging_keeps_its_rows_and_recovers_in_time(run):
    release = threading.Event()
    source = ScriptedSource(hang(release), ok, timeout=0.6)
    _, writer = run(source)
    eventually(lambda: bool(writer.runs()))
    release.set()
    eventually(lambda: any(run.state == "ok" for run in writer.runs()))
    states = [run.state for run in writer.runs()]
    assert states.index("partial") < states.index("ok")
    late = next(run for run in writer.runs() if run.state == "partial")
    # the increments of that poll exist nowhere else, so they are stored although the source counts as too slow
    assert (late.reason, late.rows) == ("timeout", 1)
    assert len(writer.rows(Host)) >= 2
    assert [event.kind for event in writer.events()] == ["gap", "recovered"]
    times = [run.at for run in writer.runs()]
    assert times == sorted(set(times))
    assert source.most_running == 1


def test_a_failure_is_one_gap_event_and_one_line_and_the_return_another(run, caplog):
    caplog.set_level(logging.INFO)
    _, writer = run(ScriptedSource(refused, refused, ok))
    eventually(lambda: any(run.state == "ok" for run in writer.runs()))
    assert [run.state for run in writer.runs()][:3] == ["failed", "failed", "ok"]
    gap, recovered = writer.events()
    assert (gap.kind, gap.severity, gap.host, gap.source) == ("gap", "warning", "h1", "docker")
    assert gap.title == "docker h1 cannot be read (unreachable)"
    assert gap.detail == "connect: connection refused. start the Docker daemon"
    assert (recovered.kind, recovered.severity) == ("recovered", "info")
    lines = [record.getMessage() for record in caplog.records if record.name == "collectors.loop"]
    assert lines[0].startswith(
        "source docker/h1 failed (unreachable: connect: connection refused), retry in 0 s; start"
    )
    assert lines[1].startswith("source docker/h1 recovered after")
    assert len(lines) == 2


def test_a_bug_in_one_source_is_logged_with_its_type_and_the_others_go_on(run, caplog):
    fine = ScriptedSource(ok)
    _, writer = run(ScriptedSource(bug, target="broken"), fine)
    eventually(lambda: len(fine.polls) > 5 and bool(writer.runs("broken")))
    went = writer.runs("broken")[0]
    assert (went.state, went.error) == ("failed", "unexpected ZeroDivisionError")
    # what a bug quotes may be a secret: it goes to the log of the operator, never into the store
    assert not any("hunter2" in str(row) for batch in writer.batches for row in batch.rows)
    assert "unexpected ZeroDivisionError" in caplog.text


def test_gaps_make_a_poll_partial_and_are_named_up_to_five(run):
    gaps = tuple(Gap(subject=f"c{n}", reason="denied", detail="no") for n in range(7))
    _, writer = run(ScriptedSource(lambda at: Reading(gaps=gaps)))
    eventually(lambda: bool(writer.runs()))
    went = writer.runs()[0]
    assert (went.state, went.reason) == ("partial", "denied")
    assert went.error.startswith("c0: denied (no); c1: denied (no)")
    assert went.error.endswith("and 2 more")


def test_nothing_to_read_is_a_normal_state_not_a_gap(run):
    _, writer = run(ScriptedSource(lambda at: Reading(absent=True, detail="no GPU in this host"), kind="nvml"))
    eventually(lambda: len(writer.runs()) > 2)
    assert {(run.state, run.detail) for run in writer.runs()} == {("absent", "no GPU in this host")}
    assert writer.events() == []


def test_ticks_missed_by_a_slow_poll_are_counted(run):
    def slow(at: datetime) -> Reading:
        time.sleep(0.18)
        return ok(at)

    runner, _ = run(ScriptedSource(slow, ok))
    eventually(lambda: runner.health().sources[0].polls.get("ok", 0) >= 2)
    # 0.18 s at an interval of 0.05 s: the ticks at 0.05, 0.10 and 0.15 are gone, and more on a machine with other work
    assert runner.health().sources[0].missed_ticks >= 3


def test_a_clock_that_steps_back_never_turns_the_rows_around(run):
    offsets = iter([0.0, 0.0, -3600.0])

    def wall() -> datetime:
        return NOON + timedelta(seconds=time.monotonic() + next(offsets, -3600.0))

    _, writer = run(ScriptedSource(ok), wall=wall)
    eventually(lambda: len(writer.runs()) >= 6)
    times = [run.at for run in writer.runs()]
    assert times == sorted(set(times))
    assert [event.kind for event in writer.events()] == ["clock_step"]


def test_docker_is_polled_first_because_the_others_join_to_it(run):
    order: list[str] = []

    def noted(name: str) -> Callable[[datetime], Reading]:
        return lambda at: order.append(name) or ok(at)

    gpu = ScriptedSource(noted("nvml"), kind="nvml", interval=0.5)
    run(gpu, ScriptedSource(noted("docker"), interval=0.5))
    eventually(lambda: "nvml" in order)
    assert order[0] == "docker"


def test_stop_lets_a_running_poll_finish_writes_it_and_closes_every_source():
    began = threading.Event()

    def short(at: datetime) -> Reading:
        began.set()
        time.sleep(0.3)
        return ok(at)

    source, writer = ScriptedSource(short), MemoryWriter()
    runner = Runner([source], writer, rng=random.Random(1))
    runner.start()
    assert began.wait(5)
    assert runner.stop() is True
    assert len(writer.rows(Host)) == 1
    assert source.closed == 1


def test_while_nobody_looks_polls_wait_for_each_other_and_stop_writes_them():
    source, writer = ScriptedSource(ok), MemoryWriter()
    runner = Runner([source], writer, rng=random.Random(1), unwatched_seconds=60.0, watched_seconds=0.0)
    runner.start()
    eventually(lambda: runner.health().writer.gathered_batches >= 3)
    assert writer.batches == []
    assert runner.stop() is True
    assert len(writer.batches) == 1
    assert [run.at for run in writer.runs()] == source.polls


def test_a_look_and_a_failure_end_the_wait():
    looked = threading.Event()
    source = ScriptedSource(lambda at: ok(at) if not looked.is_set() else refused(at))
    writer = MemoryWriter()
    runner = Runner([source], writer, rng=random.Random(1), unwatched_seconds=60.0, watched_seconds=0.0)
    runner.start()
    try:
        eventually(lambda: runner.health().writer.gathered_batches >= 1)
        assert runner.look() is True
        assert len(writer.batches) == 1
        looked.set()
        eventually(lambda: any(run.state == "failed" for run in writer.runs()))
        assert [event.kind for event in writer.events()] == ["gap"]
        times = [run.at for run in writer.runs()]
        assert times == sorted(times)
    finally:
        runner.stop()


def test_stop_takes_under_ten_seconds_even_with_a_hung_source(caplog):
    release = threading.Event()
    runner = Runner([ScriptedSource(hang(release))], MemoryWriter(), rng=random.Random(1))
    runner.start()
    began = time.monotonic()
    assert runner.stop() is False
    assert time.monotonic() - began < 9.0
    assert "left behind: docker/h1 did not return" in caplog.text
    release.set()


def test_a_store_that_hangs_delays_no_poll_and_shows_in_the_health(run):
    release = threading.Event()

    class HungWriter(MemoryWriter):
        def append(self, batch: Batch) -> None:
            release.wait(30)

    source = ScriptedSource(ok)
    runner, _ = run(source, writer=HungWriter())
    eventually(lambda: len(source.polls) > 10)
    health = runner.health().writer
    assert health.stuck_seconds > 0.1
    assert health.waiting_batches >= 8
    assert runner.health().last_batch_seconds is None
    release.set()


def test_a_batch_the_store_refuses_is_lost_loudly_and_the_next_one_is_written(run, caplog):
    class Picky(MemoryWriter):
        def append(self, batch: Batch) -> None:
            if batch.token.endswith("/0"):
                raise ValueError("bad row")
            super().append(batch)

    runner, writer = run(ScriptedSource(ok), writer=Picky())
    eventually(lambda: len(writer.batches) >= 2)
    assert runner.health().writer.lost_batches == 1
    assert "writer, batch docker/h1/boot/0: unexpected ValueError" in caplog.text


def test_retention_runs_on_its_own_thread_and_a_fault_in_it_stops_nothing(run, monkeypatch, caplog):
    monkeypatch.setattr(runner_module, "RETENTION_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(runner_module, "RETENTION_INTERVAL_SECONDS", 0.01)
    calls: list[datetime] = []

    def retention(now: datetime) -> None:
        calls.append(now)
        raise LookupError

    source = ScriptedSource(ok)
    run(source, retention=retention)
    eventually(lambda: len(calls) >= 2)
    polled = len(source.polls)
    eventually(lambda: len(source.polls) > polled)
    assert calls[0].tzinfo is UTC
    assert "retention: unexpected LookupError" in caplog.text
