"""Which table answers a span of time, and at what step: the coarsest of raw, minutes and hours that the step allows.

Expressions from here read the raw table and its rollups alike, so a query is written once. Means are weighted by the
time each sample covers; that is what makes the three tiers agree (docs/decisions/0004-increments-and-unknown.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from fleet.model import Window

RAW_UP_TO = timedelta(hours=6)
MOST_POINTS = 300
#: From this step on minutes answer even a short span: a point's edges then shift by a minute in five at most.
_MINUTES_FROM_SECONDS = 300
_HOUR_SECONDS = 3600
_STEPS = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800)


#: Counter -> the group whose `_weight_seconds` in the rollups say how long it was known.
_WEIGHTS = {
    "cpu_seconds": "cpu", "network_receive_bytes": "network", "network_transmit_bytes": "network",
    "block_read_bytes": "block", "block_write_bytes": "block", "energy_joules": "energy",
    "pcie_receive_bytes": "pcie", "pcie_transmit_bytes": "pcie", "nvlink_receive_bytes": "nvlink",
    "nvlink_transmit_bytes": "nvlink", "requests": "requests", "errors": "requests",
    "prompt_tokens": "tokens", "generation_tokens": "tokens", "cached_tokens": "tokens",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """A tier of tables (`suffix` "", "_1m", "_1h") and the width of one point."""

    suffix: str
    step_seconds: int

    @property
    def raw(self) -> bool:
        """True when samples themselves are read."""
        return self.suffix == ""

    def table(self, name: str) -> str:
        """Name of the table of this tier."""
        return f"{name}{self.suffix}"

    @property
    def bucket(self) -> str:
        """Start of the point that a row belongs to, in epoch seconds."""
        # A sample speaks for the time before it: one stamped exactly at an edge belongs to the point that ends there.
        moment = "toUnixTimestamp64Milli(at) - 1" if self.raw else "toInt64(toUnixTimestamp(at)) * 1000"
        return f"intDiv({moment}, {self.step_seconds * 1000}) * {self.step_seconds}"

    def mean(self, gauge: str) -> str:
        """Mean of a gauge over time; NULL when it was never known."""
        if self.raw:
            return (
                f"sum(toFloat64({gauge}) * interval_seconds)"
                f" / nullIf(sumIf(toFloat64(interval_seconds), isNotNull({gauge})), 0)"
            )
        return f"sum({gauge}_weighted) / nullIf(sum({gauge}_weight_seconds), 0)"

    def peak(self, gauge: str) -> str:
        """Largest value of a gauge; NULL when it was never known."""
        return f"max({gauge})" if self.raw else f"max({gauge}_max)"

    def rate(self, counter: str) -> str:
        """Increase per second in which the counter was known; NULL when it never was."""
        if self.raw:
            return f"sum({counter}) / nullIf(sumIf(toFloat64(interval_seconds), isNotNull({counter})), 0)"
        # Rows rolled up before these weights existed have none: there the time of all samples is the best that is kept.
        known = f"if(isNull({counter}), 0, toFloat64(interval_seconds))"
        if group := _WEIGHTS.get(counter):
            known = f"if({group}_weight_seconds > 0, {group}_weight_seconds, {known})"
        return f"sum({counter}) / nullIf(sum({known}), 0)"

    @property
    def held_seconds(self) -> str:
        """Seconds in which a container held a GPU."""
        return "sum(held * toFloat64(interval_seconds))" if self.raw else "sum(held_seconds)"

    @property
    def buckets(self) -> str:
        """Bucket-wise sum of histograms that share their bounds."""
        return "sumForEach(increments)" if self.raw else "sumForEachMerge(increments)"


def resolution(window: Window, *, finest_seconds: int = 15, most_points: int = MOST_POINTS) -> Resolution:
    """The tier and step for a window: at most `most_points` points, none narrower than `finest_seconds`.

    Samples up to 6 hours (as long as a point is shorter than 5 minutes), hours wherever a point is an hour or more:
    a week of 500 containers is 84,000 rows of hours and 5 million of minutes, and says the same.
    """
    span = window.end - window.start
    least = max(finest_seconds, 1 if span <= RAW_UP_TO else 60, span.total_seconds() / most_points)
    step = next((step for step in _STEPS if step >= least), _STEPS[-1])
    if step >= _HOUR_SECONDS:
        return Resolution(suffix="_1h", step_seconds=step)
    raw = span <= RAW_UP_TO and step < _MINUTES_FROM_SECONDS
    return Resolution(suffix="" if raw else "_1m", step_seconds=step)


def epoch_ms(moment: datetime) -> int:
    """Milliseconds since 1970, UTC."""
    return round(moment.timestamp() * 1000)


def moment(seconds: float | None) -> datetime | None:
    """The UTC time of epoch seconds; None for None and for 0, which is ClickHouse's "no such row"."""
    return datetime.fromtimestamp(seconds, tz=UTC) if seconds else None


def grid(window: Window, step_seconds: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Start of every point of a window, epoch seconds."""
    first = int(window.start.timestamp()) // step_seconds
    last = int(np.ceil(window.end.timestamp() / step_seconds))
    return np.arange(first, last, dtype=np.int64) * step_seconds


def on_grid(
    found: pa.Table, window: Window, step_seconds: int, by: tuple[str, ...] = ()
) -> dict[tuple[object, ...], dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]]:
    """Rows with a column `bucket` laid on the regular grid, per value of `by`; a point without a row is NaN.

    Result: key -> column -> one float64 per grid point. All columns but `bucket` and `by` must be numeric.
    """
    points = grid(window, step_seconds)
    columns = [name for name in found.column_names if name != "bucket" and name not in by]
    if found.num_rows == 0:
        return {}
    place = (found.column("bucket").to_numpy(zero_copy_only=False).astype(np.int64) - points[0]) // step_seconds
    inside = (place >= 0) & (place < len(points))
    # Key columns become small integers, and together one number a row: no Python object per row.
    series = np.zeros(found.num_rows, dtype=np.int64)
    names: list[list[object]] = []
    for column in by:
        coded = found.column(column).combine_chunks().dictionary_encode()
        names.append(coded.dictionary.to_pylist())
        series = series * len(names[-1]) + coded.indices.to_numpy(zero_copy_only=False)
    keys, which = np.unique(series[inside], return_inverse=True)
    laid: dict[str, np.ndarray[tuple[int, int], np.dtype[np.float64]]] = {}
    for name in columns:
        values = found.column(name).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        laid[name] = np.full((len(keys), len(points)), np.nan)
        laid[name][which, place[inside]] = values[inside]
    result: dict[tuple[object, ...], dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]] = {}
    for row, code in enumerate(keys.tolist()):
        key: list[object] = []
        for choices in reversed(names):
            code, number = divmod(code, len(choices))
            key.append(choices[number])
        result[tuple(reversed(key))] = {name: laid[name][row] for name in columns}
    return result


def nullable(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> pa.Array:
    """A float64 Arrow array in which NaN, an unknown value, is NULL."""
    return pa.array(values, type=pa.float64(), from_pandas=True)


def series_table(
    window: Window, step_seconds: int, columns: Mapping[str, np.ndarray[tuple[int], np.dtype[np.float64]]]
) -> pa.Table:
    """Columns on the grid as a table with `t` in epoch milliseconds."""
    points = grid(window, step_seconds)
    return pa.table(
        {"t": pa.array(points.astype(np.float64) * 1000.0)} | {name: nullable(v) for name, v in columns.items()}
    )
