"""Percentiles and objectives from bucket counts, said with the precision the buckets have.

A bucket layout only says between which two bounds a value lies. So every quantile here carries its interval,
nothing is read out of the open last bucket, and too few observations give a word instead of a number.
Merge buckets first (`merge`), ask for quantiles after: percentiles are never averaged.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

QuantileState = Literal["ok", "beyond", "too_few", "no_traffic", "mean_only", "not_measured"]

#: Fewer observations than this say nothing about any quantile, not even a median.
FEWEST_OBSERVATIONS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantile:
    """One quantile of a distribution kept as buckets, in the unit of its bounds.

    state "ok": `value` is interpolated and the true value lies in (lower, upper].
    state "beyond": it lies above the last finite bound: `value` is None, `lower` that bound, `upper` +Inf.
    state "too_few" or "no_traffic": no number; `count` says how many observations there were.
    state "mean_only": the servers keep only sum and count. "not_measured": nobody exposes
    it.
    """

    q: float
    state: QuantileState
    count: float
    value: float | None = None
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SloShare:
    """Share (0-1) of the observations at or below a target; lower == upper when the target is a bucket bound.

    Both are None when there was no traffic.
    """

    target: float
    count: float
    lower: float | None
    upper: float | None

    @property
    def exact(self) -> bool:
        """Whether the share is known and not merely bracketed."""
        return self.lower is not None and self.lower == self.upper


def fewest_observations(q: float) -> int:
    """How many observations a quantile needs before it is shown: 20 for p95, 100 for p99, never under 10.

    Below 1/(1-q) observations the estimate is the maximum by another name.
    """
    tail = min(q, 1.0 - q)
    if tail <= 0.0:
        return FEWEST_OBSERVATIONS
    return max(FEWEST_OBSERVATIONS, math.ceil(1.0 / tail - 1e-9))  # 1/(1-0.99) is 99.99999999999991 or so


def quantile_from_buckets(
    bounds: Sequence[float], increments: Sequence[float], q: float, *, fewest: int | None = None
) -> Quantile:
    """Quantile `q` (0-1) of a histogram with non-cumulative `increments`; `bounds[-1]` is +Inf.

    The quantile is the smallest observation with at least a share q of all at or below it. Inside its bucket it is
    placed by straight interpolation, as PromQL's histogram_quantile does; the first bucket begins at 0 when its
    bound is positive. fewest: observations needed (default `fewest_observations(q)`).
    Raises ValueError when the buckets or q are not usable.
    """
    _check(bounds, increments)
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"quantile: q is {q}, write a number from 0 to 1")
    count = math.fsum(increments)
    if count <= 0.0:
        return Quantile(q=q, state="no_traffic", count=0.0)
    if count < (fewest_observations(q) if fewest is None else fewest):
        return Quantile(q=q, state="too_few", count=count)
    cumulative = list(accumulate(increments))
    rank = q * count
    # 1e-9: 0.95 * 20 is 19.0 on paper; a rounding error must not push the rank into the next bucket.
    index = bisect_left(cumulative, rank * (1.0 - 1e-9))
    while increments[index] <= 0.0:  # rank 0, or equal cumulative counts: the first bucket that holds anything
        index += 1
    if math.isinf(bounds[index]):
        last_finite = bounds[index - 1] if index else None
        return Quantile(q=q, state="beyond", count=count, lower=last_finite, upper=math.inf)
    upper = bounds[index]
    before = cumulative[index] - increments[index]
    if index == 0 and upper <= 0.0:
        return Quantile(q=q, state="ok", count=count, value=upper, lower=-math.inf, upper=upper)
    lower = bounds[index - 1] if index else 0.0
    share = min(1.0, max(0.0, (rank - before) / increments[index]))
    return Quantile(q=q, state="ok", count=count, value=lower + (upper - lower) * share, lower=lower, upper=upper)


def slo_share(bounds: Sequence[float], increments: Sequence[float], target: float) -> SloShare:
    """Share of the observations that met `target`: exact at a bucket bound, else the interval it must lie in.

    Raises ValueError when the buckets are not usable.
    """
    _check(bounds, increments)
    count = math.fsum(increments)
    if count <= 0.0:
        return SloShare(target=target, count=0.0, lower=None, upper=None)
    index = bisect_left(bounds, target)  # first bound >= target
    below = math.fsum(increments[:index])
    if bounds[index] == target:
        share = (below + increments[index]) / count
        return SloShare(target=target, count=count, lower=share, upper=share)
    return SloShare(target=target, count=count, lower=below / count, upper=(below + increments[index]) / count)


def snap_target(bounds: Sequence[float], target: float) -> float | None:
    """The finite bound nearest to `target` by ratio: a target for which `slo_share` is exact; None without one."""
    finite = [bound for bound in bounds if math.isfinite(bound) and bound > 0.0]
    if not finite or target <= 0.0:
        return None
    return min(finite, key=lambda bound: (abs(math.log(bound / target)), bound))


def merge(increments: Iterable[Sequence[float]]) -> tuple[float, ...]:
    """Bucket-wise sum of histograms that share one bucket layout.

    Raises ValueError when they differ in length: the caller groups by `bounds` first, as sums over different
    layouts are not monotonic and mean nothing.
    """
    rows = list(increments)
    if len({len(row) for row in rows}) > 1:
        raise ValueError("histograms: different bucket layouts cannot be added, group them by bounds first")
    return tuple(math.fsum(column) for column in zip(*rows, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Observations of a group of servers, each with a bucket ladder of its own.

    bounds, increments: on the bounds that all ladders share, where counts are exact. parts: each ladder with its own
    counts, out of which quantiles and shares are bracketed: at any value each ladder knows how many observations are
    surely and how many are possibly below, and these add up, while buckets of different ladders do not.
    Servers that keep sum and count only are in count and sum, not in the buckets. ladders: how many different ones.
    """

    bounds: tuple[float, ...]
    increments: tuple[float, ...]
    count: float
    sum: float | None
    ladders: int
    mean_only_count: float = 0.0
    parts: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = ()

    @property
    def mean(self) -> float | None:
        """Mean of all observations; None without a sum or without observations."""
        return None if self.sum is None or self.count <= 0.0 else self.sum / self.count

    def quantile(self, q: float, *, fewest: int | None = None) -> Quantile:
        """Quantile `q` (0-1) of the observations that were sorted into buckets."""
        if self.ladders == 0:
            state: QuantileState = "mean_only" if self.mean_only_count > 0.0 else "no_traffic"
            return Quantile(q=q, state=state, count=self.mean_only_count)
        if self.ladders == 1:
            return quantile_from_buckets(self.bounds, self.increments, q, fewest=fewest)
        return _quantile_across(self.parts, q, fewest=fewest)

    def slo_share(self, target: float) -> SloShare:
        """Share of the bucketed observations at or below a target: exact when it is a bound of every ladder."""
        if self.ladders == 0:
            return SloShare(target=target, count=0.0, lower=None, upper=None)
        if self.ladders == 1:
            return slo_share(self.bounds, self.increments, target)
        count = math.fsum(self.increments)
        surely, possibly = _below([(bounds, list(accumulate(counts))) for bounds, counts in self.parts], target)
        return SloShare(target=target, count=count, lower=surely / count, upper=possibly / count)


_Cumulative = Sequence[tuple[Sequence[float], Sequence[float]]]


def _below(ladders: _Cumulative, value: float) -> tuple[float, float]:
    """How many observations are surely, and how many are at most, at or below a value. Counts are cumulative."""
    surely, possibly = 0.0, 0.0
    for bounds, cumulative in ladders:
        index = bisect_left(bounds, value)
        possibly += cumulative[index]
        if bounds[index] == value:
            surely += cumulative[index]
        elif index:
            surely += cumulative[index - 1]
    return surely, possibly


def _interpolated(ladders: _Cumulative, value: float) -> float:
    """How many observations are at or below a finite value if each bucket is filled evenly."""
    total = 0.0
    for bounds, cumulative in ladders:
        index = bisect_left(bounds, value)
        before = cumulative[index - 1] if index else 0.0
        lower = bounds[index - 1] if index else min(0.0, bounds[0])
        if bounds[index] == value:
            total += cumulative[index]
        elif math.isinf(bounds[index]):
            total += before
        else:
            total += before + (cumulative[index] - before) * max(0.0, value - lower) / (bounds[index] - lower)
    return total


def _quantile_across(
    parts: Sequence[tuple[Sequence[float], Sequence[float]]], q: float, *, fewest: int | None
) -> Quantile:
    """Quantile of several ladders: above each bound that too few can be below, within the first that enough surely are.

    The interval holds the true quantile whatever the values are, and is narrower than on the shared bounds alone.
    """
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"quantile: q is {q}, write a number from 0 to 1")
    ladders: _Cumulative = [(bounds, list(accumulate(counts))) for bounds, counts in parts]
    count = math.fsum(cumulative[-1] for _, cumulative in ladders)
    if count <= 0.0:
        return Quantile(q=q, state="no_traffic", count=0.0)
    if count < (fewest_observations(q) if fewest is None else fewest):
        return Quantile(q=q, state="too_few", count=count)
    rank = max(q * count * (1.0 - 1e-9), 1e-9)
    bounds = sorted({bound for bounds, _ in ladders for bound in bounds})
    upper = next(bound for bound in bounds if _below(ladders, bound)[0] >= rank)
    known = [bound for bound in bounds if _below(ladders, bound)[1] < rank]
    if math.isinf(upper):
        # Some bound is known: were enough possibly below the first one, enough would surely be below the last.
        return Quantile(q=q, state="beyond", count=count, lower=known[-1], upper=upper)
    lower = known[-1] if known else min(0.0, bounds[0])
    low, low_count = lower, _interpolated(ladders, lower) if known else 0.0
    value = upper
    for bound in (bound for bound in bounds if lower < bound <= upper):
        reached = _interpolated(ladders, bound)
        if reached >= rank:
            value = low + (bound - low) * (rank - low_count) / max(reached - low_count, 1e-12)
            break
        low, low_count = bound, reached
    value = min(upper, max(lower, value))
    return Quantile(q=q, state="ok", count=count, value=value, lower=lower if known else _floor(bounds), upper=upper)


def _floor(bounds: Sequence[float]) -> float:
    return -math.inf if bounds[0] <= 0.0 else 0.0


def distribution(parts: Iterable[tuple[Sequence[float], Sequence[float], float | None]]) -> Distribution:
    """One distribution out of (bounds, increments, sum) of many servers, which may have different ladders.

    Cumulative counts at a bound that all ladders share are exact, so is their sum, while adding buckets of different
    ladders is neither. One bound (+Inf) means that only a mean is kept.
    Raises ValueError when a histogram is not usable.
    """
    by_bounds: dict[tuple[float, ...], list[float]] = {}
    mean_only, total, known = 0.0, 0.0, True
    for bounds, increments, observed in parts:
        _check(bounds, increments)
        count = math.fsum(increments)
        if observed is not None:
            total += observed
        elif count > 0.0:
            known = False
        if len(bounds) == 1:
            mean_only += count
            continue
        # Scaled bounds (ms to s) differ in the last digit from those written in seconds.
        key = tuple(float(f"{bound:.12g}") for bound in bounds)
        held = by_bounds.setdefault(key, [0.0] * len(key))
        for place, value in enumerate(increments):
            held[place] += value
    # A ladder without observations must not cost the others their bounds.
    filled = {bounds: held for bounds, held in by_bounds.items() if math.fsum(held) > 0.0} or dict(
        list(by_bounds.items())[:1]
    )
    shared = sorted(set.intersection(*(set(bounds) for bounds in filled))) if filled else []
    merged = [0.0] * len(shared)
    for bounds, held in filled.items():
        place = 0
        for bound, value in zip(bounds, held, strict=True):
            while shared[place] < bound:
                place += 1
            merged[place] += value
    count = math.fsum(merged) + mean_only
    return Distribution(
        bounds=tuple(shared),
        increments=tuple(merged),
        count=count,
        sum=total if known and count > 0.0 else None,
        ladders=len(filled),
        mean_only_count=mean_only,
        parts=tuple((bounds, tuple(held)) for bounds, held in filled.items()),
    )


def _check(bounds: Sequence[float], increments: Sequence[float]) -> None:
    if not bounds or len(bounds) != len(increments):
        raise ValueError(f"histogram: {len(bounds)} bounds and {len(increments)} increments, need one each, at least 1")
    if bounds[-1] != math.inf:
        raise ValueError(f"histogram: the last bound is {bounds[-1]}, it must be +Inf")
    if any(not low < high for low, high in pairwise(bounds)):
        raise ValueError("histogram: bounds must rise")
    if any(not value >= 0.0 or math.isinf(value) for value in increments):
        raise ValueError("histogram: increments must be finite and not negative")
