from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.money import (
    ATOMS_PER_MICRO,
    SHARE,
    MoneyError,
    amount,
    apportion,
    cents,
    decimal_of,
    half_even,
    micros_of,
    round_together,
    share_of,
    words,
)


def test_an_amount_is_read_exactly_from_text_and_from_a_floats_shortest_decimal():
    assert micros_of("3.430881") == 3_430_881
    assert micros_of(0.1) == 100_000
    assert micros_of(Decimal("0.0000005")) == 0  # half to even
    assert micros_of(Decimal("0.0000015")) == 2


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("NaN", "finite"),
        (float("inf"), "finite"),
        (float("nan"), "finite"),
        ("-1", "at least 0"),
        (-0.01, "at least 0"),
        ("1,5", "write a number"),
        (None, "write a number"),
        (True, "write a number"),
        ([], "write a number"),
        ("1e99", "at most"),
    ],
)
def test_what_is_no_amount_is_refused_with_what_to_write(value: object, found: str):
    with pytest.raises(MoneyError, match=found):
        micros_of(value)


def test_a_number_may_be_negative_only_where_that_is_meant():
    assert decimal_of("-12.5", least=None) == Decimal("-12.5")


def test_a_dollar_among_three_leaves_no_cent_over():
    # 100/3 = 33.33…: the odd cent goes to the first of equals.
    assert apportion(100, [1, 1, 1]) == [34, 33, 33]
    # 7 by 5:2:1 = 4.375, 1.75, 0.875: floors 4 1 0, two odd ones to the greatest remainders .875 and .75.
    assert apportion(7, [5, 2, 1]) == [4, 2, 1]
    assert apportion(-100, [1, 1, 1]) == [-33, -33, -34]


def test_without_weights_it_is_split_evenly_and_among_nobody_it_is_refused():
    assert apportion(10, [0, 0]) == [5, 5]
    assert apportion(0, []) == []
    with pytest.raises(MoneyError, match="among nobody"):
        apportion(1, [])
    with pytest.raises(MoneyError, match="at least 0"):
        apportion(1, [1, -1])


@given(st.integers(-(10**15), 10**15), st.lists(st.integers(0, 10**20), min_size=1, max_size=20))
def test_parts_add_up_to_the_total_and_are_within_one_of_their_share(total: int, weights: list[int]):
    parts = apportion(total, weights)
    assert sum(parts) == total
    used = weights if sum(weights) else [1] * len(weights)
    assert all(abs(part * sum(used) - total * weight) < sum(used) for part, weight in zip(parts, used, strict=True))


@given(st.lists(st.integers(0, 10**30), max_size=20))
def test_rounding_together_keeps_the_sum(atoms: list[int]):
    assert sum(round_together(atoms)) == half_even(sum(atoms), ATOMS_PER_MICRO)


@given(st.lists(st.integers(-(10**12), 10**12), max_size=20))
def test_displayed_cents_add_up_to_the_displayed_sum(micros: list[int]):
    shown = cents(micros)
    assert sum(shown) == Decimal(half_even(sum(micros), 10_000)).scaleb(-2)
    assert all(abs(one - amount(exact)) < Decimal("0.01") for one, exact in zip(shown, micros, strict=True))


def test_half_goes_to_the_even_neighbour():
    assert [half_even(value, 2) for value in (1, 3, 5, -1, -3)] == [0, 2, 2, 0, -2]


def test_ratios_of_sixteen_and_of_six_decimals_are_whole_parts():
    assert all(SHARE % parts == 0 for parts in range(1, 17))
    assert share_of(0.3) * 10 == SHARE * 3
    assert share_of(0.123457) * 1_000_000 == SHARE * 123_457


def test_an_amount_in_words_has_its_currency():
    assert words(988_093_728, "USD") == "988.09 USD"
    assert words(12_480_000_000, "EUR") == "12,480.00 EUR"
    assert words(5_555_556, "USD", digits=4) == "5.5556 USD"
