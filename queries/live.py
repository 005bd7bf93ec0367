"""The fleet as it stands at the end of a window: one row per container, put together from all three sources.

Overview, Containers and Tenant show the same rows, so the same container is never fine on one page and in trouble on
another. A few small queries over the last minutes, joined here as columns: a thousand containers are a few arrays, and
Python objects are made only of those that are looked at one by one. A reading that is missing stays unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute  # its functions are made at run time, no type checker sees them

from fleet.latency import Quantile, quantile_from_buckets
from fleet.model import Scope, Window
from fleet.severity import (
    FINE,
    ContainerColumns,
    ContainerFacts,
    Judgement,
    Level,
    Thresholds,
    containers_in_trouble,
    judge_container,
)
from queries.idleness import Idleness, idleness
from queries.known import Known, gpu_names, known_containers
from queries.newest import Rows, newest_inference, newest_samples, newest_shares, newest_ttft
from queries.resolution import epoch_ms
from queries.scoping import of_tenants
from queries.sharing import shared
from queries.since import trouble_since
from store import Store

pc: Any = pyarrow.compute
Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.object_]
Gpus = list[Mapping[str, object]]
#: A GPU that a container has no newer row of than this, while it has of others, was given back.
_GIVEN_BACK_MS = 90_000


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
    gpus: Gpus = field(default_factory=Gpus)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class OnGpus:
    """What one container has of GPUs: its rows, their mean share and summed memory, the weakest attribution mark."""

    rows: Gpus
    sm_ratio: float | None
    memory_bytes: int | None
    attribution: str
    attribution_reason: str

    @property
    def held(self) -> int:
        """GPUs that it holds, whether it uses them or not."""
        return sum(1 for row in self.rows if row["held"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What one container's model servers did in the last minutes."""

    requests_per_second: float | None
    tokens_per_second: float | None
    error_ratio: float | None
    up: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFleet:
    """The containers of a scope at one moment. Rows are by name; `order` gives the rows by severity, then name.

    known: facts. samples: the newest sample's columns (`newest_samples`) on the same rows, `state` and `health` those
    of the facts where there is no sample. The others by row, for the few rows that have one.
    """

    known: Known
    samples: pa.Table
    ages: Floats
    levels: npt.NDArray[np.int8]
    order: npt.NDArray[np.int64]
    gpus: Mapping[int, OnGpus]
    served: Mapping[int, Served]
    ttft: Mapping[int, Quantile]
    judged: Mapping[int, Judgement]
    since: Mapping[int, datetime]

    def __len__(self) -> int:
        return len(self.levels)

    def count(self, level: Level) -> int:
        """How many containers have exactly this level."""
        return int(np.count_nonzero(self.levels == level))

    def has_gpus(self, place: int) -> bool:
        """True when the container has a GPU now."""
        return place in self.gpus

    def containers(self, places: Iterable[int] | None = None) -> list[LiveContainer]:
        """Objects of these rows in this order; None = of all, by severity, then name."""
        chosen = self.order.tolist() if places is None else list(places)
        samples = self.samples.take(pa.array(chosen, pa.int64())).to_pylist()
        facts = self.known.rows
        return [self._container(facts[place], sample, place) for place, sample in zip(chosen, samples, strict=True)]

    def _container(self, facts: Mapping[str, object], sample: Mapping[str, Any], place: int) -> LiveContainer:
        on, served, at = self.gpus.get(place), self.served.get(place), sample["newest_ms"]
        return LiveContainer(
            facts=facts, at=None if at is None else datetime.fromtimestamp(at / 1000, UTC),
            age_seconds=None if at is None else float(self.ages[place]), state=sample["state"],
            health=sample["health"], unknown_reason=sample["unknown_reason"] or "", cpu_cores=sample["cpu_cores"],
            cpu_limit_cores=sample["cpu_limit_cores"], throttled_ratio=sample["throttled_ratio"],
            memory_working_set_bytes=sample["memory_bytes"], memory_limit_bytes=sample["memory_limit_bytes"],
            restarts=sample["restarts"], oom_kills=sample["oom_kills"], gpus=on.rows if on else [],
            sm_ratio=on.sm_ratio if on else None, gpu_memory_bytes=on.memory_bytes if on else None,
            attribution=on.attribution if on else "", attribution_reason=on.attribution_reason if on else "",
            requests_per_second=served.requests_per_second if served else None,
            error_ratio=served.error_ratio if served else None,
            tokens_per_second=served.tokens_per_second if served else None,
            endpoint_up=served.up if served else None, ttft=self.ttft.get(place),
            judgement=self.judged.get(place, FINE), since=self.since.get(place),
        )  # fmt: skip


@shared
def live_fleet(
    store: Store, scope: Scope, window: Window, *, host: str | None = None, limits: Thresholds | None = None
) -> LiveFleet:
    """All containers that exist at the window's end, as columns.

    Restarts and OOM kills are counted over the window's last hour; everything else speaks for its last minutes.
    """
    thresholds = limits or Thresholds()
    where = of_tenants(scope, host=host)
    known = known_containers(store, scope, window, host)
    keys = known.keys
    samples = _samples(newest_samples(store, scope, window, host=host), known.table)
    ages = np.maximum(0.0, (epoch_ms(window.end) - floats(samples["newest_ms"])) / 1000)
    gpus = _gpus(newest_shares(store, scope, window, host=host), gpu_names(store), keys)
    served = _served(newest_inference(store, scope, window, host=host), keys)
    ttft = _ttft(newest_ttft(store, scope, window, host=host), keys)
    quiet = {
        str(on.rows[0]["container_key"]): held
        for place, on in gpus.items()
        if on.sm_ratio is not None and on.sm_ratio < thresholds.idle_sm_ratio and (held := on.held)
        and samples["state"][place].as_py() == "running"
    }  # fmt: skip
    idle = {keys[key]: one for key, one in idleness(store, where, window, quiet, thresholds.idle_sm_ratio).items()}
    judged = _judged(known.table, samples, ages, served, ttft, idle, thresholds)
    levels = np.zeros(len(keys), dtype=np.int8)
    for place, judgement in judged.items():
        levels[place] = judgement.level
    names = list(keys)
    since: dict[int, datetime] = {}
    asked: dict[str, str] = {}
    for place, judgement in judged.items():
        if judgement.level < Level.WARNING:
            continue
        if at := _known_since(place, judgement.rule, idle, known.table):
            since[place] = at
        else:
            asked[names[place]] = judgement.rule
    since |= {keys[key]: at for key, at in trouble_since(store, where, window, asked, thresholds).items()}
    return LiveFleet(
        known=known, samples=samples, ages=ages, levels=levels, order=np.argsort(-levels, kind="stable"), gpus=gpus,
        served=served, ttft=ttft, judged=judged, since=since,
    )  # fmt: skip


def live_containers(
    store: Store, scope: Scope, window: Window, *, host: str | None = None, limits: Thresholds | None = None
) -> list[LiveContainer]:
    """`live_fleet` as objects, by severity (worst first), then name."""
    return live_fleet(store, scope, window, host=host, limits=limits).containers()


def _samples(found: pa.Table, facts: pa.Table) -> pa.Table:
    """The newest samples on the rows of the facts; a container without one has NULLs and 0 restarts."""
    rows = found.take(pc.index_in(facts["container_key"], value_set=found["container_key"].combine_chunks()))
    for name in ("state", "health"):
        sampled = pc.fill_null(rows[name], "")
        rows = _with(rows, name, pc.if_else(pc.equal(sampled, ""), facts[name], sampled))
    for name in ("restarts", "oom_kills"):
        rows = _with(rows, name, pc.fill_null(rows[name], 0))
    return rows.combine_chunks()


def _with(table: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


def _gpus(shares: Rows, names: Rows, keys: Mapping[str, int]) -> dict[int, OnGpus]:
    named = {row["gpu_uuid"]: row for row in names}
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for row in shares:
        if row["container_key"] in keys:
            rows.setdefault(str(row["container_key"]), []).append(row)
    found: dict[int, OnGpus] = {}
    for key, mine in rows.items():
        newest = max(row["newest_ms"] for row in mine)
        now: Gpus = []
        for row in mine:
            if newest - row["newest_ms"] <= _GIVEN_BACK_MS:
                name = named.get(row["gpu_uuid"], {})
                now.append({**row, "gpu_index": name.get("gpu_index"), "name": name.get("name", "")})
        known = [gpu["sm_ratio"] for gpu in now if isinstance(gpu["sm_ratio"], float)]
        memory = [gpu["memory_bytes"] for gpu in now if isinstance(gpu["memory_bytes"], int)]
        marks = {str(gpu["attribution"]): str(gpu["attribution_reason"]) for gpu in reversed(now)}
        # One mark for the whole container: the weakest, so that a sum is never shown as surer than its parts.
        mark = next((m for m in ("unknown", "declared", "estimated", "measured") if m in marks), "")
        found[keys[key]] = OnGpus(
            rows=now, sm_ratio=sum(known) / len(known) if known else None,
            memory_bytes=sum(memory) if memory else None, attribution=mark, attribution_reason=marks.get(mark, ""),
        )  # fmt: skip
    return found


def _served(rows: Rows, keys: Mapping[str, int]) -> dict[int, Served]:
    """One number for each endpoint and model first: one that two Prometheus servers scrape is not two."""
    served: dict[str, dict[tuple[object, object], list[Mapping[str, Any]]]] = {}
    for row in rows:
        if row["container_key"] in keys:
            one = served.setdefault(str(row["container_key"]), {})
            one.setdefault((row["endpoint"], row["model"]), []).append(row)
    found: dict[int, Served] = {}
    for key, endpoints in served.items():
        seen = endpoints.values()
        only = next(iter(seen))
        if len(endpoints) == 1 and len(only) == 1:  # nearly all: nothing to add up
            row = only[0]
            found[keys[key]] = Served(
                requests_per_second=_share(row["asked"], row["asked_seconds"]),
                tokens_per_second=_share(row["tokens"], row["tokens_seconds"]),
                error_ratio=_share(row["failed"], row["asked"]), up=bool(row["is_up"]),
            )  # fmt: skip
            continue
        found[keys[key]] = Served(
            requests_per_second=_known_sum([_ratio(each, "asked", "asked_seconds") for each in seen]),
            tokens_per_second=_known_sum([_ratio(each, "tokens", "tokens_seconds") for each in seen]),
            error_ratio=_ratio([row for each in seen for row in each], "failed", "asked"),
            up=all(max(each, key=lambda row: row["newest_ms"])["is_up"] for each in seen),
        )
    return found


def _ratio(rows: Sequence[Mapping[str, Any]], upper: str, lower: str) -> float | None:
    return _share(_known_sum([row[upper] for row in rows]), _known_sum([row[lower] for row in rows]))


def _share(top: float | None, bottom: float | None) -> float | None:
    return None if top is None or not bottom else top / bottom


def _known_sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _ttft(rows: Rows, keys: Mapping[str, int]) -> dict[int, Quantile]:
    found: dict[int, Quantile] = {}
    for row in rows:  # the ladder of bounds with the most requests first, and it speaks for the container
        place = keys.get(str(row["container_key"]))
        if place is not None and place not in found:
            found[place] = quantile_from_buckets(
                cast("list[float]", row["bounds"]), cast("list[float]", row["merged"]), 0.95
            )
    return found


def floats(column: pa.ChunkedArray) -> Floats:
    """Numbers with NaN for NULL."""
    return column.cast(pa.float64(), safe=False).to_numpy()


def _sparse(count: int, values: Mapping[int, float | None]) -> Floats:
    column = np.full(count, np.nan)
    for place, value in values.items():
        if value is not None:
            column[place] = value
    return column


def _judged(
    facts: pa.Table,
    samples: pa.Table,
    ages: Floats,
    served: Mapping[int, Served],
    ttft: Mapping[int, Quantile],
    idle: Mapping[int, Idleness],
    limits: Thresholds,
) -> dict[int, Judgement]:
    """What is wrong, of those that something is wrong with."""
    count = facts.num_rows
    limit = floats(samples["memory_limit_bytes"])
    with np.errstate(divide="ignore", invalid="ignore"):
        memory = floats(samples["memory_bytes"]) / np.where(limit == 0, np.nan, limit)
    interval = floats(samples["step"])
    columns = ContainerColumns(
        state=samples["state"].to_numpy(), health=samples["health"].to_numpy(), exit_code=floats(facts["exit_code"]),
        error=pc.fill_null(facts["error"], "").to_numpy(), age_seconds=ages,
        interval_seconds=np.where(np.isnan(interval), 5.0, interval), restarts=floats(samples["restarts"]),
        oom_kills=floats(samples["oom_kills"]), memory_ratio=memory,
        throttled_ratio=floats(samples["throttled_ratio"]),
        error_ratio=_sparse(count, {place: one.error_ratio for place, one in served.items()}),
        ttft_p95_seconds=_sparse(count, {p: q.lower if q.state == "beyond" else q.value for p, q in ttft.items()}),
        endpoint_up=_sparse(count, {place: float(one.up) for place, one in served.items()}),
        idle_gpus=_sparse(count, {place: one.gpus for place, one in idle.items()}),
        idle_seconds=_sparse(count, {place: one.seconds for place, one in idle.items()}),
    )  # fmt: skip
    found: dict[int, Judgement] = {}
    for place in np.flatnonzero(containers_in_trouble(columns, limits)).tolist():
        slow, still, asked = ttft.get(place), idle.get(place), served.get(place)
        exit_code = _or_none(columns.exit_code[place])
        found[place] = judge_container(
            ContainerFacts(
                state=columns.state[place], health=columns.health[place],
                exit_code=None if exit_code is None else int(exit_code), error=columns.error[place],
                age_seconds=_or_none(ages[place]), interval_seconds=float(columns.interval_seconds[place]),
                restarts=int(columns.restarts[place]), oom_kills=int(columns.oom_kills[place]),
                memory_ratio=_or_none(memory[place]), throttled_ratio=_or_none(columns.throttled_ratio[place]),
                error_ratio=asked.error_ratio if asked else None,
                ttft_p95_seconds=_or_none(columns.ttft_p95_seconds[place]),
                ttft_at_least=slow is not None and slow.state == "beyond", endpoint_up=asked.up if asked else None,
                idle_gpus=still.gpus if still else 0, idle_seconds=still.seconds if still else None,
                idle_peak_ratio=still.peak_ratio if still else None,
            ),
            limits,
        )  # fmt: skip
    return found


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _known_since(place: int, rule: str, idle: Mapping[int, Idleness], facts: pa.Table) -> datetime | None:
    """Since when, where no question is needed to tell."""
    if rule == "idle" and place in idle:
        return idle[place].since
    return facts["finished_at"][place].as_py() if rule == "state" else None
