"""Service level objectives: the share that met its target, the error budget left, and how fast it burns.

Burn rates and the two pairs of windows are those of the SRE workbook ("Alerting on SLOs", 6: multiwindow,
multi-burn-rate): the long window says that it matters, the short one that it still goes on. The workbook's 14.4 and 6
are for 30 days; for another window the same shares of the budget (2 % in an hour, 5 % in six) decide.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from fleet.latency import FEWEST_OBSERVATIONS, Distribution, snap_target
from fleet.severity import Level, span_words

#: Long window, short window, and the share of the budget that is gone after the long one at the alarming rate.
FAST_SECONDS, FAST_SHORT_SECONDS, FAST_BUDGET = 3600, 300, 0.02
SLOW_SECONDS, SLOW_SHORT_SECONDS, SLOW_BUDGET = 21_600, 1800, 0.05
_DAY_SECONDS = 86_400.0

ObjectiveState = Literal["ok", "no_traffic", "mean_only", "different_buckets", "not_measured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A share of `objective_ratio` of all requests within `target_seconds`, over `window_days`, by tenant and model.

    field: which duration, as in the histograms. tenant, model: regular expressions, "" = any.
    assumed: nobody wrote it; it stands for the limit that latency is judged by elsewhere.
    """

    name: str
    field: str = "ttft_seconds"
    target_seconds: float
    objective_ratio: float
    window_days: float = 30.0
    tenant: str = ""
    model: str = ""
    assumed: bool = False

    @property
    def budget_ratio(self) -> float:
        """Share of the requests that may miss the target (0-1)."""
        return 1.0 - self.objective_ratio

    @property
    def window_seconds(self) -> float:
        """Length of its window."""
        return self.window_days * _DAY_SECONDS

    def covers(self, tenant: str, model: str) -> bool:
        """Whether it holds for this model of this tenant."""
        return bool(re.search(self.tenant, tenant) and re.search(self.model, model))

    def alarming_rate(self, budget_share: float, seconds: float) -> float:
        """Burn rate that uses `budget_share` of the budget within `seconds`; never under 1, which just uses it up."""
        return max(1.0, budget_share * self.window_seconds / seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """How many of `count` requests were within `at_seconds`, a bucket bound, so `ratio` is exact; None = no requests.

    lower, upper: the same share for the target as it was set; they differ when no bucket ends at the target.
    """

    state: ObjectiveState
    count: float = 0.0
    at_seconds: float | None = None
    ratio: float | None = None
    lower: float | None = None
    upper: float | None = None

    def burn_rate(self, objective: Objective) -> float | None:
        """How many times faster than allowed requests miss the target; None under 10 requests, which prove nothing."""
        if self.ratio is None or self.count < FEWEST_OBSERVATIONS:
            return None
        return (1.0 - self.ratio) / objective.budget_ratio

    def budget_left(self, objective: Objective) -> float | None:
        """Share of the error budget that is left; below 0 when more requests missed the target than may."""
        return None if self.ratio is None else 1.0 - (1.0 - self.ratio) / objective.budget_ratio


def met(found: Distribution | None, target_seconds: float, *, at_seconds: float | None = None) -> Met:
    """Share within a target, counted at the nearest bucket bound, or at `at_seconds` when that is a bound."""
    if found is None:
        return Met(state="not_measured")
    if found.ladders == 0:
        return Met(state="mean_only" if found.mean_only_count > 0.0 else "no_traffic")
    bucketed = sum(found.increments)
    if bucketed <= 0.0:
        return Met(state="no_traffic")
    at = at_seconds if at_seconds in found.bounds else snap_target(found.bounds, target_seconds)
    if at is None:
        return Met(state="different_buckets", count=bucketed)
    asked = found.slo_share(target_seconds)
    return Met(
        state="ok", count=bucketed, at_seconds=at, ratio=found.slo_share(at).lower, lower=asked.lower, upper=asked.upper
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Burn:
    """Burn rates over the last hour, 5 minutes, 6 hours and 30 minutes; None where too few requests came."""

    hour: float | None = None
    five_minutes: float | None = None
    six_hours: float | None = None
    half_hour: float | None = None

    def fast(self, objective: Objective) -> bool:
        """2 % of the budget (of 30 days: 14.4 times too fast) within the hour, and still so in the last 5 minutes."""
        return _both(self.hour, self.five_minutes, objective.alarming_rate(FAST_BUDGET, FAST_SECONDS))

    def slow(self, objective: Objective) -> bool:
        """5 % of the budget (of 30 days: 6 times too fast) within 6 hours, and still so in the last half hour."""
        return _both(self.six_hours, self.half_hour, objective.alarming_rate(SLOW_BUDGET, SLOW_SECONDS))


def _both(long: float | None, short: float | None, rate: float) -> bool:
    return long is not None and short is not None and long >= rate and short >= rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an objective's numbers mean: severity, one clause, and seconds until the budget is gone (None = it is not
    burning, or is gone).
    """

    level: Level
    words: str
    gone_in_seconds: float | None = None


def judge(objective: Objective, whole: Met, burn: Burn) -> Verdict:
    """CRITICAL while the fast pair burns, WARNING while the slow one does or when the budget is gone, else OK.

    Without a share it is OK when nobody asked (no traffic), and UNKNOWN when it cannot be counted.
    """
    if whole.state == "no_traffic":
        return Verdict(level=Level.OK, words="no requests")
    if whole.ratio is None:
        return Verdict(level=Level.UNKNOWN, words=_WORDS[whole.state])
    left = whole.budget_left(objective) or 0.0
    fast, slow = burn.fast(objective), burn.slow(objective)
    if fast or slow:
        rate = (burn.hour if fast else burn.six_hours) or 0.0
        level = Level.CRITICAL if fast else Level.WARNING
        if left <= 1e-9:
            return Verdict(level=level, words=f"burning {rate_words(rate)}, budget already gone")
        gone = left * objective.window_seconds / rate
        words = f"burning {rate_words(rate)}: budget gone in {span_words(gone)}"
        return Verdict(level=level, words=words, gone_in_seconds=gone)
    rate = burn.hour or 0.0
    if left < -1e-9:
        now = f"and burning {rate_words(rate)}" if rate > 1.0 else "not burning now"
        return Verdict(level=Level.WARNING, words=f"budget gone, {now}")
    if rate > 1.0 and left > 1e-9:
        gone = left * objective.window_seconds / rate
        words = f"met so far; at {rate_words(rate)} budget gone in {span_words(gone)}"
        return Verdict(level=Level.OK, words=words, gone_in_seconds=gone)
    return Verdict(level=Level.OK, words="met")


_WORDS: dict[str, str] = {
    "mean_only": "its servers keep a mean only",
    "different_buckets": "its servers share no bucket bound",
    "not_measured": "not measured",
}


def rate_words(rate: float) -> str:
    """A burn rate: "14x", "6.2x"."""
    return f"{rate:.0f}x" if rate >= 9.95 else f"{rate:.1f}x"
