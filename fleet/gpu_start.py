"""Why a container that asked for a GPU could not start, in words, from the daemon's own error.

Docker tells it nowhere but in `State.Error` of an inspection: a failed start sends no event, and the list shows the
container as "Created" before and after.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_CONFIGURE = "install nvidia-container-toolkit, then `nvidia-ctk runtime configure --runtime=docker` and restart Docker"
_SPECIFY = "`nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`"


@dataclass(frozen=True, slots=True)
class StartFailure:
    """What is wrong, and what a person should do now."""

    what: str
    next_step: str


# Tried in order. Texts of moby (daemon/devices.go, devices_nvidia_linux.go, cdi.go), the CDI library and
# nvidia-container-cli; `{0}` is what the group caught.
_CAUSES: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), what, next_step)
    for pattern, what, next_step in (
        (
            r'could not select device driver "cdi"',
            "this Docker does not know CDI devices",
            f'use Docker 25 or newer with the feature "cdi" on, and {_SPECIFY}; or ask with --gpus',
        ),
        (
            r'could not select device driver "(?:nvidia)?" with capabilities: \[.*\b(?:gpu|nvidia)\b',
            "no NVIDIA runtime",
            _CONFIGURE,
        ),
        (
            r"failed to discover GPU vendor from CDI",
            "no NVIDIA runtime, and no CDI specification of a GPU",
            f"check the driver with nvidia-smi, install nvidia-container-toolkit, then {_SPECIFY}",
        ),
        (
            r"unresolvable CDI devices ([^:]{1,200})",
            "no CDI specification names {0}",
            f"list the names with `nvidia-ctk cdi list`; after a change of GPUs or MIG write them anew: {_SPECIFY}",
        ),
        (
            r"unknown (?:or invalid )?runtime (?:name:|specified) \"?(nvidia[\w.-]*)",
            "Docker does not know the runtime {0} any more",
            _CONFIGURE,
        ),
        (
            r"device error: ([^\s:]{1,100}): unknown device",
            "GPU {0} is not on this host",
            "list the GPUs with `nvidia-smi -L` and name one of those",
        ),
        (
            r"driver/library version mismatch",
            "the driver was replaced while it was loaded",
            "restart the host, or stop what uses a GPU and reload the nvidia modules",
        ),
        (
            r"(?:driver not loaded|libnvidia-ml\.so|nvml error|load library failed)",
            "the NVIDIA driver is not loaded or not complete",
            "run nvidia-smi on the host and install the driver again if it fails",
        ),
        (
            r"unsatisfied condition: ([^,\n]{1,80})",
            "the image needs another driver ({0})",
            "update the driver, or use an image for an older CUDA",
        ),
        (
            r'custom device "(/dev/nvidia[^"]{0,40})": no such file',
            "{0} is not there",
            "run nvidia-smi on the host, which creates the device nodes, or ask with --gpus",
        ),
        (
            r"nvidia-container-(?:cli|runtime)|nvidia-ctk|nvidia-cdi-hook",
            "the NVIDIA container toolkit refused",
            "run `nvidia-container-cli -k -d /dev/stderr info` on the host and read its last lines",
        ),
    )
)


def start_failure(error: str) -> StartFailure | None:
    """The GPU reason in the daemon's error text; None for no error and for any other reason."""
    for pattern, what, next_step in _CAUSES:
        if found := pattern.search(error):
            return StartFailure(what.format(*(group.strip() for group in found.groups())), next_step)
    return None
