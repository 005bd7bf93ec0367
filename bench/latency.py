"""Times the Latency page's questions on 500 serving containers over 7 days; prints one JSON object.

The rows are made inside the engine from a seed: 40 tenants, one server a container, three durations in the ladders of
vLLM, one row an hour for two weeks (the second is the period before), one a minute in the last eight hours and
one in 15 s in the last: the hours of the rollup are as many as of a real fleet, the samples behind them fewer. Each
question is asked once cold and then several times; the warm median is what counts, beside the CPU time of this process,
which holds the engine. The baseline of the same run is one container's last hour: ratios survive a noisy machine.

    python -m bench.latency [--containers 500] [--days 7] [--repeat 5] [--seed 7]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from fleet.model import Scope, Window
from fleet.slo import Objective
from queries import containers, endpoints, latency, slo, tokens
from queries.scoping import of_tenants
from queries.sharing import SHARED_SECONDS
from store import Store, open_store

EVERYONE = Scope(tenants=None)
END = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
BOUNDS = (
    "[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, inf]"
)
_WHO = (
    "concat('host-', toString(intDiv(c, 50))) AS host, concat('tenant-', toString(c % 40)) AS tenant,"
    " concat('host-', toString(intDiv(c, 50)), ':c', toString(c)) AS container_key,"
    " concat('id-', toString(c)) AS container_id, concat('e', toString(c)) AS endpoint, 'vllm' AS server,"
    " concat('model-', toString(c % 12)) AS model"
)


def fill(store: Store, *, count: int, days: int, seed: int) -> int:
    """Make the weeks, a day at a time; returns how many rows of histograms."""
    spans = [(day * 24, 24, 3600, 8 * 3600) for day in reversed(range(2 * days))]
    spans += [(hour * 60, 60, 60, 3600) for hour in reversed(range(7))] + [(0, 240, 15, 0)]
    for first, points, step, back in spans:
        at = f"fromUnixTimestamp64Milli(toInt64({int(END.timestamp()) - back} - (n + {first}) * {step}) * 1000, 'UTC')"
        rows = f"(SELECT number % {count} AS c, intDiv(number, {count}) AS n FROM numbers({points * count}))"
        store.command(
            "INSERT INTO histograms (at, host, tenant, container_key, container_id, endpoint, server, model, field,"
            f" interval_seconds, bounds, increments, sum_increment) SELECT {at}, {_WHO},"
            f" arrayJoin(['ttft_seconds', 'itl_seconds', 'e2e_seconds']), {step}, {BOUNDS},"
            f" arrayMap(x -> toFloat64(intDiv(sipHash64({seed}, c, n, x) % 20, 1 + abs(x - 9))), range(22)), 1"
            f" FROM {rows}"
        )
        store.command(
            "INSERT INTO inference_samples (at, host, tenant, container_key, container_id, endpoint, server, model,"
            " prometheus, interval_seconds, up, requests, errors, prompt_tokens, generation_tokens, requests_waiting,"
            f" requests_running, kv_cache_ratio, joined_by, join_reason, unknown_reason) SELECT {at}, {_WHO}, 'main',"
            f" {step}, 1, {step}, 0, 100 * {step}, 50 * {step}, 1, 2, 0.5, 'id', '', '' FROM {rows}"
        )
    return int(store.query("SELECT count() AS n FROM histograms").to_pylist()[0]["n"])


def p95_by_tenant(store: Store, window: Window) -> dict[object, float | None]:
    """The issue's own question: one percentile for each tenant."""
    found = latency.distributions(store, of_tenants(EVERYONE), window, "tenant", fields=("ttft_seconds",))
    return {group: one.all.quantile(0.95).value for group, one in found.items()}


def timed(question: Callable[[], object], repeat: int) -> dict[str, float]:
    """Cold and warm times of one question, and its warm CPU time, in milliseconds."""
    times: list[float] = []
    spent: list[float] = []
    for _ in range(repeat + 1):
        time.sleep(SHARED_SECONDS + 0.05)  # what panels of one page share must not answer for the engine
        began, cpu = time.perf_counter(), time.process_time()
        question()
        times.append((time.perf_counter() - began) * 1000)
        spent.append((time.process_time() - cpu) * 1000)
    warm = {"warm_median_ms": statistics.median(times[1:]), "warm_best_ms": min(times[1:])}
    found = {"cold_ms": times[0], **warm, "warm_cpu_ms": statistics.median(spent[1:])}
    return {name: round(value, 1) for name, value in found.items()}


def main() -> int:
    """Fill, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--containers", type=int, default=500)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    promise = (Objective(name="first token", target_seconds=2.0, objective_ratio=0.95, window_days=options.days),)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"chdb://{folder}")
        store.migrate()
        began = time.perf_counter()
        rows = fill(store, count=options.containers, days=options.days, seed=options.seed)
        filled = time.perf_counter() - began
        asked: dict[str, Callable[[Window], object]] = {
            "p95_by_tenant": lambda w: p95_by_tenant(store, w),
            "latency_table_by_tenant": lambda w: latency.latency_table(store, EVERYONE, w, by="tenant"),
            "latency_table_by_container": lambda w: latency.latency_table(store, EVERYONE, w, by="container"),
            "latency_series": lambda w: latency.latency_series(store, EVERYONE, w),
            "latency_heatmap": lambda w: latency.latency_heatmap(store, EVERYONE, w),
            "slo_table": lambda w: slo.slo_table(store, EVERYONE, w, objectives=promise),
            "token_series": lambda w: tokens.token_series(store, EVERYONE, w),
            "token_table": lambda w: tokens.token_table(store, EVERYONE, w),
            "endpoints": lambda w: endpoints.endpoints(store, EVERYONE, w),
        }
        hour = Window(start=END - timedelta(hours=1), end=END)
        baseline = timed(
            lambda: containers.container_inference_series(store, EVERYONE, hour, container_key="host-0:c1"),
            options.repeat,
        )
        spans = {"1h": timedelta(hours=1), f"{options.days}d": timedelta(days=options.days)}
        found = {
            span: {
                name: timed(lambda ask=ask, length=length: ask(Window(start=END - length, end=END)), options.repeat)
                for name, ask in asked.items()
            }
            for span, length in spans.items()
        }
        version = store.query("SELECT version() AS v").to_pylist()[0]["v"]
        store.close()
    print(
        json.dumps(
            {
                "bench": "latency", "seed": options.seed, "containers": options.containers, "days": options.days,
                "histogram_rows": rows, "fill_seconds": round(filled, 1), "baseline_one_container_1h": baseline,
                "questions": found, "python": platform.python_version(), "clickhouse": version,
            },
            indent=1,
        )
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
