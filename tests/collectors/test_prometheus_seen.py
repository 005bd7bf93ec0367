"""What other collectors see is asked of the store, seldom, and kept while it is away."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from collectors.prometheus_exporters import Seen
from collectors.prometheus_seen import SeenInStore
from fleet.model import Batch, Container, Gpu, Host
from store import StoreUnavailable
from tests.store.stores import embedded_store

TEXTS = dict.fromkeys(("team", "owner", "tenant_origin", "image", "image_id", "image_digest"), "")


@pytest.fixture
def store(tmp_path):
    with embedded_store(tmp_path) as opened:
        yield opened


def rows(name, via="", **more):
    at = datetime.now(UTC)
    container = Container(
        seen_at=at, host=f"h-{name}", tenant="t", container_key=name, container_id=f"c-{name}", name=name, via=via,
        **TEXTS, **more,
    )  # fmt: skip
    gpu = Gpu(seen_at=at, host=f"h-{name}", gpu_uuid=f"GPU-{name}", gpu_index=0, name="H100", via=via)
    return (container, gpu, Host(seen_at=at, host=f"h-{name}", via=via))


def test_only_what_a_collector_saw_itself_is_left_to_it(store):
    store.append(Batch(token="1", rows=(*rows("own"), *rows("far", via="prometheus:main"))))
    store.append(Batch(token="2", rows=rows("gone", removed=True)[:1]))
    found = SeenInStore(store)()
    assert found == Seen(gpus=frozenset({"GPU-own"}), containers=frozenset({"c-own"}), hosts=frozenset({"h-own"}))


def test_the_store_is_asked_once_a_minute_and_its_last_answer_stands_while_it_is_away(store):
    clock = [0.0]
    seen = SeenInStore(store, lambda: clock[0])
    store.append(Batch(token="1", rows=rows("a")))
    assert seen().gpus == {"GPU-a"}
    store.append(Batch(token="2", rows=rows("b")))
    clock[0] = 59.0
    assert seen().gpus == {"GPU-a"}
    clock[0] = 60.0
    assert seen().gpus == {"GPU-a", "GPU-b"}

    class Away:
        def query(self, *_arguments):
            raise StoreUnavailable(0, "away")

    seen.store = Away()
    clock[0] = 200.0
    assert seen().gpus == {"GPU-a", "GPU-b"}
