"""Panels of the GPUs page: how far the GPU time gets, where it goes, idle holders, contract findings, the table."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import streamlit as st

from dashboard import charts, fleet_panels, gpu_states, navigation, panels, process
from dashboard import format as fmt
from dashboard.charts import Axis
from dashboard.gpu_states import Bar
from dashboard.look import Look
from dashboard.overview_panels import short_model
from dashboard.panels import Column
from dashboard.theme import Palette, Status, status_of
from queries.answer import Answer

Row = Mapping[str, Any]
#: Pace of what is told of a whole span: it hardly moves in a few seconds.
SPAN_SECONDS = 15
#: What a contract finding says, in a few words.
CONTRACT = {
    "failed_start": "did not start for want of a GPU",
    "requested_absent": "asks for a GPU that is not there",
    "uses_unasked": "uses a GPU it did not ask for",
    "shared_by_count": "shares a GPU by accident",
    "asked_all": "asked for all GPUs",
    "held_unused": "holds GPUs without using them",
    "privileged_reach": "reaches every GPU",
    "shared_on_purpose": "shares a GPU on purpose",
    "unknown": "cannot be judged",
}
_USE_WORDS = {**gpu_states.WORDS, "held_idle": "held, idle"}
_HOSTS_SHOWN = 6
_HEAT_ROWS = 64
_USE = (
    Column(name="status", label="", width=26),
    Column(name="host", label="host", width=62),
    Column(name="index", label="GPU", width=68, help="Index on its host; MIG devices with their profile"),
    Column(name="model", label="model", width=50),
    Column(name="use", label="now", width=62),
    Column(name="holders", label="held by", width=142),
    Column(name="busy", label="busy", kind="bar", width=78, help="Share of the time in which any kernel ran, mean"),
    Column(name="sm", label="SM", kind="bar", width=78, help="SM activity, mean; the better measure of work"),
    Column(name="memory", label="memory", kind="bar", width=78, help="Used, mean over the range"),
    Column(name="power", label="power / limit", width=80, help="Mean over the range"),
    Column(name="slowed", label="slowed by", width=152, help="What throttled it, and in which share of the time"),
    Column(name="temperature", label="°C", kind="number", width=34, format="%d", help="Highest in the range"),
    Column(name="errors", label="errors, and what to do", width=222, help="XID, ECC, recovery action, in the range"),
)


def contract_terms() -> dict[str, float]:
    """What the operator set for the contract check."""
    settings = process.current().settings
    return {
        "held_unused_after_seconds": settings.gpu.held_unused_after_seconds,
        "idle_below_ratio": settings.thresholds.idle_sm_ratio,
    }


def sentence(rows: Sequence[Row], hosts: Sequence[Row], warnings: int) -> str:
    """How many GPUs are in trouble, where their time went, and how many containers break the contract."""
    if not rows:
        return f":gray[{Status.NONE.glyph} no GPU seen]"
    counts = {level: sum(row["level"] == level for row in rows) for level in (0, 1, 2, 3)}
    whole = sum(not row["parent_uuid"] for row in rows)
    slices = len(rows) - whole
    parts = [f"{whole} GPU{'' if whole == 1 else 's'}"] if whole else []
    parts += [f"{slices} MIG device{'' if slices == 1 else 's'}"] if slices else []
    told = f"{fleet_panels.severity_words(counts)} :gray[in {' and '.join(parts)}]"
    time = gpu_states.bar_of("", hosts)
    if time.whole:
        busy, idle = ((time.seconds[state] or 0.0) / time.whole for state in ("busy", "held_idle"))
        told += f"\u2002:blue[{fmt.percent(round(busy, 2))} busy]"
        if idle >= 0.005:
            told += f"\u2002:orange[{fmt.percent(round(idle, 2))} held idle]"
    if warnings:
        told += f"\u2002:orange[{Status.WARNING.glyph} {warnings} contract finding{'' if warnings == 1 else 's'}]"
    return told


def funnel(look: Look, hours: Sequence[Row], now: Sequence[Row], height: int) -> None:
    """Total, allocated, active, effective: GPU-hours of the range, GPUs now, and the threshold of each stage."""
    panels.title("How far the GPU time gets", "GPU-hours of the range, and GPUs now")
    if not hours or not hours[0]["gpu_hours"]:
        gpu_states.no_time(height)
        return
    gpus = {row["stage"]: row["gpus"] for row in now}
    told = [_stage_words(row, gpus.get(row["stage"])) for row in hours]
    alt = "; ".join(f"{row['stage']}: {words}" for row, words in zip(hours, told, strict=True))
    panels.chart(funnel_figure(hours, told, look.colours), key="gpu-funnel", alt=alt, height=height)


def _stage_words(row: Row, gpus: int | None) -> str:
    share = "" if row["share"] is None else f" ({fmt.percent(round(row['share'], 2))})"
    now = "" if gpus is None else f", {fmt.count(gpus)} now"
    return f"{fmt.number(row['gpu_hours'])} GPU-h{share}{now}"


_STAGE_NOTES = {"total": "all GPU time", "allocated": "held, or used without being held"}


def funnel_figure(hours: Sequence[Row], told: Sequence[str], colours: Palette) -> dict[str, object]:
    """One bar a stage, its words at the left end of the bar, its threshold beside its name."""
    limits = {"active": hours[0]["idle_below"], "effective": hours[0]["busy_from"]}
    first = hours[0]["gpu_hours"] or 1.0
    names = [
        f"<b>{row['stage']}</b>  <span style='color:{colours.faint};font-size:11px'>"
        + (f"≥ {limits[row['stage']] * 100:g} % SM" if row["stage"] in limits else _STAGE_NOTES[row["stage"]])
        + "</span>"
        for row in hours
    ]
    on_left = [row["gpu_hours"] / first >= 0.4 for row in hours]
    ink = "#ffffff" if colours.surface == "#ffffff" else "#0e1318"
    inks = [ink if inside else colours.text for inside in on_left]
    shades = [colours.unknown, *(colours.ramp[step] for step in (3, 4, 5))][-len(hours) :]
    trace: dict[str, object] = {
        "type": "bar",
        "orientation": "h",
        "y": names,
        "x": [round(row["gpu_hours"] / first * 100, 3) for row in hours],
        "text": [html.escape(words) for words in told],
        "textposition": ["inside" if inside else "outside" for inside in on_left],
        "insidetextanchor": "start",
        "textfont": {"size": 12, "color": inks},
        "marker": {"color": shades},
        "cliponaxis": False,
        "hoverinfo": "skip",
    }
    return {"data": [trace], "layout": gpu_states.bars_layout(colours, left=226, legend=False, top=4)}


def states(look: Look, found: Sequence[Row], names: Mapping[str, str], height: int) -> None:
    """Where the GPU time went: all of it, then by host, or by GPU on one host."""
    what = "GPU" if look.context.host else "host"
    panels.title("Where the GPU time went", f"by {what}, most held idle first")
    if not found:
        gpu_states.no_time(height)
        return
    single = "gpu_uuid" in found[0]
    bars = [gpu_states.bar_of("all", found)]
    bars += [
        Bar(
            name=_short_bar(row, names, single), seconds={state: row[f"{state}_seconds"] for state in gpu_states.STATES}
        )
        for row in found[:_HOSTS_SHOWN]
    ]
    if len(found) > _HOSTS_SHOWN:
        bars.append(gpu_states.bar_of(f"{len(found) - _HOSTS_SHOWN} more", found[_HOSTS_SHOWN:]))
    limits = found[0]["idle_below"], found[0]["busy_from"]
    gpu_states.draw(look, bars, *limits, key="gpu-states", height=gpu_states.height_of(len(bars)))


def _short_bar(row: Row, names: Mapping[str, str], single: bool) -> str:
    return names.get(row["gpu_uuid"], "GPU") if single else fleet_panels.short_host(row["host"])


def index_words(row: Row) -> str:
    """A GPU's index on its host, with the profile of a MIG device: "3" or "3 · 1g.10gb"."""
    return f"{row['gpu_index']} · {row['mig_profile']}" if row["mig_profile"] else str(row["gpu_index"])


def names_of(rows: Sequence[Row], host: str | None) -> dict[str, str]:
    """UUID -> host and index, "gpu-a01 · 3"; only the index while one host is looked at."""
    return {
        row["gpu_uuid"]: f"{'GPU' if host else fleet_panels.short_host(row['host'])} {'' if host else '· '}"
        f"{index_words(row)}"
        for row in rows
    }


def heat(look: Look, found: Answer, names: Mapping[str, str], height: int) -> None:
    """GPU by time."""
    table = found.rows
    if not table.num_rows:
        panels.nothing("No GPU reported in this range", height=height)
        return
    uuids = list(dict.fromkeys(table["gpu_uuid"].to_pylist()))
    points = table.num_rows // len(uuids)
    values = table["sm_ratio"].to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(uuids), points)
    # A GPU in MIG mode tells nothing itself: its devices stand below.
    seen = [place for place in range(len(uuids)) if not np.isnan(values[place]).all()][:_HEAT_ROWS]
    if not seen:
        panels.nothing("No GPU could tell its activity in this range; Status says why", height=height)
        return
    axis = Axis.of(table["t"].to_numpy()[:points])
    figure = charts.heatmap(
        "Activity by GPU", axis, [names.get(uuids[place], uuids[place][:12]) for place in seen], values[seen],
        look.colours,
    )  # fmt: skip
    if height / len(seen) < 15:  # smaller letters before they run into one another
        cast("dict[str, Any]", figure["layout"])["yaxis"]["tickfont"] = {"size": 9}
    panels.chart(
        figure, key="gpu-heat", alt=f"SM activity of {len(seen)} GPUs and MIG devices over time", height=height
    )


def idle(look: Look, found: Answer, *, shown: int) -> None:
    """Who kept GPUs without using them, the dearest first: the evidence, and what to do."""
    rows = found.rows.to_pylist()
    whole = rows[0]["holders_total"] if rows else 0
    note = f"dearest GPU-hours first, {whole} in all" if whole > shown else "dearest GPU-hours first"
    panels.title("Held but idle", note)
    if not rows:
        panels.all_well("Every held GPU was used in this range", found.coverage)
    with st.container(gap=None):
        for row in rows[:shown]:
            _entry(look, row, idle_words(row))


def idle_words(row: Row) -> str:
    """One idle holder as Markdown: the hours, the evidence, what to do."""
    return (
        f"**{fmt.number(row['idle_gpu_hours'])} GPU-h** {fmt.markdown(row['sentence'], 140)} "
        f":gray[→ {fmt.markdown(row['suggestion'], 120)}]"
    )


def _entry(look: Look, row: Row, words: str, wide: int = 3) -> None:
    """A container's name as a link, and words about it."""
    name, said = st.columns([1, wide], gap="small", vertical_alignment="top")
    with name:
        navigation.link("container", f"{fmt.markdown(row['name'], 40)}", look.context, id=row["container_key"])
    with said:
        st.markdown(words)


def contract(look: Look, found: Answer, *, shown: int) -> None:
    """The worst contract findings in one line each; the whole sentences are `findings`."""
    rows = found.rows.to_pylist()
    warnings = [row for row in rows if row["severity"] != "info"]
    panels.title("Declared against used", _counted(len(warnings), len(rows), shown))
    if not warnings:
        unknown = any(row["kind"] == "unknown" for row in rows)
        panels.all_well("Every container uses what it asked for", None if unknown else found.coverage)
    with st.container(gap=None):
        for row in warnings[:shown]:
            _entry(look, row, _kind_words(row, look))


def _counted(warnings: int, rows: int, shown: int) -> str:
    words = f"{warnings} finding{'' if warnings == 1 else 's'}, {rows - warnings} to know"
    return f"{words}; all of them below" if warnings > shown or rows > warnings else words


def findings(look: Look, found: Answer, *, title: str = "Declared against used, in full") -> None:
    """Every contract finding with its sentence and what to do, worst first."""
    rows = found.rows.to_pylist()
    panels.title(title, "what containers asked for, held against what they use")
    if not rows:
        panels.all_well("Every container uses what it asked for, and nothing else", found.coverage)
    for row in rows[:40]:
        _entry(look, row, finding(row, look), wide=6)
    if len(rows) > 40:
        st.caption(f"and {len(rows) - 40} more: choose a host or tenant above")


def finding(row: Row, look: Look) -> str:
    """One finding as Markdown: status and kind in words, whose it is, since when, and the sentence."""
    return f"{_kind_words(row, look)}  \n{with_code(row['sentence'])}"


def with_code(text: str, limit: int = 500) -> str:
    """A sentence of ours with fleet text in it: what stands between backticks becomes code, all the rest inert."""
    parts = fmt.plain(text, limit).split("`")
    if len(parts) % 2 == 0:  # cut in the middle of a code span, or a stray backtick
        parts[-2:] = [" ".join(parts[-2:])]
    return "".join(
        f"`{part}`" if place % 2 and part.strip() else _kept(part, limit) for place, part in enumerate(parts)
    )


def _kept(part: str, limit: int) -> str:
    """Inert text with the blanks at its ends, which `format.markdown` takes away."""
    inner = part.strip()
    if not inner:
        return part
    before, after = part[: len(part) - len(part.lstrip())], part[len(part.rstrip()) :]
    return f"{before}{fmt.markdown(inner, limit)}{after}"


def _kind_words(row: Row, look: Look) -> str:
    status = Status.NONE if row["severity"] == "info" else status_of(row["severity"])
    glyph = "·" if row["severity"] == "info" else status.glyph
    if row["kind"] == "unknown":
        status = Status.UNKNOWN
        glyph = status.glyph
    began = f" since {fmt.markdown(fleet_panels.since(row['since'], look.window.end))}" if row["since"] else ""
    return (
        f":{status.colour}[{glyph} {CONTRACT.get(row['kind'], fmt.markdown(row['kind']))}] "
        f":gray[{fmt.markdown(row['tenant'], 30)}{began}]"
    )


def table(now: Sequence[Row], over: Sequence[Row], *, shown_rows: int, on_pick: Callable[[str], None]) -> None:
    """Utilisation, saturation and errors of each GPU over the range, how it is now, and who holds it."""
    panels.title("Utilisation, saturation, errors", "means of the range; select a GPU to open it")
    spans = {row["gpu_uuid"]: row for row in over}
    nothing: Row = {}
    rows = [(row, spans.get(row["gpu_uuid"], nothing)) for row in now]
    cut = {row["parent_uuid"] for row in now}
    cells: Mapping[str, Sequence[Any]] = {
        "status": [fleet_panels.LEVELS[row["level"]].glyph for row, _ in rows],
        "host": [fleet_panels.short_host(row["host"]) for row, _ in rows],
        "index": [index_words(row) for row, _ in rows],
        "model": [short_model(row["name"]) for row, _ in rows],
        "use": ["in MIG" if row["gpu_uuid"] in cut else _USE_WORDS.get(row["use"], row["use"]) for row, _ in rows],
        "busy": [_percent(span.get("busy_ratio_mean")) for _, span in rows],
        "sm": [_percent(span.get("sm_active_ratio_mean")) for _, span in rows],
        "memory": [
            _percent(fleet_panels.ratio(span.get("memory_used_bytes_mean"), row["memory_total_bytes"]))
            for row, span in rows
        ],
        "power": [power_words(span.get("power_watts_mean"), span.get("power_limit_watts_max")) for _, span in rows],
        "slowed": [slowed_words(span) for _, span in rows],
        "temperature": [span.get("temperature_celsius_max") for _, span in rows],
        "errors": [error_words(row, span) for row, span in rows],
        "holders": [", ".join(row["holders"]) for row, _ in rows],
    }
    panels.table(
        cells, _USE, key="gpus", alt="GPUs: utilisation, saturation, errors, holders; select a cell to open the GPU",
        shown_rows=shown_rows, ids=[row["gpu_uuid"] for row, _ in rows], on_pick=on_pick,
    )  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        panels.download(cells, _USE, name="gpus.csv", key="gpus-csv")
        st.markdown(untold_words(over), width="stretch")


def untold_words(over: Sequence[Row]) -> str:
    """Why some cells are empty, each reason once with the number of devices that it holds of."""
    reasons = Counter(reason for row in over for reason in reason_words(row["unknown_reason"])).most_common(4)
    if not reasons:
        return ""
    told = "; ".join(
        f"{fmt.markdown(reason, 160)} ({number} device{'' if number == 1 else 's'})" for reason, number in reasons
    )
    return f":gray[{Status.UNKNOWN.glyph} empty cells are not known: {told}]"


#: Metrics as an unknown reason names them -> as the pages do.
_METRICS = {
    "busy_ratio": "busy", "sm_active_ratio": "SM", "sm_occupancy_ratio": "occupancy", "tensor_active_ratio": "tensor",
    "dram_active_ratio": "DRAM", "encoder_ratio": "encoder", "decoder_ratio": "decoder",
}  # fmt: skip


def reason_words(reason: str | None) -> list[str]:
    """Why readings are missing, one clause a cause, the metrics named as on the pages."""
    clauses = [clause.strip() for clause in (reason or "").split("; ") if clause.strip()]
    found: list[str] = []
    for clause in clauses:
        cause, colon, metrics = clause.rpartition(": ")
        told = ", ".join(_METRICS.get(name, name.replace("_", " ")) for name in metrics.split(", "))
        found.append(f"{cause}{colon}{told}" if colon else clause)
    return found


def power_words(mean: float | None, limit: float | None) -> str:
    """Power against its limit: "553 / 700 W"; empty where nothing is told (a MIG device)."""
    if mean is None:
        return ""
    return f"{mean:.0f} / {limit:.0f} W" if limit else f"{mean:.0f} W"


def slowed_words(span: Row) -> str:
    """What throttled a GPU, the most frequent first, each with its share of the time."""
    pairs = zip(span.get("throttle_words") or (), span.get("throttle_ratios") or (), strict=True)
    return ", ".join(f"{words} {_share_words(share)}" for words, share in pairs)


def error_words(row: Row, span: Row) -> str:
    """What went wrong, with the next step; else why some numbers are missing; empty when all is well."""
    parts: list[str] = list(span.get("xid_words") or [])
    if span.get("ecc_uncorrected"):
        parts.append(f"{span['ecc_uncorrected']} uncorrectable memory errors (ECC)")
    if span.get("recovery_words"):
        parts.append(span["recovery_words"])
    if span.get("remap_pending"):
        parts.append("row remapping waits for a reset")
    if row.get("why") and not parts:
        parts.append(row["why"])
    return "; ".join(parts)


def _percent(ratio: float | None) -> float | None:
    return None if ratio is None else ratio * 100


def _share_words(ratio: float | None) -> str:
    if not ratio:
        return ""
    return "< 1 %" if ratio < 0.01 else f"{ratio * 100:.0f} %"
