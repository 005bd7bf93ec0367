"""RUN: what a container may do on its host."""

from __future__ import annotations

import re
from datetime import datetime

from fleet.posture.catalogue import Severity
from fleet.posture.container import Container
from fleet.posture.evidence import Evidence
from fleet.posture.reading import safe
from fleet.posture.verdicts import Answer, Unread, Verdict, failed, judged, not_applicable, passed, unknown

CRITICAL_CAPABILITIES = frozenset(
    {"ALL", "SYS_ADMIN", "SYS_MODULE", "SYS_PTRACE", "SYS_RAWIO", "DAC_READ_SEARCH", "BPF", "SYS_BOOT"}
)
HIGH_CAPABILITIES = frozenset({"NET_ADMIN", "SYSLOG"})
#: moby, oci/caps/defaults.go
DEFAULT_CAPABILITIES = frozenset(
    {"CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
     "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"}
)  # fmt: skip
_DEVELOPMENT_FILE = re.compile(r"(?:^|[._-])(?:dev|devel|development|override|local|test)(?:[._-]|$)", re.IGNORECASE)
_DEVELOPMENT_NAMES = frozenset({"ENV", "APP_ENV", "NODE_ENV", "FLASK_ENV", "ENVIRONMENT", "APP_ENVIRONMENT"})
_DEBUG_NAMES = frozenset({"DEBUG", "FLASK_DEBUG", "DJANGO_DEBUG"})
_SOURCE_TARGETS = ("/app", "/src", "/code", "/workspace/src")
_RESTARTS_AN_HOUR = 5
_MOST_RETRIES = 5


def _privileged(one: Container, _: Evidence) -> Answer:
    return judged(not one.privileged, _word(one.privileged), "HostConfig.Privileged")


def _root(one: Container, evidence: Evidence) -> Answer:
    path = "Config.User"
    user = one.config.text("User", absent="").split(":")[0]
    if not (user in {"", "root"} or (user.isascii() and user.isdigit() and int(user) == 0)):
        return passed(safe(user, 40), path)
    observed = f"{safe(user, 40) or 'no user, so root'}"
    try:
        options = evidence.security_options
    except Unread as missing:
        return failed(observed, path, why=f"{missing.why}: user namespaces, if any, are not seen")
    mapped = options & {"rootless", "userns"}
    if mapped and one.host.text("UsernsMode", absent="") != "host":
        return not_applicable(f"root is mapped to an ordinary user of the host ({', '.join(sorted(mapped))})", path)
    return failed(observed, path)


def _dangerous_capability(one: Container, _: Evidence) -> Answer:
    path = "HostConfig.CapAdd"
    worst = one.added_capabilities & CRITICAL_CAPABILITIES
    found = worst | (one.added_capabilities & HIGH_CAPABILITIES)
    if not found:
        return passed(_listed(one.added_capabilities), path)
    return failed(_listed(found), path, severity=None if worst else Severity.HIGH)


def _more_capabilities(one: Container, _: Evidence) -> Answer:
    more = one.added_capabilities - DEFAULT_CAPABILITIES
    return judged(not more, _listed(more or one.added_capabilities), "HostConfig.CapAdd")


def _kept_capabilities(one: Container, _: Evidence) -> Answer:
    dropped = {name.upper() for name in one.host.texts("CapDrop")}
    return judged("ALL" in dropped, _listed(dropped), "HostConfig.CapDrop")


def _new_privileges(one: Container, evidence: Evidence) -> Answer:
    path = "HostConfig.SecurityOpt"
    for option in one.security_options:
        name, _, value = option.replace("no-new-privileges:", "no-new-privileges=").partition("=")
        if name == "no-new-privileges":
            return judged(value != "false", safe(option, 40), path)
    # The daemon lists its own default among its security options.
    if "no-new-privileges" in evidence.security_options:
        return passed("the daemon's default", "info.SecurityOptions")
    return failed("not set", path)


def _seccomp(one: Container, evidence: Evidence) -> Answer:
    path = "HostConfig.SecurityOpt"
    if "seccomp=unconfined" in one.security_options:
        return failed("seccomp=unconfined", path)
    if one.privileged:
        return failed("off, because privileged", "HostConfig.Privileged")
    if "seccomp" not in evidence.security_options:
        return failed("the daemon has no seccomp", "info.SecurityOptions")
    own = any(option.startswith("seccomp=") for option in one.security_options)
    return passed("a profile of its own" if own else "the daemon's default", path)


def _mandatory_access(one: Container, evidence: Evidence) -> Answer:
    try:
        options = evidence.security_options
    except Unread as missing:
        if "apparmor=unconfined" in one.security_options:
            return failed("apparmor=unconfined", "HostConfig.SecurityOpt")
        return unknown(missing.path, missing.why)
    if "apparmor" in options:
        if "apparmor=unconfined" in one.security_options:
            return failed("apparmor=unconfined", "HostConfig.SecurityOpt")
        profile = one.top.text("AppArmorProfile")
        if not profile and one.state == "created":
            return unknown("AppArmorProfile", "set by the engine at the first start, which has not been")
        return judged(profile not in {"", "unconfined"}, safe(profile, 60) or "none", "AppArmorProfile")
    if "selinux" in options:
        if "label=disable" not in one.security_options:
            return passed("labels on", "HostConfig.SecurityOpt")
        # The engine itself adds label=disable to these three; the cause is theirs.
        causes = (
            (one.privileged, "RUN-01"),
            (one.host.text("PidMode") == "host", "RUN-10"),
            (one.host.text("IpcMode") == "host", "RUN-11"),
        )
        cause = next((check for holds, check in causes if holds), "")
        return failed("label=disable", "HostConfig.SecurityOpt", cause=cause)
    return not_applicable("the host has neither AppArmor nor SELinux", "info.SecurityOptions")


def _root_file_system(one: Container, _: Evidence) -> Answer:
    read_only = one.host.flag("ReadonlyRootfs")
    return judged(read_only, _word(read_only), "HostConfig.ReadonlyRootfs")


def _namespace(key: str) -> str:
    return f"HostConfig.{key}"


def _host_processes(one: Container, evidence: Evidence) -> Answer:
    return shared_with_host(one, evidence, "PidMode")


def _host_ipc(one: Container, evidence: Evidence) -> Answer:
    return shared_with_host(one, evidence, "IpcMode")


def shared_with_host(one: Container, evidence: Evidence, key: str) -> Verdict:
    """Whether a namespace is the host's, directly or through the container it was joined from. Raises Unread."""
    end, joined = evidence.namespace(one, key)
    through = "" if joined is None else f" through container {joined.name}"
    return judged(end != "host", f"{end}{through}", _namespace(key))


def _host_uts(one: Container, _: Evidence) -> Answer:
    if one.host.text("UTSMode") == "host":
        return failed("host", "HostConfig.UTSMode")
    if one.host.text("CgroupnsMode", absent="") == "host":
        # Docker's own default on cgroup v1, so nobody's decision; expected.json and CIS 5.21 look at UTS alone.
        return Verdict(result="pass", observed="own; cgroup namespace of the host", path="HostConfig.UTSMode")
    return passed("own", "HostConfig.UTSMode")


def _host_users(one: Container, _: Evidence) -> Answer:
    mode = one.host.text("UsernsMode")
    return judged(mode != "host", safe(mode, 40) or "the daemon's default", "HostConfig.UsernsMode")


def _foreign_namespace(one: Container, evidence: Evidence) -> Answer:
    found: list[Verdict] = []
    for key, check in (("PidMode", "RUN-10"), ("IpcMode", "RUN-11"), ("NetworkMode", "NET-01")):
        end, joined = evidence.namespace(one, key)
        if joined is None:
            continue
        mine, theirs = evidence.tenants.get(one.id), evidence.tenants.get(joined.id)
        if end == "host":
            found.append(failed(f"{key} of {joined.name}: the host's", _namespace(key), key=key, cause=check))
        elif mine is None or theirs is None:
            found.append(
                unknown(_namespace(key), "whose the two containers are is not known", f"{key} of {joined.name}")
            )
        elif mine != theirs:
            observed = f"{key} of {joined.name}, tenant {safe(theirs, 60)}"
            found.append(failed(observed, _namespace(key), key=key))
    return found or passed("none joined from another tenant", "HostConfig.PidMode")


def _ssh(one: Container, _: Evidence) -> Answer:
    if "22/tcp" in one.config.section("ExposedPorts", optional=True).values:
        return failed("port 22 exposed", "Config.ExposedPorts.22/tcp")
    if any(binding.port == "22/tcp" for binding in one.bindings):
        return failed("port 22 published", "HostConfig.PortBindings.22/tcp")
    # Only the name of the program is said: the rest of a command line may hold anything.
    if any("sshd" in re.split(r"[/\s;&|]", word) for word in one.arguments):
        return failed("sshd in the command line", "Args")
    return passed("none", "Config.ExposedPorts")


def _masked_paths(one: Container, _: Evidence) -> Answer:
    if one.privileged:
        return failed("none, because privileged", "HostConfig.Privileged")
    for key in ("MaskedPaths", "ReadonlyPaths"):
        if one.host.is_null(key):
            raise Unread(f"HostConfig.{key}", "null")
        if not one.host.texts(key):
            return failed("none", f"HostConfig.{key}")
    return passed("set", "HostConfig.MaskedPaths")


def _restarts(one: Container, evidence: Evidence) -> Answer:
    policy = one.host.section("RestartPolicy")
    name, retries = policy.text("Name", absent=""), policy.number("MaximumRetryCount", absent=0) or 0
    if retries > _MOST_RETRIES:
        return failed(f"{safe(name, 20)}:{retries}", "HostConfig.RestartPolicy.MaximumRetryCount")
    if name not in {"always", "unless-stopped"}:
        return passed(safe(name, 20) or "no", "HostConfig.RestartPolicy.Name")
    count = one.top.number("RestartCount") or 0
    if count <= _RESTARTS_AN_HOUR:
        return passed(f"{name}, restarted {count} times", "RestartCount")
    if evidence.now is None:
        return unknown("RestartCount", "the moment of the inspection was not given", f"restarted {count} times")
    hours = max(1.0, (evidence.now - moment(one.top.text("Created"), "Created")).total_seconds() / 3600)
    return judged(count <= _RESTARTS_AN_HOUR * hours, f"{name}, {count / hours:.1f} restarts an hour", "RestartCount")


def _development(one: Container, _: Evidence) -> Answer:
    signs: list[tuple[str, str]] = []
    files = one.labels.get("com.docker.compose.project.config_files", "")
    if any(_DEVELOPMENT_FILE.search(file.rsplit("/", 1)[-1]) for file in files.split(",")):
        signs.append(("a development compose file", "Config.Labels"))
    for name, value in one.environment.items():
        if name in _DEVELOPMENT_NAMES and value.lower().startswith("dev"):
            signs.append((f"{name}=dev…", "Config.Env"))
        if name in _DEBUG_NAMES and value.lower() in {"1", "true", "yes", "on"}:
            signs.append((f"{name} on", "Config.Env"))
    if "--reload" in one.arguments:
        signs.append(("--reload", "Args"))
    signs += (
        (f"host folder over {mount.target.rstrip('/')}", mount.path)
        for mount in one.mounts
        if mount.type == "bind" and mount.writable and mount.target.rstrip("/") in _SOURCE_TARGETS
    )
    if not signs:
        one.all_of("Config.Env")
        return passed("none", "Config")
    return failed(", ".join(what for what, _ in signs), signs[0][1])


def is_development(one: Container) -> bool | None:
    """True when a label says that the container is for development or tests; None when labels are not known."""
    try:
        labels = one.labels
    except Unread:
        return None
    return any(
        key.rsplit(".", 1)[-1] in {"env", "environment"} and value in {"dev", "test", "development"}
        for key, value in labels.items()
    )


def moment(text: str, path: str) -> datetime:
    """Docker's time, whose nanoseconds Python does not read. Raises Unread."""
    try:
        found = datetime.fromisoformat(re.sub(r"(\.\d{1,6})\d*", r"\1", text))
    except ValueError:
        raise Unread(path, "not a time") from None
    if found.tzinfo is None:
        raise Unread(path, "a time without zone")
    return found


def _word(value: bool) -> str:
    return "true" if value else "false"


def _listed(names: frozenset[str] | set[str]) -> str:
    return safe(", ".join(sorted(names))) or "none"


CHECKS = {
    "RUN-01": _privileged,
    "RUN-02": _root,
    "RUN-03": _dangerous_capability,
    "RUN-04": _more_capabilities,
    "RUN-05": _kept_capabilities,
    "RUN-06": _new_privileges,
    "RUN-07": _seccomp,
    "RUN-08": _mandatory_access,
    "RUN-09": _root_file_system,
    "RUN-10": _host_processes,
    "RUN-11": _host_ipc,
    "RUN-12": _host_uts,
    "RUN-13": _host_users,
    "RUN-14": _foreign_namespace,
    "RUN-15": _ssh,
    "RUN-16": _masked_paths,
    "RUN-17": _restarts,
    "RUN-18": _development,
}
