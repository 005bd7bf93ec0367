"""From rows to accounts: what each tenant owes, what stays with nobody, and the line that shows that it adds up.

Spreading what nobody held over tenants is done here, once for a whole period, and not in the allocation: shares of idle
time by cost depend on how long one looks, so two half months would not add up to the month.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from fleet.cost import KINDS, Allocation, Kind, Row
from fleet.money import apportion

Spread = Literal["apart", "by_cost", "evenly"]
SPREADS: tuple[Spread, ...] = ("apart", "by_cost", "evenly")
#: Kinds that may be spread. What is not known to be idle (unattributed, data gap) is never anybody's.
IDLE: frozenset[Kind] = frozenset({"held_idle", "shared_idle", "unallocated"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A tenant's part of a bill in one currency, in micro-units.

    kinds: its own rows by kind, which add up to `own`. idle_share: its share of what nobody held, where that is
    spread. estimated: part of it was split or carried by a rule. listed: part of it by a price that nobody set.
    """

    tenant: str
    teams: tuple[str, ...]
    kinds: dict[Kind, int]
    own: int
    idle_share: int
    gpu_seconds: Decimal
    estimated: bool
    listed: bool

    @property
    def total(self) -> int:
        """Own and idle share."""
        return self.own + self.idle_share


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """A bill in one currency by tenant. apart: by kind what no tenant is charged, after the spread."""

    currency: str
    accounts: tuple[Account, ...]
    apart: dict[Kind, int]
    bill: int
    credits: int

    @property
    def difference(self) -> int:
        """Accounts and what stays apart, minus bill and credits: 0, or this is wrong."""
        return sum(one.total for one in self.accounts) + sum(self.apart.values()) - self.bill - self.credits


def accounts(allocation: Allocation, currency: str, *, spread: Spread = "apart") -> Accounts:
    """The bill by tenant, the greatest first."""
    rows = [row for row in allocation.rows if row.currency == currency and row.micros is not None]
    apart = _kinds(row for row in rows if not row.tenant)
    by_tenant: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.tenant:
            by_tenant[row.tenant].append(row)
    own = {tenant: sum(row.micros or 0 for row in found) for tenant, found in by_tenant.items()}
    # Who was only given money back held nothing, and gets no share of what others left idle.
    held = sorted(tenant for tenant, found in by_tenant.items() if any(row.kind != "credit" for row in found))
    shares: dict[str, int] = {}
    if spread != "apart" and held:
        pot = sum(apart[kind] for kind in IDLE)
        weights = [
            1 if spread == "evenly" else sum(row.micros or 0 for row in by_tenant[tenant] if row.kind != "credit")
            for tenant in held
        ]
        shares = dict(zip(held, apportion(pot, weights), strict=True))
        apart |= dict.fromkeys(IDLE, 0)
    found = [
        Account(
            tenant=tenant,
            teams=tuple(sorted({row.team for row in ones if row.team})),
            kinds=_kinds(ones),
            own=own[tenant],
            idle_share=shares.get(tenant, 0),
            gpu_seconds=sum((row.gpu_seconds for row in ones), Decimal(0)),
            estimated=any(row.estimated for row in ones),
            listed=any(row.listed for row in ones),
        )
        for tenant, ones in by_tenant.items()
    ]
    return Accounts(
        currency=currency,
        accounts=tuple(sorted(found, key=lambda one: (-one.total, one.tenant))),
        apart=apart,
        bill=allocation.bill.get(currency, 0),
        credits=allocation.credits.get(currency, 0),
    )


def _kinds(rows: Iterable[Row]) -> dict[Kind, int]:
    found: dict[Kind, int] = dict.fromkeys(KINDS, 0)
    for row in rows:
        found[row.kind] += row.micros or 0
    return found
