"""Which container answers at a target: every step by hand, and what must never be guessed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fleet.inventory import ContainerFacts, HostInventory
from fleet.joining import Endpoint, Joiner, MapRule, is_older_than_start
from fleet.model import Container

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
A, B, C = "a" * 64, "b" * 64, "c" * 64


def container(
    container_id,
    name,
    *,
    host="gpu-1",
    ip="",
    project="",
    service="",
    number="",
    ports=(),
    exposed=(),
    host_network=False,
    aliases=(),
    started=AT - timedelta(hours=1),
    state="running",
):
    key = f"{host}:{project}/{service}/{number}" if service else f"{host}:{name}"
    return ContainerFacts(
        row=Container(
            seen_at=AT,
            host=host,
            tenant="search",
            team="",
            owner="",
            tenant_origin="label",
            container_key=key,
            container_id=container_id,
            name=name,
            image="vllm",
            image_id="",
            image_digest="",
            state=state,
            compose_project=project,
            compose_service=service,
            labels={"com.docker.compose.container-number": number} if number else {},
            started_at=started,
        ),
        network_addresses={"bridge": ip} if ip else {},
        published_ports=tuple(ports),
        exposed_ports=frozenset(exposed),
        host_network=host_network,
        aliases=frozenset(aliases),
    )


def host(*containers, name="gpu-1", addresses=()):
    return HostInventory(host=name, at=AT, local=True, containers=containers, addresses=frozenset(addresses))


def target(instance="10.9.9.9:8000", *, labels=None, discovered=None, url="", job="vllm"):
    return Endpoint(job=job, instance=instance, labels=labels or {}, discovered=discovered or {}, scrape_url=url)


def joined(answer):
    return (answer.by, answer.container.row.container_id if answer.container else None)


ONE = host(container(A, "chat", ip="172.17.0.2"), container(B, "embed", ip="172.17.0.3"))


def test_before_any_container_list_nothing_is_joined_and_the_reason_says_so():
    answer = Joiner(()).join(target())
    assert joined(answer) == ("none", None)
    assert "Docker source" in answer.reason


def test_a_map_rule_comes_before_everything_else():
    rules = (MapRule(job="vl.*", instance=r"172\.17\.0\.2:.*", container="embed"),)
    answer = Joiner((ONE,), rules=rules).join(target("172.17.0.2:8000", labels={"container_id": A}))
    assert joined(answer) == ("map", B)


@pytest.mark.parametrize("wanted", [B, B[:12], "gpu-1:embed", "embed", "/embed"])
def test_a_map_rule_may_name_an_id_a_short_id_a_key_or_a_name(wanted):
    assert joined(Joiner((ONE,), rules=(MapRule(container=wanted),)).join(target())) == ("map", B)


def test_a_target_mapped_as_external_has_no_container_and_is_not_searched_for():
    answer = Joiner((ONE,), rules=(MapRule(job="vllm", container="external"),)).join(target("172.17.0.2:8000"))
    assert joined(answer) == ("map", None)


def test_a_map_rule_naming_nobody_is_said_and_not_passed_over():
    answer = Joiner((ONE,), rules=(MapRule(container="gone"),)).join(target("172.17.0.2:8000"))
    assert joined(answer) == ("none", None)
    assert "gone" in answer.reason


def test_a_wrong_pattern_in_a_map_rule_is_refused_with_the_fix():
    with pytest.raises(ValueError, match="instance = '\\*' is not a regular expression"):
        MapRule(container="chat", instance="*")


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("container_id", A),
        ("container_id", f"containerd://{A}"),
        ("container_id", A[:12]),
        ("docker_container_id", A.upper()),
        ("id", f"/system.slice/docker-{A}.scope"),
        ("id", f"/docker/{A}"),
    ],
)
def test_an_explicit_id_is_found_in_every_common_spelling(label, text):
    assert joined(Joiner((ONE,)).join(target(labels={label: text}))) == ("id", A)


def test_an_id_nobody_has_ends_the_search_although_the_address_would_fit():
    answer = Joiner((ONE,)).join(target("172.17.0.2:8000", labels={"container_id": C}))
    assert joined(answer) == ("none", None)
    assert "cccccccccccc" in answer.reason


def test_a_short_id_that_two_containers_share_is_ambiguous():
    twins = host(container("d" * 12 + "0" * 52, "one"), container("d" * 12 + "1" * 52, "two"))
    answer = Joiner((twins,)).join(target(labels={"container_id": "d" * 12}))
    assert answer.by == "ambiguous"
    assert answer.candidates == ("gpu-1:one", "gpu-1:two")


def test_the_id_seen_by_service_discovery_is_used_when_nothing_was_relabelled():
    answer = Joiner((ONE,)).join(target(discovered={"__meta_docker_container_id": B}))
    assert joined(answer) == ("discovery", B)
    swarm = Joiner((ONE,)).join(target(discovered={"__meta_dockerswarm_task_container_id": A}))
    assert joined(swarm) == ("discovery", A)


TWO_HOSTS = (
    host(container(A, "chat", ip="172.17.0.2"), addresses={"10.0.0.1", "gpu-1.example.com"}),
    host(container(B, "chat", host="gpu-2", ip="172.17.0.2"), name="gpu-2", addresses={"10.0.0.2"}),
)


def test_a_name_on_one_host_joins_and_on_two_is_ambiguous():
    assert joined(Joiner((ONE,)).join(target(labels={"container": "/chat"}))) == ("name", A)
    answer = Joiner(TWO_HOSTS).join(target(labels={"container": "chat"}))
    assert (answer.by, answer.container, answer.candidates) == ("ambiguous", None, ("gpu-1:chat", "gpu-2:chat"))


@pytest.mark.parametrize("where", ["gpu-1", "gpu-1.example.com", "10.0.0.1"])
def test_a_host_label_by_any_of_its_addresses_settles_the_name(where):
    labels = {"container": "chat", "docker_host": where}
    assert joined(Joiner(TWO_HOSTS).join(target(labels=labels))) == ("name", A)


def test_a_name_on_a_host_that_is_not_watched_is_not_taken_from_another_host():
    answer = Joiner((ONE,)).join(target("172.17.0.2:8000", labels={"container": "chat", "docker_host": "gpu-9"}))
    assert joined(answer) == ("none", None)
    assert "gpu-9" in answer.reason


def test_a_compose_service_joins_and_its_number_picks_among_replicas():
    replicas = host(
        container(A, "shop-llm-1", project="shop", service="llm", number="1"),
        container(B, "shop-llm-2", project="shop", service="llm", number="2"),
    )
    labels = {"compose_project": "shop", "compose_service": "llm"}
    assert Joiner((replicas,)).join(target(labels=labels)).by == "ambiguous"
    assert joined(Joiner((replicas,)).join(target(labels=labels | {"container_number": "2"}))) == ("name", B)


def test_a_network_address_joins_even_when_the_instance_label_was_renamed():
    answer = Joiner((ONE,)).join(target("pretty-name", url="http://172.17.0.3:8000/metrics"))
    assert joined(answer) == ("address", B)
    assert answer.port == 8000


def test_the_same_bridge_address_on_two_hosts_is_ambiguous_unless_prometheus_host_is_known():
    assert Joiner(TWO_HOSTS).join(target("172.17.0.2:8000")).by == "ambiguous"
    assert joined(Joiner(TWO_HOSTS, prometheus_host="gpu-2").join(target("172.17.0.2:8000"))) == ("address", B)


def test_a_bridge_address_of_another_host_than_prometheus_own_is_refused():
    answer = Joiner((ONE,), prometheus_host="monitor").join(target("172.17.0.2:8000"))
    assert joined(answer) == ("none", None)
    assert "monitor" in answer.reason


def test_a_stopped_container_holds_no_address():
    stopped = host(container(A, "chat", ip="172.17.0.2", state="exited"))
    assert joined(Joiner((stopped,)).join(target("172.17.0.2:8000"))) == ("none", None)


def test_an_address_that_was_handed_on_belongs_to_whoever_holds_it_now():
    before = host(container(A, "chat", ip="172.17.0.2"))
    after = host(
        container(A, "chat", ip="172.17.0.2", state="exited"), container(C, "batch", ip="172.17.0.2", started=AT)
    )
    assert joined(Joiner((before,)).join(target("172.17.0.2:8000"))) == ("address", A)
    answer = Joiner((after,)).join(target("172.17.0.2:8000"))
    assert joined(answer) == ("address", C)
    # and what was scraped before it began is not its own
    assert is_older_than_start(AT - timedelta(seconds=30), answer.container)


def test_a_name_that_is_an_id_is_taken_as_one_and_any_other_name_as_a_name():
    assert joined(Joiner((ONE,)).join(target(labels={"name": B}))) == ("id", B)
    assert joined(Joiner((ONE,)).join(target(labels={"name": "chat"}))) == ("name", A)
    # an id that nobody has may still be a name, or the address may tell
    assert joined(Joiner((ONE,)).join(target("172.17.0.2:8000", labels={"name": C}))) == ("address", A)


PUBLISHED = host(
    container(A, "chat", ports=[("0.0.0.0", 18000, 8000), ("::", 18000, 8000)]),
    container(B, "embed", ports=[("127.0.0.1", 18001, 8000)]),
    container(C, "bare", host_network=True, exposed=[9000]),
    addresses={"10.0.0.1", "gpu-1.example.com"},
)


@pytest.mark.parametrize("address", ["10.0.0.1:18000", "gpu-1:18000", "gpu-1.example.com:18000"])
def test_a_published_port_joins_under_every_name_of_the_host_and_tells_the_inner_port(address):
    answer = Joiner((PUBLISHED,)).join(target(address))
    assert (*joined(answer), answer.port) == ("address", A, 8000)


def test_a_port_published_on_loopback_is_not_reachable_from_outside():
    assert joined(Joiner((PUBLISHED,)).join(target("10.0.0.1:18001"))) == ("none", None)
    assert joined(Joiner((PUBLISHED,)).join(target("gpu-1:18001"))) == ("none", None)


def test_localhost_means_prometheus_own_machine_and_nothing_when_that_is_unknown():
    known = Joiner((PUBLISHED,), prometheus_host="gpu-1")
    assert joined(known.join(target("localhost:18001"))) == ("address", B)
    assert joined(known.join(target("127.0.0.1:18000"))) == ("address", A)
    assert joined(known.join(target("[::1]:18000"))) == ("address", A)
    unknown = Joiner((PUBLISHED,)).join(target("localhost:18001"))
    assert joined(unknown) == ("none", None)
    assert "Prometheus' own machine" in unknown.reason


def test_a_container_on_the_host_network_joins_by_the_port_it_exposes():
    assert joined(Joiner((PUBLISHED,)).join(target("gpu-1:9000"))) == ("address", C)
    assert joined(Joiner((PUBLISHED,)).join(target("gpu-1:9001"))) == ("none", None)


def test_names_and_aliases_on_a_network_join_and_a_scaled_service_is_ambiguous():
    scaled = host(
        container(A, "shop-llm-1", project="shop", service="llm", number="1", aliases=["llm"]),
        container(B, "shop-llm-2", project="shop", service="llm", number="2", aliases=["llm"]),
        container(C, "gateway", aliases=["front"]),
    )
    joiner = Joiner((scaled,))
    assert joined(joiner.join(target("gateway:4000"))) == ("address", C)
    assert joined(joiner.join(target("front:4000"))) == ("address", C)
    assert joined(joiner.join(target("shop-llm-2:8000"))) == ("address", B)
    assert joiner.join(target("llm:8000")).by == "ambiguous"


def test_what_fits_nowhere_lists_what_was_tried():
    answer = Joiner((ONE,)).join(target("elsewhere.example.com:443", labels={"name": "nobody"}))
    assert joined(answer) == ("none", None)
    for part in ("no container id", "service discovery", "nobody", "elsewhere.example.com:443"):
        assert part in answer.reason


@pytest.mark.parametrize("instance", ["", "::::", "[", "172.17.0.2", "http://x", "\x00:8000", "172.17.0.2:99999999"])
def test_hostile_instances_never_raise(instance):
    assert Joiner((ONE,)).join(target(instance)).by in ("none", "address")


def test_a_scrape_from_before_the_start_belongs_to_somebody_else():
    facts = container(A, "chat", started=AT)
    assert is_older_than_start(AT - timedelta(seconds=5), facts)
    assert not is_older_than_start(AT - timedelta(seconds=0.5), facts)
    assert not is_older_than_start(AT, facts)
