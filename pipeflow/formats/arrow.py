"""Rows as columns in memory, which columnar files are written from. Needs pyarrow, the extra `parquet`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import Raw

from pipeflow.formats.arrow_json import quick_batch
from pipeflow.formats.columns import flat
from pipeflow.formats.rows import NULL, SLICE, Reading, Slice
from pipeflow.messages import Column

# Behind the module that says what is missing.
import pyarrow as pa  # isort: skip

QUICK_SLICE: Final = 20_000
"""Rows that Arrow reads by itself at once. Between two slices the thread waits for the interpreter, up to 5 ms each
time while the loop is busy."""

MILLISECONDS_FROM = 1e11
"""Numbers from here on are milliseconds since 1970, smaller ones seconds: the year 5138, or March 1973."""


def batches(columns: tuple[Column, ...], schema: Any, reading: Reading) -> Iterator[Any]:
    """The rows as record batches, slice by slice: never all of them in memory as Python objects or as columns."""
    for start, bodies in reading.pieces(QUICK_SLICE if flat(columns) else SLICE):
        batch = quick_batch(columns, schema, bodies) if flat(columns) else None
        if batch is not None:
            yield batch
            continue
        for first in range(0, len(bodies), SLICE):
            yield _batch(columns, schema, reading.slice(start + first, bodies[first : first + SLICE]), reading)


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
