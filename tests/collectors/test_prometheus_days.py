"""Days in the life of servers, through a real Prometheus: real traffic, restarts, new ladders, replicas, nights."""

from __future__ import annotations

import csv
import json
import math
import time
import urllib.parse
import urllib.request
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from collectors.sources.prometheus import PrometheusSource
from fleet.inventory import Inventory
from fleet.latency import quantile_from_buckets
from fleet.model import Histogram, InferenceSample
from fleet.settings import PrometheusServer
from tests.services.metrics_server import running_server, vllm_text
from tests.services.prometheus import running_prometheus, scrape_config, wait_until

pytestmark = pytest.mark.prometheus
TRACE = Path(__file__).parents[1] / "recorded" / "azure_llm_conv_2023_first_1200.csv"
LADDER = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class Day:
    """One Prometheus, one source, and servers that come and go; what was stored, poll by poll."""

    def __init__(self, folder, prometheus):
        self.folder, self.prometheus = folder, prometheus
        settings = PrometheusServer(url=prometheus.url, name="main", timeout_seconds=10.0)
        self.source = PrometheusSource(settings, Inventory(), settle_seconds=0.0, detect_seconds=0.5)

    def scrape(self, *servers):
        """From now on these are the targets; waits until all have been scraped."""
        listed = json.dumps([{"targets": [server.address for server in servers]}])
        (self.folder / "targets.json").write_text(listed)
        self.scraped(len(servers))

    def scraped(self, servers=1):
        start = time.time()
        wait_until(lambda: sum(value > start for value in values(self.prometheus, "timestamp(up)")) == servers, 30)

    def show(self, server, text, servers=1):
        server.serve(text)
        self.scraped(servers)

    def poll(self):
        rows = self.source.collect(datetime.now(UTC)).rows
        samples = [row for row in rows if isinstance(row, InferenceSample)]
        return samples, {row.field: row for row in rows if isinstance(row, Histogram)}


def values(prometheus, text):
    url = f"{prometheus.url}/api/v1/query?query={urllib.parse.quote(text)}"
    with urllib.request.urlopen(url, timeout=5) as answer:
        return [float(item["value"][1]) for item in json.load(answer)["data"]["result"]]


@pytest.fixture
def day(tmp_path):
    config = scrape_config([], interval="200ms").replace("static_configs: [{targets: []}]", "")
    config += f"  file_sd_configs: [{{files: ['{tmp_path}/targets.json'], refresh_interval: 1s}}]\n"
    with running_prometheus(tmp_path / "prometheus", config) as prometheus:
        made = Day(tmp_path, prometheus)
        yield made
        made.source.close()


class Served:
    """What a vLLM would expose after these requests."""

    def __init__(self):
        self.prompts, self.generated = [], []

    def text(self, process_start):
        lines = [vllm_text(
            finished={"stop": len(self.prompts)}, prompt_tokens=sum(self.prompts),
            generation_tokens=sum(self.generated), process_start=process_start,
        )]  # fmt: skip
        for name, sizes in (("prompt", self.prompts), ("generation", self.generated)):
            for bound in (*LADDER, math.inf):
                le = "+Inf" if bound == math.inf else f"{bound}.0"
                inside = sum(size <= bound for size in sizes)
                lines.append(f'vllm:request_{name}_tokens_bucket{{model_name="llama",engine="0",le="{le}"}} {inside}')
            lines.append(f'vllm:request_{name}_tokens_sum{{model_name="llama",engine="0"}} {sum(sizes)}')
        return "\n".join(lines) + "\n"


def test_a_morning_of_real_traffic_with_a_restart_is_counted_once_and_every_quantile_holds_the_true_one(day):
    with TRACE.open(newline="") as lines:
        requests = [(int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in csv.DictReader(lines)]
    assert len(requests) == 1200
    served = Served()
    with running_server(served.text(1000)) as server:
        day.scrape(server)
        day.poll()
        stored = defaultdict(list)
        totals = {"requests": 0.0, "prompt_tokens": 0.0, "generation_tokens": 0.0}
        for part in range(6):
            if part == 3:
                served = Served()  # a new process, at once busier than the old one was at first
            for prompt, generated in requests[part * 200 : part * 200 + 200]:
                served.prompts.append(prompt)
                served.generated.append(generated)
            day.show(server, served.text(1000 if part < 3 else 9000))
            (row,), histograms = day.poll()
            totals = {name: value + getattr(row, name) for name, value in totals.items()}
            for field in ("prompt_tokens", "generation_tokens"):
                stored[field].append(histograms[field])
    exact = {"prompt_tokens": sorted(p for p, _ in requests), "generation_tokens": sorted(g for _, g in requests)}
    assert totals == {"requests": 1200.0, **{name: float(sum(sizes)) for name, sizes in exact.items()}}
    for field, sizes in exact.items():
        assert sum(row.sum_increment for row in stored[field]) == sum(sizes)
        increments = [sum(column) for column in zip(*(row.increments for row in stored[field]), strict=True)]
        assert sum(increments) == 1200.0
        for q in (0.5, 0.9, 0.95, 0.99):
            told = quantile_from_buckets(stored[field][0].bounds, increments, q)
            true = sizes[math.ceil(q * len(sizes)) - 1]
            assert told.lower < true <= told.upper, (field, q, true, told)


def test_a_server_that_comes_back_with_other_buckets_gets_a_second_ladder_and_neither_is_bent(day):
    with running_server(vllm_text(ttft={"0.1": 2, "+Inf": 4}, process_start=1000)) as server:
        day.scrape(server)
        day.poll()
        day.show(server, vllm_text(ttft={"0.1": 5, "+Inf": 9}, process_start=1000))
        _, before = day.poll()
        day.show(server, vllm_text(ttft={"0.2": 3, "0.5": 6, "+Inf": 7}, process_start=5000))
        _, after = day.poll()
    assert (before["ttft_seconds"].bounds, before["ttft_seconds"].increments) == ((0.1, math.inf), (3.0, 2.0))
    # The new process began at 0: all it has counted is new.
    assert (after["ttft_seconds"].bounds, after["ttft_seconds"].increments) == ((0.2, 0.5, math.inf), (3.0, 3.0, 1.0))


def test_a_second_replica_adds_its_own_requests_from_its_start_and_takes_none_away(day):
    with running_server(vllm_text(prompt_tokens=100)) as one:
        day.scrape(one)
        day.poll()
        # It began after the last poll, and had counted 40 before it was first scraped.
        began = time.time()
        with running_server(vllm_text(prompt_tokens=40, process_start=began)) as two:
            one.serve(vllm_text(prompt_tokens=110))
            day.scrape(one, two)
            rows, _ = day.poll()
            assert sorted(row.prompt_tokens for row in rows) == [10.0, 40.0]
            day.show(two, vllm_text(prompt_tokens=47, process_start=began), servers=2)
            rows, _ = day.poll()
            assert sum(row.prompt_tokens for row in rows) == 7.0


def test_an_idle_night_is_zero_requests_and_no_latency_and_not_a_gap(day):
    text = vllm_text(finished={"stop": 7}, prompt_tokens=70, ttft={"0.1": 3, "+Inf": 7}, ttft_sum=1.0)
    with running_server(text) as server:
        day.scrape(server)
        day.poll()
        for _ in range(3):
            day.scraped()
            (row,), histograms = day.poll()
            assert (row.requests, row.prompt_tokens, row.up, row.unknown_reason) == (0.0, 0.0, True, "")
            ttft = histograms["ttft_seconds"]
            assert (ttft.increments, ttft.sum_increment) == ((0.0, 0.0), 0.0)
            assert quantile_from_buckets(ttft.bounds, ttft.increments, 0.95).state == "no_traffic"


def test_ranks_that_repeat_one_value_count_once_and_replicas_add_up(day):
    text = "".join(
        f'sglang:num_queue_reqs{{model_name="m",tp_rank="{rank}",dp_rank="{replica}"}} {waiting - (rank == 2)}\n'
        for replica, waiting in ((0, 3), (1, 5))
        for rank in range(4)
    )
    with running_server(text) as server:
        day.scrape(server)
        (row,), _ = day.poll()
    assert (row.server, row.requests_waiting) == ("sglang", 8.0)  # 3 + 5, although one rank lags behind


def test_milliseconds_and_microseconds_are_seconds_and_a_mean_has_one_bucket(day):
    def ray(count):
        return (
            f'ray_serve_deployment_request_counter_total{{deployment="d"}} {count}\n'
            f'ray_serve_deployment_processing_latency_ms_bucket{{deployment="d",le="700"}} {count - 1}\n'
            f'ray_serve_deployment_processing_latency_ms_bucket{{deployment="d",le="+Inf"}} {count}\n'
            f'ray_serve_deployment_processing_latency_ms_sum{{deployment="d"}} {count * 300}\n'
        )

    def triton(count):
        return (
            f'nv_inference_request_success{{model="t",version="1"}} {count}\n'
            f'nv_inference_request_duration_us{{model="t",version="1"}} {count * 25_000}\n'
        )

    with running_server(ray(1)) as one, running_server(triton(1)) as two:
        day.scrape(one, two)
        day.poll()
        one.serve(ray(5))
        day.show(two, triton(9), servers=2)
        rows = {
            row.server: row for row in day.source.collect(datetime.now(UTC)).rows if isinstance(row, Histogram)
            and row.field == "e2e_seconds"
        }  # fmt: skip
    assert (rows["ray-serve"].bounds, rows["ray-serve"].increments) == ((0.7, math.inf), (4.0, 0.0))
    assert rows["ray-serve"].sum_increment == pytest.approx(1.2)
    # 8 requests of 25 ms: a mean is told, and no quantile
    assert (rows["triton"].bounds, rows["triton"].increments) == ((math.inf,), (8.0,))
    assert rows["triton"].sum_increment == pytest.approx(0.2)


def test_a_gateway_that_forgets_a_client_counts_nothing_twice_for_the_others(day):
    def litellm(**tokens):
        head = 'litellm_proxy_total_requests_metric_total{team_alias="search",requested_model="m"} 1\n'
        lines = (
            f'litellm_output_tokens_metric_total{{team_alias="{client[:-1]}",client_ip="10.0.0.{client[-1]}",'
            f'requested_model="m"}} {value}\n'
            for client, value in tokens.items()
        )
        return head + "".join(lines) + "process_start_time_seconds 1000\n"

    with running_server(litellm(search1=100, search2=50, ads1=30)) as server:
        day.scrape(server)
        day.poll()
        day.show(server, litellm(search1=110, search2=55, ads1=31, ads2=4))
        rows, _ = day.poll()
        assert {row.tenant: row.generation_tokens for row in rows} == {"search": 15.0, "ads": 5.0}
        assert {row.role for row in rows} == {"gateway"}
        # Without client 2 the sum of search falls, and nobody knows what client 1 added; that of ads goes on.
        day.show(server, litellm(search1=112, ads1=33, ads2=4))
        rows, _ = day.poll()
        assert {row.tenant: row.generation_tokens for row in rows} == {"search": 0.0, "ads": 2.0}
        day.show(server, litellm(search1=115, ads1=33, ads2=4))
        rows, _ = day.poll()
        assert {row.tenant: row.generation_tokens for row in rows} == {"search": 3.0, "ads": 0.0}
        day.show(server, litellm(search1=20, ads1=1).replace("1000", "9000"))  # a new process
        rows, _ = day.poll()
        assert {row.tenant: row.generation_tokens for row in rows} == {"search": 20.0, "ads": 1.0}


def test_a_dialect_that_appears_later_on_a_known_target_is_found(day):
    with running_server("something_else 1\n") as server:
        day.scrape(server)
        assert day.poll()[0] == []
        day.show(server, vllm_text(running=3))
        time.sleep(0.5)  # the time after which all are asked anew here
        (row,), _ = day.poll()
    assert row.requests_running == 3.0
