"""Containers' shares of GPUs over time, cut so that they add up to the device.

A container that lived for half a point fills half of it: its mean is weighted by the share of the device's observed
time in which it was there. Without that, two containers taking turns within a point would sum to twice the device.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from fleet.model import Scope, Window
from queries.resolution import Resolution
from queries.scoping import Where, during, of_gpus
from store import Store


def device_parts(
    store: Store,
    scope: Scope,
    window: Window,
    tier: Resolution,
    rows: Where,
    *,
    by: str,
    gauges: Mapping[str, str],
) -> pa.Table:
    """Sums of gauges of `container_gpu_samples` per point: the columns of `by`, bucket (epoch seconds), then `gauges`.

    rows: which rows (scoped, not yet limited to the window). by: any of tenant, container_key, gpu_uuid and nobody
    (1 for the unattributed part), comma-separated, or "" for one sum. gauges: name of the result -> gauge. Unknown
    parts stay out of a sum; a sum of nothing known is NULL.
    """
    taken = during(rows, window, tier)
    seen = during(of_gpus(scope, window, tier), window, tier)
    keys = f"{by}, " if by else ""
    means = ", ".join(f"{tier.mean(gauge)} AS mean_{number}" for number, gauge in enumerate(gauges.values()))
    sums = ", ".join(f"sum(mean_{n} * own / greatest(own, device)) AS {name}" for n, name in enumerate(gauges))
    return store.query(
        f"""
        SELECT {keys}bucket, {sums} FROM (
            SELECT tenant, container_key, gpu_uuid, container_key = '' AS nobody, {tier.bucket} AS bucket,
                sum(toFloat64(interval_seconds)) AS own, {means}
            FROM {tier.table("container_gpu_samples")} WHERE {taken.sql}
            GROUP BY tenant, container_key, gpu_uuid, bucket
        ) AS part
        LEFT JOIN (
            SELECT gpu_uuid, {tier.bucket} AS bucket, sum(toFloat64(interval_seconds)) AS device
            FROM {tier.table("gpu_samples")} WHERE {seen.sql} GROUP BY gpu_uuid, bucket
        ) AS whole USING (gpu_uuid, bucket)
        GROUP BY {keys}bucket
        """,
        {**taken.parameters, **seen.parameters},
    )
