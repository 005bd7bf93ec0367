"""The one place that touches parts of Streamlit which are not its public API (written against 1.67).

`tests/dashboard/test_streamlit_private.py` pins the version and draws through every function here, so an upgrade
that moves one of these parts fails there first, and nowhere else.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

import numpy as np
import streamlit as st
from streamlit.elements.lib.layout_utils import LayoutConfig
from streamlit.proto.PlotlyChart_pb2 import PlotlyChart as PlotlyChartProto
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.web import bootstrap

#: The release these parts were read in.
WRITTEN_FOR = "1.67"


def _typed(value: object) -> object:
    """Arrays as Plotly's base64 typed arrays: a sixth of the bytes of a list of numbers, and no per-item work."""
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value)
        code = {"float32": "f4", "float64": "f8", "int32": "i4", "uint8": "u1", "int8": "i1"}[array.dtype.name]
        encoded: dict[str, object] = {"dtype": code, "bdata": base64.b64encode(array.tobytes()).decode()}
        if array.ndim == 2:
            encoded["shape"] = f"{array.shape[0]}, {array.shape[1]}"
        return encoded
    raise TypeError(f"chart: cannot write a {type(value).__name__} into a figure")


def chart_json(spec: Mapping[str, object]) -> str:
    """The figure as Plotly's JSON. Raises TypeError for anything that is neither plain JSON nor a numpy array."""
    return json.dumps(spec, default=_typed, separators=(",", ":"), allow_nan=False)


def plotly(spec: str, *, key: str, height: int, alt: str) -> None:
    """Draw a finished Plotly figure: what `chart_json` wrote.

    `st.plotly_chart` would validate the dict through `plotly.graph_objects` (5 times the processor time), write dates
    as text, and derive the element's identity from the data, so each tick would throw the drawing away and
    start a new one. Here the identity is `key`, and the browser updates the drawing in place.
    """
    proto = PlotlyChartProto()
    proto.theme = ""
    proto.spec = spec
    proto.config = '{"displayModeBar":false,"scrollZoom":false,"doubleClick":"reset"}'
    proto.alt = alt
    proto.id = f"aifleet-chart-{key}"
    layout = LayoutConfig(width="stretch", height=height)
    st._main._active_dg._enqueue("plotly_chart", proto, layout_config=layout)  # pyright: ignore[reportPrivateUsage]


def page_hash() -> str:
    """Identity of the page being run, to notice a change of page; empty outside a run."""
    context = get_script_run_ctx()
    return context.page_script_hash if context is not None else ""


#: While a fragment runs for more than half a second the browser fades what it is about to replace. Every few seconds
#: that is a flicker, and says nothing that the freshness beside the headline does not say better.
_STALE = '[data-testid="stElementContainer"][data-stale="true"]'
_STEADY = f"<style>{_STALE}{{opacity:1!important;transition:none!important}}</style>"


def steady() -> None:
    """Keep the page as it is while its next picture is made; drawn once, outside the live fragment."""
    st.html(_STEADY)


def settle_config() -> None:
    """Stop the server, about to start, from looking five times a second whether its configuration files changed.

    `server.fileWatcherType` covers scripts only. Three threads that ask for files all day cost 3 ms of processor time
    a second; a changed `.streamlit/config.toml` takes effect at the next start, as all our settings do.
    """
    bootstrap._install_config_watchers = lambda _flags: None  # pyright: ignore[reportPrivateUsage]
