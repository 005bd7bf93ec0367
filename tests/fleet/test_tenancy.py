"""The operator's mapping wins over labels; labels over the compose project; nobody is 'unassigned'."""

from __future__ import annotations

import pytest

from fleet.settings_table import TenancySettings, TenantRule
from fleet.tenancy import Tenancy, TenancyError, Tenant, container_key

COMPOSE = {
    "com.docker.compose.project": "shop",
    "com.docker.compose.service": "api",
    "com.docker.compose.container-number": "2",
}


def test_a_rule_wins_over_a_label() -> None:
    tenancy = Tenancy([TenantRule(tenant="acme", team="search", owner="ada", name="llm-.*")])
    assert tenancy.resolve("llm-1", "vllm", {"tenant": "mallory"}) == Tenant(
        tenant="acme", team="search", owner="ada", origin="mapped"
    )


def test_the_first_rule_that_matches_decides() -> None:
    tenancy = Tenancy([TenantRule(tenant="a", name="x.*"), TenantRule(tenant="b", name="xy.*")])
    assert tenancy.resolve("xyz", "", {}).tenant == "a"


def test_every_expression_of_a_rule_must_match() -> None:
    tenancy = Tenancy([TenantRule(tenant="acme", name="llm-.*", image="registry/acme/.*")])
    assert tenancy.resolve("llm-1", "registry/acme/vllm:1", {}).tenant == "acme"
    assert tenancy.resolve("llm-1", "registry/other/vllm:1", {}).tenant == "unassigned"
    assert tenancy.resolve("web", "registry/acme/vllm:1", {}).tenant == "unassigned"


def test_an_expression_matches_the_whole_text() -> None:
    tenancy = Tenancy([TenantRule(tenant="acme", name="acme")])
    assert tenancy.resolve("not-acme", "", {}).origin == "none"


def test_a_rule_looks_at_labels_as_key_equals_value() -> None:
    tenancy = Tenancy([TenantRule(tenant="acme", label="com\\.acme\\.team=.+")])
    assert tenancy.resolve("x", "", {"a": "b", "com.acme.team": "search"}).tenant == "acme"
    assert tenancy.resolve("x", "", {"com.acme.team": ""}).tenant == "unassigned"


def test_a_rule_looks_at_the_compose_project() -> None:
    assert Tenancy([TenantRule(tenant="retail", compose_project="shop")]).resolve("x", "", COMPOSE).tenant == "retail"


def test_a_group_of_the_last_expression_names_the_tenant() -> None:
    tenancy = Tenancy([TenantRule(tenant="t-\\1", name="([a-z]+)-.*")])
    assert tenancy.resolve("acme-llm", "", {}).tenant == "t-acme"
    assert Tenancy([TenantRule(tenant="\\1", name="x-(.*)")]).resolve("x-", "", {}).tenant == "unassigned"


def test_a_tenant_label_is_self_declared() -> None:
    resolved = Tenancy().resolve("x", "", {**COMPOSE, "tenant": "b", "aifleet.tenant": "a", "team": "t", "owner": "o"})
    assert resolved == Tenant(tenant="a", team="t", owner="o", origin="label")


def test_a_blank_label_names_nobody() -> None:
    assert Tenancy().resolve("x", "", {"tenant": "  "}) == Tenant(tenant="unassigned", origin="none")


def test_the_compose_project_is_the_tenant_unless_told_otherwise() -> None:
    assert Tenancy().resolve("x", "", COMPOSE) == Tenant(tenant="shop", origin="compose")
    strict = Tenancy(settings=TenancySettings(compose_project_is_tenant=False))
    assert strict.resolve("x", "", COMPOSE) == Tenant(tenant="unassigned", origin="none")


def test_a_mapped_tenant_keeps_the_declared_team_when_the_rule_names_none() -> None:
    assert Tenancy([TenantRule(tenant="acme", name=".*")]).resolve("x", "", {"team": "t"}).team == "t"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (TenantRule(tenant="a", name="("), "tenant_rules[0].name"),
        (TenantRule(tenant="", name="x"), "tenant is empty"),
        (TenantRule(tenant="\\2", name="(x)"), "takes group 2, the last expression has 1"),
    ],
)
def test_a_rule_that_cannot_work_says_what_to_write(rule: TenantRule, message: str) -> None:
    with pytest.raises(TenancyError) as caught:
        Tenancy([rule])
    assert message in str(caught.value)


def test_a_hostile_label_becomes_an_inert_short_tenant() -> None:
    tenant = Tenancy().resolve("x", "", {"tenant": "a\x1b[2J\ud800" + "b" * 10_000}).tenant
    assert tenant.startswith("a\ufffd[2J\ufffdbbb")
    assert len(tenant) == 128


def test_a_recreated_compose_container_keeps_its_key() -> None:
    assert container_key("h", "shop-api-2", COMPOSE) == "h:shop/api/2"
    assert container_key("h", "9f8_shop-api-2", COMPOSE) == "h:shop/api/2"


def test_a_plain_container_is_keyed_by_its_name() -> None:
    assert container_key("h", "llm", {"com.docker.compose.project": "shop"}) == "h:llm"
