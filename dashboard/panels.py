"""What a page is put together from: the headline, number cards, tables, charts, and every state without data.

A panel keeps its place and size in all states, and says in words what is missing and why.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NewType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute  # its functions are made at run time, no type checker sees them
import streamlit as st

from dashboard import format as fmt
from dashboard import streamlit_private
from dashboard.theme import Status
from fleet.model import Gap

pc: Any = pyarrow.compute
ROW_HEIGHT = 25
_HEADER_HEIGHT = 27
_SPARK_POINTS = 40
_TABLE_SPARK_POINTS = 24
_LISTS = pa.list_(pa.float32())


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One number: what it is now, how it changed, where it went. `good`: which direction is good, None = neither."""

    label: str
    value: str
    change: str = ""
    note: str = ""
    good: str | None = None  # "up" | "down"
    spark: Sequence[float | None] = ()
    help: str = ""


_DELTA_COLOURS: dict[str, Literal["normal", "inverse"]] = {"up": "normal", "down": "inverse"}


def cards(items: Sequence[Card], *, height: int = 132) -> None:
    """A row of number cards of the same height, whatever each of them has to show."""
    with st.grid(len(items), min_column_width=100, wrap=False, gap="xsmall", row_height=height):
        for item in items:
            has_spark = sum(value is not None for value in item.spark) > 1
            st.metric(
                item.label,
                item.value,
                delta=item.change or (item.note or None),
                delta_description=(item.note or None) if item.change else None,
                delta_color=_DELTA_COLOURS.get(item.good or "", "off") if item.change else "off",
                delta_arrow="auto" if item.change else "off",
                # st.metric raises on None; a NaN breaks the line, which is what a point nobody saw has to look like.
                chart_data=[math.nan if v is None else v for v in thinned(item.spark)] if has_spark else None,
                chart_type="line",
                help=item.help or None,
                border=True,
                height="stretch",
            )


def thinned(values: Sequence[float | None], points: int = _SPARK_POINTS) -> list[float | None]:
    """At most `points` values for a sparkline: the largest of each stretch, so that spikes stay; None where none is."""
    if len(values) <= points:
        return list(values)
    edges = np.linspace(0, len(values), points + 1).astype(int)
    return [
        max((value for value in values[start:end] if value is not None), default=None)
        for start, end in itertools.pairwise(edges)
    ]


def headline(text: str) -> None:
    """The page's answer in words. `text` is Markdown of ours with fleet text already escaped."""
    st.markdown(f"#### {text}")


def title(text: str, note: str = "") -> None:
    """Heading of a panel, with what it shows in grey."""
    st.markdown(f"**{text}** :gray[{note}]" if note else f"**{text}**")


def nothing(text: str, status: Status = Status.NONE, *, height: int | None = None) -> None:
    """A panel without data: the state's glyph and why, at the size the data would take."""
    with st.container(height=height if height is not None else "content", border=height is not None):
        st.markdown(f":{status.colour}[{status.glyph} {text}]")


def all_well(text: str, coverage: float | None, *, height: int | None = None) -> None:
    """Nothing to report: in green when there were readings, and unknown when there were none to tell."""
    if coverage:
        nothing(text, Status.OK, height=height)
    else:
        nothing("No readings in this range: nothing can be said", Status.UNKNOWN, height=height)


def gaps(found: Sequence[Gap], coverage: float | None, *, limit: int = 3) -> None:
    """One grey line under a panel when part of the window was not seen; nothing when all of it was."""
    words = gap_words(found, coverage, limit=limit)
    if words:
        st.caption(words)


def gap_words(found: Sequence[Gap], coverage: float | None, *, limit: int = 3) -> str:
    """What was not seen, as Markdown; empty when everything was."""
    parts: list[str] = []
    if coverage is not None and coverage < 0.995:
        parts.append(f"▲ {fmt.percent(coverage)} of the expected readings were taken")
    parts += [
        f"{fmt.markdown(gap.subject, 60)}: {fmt.markdown(gap.detail or gap.reason, 120)}" for gap in found[:limit]
    ]
    if len(found) > limit:
        parts.append(f"and {len(found) - limit} more on the Status page")
    return " · ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table. `kind`: text | number | percent (0-100) | bar (0-100) | spark | link."""

    name: str
    label: str
    kind: str = "text"
    width: int | None = None
    help: str = ""
    format: str = ""
    pinned: bool = False


def table(
    rows: Mapping[str, Sequence[object] | pa.Array] | pa.Table,
    columns: Sequence[Column],
    *,
    key: str,
    alt: str,
    shown_rows: int | None = None,
    ids: Sequence[str] = (),
    on_pick: Callable[[str], None] | None = None,
) -> None:
    """A dense table. `ids[i]` names row i; a click anywhere in a row calls `on_pick` with that name.

    A click reports a position in the table that was on screen, so the names that went with it are remembered until
    the next drawing.
    """
    arrays = {column.name: _array(rows[column.name], column) for column in columns}
    data: Any = rows if isinstance(rows, pa.Table) else pa.table(arrays)
    height = _HEADER_HEIGHT + ROW_HEIGHT * max(min(shown_rows or data.num_rows, max(data.num_rows, 1)), 1) + 3
    config = {column.name: _config(column) for column in columns}
    names_key = f"{key}-ids"
    if on_pick is None:
        st.dataframe(
            data,
            hide_index=True,
            column_config=config,
            row_height=ROW_HEIGHT,
            height=height,
            alt=alt,
            key=key,
            placeholder=fmt.DASH,
        )
        return
    before = st.session_state.get(names_key, ())
    st.session_state[names_key] = tuple(ids)
    event = st.dataframe(
        data,
        hide_index=True,
        column_config=config,
        row_height=ROW_HEIGHT,
        height=height,
        alt=alt,
        key=key,
        placeholder=fmt.DASH,
        on_select="rerun",
        selection_mode="single-cell",
    )
    cells = event.selection.cells  # pyright: ignore[reportAttributeAccessIssue]
    if cells and before and cells[0][0] < len(before):
        on_pick(before[cells[0][0]])


def download(
    rows: Mapping[str, Sequence[object] | pa.Array] | pa.Table, columns: Sequence[Column], *, name: str, key: str
) -> None:
    """A button that saves exactly the rows on the page; built when pressed, with formulas made harmless."""
    shown = [column for column in columns if column.kind != "spark"]

    def build() -> bytes:
        return as_csv({c.label or c.name: _array(rows[c.name], c).to_pylist() for c in shown}).encode()

    st.download_button(
        "CSV",
        data=build,
        file_name=name,
        mime="text/csv",
        key=key,
        on_click="ignore",
        icon=":material/download:",
        type="tertiary",
        help="The rows shown here, with their filters",
    )


def as_csv(columns: Mapping[str, Sequence[object]]) -> str:
    """Comma-separated text with a header; unknown is an empty cell."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\r\n")
    writer.writerow([fmt.csv_cell(name) for name in columns])
    for row in zip(*columns.values(), strict=True):
        writer.writerow(["" if cell is None else fmt.csv_cell(cell) for cell in row])
    return target.getvalue()


#: A figure as it is sent to the browser: the same text for everybody who looks at the same snapshot.
Figure = NewType("Figure", str)


def figure(spec: Mapping[str, object]) -> Figure:
    """A figure made by `charts`, finished."""
    return Figure(streamlit_private.chart_json(spec))


def chart(spec: Mapping[str, object] | Figure, *, key: str, alt: str, height: int = 190) -> None:
    """A figure made by `charts`."""
    finished = spec if isinstance(spec, str) else figure(spec)
    streamlit_private.plotly(finished, key=key, height=height, alt=alt)


def facts(pairs: Mapping[str, str]) -> None:
    """Names and values in one flowing grey-and-black line; values are escaped here."""
    st.markdown("\u2003".join(f":gray[{name}] {fmt.markdown(value)}" for name, value in pairs.items() if value))


def spark_array(series: Sequence[Sequence[float | None] | None] | pa.Array | pa.ChunkedArray) -> pa.Array:
    """Sparklines of 0-1 ratios as one byte a point (0-100): a sixth of the bytes of float lists.

    A missing point takes the value before it, because a sparkline cannot show a gap; a row without any point is null.
    A thousand rows are drawn as one matrix, 30 times as fast as row by row.
    """
    column: Any = series if isinstance(series, (pa.Array, pa.ChunkedArray)) else pa.array(series, type=_LISTS)
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    points = _matrix(values.cast(_LISTS))
    if points.shape[1] > _TABLE_SPARK_POINTS:  # the largest of each stretch, as in `thinned`
        edges = np.linspace(0, points.shape[1], _TABLE_SPARK_POINTS + 1).astype(int)[:-1]
        points = np.fmax.reduceat(points, edges, axis=1)
    seen = ~np.isnan(points)
    drawn = seen.any(axis=1)
    places = np.where(seen, np.arange(points.shape[1]), -1)
    before = np.maximum.accumulate(places, axis=1)
    first = seen.argmax(axis=1)[:, np.newaxis] if points.shape[1] else before
    lines = np.take_along_axis(points, np.where(before < 0, first, before), axis=1)[drawn]
    percents = np.clip(np.round(lines * 100), 0, 100).astype(np.int8)
    ends = np.concatenate([[0], np.cumsum(drawn)]).astype(np.int32) * points.shape[1]
    return pa.ListArray.from_arrays(pa.array(ends, mask=np.append(~drawn, False)), pa.array(percents.ravel()))


def _matrix(lists: pa.ListArray) -> npt.NDArray[np.float32]:
    """Lists as rows of a matrix as wide as the longest; NaN where a list ends before, is null or has a null."""
    sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    width = int(sizes.max()) if len(sizes) else 0
    points = np.full((len(sizes), width), np.nan, dtype=np.float32)
    points[np.arange(width) < sizes[:, np.newaxis]] = lists.flatten().to_numpy(zero_copy_only=False)
    return points


def _array(values: Sequence[object] | pa.Array, column: Column) -> pa.Array:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values
    if column.kind in {"bar", "percent"}:
        # Whole percent: what a bar of 60 pixels can show, at one byte a row.
        return pa.array([None if v is None else round(float(v)) for v in values], type=pa.int16())  # type: ignore[arg-type]
    if column.kind == "number":
        return pa.array([None if v is None else float(v) for v in values], type=pa.float32())  # type: ignore[arg-type]
    cells = [None if v is None else fmt.plain(str(v)) for v in values]
    return pa.array(cells, type=pa.string()).dictionary_encode()


def _config(column: Column) -> Any:  # noqa: ANN401 - Streamlit's type is a TypedDict of its own
    kinds = st.column_config
    shared: dict[str, Any] = {
        "label": column.label,
        "width": column.width,
        "help": column.help or None,
        "pinned": column.pinned,
    }
    if column.kind == "bar":
        return kinds.ProgressColumn(**shared, min_value=0, max_value=100, format=column.format or "%d %%")
    if column.kind == "percent":
        return kinds.NumberColumn(**shared, format=column.format or "%d %%")
    if column.kind == "number":
        return kinds.NumberColumn(**shared, format=column.format or "%.3f")
    if column.kind == "spark":
        return kinds.LineChartColumn(**shared, y_min=0, y_max=100)
    return kinds.TextColumn(**shared)
