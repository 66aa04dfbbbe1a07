"""Large segments become rows without all of them being in memory as columns, measured in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("pyarrow", reason="writes Parquet and ORC files: pip install 'pipeflow[parquet]'")

PROGRAM = """
import resource, sys
from pipeflow.formats.convert import convert
from pipeflow.messages import Column, Records, Segment

format, compression, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
columns = (Column("id", "int64", True), Column("text", "string", True))
bodies = [b'{"id":%d,"text":"%s"}' % (n, b"%08d flight " % n * 62) for n in range(count)]
size = sum(map(len, bodies))
segment = Segment(1, "lake", "", 1, 1, 1, size, 0.0, 1.0, "size", "l", format, compression, b"", columns, "e")
convert(segment, [Records(1, 0.0, bodies[:10])])  # loads what it needs
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made = convert(segment, [Records(1, 0.0, bodies)])
assert made.objects[0].records == len(bodies)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
unit = 1 if sys.platform == "darwin" else 1024
print(size >> 20, (peak - before) * unit >> 20)
"""


@pytest.mark.parametrize(
    ("format", "compression", "count", "bound"),
    [
        ("parquet", "zstd", 256_000, 200),  # one row group as columns, and as the pages it becomes; 130 were measured
        ("orc", "zstd", 256_000, 100),  # one stripe; 30 were measured
        ("csv", "gzip", 64_000, 90),  # the text, which is compressed as a whole; 65 were measured
    ],
)
def test_S68_converting_a_large_segment_takes_a_bounded_part_of_it_beside_the_records(
    format: str, compression: str, count: int, bound: int
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, format, compression, str(count)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    size, extra = map(int, ran.stdout.split())
    assert size > 700 * count >> 20
    assert extra < bound
