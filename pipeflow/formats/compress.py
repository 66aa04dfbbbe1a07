"""Bytes to the bytes of one compressed stream (Firehose: S48): equal bytes, equal bytes.

Compression is one call that releases the interpreter, so it overlaps with the event loop when it runs in a worker
thread; streaming calls hand it to and fro and do not. Defaults are from benchmarks/compression.py, and docs/streams.md
tells why.
"""

from __future__ import annotations

import gzip
import io
import sys
import zipfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import PurePosixPath
from typing import Any, Final, Protocol

from pipeflow.errors import MissingExtra

try:
    from isal import igzip
except ImportError:
    igzip = None  # type: ignore[assignment]


class Compressor(Protocol):
    """Bytes to bytes. zip alone writes down the name of the object."""

    def __call__(self, content: bytes, name: str = "", /) -> bytes: ...


ISAL_LEVELS: Final = 3
"""Levels up to here are isal's where it is installed, those above zlib's: they make less of it, and take longer."""

GZIP_LEVEL: Final = 2
"""Of gzip and zip. isal's 1 is no faster, and 3 takes up to twice as long. Without isal objects are about as large, and
zlib's own default, 6, takes three times as long for a sixth to a quarter less."""

ZSTD_LEVEL: Final = 1
"""3 takes 1.3 to 1.8 times as long and makes the same of it."""

HADOOP_BLOCK: Final = 128 << 10
"""Bytes in a Hadoop block: what its readers take by default, 256 KiB, holds one whatever is in it."""

SNAPPY_BEGIN: Final = b"\xff\x06\x00\x00sNaPpY"
"""What a framed stream begins with, and all there is of one without content: cramjam leaves that away."""

_ZIP_TIME: Final = (1980, 1, 1, 0, 0, 0)
"""No time of day in an object: the earliest that a zip file knows."""


@cache
def compressor(compression: str, level: int | None = None) -> Compressor:
    """How bytes are compressed; MissingExtra when the package for it is not installed."""
    match compression:
        case "none":
            return _plain
        case "gzip":
            return _gzip(level or GZIP_LEVEL)
        case "zip":
            return partial(_zip, level or GZIP_LEVEL)
        case "zstd":
            return _zstd(level or ZSTD_LEVEL)
        case "snappy":
            return _snappy()
        case "hadoop-snappy":
            return _hadoop_snappy()
    raise AssertionError(f"a spec with compression {compression!r}")


def _plain(content: bytes, name: str = "", /) -> bytes:
    return content


def _gzip(level: int) -> Compressor:
    if igzip is not None and level <= ISAL_LEVELS:
        compress: Callable[..., bytes] = igzip.compress
    else:
        compress = gzip.compress
    return lambda content, name="": compress(content, level, mtime=0)  # no time of day in the header


def _zip(level: int, content: bytes, name: str = "", /) -> bytes:
    """A zip file of one entry, which is called what the object would be without it."""
    out = io.BytesIO()
    entry = zipfile.ZipInfo(PurePosixPath(name).name.removesuffix(".zip") or "content", _ZIP_TIME)
    entry.create_system = 3  # as on every other system
    entry.external_attr = 0o644 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(entry, content, compresslevel=level)
    return out.getvalue()


def _zstd(level: int) -> Compressor:
    if sys.version_info >= (3, 14):
        from compression import zstd

        return lambda content, name="": zstd.compress(content, level=level)
    library = zstandard()

    def compress(content: bytes, name: str = "", /) -> bytes:
        # A compressor is not shared between threads; making one costs microseconds.
        compressed: bytes = library.ZstdCompressor(level=level).compress(content)
        return compressed

    return compress


def _snappy() -> Compressor:
    """The framing format of snappy, with its checksums."""
    snappy = cramjam_snappy("snappy")
    return lambda content, name="": bytes(snappy.compress(content)) or SNAPPY_BEGIN


def _hadoop_snappy() -> Compressor:
    """The blocks of Hadoop's SnappyCodec: length of the content, length of what it became, what it became."""
    snappy = cramjam_snappy("hadoop-snappy")

    def compress(content: bytes, name: str = "", /) -> bytes:
        view = memoryview(content)
        parts: list[bytes] = []
        for start in range(0, len(view), HADOOP_BLOCK):
            block = view[start : start + HADOOP_BLOCK]
            raw = bytes(snappy.compress_raw(block))
            parts += (len(block).to_bytes(4, "big"), len(raw).to_bytes(4, "big"), raw)
        return b"".join(parts)

    return compress


def zstandard() -> Any:
    """The library for zstd before Python 3.14; MissingExtra."""
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtra("compression='zstd'", "fast") from error
    return zstandard


def cramjam_snappy(compression: str) -> Any:
    """The library for snappy; MissingExtra."""
    try:
        from cramjam import snappy
    except ImportError as error:
        raise MissingExtra(f"compression={compression!r}", "snappy") from error
    return snappy
