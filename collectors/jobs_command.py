"""`python -m collectors jobs verify|export`: the GPU job ledger of the live store.

While a collector runs on this data folder the store is asked through its gateway, else the folder is opened here.

CommandError      bad usage, or nothing to read; its text is the one line on stderr
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from collectors.job_ledger import FILE, expected_head, read_entries, with_waiting
from fleet.gpu_jobs import Finding, Head, Line, Unreadable, Verification, by_chain, verify
from fleet.job_export import DataFormat, Export, export_files
from fleet.model import GpuJob, Window
from fleet.settings import Settings
from store import Store, StoreError, StoreOptions, open_store

_TRIES = 5


class CommandError(Exception):
    """Bad usage, or nothing to read; says where, what was found, what to write instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What the command line asks for."""

    start: datetime
    end: datetime
    data_format: DataFormat
    out: Path
    tenants: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class _Read:
    """Lines of all chains, and the head that is kept outside the store, with the entries on their way there."""

    lines: dict[str, list[Line]]
    head: Head | None


def parse_time(text: str) -> datetime:
    """`2026-11-01` or `2026-11-01T08:00`, UTC unless it says otherwise. Raises CommandError."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"found {text!r}; write a day such as 2026-11-01 or a time such as 2026-11-01T08:00 (UTC)"
        raise CommandError(message) from error
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def verify_store(settings: Settings) -> tuple[list[Verification], list[Finding]]:
    """Each chain of the store, and what is wrong outside of any. Raises CommandError, SettingsError."""
    with _reached(settings) as store:
        read = _consistent(store, settings)
    own = settings.general.host
    found = [verify(lines, head=read.head if chain == own else None) for chain, lines in read.lines.items()]
    others: list[Finding] = []
    if read.head is None and own in read.lines:
        what = f"{settings.data_dir / FILE} is not here: entries missing at the end of the chain cannot be noticed"
        others.append(Finding(own, None, what))
    if read.head is not None and read.head.sequence and own not in read.lines:
        what = f"chain {own} has {read.head.sequence} entries by {FILE}, and none is in the store"
        others.append(Finding(own, None, what))
    return found, others


def export_store(settings: Settings, request: ExportRequest, *, now: datetime, version: str) -> dict[str, bytes]:
    """Write the export of a period; its files. Raises CommandError, SettingsError."""
    if request.start >= request.end:
        raise CommandError(f"--from {request.start:%F %T} is not before --to {request.end:%F %T}")
    with _reached(settings) as store:
        read = _consistent(store, settings)
    entries: list[GpuJob] = []
    for chain, lines in read.lines.items():
        for line in lines:
            if isinstance(line, Unreadable):
                raise CommandError(f"chain {chain}, entry {line.sequence}: {line.what}; see jobs verify")
            if isinstance(line, GpuJob):
                entries.append(line)
    period = Window(start=request.start, end=request.end)
    export = Export(
        period=period, data_format=request.data_format, generated_at=now, version=version, tenants=request.tenants
    )
    files = export_files(entries, export)
    try:
        request.out.mkdir(parents=True, exist_ok=True)
        if any(request.out.iterdir()):
            raise CommandError(f"--out: {request.out} is not empty; write the path of a new folder")
        for name, data in files.items():
            (request.out / name).write_bytes(data)
    except OSError as error:
        place = error.filename or request.out
        raise CommandError(f"--out: {place}: {error.strerror}; write the path of a new folder") from error
    return files


def _consistent(store: Store, settings: Settings) -> _Read:
    """Store and head of the same moment: a collector that runs may add an entry between the two readings."""
    own = settings.general.host
    try:
        known, lines = expected_head(settings.data_dir, own), by_chain(read_entries(store))
        for _ in range(_TRIES):
            now = expected_head(settings.data_dir, own)
            if now == known:
                break
            known, lines = now, by_chain(read_entries(store))
    except StoreError as error:
        raise CommandError(error.message.partition("\n")[0]) from error
    if known is None:
        return _Read(lines, None)
    head, waiting = known
    if own in lines or waiting:
        lines[own] = with_waiting(lines.get(own, []), waiting)
    return _Read(lines, head)


@contextlib.contextmanager
def _reached(settings: Settings) -> Generator[Store]:
    """The store, through whoever holds it. Raises CommandError, SettingsError."""
    with contextlib.ExitStack() as parts:
        dsn = settings.store_dsn()
        if settings.embedded:
            folder = settings.data_dir
            if not (folder / "store").is_dir() and not settings.store.dsn:
                raise CommandError(f"data_dir: {folder} holds no store; nothing was collected there, write --config")
            if not parts.enter_context(_lock(folder)):
                local = dataclasses.replace(settings.dashboard, dsn="", token_file="")
                dsn = dataclasses.replace(settings, dashboard=local).dashboard_dsn()
        options = StoreOptions(memory_limit_bytes=settings.store.memory_limit_bytes, query_timeout_seconds=60.0)
        try:
            store = open_store(dsn, options)
            parts.callback(store.close)
            store.query("SELECT 1")
        except StoreError as error:
            raise CommandError(error.message.partition("\n")[0]) from error
        yield store


@contextlib.contextmanager
def _lock(folder: Path) -> Generator[bool]:
    """Hold the data folder for the length of the block; False when a collector has it."""
    with (folder / "collector.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            file.truncate(0)  # a collector that starts meanwhile says which process has the folder
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield True


def request_from(
    start: str | None, end: str | None, data_format: DataFormat, out: Path | None, tenants: Sequence[str]
) -> ExportRequest:
    """The request of `--from`, `--to` and the rest. Raises CommandError for what is missing or malformed."""
    if start is None or end is None or out is None:
        raise CommandError("export needs a period and a folder; write --from 2026-10-01 --to 2026-11-01 --out october")
    return ExportRequest(
        start=parse_time(start), end=parse_time(end), data_format=data_format, out=out,
        tenants=frozenset(tenants) if tenants else None,
    )  # fmt: skip
