from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.cost_forecast import Forecast, change, forecast
from fleet.money import MICROS

FIRST = date(2026, 11, 1)


def test_case_7_the_budget_is_gone_on_the_27th():
    # 12 days, 4,200 so far: 5 x 280 + 7 x 400. Run rate 350 x 30 = 10,500; trailing 4,200 + 18 x 400 = 11,400.
    # (10,000 - 4,200) / 400 = 14.5 days after day 12: in day 27.
    days = [280 * MICROS] * 5 + [400 * MICROS] * 7
    found = forecast(days, first=FIRST, month_days=30, budget=10_000 * MICROS)
    assert (found.run_rate, found.trailing) == (10_500 * MICROS, 11_400 * MICROS)
    assert (found.days_left_of_budget, found.over_on) == (Decimal("14.5"), date(2026, 11, 27))
    assert (found.low, found.high) == (found.trailing, found.trailing)  # seven equal days have no spread


def test_the_range_is_of_the_last_days():
    # Days 0, 10 … 60: tenth percentile 6, ninetieth 54; 210 so far, 23 days left of 30.
    found = forecast(range(0, 70, 10), first=FIRST, month_days=30)
    assert (found.low, found.trailing, found.high) == (210 + 6 * 23, 210 + 30 * 23, 210 + 54 * 23)
    assert found.over_on is None


@pytest.mark.parametrize(
    ("budget", "day"),
    [
        (100, date(2026, 11, 11)),
        (99, date(2026, 11, 10)),
        (90, date(2026, 11, 10)),
        (300, None),
        (299, date(2026, 11, 30)),
    ],
)
def test_a_budget_that_is_gone_already_names_the_day_and_one_that_lasts_none(budget: int, day: date | None):
    assert forecast([10] * 10, first=FIRST, month_days=30, budget=budget).over_on == day


def test_without_a_whole_day_nothing_is_told():
    assert forecast([], first=FIRST, month_days=30, budget=5) == Forecast(
        run_rate=None, trailing=None, low=None, high=None
    )


def test_a_month_that_cost_nothing_never_uses_a_budget_up():
    found = forecast([0, 0], first=FIRST, month_days=30, budget=5)
    assert (found.trailing, found.over_on, found.days_left_of_budget) == (0, None, None)


@pytest.mark.parametrize(
    "values", [{"month_days": 1}, {"month_days": 30, "trail": 0}, {"month_days": 30, "budget": -1}]
)
def test_what_cannot_be_a_month_is_refused(values: dict[str, int]):
    with pytest.raises(ValueError, match="write at most a month"):
        forecast([1, 1], first=FIRST, **values)


def test_a_change_is_price_volume_and_mix():
    # Before 10 h at 2 and 10 h at 4 = 60, mean 3. After 10 h at 2.20 and 20 h at 4 = 102: +42.
    # Price 10 x 0.20 = 2; volume 10 h x 3 = 30; mix: 10 of the dearer, 10 x (4 - 3) = 10.
    found = change(
        [("a", Decimal(10), 20 * MICROS), ("b", Decimal(10), 40 * MICROS)],
        [("a", Decimal(10), 22 * MICROS), ("b", Decimal(20), 80 * MICROS)],
    )
    assert (found.price, found.volume, found.mix) == (2 * MICROS, 30 * MICROS, 10 * MICROS)


hours = st.decimals(0, 1000, places=2)
periods = st.dictionaries(st.sampled_from("abc"), st.tuples(hours, st.integers(0, 10**12)))


@settings(max_examples=60, deadline=None)
@given(periods, periods)
def test_the_three_effects_are_the_change_exactly(
    before: dict[str, tuple[Decimal, int]], after: dict[str, tuple[Decimal, int]]
):
    found = change([(name, *one) for name, one in before.items()], [(name, *one) for name, one in after.items()])
    assert found.total == sum(money for _, money in after.values()) - sum(money for _, money in before.values())
