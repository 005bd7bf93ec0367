"""The Docker source against a real daemon: what it reads and what that costs the daemon."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from collectors.sources.docker import DockerSource
from fleet.inventory import Inventory
from fleet.model import Container, ContainerSample, Host
from fleet.settings_table import DockerDaemon, TenantRule
from fleet.tenancy import Tenancy
from tests.services.docker_proxy import docker_proxy
from tests.services.docker_readings import events, poll, poll_until, rows
from tests.services.dockerd import Dockerd, running_dockerd

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]
BUSY = ("sh", "-c", "while true; do dd if=/dev/zero of=/tmp/x bs=1M count=5 2>/dev/null; done")


def test_a_container_is_described_with_its_limits_user_labels_and_tenant(dockerd: Dockerd, source) -> None:
    dockerd.run(
        "llm", "sleep", "1000", mem_limit="64m", nano_cpus=500_000_000, user="10001:10001",
        labels={"com.example.stage": "test", "api_key": "s3cr3tvalue", "tenant": "mallory"},
        environment={"HF_TOKEN": "hf_" + "a1B2c3D4e5" * 4, "PLAIN": "environmentvalue"},
    )  # fmt: skip
    inventory = Inventory()
    reading = poll(source(rules=[TenantRule(tenant="acme", team="search", name="llm")], inventory=inventory))
    row = rows(reading, Container)["llm"]
    assert (row.tenant, row.team, row.tenant_origin) == ("acme", "search", "mapped")
    assert (row.cpu_limit_cores, row.memory_limit_bytes, row.user) == (0.5, 64 << 20, "10001:10001")
    assert row.labels == {"com.example.stage": "test", "api_key": "[redacted]", "tenant": "mallory"}
    assert (row.state, row.exit_code, row.image, row.removed) == ("running", None, "busybox:latest", False)
    assert row.started_at is not None
    host = next(row for row in reading.rows if isinstance(row, Host))
    assert host.cpu_count == os.cpu_count()
    assert host.stats_path == "cgroup"
    (snapshot,) = inventory.hosts()
    assert snapshot.local
    assert snapshot.containers[0].pid > 0
    text = repr(reading) + repr(snapshot)
    assert all(secret not in text for secret in ("s3cr3tvalue", "a1B2c3D4e5", "environmentvalue"))


def test_cgroup_numbers_agree_with_the_daemons_own_statistics(dockerd: Dockerd, source) -> None:
    dockerd.run("busy", *BUSY, mem_limit="64m", nano_cpus=200_000_000)
    dockerd.run("idle")
    by_files, by_api = source(), source(statistics="api")
    first = {"files": poll(by_files), "api": poll(by_api)}
    assert all("first reading" in row.unknown_reason for row in rows(first["files"], ContainerSample).values())
    time.sleep(2)
    files, api = rows(poll(by_files), ContainerSample), rows(poll(by_api), ContainerSample)
    assert set(files) == set(api) == {"busy", "idle"}
    for name in files:
        assert files[name].unknown_reason == api[name].unknown_reason == ""
        assert files[name].pids == pytest.approx(api[name].pids, abs=2)
        assert files[name].memory_working_set_bytes == pytest.approx(api[name].memory_working_set_bytes, abs=6 << 20)
        rates = [row.cpu_seconds / row.interval_seconds for row in (files[name], api[name])]
        assert rates[0] == pytest.approx(rates[1], abs=0.08)
    busy = files["busy"]
    assert 0.1 < busy.cpu_seconds / busy.interval_seconds < 0.25
    assert busy.cpu_throttled_periods > 0
    assert busy.cpu_throttled_seconds > 0
    assert busy.memory_limit_bytes == 64 << 20
    assert files["idle"].memory_limit_bytes is None
    assert (busy.network_receive_bytes, busy.network_transmit_bytes) == (0, 0)


def test_an_oom_kill_is_counted_once_and_told_as_an_event(dockerd: Dockerd, source) -> None:
    polled = source()
    poll(polled)
    dockerd.run("hog", "sh", "-c", "tail /dev/zero; sleep 1000", mem_limit="16m", memswap_limit="16m")
    readings = poll_until(polled, lambda seen: any(event.kind == "oom" for event in events(seen, "hog")))
    readings += [poll(polled), poll(polled)]
    samples = [row for reading in readings for name, row in rows(reading, ContainerSample).items() if name == "hog"]
    assert sum(row.oom_kills or 0 for row in samples) == 1
    (oom,) = [event for event in events(readings, "hog") if event.kind == "oom"]
    assert oom.severity == "critical"


def test_the_oom_kill_that_ended_and_removed_a_container_is_counted(dockerd: Dockerd, source) -> None:
    polled = source()
    poll(polled)
    container = dockerd.run(
        "brief", "sh", "-c", "sleep 1; exec tail /dev/zero", mem_limit="16m", memswap_limit="16m", auto_remove=True
    )
    readings = [poll(polled)]
    readings += poll_until(polled, lambda seen: any(row.removed for row in rows(seen[-1], Container).values()))
    readings.append(poll(polled))
    samples = [row for reading in readings for name, row in rows(reading, ContainerSample).items() if name == "brief"]
    assert sum(row.oom_kills or 0 for row in samples) == 1
    assert samples[-1].state in {"removed", "exited", "running"}
    assert container.id in {row.container_id for row in samples}


def test_a_crash_loop_counts_every_restart_and_exit_code(dockerd: Dockerd, source) -> None:
    polled = source()
    poll(polled)
    dockerd.run("loop", "sh", "-c", "sleep 0.2; exit 3", restart_policy={"Name": "on-failure", "MaximumRetryCount": 3})
    ended = lambda: dockerd.cli("inspect", "-f", "{{.RestartCount}} {{.State.Status}}", "loop") == "3 exited"  # noqa: E731
    readings = poll_until(polled, lambda seen: ended())
    time.sleep(0.3)
    readings += [poll(polled), poll(polled)]
    samples = [row for reading in readings for name, row in rows(reading, ContainerSample).items() if name == "loop"]
    assert sum(row.restarts for row in samples) == 3
    deaths = [event for event in events(readings, "loop") if event.kind == "die"]
    assert [event.attributes["exit_code"] for event in deaths] == ["3"] * 4
    last = [rows(reading, Container)["loop"] for reading in readings if "loop" in rows(reading, Container)][-1]
    assert (last.state, last.exit_code, last.restart_count) == ("exited", 3, 3)


def test_health_is_read_and_its_change_is_an_event_without_the_checks_command(dockerd: Dockerd, source) -> None:
    polled = source()
    poll(polled)
    check = {"test": ["CMD-SHELL", "test ! -e /tmp/sick # s3cr3targument"], "interval": 200_000_000, "retries": 1}
    container = dockerd.run("web", healthcheck=check)
    poll_until(polled, lambda seen: rows(seen[-1], ContainerSample)["web"].health == "healthy")
    container.exec_run("touch /tmp/sick")
    readings = poll_until(polled, lambda seen: rows(seen[-1], ContainerSample)["web"].health == "unhealthy")
    readings.append(poll(polled))
    told = [event for event in events(readings, "web") if event.kind == "health_status"]
    assert [(event.detail, event.severity) for event in told] == [("unhealthy", "warning")]
    assert "s3cr3targument" not in repr(readings)
    assert not [event for event in events(readings, "web") if event.kind.startswith("exec")]


def test_what_happens_to_a_container_becomes_events_that_replay_as_the_same(dockerd: Dockerd, source) -> None:
    polled = source()
    poll(polled)
    container = dockerd.run("first", labels={"tenant": "acme"})
    container.rename("second")
    container.kill()
    container.remove(force=True)
    readings = poll_until(
        polled, lambda seen: any(event.kind == "destroy" for event in events(seen, "first", "second"))
    )
    told = events(readings, "first", "second")
    assert [event.kind for event in told] == ["create", "start", "rename", "kill", "die", "destroy"]
    assert {event.tenant for event in told} == {"acme"}
    assert told[4].attributes["exit_code"] == "137"
    assert (told[0].container_key, told[-1].container_key) == ("h1:first", "h1:second")
    again = poll_until(source(), lambda seen: len(events(seen, "first", "second")) >= 6)
    assert {event.event_id for event in told} <= {event.event_id for event in events(again, "first", "second")}


def test_a_new_image_under_the_same_key_is_an_image_change(dockerd: Dockerd, source) -> None:
    dockerd.import_busybox("app:2", changes=["LABEL version=2"])
    polled = source()
    old = dockerd.run("app")
    poll(polled)
    old.remove(force=True)
    dockerd.run("app", image="app:2")
    readings = poll_until(polled, lambda seen: any(event.kind == "image_change" for event in events(seen, "app")))
    (change,) = [event for event in events(readings, "app") if event.kind == "image_change"]
    assert change.container_key == "h1:app"
    assert change.title == "app now runs app:2"


def test_rows_are_stored_on_change_and_when_removed_not_in_every_poll(dockerd: Dockerd, source) -> None:
    container = dockerd.run("one")
    polled = source()
    assert set(rows(poll(polled), Container)) == {"one"}
    assert rows(poll(polled), Container) == {}
    container.pause()
    paused = poll_until(polled, lambda seen: bool(rows(seen[-1], Container)))[-1]
    assert rows(paused, Container)["one"].state == "paused"
    assert rows(paused, ContainerSample)["one"].state == "paused"
    container.remove(force=True)
    removed = poll_until(polled, lambda seen: bool(rows(seen[-1], Container)))[-1]
    assert rows(removed, Container)["one"].removed
    assert rows(removed, ContainerSample) == {}


def test_a_container_started_between_two_polls_loses_nothing(dockerd: Dockerd, source) -> None:
    polled = source()
    poll(polled)
    container = dockerd.run("burst", "sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 1000")
    time.sleep(1.5)
    row = rows(poll(polled), ContainerSample)["burst"]
    used = dockerd.client().api.stats(container.id, stream=False, one_shot=True)["cpu_stats"]["cpu_usage"][
        "total_usage"
    ]
    assert row.unknown_reason == ""
    assert row.cpu_seconds == pytest.approx(used / 1e9, rel=0.1)


def test_a_step_of_the_wall_clock_changes_no_interval(dockerd: Dockerd, source) -> None:
    dockerd.run("one")
    polled = source()
    now = datetime.now(UTC)
    polled.collect(now)
    back = rows(polled.collect(now - timedelta(hours=1)), ContainerSample)["one"]
    assert 0 < back.interval_seconds < 5
    assert back.cpu_seconds >= 0


def test_host_and_borrowed_networks_are_unknown_not_somebody_elses(dockerd: Dockerd, source) -> None:
    dockerd.run("hostnet", network_mode="host")
    dockerd.run("owner")
    dockerd.run("guest", network_mode="container:owner")
    for polled in (source(), source(statistics="api")):
        poll(polled)
        samples = rows(poll(polled), ContainerSample)
        assert samples["hostnet"].network_receive_bytes is None
        assert "host's" in samples["hostnet"].unknown_reason
        assert samples["guest"].network_receive_bytes is None
        assert samples["owner"].network_receive_bytes == 0


def test_hostile_labels_stay_inert(dockerd: Dockerd, source) -> None:
    labels = {
        "html": "<script>alert(1)</script>", "ansi": "\x1b[31mred", "long": "x" * 10_000, "csv": "=cmd|' /C calc'!A0",
        "tenant": "../../etc\x00\x1b]0;x\x07", "\u202eevil": "v",
    }  # fmt: skip
    dockerd.run("hostile", labels=labels)
    row = rows(poll(source()), Container)["hostile"]
    assert row.labels["html"] == "<script>alert(1)</script>"
    assert row.labels["ansi"] == "\ufffd[31mred"
    assert len(row.labels["long"]) == 512
    assert row.tenant == "../../etc\ufffd\ufffd]0;x\ufffd"
    assert "\ufffdevil" in row.labels
    json.dumps(row.labels).encode()


def test_only_what_changed_is_inspected(dockerd: Dockerd, source, tmp_path: Path) -> None:
    for number in range(5):
        dockerd.run(f"c{number}")
    with docker_proxy(dockerd.socket, tmp_path) as proxy:
        polled = source(url=proxy.url)
        poll(polled)
        assert proxy.asked(r"/containers/[0-9a-f]{64}/json") == 5
        proxy.paths.clear()
        poll(polled)
        poll(polled)
        assert proxy.asked("/containers/json") == 2
        assert len(proxy.paths) == 2
        dockerd.cli("update", "--memory", "64m", "--memory-swap", "64m", "c3")
        poll_until(polled, lambda seen: bool(rows(seen[-1], Container)))
        assert proxy.asked(r"/containers/[0-9a-f]{64}/json") == 1
        polled.close()


def test_a_container_that_asked_for_a_gpu_and_could_not_start_says_so(dockerd: Dockerd, source) -> None:
    dockerd.cli(
        "create", "--name", "wants", "--network", "none", "--gpus", '"device=0,1"', "busybox:latest", "sleep", "9"
    )
    with pytest.raises(RuntimeError, match="could not select device driver"):
        dockerd.cli("start", "wants")
    inventory = Inventory()
    reading = poll(source(inventory=inventory))
    row = rows(reading, Container)["wants"]
    assert row.gpu_request == "--gpus device=0,1"
    assert "could not select device driver" in row.error
    assert row.state == "created"
    assert inventory.hosts()[0].containers[0].gpu.ids == ("0", "1")
    assert rows(reading, ContainerSample) == {}


def test_traffic_addresses_and_ports_of_bridge_networks_are_read() -> None:
    with running_dockerd(networks=True) as daemon:
        web = daemon.run(
            "web", "sh", "-c", "dd if=/dev/zero of=/tmp/big bs=1M count=2 2>/dev/null; httpd -f -p 8000 -h /tmp",
            ports={"8000/tcp": ("127.0.0.1", None)},
        )  # fmt: skip
        address = web.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        daemon.run("client")
        inventory = Inventory()
        by_files = DockerSource(DockerDaemon(url=daemon.url, name="h1"), Tenancy(), inventory)
        by_api = DockerSource(DockerDaemon(url=daemon.url, name="h1", statistics="api"), Tenancy(), Inventory())
        poll(by_files)
        poll(by_api)
        daemon.cli(
            "exec", "client", "sh", "-c", f"until wget -q -O /dev/null http://{address}:8000/big; do sleep 0.1; done"
        )
        for polled in (by_files, by_api):
            samples = rows(poll(polled), ContainerSample)
            polled.close()
            assert 2 << 20 <= samples["web"].network_transmit_bytes <= 3 << 20
            assert 2 << 20 <= samples["client"].network_receive_bytes <= 3 << 20
            assert samples["web"].network_receive_bytes < 1 << 20
        facts = {each.row.name: each for each in inventory.hosts()[0].containers}
        assert facts["web"].network_addresses == {"bridge": address}
        ((host_ip, host_port, port),) = facts["web"].published_ports
        assert (host_ip, port) == ("127.0.0.1", 8000)
        assert host_port > 0
        assert {"127.0.0.1", "localhost", "h1"} <= inventory.hosts()[0].addresses
