"""The fleet as it stands at the end of a window: one record per container, put together from all three sources.

Overview, Containers and Tenant show the same records, so the same container is never fine on one page and in trouble
on another. A few small queries over the last minutes, joined here; a reading that is missing stays None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

from fleet.latency import Quantile, quantile_from_buckets
from fleet.model import Scope, Window
from fleet.severity import FINE, ContainerFacts, Judgement, Level, Thresholds, judge_container
from queries.idleness import Idleness, idleness
from queries.newest import Rows, gpu_names, newest_inference, newest_samples, newest_shares, newest_ttft
from queries.resolution import epoch_ms
from queries.scoping import Where, during, of_tenants
from queries.sharing import shared
from queries.since import beyond_since
from store import Store


@dataclass(slots=True, kw_only=True)
class LiveContainer:
    """Everything known of one container at one moment. Units in the names; None = could not be read."""

    facts: Mapping[str, object]
    at: datetime | None = None
    age_seconds: float | None = None
    state: str = ""
    health: str = ""
    unknown_reason: str = ""
    cpu_cores: float | None = None
    cpu_limit_cores: float | None = None
    throttled_ratio: float | None = None
    memory_working_set_bytes: int | None = None
    memory_limit_bytes: int | None = None
    restarts: int = 0
    oom_kills: int = 0
    gpus: list[Mapping[str, object]] = field(default_factory=list[Mapping[str, object]])
    sm_ratio: float | None = None
    gpu_memory_bytes: int | None = None
    attribution: str = ""
    attribution_reason: str = ""
    requests_per_second: float | None = None
    error_ratio: float | None = None
    tokens_per_second: float | None = None
    endpoint_up: bool | None = None
    ttft: Quantile | None = None
    judgement: Judgement = FINE
    since: datetime | None = None

    @property
    def key(self) -> str:
        """Stable name of the container."""
        return str(self.facts["container_key"])


@shared
def live_containers(
    store: Store, scope: Scope, window: Window, *, host: str | None = None, limits: Thresholds | None = None
) -> list[LiveContainer]:
    """All containers that exist at the window's end, by severity (worst first), then name.

    Restarts and OOM kills are counted over the window's last hour; everything else speaks for its last minutes.
    """
    where = of_tenants(scope, host=host)
    found = {str(row["container_key"]): LiveContainer(facts=row) for row in _facts(store, where, window)}
    if not found:
        return []
    _samples(newest_samples(store, scope, window, host=host), window, found)
    _gpus(newest_shares(store, scope, window, host=host), gpu_names(store), found)
    _inference(newest_inference(store, scope, window, host=host), found)
    _ttft(newest_ttft(store, scope, window, host=host), found)
    thresholds = limits or Thresholds()
    idle = _idle(store, where, window, found, thresholds)
    for container in found.values():
        container.judgement = judge_container(_for_judging(container, idle.get(container.key)), thresholds)
    _since(store, where, window, found, idle, thresholds)
    return sorted(found.values(), key=lambda item: (-item.judgement.level, str(item.facts["name"])))


def _facts(store: Store, where: Where, window: Window) -> list[dict[str, object]]:
    # A container recreated under its name keeps its key: the newest one is shown. One created later is not yet there.
    conditions = where.also(
        "(created_at IS NULL OR created_at <= fromUnixTimestamp64Milli({window_end:Int64}, 'UTC'))"
        " AND (removed = 0 OR seen_at > fromUnixTimestamp64Milli({window_end:Int64}, 'UTC'))",
        window_end=epoch_ms(window.end),
    )
    return store.query(
        f"""
        SELECT container_key, container_id, name, tenant, team, owner, tenant_origin, host, image, image_digest,
            image_created_at, compose_project, compose_service, user, state, health, exit_code, error, created_at,
            started_at, finished_at, restart_count, cpu_limit_cores, memory_limit_bytes, gpu_request, gpu_uuids,
            privileged
        FROM containers FINAL WHERE {conditions.sql}
        ORDER BY container_key, created_at DESC LIMIT 1 BY container_key LIMIT 5000
        """,
        conditions.parameters,
    ).to_pylist()


def _samples(rows: Iterable[Mapping[str, Any]], window: Window, found: dict[str, LiveContainer]) -> None:
    for row in rows:
        container = found.get(row["container_key"])
        if container is None:
            continue
        container.restarts, container.oom_kills = row["restarts"], row["oom_kills"]
        if row["newest"] is None:
            continue
        container.at = row["newest"]
        container.age_seconds = max(0.0, (window.end - row["newest"]).total_seconds())
        container.state, container.health = row["state"], row["health"]
        container.unknown_reason = row["unknown_reason"]
        container.cpu_cores, container.cpu_limit_cores = row["cpu_cores"], row["cpu_limit_cores"]
        container.throttled_ratio = row["throttled_ratio"]
        container.memory_working_set_bytes = row["memory_bytes"]
        container.memory_limit_bytes = row["memory_limit_bytes"]
        container.facts = {**container.facts, "sample_interval_seconds": row["step"]}
    for container in found.values():
        container.state = container.state or str(container.facts["state"])
        container.health = container.health or str(container.facts["health"])


def _gpus(shares: Iterable[Mapping[str, Any]], names: Rows, found: dict[str, LiveContainer]) -> None:
    rows = [row for row in shares if row["container_key"]]
    named = {row["gpu_uuid"]: row for row in names}
    newest: dict[str, datetime] = {}
    for row in rows:
        at: datetime = row["newest"]
        newest[row["container_key"]] = max(at, newest.get(row["container_key"], at))
    for row in rows:
        container = found.get(row["container_key"])
        # A GPU given back a while ago is not one the container has now.
        if container is None or (newest[row["container_key"]] - row["newest"]).total_seconds() > 90:
            continue
        name = named.get(row["gpu_uuid"], {})
        container.gpus.append({**row, "gpu_index": name.get("gpu_index"), "name": name.get("name", "")})
    for container in found.values():
        known = [gpu["sm_ratio"] for gpu in container.gpus if isinstance(gpu["sm_ratio"], float)]
        container.sm_ratio = sum(known) / len(known) if known else None
        memory = [gpu["memory_bytes"] for gpu in container.gpus if isinstance(gpu["memory_bytes"], int)]
        container.gpu_memory_bytes = sum(memory) if memory else None
        marks = [str(gpu["attribution"]) for gpu in container.gpus]
        # One mark for the whole container: the weakest, so that a sum is never shown as surer than its parts.
        container.attribution = next((m for m in ("unknown", "declared", "estimated", "measured") if m in marks), "")
        container.attribution_reason = next(
            (str(gpu["attribution_reason"]) for gpu in container.gpus if gpu["attribution"] == container.attribution),
            "",
        )


def _inference(rows: Rows, found: dict[str, LiveContainer]) -> None:
    """One number for each endpoint and model first: one that two Prometheus servers scrape is not two."""
    served: dict[str, dict[tuple[object, object], list[Mapping[str, Any]]]] = {}
    for row in rows:
        one = served.setdefault(str(row["container_key"]), {})
        one.setdefault((row["endpoint"], row["model"]), []).append(row)
    for key, endpoints in served.items():
        container = found.get(key)
        if container is None:
            continue
        seen = endpoints.values()
        container.requests_per_second = _known_sum(_ratio(each, "asked", "asked_seconds") for each in seen)
        container.tokens_per_second = _known_sum(_ratio(each, "tokens", "tokens_seconds") for each in seen)
        container.error_ratio = _ratio([row for each in seen for row in each], "failed", "asked")
        container.endpoint_up = all(max(each, key=lambda row: row["newest_ms"])["is_up"] for each in seen)


def _ratio(rows: Iterable[Mapping[str, Any]], upper: str, lower: str) -> float | None:
    rows = list(rows)
    top, bottom = _known_sum(row[upper] for row in rows), _known_sum(row[lower] for row in rows)
    return None if top is None or not bottom else top / bottom


def _known_sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _ttft(rows: Rows, found: dict[str, LiveContainer]) -> None:
    told: set[object] = set()
    for row in rows:  # the ladder of bounds with the most requests first, and it speaks for the container
        container = found.get(str(row["container_key"]))
        if container is not None and row["container_key"] not in told:
            told.add(row["container_key"])
            container.ttft = quantile_from_buckets(
                cast("list[float]", row["bounds"]), cast("list[float]", row["merged"]), 0.95
            )


def _idle(
    store: Store, where: Where, window: Window, found: dict[str, LiveContainer], limits: Thresholds
) -> dict[str, Idleness]:
    """Per container: how long all the GPUs it holds have been below the idle share."""
    quiet: dict[str, int] = {}
    for c in found.values():
        held = sum(1 for gpu in c.gpus if gpu["held"])
        if held and c.state == "running" and c.sm_ratio is not None and c.sm_ratio < limits.idle_sm_ratio:
            quiet[c.key] = held
    return idleness(store, where, window, quiet, limits.idle_sm_ratio)


def _for_judging(container: LiveContainer, idle: Idleness | None) -> ContainerFacts:
    memory_ratio = None
    if container.memory_working_set_bytes is not None and container.memory_limit_bytes:
        memory_ratio = container.memory_working_set_bytes / container.memory_limit_bytes
    ttft = container.ttft
    beyond = ttft is not None and ttft.state == "beyond"
    exit_code = container.facts.get("exit_code")
    interval = container.facts.get("sample_interval_seconds")
    return ContainerFacts(
        state=container.state,
        health=container.health,
        exit_code=exit_code if isinstance(exit_code, int) else None,
        error=str(container.facts.get("error") or ""),
        age_seconds=container.age_seconds,
        interval_seconds=float(interval) if isinstance(interval, float | int) else 5.0,
        restarts=container.restarts,
        oom_kills=container.oom_kills,
        memory_ratio=memory_ratio,
        throttled_ratio=container.throttled_ratio,
        error_ratio=container.error_ratio,
        ttft_p95_seconds=None if ttft is None else ttft.lower if beyond else ttft.value,
        ttft_at_least=beyond,
        endpoint_up=container.endpoint_up,
        idle_gpus=idle.gpus if idle else 0,
        idle_seconds=idle.seconds if idle else None,
        idle_peak_ratio=idle.peak_ratio if idle else None,
    )


_EVENT_OF_RULE = {"oom": ("oom",), "health": ("health_status",), "state": ("die", "pause")}


def _since(
    store: Store,
    where: Where,
    window: Window,
    found: dict[str, LiveContainer],
    idle: dict[str, Idleness],
    limits: Thresholds,
) -> None:
    """Since when the worst thing holds, for those in trouble; None when it cannot be told."""
    troubled = [c for c in found.values() if c.judgement.level >= Level.WARNING]
    if not troubled:
        return
    asked = during(
        where.also("container_key IN {troubled:Array(String)}", troubled=[c.key for c in troubled]),
        Window(start=window.end - timedelta(days=7), end=window.end),
    )
    events = store.query(
        f"""
        SELECT container_key, kind, max(at) AS newest,
            minIf(at, at > fromUnixTimestamp64Milli({{shown_start:Int64}}, 'UTC')) AS first_shown
        FROM events WHERE {asked.sql} GROUP BY container_key, kind
        """,
        {**asked.parameters, "shown_start": epoch_ms(window.start)},
    ).to_pylist()
    newest = {(row["container_key"], row["kind"]): row for row in events}
    beyond = {
        rule: [c.key for c in troubled if c.judgement.rule == rule]
        for rule in ("memory", "throttled", "errors", "ttft")
    }
    levels = beyond_since(store, where, window, beyond, limits)
    for container in troubled:
        rule = container.judgement.rule
        if rule == "idle" and container.key in idle:
            container.since = idle[container.key].since
        elif rule in beyond:
            container.since = levels.get((rule, container.key))
        elif rule == "stale":
            container.since = container.at
        elif rule == "restarts":
            row = newest.get((container.key, "die"))
            container.since = row["first_shown"] if row and row["first_shown"].year > 1970 else row and row["newest"]
        elif rule == "state" and isinstance(finished := container.facts.get("finished_at"), datetime):
            container.since = finished
        else:
            kinds = _EVENT_OF_RULE.get(rule, ())
            rows = [newest[container.key, kind] for kind in kinds if (container.key, kind) in newest]
            container.since = max((row["newest"] for row in rows), default=None)
