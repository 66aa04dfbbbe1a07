"""Rows as one Parquet file, compressed inside (Firehose: S67, S68). Needs pyarrow, the extra `parquet`.

The same rows give the same bytes: nothing of the time or the machine is written, only the version of pyarrow. Beside
the records one row group is in memory, not the table.
"""

from __future__ import annotations

from typing import Any, Final

from pipeflow.errors import ObjectDamaged, ObjectRefused
from pipeflow.formats.arrow import batches
from pipeflow.formats.arrow_schema import arrow_schema
from pipeflow.formats.compress import GZIP_LEVEL
from pipeflow.formats.rows import Reading
from pipeflow.messages import Column

# Behind the module that says what is missing.
import pyarrow as pa  # isort: skip
import pyarrow.parquet as pq  # isort: skip

GROUP_ROWS = 100_000
"""Rows of a row group, at most about ..."""

GROUP_BYTES = 64 << 20
"""... and its bytes in memory."""

_COMPRESSIONS: Final[dict[str, Any]] = {"none": "NONE", "gzip": "GZIP", "zstd": "ZSTD", "snappy": "SNAPPY"}

_LEVELS: Final = {"gzip": GZIP_LEVEL}
"""Where pyarrow's own default does not pay: its 9 takes up to twenty times as long for no less."""


def parquet_file(
    columns: tuple[Column, ...], compression: str, level: int | None, reading: Reading
) -> tuple[bytes, int]:
    """(the file, its rows)."""
    schema = arrow_schema(columns)
    out = pa.BufferOutputStream()
    packed, level = _COMPRESSIONS[compression], level or _LEVELS.get(compression)
    written = rows = size = 0
    group: list[Any] = []
    with pq.ParquetWriter(out, schema, compression=packed, compression_level=level, version="2.6") as writer:
        for batch in batches(columns, schema, reading):
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


class ParquetMerging:
    """Parquet files as one, whose row groups are as large as those of a file that was written at once."""

    def __init__(self, compression: str, level: int | None) -> None:
        self._packed = _COMPRESSIONS[compression]
        self._level = level or _LEVELS.get(compression)
        self._out = pa.BufferOutputStream()
        self._writer: Any = None
        self._schema: Any = None
        self._group: list[Any] = []
        self._rows = self._size = 0

    def add(self, content: bytes) -> None:
        """One more file. ObjectDamaged when it is none, ObjectRefused when it has other columns."""
        try:
            file = pq.ParquetFile(pa.BufferReader(content))
            if self._writer is None:
                self._schema = file.schema_arrow
                self._writer = pq.ParquetWriter(
                    self._out, self._schema, compression=self._packed, compression_level=self._level, version="2.6"
                )
            elif not file.schema_arrow.equals(self._schema):
                raise ObjectRefused("this Parquet file has other columns than the one before it")
            for batch in file.iter_batches(batch_size=GROUP_ROWS):
                self._take(batch)
        except (pa.ArrowException, OSError) as error:
            raise ObjectDamaged(f"it is no Parquet file: {error}") from error

    def finish(self) -> tuple[list[bytes], int]:
        """(the file, 0: the bytes of its records are not known here)."""
        self._close_group()
        self._writer.close()
        return [self._out.getvalue().to_pybytes()], 0

    def _take(self, batch: Any) -> None:
        self._group.append(batch)
        self._rows += batch.num_rows
        self._size += batch.nbytes
        if self._rows >= GROUP_ROWS or self._size >= GROUP_BYTES:
            self._close_group()

    def _close_group(self) -> None:
        _write_group(self._writer, self._schema, self._group)
        self._group, self._rows, self._size = [], 0, 0


def _write_group(writer: Any, schema: Any, group: list[Any]) -> None:
    table = pa.Table.from_batches(group, schema)
    if table.num_rows:
        writer.write_table(table, row_group_size=table.num_rows)
