"""The source against a real Prometheus that scrapes real endpoints, which advance, restart, fail and come back."""

from __future__ import annotations

import json
import math
import re
import time
import urllib.parse
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from collectors.base import SourceError
from collectors.prometheus_claims import Claims
from collectors.sources.prometheus import PrometheusSource
from fleet.inventory import ContainerFacts, HostInventory, Inventory
from fleet.latency import quantile_from_buckets
from fleet.model import Container, Histogram, InferenceSample
from fleet.settings import EndpointRule, PrometheusServer
from tests.services.metrics_server import Answer, running_server, vllm_text
from tests.services.prometheus import running_prometheus, scrape_config, wait_until

pytestmark = pytest.mark.prometheus
RECORDED = Path(__file__).parents[1] / "recorded"
ID = "a" * 64


class Bench:
    """One Prometheus scraping one endpoint all the time, and the source that polls it."""

    def __init__(self, prometheus, server, inventory):
        self.prometheus, self.server, self.inventory = prometheus, server, inventory
        self.source = self.new_source()

    def new_source(self, **options):
        settings = PrometheusServer(url=self.prometheus.url, name="main", docker_host="here", timeout_seconds=5.0)
        return PrometheusSource(settings, self.inventory, **({"settle_seconds": 0.0} | options))

    def scraped(self):
        """Wait until what is served now has been scraped and can be queried."""
        start = time.time()
        wait_until(lambda: any(value > start for value in query(self.prometheus, "timestamp(up)")))

    def show(self, text):
        self.server.serve(text)
        self.scraped()

    def poll(self):
        reading = self.source.collect(datetime.now(UTC))
        return reading, [row for row in reading.rows if isinstance(row, InferenceSample)]

    def one(self):
        reading, (row,) = self.poll()
        return row, {row.field: row for row in reading.rows if isinstance(row, Histogram)}


def query(prometheus, text):
    url = f"{prometheus.url}/api/v1/query?query={urllib.parse.quote(text)}"
    with urllib.request.urlopen(url, timeout=5) as answer:
        return [float(item["value"][1]) for item in json.load(answer)["data"]["result"]]


def published(port, *, container_id=ID, started=None):
    return HostInventory(
        host="here",
        at=datetime.now(UTC),
        local=True,
        containers=(
            ContainerFacts(
                row=Container(
                    seen_at=datetime.now(UTC),
                    host="here",
                    tenant="search",
                    team="",
                    owner="",
                    tenant_origin="label",
                    container_key="here:chat",
                    container_id=container_id,
                    name="chat",
                    image="vllm",
                    image_id="",
                    image_digest="",
                    state="running",
                    started_at=started or datetime.now(UTC) - timedelta(hours=1),
                ),
                published_ports=(("0.0.0.0", port, 8000),),
            ),
        ),
    )


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """One Prometheus and one endpoint for the whole file: only the first scrape takes its time."""
    with running_server(vllm_text()) as server:
        folder = tmp_path_factory.mktemp("prometheus")
        with running_prometheus(folder, scrape_config([server.address], interval="250ms")) as prometheus:
            wait_until(lambda: query(prometheus, "up == 1"))
            yield prometheus, server


@pytest.fixture
def bench(machine):
    prometheus, server = machine
    inventory = Inventory()
    inventory.publish(published(server.server_address[1]))
    made = Bench(prometheus, server, inventory)
    yield made
    made.source.close()


def test_counters_become_increments_joined_to_their_container_and_tenant(bench):
    first = {"stop": 100, "length": 5, "error": 1, "abort": 2}
    bench.show(vllm_text(finished=first, prompt_tokens=1000, generation_tokens=500, cached_tokens=10))
    row, histograms = bench.one()
    assert (row.requests, row.prompt_tokens, histograms) == (None, None, {})
    assert "first reading" in row.unknown_reason
    assert (row.up, row.requests_running, row.interval_seconds) == (True, 0.0, 15.0)

    then = {"stop": 110, "length": 5, "error": 2, "abort": 4}
    bench.show(
        vllm_text(
            finished=then, prompt_tokens=1300, generation_tokens=560, cached_tokens=15, waiting=3, running=7, kv=0.5
        )
    )
    row, _ = bench.one()
    # requests: 10 + 0 + 1 + 2, of which errors 1 + aborts 2
    assert (row.requests, row.errors) == (13.0, 3.0)
    assert (row.prompt_tokens, row.generation_tokens, row.cached_tokens) == (300.0, 60.0, 5.0)
    assert (row.requests_waiting, row.requests_running, row.kv_cache_ratio) == (3.0, 7.0, 0.5)
    assert (row.tenant, row.host, row.container_key, row.container_id) == ("search", "here", "here:chat", ID)
    assert (row.joined_by, row.model, row.server, row.prometheus) == ("address", "llama", "vllm", "main")
    assert row.endpoint == f"vllm/{bench.server.address}"
    assert row.unknown_reason == ""
    assert 0.1 < row.interval_seconds < 10.0


def test_polling_twice_without_news_adds_nothing(bench):
    bench.show(vllm_text(prompt_tokens=1000))
    bench.one()
    bench.show(vllm_text(prompt_tokens=1500))
    assert bench.one()[0].prompt_tokens == 500.0
    assert [bench.one()[0].prompt_tokens for _ in range(3)] == [0.0, 0.0, 0.0]


def test_a_restarted_server_counts_from_zero_even_where_it_has_overtaken_its_old_count(bench):
    bench.show(vllm_text(finished={"stop": 10}, prompt_tokens=9000, ttft={"0.1": 2, "1.0": 9, "+Inf": 10}, ttft_sum=5))
    bench.one()
    bench.show(vllm_text(finished={"stop": 20}, prompt_tokens=100, ttft={"0.1": 16, "1.0": 18, "+Inf": 20}, ttft_sum=3))
    row, histograms = bench.one()
    # prompt_tokens fell, so the whole process is new: 20 requests and not 20 - 10; buckets 16, 2, 2 and not 14, ...
    assert (row.requests, row.prompt_tokens) == (20.0, 100.0)
    assert histograms["ttft_seconds"].increments == (16.0, 2.0, 2.0)
    assert histograms["ttft_seconds"].sum_increment == pytest.approx(3.0)


def test_a_new_process_start_is_a_new_life_although_every_counter_is_higher(bench):
    bench.show(vllm_text(prompt_tokens=100, process_start=1_700_000_000))
    bench.one()
    bench.show(vllm_text(prompt_tokens=150, process_start=1_700_000_500.25))
    assert bench.one()[0].prompt_tokens == 150.0


def test_buckets_become_increments_that_are_not_cumulative(bench):
    bench.show(vllm_text(ttft={"0.1": 0, "0.5": 0, "+Inf": 0}))
    bench.one()
    bench.show(vllm_text(ttft={"0.1": 10, "0.5": 30, "+Inf": 40}, ttft_sum=12.5))
    _, histograms = bench.one()
    ttft = histograms["ttft_seconds"]
    assert (ttft.bounds, ttft.increments, ttft.sum_increment) == ((0.1, 0.5, math.inf), (10.0, 20.0, 10.0), 12.5)
    assert (ttft.tenant, ttft.container_id, ttft.model, ttft.server) == ("search", ID, "llama", "vllm")
    _, histograms = bench.one()
    assert histograms["ttft_seconds"].increments == (0.0, 0.0, 0.0)  # no traffic, which is not "not measured"


def test_engines_of_one_model_are_added_and_the_fullest_cache_counts(bench):
    def text(n):
        return vllm_text(prompt_tokens=100 * n, waiting=1, kv=0.2) + vllm_text(
            engine="1", prompt_tokens=1000 * n, waiting=2, kv=0.9
        )

    bench.show(text(1))
    bench.one()
    bench.show(text(2))
    row, _ = bench.one()
    assert (row.prompt_tokens, row.requests_waiting, row.kv_cache_ratio) == (1100.0, 3.0, 0.9)


def test_two_models_on_one_server_are_two_rows(bench):
    bench.show(vllm_text(model="a", running=1) + vllm_text(model="b", running=2))
    _, rows = bench.poll()
    assert {row.model: row.requests_running for row in rows} == {"a": 1.0, "b": 2.0}


def test_a_value_that_is_no_number_is_unknown_with_a_reason(bench):
    bench.show(vllm_text(kv=math.nan, waiting=math.inf))
    row, _ = bench.one()
    assert (row.kv_cache_ratio, row.requests_waiting, row.requests_running) == (None, None, 0.0)
    assert "kv_cache_ratio is nan" in row.unknown_reason
    assert "requests_waiting is inf" in row.unknown_reason


def test_a_server_that_fails_is_a_down_row_with_the_scrape_error_and_loses_nothing_when_it_returns(bench):
    bench.show(vllm_text(prompt_tokens=100))
    bench.one()
    bench.server.fail(500)
    bench.scraped()
    reading, (row,) = bench.poll()
    assert (row.up, row.prompt_tokens, row.requests_running, row.model) == (False, None, None, "llama")
    assert "500" in row.unknown_reason
    assert (row.container_key, row.tenant) == ("here:chat", "search")
    assert [gap.reason for gap in reading.gaps] == ["unreachable"]
    bench.show(vllm_text(prompt_tokens=180))
    row, _ = bench.one()
    assert (row.up, row.prompt_tokens) == (True, 80.0)


def test_a_server_already_down_when_we_start_is_remembered_by_prometheus_as_an_inference_server(bench):
    bench.show(vllm_text())
    bench.server.fail(503)
    bench.scraped()
    bench.inventory.publish(HostInventory(host="here", at=datetime.now(UTC), local=True, containers=()))
    _, (row,) = bench.poll()
    assert (row.up, row.container_key, row.joined_by) == (False, "", "none")


def test_an_unjoined_endpoint_is_visible_with_the_reason(bench):
    bench.show(vllm_text(running=4))
    bench.inventory.publish(HostInventory(host="here", at=datetime.now(UTC), local=True, containers=()))
    reading, (row,) = bench.poll()
    assert (row.container_key, row.tenant, row.joined_by, row.requests_running) == ("", "unassigned", "none", 4.0)
    assert "nothing known listens on port" in row.join_reason
    assert "1 not joined" in reading.detail


def test_an_operators_rule_joins_by_map(bench):
    bench.show(vllm_text())
    bench.source.close()
    bench.source = bench.new_source(rules=[EndpointRule(job="vllm", instance="", container="here:chat")])
    assert bench.one()[0].joined_by == "map"


def test_a_scrape_from_before_the_container_started_is_not_its_own(bench):
    bench.show(vllm_text(prompt_tokens=100, running=9))
    later = datetime.now(UTC) + timedelta(seconds=30)
    bench.inventory.publish(published(bench.server.server_address[1], started=later))
    row, histograms = bench.one()
    assert (row.requests_running, row.prompt_tokens, histograms) == (None, None, {})
    assert "older than the container's start" in row.unknown_reason


def test_a_recreated_container_at_the_same_address_counts_from_zero(bench):
    bench.show(vllm_text(prompt_tokens=100))
    bench.one()
    bench.inventory.publish(published(bench.server.server_address[1], container_id="b" * 64, started=datetime.now(UTC)))
    bench.show(vllm_text(prompt_tokens=130))
    row, _ = bench.one()
    assert (row.container_id, row.prompt_tokens) == ("b" * 64, 130.0)


@pytest.mark.parametrize(
    ("recording", "model", "expected"),
    [
        (
            "vllm_0.33_synth_from_source.prom",
            "llama-3.1-70b-instruct",
            {
                "requests": 3000.0,
                "errors": 54.0,
                "prompt_tokens": 3450308.0,
                "generation_tokens": 778247.0,
                "cached_tokens": 776080.0,
                "requests_waiting": 6.0,
                "requests_running": 37.0,
                "kv_cache_ratio": 0.7312,
            },
        ),
        (
            "vllm_v0_june2024_opt125m.prom",
            "facebook/opt-125m",
            {
                "requests": 1.0,
                "errors": 0.0,
                "prompt_tokens": 5.0,
                "generation_tokens": 7.0,
                "cached_tokens": None,
                "requests_waiting": 0.0,
                "requests_running": 0.0,
                "kv_cache_ratio": 0.0,
            },
        ),
    ],
)
def test_a_recorded_text_gives_exactly_its_numbers(bench, recording, model, expected):
    text = (RECORDED / recording).read_text()
    # The same server just started: every counter at 0. A start time would say that it is another one.
    text = re.sub(r"^process_start_time_seconds.*\n", "", text, flags=re.MULTILINE)
    bench.show(re.sub(r"^(?!#)(\S.*) \S+$", r"\1 0.0", text, flags=re.MULTILINE))
    bench.one()
    bench.show(text)
    row, histograms = bench.one()
    assert row.model == model
    assert {name: getattr(row, name) for name in expected} == expected
    for field, metric in (
        ("e2e_seconds", "vllm:e2e_request_latency_seconds"),
        ("ttft_seconds", "vllm:time_to_first_token_seconds"),
        ("prompt_tokens", "vllm:request_prompt_tokens"),
    ):
        (count,) = query(bench.prometheus, f"{metric}_count")
        (total,) = query(bench.prometheus, f"{metric}_sum")
        assert sum(histograms[field].increments) == count
        assert histograms[field].sum_increment == pytest.approx(total)
    if expected["cached_tokens"] is None:
        assert row.unknown_reason == "not exposed: cached_tokens"


def test_our_quantile_is_the_one_prometheus_computes(bench):
    text = (RECORDED / "vllm_0.33_synth_from_source.prom").read_text()
    bench.show(re.sub(r"^(?!#)(\S.*) \S+$", r"\1 0.0", text, flags=re.MULTILINE))
    bench.one()
    bench.show(text)
    _, histograms = bench.one()
    for q in (0.5, 0.95, 0.99):
        (theirs,) = query(bench.prometheus, f"histogram_quantile({q}, vllm:time_to_first_token_seconds_bucket)")
        ours = quantile_from_buckets(histograms["ttft_seconds"].bounds, histograms["ttft_seconds"].increments, q)
        assert ours.value == pytest.approx(theirs)
        assert ours.lower < ours.value <= ours.upper


def test_a_hanging_prometheus_is_a_timeout_and_the_next_poll_covers_the_time_between(bench):
    bench.show(vllm_text(prompt_tokens=100))
    bench.one()
    before = time.monotonic()
    settings = replace(bench.source._server, timeout_seconds=1.0)
    impatient = PrometheusSource(settings, bench.inventory, settle_seconds=0.0)
    bench.prometheus.pause()
    try:
        with pytest.raises(SourceError) as caught:
            impatient.collect(datetime.now(UTC))
    finally:
        bench.prometheus.resume()
        impatient.close()
    assert caught.value.reason == "timeout"
    bench.show(vllm_text(prompt_tokens=170))
    row, _ = bench.one()
    assert row.prompt_tokens == 70.0
    assert row.interval_seconds == pytest.approx(time.monotonic() - before, abs=3.0)


def test_hostile_names_stay_text(bench):
    hostile = "<script>alert(1)</script>\\n=1+1\\x1b[31m" + "x" * 10_000
    bench.show(vllm_text(model=hostile.replace("\\x1b", "\x1b"), running=1))
    row, _ = bench.one()
    assert row.model.startswith("<script>")
    assert len(row.model) == 256
    assert row.requests_running == 1.0


def test_a_server_that_names_a_thousand_models_fills_no_table(bench):
    bench.show("".join(f'vllm:num_requests_running{{model_name="m{n:04d}"}} 1\n' for n in range(1000)))
    _, rows = bench.poll()
    assert len(rows) == 200
    assert "800 more models" in bench.source.collect(datetime.now(UTC)).detail


def test_a_prometheus_that_lost_its_data_loses_no_count_and_a_path_before_its_api_is_kept(tmp_path):
    with running_server(vllm_text(prompt_tokens=100)) as server:
        config = scrape_config([server.address], interval="250ms")
        arguments = ("--web.route-prefix=/prom",)
        with running_prometheus(tmp_path / "first", config, arguments=arguments) as first:
            wait_until(lambda: query(first, "vllm:prompt_tokens_total == 100"))
            source = PrometheusSource(PrometheusServer(url=f"{first.url}/", name="p"), Inventory(), settle_seconds=0.0)
            source.collect(datetime.now(UTC))
        port = first.url.rpartition(":")[2].partition("/")[0]
        with pytest.raises(SourceError):
            source.collect(datetime.now(UTC))
        server.serve(vllm_text(prompt_tokens=140))
        with running_prometheus(tmp_path / "second", config, arguments=arguments, port=int(port)) as second:
            wait_until(lambda: query(second, "vllm:prompt_tokens_total == 140"))
            (row,) = source.collect(datetime.now(UTC)).rows
        source.close()
    assert row.prompt_tokens == 40.0
    assert row.interval_seconds > 1.0


def test_a_scrape_that_has_only_just_begun_is_left_for_the_next_poll(bench):
    # Half of a restart must never be seen: the queries of a poll look at one settled moment.
    bench.source.close()
    bench.source = bench.new_source(settle_seconds=2.0)
    bench.show(vllm_text(running=1))
    wait_until(lambda: query(bench.prometheus, "vllm:num_requests_running offset 2s") == [1.0])
    bench.show(vllm_text(running=2))
    assert bench.one()[0].requests_running == 1.0
    wait_until(lambda: query(bench.prometheus, "vllm:num_requests_running offset 2s") == [2.0])
    assert bench.one()[0].requests_running == 2.0


def test_a_prometheus_without_targets_is_absent_and_says_what_to_do(tmp_path):
    with running_prometheus(tmp_path, "global: {scrape_interval: 1s}\n") as prometheus:
        source = PrometheusSource(PrometheusServer(url=prometheus.url), Inventory())
        reading = source.collect(datetime.now(UTC))
        assert source.target == prometheus.url.removeprefix("http://")
        source.close()
    assert (reading.absent, reading.rows) == (True, ())
    assert "scrape job" in reading.next_step


def test_one_server_scraped_twice_is_counted_once_and_both_endpoints_are_shown(tmp_path):
    with running_server(vllm_text(prompt_tokens=10)) as server:
        port = server.server_address[1]
        config = scrape_config([f"127.0.0.1:{port}", f"localhost:{port}"], interval="250ms")
        with running_prometheus(tmp_path, config) as prometheus:
            wait_until(lambda: len(query(prometheus, "up == 1")) == 2)
            inventory = Inventory()
            inventory.publish(published(port))
            source = PrometheusSource(
                PrometheusServer(url=prometheus.url, docker_host="here"), inventory, settle_seconds=0.0
            )
            source.collect(datetime.now(UTC))
            server.respond = lambda _r: Answer(vllm_text(prompt_tokens=25).encode())
            wait_until(lambda: query(prometheus, "vllm:prompt_tokens_total == 25")[1:])
            rows = source.collect(datetime.now(UTC)).rows
            source.close()
    assert [row.prompt_tokens for row in rows] == [15.0, None]
    assert "counted there" in rows[1].unknown_reason
    assert [row.up for row in rows] == [True, True]


def test_one_server_scraped_by_two_prometheus_is_counted_once_and_the_second_takes_over(bench):
    claims = Claims()
    bench.source.close()
    bench.source = bench.new_source(claims=claims)
    settings = PrometheusServer(url=bench.prometheus.url, name="second", docker_host="here")
    second = PrometheusSource(settings, bench.inventory, claims=claims, settle_seconds=0.0)
    at = datetime.now(UTC)
    bench.show(vllm_text(prompt_tokens=100))
    bench.source.collect(at)
    second.collect(at)
    bench.show(vllm_text(prompt_tokens=150))
    counted = [source.collect(at + timedelta(seconds=15)).rows for source in (bench.source, second)]
    assert [row.prompt_tokens for rows in counted for row in rows] == [50.0, None]
    assert "of main, counted there" in counted[1][0].unknown_reason
    bench.show(vllm_text(prompt_tokens=170))
    (row,) = second.collect(at + timedelta(seconds=60)).rows  # the first has been silent for three of its polls
    second.close()
    assert row.prompt_tokens == 20.0
