"""A compose file's services in the shape of inspect, so that the same checks judge them before they run.

Reads the JSON that `docker compose config --format json` prints: merged, interpolated, in compose's long forms. What
the image decides (its user, health check, ports, variables) is unknown unless the image is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from fleet.posture.container import Container
from fleet.posture.evidence import Image
from fleet.posture.reading import Json, safe
from fleet.posture.verdicts import Unread
from fleet.tenancy import COMPOSE_PROJECT, COMPOSE_SERVICE

_UNITS = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE)
#: Where inspect's fields stand in a compose file.
_PLACES = {
    "HostConfig.Privileged": "privileged", "HostConfig.CapAdd": "cap_add", "HostConfig.CapDrop": "cap_drop",
    "HostConfig.SecurityOpt": "security_opt", "HostConfig.ReadonlyRootfs": "read_only", "HostConfig.PidMode": "pid",
    "HostConfig.IpcMode": "ipc", "HostConfig.UTSMode": "uts", "HostConfig.UsernsMode": "userns_mode",
    "HostConfig.NetworkMode": "network_mode", "HostConfig.Memory": "mem_limit", "HostConfig.MemorySwap":
    "memswap_limit", "HostConfig.NanoCpus": "cpus", "HostConfig.CpuQuota": "cpu_quota", "HostConfig.CpuShares":
    "cpu_shares", "HostConfig.CpusetCpus": "cpuset", "HostConfig.PidsLimit": "pids_limit", "HostConfig.ShmSize":
    "shm_size", "HostConfig.Ulimits": "ulimits", "HostConfig.Devices": "devices", "HostConfig.OomKillDisable":
    "oom_kill_disable", "HostConfig.RestartPolicy": "restart", "HostConfig.LogConfig": "logging",
    "HostConfig.DeviceRequests": "deploy.resources.reservations.devices", "HostConfig.PortBindings": "ports",
    "HostConfig.Runtime": "runtime", "NetworkSettings.Ports": "ports", "Config.User": "user", "Config.Env":
    "environment", "Config.Labels": "labels", "Config.Image": "image", "Config.Healthcheck": "healthcheck",
    "Config.ExposedPorts": "expose", "Mounts": "volumes", "Args": "command",
}  # fmt: skip
_FROM_IMAGE = ("Config.User", "Config.Healthcheck", "Config.ExposedPorts", "Args")


class ComposeError(ValueError):
    """The document is no compose configuration; says where, what was found, what to write."""


def services(document: object, image_of: Callable[[str], Image | None]) -> list[Container]:
    """The services as containers. `image_of` gives the image of a reference, None if unknown. Raises ComposeError."""
    if not isinstance(document, dict):
        raise ComposeError(f"found {_kind(document)}; write the output of docker compose config --format json")
    top = cast("dict[str, object]", document)
    found = top.get("services")
    if not isinstance(found, dict) or not found:
        raise ComposeError("found no services; write the output of docker compose config --format json")
    project = top.get("name")
    made: list[Container] = []
    for name, service in cast("dict[str, object]", found).items():
        if not isinstance(service, dict):
            raise ComposeError(f"services: one is {_kind(service)}; write an object with image, command and so on")
        part = cast("dict[str, object]", service)
        reference = part.get("image")
        image = image_of(reference) if isinstance(reference, str) else None
        made.append(_container(project if isinstance(project, str) else "", name, part, image))
    return made


def _kind(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _container(project: str, name: str, service: Json, image: Image | None) -> Container:
    brought = _image_config(image)
    inspect: dict[str, object] = {
        "Id": f"{project}/{name}",
        "Name": f"/{service.get('container_name') or f'{project}-{name}-1'}",
        "State": {"Status": "created"},
        "RestartCount": 0,
        "AppArmorProfile": "",
        "HostConfig": _host_config(service),
        "Config": _config(project, name, service, brought),
        "Mounts": _mounts(service),
        "NetworkSettings": {"Ports": _ports(service), "Networks": service.get("networks") or {}},
    }
    words = _words(service, brought)
    inspect["Args"] = words or []
    unread = set[str]()
    if brought is None:
        for path, key in zip(_FROM_IMAGE, ("user", "healthcheck", "expose", "command"), strict=True):
            if service.get(key) is None and not (path == "Args" and words):
                unread.add(path)
    partial = frozenset({"Config.Env", "Args"}) if brought is None else frozenset[str]()
    return Container(inspect, unread=frozenset(unread), partial=partial, kind="compose", place=_place(name))


def _place(name: str) -> Callable[[str], str]:
    shown = safe(name, 60)

    def place(path: str) -> str:
        if not path or path.split(".")[0] in {"info", "image", "version", "scan"}:
            return path
        for prefix, key in _PLACES.items():
            if path == prefix or path.startswith((f"{prefix}.", f"{prefix}[")):
                # The other lists are not in compose's order.
                number = re.match(r"\[\d+\]", path[len(prefix) :]) if prefix == "Mounts" else None
                return f"services.{shown}.{key}{number[0] if number else ''}"
        return f"services.{shown}"

    return place


def _image_config(image: Image | None) -> Json | None:
    try:
        return None if image is None else image.config.values
    except Unread:
        return None


def _host_config(service: Json) -> dict[str, object]:
    limits = _below(service, "deploy", "resources", "limits")
    options = service.get("security_opt")
    unmasked = isinstance(options, list) and any("systempaths" in str(one) for one in cast("list[object]", options))
    paths: list[str] = [] if unmasked else ["as the engine sets them"]
    restart = str(service.get("restart") or "no")
    return {
        "Privileged": service.get("privileged", False),
        "CapAdd": service.get("cap_add"),
        "CapDrop": service.get("cap_drop"),
        "SecurityOpt": options,
        "ReadonlyRootfs": service.get("read_only", False),
        "PidMode": _mode(service.get("pid")),
        "IpcMode": _mode(service.get("ipc")),
        "UTSMode": service.get("uts") or "",
        "UsernsMode": service.get("userns_mode") or "",
        "NetworkMode": _mode(service.get("network_mode")) or "compose",
        "Runtime": service.get("runtime") or "",
        "Memory": _bytes(service.get("mem_limit") or limits.get("memory") or 0),
        "MemorySwap": _bytes(service.get("memswap_limit") or 0),
        "NanoCpus": _nano_cpus(service.get("cpus") or limits.get("cpus") or 0),
        "CpuQuota": service.get("cpu_quota") or 0,
        "CpuShares": service.get("cpu_shares") or 0,
        "CpusetCpus": service.get("cpuset") or "",
        "PidsLimit": service.get("pids_limit") or limits.get("pids"),
        "OomKillDisable": service.get("oom_kill_disable", False),
        "ShmSize": _bytes(service.get("shm_size") or 67_108_864),
        "Ulimits": [{"Name": name} for name in _mapping(service.get("ulimits"))],
        "Devices": _devices(service.get("devices")),
        "DeviceRequests": _device_requests(service),
        "MaskedPaths": paths,
        "ReadonlyPaths": paths,
        "RestartPolicy": {
            "Name": restart.split(":")[0],
            "MaximumRetryCount": int(count) if (count := restart.partition(":")[2]).isdigit() else 0,
        },
        "LogConfig": {
            "Type": _mapping(service.get("logging")).get("driver") or "",
            "Config": _mapping(service.get("logging")).get("options") or {},
        },
        "PortBindings": _bindings(service),
    }


def _config(project: str, name: str, service: Json, brought: Json | None) -> dict[str, object]:
    image = brought or {}
    labels = {**_mapping(image.get("Labels")), **_pairs(service.get("labels"))}
    inherited = image.get("Env")
    environment = {
        str(line).partition("=")[0]: str(line).partition("=")[2]
        for line in (cast("list[object]", inherited) if isinstance(inherited, list) else [])
    }
    for key, value in _pairs(service.get("environment")).items():
        environment[key] = f"${{{key}}}" if value is None else _scalar(value)
    exposed = {str(port) if "/" in str(port) else f"{port}/tcp" for port in _list(service.get("expose"))}
    health = _mapping(service.get("healthcheck"))
    config: dict[str, object] = {
        "Image": service.get("image") or f"{project}-{name}",
        "User": service.get("user") if service.get("user") is not None else image.get("User", ""),
        "Env": [f"{key}={value}" for key, value in environment.items()],
        "ExposedPorts": dict.fromkeys((*exposed, *_mapping(image.get("ExposedPorts")))),
        "Labels": {**labels, COMPOSE_PROJECT: project, COMPOSE_SERVICE: name},
    }
    if health:
        test = health.get("test")
        config["Healthcheck"] = {
            "Test": ["NONE"] if health.get("disable") else [test] if isinstance(test, str) else test
        }
    elif image.get("Healthcheck") is not None:
        config["Healthcheck"] = image["Healthcheck"]
    return config


def _words(service: Json, brought: Json | None) -> list[str]:
    """Entrypoint and command, the image's where the service has none."""
    found: list[str] = []
    for key, images in (("entrypoint", "Entrypoint"), ("command", "Cmd")):
        value = service.get(key)
        if value is None and brought is not None and not (key == "command" and service.get("entrypoint") is not None):
            value = brought.get(images)
        found += [value] if isinstance(value, str) else [_scalar(word) for word in _list(value)]
    return found


def _mode(value: object) -> object:
    """`service:name` is a container of this file; it is not in the data by that name, so it stays unresolved."""
    return value.replace("service:", "container:") if isinstance(value, str) else value or ""


def _mounts(service: Json) -> list[dict[str, object]]:
    made: list[dict[str, object]] = []
    for one in _list(service.get("volumes")):
        volume = _mapping(one)
        kind, source = volume.get("type", "volume"), volume.get("source") or ""
        made.append(
            {
                "Type": kind,
                "Source": source if kind == "bind" else "",
                # A volume without a source gets a name of 64 digits when it is made.
                "Name": "" if kind != "volume" else source or "0" * 64,
                "Destination": volume.get("target") if volume else None,
                "RW": not volume.get("read_only", False),
                "Propagation": _mapping(volume.get("bind")).get("propagation") or "",
            }
        )
    for one in _list(service.get("secrets")):
        secret = _mapping(one)
        target = str(secret.get("target") or secret.get("source") or one)
        path = target if target.startswith("/") else f"/run/secrets/{target}"
        made.append({"Type": "secret", "Source": "", "Name": "", "Destination": path, "RW": False, "Propagation": ""})
    return made


def _bindings(service: Json) -> dict[str, list[dict[str, str]]]:
    made: dict[str, list[dict[str, str]]] = {}
    for one in _list(service.get("ports")):
        port = _mapping(one)
        key = f"{port.get('target', '')}/{port.get('protocol', 'tcp')}"
        published = str(port.get("published") or "").split("-")[0]
        made.setdefault(key, []).append({"HostIp": str(port.get("host_ip") or ""), "HostPort": published})
    return made


def _ports(service: Json) -> dict[str, list[dict[str, str]]]:
    """What will be in effect: nothing on the host's network or on none."""
    mode = service.get("network_mode")
    return {} if isinstance(mode, str) and mode != "bridge" else _bindings(service)


def _devices(value: object) -> list[dict[str, object]]:
    """`devices`, but for CDI names, which are requests for GPUs."""
    made: list[dict[str, object]] = []
    for one in _list(value):
        source = one.split(":")[0] if isinstance(one, str) else _mapping(one).get("source")
        if not (isinstance(source, str) and "=" in source):
            made.append({"PathOnHost": source})
    return made


def _device_requests(service: Json) -> list[dict[str, object]]:
    asked = _list(_below(service, "deploy", "resources", "reservations").get("devices"))
    gpus = service.get("gpus")
    asked = [*asked, *([{"count": -1}] if gpus == "all" else _list(gpus))]
    made: list[dict[str, object]] = []
    for one in asked:
        device = _mapping(one)
        ids, count = device.get("device_ids"), device.get("count")
        capabilities = [str(word) for word in _list(device.get("capabilities"))] or ["gpu"]
        if not ids and count in {None, "all"}:
            count = -1
        made.append(
            {
                "Driver": device.get("driver") or "",
                "Count": 0 if ids else count,
                "DeviceIDs": ids,
                "Capabilities": [capabilities],
            }
        )
    names = [one.split(":")[0] for one in _list(service.get("devices")) if isinstance(one, str) and "=" in one]
    names += [
        source
        for one in _list(service.get("devices"))
        if isinstance(source := _mapping(one).get("source"), str) and "=" in source
    ]
    return [*made, {"Driver": "cdi", "DeviceIDs": names}] if names else made


# --- shapes ------------------------------------------------------------------------------------------------------


def _mapping(value: object) -> Json:
    return cast("Json", value) if isinstance(value, Mapping) else {}


def _list(value: object) -> list[object]:
    return list(cast("Sequence[object]", value)) if isinstance(value, (list, tuple)) else []


def _below(value: Json, *keys: str) -> Json:
    for key in keys:
        value = _mapping(value.get(key))
    return value


def _pairs(value: object) -> dict[str, object]:
    """A mapping, also from the list form `KEY=value`; a name alone has None."""
    if isinstance(value, Mapping):
        return dict(cast("Json", value))
    pairs = (str(one).partition("=") for one in _list(value))
    return {key: text if sign else None for key, sign, text in pairs}


def _scalar(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _bytes(value: object) -> object:
    """A size in bytes; what is none is left as it is, so that its reader says so."""
    if isinstance(value, str):
        if value == "-1":
            return -1
        match = _SIZE.fullmatch(value)
        return int(float(match[1]) * _UNITS[match[2].lower()]) if match and len(value) < 32 else value
    return value


def _nano_cpus(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"\d{1,6}(?:\.\d{1,9})?", value):
        return value
    return int(float(value) * 1e9) if isinstance(value, (int, float, str)) and abs(float(value)) < 1e6 else value
