"""The doctor's checks of what is kept and open: files (C), store, disk, clock, spool (S), addresses (G)."""

from __future__ import annotations

import ctypes
import shutil
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

from collectors.doctor_check import Check
from fleet.settings import LOOPBACK, Settings, SettingsError, masked
from store import StoreError, StoreOptions, open_store

LEAST_FREE_BYTES = 1_000_000_000
LOW_FREE_BYTES = 5_000_000_000
#: No clock is earlier than this code.
RELEASED = datetime(2026, 11, 1, tzinfo=UTC)
_TIME_ERROR = 5  # adjtimex(2): the kernel's clock is not synchronised
SECRETS = ("password_file", "token_file", "writer_token_file", "reader_token_file", "tls_key_file")


def named_files(settings: Settings) -> Iterator[Check]:
    """C001: every file that the settings name can be read, and secrets by nobody else."""
    title = "Files named in the settings"
    problems = 0
    count = 0
    for name, path in _files(settings):
        count += 1
        try:
            with path.open("rb"):
                mode = path.stat().st_mode
        except OSError as error:
            problems += 1
            step = "Write the right path, or make the file readable for the collector's user"
            yield Check(
                id="C001", title=title, target=name, state="FAIL", found=f"{path}: {error.strerror}", next_step=step
            )
            continue
        if name.rpartition(".")[2] in SECRETS and mode & (stat.S_IRGRP | stat.S_IROTH):
            problems += 1
            found = f"{path} is readable for others ({stat.filemode(mode)})"
            yield Check(id="C001", title=title, target=name, state="WARN", found=found, next_step=f"chmod 600 {path}")
    if not problems:
        yield Check(
            id="C001", title=title, state="PASS", found=f"{count} named, all readable" if count else "none named"
        )


def _files(settings: Settings) -> Iterator[tuple[str, Path]]:
    entries: list[tuple[str, object]] = [
        ("store", settings.store), ("gateway", settings.gateway), ("dashboard", settings.dashboard),
        ("tenancy", settings.tenancy), ("nvml", settings.nvml),
        *((f"docker[{number}]", item) for number, item in enumerate(settings.docker)),
        *((f"prometheus[{number}]", item) for number, item in enumerate(settings.prometheus)),
    ]  # fmt: skip
    for prefix, item in entries:
        for key in (*SECRETS, "tls_ca_file", "tls_cert_file", "ca_file", "file", "library"):
            value = getattr(item, key, "")
            if value:
                yield f"{prefix}.{key}", Path(value)


def store_opens(settings: Settings) -> Check:
    """S001: the store opens and answers. A running collector holds the embedded one, then that one is asked."""
    title = "Store opens"
    if settings.embedded and collector_answers(settings):
        found = f"held by the collector that runs on port {settings.gateway.port}"
        return Check(id="S001", title=title, state="PASS", found=found)
    try:
        dsn = settings.store_dsn()
        path = Path(dsn.removeprefix("chdb://")) if settings.embedded else None
        if path is not None and not path.exists():
            return _unborn(path)
        store = open_store(dsn, StoreOptions(memory_limit_bytes=settings.store.memory_limit_bytes))
        try:
            store.command("SELECT 1")
        finally:
            store.close()
    except (StoreError, SettingsError) as error:
        step = "Stop the other collector" if settings.embedded else "Start the server, or correct store.dsn"
        return Check(id="S001", title=title, state="FAIL", found=str(error).partition("\n")[0], next_step=step)
    return Check(id="S001", title=title, state="PASS", found=f"{masked(dsn)} answers")


def _unborn(path: Path) -> Check:
    title = "Store opens"
    parent = _existing(path)
    probe = parent / f".aifleet-doctor-{id(path)}"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        step = "Write a data_dir that the collector's user can write to"
        return Check(id="S001", title=title, state="FAIL", found=f"{parent}: {error.strerror}", next_step=step)
    return Check(id="S001", title=title, state="PASS", found=f"{path} will be made at the first start")


def collector_answers(settings: Settings) -> bool:
    """Whether a collector serves this machine's gateway port."""
    host = "127.0.0.1" if settings.gateway.host in {"0.0.0.0", "::", ""} else settings.gateway.host  # noqa: S104
    address = f"[{host}]" if ":" in host else host
    try:
        with urllib.request.urlopen(f"http://{address}:{settings.gateway.port}/healthz", timeout=2) as answer:
            return answer.status == HTTPStatus.OK and b'"status"' in answer.read(65536)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == HTTPStatus.SERVICE_UNAVAILABLE
    except (OSError, ValueError):
        return False


def disk_space(settings: Settings) -> Check:
    """S002: room for samples and for the spool."""
    folder = _existing(settings.data_dir)
    free = shutil.disk_usage(folder).free
    found = f"{free / 1e9:.1f} GB free below {folder}"
    least = LEAST_FREE_BYTES + settings.store.spool_limit_bytes
    if free < least:
        step = f"Free at least {least / 1e9:.1f} GB, move data_dir, or lower retention"
        return Check(id="S002", title="Disk space", state="FAIL", found=found, next_step=step)
    if free < LOW_FREE_BYTES:
        step = "Free some space, move data_dir, or lower retention"
        return Check(id="S002", title="Disk space", state="WARN", found=found, next_step=step)
    return Check(id="S002", title="Disk space", state="PASS", found=found)


def clock_sane(now: datetime) -> Check:
    """S003: the clock is not in the past, and the kernel calls it synchronised."""
    title = "Clock"
    if now < RELEASED:
        found = f"it reads {now:%F %T} UTC, before this program was made"
        return Check(
            id="S003", title=title, state="FAIL", found=found, next_step="Set the clock (timedatectl set-ntp true)"
        )
    if kernel_clock_unsynchronised():
        step = "Run a time service (timedatectl set-ntp true); a clock that drifts moves rows in time"
        found = f"{now:%F %T} UTC, not synchronised"
        return Check(id="S003", title=title, state="WARN", found=found, next_step=step)
    return Check(id="S003", title=title, state="PASS", found=f"{now:%F %T} UTC")


def kernel_clock_unsynchronised() -> bool:
    """Whether adjtimex(2) says so; False where it cannot be asked."""
    call = getattr(ctypes.CDLL(None), "adjtimex", None)
    if call is None:
        return False
    # struct timex is 208 bytes on 64-bit Linux; all zero asks and changes nothing.
    return int(call(ctypes.create_string_buffer(512))) == _TIME_ERROR


def spool_empty(settings: Settings) -> Check:
    """S004: no batch waits for the store, and none was set aside."""
    title = "Spool"
    folder = settings.spool_dir
    try:
        sizes = (
            {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()} if folder.exists() else {}
        )
    except OSError as error:
        step = "Make data_dir readable for the collector's user"
        return Check(id="S004", title=title, state="FAIL", found=f"{folder}: {error.strerror}", next_step=step)
    aside = [name for name in sizes if not name.endswith((".batch", ".tmp"))]
    if not sizes:
        return Check(id="S004", title=title, state="PASS", found="empty")
    found = f"{len(sizes) - len(aside)} batches wait ({sum(sizes.values()) / 1e6:.1f} MB), {len(aside)} set aside"
    step = f"Look at {folder} and the log" if aside else "Look at S001: the store does not take them"
    return Check(id="S004", title=title, state="WARN", found=found, next_step=step)


def gateway_address(settings: Settings) -> Check:
    """G001: the collector's port stays on this machine."""
    host = settings.gateway.host
    if host in LOOPBACK:
        return Check(
            id="G001", title="Gateway address", state="PASS", found=f"{host}:{settings.gateway.port}, loopback"
        )
    step = 'Write gateway.host = "127.0.0.1", or keep the network to the dashboard: the token travels unencrypted'
    found = f"{host}:{settings.gateway.port} can be reached from the network"
    return Check(id="G001", title="Gateway address", state="WARN", found=found, next_step=step)


def dashboard_address(settings: Settings) -> Check:
    """G002: pages without login stay on this machine."""
    host = settings.dashboard.host
    if host in LOOPBACK:
        found = f"{host}:{settings.dashboard.port}, loopback"
        return Check(id="G002", title="Dashboard address", state="PASS", found=found)
    step = 'Put a proxy with login in front, or write dashboard.host = "127.0.0.1"'
    found = f"{host}:{settings.dashboard.port} shows every tenant to whoever reaches it"
    return Check(id="G002", title="Dashboard address", state="WARN", found=found, next_step=step)


def _existing(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    return next(place for place in (path, *path.parents) if place.exists())
