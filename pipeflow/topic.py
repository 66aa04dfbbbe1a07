"""A topic: what is published to it goes to every queue and stream whose subscription matches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args

import msgspec

from pipeflow.binding import Binding, causes
from pipeflow.codecs import Codec, attributes_of, codec_for, type_name
from pipeflow.errors import ConfigurationError, RefusedError
from pipeflow.messages import At, AttributeValue, Emit, Outgoing, Refused, Sent
from pipeflow.names import is_meant, topic_pattern
from pipeflow.specs import FilterPolicy, TopicSpec
from pipeflow.webhooks import TEXTS, Protocols

if TYPE_CHECKING:
    from pipeflow.archives import ArchiveReport
    from pipeflow.engine.runtime import Runtime
    from pipeflow.filters.writing import Alternatives
    from pipeflow.queue import Queue
    from pipeflow.stream import Stream
    from pipeflow.webhook import Webhook
    from pipeflow.webhooks import DeliveryPolicy

T = TypeVar("T")

__all__ = ["Selection", "Topic", "TopicPattern", "outgoing"]


class Topic(Generic[T]):
    """Publishes values of one type. Made by `app.topic(name, type)`."""

    __slots__ = ("spec", "type", "binding", "codec", "encode", "retry", "retry_override")

    def __init__(
        self,
        spec: TopicSpec,
        type: type[T],
        *,
        place: str = "",
        codec: str = "json",
        retry: DeliveryPolicy | None = None,
        retry_override: bool = True,
    ) -> None:
        self.spec = spec
        self.type = type
        self.binding = Binding(f"topic {spec.name}", place)
        self.codec: Codec[T] = codec_for(type, codec)
        self.encode: Callable[[T], bytes] = self.codec.encode
        self.retry = retry
        """How its webhooks are tried again, where they say nothing themselves (SNS: T62)."""
        self.retry_override = retry_override

    @property
    def name(self) -> str:
        """As declared, with its router's prefix."""
        return self.spec.name

    async def publish(
        self,
        value: T,
        /,
        *,
        group: str | None = None,
        dedup_id: str | None = None,
        delay: float | None = None,
        ttl: float | None = None,
        priority: int = 0,
        attributes: Mapping[str, AttributeValue] | None = None,
        instead: Mapping[Protocols, T] | None = None,
        **keywords: AttributeValue,
    ) -> str:
        """Publish one value and return its message id; durable, in every queue that matches, when it returns.

        Keywords are attributes; those whose names collide with options go through `attributes`. `group` orders
        messages in FIFO queues. `ttl`: seconds until its copies in queues are gone, acknowledged or not.
        `priority`: 0 to 9; a standard queue hands out the highest first.
        `instead`: what "queue", "webhook" or "stream" subscribers get in place of the value; filters on bodies look at
        what theirs gets (SNS: T25, T48). RefusedError: a rule was broken, and nothing was published.
        """
        headers = causes() if instead is None else {**(causes() or {}), TEXTS: self._texts(instead)}
        message = outgoing(self.encode(value), group, dedup_id, delay, ttl, priority, attributes, keywords, headers)
        (answer,) = await self.binding.runtime.publish(self.spec.name, (message,))
        return accepted(answer, self.binding.noun)

    def _texts(self, instead: Mapping[Protocols, T]) -> str:
        unknown = sorted(set(instead) - set(get_args(Protocols)))
        if unknown:
            raise ConfigurationError(
                f"{self.binding.noun}: instead names {', '.join(unknown)}; use queue, webhook or stream"
            )
        texts = {protocol: self.encode(value).decode("latin-1") for protocol, value in instead.items()}
        return msgspec.json.encode(texts).decode()

    async def publish_many(
        self,
        values: Iterable[T],
        /,
        *,
        group: str | Callable[[T], str] | None = None,
        dedup_id: Callable[[T], str] | None = None,
        delay: float | None = None,
        ttl: float | None = None,
        priority: int | Callable[[T], int] = 0,
        attributes: Mapping[str, AttributeValue] | Callable[[T], Mapping[str, AttributeValue]] | None = None,
        **keywords: AttributeValue,
    ) -> Sequence[Sent | Refused]:
        """Publish many values in one commit; one answer each, in order. A refused one does not stop the others.

        `group`, `dedup_id`, `priority` and `attributes` may be functions of the value.
        """
        batch = many(self.encode, values, group, dedup_id, delay, ttl, priority, attributes, keywords)
        return await self.binding.runtime.publish(self.spec.name, batch)

    def emission(self, value: T, headers: dict[str, str] | None) -> Emit:
        """The value as it leaves with an acknowledgement."""
        return Emit("topic", self.spec.name, Outgoing(self.encode(value), None, headers))

    def item(self, item: At[object, T], checkpoint: tuple[str, bytes]) -> Outgoing:
        """What a source yielded, with the position that commits with it."""
        attributes = attributes_of(item.attributes) if item.attributes else None
        return Outgoing(
            self.encode(item.payload), attributes, group=item.group, dedup_id=item.dedup_id, checkpoint=checkpoint
        )

    def where(self, **attributes: Alternatives) -> Selection[T]:
        """The messages whose attributes match: each a value, a rule such as `num(">", 100)`, or a list of them."""
        from pipeflow.filters import where  # loaded by apps that filter

        return Selection(self, where(**attributes))

    def where_body(self, fields: Mapping[str, object], /) -> Selection[T]:
        """The messages whose body matches, as in an SNS filter policy of scope MessageBody."""
        return Selection(self, _on_bodies(fields, self.codec, f"topic {self.name}"))

    async def replay(
        self,
        to: Queue[T] | Stream[T] | Webhook,
        /,
        *,
        since: float | None = None,
        until: float | None = None,
        where: Selection[T] | FilterPolicy | None = None,
        rate: float | None = None,
        name: str = "",
        again: bool = False,
        dry_run: bool = False,
    ) -> ArchiveReport:
        """Deliver what the archive kept again to one subscriber, and to nobody else: what its filter takes.

        `since` and `until` are epoch seconds, `rate` messages a second; `where` takes a part of that. Ids, bodies and
        times are those of the first time; a header, and the envelope, say that it is a replay (SNS: T75). Stopped
        anywhere, the same call goes on there; `again` begins anew, `name` keeps a position of its own. `dry_run` counts
        what would be sent as `matched`, and sends nothing. NotFound: no archive, or no subscriber.
        """
        from pipeflow.archives import ArchiveRequest
        from pipeflow.engine.archives import through

        runtime = self.binding.runtime
        policy = where.filter if isinstance(where, Selection) else where
        named = name or ArchiveRequest.name_of(since, until, policy)
        request = ArchiveRequest(self.name, to.name, since, until, policy, named, again, dry_run)
        return await through(request, runtime.store, runtime.clock, rate)

    async def matching(
        self, selection: Selection[T] | FilterPolicy, /, *, since: float | None = None, until: float | None = None
    ) -> ArchiveReport:
        """What of the archive a filter would have taken: how many, and the first ids. Nothing is delivered."""
        from pipeflow.archives import ArchiveRequest
        from pipeflow.engine.archives import through

        runtime = self.binding.runtime
        policy = selection.filter if isinstance(selection, Selection) else selection
        return await through(ArchiveRequest(self.name, None, since, until, policy), runtime.store, runtime.clock)

    def bind(self, runtime: Runtime) -> None:
        """Talk to this runtime from now on."""
        self.binding.open(runtime)

    def unbind(self, runtime: Runtime) -> None:
        """Talk to it no more."""
        self.binding.close(runtime)

    def __repr__(self) -> str:
        return f"<topic {self.spec.name}>"


class TopicPattern(Generic[T]):
    """Every topic of one payload type whose name matches, declared before or after, for queues, streams and webhooks.

    Made by `app.topics_named("orders-*", Order)`.
    """

    __slots__ = ("name", "type", "place", "codec")

    def __init__(self, pattern: str, type: type[T], *, place: str = "", codec: str = "json") -> None:
        self.name = topic_pattern(pattern)
        """The pattern, with its router's prefix."""
        self.type = type
        self.place = place
        self.codec: Codec[T] = codec_for(type, codec)

    def where(self, **attributes: Alternatives) -> Selection[T]:
        """Of their messages those whose attributes match, as with `topic.where`."""
        from pipeflow.filters import where

        return Selection(self, where(**attributes))

    def where_body(self, fields: Mapping[str, object], /) -> Selection[T]:
        """Of their messages those whose body matches, as with `topic.where_body`."""
        return Selection(self, _on_bodies(fields, self.codec, f"topics {self.name}"))

    def misfit(self, topic: Topic[Any]) -> str | None:
        """Why what this topic publishes cannot be what is taken here; None when it can."""
        if not is_meant(topic.name, self.name) or self.type is bytes:
            return None
        if topic.type != self.type and topic.type not in get_args(self.type):
            return f"is of {type_name(topic.type)}"
        if topic.codec.name != self.codec.name:
            return f"has codec={topic.codec.name!r}"
        return None

    def __repr__(self) -> str:
        return f"<topics {self.name}>"


class Selection(Generic[T]):
    """Some of a topic's messages: what `topic.where` gives, for a queue or stream to subscribe to."""

    __slots__ = ("topic", "filter")

    def __init__(self, topic: Topic[T] | TopicPattern[T], filter: FilterPolicy) -> None:
        self.topic = topic
        self.filter = filter

    def __repr__(self) -> str:
        return f"<{self.topic!r} where {self.filter.scope} match {self.filter.policy}>"


def _on_bodies(fields: Mapping[str, object], codec: Codec[T], noun: str) -> FilterPolicy:
    from pipeflow.filters import where_body

    if codec.name == "msgpack":
        raise ConfigurationError(
            f"{noun}: a filter on bodies reads JSON, and these are msgpack, so nothing would match; use codec='json',"
            " or publish what is filtered as attributes and use where(...)"
        )
    return where_body(fields)


def outgoing(
    body: bytes,
    group: str | None,
    dedup_id: str | None,
    delay: float | None,
    ttl: float | None,
    priority: int,
    attributes: Mapping[str, AttributeValue] | None,
    keywords: dict[str, AttributeValue],
    headers: dict[str, str] | None = None,
    key: str | None = None,
) -> Outgoing:
    """One message on its way, with what the current handler adds to it."""
    if attributes:
        keywords = {**attributes, **keywords}
    return Outgoing(
        body,
        attributes_of(keywords) if keywords else None,
        headers or causes(),
        group,
        dedup_id,
        delay,
        ttl=ttl,
        priority=priority,
        key=key,
    )


def many(
    encode: Callable[[T], bytes],
    values: Iterable[T],
    group: str | Callable[[T], str] | None,
    dedup_id: Callable[[T], str] | None,
    delay: float | None,
    ttl: float | None,
    priority: int | Callable[[T], int],
    attributes: Mapping[str, AttributeValue] | Callable[[T], Mapping[str, AttributeValue]] | None,
    keywords: dict[str, AttributeValue],
    key: Callable[[T], str] | None = None,
) -> list[Outgoing]:
    """Many messages on their way; options that are functions are asked for each value."""
    _check_many(values, dedup_id, key)
    headers = causes()
    if group is None and dedup_id is None and key is None and not (callable(attributes) or callable(priority)):
        shared = attributes_of({**(attributes or {}), **keywords}) or None
        return [
            Outgoing(encode(value), shared, headers, None, None, delay, ttl=ttl, priority=priority) for value in values
        ]
    return [
        outgoing(
            encode(value),
            group(value) if callable(group) else group,
            dedup_id(value) if dedup_id is not None else None,
            delay,
            ttl,
            priority(value) if callable(priority) else priority,
            attributes(value) if callable(attributes) else attributes,
            keywords,
            headers,
            key(value) if key is not None else None,
        )
        for value in values
    ]


def _check_many(values: object, dedup_id: object, key: object) -> None:
    """ConfigurationError where one value was given, or one id that all of the messages would have."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise ConfigurationError(
            f"a {type(values).__name__} is one value; give a list of values, or use `send` or `publish`"
        )
    for word, option in (("dedup_id", dedup_id), ("key", key)):
        if option is not None and not callable(option):
            raise ConfigurationError(
                f"{word} is {option!r:.80}, and no two messages have the same; give a function of the value"
            )


def accepted(answer: Sent | Refused, noun: str) -> str:
    """The id of the one message that was sent; RefusedError with the reason when it was not."""
    if isinstance(answer, Refused):
        raise RefusedError(answer.code, f"{noun}: {answer.reason}")
    return answer.id
