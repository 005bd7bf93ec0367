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
    gpu_detail_panels,
    gpu_panels,
    latency_panels,
    navigation,
    panels,
)
from dashboard.charts import Mark
from dashboard.look import Look
from queries import containers, endpoints, gpu_contract, gpu_detail, gpu_time, jobs, latency, slo

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
    happened = look.ask(containers.container_events, container_key=key).rows.to_pylist()
    marks = events.marks(happened, look.colours)
    tab = st.segmented_control(
        "Signals", TABS, default="Host", key="tab", bind="query-params", label_visibility="collapsed", required=True
    )
    if tab == "Host":
        container_panels.host_charts(look, look.ask(containers.container_host_series, container_key=key), marks)
    elif tab == "GPU":
        gpu(look, rows[0], marks)
    elif tab == "Latency":
        served(look, rows[0], marks)
    elif tab == "Load":
        container_panels.load_charts(look, look.ask(containers.container_inference_series, container_key=key), marks)
    elif tab == "Labels":
        container_panels.labels(rows[0]["labels"])
    events.listing(happened, key="container-events", shown_rows=20 if tab == "Events" else 6)
    panels.gaps(found.gaps, found.coverage)


def gpu(look: Look, row: Mapping[str, Any], marks: Sequence[Mark]) -> None:
    key, host, terms = row["container_key"], row["host"], gpu_panels.contract_terms()
    span = look.every(gpu_panels.SPAN_SECONDS)
    look.ahead(gpu_detail.container_presence, container_key=key)
    span.ahead(gpu_contract.gpu_contract, host=host, **terms)
    span.ahead(gpu_time.gpu_time, by="container", host=host)
    span.ahead(containers.container_gpu_series, container_key=key)
    span.ahead(gpu_time.gpu_time_series, host=host, container_key=key)
    span.ahead(jobs.gpu_jobs, host=host, text=row["name"])
    asked = look.ask(gpu_detail.container_allocation, container_key=key).rows.to_pylist()
    broken = _own(span.ask(gpu_contract.gpu_contract, host=host, **terms).rows.to_pylist(), key)
    container_gpu_panels.allocation(look, asked[0] if asked else None, broken)
    present = look.ask(gpu_detail.container_presence, container_key=key).rows.to_pylist()
    if present:
        used(look, key, host, present, broken, marks)
    elif broken:
        container_gpu_panels.findings(look, broken)
    else:
        panels.nothing("This container held and used no GPU in this range")
    ledger = span.ask(jobs.gpu_jobs, host=host, text=row["name"]).rows.to_pylist()
    container_gpu_panels.jobs(_own(ledger, key), open_container)


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


def used(
    look: Look, key: str, host: str, present: list[Mapping[str, Any]], broken: list[Mapping[str, Any]],
    marks: Sequence[Mark],
) -> None:  # fmt: skip
    span = look.every(gpu_panels.SPAN_SECONDS)
    gpu_detail_panels.who(present, None, open_container, key="container-gpus", by_gpu=True)
    left, right = st.columns(2, gap="medium")
    with left:
        container_gpu_panels.time(
            look, _own(span.ask(gpu_time.gpu_time, by="container", host=host).rows.to_pylist(), key)
        )
    with right:
        container_gpu_panels.findings(look, broken)
    container_gpu_panels.gpu_charts(
        look,
        span.ask(containers.container_gpu_series, container_key=key),
        span.ask(gpu_time.gpu_time_series, host=host, container_key=key),
        marks,
    )


def _own(rows: Sequence[Mapping[str, Any]], key: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["container_key"] == key]


frame.live(visit, render)
