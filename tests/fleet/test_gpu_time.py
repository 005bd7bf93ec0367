from __future__ import annotations

import pytest

from fleet.gpu_time import (
    EDGES,
    HELD,
    HOLDERS_UNKNOWN,
    UNKNOWN_BUCKET,
    GpuSeconds,
    activity_bucket,
    gpu_seconds,
    is_edge,
)
from tests.store.stores import embedded_store


def test_every_edge_opens_its_own_bucket_also_as_the_32_bit_float_that_is_stored() -> None:
    import numpy as np

    for place, edge in enumerate(EDGES):
        assert activity_bucket(edge) == place
        assert activity_bucket(float(np.float32(edge))) == place
    assert activity_bucket(1.0) == len(EDGES) - 1 == 27
    assert activity_bucket(None) == UNKNOWN_BUCKET


def test_thresholds_lie_on_edges() -> None:
    assert is_edge(0.05)
    assert is_edge(0.5)
    assert is_edge(1.0)
    assert not is_edge(0.055)
    assert not is_edge(0.12)


def test_four_states_come_from_seconds_by_activity() -> None:
    seconds = {0: 10.0, HELD: 20.0, HELD + 4: 5.0, HELD + 5: 7.0, 20: 3.0, HELD + 18: 11.0, UNKNOWN_BUCKET: 2.0,
               HOLDERS_UNKNOWN: 1.0}  # fmt: skip
    # EDGES[18] is 0.5; EDGES[20] is 0.6. Idle below 5 %: buckets 0-4.
    assert gpu_seconds(seconds, idle_below=0.05, busy_from=0.5) == GpuSeconds(
        busy=14.0, low=7.0, held_idle=25.0, free=10.0, unknown=3.0
    )
    # The same seconds, told by other thresholds, add up to the same time.
    assert gpu_seconds(seconds, idle_below=0.1, busy_from=0.6).observed == sum(seconds.values())


def test_a_threshold_between_two_edges_is_refused() -> None:
    with pytest.raises(ValueError, match="edges"):
        gpu_seconds({}, idle_below=0.055, busy_from=0.5)
    with pytest.raises(ValueError, match="lower one first"):
        gpu_seconds({}, idle_below=0.6, busy_from=0.5)


def test_the_rollups_count_seconds_in_the_buckets_that_python_names() -> None:
    """The rule stands twice, in SQL and here: each ratio of a fine grid must fall into the same bucket."""
    ratios = [step / 200 for step in range(201)]
    with embedded_store() as store:
        values = ", ".join(
            f"(toDateTime64('2026-11-22 10:00:00', 3, 'UTC'), 'h', 'g{place}', 5, {ratio})"
            for place, ratio in enumerate(ratios)
        )
        store.command(f"INSERT INTO gpu_samples (at, host, gpu_uuid, interval_seconds, busy_ratio) VALUES {values}")
        rows = store.query(
            "SELECT gpu_uuid, mapKeys(sumMap(activity_seconds)) AS keys FROM gpu_samples_1h GROUP BY gpu_uuid"
        ).to_pylist()
    found = {int(row["gpu_uuid"][1:]): row["keys"] for row in rows}
    assert found == {place: [activity_bucket(ratio) + HOLDERS_UNKNOWN] for place, ratio in enumerate(ratios)}
