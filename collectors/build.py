"""Settings -> the objects that do the work: sources, store, tenancy.

Each source is imported only when it is wanted: the demo needs none of the Docker, NVML and Prometheus libraries.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from collectors.base import Source
from collectors.known_containers import KnownContainers
from fleet.inventory import Inventory
from fleet.settings import Settings, SettingsError, TenantRule, load_settings, masked
from fleet.tenancy import Tenancy, TenancyError
from store import Store, StoreOptions, StoreUnavailable, open_store
from store.columns import Insert
from store.retention import RetentionPolicy

log = logging.getLogger(__name__)


def docker_sources(
    settings: Settings,
    inventory: Inventory,
    images_before: Mapping[str, Mapping[str, str]] | None = None,
    known_before: KnownContainers | None = None,
) -> list[Source]:
    """One source for each daemon. Raises SettingsError when the tenant rules cannot be used.

    images_before: host -> container_key -> image id of an earlier run, so that a change while we were away is seen.
    known_before: host -> containers that the store knows, so that one removed while we were away is seen.
    """
    if not settings.docker:
        return []
    from collectors.sources.docker import DockerSource

    tenancy = build_tenancy(settings)
    known = images_before or {}
    return [
        DockerSource(daemon, tenancy, inventory, images_before=known.get(daemon.name), known_before=known_before)
        for daemon in settings.docker
    ]


def nvml_sources(settings: Settings, inventory: Inventory, *, remember: bool = False) -> list[Source]:
    """The source for this machine's GPUs, unless it is switched off. remember: keep what is learnt in data_dir."""
    if settings.nvml.enabled == "off":
        return []
    from collectors.nvml_release import FILE, GpuRelease
    from collectors.sources.nvml import NvmlSource

    idle_file = settings.data_dir / "gpu-idle-power.json" if remember else None
    release = GpuRelease(settings.data_dir / FILE) if remember else None
    return [NvmlSource(settings.nvml, inventory, host=settings.general.host, idle_file=idle_file, release=release)]


def prometheus_sources(settings: Settings, inventory: Inventory, store: Store | None = None) -> list[Source]:
    """One source for each server. Raises SettingsError when the tenant rules or metric profiles cannot be used.

    store: the common one, so that what another host's collector sees is not counted a second time by an exporter.
    """
    if not settings.prometheus:
        return []
    from collectors.prometheus_claims import Claims
    from collectors.prometheus_exporters import Seen
    from collectors.prometheus_profiles import profiles_of
    from collectors.prometheus_seen import SeenInStore
    from collectors.sources.prometheus import PrometheusSource

    profiles = profiles_of(settings)
    seen = Seen if store is None else SeenInStore(store)
    claims = Claims()  # one for all: a container that two servers scrape is counted once
    tenancy = build_tenancy(settings)
    return [
        PrometheusSource(
            server, inventory, rules=settings.endpoints, profiles=profiles, claims=claims, tenancy=tenancy, seen=seen
        )
        for server in settings.prometheus
    ]


def build_tenancy(settings: Settings) -> Tenancy:
    """Rules of the mapping file, then those of the settings. Raises SettingsError."""
    rules = [*(_mapping_file(Path(settings.tenancy.file)) if settings.tenancy.file else ()), *settings.tenant_rules]
    try:
        return Tenancy(rules, settings.tenancy)
    except TenancyError as error:
        raise SettingsError((str(error),)) from error


def _mapping_file(path: Path) -> tuple[TenantRule, ...]:
    """The [[tenant_rules]] of a mapping file, checked like those of fleet.toml."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        message = f"tenancy.file: {path} cannot be read ({reason}); write the path of a TOML file with [[tenant_rules]]"
        raise SettingsError((message,)) from error
    found = load_settings(text, {}, origin=str(path))
    others = sorted(name for name in found.origins if not name.startswith("tenant_rules["))
    if others:
        raise SettingsError(tuple(f"{path}: {name}: not a tenant rule; write it into fleet.toml" for name in others))
    return found.tenant_rules


class MigratingStore:
    """A store whose schema is brought up to date before the first batch, whenever that is.

    A server may be away when the collector starts: its batches then wait in the spool instead of ending the process.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._migrated = False

    def migrate(self) -> None:
        """Bring the schema up to date once. Raises StoreError, StoreUnavailable."""
        with self._lock:
            if not self._migrated:
                self.store.migrate()
                self._migrated = True

    def insert(self, inserts: Sequence[Insert]) -> None:
        """As Store.insert."""
        self.migrate()
        self.store.insert(inserts)


def images_before(store: Store) -> dict[str, dict[str, str]]:
    """Host -> container_key -> image id, as the store last knew them; empty when it is away."""
    try:
        rows = store.query(
            "SELECT host, container_key, argMax(image_id, seen_at) AS image FROM containers "
            "WHERE image_id != '' GROUP BY host, container_key"
        ).to_pylist()
    except StoreUnavailable:
        return {}
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found.setdefault(str(row["host"]), {})[str(row["container_key"])] = str(row["image"])
    return found


def build_store(settings: Settings, *, opener: Callable[[str, StoreOptions], Store] = open_store) -> MigratingStore:
    """The store of the settings, with its schema in place if it can be reached.

    Raises SettingsError; StoreError when it cannot be used at all; StoreUnavailable when the embedded one is held by
    another process. A server that is away is no error here.
    """
    dsn = settings.store_dsn()
    migrating = MigratingStore(opener(dsn, StoreOptions(memory_limit_bytes=settings.store.memory_limit_bytes)))
    try:
        migrating.migrate()
    except StoreUnavailable as error:
        if settings.embedded:
            raise
        log.warning("store %s is away (%s), batches wait on disk", masked(settings.store.dsn), error)
    return migrating


def retention_policy(settings: Settings) -> RetentionPolicy:
    """How long the store keeps what; events live in months, so they stay as long as the 1-hour rollup, rounded."""
    tiers = settings.retention
    return RetentionPolicy(
        raw_days=tiers.raw_days,
        minute_days=tiers.minute_days,
        hour_days=tiers.hour_days,
        event_months=max(1, round(tiers.hour_days / 30.4)),
    )
