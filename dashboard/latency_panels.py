"""Panels about latency: the promises, rate and errors and durations, percentiles and buckets over time, endpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dashboard import charts, fleet_panels, panels, process
from dashboard import format as fmt
from dashboard.charts import Axis, Line, Mark
from dashboard.look import Look
from dashboard.panels import Column
from dashboard.theme import Status
from fleet.slo import Objective, rate_words
from queries.answer import Answer

Row = Mapping[str, Any]
#: Pace of everything that is told over the range, in seconds: points are a minute wide.
SPAN_SECONDS = 15
#: Words of the address -> short name of the duration.
SHORT = {"first token": "ttft", "whole request": "e2e", "between tokens": "itl", "in the queue": "queue"}
#: Short name -> field and what it is called.
FIELDS = {
    "ttft": ("ttft_seconds", "First token"),
    "e2e": ("e2e_seconds", "Whole request"),
    "itl": ("itl_seconds", "Between tokens"),
    "queue": ("queue_seconds", "In the queue"),
}
GROUPS = ("tenant", "model", "container")
#: Kinds of events that can explain a change of latency; of other containers they would only cover the chart.
TOLD = frozenset({"image_change", "start", "oom", "xid", "gap"})
_STATES = {
    "too_few": "too few",
    "no_traffic": "no traffic",
}
_SLO = (
    Column(name="status", label="", width=26),
    Column(name="promise", label="promise", width=206, help="≈: counted at the nearest bucket bound of the servers"),
    Column(name="who", label="tenant · model", width=176),
    Column(name="met", label="met", width=56, help="Share of the requests of its window within the target"),
    Column(name="left", label="budget left", width=74, help="Share of the allowed misses that is left"),
    Column(name="fast", label="1 h / 5 min", width=80, help="Burn rate: 1x uses the budget up exactly in its window"),
    Column(name="slow", label="6 h / 30 min", width=80, help="Burn rate; both windows must burn to raise an alarm"),
    Column(name="words", label="says", width=220),
    Column(name="since", label="since", width=52),
)
_ENDPOINTS = (
    Column(name="status", label="", width=26),
    Column(name="endpoint", label="endpoint", width=124),
    Column(name="server", label="server", width=66),
    Column(name="models", label="models", width=160),
    Column(name="tenant", label="tenant", width=110),
    Column(name="container", label="container", width=190),
    Column(name="how", label="joined by", width=100),
    Column(name="why", label="why, or why not", width=216),
    Column(name="requests", label="requests", width=64),
    Column(name="seen", label="seen", width=46),
)
#: Buckets that can be named beside a heatmap of the usual height.
_LABELS = 11
_JOINED = {"joined": Status.OK, "external": Status.OK, "ambiguous": Status.WARNING, "unjoined": Status.WARNING}
_HOW = {
    "map": "your rule", "id": "container id", "discovery": "Docker discovery", "name": "name and host",
    "address": "address", "none": "not joined", "ambiguous": "ambiguous",
}  # fmt: skip


def objectives() -> tuple[Objective, ...]:
    """The promises in force."""
    return process.current().settings.objectives


def sentence(rows: Sequence[Row], look: Look) -> str:
    """Who breaks a promise, since when; else that all are kept, or that nobody asked."""
    if not rows:
        return f":gray[{Status.NONE.glyph} no model server seen]"
    counts = {level: sum(row["level"] == level for row in rows) for level in (0, 1, 2, 3)}
    counted = sum(row["met_ratio"] is not None for row in rows)
    worst = rows[0]
    if worst["level"] >= 2:
        status = fleet_panels.LEVELS[worst["level"]]
        broken = counts[2] + counts[3]
        began = fleet_panels.since(worst["since"], look.window.end)
        if not began and worst["words"].startswith("burning"):
            began = "more than 6 h ago"
        when = f" :gray[since {fmt.markdown(began)}]" if began else ""
        more = f" :gray[and {broken - 1} more of {len(rows)}]" if broken > 1 else f" :gray[of {len(rows)} promises]"
        return (
            f":{status.colour}[{status.glyph}] {fmt.markdown(_who(worst), 60)}: "
            f":{status.colour}[{fmt.markdown(worst['words'], 80)}]{when}{more}"
        )
    if counted:
        kept = sum(row["level"] == 0 and row["met_ratio"] is not None for row in rows)
        unknown = f" :gray[{Status.UNKNOWN.glyph} {counts[1]} cannot be counted]" if counts[1] else ""
        word = "promise" if kept == 1 else "promises"
        if any(one.name == "Prometheus" and one.status not in (Status.OK, Status.NONE) for one in look.sources):
            # What was kept until the readings stopped says nothing of now.
            return f":gray[{Status.UNKNOWN.glyph} {kept} {word} kept as far as seen; Prometheus is silent]{unknown}"
        return f":green[{Status.OK.glyph} users are served in time] :gray[{kept} {word} kept]{unknown}"
    if counts[1]:
        return f":gray[{Status.UNKNOWN.glyph} no promise can be counted: its servers measure no durations]"
    return f":gray[{Status.NONE.glyph} no requests]"


def _who(row: Row) -> str:
    return " · ".join(part for part in (row["tenant"], short_model(row["model"])) if part) or "unnamed"


def short_model(name: str) -> str:
    """A model without its maker: "Llama-3.1-8B" of "meta-llama/Llama-3.1-8B"."""
    return name.rstrip("/").rpartition("/")[2]


def slo(rows: Sequence[Row], look: Look, *, shown_rows: int, note: str = "worst first") -> None:
    """Each promise by tenant and model: what was kept, the budget left, how fast it burns."""
    assumed = any(row["assumed"] for row in rows)
    own = "; assumed from alerts.ttft_warning_seconds, write [[slo]] to set yours" if assumed else ""
    panels.title("Promises", f"{note}{own}")
    if not rows:
        panels.nothing("No model server was seen: none is scraped, or none is in this view", height=90)
        return
    cells: Mapping[str, Sequence[Any]] = {
        "status": [fleet_panels.LEVELS[row["level"]].glyph for row in rows],
        "promise": [promise_words(row) for row in rows],
        "who": [_who(row) for row in rows],
        "met": [share_words(row["met_ratio"]) for row in rows],
        "left": [
            fmt.DASH if row["budget_left_ratio"] is None else f"{row['budget_left_ratio'] * 100:.0f} %" for row in rows
        ],
        "fast": [_pair(row["burn_hour"], row["burn_five_minutes"]) for row in rows],
        "slow": [_pair(row["burn_six_hours"], row["burn_half_hour"]) for row in rows],
        "words": [row["words"] for row in rows],
        "since": [fleet_panels.since(row["since"], look.window.end) for row in rows],
    }
    panels.table(cells, _SLO, key="slo", alt="Promises by tenant and model, worst first", shown_rows=shown_rows)


def promise_words(row: Row) -> str:
    """A promise in words: "95 % within 2 s, 7 d", with "≈ 2.5 s" where no bucket ends at the target."""
    target = fmt.seconds(row["target_seconds"])
    at = row["at_seconds"]
    if at is not None and abs(at / row["target_seconds"] - 1.0) > 1e-9:
        target = f"{target} ≈ {fmt.seconds(at)}"
    return f"{row['name']}: {fmt.significant(row['objective_ratio'] * 100, 5)} % in {target}, {row['window_days']:g} d"


def share_words(ratio: float | None) -> str:
    """A share near 1 with the digits that matter: "99.95 %"; a dash when not known."""
    return fmt.DASH if ratio is None else f"{fmt.significant(ratio * 100, 4)} %"


def _pair(long: float | None, short: float | None) -> str:
    if long is None and short is None:
        return fmt.DASH
    return " / ".join(fmt.DASH if rate is None else rate_words(rate) for rate in (long, short))


def quantile_words(row: Row, name: str, word: str) -> str:
    """A percentile as it may be said: a number, "≥ 30 s", or the word for why there is none."""
    state = row[f"{name}_{word}_state"]
    if state == "ok":
        if row[f"{name}_{word}_lower"] == 0.0:  # a place within the first bucket would be invented
            return f"≤ {fmt.seconds(row[f'{name}_{word}_upper'])}"
        return fmt.seconds(row[f"{name}_{word}_seconds"])
    if state == "beyond":
        lower = row[f"{name}_{word}_lower"]
        return f"≥ {fmt.seconds(lower)}" if lower is not None else "beyond"
    if state == "mean_only":
        return f"mean {fmt.seconds(row[f'{name}_mean_seconds'])}"
    if state == "too_few":
        return f"few ({fmt.count(row[f'{name}_count'])})"
    return _STATES.get(state) or str(fmt.DASH if state == "not_measured" else state)


def interval_words(row: Row, name: str, word: str) -> str:
    """The bounds a percentile lies between: "0.5 to 0.75 s"; empty without them."""
    lower, upper = row[f"{name}_{word}_lower"], row[f"{name}_{word}_upper"]
    if lower is None:
        return ""
    return f"> {fmt.seconds(lower)}" if upper is None else f"{fmt.seconds(lower)} to {fmt.seconds(upper)}"


def before_words(row: Row, name: str) -> str:
    """p95 of the period before, with ▲ or ▼ when the two surely differ."""
    before, now = row[f"{name}_before_seconds"], row[f"{name}_p95_lower"]
    if before is None:
        return ""
    if row[f"{name}_changed"]:
        return f"{fmt.seconds(before)} {'▲' if now is not None and now >= before else '▼'}"
    return fmt.seconds(before)


def red(
    look: Look,
    rows: Sequence[Row],
    promises: Sequence[Row],
    *,
    by: str,
    name: str,
    shown_rows: int,
    on_pick: Callable[[str], None] | None = None,
    key: str = "red",
) -> None:
    """Rate, errors and durations of each tenant, model or container; one duration in full, the others as p95."""
    label = FIELDS[name][1]
    panels.title("Rate, errors, durations", f"by {by}; {label.lower()} in full, the others as p95")
    if not rows:
        panels.nothing("No inference server was seen in this range; Endpoints below and Status say why", height=120)
        return
    others = [other for other in FIELDS if other != name]
    levels: dict[str, int] = {}
    for row in promises if by in {"tenant", "model"} else ():
        levels[row[by]] = max(levels.get(row[by], 0), row["level"])
    cells: Mapping[str, Sequence[Any]] = {
        "status": [
            fleet_panels.LEVELS[levels[row[by]]].glyph if row["role"] == "server" and row.get(by) in levels else ""
            for row in rows
        ],
        "who": [row_name(row, by) for row in rows],
        "rate": [fmt.number(row["requests_per_second"]) for row in rows],
        "errors": [fmt.percent(row["error_ratio"]) for row in rows],
        "p50": [quantile_words(row, name, "p50") for row in rows],
        "p95": [quantile_words(row, name, "p95") for row in rows],
        "between": [interval_words(row, name, "p95") for row in rows],
        "p99": [quantile_words(row, name, "p99") for row in rows],
        "before": [before_words(row, name) for row in rows],
        **{other: [quantile_words(row, other, "p95") for row in rows] for other in others},
        "waiting": [None if row["requests_waiting"] is None else row["requests_waiting"] for row in rows],
        "running": [None if row["requests_running"] is None else row["requests_running"] for row in rows],
        "kv": [None if row["kv_cache_ratio"] is None else row["kv_cache_ratio"] * 100 for row in rows],
        "note": [ladder_words(row, name) for row in rows],
    }
    columns = (
        Column(name="status", label="", width=26, help="The worst of its promises"),
        Column(name="who", label=by, width=150),
        Column(name="rate", label="req/s", width=50),
        Column(name="errors", label="errors", width=54),
        Column(name="p50", label=f"{label} p50", width=92),
        Column(name="p95", label="p95", width=64),
        Column(name="between", label="p95 lies in", width=106, help="Bounds of the bucket it falls into: exact"),
        Column(name="p99", label="p99", width=64),
        Column(name="before", label="p95 before", width=74, help="The period before; ▲ ▼: surely changed"),
        *(Column(name=other, label=FIELDS[other][1].lower(), width=84, help="p95") for other in others),
        Column(name="waiting", label="waiting", kind="number", width=50, format="%.1f", help="Mean, all endpoints"),
        Column(name="running", label="running", kind="number", width=50, format="%.1f", help="Mean, all endpoints"),
        Column(name="kv", label="KV cache", kind="bar", width=84, help="The fullest in the range"),
    )
    if any(cells["note"]):
        columns += (Column(name="note", label="buckets", width=130, help="Where bucket ladders differ, and whose"),)
    panels.table(
        cells, columns, key=f"{key}-{by}-{name}", shown_rows=shown_rows, on_pick=on_pick,
        ids=[row_name(row, by, plain=True) for row in rows], alt=f"Rate, errors and durations by {by}",
    )  # fmt: skip


def row_name(row: Row, by: str, *, plain: bool = False) -> str:
    """What a row is about; plain: only what names it in an address."""
    own = {"tenant": row["tenant"], "model": row["model"], "container": row["container_key"]}[by]
    if plain:
        return str(own)
    shown = own.partition(":")[2] or own if by == "container" else own
    shown = short_model(shown) if by == "model" else shown
    words = shown or ("unassigned" if by == "tenant" else "not joined" if by == "container" else "unnamed")
    if by == "model" and row["server"]:
        words = f"{words} · {row['server']}"
    return f"{words} (gateway)" if row["role"] == "gateway" else words


def ladder_words(row: Row, name: str) -> str:
    """What is said of different bucket ladders: how many, and whose is not the usual one."""
    if row[f"{name}_ladders"] < 2:
        return ""
    odd = [key.partition(":")[2] or key for key in row[f"{name}_odd"]]
    whose = f": {', '.join(odd[:2])}{'…' if len(odd) > 2 else ''}" if odd else ""
    return f"{row[f'{name}_ladders']} ladders{whose}"


def percentiles(
    look: Look, found: Answer, marks: Sequence[Mark], promises: Sequence[Row], *, name: str, height: int
) -> None:
    """p50, p95 with the bounds it lies between, and the period before in grey."""
    field, label = FIELDS[name]
    table = found.rows
    if not table.num_rows or table["count"].null_count == table.num_rows:
        panels.nothing(f"{label}: nothing was measured in this range", height=height)
        return
    axis, colours = Axis.of(table["t"].to_numpy()), look.colours
    beyond = np.isnan(floats(found, "p95_seconds")) & ~np.isnan(floats(found, "p95_lower"))
    lower, upper = floats(found, "p95_lower"), floats(found, "p95_upper")
    lines = [
        Line(name="low", values=lower, width=0, colour=colours.series[0], legend=False),
        Line(name="p95 lies in", values=upper, band=True, colour=colours.series[0]),
        Line(name="before", values=floats(found, "before_p95_seconds"), colour=colours.unknown, width=1.0),
        Line(name="p95", values=floats(found, "p95_seconds"), colour=colours.series[0]),
        Line(name="p50", values=floats(found, "p50_seconds"), colour=colours.series[2]),
    ]
    if beyond.any():
        last = np.where(beyond, lower, np.nan).astype(np.float32)
        lines.append(Line(name="p95 above this", values=last, colour=colours.critical, dash="dot"))
    panels.chart(
        charts.series(label, axis, lines, colours, unit="s", marks=marks, limit=limit_of(promises, field)),
        key=f"percentiles-{name}", height=height,
        alt=f"{label}: p50 and p95 with its bounds over time, and the p95 of the period before",
    )  # fmt: skip


def limit_of(promises: Sequence[Row], field: str) -> tuple[float, str] | None:
    """The target to draw: the tightest of the promises about this duration; None without one."""
    targets = sorted({row["target_seconds"] for row in promises if row["field"] == field})
    if not targets:
        return None
    more = f", tightest of {len(targets)}" if len(targets) > 1 else ""
    return targets[0], f"promise {fmt.seconds(targets[0])}{more}"


def heat(look: Look, found: Answer, *, name: str, height: int) -> None:
    """How many requests fell into each bucket over time: colour is the count, slow on top."""
    label = FIELDS[name][1]
    table = found.rows
    if not table.num_rows:
        panels.nothing(f"{label}: no server keeps buckets of it, or nobody asked in this range", height=height)
        return
    figure = heat_figure(look, found, label)
    ladders = table["ladders"][0].as_py()
    panels.chart(figure, key=f"heat-{name}", alt=f"{label}: requests by duration over time", height=height)
    if ladders > 1:
        panels.st.caption(f"{ladders} bucket ladders: the one with the most requests is drawn")


def heat_figure(look: Look, found: Answer, label: str) -> dict[str, object]:
    """Rows are buckets, from the fastest to the slowest that anything fell into."""
    table = found.rows
    times = np.unique(table["t"].to_numpy())
    lowers = np.unique(table["lower"].to_numpy())
    step = float(np.diff(times).min()) if len(times) > 1 else 60_000.0
    axis = Axis(
        start_ms=float(times[0]), step_ms=step, points=max(1, round((float(times[-1]) - float(times[0])) / step) + 1)
    )
    counts = np.full((len(lowers), axis.points), np.nan, dtype=np.float32)
    places = np.round((table["t"].to_numpy() - times[0]) / step).astype(int)
    counts[np.searchsorted(lowers, table["lower"].to_numpy()), places] = table["count"].to_numpy()
    counts[counts <= 0.0] = np.nan
    filled = np.flatnonzero(~np.isnan(counts).all(axis=1))
    first, last = (int(filled[0]), int(filled[-1])) if len(filled) else (0, 0)
    upper_of = dict(zip(table["lower"].to_pylist(), table["upper"].to_pylist(), strict=True))
    shown = range(last, first - 1, -1)
    names = [
        f"> {fmt.seconds(float(lowers[row]))}"
        if upper_of[lowers[row]] is None
        else f"≤ {fmt.seconds(upper_of[lowers[row]])}"
        for row in shown
    ]
    kept = counts[list(shown)]
    peak = float(np.nanmax(kept)) if len(filled) else 1.0
    # Square roots: a bucket with a hundredth of the requests still shows.
    figure = charts.heatmap(label, axis, names, np.sqrt(kept / peak).astype(np.float32), look.colours)
    layout: Any = figure["layout"]
    layout["title"]["text"] = (
        f"<b>{label}</b>  <span style='font-size:11px;color:{look.colours.faint}'>requests by duration</span>"
    )
    layout["margin"] = {"l": 58, "r": 8, "t": 26, "b": 20}
    every = -(-len(names) // _LABELS)
    layout["yaxis"] |= {"tickvals": list(range(0, len(names), every)), "ticktext": names[::every]}
    trace: Any = figure["data"][0]  # type: ignore[index]
    trace |= {
        "showscale": False, "ygap": 1, "customdata": kept, "text": None,
        "hovertemplate": "%{x|%H:%M}  %{y}  %{customdata:.3~s} requests<extra></extra>",
    }  # fmt: skip
    trace.pop("colorbar", None)
    trace.pop("text", None)
    return figure


def endpoints(rows: Sequence[Row], look: Look, *, shown_rows: int) -> None:
    """Every metrics endpoint, how it was joined to a container, and why not."""
    panels.title("Endpoints", "what Prometheus scrapes, and which container it belongs to; unjoined ones first")
    if not rows:
        panels.nothing(
            "Prometheus told of no inference endpoint in this range; Status says what it was asked", height=90
        )
        return
    cells: Mapping[str, Sequence[Any]] = {
        "status": [(_JOINED.get(row["state"], Status.UNKNOWN) if row["up"] else Status.CRITICAL).glyph for row in rows],
        "endpoint": [row["endpoint"] for row in rows],
        "server": [row["server"] for row in rows],
        "models": [", ".join(short_model(model) for model in row["models"]) for row in rows],
        "tenant": [row["tenant"] for row in rows],
        "container": [row["container_key"] for row in rows],
        "how": [_HOW.get(row["joined_by"], row["joined_by"].replace("_", " ")) for row in rows],
        "why": ["does not answer" if not row["up"] else row["join_reason"] for row in rows],
        "requests": [fmt.count(row["requests"]) for row in rows],
        "seen": [fmt.age(row["seen_at"], look.window.end) for row in rows],
    }
    panels.table(cells, _ENDPOINTS, key="endpoints", alt="Endpoints and how each was joined", shown_rows=shown_rows)


def marked(told: Sequence[Row], reached: Sequence[Row]) -> list[Row]:
    """Events worth a mark: of containers that serve, or of a whole GPU or source."""
    serving = {row["container_key"] for row in reached}
    return [
        row for row in told if row["kind"] in TOLD and (not row["container_key"] or row["container_key"] in serving)
    ]


def floats(found: Answer, column: str) -> charts.Floats:
    """A column as the figures take it, NaN where it is NULL."""
    return found.rows[column].to_numpy(zero_copy_only=False).astype(np.float32)
