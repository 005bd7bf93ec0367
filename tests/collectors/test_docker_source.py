"""The Docker source against a real daemon: what it reads, what it costs the daemon, and how it fails."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from collectors.base import Reading, SourceError
from collectors.sources.docker import DockerSource
from fleet.inventory import Inventory
from fleet.model import Container, ContainerSample, Event, Host, Row
from fleet.settings_table import DockerDaemon, TenantRule
from fleet.tenancy import Tenancy
from tests.services.docker_proxy import docker_proxy, http_answer
from tests.services.dockerd import Dockerd, running_dockerd

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]
R = TypeVar("R", bound=Row)
BUSY = ("sh", "-c", "while true; do dd if=/dev/zero of=/tmp/x bs=1M count=5 2>/dev/null; done")


@pytest.fixture(scope="module")
def shared() -> Iterator[Dockerd]:
    with running_dockerd() as daemon:
        yield daemon


@pytest.fixture
def dockerd(shared: Dockerd) -> Iterator[Dockerd]:
    """The shared daemon; what a test starts in it is removed after."""
    yield shared
    names = shared.cli("ps", "-aq").split()
    if names:
        shared.cli("rm", "-f", *names)


@pytest.fixture
def source(dockerd: Dockerd) -> Iterator[Callable[..., DockerSource]]:
    made: list[DockerSource] = []

    def make(**settings: object) -> DockerSource:
        rules = settings.pop("rules", ())
        inventory = settings.pop("inventory", None) or Inventory()
        values = {"url": dockerd.url, "name": "h1", "timeout_seconds": 10.0, **settings}
        made.append(DockerSource(DockerDaemon(**values), Tenancy(rules), inventory))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


def poll(source: DockerSource) -> Reading:
    return source.collect(datetime.now(UTC))


def rows(reading: Reading, kind: type[R]) -> dict[str, R]:
    """Rows of a kind by container name (key without its host)."""
    found = [row for row in reading.rows if isinstance(row, kind)]
    return {getattr(row, "container_key", "").partition(":")[2]: row for row in found}


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "condition not met in time"
        time.sleep(0.05)


def poll_until(
    source: DockerSource, condition: Callable[[list[Reading]], bool], seconds: float = 20.0
) -> list[Reading]:
    readings: list[Reading] = []

    def polled() -> bool:
        readings.append(poll(source))
        return condition(readings)

    until(polled, seconds)
    return readings


def events(readings: list[Reading], *names: str) -> list[Event]:
    """Events of these containers; the daemon also replays what other tests did within the hour."""
    keys = {f"h1:{name}" for name in names}
    found = [row for reading in readings for row in reading.rows if isinstance(row, Event)]
    return [event for event in found if event.container_key in keys]


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


def test_a_container_that_vanishes_between_list_and_inspect_is_a_gap(dockerd: Dockerd, source, tmp_path: Path) -> None:
    doomed, stays = dockerd.run("doomed"), dockerd.run("stays")
    with docker_proxy(dockerd.socket, tmp_path) as proxy:

        def remove_first(path: str) -> None:
            if path.endswith(f"/containers/{doomed.id}/json"):
                dockerd.cli("rm", "-f", "doomed", check=False)

        proxy.on_request = remove_first
        reading = poll(source(url=proxy.url))
    assert set(rows(reading, ContainerSample)) == {"stays"}
    assert [(gap.subject, gap.reason) for gap in reading.gaps] == [(doomed.id[:12], "gone")]
    assert stays.id


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


def test_a_proxy_that_refuses_events_is_lived_with(dockerd: Dockerd, source, tmp_path: Path) -> None:
    dockerd.run("one")
    with docker_proxy(dockerd.socket, tmp_path) as proxy:
        proxy.on_request = lambda path: http_answer(403, b"<html>no</html>", "text/html") if "/events" in path else None
        polled = source(url=proxy.url)
        poll(polled)
        reading = poll(polled)
        polled.close()
    assert rows(reading, ContainerSample)["one"].cpu_seconds is not None
    assert "events are not heard" in reading.detail


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (http_answer(200, b"<html>login</html>", "text/html"), "malformed"),
        (http_answer(200, b"[1, null, {}]"), "malformed"),
        (http_answer(200, b'{"a": 1}'), "malformed"),
        (http_answer(500, b'{"message":"boom"}'), "malformed"),
        (http_answer(403, b"denied"), "denied"),
    ],
)
def test_a_daemon_that_talks_nonsense_is_named(
    dockerd: Dockerd, source, tmp_path: Path, answer: bytes, reason: str
) -> None:
    with docker_proxy(dockerd.socket, tmp_path) as proxy:
        proxy.on_request = lambda path: answer if "/containers/json" in path else None
        polled = source(url=proxy.url)
        with pytest.raises(SourceError) as caught:
            poll(polled)
        assert caught.value.reason == reason
        assert caught.value.next_step
        proxy.on_request = lambda path: None
        poll(polled)
        polled.close()


def test_a_slow_daemon_costs_no_more_than_the_timeout(dockerd: Dockerd, source, tmp_path: Path) -> None:
    release = threading.Event()
    with docker_proxy(dockerd.socket, tmp_path) as proxy:
        polled = source(url=proxy.url, timeout_seconds=0.7)
        poll(polled)
        proxy.on_request = lambda path: (release.wait(10), None)[1] if "/containers/json" in path else None
        began = time.monotonic()
        with pytest.raises(SourceError) as caught:
            poll(polled)
        assert time.monotonic() - began < 1.2
        assert caught.value.reason == "timeout"
        proxy.on_request = lambda path: None
        release.set()
        poll(polled)
        polled.close()


def test_a_hung_daemon_is_a_timeout_and_then_read_again(dockerd: Dockerd, source) -> None:
    dockerd.run("one")
    polled = source(timeout_seconds=1.0)
    poll(polled)
    before = time.monotonic()
    dockerd.suspend()
    try:
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(SourceError) as caught:
                poll(polled)
            assert time.monotonic() - began < 1.5
            assert caught.value.reason == "timeout"
            assert "systemctl status docker" in caught.value.next_step
    finally:
        dockerd.resume()
    row = rows(poll(polled), ContainerSample)["one"]
    assert row.cpu_seconds is not None
    assert row.interval_seconds == pytest.approx(time.monotonic() - before, abs=1.0)


def test_fifty_containers_at_once_are_all_read(dockerd: Dockerd, source) -> None:
    count = int(os.environ.get("AIFLEET_TEST_CONTAINERS", "50"))
    polled = source(timeout_seconds=30.0)
    poll(polled)
    starters = [
        threading.Thread(target=lambda part=part: [dockerd.run(f"n{i}", wait=False) for i in range(part, count, 4)])
        for part in range(4)
    ]
    for starter in starters:
        starter.start()
    readings = [poll(polled)]
    while any(starter.is_alive() for starter in starters):
        readings.append(poll(polled))
    for starter in starters:
        starter.join()
    readings.append(poll(polled))
    assert len(rows(readings[-1], ContainerSample)) == count
    stored = {name for reading in readings for name in rows(reading, Container)}
    assert len(stored) == count
    assert all(row.cpu_seconds is not None for row in rows(poll(polled), ContainerSample).values())


def test_plain_tcp_is_refused_unless_allowed(dockerd: Dockerd) -> None:
    with pytest.raises(SourceError) as caught:
        DockerSource(DockerDaemon(url="tcp://10.0.0.5:2375", name="x"), Tenancy(), Inventory())
    assert caught.value.reason == "denied"
    assert "ssh://user@10.0.0.5" in caught.value.next_step
    allowed = DockerDaemon(url="tcp://127.0.0.1:1", name="x", allow_plain_tcp=True, timeout_seconds=2)
    polled = DockerSource(allowed, Tenancy(), Inventory())
    with pytest.raises(SourceError) as caught:
        poll(polled)
    assert caught.value.reason == "unreachable"
    polled.close()


def test_no_socket_and_no_permission_say_what_to_do(tmp_path: Path) -> None:
    polled = DockerSource(DockerDaemon(url=f"unix://{tmp_path}/none.sock", name="x"), Tenancy(), Inventory())
    with pytest.raises(SourceError) as caught:
        poll(polled)
    assert caught.value.reason == "unreachable"
    assert "start Docker" in caught.value.next_step
    polled.close()


def test_a_restarted_daemon_is_found_again_and_its_dead_are_told() -> None:
    with running_dockerd() as daemon:
        daemon.run("one")
        polled = DockerSource(DockerDaemon(url=daemon.url, name="h1"), Tenancy(), Inventory())
        poll(polled)
        daemon.terminate()
        with pytest.raises(SourceError) as caught:
            poll(polled)
        assert caught.value.reason == "unreachable"
        daemon.start()
        daemon.run("two")
        readings = poll_until(polled, lambda seen: "one" in rows(seen[-1], Container) or len(seen) > 50)
        assert rows(readings[-1], Container)["one"].state == "exited"
        assert set(rows(poll(polled), ContainerSample)) == {"two"}
        # The listener comes back by itself.
        daemon.run("three")
        poll_until(polled, lambda seen: bool(events(seen, "three")))
        polled.close()


def test_ssh_goes_through_the_ssh_program(dockerd: Dockerd, source, tmp_path: Path, monkeypatch) -> None:
    """A stand-in for `ssh` runs what sshd would run: `docker system dial-stdio` on the far side."""
    program = tmp_path / "ssh"
    program.write_text(f"#!/bin/sh\nexec docker -H {dockerd.url} system dial-stdio\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    dockerd.run("far")
    polled = source(url="ssh://someone@gpu-7", name="")
    poll(polled)
    reading = poll(polled)
    assert polled.target == "gpu-7"
    assert rows(reading, ContainerSample)["far"].cpu_seconds is not None
    assert "daemon's API" in reading.detail
