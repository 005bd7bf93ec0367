"""Plotly figures as plain dicts: regular time grids, float32, gaps that stay gaps, event marks with labels.

Nothing here draws; `panels` hands the dict to Streamlit. Text from the fleet is escaped, because Plotly reads
a part of HTML (links too) in names, labels and hovers.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from dashboard.format import plain
from dashboard.theme import Palette
from fleet.model import Window

Floats = npt.NDArray[np.float32]
_MARKS_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A regular time grid: `points` moments, `step_ms` apart, the first at `start_ms` (epoch milliseconds)."""

    start_ms: float
    step_ms: float
    points: int

    @classmethod
    def over(cls, window: Window, step_seconds: float) -> Axis:
        """The grid of all steps that begin inside the window, aligned to the epoch as the store aligns its buckets."""
        step_ms = step_seconds * 1000.0
        first = np.floor(window.start.timestamp() * 1000.0 / step_ms) * step_ms
        points = int(np.ceil((window.end.timestamp() * 1000.0 - first) / step_ms))
        return cls(start_ms=float(first), step_ms=step_ms, points=max(points, 1))

    @classmethod
    def of(cls, starts_ms: npt.NDArray[np.float64]) -> Axis:
        """The grid of a query's `t` column: regular, epoch milliseconds."""
        step_ms = float(starts_ms[1] - starts_ms[0]) if len(starts_ms) > 1 else 60_000.0
        start_ms = float(starts_ms[0]) if len(starts_ms) else 0.0
        return cls(start_ms=start_ms, step_ms=step_ms, points=max(len(starts_ms), 1))

    @property
    def end_ms(self) -> float:
        """End of the last step."""
        return self.start_ms + self.points * self.step_ms

    def place(self, at: Iterable[datetime | None], values: Iterable[float | None]) -> Floats:
        """Values put at their steps; every step without a value is NaN, which draws as a gap."""
        grid = np.full(self.points, np.nan, dtype=np.float32)
        for moment, value in zip(at, values, strict=True):
            if moment is None or value is None:
                continue
            index = int((moment.timestamp() * 1000.0 - self.start_ms) // self.step_ms)
            if 0 <= index < self.points:
                grid[index] = value
        return grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One series on the chart's axis. `stacked` lines pile up in order; `band` lines fill to the one before."""

    name: str
    values: Floats
    colour: str = ""
    dash: str = "solid"
    width: float = 1.4
    stacked: bool = False
    band: bool = False
    legend: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A moment on the chart: a start, a deploy, an OOM kill."""

    at: datetime
    label: str
    colour: str = ""


def text(value: str, limit: int = 60) -> str:
    """Fleet text for a figure, with everything Plotly would read as HTML escaped."""
    return html.escape(plain(value, limit), quote=False)


def scale(peak: float, unit: str) -> tuple[float, str]:
    """Divisor and unit to write for an axis whose largest value is `peak` (unit "B", "B/s", or any SI unit, or "%")."""
    if unit.startswith("B"):
        for factor, prefix in ((2.0**40, "Ti"), (2.0**30, "Gi"), (2.0**20, "Mi"), (2.0**10, "Ki")):
            if peak >= factor:
                return factor, prefix + unit
        return 1.0, unit
    if unit == "%":
        return 0.01, "%"
    if unit == "s" and peak < 0.5:
        return 1e-3, "ms"
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if peak >= 2 * factor:
            return factor, prefix + unit
    return 1.0, unit


def series(
    title: str,
    axis: Axis,
    lines: Sequence[Line],
    colours: Palette,
    *,
    unit: str = "",
    marks: Sequence[Mark] = (),
    limit: tuple[float, str] | None = None,
    ceiling: float | None = None,
    show_times: bool = True,
) -> dict[str, object]:
    """A figure of lines over time. `limit` draws a dashed threshold with its words; `ceiling` fixes the axis' top.

    Values come in base units (bytes, seconds, ratio for "%"); the axis is scaled to read in three digits.
    """
    peak = _peak(lines, limit, ceiling)
    divisor, unit_text = scale(peak, unit)
    traces = [_trace(line, axis, divisor, unit_text, colours, index) for index, line in enumerate(lines)]
    shapes, notes = _marks(marks, axis, colours)
    shapes += _unseen(lines, axis, colours)
    if limit is not None:
        shapes.append(_threshold(limit[0] / divisor, axis, colours))
        notes.append(
            {
                **_note(axis.start_ms, limit[0] / divisor, limit[1], colours.critical),
                "xanchor": "left",
                "yanchor": "bottom",
            }
        )
    layout = _layout(title, unit_text, colours, legend=sum(line.legend for line in lines) > 1)
    layout["xaxis"] = _time_axis(axis, colours, shown=show_times)
    top = (ceiling if ceiling is not None else peak * 1.08) / divisor
    layout["yaxis"] = {
        **_value_axis(colours),
        "range": [0, top if top > 0 else 1],
    }
    layout["shapes"] = shapes
    layout["annotations"] = notes
    return {"data": traces, "layout": layout}


def heatmap(title: str, axis: Axis, names: Sequence[str], values: Floats, colours: Palette) -> dict[str, object]:
    """Ratios (0-1) of several things over time, one row each; a reading that is missing stays empty."""
    ramp = [[index / (len(colours.ramp) - 1), colour] for index, colour in enumerate(colours.ramp)]
    layout = _layout(title, "%", colours, legend=False)
    layout["xaxis"] = {**_time_axis(axis, colours), "showgrid": False}
    layout["yaxis"] = {
        **_value_axis(colours),
        "autorange": "reversed",
        "showgrid": False,
        "tickmode": "array",
        "tickvals": list(range(len(names))),
        "ticktext": [text(name, 28) for name in names],
    }
    layout["margin"] = {"l": 120, "r": 8, "t": 26, "b": 20}
    trace = {
        "type": "heatmap",
        "x0": axis.start_ms + axis.step_ms / 2,
        "dx": axis.step_ms,
        "y0": 0,
        "dy": 1,
        "z": np.asarray(values * 100.0, dtype=np.float32),
        "zmin": 0,
        "zmax": 100,
        "colorscale": ramp,
        "ygap": 2,
        "hoverongaps": False,
        "hovertemplate": "%{x|%H:%M}  %{z:.3~g} %<extra></extra>",
        "colorbar": {
            "thickness": 8,
            "outlinewidth": 0,
            "ticksuffix": " %",
            "tickfont": {"size": 10, "color": colours.faint},
        },
    }
    return {"data": [trace], "layout": layout}


def _peak(lines: Sequence[Line], limit: tuple[float, str] | None, ceiling: float | None) -> float:
    if ceiling is not None:
        return ceiling
    stack = [line.values for line in lines if line.stacked]
    tops = [float(np.nanmax(line.values)) for line in lines if not line.stacked and not np.all(np.isnan(line.values))]
    if stack:
        tops.append(float(np.max(np.nansum(np.stack(stack), axis=0))))
    if limit is not None:
        tops.append(limit[0])
    return max(tops, default=0.0)


def _trace(line: Line, axis: Axis, divisor: float, unit: str, colours: Palette, index: int) -> dict[str, object]:
    colour = line.colour or colours.series[index % len(colours.series)]
    trace: dict[str, object] = {
        "type": "scatter",
        "mode": "lines",
        "name": text(line.name, 32),
        "x0": axis.start_ms,
        "dx": axis.step_ms,
        "y": np.asarray(line.values / divisor, dtype=np.float32),
        "connectgaps": False,
        "showlegend": line.legend,
        "line": {"color": colour, "width": line.width, "dash": line.dash, "shape": "linear"},
        "hovertemplate": f"%{{y:.3~g}} {unit}",
    }
    if line.stacked:
        trace |= {"stackgroup": "all", "stackgaps": "infer zero", "line": {"color": colour, "width": 0.6}}
    elif line.band:
        trace |= {"fill": "tonexty", "fillcolor": _faded(colour), "line": {"width": 0}}
    return trace


def _unseen(lines: Sequence[Line], axis: Axis, colours: Palette) -> list[dict[str, object]]:
    """Covers over the time that no stacked line saw: Plotly bridges gaps of a stack, whatever `connectgaps` says."""
    stack = [line.values for line in lines if line.stacked]
    if not stack:
        return []
    seen = [index for index in range(axis.points) if not all(np.isnan(values[index]) for values in stack)]
    return [
        {
            "type": "rect",
            "xref": "x",
            "yref": "paper",
            "x0": axis.start_ms + before * axis.step_ms,
            "x1": axis.start_ms + after * axis.step_ms,
            "y0": 0,
            "y1": 1,
            "fillcolor": colours.surface,
            "line": {"width": 0},
            "layer": "above",
        }
        for before, after in pairwise(seen)
        if after - before > 1
    ]


def _faded(colour: str, opacity: float = 0.18) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def _layout(title: str, unit: str, colours: Palette, *, legend: bool) -> dict[str, object]:
    unit_text = f"  <span style='font-size:11px;color:{colours.faint}'>{html.escape(unit)}</span>" if unit else ""
    legend_left = {} if title else {"x": 0, "xanchor": "left"}
    return {
        "title": {
            "text": f"<b>{html.escape(title)}</b>{unit_text}" if title else "",
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 3, "l": 0},
            "font": {"size": 13, "color": colours.text},
        },
        "font": {"family": '"Source Sans", sans-serif', "size": 11, "color": colours.faint},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 38, "r": 8, "t": 26, "b": 20},
        "showlegend": legend,
        "legend": {
            "orientation": "h",
            "x": 1,
            "xanchor": "right",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "font": {"size": 10, "color": colours.faint},
            "itemwidth": 30,
            "bgcolor": "rgba(0,0,0,0)",
            "traceorder": "normal",
            **legend_left,
        },
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": colours.surface, "bordercolor": colours.grid, "font": {"color": colours.text}},
        "dragmode": False,
        "uirevision": "keep",
    }


def _time_axis(axis: Axis, colours: Palette, *, shown: bool = True) -> dict[str, object]:
    return {
        "type": "date",
        "range": [axis.start_ms, axis.end_ms],
        "showgrid": False,
        "zeroline": False,
        "showticklabels": shown,
        "linecolor": colours.grid,
        "showline": True,
        "ticks": "outside",
        "ticklen": 3,
        "tickcolor": colours.grid,
        "nticks": 7,
        "hoverformat": "%d %b %H:%M:%S UTC",
        "tickformatstops": [
            {"dtickrange": [None, 60_000], "value": "%H:%M:%S"},
            {"dtickrange": [60_000, 86_400_000 - 1], "value": "%H:%M"},
            {"dtickrange": [86_400_000, None], "value": "%d %b"},
        ],
    }


def _value_axis(colours: Palette) -> dict[str, object]:
    return {"gridcolor": colours.grid, "zeroline": False, "nticks": 5, "tickformat": "~g", "fixedrange": True}


def _marks(
    marks: Sequence[Mark], axis: Axis, colours: Palette
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Lines for all marks, labels for the newest that do not run into one another."""
    inside = sorted(
        (mark for mark in marks if axis.start_ms <= mark.at.timestamp() * 1000.0 <= axis.end_ms),
        key=lambda mark: mark.at,
        reverse=True,
    )
    shapes: list[dict[str, object]] = []
    notes: list[dict[str, object]] = []
    last_label = float("inf")
    room = (axis.end_ms - axis.start_ms) / _MARKS_SHOWN
    for mark in inside[:60]:
        at_ms = mark.at.timestamp() * 1000.0
        colour = mark.colour or colours.mark
        shapes.append(
            {
                "type": "line",
                "xref": "x",
                "yref": "paper",
                "x0": at_ms,
                "x1": at_ms,
                "y0": 0,
                "y1": 1,
                "line": {"color": colour, "width": 1, "dash": "dot"},
            }
        )
        if last_label - at_ms >= room:
            note = _note(at_ms, 1, mark.label, colour)
            near_end = at_ms > axis.end_ms - 1.5 * room
            notes.append({**note, "yref": "paper", "yanchor": "top", "xanchor": "right" if near_end else "left"})
            last_label = at_ms
    return shapes, notes


def _note(x_ms: float, y: float, label: str, colour: str) -> dict[str, object]:
    return {
        "x": x_ms,
        "y": y,
        "xref": "x",
        "text": text(label, 24),
        "showarrow": False,
        "font": {"size": 10, "color": colour},
        "borderpad": 1,
    }


def _threshold(level: float, axis: Axis, colours: Palette) -> dict[str, object]:
    return {
        "type": "line",
        "x0": axis.start_ms,
        "x1": axis.end_ms,
        "y0": level,
        "y1": level,
        "line": {"color": colours.critical, "width": 1, "dash": "dash"},
    }
