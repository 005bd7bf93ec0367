from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from collectors import once
from collectors.base import Reading, SourceError
from fleet.model import Container, ContainerSample, Gap, GpuSample, InferenceSample

ROOT = Path(__file__).parents[2]
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
ID = "a" * 64


class OneSource:
    """Answers its n-th poll with the n-th reading; an exception is raised."""

    def __init__(self, *readings, kind="docker", target="h1", timeout=5.0, log=None):
        self.kind, self.target, self.interval_seconds, self.timeout_seconds = kind, target, 5.0, timeout
        self.readings, self.log = list(readings), log if log is not None else []

    def collect(self, at):
        self.log.append(self.kind)
        reading = self.readings.pop(0)
        if isinstance(reading, threading.Event):
            reading.wait(30)
            return Reading()
        if isinstance(reading, Exception):
            raise reading
        return reading

    def close(self):
        pass


def sample(**values) -> ContainerSample:
    base = {"at": NOON, "host": "h1", "tenant": "acme", "container_key": "h1:web", "container_id": ID}
    return ContainerSample(**{**base, "interval_seconds": 2.0, "state": "running", **values})


def facts() -> Container:
    return Container(
        seen_at=NOON, host="h1", tenant="acme", team="", owner="", tenant_origin="label", container_key="h1:web",
        container_id=ID, name="web", image="nginx:1", image_id="", image_digest="",
    )  # fmt: skip


def read(*groups, wait=0.0):
    return once.read_all(groups, wait_seconds=wait, wall=lambda: NOON, sleep=lambda _: None)


def test_the_second_reading_counts_and_facts_that_came_with_the_first_are_kept():
    first = Reading(rows=(facts(), sample(cpu_seconds=None)))
    second = Reading(rows=(sample(cpu_seconds=0.5, memory_working_set_bytes=1000),))
    found = once.report(read([OneSource(first, second)]), NOON)
    (container,) = found["containers"]
    # 0.5 s of CPU in 2 s are 0.25 cores
    assert (container["name"], container["image"], container["cpu_cores"]) == ("web", "nginx:1", 0.25)
    assert (container["memory_working_set_bytes"], container["tenant"]) == (1000, "acme")
    (source,) = found["sources"]
    assert (source["state"], source["rows"]) == ("ok", {"container_samples": 1})


def test_docker_is_read_before_those_that_join_to_it():
    log: list[str] = []
    docker = OneSource(Reading(), Reading(), log=log)
    nvml = OneSource(Reading(), Reading(), kind="nvml", log=log)
    read([docker], [nvml])
    assert log == ["docker", "nvml", "docker", "nvml"]


def test_a_source_that_hangs_is_named_and_not_entered_again():
    release = threading.Event()
    stuck = OneSource(release, Reading(), timeout=0.1)
    fine = OneSource(Reading(), Reading(rows=(sample(),)), target="h2")
    hung, good = read([stuck, fine])
    release.set()
    assert (hung.outcome.state, hung.outcome.reason) == ("failed", "timeout")
    assert stuck.log == ["docker"]
    assert good.outcome.state == "ok"


def test_unknown_stays_null_in_json_and_a_dash_in_text():
    row = sample(cpu_seconds=None, unknown_reason="denied: cgroup")
    reads = read([OneSource(Reading(), Reading(rows=(row,)))])
    container = once.report(reads, NOON)["containers"][0]
    assert container["cpu_cores"] is None
    assert container["memory_working_set_bytes"] is None
    line = next(line for line in once.as_text(reads).splitlines() if line.startswith("h1:web"))
    assert line.split() == ["h1:web", "acme", "running", "-", "-", "denied:", "cgroup"]


def test_failures_gaps_gpus_and_endpoints_are_said_in_text():
    gpu = GpuSample(
        at=NOON, host="h1", gpu_uuid="GPU-1", gpu_index=0, interval_seconds=5, busy_ratio=0.5,
        memory_used_bytes=2 * 10**9,
    )  # fmt: skip
    endpoint = InferenceSample(
        at=NOON, host="", tenant="", container_key="", container_id="", prometheus="p", endpoint="10.0.0.1:8000",
        server="vllm", model="m", interval_seconds=15, up=True, join_reason="no container has this address",
    )  # fmt: skip
    gap = Gap(subject="web", reason="denied", detail="net/dev")
    text = once.as_text(
        read(
            [OneSource(Reading(), SourceError("unreachable", "refused", "start it"))],
            [OneSource(Reading(), Reading(rows=(gpu,), gaps=(gap,)), kind="nvml")],
            [OneSource(Reading(), Reading(rows=(endpoint,)), kind="prometheus", target="p")],
        )
    )
    assert re.sub(r"in \d+ ms", "in 0 ms", text).splitlines()[:5] == [
        "failed  docker h1: unreachable: refused",
        "        next: start it",
        "partial nvml h1: 1 gpu_samples in 0 ms",
        "        gap: web: denied (net/dev)",
        "ok      prometheus p: 1 inference_samples in 0 ms",
    ]
    assert "GPU 0 GPU-1: busy 0.50, memory 2.00 GB" in text
    assert "endpoint 10.0.0.1:8000 m: no container (no container has this address)" in text


def test_names_cannot_move_the_cursor_and_what_json_cannot_say_is_null():
    evil = "web\x1b[2J\x9b31m\n"
    reads = read([OneSource(Reading(), Reading(rows=(sample(container_key=evil, cpu_seconds=float("nan")),)))])
    text = once.as_text(reads)
    assert "\x1b" not in text
    assert "\x9b" not in text
    document = json.loads(once.as_json(once.report(reads, NOON)), parse_constant=pytest.fail)
    assert document["containers"][0]["cpu_seconds"] is None
    assert document["containers"][0]["container_key"] == evil


@pytest.mark.docker
def test_once_names_every_running_container_of_a_real_daemon_with_cpu_and_memory(tmp_path):
    from tests.services.dockerd import running_dockerd

    with running_dockerd() as daemon:
        daemon.run("busy", "sh", "-c", "while true; do :; done", nano_cpus=300_000_000)
        daemon.run("idle", labels={"aifleet.tenant": "acme"})
        done = subprocess.run(
            [sys.executable, "-m", "collectors", "once", "--json"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "DOCKER_HOST": daemon.url},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        containers = {container["name"]: container for container in found["containers"]}
        assert set(containers) == {"busy", "idle"}
        for container in containers.values():
            assert container["cpu_cores"] is not None
            assert container["memory_working_set_bytes"] > 0
            assert container["state"] == "running"
        # held to 0.3 cores by the kernel; two shared cores may give less
        assert 0.02 < containers["busy"]["cpu_cores"] < 0.4
        assert containers["idle"]["tenant"] == "acme"
        assert not (tmp_path / "data").exists()
