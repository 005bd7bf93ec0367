"""Times the questions of the pages on 500 containers and 64 GPUs over 7 days; prints one JSON object.

The rows are made inside the engine from a seed: one a minute for a week, and the last hour every 5 s, written minute by
minute, so that the newest rows stand in small parts as a running collector leaves them. The sources' own polls are
every 5 s throughout, because no rollup of them exists. Each question is asked once cold and then several times, as a
page redraws: what panels of one page share is forgotten in between, what `queries.sharing` keeps of the past is not.
The warm median counts, and on a busy machine the CPU time (the least of this process, engine included). The baseline in
the same run is the smallest useful read, one container's last hour: ratios survive a noisy machine.

    python bench/queries.py [--containers 500] [--days 7] [--repeat 5] [--seed 7]
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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fleet.model import Scope, Window
from queries import containers, gpus, overview, status, tenants
from queries.answer import Answer
from queries.sharing import SHARED_SECONDS
from store import Store, open_store

EVERYONE = Scope(tenants=None)
_WHO = (
    "concat('host-', toString(intDiv(c, 50))) AS host, concat('tenant-', toString(c % 40)) AS tenant,"
    " concat('host-', toString(intDiv(c, 50)), ':c', toString(c)) AS container_key,"
    " concat('id-', toString(c)) AS container_id"
)
_NOISE = "(sipHash64({seed}, c, n) % 1000) / 1000"


def fill(store: Store, *, end: datetime, count: int, days: int, seed: int) -> int:
    """Make the week; returns how many raw rows."""
    noise = _NOISE.format(seed=seed)
    spans = [(day * 1440, 1440, 60) for day in reversed(range(days))]
    spans += [(minute * 12, 12, 5) for minute in reversed(range(60))]
    for first, points, step in spans:
        offset = 3600 if step == 60 else 0
        at = (
            f"fromUnixTimestamp64Milli(toInt64({int(end.timestamp()) - offset} - (n + {first}) * {step}) * 1000, 'UTC')"
        )
        every = f"(SELECT number % {count} AS c, intDiv(number, {count}) AS n FROM numbers({points * count}))"
        some = f"(SELECT number % 100 AS c, intDiv(number, 100) AS n FROM numbers({points * 100}))"
        boards = f"(SELECT number % 64 AS c, intDiv(number, 64) AS n FROM numbers({points * 64}))"
        store.command(
            "INSERT INTO container_samples (at, host, tenant, container_key, container_id, interval_seconds,"
            " cpu_seconds, cpu_periods, cpu_throttled_periods, memory_working_set_bytes, memory_limit_bytes,"
            " network_receive_bytes, network_transmit_bytes, block_read_bytes, block_write_bytes, pids, restarts,"
            f" oom_kills, state, health, unknown_reason) SELECT {at}, {_WHO}, {step}, {step} * 2 * {noise}, 100, 1,"
            f" toUInt64(1e9 + 1e9 * {noise}), 4000000000, 1000, 2000, 0, 0, 20, 0, 0, 'running', '', '' FROM {every}"
        )
        store.command(
            "INSERT INTO container_gpu_samples (at, host, tenant, container_key, container_id, gpu_uuid,"
            " interval_seconds, held, memory_bytes, sm_ratio, power_watts, energy_joules, attribution,"
            f" attribution_reason) SELECT {at}, {_WHO}, concat('GPU-', toString(c % 64)), {step}, 1, 10000000000,"
            f" if(c % 10 = 0, 0.01, 0.5 * {noise}), 100, 100 * {step}, 'measured', '' FROM {some}"
        )
        store.command(
            "INSERT INTO inference_samples (at, host, tenant, container_key, container_id, prometheus, endpoint,"
            " server, model, interval_seconds, up, requests, errors, prompt_tokens, generation_tokens,"
            f" requests_waiting, requests_running, kv_cache_ratio, joined_by, join_reason, unknown_reason)"
            f" SELECT {at}, {_WHO}, 'main',"
            f" concat('e', toString(c)), 'vllm', 'm', {step}, 1, {step}, 0, 100 * {step}, 50 * {step}, 1, 2, 0.5, 'id',"
            f" '', '' FROM {some}"
        )
        bounds = "[0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, inf]"
        store.command(
            "INSERT INTO histograms (at, host, tenant, container_key, container_id, endpoint, server, model, field,"
            f" interval_seconds, bounds, increments, sum_increment) SELECT {at}, {_WHO}, concat('e', toString(c)),"
            " 'vllm', 'm', arrayJoin(['ttft_seconds', 'itl_seconds', 'e2e_seconds']),"
            f" {step}, {bounds}, arrayMap(x -> toFloat64(sipHash64(c, n, x) % 20), range(15)), 1 FROM {some}"
        )
        store.command(
            "INSERT INTO gpu_samples (at, host, gpu_uuid, parent_uuid, gpu_index, interval_seconds, busy_ratio,"
            " sm_active_ratio, memory_used_bytes, memory_total_bytes, power_watts, energy_joules, temperature_celsius,"
            f" state, unknown_reason) SELECT {at}, concat('host-', toString(intDiv(c, 8))),"
            f" concat('GPU-', toString(c)), '',"
            f" c % 8, {step}, {noise}, {noise}, 20000000000, 80000000000, 300, 300 * {step}, 60, 'ok', '' FROM {boards}"
        )
        polls = points * step // 5
        polled = (
            f"fromUnixTimestamp64Milli(toInt64({int(end.timestamp()) - offset} - (n + {first * step // 5}) * 5) * 1000,"
            " 'UTC')"
        )
        store.command(
            "INSERT INTO source_runs (at, source, target, state, interval_seconds, took_seconds, rows, reason, error,"
            f" next_step, detail) SELECT {polled}, ['docker', 'nvml', 'prometheus'][c % 3 + 1], concat('host-',"
            " toString(intDiv(c, 3))), 'ok', 5, 0.01, 50, '', '', '', '' FROM"
            f" (SELECT number % 30 AS c, intDiv(number, 30) AS n FROM numbers({polls * 30}))"
        )
    # Facts older than the window's end, as those of a fleet that is looked at live.
    seen = f"fromUnixTimestamp64Milli(toInt64({int(end.timestamp())}) * 1000, 'UTC')"
    store.command(
        "INSERT INTO containers (host, tenant, container_key, container_id, seen_at, tenant_origin, name, image, state,"
        f" created_at, started_at) SELECT {_WHO}, {seen}, 'mapped', concat('c', toString(c)), 'img:1', 'running',"
        " toDateTime64('2026-01-01 00:00:00', 3, 'UTC'), toDateTime64('2026-01-01 00:00:00', 3, 'UTC')"
        f" FROM (SELECT number AS c FROM numbers({count}))"
    )
    store.command(
        f"INSERT INTO gpus (seen_at, host, gpu_uuid, gpu_index, name, memory_total_bytes) SELECT {seen},"
        " concat('host-', toString(intDiv(number, 8))), concat('GPU-', toString(number)), number % 8, 'H100',"
        " 80000000000 FROM numbers(64)"
    )
    tables = ("container_samples", "container_gpu_samples", "inference_samples", "histograms", "gpu_samples")
    return sum(store.query(f"SELECT count() AS n FROM {table}").to_pylist()[0]["n"] for table in tables)


def timed(question: Callable[[], Answer], repeat: int) -> dict[str, float]:
    """Cold and warm times of one question and the CPU time of a warm one, in milliseconds."""
    times: list[float] = []
    used: list[float] = []
    for _ in range(repeat + 1):
        time.sleep(SHARED_SECONDS + 0.05)  # what panels of one page share must not answer for the engine
        began, spent = time.perf_counter(), time.process_time()
        question()
        times.append((time.perf_counter() - began) * 1000)
        used.append((time.process_time() - spent) * 1000)
    return {
        "cold_ms": round(times[0], 1), "warm_median_ms": round(statistics.median(times[1:]), 1),
        "warm_cpu_ms": round(min(used[1:]), 1),
    }  # fmt: skip


def main() -> int:
    """Fill, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--containers", type=int, default=500)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    end = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"chdb://{folder}")
        store.migrate()
        began = time.perf_counter()
        rows = fill(store, end=end, count=options.containers, days=options.days, seed=options.seed)
        filled = time.perf_counter() - began
        key = "host-0:c1"
        asked: dict[str, Callable[[Window], Answer]] = {
            "overview.fleet_numbers": lambda w: overview.fleet_numbers(store, EVERYONE, w),
            "overview.verdict": lambda w: overview.verdict(store, EVERYONE, w),
            "overview.host_map": lambda w: overview.host_map(store, EVERYONE, w),
            "overview.gpu_activity_by_tenant": lambda w: overview.gpu_activity_by_tenant(store, EVERYONE, w),
            "containers.container_table": lambda w: containers.container_table(store, EVERYONE, w),
            "containers.container_host_series": lambda w: containers.container_host_series(
                store, EVERYONE, w, container_key=key
            ),
            "containers.container_gpu_series": lambda w: containers.container_gpu_series(
                store, EVERYONE, w, container_key=key
            ),
            "containers.container_inference_series": lambda w: containers.container_inference_series(
                store, EVERYONE, w, container_key=key
            ),
            "gpus.gpu_table": lambda w: gpus.gpu_table(store, EVERYONE, w),
            "gpus.gpu_heatmap": lambda w: gpus.gpu_heatmap(store, EVERYONE, w),
            "tenants.tenant_series": lambda w: tenants.tenant_series(store, Scope(tenants=frozenset({"tenant-1"})), w),
            "status.source_status": lambda w: status.source_status(store, EVERYONE, w),
        }
        spans = {"1h": timedelta(hours=1), "24h": timedelta(hours=24), "7d": timedelta(days=7)}
        hour = Window(start=end - spans["1h"], end=end)
        baseline = timed(
            lambda: containers.container_host_series(store, EVERYONE, hour, container_key=key), options.repeat
        )
        found = {
            span: {
                name: timed(lambda ask=ask, length=length: ask(Window(start=end - length, end=end)), options.repeat)
                for name, ask in asked.items()
            }
            for span, length in spans.items()
        }
        version = store.query("SELECT version() AS v").to_pylist()[0]["v"]
        store.close()
    print(
        json.dumps(
            {
                "bench": "queries", "seed": options.seed, "containers": options.containers, "days": options.days,
                "raw_rows": rows, "fill_seconds": round(filled, 1), "baseline_one_container_1h": baseline,
                "questions": found, "python": platform.python_version(), "clickhouse": version,
            },
            indent=1,
        )
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
