"""The allocation of a GPU bill: who held, used, or left idle which part of it, and what nobody can answer for.

The bill of a device is its price over the time that it was there, whoever did what on it. It is cut wherever a price, a
holder, a tenant, a reading or the site's day changes; each piece is one sum of shares that make up the whole device.
So parts add up to the bill by construction, and `allocate` counts the bill a second time, without pieces, to show it.

Kinds of rows (docs/cost-cases.md says each in plain words):
used            a container worked on it
held_idle       one container held it and did not work
shared_idle     several held it and did not work
held_unknown    held, and its work could not be read (MIG, an old driver): never counted as idle
unallocated     nobody held it
unattributed    something worked on it that is no known container
data_gap        nobody looked for longer than a reading is carried
credit          money given back, below 0
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Literal

from fleet.cost_facts import NOT_READ, Credit, Device, Facts, Split, by_device, check
from fleet.cost_intervals import Span, Timeline, merged, site_days, sweep
from fleet.cost_shares import Part, Piece, Rules, shares
from fleet.model import UNASSIGNED
from fleet.money import ATOMS_PER_MICRO, SHARE, half_even, round_together
from fleet.price_book import Price

Kind = Literal[
    "used", "held_idle", "shared_idle", "held_unknown", "unallocated", "unattributed", "data_gap", "credit"
]  # fmt: skip
KINDS: tuple[Kind, ...] = (
    "used", "held_idle", "shared_idle", "held_unknown", "unallocated", "unattributed", "data_gap", "credit",
)  # fmt: skip


# --- what comes of it ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A part of a device's bill on one day of the site.

    tenant, team: who is charged, "" = nobody. container: who held or used it, "" = nobody known. estimated: split or
    carried by a rule, not read. listed: by a list price that nobody set. gpu_time: microseconds times parts of the
    device, out of `SHARE`; size: the device's parts of a GPU, less than `SHARE` for a MIG device.
    micros: micro-units of the currency; None and no currency = no price.
    """

    day: date
    host: str
    gpu_uuid: str
    container: str
    tenant: str
    team: str
    kind: Kind
    estimated: bool = False
    listed: bool = False
    gpu_time: int = 0
    size: int = SHARE
    atoms: int = 0
    micros: int | None = None
    currency: str = ""
    note: str = ""

    @property
    def gpu_seconds(self) -> Decimal:
        """GPU-seconds, a MIG device by its share."""
        return Decimal(self.gpu_time * self.size) / (SHARE * SHARE * 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """Rows and the bill they make up, by currency, in micro-units.

    bill: of the devices, counted without the rows, every device's day rounded once. credits: below 0, not in the bill.
    unpriced_seconds: GPU-seconds without a price, about which the bill says nothing. coverage: share of the devices'
    time that somebody looked at (None: there was no time).
    """

    rows: tuple[Row, ...]
    bill: Mapping[str, int]
    credits: Mapping[str, int] = field(default_factory=dict[str, int])
    unpriced_seconds: Decimal = Decimal(0)
    coverage: Decimal | None = None

    def parts(self, currency: str) -> dict[Kind, int]:
        """Micro-units by kind, all kinds, in the order of `KINDS`."""
        found: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        for row in self.rows:
            if row.currency == currency and row.micros is not None:
                found[row.kind] += row.micros
        return found

    @property
    def currencies(self) -> tuple[str, ...]:
        """Those of the bill and the credits."""
        return tuple(sorted({*self.bill, *self.credits}))

    def difference(self, currency: str) -> int:
        """Rows minus bill and credits, in micro-units: 0, or this is wrong."""
        due = self.bill.get(currency, 0) + self.credits.get(currency, 0)
        return sum(self.parts(currency).values()) - due


# --- the allocation -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """What a row is about, with the price that holds; a feed that knows its times can be made of these."""

    day: date
    host: str
    gpu_uuid: str
    container: str
    tenant: str
    team: str
    kind: Kind
    estimated: bool
    price: Price | None
    size: int = SHARE


def allocate(facts: Facts, rules: Rules | None = None) -> Allocation:
    """Who answers for which part of the bill. Raises CostError and IntervalError for facts that cannot be."""
    used = rules or Rules()
    check(facts)
    days = site_days(facts.window, facts.zone)
    lines = by_device(facts, used.carry_microseconds)
    times: dict[Line, int] = defaultdict(int)
    for device in facts.devices:
        timelines: dict[tuple[str, str], Timeline[object]] = {("day", ""): days, ("price", ""): device.prices}  # type: ignore[dict-item]
        timelines["present", ""] = Timeline((span, True) for span in merged(device.present))
        timelines |= lines[device.gpu_uuid]
        for span, holding in sweep(facts.window, timelines):
            if ("present", "") in holding:
                _add(times, device, span, holding, used)
    return settle(times, _bills(facts, days), facts.credits)


def settle(
    times: Mapping[Line, int], bills: Mapping[tuple[date, str, str], int], credits: Iterable[Credit] = ()
) -> Allocation:
    """Rows of money from times by line (microseconds times parts of `SHARE`).

    bills: by day, device and currency, in atoms, counted apart. Rounded once for a device's day, so every sum of rows,
    by tenant, team or month, adds up without rounding again.
    """
    groups: dict[tuple[date, str, str], dict[tuple[object, ...], list[int]]] = defaultdict(dict)
    for line, time in times.items():
        price = line.price
        currency = "" if price is None else price.currency
        key = (
            line.container, line.kind, line.estimated, price is not None and price.listed, line.host, line.tenant,
            line.team, line.size,
        )  # fmt: skip
        sums = groups[line.day, line.gpu_uuid, currency].setdefault(key, [0, 0])
        sums[0] += time
        sums[1] += 0 if price is None else time * price.micros_per_hour
    rows: list[Row] = []
    for (day, gpu_uuid, currency), found in sorted(groups.items()):
        # Names of tenants come last in the order, so that who gets the odd micro-unit does not hang on a name.
        keys = sorted(found, key=lambda key: tuple(str(part) for part in key))
        micros = round_together([found[key][1] for key in keys]) if currency else [None] * len(keys)
        for key, amount in zip(keys, micros, strict=True):
            container, kind, estimated, listed, host, tenant, team, size = key
            rows.append(
                Row(
                    day=day,
                    gpu_uuid=gpu_uuid,
                    currency=currency,
                    container=str(container),
                    kind=kind,  # type: ignore[arg-type]
                    estimated=bool(estimated),
                    listed=bool(listed),
                    host=str(host),
                    tenant=str(tenant),
                    team=str(team),
                    gpu_time=found[key][0],
                    size=int(str(size)),
                    atoms=found[key][1],
                    micros=amount,
                )
            )
    given = sorted(credits, key=lambda one: (one.day, one.tenant, one.reason, one.micros))
    rows += [_credited(one) for one in given]
    bill: dict[str, int] = defaultdict(int)
    for (_, _, currency), atoms in bills.items():
        bill[currency] += half_even(atoms, ATOMS_PER_MICRO)
    returned: dict[str, int] = defaultdict(int)
    for one in given:
        returned[one.currency] += one.micros
    whole = sum(time * line.size for line, time in times.items())
    gap = sum(time * line.size for line, time in times.items() if line.kind == "data_gap")
    return Allocation(
        rows=tuple(rows),
        bill=dict(bill),
        credits=dict(returned),
        unpriced_seconds=sum((row.gpu_seconds for row in rows if row.micros is None), Decimal(0)),
        coverage=1 - Decimal(gap) / Decimal(whole) if whole else None,
    )


def _credited(one: Credit) -> Row:
    return Row(
        day=one.day, host="", gpu_uuid="", container="", tenant=one.tenant, team=one.team, kind="credit",
        atoms=one.micros * ATOMS_PER_MICRO, micros=one.micros, currency=one.currency, note=one.reason,
    )  # fmt: skip


def _bills(facts: Facts, days: Timeline[date]) -> dict[tuple[date, str, str], int]:
    """Price times time, whoever did what: the other side of the check."""
    found: dict[tuple[date, str, str], int] = defaultdict(int)
    for device in facts.devices:
        for present in merged(device.present):
            for span, price in device.prices.clipped(present.within(facts.window)).entries:
                for day_span, day in days.entries:
                    atoms = price.micros_per_hour * span.within(day_span).length * SHARE
                    if atoms:
                        found[day, device.gpu_uuid, price.currency] += atoms
    return found


def _add(
    times: dict[Line, int], device: Device, span: Span, holding: Mapping[tuple[str, str], object], rules: Rules
) -> None:
    holders: dict[str, int] = {}
    ratios: dict[str, int | None] = {}
    for (what, name), value in holding.items():
        if what == "hold" and isinstance(value, int):
            holders[name] = value
        elif what == "busy":
            ratios[name] = _known(value)
    piece = Piece(
        holders=holders,
        ratios=ratios,
        device=_known(holding.get(("device", ""))),
        observed=not device.watched or bool(ratios) or ("device", "") in holding,
        holders_known=("blind", "") not in holding,
    )
    price = holding.get(("price", ""))
    day = holding["day", ""]
    for part in shares(piece, rules):
        for tenant, team, parts, estimated in _tenants(part, holding, rules):
            line = Line(
                day, device.host, device.gpu_uuid, part.container, tenant, team, part.kind,  # type: ignore[arg-type]
                part.estimated or estimated, price, device.size,  # type: ignore[arg-type]
            )  # fmt: skip
            times[line] += span.length * parts


def _known(value: object) -> int | None:
    return value if isinstance(value, int) and value != NOT_READ else None


def _tenants(
    part: Part, holding: Mapping[tuple[str, str], object], rules: Rules
) -> Iterable[tuple[str, str, int, bool]]:
    """Who is charged for a part: nobody, the container's tenant, or those whom it served."""
    if not part.charged:
        return (("", "", part.parts, False),)
    served: object = holding.get(("served", part.container)) if rules.basis == "tokens" else None
    if isinstance(served, Split):
        return served.of(part.parts)
    owner = holding.get(("tenant", part.container))
    tenant, team = owner if isinstance(owner, tuple) else (UNASSIGNED, "")  # type: ignore[misc]
    return ((str(tenant), str(team), part.parts, False),)
