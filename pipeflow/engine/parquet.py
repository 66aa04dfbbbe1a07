"""Rows as one Parquet file, compressed inside (Firehose: S67, S68). Needs pyarrow, the extra `parquet`.

The same rows give the same bytes: nothing of the time or the machine is written, only the version of pyarrow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from msgspec import Raw

from pipeflow.engine.rows import NULL, Reading, Slice
from pipeflow.errors import MissingExtra
from pipeflow.messages import Column

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise MissingExtra("format='parquet'", "parquet") from error

GROUP_ROWS = 100_000
"""Rows of a row group, at most about ..."""

GROUP_BYTES = 64 << 20
"""... and its bytes in memory."""

MILLISECONDS_FROM = 1e11
"""Numbers from here on are milliseconds since 1970, smaller ones seconds: the year 5138, or March 1973."""

_COMPRESSIONS: Final[dict[str, Any]] = {"none": "NONE", "gzip": "GZIP", "zstd": "ZSTD", "snappy": "SNAPPY"}


def parquet_file(
    columns: tuple[Column, ...], compression: str, level: int | None, reading: Reading
) -> tuple[bytes, int]:
    """(the file, its rows)."""
    schema = arrow_schema(columns)
    out = pa.BufferOutputStream()
    written = rows = size = 0
    group: list[Any] = []
    packed = _COMPRESSIONS[compression]
    with pq.ParquetWriter(out, schema, compression=packed, compression_level=level, version="2.6") as writer:
        for part in reading.slices():
            batch = _batch(columns, schema, part, reading)
            group.append(batch)
            rows += batch.num_rows
            size += batch.nbytes
            if rows >= GROUP_ROWS or size >= GROUP_BYTES:
                _write_group(writer, schema, group)
                written += rows
                group, rows, size = [], 0, 0
        _write_group(writer, schema, group)
    content: bytes = out.getvalue().to_pybytes()
    return content, written + rows


def _write_group(writer: Any, schema: Any, group: list[Any]) -> None:
    table = pa.Table.from_batches(group, schema)
    if table.num_rows:
        writer.write_table(table, row_group_size=table.num_rows)


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


_FAILURES: Final = (pa.ArrowException, ValueError, OverflowError, TypeError)


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
def arrow_schema(columns: tuple[Column, ...]) -> Any:
    """The columns as Arrow knows them."""
    return pa.schema([_field(column) for column in columns])


def _field(column: Column) -> Any:
    return pa.field(column.name, _type(column), nullable=not column.required)


def _type(column: Column) -> Any:
    if column.type == "list":
        return pa.list_(_field(column.fields[0]))
    if column.type == "map":
        return pa.map_(pa.string(), _field(column.fields[0]))
    if column.type == "struct":
        return pa.struct([_field(field) for field in column.fields])
    if column.type.startswith("decimal("):
        precision, scale = column.type[8:-1].split(",")
        return pa.decimal128(int(precision), int(scale))
    if column.type == "timestamp":
        return pa.timestamp("us", "UTC")
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
