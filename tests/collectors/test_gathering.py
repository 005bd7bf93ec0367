from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from collectors.gathering import Gathering, merged
from fleet.model import Batch, Event, GpuJob, Host, Row, SourceRun

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def went(number: int = 0, state: str = "ok") -> SourceRun:
    at = NOON + timedelta(seconds=number)
    return SourceRun(at=at, source="docker", target="h1", state=state, interval_seconds=5.0, took_seconds=0.1, rows=1)


def polled(number: int, *more: Row, state: str = "ok") -> Batch:
    """The batch of one poll: a row of facts, others, and how it went."""
    host = Host(seen_at=NOON + timedelta(seconds=number), host=f"h{number}")
    return Batch(token=f"docker/h1/boot/{number}", rows=(host, *more, went(number, state)))


def event(severity: str) -> Event:
    return Event(at=NOON, event_id="e", host="h1", source="docker", kind="die", severity=severity, title="died")


def tokens(parcel) -> list[str]:
    return [] if parcel is None else [batch.token.rpartition("/")[2] for batch in parcel.batches]


def unwatched(**options) -> Gathering:
    """Nobody has looked for a minute at second 100."""
    return Gathering(0.0, **{"unwatched_seconds": 15.0, **options})


def test_while_somebody_looks_every_poll_is_stored_at_once():
    gathering = unwatched()
    gathering.look(95.0)
    for number, now in enumerate((100.0, 105.0, 110.0)):
        gathering.add(polled(number), now)
        parcel = gathering.take(now)
        assert (tokens(parcel), parcel.late) == ([str(number)], False)
    assert gathering.take(200.0) is None


def test_the_first_minute_after_a_start_counts_as_looked_at():
    gathering = unwatched()
    gathering.add(polled(0), 59.9)
    assert tokens(gathering.take(59.9)) == ["0"]
    gathering.add(polled(1), 60.0)
    assert gathering.take(60.0) is None


def test_while_nobody_looks_the_polls_of_fifteen_seconds_are_stored_together_in_order():
    gathering = unwatched()
    for number, now in enumerate((100.0, 105.0, 110.0)):
        gathering.add(polled(number), now)
        assert gathering.take(now) is None
        assert gathering.pause(now) == 15.0 - (now - 100.0)
    assert gathering.held_batches == 3
    assert gathering.take(114.9) is None
    parcel = gathering.take(115.0)
    assert (tokens(parcel), parcel.late) == (["0", "1", "2"], True)
    assert (gathering.held_batches, gathering.pause(115.0)) == (0, None)


def test_a_look_ends_the_wait_and_then_the_rhythm_is_that_of_the_polls():
    gathering = unwatched()
    gathering.add(polled(0), 100.0)
    gathering.add(polled(1), 105.0)
    gathering.look(106.0)
    assert gathering.pause(106.0) == 0.0
    assert tokens(gathering.take(106.0)) == ["0", "1"]
    gathering.add(polled(2), 110.0)
    assert tokens(gathering.take(110.0)) == ["2"]
    gathering.add(polled(3), 166.0)
    assert gathering.take(166.0) is None


def test_a_question_of_our_own_ends_the_wait_but_not_the_gathering():
    gathering = unwatched()
    gathering.add(polled(0), 100.0)
    gathering.hurry(101.0)
    assert tokens(gathering.take(101.0)) == ["0"]
    gathering.add(polled(1), 105.0)
    assert gathering.take(105.0) is None


@pytest.mark.parametrize(
    "batch",
    [
        polled(9, state="failed"),
        polled(9, state="partial"),
        polled(9, event("warning")),
        polled(9, event("critical")),
        polled(
            9,
            GpuJob(at=NOON, chain="c", sequence=1, entry="open", job_id="j", host="h1", tenant="t", started_at=NOON),
        ),
    ],
    ids=["failed", "partial", "warning", "critical", "ledger"],
)
def test_what_nobody_may_wait_for_goes_at_once_and_takes_with_it_what_waits(batch):
    gathering = unwatched()
    gathering.add(polled(0), 100.0)
    gathering.add(batch, 103.0)
    assert tokens(gathering.take(103.0)) == ["0", "9"]


def test_an_event_that_only_informs_waits():
    gathering = unwatched()
    gathering.add(polled(0, event("info"), state="absent"), 100.0)
    assert gathering.take(100.0) is None


def test_the_rows_that_wait_are_bounded():
    gathering = unwatched(rows_limit=5)  # a poll here has two
    gathering.add(polled(0), 100.0)
    gathering.add(polled(1), 100.1)
    assert gathering.take(100.1) is None
    gathering.add(polled(2), 100.2)
    assert tokens(gathering.take(100.2)) == ["0", "1", "2"]
    gathering.add(polled(3), 100.3)
    assert gathering.take(100.3) is None


def test_at_the_end_everything_is_given_out():
    gathering = unwatched(runs_wait_seconds=2.0)
    gathering.add(polled(0), 10.0)
    assert tokens(gathering.take(10.0)) == ["0"]
    gathering.add(polled(1), 100.0)
    gathering.add(polled(2), 100.0)
    assert tokens(gathering.take(100.0, everything=True)) == ["1", "2"]
    assert tokens(gathering.take(100.0, everything=True)) == ["runs"]
    assert gathering.take(100.0, everything=True) is None


def test_none_waits_where_the_setting_is_zero():
    gathering = Gathering(0.0)
    gathering.add(polled(0), 1e6)
    assert tokens(gathering.take(1e6)) == ["0"]


def test_while_somebody_looks_good_polls_tell_how_they_went_together():
    gathering = Gathering(0.0, runs_wait_seconds=2.0)
    gathering.add(polled(0), 10.0)
    (batch,) = gathering.take(10.0).batches
    assert [type(row) for row in batch.rows] == [Host]
    gathering.add(Batch(token="ledger/0", rows=(went(1),)), 11.0)
    assert gathering.take(11.0) is None
    assert gathering.pause(11.0) == 1.0
    (runs,) = gathering.take(12.0).batches
    assert (runs.token, len(runs.rows)) == ("docker/h1/boot/0/runs", 2)


def test_merged_batches_keep_their_rows_in_order_with_how_polls_went_at_the_end():
    first, second = polled(0), polled(1, event("info"))
    batch = merged([first, second])
    assert [type(row).__name__ for row in batch.rows] == ["Host", "Host", "Event", "SourceRun", "SourceRun"]
    assert [row.host for row in batch.rows[:2]] == ["h0", "h1"]
    assert [row.at for row in batch.rows[3:]] == [NOON, NOON + timedelta(seconds=1)]
    assert sorted(map(repr, batch.rows)) == sorted(map(repr, (*first.rows, *second.rows)))


def test_a_merged_batch_is_named_by_all_that_is_in_it():
    one, two, three = polled(1), polled(2), polled(3)
    assert merged([one]) is one
    assert merged([one, two]).token == merged([polled(1), polled(2)]).token
    names = {merged(batches).token for batches in ([one, two], [two, one], [one, two, three], [one, three])}
    assert len(names) == 4
    assert merged([one, two]).token.startswith("docker/h1/boot/1/and-1/")
