"""The dashboard's process: settings, store, security headers, health, and Streamlit around `app.py`.

Streamlit runs a full garbage collection after every run of a page, 123 ms for an empty one. Here Python collects by
itself, when enough new objects have piled up, and `gc.freeze` after the imports takes those out of it; with only that
a tick still spent 12 to 19 ms on walking through the answers kept for the viewers. The heavy libraries are imported
before the first visitor.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
import tomllib
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboard import process, streamlit_private
from dashboard.access import Access, mapping
from dashboard.data import Reader
from fleet import settings_file
from fleet.settings import Settings, SettingsError
from store import Store, StoreUnavailable, open_store

log = logging.getLogger("dashboard")
ROOT = Path(__file__).resolve().parent.parent
ACCESS_FILE_VARIABLE = "AIFLEET_ACCESS_FILE"

#: Imported before the first visitor: the slow libraries, and our own modules that bring them in.
WARM = (
    "numpy",
    "pandas",
    "pyarrow",
    "dashboard.charts",
    "dashboard.frame",
    "dashboard.fleet_panels",
    "dashboard.gpu_detail_panels",
    "dashboard.container_gpu_panels",
)
#: New objects before Python looks for garbage among them: one snapshot of a large fleet makes 100,000 that all live.
COLLECT_AFTER = 50_000
#: Streamlit needs inline styles, workers from blobs, and evaluates compiled templates for some charts; everything
#: else comes from this server, nothing may frame the pages, and nothing may be sent elsewhere.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), usb=()",
}


class SecurityHeaders:
    """Adds `HEADERS` to every HTTP answer; plain ASGI, so that streams and websockets pass untouched."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((n.encode(), v.encode()) for n, v in HEADERS.items() if n.encode() not in present),
                ]
            await send(message)

        await self.app(scope, receive, with_headers)


async def healthz(_: Request) -> Response:
    """200 as long as this process answers; says nothing about the fleet (that is the Status page)."""
    return JSONResponse({"status": "ok"}, headers={"cache-control": "no-store"})


@asynccontextmanager
async def lifespan(_: st.App) -> AsyncGenerator[dict[str, object]]:
    """Import what every page needs before the first visitor, then take it out of the garbage collector's reach."""
    for name in WARM:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
    log.info("ready")
    yield {}
    deployment = process.current()
    process.install(None)
    deployment.reader.close()


def on_script_error(error: Exception) -> bool:
    """Show a calm sentence; Streamlit has already logged the traceback. True = nothing else is shown."""
    st.error(
        f"This part of the page failed ({type(error).__name__}). The fleet itself is not affected. "
        "The dashboard's log has the details; reloading the page tries again.",
        icon=":material/error:",
    )
    return True


def read_settings(environment: Mapping[str, str], folder: Path) -> tuple[Settings, str]:
    """The settings in force and where they come from.

    Raises SettingsError with every mistake, or when the named file cannot be read.
    """
    environment = {name: value for name, value in environment.items() if name != ACCESS_FILE_VARIABLE}
    return settings_file.read_settings(environment, folder=folder)


def read_access(environment: Mapping[str, str], data_dir: Path) -> Access:
    """Who may see what: from the file named in the environment, else `access.toml` beside the data, else everybody.

    Raises SettingsError when the file is there and cannot be used: a broken mapping must never open the fleet.
    """
    named = environment.get(ACCESS_FILE_VARIABLE, "")
    path = Path(named) if named else data_dir / "access.toml"
    if not named and not path.exists():
        return Access()
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError((f"{path}: {error}; write trusted_header and a table [viewers]",)) from error
    header, viewers = found.get("trusted_header"), found.get("viewers")
    if not isinstance(header, str) or not header or not isinstance(viewers, dict):
        raise SettingsError((f'{path}: write trusted_header = "X-Forwarded-User" and a table [viewers]',))
    try:
        return Access(trusted_header=header, tenants_of=mapping(viewers))
    except TypeError as error:
        raise SettingsError((f"{path}: {error}",)) from error


def deploy(settings: Settings, origin: str, environment: Mapping[str, str]) -> process.Deployment:
    """The deployment; its store opens with the first question. Raises SettingsError for a broken access file."""

    def opener() -> Store:
        try:
            return open_store(settings.dashboard_dsn())
        except SettingsError as error:  # the token's file: the collector writes it when it first starts
            raise StoreUnavailable(0, str(error)) from error

    return process.Deployment(
        settings=settings,
        reader=Reader(opener),
        access=read_access(environment, settings.data_dir),
        settings_origin=origin,
    )


def make_app() -> st.App:
    """The ASGI application. The deployment must be installed before it serves."""
    return st.App(
        ROOT / "dashboard" / "app.py",
        lifespan=lifespan,
        routes=[Route("/healthz", healthz, methods=["GET"])],
        middleware=[Middleware(SecurityHeaders)],
        on_script_error=on_script_error,
    )


def main(environment: Mapping[str, str], folder: Path) -> int:
    """Serve until stopped. 0 = stopped, 2 = settings that cannot be used."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings, origin = read_settings(environment, folder)
        deployment = deploy(settings, origin, environment)
    except SettingsError as error:
        for mistake in error.mistakes:
            sys.stderr.write(f"dashboard: {mistake}\n")
        return 2
    process.install(deployment)
    if deployment.open_to_network:
        log.warning(
            "listening on %s without login: everybody who reaches this port sees the whole fleet",
            settings.dashboard.host,
        )
    sys.stdout.write(f"AI Fleet: http://{settings.dashboard.host}:{settings.dashboard.port}\n")
    sys.stdout.flush()
    # Streamlit reads .streamlit/config.toml from the folder of app.py's project only when it is the current one.
    os.chdir(ROOT)
    streamlit_private.settle_config()
    make_app().run(
        config={
            "server.address": settings.dashboard.host,
            "server.port": settings.dashboard.port,
            "server.headless": True,
            "server.fileWatcherType": "none",
            "browser.gatherUsageStats": False,
            "client.showErrorDetails": "none",
            "runner.postScriptGC": False,
        }
    )
    return 0
