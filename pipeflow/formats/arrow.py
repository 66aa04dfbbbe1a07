"""Rows as columns in memory, which columnar files are written from. Needs pyarrow, the extra `parquet`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from msgspec import Raw

from pipeflow.errors import MissingExtra
from pipeflow.formats.rows import NULL, Reading, Slice
from pipeflow.messages import Column

try:
    import pyarrow as pa
except ImportError as error:
    raise MissingExtra("a columnar format", "parquet") from error

MILLISECONDS_FROM = 1e11
"""Numbers from here on are milliseconds since 1970, smaller ones seconds: the year 5138, or March 1973."""


def batches(columns: tuple[Column, ...], schema: Any, reading: Reading) -> Iterator[Any]:
    """The rows as record batches, slice by slice: never all of them in memory as Python objects or as columns."""
    for part in reading.slices():
        yield _batch(columns, schema, part, reading)


def _batch(columns: tuple[Column, ...], schema: Any, part: Slice, reading: Reading) -> Any:
    """The slice as columns, without the records whose values no column takes."""
    arrays: list[Any] = []
    bad: dict[int, str] = {}
    for column, field, get in zip(columns, schema, reading.getters, strict=True):
        values = list(map(get, part.rows))
        convert = _converter(column)
        try:
            arrays.append(pa.array(values if convert is None else list(map(convert, values)), field.type))
        except _FAILURES:
            bad.update(_misfits(column, field.type, values))
            if not bad:
                raise
    if bad:
        return _batch(columns, schema, reading.refuse(part, bad), reading)
    return pa.record_batch(arrays, schema=schema)


_FAILURES: Final = (pa.ArrowException, ValueError, OverflowError, TypeError, OSError)
"""What a value that does not fit raises; the last two of them are datetime's about numbers that are no times."""


def _misfits(column: Column, kind: Any, values: Sequence[object]) -> dict[int, str]:
    """What is wrong with each value that the column does not take."""
    convert = _converter(column)
    bad: dict[int, str] = {}
    for row, value in enumerate(values):
        try:
            pa.array([value if convert is None else convert(value)], kind)
        except _FAILURES as error:
            bad[row] = f"{error} - at `$.{column.name}`"
    return bad


@cache
def arrow_schema(columns: tuple[Column, ...], unit: str = "us") -> Any:
    """The columns as Arrow knows them, with times in this unit."""
    return pa.schema([_field(column, unit) for column in columns])


def _field(column: Column, unit: str) -> Any:
    return pa.field(column.name, _type(column, unit), nullable=not column.required)


def _type(column: Column, unit: str) -> Any:
    if column.type == "list":
        return pa.list_(_field(column.fields[0], unit))
    if column.type == "map":
        return pa.map_(pa.string(), _field(column.fields[0], unit))
    if column.type == "struct":
        return pa.struct([_field(field, unit) for field in column.fields])
    if column.type.startswith("decimal("):
        precision, scale = column.type[8:-1].split(",")
        return pa.decimal128(int(precision), int(scale))
    if column.type == "timestamp":
        return pa.timestamp(unit, "UTC")
    if column.type == "date":
        return pa.date32()
    return pa.string() if column.type == "json" else getattr(pa, _ARROW_NAMES.get(column.type, column.type))()


_ARROW_NAMES: Final = {"bool": "bool_"}


def _converter(column: Column) -> Callable[[object], object] | None:
    """What becomes of a value before Arrow takes it; None: nothing."""
    if column.type == "json":
        return _json_text
    return _instant if column.type == "timestamp" else None


def _json_text(value: object) -> str | None:
    raw = bytes(value) if isinstance(value, Raw) else NULL
    return None if raw == NULL else raw.decode()


def _instant(value: object) -> object:
    """Numbers are seconds or milliseconds since 1970 (Firehose: S64); a time without a zone is UTC."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value / 1000 if abs(value) >= MILLISECONDS_FROM else value, UTC)
    return value
