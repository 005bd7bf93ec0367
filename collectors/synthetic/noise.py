"""Noise as a pure function of (seed, stream, moment), so that a row never depends on what was generated before it.

A stateful generator (numpy.random) would make the rows of one instant depend on how the back-fill was cut into
blocks; a hash (SplitMix64, Steele et al. 2014) does not, and it is vectorised.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


class Noise:
    """Uniform, normal and smooth noise of one seed."""

    def __init__(self, seed: int) -> None:
        self._seed = _mix(np.array([seed % 2**63], dtype=np.uint64) + _GOLDEN)

    def uniform(self, stream: int, width: int, ticks: NDArray[np.int64]) -> Floats:
        """[0, 1) for each tick (rows) and each of `width` columns of a stream."""
        with np.errstate(over="ignore"):
            columns = np.arange(width, dtype=np.uint64) + np.uint64(stream * 1000 + 1)
            keys = _mix(self._seed + columns * _GOLDEN)
            mixed = _mix(keys[None, :] + ticks.astype(np.uint64)[:, None] * _GOLDEN)
        return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, stream: int, width: int, ticks: NDArray[np.int64]) -> Floats:
        """Near normal (mean 0, deviation 1, never beyond 3): the sum of three uniforms."""
        total = sum(self.uniform(stream * 3 + part + 500, width, ticks) for part in range(3))
        return (np.asarray(total) - 1.5) * 2.0

    def smooth(self, stream: int, width: int, seconds: Floats, period_seconds: float) -> Floats:
        """[0, 1), continuous in time, with a new target every `period_seconds`."""
        position = seconds / period_seconds
        knot = np.floor(position).astype(np.int64)
        share = (position - knot)[:, None]
        share = share * share * (3.0 - 2.0 * share)
        before, after = self.uniform(stream, width, knot), self.uniform(stream, width, knot + 1)
        return before + (after - before) * share
