"""Panels about tokens: how many go in and out, how fast one user is served, what a GPU and a watt bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dashboard import charts, latency_panels, panels
from dashboard import format as fmt
from dashboard.charts import Axis, Line
from dashboard.look import Look
from dashboard.panels import Column
from queries.answer import Answer

Row = Mapping[str, Any]
_SHOWN = 7
_COLUMNS = (
    Column(name="who", label="", width=170),
    Column(name="containers", label="containers", kind="number", width=66, format="%d"),
    Column(name="input", label="in /s", width=62),
    Column(name="output", label="out /s", width=62),
    Column(name="cached", label="cached", kind="bar", width=86, help="Share of the prompt tokens read from cache"),
    Column(name="user", label="per user /s", width=84, help="1 / median time between two tokens: what one user reads"),
    Column(name="between", label="lies in", width=96, help="From the bucket that the median falls into"),
    Column(name="gpus", label="GPUs", kind="number", width=50, format="%.1f", help="Held while tokens were counted"),
    Column(name="per_gpu", label="out /s a GPU", width=86),
    Column(name="per_watt", label="out /s a watt", width=86, help="The same as tokens a joule"),
    Column(name="why", label="why not", width=220),
)


def flow(look: Look, found: Answer, *, height: int, key: str = "token-flow") -> None:
    """Generated tokens stacked by tenant or model, the tokens read as a line above."""
    table = found.rows
    if not table.num_rows:
        panels.nothing("No server told of tokens in this range", height=height)
        return
    names = table["name"].to_pylist()
    order = list(dict.fromkeys(names))
    points = len(names) // len(order)
    axis = Axis.of(table["t"].to_numpy()[:points])
    out = _matrix(found, "generation_tokens_per_second", len(order))
    lines = [
        Line(name=name or "unnamed", values=out[place], stacked=True, colour=look.colours.series[place % 8])
        for place, name in enumerate(order[:_SHOWN])
    ]
    if order[_SHOWN:]:
        rest = _total(out[_SHOWN:])
        lines.append(Line(name="others", values=rest, stacked=True, colour=look.colours.unknown))
    unit = charts.scale(float(np.nanmax(_total(out), initial=0.0)), "/s")[1]
    panels.title("Tokens out", unit)
    panels.chart(
        charts.series("", axis, lines, look.colours, unit="/s"), key=f"{key}-out",
        alt="Generated tokens a second, stacked", height=height,
    )  # fmt: skip


def prompt(look: Look, found: Answer, *, height: int, key: str = "token-flow") -> None:
    """All tokens read, and how many of them came from a cache."""
    table = found.rows
    if not table.num_rows:
        panels.nothing("No server told of tokens in this range", height=height)
        return
    groups = len(dict.fromkeys(table["name"].to_pylist()))
    axis = Axis.of(table["t"].to_numpy()[: table.num_rows // groups])
    lines = [
        Line(name=name, values=_total(_matrix(found, f"{column}_tokens_per_second", groups)), colour=colour)
        for name, column, colour in (
            ("in", "prompt", look.colours.series[0]),
            ("of it cached", "cached", look.colours.series[2]),
            ("out", "generation", look.colours.series[1]),
        )
    ]
    unit = charts.scale(max(float(np.nanmax(line.values, initial=0.0)) for line in lines), "/s")[1]
    panels.title("Tokens in and out", unit)
    panels.chart(
        charts.series("", axis, lines, look.colours, unit="/s"), key=f"{key}-in",
        alt="Tokens a second: read, read from cache, generated", height=height,
    )  # fmt: skip


def table(rows: Sequence[Row], *, by: str, shown_rows: int, key: str = "tokens") -> None:
    """Tokens of each tenant or model, the pace of one user, and what a GPU and a watt bring."""
    panels.title("Tokens", f"by {by}; per GPU and watt where its containers' GPUs are known")
    if not rows:
        panels.nothing("No server told of tokens in this range", height=90)
        return
    cells: Mapping[str, Sequence[Any]] = {
        "who": [latency_panels.row_name({**row, "container_key": ""}, by) for row in rows],
        "containers": [row["containers"] for row in rows],
        "input": [fmt.number(row["prompt_tokens_per_second"]) for row in rows],
        "output": [fmt.number(row["generation_tokens_per_second"]) for row in rows],
        "cached": [None if row["cached_ratio"] is None else row["cached_ratio"] * 100 for row in rows],
        "user": [speed_words(row) for row in rows],
        "between": [between_words(row) for row in rows],
        "gpus": [row["gpus"] for row in rows],
        "per_gpu": [fmt.number(row["tokens_per_second_per_gpu"]) for row in rows],
        "per_watt": [fmt.number(row["tokens_per_joule"]) for row in rows],
        "why": [row["gpu_reason"] or row["power_reason"] for row in rows],
    }
    panels.table(cells, _COLUMNS, key=f"{key}-{by}", alt=f"Tokens by {by}", shown_rows=shown_rows)


def speed_words(row: Row) -> str:
    """Tokens a second that one user reads, or why that is not known."""
    if row["user_tokens_per_second"] is not None:
        return fmt.number(row["user_tokens_per_second"])
    if row["user_state"] == "beyond":
        return f"≤ {fmt.number(row['user_tokens_upper'])}"
    return {"too_few": "too few", "no_traffic": "no traffic", "mean_only": "mean only"}.get(row["user_state"], fmt.DASH)


def between_words(row: Row) -> str:
    """The bounds it lies between: "25 to 50"; empty without them."""
    lower, upper = row["user_tokens_lower"], row["user_tokens_upper"]
    if lower is None or upper is None:
        return "" if lower is None else f"> {fmt.number(lower)}"
    return f"{fmt.number(lower)} to {fmt.number(upper)}"


def _matrix(found: Answer, column: str, groups: int) -> charts.Floats:
    return latency_panels.floats(found, column).reshape(groups, -1)


def _total(rows: charts.Floats) -> charts.Floats:
    """Sum over groups; a point that nobody told of stays unknown."""
    unknown = np.isnan(rows).all(axis=0)
    return np.where(unknown, np.nan, np.nansum(rows, axis=0)).astype(np.float32)
