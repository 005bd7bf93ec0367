"""Buckets of histograms as they come: put together, in order, and looked at for damage."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from operator import gt, itemgetter

from collectors.prometheus_targets import Sample

#: One histogram: its labels without the bound, bounds as text, cumulative counts.
Ladder = tuple[dict[str, str], list[str], list[float]]


def ladders_of(samples: Iterable[Sample]) -> list[Ladder]:
    """Buckets put together by histogram. Takes the bounds out of the labels it is given."""
    found: dict[str, Ladder] = {}
    last: Ladder = ({}, [], [])
    for labels, value in samples:
        text = labels.pop("le", "")
        # Nearly always the bucket belongs to the histogram of the one before it: no key needs to be made for it.
        if labels != last[0]:
            key = "\0".join((*labels, *labels.values()))
            last = found.get(key, last)
            if labels != last[0]:
                last = found[key] = (labels, [], [])
        last[1].append(text)
        last[2].append(value)
    return list(found.values())


@functools.lru_cache(maxsize=4096)
def bounds_of(
    texts: tuple[str, ...], scale: float
) -> tuple[tuple[float, ...], Callable[[list[float]], Sequence[float]], str]:
    """Sorted bounds in our unit, what puts counts into their order, and what is wrong with them ("" = nothing).

    All histograms of one kind of server come with the same texts in the same order: worked out once.
    """
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = [math.nan] * len(texts)
    places = sorted(range(len(numbers)), key=numbers.__getitem__)
    order = itemgetter(*places)
    ascending = [numbers[place] for place in places]
    problem = ""
    if any(math.isnan(bound) for bound in numbers):
        problem = "a bucket bound is not a number"
    elif ascending[-1] != math.inf:
        problem = "no +Inf bucket"
    elif len(set(ascending)) < len(ascending):
        problem = "a bucket bound is there twice"
    # 12 digits: 700 ms are 0.7 s, not 0.7000000000000001.
    return tuple(float(f"{bound * scale:.12g}") for bound in ascending), order, problem


def fault(cumulative: tuple[float, ...]) -> str:
    """What is wrong with cumulative counts, "" when nothing is."""
    if math.isfinite(sum(cumulative)) and cumulative[0] >= 0.0 and not any(map(gt, cumulative, cumulative[1:])):
        return ""
    if cumulative[-1] == math.inf:
        return "a bucket count is infinite"
    return "bucket counts are no numbers, or fall from one bound to the next"
