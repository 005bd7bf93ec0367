"""Every stored percentile held against the exact one of the same requests: `python -m tests.queries.trace_latency`.

Arrivals and lengths are 1,200 requests of the Azure LLM inference trace (tests/recorded/README.md), stretched over
eleven hours and taken eight times; the durations are an invented, seeded model, because the trace has none. Five
servers sort them into the bucket ladders that they really have, poll by poll, and the store answers; beside it the raw
durations are sorted.
"""

from __future__ import annotations

import csv
import math
import re
import sys
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from fleet.exposition import Exposition
from fleet.model import Batch, Histogram, InferenceSample, Row, Scope, Window
from queries.latency import FIELDS, GROUPS, QUANTILES, latency_series, latency_table
from queries.resolution import resolution
from store import Store

RECORDED = Path(__file__).resolve().parents[1] / "recorded"
TRACE = RECORDED / "azure_llm_conv_2023_first_1200.csv"
EVERYONE = Scope(tenants=None)
END = datetime(2026, 11, 21, 15, 0, tzinfo=UTC)
HOURS, POLL_SECONDS, ROUNDS = 11, 60.0, 8
#: Polls are stamped half a minute past the minute, so that samples and rollups cut a window at the same request.
FIRST_POLL = END - timedelta(hours=HOURS) + timedelta(seconds=30)
WINDOWS = {
    "30 min": timedelta(minutes=30),
    "5 h": timedelta(hours=5),
    "9 h 30 min": timedelta(hours=9, minutes=30),
    "11 h": timedelta(hours=11),
}


def ladder(recording: str, metric: str) -> tuple[float, ...]:
    """The bounds of a histogram in a recorded exposition text."""
    text = (RECORDED / recording).read_text(encoding="utf-8")
    samples = Exposition().samples(text.splitlines())
    return tuple(sorted({float(one.labels["le"]) for one in samples if one.name == f"{metric}_bucket"}))


#: TGI: 35 bounds from 0.15 ms on, each 1.5 times the one before (router/src/server.rs).
TGI = (*(0.0001 * 1.5**power for power in range(1, 36)), math.inf)
VLLM, SGLANG = "vllm_0.33_synth_from_source.prom", "sglang_docs_llama31-8b_overloaded.prom"
LITELLM, FASTAPI = "litellm_1.109.1_selfrun_mock.prom", "fastapi_instrumentator_summary_selfrun.prom"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One container: who it serves, and the ladder of each duration that it measures."""

    key: str
    tenant: str
    server: str
    model: str
    ladders: Mapping[str, tuple[float, ...]]
    role: str = "server"


def servers() -> tuple[Server, ...]:
    """Five servers with five families of ladders."""
    return (
        Server(
            key="h:vllm", tenant="acme", server="vllm", model="llama",
            ladders={
                "ttft_seconds": ladder(VLLM, "vllm:time_to_first_token_seconds"),
                "itl_seconds": ladder(VLLM, "vllm:inter_token_latency_seconds"),
                "e2e_seconds": ladder(VLLM, "vllm:e2e_request_latency_seconds"),
            },
        ),
        Server(
            key="h:sglang", tenant="beta", server="sglang", model="llama",
            ladders={
                "ttft_seconds": ladder(SGLANG, "sglang:time_to_first_token_seconds"),
                "itl_seconds": ladder(SGLANG, "sglang:time_per_output_token_seconds"),
                "e2e_seconds": ladder(SGLANG, "sglang:e2e_request_latency_seconds"),
            },
        ),
        Server(
            key="h:tgi", tenant="acme", server="tgi", model="phi", ladders={"itl_seconds": TGI, "e2e_seconds": TGI}
        ),
        Server(
            key="h:fastapi", tenant="beta", server="fastapi", model="bge",
            ladders={"e2e_seconds": ladder(FASTAPI, "http_request_duration_highr_seconds")},
        ),
        Server(
            key="h:litellm", tenant="corp", server="litellm", model="llama", role="gateway",
            ladders={
                "ttft_seconds": ladder(LITELLM, "litellm_llm_api_time_to_first_token_metric"),
                "e2e_seconds": ladder(LITELLM, "litellm_request_total_latency_metric"),
            },
        ),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One duration of one request, and the poll that read it."""

    poll: int
    server: Server
    field: str
    seconds: float

    @property
    def at(self) -> datetime:
        """Stamp of the poll."""
        return FIRST_POLL + timedelta(seconds=self.poll * POLL_SECONDS)


def observations(seed: int = 7) -> list[Observation]:
    """All durations of all requests."""
    noise = np.random.default_rng(seed)
    with TRACE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    moments = [datetime.fromisoformat(re.sub(r"(\.\d{6})\d", r"\1", row["TIMESTAMP"])) for row in rows]
    stretch = HOURS * 3600.0 / ((moments[-1] - moments[0]).total_seconds() * 1.0001)
    found: list[Observation] = []
    everyone = servers()
    for row, moment in [*zip(rows, moments, strict=True)] * ROUNDS:
        poll = int((moment - moments[0]).total_seconds() * stretch // POLL_SECONDS)
        server = everyone[int(noise.integers(len(everyone)))]
        first = float((0.02 + int(row["ContextTokens"]) / 6000.0) * noise.lognormal(0.0, 0.9))
        gap = float(0.025 * noise.lognormal(0.0, 0.4))
        durations = {
            "ttft_seconds": first,
            "itl_seconds": gap,
            "e2e_seconds": first + gap * int(row["GeneratedTokens"]),
        }
        found += [
            Observation(poll=poll, server=server, field=field, seconds=durations[field]) for field in server.ladders
        ]
    return found


def rows_of(found: Sequence[Observation]) -> Iterator[Row]:
    """What a collector stores of them: increments of buckets, poll by poll."""
    read: dict[tuple[int, str, str], list[Observation]] = {}
    for one in found:
        read.setdefault((one.poll, one.server.key, one.field), []).append(one)
    for some in read.values():
        server, field = some[0].server, some[0].field
        bounds = server.ladders[field]
        increments = [0.0] * len(bounds)
        for one in some:
            increments[bisect_left(bounds, one.seconds)] += 1.0
        who = {"at": some[0].at, "host": "h", "tenant": server.tenant, "container_key": server.key,
               "container_id": server.key, "endpoint": server.key, "server": server.server, "model": server.model,
               "interval_seconds": POLL_SECONDS, "role": server.role}  # fmt: skip
        yield Histogram(
            **who, field=field, bounds=bounds, increments=tuple(increments),
            sum_increment=math.fsum(one.seconds for one in some),
        )  # fmt: skip
        if field == "e2e_seconds":
            yield InferenceSample(**who, prometheus="p", up=True, requests=float(len(some)), errors=0.0)


def plant(store: Store, found: Sequence[Observation]) -> None:
    """Store them, as the collector would have."""
    store.append(Batch(token="trace", rows=tuple(rows_of(found))))


def exact(values: Sequence[float], q: float) -> float:
    """The smallest value with at least a share q of all at or below it."""
    return sorted(values)[max(0, math.ceil(q * len(values) - 1e-9) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One stored percentile and the exact one; exact None = there was nothing."""

    window: str
    group: str
    field: str
    q: str
    count: int
    stored_count: float
    exact: float | None
    state: str
    lower: float | None
    upper: float | None

    @property
    def right(self) -> bool:
        """The interval holds the exact value, or the word is the right one; and nothing was lost or counted twice."""
        if self.stored_count != self.count:
            return False
        if self.state == "too_few":
            return 0 < self.count < 100
        if self.state in {"no_traffic", "not_measured"}:
            return self.count == 0
        if self.exact is None or self.lower is None:
            return self.state == "beyond" and self.exact is not None  # one shared bound: +Inf
        return self.lower < self.exact <= (math.inf if self.upper is None else self.upper)

    def line(self) -> str:
        """A row of the printed table."""
        upper = "+Inf" if self.upper is None else f"{self.upper:g}"
        interval = "" if self.lower is None else f"({self.lower:g}, {upper}]"
        value = "" if self.exact is None else f"{self.exact:.4f}"
        return (
            f"{self.window:<11}{self.group:<34}{self.field.removesuffix('_seconds'):<6}{self.q:<5}{self.count:>5}"
            f"{value:>10}  {interval:<18}{self.state:<18}{'yes' if self.right else 'NO'}"
        )


HEAD = f"{'window':<11}{'group':<34}{'what':<6}{'q':<5}{'n':>5}{'exact':>10}  {'interval':<18}{'state':<18}inside"


def cases(store: Store, found: Sequence[Observation]) -> Iterator[Case]:
    """Every percentile of every window and grouping."""
    for word, span in WINDOWS.items():
        window = Window(start=END - span, end=END)
        inside = [one for one in found if window.start < one.at <= window.end]
        for by, names in GROUPS.items():
            for row in latency_table(store, EVERYONE, window, by=by).rows.to_pylist():
                group = {name: row[name] for name in names}
                mine = [one for one in inside if all(_of(one, name) == value for name, value in group.items())]
                label = " ".join(str(value) for value in group.values())
                yield from _row_cases(row, mine, word, f"{by}: {label}")


def _of(one: Observation, name: str) -> str:
    return str(getattr(one.server, "key" if name == "container_key" else name))


def _row_cases(row: Mapping[str, object], mine: Sequence[Observation], window: str, group: str) -> Iterator[Case]:
    for field in FIELDS:
        values = [one.seconds for one in mine if one.field == field]
        short = field.removesuffix("_seconds")
        for q, word in QUANTILES:
            yield Case(
                window=window, group=group, field=field, q=word, count=len(values),
                stored_count=float(row[f"{short}_count"] or 0.0), exact=exact(values, q) if values else None,
                state=str(row[f"{short}_{word}_state"]), lower=row[f"{short}_{word}_lower"],
                upper=row[f"{short}_{word}_upper"],
            )  # fmt: skip


def series_cases(store: Store, found: Sequence[Observation]) -> Iterator[Case]:
    """Every point of the p95 over time, from samples, minutes and hours."""
    for word, span in {"5 h": timedelta(hours=5), "20 h": timedelta(hours=20), "16 d": timedelta(days=16)}.items():
        window = Window(start=END - span, end=END)
        tier = resolution(window, finest_seconds=60)
        for field in ("e2e_seconds", "ttft_seconds"):
            values: dict[int, list[float]] = {}
            for one in found:
                if one.field == field and one.server.role == "server" and one.server.model == "llama":
                    values.setdefault(int(one.at.timestamp()) // tier.step_seconds, []).append(one.seconds)
            for row in latency_series(store, EVERYONE, window, field=field, model="llama").rows.to_pylist():
                mine = values.get(int(row["t"] / 1000) // tier.step_seconds, [])
                if row["p95_lower"] is not None or row["count"] is not None:
                    yield Case(
                        window=word, group=f"point of {tier.suffix or 'samples'}", field=field, q="p95",
                        count=len(mine), stored_count=row["count"], exact=exact(mine, 0.95),
                        state="too_few" if row["p95_lower"] is None else "ok", lower=row["p95_lower"],
                        upper=row["p95_upper"],
                    )  # fmt: skip


def main() -> int:
    """Print the table; exit status 1 when any interval misses the exact value."""
    from tests.store.stores import embedded_store  # opens the engine

    found = observations()
    with embedded_store() as store:
        plant(store, found)
        table, points = list(cases(store, found)), list(series_cases(store, found))
    sys.stdout.write(HEAD + "\n" + "".join(f"{case.line()}\n" for case in table))
    wrong = [case for case in (*table, *points) if not case.right]
    sys.stdout.write(
        f"\n{len(table)} percentiles and {len(points)} points of series of {len(found)} durations:"
        f" {len(table) + len(points) - len(wrong)} right, {len(wrong)} wrong\n"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
