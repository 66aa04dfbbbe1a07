"""Rows as one ORC file, compressed inside (Firehose: S67, S68). Needs pyarrow, the extra `parquet`.

The same rows give the same bytes for one version of pyarrow. Beside the records one stripe is in memory.
"""

from __future__ import annotations

from typing import Final

from pipeflow.formats.arrow import batches
from pipeflow.formats.arrow_schema import arrow_schema
from pipeflow.formats.rows import Reading
from pipeflow.messages import Column

# Behind the module that says what is missing.
import pyarrow as pa  # isort: skip
import pyarrow.orc as orc  # isort: skip

STRIPE_BYTES = 64 << 20
"""Bytes of a stripe, at most about: what Firehose writes by default."""

DICTIONARY = 0.8
"""Part of a text column's values that may be distinct for it to become a dictionary, as Hive has it: files are a
seventh to a fifth smaller than without."""

_COMPRESSIONS: Final = {"none": "uncompressed", "gzip": "zlib", "zstd": "zstd", "snappy": "snappy"}


def orc_file(columns: tuple[Column, ...], compression: str, level: int | None, reading: Reading) -> tuple[bytes, int]:
    """(the file, its rows); no rows, no file. ORC has no levels."""
    # pyarrow reads times of ORC in nanoseconds, and refuses a whole file for one beyond the years 1677 to 2262.
    schema = arrow_schema(columns, "ns")
    out = pa.BufferOutputStream()
    rows = 0
    with orc.ORCWriter(
        out,
        compression=_COMPRESSIONS[compression],
        stripe_size=STRIPE_BYTES,
        dictionary_key_size_threshold=DICTIONARY,
    ) as writer:
        for batch in batches(columns, schema, reading):
            if batch.num_rows:
                writer.write(pa.Table.from_batches([batch], schema))
                rows += batch.num_rows
    content: bytes = out.getvalue().to_pybytes() if rows else b""
    return content, rows
