"""Four-state GPU time on a small fleet worked out by hand, and what must hold of any.

Eight days, one reading a minute, three GPUs and one GPU cut in two MIG devices (weights 3/7 and 4/7 of a GPU):
G-WORK is held by `serve` and `side`; SM 0.80 for even hours, 0.20 for odd ones; serve does all of it, side nothing.
G-HELD is held by `notebook`, SM 0.01 throughout. G-FREE is held by nobody, and `stray` uses 0.10 of it without being
given it. G-MIG is the parent in MIG mode (activity not readable); M-A is held by `slice` at SM 0.60, M-B is free.
Nothing was read of G-FREE from hour 2 to hour 3 before the end. At the end it is noon.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.model import Batch, Container, ContainerGpuSample, Gpu, GpuSample, InferenceSample, Row, Scope, Window
from fleet.severity import Thresholds
from queries.gpu_time import STATES, gpu_funnel_time, gpu_time, gpu_time_series
from store import Store
from tests.store.stores import embedded_store

END = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
EVERYONE = Scope(tenants=None)
HOURS = 8 * 24
STEP = 60
GPUS = ("G-WORK", "G-HELD", "G-FREE", "G-MIG")
WEIGHTS = {"M-A": 3 / 7, "M-B": 4 / 7}
#: name, tenant, device, held
CONTAINERS = (
    ("serve", "acme", "G-WORK", True), ("side", "globex", "G-WORK", True), ("notebook", "initech", "G-HELD", True),
    ("stray", "globex", "G-FREE", False), ("slice", "acme", "M-A", True),
)  # fmt: skip
HOLDERS = {"G-WORK": 2, "G-HELD": 1, "G-FREE": 0, "G-MIG": 0, "M-A": 1, "M-B": 0}
SPANS = [timedelta(hours=4), timedelta(hours=20), timedelta(days=7, hours=12)]


def activity(device: str, at: datetime) -> float | None:
    # A sample speaks for the minute before it.
    even = (at - timedelta(seconds=1)).hour % 2 == 0
    return {"G-WORK": 0.80 if even else 0.20, "G-HELD": 0.01, "G-FREE": 0.10, "M-A": 0.60, "M-B": 0.0}.get(device)


def plant(store: Store) -> None:
    for day in range(8):
        rows: list[Row] = []
        for minute in range(day * 1440, (day + 1) * 1440):
            rows += _instant(END - timedelta(minutes=minute))
        store.append(Batch(token=f"day {day}", rows=tuple(rows)))
    store.append(Batch(token="facts", rows=tuple(_facts())))


def _instant(at: datetime) -> list[Row]:
    silent = END - timedelta(hours=3) < at <= END - timedelta(hours=2)
    rows: list[Row] = []
    for device in (*GPUS, *WEIGHTS):
        if device == "G-FREE" and silent:
            continue
        parent = "G-MIG" if device in WEIGHTS else ""
        rows.append(
            GpuSample(
                at=at, host="h1", gpu_uuid=device, parent_uuid=parent, gpu_index=3 if parent else GPUS.index(device),
                interval_seconds=STEP, busy_ratio=activity(device, at), holders=HOLDERS[device],
            )
        )  # fmt: skip
    for name, tenant, device, held in CONTAINERS:
        if device == "G-FREE" and silent:
            continue
        rows.append(
            ContainerGpuSample(
                at=at, host="h1", tenant=tenant, container_key=f"h1:{name}", container_id=f"id-{name}",
                gpu_uuid=device, interval_seconds=STEP, held=held, memory_bytes=8 << 30,
                sm_ratio=0.0 if name == "side" else activity(device, at), attribution="measured",
            )
        )  # fmt: skip
    if at <= END - timedelta(days=6):  # the notebook served once
        rows.append(
            InferenceSample(
                at=at, host="h1", tenant="initech", container_key="h1:notebook", container_id="id-notebook",
                prometheus="p", endpoint="e", server="vllm", model="m", interval_seconds=STEP, up=True, requests=1.0,
            )
        )  # fmt: skip
    return rows


def _facts() -> list[Row]:
    rows: list[Row] = [
        Gpu(
            seen_at=END, host="h1", gpu_uuid=device, parent_uuid="G-MIG" if device in WEIGHTS else "", gpu_index=3,
            name="NVIDIA H100 80GB HBM3", mig_enabled=device == "G-MIG", slice_ratio=WEIGHTS.get(device, 1.0),
            memory_total_bytes=80 << 30,
        )
        for device in (*GPUS, *WEIGHTS)
    ]  # fmt: skip
    rows += [
        Container(
            seen_at=END, host="h1", tenant=tenant, team="", owner="", tenant_origin="mapped",
            container_key=f"h1:{name}", container_id=f"id-{name}", name=name, image="i", image_id="", image_digest="",
            state="running", created_at=END - timedelta(days=30), started_at=END - timedelta(days=30),
        )
        for name, tenant, *_ in CONTAINERS
    ]  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with embedded_store() as opened:
        plant(opened)
        yield opened


def last(span: timedelta) -> Window:
    return Window(start=END - span, end=END)


def by(rows: object, *columns: str) -> dict[object, dict[str, float]]:
    return {row[columns[0]] if len(columns) == 1 else tuple(row[c] for c in columns): row for row in rows.to_pylist()}  # type: ignore[attr-defined]


@pytest.mark.parametrize("span", SPANS)
def test_each_gpu_adds_up_to_its_time_on_every_tier(store: Store, span: timedelta) -> None:
    hours = span.total_seconds() / 3600
    rows = by(gpu_time(store, EVERYONE, last(span)).rows, "gpu_uuid")
    work, held, free = rows["G-WORK"], rows["G-HELD"], rows["G-FREE"]
    # The span is an even number of hours, half of them even: 0.80 is busy, 0.20 low.
    assert work["busy_seconds"] / 3600 == pytest.approx(hours / 2)
    assert work["low_seconds"] / 3600 == pytest.approx(hours / 2)
    assert held["held_idle_seconds"] / 3600 == pytest.approx(hours)
    assert held["held_idle_ratio"] == pytest.approx(1.0)
    # 10 % is above the idle threshold: used though nobody holds it. One hour of it was not read.
    assert free["low_seconds"] / 3600 == pytest.approx(hours - 1)
    assert free["used_not_held_seconds"] / 3600 == pytest.approx(hours - 1)
    assert free["gap_seconds"] / 3600 == pytest.approx(1.0)
    assert rows["M-A"]["busy_seconds"] / 3600 == pytest.approx(hours * 3 / 7)
    assert rows["M-B"]["free_seconds"] / 3600 == pytest.approx(hours * 4 / 7)
    assert "G-MIG" not in rows
    for row in rows.values():
        assert sum(row[f"{state}_seconds"] for state in STATES) == pytest.approx(row["capacity_seconds"])
        assert sum(row[f"{state}_ratio"] for state in STATES) == pytest.approx(1.0)
        assert (row["idle_below"], row["busy_from"]) == (0.05, 0.5)
    assert sum(row["capacity_seconds"] for row in rows.values()) / 3600 == pytest.approx(4 * hours)


def test_hosts_and_the_fleet_are_the_sum_of_their_gpus(store: Store) -> None:
    window = last(timedelta(hours=4))
    gpus = gpu_time(store, EVERYONE, window).rows
    for row in (*gpu_time(store, EVERYONE, window, by="host").rows.to_pylist(),
                *gpu_time(store, EVERYONE, window, by="fleet").rows.to_pylist()):  # fmt: skip
        for name in (*(f"{state}_seconds" for state in STATES), "capacity_seconds", "held_seconds"):
            assert row[name] == pytest.approx(sum(gpus.column(name).to_pylist())), name
    assert gpu_time(store, EVERYONE, window, host="h2").rows.num_rows == 0


@pytest.mark.parametrize("span", SPANS)
def test_each_container_has_its_own_idle_time_also_beside_one_that_works(store: Store, span: timedelta) -> None:
    hours = span.total_seconds() / 3600
    rows = by(gpu_time(store, EVERYONE, last(span), by="container").rows, "container_key", "held")
    assert rows["h1:serve", True]["busy_seconds"] / 3600 == pytest.approx(hours / 2)
    assert rows["h1:side", True]["held_idle_seconds"] / 3600 == pytest.approx(hours)
    assert rows["h1:slice", True]["busy_seconds"] / 3600 == pytest.approx(hours * 3 / 7)
    stray = rows["h1:stray", False]
    assert stray["low_seconds"] / 3600 == pytest.approx(hours - 1)
    assert stray["held_seconds"] == 0
    assert {(row["free_seconds"], row["gap_seconds"]) for row in rows.values()} == {(None, None)}
    tenants = by(gpu_time(store, EVERYONE, last(span), by="tenant").rows, "tenant")
    # side holds a whole GPU idle, stray uses one that it was not given.
    assert tenants["globex"]["held_idle_seconds"] / 3600 == pytest.approx(hours)
    assert tenants["globex"]["used_not_held_seconds"] / 3600 == pytest.approx(hours - 1)


def test_other_thresholds_move_time_between_states_and_lose_none(store: Store) -> None:
    window = last(timedelta(hours=20))
    usual = by(gpu_time(store, EVERYONE, window).rows, "gpu_uuid")["G-WORK"]
    strict = gpu_time(store, EVERYONE, window, limits=Thresholds(idle_sm_ratio=0.25, busy_sm_ratio=0.85)).rows
    row = by(strict, "gpu_uuid")["G-WORK"]
    assert (row["busy_seconds"], row["low_seconds"], row["held_idle_seconds"]) == (
        0.0, pytest.approx(10 * 3600), pytest.approx(10 * 3600),
    )  # fmt: skip
    assert row["capacity_seconds"] == pytest.approx(usual["capacity_seconds"])
    assert (row["idle_below"], row["busy_from"]) == (0.25, 0.85)


def test_a_limited_scope_sees_what_its_containers_held_and_no_free_capacity(store: Store) -> None:
    acme = Scope(tenants=frozenset({"acme"}))
    window = last(timedelta(hours=4))
    gpus = by(gpu_time(store, acme, window).rows, "gpu_uuid")
    assert set(gpus) == {"G-WORK", "M-A"}
    assert gpus["G-WORK"]["capacity_seconds"] == pytest.approx(4 * 3600)
    assert gpus["G-WORK"]["free_seconds"] is None
    fleet = gpu_time(store, acme, window, by="fleet").rows.to_pylist()[0]
    assert fleet["capacity_seconds"] / 3600 == pytest.approx(4 + 4 * 3 / 7)
    whole = gpu_time(store, EVERYONE, window, by="container").rows.to_pylist()
    for kind in ("container", "tenant"):
        whole = gpu_time(store, EVERYONE, window, by=kind).rows.to_pylist()
        own = gpu_time(store, acme, window, by=kind).rows.to_pylist()
        assert own == [row for row in whole if row["tenant"] == "acme"]
    assert gpu_time(store, Scope(tenants=frozenset()), window).rows.num_rows == 0


@pytest.mark.parametrize("span", SPANS)
def test_the_funnel_tells_hours_and_the_thresholds(store: Store, span: timedelta) -> None:
    hours = span.total_seconds() / 3600
    rows = by(gpu_funnel_time(store, EVERYONE, last(span)).rows, "stage")
    assert list(rows) == ["total", "allocated", "active", "effective"]
    assert rows["total"]["gpu_hours"] == pytest.approx(4 * hours)
    # held: G-WORK, G-HELD and 3/7 of the cut GPU; used without being held: G-FREE but for the hour nobody read.
    assert rows["allocated"]["gpu_hours"] == pytest.approx(hours * (2 + 3 / 7) + hours - 1)
    assert rows["active"]["gpu_hours"] == pytest.approx(hours * (1 + 3 / 7) + hours - 1)
    assert rows["effective"]["gpu_hours"] == pytest.approx(hours * (0.5 + 3 / 7))
    assert rows["effective"]["note"] == "activity at or above 50 %"
    own = gpu_funnel_time(store, Scope(tenants=frozenset({"initech"})), last(span)).rows
    assert own.column("stage").to_pylist() == ["allocated", "active", "effective"]
    assert own.column("gpu_hours").to_pylist() == pytest.approx([hours, 0.0, 0.0])


@pytest.mark.parametrize("span", SPANS)
def test_the_points_of_a_series_add_up_to_one_and_to_the_totals(store: Store, span: timedelta) -> None:
    for asked in ({}, {"gpu_uuid": "G-FREE"}, {"gpu_uuid": "M-A"}, {"container_key": "h1:side"}, {"tenant": "globex"}):
        rows = gpu_time_series(store, EVERYONE, last(span), **asked).rows.to_pylist()
        there = [row for row in rows if row["gpus"]]
        assert len(rows) <= 301
        assert there
        for row in there:
            assert sum(row[f"{state}_ratio"] or 0.0 for state in STATES) == pytest.approx(1.0)
    whole = gpu_time_series(store, EVERYONE, last(span)).rows.to_pylist()
    assert {round(row["gpus"], 1) for row in whole if row["gpus"]} == {4.0}
    gap = sum(row["gap_ratio"] * row["gpus"] for row in whole) / len(whole) * span.total_seconds() / 3600
    assert gap == pytest.approx(1.0, abs=0.05)


def test_time_before_the_first_reading_is_no_gap(store: Store) -> None:
    # The first sample, at 12:01 eight days ago, speaks for the minute from noon on.
    row = gpu_time(store, EVERYONE, Window(start=END - timedelta(days=20), end=END), by="fleet").rows.to_pylist()[0]
    assert row["capacity_seconds"] / 3600 == pytest.approx(4 * HOURS, abs=0.1)
    # The sample of 12:00 belongs to the minute that begins then, so one of each GPU is missing at the end.
    assert row["gap_seconds"] / 3600 == pytest.approx(1.0 + 4 / 60, abs=0.01)
    window = Window(start=END - timedelta(days=8, hours=2), end=END - timedelta(days=8) + timedelta(hours=1))
    row = gpu_time(store, EVERYONE, window, by="fleet").rows.to_pylist()[0]
    assert row["capacity_seconds"] == pytest.approx(4 * 3600)


def test_a_gpu_that_stops_answering_is_a_gap_for_a_day_and_then_gone(store: Store) -> None:
    after = Window(start=END + timedelta(hours=1), end=END + timedelta(hours=3))
    row = gpu_time(store, EVERYONE, after, by="fleet").rows.to_pylist()[0]
    assert row["gap_seconds"] == row["capacity_seconds"] == pytest.approx(4 * 7200)
    later = Window(start=END + timedelta(days=3), end=END + timedelta(days=3, hours=1))
    assert gpu_time(store, EVERYONE, later).rows.num_rows == 0


TOTALS = (
    *(f"{state}_seconds" for state in STATES), "capacity_seconds", "held_seconds", "used_not_held_seconds",
    "holders_unknown_seconds", "used_holders_unknown_seconds",
)  # fmt: skip


def totals(store: Store, start: datetime, end: datetime) -> dict[object, dict[str, float]]:
    return by(gpu_time(store, EVERYONE, Window(start=start, end=end)).rows, "gpu_uuid")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 9000), first=st.integers(1, 10000), second=st.integers(1, 10000))
def test_two_halves_of_a_window_add_up_to_it_wherever_it_is_cut(
    store: Store, start: int, first: int, second: int
) -> None:
    begin = END - timedelta(seconds=20000 + start)
    cut, end = begin + timedelta(seconds=first), begin + timedelta(seconds=first + second)
    left, right, whole = totals(store, begin, cut), totals(store, cut, end), totals(store, begin, end)
    for uuid, row in whole.items():
        for name in TOTALS:
            halves = sum(side[uuid][name] for side in (left, right) if uuid in side)
            assert halves == pytest.approx(row[name], abs=1e-3), (uuid, name)
        weight = row["weight"]
        assert row["capacity_seconds"] == pytest.approx(weight * (end - begin).total_seconds(), abs=1e-3)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(7 * 60, 8 * 24 * 60 - 7 * 60))
def test_a_long_window_cut_at_any_minute_adds_up_too(store: Store, cut: int) -> None:
    begin, middle = END - timedelta(days=8), END - timedelta(minutes=cut)
    left, right, whole = totals(store, begin, middle), totals(store, middle, END), totals(store, begin, END)
    for uuid, row in whole.items():
        for name in TOTALS:
            # Samples at the very edges belong to the minute that begins there: one of them more or less.
            assert left[uuid][name] + right[uuid][name] == pytest.approx(row[name], abs=3 * STEP), (uuid, name)


def gpu_sample(at: datetime, uuid: str, activity: float | None, holders: int | None, parent: str = "") -> GpuSample:
    return GpuSample(
        at=at, host="h9", gpu_uuid=uuid, parent_uuid=parent, gpu_index=0, interval_seconds=STEP, busy_ratio=activity,
        holders=holders,
    )  # fmt: skip


def fact(uuid: str, parent: str = "", slice_ratio: float = 1.0, *, mig: bool = False) -> Gpu:
    return Gpu(seen_at=END, host="h9", gpu_uuid=uuid, parent_uuid=parent, gpu_index=0, name="H100", mig_enabled=mig,
               slice_ratio=slice_ratio)  # fmt: skip


def test_a_gpu_that_was_cut_counts_whole_before_and_by_its_devices_after() -> None:
    rows: list[Row] = [fact("G", mig=True), fact("M1", "G", 3 / 7), fact("M2", "G", 4 / 7)]
    cut_at = END - timedelta(hours=2)
    for minute in range(300):
        at = END - timedelta(minutes=minute)
        rows.append(gpu_sample(at, "G", 0.9 if at <= cut_at else None, 1))
        if at > cut_at:
            rows += [gpu_sample(at, "M1", 0.9, 1, "G"), gpu_sample(at, "M2", 0.0, 0, "G")]
    with embedded_store() as store:
        store.append(Batch(token="cut", rows=tuple(rows)))
        found = by(gpu_time(store, EVERYONE, last(timedelta(hours=5))).rows, "gpu_uuid")
        fleet = gpu_time(store, EVERYONE, last(timedelta(hours=5)), by="fleet").rows.to_pylist()[0]
    assert found["G"]["capacity_seconds"] == found["G"]["busy_seconds"] == pytest.approx(3 * 3600)
    assert found["M1"]["busy_seconds"] == pytest.approx(2 * 3600 * 3 / 7)
    assert found["M2"]["free_seconds"] == pytest.approx(2 * 3600 * 4 / 7)
    assert fleet["capacity_seconds"] == pytest.approx(5 * 3600)
    assert fleet["gap_seconds"] == pytest.approx(0.0, abs=1e-6)


def test_a_mig_device_that_was_taken_away_is_no_gap_and_its_gpu_counts_again() -> None:
    rows: list[Row] = [fact("G"), fact("M1", "G", 1.0)]
    for minute in range(300):
        at = END - timedelta(minutes=minute)
        cut = at <= END - timedelta(hours=2)
        rows.append(gpu_sample(at, "G", None if cut else 0.2, 0))
        if cut:
            rows.append(gpu_sample(at, "M1", 0.9, 1, "G"))
    with embedded_store() as store:
        store.append(Batch(token="whole again", rows=tuple(rows)))
        found = by(gpu_time(store, EVERYONE, last(timedelta(hours=5))).rows, "gpu_uuid")
    assert found["M1"]["capacity_seconds"] == pytest.approx(3 * 3600)
    assert found["G"]["low_seconds"] == found["G"]["capacity_seconds"] == pytest.approx(2 * 3600)
    assert found["M1"]["gap_seconds"] == found["G"]["gap_seconds"] == pytest.approx(0.0, abs=1e-6)


def test_what_nobody_could_read_is_unknown_and_never_free() -> None:
    rows: list[Row] = [fact("G")]
    for minute in range(180):
        at = END - timedelta(minutes=minute)
        # Hour by hour: activity not known; idle with holders not known; busy with holders not known.
        activity = (None, 0.0, 0.9)[minute // 60]
        rows.append(gpu_sample(at, "G", activity, 1 if activity is None else None))
    with embedded_store() as store:
        store.append(Batch(token="unknown", rows=tuple(rows)))
        row = gpu_time(store, EVERYONE, last(timedelta(hours=3))).rows.to_pylist()[0]
        funnel = by(gpu_funnel_time(store, EVERYONE, last(timedelta(hours=3))).rows, "stage")
        # Rows that were rolled up before activity was kept: their time is known, what it was is not.
        store.command(
            "INSERT INTO gpu_samples_1h (at, host, gpu_uuid, gpu_index, interval_seconds)"
            " VALUES ('2026-11-15 00:00:00', 'h9', 'G', 0, 3600)"
        )
        old = gpu_time(store, EVERYONE, last(timedelta(days=6))).rows.to_pylist()[0]
    assert row["unknown_seconds"] == pytest.approx(2 * 3600)
    assert row["busy_seconds"] == pytest.approx(3600)
    assert row["free_seconds"] == row["held_idle_seconds"] == 0.0
    # Held in the first hour; in the other two nobody could say, so they are neither held nor used without being held.
    assert row["held_seconds"] == pytest.approx(3600)
    assert row["used_not_held_seconds"] == 0.0
    assert row["holders_unknown_seconds"] == pytest.approx(2 * 3600)
    assert row["used_holders_unknown_seconds"] == pytest.approx(3600)
    # The busy hour is allocated whichever of the two it was; the idle one is not, and the note tells both.
    assert funnel["allocated"]["gpu_hours"] == pytest.approx(2.0)
    assert funnel["active"]["gpu_hours"] == pytest.approx(1.0)
    assert funnel["allocated"]["note"] == (
        "held by a container, or used without being held; whether it was held is not known of 1 GPU-h of it; "
        "1 GPU-h more may have been held: not known"
    )
    # Of time that was rolled up without activity nobody knows either.
    assert old["holders_unknown_seconds"] == pytest.approx(3 * 3600, abs=STEP)
    assert old["unknown_seconds"] == pytest.approx(3 * 3600, abs=STEP)
