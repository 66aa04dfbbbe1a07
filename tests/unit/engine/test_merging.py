"""Several objects as one: the content of all, in order, the same bytes each time, and what does not fit is refused."""

from __future__ import annotations

import csv
import gzip
import io
import sys
from collections.abc import Sequence
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeflow.errors import ObjectDamaged, ObjectRefused
from pipeflow.files import FileFacts
from pipeflow.formats.compress import compressor
from pipeflow.formats.decompress import decompressed
from pipeflow.formats.merging import LineMerging, Merging, merging


def like(format: str, compression: str) -> FileFacts:
    return FileFacts("x", "", "rows", 1, 1, 1, 1, 1, 1, format, compression, 0, 0.0, 0.0)


def merged(merging: Merging, contents: Sequence[bytes]) -> tuple[bytes, int]:
    for content in contents:
        merging.add(content)
    chunks, raw_size = merging.finish()
    return b"".join(chunks), raw_size


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("level", [None, 7])
@given(parts=st.lists(st.binary(max_size=300), min_size=1, max_size=6))
def test_lines_are_those_of_all_inputs_in_one_stream(compression: str, level: int | None, parts: list[bytes]) -> None:
    inputs = [compressor(compression, None)(part) for part in parts]
    content, raw_size = merged(merging(like("jsonl", compression), level), inputs)
    assert b"".join(decompressed(content, compression)) == b"".join(parts)
    assert raw_size == sum(map(len, parts))
    assert (content, raw_size) == merged(merging(like("jsonl", compression), level), inputs)
    if compression == "gzip":
        assert content[4:8] == bytes(4)  # no time of day


def test_a_gzip_stream_has_one_member(monkeypatch: pytest.MonkeyPatch) -> None:
    import zlib

    content, _ = merged(merging(like("raw", "gzip"), None), [gzip.compress(b"one"), gzip.compress(b"two")])
    reader = zlib.decompressobj(31)
    assert reader.decompress(content) == b"onetwo"
    assert reader.unused_data == b""


def test_an_input_of_several_members_is_read_to_its_end() -> None:
    content, _ = merged(merging(like("raw", "gzip"), None), [gzip.compress(b"one") + gzip.compress(b"two")])
    assert gzip.decompress(content) == b"onetwo"


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_what_does_not_unpack_is_refused(compression: str) -> None:
    whole = compressor(compression, None)(b"text" * 1_000)
    with pytest.raises(ObjectDamaged, match=f"does not unpack as {compression}"):
        merging(like("raw", compression), None).add(b"no such thing")
    if compression == "gzip":
        with pytest.raises(ObjectDamaged, match="does not unpack"):
            merging(like("raw", compression), None).add(whole[:-9])


def table(columns: list[str], rows: list[list[str]]) -> bytes:
    lines = io.StringIO(newline="")
    csv.writer(lines).writerows([columns, *rows])
    return lines.getvalue().encode()


names = st.text(st.sampled_from('ab,"\r\n'), min_size=1, max_size=5)
rows = st.lists(st.lists(st.text(st.sampled_from('xy,"\r\n'), max_size=4), min_size=2, max_size=2), max_size=4)


@given(st.lists(names, min_size=2, max_size=2), st.lists(rows, min_size=1, max_size=4))
def test_a_csv_keeps_one_header_whatever_stands_in_it(columns: list[str], tables: list[list[list[str]]]) -> None:
    content, _ = merged(merging(like("csv", "none"), None), [table(columns, rows) for rows in tables])
    assert list(csv.reader(io.StringIO(content.decode(), newline=""))) == [
        columns,
        *(r for rows in tables for r in rows),
    ]


def test_a_csv_with_other_columns_is_refused() -> None:
    made = merging(like("csv", "gzip"), None)
    made.add(gzip.compress(table(["a", "b"], [["1", "2"]])))
    with pytest.raises(ObjectRefused, match=r"the columns b'a,c\\r\\n', and the one before it b'a,b\\r\\n'"):
        made.add(gzip.compress(table(["a", "c"], [["1", "2"]])))
    with pytest.raises(ObjectDamaged, match="no line with the names"):
        made.add(gzip.compress(b"no line at all"))


@pytest.fixture
def parquet() -> ModuleType:
    module: ModuleType = pytest.importorskip(
        "pyarrow.parquet", reason="merges Parquet files: pip install 'pipeflow[parquet]'"
    )
    return module


def parquet_of(parquet: ModuleType, columns: dict[str, list[object]]) -> bytes:
    import pyarrow as pa

    out = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), out)
    content: bytes = out.getvalue().to_pybytes()
    return content


def test_parquet_files_become_one_with_large_row_groups(parquet: ModuleType) -> None:
    import pyarrow as pa

    inputs = [parquet_of(parquet, {"n": list(range(start, start + 100))}) for start in range(0, 1_000, 100)]
    content, _ = merged(merging(like("parquet", "zstd"), None), inputs)
    file = parquet.ParquetFile(pa.BufferReader(content))
    assert file.metadata.num_row_groups == 1
    assert file.read().column("n").to_pylist() == list(range(1_000))
    assert content == merged(merging(like("parquet", "zstd"), None), inputs)[0]


def test_a_parquet_file_with_other_columns_or_none_at_all_is_refused(parquet: ModuleType) -> None:
    made = merging(like("parquet", "zstd"), None)
    made.add(parquet_of(parquet, {"n": [1]}))
    with pytest.raises(ObjectRefused, match="other columns"):
        made.add(parquet_of(parquet, {"m": [1]}))
    with pytest.raises(ObjectDamaged, match="no Parquet file"):
        made.add(b"nothing of the kind")


def test_without_isal_the_standard_library_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeflow.formats.merging.isal_zlib", None)
    content, _ = merged(LineMerging("gzip", None), [gzip.compress(b"one"), gzip.compress(b"two")])
    assert gzip.decompress(content) == b"onetwo"


def test_merging_lines_loads_no_parquet() -> None:
    import subprocess

    script = "import sys, pipeflow.engine.compaction; print('pyarrow' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
