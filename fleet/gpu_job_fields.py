"""The fields of a ledger entry: how each is written into files and hashes, and how it is read back.

LedgerError      a row is no ledger entry; says which field, what was found, what belongs there
"""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import cast

from fleet.model import GpuJob

_SURROGATES = re.compile("[\ud800-\udfff]")
_HINTS = typing.get_type_hints(GpuJob)
FIELDS: tuple[str, ...] = tuple(field.name for field in fields(GpuJob))
#: Fields by how they are written in files: text, whole number, number, time, list of texts, map; "?" may be null.
KINDS: Mapping[str, str] = {
    name: {
        str: "text",
        int: "integer",
        float: "number",
        datetime: "time",
        int | None: "integer?",
        float | None: "number?",
        datetime | None: "time?",
        tuple[str, ...]: "texts",
        Mapping[str, str]: "map",
    }[_HINTS[name]]
    for name in FIELDS
}


class LedgerError(ValueError):
    """A row is no ledger entry; says which field, what was found, what belongs there."""


def time_text(at: datetime) -> str:
    """A time as entries write it: UTC with milliseconds, `2026-11-22T08:31:51.250Z`."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def values_of(row: GpuJob) -> dict[str, object]:
    """The entry as JSON-ready values, in the order of its fields."""
    return {name: _plain(getattr(row, name)) for name in FIELDS}


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return time_text(value)
    if isinstance(value, tuple):
        return list(cast("tuple[object, ...]", value))
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, str]", value))
    return value


def to_milliseconds(at: datetime) -> datetime:
    """The time without what the store does not keep."""
    at = at.astimezone(UTC)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def storable(value: object, kind: str, *, nullable: bool) -> object:
    """The value of a field as the store gives it back: text without half surrogates, milliseconds, finite numbers."""
    match kind:
        case "text":
            return _SURROGATES.sub("\ufffd", cast("str", value))
        case "time":
            return to_milliseconds(cast("datetime", value))
        case "number":
            number = float(cast("float", value))
            return number if math.isfinite(number) else None if nullable else 0.0
        case "texts":
            return tuple(_SURROGATES.sub("\ufffd", text) for text in cast("Sequence[str]", value))
        case "map":
            items = cast("Mapping[str, str]", value).items()
            return {_SURROGATES.sub("\ufffd", key): _SURROGATES.sub("\ufffd", text) for key, text in sorted(items)}
        case _:
            return value


def read_value(name: str, kind: str, value: object) -> object:
    """The value of a field from the store or a JSON file. Raises LedgerError for one of another kind or spelling."""
    if value is None and kind.endswith("?"):
        return None
    found = _READERS[kind.removesuffix("?")](value)
    if found is None:
        raise LedgerError(f"field {name!r}: found {str(value)[:60]!r}, {_WORDS[kind.removesuffix('?')]} belongs there")
    return found


def _read_text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _read_integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _read_number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _read_time(value: object) -> datetime | None:
    if isinstance(value, datetime):
        return to_milliseconds(value) if value.tzinfo is not None and value.microsecond % 1000 == 0 else None
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    # Only the one spelling: another one would be an edit that the hash does not see.
    return at.astimezone(UTC) if at.tzinfo is not None and time_text(at) == value else None


def _read_texts(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list | tuple):
        return None
    texts = tuple(item for item in cast("Sequence[object]", value) if isinstance(item, str))
    return texts if len(texts) == len(cast("Sequence[object]", value)) else None


def _read_map(value: object) -> dict[str, str] | None:
    # The store gives a map as pairs, where a key may stand twice; that is no entry of ours.
    pairs = list(cast("Mapping[object, object]", value).items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, list | tuple):
        return None
    found: dict[str, str] = {}
    for pair in cast("Sequence[object]", pairs):
        if not isinstance(pair, tuple | list) or len(cast("Sequence[object]", pair)) != 2:
            return None
        key, text = cast("tuple[object, object]", pair)
        if not isinstance(key, str) or not isinstance(text, str) or key in found:
            return None
        found[key] = text
    return found


_READERS = {
    "text": _read_text, "integer": _read_integer, "number": _read_number, "time": _read_time, "texts": _read_texts,
    "map": _read_map,
}  # fmt: skip
_WORDS = {
    "text": "text", "integer": "a whole number", "number": "a number",
    "time": "a UTC time such as 2026-11-22T08:31:51.250Z", "texts": "a list of texts", "map": "a map of texts",
}  # fmt: skip
