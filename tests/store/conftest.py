from __future__ import annotations

from collections.abc import Iterator

import pytest

from store import Store
from tests.store.stores import KINDS, embedded_store, store_of_kind


@pytest.fixture(params=KINDS)
def any_store(request: pytest.FixtureRequest, tmp_path) -> Iterator[Store]:
    with store_of_kind(request.param, tmp_path / "store") as store:
        yield store


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with embedded_store(tmp_path) as opened:
        yield opened
