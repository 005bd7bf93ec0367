"""What counts as trouble, and the sentence that says why."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.severity import (
    ContainerColumns,
    ContainerFacts,
    GpuFacts,
    Level,
    Thresholds,
    containers_in_trouble,
    is_stale,
    judge_container,
    judge_gpu,
    span_words,
    worst_xid,
)  # fmt: skip

LIMITS = Thresholds()
FRESH = {"state": "running", "age_seconds": 3.0}


def test_a_running_fresh_container_is_fine():
    judgement = judge_container(ContainerFacts(**FRESH), LIMITS)
    assert (judgement.level, judgement.why) == (Level.OK, "")


@pytest.mark.parametrize(
    ("facts", "level", "why"),
    [
        ({"oom_kills": 1}, Level.CRITICAL, "out of memory, killed once"),
        ({"restarts": 3, "exit_code": 1}, Level.CRITICAL, "crash loop: 3 restarts, last exit code 1"),
        ({"restarts": 1}, Level.WARNING, "restarted once"),
        ({"health": "unhealthy"}, Level.CRITICAL, "health check fails"),
        ({"memory_ratio": 0.93}, Level.WARNING, "memory at 93% of its limit"),
        ({"throttled_ratio": 0.30}, Level.WARNING, "CPU throttled in 30% of periods"),
        ({"error_ratio": 0.02}, Level.WARNING, "2.0% of requests fail"),
        ({"error_ratio": 0.06}, Level.CRITICAL, "6.0% of requests fail"),
        ({"ttft_p95_seconds": 2.5}, Level.WARNING, "p95 TTFT 2.5 s (limit 2 s)"),
        ({"ttft_p95_seconds": 30.0, "ttft_at_least": True}, Level.CRITICAL, "p95 TTFT ≥ 30 s (limit 2 s)"),
        ({"endpoint_up": False}, Level.CRITICAL, "metrics endpoint does not answer"),
        (
            {"idle_gpus": 2, "idle_seconds": 6 * 86400.0, "idle_peak_ratio": 0.04},
            Level.WARNING,
            "holds 2 GPUs idle for 6 d, max 4% SM",
        ),
        ({"age_seconds": 16.0}, Level.UNKNOWN, "no readings: its source does not answer"),
        ({"age_seconds": None}, Level.UNKNOWN, "no readings: its source does not answer"),
        ({"state": "exited", "exit_code": 137}, Level.CRITICAL, "stopped with exit code 137"),
        ({"state": "created", "error": "no GPU runtime"}, Level.CRITICAL, "never started: no GPU runtime"),
        ({"state": "paused"}, Level.WARNING, "paused"),
    ],
)
def test_each_rule_has_its_level_and_its_sentence(facts: dict[str, object], level: Level, why: str):
    judgement = judge_container(ContainerFacts(**{**FRESH, **facts}), LIMITS)  # type: ignore[arg-type]
    assert (judgement.level, judgement.why) == (level, why)


def test_a_container_that_ended_well_is_no_trouble():
    assert judge_container(ContainerFacts(state="exited", exit_code=0), LIMITS).level == Level.OK


def test_an_unknown_reading_raises_no_alarm_and_gives_no_all_clear():
    # Nothing but staleness may speak for a container whose readings are None: unknown is not 0 and not fine.
    facts = ContainerFacts(state="running", age_seconds=None, memory_ratio=None, error_ratio=None)
    assert judge_container(facts, LIMITS).level == Level.UNKNOWN


def test_the_worst_rule_wins():
    facts = ContainerFacts(**FRESH, memory_ratio=0.95, oom_kills=2)  # type: ignore[arg-type]
    assert judge_container(facts, LIMITS).rule == "oom"


def test_one_missed_poll_is_no_news_three_are():
    assert not is_stale(14.0, 5.0)
    assert is_stale(16.0, 5.0)
    assert not is_stale(44.0, 15.0)
    assert is_stale(46.0, 15.0)


@pytest.mark.parametrize(
    ("facts", "level", "why"),
    [
        ({}, Level.OK, ""),
        ({"xid": 79}, Level.CRITICAL, "XID 79: the GPU has fallen off the bus"),
        ({"xid": 94}, Level.WARNING, "XID 94: contained memory error: only the program that hit it is affected"),
        ({"xid": 45}, Level.OK, ""),
        ({"ecc_uncorrected": 2}, Level.CRITICAL, "2 uncorrectable memory errors"),
        ({"state": "driver_unresponsive"}, Level.CRITICAL, "driver unresponsive"),
        ({"state": "released"}, Level.UNKNOWN, "released by the operator"),
        ({"thermal_throttle": True, "temperature_celsius": 91.0}, Level.WARNING, "slowed by heat at 91 °C"),
        ({"temperature_celsius": 88.0}, Level.WARNING, "88 °C"),
        ({"remap_pending": True}, Level.WARNING, "row remapping pending: reset the GPU"),
        ({"age_seconds": 60.0}, Level.UNKNOWN, "no readings: its source does not answer"),
    ],
)
def test_each_gpu_rule_has_its_level_and_its_sentence(facts: dict[str, object], level: Level, why: str):
    judgement = judge_gpu(GpuFacts(**{"age_seconds": 2.0, **facts}), LIMITS)  # type: ignore[arg-type]
    assert (judgement.level, judgement.why) == (level, why)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59, "59 s"), (61, "1 min"), (3600, "1 h"), (3660, "1 h 1 min"), (90000, "1 d 1 h"), (518400, "6 d")],
)
def test_spans_are_said_in_their_two_largest_units(seconds: int, words: str):
    assert span_words(seconds) == words


def around(*limits: float) -> st.SearchStrategy[float]:
    """Values at, just below and just above where fine ends, and others."""
    edges = [value for limit in limits for value in (limit, np.nextafter(limit, -1.0), np.nextafter(limit, 1e9))]
    return st.sampled_from([0.0, *map(float, edges)]) | st.floats(0.0, 2.0 * max(limits))


CONTAINERS = st.builds(
    ContainerFacts,
    state=st.sampled_from(["running", "exited", "created", "restarting", "paused", "dead", "removing", ""]),
    health=st.sampled_from(["", "healthy", "unhealthy", "starting"]),
    exit_code=st.none() | st.sampled_from([0, 1, 137, -1]),
    error=st.sampled_from(["", "no such device"]),
    age_seconds=st.none() | around(15.0, 45.0),
    interval_seconds=st.sampled_from([1.0, 5.0, 15.0]),
    restarts=st.integers(0, 4),
    oom_kills=st.integers(0, 2),
    memory_ratio=st.none() | around(0.9),
    throttled_ratio=st.none() | around(0.25),
    error_ratio=st.none() | around(0.01, 0.05),
    ttft_p95_seconds=st.none() | around(2.0, 5.0),
    endpoint_up=st.none() | st.booleans(),
    idle_gpus=st.integers(0, 2),
    idle_seconds=st.none() | around(3600.0),
)


def columns_of(many: list[ContainerFacts]) -> ContainerColumns:
    def column(name: str) -> np.ndarray:
        values = [getattr(facts, name) for facts in many]
        if name in {"state", "health", "error"}:
            return np.array(values, dtype=object)
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    return ContainerColumns(**{field.name: column(field.name) for field in fields(ContainerColumns)})


@given(many=st.lists(CONTAINERS, min_size=1, max_size=30), restarts_critical=st.integers(0, 3))
def test_judged_all_at_once_exactly_those_are_in_trouble_that_are_so_one_by_one(
    many: list[ContainerFacts], restarts_critical: int
):
    limits = Thresholds(restarts_critical=restarts_critical)
    one_by_one = [judge_container(facts, limits).level > Level.OK for facts in many]
    assert containers_in_trouble(columns_of(many), limits).tolist() == one_by_one


@pytest.mark.parametrize("field", [field.name for field in fields(ContainerFacts)])
def test_every_fact_that_is_judged_has_a_column_or_only_words_the_sentence(field: str):
    only_words = {"ttft_at_least", "idle_peak_ratio"}
    assert (field in only_words) != (field in {column.name for column in fields(ContainerColumns)})


def test_of_several_xids_the_worst_is_shown_and_of_equally_bad_ones_the_latest():
    # 79 the GPU fell off the bus, 48 an uncorrectable memory error; 45 says that a program was ended.
    assert worst_xid([(45, 30), (48, 20), (79, 10)]) == 48
    assert worst_xid([(48, 10), (79, 20), (119, 5)]) == 79
    assert worst_xid([]) is None
