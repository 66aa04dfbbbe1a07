"""From records to bytes: what is written reads back, and equal records give equal bytes."""

from __future__ import annotations

import gzip
import zlib

from pipeflow.formats.encode import encode
from pipeflow.messages import Records, Segment


def segment(compression: str = "gzip", delimiter: bytes = b"\n", level: int | None = None) -> Segment:
    return Segment(
        1, "lake", "", 1, 3, 3, 9, 0.0, 1.0, "time", "lake-1.jsonl.gz", "jsonl", compression, delimiter,
        compression_level=level,
    )  # fmt: skip


BLOCKS = [Records(1, 0.0, [b"one", b""]), Records(3, 0.5, [b"three"])]


def test_gzip_reads_back_with_facts_that_are_true() -> None:
    obj, facts = encode(segment(), BLOCKS)
    content = b"".join(obj.chunks)
    assert gzip.decompress(content) == b"one\n\nthree\n"
    assert (facts.name, facts.size, facts.crc, facts.records) == (obj.name, len(content), zlib.crc32(content), 3)


def test_p17_the_same_segment_gives_the_same_bytes() -> None:
    first, _ = encode(segment(), BLOCKS)
    again, _ = encode(segment(), [Records(1, 9.0, [b"one", b"", b"three"])])
    assert first.chunks == again.chunks
    assert first.chunks[0][4:8] == bytes(4)  # no time of day in the header


def test_S11_an_object_of_one_empty_record_is_one_empty_line() -> None:
    obj, _ = encode(segment("none"), [Records(1, 0.0, [b""])])
    assert obj.chunks == [b"\n"]


def test_S23_without_a_delimiter_nothing_stands_between_records() -> None:
    obj, _ = encode(segment("none", b""), BLOCKS)
    assert obj.chunks == [b"onethree"]


def test_the_level_a_segment_was_sealed_with_is_that_of_its_object() -> None:
    quick, _ = encode(
        segment(level=1), [Records(1, 0.0, [b'{"id":%d,"delay":%d}' % (n, n % 77) for n in range(5_000)])]
    )
    small, _ = encode(
        segment(level=9), [Records(1, 0.0, [b'{"id":%d,"delay":%d}' % (n, n % 77) for n in range(5_000)])]
    )
    assert len(small.chunks[0]) < len(quick.chunks[0])
