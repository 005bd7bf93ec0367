"""One tenant, or all of them side by side."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa

from fleet.model import Scope, Window
from fleet.severity import Level, Thresholds
from queries.answer import Answer
from queries.containers import with_quantiles
from queries.endpoints import own_words
from queries.freshness import EVERYTHING, PROMETHEUS, answer
from queries.live import LiveContainer, live_containers
from queries.newest import newest_inference
from queries.parts import device_parts
from queries.resolution import grid, on_grid, resolution, series_table
from queries.scoping import during, of_tenants
from store import Store

#: Longest span whose raw rows are read for one line per endpoint.
_DAY = timedelta(days=1)
#: A gateway counts the requests of the servers behind it.
_SERVERS = "role = 'server'"


def tenant_table(
    store: Store, scope: Scope, window: Window, *, host: str | None = None, limits: Thresholds | None = None
) -> Answer:
    """Tenants by severity, then name: level, word, why (of the worst container), tenant, origin (mapped, label,
    compose, none: how surely it is that tenant), teams, containers, running, criticals, warnings, gpus_held,
    sm_ratio (mean over its GPUs), gpu_memory_bytes, cpu_cores, requests_per_second, tokens_per_second
    (both without gateways, which count what the servers behind them count).
    """
    groups: dict[str, list[LiveContainer]] = {}
    for container in live_containers(store, scope, window, host=host, limits=limits):
        groups.setdefault(str(container.facts["tenant"]), []).append(container)
    gateways = {
        row["container_key"] for row in newest_inference(store, scope, window, host=host) if row["role"] == "gateway"
    }
    rows: list[dict[str, object]] = []
    for tenant, members in groups.items():
        servers = [c for c in members if c.key not in gateways]
        worst = members[0].judgement  # already worst first
        held = {str(gpu["gpu_uuid"]) for c in members for gpu in c.gpus if gpu["held"]}
        shares = [gpu["sm_ratio"] for c in members for gpu in c.gpus if isinstance(gpu["sm_ratio"], float)]
        origins = {str(c.facts["tenant_origin"]) for c in members}
        rows.append(
            {
                "level": int(worst.level), "word": worst.level.word, "why": worst.why, "tenant": tenant,
                "origin": next((o for o in ("none", "compose", "label", "mapped") if o in origins), ""),
                "teams": sorted({str(c.facts["team"]) for c in members} - {""}), "containers": len(members),
                "running": sum(c.state == "running" for c in members),
                "criticals": sum(c.judgement.level == Level.CRITICAL for c in members),
                "warnings": sum(c.judgement.level == Level.WARNING for c in members), "gpus_held": len(held),
                "sm_ratio": sum(shares) / len(shares) if shares else None,
                "gpu_memory_bytes": _total([c.gpu_memory_bytes for c in members]),
                "cpu_cores": _total([c.cpu_cores for c in members]),
                "requests_per_second": _total([c.requests_per_second for c in servers]),
                "tokens_per_second": _total([c.tokens_per_second for c in servers]),
            }
        )  # fmt: skip
    rows.sort(key=lambda row: (-int(str(row["level"])), str(row["tenant"])))
    schema = pa.schema(
        [("level", pa.int8()), ("word", pa.string()), ("why", pa.string()), ("tenant", pa.string()),
         ("origin", pa.string()), ("teams", pa.list_(pa.string())), ("containers", pa.int64()),
         ("running", pa.int64()), ("criticals", pa.int64()), ("warnings", pa.int64()), ("gpus_held", pa.int64()),
         ("sm_ratio", pa.float64()), ("gpu_memory_bytes", pa.int64()), ("cpu_cores", pa.float64()),
         ("requests_per_second", pa.float64()), ("tokens_per_second", pa.float64())]
    )  # fmt: skip
    return answer(store, scope, window, pa.Table.from_pylist(rows, schema=schema), EVERYTHING)


def _total(values: list[float | int | None] | list[float | None] | list[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def tenant_series(store: Store, scope: Scope, window: Window, *, host: str | None = None) -> Answer:
    """The scope's own use over time (narrow the scope to one tenant for its page), gateways left out.

    Columns: t (epoch ms), cpu_cores, memory_working_set_bytes, gpus_busy (sum of SM shares), gpu_memory_bytes,
    gpu_power_watts, requests_per_second, errors_per_second, prompt_tokens_per_second, generation_tokens_per_second,
    requests_waiting, and {ttft,itl,e2e}_{p50,p95,p95_lower,p95_upper}_seconds and _count as in
    `containers.container_inference_series`.
    """
    tier = resolution(window, finest_seconds=60)
    where = during(of_tenants(scope, host=host), window, tier)
    asked = (
        ("container_samples", "container_key", {
            "cpu_cores": tier.rate("cpu_seconds"), "memory_working_set_bytes": tier.mean("memory_working_set_bytes"),
        }, "1"),
        ("inference_samples", "container_key, endpoint, model", {
            "requests_per_second": tier.rate("requests"), "errors_per_second": tier.rate("errors"),
            "prompt_tokens_per_second": tier.rate("prompt_tokens"),
            "generation_tokens_per_second": tier.rate("generation_tokens"),
            "requests_waiting": tier.mean("requests_waiting"),
        }, _SERVERS),
    )  # fmt: skip
    columns: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
    points = grid(window, tier.step_seconds)
    for table, key, expressions, condition in asked:
        inner = ", ".join(f"{expression} AS v{number}" for number, expression in enumerate(expressions.values()))
        outer = ", ".join(f"sum(v{number}) AS s{number}" for number in range(len(expressions)))
        found = store.query(
            f"SELECT bucket, {outer} FROM (SELECT {tier.bucket} AS bucket, {inner} FROM {tier.table(table)}"
            f" WHERE {where.sql} AND {condition} GROUP BY bucket, {key}) GROUP BY bucket",
            where.parameters,
        )
        laid = on_grid(found, window, tier.step_seconds).get((), {})
        empty = np.full(len(points), np.nan)
        columns |= {name: laid.get(f"s{number}", empty) for number, name in enumerate(expressions)}
    gauges = {"gpus_busy": "sm_ratio", "gpu_memory_bytes": "memory_bytes", "gpu_power_watts": "power_watts"}
    own = of_tenants(scope, host=host).also("container_key != ''")
    found = device_parts(store, scope, window, tier, own, by="", gauges=gauges)
    laid = on_grid(found, window, tier.step_seconds).get((), {})
    columns |= {name: laid.get(name, np.full(len(points), np.nan)) for name in gauges}
    rows = series_table(window, tier.step_seconds, columns)
    rows = with_quantiles(store, rows, window, f"{where.sql} AND {_SERVERS}", where.parameters)
    return answer(store, scope, window, rows, EVERYTHING)


def tenant_models(store: Store, scope: Scope, window: Window, *, host: str | None = None) -> Answer:
    """Every model served in the scope: role (server, gateway), tenant, container_key, endpoint, server, model, up,
    requests_per_second, error_ratio, generation_tokens_per_second, requests_waiting, kv_cache_ratio, joined_by,
    join_reason.

    An endpoint that could not be joined to a container has an empty container_key and says why; a limited scope is not
    told the other containers it could have been.
    """
    tier = resolution(window)
    where = during(of_tenants(scope, host=host), window)
    if not tier.raw:
        where = during(of_tenants(scope, host=host), Window(start=max(window.start, window.end - _DAY), end=window.end))
    rows = store.query(
        f"""
        SELECT any(role) AS role, tenant, container_key, endpoint, server, model, argMax(up, at) AS is_up,
            sum(requests) / nullIf(sumIf(toFloat64(interval_seconds), isNotNull(requests)), 0) AS requests_per_second,
            sum(errors) / nullIf(sum(requests), 0) AS error_ratio,
            sum(generation_tokens) / nullIf(sumIf(toFloat64(interval_seconds), isNotNull(generation_tokens)), 0)
                AS generation_tokens_per_second,
            argMax(tuple(requests_waiting), at).1 AS waiting, argMax(tuple(kv_cache_ratio), at).1 AS kv,
            argMax(joined_by, at) AS joined, argMax(join_reason, at) AS reason
        FROM inference_samples WHERE {where.sql} GROUP BY tenant, container_key, endpoint, server, model
        ORDER BY tenant, model, endpoint LIMIT 2000
        """,
        where.parameters,
    )
    names = {"is_up": "up", "waiting": "requests_waiting", "kv": "kv_cache_ratio", "joined": "joined_by",
             "reason": "join_reason"}  # fmt: skip
    rows = rows.rename_columns([names.get(name, name) for name in rows.column_names])
    if scope.tenants is not None:
        pairs = zip(rows["joined_by"].to_pylist(), rows["join_reason"].to_pylist(), strict=True)
        reasons = pa.array([own_words(joined, reason) for joined, reason in pairs], type=pa.string())
        rows = rows.set_column(rows.column_names.index("join_reason"), "join_reason", reasons)
    return answer(store, scope, window, rows, PROMETHEUS)
