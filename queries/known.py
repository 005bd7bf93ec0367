"""The facts of containers and GPUs, read again only when any of them changed.

A page looks every few seconds, a container's facts change when it is created, stopped or removed. One small question
tells whether anything was written since; the facts of a thousand containers are 300 kB and cost 10 ms to take apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from fleet.model import Scope, Window
from queries.records import records
from queries.resolution import epoch_ms
from queries.scoping import of_tenants
from queries.sharing import KEPT_SECONDS, shared, shared_for
from store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What the facts' tables held at a moment. Times are epoch milliseconds, 0 = none."""

    containers: int
    containers_seen_ms: int
    containers_created_ms: int
    gpus: int
    gpus_seen_ms: int


@shared
def version(store: Store) -> Version:
    """Differs from the one before whenever a fact was written (and when the engine merged rows, which is harmless)."""
    row: dict[str, Any] = store.query(
        "SELECT count() AS containers, toUnixTimestamp64Milli(max(seen_at)) AS containers_seen_ms,"
        " toUnixTimestamp64Milli(max(created_at)) AS containers_created_ms,"
        " (SELECT count() FROM gpus) AS gpus, (SELECT toUnixTimestamp64Milli(max(seen_at)) FROM gpus) AS gpus_seen_ms"
        " FROM containers"
    ).to_pylist()[0]
    return Version(**{name: int(value or 0) for name, value in row.items()})


@dataclass(slots=True)
class Known:
    """Facts of containers, one row each, as columns and (taken apart when first asked for) as rows."""

    table: pa.Table
    keys: dict[str, int]  # container_key -> row
    _rows: list[dict[str, object]] = field(default_factory=list[dict[str, object]])

    @property
    def rows(self) -> list[dict[str, object]]:
        """The same as Python rows; shared, so not to be changed."""
        if not self._rows and self.table.num_rows:
            self._rows = self.table.to_pylist()
        return self._rows


def known_containers(store: Store, scope: Scope, window: Window, host: str | None) -> Known:
    """Facts of the scope's containers that exist at the window's end, by name, then container_key."""
    now, end_ms = version(store), epoch_ms(window.end)
    if max(now.containers_seen_ms, now.containers_created_ms) <= end_ms:
        return _present(store, scope, host, now)
    return _at(store, scope, host, end_ms)


@shared_for(KEPT_SECONDS)
def _present(store: Store, scope: Scope, host: str | None, _: Version) -> Known:
    """For an end after everything that was written: then all that is not removed is there, whenever the end is."""
    return _read(store, scope, host, "removed = 0", {})


@shared
def _at(store: Store, scope: Scope, host: str | None, end_ms: int) -> Known:
    # One created later is not yet there, one removed later still is.
    condition = (
        "(created_at IS NULL OR created_at <= fromUnixTimestamp64Milli({window_end:Int64}, 'UTC'))"
        " AND (removed = 0 OR seen_at > fromUnixTimestamp64Milli({window_end:Int64}, 'UTC'))"
    )
    return _read(store, scope, host, condition, {"window_end": end_ms})


def _read(store: Store, scope: Scope, host: str | None, condition: str, parameters: dict[str, object]) -> Known:
    # A container recreated under its name keeps its key: the newest one is shown.
    where = of_tenants(scope, host=host).also(condition, **parameters)
    found = store.query(
        f"""
        SELECT container_key, container_id, name, tenant, team, owner, tenant_origin, host, image, image_digest,
            image_created_at, compose_project, compose_service, user, state, health, exit_code, error, created_at,
            started_at, finished_at, restart_count, cpu_limit_cores, memory_limit_bytes, gpu_request, gpu_uuids,
            privileged
        FROM containers FINAL WHERE {where.sql}
        ORDER BY container_key, created_at DESC LIMIT 1 BY container_key LIMIT 5000
        """,
        where.parameters,
    )
    table = found.sort_by([("name", "ascending"), ("container_key", "ascending")]).combine_chunks()
    return Known(table, {key: place for place, key in enumerate(table["container_key"].to_pylist())})


def gpu_names(store: Store) -> list[dict[str, object]]:
    """Index and model of every known GPU; who may see which is the caller's matter."""
    now = version(store)
    return _gpus(store, now.gpus, now.gpus_seen_ms)


@shared_for(KEPT_SECONDS)
def _gpus(store: Store, _count: int, _seen_ms: int) -> list[dict[str, object]]:
    return records(
        store.query(
            "SELECT host, gpu_uuid, parent_uuid, gpu_index, name, mig_profile, memory_total_bytes, driver_version,"
            " pci_bus_id, power_limit_watts FROM gpus FINAL ORDER BY host, gpu_index, gpu_uuid"
        )
    )
