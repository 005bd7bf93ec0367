"""The demo's GPUs: what containers use of each, what is left unattributed, and what the device then reports.

The device is computed as the sum of its parts, so containers + unattributed = device holds by construction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from collectors.synthetic.layout import (
    ENDPOINTS,
    GPUS_PER_HOST,
    HOSTS,
    MEMBERS,
    MIB,
    MIG,
    MIG_DEVICES,
    MIG_GPU,
    GpuModel,
)
from collectors.synthetic.load import Load, day_cycle
from collectors.synthetic.noise import Floats, Noise
from collectors.synthetic.story import HOT_GPU, JOB, NOISY, STRAY_GPU, TRAINER, TRANSCODE, XID_GPU, XIDS, Story

Whole = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU, or a MIG device (`mig` counts them from 0, `slices` of seven). `index` is that of the whole GPU."""

    host: str
    index: int
    model: GpuModel
    memory_bytes: int
    mig: int | None = None
    profile: str = ""
    slices: int = 7

    @property
    def cut(self) -> bool:
        """Whether this is the GPU in MIG mode, for which its devices stand."""
        return self.mig is None and (self.host, self.index) == MIG_GPU


_HOST_INDEX = {host: index for index, (host, _) in enumerate(HOSTS)}
_WHOLE = tuple(
    Device(host=host, index=index, model=model, memory_bytes=model.memory_bytes)
    for host, model in HOSTS
    for index in range(GPUS_PER_HOST)
)
#: All whole GPUs, then the MIG devices.
GPUS: tuple[Device, ...] = _WHOLE + tuple(
    Device(
        host=MIG_GPU[0], index=MIG_GPU[1], model=dict(HOSTS)[MIG_GPU[0]], memory_bytes=mib * MIB, mig=place,
        profile=profile, slices=slices,
    )
    for place, (profile, slices, mib) in enumerate(MIG_DEVICES)
)  # fmt: skip
_SW_POWER_CAP, _SW_THERMAL, _HW_THERMAL, _IDLE = 0x4, 0x20, 0x40, 0x1
_RESERVED_BYTES = 614 * MIB


def gpu_number(place: tuple[str, int]) -> int:
    """Position in GPUS of (host, index); an index from `MIG` on is a MIG device."""
    host, index = place
    return len(_WHOLE) + index - MIG if index >= MIG else _HOST_INDEX[host] * GPUS_PER_HOST + index


#: (member, gpu, bytes) for every container on every GPU it was given, or takes.
HOLDINGS: tuple[tuple[int, int, int], ...] = tuple(
    (number, gpu_number((member.host, index)), round(gib * 1024) * MIB)
    for number, member in enumerate(MEMBERS)
    for index, gib in member.gpus
)
_GIVEN = np.array([not MEMBERS[member].takes for member, _, _ in HOLDINGS])
_CUT = gpu_number(MIG_GPU)
_SLICED = slice(len(_WHOLE), len(GPUS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """All GPUs (columns) at all instants (rows); `held_*` have one column per HOLDINGS entry."""

    held_present: NDArray[np.bool_]
    held_memory: Whole
    held_sm: Floats
    held_watts: Floats
    stray_memory: Whole
    stray_sm: Floats
    stray_watts: Floats
    busy: Floats
    sm_active: Floats
    memory_used: Whole
    watts: Floats
    temperature: Floats
    clock_mhz: Whole
    throttle: Whole
    processes: Whole
    holders: Whole
    encoder: Floats
    decoder: Floats
    received: Floats  # over PCIe, bytes a second
    nvlink: Floats  # bytes a second, each way
    xid: Whole
    alone: NDArray[np.bool_]  # a holding whose container is the only one that works on the device
    broken: NDArray[np.bool_]  # an uncorrectable error has happened and a row waits to be remapped


class DeviceModel:
    """GPU figures that agree with the load."""

    def __init__(self, noise: Noise, story: Story) -> None:
        self._noise, self._story = noise, story

    def devices(self, seconds: Floats, interval: float, load: Load, running: NDArray[np.bool_]) -> Devices:
        """All devices at each instant."""
        ticks = np.round(seconds * 1000).astype(np.int64)
        present = running[:, [member for member, _, _ in HOLDINGS]]
        held_sm = np.where(present, self._activity(seconds, ticks, load), 0.0)
        spread = self._noise.uniform(20, len(HOLDINGS), ticks)
        sizes = np.array([size for _, _, size in HOLDINGS])
        held_memory = np.maximum(sizes - (spread * 24).astype(np.int64) * MIB, 0) * (sizes > 0)
        held_memory = np.where(present, held_memory, 0)

        onto = np.zeros((len(HOLDINGS), len(GPUS)))
        onto[np.arange(len(HOLDINGS)), [gpu for _, gpu, _ in HOLDINGS]] = 1.0
        stray_sm = 0.004 * self._noise.uniform(21, len(GPUS), ticks)
        stray_memory = (430 + 90 * self._noise.smooth(22, len(GPUS), seconds, 7200.0)).astype(np.int64) * MIB
        stray = gpu_number(STRAY_GPU)
        stray_sm[:, stray] += 0.05 + 0.03 * self._noise.smooth(23, 1, seconds, 300.0)[:, 0]
        stray_memory[:, stray] += 6144 * MIB
        # Inside a MIG device there is nothing but what was put there: no other process, no share of its own to tell.
        stray_sm[:, _SLICED], stray_memory[:, _SLICED] = 0.0, 38 * MIB

        demand = held_sm @ onto + stray_sm
        fit = np.minimum(1.0, 0.995 / np.maximum(demand, 1e-9))
        held_sm, stray_sm = np.round(held_sm * (fit @ onto.T), 4), np.round(stray_sm * fit, 4)
        busy = held_sm @ onto + stray_sm

        idle = np.array([0.0 if gpu.mig is not None else gpu.model.idle_watts for gpu in GPUS])
        limit = np.array([gpu.model.limit_watts for gpu in GPUS])
        limit[_SLICED] = [(gpu.model.limit_watts - gpu.model.idle_watts) * gpu.slices / 7 for gpu in GPUS[_SLICED]]
        flicker = 0.97 + 0.06 * self._noise.uniform(24, len(GPUS), ticks)
        active = (limit * 0.96 - idle) * busy**0.85 * flicker
        active = np.minimum(active, limit - idle)
        per_share = np.where(busy > 0, active / np.maximum(busy, 1e-9), 0.0)
        held_watts = np.round(held_sm * (per_share @ onto.T), 2)
        stray_watts = np.round(idle + stray_sm * per_share, 2)  # idle power belongs to nobody: it stays unattributed
        watts = held_watts @ onto + stray_watts
        memory = held_memory @ onto.astype(np.int64) + stray_memory
        # The board tells its power and memory with those of its MIG devices; power is told for nothing smaller.
        watts[:, _CUT] = stray_watts[:, _CUT] = np.round(np.minimum(
            watts[:, _CUT] + watts[:, _SLICED].sum(axis=1), limit[_CUT]
        ), 2)  # fmt: skip
        memory[:, _CUT] += memory[:, _SLICED].sum(axis=1)

        throttle, temperature = self._heat(seconds, watts, busy, limit)
        slowed = (throttle & (_SW_THERMAL | _HW_THERMAL)) > 0
        base = np.array([gpu.model.clock_mhz for gpu in GPUS])
        clock = np.where(watts < idle + 8.0, 345, base * np.where(slowed, 0.71, 1.0 - 0.06 * busy)).astype(np.int64)
        working = present & (sizes > 0)
        occupied = (working @ onto).astype(np.int64)
        alone = working & (occupied @ onto.astype(np.int64).T == 1)
        occupied[:, stray] += 1
        occupied[:, _CUT] = occupied[:, _SLICED].sum(axis=1)
        broken = np.zeros_like(busy, dtype=np.bool_)
        xid = np.zeros_like(memory)
        hit = gpu_number(XID_GPU)
        broken[:, hit] = seconds >= self._story.xid_at
        for number, later in XIDS:
            at = self._story.xid_at + later
            xid[:, hit] += np.where((seconds >= at) & (seconds - interval < at), number, 0)
        encoder, decoder = np.zeros_like(busy), np.zeros_like(busy)
        video = gpu_number((MEMBERS[TRANSCODE].host, MEMBERS[TRANSCODE].gpus[0][0]))
        swing = self._noise.smooth(27, 2, seconds, 240.0)
        at_work = self._story.transcodes(seconds)
        encoder[:, video] = np.round(np.where(at_work, 0.48 + 0.3 * swing[:, 0], 0.0), 4)
        decoder[:, video] = np.round(np.where(at_work, 0.22 + 0.2 * swing[:, 1], 0.0), 4)
        return Devices(
            held_present=present, held_memory=held_memory, held_sm=held_sm, held_watts=held_watts,
            stray_memory=stray_memory, stray_sm=stray_sm, stray_watts=stray_watts, busy=busy,
            sm_active=np.round(busy * (0.62 + 0.1 * self._noise.smooth(25, len(GPUS), seconds, 900.0)), 4),
            memory_used=memory, watts=watts, temperature=temperature, clock_mhz=clock, throttle=throttle,
            processes=occupied, holders=((present & _GIVEN) @ onto).astype(np.int64), encoder=encoder,
            decoder=decoder, received=2.1e9 * busy * flicker + 4.0e5, nvlink=9.0e9 * busy * flicker, xid=xid,
            alone=alone, broken=broken,
        )  # fmt: skip

    def _heat(self, seconds: Floats, watts: Floats, busy: Floats, limit: Floats) -> tuple[Whole, Floats]:
        room = 27.0 + 2.5 * np.sin(seconds / 86400.0 * 2 * np.pi - 2.0)
        warmth = np.array([gpu.model.warmth for gpu in GPUS])
        temperature = room[:, None] + warmth * watts + 3.0 * self._noise.smooth(26, len(GPUS), seconds, 600.0)
        temperature[:, gpu_number(HOT_GPU)] += 19.0  # a blocked fan: full load does not fit under the limit
        throttle = np.where(busy < 0.01, _IDLE, 0)
        throttle |= np.where(watts > 0.97 * limit, _SW_POWER_CAP, 0)
        throttle |= np.where(temperature >= 85.0, _SW_THERMAL, 0)
        throttle |= np.where(temperature >= 89.0, _HW_THERMAL, 0)
        return throttle.astype(np.int64), np.asarray(np.round(np.minimum(temperature, 92.0), 0), dtype=np.float64)

    def _activity(self, seconds: Floats, ticks: NDArray[np.int64], load: Load) -> Floats:
        """SM share wanted by each holding."""
        noise, width = self._noise, len(HOLDINGS)
        jitter = 0.02 * noise.normal(30, width, ticks)
        wave = noise.smooth(31, width, seconds, 420.0)
        by_member = {endpoint.member: column for column, endpoint in enumerate(ENDPOINTS)}
        wanted = np.zeros((seconds.size, width))
        for column, (member, _, _) in enumerate(HOLDINGS):
            role, slow_wave = MEMBERS[member].role, wave[:, column]
            if member in by_member:
                weight = 0.55 if role == "embedding" else 0.94
                asked = load.utilisation[:, by_member[member]]
                level = np.where(asked > 0, 0.015 + weight * asked**0.75 + jitter[:, column], 0.0)
            elif member == NOISY:
                level = 0.52 + 0.12 * slow_wave + jitter[:, column]
            elif member == TRAINER:
                saving = np.mod(seconds - 700.0, 1800.0) < 120.0
                level = np.where(saving, 0.12, 0.93) + jitter[:, column]
            elif role == "notebook":
                level = np.where(slow_wave > 0.78, (slow_wave - 0.78) * 0.18, 0.0)
            elif member == JOB:
                level = 0.58 + 0.3 * slow_wave + jitter[:, column]
            elif member == TRANSCODE:
                level = np.where(self._story.transcodes(seconds), 0.16 + 0.1 * slow_wave + jitter[:, column], 0.0)
            elif not HOLDINGS[column][2]:  # it was given the GPU and never opened it
                level = np.zeros(seconds.size)
            elif MEMBERS[member].service == "diarizer":
                level = np.where(slow_wave > 0.35, 0.1 + 0.35 * slow_wave, 0.0) + np.abs(jitter[:, column]) * 0.5
            else:  # the OCR batch follows its tenant's office hours, and runs a backlog at night
                level = (
                    0.45
                    + 0.5 * np.maximum(day_cycle("initech", seconds, self._story.origin), 0.9 * slow_wave)
                    + jitter[:, column]
                )
            wanted[:, column] = level
        return np.clip(wanted, 0.0, 0.99)
