"""The embedded store over HTTP: the part of ClickHouse's protocol that the unmodified clickhouse-connect client uses.

chDB lets one process open a folder; this lets a second one, the dashboard, read it. It is no ClickHouse server: results
are held in memory (the reader's limits bound them), there are no sessions and no progress headers, and it listens where
the collector puts it, by default on loopback. The writer's token is as strong as the collector itself.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from store import wire
from store.client import Engine
from store.errors import StoreError, StoreUnavailable
from store.guard import ACCESS_DENIED, Guard

log = logging.getLogger(__name__)

Role = Literal["writer", "reader"]

_INSERT = re.compile(
    rb"\s*INSERT\s+INTO\s+(?:TABLE\s+)?([\w.`\"]+)\s*(\([^)]*\))?\s*FORMAT\s+(\w+)[ \t]*\r?\n?", re.IGNORECASE
)
_HAS_RESULT = re.compile(r"\s*(?:SELECT|WITH|SHOW|DESC|DESCRIBE|EXPLAIN|EXISTS|FROM|\()", re.IGNORECASE)
_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
#: Query arguments that are no settings: ours to read, or meant for a server's transport.
_TRANSPORT = frozenset(
    {"query", "database", "query_id", "session_id", "session_timeout", "session_check", "quota_key", "role", "user"}
    | {"password", "compress", "decompress", "buffer_size", "wait_end_of_query", "client_protocol_version"}
    | {"send_progress_in_http_headers", "http_headers_progress_interval_ms", "enable_http_compression"}
    | {"default_format", "cancel_http_readonly_queries_on_client_close"}
)
#: Settings a reader may choose. Limits among them only ever get tighter.
_READER_SETTINGS = frozenset(
    {"session_timezone", "date_time_input_format", "cast_string_to_dynamic_use_inference", "max_block_size", "limit"}
    | {"output_format_arrow_string_as_string", "output_format_arrow_low_cardinality_as_dictionary", "readonly"}
    | {"output_format_arrow_compression_method", "input_format_arrow_allow_missing_columns", "join_use_nulls"}
    | {"max_threads", "max_execution_time", "max_result_rows", "max_memory_usage"}
)


@dataclass(frozen=True, slots=True)
class GatewayTokens:
    """Passwords of the two roles; an empty one closes the role. The user name is not looked at."""

    writer: str = field(repr=False)
    reader: str = field(repr=False)

    def role(self, token: str) -> Role | None:
        """The role the token opens, None for no role. Compared in constant time."""
        for name, secret in (("writer", self.writer), ("reader", self.reader)):
            if secret and hmac.compare_digest(token.encode(), secret.encode()):
                return "writer" if name == "writer" else "reader"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLimits:
    """What one request of a reader may cost, and how large any request body may be."""

    execution_seconds: int = 15
    result_rows: int = 1_000_000
    result_bytes: int = 256 << 20
    memory_bytes: int = 1_000_000_000
    threads: int = 2
    reader_body_bytes: int = 1 << 20
    writer_body_bytes: int = 256 << 20


@dataclass(frozen=True, slots=True)
class _Request:
    role: Role
    arguments: Mapping[str, str]
    body: bytes
    query_id: str


class _Gateway:
    def __init__(
        self, engine: Engine, tokens: GatewayTokens, limits: GatewayLimits, on_look: Callable[[], object] | None
    ) -> None:
        self._engine = engine
        self._on_look = on_look
        self._tokens = tokens
        self._limits = limits
        self._guard = Guard(self._ask, engine.database)

    def _ask(self, statement: str, parameters: Mapping[str, str]) -> str:
        settings = (("max_execution_time", "5"), ("implicit_select", "0"), ("readonly", "1"))
        output = self._engine.run(statement, "TabSeparatedRaw", settings=settings, parameters=parameters)
        return output.decode("utf-8", "replace")

    async def ping(self, _request: Request) -> Response:
        return PlainTextResponse("Ok.\n")

    async def query(self, request: Request) -> Response:
        query_id = request.query_params.get("query_id") or str(uuid.uuid4())
        try:
            role = self._role(request)
            arguments = dict(request.query_params)
            body = await self._body(request, role, arguments)
            asked = _Request(role, arguments, body, query_id)
            output, output_format = await run_in_threadpool(self._answer, asked)
            headers = {
                "X-ClickHouse-Summary": "{}",
                **({"X-ClickHouse-Format": output_format} if output_format else {}),
            }
            encoding = wire.encoding(request)
            if encoding:
                output = await run_in_threadpool(wire.ENCODERS[encoding], output)
                headers["Content-Encoding"] = encoding
            return Response(output, headers={**headers, **wire.headers(query_id)})
        except StoreError as error:
            return wire.failure(error, query_id)

    def _role(self, request: Request) -> Role:
        role = self._tokens.role(wire.token(request))
        if role is None:
            raise StoreError(wire.AUTHENTICATION_FAILED, "gateway: missing or wrong token. (AUTHENTICATION_FAILED)")
        return role

    async def _body(self, request: Request, role: Role, arguments: dict[str, str]) -> bytes:
        limit = self._limits.writer_body_bytes if role == "writer" else self._limits.reader_body_bytes
        if request.headers.get("Content-Type", "").startswith("multipart/form-data"):
            # Long parameter lists come as form fields instead of query arguments.
            async with request.form(max_files=0, max_fields=2000, max_part_size=limit) as form:
                arguments.update({name: value for name, value in form.items() if isinstance(value, str)})
            return b""
        received = bytearray()
        async for chunk in request.stream():
            received += chunk
            if len(received) > limit:
                raise StoreError(241, f"gateway: the request body is larger than {limit} bytes. (LIMIT_EXCEEDED)")
        encoding = request.headers.get("Content-Encoding", "identity")
        if encoding == "identity" or not received:
            return bytes(received)
        # A reader's body is SQL of at most 1 MB; unpacked it could be a thousand times that.
        if encoding not in wire.DECODERS or role == "reader":
            raise StoreError(
                481,
                f"gateway: Content-Encoding {encoding[:20]!r}; writers may send gzip, lz4, zstd. (UNKNOWN_COMPRESSION)",
            )
        try:
            return await run_in_threadpool(wire.DECODERS[encoding], bytes(received))
        except wire.DECODE_ERRORS as error:
            raise StoreError(271, f"gateway: the body is not valid {encoding}: {error}. (CANNOT_DECOMPRESS)") from error

    def _answer(self, asked: _Request) -> tuple[bytes, str]:
        prefix = asked.arguments.get("query", "").encode("utf-8", "replace")
        text = prefix + (b"\n" if prefix and asked.body else b"") + asked.body
        parameters = {name[6:]: value for name, value in asked.arguments.items() if name.startswith("param_")}
        database = asked.arguments.get("database", "")
        if database in ("", "default"):
            database = self._engine.database
        if asked.role == "reader":
            if database != self._engine.database:
                raise StoreError(
                    ACCESS_DENIED, f"Code: 497. DB::Exception: no access to database {database[:60]!r}. (ACCESS_DENIED)"
                )
            checked = self._guard.check(text.decode("utf-8", "replace"), parameters)
            output_format = checked.output_format or "TabSeparated"
            settings = self._reader_settings(asked.arguments)
            if self._on_look is not None:
                self._on_look()
            output = self._engine.run(
                checked.statement, output_format, database=database, settings=settings, parameters=parameters
            )
            # The engine's own max_result_bytes lets 200 MB pass under a limit of 100 kB (26.9).
            if len(output) > self._limits.result_bytes:
                raise StoreError(
                    396, f"gateway: a result of more than {self._limits.result_bytes} bytes. (TOO_MANY_BYTES)"
                )
            return output, output_format
        settings = [(name, value) for name, value in asked.arguments.items() if not _is_transport(name)]
        insert = _INSERT.match(text)
        if insert is not None and insert[3].upper() != b"VALUES":
            self._insert(insert, text[insert.end() :], database, settings)
            return b"", ""
        statement = text.decode("utf-8", "replace")
        found = _FORMAT.search(statement)
        output_format = found[1] if found else "TabSeparated"
        output = self._engine.run(statement, output_format, database=database, settings=settings, parameters=parameters)
        return output, output_format if _HAS_RESULT.match(statement) else ""

    def _insert(self, insert: re.Match[bytes], payload: bytes, database: str, settings: list[tuple[str, str]]) -> None:
        # The engine takes binary rows from a file only; text in the statement would have to be valid UTF-8.
        descriptor, path = tempfile.mkstemp(suffix=".insert")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(payload)
            columns = (insert[2] or b"").decode()
            target, input_format = insert[1].decode(), insert[3].decode()
            statement = f"INSERT INTO {target} {columns} FROM INFILE '{path}' FORMAT {input_format}"
            self._engine.run(statement, database=database, settings=settings)
        except OSError as error:
            raise StoreUnavailable(243, f"gateway: {error}. (NOT_ENOUGH_SPACE)") from error
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108 - a plain name from mkstemp

    def _reader_settings(self, arguments: Mapping[str, str]) -> list[tuple[str, str]]:
        limits = {
            "max_execution_time": self._limits.execution_seconds,
            "max_result_rows": self._limits.result_rows,
            "max_memory_usage": self._limits.memory_bytes,
            "max_threads": self._limits.threads,
        }
        settings: list[tuple[str, str]] = []
        for name, value in arguments.items():
            if _is_transport(name):
                continue
            if name not in _READER_SETTINGS:
                raise StoreError(
                    452, f"Code: 452. DB::Exception: a reader may not set {name[:60]!r}. (SETTING_CONSTRAINT_VIOLATION)"
                )
            if name in limits:
                with contextlib.suppress(ValueError, OverflowError):
                    wanted = int(float(value))
                    limits[name] = min(limits[name], wanted) if wanted > 0 else limits[name]
            elif name != "readonly":
                settings.append((name, value))
        settings += [(name, str(value)) for name, value in limits.items()]
        # Introspection and SELECT without the word are on in chDB. readonly comes last: after it nothing can be set.
        settings += [
            ("result_overflow_mode", "throw"),
            ("allow_introspection_functions", "0"),
            ("implicit_select", "0"),
        ]
        return [*settings, ("readonly", "2")]


def _is_transport(name: str) -> bool:
    return name in _TRANSPORT or name.startswith("param_")


def gateway_app(
    engine: Engine,
    tokens: GatewayTokens,
    limits: GatewayLimits | None = None,
    *,
    on_look: Callable[[], object] | None = None,
) -> Starlette:
    """The gateway as an ASGI application: GET /ping, GET and POST /. The engine stays the caller's to close.

    on_look: called on a thread before each question of a reader that may be asked; what it stores, the answer has.
    """
    gateway = _Gateway(engine, tokens, limits or GatewayLimits(), on_look)
    return Starlette(
        routes=[
            Route("/ping", gateway.ping, methods=["GET"]),
            Route("/", gateway.query, methods=["GET", "POST"]),
        ]
    )
