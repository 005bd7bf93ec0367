"""Request lengths of the demo: quantiles of a published trace (fleet/catalog/demo/README.md)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from collectors.synthetic.noise import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """One distribution of token counts: `tokens[i]` is its quantile `ranks[i]`."""

    ranks: Floats
    tokens: Floats

    @property
    def mean(self) -> float:
        """Mean length in tokens."""
        return float(np.trapezoid(self.tokens, self.ranks))

    def scaled(self, factor: float) -> Lengths:
        """The same shape with every length multiplied, at least one token."""
        return Lengths(ranks=self.ranks, tokens=np.maximum(self.tokens * factor, 1.0))

    def below(self, tokens: Floats) -> Floats:
        """Share of requests of at most that many tokens."""
        # The trace repeats lengths, so its quantiles have flat steps: a hair of slope keeps interp single-valued.
        return np.interp(tokens, self.tokens + np.arange(self.tokens.size) * 1e-9, self.ranks, left=0.0, right=1.0)

    def bucket_means(self, bounds: tuple[float, ...]) -> Floats:
        """Mean length inside each bucket (the last bound is +Inf); the bucket's middle where it is empty."""
        fine = (np.arange(4000) + 0.5) / 4000
        lengths = np.interp(fine, self.ranks, self.tokens)
        bucket = np.searchsorted(np.asarray(bounds), lengths, side="left")
        edges = np.asarray((0.0, *bounds[:-1], bounds[-2] * 2.0))
        middles = (edges[:-1] + edges[1:]) / 2.0
        counts = np.bincount(bucket, minlength=len(bounds))
        sums = np.bincount(bucket, weights=lengths, minlength=len(bounds))
        return np.where(counts > 0, sums / np.maximum(counts, 1), middles)


def trace_lengths() -> tuple[Lengths, Lengths]:
    """(prompt, generated) lengths of the trace, in tokens."""
    text = (files("fleet") / "catalog/demo/azure_llm_conv_2023_quantiles.csv").read_text(encoding="utf-8")
    table = [tuple(float(cell) for cell in row) for row in list(csv.reader(text.splitlines()))[1:]]
    ranks, prompt, generated = (np.array(column, dtype=np.float64) for column in zip(*table, strict=True))
    return Lengths(ranks=ranks, tokens=prompt), Lengths(ranks=ranks, tokens=np.maximum(generated, 1.0))
