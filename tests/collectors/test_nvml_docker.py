"""The whole path with real containers: inspect -> held, stub driver's PID -> real cgroup -> container, sums closed.

The daemon gets a hook program named as NVIDIA's that does nothing, so that it accepts `--gpus` and starts the
container; and a runtime named nvidia that is runc. Only the driver itself is a stub.
"""

from __future__ import annotations

import contextlib
import json
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
ROOT = Path(__file__).resolve().parents[2]
PARENT = f"aifleet-{secrets.token_hex(4)}"
#: Becomes the parent of a process with the wanted PID (clone3 with set_tid, Linux 5.5 and root) until its input ends.
TAKE_PID = r"""
#define _GNU_SOURCE
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv) {
    pid_t wanted = argc > 1 ? atoi(argv[1]) : 0;
    struct clone_args how = {.exit_signal = SIGCHLD, .set_tid = (uint64_t)(uintptr_t)&wanted, .set_tid_size = 1};
    long pid = syscall(SYS_clone3, &how, sizeof how);
    if (pid < 0) { perror("clone3"); return 1; }
    if (pid == 0) { pause(); _exit(0); }
    printf("%ld\n", pid);
    fflush(stdout);
    getchar();
    kill((pid_t)pid, SIGKILL);
    return waitpid((pid_t)pid, NULL, 0) < 0;
}
"""
pytestmark = [pytest.mark.docker, pytest.mark.cc]
#: A collector of its own: one reading of Docker, two of the GPUs; prints the rows of GPU 0.
COLLECTOR = """
import json, sys
from datetime import timedelta
from collectors.nvml_process import NvmlProcess
from collectors.sources.docker import DockerSource
from collectors.sources.nvml import NvmlSource
from fleet.inventory import Inventory
from fleet.settings_table import DockerDaemon, NvmlSettings
from fleet.tenancy import Tenancy
from tests.fakes.gpu_host import T0, A, parts
inventory = Inventory()
docker = DockerSource(DockerDaemon(url=sys.argv[1], name="gpu-box"), Tenancy(()), inventory)
source = NvmlSource(NvmlSettings(), inventory, host="gpu-box", process=NvmlProcess(library=sys.argv[2]))
docker.collect(T0)
source.collect(T0)
rows = parts(source.collect(T0 + timedelta(seconds=5)).rows)
source.close()
docker.close()
print(json.dumps({name: [row.held, row.memory_bytes, row.sm_ratio, row.attribution, row.attribution_reason]
                  for (name, uuid), row in rows.items() if uuid == A}))
"""


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


@pytest.fixture(scope="module")
def take_pid(tmp_path_factory):
    """A context in which a new process of the host has this PID."""
    program = tmp_path_factory.mktemp("take") / "take_pid"
    subprocess.run(
        ["gcc", "-Wall", "-Wextra", "-Werror", "-x", "c", "-", "-o", program], input=TAKE_PID.encode(), check=True
    )

    @contextlib.contextmanager
    def taken(pid):
        process = subprocess.Popen([program, str(pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        with process:
            assert process.stdout.readline() == f"{pid}\n"
            yield
            process.stdin.close()

    return taken


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


def test_everyone_on_one_gpu_gets_what_is_theirs_and_a_pid_used_again_changes_hands(dockerd, stub, take_pid):
    run = ("run", "-d", "--network=none", "--stop-signal=KILL")
    sleep = ("busybox:latest", "sleep", "100000")
    options = {
        "first": ("--gpus", "1"), "second": ("--gpus", "1"), "idle": ("--gpus", "1", "--user", "10001"),
        "dying": ("--gpus", "1"),
    }  # fmt: skip
    ids = {name: dockerd.cli(*run, "--name", name, *extra, *sleep) for name, extra in options.items()}
    # Privileged where this machine lets runc have all capabilities; it did not ask for a GPU either way.
    ids["nosy"] = dockerd.cli(*run, "--name", "nosy", "--privileged", *sleep, check=False)
    if not ids["nosy"] or dockerd.cli("inspect", "-f", "{{.State.Running}}", "nosy") != "true":
        dockerd.cli("rm", "-f", "nosy")
        ids["nosy"] = dockerd.cli(*run, "--name", "nosy", *sleep)
    pids = {name: int(dockerd.cli("inspect", "-f", "{{.State.Pid}}", one)) for name, one in ids.items()}
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    processes = {**pids, "host": os.getpid(), "ended": int(ended.stdout)}
    del processes["idle"]
    memory = {"first": 4000, "second": 2000, "nosy": 1000, "host": 700, "ended": 300, "dying": 500}
    shares = {"first": 50, "second": 20, "nosy": 10, "host": 5, "dying": 5}

    def world(reading):
        return gpu(
            0, A, busy=90, memory="80000000000 600000000 10000", field_186=370000,
            proc=[f"{pid} {memory[name]}" for name, pid in processes.items()],
            sample=[f"{processes[name]} {reading * 5_000_000} {percent}" for name, percent in shares.items()],
        )  # fmt: skip

    inventory = Inventory()
    docker = DockerSource(DockerDaemon(url=dockerd.url, name="gpu-box"), Tenancy(()), inventory)
    process = NvmlProcess(library=str(stub.library), environment=stub.environment)
    source = NvmlSource(NvmlSettings(), inventory, host="gpu-box", process=process)
    try:
        docker.collect(T0)
        stub.write(gpu(0, A))  # 70 W when nothing runs
        source.collect(T0)
        stub.write(world(1))
        before = parts(source.collect(T0 + timedelta(seconds=5)).rows)
        dockerd.cli("rm", "-f", ids["dying"])
        with take_pid(pids["dying"]):
            stub.write(world(2))
            unaware = parts(source.collect(T0 + timedelta(seconds=10)).rows)
            docker.collect(T0 + timedelta(seconds=12))
            stub.write(world(3))
            after = parts(source.collect(T0 + timedelta(seconds=15)).rows)
    finally:
        source.close()
        docker.close()
        dockerd.cli("rm", "-f", *(one for name, one in ids.items() if name != "dying"), check=False)

    names = {"asked", "by-env", "cuda-image", "parent"}  # of the other test, when it ran before
    found = {name: row for (name, uuid), row in before.items() if uuid == A and name not in names}
    assert set(found) == {"first", "second", "idle", "nosy", "dying", ""}
    seen = {name: (row.held, row.memory_bytes, row.sm_ratio) for name, row in found.items() if name}
    assert seen == {
        "first": (True, 4000, 0.5), "second": (True, 2000, 0.2), "idle": (True, 0, 0.0), "nosy": (False, 1000, 0.1),
        "dying": (True, 500, 0.05),
    }  # fmt: skip
    # 300 W above idle, split by the part of the 90 % that the GPU was busy.
    assert found["first"].power_watts == pytest.approx(300 * 50 / 90)
    assert found["nosy"].power_watts == pytest.approx(300 * 10 / 90)
    assert found["idle"].power_watts == 0
    assert {row.attribution for row in found.values()} == {"measured"}
    assert found[""].attribution_reason == "1 x host process; 1 x process ended"
    for rows in (before, unaware, after):
        own = [row for (_, uuid), row in rows.items() if uuid == A]
        assert sum(row.memory_bytes for row in own) == 10000
        assert sum(row.sm_ratio for row in own) == pytest.approx(0.9)
        assert sum(row.power_watts for row in own) == pytest.approx(370)

    # The PID is a process of the host now: at once, though the container is still in the list, and after.
    assert (unaware["dying", A].held, unaware["dying", A].memory_bytes, unaware["dying", A].sm_ratio) == (True, 0, 0.0)
    assert ("dying", A) not in after
    for rows in (unaware, after):
        assert rows["", A].memory_bytes == 10000 - 4000 - 2000 - 1000
        assert rows["", A].attribution_reason == "2 x host process; 1 x process ended"


@pytest.mark.parametrize(
    ("namespace", "words"),
    [
        (("--pid", "--fork"), "not in the PID namespace of /proc"),  # as with `-v /proc:/proc`
        (("--pid", "--fork", "--mount-proc"), "does not see the host's processes"),  # as in a container
    ],
)
def test_a_collector_in_a_pid_namespace_of_its_own_gives_nothing_to_anybody(dockerd, stub, namespace, words):
    run = ("run", "-d", "--network=none", "--stop-signal=KILL", "--name", "holder")
    holder = dockerd.cli(*run, "--gpus", "1", "busybox:latest", "sleep", "100000")
    try:
        # The driver would tell it its own numbering: PID 1 is the collector itself there.
        stub.write(gpu(0, A, busy=50, memory="80000000000 600000000 5000", proc=["1 4000"], sample=["1 9 50"]))
        command = ["unshare", *namespace, sys.executable, "-c", COLLECTOR, dockerd.url, str(stub.library)]
        done = subprocess.run(
            command, env={**os.environ, **stub.environment}, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
    finally:
        dockerd.cli("rm", "-f", holder)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    held, memory, sm, attribution, reason = rows["holder"]
    assert (held, memory, sm, attribution) == (True, None, None, "unknown")
    assert words in reason
    assert "--pid=host" in reason
    assert rows[""][1:4] == [None, None, "unknown"]
