"""`python -m collectors doctor`: is everything there that collecting needs, and if not, what is the next step?

Check ids are stable: scripts and runbooks name them. A new check gets a new id; an id is never used again.
C settings, D Docker, N NVML, P Prometheus, S store and machine, G what is open to the network.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime

from collectors import build
from collectors import doctor_machine as machine
from collectors import doctor_sources as checks
from collectors.base import Source
from collectors.doctor_check import Check
from collectors.once import plain
from collectors.outcome import Outcome, guarded, poll_within
from collectors.runner import utc_now
from fleet.inventory import Inventory
from fleet.settings import Settings

_ORDER = "CDNPSG"


def examine(settings: Settings, *, wall: Callable[[], datetime] = utc_now) -> list[Check]:
    """All checks, in the order of their ids. Raises SettingsError when the tenant rules cannot be used."""
    inventory = Inventory()
    docker = build.docker_sources(settings, inventory)
    others = [*build.nvml_sources(settings, inventory), *build.prometheus_sources(settings, inventory)]
    found = [*machine.named_files(settings)]
    outcomes = _read(docker, wall)
    hosts = {host.host: host for host in inventory.hosts()}
    for daemon, (source, outcome) in zip(settings.docker, outcomes, strict=True):
        found.append(checks.docker_reachable(daemon, outcome))
        host = hosts.get(source.target)
        if host is not None and not outcome.failed:
            found += [checks.host_pid_view(daemon, host), checks.cgroup_path(daemon, host, outcome)]
        found.append(checks.docker_exposure(daemon))
    if not settings.docker:
        found.append(checks.no_docker())
    outcomes = _read(others, wall)
    if settings.nvml.enabled == "off":
        found.append(checks.nvml_off())
    for source, outcome in outcomes:
        if source.kind == "nvml":
            found.append(checks.nvml(source.target, outcome))
        else:
            found.append(checks.prometheus_reachable(source.target, outcome))
            if not outcome.failed:
                found.append(checks.prometheus_joinable(source.target, outcome))
    if not settings.prometheus:
        found.append(checks.no_prometheus())
    found += [
        machine.store_opens(settings),
        machine.disk_space(settings),
        machine.clock_sane(wall()),
        machine.spool_empty(settings),
        machine.gateway_address(settings),
        machine.dashboard_address(settings),
    ]
    return sorted(found, key=lambda check: (_ORDER.index(check.id[0]), check.id, check.target))


def _read(sources: Sequence[Source], wall: Callable[[], datetime]) -> list[tuple[Source, Outcome]]:
    found: list[tuple[Source, Outcome]] = []
    for source in sources:
        outcome, _ = poll_within(source, wall())
        found.append((source, outcome))
        if outcome.reason != "timeout":  # its close would hang as well
            guarded(f"close of {source.kind}", source.close)
    return found


def as_text(checks: Sequence[Check]) -> str:
    """One line a check, the next step below those that did not pass, a count at the end."""
    lines: list[str] = []
    for check in checks:
        target = f" [{plain(check.target)}]" if check.target else ""
        lines.append(f"{check.state}  {check.id}  {check.title}{target}: {plain(check.found)}")
        if check.next_step:
            lines.append(f"{'':12}next: {plain(check.next_step)}")
    counts = Counter(check.state for check in checks)
    lines.append(f"{counts['PASS']} passed, {counts['WARN']} warnings, {counts['FAIL']} failed")
    return "\n".join(lines)


def as_json(checks: Sequence[Check]) -> str:
    """The checks as a JSON list."""
    return json.dumps([asdict(check) for check in checks], indent=1, ensure_ascii=False)
