"""Rows to Arrow: one schema per table, derived once from the dataclasses of `fleet.model`.

What cannot be stored as it came is made storable here, at one place: half surrogates become U+FFFD, a number that is
not finite becomes unknown. A batch is never lost for one bad string.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import pyarrow as pa

from fleet.model import ROW_TYPES, Row

TIMESTAMP = pa.timestamp("ms", tz="UTC")
_SURROGATES = re.compile("[\ud800-\udfff]")


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None


def _finite_or_zero(value: float) -> float:
    # Only for columns that cannot be NULL (interval_seconds, took_seconds): an interval of zero carries no weight.
    return value if math.isfinite(value) else 0.0


def clean_text(value: str) -> str:
    """The text with every half surrogate (what undecodable bytes turn into) replaced by U+FFFD."""
    return _SURROGATES.sub("\ufffd", value)


def _clean_map(value: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(clean_text(key), clean_text(text)) for key, text in value.items()]


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """One stored column: its Arrow field, and how a Python value becomes storable (None: as it is)."""

    field: pa.Field
    convert: Callable[[typing.Any], object] | None


def _column(name: str, annotation: object) -> Column:
    nullable = False
    if isinstance(annotation, types.UnionType):
        members = [member for member in typing.get_args(annotation) if member is not types.NoneType]
        nullable = len(members) < len(typing.get_args(annotation))
        if len(members) != 1:
            raise TypeError(f"{name}: {annotation} is a union of several types; a column has one")
        annotation = members[0]
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        annotation, origin = str, None
    if annotation is datetime:
        return Column(pa.field(name, TIMESTAMP, nullable), None)
    if annotation is bool:
        return Column(pa.field(name, pa.bool_(), nullable), None)
    if annotation is int:
        return Column(pa.field(name, pa.int64(), nullable), None)
    if annotation is float:
        return Column(pa.field(name, pa.float64(), nullable), _finite if nullable else _finite_or_zero)
    if annotation is str:
        return Column(pa.field(name, pa.string(), nullable), clean_text)
    if origin is tuple and typing.get_args(annotation)[0] is float:
        return Column(pa.field(name, pa.list_(pa.field("item", pa.float64(), nullable=False)), nullable), None)
    if origin is tuple and typing.get_args(annotation)[0] is str:
        element = pa.field("item", pa.string(), nullable=False)
        return Column(pa.field(name, pa.list_(element), nullable), lambda texts: [clean_text(text) for text in texts])
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return Column(pa.field(name, pa.map_(pa.string(), pa.string()), nullable), _clean_map)
    raise TypeError(f"{name}: no column type for {annotation}; add one to store/columns.py")


def _columns(row_type: type[Row]) -> tuple[Column, ...]:
    hints = typing.get_type_hints(row_type)
    return tuple(_column(field.name, hints[field.name]) for field in dataclasses.fields(row_type))


COLUMNS: Mapping[type[Row], tuple[Column, ...]] = {row_type: _columns(row_type) for row_type in ROW_TYPES}


def to_arrow(row_type: type[Row], rows: Sequence[Row]) -> pa.Table:
    """The rows as one Arrow table of one record batch, columns as in the dataclass.

    Raises:
        pa.ArrowException, OverflowError: a value does not fit its column.
    """
    arrays: list[pa.Array] = []
    columns = COLUMNS[row_type]
    for column in columns:
        values = [getattr(row, column.field.name) for row in rows]
        if column.convert is not None:
            values = [None if value is None else column.convert(value) for value in values]
        arrays.append(pa.array(values, type=column.field.type))
    return pa.Table.from_arrays(arrays, schema=pa.schema([column.field for column in columns]))
