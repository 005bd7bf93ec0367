"""CPU of one poll of a Prometheus server that scrapes many inference endpoints; prints one JSON object.

    python -m bench.prometheus_poll [--endpoints 1000] [--polls 9] [--seed 7]

A synthetic server, in a process of its own, answers the targets API and every query of the vLLM profile: 26 series an
endpoint, half of the endpoints in containers of the inventory. Counters rise from poll to poll. The baseline, in the
same run, is `json.loads` of the same bodies. The first two polls are warm-up.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import platform
import random
import re
import statistics
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing.connection import Connection
from urllib.parse import parse_qs, urlsplit

from collectors.runner import COLLECT_GARBAGE_AFTER
from collectors.sources.prometheus import PrometheusSource
from fleet.inventory import ContainerFacts, HostInventory, Inventory
from fleet.model import Container
from fleet.settings import PrometheusServer

BEGIN = datetime(2026, 11, 22, 10, tzinfo=UTC)
INTERVAL_SECONDS = 15
BOUNDS = ("0.3", "0.5", "1.0", "2.0", "5.0", "10.0", "+Inf")
HISTOGRAMS = ("vllm:e2e_request_latency_seconds", "vllm:time_to_first_token_seconds")
COUNTERS = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:prefix_cache_hits_total")
GAUGES = ("vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc")


def container_id(number: int) -> str:
    return f"{number:064x}"


def labels_of(number: int) -> dict[str, str]:
    own = {"container_id": container_id(number)} if number % 2 else {}
    return {"job": "vllm", "instance": f"10.{number // 65536}.{number // 256 % 256}.{number % 256}:8000", **own}


class Fleet:
    """Answers of the query API, as bytes, at one poll."""

    def __init__(self, endpoints: int, seed: int) -> None:
        chance = random.Random(seed)
        self.endpoints = endpoints
        self.rates = [chance.randrange(1, 20) for _ in range(endpoints)]

    def targets(self) -> bytes:
        """The answer of the targets API."""
        active = [
            {
                "labels": labels_of(number), "discoveredLabels": {"__address__": labels_of(number)["instance"]},
                "scrapeUrl": f"http://{labels_of(number)['instance']}/metrics", "health": "up", "lastError": "",
                "scrapeInterval": "5s",
            }
            for number in range(self.endpoints)
        ]  # fmt: skip
        return json.dumps({"status": "success", "data": {"activeTargets": active}}).encode()

    def answer(self, query: str, poll: int) -> bytes:
        """The instant vector of one query at the poll with this number."""
        now = BEGIN.timestamp() + poll * INTERVAL_SECONDS
        result: list[dict[str, object]] = []

        def add(number: int, name: str, value: float, **labels: str) -> None:
            metric = {"__name__": name, "engine": "0", "model_name": "llama", **labels_of(number), **labels}
            result.append({"metric": metric, "value": [now, f"{value:g}"]})

        if query == "vector(1)":
            result.append({"metric": {}, "value": [now + 1, "1"]})
            return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()
        names = set(re.findall(r"vllm:\w+|process_start_time_seconds", query))
        for number, rate in enumerate(self.rates):
            done = rate * (poll + 10)
            if query in ("up", "timestamp(up)"):
                head = {"__name__": "up"} if query == "up" else {}
                value = "1" if query == "up" else f"{now - 2:.3f}"
                result.append({"metric": {**head, **labels_of(number)}, "value": [now, value]})
                continue
            if "process_start_time_seconds" in names:
                add(number, "process_start_time_seconds", BEGIN.timestamp() - 3600)
            if "vllm:request_success_total" in names:
                for reason in ("stop", "length", "abort"):
                    add(number, "vllm:request_success_total", done, finished_reason=reason)
            for name in COUNTERS:
                if name in names:
                    add(number, name, done * 100)
            for name in GAUGES:
                if name in names:
                    add(number, name, rate / 40)
            for name in HISTOGRAMS:
                if f"{name}_bucket" in names:
                    for place, bound in enumerate(BOUNDS, start=1):
                        add(number, f"{name}_bucket", done * place, le=bound)
                    add(number, f"{name}_sum", done * 2.5)
        return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()


def serve(endpoints: int, seed: int, pipe: Connection) -> None:
    """Answer until killed; the clock moves on with each poll, which begins with `vector(1)`."""
    fleet = Fleet(endpoints, seed)
    polls = iter(range(1_000_000))
    state = {"poll": 0}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = parse_qs(parts.query).get("query", [""])[0]
            if query == "vector(1)":
                state["poll"] = next(polls)
            body = fleet.targets() if parts.path.endswith("/targets") else fleet.answer(query, state["poll"])
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Silence."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    pipe.send(server.server_address[1])
    server.serve_forever()


def inventory(endpoints: int) -> Inventory:
    """Every second endpoint runs in a container of one host."""
    texts = dict.fromkeys(("team", "owner", "image", "image_id", "image_digest"), "")
    facts = [
        ContainerFacts(
            row=Container(
                seen_at=BEGIN, host="h", tenant=f"t{number % 40}", tenant_origin="label", container_key=f"h:c{number}",
                container_id=container_id(number), name=f"c{number}", state="running",
                started_at=BEGIN - timedelta(hours=1), **texts,
            )
        )
        for number in range(1, endpoints, 2)
    ]  # fmt: skip
    made = Inventory()
    made.publish(HostInventory(host="h", at=BEGIN, local=True, containers=tuple(facts)))
    return made


def run(endpoints: int, polls: int, seed: int) -> Mapping[str, object]:
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("fork").Process(target=serve, args=(endpoints, seed, theirs), daemon=True)
    server.start()
    settings = PrometheusServer(url=f"http://127.0.0.1:{ours.recv()}", name="bench", timeout_seconds=60.0)
    source = PrometheusSource(settings, inventory(endpoints))
    queries: list[str] = []
    ask = source._client.query  # to know what is asked, for the baseline

    def noted(query: str, *, time: float | None = None) -> list[tuple[dict[str, str], float]]:
        queries.append(query)
        return ask(query, time=time)

    source._client.query = noted  # type: ignore[method-assign]
    gc.freeze()
    gc.set_threshold(COLLECT_GARBAGE_AFTER, *gc.get_threshold()[1:])  # as the runner does
    spent: list[float] = []
    rows = 0
    try:
        for poll in range(polls):
            queries.clear()
            began = time.process_time()
            rows = len(source.collect(BEGIN + timedelta(seconds=poll * INTERVAL_SECONDS)).rows)
            spent.append(time.process_time() - began)
    finally:
        source.close()
        server.terminate()
        server.join()
    fleet = Fleet(endpoints, seed)
    bodies = [fleet.targets(), *(fleet.answer(query, 3) for query in queries)]
    parsed: list[float] = []
    series = 0
    for _ in range(5):
        began = time.process_time()
        answers = [json.loads(body) for body in bodies]
        parsed.append(time.process_time() - began)
        series = sum(len(answer["data"].get("result", ())) for answer in answers)
        del answers
    poll_seconds, parse_seconds = statistics.median(spent[2:]), statistics.median(parsed)
    return {
        "bench": "prometheus_poll", "seed": seed, "endpoints": endpoints, "series": series, "rows": rows,
        "body_bytes": sum(map(len, bodies)), "queries": len(queries), "poll_cpu_seconds": round(poll_seconds, 3),
        "best_poll_cpu_seconds": round(min(spent[2:]), 3), "json_loads_cpu_seconds": round(parse_seconds, 3),
        "times_json_loads": round(poll_seconds / parse_seconds, 2), "goals": {"poll_cpu_seconds": "< 0.3"},
        "python": platform.python_version(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoints", type=int, default=1000)
    parser.add_argument("--polls", type=int, default=9)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    print(json.dumps(run(options.endpoints, max(options.polls, 3), options.seed)))


if __name__ == "__main__":
    main()
