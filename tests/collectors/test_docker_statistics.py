"""Readings -> samples: hand-worked increments, intervals from the monotonic clock, unknown never 0."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from collectors.cgroups import ContainerGoneError, Counters
from collectors.containers import Listed
from collectors.docker_inventory import Known, Life
from collectors.docker_statistics import FIRST_READING, Sampler, counters_from_stats, lifetime_of
from fleet.inventory import ContainerFacts
from fleet.model import Container, ContainerSample

AT = datetime(2026, 11, 22, 6, tzinfo=UTC)


def known(name: str = "a", started: datetime = AT) -> Known:
    row = Container(
        seen_at=AT, host="h", tenant="t", team="", owner="", tenant_origin="none", container_key=f"h:{name}",
        container_id=name, name=name, image="i", image_id="", image_digest="", started_at=started, cpu_limit_cores=2.0,
        memory_limit_bytes=100,
    )  # fmt: skip
    listed = Listed(container_id=name, state="running", health="healthy", fingerprint=())
    return Known(listed=listed, life=Life(born_here=False), facts=ContainerFacts(row=row))


def cycle(sampler: Sampler, now: float, *readings: tuple[Known, Counters]) -> list[ContainerSample]:
    sampler.begin({each.listed.container_id for each, _ in readings}, now)
    samples = [sampler.sample(each, counters, AT, now, ooms_known=True) for each, counters in readings]
    sampler.end({lifetime_of(each) for each, _ in readings})
    return samples


def test_a_counter_becomes_its_increase_over_the_interval() -> None:
    sampler, each = Sampler(5.0), known()
    (first,) = cycle(sampler, 100.0, (each, Counters(cpu_seconds=50.0, network_receive_bytes=1000, pids=3)))
    assert first.cpu_seconds is None
    assert first.unknown_reason == FIRST_READING
    assert (first.pids, first.interval_seconds) == (3, 5.0)
    (second,) = cycle(sampler, 104.0, (each, Counters(cpu_seconds=52.5, network_receive_bytes=1600)))
    assert (second.cpu_seconds, second.network_receive_bytes, second.interval_seconds) == (2.5, 600, 4.0)
    assert second.unknown_reason == ""
    assert second.cpu_periods is None
    assert (second.cpu_limit_cores, second.memory_limit_bytes, second.state, second.health) == (
        2.0, 100, "running", "healthy",
    )  # fmt: skip


def test_a_container_born_between_two_cycles_counts_from_zero() -> None:
    sampler, old, new = Sampler(5.0), known("old"), known("new")
    cycle(sampler, 0.0, (old, Counters(cpu_seconds=1.0)))
    samples = cycle(sampler, 5.0, (old, Counters(cpu_seconds=2.0)), (new, Counters(cpu_seconds=0.75)))
    assert [(row.cpu_seconds, row.interval_seconds) for row in samples] == [(1.0, 5.0), (0.75, 5.0)]


def test_a_restarted_container_counts_from_zero_again() -> None:
    sampler, each = Sampler(5.0), known()
    cycle(sampler, 0.0, (each, Counters(cpu_seconds=10.0)))
    again = known(started=AT + timedelta(seconds=3))
    (row,) = cycle(sampler, 5.0, (again, Counters(cpu_seconds=12.0)))
    assert row.cpu_seconds == 12.0


def test_a_missed_cycle_is_covered_by_the_next_reading() -> None:
    sampler, each, other = Sampler(5.0), known(), known("b")
    cycle(sampler, 0.0, (each, Counters(cpu_seconds=1.0)), (other, Counters(cpu_seconds=0.0)))
    sampler.begin({"a", "b"}, 5.0)
    missed = sampler.unreadable(each, AT, "timeout: no answer")
    sampler.end({lifetime_of(each), lifetime_of(other)})
    assert (missed.cpu_seconds, missed.memory_working_set_bytes) == (None, None)
    assert (missed.interval_seconds, missed.unknown_reason) == (5.0, "timeout: no answer")
    (row,) = cycle(sampler, 10.0, (each, Counters(cpu_seconds=7.0)))
    assert (row.cpu_seconds, row.interval_seconds) == (6.0, 10.0)


def test_increments_over_any_cycles_add_up_to_the_counter() -> None:
    sampler, each = Sampler(5.0), known()
    values = [3.0, 3.0, 4.5, 9.25, 9.5, 20.0]
    rows = [cycle(sampler, 5.0 * n, (each, Counters(cpu_seconds=value)))[0] for n, value in enumerate(values)]
    assert sum(row.cpu_seconds or 0 for row in rows) == values[-1] - values[0]


def test_a_clock_that_does_not_move_gives_no_zero_interval() -> None:
    sampler, each = Sampler(5.0), known()
    cycle(sampler, 7.0, (each, Counters(cpu_seconds=1.0)))
    (row,) = cycle(sampler, 7.0, (each, Counters(cpu_seconds=1.0)))
    assert row.interval_seconds > 0


def test_oom_kills_are_unknown_only_when_nobody_could_have_told() -> None:
    sampler, each = Sampler(5.0), known()
    sampler.begin({"a"}, 0.0)
    deaf = sampler.sample(each, Counters(cpu_seconds=1.0), AT, 0.0, ooms_known=False)
    assert deaf.oom_kills is None
    assert sampler.sample(each, Counters(cpu_seconds=1.0, oom_kills=7), AT, 1.0, ooms_known=False).oom_kills == 0
    assert sampler.sample(each, Counters(cpu_seconds=1.0, oom_kills=9), AT, 2.0, ooms_known=False).oom_kills == 2


STATS = {
    "read": "2026-11-22T06:13:34Z",
    "pids_stats": {"current": 2},
    "blkio_stats": {"io_service_bytes_recursive": [
        {"major": 8, "minor": 0, "op": "Read", "value": 4096}, {"op": "read", "value": 4}, {"op": "write", "value": 7},
        {"op": "Total", "value": 999},
    ]},
    "cpu_stats": {
        "cpu_usage": {"total_usage": 140784249},
        "throttling_data": {"periods": 27, "throttled_periods": 3, "throttled_time": 115209856},
    },
    "memory_stats": {"usage": 5947392, "limit": 1, "stats": {"total_inactive_file": 5242880, "total_cache": 5246976}},
    "networks": {"eth0": {"rx_bytes": 200, "tx_bytes": 70}, "eth1": {"rx_bytes": 1000, "tx_bytes": 30}},
}  # fmt: skip


def test_the_daemons_answer_gives_the_same_numbers_as_the_files() -> None:
    assert counters_from_stats(STATS) == Counters(
        cpu_seconds=0.140784249, cpu_periods=27, cpu_throttled_periods=3, cpu_throttled_seconds=0.115209856,
        memory_working_set_bytes=704512, memory_cache_bytes=5246976, network_receive_bytes=1200,
        network_transmit_bytes=100, block_read_bytes=4100, block_write_bytes=7, pids=2,
    )  # fmt: skip


def test_the_answer_of_a_v2_host_is_read_too() -> None:
    memory = {"usage": 100, "stats": {"inactive_file": 30, "file": 50}}
    counters = counters_from_stats(
        {**STATS, "memory_stats": memory, "blkio_stats": {"io_service_bytes_recursive": None}}
    )
    assert (counters.memory_working_set_bytes, counters.memory_cache_bytes) == (70, 50)
    assert (counters.block_read_bytes, counters.block_write_bytes) == (0, 0)


def test_an_answer_with_holes_is_unknown_not_zero() -> None:
    counters = counters_from_stats({"read": "2026-11-22T06:13:34Z"})
    assert replace(counters, unknown="") == Counters()
    assert counters.unknown == (
        "cpu: not in the daemon's answer; memory: not in the daemon's answer; network: not in the daemon's answer"
    )


def test_the_answer_of_an_ended_container_is_gone() -> None:
    with pytest.raises(ContainerGoneError):
        counters_from_stats({**STATS, "read": "0001-01-01T00:00:00Z"})


def test_a_container_without_network_has_no_traffic_and_a_borrowed_one_is_unknown() -> None:
    quiet = {key: value for key, value in STATS.items() if key != "networks"}
    assert counters_from_stats(quiet, network_mode="none").network_receive_bytes == 0
    assert counters_from_stats(STATS, network_mode="container:x").network_receive_bytes is None
    assert counters_from_stats(STATS, network_mode="host").network_receive_bytes is None
