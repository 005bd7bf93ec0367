"""Panels of the Overview: the sentence, the number cards, the host map, activity by tenant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from dashboard import charts, fleet_panels, hostmap, navigation, panels
from dashboard import format as fmt
from dashboard.context import Context
from dashboard.events import marks
from dashboard.look import Look
from dashboard.panels import Card
from dashboard.theme import Palette, Status
from fleet.model import Scope, Window
from fleet.severity import Thresholds
from queries import overview
from queries.events import recent_events
from queries.gpus import gpu_rows
from queries.live import live_fleet
from store import Store

Row = Mapping[str, Any]
MAP_HEIGHT = 208
#: Pace of the number cards (means of five minutes, trends a minute wide) and of the chart (points 30 s wide).
NUMBERS_SECONDS = 15
FIGURE_SECONDS = 30
#: Events of a whole fleet that are worth a mark; a crash loop's starts would cover everything.
TOLD = {"image_change", "oom", "xid", "gap"}


def sentence(verdict: Row, containers: int) -> str:
    """How many things are in trouble, containers and GPUs together, and how many of the sources are fresh."""
    counts = {3: verdict["criticals"], 2: verdict["warnings"], 1: verdict["unknowns"], 0: containers}
    fresh, total = verdict["sources_fresh"], verdict["sources_total"]
    return f"{fleet_panels.severity_words(counts)} :gray[{fresh} of {total} sources fresh]"


def worst_line(look: Look, worst: Row | None) -> None:
    """The worst container in one sentence with the way to it; an empty line of the same height when all is fine."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if worst is None or worst["level"] < 2:
            st.markdown(":gray[No container needs a look now.]", width="content")
            return
        began = fleet_panels.since(worst["since"], look.window.end)
        when = f" :gray[since {fmt.markdown(began)}]" if began else ""
        st.markdown(
            f"**{fmt.markdown(worst['tenant'], 40)} / {fmt.markdown(worst['name'], 60)}** "
            f"{fmt.markdown(worst['why'], 140)}{when}",
            width="content",
        )
        navigation.link("container", "open", look.context, icon=":material/arrow_forward:", id=worst["container_key"])


def cards(numbers: Mapping[str, Row], *, fleet: bool) -> None:
    """The eight numbers of the first screen; each says its change against the time before the window."""
    up, gpus, memory = numbers["containers_running"], numbers["gpus_active"], numbers["gpu_memory_used_bytes"]
    ttft = numbers["ttft_p95_seconds"]
    ttft_value = f"≥ {fmt.seconds(ttft['lower'])}" if ttft["state"] == "beyond" else fmt.seconds(ttft["value"])
    share = fleet_panels.ratio(memory["value"], memory["total"])
    total = f" / {fmt.count(gpus['total'])}" if fleet and gpus["total"] is not None else ""
    with_gpus = gpus["value"] is not None
    resources = [
        _card("GPUs active", f"{fmt.count(gpus['value'])}{total}", gpus, fmt.count, None),
        # A tenant's own part of shared GPUs has no whole to be a share of.
        _card(
            "GPU memory",
            fmt.size(memory["value"]) if share is None else fmt.percent(round(share, 2)),
            memory,
            fmt.size,
            None,
        ),
    ]
    if not with_gpus:  # three dashes would waste the place where a host without a GPU has something to say
        used = numbers["memory_working_set_bytes"]
        resources = [
            _number("CPU cores", numbers["cpu_cores"]),
            _card("Memory", fmt.size(used["value"]), used, fmt.size, None),
        ]
    restarts = numbers["restarts"]
    panels.cards(
        [
            _card("Containers up", f"{fmt.count(up['value'])} / {fmt.count(up['total'])}", up, fmt.count, "up"),
            *resources,
            _card("p95 TTFT", ttft_value, ttft, fmt.seconds, "down", _STATE_WORDS.get(ttft["state"], "")),
            _card("Errors", fmt.percent(numbers["error_ratio"]["value"]), numbers["error_ratio"], fmt.percent, "down"),
            _number("Requests/s", numbers["requests_per_second"]),
            _number("Tokens/s", numbers["tokens_per_second"]),
            _number("GPU power", numbers["power_watts"], "W")
            if with_gpus
            else _card("Restarts, 1 h", fmt.count(restarts["value"]), restarts, fmt.count, "down"),
        ]
    )


#: Page -> the number cards that it explains.
_EXPLAINED = {
    "containers": "containers, restarts",
    "gpus": "GPUs, memory, power",
    "latency": "time to first token, requests, errors",
}


def ways(context: Context) -> None:
    """The way from the number cards to the pages that explain them.

    One row for all, outside the live fragment: page links inside it would be sent anew with every look, and a link in
    a card's label opens a second tab.
    """
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        for page, words in _EXPLAINED.items():
            if page in navigation.CATALOGUE:
                navigation.link(page, words, context, icon=navigation.CATALOGUE[page][2])


_STATE_WORDS = {"too_few": "too few requests", "no_traffic": "no traffic", "not_measured": "not measured"}


def _number(label: str, row: Row, unit: str = "") -> Card:
    return _card(label, fmt.number(row["value"], unit), row, lambda value: fmt.number(value, unit), None)


def _card(label: str, value: str, row: Row, words: Any, good: str | None, note: str = "") -> Card:  # noqa: ANN401
    change = fmt.change(row["value"], row["previous"])
    shown = words(abs(change)) if change is not None else ""
    same = shown in {"", fmt.DASH} or shown.split(" ")[0] == "0"
    return Card(
        label=label,
        value=value,
        change="" if same or change is None else fmt.signed(change, shown),
        note=note or ("unchanged" if change is not None and same else ""),
        good=good,
        spark=row["spark"] or (),
    )


def host_rows(
    store: Store, scope: Scope, window: Window, *, host: str | None, limits: Thresholds | None = None
) -> list[hostmap.HostRow]:
    """What `queries.overview.host_map` says, as the map draws it.

    Made from the records that the page's other panels share: as a table of 1,000 rows and back it took 10 ms more.
    """
    hosts: dict[str, tuple[list[hostmap.Tile], dict[str, list[Status]]]] = {}
    gpus = gpu_rows(store, scope, window, host=host, limits=limits)
    for row in sorted(gpus, key=lambda row: (row["host"], row["gpu_index"] or 0, row["name"])):
        hosts.setdefault(row["host"], ([], {}))[0].append(_tile(row))
    fleet = live_fleet(store, scope, window, host=host, limits=limits)
    # Rows are by name already, so only hosts and tenants are left to be put in order.
    columns = (fleet.known.table[name].to_numpy().tolist() for name in ("host", "tenant"))
    grouped: dict[tuple[str, str], list[Status]] = {}
    for place, (name, tenant, level) in enumerate(zip(*columns, fleet.levels.tolist(), strict=True)):
        if place not in fleet.gpus:
            statuses = grouped.get((name, tenant))
            if statuses is None:
                statuses = grouped[name, tenant] = []
            statuses.append(fleet_panels.LEVELS[level])
    for name, tenant in sorted(grouped):
        hosts.setdefault(name, ([], {}))[1][tenant] = grouped[name, tenant]
    return [
        hostmap.HostRow(host=fleet_panels.short_host(name), tiles=tiles, containers=list(groups.items()))
        for name, (tiles, groups) in sorted(hosts.items())
    ]


def _tile(row: Row) -> hostmap.Tile:
    used = row["memory_used_bytes"]
    state = "error" if row["level"] == 3 else str({"low": "busy"}.get(row["use"], row["use"]))
    return hostmap.Tile(
        model=short_model(row["name"]),
        busy_ratio=row["sm_ratio"],
        memory_ratio=fleet_panels.ratio(used, row["memory_total_bytes"]),
        memory_used_bytes=used,
        holder=row["tenants"][0] if len(row["tenants"]) == 1 else "shared" if row["tenants"] else "",
        state=state,
    )


def short_model(name: str) -> str:
    """The model's name without maker and size: H100 of "NVIDIA H100 80GB HBM3"."""
    words = [word for word in name.replace("-", " ").split() if word not in {"NVIDIA", "Tesla", "GeForce"}]
    return words[0] if words else name


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The map as it is sent, and in words; `hosts` 0 = there is nothing to draw."""

    svg: str
    words: str
    hosts: int


def fleet_picture(
    store: Store, scope: Scope, window: Window, colours: Palette, *, host: str | None, limits: Thresholds | None = None
) -> Picture:
    """The map, drawn once per snapshot for everybody who looks at it."""
    rows = host_rows(store, scope, window, host=host, limits=limits)
    return Picture(svg=hostmap.draw(rows, colours), words=hostmap.describe(rows), hosts=len(rows))


def fleet_map(picture: Picture) -> None:
    """Hosts, their GPUs and the other containers."""
    panels.title("Hosts and GPUs", "fill: SM activity; squares: containers without a GPU")
    if not picture.hosts:
        panels.nothing("No host in this view", height=MAP_HEIGHT)
        return
    with st.container(height=MAP_HEIGHT, border=False):
        st.image(picture.svg, width="stretch", alt=picture.words)


def activity_figure(
    store: Store, scope: Scope, window: Window, colours: Palette, *, host: str | None
) -> panels.Figure | None:
    """GPUs' worth of SM activity by tenant with event marks, written once per snapshot; None = nothing to show."""
    table = overview.gpu_activity_by_tenant(store, scope, window, host=host).rows
    if not table.num_rows:
        return None
    lines, axis = stacked_lines(table, "tenant", "gpus_busy", colours)
    happened = recent_events(store, scope, window, host=host, limit=60).rows.to_pylist()
    told = [row for row in happened if row["kind"] in TOLD]
    return panels.figure(charts.series("", axis, lines, colours, marks=marks(told, colours)))


def activity(figure: panels.Figure | None) -> None:
    """GPUs' worth of SM activity, stacked by tenant."""
    panels.title("GPU activity by tenant", "GPUs' worth of SM time")
    if figure is None:
        panels.nothing("No GPU was attributed to a container in this range", height=MAP_HEIGHT)
        return
    panels.chart(figure, key="activity", alt="GPUs busy over time, stacked by tenant", height=MAP_HEIGHT)


def stack(table: Any, by: str, value: str, look: Look, *, shown: int = 7) -> tuple[list[charts.Line], charts.Axis]:  # noqa: ANN401
    """As `stacked_lines`, in the colours of the look."""
    return stacked_lines(table, by, value, look.colours, shown=shown)


def stacked_lines(
    table: Any,  # noqa: ANN401
    by: str,
    value: str,
    colours: Palette,
    *,
    shown: int = 7,
) -> tuple[list[charts.Line], charts.Axis]:
    """Lines of a long table (`by`, t, `value`); the smallest beyond `shown` become one, nobody's share is grey."""
    names = table[by].to_pylist()
    order = list(dict.fromkeys(names))
    points = len(names) // len(order)
    axis = charts.Axis.of(table["t"].to_numpy()[:points])
    values = table[value].to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(order), points)
    own = [index for index, name in enumerate(order) if name]
    lines = [
        charts.Line(name=order[index], values=values[index], stacked=True, colour=colours.series[place % 8])
        for place, index in enumerate(own[:shown])
    ]
    if own[shown:]:
        rest = np.nansum(values[own[shown:]], axis=0).astype(np.float32)
        lines.append(charts.Line(name="others", values=rest, stacked=True, colour=colours.series[7]))
    if "" in order:
        nobody = values[order.index("")]
        lines.append(charts.Line(name="unattributed", values=nobody, stacked=True, colour=colours.unknown))
    return lines, axis
