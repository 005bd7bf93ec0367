"""Latency: are users served in time?"""

from __future__ import annotations

import streamlit as st

from dashboard import events, frame, latency_panels, navigation, panels, token_panels
from dashboard.look import Look
from queries import endpoints, latency, slo, tokens
from queries import events as happened

visit = frame.visit()
with st.container(horizontal=True, vertical_alignment="center", gap="small"):
    # Without format_func: the address would carry the formatted words, and those that were typed would not be found.
    shown = st.segmented_control(
        "Duration", list(latency_panels.SHORT), key="duration", bind="query-params", default="first token",
        required=True, label_visibility="collapsed",
    )  # fmt: skip
    by = st.segmented_control(
        "Rows by", latency_panels.GROUPS, key="by", bind="query-params", default="tenant", required=True,
        label_visibility="collapsed",
    )  # fmt: skip
name = latency_panels.SHORT[shown]
rows_by: latency.By = "model" if by == "model" else "container" if by == "container" else "tenant"


def open_row(chosen: str) -> None:
    if not chosen:
        return  # what is joined to no container, or belongs to nobody, has no page
    if rows_by == "container":
        navigation.go("container", visit.context, id=chosen)
    else:
        navigation.go("tenant", visit.context, tenant=chosen)


def render(look: Look) -> None:
    host, field = look.context.host, latency_panels.FIELDS[name][0]
    promised = latency_panels.objectives()
    groups: tokens.By = "model" if by == "model" else "tenant"
    span = look.every(latency_panels.SPAN_SECONDS)
    span.ahead(slo.slo_table, host=host, objectives=promised)
    span.ahead(latency.latency_series, host=host, field=field)
    span.ahead(latency.latency_heatmap, host=host, field=field)
    span.ahead(latency.latency_table, host=host, by=rows_by)
    span.ahead(endpoints.endpoints, host=host)
    span.ahead(happened.recent_events, host=host, limit=300)
    span.ahead(tokens.token_series, host=host, by=groups)
    span.ahead(tokens.token_table, host=host, by=groups)
    promises = span.ask(slo.slo_table, host=host, objectives=promised).rows.to_pylist()
    frame.headline(look, latency_panels.sentence(promises, look))
    found = span.ask(latency.latency_table, host=host, by=rows_by)
    reached = span.ask(endpoints.endpoints, host=host).rows.to_pylist()
    latency_panels.slo(promises, look, shown_rows=4)
    told = span.ask(happened.recent_events, host=host, limit=300).rows.to_pylist()
    marks = events.marks(latency_panels.marked(told, reached), look.colours)
    left, right = st.columns(2, gap="medium")
    with left:
        series = span.ask(latency.latency_series, host=host, field=field)
        latency_panels.percentiles(look, series, marks, promises, name=name, height=214)
    with right:
        latency_panels.heat(look, span.ask(latency.latency_heatmap, host=host, field=field), name=name, height=214)
    latency_panels.red(
        look, found.rows.to_pylist(), promises, by=rows_by, name=name, shown_rows=9,
        on_pick=None if rows_by == "model" else open_row,
    )  # fmt: skip
    left, right = st.columns(2, gap="medium")
    flow = span.ask(tokens.token_series, host=host, by=groups)
    with left:
        token_panels.flow(look, flow, height=180)
    with right:
        token_panels.prompt(look, flow, height=180)
    token_panels.table(span.ask(tokens.token_table, host=host, by=groups).rows.to_pylist(), by=groups, shown_rows=8)
    latency_panels.endpoints(reached, look, shown_rows=8)
    panels.gaps(found.gaps, found.coverage)


frame.live(visit, render)
