"""One object, one compressed stream: readers that are not ours read it, and equal bytes make equal bytes."""

from __future__ import annotations

import gzip
import importlib
import io
import struct
import sys
import types
import zipfile
from collections.abc import Callable
from random import Random

import pytest

from pipeflow.errors import ConfigurationError, MissingExtra
from pipeflow.formats import compress as compressing
from pipeflow.specs import LEVELS, Compression, Format, StreamSpec

LINES = b"".join(b'{"id":%d,"carrier":"UA","delay":%d}\n' % (n, n * 7 % 300) for n in range(20_000))
NOISE = Random(7).randbytes(400_000)
CONTENTS = [b"", b"x", LINES, NOISE, LINES + NOISE]


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> types.ModuleType:
    """The module as it is where these packages are not installed."""
    for name in packages:
        monkeypatch.setitem(sys.modules, name, None)
    found = importlib.util.find_spec("pipeflow.formats.compress")
    assert found is not None
    assert found.loader is not None
    copy = importlib.util.module_from_spec(found)
    found.loader.exec_module(copy)
    return copy


@pytest.fixture(params=["isal", "zlib"])
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """With and without the faster package."""
    if request.param == "isal":
        pytest.importorskip("isal", reason="the faster gzip: pip install 'pipeflow[fast]'")
        return compressing
    return without(monkeypatch, "isal", "isal.igzip", "isal.isal_zlib")


def unzstd(packed: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard", reason="reads zstd back: pip install 'pipeflow[fast]'")
    content: bytes = zstandard.ZstdDecompressor().decompress(packed)
    return content


def unzipped(packed: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(packed)) as file:
        assert file.testzip() is None
        (entry,) = file.infolist()
        return file.read(entry)


def unframed(packed: bytes) -> bytes:
    """Snappy's framing format, read chunk by chunk; the raw blocks by pyarrow's snappy, which is another one."""
    pa = pytest.importorskip("pyarrow", reason="reads snappy back: pip install 'pipeflow[parquet]'")
    assert packed[:10] == b"\xff\x06\x00\x00sNaPpY"
    content, at = b"", 10
    while at < len(packed):
        kind, length = packed[at], int.from_bytes(packed[at + 1 : at + 4], "little")
        body = packed[at + 8 : at + 4 + length]  # behind four bytes of checksum
        assert kind in (0, 1)
        content += pa.Codec("snappy").decompress(body, raw_length(body)).to_pybytes() if kind == 0 else body
        at += 4 + length
    return content


def unblocked(packed: bytes) -> bytes:
    """Hadoop's blocks: content length, then chunks with their length until the content is that long."""
    pa = pytest.importorskip("pyarrow", reason="reads snappy back: pip install 'pipeflow[parquet]'")
    content, at = b"", 0
    while at < len(packed):
        (whole,) = struct.unpack_from(">I", packed, at)
        assert whole <= 256 << 10, "Hadoop's readers take no more by default"
        at += 4
        block = b""
        while len(block) < whole:
            (length,) = struct.unpack_from(">I", packed, at)
            assert length <= 256 << 10
            raw = packed[at + 4 : at + 4 + length]
            block += pa.Codec("snappy").decompress(raw, raw_length(raw)).to_pybytes()
            at += 4 + length
        assert len(block) == whole
        content += block
    return content


def raw_length(raw: bytes) -> int:
    """What a raw snappy block says its content's length is."""
    length = shift = 0
    for byte in raw:
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    return length


READERS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": gzip.decompress,
    "zip": unzipped,
    "zstd": unzstd,
    "snappy": unframed,
    "hadoop-snappy": unblocked,
}


@pytest.mark.parametrize("content", CONTENTS, ids=["empty", "byte", "lines", "noise", "both"])
@pytest.mark.parametrize("compression", READERS)
def test_S48_an_object_is_one_stream_that_others_read_back_and_is_the_same_again(
    compression: str, content: bytes
) -> None:
    if "snappy" in compression:
        pytest.importorskip("cramjam", reason="writes snappy: pip install 'pipeflow[snappy]'")
    packed = compressing.compressor(compression)(content, "logs/lake-1.jsonl.x")
    assert READERS[compression](packed) == content
    assert compressing.compressor(compression)(bytes(bytearray(content)), "logs/lake-1.jsonl.x") == packed


@pytest.mark.parametrize("content", CONTENTS, ids=["empty", "byte", "lines", "noise", "both"])
def test_S48_snappy_reads_back_with_the_checksums_of_its_frames(content: bytes) -> None:
    cramjam = pytest.importorskip("cramjam", reason="writes snappy: pip install 'pipeflow[snappy]'")
    assert bytes(cramjam.snappy.decompress(compressing.compressor("snappy")(content))) == content


def test_S48_a_zip_file_has_one_entry_named_like_its_object_and_no_time_of_day() -> None:
    packed = compressing.compressor("zip")(LINES, "logs/2013/lake-1.jsonl.zip")
    (entry,) = zipfile.ZipFile(io.BytesIO(packed)).infolist()
    assert (entry.filename, entry.date_time) == ("lake-1.jsonl", (1980, 1, 1, 0, 0, 0))
    assert compressing.compressor("zip")(LINES, "lake-1.data").count(b"lake-1.data") == 2


@pytest.mark.parametrize("level", [None, *range(1, 10)])
def test_S48_every_level_of_gzip_reads_back_with_isal_and_without(module: types.ModuleType, level: int | None) -> None:
    pack = module.compressor("gzip", level)
    packed = pack(LINES, "")
    assert gzip.decompress(packed) == LINES
    assert pack(LINES, "") == packed
    assert packed[4:8] == bytes(4)  # no time of day in the header
    assert len(packed) < len(LINES) / 3


@pytest.mark.parametrize("compression", LEVELS)
def test_a_higher_level_makes_less_of_it_and_every_level_reads_back(compression: str) -> None:
    if compression == "zstd":
        pytest.importorskip("zstandard", reason="writes zstd: pip install 'pipeflow[fast]'")
    sizes = []
    for level in range(1, LEVELS[compression] + 1):
        packed = compressing.compressor(compression, level)(LINES[:200_000])
        assert READERS[compression](packed) == LINES[:200_000]
        sizes.append(len(packed))
    assert sizes[-1] < sizes[0]


def test_zstd_is_the_standard_librarys_from_python_3_14_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[bytes, int]] = []

    class Zstd(types.ModuleType):
        @staticmethod
        def compress(content: bytes, level: int) -> bytes:
            asked.append((content, level))
            return b"packed"

    package = types.ModuleType("compression")
    package.zstd = Zstd("compression.zstd")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "compression", package)
    monkeypatch.setitem(sys.modules, "compression.zstd", package.zstd)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setattr(sys, "version_info", (3, 14, 0, "final", 0))
    fresh = compressing.compressor.__wrapped__
    assert fresh("zstd")(b"a") == fresh("zstd", 19)(b"a") == b"packed"
    assert asked == [(b"a", 1), (b"a", 19)]


@pytest.mark.parametrize(
    ("compression", "package", "extra"),
    [("zstd", "zstandard", "fast"), ("snappy", "cramjam", "snappy"), ("hadoop-snappy", "cramjam", "snappy")],
)
def test_a_missing_package_is_named_with_what_needs_it_and_its_extra(
    monkeypatch: pytest.MonkeyPatch, compression: str, package: str, extra: str
) -> None:
    if compression == "zstd" and sys.version_info >= (3, 14):
        pytest.skip("the standard library has zstd")
    module = without(monkeypatch, package)
    with pytest.raises(MissingExtra, match=rf"compression='{compression}' needs .*pipeflow\[{extra}\]"):
        module.compressor(compression)


# What a declaration may say


def spec(compression: Compression, level: int | None = None, format: Format = "jsonl") -> StreamSpec:
    return StreamSpec("lake", "memory://lake", compression=compression, compression_level=level, format=format)


@pytest.mark.parametrize(("compression", "level"), [("gzip", 1), ("gzip", 9), ("zip", 9), ("zstd", 22)])
def test_levels_that_a_compression_has_are_taken(compression: Compression, level: int) -> None:
    assert spec(compression, level).compression_level == level


@pytest.mark.parametrize(
    ("compression", "level", "message"),
    [
        ("gzip", 0, "compression_level is 0; gzip has 1 to 9"),
        ("gzip", 10, "compression_level is 10; gzip has 1 to 9"),
        ("zip", -1, "zip has 1 to 9"),
        ("zstd", 23, "zstd has 1 to 22"),
        ("zstd", True, "compression_level is True"),
        ("snappy", 1, "'snappy' has no levels; leave compression_level off, or use one of gzip, zip, zstd"),
        ("none", 1, "'none' has no levels"),
    ],
)
def test_levels_that_a_compression_has_not_are_refused_with_those_it_has(
    compression: Compression, level: int, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        spec(compression, level)


@pytest.mark.parametrize("compression", ["zip", "hadoop-snappy"])
def test_S48_compressions_of_whole_objects_are_refused_where_a_format_compresses_inside(
    compression: Compression,
) -> None:
    with pytest.raises(ConfigurationError, match=r"for whole objects.*use one of zstd, snappy, gzip, none"):
        spec(compression, format="parquet")
