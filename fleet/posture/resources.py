"""RES, OPS and LOG: limits, health, logs."""

from __future__ import annotations

from fleet.posture.catalogue import Severity
from fleet.posture.container import Container
from fleet.posture.evidence import Evidence
from fleet.posture.reading import objects, safe
from fleet.posture.verdicts import Answer, failed, judged, not_applicable, passed, unknown

_SHIPPING = frozenset({"fluentd", "gelf", "syslog", "awslogs", "gcplogs", "splunk", "logentries", "etwlogs"})
_DEFAULT_SHM_BYTES = 67_108_864


def _memory(one: Container, _: Evidence) -> Answer:
    limit = one.host.number("Memory") or 0
    return judged(limit > 0, f"{limit} bytes", "HostConfig.Memory")


def _cpu(one: Container, _: Evidence) -> Answer:
    for key in ("NanoCpus", "CpuQuota", "CpuShares"):
        value = one.host.number(key) or 0
        if value > 0:
            return passed(f"{key} {value}", f"HostConfig.{key}")
    pinned = one.host.text("CpusetCpus")
    return judged(bool(pinned), f"CpusetCpus {safe(pinned, 40)}" if pinned else "none", "HostConfig.CpusetCpus")


def _pids(one: Container, _: Evidence) -> Answer:
    limit = one.host.number("PidsLimit") or 0
    return judged(limit > 0, str(limit) if limit > 0 else "none", "HostConfig.PidsLimit")


def _swap(one: Container, _: Evidence) -> Answer:
    if one.host.number("MemorySwap") == -1:
        return failed("unlimited swap", "HostConfig.MemorySwap")
    killer_off = not one.host.is_null("OomKillDisable") and one.host.flag("OomKillDisable", absent=False)
    return judged(not killer_off, "OOM killer off" if killer_off else "as by default", "HostConfig.OomKillDisable")


def _shared_memory(one: Container, _: Evidence) -> Answer:
    size, limit = one.host.number("ShmSize") or 0, one.host.number("Memory") or 0
    if limit and size > limit:
        return failed(f"{size} bytes, above the memory limit", "HostConfig.ShmSize", severity=Severity.MEDIUM)
    request = one.gpu_request
    several = request.kind == "all" or request.count > 1 or len(request.ids) > 1
    if not several:
        return not_applicable("not several GPUs", "HostConfig.DeviceRequests")
    return judged(
        size > _DEFAULT_SHM_BYTES or one.host.text("IpcMode") == "host", f"{size} bytes", "HostConfig.ShmSize"
    )


def _ulimits(one: Container, _: Evidence) -> Answer:
    if not one.has_gpu:
        return not_applicable("no GPU", "HostConfig.DeviceRequests")
    names = {limit.get("Name") for limit in objects(one.host.values.get("Ulimits"), "HostConfig.Ulimits")}
    missing = sorted({"memlock", "stack"} - {name for name in names if isinstance(name, str)})
    return judged(not missing, f"without {', '.join(missing)}" if missing else "set", "HostConfig.Ulimits")


def _health_check(one: Container, _: Evidence) -> Answer:
    check = one.config.section("Healthcheck", optional=True)  # left out when there is none
    test = check.texts("Test", optional=True)
    if not test:
        return failed("none", "Config.Healthcheck")
    return judged(test[0] != "NONE", "switched off" if test[0] == "NONE" else "set", "Config.Healthcheck.Test")


def _health(one: Container, _: Evidence) -> Answer:
    health = one.top.section("State").section("Health", optional=True)
    if not health.values:
        return not_applicable("no health check", "State.Health")
    status = health.text("Status")
    if status == "starting":
        return unknown("State.Health.Status", "still starting", status)
    return judged(status != "unhealthy", safe(status, 20), "State.Health.Status")


def _shipped(one: Container, evidence: Evidence) -> Answer:
    driver = one.host.section("LogConfig").text("Type")
    path = "HostConfig.LogConfig.Type"
    if driver == "none":
        return failed("none", path, severity=Severity.HIGH)
    if driver in _SHIPPING:
        return passed(driver, path)
    if driver in {"json-file", "local", "journald"}:
        return judged(evidence.log_agent, f"{driver}{', log agent declared' if evidence.log_agent else ''}", path)
    return unknown(path, "a driver of another maker, or the daemon's default", safe(driver, 40))


def _rotated(one: Container, _: Evidence) -> Answer:
    log = one.host.section("LogConfig")
    driver = log.text("Type")
    if not driver:
        return unknown(log.at("Type"), "the daemon's default")
    if driver != "json-file":
        return not_applicable(f"the driver is {safe(driver, 40)}", log.at("Type"))
    size = log.section("Config", optional=True).text("max-size", absent="")
    return judged(bool(size), safe(size, 20) or "no max-size", log.at("Config"))


def _attributable(one: Container, evidence: Evidence) -> Answer:
    log = one.host.section("LogConfig")
    options = log.section("Config", optional=True).values
    if not any(key in options for key in ("labels", "labels-regex", "tag", "env", "gelf-address")):
        return failed("no log option carries a label", log.at("Config"))
    named = one.id in evidence.tenants or any(key.rsplit(".", 1)[-1] == "tenant" for key in one.labels)
    return judged(named, "tenant carried" if named else "no tenant label", "Config.Labels")


def _request_ids(_one: Container, _: Evidence) -> Answer:
    return unknown("", "log lines are not read")


CHECKS = {
    "RES-01": _memory,
    "RES-02": _cpu,
    "RES-03": _pids,
    "RES-04": _swap,
    "RES-05": _shared_memory,
    "RES-06": _ulimits,
    "OPS-01": _health_check,
    "OPS-02": _health,
    "LOG-01": _shipped,
    "LOG-02": _rotated,
    "LOG-03": _attributable,
    "LOG-04": _request_ids,
}
