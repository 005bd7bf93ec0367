"""The collector's one HTTP port: /healthz, /metrics, and below / the store for the dashboard.

/healthz and /metrics hold the collector's own state only (sources, lags, sizes) and need no token; everything of the
fleet is behind the gateway's tokens. The port is loopback unless the settings say otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from collectors import metrics
from collectors.runner import RunnerHealth
from fleet.settings import SettingsError, read_secret
from store.spool import WriterState

START_SECONDS = 10.0


class WebError(Exception):
    """The port cannot be served; the message says which, why and what to write instead."""


def ensure_token(path: Path, name: str, *, may_create: bool) -> str:
    """The token in a file; made at the first start, readable by its owner only. Raises SettingsError.

    may_create: False for a file that an operator named: a wrong path must not become a new token.
    """
    if may_create and not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            pass  # another collector was faster; read its token
        except OSError as error:
            message = f"{name}: {path} cannot be made ({error.strerror}); write a data_dir that can be written to"
            raise SettingsError((message,)) from error
        else:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(32) + "\n")
    return read_secret(path, name)


def web_app(
    health: Callable[[], RunnerHealth | None],
    *,
    spool: Callable[[], WriterState],
    version: str,
    gateway: ASGIApp | None,
) -> Starlette:
    """The application.

    health: None until polling begins. gateway: mounted at /; None when the store is a server of its own.
    """

    def healthz(_: Request) -> Response:
        found, waiting = health(), spool()
        if found is None:
            return JSONResponse({"status": "starting", "version": version})
        stuck = found.writer.stuck
        body = {
            "status": "stuck" if stuck else "ok",
            "version": version,
            "uptime_seconds": round(found.uptime_seconds, 1),
            "last_batch_seconds": _rounded(found.last_batch_seconds),
            "spool_bytes": waiting.waiting_bytes,
            "store": "away" if waiting.error else "ok",
            "writer": {
                "waiting_batches": found.writer.waiting_batches,
                "gathered_batches": found.writer.gathered_batches,
                "busy_seconds": _rounded(found.writer.stuck_seconds),
                "refused_batches": found.writer.refused_batches,
                "lost_batches": found.writer.lost_batches + waiting.dropped_batches + waiting.refused_batches,
            },
            "sources": [
                {
                    "source": item.source,
                    "target": item.target,
                    "state": item.state,
                    "since_seconds": _rounded(item.since_seconds),
                    "last_read_seconds": _rounded(item.last_read_seconds),
                    "interval_seconds": item.interval_seconds,
                    "reason": item.reason,
                    "missed_ticks": item.missed_ticks,
                }
                for item in found.sources
            ],
        }
        return JSONResponse(body, status_code=503 if stuck else 200)

    def own_metrics(_: Request) -> Response:
        found = health()
        text = "" if found is None else metrics.render(found, spool=spool(), version=version)
        return PlainTextResponse(text, media_type=metrics.CONTENT_TYPE)

    routes: list[Route | Mount] = [Route("/healthz", healthz), Route("/metrics", own_metrics)]
    if gateway is not None:
        routes.append(Mount("/", app=gateway))
    return Starlette(routes=routes)


class _QuietServer(uvicorn.Server):
    """Uvicorn asks itself ten times a second whether to stop, which costs 0.2 % of a core; this one twice."""

    async def main_loop(self) -> None:
        """Serve until `should_exit`."""
        while not await self.on_tick(0):  # 0: the tick that also renews the Date header
            await asyncio.sleep(0.5)


class WebServer:
    """Uvicorn on a thread of its own. The port is taken in the constructor, so that a clash ends the start."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        """Raises WebError when the port cannot be taken."""
        self._socket = _listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1, server_header=False
        )
        self._server = _QuietServer(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="web", daemon=True
        )

    def start(self) -> None:
        """Serve; returns once requests are answered. Raises WebError when that takes longer than 10 s."""
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise WebError(f"gateway: nothing answers on port {self.port}; look at the log above")
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop serving; open requests get one second."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(3.0)
        with contextlib.suppress(OSError):
            self._socket.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # The protocol is named because asyncio turns Nagle's delay off only on a socket that says it is TCP: without it
        # each answer of the gateway waits 40 ms for the client's delayed acknowledgement.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise WebError(f"gateway.host: {host} is no address of this machine ({error}); write 127.0.0.1") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
        listener.set_inheritable(False)
    except OSError as error:
        listener.close()
        advice = "stop what listens there (a collector that is already running?) or write another gateway.port"
        raise WebError(f"gateway: {host}:{port} cannot be taken ({error.strerror}); {advice}") from error
    return listener


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
