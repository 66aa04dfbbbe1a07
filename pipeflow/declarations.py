"""What a declaration may say: options that contradict each other are refused before anything is made of them.

What a value of its own may be is the business of its spec; here is what concerns several, or the type of the payload.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, get_args

from pipeflow.codecs import type_name
from pipeflow.errors import ConfigurationError
from pipeflow.specs import COLUMNAR, Compression, Decompress, Format
from pipeflow.topic import Selection, Topic, TopicPattern

if TYPE_CHECKING:
    from pipeflow.stream import Stream

T = TypeVar("T")

Origin: TypeAlias = Topic[T] | TopicPattern[T] | Selection[T]
"""What a queue, a stream or a webhook subscribes to."""


def check_origins(where: str, origins: tuple[Origin[Any], ...]) -> None:
    """ConfigurationError where something is subscribed to that publishes nothing, such as a queue or a name."""
    for origin in origins:
        if not isinstance(origin, Topic | TopicPattern | Selection):
            raise ConfigurationError(
                f"{where}: it cannot subscribe to {origin!r}; give a topic, topic.where(...) or app.topics_named(...)"
            )


def check_stream(
    where: str,
    type: type[Any],
    *,
    sink: str,
    given: Format | None,
    format: Format,
    compression: Compression | None,
    durability: str | None,
    decompress: Decompress | None,
    delimiter: bytes | None,
    split: str | bytes | None,
    backup: Stream[Any] | None,
    partitioned: bool,
    envelope: bool,
) -> None:
    """ConfigurationError with the remedy where these options of a stream cannot be together.

    `format` is what holds where nothing was `given`.
    """
    if given is not None and sink.startswith(("http://", "https://")):
        raise ConfigurationError(f"{where}: an HTTP endpoint takes records as they are; leave format off")
    for word, value, known in (
        ("format", format, get_args(Format)),
        ("compression", compression or "gzip", get_args(Compression)),
        ("durability", durability or "memory", ("memory",)),
        ("decompress", decompress or "gzip", get_args(Decompress)),
    ):
        if value not in known:
            raise ConfigurationError(f"{where}: {word} is {value!r}; use one of {', '.join(known)}")
    if delimiter is not None and not isinstance(delimiter, bytes):
        raise ConfigurationError(f"{where}: delimiter is {delimiter!r}; write it as bytes")
    if split not in (None, "json") and not isinstance(split, bytes):
        raise ConfigurationError(f'{where}: split is {split!r}; use "json", or a delimiter as bytes')
    if type is not bytes and (decompress is not None or split is not None):
        raise ConfigurationError(
            f"{where}: decompress and split take what is put as bytes, and this stream takes "
            f"{type_name(type)}; declare it of bytes"
        )
    if backup is not None and backup.type not in (bytes, type):
        raise ConfigurationError(
            f"{where}: its backup {backup.name} takes {type_name(backup.type)}; a backup keeps "
            "records as they came: declare it of bytes"
        )
    if envelope and (partitioned or format not in ("jsonl", "raw")):
        raise ConfigurationError(
            f"{where}: envelope=True delivers envelopes, not {type_name(type)}; leave "
            "partition_by, and formats other than jsonl and raw, off"
        )


def usual_compression(sink: str, format: str) -> Compression:
    """What a stream compresses with where nothing is said."""
    if sink.startswith(("http://", "https://")):
        return "none"
    return "zstd" if format in COLUMNAR else "gzip"


def check_webhook(
    where: str,
    origins: tuple[Origin[Any], ...],
    *,
    url: str,
    public_url: str | None,
    raw: bool,
    handshake: bool,
    timeout: float,
    concurrency: int,
) -> list[Topic[Any] | TopicPattern[Any]]:
    """What a webhook subscribes to; ConfigurationError with the remedy where it cannot be as it is declared."""
    if not origins:
        raise ConfigurationError(f"{where}: nothing is posted to it; name a topic")
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"{where}: url is no http:// or https:// URL")
    if public_url is not None and (not public_url.startswith(("http://", "https://")) or {"?", "#"} & {*public_url}):
        raise ConfigurationError(
            f"{where}: public_url {public_url!r} is no URL that a query can follow; write https://host/path"
        )
    for word, value in (("raw", raw), ("handshake", handshake)):
        if not isinstance(value, bool):
            raise ConfigurationError(f"{where}: {word} is {value!r}; use True or False (SNS: T16)")
    if not 0 < timeout <= 3600 or type(concurrency) is not int or concurrency < 1:
        raise ConfigurationError(
            f"{where}: timeout is {timeout} and concurrency {concurrency}; use more than 0 s, at "
            "most 3600, and at least 1"
        )
    check_origins(where, origins)
    topics: list[Topic[Any] | TopicPattern[Any]] = []
    for origin in origins:
        topic = origin.topic if isinstance(origin, Selection) else origin
        topics.append(topic)
        if isinstance(topic, Topic) and topic.spec.fifo:
            raise ConfigurationError(
                f"{where}: topic {topic.name} is FIFO, and requests keep no order; subscribe a "
                "FIFO queue and post from its handler (SNS: T20)"
            )
    return topics
