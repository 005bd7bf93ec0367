"""The whole path with a real daemon and a real collector process: containers come, die and vanish, and so does it.

The daemon gets a hook program named as NVIDIA's that does nothing, so that it starts containers with `--gpus`; only the
driver is a stub.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.gpu_host import A, B
from tests.fakes.nvml_stub import NvmlStub, build, gpu
from tests.services.dockerd import Dockerd, running_dockerd

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.docker, pytest.mark.cc]
EDIT = "from store import open_store; import sys; s = open_store(sys.argv[1]); s.command(sys.argv[2]); s.close()"


@pytest.fixture(scope="module")
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    programs = tmp_path_factory.mktemp("programs")
    hook = programs / "nvidia-container-runtime-hook"
    hook.write_text("#!/bin/sh\nexit 0\n")
    hook.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        with running_dockerd(arguments=("--add-runtime", "nvidia=runc")) as daemon:
            yield daemon


class Collector:
    """`python -m collectors` in a folder of its own."""

    def __init__(self, folder: Path, dockerd: Dockerd, stub: NvmlStub) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (folder / "fleet.toml").write_text(
            f"host = 'gpu-box'\n[[docker]]\nurl = '{dockerd.url}'\ninterval_seconds = 1\n"
            f"[nvml]\nlibrary = '{stub.library}'\ninterval_seconds = 1\n[gateway]\nport = {port}\n"
        )
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("AIFLEET_", "DOCKER_"))}
        self.environment = {**outside, **stub.environment, "PYTHONPATH": str(ROOT)}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it has the folder: a command that came first would hold it."""
        log_file = self.folder / "log"
        ready = b"health on http"
        starts = log_file.read_bytes().count(ready) if log_file.exists() else 0
        with log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "collectors"], cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while log_file.read_bytes().count(ready) == starts:
            if time.monotonic() > deadline or self.process.poll() is not None:
                pytest.fail(f"the collector did not start: {log_file.read_text()[-2000:]}")
            time.sleep(0.2)

    def end(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *words], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )

    def jobs(self) -> dict[str, dict[str, object]]:
        """The newest facts of each container's jobs, from an export through whoever holds the store: name -> job."""
        out = self.folder / f"export-{time.monotonic_ns()}"
        words = ("--from", "2020-01-01", "--to", "2100-01-01", "--format", "json", "--out", str(out))
        done = self.command("collectors", "jobs", "export", *words)
        if done.returncode != 0:
            return {}
        checked = self.command("fleet", "jobs", "verify", str(out))
        assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout
        rows = json.loads((out / "jobs.json").read_text())["jobs"]
        return {f"{row['container_name']} {row['gpu_count']:g}": row for row in reversed(rows)}

    def wait(self, what: str, **wanted: object) -> dict[str, object]:
        deadline = time.monotonic() + 75
        found: dict[str, dict[str, object]] = {}
        while time.monotonic() < deadline:
            found = self.jobs()
            if what in found and all(found[what][name] == value for name, value in wanted.items()):
                return found[what]
            time.sleep(2)
        pytest.fail(f"no {what} with {wanted} in {found}: {(self.folder / 'log').read_text()[-2000:]}")


@pytest.fixture
def collector(tmp_path: Path, dockerd: Dockerd) -> Iterator[Collector]:
    stub = NvmlStub(tmp_path, build(tmp_path))
    stub.write(gpu(0, A), gpu(1, B))
    made = Collector(tmp_path, dockerd, stub)
    yield made
    made.end(signal.SIGKILL)
    if names := dockerd.cli("ps", "-aq").split():
        dockerd.cli("rm", "-f", *names)


def gpu_container(dockerd: Dockerd, name: str, request: str, *options: str) -> None:
    dockerd.cli("run", "-d", "--network", "none", "--name", name, "--gpus", request, *options, "busybox:latest",
                "sleep", "100000")  # fmt: skip


@pytest.mark.timeout(400)
def test_jobs_of_real_containers_survive_kills_of_both_and_a_planted_edit_is_found(
    collector: Collector, dockerd: Dockerd
):
    gpu_container(dockerd, "train", f'"device={A}"', "--label", "aifleet.tenant=acme", "--label", "aifleet.user=ada")
    gpu_container(dockerd, "serve", "all", "--user", "10001")
    dockerd.cli("run", "-d", "--network", "none", "--name", "web", "busybox:latest", "sleep", "100000")
    collector.start()
    train = collector.wait("train 1", state="running")
    assert (train["gpu_uuids"], train["tenant"], train["user"]) == ([A], "acme", "ada")
    serve = collector.wait("serve 2", state="running")
    assert (serve["gpu_uuids"], serve["user"]) == ([A, B], "10001")
    assert len(collector.jobs()) == 2  # web holds nothing
    # Killed by hand while somebody looks: the event tells.
    dockerd.cli("kill", "train")
    ended = collector.wait("train 1", state="ended")
    assert (ended["exit_code"], ended["end_reason"]) == (137, "ended with exit code 137 (killed)")
    assert ended["sources"]["ended_at"] == "docker event"  # type: ignore[index]
    # The collector dies without a word; serve ends and is removed, train is made anew while nobody looks.
    collector.end(signal.SIGKILL)
    dockerd.cli("rm", "-f", "serve", "train")
    gpu_container(dockerd, "train", "1", "--label", "aifleet.tenant=acme")
    collector.start()
    gone = collector.wait("serve 2", state="ended")
    assert gone["sources"]["ended_at"] == "docker event"  # type: ignore[index] - the daemon still had it
    again = collector.wait("train 1", state="running")
    assert again["container_id"] != train["container_id"]
    collector.end(signal.SIGTERM)
    # With the collector gone the folder is opened directly.
    verified = collector.command("collectors", "jobs", "verify")
    assert (verified.returncode, verified.stdout[:8]) == (0, "ok      "), verified.stderr
    dsn = f"chdb://{collector.folder}/data/store"
    edit = "ALTER TABLE gpu_jobs UPDATE user = 'eve' WHERE sequence = 2 SETTINGS mutations_sync = 2"
    subprocess.run([sys.executable, "-c", EDIT, dsn, edit], check=True, env=collector.environment, cwd=collector.folder)
    found = collector.command("collectors", "jobs", "verify")
    assert found.returncode == 1
    assert "entry 2: was edited: its content does not give its hash" in found.stdout
    cut = "ALTER TABLE gpu_jobs DELETE WHERE sequence >= 5 SETTINGS mutations_sync = 2"
    subprocess.run([sys.executable, "-c", EDIT, dsn, cut], check=True, env=collector.environment, cwd=collector.folder)
    found = collector.command("collectors", "jobs", "verify")
    assert "at the end: removed (the recorded head is 5)" in found.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("export",), "export needs a period and a folder"),
        (("export", "--from", "soon", "--to", "2026-01-01", "--out", "x"), "found 'soon'"),
        (("export", "--from", "2026-02-01", "--to", "2026-01-01", "--out", "x"), "is not before"),
        (("verify",), "holds no store"),
    ],
)
def test_a_command_that_cannot_work_says_so_in_one_line(collector: Collector, words: tuple[str, ...], message: str):
    if words == ("verify",):
        (collector.folder / "fleet.toml").write_text("data_dir = 'nothing'")
    else:
        (collector.folder / "data" / "store").mkdir(parents=True)
    done = collector.command("collectors", "jobs", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
