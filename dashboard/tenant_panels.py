"""Panels of one tenant, and of all tenants side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from dashboard import charts, fleet_panels, gpu_panels, gpu_states, panels
from dashboard import format as fmt
from dashboard.charts import Axis, Line, Mark
from dashboard.look import Look
from dashboard.panels import Column
from queries.answer import Answer

Row = Mapping[str, Any]
_TENANTS = (
    Column(name="status", label="", width=26),
    Column(name="tenant", label="tenant", width=150),
    Column(name="origin", label="named by", width=80, help="label: self-declared by its own containers"),
    Column(name="teams", label="teams", width=120),
    Column(name="containers", label="up", width=60),
    Column(name="gpus", label="GPUs", kind="number", width=48, format="%d"),
    Column(name="sm", label="SM", kind="bar", width=92),
    Column(name="gpu_memory", label="GPU mem", width=76),
    Column(name="cores", label="cores", width=54),
    Column(name="requests", label="req/s", width=54),
    Column(name="tokens", label="tok/s", width=54),
    Column(name="why", label="worst"),
)


def table(rows: Sequence[Row], on_pick: Callable[[str], None]) -> None:
    """All tenants of this viewer, those in trouble first."""
    cells: Mapping[str, Sequence[Any]] = {
        "status": [fleet_panels.LEVELS[row["level"]].glyph for row in rows],
        "tenant": [row["tenant"] for row in rows],
        "origin": [row["origin"] for row in rows],
        "teams": [", ".join(row["teams"]) for row in rows],
        "containers": [f"{row['running']} / {row['containers']}" for row in rows],
        "gpus": [row["gpus_held"] for row in rows],
        "sm": [None if row["sm_ratio"] is None else row["sm_ratio"] * 100 for row in rows],
        "gpu_memory": [fmt.size(row["gpu_memory_bytes"]) for row in rows],
        "cores": [fmt.number(row["cpu_cores"]) for row in rows],
        "requests": [fmt.number(row["requests_per_second"]) for row in rows],
        "tokens": [fmt.number(row["tokens_per_second"]) for row in rows],
        "why": [row["why"] or "" for row in rows],
    }
    panels.table(
        cells, _TENANTS, key="tenants", alt="Tenants, those in trouble first; select one to open it",
        ids=[row["tenant"] for row in rows], on_pick=on_pick, shown_rows=25,
    )  # fmt: skip


def trends(look: Look, found: Answer, marks: Sequence[Mark]) -> None:
    """GPUs busy, time to first token, tokens and CPU of this scope."""
    if not found.rows.num_rows:
        panels.nothing("Nothing was seen in this range", height=180)
        return
    axis = Axis.of(found.rows["t"].to_numpy())
    limit_line = fleet_panels.ttft_limit()
    parts = (
        ("GPUs busy", "", (("GPUs' worth of SM", "gpus_busy"),), None),
        (
            "Time to first token",
            "s",
            (("p95", "ttft_p95_seconds"), ("p50", "ttft_p50_seconds")),
            limit_line,
        ),
        ("Tokens", "/s", (("in", "prompt_tokens_per_second"), ("out", "generation_tokens_per_second")), None),
        ("CPU", "cores", (("cores", "cpu_cores"),), None),
    )
    columns = st.columns(2, gap="medium")
    for place, (label, unit, names, limit) in enumerate(parts):
        lines = [
            Line(name=name, values=found.rows[column].to_numpy(zero_copy_only=False).astype(np.float32))
            for name, column in names
        ]
        with columns[place % 2]:
            panels.chart(
                charts.series(label, axis, lines, look.colours, unit=unit, marks=marks, limit=limit),
                key=f"tenant-{names[0][1]}", alt=f"{label} of this tenant over time", height=165,
            )  # fmt: skip


def gpus(look: Look, time: Sequence[Row], idle: Answer, findings: Answer) -> None:
    """Where this tenant's GPU time went, by container; who keeps GPUs idle; who breaks the GPU contract."""
    left, right = st.columns(2, gap="medium")
    with left:
        held = sum(row["held_seconds"] for row in time) / 3600
        panels.title("GPU time", f"{fmt.number(held)} GPU-h held in this range, most idle first")
        if time:
            gpu_time(look, time)
        else:
            panels.nothing("No container of this tenant held or used a GPU in this range")
    with right:
        gpu_panels.idle(look, idle, shown=3)
    if time or findings.rows.num_rows:
        gpu_panels.findings(look, findings, title="Declared against used")


def gpu_time(look: Look, rows: Sequence[Row]) -> None:
    """Bars of the states: all together, then by container."""
    by_key: dict[str, list[Row]] = {}
    for row in rows:
        by_key.setdefault(row["container_key"], []).append(row)
    bars = [gpu_states.bar_of("all", rows)]
    bars += [gpu_states.bar_of("/".join(key.partition(":")[2].split("/")[-2:]), of) for key, of in by_key.items()][:6]
    if len(by_key) > 6:
        rest = [row for of in list(by_key.values())[6:] for row in of]
        bars.append(gpu_states.bar_of(f"{len(by_key) - 6} more", rest))
    limits = rows[0]["idle_below"], rows[0]["busy_from"]
    gpu_states.draw(look, bars, *limits, key="tenant-states", height=gpu_states.height_of(len(bars)))
