"""What the nouns are: frozen options, checked when they are made, with the remedy in every message.

Durations are seconds, sizes bytes. The defaults are the documented ones; AWS's own limits live at the AWS door.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from pipeflow.errors import ConfigurationError
from pipeflow.messages import Column
from pipeflow.names import queue_name, stream_name, topic_name

DAY = 86_400.0
YEAR = 366 * DAY

Compression: TypeAlias = Literal["none", "gzip", "zstd", "zip", "snappy", "hadoop-snappy"]
Format: TypeAlias = Literal["jsonl", "raw", "csv", "parquet", "orc"]
Decompress: TypeAlias = Literal["gzip"]
FilterScope: TypeAlias = Literal["attributes", "body"]

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

INLINE_BYTES: Final = 1 << 20
"""Bytes of a body that lie in the store with their message; larger ones are kept aside. SQS takes none (SQS: Q28)."""

LARGEST_BODY: Final = 2 << 30
"""Bytes of a body that any queue may take."""

_BUCKETS: Final = ("s3", "gs", "az")
_SECRET: Final = re.compile(r"(?:^|&)(\w*(?:secret|key|token|password|credential|signature|sas)\w*)=", re.IGNORECASE)


class Backoff(Struct, frozen=True):
    """How long a failed message waits: `base * factor ** (attempt - 1)`, at most `cap`, with full jitter."""

    base: float = 1.0
    factor: float = 2.0
    cap: float = 300.0

    def __post_init__(self) -> None:
        if self.base < 0 or self.factor < 1 or self.cap < self.base:
            raise ConfigurationError(f"{self}: use base >= 0, factor >= 1 and cap >= base")

    def delay(self, attempt: int, roll: float) -> float:
        """Seconds before the next try after failed attempt `attempt`; `roll` in [0, 1) is the jitter."""
        try:
            wait = self.base * self.factor ** (attempt - 1)
        except OverflowError:  # beyond any float, so beyond the cap
            wait = self.cap
        return roll * min(self.cap, wait)


class Buffering(Struct, frozen=True):
    """When a stream's buffer is full or old enough: bytes or seconds, whichever first (Firehose: S33)."""

    bytes: int = 5 << 20
    seconds: float = 60.0

    def __post_init__(self) -> None:
        if not (self.bytes >= 1 and self.seconds >= 0):
            raise ConfigurationError(f"{self}: use at least 1 byte and 0 seconds")


class FilterPolicy(Struct, frozen=True):
    """An SNS filter policy as JSON text, and what it looks at."""

    policy: str
    scope: FilterScope = "attributes"


class KeyQuery(Struct, frozen=True):
    """One partition key and the expression that answers with it. Without a name, the key is all of the partition."""

    key: str
    query: str


class TopicSpec(Struct, frozen=True):
    """One topic. `content_dedup` takes the SHA-256 of the body where a FIFO publish names no dedup id."""

    name: str
    fifo: bool = False
    content_dedup: bool = False
    archive: float = 0.0
    """Seconds for which what was published is kept, to be replayed; 0: not at all (SNS: T74)."""
    tags: dict[str, str] = {}
    """Words for operators; they change nothing (SNS: T77)."""
    dedup_scope: Literal["topic", "group"] = "topic"
    """Whether an id is a duplicate in any group, or in its own only (SNS: T70)."""

    def __post_init__(self) -> None:
        topic_name(self.name)
        if not 0 <= self.archive <= 365 * DAY:
            raise ConfigurationError(f"{self.name}: archive is {self.archive / DAY:g} days; use more than 0, up to 365")
        _check_tags(self.name, self.tags)


class QueueSpec(Struct, frozen=True):
    """One queue with everything that decides what it does."""

    name: str
    fifo: bool = False
    visibility_timeout: float = 30.0
    max_receives: int | None = 5
    """None: never dead-lettered."""
    dead_letters: str | None = None
    """The queue that takes what failed `max_receives` times; made with the queue when it is not there."""
    dead_letter_age: Literal["arrival", "sent"] = "arrival"
    """Whether retention in the dead letters counts from the move (the default) or from the first send (SQS: Q92)."""
    delay: float = 0.0
    retention: float = 4 * DAY
    max_in_flight: int = 120_000
    max_body: int = LARGEST_BODY
    content_dedup: bool = False
    dedup_scope: Literal["queue", "group"] = "queue"
    holds_dead_letters: bool = False
    """Made as the dead letters of another queue."""
    archives: bool = False
    """Made as the archive of a topic: nobody sends to it or receives from it."""
    dead_letters_from: tuple[str, ...] | None = None
    """The queues that may name this one as their dead letters; None: all, (): none (SQS: Q88)."""
    tags: dict[str, str] = {}
    """Words for operators; they change nothing (SQS: Q20)."""
    max_per_second: float | None = None
    """Messages that are handed out in any second, to all receivers together; None: no limit (SQS: Q78)."""

    def __post_init__(self) -> None:
        queue_name(self.name)
        _check_tags(self.name, self.tags)
        if self.max_receives is not None and not 1 <= self.max_receives <= 1000:
            raise ConfigurationError(
                f"{self.name}: max_receives is {self.max_receives}; use 1 to 1000, or dead_letters=False for no limit"
            )
        if not 0 <= self.visibility_timeout <= 43_200:
            raise ConfigurationError(f"{self.name}: visibility_timeout is {self.visibility_timeout}; use 0 to 43200 s")
        if not 0 <= self.delay <= YEAR:
            raise ConfigurationError(f"{self.name}: delay is {self.delay}; use 0 s to a year")
        if not self.retention > 0:
            raise ConfigurationError(f"{self.name}: retention is {self.retention}; use more than 0 s")
        if self.max_in_flight < 1:
            raise ConfigurationError(f"{self.name}: max_in_flight is {self.max_in_flight}; use at least 1")
        if not 1 <= self.max_body <= LARGEST_BODY:
            raise ConfigurationError(f"{self.name}: max_body is {self.max_body}; use 1 byte to 2 GiB")
        rate = self.max_per_second
        if rate is not None and (not 0 < rate < inf or (rate > 1 and rate != int(rate))):
            raise ConfigurationError(
                f"{self.name}: max_per_second is {rate}; use a whole number, or less than 1 for one message every so "
                "many seconds"
            )
        if self.dead_letters is not None:
            queue_name(self.dead_letters)
        if self.dead_letters == self.name:
            raise ConfigurationError(f"{self.name}: a queue cannot be its own dead letters; name another queue")


class Endpoint(Struct, frozen=True):
    """How a stream speaks to the HTTP endpoint that its sink names, and where that may lie (Firehose: S75, S76)."""

    access_key: str | None = None
    """Where the key is: "env:NAME", or "file:PATH" with mode 0600. Read anew for every request (Firehose: S82)."""
    gzip: bool = False
    """Compress the body of requests."""
    attributes: dict[str, str] = {}
    """At most 50 pairs that go with every request."""
    timeout: float = 180.0
    """Seconds that one request and its answer may take (Firehose: 3 min, S77)."""
    networks: tuple[str, ...] = ()
    """Networks such as "10.1.0.0/16" that it may lie in although they are not public."""
    ports: tuple[int, ...] = ()
    """Ports below 1024 that it may listen on, besides 80 and 443."""

    def __post_init__(self) -> None:
        if self.access_key is not None and not re.match(r"(env|file):.", self.access_key):
            # What was given may be the key itself, so it is not repeated here.
            raise ConfigurationError(
                "Endpoint: access_key is where the key is, not the key: write 'env:NAME' or 'file:PATH'"
            )
        if len(self.attributes) > 50:
            raise ConfigurationError(f"Endpoint: {len(self.attributes)} attributes; use at most 50")
        for name, value in self.attributes.items():
            if not 1 <= len(name) <= 256 or len(value) > 1024:
                raise ConfigurationError(
                    f"Endpoint: attribute {name[:40]!r}: use a name of 1 to 256 characters and a value of at most 1024"
                )
        if not 0 < self.timeout <= 3600:
            raise ConfigurationError(f"Endpoint: timeout is {self.timeout}; use more than 0 s, at most 3600")
        for network in self.networks:
            _check_network(network)


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


def archive_of(topic: str) -> str:
    """The queue that a topic's archive lies in."""
    return f"{topic}-archive"


def archive_queue(topic: TopicSpec) -> QueueSpec:
    """The archive of a topic, as a queue."""
    return QueueSpec(
        archive_of(topic.name),
        fifo=topic.fifo,
        max_receives=None,
        retention=topic.archive,
        max_body=LARGEST_BODY,
        dedup_scope="group" if topic.dedup_scope == "group" else "queue",
        archives=True,
    )


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


def _check_tags(name: str, tags: Mapping[str, str]) -> None:
    if len(tags) > 50 or any(not 1 <= len(key) <= 128 or len(value) > 256 for key, value in tags.items()):
        raise ConfigurationError(
            f"{name}: {len(tags)} tags; use at most 50, with keys of 1 to 128 characters and values of at most 256 "
            "(SQS: Q20, SNS: T77)"
        )


def _check_network(network: str) -> None:
    from ipaddress import ip_network  # for programs that name some

    try:
        ip_network(network)
    except ValueError as error:
        raise ConfigurationError(f"Endpoint: network {network!r}: {error}; write one such as '10.1.0.0/16'") from error


class Subscription(Struct, frozen=True):
    """One target of a topic. `raw` delivers the body as published, else an SNS envelope made at receive (SNS: T50)."""

    topic: str
    """Its name; or a pattern with `*`, for every topic that it names, whenever that was or will be declared."""
    kind: Literal["queue", "stream"]
    target: str
    filter: FilterPolicy | None = None
    raw: bool = True
    endpoint: str = ""
    """Webhooks only: the URL that what lies in the target queue is posted to."""
    handshake: bool = False
    """It gets nothing before its endpoint has confirmed (SNS: T11)."""
    named: bool = False
    """Its messages say which topic they came by: the target has several."""


def check_secrets(place: str, url: str) -> None:
    """What a store remembers, logs show and commands print has no password in it (and errors neither)."""
    scheme, separator, rest = url.partition("://")
    user, at, _ = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")
    if separator and at and ":" in user:
        raise ConfigurationError(
            f"{place} {scheme}://... holds a password, and URLs are logged and shown; leave it to the environment"
        )
    given = _SECRET.search(rest.partition("?")[2]) if scheme in _BUCKETS else None
    if given is not None:
        raise ConfigurationError(
            f"{place} {scheme}://... has the option {given[1]!r}, and URLs are logged and shown; leave secrets to the "
            "environment"
        )


class ClaimSpec(Struct, frozen=True):
    """Where bodies are kept that are too large to lie in the store with their messages."""

    url: str = ""
    """A sink that gives back what it took; empty: files beside the store."""
    inline_bytes: int = INLINE_BYTES
    """Larger bodies are kept aside."""

    def __post_init__(self) -> None:
        if not 1 <= self.inline_bytes <= 16 << 20:
            raise ConfigurationError(f"claims: inline_bytes is {self.inline_bytes}; use 1 byte to 16 MiB")
        if self.url and "://" not in self.url:
            raise ConfigurationError(f"claims {self.url!r} is no URL; write file://./{self.url}")
        check_secrets("claims:", self.url)


class Topology(Struct, frozen=True):
    """Everything an app declares, once, before its first message."""

    topics: tuple[TopicSpec, ...] = ()
    queues: tuple[QueueSpec, ...] = ()
    streams: tuple[StreamSpec, ...] = ()
    subscriptions: tuple[Subscription, ...] = ()
    claims: ClaimSpec | None = None
    """None leaves the store's own as it is."""
