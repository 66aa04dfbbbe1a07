"""What a stream is: how records gather, what objects look like and where they go."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from pipeflow.errors import ConfigurationError
from pipeflow.messages import Column
from pipeflow.names import stream_name
from pipeflow.specs.endpoints import Endpoint
from pipeflow.specs.secrets import check_secrets

Compression: TypeAlias = Literal["none", "gzip", "zstd", "zip", "snappy", "hadoop-snappy"]
Format: TypeAlias = Literal["jsonl", "raw", "csv", "parquet", "orc"]
Decompress: TypeAlias = Literal["gzip"]

MAX_OVER_HTTP: Final = 47 << 20
"""Bytes of one record: in base64 it fits into a request of 64 MiB (Firehose: S76)."""

COLUMNAR: Final = frozenset({"parquet", "orc"})
"""Formats that compress inside, column by column, and not the object as a whole."""

COLUMNAR_BYTES: Final = 64 << 20
"""Bytes that their buffers hold by default: the least that Firehose allows (S35), a quarter of the default bound."""

TABULAR: Final = frozenset({"csv", *COLUMNAR})
"""Formats made of columns."""

MERGED: Final = frozenset({"none", "gzip", "zstd"})
"""Compressions of whole objects that are undone and done again when objects are merged."""

LEVELS: Final[dict[str, int]] = {"gzip": 9, "zip": 9, "zstd": 22}
"""Compressions that have levels, from 1 up to this one: the same whatever packages are installed."""

_UNREADABLE: Final = re.compile(r'[\x00-\x1f"\\]')
"""What the JSON decoder has no keys with."""

_INSIDE: Final = ("zstd", "snappy", "gzip", "none")
"""Compressions that columnar formats have."""


class Buffering(Struct, frozen=True):
    """When a stream's buffer is full or old enough: bytes or seconds, whichever first (Firehose: S33)."""

    bytes: int = 5 << 20
    seconds: float = 60.0

    def __post_init__(self) -> None:
        if not (self.bytes >= 1 and self.seconds >= 0):
            raise ConfigurationError(f"{self}: use at least 1 byte and 0 seconds")


class KeyQuery(Struct, frozen=True):
    """One partition key and the expression that answers with it. Without a name, the key is all of the partition."""

    key: str
    query: str


class StreamSpec(Struct, frozen=True):
    """One delivery stream: how records gather, what objects look like and where they go."""

    name: str
    sink: str
    """A URL, such as file:///data/lake or memory://."""
    buffer_bytes: int = 5 << 20
    buffer_seconds: float = 60.0
    format: Format = "jsonl"
    compression: Compression = "gzip"
    compression_level: int | None = None
    """How hard to compress; None: what pays on records such as events are."""
    delimiter: bytes | None = None
    """None: a newline for jsonl, nothing for raw."""
    durability: Literal["memory"] | None = None
    """None: the store's own."""
    partitioned: bool = False
    partition_keys: tuple[KeyQuery, ...] = ()
    """What gives the partition, where expressions do."""
    transformed: bool = False
    """What is delivered is not what was put: records wait in the intake until it is made of them."""
    max_partitions: int = 500
    max_record: int = 16 << 20
    max_buffered: int = 256 << 20
    """Bytes that may wait in buffers and sealed segments before `put` waits."""
    prefix: str | None = None
    """Firehose's prefix of object names (S40-S44); None: the partition, as pipeflow names it."""
    error_prefix: str | None = None
    """The prefix of failed records (S45); None: it follows from `prefix`."""
    timezone: str = "UTC"
    """The zone of times in prefixes, by its name in the tz database."""
    extension: str | None = None
    """Ends names in place of what format and compression call for (S47)."""
    columns: tuple[Column, ...] = ()
    """What csv, parquet and orc make of a record."""
    backup: str | None = None
    """The stream that keeps every accepted record as it came, too (Firehose: S31)."""
    retry_seconds: float | None = None
    """Seconds of waiting between attempts before a segment goes to `failures`, or is parked; None: for ever."""
    failures: str | None = None
    """The URL of a sink for records that could not be delivered; None: their segment is parked."""
    max_age: float | None = None
    """Seconds after which records that could not be delivered are dropped; None: never (Firehose: a day, S17)."""
    manifest: bool = False
    """Beside the objects of each commit lies a manifest that tells of them."""
    target_bytes: int | None = None
    """Small objects are merged, up to this size; None: only when somebody asks for it."""
    decompress: Decompress | None = None
    log_messages: bool = False
    split: Literal["json", "delimiter"] | None = None
    split_delimiter: bytes = b""
    """What stands between the parts of a record where `split` is "delimiter"."""
    endpoint: Endpoint | None = None
    """For a sink http:// or https://; None: as `Endpoint()`."""

    def __post_init__(self) -> None:
        stream_name(self.name)
        self._check_compression()
        self._check_target()
        self._check_format()
        self._check_unpacking()
        Buffering(self.buffer_bytes, self.buffer_seconds)
        self._check_secrets()
        if "://" not in self.sink:
            raise ConfigurationError(f"{self.name}: sink {self.sink!r} is no URL; write file://./{self.sink}")
        if self.max_partitions < 1:
            raise ConfigurationError(f"{self.name}: max_partitions is {self.max_partitions}; use at least 1")
        if self.max_record < 1:
            raise ConfigurationError(f"{self.name}: max_record is {self.max_record}; use at least 1")
        self._check_failing()
        if self.over_http:
            self._check_over_http()
        elif self.endpoint is not None:
            raise ConfigurationError(f"{self.name}: endpoint= is for a sink https://...; {self.shown_sink} takes none")
        if self.max_buffered < self.buffer_bytes:
            raise ConfigurationError(f"{self.name}: max_buffered is below buffer_bytes; raise it to at least that")
        if self.backup == self.name:
            raise ConfigurationError(f"{self.name}: a stream cannot be its own backup; declare another one for it")

    def _check_secrets(self) -> None:
        for option, url in (("sink", self.sink), ("failures", self.failures or "")):
            check_secrets(f"{self.name}: {option}", url)

    def _check_compression(self) -> None:
        if self.format in COLUMNAR and self.compression not in _INSIDE:
            raise ConfigurationError(
                f"{self.name}: compression={self.compression!r} is for whole objects, and format={self.format!r} "
                f"compresses inside; use one of {', '.join(_INSIDE)}"
            )
        if self.compression_level is None:
            return
        if self.format == "orc":
            raise ConfigurationError(f"{self.name}: format='orc' has no levels; leave compression_level off")
        highest = LEVELS.get(self.compression)
        if highest is None:
            raise ConfigurationError(
                f"{self.name}: compression={self.compression!r} has no levels; leave compression_level off, or use "
                f"one of {', '.join(LEVELS)}"
            )
        if type(self.compression_level) is not int or not 1 <= self.compression_level <= highest:
            raise ConfigurationError(
                f"{self.name}: compression_level is {self.compression_level!r}; {self.compression} has 1 to {highest}"
            )

    def _check_over_http(self) -> None:
        """An endpoint takes records as they are; it has no folders, no files and no error output (Firehose: S50)."""
        for option, given in (
            ("format", self.format not in ("jsonl", "raw")),
            ("prefix", self.prefix is not None),
            ("partition_by", self.partitioned),
            ("extension", self.extension is not None),
            ("manifest", self.manifest),
            ("target_bytes", self.target_bytes is not None),
            ("error_prefix without failures", self.error_prefix is not None and self.failures is None),
        ):
            if given:
                raise ConfigurationError(f"{self.name}: {option} is for sinks of objects; an HTTP endpoint takes none")
        if self.compression != "none":
            raise ConfigurationError(
                f"{self.name}: compression={self.compression!r} is for objects; for an HTTP endpoint write "
                "endpoint=Endpoint(gzip=True)"
            )
        if (self.transformed or self.decompress or self.split) and self.failures is None:
            raise ConfigurationError(
                f"{self.name}: records that fail before delivery cannot go to an HTTP endpoint; "
                "add failures='file://./failed'"
            )
        if self.max_record > MAX_OVER_HTTP:
            raise ConfigurationError(
                f"{self.name}: max_record is {self.max_record}; a request to an endpoint takes {MAX_OVER_HTTP} bytes"
            )

    def _check_failing(self) -> None:
        if self.retry_seconds is not None and not self.retry_seconds >= 0:
            raise ConfigurationError(
                f"{self.name}: retry_seconds is {self.retry_seconds}; use 0 or more, or leave it off"
            )
        if self.max_age is not None and not self.max_age > 0:
            raise ConfigurationError(f"{self.name}: max_age is {self.max_age}; use more than 0 s, or leave it off")
        if self.failures is None:
            return
        if "://" not in self.failures:
            raise ConfigurationError(
                f"{self.name}: failures {self.failures!r} is no URL; write file://./{self.failures}"
            )
        if self.failures.startswith(("http://", "https://")):
            raise ConfigurationError(
                f"{self.name}: failures are written as objects; use a sink for these, such as file://./failed"
            )
        if self.retry_limit == inf:
            raise ConfigurationError(
                f"{self.name}: failures={self.failures!r} takes nothing while delivery is tried for ever; "
                "add retry_seconds=300 or so"
            )

    def _check_target(self) -> None:
        if self.target_bytes is None:
            return
        if not self.manifest:
            raise ConfigurationError(
                f"{self.name}: target_bytes merges files, and readers learn of that from manifests; add manifest=True"
            )
        if self.target_bytes < 1:
            raise ConfigurationError(f"{self.name}: target_bytes is {self.target_bytes}; use at least 1")
        if not self.mergeable:
            raise ConfigurationError(
                f"{self.name}: format={self.format!r} with compression={self.compression!r} is not merged; use "
                "jsonl, raw or csv with none, gzip or zstd, or parquet; or leave target_bytes off"
            )

    @property
    def mergeable(self) -> bool:
        """Whether small objects of this stream can become larger ones."""
        return self.format == "parquet" or (self.format not in COLUMNAR and self.compression in MERGED)

    def _check_format(self) -> None:
        if self.format not in TABULAR:
            if self.columns:
                raise ConfigurationError(f"{self.name}: format={self.format!r} has no columns; use csv, parquet or orc")
            return
        if not self.columns:
            raise ConfigurationError(f"{self.name}: format={self.format!r} needs at least one column")
        if self.delimiter is not None:
            raise ConfigurationError(f"{self.name}: format={self.format!r} ends its rows itself; leave delimiter off")
        names = [column.name for column in self.columns]
        if "" in names or len(set(names)) < len(names):
            raise ConfigurationError(f"{self.name}: columns are {names}; give each a name of its own")
        for name in names:
            if _UNREADABLE.search(name):
                raise ConfigurationError(
                    f"{self.name}: column {name!r}: quotes, backslashes and control characters are not looked for in "
                    "records; name it without"
                )

    def _check_unpacking(self) -> None:
        if self.log_messages and self.decompress is None:
            raise ConfigurationError(
                f"{self.name}: log_messages=True takes documents as log subscriptions send them, which are gzip; "
                'add decompress="gzip"'
            )
        if self.split == "delimiter" and not self.split_delimiter:
            raise ConfigurationError(f'{self.name}: split is an empty delimiter; use at least one byte, or "json"')

    @property
    def unpacks(self) -> bool:
        """Whether what is put is unpacked before it is transformed."""
        return self.decompress is not None or self.split is not None

    @property
    def retry_limit(self) -> float:
        """`retry_seconds` as a number; an endpoint is tried for 300 s where nothing else is said (Firehose: S80)."""
        if self.retry_seconds is None:
            return 300.0 if self.over_http else inf
        return self.retry_seconds

    @property
    def over_http(self) -> bool:
        """Whether its sink is an HTTP endpoint, which takes records and no objects."""
        return self.sink.startswith(("http://", "https://"))

    @property
    def shown_sink(self) -> str:
        """The sink as errors and drawings show it: without options, and of an endpoint the host alone."""
        place = self.sink.partition("?")[0]
        return "/".join(place.split("/", 3)[:3]) if self.over_http else place

    @property
    def buffering(self) -> Buffering:
        """Size and time of each buffer."""
        return Buffering(self.buffer_bytes, self.buffer_seconds)

    @property
    def separator(self) -> bytes:
        """What follows every record in an object (Firehose: S23)."""
        if self.delimiter is not None:
            return self.delimiter
        if self.over_http:
            return b""
        return b"\n" if self.format == "jsonl" else b""


def check_backups(streams: Mapping[str, StreamSpec]) -> None:
    """ConfigurationError when the backup of one of these would not keep its records as they came (Firehose: S31)."""
    for stream in streams.values():
        if stream.backup is None:
            continue
        backup = streams.get(stream.backup)
        if backup is None:
            raise ConfigurationError(
                f"stream {stream.name}: its backup {stream.backup} is not declared here; declare it on the same app"
            )
        unfit = _unfit_backup(stream, backup)
        if unfit is not None:
            raise ConfigurationError(f"stream {backup.name} cannot be the backup of stream {stream.name}: {unfit}")


def _unfit_backup(stream: StreamSpec, backup: StreamSpec) -> str | None:
    if backup.backup is not None:
        return f"it has a backup itself, {backup.backup}; a record is kept once: take one of the two away"
    if backup.transformed:
        return "it unpacks or transforms, and a backup keeps records as they came; take that away"
    if backup.format not in ("raw", "jsonl"):
        return f"format={backup.format!r} makes something else of records; use format='raw' or 'jsonl'"
    if backup.durability != stream.durability:
        return "both are accepted in one commit; declare both with durability='memory', or none of them"
    return None
