"""`python -m fleet posture`: exit status, the three outputs, and input that cannot be read."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from fleet.__main__ import main

RECORDED = Path(__file__).resolve().parents[1] / "recorded" / "posture"
VLLM = str(RECORDED / "containers" / "sec-doc-vllm.json")
HARDENED = str(RECORDED / "containers" / "sec-hardened.json")
IMAGE = str(RECORDED / "images" / "sec-llm_latest.inspect.json")
HISTORY = str(RECORDED / "images" / "sec-llm_latest.history.json")
INFO = str(RECORDED / "host" / "info.json")

SERVICE = {
    "image": "registry.example.com/llm:1.4.2@sha256:" + "ab" * 32,
    "user": "10001:10001",
    "command": ["serve", "--model", "/models/m"],
    "entrypoint": None,
    "environment": {"HF_TOKEN_FILE": "/run/secrets/hf", "NVIDIA_VISIBLE_DEVICES": "void",
                    "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"},
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "mem_limit": "34359738368",
    "cpus": 8,
    "pids_limit": 512,
    "healthcheck": {"test": ["CMD", "/bin/check"]},
    "labels": {"tenant": "acme", "user": "ml", "workload": "chat"},
    "logging": {"driver": "fluentd", "options": {"labels": "tenant"}},
    "networks": {"acme": None},
    "ports": [{"mode": "ingress", "host_ip": "127.0.0.1", "target": 8000, "published": "18000", "protocol": "tcp"}],
    "restart": "on-failure:5",
    "secrets": [{"source": "hf"}],
    "volumes": [{"type": "bind", "source": "/srv/models", "target": "/models", "read_only": True}],
    "deploy": {"resources": {"reservations": {"devices": [
        {"driver": "nvidia", "device_ids": ["GPU-3a1b2c3d-0000-4444-8888-000000000001"], "capabilities": ["gpu"]}]}}},
}  # fmt: skip


def run(capsys: pytest.CaptureFixture, *words: str) -> tuple[int, str, str]:
    status = main(["posture", *words])
    output = capsys.readouterr()
    return status, output.out, output.err


def compose(tmp_path: Path, **services: dict) -> str:
    file = tmp_path / "compose.json"
    file.write_text(json.dumps({"name": "rag", "services": services}))
    return str(file)


def judged(capsys: pytest.CaptureFixture, tmp_path: Path, change: dict, *words: str) -> dict[str, dict]:
    service = {**copy.deepcopy(SERVICE), **change}
    _, out, _ = run(capsys, "--compose", compose(tmp_path, api=service), "--all", "--json", *words)
    rows = json.loads(out)
    order = {"fail": 0, "unknown": 1, "pass": 2, "not_applicable": 3}
    return {row["check"]: row for row in sorted(rows, key=lambda row: -order[row["result"]])}


def test_a_bad_container_is_status_1_and_the_threshold_decides(capsys: pytest.CaptureFixture):
    assert run(capsys, "--inspect", VLLM)[0] == 1
    assert run(capsys, "--inspect", VLLM, "--fail-on", "critical")[0] == 0
    assert run(capsys, "--inspect", HARDENED)[0] == 0
    assert run(capsys, "--inspect", HARDENED, "--fail-on", "medium")[0] == 1  # its logs stay on the host


def test_the_catalogue_can_be_listed(capsys: pytest.CaptureFixture):
    status, out, _ = run(capsys, "--list")
    assert (status, len(out.splitlines())) == (0, 78)
    assert "GPU-01  high      container              All GPUs requested  (AI)" in out


def test_the_text_says_what_was_found_where_and_what_to_write(capsys: pytest.CaptureFixture):
    _, out, _ = run(capsys, "--inspect", VLLM, "--info", INFO)
    assert "high     RUN-11  Host's IPC namespace" in out
    assert "found host at HostConfig.IpcMode" in out
    assert "write remove `ipc: host`; write shm_size: 8g" in out
    assert "fake-cli-key" not in out


def test_json_has_a_row_for_every_result(capsys: pytest.CaptureFixture):
    _, out, _ = run(capsys, "--inspect", VLLM, "--json")
    rows = json.loads(out)
    assert {"subject", "check", "severity", "result", "observed", "expected", "path", "remedy"} <= set(rows[0])
    assert {row["result"] for row in rows} == {"pass", "fail", "unknown", "not_applicable"}
    gpu = next(row for row in rows if row["check"] == "GPU-01")
    assert (gpu["subject"], gpu["severity"], gpu["observed"]) == ("container/sec-doc-vllm", "high", "--gpus all")


def test_sarif_has_rules_results_and_places(capsys: pytest.CaptureFixture):
    _, out, _ = run(capsys, "--inspect", VLLM, HARDENED, "--sarif")
    (log,) = json.loads(out)["runs"]
    rules = [rule["id"] for rule in log["tool"]["driver"]["rules"]]
    assert len(rules) == len(set(rules)) == 78
    assert all(rules[result["ruleIndex"]] == result["ruleId"] for result in log["results"])
    assert {result["kind"] for result in log["results"]} == {"fail", "open"}
    places = {
        result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        for result in log["results"]
        if result["message"]["text"].startswith("container/sec-hardened:")
    }
    assert places == {HARDENED}
    prints = [result["partialFingerprints"]["identity/v1"] for result in log["results"]]
    assert len(prints) == len(set(prints))


def test_images_and_their_history_are_judged_too(capsys: pytest.CaptureFixture):
    _, out, _ = run(capsys, "--image", IMAGE, "--history", HISTORY, "--json")
    assert {row["key"] for row in json.loads(out) if row["check"] == "SEC-02"} == {
        "image env:HF_TOKEN", "build argument:PIP_TOKEN", "history:url-password",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "check", "result"),
    [("dockle_apt_update_upgrade", "IMG-12", "fail"), ("dockle_nginx", "IMG-12", "pass"),
     ("dockle_nginx", "IMG-11", "pass"), ("dockle_add_with_arg_statement", "IMG-11", "pass")],
)  # fmt: skip
def test_an_image_config_serves_as_history(
    capsys: pytest.CaptureFixture, tmp_path: Path, name: str, check: str, result: str
):
    config = RECORDED / "image-configs" / f"{name}.json"
    image = tmp_path / "image.json"
    image.write_text(json.dumps([{"Id": "sha256:" + "1" * 64, "RepoTags": ["x:1"], "Config": {"Env": []}}]))
    _, out, _ = run(capsys, "--image", str(image), "--history", str(config), "--all", "--json")
    assert next(row["result"] for row in json.loads(out) if row["check"] == check) == result


def test_a_history_that_was_cut_short_is_unknown(capsys: pytest.CaptureFixture, tmp_path: Path):
    history = tmp_path / "history.json"
    lines = [{"CreatedBy": "RUN /bin/sh -c apt-get upd…", "Size": "1MB"}, {"CreatedBy": "ADD x", "Size": "5MB"}]
    history.write_text("\n".join(json.dumps(line) for line in lines))
    image = tmp_path / "image.json"
    image.write_text(json.dumps({"Id": "sha256:" + "1" * 64, "RepoTags": ["x:1"], "Config": {"Env": []}}))
    _, out, _ = run(capsys, "--image", str(image), "--history", str(history), "--json")
    row = next(row for row in json.loads(out) if row["check"] == "SEC-02")
    assert (row["result"], row["why"]) == ("unknown", "cut short; save it with docker history --no-trunc")


# --- compose -------------------------------------------------------------------------------------------------------


def test_a_hardened_service_has_no_failure(capsys: pytest.CaptureFixture, tmp_path: Path):
    rows = judged(capsys, tmp_path, {})
    assert {check for check, row in rows.items() if row["result"] == "fail" and row["severity"] != "info"} == set()
    assert rows["RUN-01"]["subject"] == "container/rag/api/1"  # the same name as when it runs


@pytest.mark.parametrize(
    ("change", "check", "path"),
    [
        ({"privileged": True}, "RUN-01", "services.api.privileged"),
        ({"user": "0"}, "RUN-02", "services.api.user"),
        ({"cap_add": ["SYS_ADMIN"]}, "RUN-03", "services.api.cap_add"),
        ({"security_opt": ["seccomp:unconfined"]}, "RUN-07", "services.api.security_opt"),
        ({"security_opt": ["systempaths=unconfined"]}, "RUN-16", "services.api"),
        ({"read_only": False}, "RUN-09", "services.api.read_only"),
        ({"pid": "host"}, "RUN-10", "services.api.pid"),
        ({"ipc": "host"}, "RUN-11", "services.api.ipc"),
        ({"network_mode": "host"}, "NET-01", "services.api.network_mode"),
        ({"ports": [{"target": 8000, "published": "8000"}]}, "NET-02", "services.api.ports"),
        ({"volumes": [{"type": "bind", "source": "/var/run/docker.sock", "target": "/d"}]}, "MNT-01",
         "services.api.volumes[0]"),
        ({"volumes": [{"type": "bind", "source": "/etc", "target": "/d"}]}, "MNT-02", "services.api.volumes[0]"),
        ({"volumes": [{"type": "bind", "source": "/m", "target": "/models"}]}, "MNT-04", "services.api.volumes[0]"),
        ({"devices": ["/dev/sda:/dev/sda"]}, "MNT-07", "services.api.devices"),
        ({"mem_limit": None}, "RES-01", "services.api.mem_limit"),
        ({"pids_limit": None}, "RES-03", "services.api.pids_limit"),
        ({"healthcheck": {"disable": True}}, "OPS-01", "services.api.healthcheck"),
        ({"logging": {"driver": "none"}}, "LOG-01", "services.api.logging"),
        ({"environment": {"DB_PASSWORD": "hunter2xyz"}}, "SEC-01", "services.api.environment"),
        ({"command": ["serve", "--api-key", "hunter2xyz"]}, "SEC-03", "services.api.command"),
        ({"command": ["serve", "--trust-remote-code"]}, "MNT-06", "services.api.command"),
        ({"gpus": "all", "deploy": {}}, "GPU-01", "services.api.deploy.resources.reservations.devices"),
        ({"image": "vllm/vllm-openai", "ports": [{"target": 8000, "published": "8000"}]}, "NET-06",
         "services.api.ports"),
    ],
)  # fmt: skip
def test_each_bad_line_of_a_service_is_found_at_its_place(
    capsys: pytest.CaptureFixture, tmp_path: Path, change: dict, check: str, path: str
):
    row = judged(capsys, tmp_path, change)[check]
    assert (row["result"], row["path"]) == ("fail", path)


def test_what_the_image_decides_is_unknown_until_it_is_given(capsys: pytest.CaptureFixture, tmp_path: Path):
    change = {"user": None, "healthcheck": None, "environment": {}, "image": "sec-llm:latest", "command": None}
    rows = judged(capsys, tmp_path, change)
    unknown = {"RUN-02", "OPS-01", "GPU-05", "MNT-06", "NET-06", "SEC-03", "RUN-18", "SEC-02"}
    assert {check for check in unknown if rows[check]["result"] != "unknown"} == set()
    rows = judged(capsys, tmp_path, change, "--image", IMAGE, "--history", HISTORY)
    assert {check: rows[check]["result"] for check in sorted(unknown)} == {
        "GPU-05": "fail", "MNT-06": "pass", "NET-06": "not_applicable", "OPS-01": "fail", "RUN-02": "fail",
        "RUN-18": "pass", "SEC-02": "fail", "SEC-03": "pass",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("services:\n  api:\n    image: x\n", "docker compose config --format json"),
        ("[]", "found a list"),
        ("{}", "found no services"),
        ('{"services": {"api": 3}}', "one is a int"),
    ],
)
def test_a_compose_file_that_is_no_json_says_what_to_run(
    capsys: pytest.CaptureFixture, tmp_path: Path, content: str, words: str
):
    file = tmp_path / "compose.yaml"
    file.write_text(content)
    status, out, err = run(capsys, "--compose", str(file))
    assert (status, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [("--inspect", "/nowhere/x.json"), ("--inspect", INFO), (), ("--inspect", VLLM, "--fail-on", "grave"),
     ("--inspect", VLLM, "--history", HISTORY), ("--inspect", "/"), ("--inspect", VLLM, "--info", IMAGE + "x")],
)  # fmt: skip
def test_bad_input_is_status_2_and_one_line(capsys: pytest.CaptureFixture, words: tuple[str, ...]):
    status, out, err = run(capsys, *words)
    assert (status, out, err.count("\n")) == (2, "", 1)


def test_input_nested_without_end_is_refused(capsys: pytest.CaptureFixture, tmp_path: Path):
    file = tmp_path / "deep.json"
    file.write_text("[" * 200_000)
    assert run(capsys, "--inspect", str(file))[0] == 2
