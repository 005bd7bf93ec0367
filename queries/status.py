"""What can we not see? Every source with its age, its last failure and the next step; the store; the hosts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pyarrow as pa

from fleet.model import Scope, Window
from queries.answer import Answer
from queries.freshness import EVERYTHING, OF_A_HOST, answer, own_hosts
from queries.polls import Polls, polls, silences
from queries.resolution import epoch_ms
from queries.scoping import Where, during, last, of_tenants
from queries.sharing import shared
from store import Store

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def source_status(store: Store, scope: Scope, window: Window, *, host: str | None = None) -> Answer:
    """Every source and target at the window's end, those in trouble first.

    Columns: source (docker, nvml, prometheus, synthetic), target, state (ok, partial, failed, absent, stale: silent
    for three intervals), age_seconds (since the last poll that worked; None = never in the past day), at (last poll),
    interval_seconds, took_seconds, rows, reason, error, next_step, detail, since (first poll of the present trouble),
    coverage_hour and coverage_day (0-1; None = not expected then).
    A limited scope sees one row per source with state and age only: targets name hosts of others.
    """
    return _source_table(store, scope, window, _source_rows(store, scope, window, host, whole=True))


@shared
def source_freshness(store: Store, scope: Scope, window: Window, *, host: str | None = None) -> list[dict[str, Any]]:
    """`source_status` as far as every page needs it: rows with source, target, state, age_seconds and reason.

    The polls themselves are read only while one of them failed: a look in a calm fleet costs no more than the sums.
    """
    return _source_rows(store, scope, window, host, whole=False)


def _source_rows(store: Store, scope: Scope, window: Window, host: str | None, *, whole: bool) -> list[dict[str, Any]]:
    visible = scope.tenants is None or bool(scope.tenants)
    # The past day from its first full hour on: whole hours are kept, a broken one would be read with every look.
    begin = -(-(window.end - DAY).timestamp() // 3600) * 3600
    day = Window(start=datetime.fromtimestamp(begin, UTC), end=window.end)
    # How sources fare on hosts that are not a tenant's is neither its trouble nor its business.
    own = own_hosts(store, scope) if visible else frozenset[str]()
    runs = [
        run for run in polls(store, day, timedelta()) if visible
        and (not own or run.source not in OF_A_HOST or run.target in own)
        and (host is None or run.target == host or run.source in ("prometheus", "synthetic"))
    ]  # fmt: skip
    failing = {(run.source, run.target) for run in runs if run.state == "failed"}
    # What is not fine, or is partly there, says why in its newest poll.
    told = whole or any(run.state not in ("ok", "absent") for run in runs)
    newest = _newest_polls(store, window, runs) if told else {}
    since = _failing_since(store, window, failing) if failing and whole else {}
    end_ms = epoch_ms(window.end)
    rows: list[dict[str, Any]] = []
    for run in runs:
        row = newest.get((run.source, run.target), {})
        silent = (end_ms - run.newest_ms) / 1000 > max(15.0, 3.0 * run.step_seconds)
        state = "stale" if silent and run.state != "failed" else run.state
        covered: dict[str, float | None] = {}
        day_seconds = (day.end - day.start).total_seconds()
        for name, good, seconds in (
            ("hour", run.good_last_hour_seconds, 3600.0), ("day", run.good_seconds, day_seconds),
        ):  # fmt: skip
            known = min(seconds, (end_ms - run.first_ms) / 1000)
            covered[name] = min(1.0, good / known) if known > 0 else None
        rows.append(
            {
                "source": run.source, "target": run.target, "state": state,
                "age_seconds": max(0.0, (end_ms - run.good_ms) / 1000) if run.good_ms > 0 else None,
                "at": row.get("at"), "interval_seconds": run.step_seconds, "took_seconds": row.get("took_seconds"),
                "rows": row.get("row_count"), "reason": row.get("reason"), "error": row.get("error"),
                "next_step": row.get("next_step") or (_of_silence(run, runs, end_ms) if silent else ""),
                "detail": row.get("detail"),
                "since_ms": since.get((run.source, run.target)) if state == "failed"
                else run.newest_ms if silent else None,
                "coverage_hour": covered["hour"], "coverage_day": covered["day"],
            }
        )  # fmt: skip
    order = {"failed": 0, "stale": 1, "partial": 2, "ok": 3, "absent": 4}
    rows.sort(key=lambda row: (order.get(str(row["state"]), 0), str(row["source"]), str(row["target"])))
    if scope.tenants is not None:
        rows = _freshness_only(rows)
    return rows


def _source_table(store: Store, scope: Scope, window: Window, rows: list[dict[str, Any]]) -> Answer:
    schema = pa.schema(
        [
            ("source", pa.string()), ("target", pa.string()), ("state", pa.string()), ("age_seconds", pa.float64()),
            ("at", pa.timestamp("ms", tz="UTC")), ("interval_seconds", pa.float64()), ("took_seconds", pa.float64()),
            ("rows", pa.int64()), ("reason", pa.string()), ("error", pa.string()), ("next_step", pa.string()),
            ("detail", pa.string()), ("since_ms", pa.int64()), ("coverage_hour", pa.float64()),
            ("coverage_day", pa.float64()),
        ]
    )  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=schema)
    since = table.column("since_ms").cast(pa.timestamp("ms", tz="UTC"))
    table = table.drop_columns(["since_ms"]).append_column("since", since)
    return answer(store, scope, window, table, EVERYTHING)


def _of_silence(silent: Polls, runs: list[Polls], end_ms: int) -> str:
    """What to ask. Whether a target was removed or the one collector that polls it is down cannot be told from here."""
    others = max((run.newest_ms for run in runs if run is not silent), default=0)
    if end_ms - silent.newest_ms > 3_600_000 and end_ms - others <= 1000 * max(15.0, 3.0 * silent.step_seconds):
        return "Other targets are polled: was this one removed from the settings, or is its own collector down?"
    return "Is the collector process running?"


def _newest_polls(store: Store, window: Window, runs: list[Polls]) -> dict[tuple[str, str], dict[str, Any]]:
    """(source, target) -> its newest poll, whole."""
    if not runs:
        return {}
    # Those that are polled are found near the window's end; for one that fell silent its last moment is known.
    fresh = during(Where("1"), last(window, timedelta(minutes=5)))
    moments = sorted({run.newest_ms for run in runs if run.newest_ms <= epoch_ms(window.end) - 300_000})
    day = during(Where("1"), last(window, DAY))
    listed = "arrayMap(ms -> fromUnixTimestamp64Milli(ms, 'UTC'), {moments:Array(Int64)})"
    late = f" OR ({day.sql.replace('window_', 'day_')} AND at IN (SELECT arrayJoin({listed})))" if moments else ""
    parameters = {name.replace("window_", "day_"): value for name, value in day.parameters.items()} if moments else {}
    rows = store.query(
        f"""
        SELECT source, target, at, took_seconds, rows AS row_count, reason, error, next_step, detail
        FROM source_runs WHERE ({fresh.sql}){late} ORDER BY source, target, at DESC LIMIT 1 BY source, target
        """,
        {**fresh.parameters, **parameters, **({"moments": moments} if moments else {})},
    ).to_pylist()
    return {(row["source"], row["target"]): row for row in rows}


def _failing_since(store: Store, window: Window, failing: set[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """(source, target) -> the first poll after its last good one in the past day, epoch ms."""
    day = during(Where("1"), last(window, DAY)).also(
        "target IN {targets:Array(String)}", targets=sorted({target for _, target in failing})
    )
    rows = store.query(
        f"""
        SELECT source, target, toUnixTimestamp64Milli(minIf(at, at > good_at)) AS since_ms FROM source_runs
        LEFT JOIN (
            SELECT source AS s, target AS t, maxIf(at, state != 'failed') AS good_at
            FROM source_runs WHERE {day.sql} GROUP BY s, t
        ) AS good ON source = s AND target = t
        WHERE {day.sql} GROUP BY source, target
        """,
        day.parameters,
    ).to_pylist()
    return {(row["source"], row["target"]): row["since_ms"] for row in rows}


def _freshness_only(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """The worst row of each source with nothing that names or counts what belongs to others."""
    kept: dict[object, dict[str, object]] = {}
    for row in rows:  # already worst first
        kept.setdefault(
            row["source"],
            {name: row[name] for name in ("source", "state", "age_seconds", "at", "interval_seconds", "since_ms")}
            | {"target": "", "reason": "", "error": "", "next_step": "", "detail": ""},
        )
    return list(kept.values())


#: Spans between two polls, or between the last one and the window's end, that are longer than three intervals.
_SILENT = """
    SELECT source, target, start, again FROM (
        SELECT source, target, at AS start, state, interval_seconds AS step,
            leadInFrame(at - toIntervalMillisecond(toInt64(interval_seconds * 1000)), 1,
                fromUnixTimestamp64Milli({{window_end:Int64}}, 'UTC')) OVER (PARTITION BY source, target ORDER BY at
                ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS again
        FROM source_runs WHERE {where}
    ) WHERE state != 'absent' AND dateDiff('millisecond', start, again) > 1000 * greatest(15, 3 * step)
        AND again > fromUnixTimestamp64Milli({{inside_start:Int64}}, 'UTC')
    ORDER BY start DESC LIMIT {limit}
"""


def source_gaps(store: Store, scope: Scope, window: Window, *, host: str | None = None, limit: int = 200) -> Answer:
    """Spans in which a source did not answer, newest first: source, target, start, end, seconds, reason, error.

    `end` NULL: not over yet. Spans without any poll (the collector was away) have the reason "stale" and may have begun
    up to a day before the window. For the fleet's own operators; a limited scope sees none.
    """
    where = during(Where("1") if scope.tenants is None else Where("0"), window)
    reach = Window(start=window.start - DAY, end=window.end)
    silence = during(Where("1") if scope.tenants is None else Where("0"), reach)
    if host is not None:
        of_host = "(target = {host:String} OR source IN ('prometheus', 'synthetic'))"
        where, silence = where.also(of_host, host=host), silence.also(of_host, host=host)
    failing = sorted({run.target for run in polls(store, window, timedelta()) if run.good_seconds < run.tried_seconds})
    where = where.also("target IN {failing:Array(String)}", failing=failing)
    runs = store.query(
        f"""
        SELECT source, target, min(at) AS start, max(at) AS last_failed, any(reason) AS why, any(error) AS words,
            any(step) AS step, max(again) AS answered
        FROM (
            SELECT source, target, at, reason, error, state, interval_seconds AS step,
                sum(state != 'failed') OVER (PARTITION BY source, target ORDER BY at) AS run,
                leadInFrame(at) OVER (PARTITION BY source, target ORDER BY at
                    ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS again
            FROM source_runs WHERE {where.sql}
        ) WHERE state = 'failed' GROUP BY source, target, run ORDER BY start DESC LIMIT {int(limit)}
        """,
        where.parameters,
    ).to_pylist()
    kind = pa.timestamp("ms", tz="UTC")
    rows = [
        {
            "source": run["source"], "target": run["target"], "start": run["start"],
            "end": run["answered"] if run["answered"] > run["last_failed"] else None,
            "seconds": ((run["answered"] if run["answered"] > run["last_failed"] else window.end)
                        - run["start"]).total_seconds(),
            "reason": run["why"], "error": run["words"],
        }
        for run in runs
    ]  # fmt: skip
    quiet = silences(store, reach)
    silence = silence.also(
        "toStartOfHour(at) IN (SELECT toDateTime(arrayJoin({hours:Array(Int64)}), 'UTC'))", hours=sorted(quiet.hours)
    )
    for run in store.query(_SILENT.format(where=silence.sql, limit=int(limit) + len(quiet.hours) * len(quiet.polled)), {
        **silence.parameters, "inside_start": epoch_ms(window.start),
    }).to_pylist():  # fmt: skip
        if not quiet.between(run["source"], run["target"], run["start"], run["again"]):
            continue  # the hours between were left out because nothing is missing in them
        over = run["again"] < window.end
        rows.append(
            {
                "source": run["source"], "target": run["target"], "start": run["start"],
                "end": run["again"] if over else None, "seconds": (run["again"] - run["start"]).total_seconds(),
                "reason": "stale", "error": "not polled: the collector was not running or fell behind",
            }
        )  # fmt: skip
    rows = sorted(rows, key=lambda row: cast("datetime", row["start"]), reverse=True)[:limit]
    schema = pa.schema(
        [("source", pa.string()), ("target", pa.string()), ("start", kind), ("end", kind), ("seconds", pa.float64()),
         ("reason", pa.string()), ("error", pa.string())]
    )  # fmt: skip
    return answer(store, scope, window, pa.Table.from_pylist(rows, schema=schema), EVERYTHING)


def host_facts(store: Store, scope: Scope, window: Window, *, host: str | None = None) -> Answer:
    """Hosts on which the scope has containers: host, docker_version, os, kernel, cgroup_version, cgroup_driver,
    cpu_count, memory_total_bytes, stats_path (cgroup or api), nvidia_driver, gpus (NULL = nobody listed any),
    containers. A limited scope is not told how large a host is.
    """
    where = of_tenants(scope, host=host)
    hosts = store.query(
        f"""
        SELECT host, docker_version, os, kernel, cgroup_version, cgroup_driver, cpu_count, memory_total_bytes,
            stats_path, driver AS nvidia_driver, if(g_host = '', NULL, gpu_count) AS gpus,
            container_count AS containers
        FROM hosts FINAL
        LEFT JOIN (SELECT host AS g_host, any(driver_version) AS driver, countIf(parent_uuid = '') AS gpu_count
            FROM gpus FINAL GROUP BY g_host) AS g ON host = g_host
        LEFT JOIN (SELECT host AS c_host, uniqExact(container_key) AS container_count
            FROM containers FINAL WHERE {where.sql} AND removed = 0 GROUP BY c_host) AS c ON host = c_host
        WHERE {"1" if scope.tenants is None else "container_count > 0"}
            {"AND host = {scope_host:String}" if host is not None else ""}
        ORDER BY host
        """,
        where.parameters,
    )
    if scope.tenants is not None:  # how large a shared host is, is not a tenant's business
        for name in ("gpus", "cpu_count", "memory_total_bytes"):
            hosts = hosts.set_column(
                hosts.schema.get_field_index(name), name, pa.nulls(hosts.num_rows, type=pa.int64())
            )
    return answer(store, scope, window, hosts, EVERYTHING)


def choices(store: Store, scope: Scope, window: Window) -> Answer:
    """What the filters offer: kind (tenant, host, image, state), value, containers; most containers first."""
    where = of_tenants(scope).also("removed = 0")
    union = " UNION ALL ".join(
        f"SELECT '{kind}' AS kind, toString({kind}) AS value, container_key FROM containers FINAL WHERE {where.sql}"
        for kind in ("tenant", "host", "image", "state")
    )
    rows = store.query(
        f"SELECT kind, value, uniqExact(container_key) AS containers FROM ({union}) WHERE value != ''"
        " GROUP BY kind, value ORDER BY kind, containers DESC, value LIMIT 5000",
        where.parameters,
    )
    return answer(store, scope, window, rows, EVERYTHING)
