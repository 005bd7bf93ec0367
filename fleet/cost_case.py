"""A described case (docs/cost-cases.md): GPUs, prices, holders, tenants, readings, tokens; and what it comes to.

Computed by the product's own engine, so that finance can check a bill by hand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from decimal import Decimal
from typing import cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fleet.case_values import CaseError, Table, read_json, shown
from fleet.cost import Allocation, allocate
from fleet.cost_accounts import SPREADS, Spread
from fleet.cost_facts import Activity, Blind, CostError, Credit, Device, Facts, Hold, Served, Tenancy
from fleet.cost_intervals import IntervalError, Span, Timeline
from fleet.cost_shares import Basis, GapRule, Rules, Sharing
from fleet.increase import IncreaseTracker
from fleet.model import UNATTRIBUTED
from fleet.money import SHARE, apportion, micros_of
from fleet.price_book import MIG_RULES, MigRule, Price, PriceBook, PriceError, divided, mig_weights
from fleet.price_file import Energy
from fleet.token_cost import TokenError, Traffic, token_weight

_CASE = frozenset(
    {"title", "time_zone", "from", "to", "currency", "rules", "energy"}
    | {"gpus", "holds", "tenants", "readings", "tokens", "credits", "blind"}
)
_RULES = frozenset({"basis", "sharing", "gap", "spread", "mig", "carry_seconds", "output_weight"})
_GPU = frozenset(
    {"id", "name", "host", "price_per_hour", "prices", "currency", "from", "to", "watched"}
    | {"mig", "compute_slices", "memory_gb"}
)
_SPAN = frozenset({"from", "to"})
_NOBODY = "nobody"
#: A year by the day is tens of thousands of rows; more is a slip in a year's digits.
_LONGEST_DAYS = 800


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Tokens of one server for one tenant ("" = not told)."""

    container: str
    tenant: str
    traffic: Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A case that was read: facts, rules and what is reported beside the money."""

    title: str
    facts: Facts
    rules: Rules
    spread: Spread
    mig_rule: MigRule
    output_weight: Decimal
    energy: Energy
    joules: dict[str, Decimal] = field(default_factory=dict[str, Decimal])  # by container
    uses: tuple[Use, ...] = ()
    prices: tuple[tuple[str, Span, Price], ...] = ()  # by GPU id
    book_version: str = ""
    notes: tuple[str, ...] = ()


def compute(case: Case) -> Allocation:
    """The allocation of a case. Raises CaseError."""
    try:
        return allocate(case.facts, case.rules)
    except (CostError, IntervalError) as error:
        raise CaseError(str(error)) from error


def load_case(text: str, book: PriceBook | None = None, energy: Energy | None = None) -> Case:
    """The case written as JSON. book: for GPUs without a price of their own. Raises CaseError for the first mistake."""
    try:
        return _Reader(Table(read_json(text), "case", _CASE), book or PriceBook(), energy or Energy()).case()
    except (PriceError, IntervalError, TokenError) as error:
        raise CaseError(str(error)) from error


class _Reader:
    def __init__(self, table: Table, book: PriceBook, energy: Energy) -> None:
        self._table, self._book = table, book
        self._zone = _zone(table)
        self._window = table.span(self._zone)
        if not self._window.length:
            raise CaseError(f"to: found {shown(table.raw('to'))}, which is `from`; write a later time")
        if self._window.length > _LONGEST_DAYS * 86_400_000_000:
            table.wrong("to", f"write a window of at most {_LONGEST_DAYS} days")
        self._currency = _code(table, "USD")
        rules = table.table("rules", _RULES)
        self._mig_rule: MigRule = rules.choice("mig", MIG_RULES)
        self._spread: Spread = rules.choice("spread", SPREADS)
        self._output_weight = rules.number("output_weight", Decimal(4))
        if not self._output_weight:
            rules.wrong("output_weight", "write a number above 0, like 4")
        carry = rules.number("carry_seconds", Decimal(300))
        self._rules = Rules(
            basis=cast("Basis", rules.choice("basis", ("allocation", "usage", "tokens"))),
            sharing=cast("Sharing", rules.choice("sharing", ("equal", "usage"))),
            gap=cast("GapRule", rules.choice("gap", ("apart", "holder"))),
            carry_microseconds=int(carry * 1_000_000),
        )
        self._default_energy = energy
        self._notes: list[str] = []
        self._prices: list[tuple[str, Span, Price]] = []
        self._gpus: set[str] = set()
        self._containers: set[str] = set()
        self._from_book = False

    def case(self) -> Case:
        devices = self._devices()
        holds = self._holds()
        activities = self._readings()
        tenancies = self._tenancies()
        served, uses = self._tokens()
        energy, joules = self._energy()
        read = {one.gpu_uuid for one in activities}
        facts = Facts(
            window=self._window,
            zone=self._zone,
            devices=[self._watched(device, told, read) for device, told in devices],
            holds=holds,
            tenancies=tenancies,
            activities=activities,
            served=served,
            blind=[
                Blind(span=one.span(self._zone, self._window), host=one.text("host", ""))
                for one in self._table.tables("blind", _SPAN | {"host"})
            ],
            credits=list(self._credits()),
        )
        return Case(
            title=self._table.text("title", ""), facts=facts, rules=self._rules, spread=self._spread,
            mig_rule=self._mig_rule, output_weight=self._output_weight, energy=energy, joules=joules, uses=uses,
            prices=tuple(self._prices), notes=tuple(self._notes),
            book_version=self._book.version(self._window) if self._from_book else "",
        )  # fmt: skip

    # --- GPUs and prices ---

    def _devices(self) -> list[tuple[Device, bool | None]]:
        found: list[tuple[Device, bool | None]] = []
        for one in self._table.tables("gpus", _GPU):
            told = one.truth("watched", True) if "watched" in one else None
            host, name = one.text("host", ""), one.text("name", "")
            whole = Device(
                gpu_uuid=self._new_id(one), host=host, name=name, prices=self._timeline(one, name, host),
                present=(one.span(self._zone, self._window),),
            )  # fmt: skip
            self._prices += [(whole.gpu_uuid, span, price) for span, price in whole.prices.entries]
            found += [(device, told) for device in self._cut(one, whole)] if "mig" in one else [(whole, told)]
        if not found:
            self._table.wrong("gpus", 'write at least one GPU, like {"id": "gpu-0", "price_per_hour": 2.00}')
        return found

    def _new_id(self, one: Table) -> str:
        found = one.text("id", example="gpu-0")
        if found in self._gpus:
            one.wrong("id", "is taken by another GPU; write one of its own")
        self._gpus.add(found)
        return found

    def _timeline(self, one: Table, name: str, host: str) -> Timeline[Price]:
        currency = _code(one, self._currency)
        if "price_per_hour" in one and "prices" in one:
            one.wrong("prices", "write either price_per_hour or prices")
        if "price_per_hour" in one:
            price = self._price(one, "price_per_hour", currency)
            return Timeline([(self._window, price)])
        if "prices" in one:
            return Timeline(
                (
                    (entry.span(self._zone, self._window), self._price(entry, "per_hour", currency))
                    for entry in one.tables("prices", _SPAN | {"per_hour", "currency"})
                ),
                what=f"{one.at('prices')}:",
            )
        if not name:
            self._notes.append(
                f"GPU {shown(one.raw('id'))}: no price; write price_per_hour, prices or its product name"
            )
            return Timeline()
        found = self._book.timeline(name, self._window, host=host)
        self._from_book = True
        marks = sorted({price.mark for _, price in found.entries if price.mark})
        if not found.entries:
            self._notes.append(f"GPU {shown(one.raw('id'))}: no price is known for {shown(name)}; write price_per_hour")
        self._notes += [f"GPU {shown(one.raw('id'))} ({name}): {mark}" for mark in marks]
        return found

    def _price(self, one: Table, key: str, currency: str) -> Price:
        return Price(
            micros_per_hour=micros_of(one.number(key)), currency=_code(one, currency), source="set in the case"
        )

    def _cut(self, one: Table, whole: Device) -> list[Device]:
        slices = [(self._new_id(entry), entry.text("profile", example="1g.10gb"))
                  for entry in one.tables("mig", frozenset({"id", "profile"}))]  # fmt: skip
        try:
            weights = mig_weights(
                [profile for _, profile in slices], self._mig_rule,
                compute_slices=one.whole("compute_slices", 7, least=1), memory_gb=one.whole("memory_gb", 0),
            )  # fmt: skip
        except PriceError as error:
            raise CaseError(f"{one.at('mig')}: {error}") from error
        names = [name for name, _ in slices] + [f"{whole.gpu_uuid} (not cut)"]
        sizes = apportion(SHARE, weights)
        parts = [
            replace(whole, gpu_uuid=name, prices=prices, size=size)
            for name, prices, size in zip(names, divided(whole.prices, weights), sizes, strict=True)
        ]
        return [part for part in parts if part.size]

    def _watched(self, device: Device, told: bool | None, read: set[str]) -> Device:
        rest = device.gpu_uuid not in self._gpus
        watched = not rest and (device.gpu_uuid in read if told is None else told)
        if not watched and not rest and device.gpu_uuid not in read:
            self._notes.append(f"GPU {shown(device.gpu_uuid)}: no readings, so its holders are taken as told")
        return replace(device, watched=watched)

    # --- holders, tenants, readings ---

    def _gpu(self, one: Table, key: str = "gpu") -> str:
        found = one.text(key, example="gpu-0")
        if found not in self._gpus:
            one.wrong(key, f"write the id of one of the gpus: {', '.join(sorted(self._gpus))[:200]}")
        return found

    def _holds(self) -> list[Hold]:
        found: list[Hold] = []
        for one in self._table.tables("holds", _SPAN | {"container", "gpu", "gpus", "weight"}):
            if ("gpu" in one) == ("gpus" in one):
                one.wrong("gpu", "write either gpu or gpus")
            span, container = one.span(self._zone, self._window), one.text("container", example="llm-chat")
            names = one.raw("gpus") if "gpus" in one else [self._gpu(one)]
            if not isinstance(names, list) or not names:
                one.wrong("gpus", "write a list of ids of gpus")
            for name in cast("list[object]", names):
                if not isinstance(name, str) or name not in self._gpus:
                    raise CaseError(f"{one.at('gpus')}: found {shown(name)}; write ids of the gpus")
                weight = one.whole("weight", 1, least=1)
                found.append(Hold(span=span, gpu_uuid=name, container=container, weight=weight))
            self._containers.add(container)
        return found

    def _tenancies(self) -> list[Tenancy]:
        return [
            Tenancy(
                span=one.span(self._zone, self._window), container=self._container(one),
                tenant=one.text("tenant", example="acme"), team=one.text("team", ""),
            )
            for one in self._table.tables("tenants", _SPAN | {"container", "tenant", "team"})
        ]  # fmt: skip

    def _container(self, one: Table) -> str:
        found = one.text("container", example="llm-chat")
        if found not in self._containers:
            one.wrong("container", "no hold or reading names it; write one that does")
        return found

    def _readings(self) -> list[Activity]:
        keys = _SPAN | {"gpu", "container", "busy", "every_seconds"}
        found: list[Activity] = []
        for one in self._table.tables("readings", keys):
            gpu = self._gpu(one)
            container = one.text("container") if "container" in one else None
            if container == _NOBODY:
                container = UNATTRIBUTED
            elif container is not None:
                self._containers.add(container)
            for span, ratio in self._spans(one):
                found.append(Activity(span=span, gpu_uuid=gpu, container=container, ratio=ratio))
        return found

    def _spans(self, one: Table) -> list[tuple[Span, Decimal | None]]:
        value = one.raw("busy")
        if "every_seconds" not in one:
            return [(one.span(self._zone, self._window), self._ratio(one, value))]
        if "to" in one:
            one.wrong("to", "leave it out: every_seconds and the number of readings tell the end")
        if not isinstance(value, list):
            one.wrong("busy", "write a list of ratios of 0 to 1, one for every every_seconds")
        step = int(one.number("every_seconds") * 1_000_000)
        if not step:
            one.wrong("every_seconds", "write a number above 0")
        at = one.instant("from", self._zone, self._window.start)
        return [
            (Span(at + step * number, at + step * (number + 1)), self._ratio(one, each))
            for number, each in enumerate(cast("list[object]", value))
        ]

    def _ratio(self, one: Table, value: object) -> Decimal | None:
        if value is None and "busy" in one:
            return None
        known = isinstance(value, int | Decimal) and not isinstance(value, bool)
        if not known or not 0 <= value <= 1:  # type: ignore[operator]
            found = "is missing" if "busy" not in one else f"found {shown(value)}"
            raise CaseError(f"{one.at('busy')}: {found}; write a ratio of 0 to 1, or null where it could not be read")
        return Decimal(value)  # type: ignore[arg-type]

    # --- tokens, energy, credits ---

    def _tokens(self) -> tuple[list[Served], tuple[Use, ...]]:
        keys = _SPAN | {"container", "tenant", "team", "prompt", "cached", "generation"}
        served: list[Served] = []
        sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        for one in self._table.tables("tokens", keys):
            container, span = self._container(one), one.span(self._zone, self._window)
            if span.within(self._window) != span:
                raise CaseError(f"{one.where}: {span.words} reaches outside the case; write tokens of its window")
            tenant = one.text("tenant", "")
            if tenant and not {"prompt", "generation"} & {key for key in keys if key in one}:
                weight = None  # somebody it served, nobody knows how much
            else:
                counts = [self._count(one, key) for key in ("prompt", "generation", "cached")]
                try:
                    traffic = Traffic(prompt_tokens=counts[0], generation_tokens=counts[1], cached_tokens=counts[2])
                except TokenError as error:
                    raise CaseError(f"{one.where}: {error}") from error
                sums[container, tenant] = [a + b for a, b in zip(sums[container, tenant], counts, strict=True)]
                weight = token_weight(traffic, self._output_weight)
            if tenant:
                served.append(
                    Served(span=span, container=container, tenant=tenant, team=one.text("team", ""), weight=weight)
                )
        uses = tuple(
            Use(
                container=container, tenant=tenant,
                traffic=Traffic(prompt_tokens=counts[0], generation_tokens=counts[1], cached_tokens=counts[2]),
            )
            for (container, tenant), counts in sorted(sums.items())
        )  # fmt: skip
        return served, uses

    def _count(self, one: Table, key: str) -> int:
        """A number of tokens, or the readings of a counter, which starts again at 0 when the server does."""
        value = one.raw(key)
        if not isinstance(value, list):
            return one.whole(key, 0)
        tracker, whole = IncreaseTracker(), 0
        for each in cast("list[object]", value):
            if isinstance(each, bool) or not isinstance(each, int) or not 0 <= each <= 10**15:
                raise CaseError(f"{one.at(key)}: found {shown(each)}; write readings of a counter, whole numbers")
            whole += int(tracker.increase(key, each) or 0)
        return whole

    def _energy(self) -> tuple[Energy, dict[str, Decimal]]:
        one = self._table.table("energy", frozenset({"pue", "grid_gco2_per_kwh", "watt_hours"}))
        default = self._default_energy
        pue = one.number("pue", least=Decimal(1)) if "pue" in one else default.pue
        grid = one.number("grid_gco2_per_kwh") if "grid_gco2_per_kwh" in one else default.grid_gco2_per_kwh
        measured = one.table("watt_hours", frozenset(self._containers))
        joules = {name: measured.number(name) * 3600 for name in sorted(self._containers) if name in measured}
        return replace(default, pue=pue, grid_gco2_per_kwh=grid), joules

    def _credits(self) -> Sequence[Credit]:
        found: list[Credit] = []
        for one in self._table.tables("credits", frozenset({"day", "amount", "currency", "tenant", "team", "reason"})):
            micros = micros_of(one.number("amount", least=None), least=None)
            if micros >= 0:
                one.wrong("amount", "write an amount below 0, like -12.50")
            found.append(
                Credit(
                    day=one.day("day"),
                    micros=micros,
                    currency=_code(one, self._currency),
                    tenant=one.text("tenant", ""),
                    team=one.text("team", ""),
                    reason=one.text("reason", ""),
                )
            )
        return found


def _zone(table: Table) -> tzinfo:
    name = table.text("time_zone", "UTC")
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        table.wrong("time_zone", "write a zone like Europe/Berlin")


def _code(one: Table, default: str) -> str:
    found = one.text("currency", default)
    if not (len(found) == 3 and found.isascii() and found.isalpha() and found.isupper()):
        one.wrong("currency", "write a code of three letters like USD")
    return found
