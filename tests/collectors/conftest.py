"""Fixtures of the collector tests that need a real Docker daemon."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from collectors.sources.docker import DockerSource
from fleet.inventory import Inventory
from fleet.settings_table import DockerDaemon
from fleet.tenancy import Tenancy
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
