"""The demo's containers as the daemon sees them: CPU, memory, network, block I/O, state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from collectors.synthetic.layout import ENDPOINTS, GIB, MEMBERS
from collectors.synthetic.load import Load, day_cycle
from collectors.synthetic.noise import Floats, Noise
from collectors.synthetic.story import CRASHER, LEAK, NOISY, TRAINER, Story

Whole = NDArray[np.int64]
_PIDS = {"vllm": 214, "embedding": 96, "batch": 38, "notebook": 61, "training": 142, "gateway": 24, "support": 17,
         "job": 12, "transcode": 9, "failed": 0}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """All containers (columns) at all instants (rows); increments cover the interval before."""

    running: NDArray[np.bool_]
    cpu_seconds: Floats
    cpu_periods: Whole
    throttled_periods: Whole
    throttled_seconds: Floats
    memory: Whole
    cache: Whole
    received: Whole
    sent: Whole
    read: Whole
    written: Whole
    pids: Whole
    restarts: Whole
    oom_kills: Whole


class ProcessModel:
    """Container figures that agree with the load."""

    def __init__(self, noise: Noise, story: Story) -> None:
        self._noise, self._story = noise, story

    def running(self, seconds: Floats) -> NDArray[np.bool_]:
        """Which containers run at each instant."""
        flags = self._story.running(seconds)
        flags[:, NOISY] = self._story.noisy(seconds)
        return flags

    def processes(self, seconds: Floats, interval: float, load: Load, running: NDArray[np.bool_]) -> Processes:
        """All containers at each instant."""
        noise, width, shape = self._noise, len(MEMBERS), (seconds.size, len(MEMBERS))
        ticks = np.round(seconds * 1000).astype(np.int64)
        activity = self._activity(seconds, load)
        idle = np.array([member.cores[0] for member in MEMBERS])
        span = np.array([member.cores[1] for member in MEMBERS])
        limit = np.array([member.core_limit or np.inf for member in MEMBERS])
        cores = np.minimum((idle + span * activity) * (0.93 + 0.14 * noise.uniform(11, width, ticks)), limit)
        squeeze = np.clip((cores / limit - 0.75) / 0.25, 0.0, 1.0)
        periods = np.where(np.isfinite(limit), round(interval * 10), 0) * np.ones(shape, dtype=np.int64)
        throttled = np.floor(periods * squeeze * 0.45).astype(np.int64)

        base = np.array([member.memory_gib for member in MEMBERS])
        memory = base * (0.92 + 0.08 * noise.smooth(12, width, seconds, 3600.0) + 0.12 * activity)
        memory[:, LEAK] = 1.2 + 6.75 * self._story.leak_fill(seconds)
        room = np.array([member.memory_limit_gib or np.inf for member in MEMBERS])
        memory = np.minimum(memory, room)

        received, sent = self._traffic(load, activity, interval, shape)
        read = activity * np.array([3e7 if member.role == "training" else 4e4 for member in MEMBERS]) * interval
        written = activity * 9e4 * interval
        loader = next(index for index, member in enumerate(MEMBERS) if member.service == "data-loader")
        read[:, loader] = activity[:, loader] * 1.8e8 * interval
        written[:, TRAINER] = np.where(np.mod(seconds - 700.0, 1800.0) < 120.0, 1.1e9, 2e5) * interval

        restarts, oom_kills = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        oom_kills[:, LEAK] = restarts[:, LEAK] = self._story.leak_kills(seconds, interval)
        restarts[:, CRASHER] = self._story.crash_starts(seconds, interval)
        return Processes(
            running=running, cpu_seconds=np.round(cores * interval, 4), cpu_periods=periods,
            throttled_periods=throttled, throttled_seconds=throttled.astype(np.float64) * 0.03125,
            memory=(memory * GIB).astype(np.int64),
            cache=(base * GIB * 0.4 * (0.8 + 0.2 * noise.smooth(13, width, seconds, 7200.0))).astype(np.int64),
            received=received.astype(np.int64), sent=sent.astype(np.int64), read=read.astype(np.int64),
            written=written.astype(np.int64),
            pids=(np.array([_PIDS[member.role] for member in MEMBERS]) + np.round(activity * 6)).astype(np.int64),
            restarts=restarts, oom_kills=oom_kills,
        )  # fmt: skip

    def _activity(self, seconds: Floats, load: Load) -> Floats:
        """How busy each container is, 0-1."""
        wave = self._noise.smooth(14, len(MEMBERS), seconds, 540.0)
        rhythm = {
            tenant: day_cycle(tenant, seconds, self._story.origin) for tenant in {member.tenant for member in MEMBERS}
        }
        columns: list[Floats] = []
        for index, member in enumerate(MEMBERS):
            swing, day = wave[:, index], rhythm[member.tenant]
            if member.role == "training":
                columns.append(0.85 + 0.1 * swing)
            elif member.role == "notebook":
                columns.append(0.05 * swing)
            elif member.service == "eval-runner":
                columns.append(np.where(swing > 0.55, 0.9, 0.02))
            elif member.role == "transcode":
                columns.append(np.where(self._story.transcodes(seconds), 0.6 + 0.3 * swing, 0.02))
            elif member.role in ("batch", "job"):
                columns.append(0.55 + 0.35 * swing)
            elif member.role == "gateway":
                columns.append(np.clip(day * (0.75 + 0.3 * swing), 0.0, 1.0))
            else:
                columns.append(0.1 + 0.6 * day * swing)
        activity = np.stack(columns, axis=1)
        for column, endpoint in enumerate(ENDPOINTS):
            activity[:, endpoint.member] = load.utilisation[:, column]
        return activity

    def _traffic(self, load: Load, activity: Floats, interval: float, shape: tuple[int, int]) -> tuple[Floats, Floats]:
        scale = np.array([9e5 if member.role == "gateway" else 6e4 for member in MEMBERS])
        received, sent = activity * scale * interval, activity * scale * 1.3 * interval
        for column, endpoint in enumerate(ENDPOINTS):
            # About 4 bytes a prompt token and, streamed as events, about 180 bytes a generated one.
            received[:, endpoint.member] = load.prompt_tokens[:, column] * 4.4 + load.requests[:, column] * 900
            sent[:, endpoint.member] = load.generation_tokens[:, column] * 180 + load.requests[:, column] * 700
        assert received.shape == shape  # noqa: S101 - a wrong axis here would broadcast silently
        return received, sent
