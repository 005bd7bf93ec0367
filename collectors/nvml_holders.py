"""Which containers were given which device: the declared side, resolved on this host's full list."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from datetime import datetime

from fleet.allocation import resolve
from fleet.inventory import ContainerFacts, HostGpu, HostInventory
from fleet.model import Gap

NOBODY: Set[str] = frozenset()


class Holders:
    """Worked out anew when a daemon's list or the GPUs changed; nothing else changes the answer."""

    def __init__(self) -> None:
        self._basis: object = None
        self._held: Mapping[str, Set[str]] = {}
        self._with_parts: Mapping[str, Set[str]] = {}
        self._asked = False
        self.running: Mapping[str, ContainerFacts] = {}  # by container id
        self.gaps: tuple[Gap, ...] = ()  # ids that name nothing on this host
        self.oldest: datetime | None = None  # when the oldest of the lists was made

    def update(self, inventories: Sequence[HostInventory], gpus: Sequence[HostGpu]) -> None:
        """Take over the newest lists. inventories: daemons of this machine; gpus: its full list."""
        basis = (tuple((one.host, one.at) for one in inventories), tuple(gpus))
        if basis == self._basis:
            return
        self._basis = basis
        self._asked = bool(inventories)
        self.oldest = min((one.at for one in inventories), default=None)
        self.running = {
            one.row.container_id: one for inventory in inventories for one in inventory.containers if one.pid > 0
        }
        held: dict[str, set[str]] = defaultdict(set)
        gaps: list[Gap] = []
        for container in self.running.values():
            allocation = resolve(container.gpu, gpus)
            for uuid in allocation.uuids:
                held[uuid].add(container.row.container_id)
            if allocation.unresolved and gpus:
                missing = ", ".join(allocation.unresolved)
                detail = f"requested GPU {missing}, which is not on this host ({container.gpu.text})"
                gaps.append(Gap(subject=container.row.container_key, reason="gone", detail=detail))
        with_parts = {uuid: set(names) for uuid, names in held.items()}
        for gpu in gpus:
            if gpu.parent_uuid:
                with_parts.setdefault(gpu.parent_uuid, set()).update(held.get(gpu.uuid, NOBODY))
        self._held, self._with_parts, self.gaps = dict(held), with_parts, tuple(gaps)

    def of(self, uuid: str) -> Set[str]:
        """Ids of the containers that were given this very device."""
        return self._held.get(uuid, NOBODY)

    def count(self, uuid: str) -> int | None:
        """How many containers hold the device or a MIG device of it; None when no daemon has been asked."""
        return len(self._with_parts.get(uuid, NOBODY)) if self._asked else None
