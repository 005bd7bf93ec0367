"""Fixtures of the collector tests: a real Docker daemon, a GPU host behind a stub of the driver's library."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from collectors.sources.docker import DockerSource
from fleet.inventory import Inventory
from fleet.settings_table import DockerDaemon
from fleet.tenancy import Tenancy
from tests.fakes.gpu_host import GpuHost
from tests.fakes.nvml_stub import NvmlStub, build
from tests.services.dockerd import Dockerd, running_dockerd


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


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The stub of the driver's library, with every symbol."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def make_host(tmp_path, library):
    """Makes GPU hosts: `omit` are symbols that the driver is too old to have, `settings` those of [nvml]."""
    hosts = []

    def make(*lines, omit=(), **settings):
        built = build(tmp_path, omit) if omit else library
        stub = NvmlStub(tmp_path, built)
        stub.write(*lines)
        hosts.append(GpuHost(tmp_path, stub, **settings))
        return hosts[-1]

    yield make
    for host in hosts:
        if host.process._child:
            host.process._child.kill()  # ending in order is shown in one test and takes half a second
        host.source.close()
