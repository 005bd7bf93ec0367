"""GPUs: who holds them, who uses them, what is wasted? With an id: everything about one GPU."""

from __future__ import annotations

import streamlit as st

from dashboard import empty, frame, gpu_detail_panels, gpu_panels, navigation, panels
from dashboard.look import Look
from queries import gpu_contract, gpu_detail, gpu_idle, gpu_time, gpu_use, gpus

visit = frame.visit()


def open_gpu(uuid: str) -> None:
    navigation.go("gpus", visit.context, id=uuid)


def open_container(key: str) -> None:
    navigation.go("container", visit.context, id=key)


def render(look: Look) -> None:
    if look.context.subject:
        one_gpu(look, look.context.subject)
    else:
        all_gpus(look)


def all_gpus(look: Look) -> None:
    host, by, terms = look.context.host, "gpu" if look.context.host else "host", gpu_panels.contract_terms()
    span = look.every(gpu_panels.SPAN_SECONDS)
    look.ahead(gpus.gpu_table, host=host)
    span.ahead(gpu_contract.gpu_contract, host=host, **terms)
    span.ahead(gpu_idle.idle_ranking, host=host)
    span.ahead(gpu_use.gpu_use, host=host)
    span.ahead(gpu_time.gpu_time, by=by, host=host)
    span.ahead(gpu_time.gpu_funnel_time, host=host)
    span.ahead(gpus.gpu_heatmap, host=host)
    look.ahead(gpus.gpu_funnel, host=host)
    found = look.ask(gpus.gpu_table, host=host)
    rows = found.rows.to_pylist()
    time = span.ask(gpu_time.gpu_time, by=by, host=host).rows.to_pylist()
    findings = span.ask(gpu_contract.gpu_contract, host=host, **terms)
    broken = sum(severity != "info" for severity in findings.rows["severity"].to_pylist())
    frame.headline(look, gpu_panels.sentence(rows, time, broken))
    if not rows:
        panels.nothing("NVML reported no GPU in this view; the Status page says what was looked for.", height=160)
        return
    names = gpu_panels.names_of(rows, host)
    hours = span.ask(gpu_time.gpu_funnel_time, host=host).rows.to_pylist()
    left, right = st.columns(2, gap="medium")
    with left:
        gpu_panels.funnel(look, hours, look.ask(gpus.gpu_funnel, host=host).rows.to_pylist(), 120)
        gpu_panels.heat(look, span.ask(gpus.gpu_heatmap, host=host), names, 272)
    with right:
        gpu_panels.states(look, time, names, 128)
        gpu_panels.idle(look, span.ask(gpu_idle.idle_ranking, host=host), shown=2)
        gpu_panels.contract(look, findings, shown=4)
    over = span.ask(gpu_use.gpu_use, host=host).rows.to_pylist()
    gpu_panels.table(rows, over, shown_rows=20, on_pick=open_gpu)
    gpu_panels.findings(look, findings)
    panels.gaps(found.gaps, found.coverage)


def one_gpu(look: Look, uuid: str) -> None:
    facts = look.ask(gpu_detail.gpu_facts, gpu_uuid=uuid).rows.to_pylist()
    if not facts:
        empty.not_there(look, "GPU")
        return
    span, host = look.every(gpu_panels.SPAN_SECONDS), facts[0]["host"]
    look.ahead(gpus.gpu_table, host=host)
    look.ahead(gpu_detail.gpu_presence, gpu_uuid=uuid)
    span.ahead(gpu_detail.gpu_signals, gpu_uuid=uuid)
    span.ahead(gpus.gpu_holders_series, gpu_uuid=uuid)
    span.ahead(gpu_use.gpu_use, gpu_uuid=uuid)
    span.ahead(gpu_time.gpu_time, by="gpu", host=host)
    span.ahead(gpu_detail.gpu_events, gpu_uuid=uuid)
    found = look.ask(gpus.gpu_table, host=host)
    row = next((row for row in found.rows.to_pylist() if row["gpu_uuid"] == uuid), None)
    frame.headline(look, gpu_detail_panels.sentence(facts[0], row))
    gpu_detail_panels.header(look, facts[0])
    gpu_detail_panels.who(look.ask(gpu_detail.gpu_presence, gpu_uuid=uuid).rows.to_pylist(), row, open_container)
    told = span.ask(gpu_detail.gpu_events, gpu_uuid=uuid)
    happened = told.rows.to_pylist()
    marks = gpu_detail_panels.marks(look, happened)
    signals = span.ask(gpu_detail.gpu_signals, gpu_uuid=uuid)
    if facts[0]["mig_devices"]:
        panels.nothing("In MIG mode memory and activity stand with the MIG devices: open one of them above.")
    else:
        gpu_detail_panels.stacks(look, span.ask(gpus.gpu_holders_series, gpu_uuid=uuid), signals, marks)
    left, right = st.columns(2, gap="medium")
    with left:
        gpu_detail_panels.power(look, signals, marks)
    with right:
        gpu_detail_panels.chosen(look, signals, marks)
    time = span.ask(gpu_time.gpu_time, by="gpu", host=host).rows.to_pylist()
    for use in span.ask(gpu_use.gpu_use, gpu_uuid=uuid).rows.to_pylist():
        gpu_detail_panels.use(use, row, [one for one in time if one["gpu_uuid"] == uuid])
    gpu_detail_panels.listing(happened, told.coverage)
    panels.gaps(found.gaps, found.coverage)


frame.live(visit, render)
