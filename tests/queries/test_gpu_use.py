"""USE of GPUs on five hours worked out by hand: END is noon, one reading a minute of the half hours from 7 to 12.

G0: busy 0.9, hot (software thermal slowdown) from 7 to 8 with XID 63 at 7:30; power cap from 8 to 10; memory 40 of 80.
G1: an older GPU without GPM, encoders busy, no throttling. MIG: a device of G1, activity only.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from fleet.model import Batch, ContainerGpuSample, Gpu, GpuSample, Row, Scope, Window
from queries.gpu_use import gpu_use
from store import Store
from tests.store.stores import embedded_store

END = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
EVERYONE = Scope(tenants=None)
GIB = 1 << 30
SPANS = [timedelta(hours=5), timedelta(hours=8), timedelta(days=9)]


def plant(store: Store) -> None:
    rows: list[Row] = [
        Gpu(seen_at=END, host="h1", gpu_uuid=name, gpu_index=index, name="NVIDIA H100", parent_uuid=parent)
        for index, (name, parent) in enumerate((("G0", ""), ("G1", ""), ("M0", "G1")))
    ]
    for minute in range(300):
        at = END - timedelta(minutes=minute, seconds=30)  # the middle of each minute: no sample on an edge
        hour = at.hour
        bits = 0x20 if hour == 7 else 0x4 if hour in (8, 9) else 0x1
        hit = at.hour == 7 and at.minute == 30
        rows += [
            GpuSample(
                at=at, host="h1", gpu_uuid="G0", gpu_index=0, interval_seconds=60.0, busy_ratio=0.9,
                sm_active_ratio=0.5 if hour < 10 else 0.75, memory_used_bytes=40 * GIB, memory_total_bytes=80 * GIB,
                power_watts=600.0, power_limit_watts=700.0, energy_joules=36000.0, temperature_celsius=60.0 + hour,
                throttle_reasons=bits, ecc_corrected=2 if hit else 0, ecc_uncorrected=0, remapped_rows=1 if hit else 0,
                remap_pending=hit or hour > 7, xid=63 if hit else None, process_count=3,
                pcie_receive_bytes=6000, recovery_action=1,
            ),
            GpuSample(
                at=at, host="h1", gpu_uuid="G1", gpu_index=1, interval_seconds=60.0, busy_ratio=0.2,
                encoder_ratio=0.5, decoder_ratio=0.0, throttle_reasons=0x1, recovery_action=0,
                unknown_reason="SM activity needs Hopper or newer (GPM): sm_active_ratio",
            ),
            GpuSample(
                at=at, host="h1", gpu_uuid="M0", parent_uuid="G1", gpu_index=1, interval_seconds=60.0,
                sm_active_ratio=0.1,
            ),
            ContainerGpuSample(
                at=at, host="h1", tenant="acme", container_key="h1:a", container_id="a", gpu_uuid="G0",
                interval_seconds=60.0, held=True,
            ),
        ]  # fmt: skip
    store.append(Batch(token="use", rows=tuple(rows)))


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with embedded_store() as opened:
        plant(opened)
        yield opened


def last(span: timedelta) -> Window:
    return Window(start=END - span, end=END)


@pytest.mark.parametrize("span", SPANS)
def test_utilisation_saturation_and_errors_agree_on_every_tier(store: Store, span: timedelta) -> None:
    hot, old, mig = gpu_use(store, EVERYONE, last(span)).rows.to_pylist()
    assert [row["gpu_uuid"] for row in (hot, old, mig)] == ["G0", "G1", "M0"]
    assert hot["busy_ratio_mean"] == pytest.approx(0.9)
    assert hot["sm_active_ratio_mean"] == pytest.approx((3 * 0.5 + 2 * 0.75) / 5)
    assert hot["sm_active_ratio_max"] == pytest.approx(0.75)
    assert hot["pcie_receive_bytes_per_second"] == pytest.approx(100.0)
    assert hot["nvlink_receive_bytes_per_second"] is None
    assert (hot["memory_used_bytes_max"], hot["memory_total_bytes_max"]) == (40 * GIB, 80 * GIB)
    assert hot["temperature_celsius_max"] == 71.0
    assert hot["energy_joules"] == pytest.approx(300 * 36000)
    assert hot["power_at_limit_ratio"] == pytest.approx(0.4)
    assert hot["slowed_ratio"] == pytest.approx(0.6)
    assert hot["throttle_words"] == ["power cap reached", "software slowdown: too hot"]
    assert hot["throttle_ratios"] == pytest.approx([0.4, 0.2])
    assert (hot["ecc_corrected"], hot["ecc_uncorrected"], hot["remap_pending"]) == (2, 0, True)
    assert hot["xids"] == [63]
    assert hot["xid_words"][0].startswith("XID 63: a memory row was remapped")
    assert "reset" in hot["recovery_words"].lower()
    assert (old["throttle_words"], old["slowed_ratio"], old["xids"], old["recovery_words"]) == ([], 0.0, [], "")
    assert old["encoder_ratio_mean"] == pytest.approx(0.5)
    assert old["sm_active_ratio_mean"] is None
    assert old["unknown_reason"].startswith("SM activity needs Hopper")
    assert (mig["parent_uuid"], mig["slowed_ratio"], mig["recovery_words"]) == ("G1", None, None)
    assert mig["sm_active_ratio_mean"] == pytest.approx(0.1)


def test_the_step_behind_the_throttle_shares_is_told(store: Store) -> None:
    steps = [gpu_use(store, EVERYONE, last(span)).rows.column("throttle_step_seconds")[0].as_py() for span in SPANS]
    assert steps == [0, 60, 3600]


def test_one_gpu_can_be_asked_for_and_a_tenant_sees_only_those_it_holds(store: Store) -> None:
    one = gpu_use(store, EVERYONE, last(timedelta(hours=1)), gpu_uuid="G1").rows
    assert one.column("gpu_uuid").to_pylist() == ["G1"]
    own = gpu_use(store, Scope(tenants=frozenset({"acme"})), last(timedelta(hours=1))).rows.to_pylist()
    assert [(row["gpu_uuid"], row["process_count_mean"]) for row in own] == [("G0", None)]
    assert gpu_use(store, Scope(tenants=frozenset()), last(timedelta(hours=1))).rows.num_rows == 0
