"""The Docker source when things go wrong: hung, slow, lying, restarted daemons; crowds; and daemons far away."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from collectors.base import SourceError
from collectors.sources.docker import DockerSource
from fleet.inventory import Inventory
from fleet.model import Container, ContainerSample
from fleet.settings_table import DockerDaemon
from fleet.tenancy import Tenancy
from tests.services.docker_proxy import docker_proxy, http_answer
from tests.services.docker_readings import events, poll, poll_until, rows
from tests.services.dockerd import Dockerd, running_dockerd

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]


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


def test_a_proxy_that_keeps_the_hosts_facts_is_lived_with(dockerd: Dockerd, source, tmp_path: Path) -> None:
    dockerd.run("one")
    with docker_proxy(dockerd.socket, tmp_path) as proxy:
        proxy.on_request = lambda path: http_answer(403, b"no") if path.endswith("/info") else None
        polled = source(url=proxy.url)
        poll(polled)
        reading = poll(polled)
        polled.close()
    assert rows(reading, ContainerSample)["one"].cpu_seconds is not None


def test_cgroups_that_are_not_here_are_named_or_replaced_by_the_api(dockerd: Dockerd, source, tmp_path: Path) -> None:
    dockerd.run("one")
    reading = poll(source(statistics="cgroup", cgroup_root=str(tmp_path)))
    row = rows(reading, ContainerSample)["one"]
    assert (row.cpu_seconds, row.memory_working_set_bytes, row.pids) == (None, None, None)
    assert "mount the host's /sys/fs/cgroup" in row.unknown_reason
    assert [(gap.subject, gap.reason) for gap in reading.gaps] == [("one", "unsupported")]
    inventory = Inventory()
    reading = poll(source(cgroup_root=str(tmp_path), inventory=inventory))
    assert rows(reading, ContainerSample)["one"].pids == 1
    assert not inventory.hosts()[0].local


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


@pytest.mark.timeout(600)
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


def test_an_ssh_that_is_refused_says_what_ssh_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ssh"
    program.write_text("#!/bin/sh\necho 'someone@gpu-7: Permission denied (publickey).' >&2\nexit 255\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    polled = DockerSource(DockerDaemon(url="ssh://someone@gpu-7", timeout_seconds=5), Tenancy(), Inventory())
    with pytest.raises(SourceError) as caught:
        poll(polled)
    polled.close()
    assert caught.value.reason == "unreachable"
    assert "Permission denied (publickey)" in caught.value.detail
    assert "ssh gpu-7 docker version" in caught.value.next_step


def test_tls_reads_a_daemon_that_knows_us_and_refuses_one_we_do_not_trust(tmp_path: Path) -> None:
    files = certificates(tmp_path)
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = (
        "-H", f"tcp://127.0.0.1:{port}", "--tlsverify", "--tlscacert", files["ca"], "--tlscert", files["server"],
        "--tlskey", files["server_key"],
    )  # fmt: skip
    with running_dockerd(arguments=arguments) as daemon:
        daemon.run("far")
        settings = DockerDaemon(
            url=f"tcp://127.0.0.1:{port}", name="far", tls_ca_file=files["ca"], tls_cert_file=files["client"],
            tls_key_file=files["client_key"],
        )  # fmt: skip
        polled = DockerSource(settings, Tenancy(), Inventory())
        poll(polled)
        reading = poll(polled)
        assert rows(reading, ContainerSample)["far"].cpu_seconds is not None
        assert "daemon's API" in reading.detail
        polled.close()
        stranger = DockerSource(dataclasses.replace(settings, tls_ca_file=files["client"]), Tenancy(), Inventory())
        with pytest.raises(SourceError) as caught:
            poll(stranger)
        stranger.close()
        assert caught.value.reason == "unreachable"
        assert "certificate" in caught.value.detail.lower()


def certificates(folder: Path) -> dict[str, str]:
    """A certificate authority, a server certificate for 127.0.0.1 and a client certificate; what -> path."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    for name, extensions in (
        ("server", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n"),
        ("client", "extendedKeyUsage=clientAuth\n"),
    ):
        (folder / f"{name}.ext").write_text(extensions)
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext")
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    return {
        "ca": str(folder / "ca.pem"), "server": str(folder / "server.pem"), "server_key": str(folder / "server.key"),
        "client": str(folder / "client.pem"), "client_key": str(folder / "client.key"),
    }  # fmt: skip
