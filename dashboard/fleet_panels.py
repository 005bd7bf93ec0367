"""Panels about many containers: the worst ones, the full table, the sentence that counts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute  # its functions are made at run time, no type checker sees them

from dashboard import format as fmt
from dashboard import panels, process
from dashboard.panels import Column
from dashboard.theme import Status
from fleet.model import Scope, Window
from fleet.severity import Thresholds
from queries.containers import container_table
from store import Store

pc: Any = pyarrow.compute
Row = Mapping[str, Any]
_GIB = 2.0**30

#: `level` of the queries -> status.
LEVELS = (Status.OK, Status.UNKNOWN, Status.WARNING, Status.CRITICAL)
_GLYPHS = pa.array([status.glyph for status in LEVELS])

WORST = (
    Column(name="status", label="", width=26),
    Column(name="name", label="container", width=140),
    Column(name="tenant", label="tenant", width=84),
    Column(name="host", label="host", width=92),
    Column(name="gpu", label="GPU", width=66, help="GPU index; ● measured ◐ estimated ○ declared ? unknown"),
    Column(name="sm", label="SM", kind="bar", width=92),
    Column(name="gpu_memory", label="GPU mem", width=72),
    Column(name="trend", label="SM trend", kind="spark", width=80),
    Column(name="p95", label="p95 TTFT", width=66, help="Time to first token, 95th percentile, where measured"),
    Column(name="errors", label="errors", width=56),
    Column(name="tokens", label="tok/s", width=54),
    Column(name="why", label="why", width=200),
    Column(name="since", label="since", width=60),
)
FULL = (
    Column(name="status", label="", width=26),
    Column(name="name", label="container", width=132),
    Column(name="why", label="why", width=158),
    Column(name="tenant", label="tenant", width=68),
    Column(name="image", label="image", width=104),
    Column(name="host", label="host", width=56),
    Column(name="state", label="state", width=58),
    Column(name="cpu", label="cores", kind="number", width=50, format="%.2f", help="CPU cores in use"),
    Column(name="cpu_trend", label="CPU", kind="spark", width=60, help="Share of its own peak in this range"),
    Column(name="memory", label="memory", kind="bar", width=82, help="Working set against the limit"),
    Column(name="gpu", label="GPU", width=46, help="GPU index; ● measured ◐ estimated ○ declared ? unknown"),
    Column(name="sm", label="SM", kind="bar", width=78),
    Column(name="trend", label="SM trend", kind="spark", width=60),
    Column(name="gpu_gib", label="GPU GiB", kind="number", width=56, format="%.1f"),
    Column(name="p95_s", label="p95 s", kind="number", width=46, format="%.2f", help="Time to first token, p95"),
    Column(name="tokens_s", label="tok/s", kind="number", width=46, format="%.0f"),
    Column(name="restarts", label="restarts", kind="number", width=54, format="%d", help="In the range shown"),
    Column(name="age", label="age", width=42),
)


def ratio(part: float | None, whole: float | None) -> float | None:
    """Part of a whole, None when either is not known or the whole is nothing."""
    return None if part is None or not whole else part / whole


def fleet_table(
    store: Store,
    scope: Scope,
    window: Window,
    limits: Thresholds | None = None,
    **filters: Any,  # noqa: ANN401 - those of `container_table`
) -> tuple[pa.Table, tuple[str, ...], Counter[int]]:
    """The full table as it is sent to the browser, the key of each row, and how many containers have each level.

    Runs beside the query and is cached with it, so a tick of a second viewer costs nothing.
    """
    rows = container_table(store, scope, window, limits=limits, **filters).rows
    levels = pc.cast(rows["level"], pa.int8()).combine_chunks()
    memory = pc.divide(
        pc.cast(rows["memory_working_set_bytes"], pa.float64()),
        pc.if_else(pc.equal(rows["memory_limit_bytes"], 0), None, pc.cast(rows["memory_limit_bytes"], pa.float64())),
    )
    table = pa.table(
        {
            "status": pa.DictionaryArray.from_arrays(levels, _GLYPHS),
            "name": _words(rows["name"]),
            "tenant": _words(rows["tenant"]),
            "image": _words(rows["image"], short_image),
            "host": _words(rows["host"], short_host),
            "state": _words(rows["state"]),
            "cpu": _floats(rows["cpu_cores"]),
            "cpu_trend": panels.spark_array(rows["cpu_spark"]),
            "memory": _whole_percent(memory),
            "gpu": _gpu_column(rows["gpus"], rows["attribution"]),
            "sm": _whole_percent(rows["sm_ratio"]),
            "trend": panels.spark_array(rows["sm_spark"]),
            "gpu_gib": _floats(pc.divide(pc.cast(rows["gpu_memory_bytes"], pa.float64()), _GIB)),
            "p95_s": _floats(rows["ttft_p95_seconds"]),
            "tokens_s": _floats(rows["tokens_per_second"]),
            "restarts": pc.cast(rows["restarts"], pa.int32()),
            "age": _ages(rows["started_at"], window.end),
            "why": _words(rows["why"]),
        }
    )
    return table, tuple(rows["container_key"].to_pylist()), Counter(levels.to_pylist())


def worst(rows: Sequence[Row], now: datetime, *, key: str, on_pick: Callable[[str], None], shown: int = 10) -> None:
    """The containers that need a look first, each with the reason in words."""
    found = rows[:shown]
    columns: dict[str, Sequence[object] | pa.Array] = {
        "status": [LEVELS[r["level"]].glyph for r in found],
        "name": [r["name"] for r in found],
        "tenant": [r["tenant"] for r in found],
        "host": [short_host(r["host"]) for r in found],
        "gpu": [gpu_words(r["gpus"], r["attribution"]) for r in found],
        "sm": [None if r["sm_ratio"] is None else r["sm_ratio"] * 100 for r in found],
        "gpu_memory": [fmt.size(r["gpu_memory_bytes"]) for r in found],
        "trend": panels.spark_array([r["sm_spark"] for r in found]),
        "p95": [quantile_words(r) for r in found],
        "errors": [fmt.percent(r["error_ratio"]) for r in found],
        "tokens": [fmt.number(r["tokens_per_second"]) for r in found],
        "why": [r["why"] or "" for r in found],
        "since": [since(r["since"], now) for r in found],
    }
    panels.table(
        columns,
        WORST,
        key=key,
        alt="The containers with the most trouble first; select a cell to open its container",
        ids=[r["container_key"] for r in found],
        on_pick=on_pick,
    )


def quantile_words(row: Row) -> str:
    """p95 of the time to the first token: "≥" beyond the last bucket, a dash where it is not measured."""
    if row["ttft_state"] == "beyond":
        return f"≥ {fmt.seconds(row['ttft_p95_lower_seconds'])}"
    return fmt.seconds(row["ttft_p95_seconds"])


def gpu_words(indexes: Sequence[str] | None, attribution: str | None) -> str:
    """GPU indexes and the attribution mark, "0,1 ●"; empty without a GPU."""
    return f"{','.join(indexes)} {fmt.attribution(attribution)}" if indexes else ""


def short_host(name: str) -> str:
    """A host name cut to its first label; an address stays whole."""
    return name if name.replace(".", "").isdigit() else name.partition(".")[0]


def short_image(name: str) -> str:
    """An image without registry and digest: "vllm:0.9"."""
    return name.partition("@")[0].rpartition("/")[2] or name


def since(moment: datetime | None, now: datetime) -> str:
    """When something began: the clock time within the last day, the age before that."""
    if moment is None:
        return ""
    return fmt.clock(moment) if (now - moment).total_seconds() < 86_400 else fmt.age(moment, now)


def ttft_limit() -> tuple[float, str]:
    """Where time to first token becomes trouble, in seconds, and the word on its line."""
    limit = process.current().settings.thresholds.ttft_warning_seconds
    return limit, f"limit {fmt.seconds(limit)}"


def severity_words(counts: Mapping[int, int]) -> str:
    """Counts of trouble with glyph, word and colour; "nothing wrong" only when something was seen and all is fine."""
    parts: list[str] = []
    for level, word in ((3, "critical"), (2, "warning"), (1, "unknown")):
        number, status = counts.get(level, 0), LEVELS[level]
        if number:
            plural = "s" if word == "warning" and number != 1 else ""
            parts.append(f":{status.colour}[{status.glyph} {number} {word}{plural}]")
    if parts:
        return "  ".join(parts)
    if counts.get(0):
        return f":green[{Status.OK.glyph} nothing wrong]"
    return f":gray[{Status.NONE.glyph} no containers seen yet]"


def _gpu_column(indexes: pa.ChunkedArray, attribution: pa.ChunkedArray) -> pa.Array:
    """`gpu_words` of each row; few containers have a GPU, and only those are looked at one by one."""
    holds = pc.greater(pc.fill_null(pc.list_value_length(indexes), 0), 0)
    words = [
        gpu_words(names, mark)
        for names, mark in zip(indexes.filter(holds).to_pylist(), attribution.filter(holds).to_pylist(), strict=True)
    ]
    shown = np.full(len(indexes), "", dtype=object)
    shown[holds.to_numpy()] = words
    return pa.array(shown, type=pa.string()).dictionary_encode()


def _ages(moments: pa.ChunkedArray, now: datetime) -> pa.Array:
    """`format.age` of each moment, each different age written once: a fleet has a few dozen of them."""
    at = pc.cast(pc.cast(moments, pa.timestamp("ms", tz="UTC")), pa.int64())
    unknown = pc.is_null(at).to_numpy()
    seconds = (now.timestamp() - pc.fill_null(at, 0).to_numpy() / 1000).clip(0)
    # Rounded down to what is written, so that equal words are equal numbers.
    unit = np.select([seconds >= 86_400, seconds >= 7_200, seconds >= 120], [86_400.0, 3_600.0, 60.0], 1.0)
    rounded = np.where(unknown, -1.0, np.floor(seconds / unit) * unit)
    different, places = np.unique(rounded, return_inverse=True)
    words = [fmt.age(None if value < 0 else now - timedelta(seconds=value), now) for value in different.tolist()]
    return pa.DictionaryArray.from_arrays(pa.array(places.astype(np.int16)), pa.array(words, type=pa.string()))


def _words(column: pa.ChunkedArray, change: Callable[[str], str] | None = None) -> pa.Array:
    """Fleet text made printable, each different text once."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    shown = [fmt.plain(change(word) if change else word) for word in encoded.dictionary.to_pylist()]
    return pa.DictionaryArray.from_arrays(encoded.indices, pa.array(shown, type=pa.string()))


def _floats(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(column, pa.float32(), safe=False)


def _whole_percent(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(pc.round(pc.multiply(column, 100.0)), pa.int16(), safe=False)
