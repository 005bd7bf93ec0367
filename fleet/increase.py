"""Cumulative counters to increments, at the collector's edge.

One tracker per source. A series is a hashable identity that includes what makes it a new life (container id and
start time, process start): a new identity starts at a baseline, a fall of the value is a reset. Prometheus'
rule is used: after a reset the increase is the new value itself.
"""

from __future__ import annotations

from collections.abc import Hashable


class IncreaseTracker:
    """Remembers the last value of each series and answers increments."""

    def __init__(self) -> None:
        self._last: dict[Hashable, float] = {}
        self._seen: set[Hashable] = set()

    def increase(self, series: Hashable, value: float, *, born_now: bool = False) -> float | None:
        """Increase since the last call, >= 0; None on the first sight of a series.

        born_now: the series is known to have started at 0 within this interval (a container started since the
        last poll), so its first value is all increase and nothing is lost.
        """
        self._seen.add(series)
        last = self._last.get(series)
        self._last[series] = value
        if last is None:
            return value if born_now else None
        return value if value < last else value - last

    def sweep(self) -> None:
        """Forget the series not seen since the last sweep, so that dead containers cost no memory."""
        for series in self._last.keys() - self._seen:
            del self._last[series]
        self._seen.clear()
