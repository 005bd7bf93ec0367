"""HST and GPU-09: the engine of a host."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from ipaddress import ip_network
from typing import cast

from fleet.posture.catalogue import FOLDER, Severity, severity_named
from fleet.posture.evidence import Evidence
from fleet.posture.reading import safe
from fleet.posture.verdicts import Answer, Unread, Verdict, failed, judged, not_applicable, passed, unknown

_TABLE_LIFE = timedelta(days=90)
_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")
#: A distribution's own build (1.1.5+ds1, 1.0~rc93, -0ubuntu1): fixes go in without a new number.
_DISTRIBUTION = re.compile(r"\+ds|~ds|dfsg|[-+~](?:\d+)?(?:ubuntu|deb|el|fc)\d*|\+deb")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBug:
    """A bug of a component, and the first version without it."""

    name: str
    fixed_in: tuple[int, int, int]
    severity: Severity
    not_in_cdi_mode: bool


@cache
def known_bugs() -> tuple[date, dict[str, tuple[KnownBug, ...]]]:
    """The day of the bundled table, and its bugs by component (`runc`, `toolkit`)."""
    document = tomllib.loads((FOLDER / "known_versions.toml").read_text(encoding="utf-8"))
    as_of = cast("date", document.pop("as_of"))
    return as_of, {
        component: tuple(
            KnownBug(
                name=row["cve"],
                fixed_in=_numbers(row["fixed_in"], ""),
                severity=severity_named(row.get("severity", "high")),
                not_in_cdi_mode=row.get("not_in_cdi_mode", False),
            )
            for row in rows
        )
        for component, rows in document.items()
    }


def _numbers(text: str, path: str) -> tuple[int, int, int]:
    match = _VERSION.match(text)
    if match is None:
        raise Unread(path, "not a version")
    return int(match[1]), int(match[2]), int(match[3] or 0)


def _stale(evidence: Evidence) -> str:
    """Why the table cannot be believed, "" when it can."""
    as_of, _ = known_bugs()
    if evidence.now is None:
        return "the moment was not given, so the age of the table of known bugs is not known"
    return "the table of known bugs is older than 90 days" if evidence.now.date() - as_of > _TABLE_LIFE else ""


def _plain_tcp(evidence: Evidence) -> Answer:
    if evidence.endpoint.startswith(("tcp://", "http://")):
        return failed("the collector's own connection is plain TCP", "endpoint")
    warnings = evidence.daemon.texts("Warnings")
    open_ones = [
        one for one in warnings if re.search(r"API is accessible on .*(?:without encryption|insecure)", one, re.I)
    ]
    return judged(not open_ones, safe(open_ones[0]) if open_ones else "no warning of the daemon", "info.Warnings")


def _insecure_registries(evidence: Evidence) -> Answer:
    registries = evidence.daemon.section("RegistryConfig")
    open_ones = [one for one in registries.texts("InsecureRegistryCIDRs") if not _is_loopback(one)]
    index = registries.section("IndexConfigs", optional=True)
    open_ones += (
        name
        for name in index.values
        if not index.section(name).flag("Secure") and not name.startswith(("localhost", "127."))
    )
    return judged(not open_ones, safe(", ".join(open_ones)) or "none", "info.RegistryConfig")


def _is_loopback(network: str) -> bool:
    try:
        return ip_network(network, strict=False).is_loopback
    except ValueError:
        return False


def _user_namespaces(evidence: Evidence) -> Answer:
    found = sorted(evidence.security_options & {"userns", "rootless"})
    return judged(bool(found), ", ".join(found) or "neither", "info.SecurityOptions")


def _live_restore(evidence: Evidence) -> Answer:
    if evidence.daemon.flag("ExperimentalBuild"):
        return failed("experimental on", "info.ExperimentalBuild")
    on = evidence.daemon.flag("LiveRestoreEnabled")
    return judged(on, "live restore on" if on else "live restore off", "info.LiveRestoreEnabled")


def _components(evidence: Evidence) -> Answer:
    for number, component in enumerate(evidence.engine.objects("Components")):
        if component.get("Name") == "runc":
            path = f"version.Components[{number}].Version"
            version = component.get("Version")
            if not isinstance(version, str):
                raise Unread(path, "not a text")
            if why := _stale(evidence):
                return unknown(path, why, f"runc {safe(version, 40)}")
            return _against(known_bugs()[1]["runc"], "runc", version, path)
    raise Unread("version.Components", "runc is not among them")


def _against(bugs: tuple[KnownBug, ...], component: str, version: str, path: str) -> Verdict:
    observed = f"{component} {safe(version, 40)}"
    numbers = _numbers(version, path)
    hit = [bug for bug in bugs if numbers < bug.fixed_in]
    if not hit:
        return passed(observed, path)
    names = ", ".join(bug.name for bug in hit)
    if _DISTRIBUTION.search(version):
        return unknown(path, f"{names}: perhaps patched by the distribution without a new number", observed)
    return failed(f"{observed}: {names}", path, severity=max(bug.severity for bug in hit))


def _swarm(evidence: Evidence) -> Answer:
    state = evidence.daemon.section("Swarm").text("LocalNodeState")
    return judged(state != "active", safe(state, 20), "info.Swarm.LocalNodeState")


def _toolkit(evidence: Evidence) -> Answer:
    if evidence.toolkit_version is None:
        if not _has_nvidia(evidence):
            return not_applicable("no nvidia runtime and no container with a GPU", "info.Runtimes")
        return unknown("toolkit", "Docker's API does not tell the toolkit's version and nobody gave it")
    if why := _stale(evidence):
        return unknown("toolkit", why, safe(evidence.toolkit_version, 40))
    bugs = known_bugs()[1]["toolkit"]
    open_ones = tuple(bug for bug in bugs if not (bug.not_in_cdi_mode and evidence.toolkit_in_cdi_mode))
    return _against(open_ones, "toolkit", evidence.toolkit_version, "toolkit")


def _has_nvidia(evidence: Evidence) -> bool:
    """True also when nobody can tell: then the question stays open."""
    try:
        if any(name.startswith("nvidia") for name in evidence.daemon.section("Runtimes").values):
            return True
        return any(one.has_gpu for one in evidence.containers)
    except Unread:
        return True


CHECKS: dict[str, Callable[[Evidence], Answer]] = {
    "GPU-09": _toolkit,
    "HST-01": _plain_tcp,
    "HST-02": _insecure_registries,
    "HST-03": _user_namespaces,
    "HST-04": _live_restore,
    "HST-05": _components,
    "HST-06": _swarm,
}
