"""What objects are called: the same records get the same name, and no value from data ever makes a path segment.

    [partition/]stream-2013-01-01-05-15-00-000000000001-000000000500-3f9a0c12.jsonl.gz

A stream that declares a prefix has that in place of the partition; see `layout`.
The time is that of the oldest record, in UTC (Firehose: S42). The range and the store's id make the name the store's
own: only the same segment of the same store is ever written to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeAlias
from zlib import crc32

from pipeflow.errors import RefusedError
from pipeflow.names import MAX_NAME, MAX_SEGMENT, RESERVED
from pipeflow.specs import COLUMNAR

PartitionKey: TypeAlias = str | Sequence[str] | Mapping[str, str]
"""What `partition_by` may answer: one segment, several, or key=value segments as Hive, DuckDB and Spark read them."""

ERRORS = "!errors"
"""The partition of failed records. No key from data can be it: `!` is always encoded."""

UNPACK_ERRORS = "!errors/decompression-failed"
"""That of records that did not unpack, which have an error type of their own (Firehose: S22)."""

EMPTY = "__HIVE_DEFAULT_PARTITION__"
"""Where readers of Hive layouts look for records without a value."""

_EXTENSIONS = {
    "none": "",
    "gzip": ".gz",
    "zstd": ".zst",
    "zip": ".zip",
    "snappy": ".snappy",
    "hadoop-snappy": ".hsnappy",
}
"""As Firehose has them (S47), and zstd, which it has not."""
_FORMATS = {"jsonl": ".jsonl", "raw": "", "csv": ".csv", "parquet": ".parquet", "orc": ".orc"}
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")
_ENCODED = [chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in range(256)]

# A partition as `partition_path` writes it: everything else is refused where it enters.
_PARTITION = re.compile(r"[A-Za-z0-9_.%=-]+(/[A-Za-z0-9_.%=-]+)*\Z")


def is_errors(partition: str, /) -> bool:
    """Whether failed records lie in this partition."""
    return partition in (ERRORS, UNPACK_ERRORS)


def partition_path(key: object, /) -> str:
    """The directory of a partition: every value percent-encoded, so that data never makes a `/`, a `..` or a link.

    RefusedError when a segment is longer than 255 bytes or the key is no text.
    """
    if isinstance(key, str):
        path = encoded(key)
    elif isinstance(key, Mapping):
        path = "/".join(f"{encoded(str(name))}={encoded(value)}" for name, value in key.items())
    elif isinstance(key, Sequence) and not isinstance(key, bytes | bytearray):
        path = "/".join(map(encoded, key))
    else:
        raise RefusedError("Partition", f"partition_by returned {key!r}: return text, several texts or a dict of texts")
    if not path:
        raise RefusedError("Partition", f"partition_by returned {key!r}: return at least one segment")
    check_partition(path)
    return path


def check_partition(path: str, /) -> None:
    """RefusedError unless the path is one that `partition_path` could have made, and short enough."""
    if is_errors(path):
        return
    segments = path.split("/")
    if not _PARTITION.match(path) or any(segment in (".", "..") or segment[0] == "-" for segment in segments):
        raise RefusedError("Partition", f"partition {path!r} is no encoded path: make it with partition_by")
    longest = max(map(len, segments))
    if longest > MAX_SEGMENT or len(path) > MAX_NAME - 200:
        raise RefusedError(
            "Partition",
            f"partition {path[:60]!r}... is too long: {longest} bytes in a segment of at most {MAX_SEGMENT}, "
            f"{len(path)} in all of at most {MAX_NAME - 200}; partition by a shorter key",
        )


NOT_TAKEN = "undelivered"
"""The kind of objects with records that their sink did not take."""
_UNDELIVERED = re.compile(rf"(-[0-9a-f]{{8}})?-errors-{NOT_TAKEN}")


def object_name(
    stream: str,
    partition: str,
    *,
    first: int,
    last: int,
    opened_at: float,
    store_id: str,
    format: str,
    compression: str,
    boot: int | None = None,
    extension: str | None = None,
    under: str | None = None,
    kind: str = "",
) -> str:
    """The name of one segment's object. `boot` is set where sequences start anew with every boot of the store.

    `under` is what a declared prefix evaluated to, and takes the folder's place; `extension` the ending's. `kind` tells
    two objects of one range apart.
    """
    mark = store_mark(store_id)
    if under is None:
        under = "errors/" if is_errors(partition) else f"{partition}/" if partition else ""
    else:
        mark += _mark_beneath(under, stream, partition)
    if kind:
        mark += f"-{kind}"
    time = datetime.fromtimestamp(opened_at, UTC).strftime("%Y-%m-%d-%H-%M-%S")
    boots = "" if boot is None else f"b{boot}-"
    if extension is None:
        extension = extension_of(format, compression, is_errors(partition))
    return f"{under}{stream}-{time}-{boots}{first:012d}-{last:012d}-{mark}{extension}"


def extension_of(format: str, compression: str, errors: bool = False) -> str:
    """What names end in: Parquet is compressed inside its file, and the errors beside it not at all (Firehose: S47)."""
    packed = "" if format in COLUMNAR else _EXTENSIONS[compression]
    return _FORMATS["jsonl" if errors else format] + packed


def store_mark(store_id: str) -> str:
    """The part of every name that says whose it is."""
    return store_id.replace("-", "")[:12]


def stream_mark(stream: str) -> str:
    """What stands behind the store's mark in names that do not begin with the stream's own."""
    return f"-{crc32(stream.encode()):08x}"


def belongs(stream: str, mark: str) -> Callable[[str], bool]:
    """Tells objects of this stream and this store by their names, whatever prefix they were given."""
    start, behind_prefix = f"{stream}-", mark + stream_mark(stream)

    def mine(name: str) -> bool:
        last = name.rpartition("/")[2]
        return (last.startswith(start) and mark in last) or behind_prefix in last

    return mine


def tells_of_undelivered(name: str, mark: str) -> bool:
    """Whether it was written to a sink for failures, which may be the stream's own: no catalogue knows of it."""
    return _UNDELIVERED.match(name.rpartition(mark)[2]) is not None


def _mark_beneath(prefix: str, stream: str, partition: str) -> str:
    # A prefix `a-` with a stream `b` is not a stream `a-b`; and the two prefixes of a stream may be one.
    mine = stream_mark(stream) if prefix and prefix[-1] != "/" else ""
    return f"{mine}-errors" if is_errors(partition) else mine


def encoded(value: object) -> str:
    """One value as a segment of a path: never empty, without `/`, neither beginning nor ending in a dot."""
    if value is None or value == "":
        return EMPTY
    if not isinstance(value, str):
        raise RefusedError("Partition", f"partition_by returned {value!r} in a key: return text, such as str(...)")
    text = "".join(map(_ENCODED.__getitem__, value.encode("utf-8", "surrogatepass")))
    if text[0] in ".-" or RESERVED.match(text):
        text = f"%{ord(text[0]):02X}{text[1:]}"
    if text[-1] == ".":  # some systems drop a dot at the end, and two partitions would be one
        text = text[:-1] + "%2E"
    return text
