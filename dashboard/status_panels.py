"""Panels of the Status page: sources with their next step, spans without readings, hosts, store, versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Any

from dashboard import format as fmt
from dashboard import panels, process
from dashboard.look import STATES, Look
from dashboard.panels import Column
from dashboard.theme import Status
from fleet import __version__
from fleet.settings import masked
from queries.answer import Answer

_SOURCES = (
    Column(name="status", label="", width=26),
    Column(name="source", label="source", width=84),
    Column(name="target", label="target", width=110),
    Column(name="state", label="state", width=66),
    Column(name="lag", label="last good", width=70),
    Column(name="every", label="every", width=54),
    Column(name="took", label="took", width=62),
    Column(name="rows", label="rows", kind="number", width=54, format="%d"),
    Column(
        name="hour", label="seen, 1 h", kind="bar", width=96, help="Share of the last hour's readings that were taken"
    ),
    Column(name="day", label="seen, 1 d", kind="bar", width=96),
    Column(name="since", label="since", width=60),
    Column(name="why", label="what happened", width=220),
    Column(name="next_step", label="next step"),
)


def sentence(look: Look) -> str:
    """How many sources are fine, and the first that is not."""
    rows = look.answer.rows.to_pylist()
    wanted = [row for row in rows if row["state"] != "absent"]
    good = sum(row["state"] == "ok" for row in wanted)
    if wanted and good == len(wanted):
        return f":green[{Status.OK.glyph} everything asked for is seen] :gray[{good} of {good} sources fresh]"
    if not wanted:
        return f":gray[{Status.NONE.glyph} no source has anything to read here]"
    first = next(row for row in wanted if row["state"] != "ok")
    status = STATES.get(first["state"], Status.UNKNOWN)
    words = fmt.markdown(
        f"{first['source']} {first['target']}: {first['error'] or first['reason'] or first['state']}", 120
    )
    return f":{status.colour}[{status.glyph} {words}] :gray[{good} of {len(wanted)} sources fresh]"


def sources(look: Look) -> None:
    """Every source and target, those in trouble first."""
    rows = look.answer.rows.to_pylist()
    panels.table(
        {
            "status": [STATES.get(row["state"], Status.UNKNOWN).glyph for row in rows],
            "source": [row["source"] for row in rows],
            "target": [row["target"] for row in rows],
            "state": [row["state"] for row in rows],
            "lag": [fmt.DASH if row["age_seconds"] is None else fmt.span(row["age_seconds"]) for row in rows],
            "every": [fmt.span(row["interval_seconds"]) for row in rows],
            "took": [fmt.seconds(row["took_seconds"]) for row in rows],
            "rows": [row["rows"] for row in rows],
            "hour": [_percent(row["coverage_hour"]) for row in rows],
            "day": [_percent(row["coverage_day"]) for row in rows],
            "since": [fmt.clock(row["since"]) if row["since"] else "" for row in rows],
            "why": [_why(row) for row in rows],
            "next_step": [row["next_step"] or "" for row in rows],
        },
        _SOURCES,
        key="sources",
        alt="Sources, those in trouble first, with their last good reading, coverage and the next step",
        shown_rows=10,
    )


def gaps(found: Answer, end: datetime) -> None:
    """Spans in which a source did not answer."""
    panels.title("Spans without readings", "newest first")
    rows = found.rows.to_pylist()
    if not rows:
        panels.nothing("None in this range", Status.OK, height=80)
        return
    columns = (
        Column(name="source", label="source", width=84),
        Column(name="target", label="target", width=100),
        Column(name="start", label="from", width=118),
        Column(name="length", label="for", width=78),
        Column(name="why", label="why"),
    )
    cells: Mapping[str, Sequence[Any]] = {
        "source": [row["source"] for row in rows],
        "target": [row["target"] for row in rows],
        "start": [fmt.clock(row["start"], with_date=True) for row in rows],
        "length": [fmt.span(row["seconds"]) + ("" if row["end"] else " so far") for row in rows],
        "why": [_why(row) for row in rows],
    }
    panels.table(cells, columns, key="gaps", alt="Spans in which a source did not answer", shown_rows=7)


def hosts(found: Answer) -> None:
    """The hosts and how they are read."""
    panels.title("Hosts")
    rows = found.rows.to_pylist()
    columns = (
        Column(name="host", label="host", width=110),
        Column(name="containers", label="containers", kind="number", width=72, format="%d"),
        Column(name="gpus", label="GPUs", kind="number", width=48, format="%d"),
        Column(name="cores", label="cores", kind="number", width=48, format="%d"),
        Column(name="memory", label="memory", width=70),
        Column(name="docker", label="Docker", width=76),
        Column(name="driver", label="NVIDIA", width=84),
        Column(name="path", label="read by", width=64, help="cgroup files, or the daemon's statistics API"),
    )
    cells: Mapping[str, Sequence[Any]] = {
        "host": [row["host"] for row in rows],
        "containers": [row["containers"] for row in rows],
        "gpus": [row["gpus"] for row in rows],
        "cores": [row["cpu_count"] for row in rows],
        "memory": [fmt.size(row["memory_total_bytes"]) for row in rows],
        "docker": [row["docker_version"] or fmt.DASH for row in rows],
        "driver": [row["nvidia_driver"] or fmt.DASH for row in rows],
        "path": [row["stats_path"] or fmt.DASH for row in rows],
    }
    panels.table(cells, columns, key="hosts", alt="Hosts with their versions and how they are read", shown_rows=8)


def endpoints(found: Answer) -> None:
    """Metrics endpoints that belong to no container, with the reason; one line when all do."""
    rows = found.rows.to_pylist()
    loose = [row for row in rows if row["state"] in ("ambiguous", "unjoined")]
    panels.title("Endpoints without a container", f"{len(loose)} of {len(rows)} model servers" if rows else "")
    if not loose:
        words = f"All {len(rows)} model servers are joined" if rows else "No model server seen through Prometheus"
        panels.nothing(words, Status.OK if rows else Status.NONE, height=80)
        return
    columns = (
        Column(name="state", label="", width=84),
        Column(name="endpoint", label="endpoint", width=130),
        Column(name="server", label="server", width=70),
        Column(name="models", label="model", width=110),
        Column(name="why", label="why not joined, and what to add"),
    )
    cells: Mapping[str, Sequence[Any]] = {
        "state": [row["state"] for row in loose],
        "endpoint": [row["endpoint"] for row in loose],
        "server": [row["server"] for row in loose],
        "models": [", ".join(row["models"]) for row in loose],
        "why": [row["join_reason"] for row in loose],
    }
    panels.table(cells, columns, key="endpoints", alt="Model servers that were joined to no container", shown_rows=5)


def store(found: Answer) -> None:
    """What the store holds and how much room it takes."""
    rows = found.rows.to_pylist()
    whole = sum(row["bytes_on_disk"] for row in rows)
    panels.title("Store", f"{fmt.size(whole)} on disk" if rows else "")
    columns = (
        Column(name="table", label="table", width=190),
        Column(name="rows", label="rows", width=70),
        Column(name="size", label="on disk", width=80),
        Column(name="share", label="share", kind="bar", width=90),
        Column(name="oldest", label="from", width=90),
    )
    cells: Mapping[str, Sequence[Any]] = {
        "table": [row["table"] for row in rows],
        "rows": [fmt.count(row["rows"]) for row in rows],
        "size": [fmt.size(row["bytes_on_disk"]) for row in rows],
        "share": [row["bytes_on_disk"] * 100 / whole for row in rows],
        "oldest": [f"{row['oldest']:%d %b %Y}" if row["oldest"] else "" for row in rows],
    }
    panels.table(cells, columns, key="store", alt="Tables of the store with their rows and size on disk", shown_rows=8)


def versions() -> None:
    """What runs here, and which settings are in force."""
    deployment = process.current()
    settings = deployment.settings
    panels.title("This dashboard")
    panels.facts(
        {
            "AI Fleet": __version__,
            "Python": python_version(),
            "Streamlit": _version("streamlit"),
            "Plotly": _version("plotly"),
            "clickhouse-connect": _version("clickhouse-connect"),
        }
    )
    retention = settings.retention
    panels.facts(
        {
            "settings": deployment.settings_origin,
            "listens on": f"{settings.dashboard.host}:{settings.dashboard.port}",
            "store": masked(settings.dashboard.dsn) or f"gateway {settings.gateway.host}:{settings.gateway.port}",
            "kept": f"{retention.raw_days} d raw, {retention.minute_days} d by minute, {retention.hour_days} d by hour",
            "viewers": "told apart by the access file" if deployment.access.configured else "all see the whole fleet",
        }
    )


def _why(row: Mapping[str, Any]) -> str:
    return ": ".join(part for part in (row["reason"], row["error"]) if part) or row.get("detail") or ""


def _percent(value: float | None) -> float | None:
    return None if value is None else value * 100


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "source"
