"""Rows to Arrow: one schema per table, derived once from the dataclasses of `fleet.model`.

What cannot be stored as it came is made storable here, at one place: half surrogates become U+FFFD, a number that is
not finite becomes unknown. A batch is never lost for one bad string.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import operator
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import pyarrow as pa

from fleet.model import ROW_TYPES, Batch, Row
from store.errors import StoreError

TIMESTAMP = pa.timestamp("ms", tz="UTC")
_SURROGATES = re.compile("[\ud800-\udfff]")


#: Partition of each table, as a prefix of the ISO date: one insert must touch one partition to be one atomic part.
_PARTITION_PREFIX = {
    "container_samples": 10,
    "gpu_samples": 10,
    "container_gpu_samples": 10,
    "inference_samples": 10,
    "histograms": 10,
    "source_runs": 10,
    "events": 7,
    "gpu_jobs": 7,
}


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None


def _finite_or_zero(value: float) -> float:
    # Only for columns that cannot be NULL (interval_seconds, took_seconds): an interval of zero carries no weight.
    return value if math.isfinite(value) else 0.0


def _increments(values: Sequence[float]) -> Sequence[float]:
    # An empty histogram adds nothing anywhere; one NaN inside would poison every sum over the hour.
    return values if all(math.isfinite(value) for value in values) else ()


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
        element = pa.field("item", pa.float64(), nullable=False)
        # bounds end in +Inf and keep it; an increment that is not finite makes the whole histogram unusable.
        return Column(pa.field(name, pa.list_(element), nullable), _increments if name == "increments" else None)
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
    columns = COLUMNS[row_type]
    # A column at a time: a tuple of every row, to be turned around, is as much memory again.
    arrays = [_array(column, list(map(operator.attrgetter(column.field.name), rows))) for column in columns]
    return pa.Table.from_arrays(arrays, schema=pa.schema([column.field for column in columns]))


def _array(column: Column, values: Sequence[object]) -> pa.Array:
    if column.convert is clean_text:
        # Nearly all text is clean, and Arrow finds out faster than a pattern does.
        with contextlib.suppress(UnicodeEncodeError):
            return pa.array(values, type=column.field.type)
    if column.convert is not None:
        values = [None if value is None else column.convert(value) for value in values]
    return pa.array(values, type=column.field.type)


@dataclasses.dataclass(frozen=True, slots=True)
class Insert:
    """One atomic insert: rows of one table in one partition. The same `token` again is no second copy."""

    table: str
    token: str
    rows: pa.Table


def prepare(batch: Batch) -> tuple[Insert, ...]:
    """The inserts of a batch, one per table and partition. Raises StoreError when a value does not fit its column."""
    groups: dict[tuple[type[Row], str], list[Row]] = {}
    # Thousands of rows share one instant; writing out the date of each was a third of the work of a large batch.
    places: dict[tuple[type[Row], datetime | None], list[Row]] = {}
    for row in batch.rows:
        row_type = type(row)
        prefix = _PARTITION_PREFIX.get(row_type.table)
        at: datetime | None = None if prefix is None else row.at  # type: ignore[attr-defined]
        place = places.get((row_type, at))
        if place is None:
            partition = "" if at is None else _utc(batch, row, at).isoformat()[:prefix]
            place = places[row_type, at] = groups.setdefault((row_type, partition), [])
        place.append(row)
    inserts: list[Insert] = []
    name = clean_text(batch.token)
    for (row_type, partition), rows in groups.items():
        try:
            table = to_arrow(row_type, rows)
        except (pa.ArrowException, OverflowError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(0, f"batch {batch.token}: {row_type.table}: {error}") from error
        token = f"{name}/{row_type.table}" + f"/{partition}" * bool(partition)
        inserts.append(Insert(row_type.table, token, table))
    return tuple(inserts)


def _utc(batch: Batch, row: Row, at: datetime) -> datetime:
    if at.tzinfo is None:
        raise StoreError(0, f"batch {batch.token}: {row.table}: {at} has no time zone; write aware UTC datetimes")
    return at.astimezone(UTC)
