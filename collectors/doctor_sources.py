"""The doctor's checks of what is read: Docker (D), NVML (N), Prometheus (P). Each looks at one poll's outcome."""

from __future__ import annotations

import stat
from pathlib import Path

from collectors.doctor_check import Check, State
from collectors.outcome import Outcome
from fleet.inventory import ContainerFacts, HostInventory
from fleet.model import Host, InferenceSample
from fleet.settings import DockerDaemon

UNJOINED = frozenset({"", "none", "ambiguous"})


def no_docker() -> Check:
    """D001 when the settings name no daemon."""
    return Check(
        id="D001",
        title="Docker daemon answers",
        state="WARN",
        found="no daemon in the settings",
        next_step="Write [[docker]] into fleet.toml, or remove `docker = []`",
    )


def docker_reachable(daemon: DockerDaemon, outcome: Outcome) -> Check:
    """D001: the daemon answers and its containers can be listed."""
    if outcome.failed:
        found, step, state = f"{daemon.url}: {outcome.reason}: {outcome.error}", outcome.next_step, "FAIL"
    elif outcome.state == "partial":
        found, step, state = f"{daemon.url}: {outcome.error}", outcome.next_step or "Look at the reasons above", "WARN"
    else:
        found, step, state = f"{daemon.url} answers, {len(outcome.rows)} rows", "", "PASS"
    return _check("D001", "Docker daemon answers", daemon.name, state, found, step)


def host_pid_view(daemon: DockerDaemon, host: HostInventory) -> Check:
    """D002: /proc shows the host's processes, which is how a GPU process finds its container."""
    title = "Host's processes are visible"
    if not host.local:
        return _check("D002", title, daemon.name, "PASS", "remote daemon: its GPUs are read by its own collector", "")
    running = [facts for facts in host.containers if facts.pid > 0]
    if not running:
        step = "Start a container and run doctor again; a collector in a container needs --pid=host"
        return _check("D002", title, daemon.name, "WARN", "no running container to check it with", step)
    seen = [facts for facts in running if _is_ours(facts, Path(daemon.proc_root))]
    if seen:
        words = f"{len(seen)} of {len(running)} running containers found in {daemon.proc_root}"
        return _check("D002", title, daemon.name, "PASS", words, "")
    words = f"none of {len(running)} running containers is found in {daemon.proc_root}"
    step = "Run the collector on the host or with --pid=host; without it no GPU use is attributed to containers"
    return _check("D002", title, daemon.name, "FAIL", words, step)


def cgroup_path(daemon: DockerDaemon, host: HostInventory, outcome: Outcome) -> Check:
    """D003: container statistics come from the cgroup files, which cost the daemon nothing."""
    title = "Container statistics from cgroup files"
    if not host.local:
        return _check("D003", title, daemon.name, "PASS", "remote daemon: its API is asked", "")
    paths = {row.stats_path for row in outcome.rows if isinstance(row, Host)}
    if "cgroup" in paths:
        return _check("D003", title, daemon.name, "PASS", f"read from {daemon.cgroup_root}", "")
    if daemon.statistics == "api":
        return _check("D003", title, daemon.name, "PASS", "the settings ask for the API", "")
    words = f"not readable below {daemon.cgroup_root}; the daemon's API is asked, which costs it up to 1 s a container"
    step = "Mount the host's /sys/fs/cgroup read-only and set cgroup_root, or run on the host"
    return _check("D003", title, daemon.name, "WARN", words, step)


def docker_exposure(daemon: DockerDaemon) -> Check:
    """D004: who else can become root through this daemon."""
    title = "Access to Docker is not wider than needed"
    if daemon.url.startswith("tcp://") and not daemon.tls_cert_file:
        step = "Use ssh:// or TLS certificates (tls_ca_file, tls_cert_file, tls_key_file)"
        return _check("D004", title, daemon.name, "FAIL", "plain tcp: everyone who reaches the port is root", step)
    if not daemon.url.startswith("unix://"):
        return _check("D004", title, daemon.name, "PASS", f"{daemon.url.partition(':')[0]} with authentication", "")
    path = Path(daemon.url.removeprefix("unix://"))
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return _check("D004", title, daemon.name, "WARN", f"{path}: {error.strerror}", "See D001")
    if mode & stat.S_IWOTH:
        words = f"{path} is writable for everyone ({stat.filemode(mode)}): every user of this machine is root"
        return _check("D004", title, daemon.name, "FAIL", words, f"chmod o-rw {path}")
    words = f"{path} is {stat.filemode(mode)}; whoever may write to it is root, so keep it to the collector alone"
    return _check("D004", title, daemon.name, "PASS", words, "")


def nvml_off() -> Check:
    """N001 when the settings switch NVML off."""
    return _check("N001", "NVML library and driver", "", "PASS", "switched off in the settings", "")


def nvml(target: str, outcome: Outcome) -> Check:
    """N001: library and driver answer; no GPU is a normal state."""
    title = "NVML library and driver"
    if outcome.failed:
        found = f"{outcome.reason}: {outcome.error}"
        return _check("N001", title, target, "FAIL", found, outcome.next_step or "Look at nvidia-smi on the host")
    if outcome.state == "absent":
        return _check("N001", title, target, "PASS", outcome.detail or "no GPU in this host, nothing to read", "")
    if outcome.state == "partial":
        return _check(
            "N001", title, target, "WARN", outcome.error, outcome.next_step or "Look at nvidia-smi on the host"
        )
    return _check("N001", title, target, "PASS", outcome.detail or f"{len(outcome.rows)} rows", "")


def no_prometheus() -> Check:
    """P001 when the settings name no server."""
    step = 'Write [[prometheus]] with url = "http://127.0.0.1:9090" for latency, tokens and queues'
    return _check("P001", "Prometheus answers", "", "WARN", "no server in the settings", step)


def prometheus_reachable(target: str, outcome: Outcome) -> Check:
    """P001: the server answers queries."""
    if outcome.failed:
        found = f"{outcome.reason}: {outcome.error}"
        return _check("P001", "Prometheus answers", target, "FAIL", found, outcome.next_step)
    if outcome.state == "partial":
        return _check("P001", "Prometheus answers", target, "WARN", outcome.error, outcome.next_step or "See its log")
    return _check("P001", "Prometheus answers", target, "PASS", f"{len(outcome.rows)} rows", "")


def prometheus_joinable(target: str, outcome: Outcome) -> Check:
    """P002: the inference endpoints it scrapes can be told to be certain containers."""
    title = "Inference endpoints are joined to containers"
    endpoints = {row.endpoint: row for row in outcome.rows if isinstance(row, InferenceSample)}
    if not endpoints:
        step = "Let it scrape your inference servers (docs/operations.md has the scrape configuration)"
        return _check("P002", title, target, "WARN", "it scrapes no inference endpoint that is known", step)
    unjoined = sorted(name for name, row in endpoints.items() if row.joined_by in UNJOINED)
    if not unjoined:
        return _check("P002", title, target, "PASS", f"all {len(endpoints)}", "")
    words = f"{len(unjoined)} of {len(endpoints)} not joined: {', '.join(unjoined[:5])}"
    step = "Keep __meta_docker_container_id as label container_id, or write [[endpoints]] into fleet.toml"
    return _check("P002", title, target, "WARN", words, step)


def _is_ours(facts: ContainerFacts, proc_root: Path) -> bool:
    try:
        return facts.row.container_id in (proc_root / str(facts.pid) / "cgroup").read_text(errors="replace")
    except OSError:
        return False


def _check(number: str, title: str, target: str, state: State, found: str, next_step: str) -> Check:
    return Check(id=number, title=title, target=target, state=state, found=found, next_step=next_step)
