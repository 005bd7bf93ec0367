"""Counters to increments: what happens at first sight, at a reset, and when a container is new."""

from fleet.increase import IncreaseTracker


def test_the_first_sight_of_a_series_is_a_baseline_and_gives_no_number():
    assert IncreaseTracker().increase("requests", 100) is None


def test_increments_add_up_to_the_counter():
    tracker = IncreaseTracker()
    values = [100, 110, 120, 150]
    increments = [tracker.increase("requests", value) for value in values]
    assert increments == [None, 10, 10, 30]


def test_a_counter_reset_counts_what_came_after_it_and_is_never_negative():
    # 100 110 120 5 15: Prometheus' increase() gives 10 + 10 + 5 + 10 = 35 after the baseline.
    tracker = IncreaseTracker()
    increments = [tracker.increase("requests", value) for value in (100, 110, 120, 5, 15)]
    assert increments == [None, 10, 10, 5, 10]


def test_a_container_born_within_the_interval_loses_nothing():
    assert IncreaseTracker().increase(("id", "started"), 7.5, born_now=True) == 7.5


def test_a_new_life_of_the_same_container_is_another_series():
    tracker = IncreaseTracker()
    tracker.increase(("id", "10:00"), 50)
    assert tracker.increase(("id", "10:05"), 60) is None


def test_series_that_vanished_are_forgotten_after_a_sweep():
    tracker = IncreaseTracker()
    tracker.increase("old", 1)
    tracker.sweep()
    tracker.increase("new", 1)
    tracker.sweep()
    assert tracker.increase("old", 5) is None
    assert tracker.increase("new", 4) == 3
