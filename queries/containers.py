"""Which containers are in trouble, and what one container is doing, on one time axis for all three sources."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute  # its functions are made at run time, no type checker sees them

from fleet.latency import Quantile, distribution
from fleet.model import Scope, Window
from fleet.severity import Level, Thresholds
from queries.answer import Answer
from queries.freshness import DOCKER, EVERYTHING, NVML, PROMETHEUS, answer
from queries.live import LiveFleet, live_fleet
from queries.newest import gpu_names
from queries.parts import device_parts
from queries.resolution import grid, nullable, on_grid, resolution, series_table
from queries.scoping import during, of_tenants
from queries.sharing import shared_for
from store import Store

pc: Any = pyarrow.compute
SPARK_POINTS = 60
#: Trends in a table are read again so often.
_SPARK_SECONDS = 30.0
_TIME = pa.timestamp("ms", tz="UTC")
_LINE = pa.list_(pa.float32())

#: Columns of the live table that are facts, and that are of the newest sample: name here -> name there.
_FACTS = ("container_key", "name", "tenant", "tenant_origin", "team", "host", "image", "started_at")
_SAMPLED = {
    "state": "state", "health": "health", "unknown_reason": "unknown_reason", "cpu_cores": "cpu_cores",
    "cpu_limit_cores": "cpu_limit_cores", "memory_working_set_bytes": "memory_bytes",
    "memory_limit_bytes": "memory_limit_bytes", "restarts": "restarts",
}  # fmt: skip
#: Docstring of `container_table` names units.
_SCHEMA = pa.schema(
    [("level", pa.int8()), ("word", pa.string()), ("why", pa.string()), ("since", _TIME)]
    + [(name, pa.string()) for name in (
        "container_key", "name", "tenant", "tenant_origin", "team", "host", "image", "state", "health",
    )]
    + [("age_seconds", pa.float64()), ("unknown_reason", pa.string()), ("cpu_cores", pa.float64()),
       ("cpu_limit_cores", pa.float64()), ("memory_working_set_bytes", pa.int64()), ("memory_limit_bytes", pa.int64()),
       ("gpus", pa.list_(pa.string())), ("gpu_uuids", pa.list_(pa.string())), ("sm_ratio", pa.float64()),
       ("gpu_memory_bytes", pa.int64()), ("attribution", pa.string()), ("attribution_reason", pa.string())]
    + [(name, pa.float64()) for name in (
        "requests_per_second", "error_ratio", "tokens_per_second", "ttft_p95_seconds", "ttft_p95_lower_seconds",
        "ttft_p95_upper_seconds",
    )]
    + [("ttft_state", pa.string()), ("restarts", pa.int64()), ("started_at", _TIME)]
)  # fmt: skip
_WORDS = np.array([level.word for level in Level], dtype=object)
T = TypeVar("T")


def live_table(fleet: LiveFleet, places: Sequence[int] | npt.NDArray[np.int64]) -> pa.Table:
    """These rows of the fleet in this order as the table that `container_table` describes, without sparklines."""
    chosen = np.asarray(places, dtype=np.int64)
    taken = pa.array(chosen)
    facts, samples = fleet.known.table.select(_FACTS).take(taken), fleet.samples.take(taken)
    inverse = np.full(len(fleet), -1, dtype=np.int64)
    inverse[chosen] = np.arange(len(chosen))
    rows: list[int] = inverse.tolist()
    columns: dict[str, pa.Array | pa.ChunkedArray | list[Any]] = {name: facts[name] for name in _FACTS}
    columns |= {name: samples[there] for name, there in _SAMPLED.items()}
    levels = fleet.levels[chosen]
    columns |= {
        "level": pa.array(levels), "word": pa.array(_WORDS[levels]), "age_seconds": nullable(fleet.ages[chosen]),
        "why": _of(fleet.judged, rows, lambda one: one.why, ""), "since": _of(fleet.since, rows, lambda at: at, None),
        "unknown_reason": pc.fill_null(samples["unknown_reason"], ""),
        "gpus": _of(fleet.gpus, rows, lambda on: [str(gpu["gpu_index"]) for gpu in on.rows], ()),
        "gpu_uuids": _of(fleet.gpus, rows, lambda on: [str(gpu["gpu_uuid"]) for gpu in on.rows], ()),
        "sm_ratio": _of(fleet.gpus, rows, lambda on: on.sm_ratio, None),
        "gpu_memory_bytes": _of(fleet.gpus, rows, lambda on: on.memory_bytes, None),
        "attribution": _of(fleet.gpus, rows, lambda on: on.attribution, ""),
        "attribution_reason": _of(fleet.gpus, rows, lambda on: on.attribution_reason, ""),
        "requests_per_second": _of(fleet.served, rows, lambda one: one.requests_per_second, None),
        "error_ratio": _of(fleet.served, rows, lambda one: one.error_ratio, None),
        "tokens_per_second": _of(fleet.served, rows, lambda one: one.tokens_per_second, None),
        "ttft_p95_seconds": _of(fleet.ttft, rows, lambda p95: p95.value, None),
        "ttft_p95_lower_seconds": _of(fleet.ttft, rows, lambda p95: p95.lower, None),
        "ttft_p95_upper_seconds": _of(fleet.ttft, rows, lambda p95: p95.upper, None),
        "ttft_state": _of(fleet.ttft, rows, lambda p95: p95.state, "not_measured"),
    }  # fmt: skip
    return pa.table({field.name: _as(columns[field.name], field.type) for field in _SCHEMA}, schema=_SCHEMA)


def _of(known: Mapping[int, T], places: Sequence[int], read: Callable[[T], object], otherwise: object) -> list[Any]:
    """A column of which few rows have something to tell. places: where each row of the fleet stands, -1 = nowhere."""
    column = [otherwise] * (max(places, default=-1) + 1)
    for place, one in known.items():
        if places[place] >= 0:
            column[places[place]] = read(one)
    return column


def _as(column: pa.Array | pa.ChunkedArray | list[Any], kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    return pa.array(column, type=kind) if isinstance(column, list) else column.cast(kind)


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
    level: this severity or worse.
    """
    fleet = live_fleet(store, scope, window, host=host, limits=limits)
    matching = _matching(fleet, image=image, state=state, text=text, level=level)
    rows = live_table(fleet, fleet.order[matching[fleet.order]][:limit])
    # All containers' trends are read in one go, which costs no more than ten; until the next round time they hold.
    start, end = _round(window.start), _round(window.end)
    sparks = _sparks(store, scope, Window(start=start, end=end), host) if rows.num_rows and start < end else {}
    for column in ("cpu_spark", "sm_spark"):
        drawn = pa.nulls(rows.num_rows, _LINE)
        if column in sparks:
            keys, lines = sparks[column]
            drawn = lines.take(pc.index_in(rows["container_key"].combine_chunks(), value_set=keys))
        rows = rows.append_column(column, drawn)
    return answer(store, scope, window, rows, EVERYTHING)


def _round(moment: datetime) -> datetime:
    return datetime.fromtimestamp(moment.timestamp() // _SPARK_SECONDS * _SPARK_SECONDS, UTC)


def _matching(
    fleet: LiveFleet, *, image: str | None, state: str | None, text: str | None, level: int | None
) -> npt.NDArray[np.bool_]:
    """Of each row of the fleet whether the filters leave it."""
    kept = np.ones(len(fleet), dtype=np.bool_)
    facts = fleet.known.table
    if image:
        kept &= _contains(facts["image"], image)
    if state:
        kept &= (fleet.samples["state"].to_numpy() == state) | (fleet.samples["health"].to_numpy() == state)
    if level is not None:
        kept &= fleet.levels >= level
    if text:
        found = np.zeros(len(fleet), dtype=np.bool_)
        for name in ("name", "tenant", "image", "host", "team"):
            found |= _contains(facts[name], text)
        kept &= found
    return kept


def _contains(column: pa.ChunkedArray, text: str) -> npt.NDArray[np.bool_]:
    wanted = text.lower()
    return np.array([wanted in str(word).lower() for word in column.to_numpy()], dtype=np.bool_)


@shared_for(_SPARK_SECONDS)
def _sparks(store: Store, scope: Scope, window: Window, host: str | None) -> dict[str, tuple[pa.Array, pa.ListArray]]:
    """Column -> the containers seen, and the line of each."""
    tier = resolution(window, finest_seconds=15, most_points=SPARK_POINTS)
    where = during(of_tenants(scope, host=host), window, tier)
    sparks: dict[str, tuple[pa.Array, pa.ListArray]] = {}
    for column, table, expression in (
        ("cpu_spark", "container_samples", tier.rate("cpu_seconds")),
        ("sm_spark", "container_gpu_samples", tier.mean("sm_ratio")),
    ):
        found = store.query(
            f"SELECT container_key, {tier.bucket} AS bucket, {expression} AS value"
            f" FROM {tier.table(table)} WHERE {where.sql} AND container_key != '' GROUP BY container_key, bucket",
            where.parameters,
        )
        laid = on_grid(found, window, tier.step_seconds, ("container_key",))
        if not laid:
            continue
        lines = np.stack([series["value"] for series in laid.values()])
        if column == "cpu_spark":
            peaks = np.fmax.reduce(lines, axis=1, keepdims=True)
            lines = lines / np.where(peaks > 0, peaks, 1.0)
        points = pa.array(lines.ravel().astype(np.float32), from_pandas=True)
        sparks[column] = (
            pa.array([str(key[0]) for key in laid]),
            pa.FixedSizeListArray.from_arrays(points, lines.shape[1]).cast(_LINE),
        )
    return sparks


def container_header(
    store: Store, scope: Scope, window: Window, *, container_key: str, limits: Thresholds | None = None
) -> Answer:
    """One container's facts: the columns of `container_table` without sparklines, plus the facts below; 0 or 1 rows.

    owner, container_id, image_digest, image_created_at, compose_project, compose_service, user, exit_code, error,
    created_at, restart_count (ever), gpu_request (as typed), privileged, labels (map, redacted).
    """
    fleet = live_fleet(store, scope, window, limits=limits)
    place = fleet.known.keys.get(container_key)
    chosen = [] if place is None else [place]
    rows = live_table(fleet, chosen)
    found = fleet.known.table.take(pa.array(chosen, pa.int64()))
    more = (
        ("owner", pa.string()), ("container_id", pa.string()), ("image_digest", pa.string()),
        ("image_created_at", _TIME), ("compose_project", pa.string()), ("compose_service", pa.string()),
        ("user", pa.string()), ("exit_code", pa.int64()), ("error", pa.string()), ("created_at", _TIME),
        ("restart_count", pa.int64()), ("gpu_request", pa.string()),
    )  # fmt: skip
    for name, kind in more:
        rows = rows.append_column(name, found[name].cast(kind))
    rows = rows.append_column("privileged", found["privileged"].cast(pa.bool_()))
    where = of_tenants(scope).also("container_key = {key:String}", key=container_key)
    labels = {
        row["container_id"]: row["labels"]
        for row in store.query(
            f"SELECT container_id, labels FROM containers FINAL WHERE {where.sql}", where.parameters
        ).to_pylist()
    }
    kind = pa.map_(pa.string(), pa.string())
    rows = rows.append_column(
        "labels", pa.array([labels.get(key) for key in found["container_id"].to_pylist()], type=kind)
    )
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
        f"SELECT field, {tier.bucket} AS bucket, any(bounds) AS ladder, {tier.buckets} AS merged"
        f" FROM {tier.table('histograms')} WHERE {condition}"
        " AND field IN ('ttft_seconds', 'itl_seconds', 'e2e_seconds') GROUP BY field, bucket, cityHash64(bounds)",
        parameters,  # type: ignore[arg-type]
    ).to_pylist()
    points = grid(window, tier.step_seconds)
    place = {int(second): number for number, second in enumerate(points)}
    parts: dict[tuple[str, int], list[tuple[Sequence[float], Sequence[float], float | None]]] = {}
    for row in found:
        number = place.get(int(row["bucket"]))
        if number is not None:
            parts.setdefault((row["field"], number), []).append((row["ladder"], row["merged"], None))
    for field in ("ttft", "itl", "e2e"):
        columns = {name: np.full(len(points), np.nan) for name in ("p50", "p95", "p95_lower", "p95_upper", "count")}
        for number in range(len(points)):
            some = parts.get((f"{field}_seconds", number))
            if some is None:
                continue
            merged = distribution(some)  # different ladders are bracketed, not added
            for name, value in _quantile_cells(merged.quantile(0.50), merged.quantile(0.95)).items():
                if value is not None:
                    columns[name][number] = value
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
