"""Panels of one container: its facts, and the signals of all sources on one time axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import streamlit as st

from dashboard import charts, fleet_panels, navigation, panels
from dashboard import format as fmt
from dashboard.charts import Axis, Line, Mark
from dashboard.look import Look
from dashboard.theme import Palette, Status
from queries.answer import Answer

Row = Mapping[str, Any]
_HEIGHT = 186
_ORIGINS = {"mapped": "mapped", "label": "self-declared", "compose": "from its compose project", "none": "unassigned"}


def sentence(row: Row) -> str:
    """The container's name and state, and what is wrong with it."""
    status = fleet_panels.LEVELS[row["level"]]
    began = f" :gray[since {fmt.markdown(fmt.clock(row['since'], with_date=True))}]" if row["since"] else ""
    why = f" {fmt.markdown(row['why'], 140)}" if row["why"] else f" {status.word}"
    return f":{status.colour}[{status.glyph}] {fmt.markdown(row['name'], 80)} :{status.colour}[{why.strip()}]{began}"


def header(look: Look, row: Row) -> None:
    """Who it is and where it runs, in two lines, with the ways up."""
    gpus = fleet_panels.gpu_words(row["gpus"], row["attribution"])
    image_age = f", built {fmt.age(row['image_created_at'], look.window.end)} ago" if row["image_created_at"] else ""
    panels.facts(
        {
            "state": " ".join(part for part in (row["state"], row["health"]) if part),
            "tenant": f"{row['tenant']} ({_ORIGINS.get(row['tenant_origin'], row['tenant_origin'])})",
            "team": row["team"],
            "owner": row["owner"],
            "host": row["host"],
            "GPUs": gpus,
            "asked for": row["gpu_request"],
            "started": f"{fmt.age(row['started_at'], look.window.end)} ago" if row["started_at"] else "",
            "restarts": fmt.count(row["restarts"]),
            "exit code": "" if row["exit_code"] is None or row["state"] == "running" else str(row["exit_code"]),
        }
    )
    panels.facts(
        {
            "image": f"{row['image']}{image_age}",
            "digest": row["image_digest"].rpartition(":")[2][:12],
            "container": row["container_id"][:12],
            "user": row["user"] or "root (not set)",
            "privileged": "yes" if row["privileged"] else "",
        }
    )
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        context = look.context
        navigation.link("tenant", "this tenant", context, icon=":material/group:", tenant=row["tenant"], id=None)
        navigation.link("containers", "this host", context, icon=":material/dns:", host=row["host"], id=None)
        navigation.link("gpus", "its GPUs", context, icon=":material/memory:", host=row["host"], id=None)
        start, end = (str(int(moment.timestamp())) for moment in (look.window.start, look.window.end))
        navigation.turn(
            "container", "freeze this window", context, icon=":material/link:",
            id=row["container_key"], range=None, **{"from": start, "to": end},
        )  # fmt: skip


def latency_charts(look: Look, found: Answer, gpus: Answer, marks: Sequence[Mark]) -> None:
    """Time to first token above the SM activity of the GPUs that served it, whole requests and gaps beside."""
    if not found.rows.num_rows:
        _no_endpoint()
        return
    axis, limit = Axis.of(found.rows["t"].to_numpy()), fleet_panels.ttft_limit()
    left, right = st.columns(2, gap="medium")
    for field, label, line, place in (
        ("ttft", "Time to first token", limit, left),
        ("e2e", "Whole request", None, right),
        ("itl", "Between tokens", None, right),
    ):
        colour = look.colours.series[0]
        lines = [
            Line(name="low", values=floats(found, f"{field}_p95_lower_seconds"), width=0, colour=colour, legend=False),
            Line(name="p95 interval", values=floats(found, f"{field}_p95_upper_seconds"), band=True, colour=colour),
            Line(name="p95", values=floats(found, f"{field}_p95_seconds"), colour=colour),
            Line(name="p50", values=floats(found, f"{field}_p50_seconds"), colour=look.colours.series[2]),
        ]
        with place:
            if all(np.isnan(line_.values).all() for line_ in lines):
                panels.nothing(f"{label}: not measured, or too few requests a point", height=_HEIGHT)
                continue
            panels.chart(
                charts.series(label, axis, lines, look.colours, unit="s", marks=marks, limit=line),
                key=f"latency-{field}", alt=f"{label}: p50 and p95 over time", height=_HEIGHT,
            )  # fmt: skip
    with left:
        _served_by(look, gpus, marks)


def _served_by(look: Look, gpus: Answer, marks: Sequence[Mark]) -> None:
    """SM activity of the GPUs it held or used: its own, and what others did there at the same time."""
    table = gpus.rows
    if not table.num_rows:
        panels.nothing("It held and used no GPU in this range", height=_HEIGHT)
        return
    parts = len(dict.fromkeys(table["gpu_uuid"].to_pylist()))
    axis = Axis.of(table["t"].to_numpy()[: table.num_rows // parts])
    lines = [
        Line(name=name, values=_mean(table, column, parts), stacked=True, colour=colour)
        for name, column, colour in (
            ("this container", "sm_ratio", look.colours.series[0]),
            ("other holders", "others_sm_ratio", look.colours.unknown),
            ("unattributed", "unattributed_sm_ratio", look.colours.faint),
        )
    ]
    shown = [line for line in lines if not np.isnan(line.values).all()]
    if not shown:
        panels.nothing("Its GPUs could not tell their SM activity in this range", height=_HEIGHT)
        return
    label = "SM activity of its GPU" if parts == 1 else f"SM activity of its {parts} GPUs, mean"
    panels.chart(
        charts.series(label, axis, shown, look.colours, unit="%", marks=marks),
        key="latency-sm", alt="SM activity of the GPUs that served it, over the same time", height=_HEIGHT,
    )  # fmt: skip


def _mean(table: Any, column: str, parts: int) -> charts.Floats:  # noqa: ANN401
    """Mean over the GPUs; a GPU that nobody else used adds nothing, a point that no GPU told of stays unknown."""
    values = table[column].to_numpy(zero_copy_only=False).astype(np.float32).reshape(parts, -1)
    unknown = np.isnan(values).all(axis=0)
    return np.where(unknown, np.nan, np.nansum(values, axis=0) / parts).astype(np.float32)


def load_charts(look: Look, found: Answer, marks: Sequence[Mark]) -> None:
    """Requests and errors, tokens in and out, queue, KV cache."""
    if not found.rows.num_rows:
        _no_endpoint()
        return
    axis = Axis.of(found.rows["t"].to_numpy())
    _group(
        look, found, axis, marks,
        ("Requests", "/s", (("requests", "requests_per_second"), ("errors", "errors_per_second"))),
        ("Tokens", "/s", (("in", "prompt_tokens_per_second"), ("out", "generation_tokens_per_second"))),
        ("Requests at a time", "", (("running", "requests_running"), ("waiting", "requests_waiting"))),
        ("KV cache", "%", (("used", "kv_cache_ratio"),)),
    )  # fmt: skip


def host_charts(look: Look, found: Answer, marks: Sequence[Mark]) -> None:
    """CPU with its throttling, memory against the limit, network and block devices."""
    if not found.rows.num_rows:
        panels.nothing("Docker gave no readings of this container in this range", height=_HEIGHT)
        return
    axis = Axis.of(found.rows["t"].to_numpy())
    limits = [value for value in found.rows["memory_limit_bytes"].to_pylist() if value]
    _group(
        look, found, axis, marks,
        ("CPU", "cores", (("cores", "cpu_cores"),)),
        ("Memory", "B", (("working set", "memory_working_set_bytes"),)),
        ("Network", "B/s", (("in", "network_receive_bytes_per_second"), ("out", "network_transmit_bytes_per_second"))),
        ("Block devices", "B/s", (("read", "block_read_bytes_per_second"), ("write", "block_write_bytes_per_second"))),
        limit=(float(limits[-1]), f"limit {fmt.size(limits[-1])}") if limits else None,
        shares={"CPU": ("throttled periods", floats(found, "throttled_ratio"))},
    )  # fmt: skip


def _group(
    look: Look,
    found: Answer,
    axis: Axis,
    marks: Sequence[Mark],
    *parts: tuple[str, str, tuple[tuple[str, str], ...]],
    limit: tuple[float, str] | None = None,
    shares: Mapping[str, tuple[str, charts.Floats]] | None = None,
) -> None:
    columns = st.columns(2, gap="medium")
    for place, (label, unit, names) in enumerate(parts):
        lines = [Line(name=name, values=floats(found, column)) for name, column in names]
        figure = charts.series(
            label, axis, lines, look.colours, unit=unit, marks=marks, limit=limit if label == "Memory" else None
        )
        if label in (shares or {}):
            name, values = (shares or {})[label]
            overlay_share(figure, axis, name, values, look.colours)
        with columns[place % 2]:
            panels.chart(
                figure,
                key=f"group-{names[0][1]}", alt=f"{label} over time", height=_HEIGHT,
            )  # fmt: skip


def overlay_share(figure: dict[str, object], axis: Axis, name: str, values: charts.Floats, colours: Palette) -> None:
    """A share of 0-1 over a figure's own axis, filled, with its percent on the right; left out when it stays zero."""
    if not np.any(values > 0):
        return
    traces, layout = cast("list[dict[str, Any]]", figure["data"]), cast("dict[str, Any]", figure["layout"])
    traces.append(
        {
            "type": "scatter", "mode": "lines", "name": name, "x0": axis.start_ms, "dx": axis.step_ms,
            "y": np.asarray(values * 100.0, dtype=np.float32), "yaxis": "y2", "connectgaps": False, "fill": "tozeroy",
            "line": {"color": colours.warning, "width": 0.8}, "fillcolor": f"{colours.warning}40",
            "hovertemplate": "%{y:.3~g} %", "showlegend": True,
        }
    )  # fmt: skip
    layout["yaxis2"] = {
        "overlaying": "y", "side": "right", "range": [0, 100], "showgrid": False, "zeroline": False,
        "tickmode": "array", "tickvals": [0, 50, 100], "ticksuffix": " %", "fixedrange": True,
        "tickfont": {"color": colours.warning, "size": 10},
    }  # fmt: skip
    layout["margin"] = {**layout["margin"], "r": 40}
    layout["showlegend"] = True


def labels(found: Sequence[tuple[str, str]] | None) -> None:
    """The container's labels; values that looked like secrets were replaced before they were stored."""
    if not found:
        panels.nothing("No labels", Status.NONE)
        return
    columns = (panels.Column(name="key", label="label", width=280), panels.Column(name="value", label="value"))
    panels.table(
        {"key": [key for key, _ in found], "value": [value for _, value in found]},
        columns, key="labels", alt="Labels of this container", shown_rows=12,
    )  # fmt: skip


def _no_endpoint() -> None:
    panels.nothing("No inference endpoint is joined to this container; Status lists the unjoined ones", height=_HEIGHT)


def floats(found: Answer, column: str) -> charts.Floats:
    """A column as a line's values; NaN where it is not known."""
    return found.rows[column].to_numpy(zero_copy_only=False).astype(np.float32)
