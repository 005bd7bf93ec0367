"""Quantiles, shares and merges against hand-worked numbers and against the raw observations themselves."""

from __future__ import annotations

import math
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.latency import (
    distribution,
    fewest_observations,
    merge,
    quantile_from_buckets,
    slo_share,
    snap_target,
)

INF = math.inf
BOUNDS = (0.1, 0.5, 1.0, INF)


def test_a_median_is_interpolated_inside_its_bucket_and_carries_its_bounds():
    # 10 + 20 + 10 observations: rank 20 is the 10th of the 20 in (0.1, 0.5]: 0.1 + 0.4 * 10/20 = 0.3
    answer = quantile_from_buckets(BOUNDS, (10, 20, 10, 0), 0.5)
    assert answer.state == "ok"
    assert answer.value == pytest.approx(0.3)
    assert (answer.lower, answer.upper, answer.count) == (0.1, 0.5, 40)


def test_the_first_bucket_begins_at_zero():
    answer = quantile_from_buckets(BOUNDS, (40, 0, 0, 0), 0.5)
    assert answer.value == pytest.approx(0.05)
    assert (answer.lower, answer.upper) == (0.0, 0.1)


def test_a_rank_on_a_bucket_edge_stays_in_the_lower_bucket():
    # 19 of 20 observations are <= 1.0: p95 is 1.0, although 0.95 * 20 is 19.000000000000004 in some orders
    answer = quantile_from_buckets(BOUNDS, (0, 0, 19, 1), 0.95)
    assert (answer.state, answer.upper) == ("ok", 1.0)
    assert answer.value == pytest.approx(1.0)


def test_a_quantile_in_the_open_bucket_is_beyond_the_last_bound_and_has_no_value():
    answer = quantile_from_buckets(BOUNDS, (5, 5, 5, 50), 0.95)
    assert (answer.state, answer.value, answer.lower, answer.upper) == ("beyond", None, 1.0, INF)


def test_only_an_open_bucket_gives_no_bound_at_all():
    answer = quantile_from_buckets((INF,), (50,), 0.5)
    assert (answer.state, answer.value, answer.lower) == ("beyond", None, None)


def test_no_observations_is_no_traffic_and_few_are_too_few():
    assert quantile_from_buckets(BOUNDS, (0, 0, 0, 0), 0.5).state == "no_traffic"
    few = quantile_from_buckets(BOUNDS, (0, 19, 0, 0), 0.95)
    assert (few.state, few.value, few.count) == ("too_few", None, 19)
    assert quantile_from_buckets(BOUNDS, (0, 20, 0, 0), 0.95).state == "ok"


def test_the_gate_is_20_for_p95_100_for_p99_and_10_for_the_median():
    assert [fewest_observations(q) for q in (0.5, 0.9, 0.95, 0.99, 1.0)] == [10, 10, 20, 100, 10]


@pytest.mark.parametrize(
    ("bounds", "increments", "q"),
    [
        ((0.1, 1.0), (1, 1), 0.5),
        (BOUNDS, (1, 1, 1), 0.5),
        (BOUNDS, (1, -1, 1, 1), 0.5),
        (BOUNDS, (1, math.nan, 1, 1), 0.5),
        ((1.0, 1.0, INF), (1, 1, 1), 0.5),
        (BOUNDS, (1, 1, 1, 1), 1.5),
        ((), (), 0.5),
    ],
)
def test_unusable_buckets_are_refused(bounds, increments, q):
    with pytest.raises(ValueError):
        quantile_from_buckets(bounds, increments, q)


@given(
    values=st.lists(st.floats(0.001, 20.0), min_size=1, max_size=300),
    q=st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99, 1.0]),
)
def test_the_true_quantile_of_the_raw_values_lies_inside_the_stated_interval(values, q):
    bounds = (0.005, 0.05, 0.25, 1.0, 2.5, 10.0, INF)
    increments = [0.0] * len(bounds)
    for value in values:
        increments[bisect_left(bounds, value)] += 1
    exact = sorted(values)[max(0, math.ceil(q * len(values) - 1e-9) - 1)]  # nearest rank
    answer = quantile_from_buckets(bounds, increments, q, fewest=1)
    assert answer.lower is not None
    assert answer.upper is not None
    assert answer.lower < exact <= answer.upper
    if answer.value is not None:
        assert answer.lower <= answer.value <= answer.upper


def test_a_share_is_exact_at_a_bucket_bound_and_an_interval_between_two():
    at_bound = slo_share(BOUNDS, (10, 20, 10, 10), 0.5)
    assert at_bound.exact
    assert at_bound.lower == pytest.approx(0.6)
    between = slo_share(BOUNDS, (10, 20, 10, 10), 0.7)
    assert not between.exact
    assert (between.lower, between.upper) == (pytest.approx(0.6), pytest.approx(0.8))


def test_a_share_without_traffic_is_unknown_not_perfect():
    empty = slo_share(BOUNDS, (0, 0, 0, 0), 0.5)
    assert (empty.lower, empty.upper, empty.exact) == (None, None, False)


def test_targets_snap_to_the_nearest_bound_by_ratio():
    assert snap_target(BOUNDS, 0.7) == 0.5  # 0.7/0.5 = 1.40 against 1.0/0.7 = 1.43
    assert snap_target(BOUNDS, 100.0) == 1.0
    assert snap_target((INF,), 1.0) is None


def test_histograms_are_merged_bucket_by_bucket_and_never_across_layouts():
    assert merge([(1, 2, 3), (10, 20, 30)]) == (11, 22, 33)
    assert merge([]) == ()
    with pytest.raises(ValueError, match="group them by bounds"):
        merge([(1, 2), (1, 2, 3)])


def test_averaging_percentiles_would_lie_where_merging_does_not():
    quick, slow = (90, 5, 0, 5), (0, 0, 95, 5)
    merged = quantile_from_buckets(BOUNDS, merge([quick, slow]), 0.9)
    # 90, 95, 190 of 200 at or below 0.1, 0.5, 1.0: rank 180 is (180-95)/95 of the way through (0.5, 1.0]
    assert merged.value == pytest.approx(0.5 + 0.5 * 85 / 95)


def test_different_ladders_are_counted_where_they_meet_and_bracketed_elsewhere():
    """10 below 1 s, 10 in (1, 2], and of the other ladder 3 below 0.5 s, 2 in (0.5, 2], 5 beyond: 25 within 2 s."""
    found = distribution(
        [
            ((1.0, 2.0, math.inf), (10.0, 10.0, 0.0), 25.0),
            ((0.5, 2.0, math.inf), (3.0, 2.0, 5.0), 30.0),
        ]
    )
    assert found.bounds == (2.0, math.inf)
    assert found.increments == (25.0, 5.0)
    assert found.ladders == 2
    assert found.mean == 55.0 / 30.0
    assert found.slo_share(2.0).lower == found.slo_share(2.0).upper == 25 / 30
    # At 1 s: 10 surely, and 3 that are below 0.5 s; the 2 in (0.5, 2] possibly.
    assert (found.slo_share(1.0).lower, found.slo_share(1.0).upper) == (13 / 30, 15 / 30)
    # The 14th may still be at or below 1 s, the 16th is not: 15 at most are.
    assert (found.quantile(14 / 30).lower, found.quantile(14 / 30).upper) == (0.5, 2.0)
    assert (found.quantile(16 / 30).lower, found.quantile(16 / 30).upper) == (1.0, 2.0)
    assert found.quantile(0.95, fewest=1).state == "beyond"
    assert found.quantile(0.95, fewest=1).lower == 2.0


def test_ladders_without_a_common_bound_still_bracket_a_quantile():
    """30 within 1 s, 30 within 2 s: half are surely within 1 s, all within 2 s; evenly filled, 45 are within 1 s."""
    found = distribution([((1.0, math.inf), (30.0, 0.0), None), ((2.0, math.inf), (30.0, 0.0), None)])
    median, late = found.quantile(0.5), found.quantile(0.95)
    assert (median.state, median.lower, median.upper) == ("ok", 0.0, 1.0)
    assert median.value == pytest.approx(30 / 45)
    assert (late.lower, late.upper) == (0.0, 2.0)
    assert late.value == pytest.approx(1.0 + (57 - 45) / 15)
    assert found.mean is None


def test_beyond_what_all_ladders_know_the_best_bound_is_said():
    found = distribution([((1.0, math.inf), (20.0, 10.0), None), ((2.0, math.inf), (29.0, 1.0), None)])
    late = found.quantile(0.9)
    assert (late.state, late.value, late.lower, late.upper) == ("beyond", None, 1.0, math.inf)


def test_an_idle_ladder_costs_the_busy_one_no_bound():
    found = distribution([((1.0, 2.0, math.inf), (0.0, 30.0, 0.0), 45.0), ((7.0, math.inf), (0.0, 0.0), 0.0)])
    assert found.bounds == (1.0, 2.0, math.inf)
    assert found.quantile(0.5).value == 1.5


def test_servers_that_keep_a_mean_only_count_in_the_mean_and_in_no_quantile():
    only = distribution([((math.inf,), (40.0,), 20.0)])
    assert only.quantile(0.95).state == "mean_only"
    assert only.mean == 0.5
    mixed = distribution([((math.inf,), (40.0,), 20.0), ((1.0, math.inf), (60.0, 0.0), 30.0)])
    assert mixed.mean == 0.5
    assert mixed.count == 100.0
    assert mixed.quantile(0.5).count == 60.0


def test_bounds_that_differ_by_a_rounding_error_are_one_bound():
    found = distribution([((0.1 * 3, math.inf), (20.0, 0.0), None), ((0.3, math.inf), (20.0, 0.0), None)])
    assert found.ladders == 1
    assert found.increments == (40.0, 0.0)


def test_nothing_at_all_is_no_traffic():
    assert distribution([]).quantile(0.5).state == "no_traffic"
    assert distribution([]).slo_share(1.0).lower is None


@given(
    st.lists(
        st.tuples(
            st.sets(st.sampled_from([0.1, 0.25, 0.5, 1.0, 2.5, 5.0]), min_size=1),
            st.lists(st.floats(0.01, 8.0), min_size=12, max_size=60),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_the_exact_quantile_of_the_raw_values_lies_in_the_interval_whatever_the_ladders(servers):
    parts = []
    for ladder, values in servers:
        bounds = (*sorted(ladder), math.inf)
        counts = [0.0] * len(bounds)
        for value in values:
            counts[next(place for place, bound in enumerate(bounds) if value <= bound)] += 1
        parts.append((bounds, counts, math.fsum(values)))
    everything = sorted(value for _, values in servers for value in values)
    found = distribution(parts)
    for q in (0.5, 0.9):
        exact = everything[math.ceil(q * len(everything) - 1e-9) - 1]
        quantile = found.quantile(q)
        assert quantile.state in ("ok", "beyond")
        assert quantile.lower is not None
        assert quantile.upper is not None
        assert quantile.lower < exact <= quantile.upper
        assert quantile.value is None or quantile.lower <= quantile.value <= quantile.upper
    for target in (0.2, 0.5, 3.0, 9.0):
        share = found.slo_share(target)
        exact = sum(value <= target for value in everything) / len(everything)
        assert share.lower - 1e-9 <= exact <= share.upper + 1e-9
