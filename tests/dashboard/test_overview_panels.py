"""The map that Overview draws, against the answer to the question it shows."""

import pytest

from dashboard import fleet_panels, overview_panels
from fleet.model import Scope
from queries.overview import host_map
from tests.queries import three_tenants
from tests.store.stores import embedded_store


@pytest.fixture(scope="module")
def fleet():
    with embedded_store() as store:
        three_tenants.plant(store)
        yield store


@pytest.mark.parametrize("tenant", [None, "acme", "globex", "initech"])
@pytest.mark.parametrize("host", [None, "h1", "h2"])
def test_the_map_shows_every_gpu_and_every_container_without_one_of_the_hosts_in_scope(fleet, tenant, host):
    scope = Scope(tenants=None if tenant is None else frozenset({tenant}))
    window = three_tenants.window(hours=1)
    asked = host_map(fleet, scope, window, host=host).rows.to_pylist()
    drawn = overview_panels.host_rows(fleet, scope, window, host=host)
    assert [row.host for row in drawn] == sorted({row["host"] for row in asked})
    for row in drawn:
        gpus = [r for r in asked if r["host"] == row.host and r["kind"] == "gpu"]
        assert [(t.busy_ratio, t.memory_used_bytes) for t in row.tiles] == [
            (g["ratio"], g["memory_used_bytes"]) for g in gpus
        ]
        assert [t.holder for t in row.tiles] == [g["tenant"] or ("shared" if g["tenants"] else "") for g in gpus]
        others = [r for r in asked if r["host"] == row.host and r["kind"] == "container"]
        assert [(t, s) for t, statuses in row.containers for s in statuses] == [
            (r["tenant"], fleet_panels.LEVELS[r["level"]]) for r in others
        ]


def test_a_fleet_nobody_may_see_has_no_map(fleet):
    nobody = Scope(tenants=frozenset())
    assert overview_panels.host_rows(fleet, nobody, three_tenants.window(hours=1), host=None) == []
