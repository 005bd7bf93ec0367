"""Values of a described case, read one by one: the first that cannot be meant is refused, with its place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import date, datetime, tzinfo
from decimal import Decimal
from typing import NoReturn, TypeVar, cast

from fleet.cost_intervals import IntervalError, Span, instant, local_instant
from fleet.money import MoneyError, decimal_of

T = TypeVar("T", bound=str)
_NO_TEXT = object()


class CaseError(ValueError):
    """A case that cannot be computed: where, what was found, what to write."""


class Table:
    """One object of the case and where it stands. Every key must be known."""

    def __init__(self, value: object, where: str, keys: frozenset[str]) -> None:
        """Raises CaseError."""
        self.where = where
        if not isinstance(value, dict):
            raise CaseError(f"{where}: found {shown(value)}; write an object in braces")
        self._values = cast("dict[str, object]", value)
        for key in sorted(self._values.keys() - keys):
            raise CaseError(f"{self.at(key)}: is not known; write one of {', '.join(sorted(keys))}")

    def at(self, key: str) -> str:
        """The place of a key, for messages."""
        return f"{self.where}.{key}" if self.where != "case" else key

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def wrong(self, key: str, instead: str) -> NoReturn:
        """Raises CaseError for the key's value, or for its absence."""
        found = f"found {shown(self._values[key])}" if key in self._values else "is missing"
        raise CaseError(f"{self.at(key)}: {found}; {instead}")

    def raw(self, key: str) -> object:
        """The value as it is, None when it is absent."""
        return self._values.get(key)

    def text(self, key: str, default: str | None = None, *, example: str = "a") -> str:
        """A text; not blank unless there is a default."""
        value = self._values.get(key, _NO_TEXT)
        if value is _NO_TEXT and default is not None:
            return default
        if not isinstance(value, str) or not (value.strip() or default is not None):
            self.wrong(key, f'write a text like "{example}"')
        return value.strip()

    def choice(self, key: str, among: tuple[T, ...]) -> T:
        """One of a few words; the first when it is absent."""
        value = self._values.get(key, among[0])
        if value not in among:
            self.wrong(key, f"write one of {', '.join(among)}")
        return cast("T", value)

    def number(self, key: str, default: Decimal | None = None, *, least: Decimal | None = Decimal(0)) -> Decimal:
        """A number. least: None = any."""
        if key not in self._values and default is not None:
            return default
        if key not in self._values:
            self.wrong(key, "write a number like 2.50")
        try:
            return decimal_of(self._values[key], least=least)
        except MoneyError as error:
            raise CaseError(f"{self.at(key)}: {error}") from error

    def whole(self, key: str, default: int | None = None, *, least: int = 0) -> int:
        """A whole number."""
        value = self._values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 10**15:
            self.wrong(key, f"write a whole number of at least {least}")
        return value

    def truth(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            self.wrong(key, "write true or false")
        return value

    def day(self, key: str) -> date:
        """A date."""
        try:
            return date.fromisoformat(self.text(key, example="2026-11-02"))
        except ValueError:
            self.wrong(key, 'write a date like "2026-11-02"')

    def instant(self, key: str, zone: tzinfo, default: int | None = None) -> int:
        """A time, by its offset or else the site's clock; microseconds since 1970 UTC."""
        if key not in self._values and default is not None:
            return default
        example = "2026-11-02T08:00:00Z"
        text = self.text(key, example=example)
        try:
            read = datetime.fromisoformat(text)
        except ValueError:
            self.wrong(key, f'write a time like "{example}", or without Z for the site\'s clock')
        if not 1971 <= read.year <= 2199:  # what any zone's clock can tell without running out of years
            self.wrong(key, "write a time of the years 1971 to 2199")
        try:
            return local_instant(read, zone) if read.tzinfo is None else instant(read)
        except IntervalError as error:
            raise CaseError(f"{self.at(key)}: {error}") from error

    def span(self, zone: tzinfo, within: Span | None = None) -> Span:
        """`from` and `to`; those of `within` where one is absent."""
        start = self.instant("from", zone, None if within is None else within.start)
        end = self.instant("to", zone, None if within is None else within.end)
        if end < start:
            raise CaseError(f"{self.where}: ends before it starts, {shown(self.raw('to'))}; write a later `to`")
        return Span(start, end)

    def tables(self, key: str, keys: frozenset[str]) -> Iterator[Table]:
        """The objects of a list; none when it is absent."""
        value = self._values.get(key, [])
        if not isinstance(value, list):
            self.wrong(key, "write a list in brackets")
        for number, one in enumerate(cast("list[object]", value)):
            yield Table(one, f"{self.at(key)}[{number}]", keys)

    def table(self, key: str, keys: frozenset[str]) -> Table:
        """An object; an empty one when it is absent."""
        return Table(self._values.get(key, {}), self.at(key), keys)


def shown(value: object) -> str:
    """A value in a message, short."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else f"{text[:60]}…"


def read_json(text: str) -> object:
    """The document, numbers with a point as Decimal. Raises CaseError for what is no JSON, or says a key twice."""
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=_no_constant, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise CaseError(f"line {error.lineno}, column {error.colno}: {error.msg}; write JSON") from error
    except RecursionError:
        raise CaseError("is nested too deep; write the case as documented") from None
    except CaseError:
        raise
    except ValueError as error:  # a whole number with thousands of digits
        raise CaseError(f"holds a number that cannot be read: {error}") from error


def _no_constant(word: str) -> NoReturn:
    raise CaseError(f"found {word}, which is no number; write a number, or null where a reading could not be taken")


def _once(pairs: list[tuple[str, object]]) -> Mapping[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise CaseError(f"{shown(key)} is written twice in one object; keep one of them")
        found[key] = value
    return found
