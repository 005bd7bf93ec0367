"""Container: what is this one doing, and since when?"""

from __future__ import annotations

import streamlit as st

from dashboard import container_panels, empty, events, frame, panels
from dashboard.look import Look
from queries import containers

visit = frame.visit()
TABS = ["Host", "GPU", "Latency", "Load", "Events", "Labels"]


def render(look: Look) -> None:
    key = look.context.subject or ""
    found = look.ask(containers.container_header, container_key=key)
    rows = found.rows.to_pylist()
    if not rows:
        empty.not_there(look, "container")
        return
    frame.headline(look, container_panels.sentence(rows[0]))
    container_panels.header(look, rows[0])
    happened = look.ask(containers.container_events, container_key=key).rows.to_pylist()
    marks = events.marks(happened, look.colours)
    tab = st.segmented_control(
        "Signals", TABS, default="Host", key="tab", bind="query-params", label_visibility="collapsed", required=True
    )
    if tab == "Host":
        container_panels.host_charts(look, look.ask(containers.container_host_series, container_key=key), marks)
    elif tab == "GPU":
        container_panels.gpu_charts(look, look.ask(containers.container_gpu_series, container_key=key), marks)
    elif tab == "Latency":
        container_panels.latency_charts(look, look.ask(containers.container_inference_series, container_key=key), marks)
    elif tab == "Load":
        container_panels.load_charts(look, look.ask(containers.container_inference_series, container_key=key), marks)
    elif tab == "Labels":
        container_panels.labels(rows[0]["labels"])
    events.listing(happened, key="container-events", shown_rows=20 if tab == "Events" else 6)
    panels.gaps(found.gaps, found.coverage)


frame.live(visit, render)
