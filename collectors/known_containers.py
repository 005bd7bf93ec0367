"""What the store knew of a host's containers before this collector started."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fleet.model import Container
from store import Store, StoreError, StoreUnavailable

log = logging.getLogger(__name__)

#: Host -> container id -> newest row of each that is not removed; None when the store cannot be asked now.
KnownContainers = Callable[[str], Mapping[str, Container] | None]

_FIELDS = tuple(field.name for field in dataclasses.fields(Container))
_FLAGS = frozenset(field.name for field in dataclasses.fields(Container) if field.type == "bool")


def known_containers(store: Store, host: str) -> dict[str, Container] | None:
    """Container id -> its newest row, for the host's containers that are not removed; None when the store is away."""
    try:
        rows = store.query(
            f"SELECT {', '.join(_FIELDS)} FROM containers FINAL WHERE host = {{host:String}} AND removed = 0",
            {"host": host},
        ).to_pylist()
    except StoreUnavailable:
        return None
    except StoreError as error:
        # A schema that is not there yet, or a role that may only write: what was removed meanwhile stays in the list.
        log.warning("containers of %s before this start are not known: %s", host, error)
        return {}
    return {str(row["container_id"]): _container(row) for row in rows}


class KnownBefore:
    """`KnownContainers` of a store, read once for all daemons at the start; later only if the store was away then."""

    def __init__(self, store: Store, hosts: Iterable[str]) -> None:
        self._store = store
        self._read: dict[str, dict[str, Container]] = {}
        for host in hosts:
            found = known_containers(store, host)
            if found is None:
                break  # away for one host is away for all
            self._read[host] = found

    def __call__(self, host: str) -> dict[str, Container] | None:
        """As `known_containers`."""
        found = self._read.pop(host, None)
        return known_containers(self._store, host) if found is None else found


def _container(row: Mapping[str, Any]) -> Container:
    values: dict[str, Any] = {}
    for name in _FIELDS:
        value = row[name]
        if name == "labels":
            value = dict(value)
        elif isinstance(value, list):
            value = tuple(value)
        values[name] = bool(value) if name in _FLAGS else value
    return Container(**values)
