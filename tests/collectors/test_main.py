from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from collectors.__main__ import main

ROOT = Path(__file__).parents[2]
#: A file that reads nothing: no Docker, no GPU.
NOTHING = "docker = []\n[nvml]\nenabled = 'off'\n"
#: One that looks for a GPU where there is none: a source that answers "absent".
NO_GPU = "docker = []\n[nvml]\nenabled = 'auto'\nlibrary = '/nonexistent/libnvidia-ml.so.1'\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of its own to start commands in, with no settings from outside."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("AIFLEET_", "DOCKER_")):
            monkeypatch.delenv(name)
    return tmp_path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def start(folder):
    """Starts the collector as a process that answers on its port; whatever still runs at the end is killed."""
    processes: list[subprocess.Popen[str]] = []

    def begin(text: str, *arguments: str, until: str = "sources") -> tuple[subprocess.Popen[str], int]:
        port = free_port()
        (folder / "fleet.toml").write_text(f"{text}\n[gateway]\nport = {port}\n")
        process = subprocess.Popen(
            [sys.executable, "-m", "collectors", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if until in (health(port) or {}):
                return process, port
            time.sleep(0.05)
        process.kill()
        pytest.fail(f"the collector did not answer: {process.communicate()}")

    yield begin
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def health(port: int) -> dict | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            return json.load(answer)
    except OSError:
        return None


def stop(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[int, str, float]:
    """(exit status, stderr, seconds it took)."""
    began = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    return process.returncode, errors, time.monotonic() - began


def test_check_config_shows_every_value_with_its_origin_and_no_password(folder, monkeypatch, capsys):
    (folder / "fleet.toml").write_text("[store]\ndsn = 'clickhouse://u:hunter2@ch/db'\n[nvml]\nenabled = 'off'\n")
    monkeypatch.setenv("AIFLEET_GATEWAY_PORT", "9000")
    assert main(["check-config", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gateway.port"] == {"value": 9000, "origin": "AIFLEET_GATEWAY_PORT"}
    assert found["nvml.enabled"] == {"value": "off", "origin": "fleet.toml"}
    assert found["dashboard.port"] == {"value": 8501, "origin": "default"}
    assert found["docker[0].name"]["origin"] == "derived"
    assert found["store.dsn"]["value"] == "clickhouse://u:***@ch/db"
    assert main(["check-config"]) == 0
    assert "gateway.port = 9000" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["run", "once", "check-config", "doctor"])
def test_bad_settings_end_every_command_with_all_mistakes_and_status_2(folder, command, capsys):
    (folder / "fleet.toml").write_text("[gateway]\nport = 0.5\n[nvml]\nenabled = 3\n")
    assert main([command]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "fleet.toml: gateway.port: found 0.5, not a whole number; write 8710",
        'fleet.toml: nvml.enabled: found 3, not text in quotes; write "auto"',
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bogus"], "python -m collectors: argument command: invalid choice: 'bogus'"),
        (
            ["once", "--wait", "x"],
            "python -m collectors once: argument --wait: found 'x', write seconds from 0 to 3600",
        ),
        (["run", "--frobnicate"], "python -m collectors: unrecognized arguments: --frobnicate"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(folder, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "missing.toml: cannot be read (No such file"), (b"\xff", "missing.toml: not UTF-8 at byte 0; save the")],
)
def test_a_settings_file_that_cannot_be_read_is_named(folder, capsys, content, message):
    if content is not None:
        (folder / "missing.toml").write_bytes(content)
    assert main(["check-config", "--config", "missing.toml"]) == 2
    assert capsys.readouterr().err.startswith(message)


def test_the_file_may_be_named_by_the_environment(folder, monkeypatch, capsys):
    (folder / "other.toml").write_text("[gateway]\nport = 1234\n")
    monkeypatch.setenv("AIFLEET_CONFIG", "other.toml")
    assert main(["check-config", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gateway.port"] == {"value": 1234, "origin": "other.toml"}


def test_a_mapping_file_is_checked_like_the_settings(folder, capsys):
    (folder / "fleet.toml").write_text("[tenancy]\nfile = 'tenants.toml'\n[nvml]\nenabled = 'off'")
    (folder / "tenants.toml").write_text("[[tenant_rules]]\ntenat = 'acme'\nname = 'a'\n")
    assert main(["once"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        'tenants.toml: tenant_rules[0].tenat: unknown; did you mean "tenant"?',
        'tenants.toml: tenant_rules[0].tenant: missing; write tenant = "a tenant"',
    ]
    (folder / "tenants.toml").write_text("[gateway]\nport = 1\n")
    assert main(["once"]) == 2
    assert capsys.readouterr().err == "tenants.toml: gateway.port: not a tenant rule; write it into fleet.toml\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_flushes_and_ends_with_status_0(folder, start, number):
    process, port = start(NO_GPU)
    deadline = time.monotonic() + 30
    while not (health(port) or {}).get("last_batch_seconds") and time.monotonic() < deadline:
        time.sleep(0.05)
    status, errors, took = stop(process, number)
    assert status == 0, errors
    assert took < 10
    assert "Traceback" not in errors
    # what was read is in the store, which opens again
    from store import open_store

    store = open_store(f"chdb://{folder}/data/store")
    try:
        rows = store.query("SELECT source, state FROM source_runs").to_pylist()
    finally:
        store.close()
    assert {row["source"] for row in rows} == {"nvml", "ledger"}


def test_tokens_are_made_at_the_first_start_for_their_owner_only_and_kept(folder, start):
    tokens = []
    for _ in range(2):
        process, _ = start(NOTHING)
        assert stop(process)[0] == 0
        for name in ("gateway-writer.token", "gateway-reader.token"):
            path = folder / "data" / name
            assert path.stat().st_mode & 0o777 == 0o600
            tokens.append(path.read_text())
    assert tokens[:2] == tokens[2:]
    assert len(set(tokens)) == 2
    assert all(len(token.strip()) >= 40 for token in tokens)


def test_a_second_collector_on_the_same_folder_ends_with_one_clear_line(folder, start):
    process, _ = start(NOTHING)
    try:
        second = subprocess.run(
            [sys.executable, "-m", "collectors", "run"],
            env={**os.environ, "PYTHONPATH": str(ROOT), "AIFLEET_GATEWAY_PORT": str(free_port())},
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        stop(process)
    assert second.returncode == 2
    assert len(second.stderr.splitlines()) == 1
    assert f"belongs to a collector that runs (process {process.pid}); stop that one" in second.stderr


def test_a_port_that_is_taken_ends_the_start_with_one_clear_line(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (folder / "fleet.toml").write_text(f"{NOTHING}[gateway]\nport = {taken.getsockname()[1]}\n")
        done = subprocess.run(
            [sys.executable, "-m", "collectors"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "cannot be taken (Address already in use); stop what listens there" in done.stderr


def test_a_data_folder_that_cannot_be_made_ends_the_start_with_one_clear_line(folder, capsys):
    (folder / "file").write_text("")
    (folder / "fleet.toml").write_text(f"data_dir = 'file/data'\n{NOTHING}")
    assert main(["run"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"data_dir: {folder}/file/data: Not a directory; write a data_dir")


def test_a_hung_source_does_not_keep_the_process_from_ending(folder, start):
    # a daemon that takes connections and never answers, with a timeout longer than the test
    path = folder / "hung.sock"
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(path))
        daemon.listen(16)
        text = f"[[docker]]\nurl = 'unix://{path}'\ntimeout_seconds = 300\n[nvml]\nenabled = 'off'\n"
        process, port = start(text)
        found = health(port)
        assert found is not None
        assert found["sources"][0]["state"] == "starting"
        status, errors, took = stop(process)
    assert status == 0
    assert took < 10
    assert "left behind: docker/" in errors


def test_a_server_that_is_away_at_the_start_is_no_reason_to_end(start):
    process, port = start(f"{NO_GPU}[store]\ndsn = 'clickhouse://u@127.0.0.1:{free_port()}/db'\n")
    deadline = time.monotonic() + 30
    while not (health(port) or {}).get("spool_bytes") and time.monotonic() < deadline:
        time.sleep(0.05)
    found = health(port)
    assert found is not None
    assert found["store"] == "away"
    assert found["spool_bytes"] > 0
    # without an embedded store there is nothing to serve
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/?query=SELECT+1", timeout=5)
    assert caught.value.code == 404
    caught.value.close()
    assert stop(process)[0] == 0


def test_a_demo_that_is_stopped_while_it_fills_ends_with_status_0_and_its_store_opens(folder, start):
    text = "[store]\nmemory_limit_bytes = 1000000000"
    process, _ = start(text, "demo", "--seed", "3", until="status")
    status, errors, took = stop(process)
    assert status == 0, errors
    assert took < 10
    assert "Traceback" not in errors
    from store import open_store

    store = open_store(f"chdb://{folder}/data/store")
    try:
        store.query("SELECT count() FROM container_samples")
    finally:
        store.close()


@pytest.mark.docker
def test_a_daemon_that_hangs_and_comes_back_is_a_gap_and_a_recovery_in_the_store(folder, start):
    from store import open_store
    from tests.services.dockerd import running_dockerd

    def wait_for(state: str) -> dict:
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            sources = (health(port) or {"sources": [{"source": "docker", "state": ""}]})["sources"]
            (source,) = (one for one in sources if one["source"] == "docker")
            if source["state"] == state:
                return source
            time.sleep(0.1)
        pytest.fail(f"the source did not become {state}: {health(port)}")

    with running_dockerd() as daemon:
        daemon.run("web")
        text = f"[[docker]]\nurl = '{daemon.url}'\nname = 'h1'\ninterval_seconds = 1\ntimeout_seconds = 2\n"
        process, port = start(f"{text}[nvml]\nenabled = 'off'\n")
        wait_for("ok")
        daemon.suspend()
        assert wait_for("failed")["reason"] == "timeout"
        daemon.resume()
        wait_for("ok")
        status, errors, _ = stop(process)
    assert status == 0
    assert errors.count("source docker/h1 failed (timeout") == 1
    assert errors.count("source docker/h1 recovered after") == 1
    store = open_store(f"chdb://{folder}/data/store")
    try:
        events = store.query("SELECT kind, host FROM events WHERE kind IN ('gap', 'recovered') ORDER BY at").to_pylist()
        named = store.query("SELECT DISTINCT container_key FROM container_samples").to_pylist()
    finally:
        store.close()
    assert events == [{"kind": "gap", "host": "h1"}, {"kind": "recovered", "host": "h1"}]
    assert named == [{"container_key": "h1:web"}]


def test_the_schema_of_a_cluster_is_printed_ready_to_be_run(folder, capsys):
    # An operator pipes it into clickhouse-client: statements with their semicolons, and nothing else.
    assert main(["cluster-schema", "--cluster", "gpu_fleet"]) == 0
    text = capsys.readouterr().out
    assert "CREATE TABLE IF NOT EXISTS container_samples_local ON CLUSTER 'gpu_fleet'" in text
    assert (
        "ENGINE = Distributed('gpu_fleet', currentDatabase(), 'container_samples_local', cityHash64(container_id))"
        in text
    )
    assert text.rstrip().endswith(";")
    statements = [part.strip() for part in text.split(";\n") if part.strip()]
    assert {statement.split()[0] for statement in statements} == {"CREATE", "ALTER", "DROP", "INSERT"}
    assert statements[-1].startswith("INSERT INTO schema_migrations")
    assert main(["cluster-schema", "--cluster", "gpu_fleet", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(statements)


def test_a_cluster_name_that_could_be_sql_is_refused_in_one_line(folder, capsys):
    assert main(["cluster-schema", "--cluster", "x' ; DROP"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "plain name" in err
