from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from collectors.schedule import DeadlineSchedule, RowClock

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def schedule(interval: float = 5.0, first: float = 100.0, seed: int = 1) -> DeadlineSchedule:
    return DeadlineSchedule(interval, first, random.Random(seed))


def test_a_slow_poll_does_not_shift_the_grid():
    plan = schedule()
    # polls take 1.2 s each: sleeping 5 s after each would come at 106.2, 112.4; the grid comes at 105, 110
    assert plan.succeeded(101.2) == 0
    assert plan.due == 105.0
    assert plan.succeeded(106.2) == 0
    assert plan.due == 110.0


def test_ticks_that_passed_are_skipped_and_counted_not_made_up_for():
    plan = schedule()
    # begun at 100, back at 117.5: 105, 110 and 115 are gone, 120 is next
    assert plan.succeeded(117.5) == 3
    assert plan.due == 120.0


def test_a_poll_that_ends_exactly_on_a_deadline_takes_the_next_one():
    plan = schedule()
    assert plan.succeeded(105.0) == 1
    assert plan.due == 110.0


def test_the_pause_doubles_with_jitter_up_to_five_minutes():
    plan = schedule()
    pauses = [plan.failed(1000.0) for _ in range(9)]
    # before jitter: 10 20 40 80 160 300 300 300 300; jitter takes off at most half
    limits = [10, 20, 40, 80, 160, 300, 300, 300, 300]
    for pause, limit in zip(pauses, limits, strict=True):
        assert limit / 2 <= pause <= limit
    assert plan.due == 1000.0 + pauses[-1]


def test_the_same_seed_gives_the_same_pauses():
    first, second = schedule(seed=7), schedule(seed=7)
    assert [first.failed(0) for _ in range(5)] == [second.failed(0) for _ in range(5)]
    assert schedule(seed=7).failed(0) != schedule(seed=8).failed(0)


def test_an_interval_above_five_minutes_is_never_polled_faster_because_it_fails():
    plan = schedule(interval=900.0)
    assert plan.failed(0.0) >= 900.0


def test_recovery_returns_to_the_grid_at_once_and_forgets_the_failures():
    plan = schedule()
    for _ in range(6):
        plan.failed(100.0)
    plan.succeeded(plan.due + 0.1)
    assert (plan.due - 100.0) % 5.0 == 0.0
    assert plan.failed(0.0) <= 10.0


def test_rows_carry_wall_clock_time_in_normal_times():
    clock = RowClock()
    assert clock.stamp(NOON, 0.0).at == NOON
    assert clock.stamp(NOON + timedelta(seconds=5), 5.0).at == NOON + timedelta(seconds=5)
    # and a step forward is simply followed
    assert clock.stamp(NOON + timedelta(hours=2), 10.0).at == NOON + timedelta(hours=2)


def test_after_a_step_back_rows_keep_their_order_and_the_error_halves_away():
    clock = RowClock()
    clock.stamp(NOON, 0.0)
    # 5 s later the clock reads 12:00:05 - 30 s: it stepped back by 30 s
    stamp = clock.stamp(NOON - timedelta(seconds=25), 5.0)
    assert stamp.stepped_back_seconds == 30.0
    assert stamp.at == NOON + timedelta(seconds=2.5)
    # the wall clock gains 2.5 s on the rows with every 5 s: after 10 more cycles it has caught up
    at = stamp.at
    for cycle in range(1, 13):
        stamp = clock.stamp(NOON + timedelta(seconds=-25 + 5 * cycle), 5.0 + 5 * cycle)
        assert stamp.stepped_back_seconds == 0.0
        assert stamp.at > at
        at = stamp.at
    assert at == NOON + timedelta(seconds=35)


@limits(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(-100000, 100000)), max_size=40))
def test_times_of_rows_always_rise_whatever_the_clock_does(steps):
    clock = RowClock()
    monotonic, last = 0.0, None
    for elapsed, offset in steps:
        monotonic += elapsed
        stamp = clock.stamp(NOON + timedelta(seconds=monotonic + offset), monotonic)
        assert stamp.at.microsecond % 1000 == 0
        assert last is None or stamp.at > last
        last = stamp.at
