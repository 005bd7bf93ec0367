"""One GPU in full, on the fleet of three_tenants.py and a small one with MIG, events and a container that left."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from fleet.model import Batch, Container, ContainerGpuSample, Event, Gpu, GpuSample, Row, Scope, SourceRun, Window
from queries.gpu_detail import (
    container_allocation,
    container_presence,
    gpu_events,
    gpu_facts,
    gpu_presence,
    gpu_signals,
)
from store import Store
from tests.queries.three_tenants import END, EVERYONE, GIB, window
from tests.store.stores import embedded_store

ACME, GLOBEX = (Scope(tenants=frozenset({name})) for name in ("acme", "globex"))
SPAN = Window(start=END - timedelta(hours=1), end=END)
STEP = 60


def test_presence_adds_up_to_the_device_and_nobodys_part_comes_last(fleet: Store) -> None:
    rows = gpu_presence(fleet, EVERYONE, window(hours=1), gpu_uuid="GPU-1").rows.to_pylist()
    assert [(row["name"], row["tenant"]) for row in rows] == [("chat", "acme"), ("batch", "globex"), ("", "")]
    assert sum(row["sm_ratio"] for row in rows) == pytest.approx(0.95)
    assert sum(row["memory_bytes"] for row in rows) == 15 * GIB
    assert [row["held"] for row in rows] == [True, True, False]
    assert all(row["here_now"] for row in rows)
    chat = rows[0]
    assert chat["sm_mean_ratio"] == pytest.approx(0.60)
    assert chat["held_seconds"] == chat["observed_seconds"] == 3600
    assert chat["age_seconds"] == 0
    assert (chat["attribution"], chat["processes"]) == ("measured", None)


def test_a_tenant_sees_itself_on_a_shared_gpu_and_nothing_of_the_others(fleet: Store) -> None:
    rows = gpu_presence(fleet, ACME, window(hours=1), gpu_uuid="GPU-1").rows.to_pylist()
    assert [row["name"] for row in rows] == ["chat"]
    assert gpu_presence(fleet, ACME, window(hours=1), gpu_uuid="GPU-2").rows.num_rows == 0
    assert gpu_facts(fleet, ACME, window(hours=1), gpu_uuid="GPU-2").rows.num_rows == 0
    assert gpu_facts(fleet, ACME, window(hours=1), gpu_uuid="GPU-1").rows.num_rows == 1


@pytest.mark.parametrize("hours", [1, 11, 12])
def test_signals_keep_the_device_readings_over_every_tier(fleet: Store, hours: float) -> None:
    rows = gpu_signals(fleet, EVERYONE, window(hours=hours), gpu_uuid="GPU-1").rows
    seen = [row for row in rows.to_pylist() if row["busy_ratio"] is not None]
    assert seen[-1]["busy_ratio"] == pytest.approx(0.95)
    assert seen[-1]["power_watts"] == pytest.approx(300.0)
    assert seen[-1]["memory_total_bytes"] == 80 * GIB
    assert seen[-1]["pcie_receive_bytes_per_second"] is None


def _sample(at_minute: int, key: str, tenant: str, uuid: str, **more: object) -> ContainerGpuSample:
    values: dict[str, object] = {"held": True, "attribution": "estimated", **more}
    return ContainerGpuSample(
        at=END - timedelta(minutes=at_minute), host="h1", tenant=tenant, container_key=key, container_id=key,
        gpu_uuid=uuid, interval_seconds=STEP, **values,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture(scope="module")
def cut() -> Iterator[Store]:
    """GPU-M is cut into MIG-1 (acme/a works there) and MIG-2 (globex/b left five minutes ago)."""
    rows: list[Row] = []
    for minute in range(60):
        at = END - timedelta(minutes=minute)
        rows.append(
            GpuSample(
                at=at, host="h1", gpu_uuid="GPU-M", gpu_index=0, interval_seconds=STEP, power_watts=200.0,
                throttle_reasons=0x4 if minute < 15 else 0, pcie_receive_bytes=600,
            )
        )  # fmt: skip
        rows.append(
            GpuSample(
                at=at, host="h1", gpu_uuid="MIG-2", parent_uuid="GPU-M", gpu_index=0, interval_seconds=STEP,
                memory_used_bytes=0,
            )
        )  # fmt: skip
        rows.append(
            _sample(
                minute, "h1:a", "acme", "MIG-1", sm_ratio=None, memory_bytes=2 * GIB, processes=1,
                attribution_reason="MIG tells no SM share of a process",
            )
        )  # fmt: skip
        rows.append(
            SourceRun(at=at, source="nvml", target="h1", state="ok", interval_seconds=STEP, took_seconds=0.01, rows=2)
        )
    rows += [_sample(minute, "h1:b", "globex", "MIG-2", memory_bytes=4 * GIB) for minute in range(5, 60)]
    rows += [
        Gpu(seen_at=END, host="h1", gpu_uuid=uuid, parent_uuid=parent, gpu_index=0, name="H100", mig_profile=profile,
            driver_version="590", pci_bus_id="00:5B")
        for uuid, parent, profile in (("GPU-M", "", ""), ("MIG-1", "GPU-M", "1g.10gb"), ("MIG-2", "GPU-M", "2g.20gb"))
    ]  # fmt: skip
    rows += [
        Container(
            seen_at=END, host="h1", tenant=tenant, team="", owner="", tenant_origin="mapped",
            container_key=f"h1:{name}", container_id=f"h1:{name}", name=name,
            image="x", image_id="", image_digest="", state="running",
            created_at=END - timedelta(days=1), started_at=END - timedelta(days=1), gpu_request=f"--gpus device={name}",
            gpu_request_kind="ids", gpu_uuids=(uuid,), gpu_unresolved=unresolved,
        )
        for name, tenant, uuid, unresolved in (("a", "acme", "MIG-1", ("7",)), ("b", "globex", "GPU-X", ()))
    ]  # fmt: skip
    rows += [
        Event(
            at=END - timedelta(minutes=minute), event_id=title, host="h1", tenant=tenant, container_key=key,
            container_id=key, gpu_uuid=uuid, source="x", kind=kind, severity="warning", title=title,
        )
        for minute, tenant, key, uuid, kind, title in (
            (5, "", "", "MIG-1", "xid", "XID 94"), (10, "acme", "h1:a", "", "start", "a started"),
            (20, "globex", "h1:b", "", "die", "b ended"), (25, "", "", "MIG-2", "xid", "XID 63"),
        )
    ]  # fmt: skip
    with embedded_store() as store:
        store.append(Batch(token="cut", rows=tuple(rows)))
        yield store


def test_a_gpu_in_mig_mode_shows_who_is_on_its_devices(cut: Store) -> None:
    rows = gpu_presence(cut, EVERYONE, SPAN, gpu_uuid="GPU-M").rows.to_pylist()
    assert [(row["name"], row["mig_profile"], row["here_now"]) for row in rows] == [
        ("a", "1g.10gb", True), ("b", "2g.20gb", False),
    ]  # fmt: skip
    here, gone = rows
    assert (here["sm_ratio"], here["attribution_reason"]) == (None, "MIG tells no SM share of a process")
    assert (gone["memory_bytes"], gone["held"], gone["memory_max_bytes"]) == (None, None, 4 * GIB)
    assert gone["observed_seconds"] == 55 * STEP
    facts = gpu_facts(cut, EVERYONE, SPAN, gpu_uuid="GPU-M").rows.to_pylist()[0]
    assert facts["mig_devices"] == ["MIG-1", "MIG-2"]
    assert gpu_facts(cut, EVERYONE, SPAN, gpu_uuid="GPU-0").rows.num_rows == 0


def test_throttling_is_a_share_of_the_time_in_which_reasons_were_told(cut: Store) -> None:
    rows = gpu_signals(cut, EVERYONE, SPAN, gpu_uuid="GPU-M").rows.to_pylist()
    told = [row["slowed_ratio"] for row in rows if row["slowed_ratio"] is not None]
    assert sum(told) / len(told) == pytest.approx(0.25)
    assert {row["pcie_receive_bytes_per_second"] for row in rows} <= {None, 10.0}


def test_events_of_a_gpu_are_its_own_and_those_of_the_containers_on_it(cut: Store) -> None:
    assert gpu_events(cut, EVERYONE, SPAN, gpu_uuid="MIG-1").rows["title"].to_pylist() == ["XID 94", "a started"]
    assert gpu_events(cut, EVERYONE, SPAN, gpu_uuid="MIG-2").rows["title"].to_pylist() == ["b ended", "XID 63"]
    assert gpu_events(cut, GLOBEX, SPAN, gpu_uuid="MIG-1").rows.num_rows == 0


def test_an_allocation_names_its_devices_and_the_ids_that_name_nothing(cut: Store) -> None:
    row = container_allocation(cut, EVERYONE, SPAN, container_key="h1:a").rows.to_pylist()[0]
    assert (row["gpu_request"], row["devices"], row["gpu_unresolved"]) == (
        "--gpus device=a", ["MIG 1g.10gb of GPU 0"], ["7"],
    )  # fmt: skip
    assert container_allocation(cut, EVERYONE, SPAN, container_key="h1:b").rows["devices"].to_pylist() == [["GPU-X"]]
    assert container_allocation(cut, GLOBEX, SPAN, container_key="h1:a").rows.num_rows == 0


def test_a_containers_devices_are_those_it_was_seen_on(cut: Store) -> None:
    rows = container_presence(cut, EVERYONE, SPAN, container_key="h1:b").rows.to_pylist()
    # It left five minutes ago: the device was read since then without it.
    assert [(row["gpu_uuid"], row["here_now"]) for row in rows] == [("MIG-2", False)]
