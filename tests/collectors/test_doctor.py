from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from collectors import doctor, doctor_machine, doctor_sources
from collectors.doctor_check import Check
from collectors.outcome import Outcome
from collectors.runner import Runner
from collectors.web import WebServer, web_app
from fleet.inventory import ContainerFacts, HostInventory
from fleet.model import Container, Host, InferenceSample
from fleet.settings import DockerDaemon, Settings, load_settings
from store import open_store
from store.spool import WriterState

ROOT = Path(__file__).parents[2]
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
ID = "a" * 64


def settings(tmp_path: Path, text: str = "", **environment: str) -> Settings:
    environment = {"AIFLEET_DATA_DIR": str(tmp_path / "data"), "AIFLEET_GATEWAY_PORT": "1", **environment}
    return load_settings(text, environment, host="node1")


def daemon(**values) -> DockerDaemon:
    return DockerDaemon(**{"name": "h1", **values})


def facts(pid: int) -> ContainerFacts:
    row = Container(
        seen_at=NOON, host="h1", tenant="acme", team="", owner="", tenant_origin="label", container_key="h1:web",
        container_id=ID, name="web", image="", image_id="", image_digest="",
    )  # fmt: skip
    return ContainerFacts(row=row, pid=pid)


def host(*containers: ContainerFacts, local: bool = True) -> HostInventory:
    return HostInventory(host="h1", at=NOON, local=local, containers=containers)


def endpoint(name: str, joined_by: str) -> InferenceSample:
    return InferenceSample(
        at=NOON, host="", tenant="", container_key="", container_id="", prometheus="p", endpoint=name, server="vllm",
        model="m", interval_seconds=15, up=True, joined_by=joined_by,
    )  # fmt: skip


def by_id(checks: list[Check]) -> dict[str, Check]:
    return {check.id: check for check in checks}


def test_the_ids_are_the_documented_ones_and_every_finding_has_a_next_step(tmp_path):
    text = f"[[docker]]\nurl = 'unix://{tmp_path}/none.sock'\n[[prometheus]]\nurl = 'http://127.0.0.1:1'\n"
    checks = doctor.examine(settings(tmp_path, text + "[nvml]\nlibrary = '/nonexistent/libnvidia-ml.so.1'"))
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    for check in checks:
        assert f"| {check.id} |" in page, check.id
        assert check.state == "PASS" or check.next_step, check
    for number in ("D002", "D003", "P002"):
        assert f"| {number} |" in page
    found = by_id(checks)
    assert found["D001"].state == "FAIL"
    assert found["P001"].state == "FAIL"
    assert "D002" not in found  # nothing can be said of a daemon that does not answer


def test_without_docker_gpu_and_prometheus_the_doctor_says_so_and_leaves_no_trace(tmp_path):
    text = "docker = []\n[nvml]\nlibrary = '/nonexistent/libnvidia-ml.so.1'"
    found = by_id(doctor.examine(settings(tmp_path, text.replace("library", "enabled = 'auto'\nlibrary"))))
    assert (found["D001"].state, found["D001"].found) == ("WARN", "no daemon in the settings")
    assert found["P001"].state == "WARN"
    assert found["S001"].found.endswith("data/store will be made at the first start")
    assert found["G001"].state == "PASS"
    assert list(tmp_path.iterdir()) == []


def test_host_pid_view_needs_a_container_process_that_carries_its_id(tmp_path):
    (tmp_path / "41").mkdir()
    (tmp_path / "41/cgroup").write_text(f"0::/docker/{ID}\n")
    (tmp_path / "42").mkdir()
    (tmp_path / "42/cgroup").write_text("0::/\n")
    ours = daemon(proc_root=str(tmp_path))
    assert doctor_sources.host_pid_view(ours, host(facts(41))).state == "PASS"
    # the same number is another process in our own PID namespace: GPU use would go to the wrong container
    failed = doctor_sources.host_pid_view(ours, host(facts(42), facts(43)))
    assert failed.state == "FAIL"
    assert "--pid=host" in failed.next_step
    assert doctor_sources.host_pid_view(ours, host(facts(0))).state == "WARN"
    assert doctor_sources.host_pid_view(ours, host(facts(42), local=False)).state == "PASS"


def test_statistics_through_the_api_of_a_local_daemon_are_a_warning_unless_asked_for():
    rows = (Host(seen_at=NOON, host="h1", stats_path="api"),)
    outcome = Outcome(state="ok", rows=rows)
    assert doctor_sources.cgroup_path(daemon(), host(), outcome).state == "WARN"
    assert doctor_sources.cgroup_path(daemon(statistics="api"), host(), outcome).state == "PASS"
    cgroup = Outcome(state="ok", rows=(Host(seen_at=NOON, host="h1", stats_path="cgroup"),))
    assert doctor_sources.cgroup_path(daemon(), host(), cgroup).state == "PASS"


def test_a_socket_for_everyone_fails_and_plain_tcp_too(tmp_path):
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o660)
        assert doctor_sources.docker_exposure(daemon(url=f"unix://{path}")).state == "PASS"
        path.chmod(0o666)
        check = doctor_sources.docker_exposure(daemon(url=f"unix://{path}"))
    assert (check.state, check.next_step) == ("FAIL", f"chmod o-rw {path}")
    assert doctor_sources.docker_exposure(daemon(url="tcp://x:2375")).state == "FAIL"
    assert doctor_sources.docker_exposure(daemon(url="ssh://x")).state == "PASS"


def test_endpoints_that_no_container_is_known_for_are_named():
    assert doctor_sources.prometheus_joinable("p", Outcome(state="ok")).state == "WARN"
    rows = (endpoint("a:1", "id"), endpoint("b:1", "ambiguous"), endpoint("c:1", "none"))
    check = doctor_sources.prometheus_joinable("p", Outcome(state="ok", rows=rows))
    assert (check.state, check.found) == ("WARN", "2 of 3 not joined: b:1, c:1")
    assert doctor_sources.prometheus_joinable("p", Outcome(state="ok", rows=rows[:1])).state == "PASS"


def test_no_gpu_is_fine_and_a_driver_that_fails_is_not():
    assert doctor_sources.nvml("h1", Outcome(state="absent", detail="no GPU in this host")).state == "PASS"
    failed = doctor_sources.nvml("h1", Outcome(state="failed", reason="timeout", error="hangs"))
    assert (failed.state, failed.next_step) == ("FAIL", "Look at nvidia-smi on the host")


def test_files_that_the_settings_name_must_be_readable_and_secrets_by_nobody_else(tmp_path):
    secret = tmp_path / "token"
    secret.write_text("x")
    secret.chmod(0o644)
    text = f"[[prometheus]]\nurl = 'http://p'\ntoken_file = '{secret}'\nca_file = '{tmp_path}/none.pem'\n"
    checks = list(doctor_machine.named_files(settings(tmp_path, text)))
    assert [(check.state, check.target) for check in checks] == [
        ("WARN", "prometheus[0].token_file"),
        ("FAIL", "prometheus[0].ca_file"),
    ]
    assert checks[0].next_step == f"chmod 600 {secret}"
    secret.chmod(0o600)
    fine = list(doctor_machine.named_files(settings(tmp_path, text.replace("none.pem", "token"))))
    assert [(check.state, check.found) for check in fine] == [("PASS", "2 named, all readable")]


def test_a_store_that_exists_is_opened_and_one_that_is_away_fails(tmp_path):
    ours = settings(tmp_path)
    store = open_store(ours.store_dsn())
    store.command("SELECT 1")
    store.close()
    check = doctor_machine.store_opens(ours)
    assert (check.state, check.found) == ("PASS", f"chdb://{tmp_path}/data/store answers")
    away = settings(tmp_path, "[store]\ndsn = 'clickhouse://u:hunter2@127.0.0.1:1/db'")
    check = doctor_machine.store_opens(away)
    assert check.state == "FAIL"
    assert "hunter2" not in check.found


def test_a_store_that_a_running_collector_holds_is_not_opened_twice(tmp_path):
    import random

    runner = Runner([], NoWriter(), rng=random.Random(1))
    runner.start()
    server = WebServer(
        web_app(runner.health, spool=lambda: WriterState(), version="1", gateway=None), "127.0.0.1", 0
    )  # fmt: skip
    server.start()
    try:
        ours = settings(tmp_path, AIFLEET_GATEWAY_PORT=str(server.port))
        check = doctor_machine.store_opens(ours)
    finally:
        server.stop()
        runner.stop()
    assert (check.state, check.found) == ("PASS", f"held by the collector that runs on port {server.port}")
    assert not doctor_machine.collector_answers(ours)


class NoWriter:
    def append(self, batch: object) -> None:
        pass

    def drain(self) -> None:
        pass


def test_a_clock_before_this_program_fails_and_the_kernel_is_asked():
    assert doctor_machine.clock_sane(datetime(1970, 1, 1, tzinfo=UTC)).state == "FAIL"
    assert doctor_machine.clock_sane(NOON).state in {"PASS", "WARN"}
    assert isinstance(doctor_machine.kernel_clock_unsynchronised(), bool)


def test_batches_that_wait_or_were_set_aside_are_counted(tmp_path):
    ours = settings(tmp_path)
    assert doctor_machine.spool_empty(ours).state == "PASS"
    ours.spool_dir.mkdir(parents=True)
    (ours.spool_dir / "00000000000000000001.batch").write_bytes(b"x" * 1_500_000)
    (ours.spool_dir / "00000000000000000000.corrupt").write_bytes(b"")
    check = doctor_machine.spool_empty(ours)
    assert (check.state, check.found) == ("WARN", "1 batches wait (1.5 MB), 1 set aside")


def test_addresses_beyond_loopback_are_warned_of(tmp_path):
    ours = settings(tmp_path, "[gateway]\nhost = '0.0.0.0'\n[dashboard]\nhost = '10.0.0.5'")
    assert doctor_machine.gateway_address(ours).state == "WARN"
    assert "shows every tenant" in doctor_machine.dashboard_address(ours).found


def test_text_counts_and_json_is_a_list_of_checks():
    checks = [
        Check(id="S002", title="Disk space", state="PASS", found="9 GB free"),
        Check(id="D001", title="Docker", state="FAIL", found="no\x1b[2J", next_step="start it", target="h1"),
    ]
    assert doctor.as_text(checks).splitlines() == [
        "PASS  S002  Disk space: 9 GB free",
        "FAIL  D001  Docker [h1]: no\N{REPLACEMENT CHARACTER}[2J",
        "            next: start it",
        "1 passed, 0 warnings, 1 failed",
    ]
    assert json.loads(doctor.as_json(checks))[1]["next_step"] == "start it"


def run_doctor(folder: Path, **environment: str) -> tuple[int, dict[str, Check]]:
    done = subprocess.run(
        [sys.executable, "-m", "collectors", "doctor", "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "AIFLEET_GATEWAY_PORT": "1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    return done.returncode, by_id([Check(**item) for item in json.loads(done.stdout)])


def test_the_command_ends_with_1_when_a_check_fails(tmp_path):
    status, found = run_doctor(tmp_path, DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert status == 1
    assert found["D001"].state == "FAIL"


@pytest.mark.docker
def test_a_real_daemon_passes_every_docker_check(tmp_path):
    from tests.services.dockerd import running_dockerd

    with running_dockerd() as service:
        service.run("web")
        status, found = run_doctor(tmp_path, DOCKER_HOST=service.url)
        assert status == 0
        assert {number: found[number].state for number in ("D001", "D002", "D003", "D004")} == {
            "D001": "PASS",
            "D002": "PASS",
            "D003": "PASS",
            "D004": "PASS",
        }
        service.suspend()
        status, found = run_doctor(tmp_path, DOCKER_HOST=service.url, AIFLEET_DOCKER_TIMEOUT_SECONDS="1")
        service.resume()
        assert status == 1
        assert "timeout" in found["D001"].found
