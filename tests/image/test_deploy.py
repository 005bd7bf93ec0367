"""What deploy/ gives to an operator, as far as it can be shown without a registry."""

import re
import shutil
import stat
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from xml.dom import minidom

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_secrets_are_made_once_in_a_closed_folder_and_differ_from_each_other(tmp_path: Path) -> None:
    shutil.copy(ROOT / "deploy/make-secrets", tmp_path / "make-secrets")
    subprocess.run([tmp_path / "make-secrets"], check=True, capture_output=True)
    folder = tmp_path / "secrets"
    made = {file.name: file.read_text() for file in folder.iterdir()}
    assert set(made) == {"gateway_writer", "gateway_reader", "clickhouse_writer", "clickhouse_reader"}
    assert len(set(made.values())) == 4
    assert all(re.fullmatch(r"[0-9a-f]{48}\n", text) for text in made.values())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    again = subprocess.run([tmp_path / "make-secrets"], check=True, capture_output=True, text=True)
    assert again.stdout == ""
    assert made == {file.name: file.read_text() for file in folder.iterdir()}


def test_every_secret_that_compose_names_is_made_by_the_script() -> None:
    named = set(re.findall(r"file: \./deploy/secrets/(\w+)", (ROOT / "compose.yaml").read_text()))
    script = (ROOT / "deploy/make-secrets").read_text()
    assert named == set(re.search(r"for name in ([\w ]+);", script)[1].split())  # type: ignore[index]


def test_every_image_is_pinned_and_the_base_by_its_digest() -> None:
    assert re.search(r"^ARG BASE_IMAGE=python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}$",
                     (ROOT / "Dockerfile").read_text(), re.MULTILINE)  # fmt: skip
    for file in (ROOT / "compose.yaml", *(ROOT / "deploy").glob("compose.*.yaml")):
        for image in re.findall(r"^\s+image: (\S+)$", file.read_text(), re.MULTILINE):
            assert image.startswith("ai-fleet:") or re.search(r":v?\d+\.\d+\.\d+", image), (file.name, image)


def test_every_published_port_is_on_loopback() -> None:
    text = (ROOT / "compose.yaml").read_text()
    ports = re.findall(r"^    ports: \[(.*)\]$", text, re.MULTILINE)
    assert len(ports) == 3
    assert all(re.fullmatch(r'"127\.0\.0\.1:(\d+):\1"', port) for port in ports)


def test_the_pages_are_told_the_address_at_which_their_port_is_published() -> None:
    text = (ROOT / "compose.yaml").read_text()
    assert re.findall(r"AIFLEET_DASHBOARD_PUBLISHED_ON: (\S+)", text) == re.findall(r'\["(\S+):8501:8501"\]', text)


def test_every_setting_that_compose_sets_is_one_the_product_knows() -> None:
    from fleet.settings import load_settings

    names = ("compose.yaml", "deploy/compose.gpu.yaml", "deploy/compose.scale.yaml", "deploy/compose.socket-proxy.yaml")
    environment: dict[str, str] = {}
    for name in names:
        for key, value in re.findall(r"^      (AIFLEET_\w+): (.+)$", (ROOT / name).read_text(), re.MULTILINE):
            environment[key] = "host-1" if "${" in value else value.strip('"')
    settings = load_settings("", environment, origin="compose")
    assert settings.gateway.host == "0.0.0.0"
    assert settings.docker[0].url == "tcp://socket-proxy:2375"
    assert settings.nvml.enabled == "on"
    assert settings.store.dsn == "clickhouse://aifleet_writer@clickhouse:8123/aifleet"


def test_the_clickhouse_files_are_well_formed_and_the_reader_is_read_only() -> None:
    users = minidom.parse(str(ROOT / "deploy/clickhouse/users.xml"))
    minidom.parse(str(ROOT / "deploy/clickhouse/server.xml"))
    profile = users.getElementsByTagName("profiles")[0].getElementsByTagName("aifleet_reader")[0]
    assert profile.getElementsByTagName("readonly")[0].firstChild.data == "2"  # type: ignore[union-attr]


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (503, 1)])
def test_the_health_check_passes_on_200_and_says_why_it_fails_otherwise(status: int, expected: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()
            self.wfile.write(b"writer stuck")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        done = subprocess.run(
            [sys.executable, ROOT / "deploy/healthcheck.py"],
            env={"HEALTH_PORT": str(server.server_port)}, capture_output=True, text=True, timeout=20,
        )  # fmt: skip
    assert done.returncode == expected
    assert ("503 writer stuck" in done.stderr) == (status == 503)


def test_the_health_check_fails_in_one_line_when_nothing_listens() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "deploy/healthcheck.py"], env={"HEALTH_PORT": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("healthcheck: port 1: ")
    assert len(done.stderr.splitlines()) == 1
