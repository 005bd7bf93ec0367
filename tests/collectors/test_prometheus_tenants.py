"""Whose requests a gateway's series count."""

from __future__ import annotations

from collectors.prometheus_tenants import said_tenants
from fleet.profiles import builtin_profiles
from fleet.settings_table import TenantRule
from fleet.tenancy import Tenancy

LITELLM = next(one for one in builtin_profiles() if one.id == "litellm")


def tenant(labels, *rules):
    return said_tenants(Tenancy(rules))(LITELLM, labels)


def test_the_name_in_the_labels_is_the_tenant_and_the_word_none_is_no_name():
    assert tenant({"team_alias": "search", "team": "t-1"}) == "search"
    assert tenant({"team_alias": "None", "team": "t-1"}) == "t-1"
    assert tenant({"team_alias": "None", "team": "None"}) == ""
    assert tenant({}) == ""


def test_an_operators_rule_on_a_label_comes_first_and_may_name_any_of_the_labels():
    mapped = TenantRule(tenant="acme", label="team=t-1")
    assert tenant({"team_alias": "search", "team": "t-1"}, mapped) == "acme"
    assert tenant({"team_alias": "search", "team": "t-2"}, mapped) == "search"
    assert tenant({"team_alias": "ads-eu"}, TenantRule(tenant=r"\1", label="tenant=(.*)-eu")) == "ads"


def test_a_rule_on_the_name_of_containers_does_not_take_a_gateways_tenants():
    assert tenant({"team_alias": "search"}, TenantRule(tenant="platform", name="litellm.*")) == "search"


def test_a_hostile_name_is_inert():
    assert "\x1b" not in tenant({"team_alias": "a\x1b[31mb"})
