"""GPU time in words, colours and patterns: busy, low, held idle, free, unknown, gap; and the bars drawn from them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from dashboard import format as fmt
from dashboard import panels
from dashboard.charts import Axis, Floats, Line, Mark, series, text
from dashboard.look import Look
from dashboard.theme import Palette
from queries.answer import Answer

Row = Mapping[str, Any]
#: State of the queries -> the word on the page.
WORDS = {
    "busy": "busy", "low": "low", "held_idle": "held idle", "free": "free", "unknown": "unknown", "gap": "gap",
}  # fmt: skip
STATES = tuple(WORDS)
#: A share below this has no room for its number.
_ROOM = 0.07
_ROW_PIXELS = 21


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar: its name, and GPU-seconds by state; None = not this scope's to know."""

    name: str
    seconds: Mapping[str, float | None]

    @property
    def whole(self) -> float:
        """All of it, seconds."""
        return sum(value or 0.0 for value in self.seconds.values())


def bar_of(name: str, rows: Sequence[Row]) -> Bar:
    """Rows of `gpu_time` added up."""
    return Bar(
        name=name,
        seconds={
            state: sum(row[f"{state}_seconds"] or 0.0 for row in rows)
            if any(row[f"{state}_seconds"] is not None for row in rows)
            else None
            for state in STATES
        },
    )


def words(bar: Bar) -> str:
    """The shares of a bar in a sentence, states that did not occur left out: "busy 48 %, held idle 22 %"."""
    whole = bar.whole
    if whole <= 0:
        return "nothing was seen"
    shares = [(WORDS[state], (value or 0.0) / whole) for state, value in bar.seconds.items()]
    return ", ".join(f"{word} {fmt.percent(round(share, 2))}" for word, share in shares if share >= 0.005)


def threshold_words(idle_below: float, busy_from: float) -> dict[str, str]:
    """Each state with the threshold that makes it."""
    idle, busy = (f"{limit * 100:g}" for limit in (idle_below, busy_from))
    return {**WORDS, "busy": f"busy ≥ {busy} %", "low": f"low {idle}–{busy} %", "held_idle": f"held idle < {idle} %"}


def draw(look: Look, bars: Sequence[Bar], idle_below: float, busy_from: float, *, key: str, height: int) -> None:
    """Bars of the states, the thresholds in their legend."""
    told = "; ".join(f"{bar.name}: {words(bar)}" for bar in bars)
    panels.chart(
        figure(bars, look.colours, idle_below, busy_from), key=key, alt=f"GPU time by state. {told}", height=height
    )


def height_of(bars: int) -> int:
    """Pixels for so many bars and their legend."""
    return 30 + _ROW_PIXELS * max(bars, 1)


def figure(bars: Sequence[Bar], colours: Palette, idle_below: float, busy_from: float) -> dict[str, object]:
    """Stacked bars of shares; every state has a pattern beside its colour."""
    named = threshold_words(idle_below, busy_from)
    traces: list[dict[str, object]] = []
    for state in STATES:
        shares = [(bar.seconds[state] or 0.0) / bar.whole if bar.whole else 0.0 for bar in bars]
        if not any(shares):
            continue
        fill, ink, pattern = _look_of(state, colours)
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": named[state],
                "y": [text(bar.name, 22) for bar in bars],
                "x": [round(share * 100, 3) for share in shares],
                "customdata": [f"{fmt.number((bar.seconds[state] or 0.0) / 3600)} GPU-h" for bar in bars],
                "text": [f"{share * 100:.0f} %" if share >= _ROOM else "" for share in shares],
                "textposition": "inside",
                "insidetextanchor": "middle",
                "textangle": 0,
                "constraintext": "none",
                "textfont": {"size": 11, "color": ink},
                "marker": {
                    "color": fill,
                    "line": {"width": 0.5, "color": colours.surface},
                    **({"pattern": pattern} if pattern else {}),
                },
                "hovertemplate": f"%{{y}}: {html.escape(named[state])} %{{x:.3~g}} %, %{{customdata}}<extra></extra>",
            }
        )
    return {"data": traces, "layout": bars_layout(colours, left=104, legend=True, top=24)}


def over_time(look: Look, found: Answer, marks: Sequence[Mark], *, key: str, height: int) -> None:
    """GPUs' worth of each state over time; the stack is as high as the GPUs that were there."""
    table = found.rows
    if not table.num_rows:
        panels.nothing("No GPU time in this range", height=height)
        return
    gpus = _floats(table, "gpus")
    lines = [
        Line(name=WORDS[state], values=_floats(table, f"{state}_ratio") * gpus, stacked=True,
             colour=_look_of(state, look.colours)[0] if state != "gap" else look.colours.faint)
        for state in STATES
    ]  # fmt: skip
    lines = [line for line in lines if np.any(line.values > 0)]
    panels.chart(
        series("GPU time by state", Axis.of(table["t"].to_numpy()), lines, look.colours, unit="GPUs", marks=marks),
        key=key, alt="GPU time by state over time", height=height,
    )  # fmt: skip


def _floats(table: Any, column: str) -> Floats:  # noqa: ANN401
    return table[column].to_numpy(zero_copy_only=False).astype(np.float32)


def bars_layout(colours: Palette, *, left: int, legend: bool, top: int) -> dict[str, object]:
    """Layout of horizontal bars of shares: no axis line, the first bar on top, the legend above."""
    return {
        "barmode": "stack",
        "bargap": 0.18,
        "font": {"family": '"Source Sans", sans-serif', "size": 12, "color": colours.text},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": left, "r": 4, "t": top, "b": 2},
        "showlegend": legend,
        "legend": {
            "orientation": "h",
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "font": {"size": 11, "color": colours.faint},
            "itemwidth": 30,
            "bgcolor": "rgba(0,0,0,0)",
            "traceorder": "normal",
            "itemclick": False,
            "itemdoubleclick": False,
        },
        "xaxis": {"range": [0, 100], "visible": False, "fixedrange": True},
        "yaxis": {"autorange": "reversed", "showgrid": False, "zeroline": False, "fixedrange": True, "ticklen": 4},
        "hoverlabel": {"bgcolor": colours.surface, "bordercolor": colours.grid, "font": {"color": colours.text}},
        "hovermode": "closest",
        "dragmode": False,
        "uirevision": "keep",
    }


def _look_of(state: str, colours: Palette) -> tuple[str, str, dict[str, object] | None]:
    """Fill, text colour and pattern of a state."""
    dark_ink, light_ink = "#0e1318", "#ffffff"
    on_fill = dark_ink if colours.surface != "#ffffff" else light_ink
    if state == "busy":
        return colours.series[0], on_fill, None
    if state == "low":
        return colours.ramp[2], dark_ink if colours.surface == "#ffffff" else colours.text, None
    if state == "held_idle":
        return colours.warning, on_fill, _pattern("/", colours.surface, 0.16)
    if state == "free":
        return colours.empty, colours.text, None
    if state == "unknown":
        return colours.unknown, on_fill, _pattern(".", colours.surface, 0.3)
    return colours.surface, colours.faint, _pattern("x", colours.unknown, 0.18)


def _pattern(shape: str, colour: str, solidity: float) -> dict[str, object]:
    return {"shape": shape, "fgcolor": colour, "size": 7, "solidity": solidity, "fillmode": "overlay"}


def no_time(height: int) -> None:
    """In place of the bars when no reading came."""
    with st.container(height=height, border=False):
        panels.nothing("No GPU reported in this range")
