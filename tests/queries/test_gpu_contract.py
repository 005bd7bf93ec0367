"""The contract check on a small store whose every number can be worked out by hand.

h1 has GPU-0, GPU-1, GPU-2: acme/train asked for all and uses GPU-0 only; globex/lost names one that is not there.
h2 has GPU-8 and GPU-9: acme/one and globex/two each asked by count and share GPU-8. initech/nb named GPU-9, used it
until 20 hours ago and holds it since; initech/spy runs privileged and has had 1 GiB on it for two hours. h3 has MIG-0,
of whose processes the driver says nothing. acme/agent runs privileged and does nothing, acme/tool does so on a host
without a GPU, and globex/dead could not start. One reading every 5 minutes, 30 hours long.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from fleet.model import Batch, Container, ContainerGpuSample, Gpu, Row, Scope, Window
from queries.gpu_contract import gpu_contract
from store import Store
from tests.store.stores import KINDS, store_of_kind

END = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
STEP = 300
HOURS = 30
GIB = 1 << 30
EVERYONE = Scope(tenants=None)
NO_RUNTIME = 'could not select device driver "" with capabilities: [[gpu]]'
WHY = "process list: not supported on MIG devices"

#: name, tenant, host, kind, request, uuids, more columns
CONTAINERS = (
    ("train", "acme", "h1", "all", "--gpus all", ("GPU-0", "GPU-1", "GPU-2"), {}),
    ("lost", "globex", "h1", "ids", "--gpus device=GPU-dead", (), {"gpu_unresolved": ("GPU-dead",)}),
    ("one", "acme", "h2", "count", "--gpus 1", ("GPU-8",), {"started_at": END - timedelta(hours=29)}),
    ("two", "globex", "h2", "count", "--gpus 1", ("GPU-8",), {"compose_project": "shop"}),
    ("nb", "initech", "h2", "ids", "--gpus device=1", ("GPU-9",), {}),
    ("spy", "initech", "h2", "privileged", "--privileged", (), {"privileged": True}),
    ("mig", "globex", "h3", "ids", "--gpus device=MIG-0", ("MIG-0",), {}),
    ("agent", "acme", "h1", "privileged", "--privileged", (), {"privileged": True}),
    ("tool", "acme", "h4", "privileged", "--privileged", (), {"privileged": True}),
    ("dead", "globex", "h1", "all", "--gpus all", (), {"state": "created", "error": NO_RUNTIME, "started_at": None}),
    ("past", "acme", "h2", "count", "--gpus 1", ("GPU-8",), {"state": "exited"}),
    ("gone", "acme", "h2", "count", "--gpus 1", ("GPU-8",), {"removed": True}),
    ("old", "acme", "h2", "", "--gpus 1", (), {}),  # stored before requests were resolved
)  # fmt: skip


def _samples(seconds_ago: int) -> list[tuple[str, str, bool, int | None, float | None]]:
    """Container, GPU, held, memory, SM at one moment."""
    hours = seconds_ago / 3600
    found: list[tuple[str, str, bool, int | None, float | None]] = [
        ("train", "GPU-0", True, 10 * GIB, 0.6),
        ("train", "GPU-1", True, 0, 0.0),
        ("train", "GPU-2", True, 0, 0.04),
        ("two", "GPU-8", True, 3 * GIB, 0.2),
        ("nb", "GPU-9", True, 2 * GIB if hours > 20 else 0, 0.3 if hours > 20 else 0.0),
        ("mig", "MIG-0", True, None, None),
        ("old", "GPU-8", True, GIB, 0.1),
    ]
    if hours < 29:
        found.append(("one", "GPU-8", True, 4 * GIB, 0.3))
    if hours < 2:
        found.append(("spy", "GPU-9", False, GIB, 0.01))
    return found


def plant(store: Store) -> None:
    facts = {name: (tenant, host) for name, tenant, host, *_ in CONTAINERS}
    rows: list[Row] = []
    for seconds in range(0, HOURS * 3600, STEP):
        for name, gpu, held, memory, sm in _samples(seconds):
            tenant, host = facts[name]
            rows.append(
                ContainerGpuSample(
                    at=END - timedelta(seconds=seconds), host=host, tenant=tenant, container_key=f"{host}:{name}",
                    container_id=f"id-{name}", gpu_uuid=gpu, interval_seconds=STEP, held=held, memory_bytes=memory,
                    sm_ratio=sm, attribution="declared" if memory is None else "measured",
                    attribution_reason=WHY if memory is None else "",
                )
            )  # fmt: skip
    for name, tenant, host, kind, request, uuids, more in CONTAINERS:
        values = {"state": "running", "started_at": END - timedelta(hours=30), **more}
        rows.append(
            Container(
                seen_at=END, host=host, tenant=tenant, team="", owner="", tenant_origin="mapped",
                container_key=f"{host}:{name}", container_id=f"id-{name}", name=name, image="i:1", image_id="",
                image_digest="", created_at=END - timedelta(hours=30), gpu_request=request, gpu_request_kind=kind,
                gpu_uuids=uuids, **values,
            )
        )  # fmt: skip
    gpus = (("h1", "GPU-0", 0), ("h1", "GPU-1", 1), ("h1", "GPU-2", 2), ("h2", "GPU-8", 0), ("h2", "GPU-9", 1))
    rows += [Gpu(seen_at=END, host=host, gpu_uuid=uuid, gpu_index=index, name="H100") for host, uuid, index in gpus]
    rows += [
        Gpu(seen_at=END, host="h3", gpu_uuid="GPU-M", gpu_index=0, name="H100"),
        Gpu(seen_at=END, host="h3", gpu_uuid="MIG-0", parent_uuid="GPU-M", gpu_index=0, name="H100",
            mig_profile="3g.40gb"),
    ]  # fmt: skip
    store.append(Batch(token="contract", rows=tuple(rows)))


@pytest.fixture(scope="module", params=KINDS)
def held(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_of_kind(request.param, tmp_path_factory.mktemp("contract")) as store:
        plant(store)
        yield store


def ask(store: Store, scope: Scope = EVERYONE, hours: float = 6, **more) -> list[dict]:
    return gpu_contract(store, scope, Window(start=END - timedelta(hours=hours), end=END), **more).rows.to_pylist()


def told(rows: list[dict]) -> dict[tuple[str, str], dict]:
    return {(row["name"], row["kind"]): row for row in rows}


def test_every_breach_is_found_and_nothing_else(held: Store):
    assert [(row["severity"], row["kind"], row["name"]) for row in ask(held)] == [
        ("warning", "failed_start", "dead"),
        ("warning", "requested_absent", "lost"),
        ("warning", "uses_unasked", "spy"),
        ("warning", "shared_by_count", "one"),
        ("warning", "shared_by_count", "two"),
        ("warning", "asked_all", "train"),
        ("warning", "held_unused", "train"),
        ("warning", "held_unused", "nb"),
        ("info", "privileged_reach", "agent"),
        ("info", "unknown", "mig"),
    ]


@pytest.mark.parametrize("hours", [0.25, 6, 11, 24 * 9])
def test_the_same_is_found_over_every_tier(held: Store, hours: float):
    assert set(told(ask(held, hours=hours))) == set(told(ask(held)))


def test_the_sentences_are_those_of_a_colleague(held: Store):
    found = {key: row["sentence"] for key, row in told(ask(held)).items()}
    assert found["train", "asked_all"] == (
        "train asks for all 3 GPUs of h1 (--gpus all) and used at most 1 of them in the last 6 h: GPU 0. Write"
        " `--gpus '\"device=GPU-0\"'`."
    )
    assert found["train", "held_unused"] == (
        "train holds 2 of its 3 GPUs without using them since 19 Nov 06:00 UTC (1 d 6 h): no process on GPU 1 and GPU"
        " 2, never above 5 % SM in the last 4 h. Write `--gpus '\"device=GPU-0\"'`."
    )
    assert found["nb", "held_unused"].startswith("nb holds 1 GPU without using it since 19 Nov 16:00 UTC (20 h)")
    assert found["spy", "uses_unasked"].startswith("spy uses GPU 1, which it did not ask for since 20 Nov 10:0")
    assert "up to 1 GiB, up to 1 % SM. It runs --privileged" in found["spy", "uses_unasked"]
    assert "one shares GPU 0 with two. Both asked by count" in found["one", "shared_by_count"]
    assert '`device_ids: ["GPU-8"]`' in found["two", "shared_by_count"]
    assert found["mig", "unknown"] == (
        "Not known: whether mig uses MIG 3g.40gb of GPU 0 (MIG-0), which it holds. Process list: not supported on MIG"
        " devices."
    )


def test_since_and_evidence_are_numbers_that_can_be_checked(held: Store):
    found = told(ask(held))
    assert found["one", "shared_by_count"]["since"] == END - timedelta(hours=29)
    assert found["nb", "held_unused"]["since"] == END - timedelta(hours=20)
    assert found["lost", "requested_absent"]["since"] is None
    assert found["nb", "held_unused"]["evidence"] == (
        "memory_max_bytes=0; sm_max_ratio=0; quiet_seconds=14400; after_seconds=14400; request=--gpus device=1"
    )
    assert found["spy", "uses_unasked"]["gpu_uuids"] == ["GPU-9"]
    assert f"memory_max_bytes={GIB}" in found["spy", "uses_unasked"]["evidence"]


def test_thresholds_decide_what_is_unused(held: Store):
    assert ("nb", "held_unused") not in told(ask(held, held_unused_after_seconds=21 * 3600.0))
    assert ("train", "held_unused") in told(ask(held, held_unused_after_seconds=29 * 3600.0))
    # At 4 % SM, GPU 2 is used when 3 % counts.
    strict = told(ask(held, idle_below_ratio=0.03))["train", "held_unused"]
    assert strict["gpu_uuids"] == ["GPU-1"]
    # A span of minutes is read from the samples themselves.
    assert ("nb", "held_unused") in told(ask(held, hours=0.25, held_unused_after_seconds=600.0))


def test_one_host_can_be_asked_for(held: Store):
    assert {row["host"] for row in ask(held, host="h2")} == {"h2"}


@pytest.mark.parametrize("tenant", ["acme", "globex", "initech"])
def test_a_tenant_sees_its_own_containers_and_never_the_other_partys_name(held: Store, tenant: str):
    names = {"acme": "one", "globex": "two"}
    own = ask(held, Scope(tenants=frozenset({tenant})))
    expected = [row for row in ask(held) if row["tenant"] == tenant]
    other = names["globex" if tenant == "acme" else "acme"]
    for row in expected:
        if row["kind"] == "shared_by_count":
            row["sentence"] = row["sentence"].replace(f"with {other}.", "with another tenant's container.")
            row["evidence"] = row["evidence"].replace(f"with={other}", "with=another tenant's container")
            row["since"] = END - timedelta(hours=29 if tenant == "acme" else 30)  # of the own container
    assert own == expected


def test_an_instant_before_the_containers_shows_nothing(held: Store):
    early = Window(start=END - timedelta(days=3), end=END - timedelta(days=2))
    assert gpu_contract(held, EVERYONE, early).rows.num_rows == 0


def test_hours_after_the_last_reading_everything_held_is_unknown_not_in_order(held: Store):
    # Twenty hours after the last reading the containers still run, as far as anyone knows. Of every GPU that was asked
    # for by name it is not known any more whether it is used; nothing of it may read as in order.
    later = Window(start=END + timedelta(hours=19), end=END + timedelta(hours=20))
    answer = gpu_contract(held, EVERYONE, later)
    unknown = {row["name"]: row["gpu_uuids"] for row in answer.rows.to_pylist() if row["kind"] == "unknown"}
    assert unknown == {
        "train": ["GPU-0", "GPU-1", "GPU-2"], "one": ["GPU-8"], "two": ["GPU-8"], "nb": ["GPU-9"], "mig": ["MIG-0"],
    }  # fmt: skip
    assert answer.coverage is None  # and no source answers for this time
