import pytest

from dashboard.access import EVERYTHING, NOTHING, Access, is_loopback, mapping
from fleet.model import Scope

ACCESS = Access(
    trusted_header="X-Viewer",
    tenants_of=mapping({"Ann@acme.example": ["acme"], "ops": ["*"], "bob": ["acme", "globex"]}),
)


def test_without_a_mapping_everybody_sees_the_fleet():
    assert Access().scope(["anybody"]) == EVERYTHING


def test_a_viewer_sees_the_tenants_the_mapping_names():
    assert ACCESS.scope(["ann@ACME.example"]) == Scope(tenants=frozenset({"acme"}))
    assert ACCESS.scope(["nobody, bob"]) == Scope(tenants=frozenset({"acme", "globex"}))
    assert ACCESS.scope(["ops"]) == EVERYTHING


@pytest.mark.parametrize(
    "sent",
    [[], [""], ["mallory"], ["*"], ["ops", "bob"], ["ops\r\nX-Viewer: bob"]],
)
def test_nobody_known_sees_nothing(sent):
    assert ACCESS.scope(sent) == NOTHING


def test_a_tenant_outside_the_scope_is_the_empty_scope():
    assert ACCESS.scope(["bob"]).narrow("initech") == NOTHING


def test_a_mapping_that_is_not_a_list_is_refused_with_what_to_write():
    with pytest.raises(TypeError, match="write a list of tenants"):
        mapping({"ann": "acme"})


def test_only_addresses_of_this_machine_are_loopback():
    assert all(is_loopback(host) for host in ("127.0.0.1", "::1", "[::1]", "localhost", "127.8.8.8"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "", "10.0.0.5", "fleet.example"))
