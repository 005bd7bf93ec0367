"""Container: what is this one doing, and since when?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from dashboard import (
    container_gpu_panels,
    container_panels,
    empty,
    events,
    frame,
    latency_panels,
    navigation,
    panels,
)
from dashboard.charts import Mark
from dashboard.look import Look
from queries import containers, endpoints, latency, slo

visit = frame.visit()
TABS = ["Host", "GPU", "Latency", "Load", "Events", "Labels"]


def open_container(key: str) -> None:
    navigation.go("container", visit.context, id=key)


def render(look: Look) -> None:
    key = look.context.subject or ""
    found = look.ask(containers.container_header, container_key=key)
    rows = found.rows.to_pylist()
    if not rows:
        empty.not_there(look, "container")
        return
    frame.headline(look, container_panels.sentence(rows[0]))
    container_panels.header(look, rows[0])
    told = look.ask(containers.container_events, container_key=key)
    happened = told.rows.to_pylist()
    marks = events.marks(happened, look.colours)
    tab = st.segmented_control(
        "Signals", TABS, default="Host", key="tab", bind="query-params", label_visibility="collapsed", required=True
    )
    if tab == "Host":
        container_panels.host_charts(look, look.ask(containers.container_host_series, container_key=key), marks)
    elif tab == "GPU":
        container_gpu_panels.section(look, rows[0], marks, open_container)
    elif tab == "Latency":
        served(look, rows[0], marks)
    elif tab == "Load":
        container_panels.load_charts(look, look.ask(containers.container_inference_series, container_key=key), marks)
    elif tab == "Labels":
        container_panels.labels(rows[0]["labels"])
    events.listing(happened, told.coverage, key="container-events", shown_rows=20 if tab == "Events" else 6)
    panels.gaps(found.gaps, found.coverage)


def served(look: Look, row: Mapping[str, Any], marks: Sequence[Mark]) -> None:
    key, host, promised = row["container_key"], row["host"], latency_panels.objectives()
    span = look.every(latency_panels.SPAN_SECONDS)
    look.ahead(containers.container_inference_series, container_key=key)
    look.ahead(containers.container_gpu_series, container_key=key)
    span.ahead(endpoints.endpoints, host=host)
    span.ahead(slo.slo_table, objectives=promised)
    span.ahead(latency.latency_table, host=host, by="container")
    reached = _own(span.ask(endpoints.endpoints, host=host).rows.to_pylist(), key)
    models = {model for one in reached for model in one["models"]}
    promises = [
        one
        for one in span.ask(slo.slo_table, objectives=promised).rows.to_pylist()
        if one["tenant"] == row["tenant"] and one["model"] in models
    ]
    if promises:
        latency_panels.slo(promises, look, shown_rows=3, note="of this tenant and model, all replicas together")
    table = _own(span.ask(latency.latency_table, host=host, by="container").rows.to_pylist(), key)
    if table:
        latency_panels.red(look, table, promises, by="container", name="ttft", shown_rows=3)
    container_panels.latency_charts(
        look,
        look.ask(containers.container_inference_series, container_key=key),
        look.ask(containers.container_gpu_series, container_key=key),
        marks,
    )


def _own(rows: Sequence[Mapping[str, Any]], key: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["container_key"] == key]


frame.live(visit, render)
