"""From demand to tokens, queues and latency, for all endpoints and instants at once.

One number drives everything: utilisation = demand / capacity. Waiting grows as u^6 / (1 - u), the time between
tokens with the batch, GPU activity with utilisation; so the signals of one incident agree with one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, pi

import numpy as np
from numpy.typing import NDArray

from collectors.synthetic.layout import ENDPOINTS, MEMBERS
from collectors.synthetic.lengths import Lengths, trace_lengths
from collectors.synthetic.noise import Floats, Noise
from collectors.synthetic.story import DAY, DEPLOYED, DRIFTER, VICTIM, Story

#: vLLM 0.33 default buckets (vllm/v1/metrics/buckets.py), seconds.
TTFT_BOUNDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0, inf,
)  # fmt: skip
ITL_BOUNDS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, inf,
)  # fmt: skip
REQUEST_BOUNDS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0, inf,
)  # fmt: skip
#: vLLM's 1-2-5 series up to a model length of 32,768 tokens.
TOKEN_BOUNDS = (
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0, inf,
)  # fmt: skip

#: (hours from the demo's start to the tenant's busiest hour, share left in the quietest hour, weekend factor). Counted
#: from the start, not from midnight, so that a first look never falls into everybody's night.
RHYTHM: dict[str, tuple[float, float, float]] = {
    "acme": (0.8, 0.22, 0.86),
    "globex": (4.0, 0.18, 0.80),
    "initech": (-2.0, 0.12, 0.55),
    "umbrella-research": (0.0, 0.40, 0.70),
    "hooli": (2.0, 0.30, 0.90),
    "platform": (0.5, 0.45, 0.80),
}
DRIFT_FACTOR = 2.6
NEIGHBOUR_SLOWDOWN = 1.75


def day_cycle(tenant: str, seconds: Floats, origin: float) -> Floats:
    """Share of a tenant's peak load at each instant, 0-1: one wave a day, lower on Saturday and Sunday (UTC)."""
    peak, floor, weekend = RHYTHM[tenant]
    wave = 0.5 + 0.5 * np.cos(((seconds - origin) / DAY - peak / 24.0) * 2.0 * pi)
    day = np.mod(np.floor(seconds / DAY) + 3.0, 7.0)  # 1970-01-01 was a Thursday; 0 = Monday
    return (floor + (1.0 - floor) * wave**1.3) * np.where(day >= 5.0, weekend, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    """One distribution for all instants and endpoints: whole counts per bucket, and the sum of the values."""

    bounds: tuple[float, ...]
    counts: Floats  # (instants, endpoints, buckets)
    sums: Floats  # (instants, endpoints)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What every endpoint (column) did in the interval before every instant (row)."""

    utilisation: Floats
    requests: Floats
    errors: Floats
    cached_tokens: Floats
    waiting: Floats
    running: Floats
    kv_cache: Floats
    buckets: dict[str, Buckets]

    @property
    def prompt_tokens(self) -> Floats:
        """Prompt tokens read."""
        return self.buckets["prompt_tokens"].sums

    @property
    def generation_tokens(self) -> Floats:
        """Tokens generated."""
        return self.buckets["generation_tokens"].sums


def _log_logistic(bounds: tuple[float, ...], median: Floats, shape: float) -> Floats:
    """Share of values below each bound: near a log-normal of deviation 1.702 / shape, without erf."""
    with np.errstate(divide="ignore"):
        ratio = median[..., None] / np.asarray(bounds)
    return 1.0 / (1.0 + ratio**shape)


def _whole_counts(bounds: tuple[float, ...], share: Floats, total: Floats, jitter: Floats, mean: Floats) -> Buckets:
    """Counts per bucket that add up to `total` (whole numbers); a common offset keeps small totals fair."""
    share = share.copy()
    share[..., -1] = 1.0
    # The offset stays below 1 by more than the rounding error of total * 1.0, so the last floor is `total` itself.
    cumulative = np.floor(total[..., None] * share + jitter[..., None] * 0.999)
    counts = np.diff(cumulative, axis=-1, prepend=0.0)
    upper = np.asarray((*bounds[:-1], bounds[-2] * 2.0))
    lower = np.asarray((0.0, *bounds[:-1]))
    sums = np.clip(total * mean, counts @ lower, counts @ upper)
    return Buckets(bounds=bounds, counts=counts, sums=sums)


class LoadModel:
    """The load of all endpoints for one seed and story."""

    def __init__(self, noise: Noise, story: Story) -> None:
        self._noise = noise
        self._story = story
        prompt, generated = trace_lengths()
        self._base = (prompt.mean, generated.mean)
        self._prompts = [prompt.scaled(endpoint.prompt_scale) for endpoint in ENDPOINTS]
        self._drifted = [
            lengths.scaled(DRIFT_FACTOR) if endpoint.member == DRIFTER else lengths
            for lengths, endpoint in zip(self._prompts, ENDPOINTS, strict=True)
        ]
        self._generated = [generated.scaled(max(endpoint.generation_scale, 1e-3)) for endpoint in ENDPOINTS]
        self._generates = np.array([endpoint.itl_seconds > 0 for endpoint in ENDPOINTS])

    def _column(self, name: str) -> Floats:
        return np.array([getattr(endpoint, name) for endpoint in ENDPOINTS], dtype=np.float64)

    def load(self, seconds: Floats, interval: float) -> Load:
        """The load in the `interval` seconds before each instant."""
        noise, width = self._noise, len(ENDPOINTS)
        ticks = np.round(seconds * 1000).astype(np.int64)
        rhythm = np.stack(
            [day_cycle(MEMBERS[endpoint.member].tenant, seconds, self._story.origin) for endpoint in ENDPOINTS], axis=1
        )
        wander = 0.80 + 0.25 * noise.smooth(1, width, seconds, 1500.0) + 0.15 * noise.smooth(2, width, seconds, 210.0)
        demand = self._column("peak_requests_per_second") * rhythm * wander * self._asked(seconds)

        drifted = (seconds >= self._story.drift_at)[:, None]
        prompt_mean = np.where(drifted, [x.mean for x in self._drifted], [x.mean for x in self._prompts])
        longer = prompt_mean / [x.mean for x in self._prompts]
        slow = self._slowdown(seconds)
        pressure = demand / self._column("capacity_requests_per_second") * (0.55 + 0.45 * longer) * slow
        utilisation = np.minimum(pressure, 0.975)
        served = demand * utilisation / np.maximum(pressure, 1e-9)

        requests = self._whole(served * interval, 3, ticks)
        error_rate = (0.0015 + 0.03 * np.maximum(utilisation - 0.93, 0.0) / 0.045) * (
            0.5 + noise.smooth(5, width, seconds, 900.0)
        )
        error_rate[:, self._endpoint_of(DEPLOYED)] += np.where(seconds >= self._story.deploy_at, 0.018, 0.0)
        errors = np.minimum(self._whole(requests * error_rate, 4, ticks), requests)

        queue_mean = 0.22 * utilisation**6 / (1.0 - utilisation) * slow
        itl = self._column("itl_seconds") * (0.85 + 1.25 * utilisation**2) * slow
        prefill = (
            self._column("prefill_seconds") * (0.8 + 0.2 * longer) * longer**0.5 * (1.0 + 1.2 * utilisation) * slow
        )
        first_token = prefill + queue_mean
        generation_mean = np.array([x.mean for x in self._generated]) * self._generates
        running = served * (prefill + generation_mean * itl) * (0.93 + 0.14 * noise.uniform(6, width, ticks))
        waiting = np.floor(served * queue_mean + noise.uniform(7, width, ticks) * 0.9)
        kv_cache = np.clip(
            running * (prompt_mean + generation_mean / 2) / self._column("kv_tokens") * self._generates, 0.0, 0.995
        )

        buckets = self._buckets(requests, drifted, first_token, itl, queue_mean, ticks)
        hit_share = 0.28 + 0.2 * noise.smooth(8, width, seconds, 5400.0)
        return Load(
            utilisation=utilisation, requests=requests, errors=errors,
            cached_tokens=np.floor(buckets["prompt_tokens"].sums * hit_share * self._generates),
            waiting=waiting, running=np.round(running), kv_cache=kv_cache, buckets=buckets,
        )  # fmt: skip

    def _asked(self, seconds: Floats) -> Floats:
        """1 while an endpoint is asked, 0 from the day on which everybody forgot it."""
        silent = self._column("silent_days")
        return np.where((silent > 0) & (seconds[:, None] >= self._story.origin - silent * DAY), 0.0, 1.0)

    def _slowdown(self, seconds: Floats) -> Floats:
        slow = np.ones((seconds.size, len(ENDPOINTS)))
        slow[:, self._endpoint_of(VICTIM)] *= np.where(self._story.noisy(seconds), NEIGHBOUR_SLOWDOWN, 1.0)
        slow[:, self._endpoint_of(DEPLOYED)] *= np.where(seconds >= self._story.deploy_at, 1.3, 1.0)
        return slow

    @staticmethod
    def _endpoint_of(member: int) -> int:
        return next(index for index, endpoint in enumerate(ENDPOINTS) if endpoint.member == member)

    def _whole(self, expected: Floats, stream: int, ticks: NDArray[np.int64]) -> Floats:
        """Whole arrivals near the expected number, with Poisson's spread."""
        spread = self._noise.normal(stream, expected.shape[1], ticks)
        rounding = self._noise.uniform(stream + 40, expected.shape[1], ticks)
        # Below one expected arrival the spread would be cut at 0 and add load; plain rounding is fair there.
        spread = np.where(expected > 4.0, spread, 0.0)
        return np.floor(np.maximum(expected + np.sqrt(expected) * spread, 0.0) + rounding)

    def _buckets(
        self, requests: Floats, drifted: np.ndarray[tuple[int, int], np.dtype[np.bool_]], first_token: Floats,
        itl: Floats, queue: Floats, ticks: NDArray[np.int64],
    ) -> dict[str, Buckets]:  # fmt: skip
        width = len(ENDPOINTS)
        jitter = {
            name: self._noise.uniform(60 + n, width, ticks) for n, name in enumerate(("p", "g", "t", "i", "e", "q"))
        }
        before = self._token_buckets(self._prompts, requests, jitter["p"])
        after = self._token_buckets(self._drifted, requests, jitter["p"])
        prompts = Buckets(
            bounds=TOKEN_BOUNDS,
            counts=np.where(drifted[..., None], after.counts, before.counts),
            sums=np.where(drifted, after.sums, before.sums),
        )
        generated = self._token_buckets(self._generated, requests * self._generates, jitter["g"])
        later_tokens = np.maximum(generated.sums - generated.counts.sum(axis=-1), 0.0)

        shape = 3.4
        ttft_mean = first_token * (pi / shape) / np.sin(pi / shape)
        ttft = _whole_counts(
            TTFT_BOUNDS, _log_logistic(TTFT_BOUNDS, first_token, shape), requests, jitter["t"], ttft_mean
        )
        gap = np.maximum(itl, 1e-4)
        itl_share = _log_logistic(ITL_BOUNDS, gap, 5.0)
        between = _whole_counts(ITL_BOUNDS, itl_share, later_tokens, jitter["i"], gap * (pi / 5.0) / np.sin(pi / 5.0))

        edges = np.asarray(REQUEST_BOUNDS)
        spent = np.maximum(edges - ttft_mean[..., None], 0.0) / gap[..., None]
        finished = np.stack([self._generated[e].below(spent[:, e]) for e in range(width)], axis=1)
        plain = _log_logistic(REQUEST_BOUNDS, first_token, shape)
        # A request ends after its first token, so at no bound may more have ended than have begun to answer.
        share = np.where(self._generates[None, :, None], np.minimum(finished, plain), plain)
        e2e_mean = ttft_mean + np.array([x.mean for x in self._generated]) * self._generates * itl
        whole = _whole_counts(REQUEST_BOUNDS, share, requests, jitter["e"], e2e_mean)
        with np.errstate(over="ignore"):
            queued = 1.0 - np.exp(-edges / np.maximum(queue[..., None], 1e-6))
        waiting = _whole_counts(REQUEST_BOUNDS, queued, requests, jitter["q"], queue)
        return {
            "e2e_seconds": whole, "ttft_seconds": ttft, "itl_seconds": between, "queue_seconds": waiting,
            "prompt_tokens": prompts, "generation_tokens": generated,
        }  # fmt: skip

    @staticmethod
    def _token_buckets(lengths: list[Lengths], total: Floats, jitter: Floats) -> Buckets:
        share = np.stack([x.below(np.asarray(TOKEN_BOUNDS)) for x in lengths])
        means = np.stack([x.bucket_means(TOKEN_BOUNDS) for x in lengths])
        buckets = _whole_counts(
            TOKEN_BOUNDS, np.broadcast_to(share, (*total.shape, len(TOKEN_BOUNDS))), total, jitter, total * 0.0
        )
        return Buckets(bounds=TOKEN_BOUNDS, counts=buckets.counts, sums=np.floor((buckets.counts * means).sum(axis=-1)))
