"""The floor of `live_tick`: pages with the same elements as ours, constant content and no data behind them.

What is left is Streamlit itself: running the fragment, one message an element, the websocket. A number in every
element changes with each tick, so nothing goes out as a reference to what the browser already has.

    python -m bench.live_tick_floor PORT
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pyarrow as pa
import streamlit as st

_LINE = [0.1 * (step % 7) for step in range(40)]
_SQUARES = "".join(f'<path d="M{step % 90 * 9} {step // 90 * 9}h7v7h-7z"/>' for step in range(150))
_numbers = count()


def _table(rows: int, columns: int, number: int) -> None:
    """As many rows and columns as the page's table, with one sparkline."""
    names = pa.array([f"row {row} {number}" for row in range(rows)]).dictionary_encode()
    sparks = pa.array([[1] * 24] * rows, type=pa.list_(pa.int8()))
    cells = {f"c{column}": names for column in range(columns - 1)} | {"spark": sparks}
    st.dataframe(
        pa.table(cells),
        hide_index=True,
        key="table",
        on_select="rerun",
        selection_mode="single-cell",
        column_config={name: st.column_config.TextColumn(name, width=60) for name in cells if name != "spark"},
    )


def _headline(number: int) -> None:
    with st.container(horizontal=True):
        st.markdown(f"#### {number} things", width="stretch")
        st.markdown(f":green-badge[fresh {number}]", width="content")


@st.fragment(run_every=5)
def _overview() -> None:
    from dashboard import streamlit_private

    number = next(_numbers)
    _headline(number)
    with st.container(horizontal=True):
        st.markdown(f"**worst** {number}", width="content")
        st.page_link(_pages()[1], label="open", query_params={"id": str(number)})
    with st.grid(8, min_column_width=100, wrap=False, row_height=132):
        for place in range(8):
            line = [*_LINE, float(number)]
            st.metric(f"number {place}", str(number), delta="1", chart_data=line, chart_type="line", border=True)
    left, right = st.columns(2)
    with left:
        st.markdown(f"**map** {number}")
        with st.container(height=208):
            st.image(f'<svg xmlns="http://www.w3.org/2000/svg" id="n{number}">{_SQUARES}</svg>')
    with right:
        st.markdown(f"**chart** {number}")
        spec = {"data": [{"type": "scatter", "y": [*_LINE, number]}] * 12, "layout": {}}
        streamlit_private.plotly(streamlit_private.chart_json(spec), key="chart", height=208, alt="chart")
    st.markdown(f"**table** {number}")
    _table(10, 13, number)


@st.fragment(run_every=5)
def _containers() -> None:
    number = next(_numbers)
    _headline(number)
    _table(1000, 18, number)
    st.download_button("CSV", data=lambda: b"", file_name="x.csv", key="csv", on_click="ignore")


def _pages() -> list[st.Page]:
    return [
        st.Page(_overview, url_path="overview", title="overview", default=True),
        st.Page(_containers, url_path="containers", title="containers"),
    ]


@asynccontextmanager
async def _lifespan(_: st.App) -> AsyncGenerator[dict[str, object]]:
    for name in ("numpy", "pandas", "dashboard.charts", "dashboard.streamlit_private"):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    yield {}


def serve(port: int) -> None:
    """Serve the pages until stopped, with the dashboard's configuration."""
    from dashboard import streamlit_private

    streamlit_private.settle_config()
    st.App(Path(__file__), lifespan=_lifespan).run(
        config={
            "server.address": "127.0.0.1",
            "server.port": port,
            "server.headless": True,
            "server.fileWatcherType": "none",
            "browser.gatherUsageStats": False,
            "runner.postScriptGC": False,
        }
    )


if st.runtime.exists():  # Streamlit runs this file for every visit
    st.navigation(_pages()).run()
elif __name__ == "__main__":
    serve(int(sys.argv[1]))
