"""Which containers are in trouble, and what one container is doing, on one time axis for all three sources."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from fleet.latency import Quantile, quantile_from_buckets
from fleet.model import Scope, Window
from fleet.severity import Thresholds
from queries.answer import Answer
from queries.freshness import DOCKER, EVERYTHING, NVML, PROMETHEUS, answer
from queries.live import LiveContainer, live_containers
from queries.newest import gpu_names
from queries.parts import device_parts
from queries.resolution import grid, nullable, on_grid, resolution, series_table
from queries.scoping import during, of_tenants
from queries.sharing import shared_for
from store import Store

SPARK_POINTS = 60
#: Trends in a table are read again so often.
_SPARK_SECONDS = 30.0
_TIME = pa.timestamp("ms", tz="UTC")

#: Columns of the live table: name, type, value of one container. Docstring of `container_table` names units.
_COLUMNS: tuple[tuple[str, pa.DataType, Callable[[LiveContainer], object]], ...] = (
    ("level", pa.int8(), lambda c: int(c.judgement.level)),
    ("word", pa.string(), lambda c: c.judgement.level.word),
    ("why", pa.string(), lambda c: c.judgement.why),
    ("since", _TIME, lambda c: c.since),
    ("container_key", pa.string(), lambda c: c.key),
    ("name", pa.string(), lambda c: c.facts["name"]),
    ("tenant", pa.string(), lambda c: c.facts["tenant"]),
    ("tenant_origin", pa.string(), lambda c: c.facts["tenant_origin"]),
    ("team", pa.string(), lambda c: c.facts["team"]),
    ("host", pa.string(), lambda c: c.facts["host"]),
    ("image", pa.string(), lambda c: c.facts["image"]),
    ("state", pa.string(), lambda c: c.state),
    ("health", pa.string(), lambda c: c.health),
    ("age_seconds", pa.float64(), lambda c: c.age_seconds),
    ("unknown_reason", pa.string(), lambda c: c.unknown_reason),
    ("cpu_cores", pa.float64(), lambda c: c.cpu_cores),
    ("cpu_limit_cores", pa.float64(), lambda c: c.cpu_limit_cores),
    ("memory_working_set_bytes", pa.int64(), lambda c: c.memory_working_set_bytes),
    ("memory_limit_bytes", pa.int64(), lambda c: c.memory_limit_bytes),
    ("gpus", pa.list_(pa.string()), lambda c: [str(gpu["gpu_index"]) for gpu in c.gpus]),
    ("gpu_uuids", pa.list_(pa.string()), lambda c: [str(gpu["gpu_uuid"]) for gpu in c.gpus]),
    ("sm_ratio", pa.float64(), lambda c: c.sm_ratio),
    ("gpu_memory_bytes", pa.int64(), lambda c: c.gpu_memory_bytes),
    ("attribution", pa.string(), lambda c: c.attribution),
    ("attribution_reason", pa.string(), lambda c: c.attribution_reason),
    ("requests_per_second", pa.float64(), lambda c: c.requests_per_second),
    ("error_ratio", pa.float64(), lambda c: c.error_ratio),
    ("tokens_per_second", pa.float64(), lambda c: c.tokens_per_second),
    ("ttft_p95_seconds", pa.float64(), lambda c: c.ttft.value if c.ttft else None),
    ("ttft_p95_lower_seconds", pa.float64(), lambda c: c.ttft.lower if c.ttft else None),
    ("ttft_p95_upper_seconds", pa.float64(), lambda c: c.ttft.upper if c.ttft else None),
    ("ttft_state", pa.string(), lambda c: c.ttft.state if c.ttft else "not_measured"),
    ("restarts", pa.int64(), lambda c: c.restarts),
    ("started_at", _TIME, lambda c: c.facts["started_at"]),
)


def live_table(containers: Sequence[LiveContainer]) -> pa.Table:
    """The records as the Arrow table that `container_table` describes, without sparklines."""
    return pa.table(
        {name: pa.array([read(c) for c in containers], type=kind) for name, kind, read in _COLUMNS},
        schema=pa.schema([(name, kind) for name, kind, _ in _COLUMNS]),
    )


def container_table(
    store: Store,
    scope: Scope,
    window: Window,
    *,
    host: str | None = None,
    image: str | None = None,
    state: str | None = None,
    text: str | None = None,
    level: int | None = None,
    limit: int = 2000,
    trends: bool = True,
    limits: Thresholds | None = None,
) -> Answer:
    """Containers by severity, then name; at most `limit`.

    Columns: level (0 ok, 1 unknown, 2 warning, 3 critical), word, why, since, container_key, name, tenant,
    tenant_origin, team, host, image, state, health, age_seconds (of its newest sample), unknown_reason, cpu_cores,
    cpu_limit_cores, memory_working_set_bytes, memory_limit_bytes, gpus (indices), gpu_uuids, sm_ratio (mean over its
    GPUs), gpu_memory_bytes (sum), attribution, attribution_reason, requests_per_second, error_ratio,
    tokens_per_second (generated), ttft_p95_seconds with lower and upper bound and state (ok, beyond, too_few,
    no_traffic, not_measured), restarts (last hour), started_at, cpu_spark and sm_spark (60 points over the window,
    NULL where unseen; CPU as share of its own peak 0-1, SM as ratio 0-1).
    Filters: image and text match anywhere, case ignored; text looks at name, tenant, image, host and team.
    level: this severity or worse. trends False: the sparklines, most of the cost, are not read and are all NULL.
    """
    found = live_containers(store, scope, window, host=host, limits=limits)
    found = [c for c in found if _matches(c, image=image, state=state, text=text, level=level)][:limit]
    rows = live_table(found)
    # All containers' trends are read in one go, which costs no more than ten; until the next round time they hold.
    start, end = _round(window.start), _round(window.end)
    sparks = _sparks(store, scope, Window(start=start, end=end), host) if found and start < end else {}
    for column in ("cpu_spark", "sm_spark"):
        values = sparks.get(column, {})
        rows = rows.append_column(column, pa.array([values.get(c.key) for c in found], type=pa.list_(pa.float32())))
    return answer(store, scope, window, rows, EVERYTHING)


def _round(moment: datetime) -> datetime:
    return datetime.fromtimestamp(moment.timestamp() // _SPARK_SECONDS * _SPARK_SECONDS, UTC)


def _matches(
    container: LiveContainer, *, image: str | None, state: str | None, text: str | None, level: int | None
) -> bool:
    if image and image.lower() not in str(container.facts["image"]).lower():
        return False
    if state and state not in (container.state, container.health):
        return False
    if level is not None and container.judgement.level < level:
        return False
    if not text:
        return True
    places = (container.facts[name] for name in ("name", "tenant", "image", "host", "team"))
    return any(text.lower() in str(place).lower() for place in places)


@shared_for(_SPARK_SECONDS)
def _sparks(store: Store, scope: Scope, window: Window, host: str | None) -> dict[str, dict[str, list[float | None]]]:
    tier = resolution(window, finest_seconds=15, most_points=SPARK_POINTS)
    where = during(of_tenants(scope, host=host), window, tier)
    sparks: dict[str, dict[str, list[float | None]]] = {"cpu_spark": {}, "sm_spark": {}}
    for column, table, expression in (
        ("cpu_spark", "container_samples", tier.rate("cpu_seconds")),
        ("sm_spark", "container_gpu_samples", tier.mean("sm_ratio")),
    ):
        found = store.query(
            f"SELECT container_key, {tier.bucket} AS bucket, {expression} AS value"
            f" FROM {tier.table(table)} WHERE {where.sql} AND container_key != '' GROUP BY container_key, bucket",
            where.parameters,
        )
        for key, series in on_grid(found, window, tier.step_seconds, ("container_key",)).items():
            values = series["value"]
            peak = np.nanmax(values) if column == "cpu_spark" and not np.isnan(values).all() else 1.0
            scaled = values / peak if peak > 0 else values
            sparks[column][str(key[0])] = [None if math.isnan(v) else float(v) for v in scaled]
    return sparks


def container_header(
    store: Store, scope: Scope, window: Window, *, container_key: str, limits: Thresholds | None = None
) -> Answer:
    """One container's facts: the columns of `container_table` without sparklines, plus the facts below; 0 or 1 rows.

    owner, container_id, image_digest, image_created_at, compose_project, compose_service, user, exit_code, error,
    created_at, restart_count (ever), gpu_request (as typed), privileged, labels (map, redacted).
    """
    every = live_containers(store, scope, window, limits=limits)
    found = [container for container in every if container.key == container_key]
    rows = live_table(found)
    more = (
        ("owner", pa.string()), ("container_id", pa.string()), ("image_digest", pa.string()),
        ("image_created_at", _TIME), ("compose_project", pa.string()), ("compose_service", pa.string()),
        ("user", pa.string()), ("exit_code", pa.int64()), ("error", pa.string()), ("created_at", _TIME),
        ("restart_count", pa.int64()), ("gpu_request", pa.string()),
    )  # fmt: skip
    for name, kind in more:
        rows = rows.append_column(name, pa.array([c.facts[name] for c in found], type=kind))
    rows = rows.append_column("privileged", pa.array([bool(c.facts["privileged"]) for c in found], type=pa.bool_()))
    where = of_tenants(scope).also("container_key = {key:String}", key=container_key)
    labels = {
        row["container_id"]: row["labels"]
        for row in store.query(
            f"SELECT container_id, labels FROM containers FINAL WHERE {where.sql}", where.parameters
        ).to_pylist()
    }
    kind = pa.map_(pa.string(), pa.string())
    rows = rows.append_column("labels", pa.array([labels.get(c.facts["container_id"]) for c in found], type=kind))
    return answer(store, scope, window, rows, EVERYTHING)


def container_host_series(store: Store, scope: Scope, window: Window, *, container_key: str) -> Answer:
    """One container's host resources over time.

    Columns: t (epoch ms), cpu_cores, throttled_ratio, memory_working_set_bytes (peak), memory_limit_bytes,
    network_receive_bytes_per_second, network_transmit_..., block_read_..., block_write_..., pids.
    """
    tier = resolution(window, finest_seconds=10)
    where = during(of_tenants(scope).also("container_key = {key:String}", key=container_key), window, tier)
    rates = ("network_receive_bytes", "network_transmit_bytes", "block_read_bytes", "block_write_bytes")
    expressions = {
        "cpu_cores": tier.rate("cpu_seconds"),
        "throttled_ratio": "sum(cpu_throttled_periods) / nullIf(sum(cpu_periods), 0)",
        "memory_working_set_bytes": tier.peak("memory_working_set_bytes"),
        "memory_limit_bytes": tier.peak("memory_limit_bytes"),
        **{f"{name}_per_second": tier.rate(name) for name in rates},
        "pids": tier.peak("pids"),
    }
    rows = _series(store, where.sql, where.parameters, window, tier.table("container_samples"), tier.bucket,
                   tier.step_seconds, expressions)  # fmt: skip
    return answer(store, scope, window, rows, DOCKER)


def _series(
    store: Store,
    condition: str,
    parameters: object,
    window: Window,
    table: str,
    bucket: str,
    step_seconds: int,
    expressions: dict[str, str],
) -> pa.Table:
    # The alias of an expression must not be a column that another one sums: the engine would read the alias.
    aliased = ", ".join(f"{expression} AS v{number}" for number, expression in enumerate(expressions.values()))
    found = store.query(
        f"SELECT {bucket} AS bucket, {aliased} FROM {table} WHERE {condition} GROUP BY bucket ORDER BY bucket",
        parameters,  # type: ignore[arg-type]
    )
    laid = on_grid(found, window, step_seconds).get((), {})
    empty = np.full(len(grid(window, step_seconds)), np.nan)
    return series_table(
        window, step_seconds, {name: laid.get(f"v{number}", empty) for number, name in enumerate(expressions)}
    )


def container_gpu_series(store: Store, scope: Scope, window: Window, *, container_key: str) -> Answer:
    """Each GPU that the container held or used: itself, the others and what nobody owns, over time.

    One row per GPU and point. Columns: gpu_uuid, gpu_index, gpu_name, t (epoch ms), sm_ratio, memory_bytes,
    power_watts (this container), others_sm_ratio, others_memory_bytes, unattributed_sm_ratio,
    unattributed_memory_bytes (NULL for a limited scope, which must not learn of neighbours), attribution.
    """
    tier = resolution(window, finest_seconds=15)
    own = of_tenants(scope).also("container_key = {key:String}", key=container_key)
    gauges = {"sm": "sm_ratio", "memory": "memory_bytes", "power": "power_watts"}
    found = device_parts(store, scope, window, tier, own, by="gpu_uuid", gauges=gauges)
    mine = on_grid(found, window, tier.step_seconds, ("gpu_uuid",))
    rest: dict[tuple[object, ...], dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]] = {}
    if mine and scope.tenants is None:
        others = of_tenants(scope).also(
            "gpu_uuid IN {gpus:Array(String)} AND container_key != {key:String}",
            gpus=[str(key[0]) for key in mine],
            key=container_key,
        )
        neighbours = device_parts(store, scope, window, tier, others, by="gpu_uuid, nobody", gauges=gauges)
        rest = on_grid(neighbours, window, tier.step_seconds, ("gpu_uuid", "nobody"))
    marks = _attributions(store, scope, window, container_key)
    names = {row["gpu_uuid"]: row for row in gpu_names(store)}
    points = grid(window, tier.step_seconds)
    unknown = {"sm": np.full(len(points), np.nan), "memory": np.full(len(points), np.nan)}
    tables: list[pa.Table] = []
    for key in sorted(mine, key=str):
        uuid = str(key[0])
        others_of, nobody_of = rest.get((uuid, 0), unknown), rest.get((uuid, 1), unknown)
        rows = series_table(
            window,
            tier.step_seconds,
            {
                "sm_ratio": mine[key]["sm"],
                "memory_bytes": mine[key]["memory"],
                "power_watts": mine[key]["power"],
                "others_sm_ratio": others_of["sm"],
                "others_memory_bytes": others_of["memory"],
                "unattributed_sm_ratio": nobody_of["sm"],
                "unattributed_memory_bytes": nobody_of["memory"],
            },
        )
        name = names.get(uuid, {})
        for column, value in (
            ("attribution", marks.get(uuid, "")), ("gpu_name", str(name.get("name", ""))),
            ("gpu_index", str(name.get("gpu_index", ""))), ("gpu_uuid", uuid),
        ):  # fmt: skip
            rows = rows.add_column(0, column, pa.array([value] * rows.num_rows, type=pa.string()))
        tables.append(rows)
    return answer(store, scope, window, pa.concat_tables(tables) if tables else _NO_GPU.empty_table(), NVML)


#: What a container without a GPU gets: no rows, the same columns.
_NO_GPU = pa.schema(
    [(name, pa.string()) for name in ("gpu_uuid", "gpu_index", "gpu_name", "attribution")]
    + [(name, pa.float64()) for name in (
        "t", "sm_ratio", "memory_bytes", "power_watts", "others_sm_ratio", "others_memory_bytes",
        "unattributed_sm_ratio", "unattributed_memory_bytes",
    )]
)  # fmt: skip


def _attributions(store: Store, scope: Scope, window: Window, container_key: str) -> dict[str, str]:
    recent = Window(start=max(window.start, window.end - timedelta(hours=6)), end=window.end)
    own = during(of_tenants(scope).also("container_key = {key:String}", key=container_key), recent)
    return {
        row["gpu_uuid"]: row["mark"]
        for row in store.query(
            f"SELECT gpu_uuid, argMax(attribution, at) AS mark FROM container_gpu_samples WHERE {own.sql}"
            " GROUP BY gpu_uuid",
            own.parameters,
        ).to_pylist()
    }


def container_inference_series(store: Store, scope: Scope, window: Window, *, container_key: str) -> Answer:
    """One container's model server over time; no rows when no endpoint is joined to it.

    Columns: t (epoch ms), requests_per_second, errors_per_second, prompt_tokens_per_second,
    generation_tokens_per_second, requests_waiting, requests_running, kv_cache_ratio, and for each of ttft, itl, e2e:
    {f}_p50_seconds, {f}_p95_seconds, {f}_p95_lower_seconds, {f}_p95_upper_seconds, {f}_count.
    A quantile beyond the last bucket has a NULL value and its lower bound; under 20 requests it is NULL.
    """
    tier = resolution(window, finest_seconds=60)
    where = during(of_tenants(scope).also("container_key = {key:String}", key=container_key), window, tier)
    rates = {
        "requests": "requests_per_second", "errors": "errors_per_second",
        "prompt_tokens": "prompt_tokens_per_second", "generation_tokens": "generation_tokens_per_second",
    }  # fmt: skip
    expressions = {name: tier.rate(column) for column, name in rates.items()}
    expressions |= {name: tier.mean(name) for name in ("requests_waiting", "requests_running", "kv_cache_ratio")}
    rows = _series(store, where.sql, where.parameters, window, tier.table("inference_samples"), tier.bucket,
                   tier.step_seconds, expressions)  # fmt: skip
    if all(rows.column(name).null_count == rows.num_rows for name in rows.column_names if name != "t"):
        return answer(store, scope, window, rows.slice(0, 0), PROMETHEUS)
    rows = with_quantiles(store, rows, window, where.sql, where.parameters)
    return answer(store, scope, window, rows, PROMETHEUS)


def with_quantiles(store: Store, rows: pa.Table, window: Window, condition: str, parameters: object) -> pa.Table:
    """The series with p50 and p95 of TTFT, ITL and E2E per point, from buckets summed within the point."""
    tier = resolution(window, finest_seconds=60)
    found = store.query(
        f"SELECT field, {tier.bucket} AS bucket, bounds, {tier.buckets} AS merged FROM {tier.table('histograms')}"
        f" WHERE {condition} AND field IN ('ttft_seconds', 'itl_seconds', 'e2e_seconds')"
        " GROUP BY field, bucket, bounds",
        parameters,  # type: ignore[arg-type]
    ).to_pylist()
    points = grid(window, tier.step_seconds)
    place = {int(second): number for number, second in enumerate(points)}
    for field in ("ttft", "itl", "e2e"):
        columns = {name: np.full(len(points), np.nan) for name in ("p50", "p95", "p95_lower", "p95_upper", "count")}
        ladders: dict[int, int] = {}
        for row in found:
            number = place.get(int(row["bucket"]))
            if row["field"] != f"{field}_seconds" or number is None:
                continue
            ladders[number] = ladders.get(number, 0) + 1
            p50, p95 = (quantile_from_buckets(row["bounds"], row["merged"], q) for q in (0.50, 0.95))
            for name, value in _quantile_cells(p50, p95).items():
                if value is not None:
                    columns[name][number] = value
        for number, ladder_count in ladders.items():
            if ladder_count > 1:  # two bucket ladders in one point cannot be added: no number rather than a wrong one
                for name in columns:
                    columns[name][number] = np.nan
        for name, values in columns.items():
            unit = "" if name == "count" else "_seconds"
            rows = rows.append_column(f"{field}_{name}{unit}", nullable(values))
    return rows


def _quantile_cells(p50: Quantile, p95: Quantile) -> dict[str, float | None]:
    upper = p95.upper if p95.upper is None or math.isfinite(p95.upper) else None
    return {"p50": p50.value, "p95": p95.value, "p95_lower": p95.lower, "p95_upper": upper, "count": p95.count}


def container_events(store: Store, scope: Scope, window: Window, *, container_key: str, limit: int = 500) -> Answer:
    """What happened to one container, newest first: at, kind, severity, title, detail, source, gpu_uuid."""
    where = during(of_tenants(scope).also("container_key = {key:String}", key=container_key), window)
    rows = store.query(
        "SELECT at, kind, severity, title, detail, source, gpu_uuid FROM events FINAL"
        f" WHERE {where.sql} ORDER BY at DESC, event_id LIMIT {int(limit)}",
        where.parameters,
    )
    return answer(store, scope, window, rows, DOCKER)
