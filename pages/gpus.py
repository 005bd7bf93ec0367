"""GPUs: who holds them, who uses them, what is wasted?"""

from __future__ import annotations

import streamlit as st

from dashboard import fleet_panels, frame, gpu_panels, panels
from dashboard.look import Look
from queries import gpus

visit = frame.visit()


def render(look: Look) -> None:
    host = look.context.host
    look.ahead(gpus.gpu_table, host=host)
    look.ahead(gpus.gpu_heatmap, host=host)
    look.ahead(gpus.idle_holders, host=host)
    funnel = look.ask(gpus.gpu_funnel, host=host).rows.to_pylist()
    found = look.ask(gpus.gpu_table, host=host)
    rows = found.rows.to_pylist()
    idle = look.ask(gpus.idle_holders, host=host).rows.to_pylist()
    heat = look.ask(gpus.gpu_heatmap, host=host)
    frame.headline(look, gpu_panels.sentence(rows, sum(row["use"] == "held_idle" for row in rows)))
    if not rows:
        panels.nothing("NVML reported no GPU in this view; the Status page says what was looked for.", height=160)
        return
    gpu_panels.funnel(funnel)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        gpu_panels.heat(look, heat, 300)
    with right:
        gpu_panels.idle(look, idle)
        names = {row["gpu_uuid"]: f"{fleet_panels.short_host(row['host'])} · {row['gpu_index']}" for row in rows}
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            chosen = st.selectbox(
                "GPU", list(names), format_func=lambda uuid: f"on GPU {names.get(uuid, uuid)}", key="gpu",
                label_visibility="collapsed", width=190,
            )  # fmt: skip
            measure = st.segmented_control(
                "Measure", ["SM", "memory"], default="SM", required=True, key="measure", label_visibility="collapsed"
            )
        gpu_panels.holders(
            look, look.ask(gpus.gpu_holders_series, gpu_uuid=chosen or rows[0]["gpu_uuid"]), measure or "SM", 160
        )
    gpu_panels.table(rows, shown_rows=16)
    panels.gaps(found.gaps, found.coverage)


frame.live(visit, render)
