"""Nouns and functions of one module, declared once and included in an app."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, overload

from msgspec import Struct

from pipeflow.binding import declared_at
from pipeflow.declarations import Origin, check_origins, check_stream, check_webhook, usual_compression
from pipeflow.errors import ConfigurationError, WiringError
from pipeflow.events import Observer
from pipeflow.messages import At
from pipeflow.names import source_name
from pipeflow.protocols import Middleware
from pipeflow.queue import Queue
from pipeflow.specs import (
    COLUMNAR,
    COLUMNAR_BYTES,
    DAY,
    LARGEST_BODY,
    Backoff,
    Buffering,
    Compression,
    Decompress,
    Endpoint,
    Format,
    QueueSpec,
    StreamSpec,
    Subscription,
    TopicSpec,
)
from pipeflow.topic import Selection, Topic, TopicPattern
from pipeflow.wiring.functions import Function, inspected
from pipeflow.wiring.providers import Provider, Scope

if TYPE_CHECKING:
    from pipeflow.outbox import Outbox
    from pipeflow.partitioning import PartitionBy
    from pipeflow.stream import Stream
    from pipeflow.webhook import Webhook
    from pipeflow.webhooks import DeliveryPolicy, Signing

T = TypeVar("T")
P = TypeVar("P")
F = TypeVar("F", bound=Callable[..., object])
M = TypeVar("M", bound=Middleware)
Q = ParamSpec("Q")

DEFAULT_BACKOFF = Backoff()
DEFAULT_MAX_RECEIVES = 5

__all__ = ["Router", "Source"]


class Source(Struct, frozen=True):
    """A source as it was registered."""

    name: str
    function: Function
    target: Topic[Any] | Stream[Any]


class SourceDecorator(Protocol[T]):
    """Registers an async generator function of its last position, and returns it unchanged."""

    def __call__(
        self, function: Callable[Concatenate[P | None, Q], AsyncIterator[At[P, T]]], /
    ) -> Callable[Concatenate[P | None, Q], AsyncIterator[At[P, T]]]: ...


class Router:
    """Declares topics, queues, streams, sources, providers and middleware. `prefix` begins every name."""

    def __init__(self, *, prefix: str = "") -> None:
        self.prefix = prefix
        self.topics: list[Topic[Any]] = []
        self.patterns: list[TopicPattern[Any]] = []
        self.queues: list[Queue[Any]] = []
        self.streams: list[Stream[Any]] = []
        self.webhooks: list[Webhook] = []
        self.subscriptions: list[Subscription] = []
        self.outboxes: list[Outbox] = []
        self.sources: list[Source] = []
        self.providers: list[Provider] = []
        self.layers: list[Middleware] = []
        self.observers: list[Observer] = []
        self.included: list[Router] = []
        self._frozen = 0
        self._known: dict[str, dict[str, Any]] = {}
        """By kind: nouns by name."""

    # -- nouns

    def topic(
        self,
        name: str,
        type: type[T],
        /,
        *,
        fifo: bool = False,
        content_dedup: bool = False,
        codec: str = "json",
        retry: DeliveryPolicy | None = None,
        retry_override: bool = True,
        archive: float | None = None,
        tags: Mapping[str, str] | None = None,
        dedup_scope: Literal["topic", "group"] = "topic",
    ) -> Topic[T]:
        """A topic of one payload type. `fifo`: in order per group, to FIFO queues only.

        `retry`: how its webhooks are tried again where they say nothing themselves; with `retry_override=False` also
        where they do (SNS: T62). `archive`: keep what is published for so many days, to be replayed (SNS: T74). `tags`:
        words for operators, at most 50. `dedup_scope="group"`: equal ids in two groups are no duplicates (SNS: T70).
        """
        place = self._declaring("topic", name)
        if archive is not None and not archive > 0:
            raise ConfigurationError(
                f"{place}: topic {self.prefix + name}: archive is {archive}; use days, more than 0, or leave it off"
            )
        topic = Topic(
            TopicSpec(
                self.prefix + name,
                fifo,
                content_dedup,
                0.0 if archive is None else archive * DAY,
                dict(tags or {}),
                dedup_scope,
            ),
            type,
            place=place,
            codec=codec,
            retry=retry,
            retry_override=retry_override,
        )
        self.topics.append(topic)
        return topic

    def topics_named(self, pattern: str, type: type[T], /, *, codec: str = "json") -> TopicPattern[T]:
        """Every topic whose name matches, `*` being any run of characters: for queues, streams and webhooks.

        Also those that are declared later, here or by another program on the same store. Topics of this app must be of
        this type, or of one of a union; `bytes` takes them all. What else does not decode is a dead letter.
        """
        place = declared_at()
        self._check_open(f"topics {self.prefix + pattern}")
        try:
            named = TopicPattern(self.prefix + pattern, type, place=place, codec=codec)
        except ConfigurationError as error:
            raise ConfigurationError(f"{place}: {error}") from error
        self.patterns.append(named)
        return named

    def queue(
        self,
        name: str,
        type: type[T],
        /,
        *origins: Origin[T],
        fifo: bool = False,
        visibility_timeout: float = 30.0,
        max_receives: int | None = DEFAULT_MAX_RECEIVES,
        dead_letters: bool | str = True,
        delay: float = 0.0,
        retention: float = 4 * DAY,
        backoff: Backoff = DEFAULT_BACKOFF,
        max_in_flight: int = 120_000,
        max_body: int = LARGEST_BODY,
        content_dedup: bool = False,
        dedup_scope: Literal["queue", "group"] = "queue",
        dead_letter_age: Literal["arrival", "sent"] = "arrival",
        dead_letters_from: Sequence[str] | None = None,
        tags: Mapping[str, str] | None = None,
        max_per_second: float | None = None,
        codec: str | None = None,
    ) -> Queue[T]:
        """A queue of one payload type, fed by topics, `topic.where(...)`, `app.topics_named(...)` and `send`.

        After `max_receives` failed attempts a message goes to the dead letters: the queue `<name>-dlq`, or another by
        name. `max_receives=None`: only what is rejected or does not decode goes there. `dead_letters=False`: there are
        none; what fails is tried for ever, and what is rejected or does not decode is deleted.
        `dead_letters_from`: the queues that may have this one as their dead letters; None: all of them (SQS: Q88).
        `tags`: words for operators, at most 50. `max_per_second`: messages that are handed out in any second, to all
        handlers in all processes together, retries included; 0.1 is one every ten seconds.
        """
        place = self._declaring("queue", name)
        full = self.prefix + name
        check_origins(f"{place}: queue {full}", origins)
        if dead_letters is False and max_receives not in (None, DEFAULT_MAX_RECEIVES):
            raise ConfigurationError(
                f"{place}: queue {full}: max_receives={max_receives} needs dead letters to put messages in; "
                "leave dead_letters=False off, or max_receives"
            )
        spec = QueueSpec(
            full,
            fifo=fifo,
            visibility_timeout=visibility_timeout,
            max_receives=None if dead_letters is False else max_receives,
            dead_letters=f"{full}-dlq" if dead_letters is True else dead_letters or None,
            dead_letter_age=dead_letter_age,
            delay=delay,
            retention=retention,
            max_in_flight=max_in_flight,
            max_body=max_body,
            content_dedup=content_dedup,
            dedup_scope=dedup_scope,
            dead_letters_from=tuple(dead_letters_from) if dead_letters_from is not None else None,
            tags=dict(tags or {}),
            max_per_second=max_per_second,
        )
        queue = Queue(spec, type, place=place, codec=codec or _codec_of(origins), backoff=backoff)
        self._subscribe("queue", full, origins)
        self.queues.append(queue)
        return queue

    def stream(
        self,
        name: str,
        type: type[T],
        /,
        *origins: Origin[T],
        sink: str,
        buffer_bytes: int | None = None,
        buffer_seconds: float = 60.0,
        partition_by: PartitionBy[T] | None = None,
        prefix: str | None = None,
        error_prefix: str | None = None,
        timezone: str = "UTC",
        extension: str | None = None,
        compression: Compression | None = None,
        compression_level: int | None = None,
        format: Format | None = None,
        columns: Sequence[str] | None = None,
        schema: Mapping[str, str] | None = None,
        delimiter: bytes | None = None,
        durability: Literal["memory"] | None = None,
        max_partitions: int = 500,
        max_record: int = 16 << 20,
        max_buffered: int | None = None,
        decompress: Decompress | None = None,
        log_messages: bool = False,
        split: Literal["json"] | bytes | None = None,
        backup: Stream[Any] | None = None,
        retry_seconds: float | None = None,
        failures: str | None = None,
        max_age: float | None = None,
        manifest: bool = False,
        target_bytes: int | None = None,
        endpoint: Endpoint | None = None,
        envelope: bool = False,
    ) -> Stream[T]:
        """A stream of records into objects below `sink`, one for every `buffer_bytes` (5 MiB, of Parquet and ORC
        64) or `buffer_seconds`, whichever is first (Firehose: S33, S35).

        `partition_by` gives each partition a buffer and a folder of its own. `format`: "jsonl", or "raw" for bytes;
        "csv", "parquet" or "orc" with the columns of the payload type, or with `columns=["id", ...]` of a csv, or
        `schema={"id": "int64 not null", ...}` of Parquet and ORC files. `compression`: gzip, in those files zstd;
        `compression_level` trades its speed for size.
        `durability="memory"` is the fastest, and may lose the open buffer in a crash.

        `prefix` takes the place of the partition's folder, with Firehose's expressions: `!{timestamp:yyyy/MM/dd}` is
        when the oldest record arrived, in `timezone`, and `!{partitionKeyFromLambda:carrier}` a key of the dict that
        `partition_by` returns. Failed records go below `error_prefix`. `extension` replaces the one of `format` and
        `compression`. ConfigurationError names the expression, its column and the remedy.

        `decompress="gzip"`: what is put is gzip; a record that is not goes to the error output as it came.
        `log_messages=True`: what is in it are documents as CloudWatch Logs sends them, of which the messages are kept.
        `split="json"` makes a record of each JSON object in what is put, `split=b"####"` of each part between these.
        All of these take bytes, and come before the transform (Firehose: S19-S22).

        `backup`: a stream that every accepted record also goes into, as it came, in the same commit (Firehose: S31).

        What the sink does not take is tried again for ever, and `put` waits at the bound. `retry_seconds` ends that:
        the records then go to the sink `failures`, else they are parked (`pipeflow parked`). `max_age` drops what is
        older and was not delivered; without it nothing is ever dropped for its age (Firehose: S17).

        `manifest`: beside the objects of each commit lies a small JSON object that tells of them, so that readers know
        which count. `target_bytes`: small objects are merged into ones of up to this size, which such readers see in
        one step. ConfigurationError when there is no manifest, or the format is not merged.

        `envelope`: what comes from topics lies in their envelope, with id, time and attributes (SNS: T56).

        A sink `https://...` is an HTTP endpoint that takes records as Firehose sends them (S75); `endpoint` says how.
        """
        from pipeflow.formats.columns import columns_for
        from pipeflow.stream import Stream

        place = self._declaring("stream", name)
        full = self.prefix + name
        check_origins(f"{place}: stream {full}", origins)
        chosen = format or ("raw" if type is bytes else "jsonl")
        check_stream(
            f"{place}: stream {full}",
            type,
            sink=sink,
            given=format,
            format=chosen,
            compression=compression,
            durability=durability,
            decompress=decompress,
            delimiter=delimiter,
            split=split,
            backup=backup,
            partitioned=partition_by is not None,
            envelope=envelope,
        )
        if buffer_bytes is None:
            buffer_bytes = COLUMNAR_BYTES if chosen in COLUMNAR else Buffering().bytes
            buffer_bytes = min(buffer_bytes, max_buffered or buffer_bytes)
        spec = StreamSpec(
            full,
            sink,
            buffer_bytes=buffer_bytes,
            buffer_seconds=buffer_seconds,
            format=chosen,
            compression=compression or usual_compression(sink, chosen),
            delimiter=delimiter,
            durability=durability,
            partitioned=partition_by is not None,
            max_partitions=max_partitions,
            max_record=max_record,
            max_buffered=max_buffered if max_buffered is not None else max(256 << 20, 2 * buffer_bytes),
            prefix=prefix,
            error_prefix=error_prefix,
            timezone=timezone,
            extension=extension,
            compression_level=compression_level,
            manifest=manifest,
            target_bytes=target_bytes,
            columns=columns_for(type, chosen, columns=columns, schema=schema, place=f"{place}: stream {full}"),
            decompress=decompress,
            log_messages=log_messages,
            split="delimiter" if isinstance(split, bytes) else split,
            split_delimiter=split if isinstance(split, bytes) else b"",
            backup=backup.name if backup is not None else None,
            retry_seconds=retry_seconds,
            failures=failures,
            max_age=max_age,
            endpoint=endpoint,
        )
        stream = Stream(spec, type, partition_by=partition_by, codec=_codec_of(origins), place=place)
        self._subscribe("stream", spec.name, origins, raw=not envelope)
        self.streams.append(stream)
        return stream

    def webhook(
        self,
        name: str,
        /,
        *origins: Origin[Any],
        url: str,
        raw: bool = False,
        handshake: bool = True,
        retry: DeliveryPolicy | None = None,
        dead_letters: bool | str = True,
        retention: float = 4 * DAY,
        endpoint: Endpoint | None = None,
        timeout: float = 15.0,
        concurrency: int = 10,
        signing: Signing | None = None,
        public_url: str | None = None,
    ) -> Webhook:
        """Post what these topics publish to an HTTP endpoint, as SNS does (T53): at least once, in no order.

        `raw`: the body alone, without its attributes; else the envelope. `handshake`: the endpoint gets nothing but a
        request to confirm before somebody has confirmed with its token, and what is published before then is not for
        it; False for one that is your own. Each topic is confirmed by itself: those that `topics_named(...)` means when
        they are declared. `retry`: over the topic's. What is refused, or fails for good, goes to the dead letters as it
        would have been posted: the queue `<name>-dlq`, or another by name; False drops it. `endpoint`: networks and
        ports it may lie in, as for streams. `public_url`: where `pipeflow.asgi.subscriptions` is mounted, for the URL
        that confirms. It needs the extra `http`, and `sign` to sign.
        """
        from pipeflow.webhook import Webhook  # loaded by apps that have one

        place = self._declaring("webhook", name)
        full = self.prefix + name
        where = f"{place}: webhook {full}"
        topics = check_webhook(
            where,
            origins,
            url=url,
            public_url=public_url,
            raw=raw,
            handshake=handshake,
            timeout=timeout,
            concurrency=concurrency,
        )
        spec = QueueSpec(
            full,
            max_receives=None,
            dead_letters=f"{full}-dlq" if dead_letters is True else dead_letters or None,
            retention=retention,
        )
        try:
            webhook = Webhook(
                spec,
                url,
                topics,
                raw=raw,
                retry=retry,
                endpoint=endpoint or Endpoint(),
                timeout=timeout,
                signing=signing,
                public_url=public_url,
                concurrency=concurrency,
                place=place,
            )
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from error
        for origin in origins:
            topic, policy = (origin.topic, origin.filter) if isinstance(origin, Selection) else (origin, None)
            self.subscriptions.append(
                Subscription(topic.name, "queue", full, policy, raw, endpoint=url, handshake=handshake)
            )
        self.webhooks.append(webhook)
        return webhook

    def outbox(self, path: str, /, *, table: str = "pipeflow_outbox", name: str | None = None) -> Outbox:
        """An outbox in an SQLite file of your own: messages that are part of your transactions there.

        The table is made when it is first needed. The process that runs the app relays it; one app relays a table.
        `name`: what the relay's position is kept under, made of file and table if not given.
        """
        from pipeflow.outbox import Outbox

        self._check_open("an outbox")
        outbox = Outbox(path, table, name=name and source_name(self.prefix + name), place=declared_at())
        self.outboxes.append(outbox)
        return outbox

    # -- functions

    @overload
    def provide(self, function: F, /) -> F: ...
    @overload
    def provide(self, *, per: Scope = "app") -> Callable[[F], F]: ...
    def provide(self, function: Callable[..., object] | None = None, *, per: Scope = "app") -> object:
        """Provide a type to handlers, sources and later providers: the type this function results in or yields.

        Entered when the app starts, in the order of declaration, and left in reverse; `per="message"` for each call.
        """
        self._check_open("a provider")

        def register(function: Callable[..., object]) -> Callable[..., object]:
            self.providers.append(Provider(inspected(function, depth=depth), per))
            return function

        depth = 2 if function is None else 3
        return register if function is None else register(function)

    def source(self, target: Topic[T] | Stream[T], /, *, name: str | None = None) -> SourceDecorator[T]:
        """Feed a topic or a stream from an async generator function; it goes on after its last committed position.

        The function is given that position, None at first, and yields `At(position, payload)`. `name` is what the
        position is kept under; the function's own name if not given.
        """
        self._check_open("a source")

        def register(
            function: Callable[Concatenate[P | None, Q], AsyncIterator[At[P, T]]], /
        ) -> Callable[Concatenate[P | None, Q], AsyncIterator[At[P, T]]]:
            own = name if name is not None else getattr(function, "__name__", "source")
            self.sources.append(Source(source_name(self.prefix + own), inspected(function), target))
            return function

        return register

    def middleware(self, layer: M, /) -> M:
        """Surround every handler of this router and of those it includes; the first declared is the outermost.

        Returning without `call_next` acknowledges the message; raising fails it. Around a batch handler it surrounds
        each message: all that get to `call_next` are handled in one call, and each is told what became of it alone.
        """
        self._check_open("middleware")
        try:
            inspect.signature(layer).bind(None, None)
        except (TypeError, ValueError) as error:
            raise WiringError(
                f"{declared_at()}: {layer!r} is no middleware ({error}); write "
                "`async def guard(delivery: Delivery, call_next: Handle) -> object`"
            ) from error
        self.layers.append(layer)
        return layer

    def observe(self, observer: Observer, /) -> Observer:
        """Tell this function every event; it is called between handlers, and must be quick."""
        self._check_open("an observer")
        self.observers.append(observer)
        return observer

    def include(self, router: Router, /) -> None:
        """Make everything another router declares part of this one."""
        self._check_open("a router")
        if any(router is inner for inner in self.walk()) or any(self is inner for inner in router.walk()):
            raise ConfigurationError(f"{declared_at()}: this router is included already; include it once")
        self.included.append(router)

    # -- what is declared

    def walk(self) -> Iterator[Router]:
        """This router and every router included, in the order of inclusion."""
        yield self
        for router in self.included:
            yield from router.walk()

    def layered(self, outer: tuple[Middleware, ...] = ()) -> Iterator[tuple[Router, tuple[Middleware, ...]]]:
        """Every router with the middleware around its handlers, outermost first."""
        layers = (*outer, *self.layers)
        yield self, layers
        for router in self.included:
            yield from router.layered(layers)

    def _freeze(self, by: int) -> None:
        for router in self.walk():
            router._frozen += by

    def _check_open(self, what: str, depth: int = 3) -> None:
        if self._frozen:
            raise ConfigurationError(
                f"{declared_at(depth)}: {what} cannot be declared while the app is open; do it before"
            )

    def _declaring(self, kind: str, name: str) -> str:
        """The place of the declaration; ConfigurationError when the app is open or the name is taken."""
        place = declared_at(3)
        self._check_open(f"{kind} {self.prefix + name}", 4)
        nouns: dict[str, list[Any]] = {"topic": self.topics, "queue": self.queues, "stream": self.streams}
        nouns["webhook"] = self.webhooks
        known = self._known.setdefault(kind, {})
        # What came since the last look: a declaration that was refused in between took no name.
        known |= {noun.name: noun for noun in nouns[kind][len(known) :]}
        noun = known.get(self.prefix + name)
        if noun is not None:
            raise ConfigurationError(
                f"{place}: {kind} {noun.name} is declared already at {noun.binding.place}; import that one, "
                "or choose another name"
            )
        return place

    def _subscribe(
        self, kind: Literal["queue", "stream"], target: str, origins: tuple[Origin[T], ...], raw: bool = True
    ) -> None:
        several = len(origins) > 1
        for origin in origins:
            topic, policy = (origin.topic, origin.filter) if isinstance(origin, Selection) else (origin, None)
            named = kind == "queue" and (several or isinstance(topic, TopicPattern))
            self.subscriptions.append(Subscription(topic.name, kind, target, policy, raw, named=named))


def _codec_of(origins: tuple[Origin[T], ...]) -> str:
    """The codec of what comes in, so that a queue reads what its topic wrote."""
    for origin in origins:
        return (origin.topic if isinstance(origin, Selection) else origin).codec.name
    return "json"
