"""The daemon's texts of failed starts and what they mean: moby 20.10 to 29, the CDI library, NVIDIA's toolkit."""

from __future__ import annotations

import pytest

from fleet.gpu_start import start_failure

_OCI = "failed to create task for container: failed to create shim task: OCI runtime create failed: "


@pytest.mark.parametrize(
    ("error", "what", "step"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "no NVIDIA runtime", "nvidia-ctk runtime"),
        ('could not select device driver "" with capabilities: [[compute utility gpu]]', "no NVIDIA runtime", "ctk"),
        ('could not select device driver "nvidia" with capabilities: [[gpu]]', "no NVIDIA runtime", "ctk"),
        ('could not select device driver "cdi" with capabilities: []', "this Docker does not know CDI", "cdi generate"),
        ("failed to discover GPU vendor from CDI: no known GPU vendor found", "no NVIDIA runtime, and", "nvidia-smi"),
        (
            "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=7",
            "no CDI specification names nvidia.com/gpu=7", "nvidia-ctk cdi list",
        ),
        ("unknown or invalid runtime name: nvidia", "Docker does not know the runtime nvidia", "nvidia-ctk runtime"),
        ("Unknown runtime specified nvidia-legacy", "the runtime nvidia-legacy any more", "nvidia-ctk runtime"),
        (
            _OCI + "nvidia-container-cli: device error: GPU-1234: unknown device: unknown",
            "GPU GPU-1234 is not on this host", "nvidia-smi -L",
        ),
        (
            _OCI + "nvidia-container-cli: initialization error: nvml error: driver/library version mismatch: unknown",
            "the driver was replaced while it was loaded", "restart the host",
        ),
        (
            _OCI + "nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1: cannot open",
            "the NVIDIA driver is not loaded or not complete", "nvidia-smi",
        ),
        (
            _OCI + "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.8, please update",
            "the image needs another driver (cuda>=12.8)", "update the driver",
        ),
        (
            'error gathering device information while adding custom device "/dev/nvidia0": no such file or directory',
            "/dev/nvidia0 is not there", "device nodes",
        ),
        (_OCI + "nvidia-container-cli: mount error: something", "the NVIDIA container toolkit refused", "info"),
    ],
)  # fmt: skip
def test_a_gpu_reason_is_told_in_words_with_the_next_step(error: str, what: str, step: str) -> None:
    failure = start_failure(error)
    assert failure is not None
    assert what in failure.what
    assert step in failure.next_step


@pytest.mark.parametrize(
    "error",
    [
        "", "driver failed programming external connectivity on endpoint web: port is already allocated",
        'could not select device driver "amd" with capabilities: [[gpu]]', "exec: \"sh\": executable file not found",
        'error gathering device information while adding custom device "/dev/kvm": no such file or directory',
    ],
)  # fmt: skip
def test_another_reason_is_not_taken_for_one(error: str) -> None:
    assert start_failure(error) is None
