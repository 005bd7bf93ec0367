"""Panels of the GPU job ledger: who held which GPU from when to when, is the chain whole, and how to take it along."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import streamlit as st

from dashboard import fleet_panels, panels
from dashboard import format as fmt
from dashboard.look import Look
from dashboard.overview_panels import short_model
from dashboard.panels import Card, Column
from dashboard.theme import Status

Row = Mapping[str, Any]
#: Pace of the chain's verification: a few thousand hashes.
VERIFY_SECONDS = 60
STATES = ("any state", "running", "ended", "failed", "end not seen")
_JOBS = (
    Column(name="status", label="state", width=76),
    Column(name="tenant", label="tenant", width=92),
    Column(name="team", label="team", width=96),
    Column(name="user", label="user", width=70),
    Column(name="workload", label="workload", width=84),
    Column(name="container", label="container", width=140),
    Column(name="gpus", label="GPUs", width=68),
    Column(name="host", label="host", width=56),
    Column(name="start", label="start (UTC)", width=82),
    Column(name="end", label="end (UTC)", width=82),
    Column(name="duration", label="duration", width=64),
    Column(name="hours", label="GPU-h", kind="number", width=50, format="%.2f", help="Whole job, up to now"),
    Column(name="energy", label="energy", width=60, help="Shared by SM time; known when the job has ended"),
    Column(name="exit", label="exit", width=32),
    Column(name="digest", label="image digest", width=86),
    Column(name="sources", label="how each fact is known", width=400),
)


def state_of(row: Row) -> tuple[Status, str]:
    """Status and word of a job: running, ended, exit code, or that nobody saw its end."""
    if row["ended_at"] is None:
        return Status.OK, "running"
    if row["exit_code"]:
        return Status.CRITICAL, f"exit {row['exit_code']}"
    if row["exit_code"] is None:
        return Status.UNKNOWN, "end not seen" if "not seen" in (row["end_reason"] or "") else "ended"
    return Status.NONE, "ended"


def chosen(rows: Sequence[Row], state: str) -> list[Row]:
    """The jobs of a state of the filter line."""
    if state == "running":
        return [row for row in rows if row["ended_at"] is None]
    if state == "ended":
        return [row for row in rows if row["ended_at"] is not None]
    if state == "failed":
        return [row for row in rows if row["ended_at"] is not None and row["exit_code"]]
    if state == "end not seen":
        return [row for row in rows if row["ended_at"] is not None and row["exit_code"] is None]
    return list(rows)


def sentence(rows: Sequence[Row], chains: Sequence[Row]) -> str:
    """How many jobs, how many of them run, and whether the ledger is whole."""
    running = sum(row["ended_at"] is None for row in rows)
    words = f"{len(rows)} GPU job{'' if len(rows) == 1 else 's'} :gray[in this range, {running} running]"
    if not chains:
        return f"{words}\u2002:gray[{Status.NONE.glyph} no ledger yet]"
    broken = [chain for chain in chains if chain["findings"]]
    if broken:
        return f"{words}\u2002:red[{Status.CRITICAL.glyph} the ledger is broken]"
    return f"{words}\u2002:green[{Status.OK.glyph} entries intact]"


def cards(rows: Sequence[Row]) -> None:
    """Totals of the selection."""
    ended = [row for row in rows if row["ended_at"] is not None]
    energies = [row["energy_joules"] for row in ended if row["energy_joules"] is not None]
    failed = sum(bool(row["exit_code"]) for row in ended)
    tenants = Counter[str]()
    for row in rows:
        tenants[row["tenant"]] += row["gpu_hours_in_window"]
    first = next((f"{fmt.plain(name, 18)} {fmt.number(hours)}" for name, hours in tenants.most_common(1)), "")
    panels.cards(
        [
            Card(label="Jobs", value=fmt.count(len(rows)), note=f"{len(rows) - len(ended)} running"),
            Card(
                label="GPU-hours in this range", value=fmt.number(sum(row["gpu_hours_in_window"] for row in rows)),
                note=f"most: {first}" if first else "",
            ),
            Card(
                label="GPU-hours of these jobs", value=fmt.number(sum(row["gpu_hours"] for row in rows)),
                note="from start to end, or to now",
            ),
            Card(
                label="Energy of ended jobs",
                value=fmt.number(sum(energies) / 3.6e6, "kWh").replace(" kkWh", " MWh") if energies else fmt.DASH,
                note=f"known of {len(energies)} of {len(ended)}",
            ),
            Card(
                label="Ended with an error", value=f"{failed} / {len(ended)}",
                note=fmt.percent(fleet_panels.ratio(failed, len(ended))) if ended else "none has ended",
            ),
        ],
        height=96,
    )  # fmt: skip


def chain_lines(chains: Sequence[Row], now: datetime, *, whole: bool) -> None:
    """Each chain in a line: intact or broken, where it ends, and when it was verified."""
    for chain in chains[:6]:
        name = fmt.markdown(chain["chain"], 60)
        checked = f"verified at {fmt.clock(now)} UTC"
        if chain["findings"]:
            at = "" if chain["first_bad"] is None else f" at entry {chain['first_bad']}"
            st.markdown(
                f":red[{Status.CRITICAL.glyph} **{name} is broken**{at}: {fmt.markdown(chain['what'], 200)}] "
                f":gray[{chain['findings']} finding{'' if chain['findings'] == 1 else 's'}, {checked}; "
                "run `python -m collectors jobs verify`]"
            )
            continue
        head = (
            f", head {chain['head_sequence']} `{chain['head_hash'][:16]}…`"
            if whole and chain["head_hash"]
            else "; each of your entries has the hash its values give"
        )
        begins = chain["verified_from"]
        since = "" if begins in (None, 1) or not whole else f" from entry {begins} on"
        st.markdown(
            f":green[{Status.OK.glyph} entries intact] **{name}** "
            f":gray[{fmt.count(chain['entries'])} entries{since}{head}, {checked}, newest entry "
            f"{fmt.markdown(fmt.clock(chain['last_at'], with_date=True))}]"
        )


def table(rows: Sequence[Row], on_pick: Callable[[str], None], *, key: str = "jobs", shown_rows: int = 20) -> None:
    """The ledger's jobs, newest first."""
    cells: Mapping[str, Sequence[Any]] = {
        "status": [f"{status.glyph} {word}" for status, word in map(state_of, rows)],
        "tenant": [row["tenant"] for row in rows],
        "team": [row["team"] for row in rows],
        "user": [row["user"] for row in rows],
        "workload": [row["workload"] for row in rows],
        "container": [row["container_name"] for row in rows],
        "digest": [row["image_digest"].rpartition(":")[2][:12] for row in rows],
        "gpus": [gpu_words(row["gpu_names"], row["gpu_count"]) for row in rows],
        "host": [fleet_panels.short_host(row["host"]) for row in rows],
        "start": [_short_time(row["started_at"]) for row in rows],
        "end": ["" if row["ended_at"] is None else _short_time(row["ended_at"]) for row in rows],
        "duration": [fmt.span(row["duration_seconds"]) for row in rows],
        "hours": [row["gpu_hours"] for row in rows],
        "energy": [energy_words(row) for row in rows],
        "exit": ["" if row["exit_code"] is None else str(row["exit_code"]) for row in rows],
        "sources": [source_words(row) for row in rows],
    }
    panels.table(
        cells, _JOBS, key=key, alt="GPU jobs, newest first; select a cell to open the container",
        ids=[row["container_key"] for row in rows], on_pick=on_pick, shown_rows=shown_rows,
    )  # fmt: skip


def gpu_words(names: Sequence[str], count: float) -> str:
    """How many of which model: "2 x H100"; a MIG device as its share: "0.14 H100"."""
    models = Counter(short_model(name) for name in names)
    if count != len(names) and len(models) == 1:
        return f"{fmt.significant(count, 2)} {next(iter(models))}"
    return " + ".join(f"{number} x {model}" for model, number in models.items())


def energy_words(row: Row) -> str:
    """Energy of a job in Wh or kWh; empty while it runs, a dash when it is not known."""
    if row["ended_at"] is None and row["energy_joules"] is None:
        return ""
    joules = row["energy_joules"]
    return fmt.DASH if joules is None else fmt.number(joules / 3600.0, "Wh")


def source_words(row: Row) -> str:
    """Where each fact comes from, in one line; what is wrong with the row comes first."""
    words = " · ".join(row["sources"].splitlines())
    reason = f"{row['end_reason']} · " if row["end_reason"] else ""
    return f"{'' if row['verified'] else '✖ EDITED: its values do not give its hash · '}{reason}{words}"


def _short_time(at: datetime) -> str:
    return f"{at:%d %b %H:%M}"


def take_along(look: Look, rows: Sequence[Row]) -> None:
    """Exactly what is shown as CSV and JSON, and the command for an export of the period that can be verified."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        for word, mime, build in (
            ("CSV", "text/csv", lambda: as_csv(rows)), ("JSON", "application/json", lambda: as_json(rows)),
        ):  # fmt: skip
            st.download_button(
                word, data=build, file_name=f"gpu-jobs.{word.lower()}", mime=mime, key=f"jobs-{word.lower()}",
                on_click="ignore", icon=":material/download:", type="tertiary",
                help="The jobs shown here, with all their facts",
            )  # fmt: skip
        st.markdown(":gray[For an auditor, with hashes and a manifest, on the collector's machine:]", width="content")
    st.code(export_command(look), language=None)


def export_command(look: Look) -> str:
    """The command line that exports this range and tenant with a manifest."""
    start, end = (f"{moment:%Y-%m-%dT%H:%M}" for moment in (look.window.start, look.window.end))
    tenant = look.context.tenant
    words = ["python", "-m", "collectors", "jobs", "export", "--from", start, "--to", end]
    words += ["--tenant", fmt.plain(tenant)] if tenant else []
    return shlex.join([*words, "--format", "csv", "--out", "gpu-jobs"])


def as_csv(rows: Sequence[Row]) -> bytes:
    """All columns of the query as CSV; lists with blanks between, times in ISO 8601."""
    names = list(rows[0]) if rows else ["job_id"]
    return panels.as_csv({name: [_cell(row[name]) for row in rows] for name in names}).encode()


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list):
        return " ".join(str(item) for item in value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return value


def as_json(rows: Sequence[Row]) -> bytes:
    """All columns of the query as a JSON list."""
    return json.dumps([dict(row) for row in rows], default=_json, ensure_ascii=False, indent=1).encode()


def _json(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"jobs: cannot write a {type(value).__name__} as JSON")
