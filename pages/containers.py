"""Containers: which ones, sorted by trouble."""

from __future__ import annotations

import streamlit as st

from dashboard import fleet_panels, frame, navigation, panels
from dashboard.look import Look

visit = frame.visit()
with st.container(horizontal=True, vertical_alignment="center", gap="small"):
    text = st.text_input(
        "Search", key="q", bind="query-params", max_chars=100, placeholder="name, tenant, image, host or team",
        label_visibility="collapsed", width=260, icon=":material/search:",
    )  # fmt: skip
    image = st.text_input(
        "Image", key="image", bind="query-params", max_chars=100, placeholder="image", width=160,
        label_visibility="collapsed",
    )  # fmt: skip
    state = st.selectbox(
        "State", ["any state", "running", "exited", "restarting", "paused", "unhealthy"], key="state",
        bind="query-params", label_visibility="collapsed", width=130,
    )  # fmt: skip
    level = st.segmented_control(
        "Severity", ["all", "warning", "critical"], key="level", bind="query-params", default="all",
        label_visibility="collapsed", required=True,
    )  # fmt: skip


def open_container(key: str) -> None:
    navigation.go("container", visit.context, id=key)


def render(look: Look) -> None:
    rows, keys, counts = look.ask(
        fleet_panels.fleet_table,
        host=look.context.host,
        image=image or None,
        text=text or None,
        state=None if state == "any state" else state,
        level={"warning": 2, "critical": 3}.get(level or "all"),
    )
    words = fleet_panels.severity_words(counts) if keys else ":gray[◌ no container matches]"
    frame.headline(look, f"{words} :gray[in {len(keys)} containers]")
    if not keys:
        panels.nothing("Change the filters above, or the tenant, host and range.", height=120)
        return
    panels.table(
        rows, fleet_panels.FULL, key="containers", shown_rows=28, ids=keys, on_pick=open_container,
        alt="Containers by severity, then name; select a cell to open its container",
    )  # fmt: skip
    panels.download(rows, fleet_panels.FULL, name="containers.csv", key="containers-csv")


frame.live(visit, render)
