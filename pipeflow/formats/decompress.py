"""The content of one object again, in pieces: the other way of `encode`, with as little of it in memory as can be.

Whole streams one behind the other are one content, as they are for every tool that reads these formats.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import Any

from pipeflow.errors import ObjectDamaged
from pipeflow.formats.compress import SNAPPY_BEGIN, cramjam_snappy, zstandard

try:
    from isal import igzip as gzip
except ImportError:
    import gzip  # type: ignore[no-redef]

_gunzip: Any = gzip.open

PIECE = 1 << 20
"""Bytes of a piece, about."""


def decompressed(content: bytes, compression: str) -> Iterator[bytes]:
    """Pieces of what was compressed. ObjectDamaged when it is no such stream; MissingExtra without the package."""
    match compression:
        case "none":
            yield from (content[start : start + PIECE] for start in range(0, len(content), PIECE))
        case "gzip":
            with _gunzip(io.BytesIO(content), "rb") as file:
                yield from _pieces(file)
        case "zstd":
            yield from _pieces(_zstd(content))
        case "zip":
            yield from _unzipped(content)
        case "snappy":
            yield from _framed(content)
        case "hadoop-snappy":
            yield from _hadoop_blocks(content)
        case _:
            raise ObjectDamaged(f"compression {compression!r} is none that this version knows")


def _pieces(file: Any) -> Iterator[bytes]:
    while piece := file.read(PIECE):
        yield piece


def _zstd(content: bytes) -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd

        return zstd.ZstdFile(io.BytesIO(content))
    return zstandard().ZstdDecompressor().stream_reader(content, read_across_frames=True)


def _unzipped(content: bytes) -> Iterator[bytes]:
    from zipfile import ZipFile

    with ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            with archive.open(name) as entry:
                yield from _pieces(entry)


def _framed(content: bytes) -> Iterator[bytes]:
    """The chunks of snappy's framing format, some at a time: each is [kind, 3 bytes of length, small end first][it]."""
    snappy = cramjam_snappy("snappy")
    start = at = 0
    while at < len(content):
        at += 4 + int.from_bytes(content[at + 1 : at + 4], "little")
        if at - start >= PIECE or at >= len(content):
            part = content[start:at]
            yield bytes(snappy.decompress(part if part.startswith(SNAPPY_BEGIN) else SNAPPY_BEGIN + part))
            start = at


def _hadoop_blocks(content: bytes) -> Iterator[bytes]:
    """Blocks of [bytes when unpacked] and then parts of [bytes as packed][raw snappy], both 4 bytes, big end first."""
    snappy = cramjam_snappy("hadoop-snappy")
    at = 0
    while at < len(content):
        left = int.from_bytes(content[at : at + 4], "big")
        at += 4
        while left > 0:
            size = int.from_bytes(content[at : at + 4], "big")
            part = bytes(snappy.decompress_raw(content[at + 4 : at + 4 + size])) if size else b""
            if not part:
                raise ObjectDamaged("a hadoop-snappy block ends before it is whole")
            at += 4 + size
            left -= len(part)
            yield part
