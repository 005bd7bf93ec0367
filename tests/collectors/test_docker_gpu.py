"""What a real daemon shows of GPU requests: resolved on the host's list, and starts that failed for want of a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from collectors.base import Reading
from collectors.nvml_process import NvmlProcess
from collectors.sources.docker import DockerSource
from collectors.sources.nvml import NvmlSource
from fleet.inventory import HostGpu, Inventory
from fleet.model import Container, Event
from fleet.settings_table import DockerDaemon, NvmlSettings
from fleet.tenancy import Tenancy
from tests.fakes.gpu_host import T0, A, B
from tests.fakes.nvml_stub import NvmlStub, build, gpu
from tests.services.docker_readings import poll, rows
from tests.services.dockerd import Dockerd

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]
GPUS = (HostGpu(uuid="GPU-a", index=0), HostGpu(uuid="GPU-b", index=1))
SLEEP = ("--network", "none", "busybox:latest", "sleep", "9")


@pytest.fixture
def daemon_of(dockerd: Dockerd) -> Iterator[Callable[..., DockerSource]]:
    """A source with a clock of the test's own."""
    made: list[DockerSource] = []

    def make(**options) -> DockerSource:
        daemon = DockerDaemon(url=dockerd.url, name="h1", timeout_seconds=10.0)
        made.append(DockerSource(daemon, Tenancy(), Inventory(), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def failures(reading: Reading) -> list[Event]:
    return [row for row in reading.rows if isinstance(row, Event) and row.kind == "gpu_start_failed"]


def test_requests_become_uuids_once_the_hosts_gpus_are_known(dockerd: Dockerd, source) -> None:
    dockerd.cli("create", "--name", "named", "--gpus", '"device=1,7"', *SLEEP)
    dockerd.cli("create", "--name", "counted", "--gpus", "1", *SLEEP)
    dockerd.cli("create", "--name", "plain", *SLEEP)
    inventory = Inventory()
    polled = source(inventory=inventory)
    before = rows(poll(polled), Container)
    assert {name: (row.gpu_request_kind, row.gpu_uuids, row.gpu_unresolved) for name, row in before.items()} == {
        "named": ("ids", (), ()), "counted": ("count", (), ()), "plain": ("none", (), ()),
    }  # fmt: skip
    inventory.publish_gpus("the-name-of-this-machine", GPUS)  # the daemon is local, whatever it is called
    after = rows(poll(polled), Container)
    assert {name: (row.gpu_uuids, row.gpu_unresolved) for name, row in after.items()} == {
        "named": (("GPU-b",), ("7",)), "counted": (("GPU-a",), ()),
    }  # fmt: skip
    assert rows(poll(polled), Container) == {}
    (snapshot,) = inventory.hosts()
    assert {facts.row.name: facts.row.gpu_uuids for facts in snapshot.containers}["named"] == ("GPU-b",)


def test_a_failed_start_sends_no_event_and_is_found_by_looking_again(dockerd: Dockerd, daemon_of) -> None:
    now = [0.0]
    polled = daemon_of(monotonic=lambda: now[0])
    dockerd.cli("create", "--name", "wants", "--gpus", "all", "--label", "tenant=acme", *SLEEP)
    assert failures(poll(polled)) == []
    with pytest.raises(RuntimeError, match="could not select device driver"):
        dockerd.cli("start", "wants")
    now[0] = 29.0
    assert failures(poll(polled)) == []
    now[0] = 31.0
    reading = poll(polled)
    (event,) = failures(reading)
    assert (event.severity, event.tenant, event.container_key) == ("warning", "acme", "h1:wants")
    assert event.title == "wants could not start: no NVIDIA runtime"
    assert event.detail.startswith("install nvidia-container-toolkit")
    assert event.attributes["request"] == "--gpus all"
    assert rows(reading, Container)["wants"].error == event.attributes["error"]
    now[0] = 70.0
    assert failures(poll(polled)) == []


@pytest.mark.parametrize(
    ("request_", "title"),
    [
        (("--gpus", '"device=0,1"'), "no NVIDIA runtime"),
        (("--device", "nvidia.com/gpu=0"), "this Docker does not know CDI devices"),
        (("--device", "/dev/nvidia0"), "/dev/nvidia0 is not there"),
    ],
)
def test_every_failing_form_is_told_in_words(dockerd: Dockerd, source, request_, title) -> None:
    dockerd.cli("create", "--name", "wants", *request_, *SLEEP)
    with pytest.raises(RuntimeError, match="Error response from daemon"):
        dockerd.cli("start", "wants")
    (event,) = failures(poll(source()))
    assert event.title == f"wants could not start: {title}"


def test_a_start_that_failed_for_another_reason_is_no_gpu_event(dockerd: Dockerd, source) -> None:
    dockerd.cli("create", "--name", "odd", "--network", "none", "busybox:latest", "/no/such/program")
    with pytest.raises(RuntimeError, match="no such file"):
        dockerd.cli("start", "odd")
    assert failures(poll(source())) == []


@pytest.mark.cc
def test_the_gpus_that_the_driver_lists_are_those_that_requests_come_to(dockerd: Dockerd, source, tmp_path) -> None:
    stub = NvmlStub(tmp_path, build(tmp_path))
    stub.write(gpu(0, A), gpu(1, B))
    dockerd.cli("create", "--name", "named", "--gpus", f"device={B[:8]}", *SLEEP)
    dockerd.cli("create", "--name", "counted", "--gpus", "3", *SLEEP)
    inventory = Inventory()
    polled = source(inventory=inventory)
    process = NvmlProcess(library=str(stub.library), environment=stub.environment)
    nvml = NvmlSource(NvmlSettings(), inventory, host="h1", process=process)
    try:
        assert {row.gpu_uuids for row in rows(poll(polled), Container).values()} == {()}
        nvml.collect(T0)
        found = rows(poll(polled), Container)
    finally:
        nvml.close()
    assert {name: (row.gpu_uuids, row.gpu_unresolved) for name, row in found.items()} == {
        "named": ((B,), ()), "counted": ((A, B), ("2",)),
    }  # fmt: skip
