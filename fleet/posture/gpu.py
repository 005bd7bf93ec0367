"""GPU: which cards a container was given, how, and who shares them."""

from __future__ import annotations

from fleet.posture.catalogue import Severity
from fleet.posture.container import Container
from fleet.posture.evidence import Evidence
from fleet.posture.reading import safe
from fleet.posture.verdicts import Answer, Unread, Verdict, failed, judged, not_applicable, passed, unknown

_VISIBLE = "NVIDIA_VISIBLE_DEVICES"
_CAPABILITIES = "NVIDIA_DRIVER_CAPABILITIES"
_WIDE = frozenset({"all", "graphics", "video", "display", "ngx"})
_PATH = "HostConfig.DeviceRequests"
_SHOWN_TENANTS = 5


def _all(one: Container, evidence: Evidence) -> Answer:
    request = one.gpu_request
    if request.kind == "none":
        return not_applicable("no GPU requested", _PATH)
    if request.kind != "all":
        return passed(safe(request.text), _PATH)
    # Low only where both are known to be one: what is not known must not make it look better.
    alone = evidence.tenant_count == 1 and evidence.gpu_count == 1
    return failed(safe(request.text), _PATH, severity=Severity.LOW if alone else None)


def _count(one: Container, _: Evidence) -> Answer:
    request = one.gpu_request
    if request.kind == "none":
        return not_applicable("no GPU requested", _PATH)
    if request.kind == "all":
        return not_applicable("all GPUs requested", _PATH)
    return judged(request.kind != "count", safe(request.text), _PATH)


def _index(one: Container, _: Evidence) -> Answer:
    request = one.gpu_request
    if request.kind != "ids":
        return not_applicable("no GPU named", _PATH)
    indices = [name for name in request.ids if not name.upper().startswith(("GPU-", "MIG-"))]
    return judged(not indices, safe(request.text), _PATH)


def _environment(one: Container, evidence: Evidence) -> Answer:
    path = "Config.Env"
    devices = one.environment.get(_VISIBLE, "")
    wanted = [name.strip() for name in devices.split(",") if name.strip()]
    if _VISIBLE not in one.environment:
        one.all_of(path)
    if not wanted or "void" in wanted or wanted == ["none"]:
        return passed(f"{_VISIBLE} is {safe(devices, 40) or 'not set'}", path)
    if one.gpu_request.kind != "none":
        return not_applicable("GPUs are asked for with a device request, which decides", _PATH)
    observed = f"{_VISIBLE}={safe(devices, 80)}, set by the {_origin(one, evidence)}"
    runtime = one.host.text("Runtime", absent="") or evidence.daemon.text("DefaultRuntime")
    if not runtime.startswith("nvidia"):
        return failed(f"{observed}; no effect under {safe(runtime, 40)}", path, severity=Severity.INFO)
    return failed(observed, path)


def _origin(one: Container, evidence: Evidence) -> str:
    """Who wrote the variable: "image", "operator", or "image or operator" when the image is not known."""
    image = evidence.image_of(one)
    try:
        lines = image.environment if image is not None else None
    except Unread:
        lines = None
    if lines is None:
        return "image or operator"
    return "image" if f"{_VISIBLE}={one.environment[_VISIBLE]}" in lines else "operator"


def _capabilities(one: Container, _: Evidence) -> Answer:
    named = {word.strip() for word in one.environment.get(_CAPABILITIES, "").split(",")}
    for request in one.host.objects("DeviceRequests", optional=True):
        groups = request.get("Capabilities")
        for group in groups if isinstance(groups, list) else []:
            named |= {word for word in group if isinstance(word, str)} if isinstance(group, list) else set()
    wide = sorted(named & _WIDE)
    if not wide:
        if _CAPABILITIES not in one.environment:
            one.all_of("Config.Env")
        return passed(safe(", ".join(sorted(named - {""})), 80) or "the toolkit's default", "Config.Env")
    reached = one.has_gpu
    observed = ", ".join(wide)
    return failed(
        observed if reached else f"{observed}; no effect without a GPU",
        "Config.Env",
        severity=None if reached else Severity.INFO,
    )


def _privileged(one: Container, _: Evidence) -> Answer:
    privileged = one.privileged
    environment = one.environment
    wants = one.gpu_request.kind != "none" or _VISIBLE in environment or "CUDA_VERSION" in environment
    if not wants:
        one.all_of("Config.Env")
        return not_applicable("no GPU requested, no CUDA image", _PATH)
    return judged(not privileged, "privileged" if privileged else "not privileged", "HostConfig.Privileged")


def _attributable(one: Container, evidence: Evidence) -> Answer:
    if not one.has_gpu:
        return not_applicable("no GPU", _PATH)
    words = {word for key, value in one.labels.items() if value for word in (key.rsplit(".", 1)[-1],)}
    missing = [
        name
        for name, there in (
            ("tenant", one.id in evidence.tenants or "tenant" in words),
            ("user", bool(words & {"user", "owner", "team"})),
            ("workload", bool(words & {"workload", "job", "service"})),
        )
        if not there
    ]
    return judged(not missing, f"without {', '.join(missing)}" if missing else "named", "Config.Labels")


def shared_gpus(evidence: Evidence) -> list[tuple[str, Verdict]]:
    """GPU-07: for each GPU or MIG device seen, whether one tenant used it. (UUID, verdict)."""
    if evidence.gpu_tenants is None:
        if not any(_uses_gpu(one) for one in evidence.containers):
            return []
        return [("all", unknown("", "no NVML: who had processes on which GPU is not known"))]
    found: list[tuple[str, Verdict]] = []
    for uuid, tenants in sorted(evidence.gpu_tenants.items()):
        names = sorted(set(tenants))
        shown = ", ".join(safe(name, 40) for name in names[:_SHOWN_TENANTS]) or "nobody"
        found.append((safe(uuid, 60), judged(len(names) <= 1, shown, "nvml")))
    return found


def _uses_gpu(one: Container) -> bool:
    try:
        return one.has_gpu
    except Unread:
        return False


CHECKS = {
    "GPU-01": _all,
    "GPU-02": _count,
    "GPU-03": _index,
    "GPU-04": _environment,
    "GPU-05": _capabilities,
    "GPU-06": _privileged,
    "GPU-08": _attributable,
}
