"""Everything known of one host: containers, images, the daemon, and what the operator and other sources add."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import cast

from fleet.posture.container import Container, has_tag
from fleet.posture.reading import MISSING, Json, Section, safe
from fleet.posture.verdicts import Unread
from fleet.tenancy import container_key

_MOST_HOPS = 8


class Image:
    """One `docker image inspect` object with its history, as far as they are known."""

    def __init__(self, inspect: Json | None, history: Sequence[Json] | None = None, *, reference: str = "") -> None:
        self.inspect = inspect
        self.history = history
        self.reference = reference

    @property
    def id(self) -> str:
        """Id of the image, "" if unknown."""
        found = (self.inspect or {}).get("Id")
        return found if isinstance(found, str) else ""

    @property
    def top(self) -> Section:
        """The whole object. Raises Unread when the image was not given."""
        if self.inspect is None:
            raise Unread("image", "the image was not given")
        return Section(self.inspect, "")

    @cached_property
    def config(self) -> Section:
        """Its Config."""
        return self.top.section("Config")

    @property
    def environment(self) -> tuple[str, ...]:
        """Env lines."""
        return self.config.texts("Env", optional=True)

    @property
    def labels(self) -> Json:
        """Labels."""
        return self.config.section("Labels", optional=True).values

    @property
    def tags(self) -> tuple[str, ...]:
        """RepoTags, empty when unknown."""
        found = (self.inspect or {}).get("RepoTags")
        return (
            tuple(tag for tag in cast("list[object]", found) if isinstance(tag, str)) if isinstance(found, list) else ()
        )

    @cached_property
    def steps(self) -> tuple[tuple[str, int, str], ...]:
        """The build steps, oldest first: (what ran, its size in bytes, path). Raises Unread."""
        if self.history is None:
            raise Unread("History", "the image's history was not given")
        found: list[tuple[str, int, str]] = []
        for number, one in enumerate(self.history):
            step = one.get("CreatedBy", MISSING)
            size = one.get("Size", 0)
            path = f"History[{number}].CreatedBy"
            if not isinstance(step, str):
                raise Unread(path, "not a text")
            if step.endswith("…"):
                raise Unread(path, "cut short; save it with docker history --no-trunc")
            found.append((step, size if isinstance(size, int) else 0, path))
        return tuple(reversed(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanSummary:
    """What a vulnerability scanner said of one image."""

    scanned_at: datetime
    critical_fixable: int = 0
    high_fixable: int = 0
    known_exploited_fixable: int = 0
    unfixed: int = 0
    end_of_life: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A verified signature; `signer` "" when the bundle does not name one."""

    signer: str = ""


@dataclass(slots=True, kw_only=True)
class Evidence:
    """Everything known of one host at a moment. None = nobody looked; an empty collection = looked, nothing there.

    `tenants` is by container id, `scans` and `signatures` by image id, `gpu_tenants` by GPU or MIG UUID (who had a
    process on it within the window). `fingerprint_key` empty = no fingerprints of secrets.
    """

    containers: Sequence[Container] = ()
    images: Sequence[Image] = ()
    host: str = ""
    info: Json | None = None
    version: Json | None = None
    networks: Sequence[Json] | None = None
    volumes: Sequence[Json] | None = None
    tenants: Mapping[str, str] = field(default_factory=dict[str, str])
    gpu_count: int | None = None
    gpu_tenants: Mapping[str, Collection[str]] | None = None
    now: datetime | None = None
    toolkit_version: str | None = None
    toolkit_in_cdi_mode: bool = False
    endpoint: str = ""
    log_agent: bool = False
    approved_registries: Sequence[str] | None = None
    expected_signers: Sequence[str] | None = None
    scans: Mapping[str, ScanSummary] | None = None
    signatures: Mapping[str, Sequence[Signature]] | None = None
    attested_volumes: Collection[str] = ()
    shared_networks: Collection[str] = ()
    fingerprint_key: bytes = b""
    _by_name: dict[str, Container] | None = None
    _by_tag: dict[str, Image] | None = None
    _options: frozenset[str] | None = None

    @property
    def daemon(self) -> Section:
        """/info. Raises Unread."""
        if self.info is None:
            raise Unread("info", "the daemon's info was not given")
        return Section(self.info, "info")

    @property
    def engine(self) -> Section:
        """/version. Raises Unread."""
        if self.version is None:
            raise Unread("version", "the daemon's version was not given")
        return Section(self.version, "version")

    @property
    def security_options(self) -> frozenset[str]:
        """Names of info.SecurityOptions: seccomp, apparmor, selinux, rootless, userns, no-new-privileges."""
        if self._options is None:
            found = (one.split(",")[0].removeprefix("name=") for one in self.daemon.texts("SecurityOptions"))
            self._options = frozenset(found)
        return self._options

    @property
    def tenant_count(self) -> int | None:
        """How many tenants this host runs; None when no tenant of its containers is known."""
        return len(set(self.tenants.values())) or None

    def container(self, name_or_id: str) -> Container | None:
        """The container of a full or short id, or of a name."""
        if self._by_name is None:
            self._by_name = {}
            for one in self.containers:
                for key in (one.id, one.id[:12], one.name):
                    self._by_name.setdefault(key, one)
        return self._by_name.get(name_or_id) if name_or_id else None

    def image_of(self, container: Container) -> Image | None:
        """The image a container runs."""
        wanted = container.inspect.get("Image")
        known = self._images()
        if isinstance(wanted, str) and wanted in known:
            return known[wanted]
        # A compose file names no id; a running container that does must not borrow the facts of a moved tag.
        return self.image_tagged(container.reference) if container.kind == "compose" else None

    def image_tagged(self, reference: str) -> Image | None:
        """The image that a reference names now."""
        known = self._images()
        return known.get(reference) or (known.get(f"{reference}:latest") if not has_tag(reference) else None)

    def _images(self) -> dict[str, Image]:
        if self._by_tag is None:
            self._by_tag = {}
            for one in self.images:
                for key in (one.id, *one.tags, one.reference):
                    if key:
                        self._by_tag.setdefault(key, one)
        return self._by_tag

    def subject_of(self, container: Container) -> str:
        """The stable name of a container: it survives being recreated."""
        labels = {key: safe(value) for key, value in container.labels_or_none.items() if key.startswith("com.docker.")}
        key = container_key(safe(self.host), container.name, labels)
        return key if self.host else key.removeprefix(":")

    def namespace(self, container: Container, key: str) -> tuple[str, Container | None]:
        """Where a namespace mode ends: ("host" | "own", the container it was joined from). Raises Unread."""
        at, joined = container, None
        for _ in range(_MOST_HOPS):
            value = at.host.text(key)
            if not value.startswith("container:"):
                return ("host" if value == "host" else "own"), joined
            found = self.container(value.removeprefix("container:"))
            if found is None:
                raise Unread(container.host.at(key), "joined from a container that is not in the data")
            at = joined = found
        raise Unread(container.host.at(key), "joined in a circle")
