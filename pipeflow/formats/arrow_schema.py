"""The columns of a stream as Arrow knows them. Needs pyarrow, the extra `parquet`."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from pipeflow.errors import MissingExtra
from pipeflow.messages import Column

try:
    import pyarrow as pa
except ImportError as error:
    raise MissingExtra("a columnar format", "parquet") from error


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
