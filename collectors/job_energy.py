"""The energy of a GPU job, from the samples of its container on its GPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from collectors.jobs import Energy, EnergyUnknownError
from fleet.model import GpuJob
from store.errors import StoreError, StoreUnavailable

Query = Callable[[str, Mapping[str, object]], Any]
#: Jobs up to this length are summed over single samples, then over minutes, then over hours (kept the longest).
RAW_UP_TO, MINUTES_UP_TO = timedelta(hours=6), timedelta(days=14)


def energy_from(query: Query) -> Energy:
    """A function that asks the store for the energy of a job.

    It gives (joules, where from with the share of the run that was sampled), or (None, why not), and raises
    EnergyUnknownError when the store does not answer.
    """

    def energy(job: GpuJob, end: datetime) -> tuple[float | None, str]:
        length = end - job.started_at
        expected = length.total_seconds() * len(job.gpu_uuids)
        if expected <= 0:
            return None, "not known: the run has no length"
        suffix, step, words = _tier(length)
        seconds = "energy_weight_seconds" if suffix else "if(isNull(energy_joules), 0, interval_seconds)"
        try:
            row = query(
                f"SELECT sum(energy_joules) AS joules, sum(toFloat64({seconds})) AS sampled"
                f" FROM container_gpu_samples{suffix}"
                " WHERE host = {host:String} AND container_id = {id:String} AND gpu_uuid IN {gpus:Array(String)}"
                " AND toUnixTimestamp64Milli(toDateTime64(at, 3, 'UTC')) > {start:Int64}"
                " AND toUnixTimestamp64Milli(toDateTime64(at, 3, 'UTC')) <= {end:Int64}",
                {
                    "host": job.host, "id": job.container_id, "gpus": list(job.gpu_uuids),
                    # A rollup's row is stamped at the start of what it covers, a sample at its end.
                    "start": _milliseconds(job.started_at) - step, "end": _milliseconds(end) - (1 if step else 0),
                },
            ).to_pylist()[0]  # fmt: skip
        except StoreUnavailable as error:
            raise EnergyUnknownError(str(error)) from error
        except StoreError as error:
            return None, f"not known: the store refused the question ({error.code})"
        covered = min(1.0, (row["sampled"] or 0.0) / expected)
        if row["joules"] is None:
            return None, "not known: no energy was sampled"
        share = f"{'less than 1%' if covered < 0.01 else f'{covered:.0%}'} of the run was sampled"
        return round(float(row["joules"]), 3), f"energy counter, shared by SM time ({words}; {share})"

    return energy


def _tier(length: timedelta) -> tuple[str, int, str]:
    """Suffix of the table, how long before the start its first row may be stamped (ms), and words."""
    if length <= RAW_UP_TO:
        return "", 0, "single samples"
    return ("_1m", 60_000, "1-minute sums") if length <= MINUTES_UP_TO else ("_1h", 3_600_000, "1-hour sums")


def _milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)
