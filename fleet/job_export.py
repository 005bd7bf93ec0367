"""A period of the GPU job ledger as a folder of files that can be verified with nothing but themselves.

    entries.csv or .json   every entry as it stands in the ledger; those that are not for the reader withheld
    jobs.csv or .json      one row a job of the period, for reading; follows from the entries
    canonical.tsv          hash, hashed header, hashed content of each entry: for a check with `sha256sum` alone
    manifest.json          period, scope, chains with their heads, SHA-256 of the other files

The files are a pure function of their arguments, so `fleet.job_evidence` makes them a second time from the entries it
reads and compares the bytes. The format is described in docs/ledger.md.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Literal, cast

from fleet.gpu_job_fields import FIELDS, time_text, to_milliseconds, values_of
from fleet.gpu_jobs import (
    GAP,
    PRUNED,
    Job,
    Stub,
    by_chain,
    content_text,
    digest,
    fold,
    header_text,
    overlaps,
    stub_of,
)
from fleet.model import GpuJob, Window

DataFormat = Literal["csv", "json"]
FORMAT = "ai-fleet-gpu-jobs-1"
MANIFEST, CANONICAL = "manifest.json", "canonical.tsv"
CONTENT = "content"
#: A spreadsheet runs a cell that begins like this as a formula; a leading ' is doubled, so that reading back is exact.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "'")

JOB_COLUMNS = (
    "job_id", "state", "host", "tenant", "team", "user", "workload", "container_key", "container_id", "container_name",
    "image", "image_digest", "gpu_count", "gpu_uuids", "gpu_names", "started_at", "ended_at", "duration_seconds",
    "gpu_hours", "gpu_hours_in_period", "energy_joules", "exit_code", "end_reason", "sources", "chain", "sequences",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What was asked for. tenants None = the whole fleet; entries of other tenants are withheld."""

    period: Window
    data_format: DataFormat
    generated_at: datetime
    version: str
    tenants: frozenset[str] | None = None


# --- making --------------------------------------------------------------------------------------------------------


def export_files(entries: Iterable[GpuJob], export: Export) -> dict[str, bytes]:
    """Files of the export by name. entries: the whole ledger, or each chain from its first relevant entry to its head.

    Each chain is there from the first entry that the period and the scope touch to its head; entries in between that
    they do not touch are withheld, which keeps the chain whole.
    """
    # As the manifest writes them: from it the files are made a second time.
    period = Window(start=to_milliseconds(export.period.start), end=to_milliseconds(export.period.end))
    export = replace(export, period=period, generated_at=to_milliseconds(export.generated_at))
    ordered = sorted(entries, key=lambda entry: (entry.chain, entry.sequence))
    told = _told(ordered, export)
    lines: list[GpuJob | Stub] = []
    for chain, found in by_chain(ordered).items():
        rows = cast("list[GpuJob]", found)
        first = min((sequence for name, sequence in told if name == chain), default=None)
        if first is None and export.tenants is not None:
            continue  # a machine on which the scope has nothing: its name is not the reader's business
        rows = [row for row in rows if first is not None and row.sequence >= first] or rows[-1:]
        lines += [row if (chain, row.sequence) in told else stub_of(row) for row in rows]
    return files_of(lines, export)


def _told(entries: Sequence[GpuJob], export: Export) -> set[tuple[str, int]]:
    """(chain, sequence) of the entries that are shown in full."""
    jobs = [
        job
        for job in fold(entries)
        if overlaps(job.row, export.period.start, export.period.end)
        and (export.tenants is None or job.row.tenant in export.tenants)
    ]
    told = {(job.row.chain, sequence) for job in jobs for sequence in job.sequences}
    hosts = {job.row.host for job in jobs}
    for entry in entries:
        is_gap = entry.entry == GAP and overlaps(entry, export.period.start, export.period.end)
        if entry.entry == PRUNED or (is_gap and (export.tenants is None or entry.host in hosts)):
            told.add((entry.chain, entry.sequence))
    if export.tenants is not None:  # what was forgotten tells nothing of a chain in which the scope has nothing
        own = {job.row.chain for job in jobs}
        told = {(chain, sequence) for chain, sequence in told if chain in own}
    return told


def files_of(lines: Sequence[GpuJob | Stub], export: Export) -> dict[str, bytes]:
    """The files that hold exactly these lines."""
    jobs = fold(line for line in lines if isinstance(line, GpuJob))
    files = {
        f"entries.{export.data_format}": _entries_file(lines, export.data_format),
        f"jobs.{export.data_format}": _jobs_file(jobs, export),
        CANONICAL: "".join(_canonical_line(line) for line in lines).encode(),
    }
    return {**files, MANIFEST: _manifest(lines, jobs, export, files)}


def _entries_file(lines: Sequence[GpuJob | Stub], data_format: DataFormat) -> bytes:
    rows = [asdict(line) if isinstance(line, Stub) else values_of(line) for line in lines]
    if data_format == "json":
        return _json_rows("entries", rows)
    return _csv_rows((*FIELDS, CONTENT), rows)


def _jobs_file(jobs: Sequence[Job], export: Export) -> bytes:
    rows = [_job_row(job, export) for job in jobs]
    return _json_rows("jobs", rows) if export.data_format == "json" else _csv_rows(JOB_COLUMNS, rows)


def _job_row(job: Job, export: Export) -> dict[str, object]:
    row = job.row
    seconds, hours = job.hours_until(export.generated_at)
    end = min(row.ended_at or max(export.generated_at, row.started_at), export.period.end)
    inside = max(0.0, (end - max(row.started_at, export.period.start)).total_seconds())
    values = values_of(row) | {
        "state": "running" if row.ended_at is None else "ended",
        "duration_seconds": round(seconds, 3) if row.duration_seconds is None else row.duration_seconds,
        "gpu_hours": round(hours, 6) if row.gpu_hours is None else row.gpu_hours,
        "gpu_hours_in_period": round(inside / 3600.0 * row.gpu_count, 6),
        "sequences": [str(sequence) for sequence in job.sequences],
    }
    return {name: values[name] for name in JOB_COLUMNS}


def _json_rows(name: str, rows: Sequence[Mapping[str, object]]) -> bytes:
    body = ",\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    return f'{{"format": "{FORMAT}", "{name}": [\n{body}\n]}}\n'.encode()


def _csv_rows(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in columns])
    return out.getvalue().encode()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA_STARTS) else value
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _canonical_line(line: GpuJob | Stub) -> str:
    content = "" if isinstance(line, Stub) else content_text(line)
    inner = line.content if isinstance(line, Stub) else digest(content)
    header = header_text(line.chain, line.sequence, line.previous_hash, inner)
    return f"{line.hash}\t{header}\t{content}\n"


def _manifest(lines: Sequence[GpuJob | Stub], jobs: Sequence[Job], export: Export, files: Mapping[str, bytes]) -> bytes:
    chains: list[dict[str, object]] = []
    for chain, found in by_chain(lines).items():
        rows = cast("list[GpuJob | Stub]", found)
        first, last = rows[0], rows[-1]
        chains.append(
            {
                "chain": chain,
                "entries": len(rows),
                "withheld": sum(isinstance(row, Stub) for row in rows),
                "before": {"sequence": first.sequence - 1, "hash": first.previous_hash},
                "first": first.sequence,
                "head": {"sequence": last.sequence, "hash": last.hash},
            }
        )
    manifest: dict[str, object] = {
        "format": FORMAT,
        "product": "AI Fleet",
        "version": export.version,
        "generated_at": time_text(export.generated_at),
        "period": {"from": time_text(export.period.start), "to": time_text(export.period.end)},
        "tenants": None if export.tenants is None else sorted(export.tenants),
        "data_format": export.data_format,
        "jobs": len(jobs),
        "gaps": sum(isinstance(line, GpuJob) and line.entry == GAP for line in lines),
        "chains": chains,
        "files": [
            {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        ],
    }
    return (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()
