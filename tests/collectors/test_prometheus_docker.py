"""Real containers, found by docker_sd and joined by every kind of evidence, through both real sources."""

from __future__ import annotations

import urllib.parse
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest

from collectors.sources.docker import DockerSource
from collectors.sources.prometheus import PrometheusSource
from fleet.inventory import Inventory
from fleet.model import InferenceSample
from fleet.settings import DockerDaemon, PrometheusServer, TenancySettings
from fleet.tenancy import Tenancy
from tests.services.dockerd import running_dockerd
from tests.services.metrics_server import vllm_text
from tests.services.prometheus import running_prometheus, wait_until

pytestmark = [pytest.mark.docker, pytest.mark.prometheus]
SAMPLE = Path(__file__).parents[2] / "deploy" / "prometheus" / "prometheus.yml"
SERVE = ("httpd", "-f", "-p", "8000", "-h", "/www")


def configuration(socket, ip):
    """The shipped example on a private socket and a fast clock, and three jobs as users write them without it."""
    text = SAMPLE.read_text().replace("unix:///var/run/docker.sock", socket).replace("gpu-host-1", "gpu-1")
    text = text.replace("scrape_interval: 15s", "scrape_interval: 500ms\n  scrape_timeout: 500ms")
    text = text.replace("refresh_interval: 15s", "refresh_interval: 1s")
    return text + (
        "  - job_name: plain\n"
        f"    docker_sd_configs: [{{host: '{socket}', refresh_interval: 1s, port: 8000}}]\n"
        "  - job_name: named\n"
        f"    static_configs: [{{targets: ['{ip}:8000'], labels: {{container: chat}}}}]\n"
        "  - job_name: address\n"
        f"    static_configs: [{{targets: ['{ip}:8000']}}]\n"
    )


def ask(prometheus, text):
    url = f"{prometheus.url}/api/v1/query?query={urllib.parse.quote(text)}"
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    www = tmp_path_factory.mktemp("www")
    (www / "metrics").write_text(vllm_text(prompt_tokens=100))
    with running_dockerd(networks=True) as daemon:
        labels = {"aifleet.scrape": "true", "aifleet.port": "8000", "aifleet.tenant": "search"}
        chat = daemon.run("chat", *SERVE, labels=labels, volumes={str(www): {"bind": "/www", "mode": "ro"}})
        ip = chat.attrs["NetworkSettings"]["IPAddress"]
        folder = tmp_path_factory.mktemp("prometheus")
        with running_prometheus(folder, configuration(daemon.url, ip)) as prometheus:
            wait_until(lambda: ask(prometheus, "count(up == 1)").count('"4"'), 30)
            yield daemon, prometheus, chat, www


@pytest.fixture
def sources(machine):
    daemon, prometheus, _, _ = machine
    inventory = Inventory()
    docker_source = DockerSource(DockerDaemon(url=daemon.url, name="gpu-1"), Tenancy((), TenancySettings()), inventory)
    source = PrometheusSource(
        PrometheusServer(url=prometheus.url, name="p", docker_host="gpu-1"), inventory, settle_seconds=0.0
    )

    def poll():
        docker_source.collect(datetime.now(UTC))
        rows = source.collect(datetime.now(UTC)).rows
        return {row.endpoint.partition("/")[0]: row for row in rows if isinstance(row, InferenceSample)}

    yield poll
    source.close()
    docker_source.close()


def scraped_again(prometheus, text, count=4):
    wait_until(lambda: ask(prometheus, f"count({text})").count(f'"{count}"'), 30)


def test_a_container_is_joined_by_every_kind_of_evidence_and_counted_once(machine, sources):
    _, prometheus, chat, www = machine
    rows = sources()
    assert {job: row.joined_by for job, row in rows.items()} == {
        "ai-containers": "id",
        "plain": "discovery",
        "named": "name",
        "address": "address",
    }
    assert {row.container_id for row in rows.values()} == {chat.id}
    assert {(row.tenant, row.host, row.container_key) for row in rows.values()} == {("search", "gpu-1", "gpu-1:chat")}
    (www / "metrics").write_text(vllm_text(prompt_tokens=160))
    scraped_again(prometheus, "vllm:prompt_tokens_total == 160")
    counted = [row.prompt_tokens for row in sources().values() if row.prompt_tokens is not None]
    assert counted == [60.0]  # four targets, one server


def test_a_restarted_container_counts_from_zero(machine, sources):
    daemon, prometheus, chat, www = machine
    (www / "metrics").write_text(vllm_text(prompt_tokens=1000))
    scraped_again(prometheus, "vllm:prompt_tokens_total == 1000")
    sources()
    chat.restart(timeout=0)
    (www / "metrics").write_text(vllm_text(prompt_tokens=1200))  # more than before: only the start time can tell
    scraped_again(prometheus, "vllm:prompt_tokens_total == 1200")
    counted = [row.prompt_tokens for row in sources().values() if row.prompt_tokens is not None]
    assert counted == [1200.0]
    assert daemon.cli("inspect", "--format", "{{.RestartCount}}", "chat") == "0"


def test_a_stopped_container_is_down_where_prometheus_still_scrapes_it(machine, sources):
    _, prometheus, chat, _ = machine
    sources()
    chat.stop(timeout=0)
    try:
        wait_until(lambda: ask(prometheus, 'up{job="named"}').count(',"0"'), 30)
        rows = sources()
        assert (rows["named"].up, rows["named"].requests_running) == (False, None)
        assert rows["named"].unknown_reason.startswith("down: ")
        assert rows["named"].container_key == "gpu-1:chat"
    finally:
        chat.start()
        scraped_again(prometheus, "up == 1")
