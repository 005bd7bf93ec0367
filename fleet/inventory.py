"""Who runs where, right now: the container facts that sources hand to one another.

The Docker source publishes a snapshot per host after each poll; the NVML and Prometheus sources read it to
turn PIDs, GPU ids and addresses into containers. The NVML source publishes its host's GPUs, on which the Docker source
resolves what containers ask for. Sources never import each other: this is their only meeting point.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from fleet.model import Container


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRequest:
    """What `docker inspect` says about GPUs, unresolved: device requests, CDI names, environment, device nodes.

    kind: "none" | "all" | "count" | "ids" | "device_nodes" | "privileged".
    """

    kind: str = "none"
    count: int = 0
    ids: tuple[str, ...] = ()
    text: str = ""  # as a person would have typed it, e.g. '--gpus device=0,1'


@dataclass(frozen=True, slots=True, kw_only=True)
class HostGpu:
    """One GPU or MIG device as the driver lists it; `index` counts whole GPUs in NVML (PCI bus) order.

    A MIG device has `parent_uuid` and its place on the parent (`mig_index`, and the instance ids).
    """

    uuid: str
    index: int
    name: str = ""
    minor_number: int | None = None
    mig_enabled: bool = False
    parent_uuid: str = ""
    mig_index: int | None = None
    gpu_instance: int | None = None
    compute_instance: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerFacts:
    """One container: the storable facts plus what joining needs and nothing shows."""

    row: Container
    pid: int = 0  # State.Pid in the daemon's PID namespace; 0 when not running
    network_addresses: Mapping[str, str] = field(default_factory=dict[str, str])  # network name -> IP
    aliases: frozenset[str] = frozenset()  # names other containers may dial
    published_ports: tuple[tuple[str, int, int], ...] = ()  # (host ip, host port, container port)
    exposed_ports: frozenset[int] = frozenset()
    host_network: bool = False
    gpu: GpuRequest = field(default_factory=GpuRequest)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostInventory:
    """All containers of one daemon at one moment. `addresses`: names and IPs under which the host itself is dialled."""

    host: str
    at: datetime
    local: bool  # the daemon runs on this machine, so its PIDs and cgroups are ours to read
    containers: tuple[ContainerFacts, ...]
    addresses: frozenset[str] = frozenset()


class Inventory:
    """The newest snapshot of every host, safe to read and publish from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hosts: dict[str, HostInventory] = {}
        self._gpus: dict[str, tuple[HostGpu, ...]] = {}

    def publish(self, snapshot: HostInventory) -> None:
        """Replace the snapshot of one host."""
        with self._lock:
            self._hosts[snapshot.host] = snapshot

    def hosts(self) -> tuple[HostInventory, ...]:
        """Newest snapshot of each host, by host name."""
        with self._lock:
            return tuple(self._hosts[name] for name in sorted(self._hosts))

    def publish_gpus(self, host: str, gpus: tuple[HostGpu, ...]) -> None:
        """Replace the GPU list of this machine, under its host name; an empty list says nothing and is left out."""
        if gpus:
            with self._lock:
                self._gpus[host] = gpus

    def gpu_uuids(self) -> frozenset[str]:
        """UUIDs of all GPUs and MIG devices that have been published."""
        with self._lock:
            return frozenset(gpu.uuid for gpus in self._gpus.values() for gpu in gpus)

    def host_gpus(self, host: str, *, local: bool) -> tuple[HostGpu, ...] | None:
        """The full GPU list of a daemon's host; None while nobody has listed it.

        local: the daemon runs on this machine. Its name may then differ from the one the GPUs are known under (a
        second daemon, a rootless one), and the only list there is, is that of this machine.
        """
        with self._lock:
            found = self._gpus.get(host)
            if found is None and local and len(self._gpus) == 1:
                found = next(iter(self._gpus.values()))
            return found
