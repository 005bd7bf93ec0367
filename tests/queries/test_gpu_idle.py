"""The ranking of idle holders on the fleet of test_gpu_time.py."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from fleet.model import Batch, ContainerGpuSample, GpuSample, Scope, SourceRun, Window
from fleet.severity import Thresholds
from queries.gpu_idle import idle_ranking
from store import Store
from tests.queries.test_gpu_time import END, EVERYONE, last, plant
from tests.store.stores import embedded_store


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with embedded_store() as opened:
        plant(opened)
        yield opened


@pytest.mark.parametrize("span", [timedelta(hours=4), timedelta(hours=20), timedelta(days=7, hours=12)])
def test_holders_come_by_idle_hours_with_their_evidence(store: Store, span: timedelta) -> None:
    hours = span.total_seconds() / 3600
    rows = idle_ranking(store, EVERYONE, last(span)).rows.to_pylist()
    assert [(row["rank"], row["name"]) for row in rows] == [(1, "notebook"), (2, "side")]
    notebook, side = rows
    assert notebook["idle_gpu_hours"] == notebook["weighted_idle_hours"] == pytest.approx(hours)
    assert notebook["idle_share"] == pytest.approx(1.0)
    assert notebook["peak_ratio"] == pytest.approx(0.01)
    assert notebook["held_since"] == END - timedelta(days=30)
    assert notebook["memory_bytes"] == 8 << 30
    # Its last request came in the hour that began six days ago at noon.
    assert notebook["last_request"] == END - timedelta(days=6)
    assert notebook["sentence"] == "holds 1 x H100 for 30 d, max 1 % SM, last request 14 Nov"
    assert "scale it to zero" in notebook["suggestion"]
    assert side["sentence"] == "holds 1 x H100 for 30 d, max 0 % SM"
    assert (side["has_request_metrics"], side["last_request"]) == (False, None)
    assert all(row["holding"] for row in rows)


def test_one_that_works_above_the_limit_in_force_is_not_idle(store: Store) -> None:
    # With 25 % as the idle limit, serve (20 % in odd hours) is idle half of the time, the slice (60 %) never.
    limits = Thresholds(idle_sm_ratio=0.25, idle_warning_seconds=1800.0)
    rows = {
        row["name"]: row
        for row in idle_ranking(store, EVERYONE, last(timedelta(hours=4)), limits=limits).rows.to_pylist()
    }
    assert set(rows) == {"notebook", "side", "serve"}
    serve = rows["serve"]
    assert serve["idle_gpu_hours"] == pytest.approx(2.0)
    # 11:00 to 12:00 was its quiet hour: it has not worked since 11:00.
    assert abs((serve["idle_since"] - (END - timedelta(hours=1))).total_seconds()) <= 60
    assert serve["sentence"].startswith("holds 1 x H100 for 30 d, idle for ")
    assert serve["idle_below"] == 0.25


def test_a_tenant_sees_its_own_idle_holders_only(store: Store) -> None:
    own = idle_ranking(store, Scope(tenants=frozenset({"globex"})), last(timedelta(hours=4))).rows
    assert own.column("name").to_pylist() == ["side"]
    assert idle_ranking(store, Scope(tenants=frozenset({"acme"})), last(timedelta(hours=4))).rows.num_rows == 0


def test_one_that_has_let_go_is_told_in_the_past(store: Store) -> None:
    # Asked a day later: the fleet was read on, these containers were not seen any more.
    with embedded_store() as later:
        plant(later)
        row = GpuSample(at=END + timedelta(hours=19), host="h1", gpu_uuid="G-WORK", gpu_index=0, interval_seconds=60.0)
        later.append(Batch(token="later", rows=(row,)))
        window = Window(start=END - timedelta(hours=4), end=END + timedelta(hours=20))
        rows = idle_ranking(later, EVERYONE, window).rows.to_pylist()
    assert [(row["name"], row["holding"]) for row in rows] == [("notebook", False), ("side", False)]
    assert rows[1]["sentence"] == "held 1 x H100, max 0 % SM"


def test_one_that_works_on_a_small_part_of_its_memory_is_told_to_share(store: Store) -> None:
    # With 25 % as the limit serve is idle in odd hours and works in even ones, until the end of this window; its peak
    # is 8 GiB of the 80 that its GPU has.
    limits = Thresholds(idle_sm_ratio=0.25, idle_warning_seconds=1800.0)
    end = END - timedelta(hours=1)
    window = Window(start=end - timedelta(hours=4), end=end)
    rows = {row["name"]: row for row in idle_ranking(store, EVERYONE, window, limits=limits).rows.to_pylist()}
    assert rows["serve"]["idle_since"] is None
    assert rows["serve"]["suggestion"] == (
        "its memory peaks at 10 %: let another container share the GPU, or cut a MIG slice"
    )


def test_a_ranking_that_is_cut_says_how_many_there_are(store: Store) -> None:
    rows = idle_ranking(store, EVERYONE, last(timedelta(hours=4)), limit=1).rows.to_pylist()
    assert [(row["name"], row["rank"], row["holders_total"]) for row in rows] == [("notebook", 1, 2)]


def test_docker_alone_is_no_coverage_of_the_gpus() -> None:
    # Docker answers all hour, NVML was never asked: nobody being idle is not known, whatever Docker says.
    with embedded_store() as quiet:
        run = SourceRun(at=END, source="docker", target="h1", state="ok", interval_seconds=3600.0, took_seconds=0.1,
                        rows=1)  # fmt: skip
        quiet.append(Batch(token="docker", rows=(run,)))
        unseen = idle_ranking(quiet, EVERYONE, last(timedelta(hours=1)))
        # NVML answered ten hours ago and not since.
        at = END - timedelta(hours=10)
        run = SourceRun(at=at, source="nvml", target="h1", state="ok", interval_seconds=60.0, took_seconds=0.1, rows=1)
        quiet.append(Batch(token="nvml", rows=(run,)))
        silent = idle_ranking(quiet, EVERYONE, last(timedelta(hours=2)))
    assert (unseen.rows.num_rows, unseen.coverage) == (0, None)
    assert (silent.rows.num_rows, silent.coverage) == (0, 0.0)
    assert [(gap.subject, gap.reason) for gap in silent.gaps] == [("nvml h1", "stale")]


def test_holders_whose_activity_is_not_known_are_a_gap_and_not_in_use() -> None:
    # The driver tells nothing of what `slice` does on the device that it held all hour.
    with embedded_store() as blind:
        rows = [
            ContainerGpuSample(at=END - timedelta(minutes=minute), host="h1", tenant="acme", container_key="h1:slice",
                               container_id="id", gpu_uuid="M-A", interval_seconds=60.0, held=True,
                               attribution="declared")
            for minute in range(60)
        ]  # fmt: skip
        blind.append(Batch(token="blind", rows=tuple(rows)))
        answer = idle_ranking(blind, EVERYONE, last(timedelta(hours=1)))
        other = idle_ranking(blind, Scope(tenants=frozenset({"globex"})), last(timedelta(hours=1)))
    assert answer.rows.num_rows == 0
    assert [gap.detail for gap in answer.gaps] == ["what 1 container did on the GPUs held is not known: slice"]
    assert other.gaps == ()
