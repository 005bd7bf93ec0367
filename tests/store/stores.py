"""Stores to test against: the embedded engine, the gateway in a process of its own, and a server if there is one.

chDB opens one folder per process. All embedded stores of a test process therefore share one engine folder, and
`embedded_store` gives each caller a fresh database in it, dropped afterwards; `path` only names it. A gateway has a
process, and so a folder, of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from store import Store, StoreOptions, open_store

ROOT = Path(__file__).resolve().parents[2]
WRITER, READER = "writer-secret", "reader-secret"
_FOLDERS: dict[int, Path] = {}


def engine_folder() -> Path:
    """The one engine folder of this process, removed at its end."""
    process = os.getpid()
    if process not in _FOLDERS:
        _FOLDERS[process] = Path(tempfile.mkdtemp(prefix="fleet-engine-"))
        atexit.register(shutil.rmtree, _FOLDERS[process], ignore_errors=True)
    return _FOLDERS[process]


@contextlib.contextmanager
def embedded_store(path: Path | None = None, *, migrate: bool = True) -> Iterator[Store]:
    """A store in this process, on a fresh database."""
    database = f"test_{uuid.uuid4().hex}"
    store = open_store(f"chdb://{engine_folder()}?database={database}")
    try:
        if migrate:
            store.migrate()
        yield store
        store.command(f"DROP DATABASE IF EXISTS {database} SYNC")
    finally:
        store.close()


class ReadThroughReader:
    """A store that writes with the writer's token and reads with the reader's, as collector and dashboard do."""

    def __init__(self, writer: Store, reader: Store) -> None:
        self.writer, self.reader = writer, reader
        self.migrate, self.append, self.command = writer.migrate, writer.append, writer.command

    def query(
        self, sql: str, parameters: Mapping[str, object] | None = None, *, settings: Mapping[str, object] | None = None
    ) -> pa.Table:
        return self.reader.query(sql, parameters, settings=settings)

    def close(self) -> None:
        self.writer.close()
        self.reader.close()


@contextlib.contextmanager
def gateway_process(path: Path) -> Iterator[int]:
    """The gateway on the folder, in another process; yields its port."""
    code = f"from tests.store.gateway_process import main; main({str(path)!r}, {WRITER!r}, {READER!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@contextlib.contextmanager
def gateway_store(path: Path, *, migrate: bool = True) -> Iterator[ReadThroughReader]:
    """A store over HTTP: the gateway runs in another process, reads go through the reader's token."""
    with gateway_process(path) as port:
        options = StoreOptions(query_timeout_seconds=30)
        store = ReadThroughReader(
            open_store(f"clickhouse://writer:{WRITER}@127.0.0.1:{port}/", options),
            open_store(f"clickhouse://reader:{READER}@127.0.0.1:{port}/", options),
        )
        try:
            if migrate:
                store.migrate()
            yield store
        finally:
            store.close()


@contextlib.contextmanager
def server_store(dsn: str) -> Iterator[Store]:
    """A real ClickHouse server, on a fresh database (CLICKHOUSE_DSN, opt-in)."""
    database = f"test_{uuid.uuid4().hex}"
    base = dsn.rsplit("/", 1)[0]
    admin = open_store(f"{base}/default")
    admin.command(f"CREATE DATABASE {database}")
    store = open_store(f"{base}/{database}")
    try:
        store.migrate()
        yield store
    finally:
        store.close()
        admin.command(f"DROP DATABASE {database} SYNC")
        admin.close()


#: Parameters for `any_store` fixtures: the same tests run on each.
KINDS = ("chdb", "gateway", *(("server",) if os.environ.get("CLICKHOUSE_DSN") else ()))


@contextlib.contextmanager
def store_of_kind(kind: str, path: Path) -> Iterator[Store]:
    """One of KINDS, opened and migrated."""
    if kind == "chdb":
        with embedded_store(path) as store:
            yield store
    elif kind == "gateway":
        with gateway_store(path) as store:
            yield store  # type: ignore[misc]
    else:
        with server_store(os.environ["CLICKHOUSE_DSN"]) as store:
            yield store
