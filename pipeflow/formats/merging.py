"""Several objects of one stream as one, read one by one and written anew: the same inputs give the same bytes.

Lines are compressed again as one stream rather than joined as they are: a gzip file of many members is legal, and not
every reader goes on behind the first; and what many small objects have in common is told once. In memory are one input,
as it lies in the sink, and what came of those before it.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable, Iterator
from typing import Protocol

from pipeflow.errors import ObjectDamaged, ObjectRefused, PipeflowError
from pipeflow.files import FileFacts
from pipeflow.formats.compress import GZIP_LEVEL, ISAL_LEVELS, ZSTD_LEVEL, zstandard
from pipeflow.formats.decompress import decompressed

try:
    from isal import isal_zlib
except ImportError:
    isal_zlib = None  # type: ignore[assignment]

GZIP_FORM = 31
"""zlib's word for the largest window in a gzip wrapper; its header has no time of day."""


class Merging(Protocol):
    """Takes whole objects in order. Both calls are for worker threads: they take their time."""

    def add(self, content: bytes) -> None:
        """One more input. ObjectDamaged when it is none of this format, ObjectRefused when it has other columns."""

    def finish(self) -> tuple[list[bytes], int]:
        """(the merged object in pieces, bytes of its records before compression; 0 when that is not known)."""
        ...


class _Packer(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def merging(like: FileFacts, level: int | None) -> Merging:
    """What merges objects like this one."""
    if like.format == "parquet":
        from pipeflow.formats.parquet import ParquetMerging

        return ParquetMerging(like.compression, level)
    return LineMerging(like.compression, level, header=like.format == "csv")


class LineMerging:
    """Objects of records one behind the other; of a csv the header line is kept once."""

    def __init__(self, compression: str, level: int | None, *, header: bool = False) -> None:
        self._compression = compression
        self._packer = _packer(compression, level)
        self._chunks: list[bytes] = []
        self._raw_size = 0
        self._wants_header = header
        self._header: bytes | None = None

    def add(self, content: bytes) -> None:
        """One more input."""
        pieces: Iterable[bytes] = _unpacked(self._compression, content)
        for piece in self._without_header(pieces) if self._wants_header else pieces:
            self._raw_size += len(piece)
            self._keep(self._packer.compress(piece))

    def finish(self) -> tuple[list[bytes], int]:
        """What came of it."""
        self._keep(self._packer.flush())
        return self._chunks, self._raw_size

    def _keep(self, packed: bytes) -> None:
        if packed:
            self._chunks.append(packed)

    def _without_header(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The first input whole, of every other what follows the same header."""
        begin = b""
        pieces = iter(pieces)
        while (end := _first_line(begin)) is None:
            piece = next(pieces, b"")
            if not piece:
                raise ObjectDamaged("this csv has no line with the names of its columns")
            begin += piece
        header, rest = begin[:end], begin[end:]
        if self._header is None:
            self._header = header
            yield header
        elif header != self._header:
            raise ObjectRefused(f"this csv has the columns {header!r}, and the one before it {self._header!r}")
        yield rest
        yield from pieces


def _first_line(text: bytes) -> int | None:
    """Where it ends: a line break in quotes is part of a name."""
    end = text.find(b"\r\n")
    while end >= 0:
        if not text.count(b'"', 0, end) % 2:
            return end + 2
        end = text.find(b"\r\n", end + 1)
    return None


def _unpacked(compression: str, content: bytes) -> Iterator[bytes]:
    try:
        yield from decompressed(content, compression)
    except PipeflowError:
        raise
    except Exception as error:  # what the decoders of several formats raise
        raise ObjectDamaged(f"it does not unpack as {compression}: {error}") from error


def _packer(compression: str, level: int | None) -> _Packer:
    if compression == "none":
        return _Plain()
    if compression == "gzip":
        chosen = level or GZIP_LEVEL
        if isal_zlib is not None and chosen <= ISAL_LEVELS:
            fast: _Packer = isal_zlib.compressobj(chosen, isal_zlib.DEFLATED, GZIP_FORM)
            return fast
        return zlib.compressobj(chosen, zlib.DEFLATED, GZIP_FORM)
    if sys.version_info >= (3, 14):
        from compression import zstd

        return zstd.ZstdCompressor(level=level or ZSTD_LEVEL)
    packer: _Packer = zstandard().ZstdCompressor(level=level or ZSTD_LEVEL).compressobj()
    return packer


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""
