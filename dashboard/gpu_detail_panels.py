"""Everything about one GPU: what it is, who asked for it, who is there, who works, how it is doing, what happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from dashboard import charts, events, fleet_panels, gpu_panels, gpu_states, navigation, panels, process
from dashboard import format as fmt
from dashboard.charts import Axis, Line, Mark
from dashboard.look import Look
from dashboard.overview_panels import short_model, stack
from dashboard.panels import Column
from dashboard.theme import Status
from queries.answer import Answer

Row = Mapping[str, Any]
_HEIGHT = 158
#: Events of the device worth a line on the charts, and those of its containers, which give way to them.
_OWN_MARKS, _OTHER_MARKS = frozenset({"xid", "throttle", "oom", "gap"}), frozenset({"start", "die"})
#: The fourth chart: word on the switch -> (title, unit, (line, column)...).
MEASURES: dict[str, tuple[str, str, tuple[tuple[str, str], ...]]] = {
    "heat": (
        "Temperature",
        "°C",
        (("GPU", "temperature_celsius"), ("memory", "memory_temperature_celsius")),
    ),
    "clock": ("SM clock", "Hz", (("SM clock", "sm_clock_mhz"),)),
    "slowed": ("Throttled", "%", (("share of the time", "slowed_ratio"),)),
    "engines": (
        "Inside the GPU",
        "%",
        (
            ("SM active", "sm_active_ratio"),
            ("occupancy", "sm_occupancy_ratio"),
            ("tensor", "tensor_active_ratio"),
            ("DRAM", "dram_active_ratio"),
        ),
    ),
    "PCIe": (
        "PCIe",
        "B/s",
        (("in", "pcie_receive_bytes_per_second"), ("out", "pcie_transmit_bytes_per_second")),
    ),
    "NVLink": (
        "NVLink",
        "B/s",
        (("in", "nvlink_receive_bytes_per_second"), ("out", "nvlink_transmit_bytes_per_second")),
    ),
}
_WHO = (
    Column(name="container", label="container", width=170),
    Column(name="tenant", label="tenant", width=86),
    Column(name="device", label="device", width=86),
    Column(name="asked", label="asked for", width=118, help="Allocation: as a person would type it"),
    Column(name="held", label="holds it", width=54, help="Allocation: what the request comes to"),
    Column(name="processes", label="procs", width=46, help="Presence: processes with a context on the device"),
    Column(name="memory", label="memory", width=66, help="Presence: memory of its processes"),
    Column(name="sm", label="SM now", kind="bar", width=76, help="Activity: share of the time its processes ran"),
    Column(name="mean", label="SM mean", kind="bar", width=76, help="Activity: mean over the range"),
    Column(name="power", label="power", width=54),
    Column(name="believed", label="how known", width=86, help="● measured ◐ estimated ○ declared ? unknown"),
    Column(name="reason", label="why", width=330),
)


def sentence(facts: Row, row: Row | None) -> str:
    """Which GPU, how it is, and what it does now."""
    name = f"{fmt.markdown(facts['host'], 60)} · GPU {fmt.markdown(gpu_panels.index_words(facts))}"
    model = f":gray[{fmt.markdown(facts['name'], 60)}]"
    if row is None:
        return f":gray[{Status.UNKNOWN.glyph}] {name} {model} :gray[no reading in this range]"
    status = fleet_panels.LEVELS[row["level"]]
    why = fmt.markdown(row["why"], 120) if row["why"] else status.word
    use = "in MIG mode" if facts["mig_devices"] else f"{gpu_states.WORDS.get(row['use'], row['use'])} now"
    return f":{status.colour}[{status.glyph}] {name} {model} :{status.colour}[{why}] :gray[{use}]"


def header(look: Look, facts: Row) -> None:
    """What it is, and the ways to its host, its parent or its MIG devices, and to a link that stays."""
    limit = facts["power_limit_watts"]
    panels.facts(
        {
            "UUID": facts["gpu_uuid"],
            "model": facts["name"],
            "MIG": facts["mig_profile"] or (f"{len(facts['mig_devices'])} devices" if facts["mig_devices"] else ""),
            "memory": fmt.size(facts["memory_total_bytes"]) if facts["memory_total_bytes"] else "",
            "power limit": f"{limit:g} W" if limit else "",
            "driver": facts["driver_version"],
            "PCI": facts["pci_bus_id"],
        }
    )
    with st.container(horizontal=True, gap="medium"):
        context = look.context
        navigation.turn("gpus", "all GPUs", context, icon=":material/arrow_back:", id=None)
        navigation.turn("gpus", "this host", context, icon=":material/dns:", host=facts["host"], id=None)
        if facts["parent_uuid"]:
            navigation.turn("gpus", "its GPU", context, icon=":material/memory:", id=facts["parent_uuid"])
        for uuid in facts["mig_devices"][:8]:
            navigation.turn("gpus", fmt.markdown(uuid[:12]), context, icon=":material/memory:", id=uuid)
        start, end = (str(int(moment.timestamp())) for moment in (look.window.start, look.window.end))
        navigation.turn(
            "gpus", "freeze this window", context, icon=":material/link:",
            id=facts["gpu_uuid"], range=None, **{"from": start, "to": end},
        )  # fmt: skip


def marks(look: Look, happened: Sequence[Row]) -> list[Mark]:
    """Marks of what happened; a start beside an XID would hide its word, and came of it."""
    own = [row for row in happened if row["kind"] in _OWN_MARKS]
    room = look.window.seconds / 12
    others = [
        row
        for row in happened
        if row["kind"] in _OTHER_MARKS and all(abs((row["at"] - one["at"]).total_seconds()) > room for one in own)
    ]
    return events.marks(sorted([*own, *others], key=lambda row: row["at"], reverse=True), look.colours)


def who(
    rows: Sequence[Row],
    device: Row | None,
    on_pick: Callable[[str], None],
    *,
    key: str = "gpu-who",
    by_gpu: bool = False,
) -> None:
    """Allocation, presence and activity side by side, nobody's part and the device itself below.

    by_gpu: the rows are one container's devices, not one device's containers.
    """
    note = "asked for (allocation), there (presence), at work (activity)"
    panels.title("Declared and used" if by_gpu else "Who is on it", note)
    if not rows:
        text = "This container holds no GPU and was on none" if by_gpu else "Nobody held it or was on it in this range"
        panels.nothing(text)
        return
    cells: dict[str, list[Any]] = {
        "container": [row["name"] if row["container_key"] else "unattributed" for row in rows],
        "tenant": [row["tenant"] for row in rows],
        "device": [_device_words(row, by_gpu=by_gpu) for row in rows],
        "asked": [row["gpu_request"] for row in rows],
        "held": [_held_words(row) for row in rows],
        "processes": [None if row["processes"] is None else str(row["processes"]) for row in rows],
        "memory": [fmt.size(row["memory_bytes"]) if row["memory_bytes"] is not None else None for row in rows],
        "sm": [_percent(row["sm_ratio"]) for row in rows],
        "mean": [_percent(row["sm_mean_ratio"]) for row in rows],
        "power": [None if row["power_watts"] is None else f"{row['power_watts']:.0f} W" for row in rows],
        "believed": [known_words(row) for row in rows],
        "reason": [row["attribution_reason"] or "" for row in rows],
    }
    ids = [row["container_key"] for row in rows]
    if device is not None and any(row["container_key"] == "" for row in rows):
        last: dict[str, Any] = {
            "container": "= the device", "tenant": "", "device": "", "asked": "", "held": "",
            "processes": None if device["process_count"] is None else str(device["process_count"]),
            "memory": fmt.size(device["memory_used_bytes"]), "sm": _percent(device["busy_ratio"]), "mean": None,
            "power": fmt.number(device["power_watts"], "W"), "believed": "● measured",
            "reason": "busy time, memory and power of the whole device",
        }  # fmt: skip
        for name, value in last.items():
            cells[name].append(value)
        ids.append("")
    hidden = {"container", "tenant"} if by_gpu else {"device"} if not any(row["mig_profile"] for row in rows) else set()
    columns = [column for column in _WHO if column.name not in hidden]
    panels.table(
        cells, columns, key=key, alt="What was asked for, who is there, who works, and how far that is known",
        ids=ids, on_pick=lambda name: on_pick(name) if name else None, shown_rows=9,
    )  # fmt: skip
    reasons = dict.fromkeys(
        (fmt.attribution(row["attribution"]), row["attribution_reason"]) for row in rows if row["attribution_reason"]
    )
    if any(len(reason) > 55 for _, reason in reasons):  # longer than the column is wide
        st.caption("\u2003".join(f"{mark} {fmt.markdown(reason, 200)}" for mark, reason in reasons))


def known_words(row: Row) -> str:
    """The attribution mark and its word; since when it is gone for one that is not here any more."""
    if not row["here_now"]:
        return "not here now"
    return f"{fmt.attribution(row['attribution'])} {row['attribution']}"


def _held_words(row: Row) -> str:
    if row["container_key"] == "" or row["held"] is None:
        return ""
    return "○ yes" if row["held"] else "✖ no"


def _device_words(row: Row, *, by_gpu: bool) -> str:
    index = f"GPU {row['gpu_index']}" if row["gpu_index"] is not None else row["gpu_uuid"][:12]
    profile = f" · {row['mig_profile']}" if row["mig_profile"] else ""
    return f"{index}{profile} {short_model(row['gpu_name'])}".strip() if by_gpu else f"{index}{profile}"


def stacks(look: Look, found: Answer, signals: Answer, marks: Sequence[Mark]) -> None:
    """SM and memory by container; with what nobody owns on top they add up to the device."""
    columns = st.columns(2, gap="medium")
    for place, (label, column, own, unit) in enumerate(
        (("SM by container", "sm_ratio", "busy_ratio", "%"), ("Memory by container", "memory_bytes", "", "B"))
    ):
        with columns[place]:
            if not found.rows.num_rows:
                panels.nothing("Nobody held this GPU or ran on it in this range", height=_HEIGHT)
                continue
            lines, axis = stack(found.rows, "container_key", column, look)
            lines = [_named(line) for line in lines]
            device = _floats(signals, own) if own and signals.rows.num_rows == axis.points else None
            if device is not None and not np.isnan(device).all():
                lines.append(Line(name="device busy", values=device, colour=look.colours.text, dash="dot", width=1.0))
            panels.chart(
                charts.series(label, axis, lines, look.colours, unit=unit, marks=marks, limit=_whole(signals, column)),
                key=f"who-{column}", alt=f"{label} over time, unattributed on top", height=_HEIGHT,
            )  # fmt: skip


def _whole(signals: Answer, column: str) -> tuple[float, str] | None:
    if column != "memory_bytes" or not signals.rows.num_rows:
        return None
    total = _floats(signals, "memory_total_bytes")
    return None if np.isnan(total).all() else (float(np.nanmax(total)), f"all {fmt.size(float(np.nanmax(total)))}")


def power(look: Look, signals: Answer, marks: Sequence[Mark]) -> None:
    """Power against its limit."""
    values = _floats(signals, "power_watts")
    if not len(values) or np.isnan(values).all():
        panels.nothing("No power here: a MIG device has none of its own, it stands with its GPU", height=_HEIGHT)
        return
    limits = _floats(signals, "power_limit_watts")
    limit = None if np.isnan(limits).all() else float(np.nanmax(limits))
    panels.chart(
        charts.series(
            "Power", _axis(signals), [Line(name="power", values=values)], look.colours, unit="W", marks=marks,
            limit=None if limit is None else (limit, f"limit {limit:g} W"),
        ),
        key="gpu-power", alt="Power of the device over time", height=_HEIGHT,
    )  # fmt: skip


def chosen(look: Look, signals: Answer, marks: Sequence[Mark]) -> None:
    """Temperature, clocks, throttling, what runs inside, or traffic: one at a time."""
    measure = st.segmented_control(
        "Measure", list(MEASURES), default="heat", key="measure", bind="query-params", required=True,
        label_visibility="collapsed",
    )  # fmt: skip
    label, unit, parts = MEASURES[measure or "heat"]
    factor = 1e6 if unit == "Hz" else 1.0
    lines = [Line(name=name, values=_floats(signals, column) * np.float32(factor)) for name, column in parts]
    lines = [line for line in lines if len(line.values) and not np.isnan(line.values).all()]
    height = _HEIGHT - 38
    if not lines:
        panels.nothing(f"{label}: this device does not tell it, or nothing was read in this range", height=height)
        return
    hot = process.current().settings.thresholds.gpu_hot_celsius
    panels.chart(
        charts.series(
            label, _axis(signals), lines, look.colours, unit=unit, marks=marks,
            limit=(hot, f"hot from {hot:g} °C") if unit == "°C" else None,
        ),
        key=f"gpu-{measure}", alt=f"{label} of the device over time", height=height,
    )  # fmt: skip


def use(span: Row, row: Row | None, time: Sequence[Row]) -> None:
    """Utilisation, saturation and errors in words; time: its GPU time by state."""
    told = [f":gray[time] {gpu_states.words(gpu_states.bar_of('', time))}"] if time else []
    for column, (title, lines) in zip(
        st.columns(3, gap="medium"),
        (("Utilisation", [*told, *utilisation(span)]), ("Saturation", saturation(span)), ("Errors", errors(span, row))),
        strict=True,
    ):
        with column:
            panels.title(title, "means of the range" if title == "Utilisation" else "")
            st.markdown("  \n".join(lines))


def utilisation(span: Row) -> list[str]:
    """What of the device was used, one line a thing."""
    lines = [
        _pair("busy", _mean_max(span, "busy_ratio")) + "\u2003" + _pair("SM", _mean_max(span, "sm_active_ratio")),
        "\u2003".join(
            _pair(word, fmt.percent(_whole_ratio(span[f"{name}_ratio_mean"])))
            for word, name in (("occupancy", "sm_occupancy"), ("tensor", "tensor_active"), ("DRAM", "dram_active"))
        ),
    ]
    for word, bus in (("PCIe", "pcie"), ("NVLink", "nvlink")):
        come, go = span[f"{bus}_receive_bytes_per_second"], span[f"{bus}_transmit_bytes_per_second"]
        if come is not None or go is not None:
            lines.append(_pair(word, f"{_rate(come)} in, {_rate(go)} out"))
    lines += [
        f":gray[{Status.UNKNOWN.glyph} {fmt.markdown(reason, 200)}]"
        for reason in gpu_panels.reason_words(span["unknown_reason"])
    ]
    return lines


def saturation(span: Row) -> list[str]:
    """How near to its limits it ran, and what slowed it."""
    total, limit = span["memory_total_bytes_max"], span["power_limit_watts_max"]
    memory = f"{fmt.size(span['memory_used_bytes_mean'])} of {fmt.size(total)}" if total else fmt.DASH
    watts = gpu_panels.power_words(span["power_watts_mean"], limit) or fmt.DASH
    slowed = gpu_panels.slowed_words(span)
    said = span["slowed_ratio"] is None
    return [
        _pair("memory", f"{memory}, peak {fmt.size(span['memory_used_bytes_max'])}"),
        _pair("power", f"{watts}, peak {fmt.number(span['power_watts_max'], 'W')}")
        + "\u2003"
        + _pair("at the limit", fmt.percent(_whole_ratio(span["power_at_limit_ratio"]))),
        _pair("hottest", f"{fmt.number(span['temperature_celsius_max'])} °C")
        + "\u2003"
        + _pair("memory", f"{fmt.number(span['memory_temperature_celsius_max'])} °C"),
        f":gray[slowed by] {fmt.DASH}" if said
        else f":orange[{Status.WARNING.glyph} slowed by {fmt.markdown(slowed)}]" if slowed
        else f":green[{Status.OK.glyph} nothing slowed it]",
    ]  # fmt: skip


def errors(span: Row, row: Row | None) -> list[str]:
    """What went wrong in the range, each with the next step."""
    found = [f":red[{Status.CRITICAL.glyph}] {gpu_panels.with_code(words, 300)}" for words in span["xid_words"]]
    if span["recovery_words"]:
        found.append(f":red[{Status.CRITICAL.glyph}] {gpu_panels.with_code(span['recovery_words'], 200)}")
    if span["remap_pending"]:
        found.append(f":orange[{Status.WARNING.glyph}] row remapping waits for a reset of the GPU")
    if not found and row is not None and row["level"] >= 2 and row["why"]:
        found.append(f":orange[{Status.WARNING.glyph}] {fmt.markdown(row['why'], 120)}")
    ecc = (
        _pair("ECC corrected", fmt.count(span["ecc_corrected"]))
        + "\u2003"
        + _pair("uncorrectable", fmt.count(span["ecc_uncorrected"]))
        + "\u2003"
        + _pair("remapped rows", fmt.count(span["remapped_rows_max"]))
    )
    nothing_told = span["ecc_uncorrected"] is None and span["recovery_words"] is None
    if not found:
        found.append(
            f":gray[{Status.UNKNOWN.glyph} this device tells no errors of its own]"
            if nothing_told
            else f":green[{Status.OK.glyph} no XID, nothing to recover]"
        )
    return [*found, ecc]


def listing(rows: Sequence[Row], coverage: float | None) -> None:
    """What happened on it and to its containers."""
    panels.title("What happened", "on this GPU, and to the containers on it")
    events.listing(rows, coverage, key="gpu-events", shown_rows=6)


def _named(line: Line) -> Line:
    # The legend has room for a service and its number; the table above has the whole name.
    short = "/".join(line.name.partition(":")[2].split("/")[-2:]) or line.name
    return Line(name=short, values=line.values, colour=line.colour, stacked=line.stacked)


def _axis(found: Answer) -> Axis:
    return Axis.of(found.rows["t"].to_numpy())


def _floats(found: Answer, column: str) -> charts.Floats:
    return found.rows[column].to_numpy(zero_copy_only=False).astype(np.float32)


def _percent(ratio: float | None) -> float | None:
    return None if ratio is None else min(ratio, 1.0) * 100


def _whole_ratio(ratio: float | None) -> float | None:
    return None if ratio is None else round(ratio, 2)


def _mean_max(span: Row, name: str) -> str:
    mean, peak = span[f"{name}_mean"], span[f"{name}_max"]
    return fmt.percent(_whole_ratio(mean)) + ("" if peak is None else f", peak {fmt.percent(_whole_ratio(peak))}")


def _rate(value: float | None) -> str:
    return fmt.DASH if value is None else f"{fmt.size(value)}/s"


def _pair(name: str, words: str) -> str:
    return f":gray[{name}] {words}"
