"""A Docker host as a whole: its stored facts, and the names and addresses under which others dial it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from fleet.inventory import ContainerFacts
from fleet.model import Host
from fleet.redaction import inert

_LOCAL_ADDRESS = re.compile(r"\|-- (\S+)\s*\n\s*/32 host LOCAL")
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1", "host.docker.internal", "gateway.docker.internal"})


def host_row(
    info: Mapping[str, object], version: Mapping[str, object], *, host: str, stats_path: str, seen_at: datetime
) -> Host:
    """The stored facts of a host from the daemon's /info and /version; None for a number it does not tell."""
    return Host(
        seen_at=seen_at,
        host=host,
        docker_version=_text(version.get("Version") or info.get("ServerVersion")),
        os=_text(info.get("OperatingSystem")),
        kernel=_text(info.get("KernelVersion") or version.get("KernelVersion")),
        cgroup_version=_text(info.get("CgroupVersion")),
        cgroup_driver=_text(info.get("CgroupDriver")),
        cpu_count=_positive(info.get("NCPU")),
        memory_total_bytes=_positive(info.get("MemTotal")),
        stats_path=stats_path,
    )


def host_addresses(
    info: Mapping[str, object], *, host: str, url: str, proc_root: str, containers: tuple[ContainerFacts, ...]
) -> frozenset[str]:
    """Names and addresses under which this host is dialled, as far as it and its containers tell. Asks no resolver."""
    swarm = info.get("Swarm")
    node = cast("Mapping[str, object]", swarm).get("NodeAddr") if isinstance(swarm, Mapping) else ""
    names = {host, _text(info.get("Name")), _text(node)}
    parts = urlsplit(url)
    if parts.scheme == "unix":
        names |= LOOPBACK_NAMES
        for process in ("1", "self"):  # 1: the host's own network when we run in a container with the host's PIDs
            try:
                text = Path(proc_root, process, "net/fib_trie").read_text(errors="replace")
            except OSError:
                continue
            names.update(_LOCAL_ADDRESS.findall(text))
    elif parts.hostname:
        names.add(parts.hostname)
    names.update(ip for facts in containers for ip, _, _ in facts.published_ports if ip not in {"0.0.0.0", "::"})  # noqa: S104
    return frozenset(name for name in names if name)


def _text(value: object) -> str:
    return inert(value, 128) if isinstance(value, str) else ""


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
