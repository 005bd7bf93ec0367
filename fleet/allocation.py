"""Which GPUs a container was given: what `docker inspect` asks for, and what that means on one host.

Declared, not measured: a container that holds a GPU need not use it, and one without a request may use it all the
same (privileged, host device nodes). The forms and their order follow moby's daemon/devices_nvidia_linux.go and the
nvidia-container-toolkit (internal/config/image): DeviceRequests, then the environment under an nvidia runtime,
then plain device nodes, then "privileged".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from fleet.inventory import GpuRequest, HostGpu

_TEXT_LIMIT = 200
_VISIBLE_DEVICES = "NVIDIA_VISIBLE_DEVICES"
# Set by swarm for node-generic-resources, named after the resource ("GPU", "NVIDIA-GPU"); the toolkit reads it instead
# of the usual variable when `swarm-resource` of its config.toml says so.
_SWARM_RESOURCE = re.compile(r"DOCKER_RESOURCE_(?:[A-Za-z0-9_-]+[_-])?GPU", re.IGNORECASE)
_VOLUME_MOUNT_ROOT = "/var/run/nvidia-container-devices/"
# An image of CUDA 9 or older says which CUDA it has and not what driver that needs; unset then means "all".
_CUDA_VERSION, _CUDA_NEEDS = "CUDA_VERSION", "NVIDIA_REQUIRE_CUDA"
_CDI_ANNOTATION = "cdi.k8s.io/"
_CARD_NODE = re.compile(r"/dev/nvidia(\d+)")
_CDI_NAME = re.compile(r"(?P<vendor>[A-Za-z0-9._-]+)/(?P<kind>[A-Za-z0-9._-]+)=(?P<name>.+)")
_MIG_POSITION = re.compile(r"(?:mig)?(\d+):(\d+)")
_INDEX = re.compile(r"(?:gpu)?(\d+)")
_LEGACY_MIG = re.compile(r"MIG-(?P<parent>GPU-[0-9a-f-]+)/(?P<gi>\d+)/(?P<ci>\d+)", re.IGNORECASE)
# Shorter prefixes name too much to be believed: "GPU-" plus at least four digits.
_SHORTEST_PREFIX = len("GPU-") + 4
# No host has more devices; the daemon itself takes any count and any list, and these texts are a stranger's.
_MOST_DEVICES = 256
# Classes of nvidia.com that are GPUs; others (imex-channel, gds, mofed) are no device that NVML lists.
_CDI_GPU_KINDS = frozenset({"gpu", "mig"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What a request comes to on one host: device UUIDs in host order, and the ids that name nothing there."""

    uuids: tuple[str, ...] = ()
    unresolved: tuple[str, ...] = ()


def request_from_inspect(inspect: Mapping[str, object]) -> GpuRequest:
    """The GPU request of one container from its `docker inspect` object; kind "none" when it asks for no NVIDIA GPU.

    A request for another vendor's device has kind "none" and keeps its text. Parts of an unexpected shape are
    read as not there; nothing raises.
    """
    host_config = _mapping(inspect.get("HostConfig"))
    requested = _from_device_requests(host_config)
    if requested.kind != "none":
        return requested
    for read in (_from_runtime, _from_device_nodes, _from_privileged):
        found = read(inspect, host_config)
        if found.kind != "none":
            return found
    return requested


def resolve(request: GpuRequest, gpus: Sequence[HostGpu]) -> Allocation:
    """The devices that `request` gives on a host whose full list is `gpus`.

    "privileged" can reach every GPU but holds none, so it resolves to nothing. Indices count on the host's full
    list, not on what a filtered collector sees.
    """
    whole = [gpu for gpu in gpus if not gpu.parent_uuid]
    match request.kind:
        case "all":
            return Allocation(uuids=_all_usable(gpus))
        case "count":
            # Moby turns Count N into indices 0..N-1: two containers with `--gpus 1` share GPU 0.
            return _look_up(tuple(str(index) for index in range(min(request.count, _MOST_DEVICES))), gpus, _by_name)
        case "ids":
            return _look_up(request.ids, gpus, _by_name)
        case "device_nodes":
            return _look_up(request.ids, whole, _by_minor_number)
        case _:
            return Allocation()


# --- reading inspect ---------------------------------------------------------------------------------------------


def _from_device_requests(host_config: Mapping[str, object]) -> GpuRequest:
    """DeviceRequests of `--gpus`, `--device vendor/class=name` and compose, merged when there are several."""
    requests = [_device_request(_mapping(item)) for item in _sequence(host_config.get("DeviceRequests"))]
    ours = [request for request in requests if request.kind != "none"]
    text = _shorten(" ".join(request.text for request in (ours or requests) if request.text))
    if not ours:
        return GpuRequest(text=text)
    if any(request.kind == "all" for request in ours):
        return GpuRequest(kind="all", text=text)
    if len(ours) == 1:
        return GpuRequest(kind=ours[0].kind, count=ours[0].count, ids=ours[0].ids, text=text)
    # A count beside ids is the same as naming the first indices (see resolve).
    indices = [str(index) for index in range(max(min(one.count, _MOST_DEVICES) for one in ours))]
    ids = [*indices, *(name for one in ours for name in one.ids)]
    return GpuRequest(kind="ids", ids=tuple(dict.fromkeys(ids))[:_MOST_DEVICES], text=text)


def _device_request(item: Mapping[str, object]) -> GpuRequest:
    driver = _text(item.get("Driver"))
    ids = _texts(item.get("DeviceIDs"))
    if driver == "cdi":
        return _from_cdi_names(ids)
    capabilities = list(dict.fromkeys(word for group in _sequence(item.get("Capabilities")) for word in _texts(group)))
    count = _integer(item.get("Count"))
    text = _gpus_option(driver, count, ids, capabilities)
    if driver not in {"", "nvidia"} or not (driver == "nvidia" or {"gpu", "nvidia"} & set(capabilities)):
        return GpuRequest(text=text)  # another vendor or another kind of device: shown, but not NVML's
    if ids:  # the hook gets them as NVIDIA_VISIBLE_DEVICES, so its words mean the same here
        return _from_values(ids, text)
    if count < 0:
        return GpuRequest(kind="all", text=text)
    return GpuRequest(kind="count", count=count, text=text) if count else GpuRequest(text=text)


def _gpus_option(driver: str, count: int, ids: Sequence[str], capabilities: Sequence[str]) -> str:
    everything_or_count = "all" if count < 0 else str(count)
    devices = f"device={','.join(ids)}" if ids else everything_or_count
    extra = [f"driver={driver}"] if driver else []
    if other := [word for word in capabilities if word != "gpu"]:
        extra.append(f"capabilities={','.join(other)}")
    return "--gpus " + ",".join([devices, *extra])


def _from_cdi_names(names: Sequence[str]) -> GpuRequest:
    text = " ".join(f"--device {name}" for name in names)
    ids = tuple(dict.fromkeys(name for name in names if _nvidia_cdi_device(name)))[:_MOST_DEVICES]
    if any(_nvidia_cdi_device(name) == "all" for name in ids):
        return GpuRequest(kind="all", text=text)
    return GpuRequest(kind="ids", ids=ids, text=text) if ids else GpuRequest(text=text)


def _nvidia_cdi_device(name: str) -> str:
    """The device part of `nvidia.com/gpu=0` (also runtime. and management.nvidia.com); "" for anything else."""
    match = _CDI_NAME.fullmatch(name)
    if match is None or match["kind"] not in _CDI_GPU_KINDS:
        return ""
    vendor = match["vendor"]
    return match["name"] if vendor == "nvidia.com" or vendor.endswith(".nvidia.com") else ""


def _from_runtime(inspect: Mapping[str, object], host_config: Mapping[str, object]) -> GpuRequest:
    """Environment, mounts and annotations, which only an nvidia runtime reads.

    CUDA images carry NVIDIA_VISIBLE_DEVICES=all, so the variable under runc means nothing. Inspect always names
    the runtime, `runc` by default.
    """
    runtime = _text(host_config.get("Runtime"))
    if not runtime.startswith("nvidia"):
        return GpuRequest()
    annotations = _mapping(host_config.get("Annotations"))
    named = [_text(value) for key, value in annotations.items() if key.startswith(_CDI_ANNOTATION)]
    cdi = _from_cdi_names([part.strip() for names in named for part in names.split(",") if part.strip()])
    if cdi.kind != "none":
        return cdi
    if mounted := _mounted_ids(host_config):
        return _from_values(mounted, f"-v /dev/null:{_VOLUME_MOUNT_ROOT}{{{','.join(mounted)}}} (runtime {runtime})")
    environment = _environment(inspect)
    # The toolkit joins all variables it is told to prefer; which those are stands on the host, so all swarm ones count.
    swarm = sorted(name for name in environment if _SWARM_RESOURCE.fullmatch(name) and environment[name].strip())
    for names in (swarm, [_VISIBLE_DEVICES] if _VISIBLE_DEVICES in environment else []):
        if names:
            values = [value for name in names for value in environment[name].split(",")]
            shown = " ".join(f"{name}={environment[name].strip()}" for name in names)
            return _from_values(values, f"{shown} (runtime {runtime})")
    if environment.get(_CUDA_VERSION) and not environment.get(_CUDA_NEEDS):
        return GpuRequest(kind="all", text=f"an image of CUDA 9 or older (runtime {runtime})")
    return GpuRequest()


def _from_values(values: Sequence[str], text: str) -> GpuRequest:
    ids = tuple(dict.fromkeys(value.strip() for value in values if value.strip()))
    shown = _shorten(text)
    if "void" in ids:  # anywhere in the list it means: no device, no driver files
        return GpuRequest(text=shown)
    if "all" in ids or any(_nvidia_cdi_device(value) == "all" for value in ids):
        return GpuRequest(kind="all", text=shown)
    ids = tuple(value for value in ids if value != "none")[:_MOST_DEVICES]  # "none": driver files without a GPU
    return GpuRequest(kind="ids", ids=ids, text=shown) if ids else GpuRequest(text=shown)


def _mounted_ids(host_config: Mapping[str, object]) -> tuple[str, ...]:
    targets = [bind.split(":")[1] for bind in _texts(host_config.get("Binds")) if bind.startswith("/dev/null:/")]
    for item in _sequence(host_config.get("Mounts")):
        mount = _mapping(item)
        if _text(mount.get("Source")) == "/dev/null":
            targets.append(_text(mount.get("Target")))
    found = [target.removeprefix(_VOLUME_MOUNT_ROOT) for target in targets if target.startswith(_VOLUME_MOUNT_ROOT)]
    return tuple(name for one in found if (name := _mounted_id(one.strip("/"))))


def _mounted_id(path: str) -> str:
    """The id of a path below the root: itself, or `cdi/vendor/class/name` as a CDI name; "" for an IMEX channel."""
    if path.startswith("imex/"):
        return ""
    if not path.startswith("cdi/"):
        return path
    name = path.removeprefix("cdi/")
    parts = name.split("/", 2)
    return name if "=" in name else f"{parts[0]}/{parts[1]}={parts[2]}" if len(parts) == 3 else ""


def _environment(inspect: Mapping[str, object]) -> dict[str, str]:
    """Only the variables that decide about GPUs: nothing else of the environment is looked at."""
    found: dict[str, str] = {}
    for entry in _texts(_mapping(inspect.get("Config")).get("Env")):
        name, _, value = entry.partition("=")
        if name in {_VISIBLE_DEVICES, _CUDA_VERSION, _CUDA_NEEDS} or _SWARM_RESOURCE.fullmatch(name):
            found[name] = value
    return found


def _from_device_nodes(_inspect: Mapping[str, object], host_config: Mapping[str, object]) -> GpuRequest:
    """`--device /dev/nvidia0`: the number is the driver's minor number, not the NVML index."""
    nodes = [_text(_mapping(item).get("PathOnHost")) for item in _sequence(host_config.get("Devices"))]
    numbers = [match[1] for node in nodes if (match := _CARD_NODE.fullmatch(node))]
    if not numbers:
        return GpuRequest()
    ids = tuple(dict.fromkeys(numbers))[:_MOST_DEVICES]
    return GpuRequest(
        kind="device_nodes", ids=ids, text=_shorten(" ".join(f"--device /dev/nvidia{number}" for number in ids))
    )


def _from_privileged(_inspect: Mapping[str, object], host_config: Mapping[str, object]) -> GpuRequest:
    return GpuRequest(kind="privileged", text="--privileged") if host_config.get("Privileged") is True else GpuRequest()


# --- resolving ---------------------------------------------------------------------------------------------------


def _all_usable(gpus: Sequence[HostGpu]) -> tuple[str, ...]:
    """Every whole GPU outside MIG mode and every MIG device: a GPU in MIG mode cannot be used as a whole."""
    parents = {gpu.parent_uuid for gpu in gpus if gpu.parent_uuid}
    return tuple(gpu.uuid for gpu in gpus if gpu.parent_uuid or not (gpu.mig_enabled or gpu.uuid in parents))


def _look_up(
    ids: Sequence[str], gpus: Sequence[HostGpu], find: Callable[[str, Sequence[HostGpu]], tuple[str, ...]]
) -> Allocation:
    found: set[str] = set()
    unresolved: list[str] = []
    for name in ids:
        uuids = find(name, gpus)
        found.update(uuids)
        if not uuids:
            unresolved.append(name)
    return Allocation(
        uuids=tuple(gpu.uuid for gpu in gpus if gpu.uuid in found), unresolved=tuple(dict.fromkeys(unresolved))
    )


def _by_minor_number(name: str, gpus: Sequence[HostGpu]) -> tuple[str, ...]:
    return tuple(gpu.uuid for gpu in gpus if gpu.minor_number is not None and str(gpu.minor_number) == name)


def _by_name(name: str, gpus: Sequence[HostGpu]) -> tuple[str, ...]:
    """An index, `gpu0`, `0:1`, `mig0:1`, a UUID or its unambiguous prefix, or a CDI name around any of them."""
    device = _nvidia_cdi_device(name) or name
    if device == "all":
        return _all_usable(gpus)
    if match := _INDEX.fullmatch(device):
        return tuple(gpu.uuid for gpu in gpus if not gpu.parent_uuid and gpu.index == int(match[1]))
    if match := _MIG_POSITION.fullmatch(device):
        place = (int(match[1]), int(match[2]))
        return tuple(gpu.uuid for gpu in gpus if gpu.parent_uuid and (gpu.index, gpu.mig_index) == place)
    folded = device.casefold()
    if exact := tuple(gpu.uuid for gpu in gpus if gpu.uuid.casefold() == folded):
        return exact
    if match := _LEGACY_MIG.fullmatch(device):
        place = (match["parent"].casefold(), int(match["gi"]), int(match["ci"]))
        return tuple(
            gpu.uuid for gpu in gpus if (gpu.parent_uuid.casefold(), gpu.gpu_instance, gpu.compute_instance) == place
        )
    if len(folded) < _SHORTEST_PREFIX or not folded.startswith(("gpu-", "mig-")):
        return ()
    candidates = tuple(gpu.uuid for gpu in gpus if gpu.uuid.casefold().startswith(folded))
    return candidates if len(candidates) == 1 else ()


# --- shapes of JSON ----------------------------------------------------------------------------------------------


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _sequence(value: object) -> Sequence[object]:
    return cast("Sequence[object]", value) if isinstance(value, (list, tuple)) else ()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    return tuple(item for item in _sequence(value) if isinstance(item, str))


def _integer(value: object) -> int:
    return value if isinstance(value, int) else 0


def _shorten(text: str) -> str:
    return text if len(text) <= _TEXT_LIMIT else text[: _TEXT_LIMIT - 1] + "…"
