"""The price book: what an hour of a GPU costs, by product, host, MIG profile and time, and which edition was used.

Two kinds of rows: list prices that come with the product (fleet/catalog/gpu_prices.csv) and the operator's own, which
always go first. A GPU that no row fits has no price, and its time is shown without money: a guess would be believed.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from importlib import resources
from itertools import pairwise
from typing import Literal

from fleet.cost_intervals import Span, Timeline, moment, pieces
from fleet.money import MoneyError, apportion, decimal_of, micros_of

#: Said wherever a price that nobody set is used.
LIST_PRICE = "list price, set yours"
MigRule = Literal["compute", "memory"]
MIG_RULES: tuple[MigRule, ...] = ("compute", "memory")
_CURRENCY = re.compile("[A-Z]{3}")
_PROFILE = re.compile(r"(\d+)g\.(\d+)gb(?:\+\S+)?")
_MIG_SUFFIX = re.compile(r"\s+MIG\s+\S+$")
_FOREVER = Span(-(10**18), 10**18)
_HOURS_PER_YEAR = 8760


class PriceError(ValueError):
    """A price row that cannot work; says which one, what was found, what to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What an hour of one whole device costs: micro-units of its currency, and where that comes from."""

    micros_per_hour: int
    currency: str
    source: str
    as_of: str = ""  # date of the source; "" = not known
    listed: bool = False  # a list price that nobody set

    @property
    def mark(self) -> str:
        """`LIST_PRICE` for a list price, else nothing."""
        return LIST_PRICE if self.listed else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceRow:
    """A price and what it is for. "" or None = any.

    gpu_model: short name, for people. name_pattern: regular expression over NVML's product name. host: exact name.
    mig_profile: exact, "" = the whole GPU (its MIG devices are then priced by a rule). valid: half-open.
    """

    gpu_model: str
    name_pattern: str
    price: Price
    host: str = ""
    mig_profile: str = ""
    valid: Span = _FOREVER
    region: str = ""
    provider: str = ""

    def __post_init__(self) -> None:
        where = f"price of {self.gpu_model or self.name_pattern!r}"
        try:
            re.compile(self.name_pattern)
        except re.error as error:
            raise PriceError(f"{where}: {self.name_pattern!r} is no regular expression: {error}") from error
        if self.price.micros_per_hour < 0:
            raise PriceError(f"{where}: found {self.price.micros_per_hour} micro-units an hour; write at least 0")
        if not _CURRENCY.fullmatch(self.price.currency):
            raise PriceError(f"{where}: currency is {self.price.currency!r}; write a code of three letters like USD")
        if self.mig_profile and not _PROFILE.fullmatch(self.mig_profile):
            raise PriceError(f"{where}: MIG profile is {self.mig_profile!r}; write one like 1g.10gb")

    def fits(self, name: str, host: str, mig_profile: str) -> bool:
        """Whether it is meant for this device."""
        return (
            self.mig_profile == mig_profile
            and self.host in ("", host)
            and re.search(self.name_pattern, name) is not None
        )

    @property
    def content(self) -> list[str | int]:
        """What makes it this price, but for when it holds."""
        price = self.price
        what = (self.gpu_model, self.name_pattern, self.host, self.mig_profile)
        return [*what, price.micros_per_hour, price.currency, price.source, price.as_of, price.listed]

    @property
    def rank(self) -> tuple[bool, bool]:
        """The greatest one goes first: the operator's before a list price, a host's before any host's."""
        return (not self.price.listed, bool(self.host))


class PriceBook:
    """Rows and what they say of a device; never changes. Raises PriceError when two equal rows speak at one time."""

    def __init__(self, own: Iterable[PriceRow] = (), listed: Iterable[PriceRow] | None = None) -> None:
        defaults = default_rows() if listed is None else tuple(listed)
        self.rows: tuple[PriceRow, ...] = (*own, *defaults)
        seen: dict[tuple[str, str, str, bool], list[PriceRow]] = {}
        for row in self.rows:
            seen.setdefault((row.name_pattern, row.host, row.mig_profile, row.price.listed), []).append(row)
        for rows in seen.values():
            rows.sort(key=lambda row: row.valid)
            for before, after in pairwise(rows):
                if after.valid.start < before.valid.end:
                    raise PriceError(
                        f"price of {after.gpu_model or after.name_pattern!r}: two rows hold at once, from"
                        f" {'the beginning' if after.valid.start == _FOREVER.start else _day(after.valid.start)};"
                        " write valid_to in the earlier one"
                    )

    def timeline(self, name: str, span: Span, *, host: str = "", mig_profile: str = "") -> Timeline[Price]:
        """Prices of a device over the span; a hole where there is none.

        With a MIG profile only rows for that profile count: what a slice costs as a part is `mig_devices`.
        Raises PriceError when two different rows of the same rank fit the device at one time.
        """
        plain = _MIG_SUFFIX.sub("", name)
        fitting = [row for row in self.rows if row.fits(plain, host, mig_profile)]
        edges = [edge for row in fitting for edge in (row.valid.start, row.valid.end)]
        found: list[tuple[Span, Price]] = []
        for piece in pieces(span, edges):
            valid = [row for row in fitting if row.valid.start <= piece.start < row.valid.end]
            if not valid:
                continue
            best = max(row.rank for row in valid)
            first = [row for row in valid if row.rank == best]
            if len(first) > 1:
                both = " and ".join(repr(row.name_pattern) for row in first[:2])
                raise PriceError(f"price of {plain!r}: {both} both fit; write a narrower expression")
            found.append((piece, first[0].price))
        return Timeline(found)

    def version(self, span: Span) -> str:
        """Twelve hex digits that name the content in force in the span.

        Rows are cut to the span first: a price that is added or ended after it does not change its version.
        """
        content = sorted(
            json.dumps([*row.content, inside.start - span.start, inside.end - span.start], ensure_ascii=False)
            for row in self.rows
            if (inside := row.valid.within(span)).length
        )
        text = json.dumps([span.start, content], separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _day(at: int) -> str:
    return f"{moment(at):%Y-%m-%d}"


# --- list prices --------------------------------------------------------------------------------------------------


def list_prices() -> tuple[PriceRow, ...]:
    """All list prices that come with the product, several a product, best known first."""
    text = (resources.files("fleet") / "catalog" / "gpu_prices.csv").read_text(encoding="utf-8")
    return tuple(_listed(row) for row in csv.DictReader(text.splitlines()))


def default_rows() -> tuple[PriceRow, ...]:
    """One list price a product: the first of its rows."""
    first: dict[str, PriceRow] = {}
    for row in list_prices():
        first.setdefault(row.gpu_model, row)
    return tuple(first.values())


def _listed(row: dict[str, str]) -> PriceRow:
    price = Price(
        micros_per_hour=micros_of(row["usd_per_gpu_hour"]),
        currency="USD",
        source=f"{row['provider']} {row['region']}: {row['source']}",
        as_of=row["as_of"],
        listed=True,
    )
    return PriceRow(
        gpu_model=row["gpu_model"],
        name_pattern=row["vendor_nvml_name_regex"],
        price=price,
        region=row["region"],
        provider=row["provider"],
    )


# --- owned hardware -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """A GPU that was bought: what it cost, for how long it is used, what it draws. Amounts for one GPU."""

    capex: Decimal
    years: Decimal
    residual_ratio: Decimal = Decimal(0)  # of capex, what it is still worth at the end
    yearly_opex: Decimal = Decimal(0)
    power_kilowatts: Decimal = Decimal(0)  # mean, at the GPU's share of the machine
    pue: Decimal = Decimal(1)
    price_per_kwh: Decimal = Decimal(0)


def owned_price(owned: Owned, currency: str) -> Price:
    """What an hour of it costs: depreciation in a straight line, opex, and power through PUE. Raises PriceError."""
    for name in ("capex", "yearly_opex", "power_kilowatts", "price_per_kwh", "residual_ratio"):
        try:
            decimal_of(getattr(owned, name))
        except MoneyError as error:
            raise PriceError(f"owned.{name}: {error}") from error
    if owned.years <= 0:
        raise PriceError(f"owned.years: found {owned.years}; write for how many years it is used")
    if owned.residual_ratio > 1:
        raise PriceError(f"owned.residual_ratio: found {owned.residual_ratio}; write a ratio of 0 to 1")
    if owned.pue < 1:
        raise PriceError(f"owned.pue: found {owned.pue}; write a ratio of at least 1")
    depreciation = owned.capex * (1 - owned.residual_ratio) / (owned.years * _HOURS_PER_YEAR)
    hourly = (
        depreciation
        + owned.yearly_opex / _HOURS_PER_YEAR
        + owned.power_kilowatts * owned.pue * owned.price_per_kwh
    )  # fmt: skip
    source = (
        f"owned: {owned.capex} over {owned.years} years, {owned.residual_ratio} left; {owned.yearly_opex} a year;"
        f" {owned.power_kilowatts} kW x PUE {owned.pue} x {owned.price_per_kwh} per kWh"
    )
    return Price(micros_per_hour=micros_of(hourly), currency=currency, source=source)


# --- MIG ----------------------------------------------------------------------------------------------------------


def mig_weights(profiles: Sequence[str], rule: MigRule, *, compute_slices: int = 7, memory_gb: int = 0) -> list[int]:
    """Weights of MIG devices and, last, of what was not cut, by a named rule.

    compute: its g of the GPU's slices (7; 4 on an A30). memory: its gb of the GPU's. Raises PriceError for a profile
    that cannot be read, or when the devices are more than the GPU.
    """
    whole = compute_slices if rule == "compute" else memory_gb
    if whole <= 0:
        raise PriceError(
            f"MIG rule {rule!r}: the GPU has {whole} {'slices' if rule == 'compute' else 'GB'}; write how many"
        )
    found: list[int] = []
    for profile in profiles:
        read = _PROFILE.fullmatch(profile)
        if read is None:
            raise PriceError(f"MIG profile {profile!r}: cannot be read; write one like 1g.10gb")
        found.append(int(read[1 if rule == "compute" else 2]))
    if sum(found) > whole:
        raise PriceError(f"MIG devices {', '.join(profiles)}: {sum(found)} by {rule}, the GPU has {whole}")
    return [*found, whole - sum(found)]


def divided(prices: Timeline[Price], weights: Sequence[int]) -> list[Timeline[Price]]:
    """A price split into one for each weight; at every time they add up to it exactly."""
    split = [(span, price, apportion(price.micros_per_hour, weights)) for span, price in prices.entries]
    return [
        Timeline((span, replace(price, micros_per_hour=parts[place])) for span, price, parts in split)
        for place in range(len(weights))
    ]
