"""Rows as one Parquet file, compressed inside (Firehose: S67, S68). Needs pyarrow, the extra `parquet`.

The same rows give the same bytes: nothing of the time or the machine is written, only the version of pyarrow. Beside
the records one row group is in memory, not the table.
"""

from __future__ import annotations

from typing import Any, Final

from pipeflow.engine.arrow import arrow_schema, batches
from pipeflow.engine.compress import GZIP_LEVEL
from pipeflow.engine.rows import Reading
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


def _write_group(writer: Any, schema: Any, group: list[Any]) -> None:
    table = pa.Table.from_batches(group, schema)
    if table.num_rows:
        writer.write_table(table, row_group_size=table.num_rows)
