"""What the GPU job ledger tells an allocation: who held which device, whose it was, and when nobody looked.

The ledger and not the samples says who held a GPU: its times are those of the daemon, so a collector that was down for
an hour leaves a gap in the readings and none in who holds what.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from fleet.cost_facts import Blind, Hold, Tenancy
from fleet.cost_intervals import Span
from fleet.gpu_jobs import GAP, fold
from fleet.model import GpuJob

#: How the ledger marks a job that uses devices which its container was not given.
NOT_DECLARED = "used, not declared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The ledger's part of `Facts`."""

    holds: tuple[Hold, ...]
    tenancies: tuple[Tenancy, ...]
    blind: tuple[Blind, ...]


def from_ledger(entries: Iterable[GpuJob], *, now: datetime) -> Held:
    """Holds, tenants and blind spans from ledger entries; a job that still runs holds until `now`.

    A job that uses devices without having been given them holds nothing: its work is in the readings, its tenant here.
    Where two jobs of one container name two tenants at a time, the one that started later counts. Needs every entry
    whose span touches the window; one of a job is enough.
    """
    found = list(entries)
    holds: list[Hold] = []
    owners: dict[str, list[tuple[Span, str, str]]] = defaultdict(list)
    for job in fold(found):
        row = job.row
        span = Span.of(row.started_at, max(row.started_at, row.ended_at or now))
        if not row.sources.get("gpu_uuids", "").startswith(NOT_DECLARED):
            holds += [Hold(span=span, gpu_uuid=uuid, container=row.container_key) for uuid in row.gpu_uuids]
        owners[row.container_key].append((span, row.tenant, row.team))
    blind = [
        Blind(span=Span.of(row.started_at, max(row.started_at, row.ended_at)), host=row.host)
        for row in found
        if row.entry == GAP and row.ended_at is not None
    ]
    return Held(
        holds=tuple(holds),
        tenancies=tuple(one for name, spans in sorted(owners.items()) for one in _tenancies(name, spans)),
        blind=tuple(blind),
    )


def _tenancies(container: str, spans: list[tuple[Span, str, str]]) -> list[Tenancy]:
    """Tenants one after the other. A job that goes on after a shorter one within it takes its container back."""
    edges = sorted({edge for span, _, _ in spans for edge in (span.start, span.end)})
    found: list[Tenancy] = []
    for start, end in pairwise(edges):
        holding = [one for one in spans if one[0].start <= start and end <= one[0].end]
        if not holding:
            continue
        _, tenant, team = max(holding, key=lambda one: (one[0].start, one[0].end, one[1], one[2]))
        last = found[-1] if found else None
        if last is not None and (last.span.end, last.tenant, last.team) == (start, tenant, team):
            found[-1] = Tenancy(span=Span(last.span.start, end), container=container, tenant=tenant, team=team)
        else:
            found.append(Tenancy(span=Span(start, end), container=container, tenant=tenant, team=team))
    return found
