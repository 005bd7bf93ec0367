"""Where spending is going: run rate, trailing forecast, and the day on which a budget is used up.

Whole days only: a day that is not over says nothing of a day's cost, and is left out by whoever asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_HALF_EVEN, Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A month's cost as far as it can be told, in micro-units. None = no whole day to go by.

    run_rate: as if the rest went like the month so far. trailing: as if it went like the last days. low, high: the same
    with the tenth and ninetieth percentile of those days. over_on: the day on which the cost passes the budget at the
    trailing rate, None = not within the month, or no budget. days_left_of_budget: from the end of the last whole day.
    """

    run_rate: int | None
    trailing: int | None
    low: int | None
    high: int | None
    over_on: date | None = None
    days_left_of_budget: Decimal | None = None


def forecast(
    days: Sequence[int], *, first: date, month_days: int, budget: int | None = None, trail: int = 7
) -> Forecast:
    """From the cost of the month's whole days so far, in order, the first one on `first`.

    Raises ValueError for more days than the month has, a trail below 1 or a budget below 0.
    """
    if len(days) > month_days or trail < 1 or (budget or 0) < 0:
        raise ValueError(
            f"{len(days)} days of {month_days}, trail {trail}, budget {budget}: write at most a month, a trail of at"
            " least 1 and a budget of at least 0"
        )
    if not days:
        return Forecast(run_rate=None, trailing=None, low=None, high=None)
    spent, left = sum(days), month_days - len(days)
    recent = sorted(days[-trail:])
    mean = Decimal(sum(recent)) / len(recent)
    over_on, remaining = None, None
    if budget is not None and spent > budget:
        over_on, remaining = _day_of(days, budget, first), Decimal(0)
    elif budget is not None and mean > 0:
        remaining = (budget - spent) / mean
        # 14.5 days after the end of day 12 is in the middle of day 27.
        over_on = first + timedelta(days=len(days) + int(remaining)) if remaining < left else None
    return Forecast(
        run_rate=_whole(Decimal(spent) * month_days / len(days)),
        trailing=_whole(spent + mean * left),
        low=_whole(spent + _percentile(recent, Decimal("0.1")) * left),
        high=_whole(spent + _percentile(recent, Decimal("0.9")) * left),
        over_on=over_on,
        days_left_of_budget=remaining,
    )


def _day_of(days: Sequence[int], budget: int, first: date) -> date:
    spent = 0
    for number, cost in enumerate(days):
        spent += cost
        if spent > budget:
            return first + timedelta(days=number)
    raise AssertionError("the budget is not passed")


def _percentile(ordered: Sequence[int], share: Decimal) -> Decimal:
    """Between the nearest two, in proportion."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def _whole(value: Decimal) -> int:
    return int(value.to_integral_value(ROUND_HALF_EVEN))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What made a period's cost differ from the one before, in micro-units; the three add up to it exactly.

    price: the same hours at the new prices. volume: more or fewer hours, at the old mean price. mix: other products.
    """

    price: int
    volume: int
    mix: int

    @property
    def total(self) -> int:
        """After minus before."""
        return self.price + self.volume + self.mix


def change(before: Sequence[tuple[str, Decimal, int]], after: Sequence[tuple[str, Decimal, int]]) -> Change:
    """By product: (name, GPU-hours, micro-units) of each period. A product that is new has no old price: it is mix."""
    old = {name: (hours, money) for name, hours, money in before}
    new = {name: (hours, money) for name, hours, money in after}
    difference = sum(money for _, money in new.values()) - sum(money for _, money in old.values())
    price = Decimal(0)
    for name, (hours, money) in new.items():
        old_hours, old_money = old.get(name, (Decimal(0), 0))
        if old_hours:
            price += money - hours * old_money / old_hours
    old_hours = sum((hours for hours, _ in old.values()), Decimal(0))
    new_hours = sum((hours for hours, _ in new.values()), Decimal(0))
    mean = sum(money for _, money in old.values()) / old_hours if old_hours else Decimal(0)
    parts = _whole(price), _whole((new_hours - old_hours) * mean)
    return Change(price=parts[0], volume=parts[1], mix=difference - sum(parts))
