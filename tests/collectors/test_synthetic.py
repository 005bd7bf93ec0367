"""The invented fleet: deterministic, consistent with itself, and as troubled as promised."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest

from collectors.sources.synthetic import SyntheticSource
from collectors.synthetic.generator import SyntheticFleet
from collectors.synthetic.layout import MEMBERS
from collectors.synthetic.lengths import trace_lengths
from fleet.model import (
    UNATTRIBUTED,
    Container,
    ContainerGpuSample,
    ContainerSample,
    Gpu,
    GpuSample,
    Histogram,
    Host,
    InferenceSample,
    Row,
    SourceRun,
)

T = TypeVar("T", bound=Row)
ORIGIN = datetime(2026, 3, 4, 10, tzinfo=UTC)  # a Wednesday
FLEET = SyntheticFleet(7, ORIGIN)


def of(rows: Iterable[Row], kind: type[T]) -> list[T]:
    return [row for row in rows if isinstance(row, kind)]


def at(hours: float) -> datetime:
    return ORIGIN + timedelta(hours=hours)


def minutes(first_hours: float, last_hours: float, step: int = 60) -> list[Row]:
    count = round((last_hours - first_hours) * 3600 / step)
    return FLEET.block([at(first_hours) + timedelta(seconds=step * n) for n in range(count)], float(step))


def quantile(rows: Iterable[Histogram], q: float) -> float:
    """Upper bound of the bucket in which the quantile lies."""
    total: list[float] = []
    bounds: tuple[float, ...] = ()
    for row in rows:
        bounds = row.bounds
        total = [a + b for a, b in zip(total or [0.0] * len(bounds), row.increments, strict=True)]
    rank, seen = q * sum(total), 0.0
    for bound, count in zip(bounds, total, strict=True):
        seen += count
        if seen >= rank:
            return bound
    return math.nan


def below(rows: Iterable[Histogram], bound: float) -> float:
    return sum(sum(row.increments[: row.bounds.index(bound) + 1]) for row in rows)


def hist(rows: Iterable[Row], key_part: str, field: str) -> list[Histogram]:
    return [row for row in of(rows, Histogram) if key_part in row.container_key and row.field == field]


def test_the_fleet_has_four_hosts_sixteen_gpus_46_containers_and_six_tenants() -> None:
    facts = FLEET.facts(at(-3))
    assert len(of(facts, Host)) == 4
    assert len({gpu.gpu_uuid for gpu in of(facts, Gpu) if not gpu.parent_uuid}) == 16
    containers = [row for row in of(facts, Container) if not row.removed]
    assert len({row.container_id for row in containers}) == len({row.container_key for row in containers}) == 46
    assert {row.tenant for row in containers} == {
        "acme", "globex", "initech", "umbrella-research", "hooli", "platform",
    }  # fmt: skip
    assert {gpu.name for gpu in of(facts, Gpu) if not gpu.parent_uuid} == {
        "NVIDIA H100 80GB HBM3",
        "NVIDIA A100-SXM4-80GB",
        "NVIDIA L40S",
    }


def test_one_seed_gives_the_same_rows_and_another_seed_gives_others() -> None:
    again = SyntheticFleet(7, ORIGIN)
    assert again.rows(at(-5), 60.0) == FLEET.rows(at(-5), 60.0)
    assert again.events(at(-48), at(0)) == FLEET.events(at(-48), at(0))
    other = SyntheticFleet(8, ORIGIN)
    assert {row.gpu_uuid for row in of(other.rows(at(-5), 60.0), GpuSample)}.isdisjoint(
        row.gpu_uuid for row in of(FLEET.rows(at(-5), 60.0), GpuSample)
    )


def test_rows_do_not_depend_on_how_the_time_is_cut_into_blocks() -> None:
    whole = minutes(-2, -1)
    halves = minutes(-2, -1.5) + minutes(-1.5, -1)
    assert sorted(map(repr, whole)) == sorted(map(repr, halves))


def test_containers_and_unattributed_add_up_to_the_device() -> None:
    rows = [*FLEET.rows(at(-8), 60.0), *FLEET.rows(at(0), 5.0)]
    parts: dict[tuple[datetime, str], list[ContainerGpuSample]] = defaultdict(list)
    for row in of(rows, ContainerGpuSample):
        parts[row.at, row.gpu_uuid].append(row)
    devices = of(rows, GpuSample)
    assert len(devices) == 2 * 20
    inside: dict[tuple[datetime, str], int] = defaultdict(int)
    for device in devices:
        inside[device.at, device.parent_uuid] += device.memory_used_bytes or 0
    for device in devices:
        mine = parts[device.at, device.gpu_uuid]
        assert [row.tenant for row in mine].count(UNATTRIBUTED) == 1
        # A GPU in MIG mode counts the memory of its devices too.
        cut = inside[device.at, device.gpu_uuid]
        assert sum(row.memory_bytes or 0 for row in mine) + cut == device.memory_used_bytes
        if device.parent_uuid:
            assert sum(row.sm_ratio or 0 for row in mine) == pytest.approx(device.sm_active_ratio, abs=1e-9)
            assert {row.power_watts for row in mine} == {device.power_watts} == {None}
            assert (device.memory_used_bytes or 0) < (device.memory_total_bytes or 0)
            continue
        if not cut:
            assert sum(row.sm_ratio or 0 for row in mine) == pytest.approx(device.busy_ratio, abs=1e-9)
        assert sum(row.power_watts or 0 for row in mine) == pytest.approx(device.power_watts, abs=1e-6)
        assert sum(row.energy_joules or 0 for row in mine) == pytest.approx(device.energy_joules, abs=1e-3)
        assert sum(row.idle_power_watts or 0 for row in mine) == device.idle_power_watts
        assert all((row.idle_power_watts or 0) <= (row.power_watts or 0) for row in mine)
        assert sum(row.held for row in mine) == device.holders
        assert sum(row.processes or 0 for row in mine if row.tenant) <= (device.process_count or 0)
        assert device.memory_used_bytes is not None
        assert device.memory_reserved_bytes is not None
        assert device.memory_total_bytes is not None
        assert device.memory_used_bytes + device.memory_reserved_bytes <= device.memory_total_bytes
        assert device.power_watts is not None
        assert device.power_limit_watts is not None
        assert device.power_watts <= device.power_limit_watts


def test_no_value_is_not_a_number_and_no_increment_or_ratio_is_out_of_range() -> None:
    for row in [*minutes(-26.2, -25.8), *minutes(-75.1, -74.9), *FLEET.facts(ORIGIN)]:
        for column in fields(row):
            value = getattr(row, column.name)
            if isinstance(value, float | int):
                assert math.isfinite(value)
                assert value >= 0, (row, column.name)
                if column.name.endswith("_ratio"):
                    assert value <= 1, (row, column.name)


def test_histograms_count_every_request_and_their_sums_fit_their_buckets() -> None:
    rows = minutes(-1, -0.5)
    requests = {(row.at, row.container_key): row for row in of(rows, InferenceSample)}
    checked = 0
    for row in of(rows, Histogram):
        sample = requests[row.at, row.container_key]
        assert row.bounds[-1] == math.inf
        assert all(count == int(count) for count in row.increments)
        if row.field == "itl_seconds":
            assert sum(row.increments) == (sample.generation_tokens or 0) - (sample.requests or 0)
        else:
            assert sum(row.increments) == sample.requests
        if row.field in ("prompt_tokens", "generation_tokens"):
            assert row.sum_increment == getattr(sample, row.field)
        lower = sum(n * bound for n, bound in zip(row.increments[1:], row.bounds[:-1], strict=True))
        assert row.sum_increment is not None
        assert row.sum_increment >= lower - 1e-6
        checked += 1
    assert checked == 30 * (
        9 * 6 + 3 * 4
    )  # 9 endpoints generate; 3 embed and have no token gaps and no generated tokens


def test_at_no_bound_have_more_requests_ended_than_begun_to_answer_even_in_a_jam() -> None:
    rows = minutes(-0.4, 0.0)  # the noisy neighbour is at work
    for name in ("llm-chat/1", "llm-fast/1", "llm-assist/1", "summarizer/1"):
        begun, ended = hist(rows, name, "ttft_seconds"), hist(rows, name, "e2e_seconds")
        for bound in (0.5, 1.0, 2.5, 5.0, 10.0, 20.0):
            # Each row rounds to whole requests with an offset of its own, hence one request of play a row.
            assert below(ended, bound) <= below(begun, bound) + len(begun)
    assert below(ended, 20.0) > 0


def test_request_lengths_follow_the_published_trace() -> None:
    prompt, generated = trace_lengths()
    # Means of the trace's 19,366 requests: 1154.7 and 211.1 tokens; quantiles every half percent come near.
    assert prompt.mean == pytest.approx(1154.7, rel=0.03)
    assert generated.mean == pytest.approx(211.1, rel=0.01)
    rows = [row for row in of(minutes(-3, 0), InferenceSample) if "acme-chat/llm-chat" in row.container_key]
    per_request = sum(row.prompt_tokens or 0 for row in rows) / sum(row.requests or 0 for row in rows)
    assert per_request == pytest.approx(prompt.mean, rel=0.05)


def test_load_has_a_day_cycle_and_a_quieter_weekend() -> None:
    def hourly(day: int) -> list[float]:
        return [
            sum(row.requests or 0 for row in of(FLEET.rows(at(24 * day + hour), 60.0), InferenceSample))
            for hour in range(24)
        ]

    wednesday, sunday = hourly(-7), hourly(-3)
    assert max(wednesday) > 2.5 * min(wednesday)
    assert sum(sunday) < 0.9 * sum(wednesday)


def test_the_leak_fills_its_limit_is_killed_and_starts_again() -> None:
    rows = [row for row in of(minutes(-24, 0), ContainerSample) if "retriever" in row.container_key]
    kills = [index for index, row in enumerate(rows) if row.oom_kills]
    assert len(kills) in (2, 3)
    for index in kills:
        before, after = rows[index - 1], rows[index]
        assert before.memory_limit_bytes is not None
        assert (before.memory_working_set_bytes or 0) > 0.98 * before.memory_limit_bytes
        assert (after.memory_working_set_bytes or 0) < 0.2 * before.memory_limit_bytes
        assert after.restarts == 1
    told = [event for event in FLEET.events(at(-24), at(0)) if event.kind == "oom"]
    assert len(told) == len(kills)
    assert {event.severity for event in told} == {"critical"}


def test_the_notebook_holds_two_gpus_and_hardly_uses_them() -> None:
    rows = [row for row in of(minutes(-24, 0, 600), ContainerGpuSample) if row.container_key == "gpu-a02:research-nb"]
    assert len({row.gpu_uuid for row in rows}) == 2
    assert all(row.held for row in rows)
    assert max(row.sm_ratio or 0 for row in rows) <= 0.04
    assert min(row.memory_bytes or 0 for row in rows) > 35e9


def test_the_noisy_neighbour_slows_the_chat_model_beside_it() -> None:
    alone, beside = (
        hist(minutes(-1.4, -0.6), "llm-fast", "itl_seconds"),
        hist(minutes(-0.3, 0.2), "llm-fast", "itl_seconds"),
    )
    assert quantile(beside, 0.95) > quantile(alone, 0.95)
    neighbours = {
        row.container_key for row in of(FLEET.rows(at(0), 5.0), ContainerGpuSample) if "nightly" in row.container_key
    }
    assert neighbours == {"gpu-a01:initech-index/nightly-batch/1"}
    assert not [row for row in of(FLEET.rows(at(-1), 5.0), ContainerGpuSample) if "nightly" in row.container_key]


def test_one_tenants_prompts_become_longer_two_days_ago_and_nobody_elses() -> None:
    for name, factor in (("summarizer", 2.6), ("llm-chat", 1.0)):
        means = []
        for start in (-50.0, -26.0):
            rows = [row for row in of(minutes(start, start + 1.5), InferenceSample) if name in row.container_key]
            means.append(sum(row.prompt_tokens or 0 for row in rows) / sum(row.requests or 0 for row in rows))
        assert means[1] / means[0] == pytest.approx(factor, rel=0.12)


def test_prometheus_is_silent_for_one_hour_of_the_week_and_says_so() -> None:
    rows = minutes(-76, -73)
    runs = [row for row in of(rows, SourceRun) if row.source == "prometheus"]
    failed = [row for row in runs if row.state == "failed"]
    assert [len(runs), len(failed)] == [180, 60]
    assert {row.reason for row in failed} == {"unreachable"}
    silent = {row.at for row in failed}
    assert not [row for row in of(rows, InferenceSample) if row.at in silent]
    assert not [row for row in of(rows, Histogram) if row.at in silent]
    assert len([row for row in of(rows, GpuSample) if row.at in silent]) == 60 * 20


def test_the_deploy_changes_the_image_and_the_id_but_not_the_key() -> None:
    before, after = (
        [row for row in of(FLEET.facts(at(hours)), Container) if row.container_key.endswith("llm-code/2")]
        for hours in (-27, -25)
    )
    assert [row.image for row in before] == ["vllm/vllm-openai:v0.32.1"]
    assert {(row.image, row.removed) for row in after} == {
        ("vllm/vllm-openai:v0.32.1", True), ("vllm/vllm-openai:v0.33.0", False),
    }  # fmt: skip
    assert len({row.container_id for row in after}) == 2
    kinds = [event.kind for event in FLEET.events(at(-26.01), at(-25.99)) if "llm-code" in event.container_key]
    assert kinds == ["die", "image_change", "start"]


def test_the_error_the_heat_and_the_bad_posture_are_there() -> None:
    week = [row for row in of(minutes(-41, -39), GpuSample) if row.xid]
    assert [(row.host, row.gpu_index, row.xid, row.ecc_uncorrected) for row in week] == [
        ("gpu-b01", 2, 94, 1), ("gpu-b01", 2, 63, 0),
    ]  # fmt: skip
    hot = [row for row in of(minutes(-24, 0, 300), GpuSample) if (row.throttle_reasons or 0) & 0x60]
    assert {(row.host, row.gpu_index) for row in hot} == {("gpu-c01", 1)}
    containers = of(FLEET.facts(ORIGIN), Container)
    assert [row.privileged for row in containers].count(True) == 7
    assert len([row for row in containers if row.user in ("root", "")]) > 6
    assert len([row for row in containers if row.image.endswith(":latest")]) == 5
    assert [row.name for row in containers if row.health == "unhealthy"] == ["hooli-voice-api-1"]
    crasher = next(row for row in containers if row.container_key.endswith("/worker/1"))
    assert crasher.restart_count == 240  # every five minutes for twenty hours


def test_events_told_in_slices_are_the_events_told_at_once() -> None:
    whole = FLEET.events(at(-30), at(3))
    slices = [event for hour in range(-30, 3) for event in FLEET.events(at(hour), at(hour + 1))]
    assert list(whole) == slices
    assert len({event.event_id for event in whole}) == len(whole)


def test_the_live_source_continues_where_the_back_fill_stopped() -> None:
    source = SyntheticSource(FLEET, at(0))
    first = source.collect(at(0) + timedelta(seconds=5))
    second = source.collect(at(0) + timedelta(seconds=12))
    assert {row.interval_seconds for row in of(first.rows, GpuSample)} == {5.0}
    assert {row.interval_seconds for row in of(second.rows, GpuSample)} == {7.0}
    assert len(of(first.rows, Container)) == 48  # 46, the one that the deploy replaced, and the job before
    assert not of(second.rows, Container)
    assert "seed 7" in second.detail
    assert "origin 2026-03-04T10:00:00Z" in second.detail


def test_a_poll_that_comes_late_fills_the_time_since_the_one_before_without_a_hole() -> None:
    source = SyntheticSource(FLEET, at(0))
    late = of(source.collect(at(0) + timedelta(seconds=50)).rows, GpuSample)
    # 15, 30 and 45 s after the last poll, and the 5 s that are left.
    spans = sorted({((row.at - at(0)).total_seconds(), row.interval_seconds) for row in late})
    assert spans == [(15.0, 15.0), (30.0, 15.0), (45.0, 15.0), (50.0, 5.0)]
    assert len(late) == 4 * 20
    # After a day's sleep only the last ten minutes are told.
    woken = of(source.collect(at(24)).rows, GpuSample)
    assert min(row.at for row in woken) == at(24) - timedelta(minutes=10) + timedelta(seconds=15)
    assert sum(row.interval_seconds for row in woken) / 20 == 600.0
    in_time = of(source.collect(at(24) + timedelta(seconds=5)).rows, GpuSample)
    assert {row.interval_seconds for row in in_time} == {5.0}


def test_a_clock_that_steps_back_brings_no_rows_instead_of_negative_increments() -> None:
    source = SyntheticSource(FLEET, at(0))
    reading = source.collect(at(-1))
    assert reading.rows == ()
    assert "stepped back" in reading.detail
    assert source.collect(at(0) + timedelta(seconds=5)).rows


def test_a_state_change_brings_the_facts_at_once() -> None:
    source = SyntheticSource(FLEET, at(0))
    source.collect(at(0) + timedelta(seconds=235))
    crashed = source.collect(at(0) + timedelta(seconds=241))
    states = {row.container_key: row.state for row in of(crashed.rows, Container)}
    assert states["gpu-b01:hooli-copilot/worker/1"] == "restarting"
    assert len(MEMBERS) == 46


def gpu_rows(hours: float, key_part: str) -> list[ContainerGpuSample]:
    return [row for row in of(FLEET.rows(at(hours), 5.0), ContainerGpuSample) if key_part in row.container_key]


def test_one_gpu_is_cut_into_four_mig_devices_of_three_tenants_and_one_is_free() -> None:
    gpus = of(FLEET.facts(at(0)), Gpu)
    parent = next(gpu for gpu in gpus if gpu.mig_enabled)
    cut = {gpu.gpu_uuid: gpu for gpu in gpus if gpu.parent_uuid == parent.gpu_uuid}
    assert [gpu.mig_profile for gpu in cut.values()] == ["3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb"]
    assert sum(gpu.slice_ratio for gpu in cut.values()) == pytest.approx(1.0)
    assert {gpu.slice_ratio for gpu in gpus if not gpu.parent_uuid} == {1.0}
    rows = of(FLEET.rows(at(0), 5.0), ContainerGpuSample)
    assert {row.tenant for row in rows if row.gpu_uuid in cut and row.held} == {"globex", "umbrella-research", "acme"}
    devices = {row.gpu_uuid: row for row in of(FLEET.rows(at(0), 5.0), GpuSample)}
    assert sorted(devices[uuid].holders or 0 for uuid in cut) == [0, 1, 1, 1]
    assert devices[parent.gpu_uuid].busy_ratio is None
    assert devices[parent.gpu_uuid].sm_active_ratio is None
    assert (devices[parent.gpu_uuid].power_watts or 0) > 70.0


def test_a_gpu_older_than_hopper_says_why_it_has_no_sm_activity() -> None:
    rows = [row for row in of(FLEET.rows(at(0), 5.0), GpuSample) if row.host in ("gpu-b01", "gpu-c01")]
    assert {row.sm_active_ratio for row in rows} == {None}
    assert all("Hopper" in row.unknown_reason for row in rows)
    assert {row.encoder_ratio for row in rows if row.gpu_index == 3 and row.host == "gpu-c01"} != {0.0}
    assert {row.nvlink_receive_bytes is None for row in rows if row.host == "gpu-c01"} == {True}


def test_every_kind_of_gpu_contract_is_broken_once() -> None:
    facts = {row.name: row for row in of(FLEET.facts(at(0)), Container) if not row.removed}
    counted = [row for row in facts.values() if row.gpu_request_kind == "count"]
    assert {row.name for row in counted} == {"initech-docs-summarizer-1", "hooli-voice-diarizer-1"}
    assert len({row.gpu_uuids for row in counted}) == 1
    every = facts["tensorboard"]
    assert (every.gpu_request, len(every.gpu_uuids)) == ("--gpus all", 4)
    assert {row.processes for row in gpu_rows(0, "tensorboard")} == {0}
    taken = gpu_rows(0, "transcode")
    assert [(row.held, (row.sm_ratio or 0) > 0.1) for row in taken] == [(False, True)]
    assert facts["hooli-voice-transcode-1"].gpu_uuids == ()
    lost = facts["acme-rag-reranker-1"]
    assert (lost.state, lost.gpu_uuids, len(lost.gpu_unresolved)) == ("running", (), 1)
    failed = facts["initech-index-reindex-1"]
    assert (failed.state, failed.gpu_unresolved) == ("created", ("7",))
    assert "device error: 7: unknown device" in failed.error
    assert not [row for row in of(FLEET.rows(at(0), 5.0), ContainerSample) if "reindex" in row.container_key]


def test_the_notebook_came_six_days_ago_and_the_playground_was_forgotten_four_days_ago() -> None:
    assert gpu_rows(-150, "research-nb") == []
    assert len(gpu_rows(-148, "research-nb")) == 2
    before, after = (
        [row.requests for row in of(minutes(start, start + 1), InferenceSample) if "playground" in row.container_key]
        for start in (-110, -90)
    )
    assert sum(value or 0 for value in before) > 0
    assert set(after) == {0.0}
    assert {row.sm_ratio for row in gpu_rows(-90, "playground")} == {0.0}


def test_runs_tell_every_life_with_gpus_once_and_agree_with_samples_and_events() -> None:
    runs = FLEET.runs(at(-168), at(0))
    jobs = [run for run in runs if run.ended_at is not None]
    assert len(jobs) > 80
    assert len({(run.container.container_id, run.started_at) for run in runs}) == len(runs)
    assert {run.exit_code for run in jobs} == {0, 1, 137}
    assert {run.exit_code for run in runs if run.ended_at is None} == {None}
    died = {(event.container_id, round(event.at.timestamp())) for event in FLEET.events(at(-168), at(0))
            if event.kind == "die"}  # fmt: skip
    assert all((run.container.container_id, round(run.ended_at.timestamp())) in died for run in jobs if run.ended_at)
    for hours in (-160.3, -100.1, -41.7, -39.9, -25.9, -0.1, 0.0):
        present = {
            (row.container_id, row.gpu_uuid)
            for row in of(FLEET.rows(at(hours), 5.0), ContainerGpuSample) if row.held
        }  # fmt: skip
        told = {
            (run.container.container_id, uuid) for run in FLEET.runs(at(-168), at(1))
            if run.started_at <= at(hours) and (run.ended_at is None or at(hours) < run.ended_at)
            for uuid in run.gpu_uuids
        }  # fmt: skip
        assert present == told, hours
