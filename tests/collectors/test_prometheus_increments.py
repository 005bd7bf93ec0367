"""Lives and increments by hand: what counts, what is a baseline, and what must never be counted twice."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from collectors.prometheus_increments import FORGET_SECONDS, Buckets, Lives, Start

FIELDS = frozenset({"tokens", "ttft"})


def process(at):
    return Start(kind="process", identity="", at_seconds=at)


def container(name, at):
    return Start(kind="container", identity=name, at_seconds=at)


class Target:
    """One target polled by hand: `poll(values)` gives the increments of its counters."""

    def __init__(self, lives=None, name="t"):
        self.lives, self.name, self.now = lives or Lives(), name, 1000.0
        self.turn = None

    def poll(self, values, *, scraped_at=None, start=None, fields=FIELDS, seconds=15.0):
        self.now += seconds
        scraped = self.now if scraped_at is None else scraped_at
        self.turn = self.lives.turn(
            self.name,
            now=self.now,
            scraped_at=scraped,
            start=start,
            values=values.items(),
            histograms=(),
            fields=fields,
        )
        counted = {name: self.lives.count(self.turn, "tokens", name, value) for name, value in values.items()}
        self.lives.end_poll(self.now)
        return counted


def test_the_first_reading_is_a_baseline_and_the_second_an_increment():
    target = Target()
    assert target.poll({"a": 100.0}) == {"a": None}
    assert target.turn.seconds is None
    assert target.poll({"a": 130.0}) == {"a": 30.0}
    assert target.turn.seconds == 15.0


def test_a_poll_without_a_newer_scrape_adds_nothing_and_time_goes_on():
    target = Target()
    target.poll({"a": 100.0}, scraped_at=10.0)
    assert target.poll({"a": 100.0}, scraped_at=10.0) == {"a": 0.0}
    assert target.poll({"a": 150.0}, scraped_at=25.0) == {"a": 50.0}


def test_an_older_scrape_from_a_second_replica_is_no_restart():
    # Behind a load balancer the next answer may come from a Prometheus whose last scrape is older, with less counted.
    target = Target()
    target.poll({"a": 100.0}, scraped_at=10.0)
    assert target.poll({"a": 120.0}, scraped_at=20.0) == {"a": 20.0}
    assert target.poll({"a": 115.0}, scraped_at=18.0) == {"a": 0.0}
    assert target.poll({"a": 130.0}, scraped_at=28.0) == {"a": 10.0}


def test_without_a_start_time_one_falling_counter_resets_all_of_the_target():
    target = Target()
    target.poll({"a": 100.0, "b": 5.0})
    assert target.poll({"a": 3.0, "b": 8.0}) == {"a": 3.0, "b": 8.0}  # b is 8 new ones, not 8 - 5


def test_within_one_process_a_falling_counter_resets_only_itself():
    target = Target()
    target.poll({"a": 100.0, "b": 5.0}, start=process(50.0))
    assert target.poll({"a": 3.0, "b": 8.0}, start=process(50.0)) == {"a": 3.0, "b": 3.0}


def test_a_start_time_that_a_clock_correction_moved_is_the_same_process():
    target = Target()
    target.poll({"a": 100.0}, start=process(50.0))
    assert target.poll({"a": 130.0}, start=process(51.0)) == {"a": 30.0}
    assert target.poll({"a": 140.0}, start=process(500.0)) == {"a": 140.0}


def test_learning_of_the_container_later_is_no_restart():
    target = Target()
    target.poll({"a": 100.0})
    assert target.poll({"a": 110.0}, start=container("x", 50.0)) == {"a": 10.0}
    assert target.poll({"a": 120.0}, start=container("x", 50.0)) == {"a": 10.0}
    assert target.poll({"a": 125.0}, start=container("y", 1040.0)) == {"a": 125.0}


def test_a_restart_is_seen_although_the_poll_before_it_missed_the_start_time():
    target = Target()
    target.poll({"a": 100.0}, start=process(50.0))
    assert target.poll({"a": 110.0}, start=container("x", 40.0)) == {"a": 10.0}
    assert target.poll({"a": 115.0}) == {"a": 5.0}
    assert target.poll({"a": 120.0}, start=process(1040.0)) == {"a": 120.0}


def test_a_server_born_since_the_last_poll_loses_nothing_and_an_older_one_is_a_baseline():
    lives = Lives()
    Target(lives, "other").poll({"a": 1.0})  # a poll ended at 1015
    young, old = Target(lives, "young"), Target(lives, "old")
    young.now = old.now = 1015.0
    assert young.poll({"a": 40.0}, start=container("x", 1020.0)) == {"a": 40.0}
    assert old.poll({"a": 40.0}, start=container("y", 900.0)) == {"a": None}


def test_a_label_seen_for_the_first_time_on_a_known_server_counts_from_zero():
    target = Target()
    target.poll({"stop": 10.0})
    target.poll({"stop": 11.0})
    assert target.poll({"stop": 12.0, "error": 1.0}) == {"stop": 1.0, "error": 1.0}


def test_a_series_missing_because_its_query_failed_is_a_baseline_not_new():
    target = Target()
    target.poll({}, fields=frozenset())
    target.poll({}, fields=frozenset())
    assert target.poll({"a": 1_000_000.0}) == {"a": None}


def test_the_second_reading_takes_no_series_for_new():
    # The first scrape of a target may be committed between two queries of one poll.
    target = Target()
    target.poll({"a": 10.0})
    assert target.poll({"a": 11.0, "b": 1_000_000.0}) == {"a": 1.0, "b": None}


def test_an_absence_of_minutes_is_one_increment_over_its_whole_time():
    target = Target()
    target.poll({"a": 10.0})
    assert target.poll({"a": 70.0}, seconds=600.0) == {"a": 60.0}
    assert target.turn.seconds == 600.0


def test_what_was_gone_for_longer_than_we_remember_begins_anew():
    target = Target()
    target.poll({"a": 10.0})
    assert target.poll({"a": 70.0}, seconds=FORGET_SECONDS + 1) == {"a": None}


def test_memory_of_dead_targets_is_given_back():
    lives = Lives()
    for number in range(50):
        dead = Target(lives, f"dead-{number}")
        dead.now = 1000.0
        dead.poll({"a": 1.0})
    living = Target(lives, "living")
    living.now = 1000.0
    for _ in range(3):
        living.poll({"a": 1.0}, seconds=FORGET_SECONDS + 1)
    assert len(lives._lives) == 1
    assert len(lives._tracker._last) <= 2


def buckets(lives, now, cumulative, start=None, bounds=(1.0, 2.0, math.inf)):
    exposed = Buckets(bounds, cumulative)
    turn = lives.turn("t", now=now, scraped_at=now, start=start, values=(), histograms=[("h", exposed)], fields=FIELDS)
    return lives.count_buckets(turn, "ttft", "h", exposed)


def test_one_bucket_that_fell_resets_the_whole_histogram_even_within_one_process():
    lives = Lives()
    assert buckets(lives, 1.0, (2.0, 9.0, 10.0), process(0.0)) is None
    assert buckets(lives, 2.0, (6.0, 7.0, 12.0), process(0.0)) == (6.0, 7.0, 12.0)
    assert buckets(lives, 3.0, (6.0, 8.0, 14.0), process(0.0)) == (0.0, 1.0, 2.0)


@given(st.lists(st.tuples(st.integers(0, 50), st.sampled_from(["poll", "scrape", "restart"])), min_size=1, max_size=60))
def test_over_any_history_what_the_scrapes_showed_is_counted_once(history):
    target = Target()
    counter, start = 0.0, 0.0
    shown, shown_start, scraped_at = 0.0, 0.0, 1.0
    last = None
    for step, (amount, kind) in enumerate(history):
        counter += amount
        if kind == "restart":
            counter, start = 0.0, 1000.0 + 100.0 * step
        elif kind == "scrape":
            shown, shown_start, scraped_at = counter, start, float(step + 2)
        else:
            counted = target.poll({"a": shown}, scraped_at=scraped_at, start=process(shown_start))["a"]
            if last is None:
                assert counted is None
            else:
                assert counted == (shown - last[0] if last[1] == shown_start else shown)
            last = (shown, shown_start)
