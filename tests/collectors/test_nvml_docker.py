"""The whole path with real containers: inspect -> held, stub driver's PID -> real cgroup -> container, sums closed.

The daemon gets a hook program named as NVIDIA's that does nothing, so that it accepts `--gpus` and starts the
container; and a runtime named nvidia that is runc. Only the driver itself is a stub.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from collectors.nvml_process import NvmlProcess
from collectors.sources.docker import DockerSource
from collectors.sources.nvml import NvmlSource
from fleet.inventory import Inventory
from fleet.settings_table import DockerDaemon, NvmlSettings
from fleet.tenancy import Tenancy
from tests.fakes.gpu_host import T0, A, B, gpus, parts
from tests.fakes.nvml_stub import NvmlStub, build, device, gpu
from tests.services.dockerd import running_dockerd

CGROUPS = Path("/sys/fs/cgroup")
PARENT = f"aifleet-{secrets.token_hex(4)}"
pytestmark = [pytest.mark.docker, pytest.mark.cc]


@pytest.fixture(scope="module")
def dockerd(tmp_path_factory):
    programs = tmp_path_factory.mktemp("programs")
    hook = programs / "nvidia-container-runtime-hook"
    hook.write_text("#!/bin/sh\nexit 0\n")
    hook.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        with running_dockerd(arguments=("--add-runtime", "nvidia=runc")) as daemon:
            yield daemon
    for place in (CGROUPS / PARENT, *CGROUPS.glob(f"*/{PARENT}")):  # the daemon does not remove a parent
        if place.is_dir():
            place.rmdir()


@pytest.fixture
def stub(tmp_path):
    return NvmlStub(tmp_path, build(tmp_path))


def test_real_containers_get_their_part_of_a_gpu(dockerd, stub):
    run = ("run", "-d", "--network=none", "--stop-signal=KILL")
    sleep = ("busybox:latest", "sleep", "100000")
    asked = dockerd.cli(*run, "--name", "asked", "--gpus", "1", "--label", "aifleet.tenant=acme", *sleep)
    by_env = dockerd.cli(*run, "--name", "by-env", "--runtime=nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=1", *sleep)
    image = dockerd.cli(*run, "--name", "cuda-image", "-e", "NVIDIA_VISIBLE_DEVICES=all", *sleep)
    parent = dockerd.cli(*run, "--name", "parent", f"--cgroup-parent=/{PARENT}", *sleep)
    dockerd.cli("create", "--name", "never-started", "--network=none", "--gpus", "all", *sleep)
    ids = {"asked": asked, "by-env": by_env, "cuda-image": image, "parent": parent}
    pids = {name: int(dockerd.cli("inspect", "-f", "{{.State.Pid}}", one)) for name, one in ids.items()}
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)

    inventory = Inventory()
    docker = DockerSource(DockerDaemon(url=dockerd.url, name="gpu-box"), Tenancy(()), inventory)
    process = NvmlProcess(library=str(stub.library), environment=stub.environment)
    source = NvmlSource(NvmlSettings(), inventory, host="gpu-box", process=process)
    world = [
        gpu(
            0, A, busy=80, memory="80000000000 600000000 10000",
            proc=[f"{pids['asked']} 4000", f"{pids['cuda-image']} 1500", f"{pids['parent']} 2500",
                  f"{os.getpid()} 700", f"{int(ended.stdout)} 300"],
        ),
        gpu(1, B),
    ]  # fmt: skip
    try:
        docker.collect(T0)
        stub.write(*world)
        source.collect(T0)
        samples = [f"{pids['asked']} 1000000 50", f"{pids['parent']} 1000001 20", f"{os.getpid()} 1000002 5"]
        stub.write(*world, device("0", sample=samples))
        reading = source.collect(T0 + timedelta(seconds=5))
    finally:
        source.close()
        docker.close()

    assert reading.gaps == ()
    assert set(gpus(reading.rows)) == {A, B}
    found = parts(reading.rows)
    assert set(found) == {("asked", A), ("cuda-image", A), ("parent", A), ("", A), ("by-env", B), ("", B)}
    row = found["asked", A]
    assert (row.container_id, row.tenant, row.container_key) == (asked, "acme", "gpu-box:asked")
    assert (row.held, row.memory_bytes, row.sm_ratio, row.attribution) == (True, 4000, 0.5, "measured")
    # Used without being given: the variable of a CUDA image means nothing under runc.
    assert (found["cuda-image", A].held, found["cuda-image", A].memory_bytes) == (False, 1500)
    assert (found["parent", A].held, found["parent", A].sm_ratio) == (False, 0.2)
    # Given and not used.
    assert (found["by-env", B].held, found["by-env", B].memory_bytes, found["by-env", B].sm_ratio) == (True, 0, 0.0)
    # The host's own process and the one that ended are in no container.
    assert found["", A].memory_bytes == 700 + 300 + 1000
    assert sum(one.memory_bytes for (_, uuid), one in found.items() if uuid == A) == 10000
    assert found["", A].sm_ratio == pytest.approx(0.1)
