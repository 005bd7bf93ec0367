from __future__ import annotations

from collections.abc import Iterator

import pytest

from store import Store
from tests.queries.three_tenants import plant
from tests.store.stores import KINDS, store_of_kind


@pytest.fixture(scope="session", params=KINDS)
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The three tenants' fleet, in the engine of this process and behind the gateway of another."""
    with store_of_kind(request.param, tmp_path_factory.mktemp("fleet")) as store:
        plant(store)
        yield store


@pytest.fixture(scope="session", params=KINDS)
def empty_fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store in which nothing was ever collected."""
    with store_of_kind(request.param, tmp_path_factory.mktemp("empty")) as store:
        yield store
