"""NET: who reaches a container, and whom it reaches."""

from __future__ import annotations

import re
from collections.abc import Callable

from fleet.posture.catalogue import Severity
from fleet.posture.container import Container
from fleet.posture.evidence import Evidence
from fleet.posture.reading import mapping, safe
from fleet.posture.runtime import shared_with_host
from fleet.posture.verdicts import Answer, Unread, Verdict, failed, judged, not_applicable, passed

_VLLM_KEY = "--api-key"
_EMPTY = frozenset({"", "''", '""'})


def _host_network(one: Container, evidence: Evidence) -> Answer:
    return shared_with_host(one, evidence, "NetworkMode")


def _open_ports(one: Container, _: Evidence) -> Answer:
    found = [
        failed(
            f"{binding.host_address or 'all interfaces'}:{binding.host_port or 'any'} to {binding.port}"
            + ("" if binding.effective else ", declared, not in effect now"),
            binding.path,
            key=binding.port,
            severity=None if binding.effective else Severity.INFO,
        )
        for binding in one.bindings
        if binding.host_address in {"", "0.0.0.0", "::", "[::]"}  # noqa: S104  what Docker writes for all interfaces
    ]
    # IPv4 and IPv6 are two entries of one decision.
    return list({one.key: one for one in reversed(found)}.values())[::-1] or passed("none", "NetworkSettings.Ports")


def _low_ports(one: Container, _: Evidence) -> Answer:
    found = {
        binding.host_port: failed(
            str(binding.host_port) + ("" if binding.effective else ", declared, not in effect now"),
            binding.path,
            key=str(binding.host_port),
            severity=None if binding.effective else Severity.INFO,
        )
        for binding in one.bindings
        if 0 < binding.host_port < 1024
    }
    return list(found.values()) or passed("none", "NetworkSettings.Ports")


def _default_bridge(one: Container, _: Evidence) -> Answer:
    mode = one.host.text("NetworkMode")
    return judged(mode not in {"default", "bridge"}, safe(mode, 60), "HostConfig.NetworkMode")


# --- servers that have no login of their own ---------------------------------------------------------------------


def _option(words: tuple[str, ...], name: str) -> str | None:
    """Value of `--name value` or `--name=value`; None when it is not there."""
    for number, word in enumerate(words):
        if word == name:
            return words[number + 1] if number + 1 < len(words) else ""
        if word.startswith(name + "="):
            return word[len(name) + 1 :]
    return None


def _has(image: str, words: tuple[str, ...], pattern: str) -> bool:
    return re.search(pattern, image) is not None or any(re.search(pattern, word) for word in words)


def _vllm(one: Container, image: str, words: tuple[str, ...]) -> bool:
    keyed = _option(words, _VLLM_KEY) not in {None, *_EMPTY} or any(
        name.startswith("VLLM_API_KEY") and value not in _EMPTY for name, value in one.environment.items()
    )
    return not keyed and _has(image, words, r"(?:^|[/._-])vllm\b")


def _jupyter(one: Container, _: str, words: tuple[str, ...]) -> bool:
    values = [_option(words, name) for name in ("--NotebookApp.token", "--ServerApp.token", "--IdentityProvider.token")]
    return any(value in _EMPTY for value in values if value is not None) or one.environment.get("JUPYTER_TOKEN") == ""


def _named(pattern: str) -> Callable[[Container, str, tuple[str, ...]], bool]:
    return lambda _one, image, words: _has(image, words[:3], pattern)


#: (server, whether this container is it and has no key, ports it listens on by default)
_SERVERS: tuple[tuple[str, Callable[[Container, str, tuple[str, ...]], bool], frozenset[str]], ...] = (
    ("Ollama", _named(r"(?:^|[/._-])ollama\b"), frozenset({"11434"})),
    ("vLLM without an API key", _vllm, frozenset({"8000"})),
    ("Jupyter without a token", _jupyter, frozenset({"8888"})),
    ("Text Generation Inference", _named(r"text-generation-(?:inference|launcher)"), frozenset({"80", "8080", "3000"})),
    ("Triton", _named(r"tritonserver"), frozenset({"8000", "8001", "8002"})),
    ("Ray dashboard", _named(r"(?:^|/)ray(?:project)?(?:$|[/:-])"), frozenset({"8265"})),
    ("MLflow", _named(r"(?:^|[/._-])mlflow\b"), frozenset({"5000"})),
)


def _open_service(one: Container, evidence: Evidence) -> Answer:
    image, words = one.reference.split("@")[0], one.arguments
    server = next((name for name, is_it, _ in _SERVERS if is_it(one, image, words)), None)
    if server is None:
        # An engine in an image of another name is not recognised.
        one.all_of("Args")
        return not_applicable("no AI server without a login of its own was recognised", "Config.Image")
    if evidence.namespace(one, "NetworkMode")[0] == "host":
        return failed(f"{server} on the host's network", "HostConfig.NetworkMode")
    outside = [binding for binding in one.bindings if binding.beyond_loopback]
    if not outside:
        return passed(f"{server}, not published beyond loopback", "NetworkSettings.Ports")
    effective = outside[0].effective
    observed = f"{server} on {outside[0].host_address or 'all interfaces'}:{outside[0].host_port or 'any'}"
    return failed(
        observed + ("" if effective else ", declared, not in effect now"),
        outside[0].path,
        severity=None if effective else Severity.INFO,
    )


def published(one: Container) -> bool | None:
    """True when a port in effect is reachable from other machines; None when that is not known."""
    try:
        return any(binding.effective and binding.beyond_loopback for binding in one.bindings)
    except Unread:
        return None


# --- networks ----------------------------------------------------------------------------------------------------


def shared_networks(evidence: Evidence) -> list[tuple[str, Verdict]]:
    """NET-05: for each network with members, whether they are of one tenant. (name, verdict)."""
    if evidence.networks is None:
        return []
    found: list[tuple[str, Verdict]] = []
    for network in evidence.networks:
        name = network.get("Name")
        if not isinstance(name, str) or network.get("Driver") in {"host", "null"}:
            continue
        found.append((safe(name, 120), _members(evidence, network, name)))
    return found


def _members(evidence: Evidence, network: object, name: str) -> Verdict:
    path = "Containers"
    try:
        listed = mapping(network, "").get("Containers")
        ids = set(mapping(listed, path))
        for one in evidence.containers:
            joined = one.top.section("NetworkSettings").section("Networks", optional=True).values
            if name in joined and one.id:
                ids.add(one.id)
    except Unread as missing:
        return Verdict(result="unknown", path=missing.path, why=missing.why)
    tenants = sorted({evidence.tenants[one] for one in ids if one in evidence.tenants})
    observed = f"{len(ids)} containers of {', '.join(safe(one, 40) for one in tenants[:5]) or 'no known tenant'}"
    if len(tenants) > 1:
        if name in evidence.shared_networks:
            return not_applicable("shared by the operator's decision", path, observed)
        return failed(observed, path)
    if any(one not in evidence.tenants for one in ids):
        return Verdict(result="unknown", observed=observed, path=path, why="the tenant of a member is not known")
    return passed(observed, path)


CHECKS = {
    "NET-01": _host_network,
    "NET-02": _open_ports,
    "NET-03": _low_ports,
    "NET-04": _default_bridge,
    "NET-06": _open_service,
}
