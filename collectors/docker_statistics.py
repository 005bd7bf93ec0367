"""Readings of containers -> stored samples: counters become increments, each over the time it really covers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import cast

from collectors.cgroups import ContainerGoneError, Counters, working_set
from collectors.docker_inventory import Known
from fleet.increase import IncreaseTracker
from fleet.model import ContainerSample

_SHORTEST_SECONDS = 0.001
_SWEEP_CYCLES = 60
FIRST_READING = "first reading: increments begin with the next one"

Lifetime = tuple[str, datetime | None]


class Sampler:
    """Turns one reading per container and cycle into rows. Seconds are of one monotonic clock, so that no step of the
    wall clock can make an interval negative or a rate absurd.
    """

    def __init__(self, default_interval_seconds: float) -> None:
        self._default_interval_seconds = default_interval_seconds
        self._tracker = IncreaseTracker()
        self._read_at: dict[Lifetime, float] = {}
        self._before: set[str] | None = None  # ran before we looked and not read since
        self._cycle_at: float | None = None
        self._interval_seconds = default_interval_seconds
        self._cycles = 0

    def begin(self, live_ids: set[str], now: float) -> None:
        """Start a cycle."""
        if self._before is None:
            self._before = set(live_ids)
        if self._cycle_at is not None:
            self._interval_seconds = max(now - self._cycle_at, _SHORTEST_SECONDS)
        self._cycle_at = now

    def end(self, lifetimes: set[Lifetime]) -> None:
        """End a cycle: forget the lives that are over."""
        for lifetime in self._read_at.keys() - lifetimes:
            del self._read_at[lifetime]
        self._cycles += 1
        if self._cycles % _SWEEP_CYCLES == 0:
            self._tracker.sweep()

    def unreadable(self, known: Known, at: datetime, reason: str, *, ooms_known: bool = True) -> ContainerSample:
        """The row of a container whose numbers could not be taken: all unknown, with the reason."""
        return self._row(known, at, self._interval_seconds, Counters(unknown=reason), {}, ooms_known=ooms_known)

    def sample(
        self, known: Known, counters: Counters, at: datetime, now: float, *, ooms_known: bool
    ) -> ContainerSample:
        """The row of one reading. Increments are None in the first reading of a container that ran before we looked.

        ooms_known: OOM events are heard, so that no event means no kill.
        """
        lifetime = lifetime_of(known)
        last = self._read_at.get(lifetime)
        self._read_at[lifetime] = now
        born_now = False
        if last is None and self._before is not None:
            born_now = lifetime[0] not in self._before
            self._before.discard(lifetime[0])
        if last is not None:
            interval = max(now - last, _SHORTEST_SECONDS)
        else:
            interval = self._interval_seconds if born_now else self._default_interval_seconds
            if not born_now:
                counters.unknown = "; ".join(part for part in (FIRST_READING, counters.unknown) if part)
        increments: dict[str, float | None] = {}
        for name in (
            "cpu_seconds", "cpu_periods", "cpu_throttled_periods", "cpu_throttled_seconds", "network_receive_bytes",
            "network_transmit_bytes", "block_read_bytes", "block_write_bytes", "oom_kills",
        ):  # fmt: skip
            value: float | None = getattr(counters, name)
            increments[name] = (
                None if value is None else self._tracker.increase((lifetime, name), value, born_now=born_now)
            )
        if counters.oom_kills is not None:
            known.life.ooms_by_cgroup += int(increments["oom_kills"] or 0)
        return self._row(
            known, at, interval, counters, increments, ooms_known=ooms_known or counters.oom_kills is not None
        )

    @staticmethod
    def _row(
        known: Known,
        at: datetime,
        interval_seconds: float,
        counters: Counters,
        increments: Mapping[str, float | None],
        *,
        ooms_known: bool,
    ) -> ContainerSample:
        assert known.facts is not None  # noqa: S101 - callers pass inspected containers only
        row = known.facts.row
        restarts, ooms = known.life.tell()
        return ContainerSample(
            at=at,
            host=row.host,
            tenant=row.tenant,
            container_key=row.container_key,
            container_id=row.container_id,
            interval_seconds=interval_seconds,
            cpu_seconds=increments.get("cpu_seconds"),
            cpu_periods=_whole(increments.get("cpu_periods")),
            cpu_throttled_periods=_whole(increments.get("cpu_throttled_periods")),
            cpu_throttled_seconds=increments.get("cpu_throttled_seconds"),
            cpu_limit_cores=row.cpu_limit_cores,
            memory_working_set_bytes=counters.memory_working_set_bytes,
            memory_cache_bytes=counters.memory_cache_bytes,
            memory_limit_bytes=counters.memory_limit_bytes or row.memory_limit_bytes,
            network_receive_bytes=_whole(increments.get("network_receive_bytes")),
            network_transmit_bytes=_whole(increments.get("network_transmit_bytes")),
            block_read_bytes=_whole(increments.get("block_read_bytes")),
            block_write_bytes=_whole(increments.get("block_write_bytes")),
            pids=counters.pids,
            restarts=restarts,
            oom_kills=ooms if ooms or ooms_known else None,
            state=known.listed.state,
            health=known.listed.health,
            unknown_reason=counters.unknown,
        )


def lifetime_of(known: Known) -> Lifetime:
    """One run of one container: its counters begin at 0 with it."""
    started = None if known.facts is None else known.facts.row.started_at
    return known.listed.container_id, started


def counters_from_stats(stats: Mapping[str, object], *, network_mode: str = "") -> Counters:
    """One answer of the daemon's statistics API. Raises ContainerGoneError for that of a container that ended."""
    if str(stats.get("read", "")).startswith("0001-"):
        raise ContainerGoneError(str(stats.get("id", "")))
    cpu, memory = _mapping(stats.get("cpu_stats")), _mapping(stats.get("memory_stats"))
    usage, throttling = _mapping(cpu.get("cpu_usage")), _mapping(cpu.get("throttling_data"))
    details = _mapping(memory.get("stats"))
    counters = Counters()
    missing: list[str] = []
    total = _number(usage.get("total_usage"))
    if total is None:
        missing.append("cpu: not in the daemon's answer")
    counters.cpu_seconds = None if total is None else total / 1e9
    counters.cpu_periods = _number(throttling.get("periods"))
    counters.cpu_throttled_periods = _number(throttling.get("throttled_periods"))
    throttled = _number(throttling.get("throttled_time"))
    counters.cpu_throttled_seconds = None if throttled is None else throttled / 1e9
    used = _number(memory.get("usage"))
    if used is None:
        missing.append("memory: not in the daemon's answer")
    else:
        inactive = details.get("total_inactive_file", details.get("inactive_file"))
        counters.memory_working_set_bytes = working_set(used, _number(inactive))
        counters.memory_cache_bytes = _number(details.get("total_cache", details.get("file")))
    # The daemon answers the machine's memory where there is no limit, so the limit comes from the inspection.
    counters.pids = _number(_mapping(stats.get("pids_stats")).get("current"))
    blocks = _mapping(stats.get("blkio_stats"))
    if "io_service_bytes_recursive" in blocks:
        entries = blocks["io_service_bytes_recursive"]
        read = written = 0
        for entry in cast("list[object]", entries) if isinstance(entries, list) else ():
            operation, value = str(_mapping(entry).get("op", "")).lower(), _number(_mapping(entry).get("value")) or 0
            read += value if operation == "read" else 0
            written += value if operation == "write" else 0
        counters.block_read_bytes, counters.block_write_bytes = read, written
    networks: object = stats.get("networks")
    if network_mode == "host":
        missing.append("network: uses the host's, so its traffic cannot be told from the host's")
    elif network_mode.startswith("container:"):
        missing.append("network: shares that of another container, where it is counted")
    elif isinstance(networks, Mapping) or network_mode == "none":
        each = [_mapping(item) for item in _mapping(stats.get("networks")).values()]
        counters.network_receive_bytes = sum(_number(item.get("rx_bytes")) or 0 for item in each)
        counters.network_transmit_bytes = sum(_number(item.get("tx_bytes")) or 0 for item in each)
    else:
        missing.append("network: not in the daemon's answer")
    counters.unknown = "; ".join(missing)
    return counters


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
