"""Reads the operator's price file (TOML) and reports every mistake at once: where, what was found, what to write.

[[price]]                        [[owned]]                         [energy]
gpu = "H100-SXM-80GB"            gpu = "A100-SXM-80GB"             price_per_kwh = 0.30
per_hour = 2.10                  capex = 18000                     pue = 1.2
currency = "EUR"                 years = 4                         grid_gco2_per_kwh = 380
valid_from = 2026-11-01          residual_ratio = 0.2              source = "our contract of 2026"
source = "contract 4711"         yearly_opex = 900
                                 power_kilowatts = 0.6
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, tzinfo
from decimal import Decimal
from typing import cast

from fleet.cost_intervals import IntervalError, Span, instant, local_instant
from fleet.money import MoneyError, decimal_of, micros_of
from fleet.price_book import Owned, Price, PriceBook, PriceError, PriceRow, default_rows, owned_price

_COMMON = frozenset({"gpu", "name", "host", "mig_profile", "currency", "valid_from", "valid_to", "source", "as_of"})
_OWNED = ("capex", "years", "residual_ratio", "yearly_opex", "power_kilowatts", "pue", "price_per_kwh")
_ENERGY = ("price_per_kwh", "pue", "grid_gco2_per_kwh")
_ALWAYS = Span(-(10**18), 10**18)


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """What electricity costs and emits. None = not known, so nothing that needs it is told."""

    price_per_kwh: Decimal | None = None
    pue: Decimal | None = None
    grid_gco2_per_kwh: Decimal | None = None
    source: str = ""


class PriceFileError(PriceError):
    """Mistakes in a price file, one line each."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = mistakes


def load_prices(text: str, *, origin: str, zone: tzinfo) -> tuple[PriceBook, Energy]:
    """The price book and the energy figures of a price file over the list prices.

    zone: the site's, for dates and for times without an offset. Raises PriceFileError with all mistakes.
    """
    try:
        document = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise PriceFileError([f"{origin}: not TOML: {error}"]) from error
    except ArithmeticError as error:
        raise PriceFileError([f"{origin}: holds a number that cannot be read; write numbers like 2.50"]) from error
    reader = _Reader(origin, zone)
    rows, energy = reader.rows(document), reader.energy(document)
    if reader.mistakes:
        raise PriceFileError(reader.mistakes)
    try:
        return PriceBook(rows), energy
    except PriceError as error:
        raise PriceFileError([f"{origin}: {error}"]) from error


class _Reader:
    """Collects mistakes instead of stopping at the first."""

    def __init__(self, origin: str, zone: tzinfo) -> None:
        self._origin, self._zone = origin, zone
        self._patterns = {row.gpu_model: row.name_pattern for row in default_rows()}
        self.mistakes: list[str] = []

    def rows(self, document: Mapping[str, object]) -> list[PriceRow]:
        for key in sorted(document.keys() - {"price", "owned", "energy"}):
            self._wrong(key, "is not known", "write [[price]], [[owned]] or [energy]")
        found: list[PriceRow] = []
        for kind in ("price", "owned"):
            entries = document.get(kind, [])
            if not isinstance(entries, list):
                self._wrong(kind, "is no list of tables", f"write [[{kind}]]")
                continue
            for number, entry in enumerate(cast("list[object]", entries), start=1):
                where = f"{kind} {number}"
                if not isinstance(entry, dict):
                    self._wrong(where, f"is {entry!r}", f"write a table [[{kind}]]")
                    continue
                row = self._row(where, kind, cast("dict[str, object]", entry))
                found += [] if row is None else [row]
        return found

    def energy(self, document: Mapping[str, object]) -> Energy:
        entry = document.get("energy", {})
        if not isinstance(entry, dict):
            self._wrong("energy", "is no table", "write [energy]")
            return Energy()
        values = cast("dict[str, object]", entry)
        for key in sorted(values.keys() - {*_ENERGY, "source"}):
            self._wrong(f"energy.{key}", "is not known", f"write one of {', '.join(_ENERGY)}, source")
        read = {name: self._number("energy", values, name) for name in _ENERGY if name in values}
        pue = read.get("pue")
        if pue is not None and pue < 1:
            self._wrong("energy.pue", f"is {pue}", "write a ratio of at least 1")
        return Energy(**read, source=self._text("energy", values, "source"))

    def _row(self, where: str, kind: str, entry: dict[str, object]) -> PriceRow | None:
        before = len(self.mistakes)
        allowed = _COMMON | ({"per_hour"} if kind == "price" else set(_OWNED))
        for key in sorted(entry.keys() - allowed):
            self._wrong(f"{where}.{key}", "is not known", f"write one of {', '.join(sorted(allowed))}")
        model, name = self._text(where, entry, "gpu"), self._text(where, entry, "name")
        if bool(model) == bool(name):
            self._wrong(where, "names no GPU" if not model else "has both gpu and name", "write gpu or name")
        elif model and model not in self._patterns:
            self._wrong(
                f"{where}.gpu", f"is {model!r}", f"write one of {', '.join(self._patterns)}, or name with an expression"
            )
        currency = self._text(where, entry, "currency") or "USD"
        source = self._text(where, entry, "source") or "set in the price file"
        price = self._price(where, kind, entry, currency, source)
        valid = self._valid(where, entry)
        if len(self.mistakes) > before or price is None:
            return None
        try:
            return PriceRow(
                gpu_model=model, name_pattern=self._patterns.get(model, name), price=price, valid=valid,
                host=self._text(where, entry, "host"), mig_profile=self._text(where, entry, "mig_profile"),
            )  # fmt: skip
        except PriceError as error:
            self.mistakes.append(f"{self._origin}: {where}: {error}")
            return None

    def _price(self, where: str, kind: str, entry: dict[str, object], currency: str, source: str) -> Price | None:
        if kind == "price":
            if "per_hour" not in entry:
                self._wrong(where, "has no per_hour", "write per_hour, the price of one GPU for an hour")
                return None
            value = self._number(where, entry, "per_hour")
            as_of = self._text(where, entry, "as_of")
            if value is None:
                return None
            return Price(micros_per_hour=micros_of(value), currency=currency, source=source, as_of=as_of)
        for name in ("capex", "years"):
            if name not in entry:
                self._wrong(where, f"has no {name}", f"write {name}")
        read = {name: self._number(where, entry, name) for name in _OWNED if name in entry}
        known = {name: value for name, value in read.items() if value is not None}
        if not {"capex", "years"} <= known.keys() or len(known) < len(read):
            return None
        try:
            return owned_price(Owned(**known), currency)
        except PriceError as error:
            self.mistakes.append(f"{self._origin}: {where}: {error}")
            return None

    def _valid(self, where: str, entry: dict[str, object]) -> Span:
        start = self._instant(where, entry, "valid_from", _ALWAYS.start)
        end = self._instant(where, entry, "valid_to", _ALWAYS.end)
        if end <= start:
            self._wrong(f"{where}.valid_to", "is not after valid_from", "write a later one")
            return _ALWAYS
        return Span(start, end)

    def _instant(self, where: str, entry: dict[str, object], name: str, default: int) -> int:
        value = entry.get(name)
        if value is None:
            return default
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime.combine(value, time())
        if not isinstance(value, datetime):
            self._wrong(f"{where}.{name}", f"is {value!r}", "write a date like 2026-11-01, without quotes")
            return default
        try:
            return local_instant(value, self._zone) if value.tzinfo is None else instant(value)
        except IntervalError as error:
            self._wrong(f"{where}.{name}", str(error), "write the offset")
            return default

    def _number(self, where: str, entry: Mapping[str, object], name: str) -> Decimal | None:
        try:
            return decimal_of(entry[name])
        except MoneyError as error:
            self.mistakes.append(f"{self._origin}: {where}.{name}: {error}")
            return None

    def _text(self, where: str, entry: Mapping[str, object], name: str) -> str:
        value = entry.get(name, "")
        if isinstance(value, date):
            return value.isoformat()
        if not isinstance(value, str):
            self._wrong(f"{where}.{name}", f"is {value!r}", "write a text in quotes")
            return ""
        return value.strip()

    def _wrong(self, where: str, found: str, instead: str) -> None:
        self.mistakes.append(f"{self._origin}: {where} {found}; {instead}")
