"""Objectives by numbers worked by hand: shares, budgets, burn rates and what is said of them."""

from __future__ import annotations

import math

import pytest

from fleet.latency import distribution
from fleet.severity import Level
from fleet.slo import Burn, Met, Objective, judge, met

MONTH = Objective(name="fast", target_seconds=2.0, objective_ratio=0.99, window_days=30)
BOUNDS = (1.0, 2.0, 2.5, math.inf)


def of(*counts: float, bounds: tuple[float, ...] = BOUNDS):
    return distribution([(bounds, counts, None)])


def test_a_share_at_a_bucket_bound_is_exact():
    found = met(of(90, 5, 4, 1), 2.0)
    assert (found.ratio, found.lower, found.upper, found.at_seconds, found.count) == (0.95, 0.95, 0.95, 2.0, 100)


def test_a_target_between_bounds_is_counted_at_the_nearest_one_and_says_what_is_known_of_itself():
    found = met(of(90, 5, 4, 1), 2.4)
    assert (found.at_seconds, found.ratio) == (2.5, 0.99)
    assert (found.lower, found.upper) == (0.95, 0.99)


def test_a_part_is_counted_at_the_bound_of_the_whole():
    assert met(of(90, 5, 4, 1), 2.4, at_seconds=2.0).ratio == 0.95


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (None, "not_measured"),
        (distribution([]), "no_traffic"),
        (of(0, 0, 0, 0), "no_traffic"),
        (of(10, bounds=(math.inf,)), "mean_only"),
        (distribution([((1.0, math.inf), (5, 5), None), ((3.0, math.inf), (5, 5), None)]), "different_buckets"),
    ],
)
def test_a_share_that_cannot_be_counted_says_why(found, state):
    answer = met(found, 2.0)
    assert answer.state == state
    assert answer.ratio is None
    assert answer.budget_left(MONTH) is None
    assert answer.burn_rate(MONTH) is None


def test_the_budget_is_what_may_miss_and_can_be_overspent():
    assert met(of(995, 0, 0, 5), 2.0).budget_left(MONTH) == pytest.approx(0.5)
    assert met(of(980, 0, 0, 20), 2.0).budget_left(MONTH) == pytest.approx(-1.0)


def test_a_burn_rate_is_how_many_times_too_many_requests_miss():
    assert met(of(80, 6, 14, 0), 2.0).burn_rate(MONTH) == pytest.approx(14.0)
    assert met(of(0, 0, 0, 9), 2.0).burn_rate(MONTH) is None


def test_the_alarming_rates_of_30_days_are_those_of_the_workbook_and_never_below_one():
    assert MONTH.alarming_rate(0.02, 3600) == pytest.approx(14.4)
    assert MONTH.alarming_rate(0.05, 21_600) == pytest.approx(6.0)
    assert Objective(name="d", target_seconds=1, objective_ratio=0.9, window_days=1).alarming_rate(0.02, 3600) == 1.0


WHOLE = Met(state="ok", count=1e6, at_seconds=2.0, ratio=0.9996, lower=0.9996, upper=0.9996)


def test_both_windows_must_burn():
    """96 % of the budget left, burning 14.4 times: 0.96 * 720 h / 14.4 = 48 h."""
    verdict = judge(MONTH, WHOLE, Burn(hour=14.4, five_minutes=20.0))
    assert (verdict.level, verdict.words) == (Level.CRITICAL, "burning 14x: budget gone in 2 d")
    assert verdict.gone_in_seconds == pytest.approx(48 * 3600)
    for short in (0.5, None):  # the hour alone: it may be over, so nobody is woken
        verdict = judge(MONTH, WHOLE, Burn(hour=20.0, five_minutes=short))
        assert (verdict.level, verdict.words) == (Level.OK, "met so far; at 20x budget gone in 1 d 10 h")
    assert judge(MONTH, WHOLE, Burn(hour=0.9, five_minutes=0.5)).words == "met"
    assert judge(MONTH, WHOLE, Burn(hour=7.0, five_minutes=9.0, six_hours=6.2, half_hour=7.0)).words == (
        "burning 6.2x: budget gone in 4 d 15 h"
    )


def test_a_budget_that_is_gone_warns_also_when_nothing_burns():
    gone = Met(state="ok", count=1e6, at_seconds=2.0, ratio=0.98)
    assert judge(MONTH, gone, Burn()).level == Level.WARNING
    assert judge(MONTH, gone, Burn()).words == "budget gone, not burning now"
    assert judge(MONTH, gone, Burn(hour=2.2, five_minutes=7.5)).words == "budget gone, and burning 2.2x"
    assert judge(MONTH, gone, Burn(hour=15.0, five_minutes=15.0)).words == "burning 15x, budget already gone"
    just = Met(state="ok", count=1e6, at_seconds=2.0, ratio=0.99)
    assert judge(MONTH, just, Burn()).words == "met"


def test_no_traffic_is_fine_and_not_measured_is_unknown():
    assert judge(MONTH, Met(state="no_traffic"), Burn()).level == Level.OK
    assert judge(MONTH, Met(state="not_measured"), Burn()).level == Level.UNKNOWN


def test_an_objective_covers_what_its_expressions_find():
    one = Objective(name="x", target_seconds=1, objective_ratio=0.9, tenant="^acme$", model="llama")
    assert one.covers("acme", "meta-llama-3")
    assert not one.covers("acme-2", "llama")
    assert not one.covers("acme", "qwen")
    assert MONTH.covers("", "")
