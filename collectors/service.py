"""`python -m collectors run` and `demo`: put the parts together, run until a signal, end in good order.

ServiceError         the collector cannot start
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import IO

from collectors import build
from collectors.base import Source
from collectors.demo import HISTORY, DemoError, ProgressBar, fill, find_position
from collectors.job_building import demo_job_source, job_source
from collectors.job_source import Overheard
from collectors.known_containers import KnownBefore
from collectors.runner import Runner, RunnerHealth, utc_now
from collectors.sources.synthetic import SyntheticSource
from collectors.web import WebError, WebServer, ensure_token, web_app
from fleet import __version__
from fleet.inventory import Inventory
from fleet.settings import Settings
from store import StoreError, StoreOptions, StoreUnavailable
from store.client import Engine
from store.gateway import GatewayLimits, GatewayTokens, gateway_app
from store.retention import apply_retention
from store.spool import Spool, SpooledWriter

log = logging.getLogger(__name__)
STORE_CLOSE_SECONDS = 0.5
#: How long the ledger waits for what was gathered before it asks the store for a job's energy; else it asks again.
FRESH_SECONDS = 2.0
#: How long a start waits for a command on the ledger that has the data folder open.
OWNER_WAIT_SECONDS = 2.0


class ServiceError(Exception):
    """The collector cannot start; the message is one line saying where, what was found, what to write."""


class _StoppedError(BaseException):
    """A signal came while the demo was being filled. No Exception: the store's libraries catch those."""


def run(settings: Settings, *, demo: bool = False, seed: int | None = None) -> int:
    """Collect until SIGTERM or SIGINT; the exit status 0. Raises SettingsError, ServiceError."""
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    service = _Service(settings, demo=demo or settings.synthetic.enabled, seed=seed)
    with _signals(service):
        try:
            clean = service.run()
        except (StoreError, WebError, DemoError) as error:
            raise ServiceError(str(error).partition("\n")[0]) from error
        except OSError as error:
            place = error.filename or settings.data_dir
            words = f"data_dir: {place}: {error.strerror}; write a data_dir that can be written to"
            raise ServiceError(words) from error
    if not clean:
        # A thread that hangs in a driver would keep the interpreter from ending; everything else is closed by now.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)
    return 0


class _Service:
    def __init__(self, settings: Settings, *, demo: bool, seed: int | None) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._filling = False
        self._demo = demo
        self._seed = settings.synthetic.seed if seed is None else seed
        self._runner: Runner | None = None

    def run(self) -> bool:
        """True when everything ended in good order, False when something hung and was left behind."""
        settings = self._settings
        inventory = Inventory()
        # Whatever the settings make impossible is found before the store is opened.
        build.build_tenancy(settings)
        with contextlib.ExitStack() as parts:
            parts.enter_context(_sole_owner(settings.data_dir))
            store = build.build_store(settings)
            parts.callback(_within, STORE_CLOSE_SECONDS, store.store.close)
            spool = Spool(settings.spool_dir, settings.store.spool_limit_bytes)
            writer = SpooledWriter(store, spool)
            gateway = None
            if settings.embedded:
                engine = Engine(settings.store_dsn(), _options(settings))
                parts.callback(_within, STORE_CLOSE_SECONDS, engine.close)
                gateway = gateway_app(engine, _tokens(settings), _limits(settings), on_look=self._look)
            app = web_app(self._health, spool=lambda: writer.state, version=__version__, gateway=gateway)
            server = WebServer(app, settings.gateway.host, settings.gateway.port)
            parts.callback(server.stop)
            server.start()
            try:
                sources = self._demo_sources(store) if self._demo else self._sources(store, inventory)
            except _StoppedError:
                return True
            self._runner = Runner(
                sources,
                writer,
                rng=random.Random(),  # noqa: S311
                retention=lambda now: self._forget(store, now),
                unwatched_seconds=unwatched_seconds(settings),
            )
            self._runner.start()
            names = ", ".join(f"{source.kind} {source.target}" for source in sources) or "nothing"
            log.info("collecting from %s; health on http://%s:%d/healthz", names, settings.gateway.host, server.port)
            self._stop.wait()
            log.info("stopping")
            return self._runner.stop()

    @property
    def stopping(self) -> bool:
        """Whether `stop` has been called."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End the run; called by a signal, on the thread that runs."""
        self._stop.set()
        if self._filling:
            # A chunk of the demo may take many seconds on a busy machine. What is half stored is completed next time.
            raise _StoppedError

    def _health(self) -> RunnerHealth | None:
        return None if self._runner is None else self._runner.health()

    def _look(self) -> None:
        if self._runner is not None:
            self._runner.look()

    def _fresh(self) -> None:
        """Store what was gathered. Raises StoreUnavailable when that takes too long."""
        if self._runner is not None and not self._runner.flush(FRESH_SECONDS):
            raise StoreUnavailable(0, f"store: it did not take what was gathered within {FRESH_SECONDS:g} s")

    def _sources(self, store: build.MigratingStore, inventory: Inventory) -> list[Source]:
        settings = self._settings
        jobs, keeper = job_source(settings, store, inventory, fresh=self._fresh)
        overheard = [
            *build.docker_sources(
                settings,
                inventory,
                build.images_before(store.store),
                KnownBefore(store.store, [daemon.name for daemon in settings.docker]),
            ),
            *build.nvml_sources(settings, inventory, remember=True),
        ]
        return [
            *(Overheard(source, keeper.hear) for source in overheard),
            *build.prometheus_sources(settings, inventory, store.store),
            jobs,
        ]

    def _demo_sources(self, store: build.MigratingStore) -> list[Source]:
        """The demo fleet and its ledger, their history in place."""
        self._filling = True
        try:
            if self.stopping:
                raise _StoppedError
            position = find_position(store.store, self._seed, utc_now())
            filled_to = fill(store.store, position, utc_now(), ProgressBar())
            begin = filled_to - HISTORY
            jobs = demo_job_source(self._settings, store, position.fleet, begin, filled_to, fresh=self._fresh)
        finally:
            self._filling = False
        synthetic = self._settings.synthetic
        source = SyntheticSource(
            position.fleet,
            filled_to,
            interval_seconds=synthetic.interval_seconds,
            timeout_seconds=synthetic.timeout_seconds,
        )
        return [source, jobs]

    def _forget(self, store: build.MigratingStore, now: datetime) -> None:
        for dropped in apply_retention(store.store, build.retention_policy(self._settings), now):
            log.info("forgot %s of %s: %d rows", dropped.partition, dropped.table, dropped.rows)


def unwatched_seconds(settings: Settings) -> float:
    """How long samples may wait while nobody looks.

    Who reads a server is not known here: there, samples are late only for those who wrote that they may be.
    """
    known = settings.embedded or "store.unwatched_seconds" in settings.origins
    return settings.store.unwatched_seconds if known else 0.0


def _options(settings: Settings) -> StoreOptions:
    return StoreOptions(memory_limit_bytes=settings.store.memory_limit_bytes)


def _limits(settings: Settings) -> GatewayLimits:
    gateway = settings.gateway
    return dataclasses.replace(
        GatewayLimits(), execution_seconds=round(gateway.query_timeout_seconds), result_rows=gateway.query_row_limit
    )


def _tokens(settings: Settings) -> GatewayTokens:
    gateway = settings.gateway
    return GatewayTokens(
        writer=ensure_token(
            settings.writer_token_path, "gateway.writer_token_file", may_create=not gateway.writer_token_file
        ),
        reader=ensure_token(
            settings.reader_token_path, "gateway.reader_token_file", may_create=not gateway.reader_token_file
        ),
    )


def _within(seconds: float, action: Callable[[], object]) -> None:
    """Call, and go on without it when it takes longer: closing waits for calls in flight, which may hang."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(seconds)


@contextlib.contextmanager
def _sole_owner(folder: Path) -> Generator[None]:
    """Holds the data folder: store, spool and tokens belong to one collector. Raises ServiceError, OSError.

    The engine locks its own folder too, but says so on stderr in its own words, and the spool has no lock. A moment's
    wait: `jobs verify` holds the folder while it reads, and what starts at boot should not fail for that.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "collector.lock").open("a+") as file:
        deadline = time.monotonic() + OWNER_WAIT_SECONDS
        while not _locked(file):
            if time.monotonic() > deadline:
                file.seek(0)
                owner = file.read(20).strip() or "unknown"
                words = f"data_dir: {folder} belongs to a collector that runs (process {owner})"
                raise ServiceError(f"{words}; stop that one or write another data_dir")
            time.sleep(0.1)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _signals(service: _Service) -> Generator[None]:
    """SIGTERM and SIGINT stop the service; a second one ends the process at once."""

    def handle(number: int, _: FrameType | None) -> None:
        if service.stopping:
            os._exit(128 + number)
        service.stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
