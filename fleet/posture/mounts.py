"""MNT: what of the host a container can read, write or run."""

from __future__ import annotations

import re
from collections import defaultdict

from fleet.posture.catalogue import Severity
from fleet.posture.container import Container, Mount, normalised
from fleet.posture.evidence import Evidence
from fleet.posture.reading import Section, safe
from fleet.posture.verdicts import Answer, Unread, Verdict, failed, not_applicable, passed, unknown

_SOCKETS = re.compile(r"/(?:docker|containerd|podman|crio|cri-dockerd)\.sock$")
#: Folders that hold such a socket, beside those that MNT-02 names anyway.
_SOCKET_FOLDERS = frozenset({"/", "/var", "/run", "/run/docker", "/run/containerd", "/run/podman", "/run/crio"})
_SENSITIVE = ("/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sys", "/usr", "/root", "/home", "/run",
              "/bin", "/sbin", "/var/lib/docker", "/var/lib/containerd", "/var/lib/kubelet")  # fmt: skip
_SENSITIVE_TO_READ = ("/etc", "/root", "/proc", "/var/lib/docker", "/var/lib/containerd", "/var/lib/kubelet")
#: Public to every process anyway; read-only they tell nothing.
_HARMLESS_TO_READ = frozenset(
    {"/etc/localtime", "/etc/timezone", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/etc/os-release",
     "/etc/ssl/certs", "/etc/ca-certificates", "/usr/share/zoneinfo", "/usr/share/ca-certificates"}
)  # fmt: skip
_MODELS = re.compile(r"model|weights?\b|checkpoint|ckpt|huggingface|triton|engines\b", re.IGNORECASE)
_PURE_CACHES = re.compile(r"\.cache/huggingface|\.ollama|/\.cache\b", re.IGNORECASE)
_PICKLES = re.compile(r"\.(?:pth|pt|pkl|pickle|ckpt|bin)$", re.IGNORECASE)
_DISKS = re.compile(r"/dev/(?:mem|kmem|port|sd[a-z]|nvme\d|vd[a-z]|xvd[a-z]|dm-\d|mapper/|disk/)")
_GPU_NODES = re.compile(r"/dev/(?:nvidia|dri/|kfd)")
_ANONYMOUS = re.compile(r"[0-9a-f]{64}")
_TRUE = frozenset({"1", "true", "yes", "on"})


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def _shown(mount: Mount) -> str:
    return f"{safe(mount.source or mount.name, 100)} on {safe(mount.target, 100)}, {'rw' if mount.writable else 'ro'}"


def _engine_sockets(one: Container, _: Evidence) -> Answer:
    found = [failed(_shown(mount), mount.path, key=mount.target) for mount in one.mounts if _reaches_engine(mount)]
    return found or passed("none", "Mounts")


def _reaches_engine(mount: Mount) -> bool:
    return mount.type == "bind" and (
        _SOCKETS.search(mount.source) is not None or mount.source in _SOCKET_FOLDERS or mount.source == "/var/run"
    )


def _sensitive_folders(one: Container, _: Evidence) -> Answer:
    found: list[Verdict] = []
    for mount in one.mounts:
        if mount.type != "bind" or _SOCKETS.search(mount.source):
            continue  # a socket is MNT-01's, whatever folder it lies in
        if not mount.source.startswith("/"):
            found.append(unknown(mount.path, "the folder on the host is not an absolute path"))
            continue
        severity = _sensitivity(mount)
        if severity is not None:
            cause = "MNT-01" if _reaches_engine(mount) else ""
            found.append(
                failed(_shown(mount), f"{mount.path}.Source", severity=severity, key=mount.target, cause=cause)
            )
    return found or passed("none", "Mounts")


def _sensitivity(mount: Mount) -> Severity | None:
    """How bad it is to mount this folder; None when it is no system folder."""
    source = mount.source
    if source in {"/", "/var", "/var/lib"}:
        return Severity.CRITICAL if mount.writable else Severity.HIGH
    if not any(_below(source, folder) for folder in _SENSITIVE):
        return None
    if mount.writable:
        # Device nodes of GPUs belong to GPU checks, and these two cannot hurt.
        return None if source in {"/dev/null", "/dev/shm"} else Severity.CRITICAL  # noqa: S108  a host's path
    if source in _HARMLESS_TO_READ or source in {"/dev/null", "/dev/shm"}:  # noqa: S108
        return None
    return Severity.HIGH if any(_below(source, folder) for folder in _SENSITIVE_TO_READ) else Severity.MEDIUM


def _propagation(one: Container, _: Evidence) -> Answer:
    found = [
        failed(f"{safe(mount.target, 100)}: {mount.propagation}", f"{mount.path}.Propagation", key=mount.target)
        for mount in one.mounts
        if mount.propagation in {"shared", "rshared"}
    ]
    return found or passed("none shared", "Mounts")


def _holds_models(mount: Mount) -> bool:
    return mount.type in {"bind", "volume"} and any(
        _MODELS.search(text) is not None for text in (mount.target, mount.source, mount.name)
    )


def _is_cache(mount: Mount) -> bool:
    return _PURE_CACHES.search(mount.target) is not None or _PURE_CACHES.search(mount.source) is not None


def _writable_models(one: Container, _: Evidence) -> Answer:
    models = [mount for mount in one.mounts if _holds_models(mount) or (_is_cache(mount) and mount.type != "tmpfs")]
    if not models:
        return not_applicable("no mount looks like models", "Mounts")
    found = [
        failed(
            _shown(mount),
            f"{mount.path}.RW",
            key=mount.target,
            # A pure cache is filled by its one user; a folder of models there is still one.
            severity=Severity.LOW if _is_cache(mount) and not _MODELS.search(mount.source.rsplit("/", 1)[-1]) else None,
        )
        for mount in models
        if mount.writable
    ]
    return found or passed(", ".join(_shown(mount) for mount in models[:3]), "Mounts")


def _pickles(one: Container, _evidence: Evidence) -> Answer:
    words = one.arguments
    found: list[Verdict] = []
    for word in words:
        option, _, value = word.partition("=")
        if option == "--trust-remote-code" and value.lower() not in {"false", "0", "no"}:
            found.append(failed("--trust-remote-code", "Args", key="--trust-remote-code"))
        elif match := _PICKLES.search(word):
            # Only the kind of file is said: an argument may hold anything.
            found.append(failed(f"a {match[0].lower()} file on the command line", "Args", key=match[0].lower()))
    for name, value in one.environment.items():
        if name.endswith("TRUST_REMOTE_CODE") and value.lower() in _TRUE:
            found.append(failed(f"{safe(name, 60)} on", "Config.Env", key=name))
    if not found:
        one.all_of("Args")
        return passed("none", "Args")
    return list({verdict.key: verdict for verdict in found}.values())


def _devices(one: Container, _: Evidence) -> Answer:
    found: list[Verdict] = []
    for number, device in enumerate(one.host.objects("Devices")):
        part = Section(device, f"HostConfig.Devices[{number}]")
        source = normalised(part.text("PathOnHost"))
        if _GPU_NODES.match(source):
            continue  # GPU-04's and GPU-08's matter
        severity = Severity.CRITICAL if _DISKS.match(source) else None
        found.append(failed(safe(source, 100), part.path, key=source, severity=severity))
    return found or passed("none", "HostConfig.Devices")


def _anonymous_volumes(one: Container, _: Evidence) -> Answer:
    found = [
        failed(f"on {safe(mount.target, 100)}", f"{mount.path}.Name", key=mount.target)
        for mount in one.mounts
        if mount.type == "volume" and _ANONYMOUS.fullmatch(mount.name)
    ]
    return found or passed("none", "Mounts")


def _encryption(one: Container, evidence: Evidence) -> Answer:
    volumes = [mount.name for mount in one.mounts if mount.type == "volume" and mount.name]
    if not volumes:
        return not_applicable("no volume", "Mounts")
    declared = {
        volume.get("Name")
        for volume in evidence.volumes or ()
        if isinstance(labels := volume.get("Labels"), dict) and str(labels.get("encrypted")).lower() == "true"
    }
    open_ones = [name for name in volumes if name not in evidence.attested_volumes and name not in declared]
    if open_ones:
        return unknown("Mounts", "Docker does not tell, and nobody has attested it", f"{len(open_ones)} volumes")
    origin = "self-declared" if any(name not in evidence.attested_volumes for name in volumes) else "attested"
    return passed(origin, "Mounts")


def shared_models(evidence: Evidence) -> list[tuple[str, Verdict]]:
    """MNT-05: model folders and volumes with several users, each with its verdict. (folder or volume, verdict)."""
    users: defaultdict[str, list[tuple[str | None, bool]]] = defaultdict(list)
    for one in evidence.containers:
        try:
            mounts = one.mounts
        except Unread:
            continue  # MNT-04 of that container says unknown
        for mount in mounts:
            if _holds_models(mount):
                users[mount.name or mount.source].append((evidence.tenants.get(one.id), mount.writable))
    return [(safe(place, 160), _users(found)) for place, found in sorted(users.items()) if len(found) > 1]


def _users(found: list[tuple[str | None, bool]]) -> Verdict:
    writers = {tenant for tenant, writes in found if writes}
    tenants = {tenant for tenant, _ in found}
    names = ", ".join(sorted(safe(tenant, 40) for tenant in writers if tenant)) or "nobody known"
    observed = f"{len(found)} containers, written by {names if writers else 'none'}"
    if not writers:
        return passed(observed, "Mounts")
    if len(tenants - {None}) > 1:
        return failed(observed, "Mounts")
    if None in tenants:
        return unknown("Mounts", "the tenant of a container is not known", observed)
    return passed(observed, "Mounts")


CHECKS = {
    "MNT-01": _engine_sockets,
    "MNT-02": _sensitive_folders,
    "MNT-03": _propagation,
    "MNT-04": _writable_models,
    "MNT-06": _pickles,
    "MNT-07": _devices,
    "MNT-08": _anonymous_volumes,
    "MNT-09": _encryption,
}
