"""The only module that touches the engine: one client, in-process chDB or a ClickHouse server over HTTP.

All inserts carry a deduplication token, so a batch that is sent again after a lost answer counts once, in the raw
tables and in every rollup.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import weakref
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import chdb
import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError

from fleet.model import Batch
from store import migrations
from store.columns import Insert, clean_text, prepare
from store.errors import StoreError, StoreUnavailable
from store.keepalive import KeptConnections

log = logging.getLogger(__name__)
# Every failed request is raised to the caller; the library's own warning (with its traceback) says it a second time.
logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ERROR_CODE = re.compile(r"\bCode: (\d+)")

#: Engine errors after which the same statement may succeed later: memory, disk, parts, time, network, keeper.
_RETRYABLE = frozenset(
    {3, 74, 75, 159, 173, 202, 209, 210, 212, 241, 242, 243, 252, 279, 285, 286, 319, 394, 425, 439, 625, 999}
)  # fmt: skip
#: Never chDB's own "default": that one is overlaid with the file system, so `SELECT * FROM '/etc/passwd'` reads a file.
DEFAULT_DATABASE = "fleet"
#: What the embedded engine does in the background, and what it may cache.
ENGINE_SETTINGS = Path(__file__).resolve().with_name("engine.xml")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """How the store is opened.

    memory_limit_bytes: bound of the embedded engine (its own default is 90 % of the machine).
    sync_to_disk: survive power loss too, for about 60 % more time a batch; kill -9 is survived without it.
    """

    memory_limit_bytes: int = 1_500_000_000
    max_threads: int = 0
    connect_timeout_seconds: float = 5.0
    query_timeout_seconds: float = 30.0
    sync_to_disk: bool = False


@dataclass(frozen=True, slots=True)
class Dsn:
    """A parsed store address. `path` is set for the embedded engine, `host` for a server."""

    database: str
    path: Path | None = None
    host: str = ""
    port: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    secure: bool = False


def parse_dsn(dsn: str) -> Dsn:
    """The address in parts. Raises StoreError for anything but chdb://, clickhouse:// and clickhouses://."""
    parts = urlsplit(dsn)
    options = dict(parse_qsl(parts.query))
    if parts.scheme == "chdb" and not parts.netloc and parts.path.startswith("/"):
        return Dsn(database=options.get("database", DEFAULT_DATABASE), path=Path(unquote(parts.path)))
    if parts.scheme in ("clickhouse", "clickhouses") and parts.hostname:
        secure = parts.scheme == "clickhouses"
        return Dsn(
            database=unquote(parts.path.strip("/")) or DEFAULT_DATABASE,
            host=parts.hostname,
            port=parts.port or (8443 if secure else 8123),
            user=unquote(parts.username or "default"),
            password=unquote(parts.password or ""),
            secure=secure,
        )
    raise StoreError(
        0,
        f"store address: found scheme {parts.scheme or 'nothing'!r}; write chdb:///absolute/folder, "
        "clickhouse://user:token@host:port/database or clickhouses:// for TLS",
    )


class Store:
    """Rows in, Arrow out. Safe to use from any thread."""

    def __init__(self, dsn: Dsn, options: StoreOptions) -> None:
        self.dsn = dsn
        self.options = options
        self._local = threading.local()
        self._shared: Client | None = None
        self._kept: KeptConnections | None = None
        self._clients: weakref.WeakSet[Client] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def embedded(self) -> bool:
        """True when the engine runs in this process."""
        return self.dsn.path is not None

    @property
    def _unlimited(self) -> dict[str, Any]:
        """Settings of what may take long: the time limit is for reading."""
        return {"max_execution_time": 0} if self.embedded else {}

    def _client(self) -> Client:
        # An embedded connection serialises its calls, so each thread has one. The HTTP client is a pool of connections
        # and shared: the dashboard runs every page in a new thread, and a client asks four questions before its first.
        client = getattr(self._local, "client", None) if self.embedded else self._shared
        if client is not None and not self._closed:
            return client
        with self._lock:
            if self._closed:
                raise StoreUnavailable(0, "store: it is closed")
            if not self.embedded and self._shared is not None:
                return self._shared
            client = self._connect()
            self._clients.add(client)
            if self.embedded:
                self._local.client = client
            else:
                self._shared = client
        return client

    def _connect(self) -> Client:
        # session_timezone: chDB takes the host's zone otherwise, and DateTime literals would mean local time.
        settings: dict[str, Any] = {"session_timezone": "UTC"}
        if self.options.max_threads:
            settings["max_threads"] = self.options.max_threads
        with _mapped(self.dsn):
            if self.dsn.path is not None:
                # Once for all queries: embedded, a setting of one call is four statements, 3 ms, around it.
                settings["max_execution_time"] = self.options.query_timeout_seconds
                self.dsn.path.mkdir(parents=True, exist_ok=True)
                client = clickhouse_connect.get_client(
                    interface="chdb",
                    path=str(self.dsn.path),
                    settings=settings,
                    chdb_options=_engine_options(self.options),
                )
                client.command(f"CREATE DATABASE IF NOT EXISTS {_identifier(self.dsn.database)} ENGINE = Atomic")
                client.database = self.dsn.database
                return client
            return clickhouse_connect.get_client(
                pool_mgr=self._pool(),
                host=self.dsn.host,
                port=self.dsn.port,
                username=self.dsn.user,
                password=self.dsn.password,
                database=self.dsn.database,
                secure=self.dsn.secure,
                settings=settings,
                connect_timeout=max(1, round(self.options.connect_timeout_seconds)),
                send_receive_timeout=max(1, round(self.options.query_timeout_seconds)),
                autogenerate_session_id=False,
                query_retries=0,
            )

    def _pool(self) -> KeptConnections | None:
        # None: the library's own pool, which knows certificates and the environment's proxies.
        proxied = any(os.environ.get(name) for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"))
        if self.dsn.secure or proxied:
            return None
        self._kept = KeptConnections()
        return self._kept

    def migrate(self) -> None:
        """Bring the schema to this code's version. Raises StoreError when the store is newer than the code."""
        migrations.apply(self.command, self.query)

    def append(self, batch: Batch) -> None:
        """Store the batch; returns when the engine has acknowledged all of it.

        Each table (and day) is one atomic insert; the same token again is no second copy, so a batch that failed
        half-way is simply sent again. Raises StoreUnavailable (try later) or StoreError (the batch is refused).
        """
        self.insert(prepare(batch))

    def insert(self, inserts: Sequence[Insert]) -> None:
        """Store prepared inserts in order, as `append` does. Raises StoreUnavailable or StoreError."""
        for insert in inserts:
            self._insert(insert.table, insert.rows, insert.token)

    def _insert(self, name: str, table: pa.Table, token: str) -> None:
        settings: dict[str, Any] = {
            "insert_deduplication_token": token,
            "insert_deduplicate": 1,
            "deduplicate_blocks_in_dependent_materialized_views": 1,
            "async_insert": 0,
        }
        if self.options.sync_to_disk and self.embedded:
            settings["fsync_after_insert"] = 1
        settings |= self._unlimited
        client = self._client()
        with _mapped(self.dsn):
            client.insert_arrow(name, table, settings=settings)

    def query(
        self,
        sql: str,
        parameters: Mapping[str, object] | None = None,
        *,
        settings: Mapping[str, object] | None = None,
    ) -> pa.Table:
        """The result as Arrow. Values are bound by the engine: `{name:Type}` in the SQL.

        A DateTime column arrives as uint32 (Arrow has no such type in ClickHouse's writer): select
        `toDateTime64(at, 0, 'UTC')` to get a timestamp. Raises StoreUnavailable or StoreError.
        """
        client = self._client()
        limit = {} if self.embedded else {"max_execution_time": self.options.query_timeout_seconds}
        try:
            with _mapped(self.dsn):
                return client.query_arrow(
                    sql,
                    parameters={name: _clean(value) for name, value in (parameters or {}).items()},
                    settings={**limit, **dict(settings or {})},
                    use_strings=True,
                )
        except StoreError:
            # What chDB had written of a failed answer would come first in the next one on the same connection.
            if self.embedded:
                self._local.client = None
                self._clients.discard(client)
                client.close()
            raise

    def command(self, sql: str) -> None:
        """Run one statement that returns nothing. Raises StoreUnavailable or StoreError."""
        client = self._client()
        with _mapped(self.dsn):
            client.command(sql, settings=self._unlimited)

    def close(self) -> None:
        """Close every thread's connection, waiting for the calls in flight; closing twice is fine."""
        with self._lock:
            self._closed = True
            clients = list(self._clients)
            self._clients.clear()
        for client in clients:
            client.close()
        if self._kept is not None:
            self._kept.clear()


class Engine:
    """The embedded engine spoken to as text and bytes: what the gateway hands over HTTP. Thread-safe."""

    def __init__(self, dsn: str, options: StoreOptions | None = None) -> None:
        """Open the folder of a chdb:// address. Raises StoreUnavailable when another process holds it."""
        self.dsn = parse_dsn(dsn)
        if self.dsn.path is None:
            raise StoreError(0, "gateway: it serves an embedded store; write chdb:///absolute/folder")
        self.dsn.path.mkdir(parents=True, exist_ok=True)
        options_text = urlencode(_engine_options(options or StoreOptions()))
        self._address = f"{self.dsn.path.resolve()}?{options_text}"
        with _mapped(self.dsn):
            self._anchor = _connect_raw(self._address)
            self._anchor.query(f"CREATE DATABASE IF NOT EXISTS {_identifier(self.database)} ENGINE = Atomic")

    @property
    def database(self) -> str:
        """The database the fleet's tables live in."""
        return self.dsn.database

    def run(
        self,
        statement: str,
        output_format: str = "TabSeparated",
        *,
        database: str = "",
        settings: Sequence[tuple[str, str]] = (),
        parameters: Mapping[str, str] | None = None,
    ) -> bytes:
        """The result in the format (an own FORMAT clause wins). Settings are applied in order, then forgotten.

        Every call has a connection of its own (about 1 ms), so no setting and no database leaks into the next one.
        Raises StoreUnavailable or StoreError.
        """
        with _mapped(self.dsn):
            connection = _connect_raw(self._address)
            try:
                connection.query(f"USE {_identifier(database or self.database)}")
                for name, value in settings:
                    connection.query(f"SET {_identifier(name)} = {_quoted(value)}")
                return connection.query(statement, output_format, params=dict(parameters or {})).bytes()
            except RuntimeError as error:
                raise _engine_error(self.dsn, str(error)) from error
            finally:
                connection.close()

    def close(self) -> None:
        """Let go of the folder, as far as no Store of this process still holds it."""
        self._anchor.close()


def _connect_raw(address: str) -> Any:  # noqa: ANN401 - chdb has no types
    try:
        return chdb.connect(address)
    except RuntimeError as error:
        raise StoreUnavailable(
            0, f"store {address}: the folder cannot be opened, most likely another process holds it: {error}"
        ) from error


def _engine_options(options: StoreOptions) -> dict[str, str]:
    # Settings have underscores: chDB ignores hyphenated ones without a word. The file is an argument, with a hyphen.
    return {"config-file": str(ENGINE_SETTINGS), "max_server_memory_usage": str(options.memory_limit_bytes)}


def _identifier(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise StoreError(0, f"store: {name!r} is no plain name; write letters, digits and _ only")
    return f"`{name}`"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _clean(value: object) -> object:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value


def _short(text: str) -> str:
    """The last link of the HTTP library's chain of causes, where the words for a person stand."""
    found = re.search(r"Caused by \w+\(.*?: ([^:]*?)['\"]?\)\)", text)
    return found[1] if found else text


def _engine_error(dsn: Dsn, text: str) -> StoreError:
    found = _ERROR_CODE.search(text)
    code = int(found[1]) if found else 0
    kind = StoreUnavailable if code in _RETRYABLE else StoreError
    return kind(code, text[text.find("Code: ") :] if found else f"store {dsn.path}: {text}")


@contextlib.contextmanager
def _mapped(dsn: Dsn) -> Generator[None]:
    """Turn the client library's exceptions into ours, once."""
    where = f"store {dsn.path}" if dsn.path is not None else f"store {dsn.host}:{dsn.port}"
    try:
        yield
    except ClickHouseError as error:
        code = getattr(error, "code", None) or 0
        text = str(error)
        if "Unable to open the chdb engine" in text:
            message = f"{where}: the folder cannot be opened, most likely another process holds it: {text}"
            raise StoreUnavailable(code, message) from error
        if code in _RETRYABLE or (not code and isinstance(error, OperationalError)):
            raise StoreUnavailable(code, f"{where}: {_short(text)}") from error
        raise StoreError(code, f"{where}: {text}") from error
    except pa.ArrowException as error:
        raise StoreError(0, f"{where}: the answer is no Arrow ({error}); leave FORMAT out of the SQL") from error
    except OSError as error:
        raise StoreUnavailable(0, f"{where}: {error}") from error


def open_store(dsn: str, options: StoreOptions | None = None) -> Store:
    """A store for the address; the first call that needs the engine connects. Raises StoreError for a bad address."""
    return Store(parse_dsn(dsn), options or StoreOptions())
