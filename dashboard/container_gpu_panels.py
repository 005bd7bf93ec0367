"""The GPU section of one container: what it asked for and got, what it did with it, who else is there, its jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from dashboard import charts, gpu_detail_panels, gpu_panels, gpu_states, job_panels, navigation, panels
from dashboard import format as fmt
from dashboard.charts import Axis, Line, Mark
from dashboard.look import Look
from dashboard.theme import Status
from queries import containers, gpu_contract, gpu_detail, gpu_time
from queries import jobs as gpu_jobs
from queries.answer import Answer

Row = Mapping[str, Any]
_HEIGHT = 158


def section(look: Look, row: Row, marks: Sequence[Mark], on_pick: Callable[[str], None]) -> None:
    """The whole section of the container of `row` (of `container_header`); on_pick opens a container."""
    key, host, terms = row["container_key"], row["host"], gpu_panels.contract_terms()
    span = look.every(gpu_panels.SPAN_SECONDS)
    look.ahead(gpu_detail.container_presence, container_key=key)
    span.ahead(gpu_contract.gpu_contract, host=host, **terms)
    span.ahead(gpu_time.gpu_time, by="container", host=host)
    span.ahead(containers.container_gpu_series, container_key=key)
    span.ahead(gpu_time.gpu_time_series, host=host, container_key=key)
    span.ahead(gpu_jobs.gpu_jobs, host=host, container_key=key)
    asked = look.ask(gpu_detail.container_allocation, container_key=key).rows.to_pylist()
    checked = span.ask(gpu_contract.gpu_contract, host=host, **terms)
    broken = _own(checked, key)
    allocation(look, asked[0] if asked else None, broken)
    present = look.ask(gpu_detail.container_presence, container_key=key).rows.to_pylist()
    if present:
        gpu_detail_panels.who(present, None, on_pick, key="container-gpus", by_gpu=True)
        left, right = st.columns(2, gap="medium")
        with left:
            time(look, _own(span.ask(gpu_time.gpu_time, by="container", host=host), key))
        with right:
            findings(look, broken, checked.coverage)
        series = span.ask(containers.container_gpu_series, container_key=key)
        states = span.ask(gpu_time.gpu_time_series, host=host, container_key=key)
        gpu_charts(look, series, states, marks)
    elif broken:
        findings(look, broken, checked.coverage)
    else:
        panels.nothing("This container held and used no GPU in this range")
    jobs(_own(span.ask(gpu_jobs.gpu_jobs, host=host, container_key=key), key), on_pick)


def _own(found: Answer, key: str) -> list[Row]:
    return [row for row in found.rows.to_pylist() if row["container_key"] == key]


def allocation(look: Look, row: Row | None, failed: Sequence[Row]) -> None:
    """What it asked for, in the person's words, and what that came to; what names nothing in red."""
    if row is None or not (row["gpu_request"] or row["gpu_uuids"] or row["gpu_unresolved"]):
        st.markdown(":gray[asked for] no GPU")
        return
    parts = [f":gray[asked for] `{fmt.plain(row['gpu_request'], 120).replace('`', chr(39))}`"]
    if row["devices"]:
        parts.append(f":gray[which comes to] **{fmt.markdown(', '.join(row['devices']), 200)}**")
    elif row["gpu_request_kind"] == "privileged":
        parts.append(":gray[which reaches every GPU and holds none]")
    parts += [
        f":red[{Status.CRITICAL.glyph} {fmt.markdown(name, 60)} names no GPU of this host]"
        for name in row["gpu_unresolved"]
    ]
    if any(one["kind"] == "failed_start" for one in failed):
        parts.append(f":red[{Status.CRITICAL.glyph} it did not start for that]")
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.markdown("\u2003".join(parts), width="content")
        for uuid, device in list(zip(row["gpu_uuids"], row["devices"], strict=True))[:8]:
            navigation.link("gpus", fmt.markdown(device), look.context, icon=":material/memory:", id=uuid)


def time(look: Look, rows: Sequence[Row]) -> None:
    """Its GPU time by state: all of it, then by GPU; what it used without holding it in a bar of its own."""
    panels.title("Where its GPU time went", _hours_words(rows))
    if not rows:
        gpu_states.no_time(40)
        return
    held, other = [row for row in rows if row["held"]], [row for row in rows if row["held"] is False]
    untold = [row for row in rows if row["held"] is None]
    bars = [gpu_states.bar_of("held", held)] if held else []
    if len(held) > 1:
        bars += [gpu_states.bar_of(f"GPU {gpu_panels.index_words(row)}", [row]) for row in held[:8]]
    if other:
        bars.append(gpu_states.bar_of("used, not held", other))
    if untold:
        bars.append(gpu_states.bar_of("holding not known", untold))
    limits = rows[0]["idle_below"], rows[0]["busy_from"]
    gpu_states.draw(look, bars, *limits, key="container-states", height=gpu_states.height_of(len(bars)))


def _hours_words(rows: Sequence[Row]) -> str:
    held = sum(row["held_seconds"] for row in rows) / 3600
    idle = sum(row["held_idle_seconds"] for row in rows if row["held"]) / 3600
    return f"{fmt.number(held)} GPU-h held in this range, {fmt.number(idle)} of it idle"


def gpu_charts(look: Look, found: Answer, states: Answer, marks: Sequence[Mark]) -> None:
    """SM, memory and power of this container, the other holders of the same GPUs as grey stack; its states."""
    table = found.rows
    if not table.num_rows:
        panels.nothing("This container held and used no GPU in this range", height=_HEIGHT)
        return
    uuids = list(dict.fromkeys(table["gpu_uuid"].to_pylist()))
    points = table.num_rows // len(uuids)
    axis = Axis.of(table["t"].to_numpy()[:points])
    names = table["gpu_index"].to_pylist()[::points]
    places = st.columns(2, gap="medium")
    for place, (label, own, others, nobody, unit) in enumerate(
        (
            ("SM activity", "sm_ratio", "others_sm_ratio", "unattributed_sm_ratio", "%"),
            ("GPU memory", "memory_bytes", "others_memory_bytes", "unattributed_memory_bytes", "B"),
        )
    ):
        lines = [
            Line(name=f"GPU {names[i]}", values=values, stacked=True, colour=look.colours.series[i % 8])
            for i, values in enumerate(_split(table, own, len(uuids)))
        ]
        for name, column, colour in (
            ("other holders", others, look.colours.unknown), ("unattributed", nobody, look.colours.faint),
        ):  # fmt: skip
            total = _sum(_split(table, column, len(uuids)))
            if np.any(total > 0):
                lines.append(Line(name=name, values=total, stacked=True, colour=colour))
        with places[place]:
            panels.chart(
                charts.series(label, axis, lines, look.colours, unit=unit, marks=marks),
                key=f"gpu-{own}", alt=f"{label} of this container and of others on its GPUs", height=_HEIGHT,
            )  # fmt: skip
    power = _sum(_split(table, "power_watts", len(uuids)))
    with places[0]:
        if not np.isnan(power).all():
            panels.chart(
                charts.series(
                    "GPU power", axis, [Line(name="power", values=power)], look.colours, unit="W", marks=marks
                ),
                key="gpu-power", alt="Power drawn for this container", height=_HEIGHT,
            )  # fmt: skip
        else:
            panels.nothing("Its share of the power is not known", Status.UNKNOWN, height=_HEIGHT)
    with places[1]:
        gpu_states.over_time(look, states, marks, key="container-states-time", height=_HEIGHT)


def findings(look: Look, rows: Sequence[Row], coverage: float | None) -> None:
    """What the contract check says of this container."""
    panels.title("Declared against used", "what it asked for, held against what it uses")
    if not rows:
        panels.all_well("It uses what it asked for, and nothing else", coverage)
    for row in rows:
        st.markdown(gpu_panels.finding(row, look))


def jobs(rows: Sequence[Row], on_pick: Callable[[str], None]) -> None:
    """Its runs in the GPU job ledger."""
    panels.title("Its GPU jobs", "from the ledger, newest first")
    if not rows:
        panels.nothing("No GPU job of this container in this range")
        return
    job_panels.table(rows, on_pick, key="container-jobs", shown_rows=6)


def _sum(values: charts.Floats) -> charts.Floats:
    """Sum over GPUs; a point that none of them knows stays unknown."""
    total = np.nansum(values, axis=0).astype(np.float32)
    total[np.isnan(values).all(axis=0)] = np.nan
    return total


def _split(table: Any, column: str, parts: int) -> charts.Floats:  # noqa: ANN401
    return table[column].to_numpy(zero_copy_only=False).astype(np.float32).reshape(parts, -1)
