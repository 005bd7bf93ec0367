"""How requests and answers travel: compression, tokens, headers and errors as ClickHouse's HTTP clients expect them."""

from __future__ import annotations

import base64
import contextlib
import gzip
import re
from collections.abc import Callable, Mapping

import lz4.frame
import zstandard
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from store.errors import StoreError, StoreUnavailable
from store.guard import ACCESS_DENIED

AUTHENTICATION_FAILED = 516
_UNKNOWN_EXCEPTION = 1002

ENCODERS: Mapping[str, Callable[[bytes], bytes]] = {
    "lz4": lz4.frame.compress,
    "zstd": lambda data: zstandard.ZstdCompressor(level=1).compress(data),
    "gzip": lambda data: gzip.compress(data, compresslevel=1),
}
DECODERS: Mapping[str, Callable[[bytes], bytes]] = {
    "lz4": lz4.frame.decompress,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    "gzip": gzip.decompress,
}
DECODE_ERRORS = (OSError, EOFError, RuntimeError, zstandard.ZstdError)


def token(request: Request) -> str:
    """The password of the request, from any of the three headers clients use; "" when there is none."""
    key = request.headers.get("X-ClickHouse-Key")
    if key is not None:
        return key
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value
    if scheme.lower() == "basic":
        with contextlib.suppress(ValueError):
            return base64.b64decode(value, validate=True).decode("utf-8", "replace").partition(":")[2]
    return ""


def encoding(request: Request) -> str:
    """How the client wants its answer packed; "" for not at all."""
    if request.query_params.get("enable_http_compression") != "1":
        return ""
    offered = [part.partition(";")[0].strip() for part in request.headers.get("Accept-Encoding", "").split(",")]
    return next((name for name in offered if name in ENCODERS), "")


def headers(query_id: str) -> dict[str, str]:
    """What every answer carries. The id comes from outside, so it is cut to what a header may hold."""
    safe = re.sub(r"[^\x21-\x7e]", "_", query_id)[:128]
    return {
        "X-ClickHouse-Query-Id": safe,
        "X-ClickHouse-Timezone": "UTC",
        "X-ClickHouse-Server-Display-Name": "ai-fleet",
    }


def failure(error: StoreError, query_id: str) -> Response:
    """An error as ClickHouse's clients read it: a status, a code in a header, words in the body."""
    status = {AUTHENTICATION_FAILED: 401, ACCESS_DENIED: 403, 60: 404, 62: 400}.get(error.code, 500)
    if isinstance(error, StoreUnavailable):
        status = 503
    code = str(error.code or _UNKNOWN_EXCEPTION)
    return PlainTextResponse(
        error.message + "\n", status_code=status, headers={"X-ClickHouse-Exception-Code": code, **headers(query_id)}
    )
