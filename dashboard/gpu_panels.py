"""Panels about GPUs: how far they get, activity over time, the USE table, idle holders, who is on one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from dashboard import charts, fleet_panels, navigation, panels
from dashboard import format as fmt
from dashboard.charts import Axis
from dashboard.look import Look
from dashboard.overview_panels import short_model, stack
from dashboard.panels import Card, Column
from dashboard.theme import Status
from queries.answer import Answer

Row = Mapping[str, Any]
_USE_WORDS = {"held_idle": "held, idle", "low": "low", "busy": "busy", "free": "free", "unknown": "unknown"}
_TABLE = (
    Column(name="status", label="", width=26),
    Column(name="host", label="host", width=78),
    Column(name="index", label="#", kind="number", width=30, format="%d"),
    Column(name="model", label="model", width=60),
    Column(name="use", label="use", width=66),
    Column(name="why", label="why", width=110),
    Column(name="sm", label="SM", kind="bar", width=92, help="SM activity; the source is named in the next column"),
    Column(name="sm_source", label="from", width=66),
    Column(name="memory", label="memory", kind="bar", width=92),
    Column(name="used", label="used", width=70),
    Column(name="power", label="power", width=66),
    Column(name="temperature", label="°C", kind="number", width=40, format="%d"),
    Column(name="errors", label="errors, 1 h", width=92, help="XID, ECC uncorrected, thermal throttling"),
    Column(name="holders", label="held by", width=200),
    Column(name="tenants", label="tenant", width=100),
)


def sentence(rows: Sequence[Row], idle: int) -> str:
    """How many GPUs are in trouble, and how many are held without use."""
    if not rows:
        return f":gray[{Status.NONE.glyph} no GPU seen]"
    counts = {level: sum(row["level"] == level for row in rows) for level in (0, 1, 2, 3)}
    return f"{fleet_panels.severity_words(counts)} :gray[in {len(rows)} GPUs]" + (
        f" :orange[{idle} held but idle]" if idle else ""
    )


def funnel(rows: Sequence[Row]) -> None:
    """Total, allocated, active, effective, each as a share of the first."""
    first = rows[0]["gpus"] if rows else 0
    panels.cards(
        [
            Card(
                label=f"{row['stage'].capitalize()}",
                value=fmt.count(row["gpus"]),
                note=f"{fmt.percent(fleet_panels.ratio(row['gpus'], first) or 0)}, {row['note']}"
                if place
                else row["note"],
            )
            for place, row in enumerate(rows)
        ],
        height=82,
    )


def heat(look: Look, found: Answer, height: int) -> None:
    """GPU by time."""
    table = found.rows
    if not table.num_rows:
        panels.nothing("No GPU reported in this range", height=height)
        return
    uuids = list(dict.fromkeys(table["gpu_uuid"].to_pylist()))
    points = table.num_rows // len(uuids)
    names = [
        f"{fleet_panels.short_host(host)} · {index}"
        for host, index in zip(
            table["host"].to_pylist()[::points], table["gpu_index"].to_pylist()[::points], strict=True
        )
    ]
    values = table["sm_ratio"].to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(uuids), points)
    axis = Axis.of(table["t"].to_numpy()[:points])
    panels.chart(
        charts.heatmap("Activity by GPU", axis, names[:64], values[:64], look.colours),
        key="gpu-heat", alt="SM activity of each GPU over time", height=height,
    )  # fmt: skip


def table(rows: Sequence[Row], *, shown_rows: int) -> None:
    """Utilisation, saturation and errors of each GPU, and who is on it."""
    cells: Mapping[str, Sequence[Any]] = {
        "status": [fleet_panels.LEVELS[row["level"]].glyph for row in rows],
        "host": [fleet_panels.short_host(row["host"]) for row in rows],
        "index": [row["gpu_index"] for row in rows],
        "model": [row["mig_profile"] or short_model(row["name"]) for row in rows],
        "use": [_USE_WORDS.get(row["use"], row["use"]) for row in rows],
        "sm": [None if row["sm_ratio"] is None else row["sm_ratio"] * 100 for row in rows],
        "sm_source": [row["sm_source"] for row in rows],
        "memory": [_share(row["memory_used_bytes"], row["memory_total_bytes"]) for row in rows],
        "used": [fmt.size(row["memory_used_bytes"]) for row in rows],
        "power": [fmt.number(row["power_watts"], "W") for row in rows],
        "temperature": [row["temperature_celsius"] for row in rows],
        "errors": [_errors(row) for row in rows],
        "holders": [", ".join(row["holders"]) for row in rows],
        "tenants": [", ".join(row["tenants"]) for row in rows],
        "why": [row["why"] or "" for row in rows],
    }
    panels.table(cells, _TABLE, key="gpus", alt="GPUs: utilisation, saturation, errors, holders", shown_rows=shown_rows)
    panels.download(cells, _TABLE, name="gpus.csv", key="gpus-csv")


def idle(look: Look, rows: Sequence[Row]) -> None:
    """One sentence for each container that holds GPUs without using them."""
    panels.title("Held but idle", "longest first")
    if not rows:
        panels.nothing("Every held GPU is used", Status.OK)
    for row in rows[:6]:
        models = ", ".join(sorted({short_model(name) for name in row["gpu_names"]}))
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown(
                f":orange[{Status.WARNING.glyph}] **{fmt.markdown(row['name'], 60)}** "
                f":gray[{fmt.markdown(row['tenant'], 40)}] {row['gpus']} x {fmt.markdown(models)}: "
                f"{fmt.markdown(row['sentence'], 140)}",
                width="content",
            )
            navigation.link("container", "open", look.context, icon=":material/arrow_forward:", id=row["container_key"])


def holders(look: Look, found: Answer, measure: str, height: int) -> None:
    """One GPU over time by container; the parts and what nobody owns add up to the device."""
    if not found.rows.num_rows:
        panels.nothing("Nothing ran on this GPU in this range", height=height)
        return
    label, column, unit = (
        ("Memory by container", "memory_bytes", "B") if measure == "memory" else ("SM by container", "sm_ratio", "%")
    )
    lines, axis = stack(found.rows, "container_key", column, look)
    panels.chart(
        charts.series(label, axis, [_named(line) for line in lines], look.colours, unit=unit),
        key="holders", alt=f"{label} on the chosen GPU", height=height,
    )  # fmt: skip


def _named(line: charts.Line) -> charts.Line:
    return charts.Line(
        name=line.name.partition(":")[2] or line.name, values=line.values, colour=line.colour, stacked=line.stacked
    )


def _share(part: float | None, whole: float | None) -> float | None:
    share = fleet_panels.ratio(part, whole)
    return None if share is None else share * 100


def _errors(row: Row) -> str:
    parts = [f"XID {row['xid']}"] if row["xid"] else []
    parts += [f"ECC {row['ecc_uncorrected']}"] if row["ecc_uncorrected"] else []
    parts += ["hot"] if row["thermal"] else []
    return ", ".join(parts)
