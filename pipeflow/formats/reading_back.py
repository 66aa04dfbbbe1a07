"""The records of one delivered object again, in batches: as they were put, or, out of rows, as JSON objects.

Only whole objects are read, and only those in which every record is found where the catalogue says: one that is not
what was written is told before anything is made of it.
"""

from __future__ import annotations

import codecs
import csv
import io
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from pipeflow.checksum import crc32
from pipeflow.errors import MissingExtra, ObjectDamaged, PipeflowError
from pipeflow.formats.decompress import decompressed
from pipeflow.messages import Column

LONGEST = 256 << 20
"""Bytes of a record, at most: behind them no delimiter is looked for any more."""

ROWS = 1_000
"""Rows of a columnar file that are objects of Python at once."""

_json = msgspec.json.Encoder().encode
_parsed = msgspec.json.Decoder(Raw).decode


class Shape(Struct, frozen=True):
    """What has to be known of an object to read it."""

    format: str
    compression: str
    delimiter: bytes = b"\n"
    columns: tuple[Column, ...] = ()
    """The stream's own, which say what is a number and what is a text in csv."""
    errors: bool = False
    """It holds failed records: those are given back, as they came, and not what tells of them."""


class _Failed(Struct):
    rawData: str


_failed = msgspec.json.Decoder(_Failed).decode


def checked(content: bytes, *, size: int, crc: int) -> bytes:
    """The content, if it is what was written; ObjectDamaged."""
    if len(content) != size:
        raise ObjectDamaged(f"it has {len(content)} bytes, and {size} were written")
    found = crc32(content)
    if found != crc:
        raise ObjectDamaged(f"its CRC-32 is {found:08x}, and {crc:08x} was written")
    return content


def unreadable(shape: Shape) -> str | None:
    """Why records cannot be told apart in objects of this shape; None when they can."""
    if not shape.errors and shape.format in ("raw", "jsonl") and not shape.delimiter:
        return (
            f"format={shape.format!r} without a delimiter writes records one behind the other, and nobody can tell "
            'them apart again; declare the stream with delimiter=b"\\n" for what comes from now on'
        )
    return None


def records(content: bytes, shape: Shape) -> Iterator[list[bytes]]:
    """Every record, a batch at a time. For worker threads. ObjectDamaged: these bytes are no such object."""
    try:
        yield from _records(content, shape)
    except PipeflowError:
        raise
    except Exception as error:  # what the decoders of a dozen formats raise
        raise ObjectDamaged(f"it does not read as {shape.format}, {shape.compression}: {error}") from error


def count(content: bytes, shape: Shape) -> int:
    """How many records there are. For worker threads."""
    if not shape.errors and shape.format in ("parquet", "orc"):
        try:
            rows: int = _columnar(content, shape.format).rows
        except _arrow_errors() as error:
            raise ObjectDamaged(f"it does not read as {shape.format}: {error}") from error
        return rows
    return sum(map(len, records(content, shape)))


def _records(content: bytes, shape: Shape) -> Iterator[list[bytes]]:
    if shape.errors:
        for lines in _split(decompressed(content, shape.compression), b"\n"):
            yield [b64decode(_failed(line).rawData, validate=True) for line in lines]
    elif shape.format == "csv":
        yield from _csv(decompressed(content, shape.compression), shape.columns)
    elif shape.format in ("parquet", "orc"):
        yield from _rows(content, shape)
    else:
        reason = unreadable(shape)
        if reason is not None:
            raise ObjectDamaged(reason)
        yield from _split(decompressed(content, shape.compression), shape.delimiter)


def _split(pieces: Iterator[bytes], delimiter: bytes) -> Iterator[list[bytes]]:
    """What stands before each delimiter; the delimiter follows the last record too (Firehose: S23)."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(delimiter)
        if len(rest) > LONGEST:
            raise ObjectDamaged(f"a record goes on for more than {LONGEST} bytes")
        if whole:
            yield whole
    if rest:
        raise ObjectDamaged(f"its last record does not end in {delimiter!r}")


# csv


def _csv(pieces: Iterator[bytes], columns: Sequence[Column]) -> Iterator[list[bytes]]:
    if csv.field_size_limit() < LONGEST:
        csv.field_size_limit(LONGEST)  # of the whole process, and upwards only
    rows = csv.reader(_lines(pieces), strict=True)
    header = next(rows, None)
    if header is None:
        return
    known = {column.name: column for column in columns}
    readers = [_cell_reader(known.get(name)) for name in header]
    batch: list[bytes] = []
    for row in rows:
        if len(row) != len(header):
            raise ObjectDamaged(f"line {rows.line_num} has {len(row)} cells, and its header {len(header)}")
        batch.append(_json({name: read(cell) for name, read, cell in zip(header, readers, row, strict=True)}))
        if len(batch) >= ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _lines(pieces: Iterator[bytes]) -> Iterator[str]:
    decode = codecs.getincrementaldecoder("utf-8")().decode
    rest = ""
    for piece in pieces:
        *whole, rest = (rest + decode(piece)).split("\n")
        for line in whole:
            yield line + "\n"
    rest += decode(b"", True)
    if rest:
        raise ObjectDamaged("its last line does not end")


def _cell_reader(column: Column | None) -> Callable[[str], object]:
    """A cell as the value it was; nothing is null, but in a text that has to be there."""
    if column is None:
        return _text_or_null
    if column.type in ("string", "binary", "date") or column.type.startswith("decimal"):
        return str if column.required else _text_or_null
    if column.type == "timestamp":
        return _moment
    return _json_or_text if column.type == "json" else _json_or_null


def _text_or_null(cell: str) -> str | None:
    return cell or None


def _json_or_null(cell: str) -> Raw | None:
    return _parsed(cell) if cell else None


def _json_or_text(cell: str) -> Raw | str | None:
    try:
        return _parsed(cell) if cell else None
    except msgspec.DecodeError:
        return cell  # texts stand without their quotes


def _moment(cell: str) -> Raw | str | None:
    # Seconds since 1970 stay a number.
    return _json_or_text(cell)


# Parquet and ORC


class _Columnar(Struct):
    """A file of rows: how many, its columns' types, and the rows in batches."""

    rows: int
    schema: Any
    batches: Iterator[Any]


def _columnar(content: bytes, format: str) -> _Columnar:
    try:
        import pyarrow as pa

        if format == "parquet":
            import pyarrow.parquet as pq
        else:
            from pyarrow import orc
    except ImportError as error:
        raise MissingExtra(f"format={format!r}", "parquet") from error
    if format == "parquet":
        file = pq.ParquetFile(pa.BufferReader(content))
        return _Columnar(file.metadata.num_rows, file.schema_arrow, file.iter_batches(ROWS))
    striped = orc.ORCFile(io.BytesIO(content))
    return _Columnar(striped.nrows, striped.schema, map(striped.read_stripe, range(striped.nstripes)))


def _arrow_errors() -> tuple[type[Exception], ...]:
    try:
        from pyarrow import ArrowException
    except ImportError:
        return (OSError, ValueError)
    return (ArrowException, OSError, ValueError)


def _rows(content: bytes, shape: Shape) -> Iterator[list[bytes]]:
    file = _columnar(content, shape.format)
    texts = {column.name for column in shape.columns if column.type == "json"}
    plain = {field.name: _raw_json if field.name in texts else _plain(field.type) for field in file.schema}
    changes = [(name, change) for name, change in plain.items() if change is not None]
    wanted = [_in_microseconds(field.type) for field in file.schema]
    for batch in file.batches:
        for start in range(0, batch.num_rows, ROWS):
            part = batch.slice(start, ROWS)
            cells = [
                values if values.type == kind else values.cast(kind, safe=False)
                for values, kind in zip(part.columns, wanted, strict=True)
            ]
            rows = zip(*(values.to_pylist() for values in cells), strict=True)
            names = part.schema.names
            yield [_row(dict(zip(names, row, strict=True)), changes) for row in rows]


def _row(row: dict[str, Any], changes: list[tuple[str, Callable[[Any], object]]]) -> bytes:
    for name, change in changes:
        value = row[name]
        if value is not None:
            row[name] = change(value)
    return _json(row)


def _in_microseconds(kind: Any) -> Any:
    """The type with instants such as Python has them: ORC gives nanoseconds back, and both are UTC."""
    import pyarrow as pa

    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC")
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_in_microseconds(kind.value_type)))
    if pa.types.is_map(kind):
        return pa.map_(kind.key_field, kind.item_field.with_type(_in_microseconds(kind.item_type)))
    if pa.types.is_struct(kind):
        fields = [kind.field(n) for n in range(kind.num_fields)]
        return pa.struct([field.with_type(_in_microseconds(field.type)) for field in fields])
    return kind


def _raw_json(text: str) -> Raw:
    return Raw(text.encode())


def _plain(kind: Any) -> Callable[[Any], object] | None:
    """What makes values of this type such as JSON has them: maps are lists of pairs to Arrow. None: they are."""
    from pyarrow import types

    if types.is_map(kind):
        item = _plain(kind.item_type) or _same
        return lambda pairs: {key: value if value is None else item(value) for key, value in pairs}
    if types.is_list(kind) or types.is_large_list(kind):
        inner = _plain(kind.value_type)
        return inner and (lambda values: [value if value is None else inner(value) for value in values])
    if types.is_struct(kind):
        fields = {kind.field(n).name: _plain(kind.field(n).type) for n in range(kind.num_fields)}
        changes = [(name, change) for name, change in fields.items() if change is not None]
        return (lambda row: _changed(row, changes)) if changes else None
    return None


def _changed(row: dict[str, Any], changes: list[tuple[str, Callable[[Any], object]]]) -> dict[str, Any]:
    return row | {name: change(row[name]) for name, change in changes if row[name] is not None}


def _same(value: Any) -> object:
    return value
