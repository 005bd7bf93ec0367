"""One container's inspect object, read on demand.

Null stands for "nothing" where Docker writes it so (CapAdd, Labels, Env); an absent key means that nobody looked, but
for the keys that Docker leaves out when they are empty. Nothing here keeps or shows a value it was not asked for.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from fleet.allocation import request_from_inspect
from fleet.inventory import GpuRequest
from fleet.posture.reading import Json, Section, safe
from fleet.posture.verdicts import Unread

_LOOPBACK = re.compile(r"^(?:127\.\d+\.\d+\.\d+|::1|\[::1\]|localhost)$")
_IMAGE_ID = re.compile(r"(?:sha256:)?[0-9a-f]{64}|[0-9a-f]{12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One entry of Mounts. `source` is normalised ("/var/run" is "/run"), `name` a volume's."""

    number: int
    type: str
    source: str
    target: str
    name: str
    writable: bool
    propagation: str

    @property
    def path(self) -> str:
        """Where it stands."""
        return f"Mounts[{self.number}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A published port. `effective` False: declared, but the container has no such port open now."""

    port: str
    host_address: str
    host_port: int
    effective: bool
    path: str

    @property
    def beyond_loopback(self) -> bool:
        """True when others than the host itself may reach it."""
        return not _LOOPBACK.match(self.host_address)


class Container:
    """One `docker inspect` object. `unread`: paths that its source could not decide (a compose file without image).

    `partial`: paths of which it knows a part. `place` turns a path of inspect into one of its source.
    """

    def __init__(
        self,
        inspect: Json,
        *,
        unread: frozenset[str] = frozenset(),
        partial: frozenset[str] = frozenset(),
        kind: Literal["inspect", "compose"] = "inspect",
        place: Callable[[str], str] | None = None,
    ) -> None:
        self.inspect = inspect
        self.kind = kind
        self.place = place
        self._partial = partial
        self.top = Section(inspect, "", unread)

    def all_of(self, path: str) -> None:
        """Raise Unread when the image may add to what stands at `path`: what is not there may be there after all."""
        if path in self._partial:
            raise Unread(path, "the image may set more, and it was not given")

    @property
    def id(self) -> str:
        """Id, "" when there is none."""
        found = self.inspect.get("Id")
        return found if isinstance(found, str) else ""

    @cached_property
    def name(self) -> str:
        """Name without the slash, safe to show; the short id, or "unnamed"."""
        found = self.inspect.get("Name")
        return safe(found.lstrip("/") if isinstance(found, str) else "") or safe(self.id[:12]) or "unnamed"

    @cached_property
    def state(self) -> str:
        """State.Status in Docker's words, "" when unknown."""
        try:
            return safe(self.top.section("State").text("Status"), 20)
        except Unread:
            return ""

    @cached_property
    def host(self) -> Section:
        """HostConfig."""
        if self.top.is_null("HostConfig"):
            raise Unread("HostConfig", "null")
        return self.top.section("HostConfig")

    @cached_property
    def config(self) -> Section:
        """Config."""
        if self.top.is_null("Config"):
            raise Unread("Config", "null")
        return self.top.section("Config")

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """Labels whose value is a text."""
        found = self.config.section("Labels", optional=True).values
        return {key: value for key, value in found.items() if isinstance(value, str)}

    @cached_property
    def labels_or_none(self) -> Mapping[str, str]:
        """Labels, or none of them when they are not known: for names only, never for a check."""
        try:
            return self.labels
        except Unread:
            return {}

    @cached_property
    def environment_lines(self) -> tuple[str, ...]:
        """Env as it stands."""
        return self.config.texts("Env", optional=True)

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """Env by name; the last one of a name wins, as for a process."""
        return dict(line.split("=", 1) for line in self.environment_lines if "=" in line)

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        """The command line that runs: Path and Args, of a compose file its entrypoint and command."""
        path = self.top.text("Path", absent="")
        return (path, *self.top.texts("Args")) if path else self.top.texts("Args")

    @cached_property
    def privileged(self) -> bool:
        """HostConfig.Privileged."""
        return self.host.flag("Privileged")

    @cached_property
    def security_options(self) -> tuple[str, ...]:
        """HostConfig.SecurityOpt, old `key:value` as `key=value`."""
        return tuple(re.sub(r"^([a-z-]+):", r"\1=", one) for one in self.host.texts("SecurityOpt"))

    @cached_property
    def added_capabilities(self) -> frozenset[str]:
        """CapAdd in capitals without CAP_."""
        return frozenset(one.upper().removeprefix("CAP_") for one in self.host.texts("CapAdd"))

    @cached_property
    def mounts(self) -> tuple[Mount, ...]:
        """Mounts, normalised."""
        return tuple(self._mount(number, one) for number, one in enumerate(self.top.objects("Mounts")))

    def _mount(self, number: int, one: Json) -> Mount:
        part = Section(one, f"Mounts[{number}]")
        return Mount(
            number=number,
            type=part.text("Type", absent="bind"),
            source=normalised(part.text("Source", absent="")),
            target=part.text("Destination"),
            name=part.text("Name", absent=""),
            writable=part.flag("RW"),
            propagation=part.text("Propagation", absent=""),
        )

    @cached_property
    def bindings(self) -> tuple[Binding, ...]:
        """Published ports: those in effect, and those only declared."""
        effective = _bindings(self.top.section("NetworkSettings").section("Ports"), effective=True)
        if effective:
            return effective
        return _bindings(self.host.section("PortBindings"), effective=False)

    @cached_property
    def gpu_request(self) -> GpuRequest:
        """What the container asks for by DeviceRequests alone. Raises Unread."""
        self.host.objects("DeviceRequests", optional=True)
        return request_from_inspect({"HostConfig": {"DeviceRequests": self.host.values.get("DeviceRequests")}})

    @cached_property
    def has_gpu(self) -> bool:
        """True when it gets a GPU by any way short of being privileged."""
        if self.gpu_request.kind != "none":
            return True
        self.host.text("Runtime", absent="")
        return request_from_inspect(self.inspect).kind not in {"none", "privileged"}

    @cached_property
    def reference(self) -> str:
        """Config.Image as it was asked for."""
        return self.config.text("Image")

    @cached_property
    def image_subject(self) -> str:
        """The name under which its image is judged, safe to show."""
        try:
            return image_name(self.reference)
        except Unread:
            return ""


def normalised(path: str) -> str:
    """A host path without `..`, double or trailing slashes; /var/run is /run, as on every current system."""
    if not path.startswith("/"):
        return path
    clean = "/" + posixpath.normpath(path).lstrip("/")
    return clean.removeprefix("/var") if clean == "/var/run" or clean.startswith("/var/run/") else clean


def has_tag(reference: str) -> bool:
    """True when the reference names a tag."""
    return ":" in reference.split("@")[0].rsplit("/", 1)[-1]


def is_image_id(reference: str) -> bool:
    """True for a bare id: what Docker shows when the tag has moved away or there was none."""
    return _IMAGE_ID.fullmatch(reference) is not None


def shown_reference(reference: str) -> str:
    """The reference without user name and password, safe to show."""
    head, sign, digest = reference.partition("@sha256:")
    return safe(f"{head.rsplit('@', 1)[-1]}{sign}{digest}", 200)


def image_name(reference: str) -> str:
    """The reference as a subject: without its digest, an id cut short, safe to show."""
    return shown_reference(reference[:19] if reference.startswith("sha256:") else reference.partition("@sha256:")[0])


def _bindings(ports: Section, *, effective: bool) -> tuple[Binding, ...]:
    found: list[Binding] = []
    for port in ports.values:
        for number, one in enumerate(ports.objects(port)):
            part = Section(one, f"{ports.path}.{safe(port, 20)}[{number}]")
            host_port = part.text("HostPort", absent="")
            found.append(
                Binding(
                    port=safe(port, 20),
                    host_address=part.text("HostIp", absent=""),
                    host_port=int(host_port) if host_port.isascii() and host_port.isdigit() else 0,
                    effective=effective,
                    path=part.path,
                )
            )
    return tuple(found)
