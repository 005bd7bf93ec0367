"""Exporters through a real Prometheus: what our own collectors do not see appears in the same tables, marked so."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.parse
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from collectors.prometheus_exporters import Seen
from collectors.sources.prometheus import PrometheusSource
from fleet.inventory import HostGpu, Inventory
from fleet.model import Batch, Container, ContainerSample, Gpu, GpuSample, Host
from fleet.profile_check import check_exposition
from fleet.profiles import builtin_profiles
from fleet.settings import PrometheusServer
from fleet.settings_table import TenantRule
from fleet.tenancy import Tenancy
from tests.services.metrics_server import running_server
from tests.services.prometheus import running_prometheus, scrape_config, wait_until
from tests.store.stores import embedded_store

pytestmark = pytest.mark.prometheus
RECORDED = Path(__file__).parents[1] / "recorded"
T4 = "GPU-20c56d28-0da5-6d26-a36a-e7af1ce2586e"
CID = "c" * 64
AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def kubernetes(cpu, restarts):
    pod = f'namespace="search",pod="chat-0",container="vllm",id="/kubepods/pod1/{CID}",name="k8s_vllm",image="vllm:1"'
    pause = f'namespace="search",pod="chat-0",container="POD",id="/kubepods/pod1/{"d" * 64}",name="k8s_POD",image="p"'
    whole = 'namespace="search",pod="chat-0",container="",id="/kubepods/pod1",name="",image=""'
    own = 'namespace="search",pod="chat-0",container="vllm"'
    return {
        "cadvisor": (
            f"container_cpu_usage_seconds_total{{{pod}}} {cpu}\n"
            f"container_cpu_usage_seconds_total{{{pause}}} 1\n"
            f"container_cpu_usage_seconds_total{{{whole}}} {cpu + 1}\n"
            f'container_cpu_usage_seconds_total{{id="/system.slice/ssh.service"}} 5\n'
            f"container_memory_working_set_bytes{{{pod}}} 1000000\n"
            f'container_network_receive_bytes_total{{{pod},interface="eth0"}} {cpu * 10}\n'
            f'container_network_receive_bytes_total{{{pod},interface="eth1"}} {cpu}\n'
            f"container_spec_memory_limit_bytes{{{pod}}} 0\n"
        ),
        "kube": (
            f'kube_pod_container_info{{{own},container_id="containerd://{CID}",image="vllm:1"}} 1\n'
            f"kube_pod_container_status_restarts_total{{{own}}} {restarts}\n"
            f'kube_pod_container_resource_limits{{{own},resource="memory",unit="byte"}} 8000000\n'
            f'kube_pod_container_resource_limits{{{own},resource="nvidia_com_gpu",unit="integer"}} 2\n'
        ),
        "node": (
            "node_memory_MemTotal_bytes 64000000000\n"
            'node_uname_info{nodename="gpu-7",release="6.1.0",sysname="Linux"} 1\n'
            'node_os_info{pretty_name="Debian GNU/Linux 12"} 1\n'
            + "".join(f'node_cpu_seconds_total{{cpu="{n}",mode="{m}"}} 1\n' for n in range(4) for m in ("idle", "user"))
        ),
    }


class World:
    def __init__(self, prometheus, servers):
        self.prometheus, self.servers = prometheus, servers

    def show(self, **texts):
        for name, text in texts.items():
            self.servers[name].serve(text)
        start = time.time()
        wait_until(lambda: count(self.prometheus, f"timestamp(up) > {start}") == len(self.servers), 30)

    def source(self, inventory=None, **options):
        settings = PrometheusServer(url=self.prometheus.url, name="main", timeout_seconds=15.0)
        return contextlib.closing(
            PrometheusSource(settings, inventory or Inventory(), **({"settle_seconds": 0.0} | options))
        )


def count(prometheus, text):
    url = f"{prometheus.url}/api/v1/query?query={urllib.parse.quote(text)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return len(json.load(answer)["data"]["result"])


def recorded(name):
    return (RECORDED / f"{name}.prom").read_text()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    texts = {
        "t4": recorded("dcgm-exporter_t4_idle"),
        "h100": recorded("nvidia_gpu_exporter_h100_590.48.01_load"),
        "docker": recorded("cadvisor_unit_fixture"),
        **kubernetes(cpu=100, restarts=3),
    }
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(running_server(text)) for name, text in texts.items()}
        addresses = [server.address for server in servers.values()]
        # The fixture's samples are stamped 2014, as cAdvisor stamps its own.
        config = scrape_config(addresses, job="exporters", interval="500ms", extra="  honor_timestamps: false\n")
        prometheus = stack.enter_context(running_prometheus(tmp_path_factory.mktemp("prometheus"), config))
        wait_until(lambda: count(prometheus, "up == 1") == len(servers), 60)
        yield World(prometheus, servers)


def of(reading, kind):
    return [row for row in reading.rows if isinstance(row, kind)]


@pytest.mark.parametrize(
    ("recording", "profile", "uuid", "name", "index"),
    [
        ("dcgm-exporter_t4_idle", "dcgm-exporter", T4, "Tesla T4", 0),
        (
            "nvidia_gpu_exporter_h100_590.48.01_load", "nvidia-gpu-exporter",
            "GPU-00000000-0000-0000-0000-000000000000", "NVIDIA H100 80GB HBM3", 0,
        ),
    ],
)  # fmt: skip
def test_a_gpu_that_only_an_exporter_sees_is_read_as_the_profile_check_reads_it(
    world, recording, profile, uuid, name, index
):
    with world.source() as source:
        reading = source.collect(AT)
    (sample,) = [row for row in of(reading, GpuSample) if row.gpu_uuid == uuid]
    (gpu,) = [row for row in of(reading, Gpu) if row.gpu_uuid == uuid]
    assert (gpu.name, gpu.gpu_index, gpu.via) == (name, index, "prometheus:main")
    (checked,) = check_exposition(recorded(recording).splitlines(), builtin_profiles()).matched
    assert checked.profile.id == profile
    for wanted, read in zip(checked.profile.fields, checked.fields, strict=True):
        if wanted.type == "gauge" and read.value is not None and hasattr(sample, wanted.name):
            assert getattr(sample, wanted.name) == pytest.approx(read.value, abs=0.5 if read.value > 10 else 1e-9)
    assert sample.memory_total_bytes
    assert sample.memory_total_bytes >= sample.memory_used_bytes


def test_energy_is_stored_as_what_was_used_since_the_last_poll(world):
    text = recorded("dcgm-exporter_t4_idle")
    with world.source() as source:
        source.collect(AT)
        world.show(t4=text.replace("128996013", "129996013"))
        (sample,) = [row for row in of(source.collect(AT + timedelta(seconds=5)), GpuSample) if row.gpu_uuid == T4]
        world.show(t4=text)
    assert sample.energy_joules == pytest.approx(1000.0)  # a million millijoules
    assert 0.0 < sample.interval_seconds < 60.0


@pytest.mark.parametrize("known", [T4, T4.removeprefix("GPU-").upper()])
def test_a_gpu_that_our_own_collectors_see_is_left_to_them(world, known):
    inventory = Inventory()
    inventory.publish_gpus("here", (HostGpu(uuid=known, index=0),))
    with world.source(inventory) as source:
        assert [row.gpu_uuid for row in of(source.collect(AT), GpuSample) if row.gpu_uuid == T4] == []
    with world.source(seen=lambda: Seen(gpus=frozenset({known}))) as source:
        assert [row.gpu_uuid for row in of(source.collect(AT), Gpu) if row.gpu_uuid == T4] == []


def test_a_pod_is_one_container_put_together_from_cadvisor_and_kube_state_metrics(world):
    with world.source() as source:
        first = source.collect(AT)
        world.show(**kubernetes(cpu=104, restarts=4))
        reading = source.collect(AT + timedelta(seconds=5))
        world.show(**kubernetes(cpu=100, restarts=3))
    (row,) = [row for row in of(first, Container) if row.labels.get("pod")]
    assert (row.container_key, row.name) == ("main:search/chat-0/vllm", "search/chat-0/vllm")
    assert (row.container_id, row.image, row.via) == (CID, "vllm:1", "prometheus:main")
    assert (row.tenant, row.tenant_origin, row.gpu_request) == ("search", "label", "2 GPUs")
    (sample,) = [row for row in of(reading, ContainerSample) if row.container_id == CID]
    assert (sample.cpu_seconds, sample.network_receive_bytes, sample.restarts) == (4.0, 44, 1)
    assert (sample.memory_working_set_bytes, sample.memory_limit_bytes, sample.state) == (1000000, 8000000, "running")


def test_neither_pods_as_a_whole_nor_services_of_the_system_are_containers(world):
    with world.source() as source:
        names = {row.name for row in of(source.collect(AT), Container)}
    assert names == {"search/chat-0/vllm", "testcontaineralias"}


def test_a_container_that_our_own_collectors_see_is_left_to_them(world):
    with world.source(seen=lambda: Seen(containers=frozenset({CID}))) as source:
        names = {row.name for row in of(source.collect(AT), Container)}
    assert names == {"testcontaineralias"}


def test_an_operators_rule_on_the_namespace_names_the_tenant(world):
    tenancy = Tenancy([TenantRule(tenant="acme", label="namespace=search")])
    with world.source(tenancy=tenancy) as source:
        (row,) = [row for row in of(source.collect(AT), Container) if row.container_id == CID]
    assert (row.tenant, row.tenant_origin) == ("acme", "mapped")


def test_a_host_is_told_with_its_own_name_and_not_at_every_poll(world):
    with world.source() as source:
        (host,) = of(source.collect(AT), Host)
        again = source.collect(AT + timedelta(seconds=5))
    assert (host.host, host.cpu_count, host.memory_total_bytes) == ("gpu-7", 4, 64_000_000_000)
    assert (host.os, host.kernel, host.via) == ("Debian GNU/Linux 12", "6.1.0", "prometheus:main")
    assert of(again, Host) == of(again, Gpu) == of(again, Container) == []
    assert of(again, GpuSample)


def test_two_prometheus_that_scrape_one_exporter_count_it_once(world):
    from collectors.prometheus_claims import Claims

    claims = Claims()
    settings = PrometheusServer(url=world.prometheus.url, name="second")
    with world.source(claims=claims) as source:
        second = PrometheusSource(settings, Inventory(), claims=claims, settle_seconds=0.0)
        first = source.collect(AT)
        again = second.collect(AT)
        later = second.collect(AT + timedelta(seconds=120))  # the first has been silent for long
        second.close()
    assert len(of(first, GpuSample)) == len(of(later, GpuSample)) == 2
    assert of(again, GpuSample) == []


def test_the_store_takes_the_rows_and_tells_where_they_come_from(world, tmp_path):
    with world.source() as source, embedded_store(tmp_path) as store:
        for poll in range(2):
            reading = source.collect(AT + timedelta(seconds=5 * poll))
            store.append(Batch(token=str(poll), rows=reading.rows))
        found = store.query("SELECT gpu_uuid, name, via FROM gpus FINAL ORDER BY gpu_uuid").to_pylist()
        counted = store.query("SELECT count() AS n FROM container_samples").to_pylist()
    assert [(row["name"], row["via"]) for row in found] == [
        ("NVIDIA H100 80GB HBM3", "prometheus:main"),
        ("Tesla T4", "prometheus:main"),
    ]
    assert counted == [{"n": 4}]  # two containers, two polls
