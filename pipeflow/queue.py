"""A queue: messages of one type wait in it until the handler that hangs on it has handled them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from msgspec import Struct

from pipeflow.binding import Binding, declared_at
from pipeflow.codecs import Codec, codec_for
from pipeflow.dead_letters import DeadLetters
from pipeflow.engine.plan import Batching
from pipeflow.errors import ConfigurationError, WiringError
from pipeflow.messages import AttributeValue, Batch, Message, Refused, Sent
from pipeflow.protocols import Found, Search, State
from pipeflow.specs import Backoff, FilterPolicy, QueueSpec
from pipeflow.specs.numbers import check_numbers
from pipeflow.topic import Topic, accepted, many, outgoing
from pipeflow.wiring.functions import Function, inspected

if TYPE_CHECKING:
    from pipeflow.engine.runtime import Runtime

T = TypeVar("T")
U = TypeVar("U")
R = TypeVar("R")
P = ParamSpec("P")

__all__ = ["Queue", "Registration"]


class Registration(Struct, frozen=True):
    """A handler as it was registered, with its options; compiled when the app starts."""

    function: Function
    emit: Topic[Any] | None = None
    concurrency: int | None = None
    timeout: float | None = None
    batching: Batching | None = None
    """None: one message a call."""


class Decorator(Protocol[T]):
    """Registers a function that takes the payload, or its message, first; and returns it unchanged."""

    @overload
    def __call__(self, function: Callable[Concatenate[T, P], R], /) -> Callable[Concatenate[T, P], R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Message[T], P], R], /
    ) -> Callable[Concatenate[Message[T], P], R]: ...


class EmittingDecorator(Protocol[T, U]):
    """The same for functions whose result is published: they return the topic's type, or None for nothing."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[T, P], Awaitable[U]], /
    ) -> Callable[Concatenate[T, P], Awaitable[U]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[T, P], Awaitable[U | None]], /
    ) -> Callable[Concatenate[T, P], Awaitable[U | None]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # no payload is a Message itself
        self, function: Callable[Concatenate[Message[T], P], Awaitable[U]], /
    ) -> Callable[Concatenate[Message[T], P], Awaitable[U]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # no payload is a Message itself
        self, function: Callable[Concatenate[Message[T], P], Awaitable[U | None]], /
    ) -> Callable[Concatenate[Message[T], P], Awaitable[U | None]]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[T, P], U], /) -> Callable[Concatenate[T, P], U]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[T, P], U | None], /) -> Callable[Concatenate[T, P], U | None]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Message[T], P], U], /
    ) -> Callable[Concatenate[Message[T], P], U]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Message[T], P], U | None], /
    ) -> Callable[Concatenate[Message[T], P], U | None]: ...


class BatchDecorator(Protocol[T]):
    """Registers a function that takes a batch first, and returns it unchanged."""

    def __call__(self, function: Callable[Concatenate[Batch[T], P], R], /) -> Callable[Concatenate[Batch[T], P], R]: ...


class Queue(Generic[T]):
    """Sends values of one type, and has at most one handler. Made by `app.queue(name, type, *sources)`."""

    __slots__ = ("spec", "type", "binding", "codec", "backoff", "registration", "_encode")

    def __init__(
        self, spec: QueueSpec, type: type[T], *, place: str = "", codec: str = "json", backoff: Backoff
    ) -> None:
        self.spec = spec
        self.type = type
        self.binding = Binding(f"queue {spec.name}", place)
        self.codec: Codec[T] = codec_for(type, codec)
        self.backoff = backoff
        self.registration: Registration | None = None
        self._encode = self.codec.encode

    @property
    def name(self) -> str:
        """As declared, with its router's prefix."""
        return self.spec.name

    async def send(
        self,
        value: T,
        /,
        *,
        delay: float | None = None,
        ttl: float | None = None,
        priority: int = 0,
        group: str | None = None,
        dedup_id: str | None = None,
        key: str | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
        **keywords: AttributeValue,
    ) -> str:
        """Send one value straight to this queue and return its message id; durable when it returns.

        `delay`: seconds until it is visible, up to 366 days; None takes the queue's own. `ttl`: seconds until it is
        gone, acknowledged or not, counted from now. `priority`: 0 to 9; a standard queue hands out the highest first.
        `key`: while a message of this key is still delayed, this one takes its place, with an id of its own, in one
        commit; see `cancel`. `dedup_id`: for five minutes an equal one is answered with the first message's id and not
        sent. RefusedError: a rule was broken, and nothing was sent or replaced.
        """
        message = outgoing(self._encode(value), group, dedup_id, delay, ttl, priority, attributes, keywords, key=key)
        (answer,) = await self.binding.runtime.send(self.spec.name, (message,))
        return accepted(answer, self.binding.noun)

    async def send_many(
        self,
        values: Iterable[T],
        /,
        *,
        delay: float | None = None,
        ttl: float | None = None,
        priority: int | Callable[[T], int] = 0,
        group: str | Callable[[T], str] | None = None,
        dedup_id: Callable[[T], str] | None = None,
        key: Callable[[T], str] | None = None,
        attributes: Mapping[str, AttributeValue] | Callable[[T], Mapping[str, AttributeValue]] | None = None,
        **keywords: AttributeValue,
    ) -> Sequence[Sent | Refused]:
        """Send many values in one commit; one answer each, in order. A refused one does not stop the others.

        `group`, `dedup_id`, `priority`, `key` and `attributes` may be functions of the value.
        """
        batch = many(self._encode, values, group, dedup_id, delay, ttl, priority, attributes, keywords, key)
        return await self.binding.runtime.send(self.spec.name, batch)

    async def peek(
        self,
        limit: int = 10,
        /,
        *,
        where: str | FilterPolicy | None = None,
        contains: str | bytes | None = None,
        state: State | None = None,
        dead: bool = False,
    ) -> Found:
        """The first `limit` messages that answer to all of this, in the order of delivery; no receive is counted.

        `where` is a line such as "attempt>2, body.customer=ada", `contains` is text in the body as it was sent, `dead`
        looks at the dead letters. The whole queue is looked through until so many are found, in pages that hold nobody
        up; `examined` of the answer says how many were looked at. InvalidFilter: `where`.
        """
        if isinstance(where, str):
            from pipeflow.filters import parse_where  # loaded by apps that filter

            where = parse_where(where, self.binding.runtime.clock.now())
        needle = contains.encode() if isinstance(contains, str) else contains
        return await self.binding.runtime.store.search(Search(self.spec.name, limit, dead, where, needle, state))

    @property
    def dead_letters(self) -> DeadLetters[T]:
        """What failed for good: to edit, to send back, to delete, and what was done to it."""
        return DeadLetters(self)

    async def cancel(self, key: str, /) -> bool:
        """Take the message of this key back while it is still delayed; whether there was one. Durable when it returns.

        Once a message is visible its key is free: it is then too late to cancel it. RefusedError: a FIFO queue.
        """
        return await self.binding.runtime.store.cancel_delayed(self.spec.name, key)

    @overload
    def handler(self, function: Callable[Concatenate[T, P], R], /) -> Callable[Concatenate[T, P], R]: ...
    @overload
    def handler(
        self, function: Callable[Concatenate[Message[T], P], R], /
    ) -> Callable[Concatenate[Message[T], P], R]: ...
    @overload
    def handler(
        self, *, emit: None = None, concurrency: int | None = None, timeout: float | None = None
    ) -> Decorator[T]: ...
    @overload
    def handler(
        self, *, emit: Topic[U], concurrency: int | None = None, timeout: float | None = None
    ) -> EmittingDecorator[T, U]: ...
    def handler(
        self,
        function: Callable[..., object] | None = None,
        *,
        emit: Topic[Any] | None = None,
        concurrency: int | None = None,
        timeout: float | None = None,
    ) -> object:
        """Handle this queue's messages with a function, one a call; the function stays the function.

        It takes the payload (`order: Order`) or its envelope (`message: Message[Order]`) first, then `Context` and
        whatever `@app.provide` provides, each asked for by its type. Returning acknowledges. Raising `Reject` sends the
        message to the dead letters, `Retry(after)` and every other exception try again later.
        `emit`: what it returns is published to this topic with the acknowledgement, in one commit.
        `concurrency`: calls at a time; 10 for async functions, 4 threads for others.
        `timeout`: seconds after which a call counts as failed (H31); the thread of one that is not async runs on.
        """
        place = declared_at()

        # How far the decorated function's surroundings are up the stack: `register` is called there, or by us.
        depth = 3 if function is None else 4

        def register(function: Callable[..., object]) -> Callable[..., object]:
            self._register(function, place, emit, concurrency, timeout, None, depth)
            return function

        return register if function is None else register(function)

    @overload
    def batch_handler(
        self, function: Callable[Concatenate[Batch[T], P], R], /
    ) -> Callable[Concatenate[Batch[T], P], R]: ...
    @overload
    def batch_handler(
        self, *, size: int = 10, linger: float = 0.0, concurrency: int | None = None, timeout: float | None = None
    ) -> BatchDecorator[T]: ...
    def batch_handler(
        self,
        function: Callable[..., object] | None = None,
        *,
        size: int = 10,
        linger: float = 0.0,
        concurrency: int | None = None,
        timeout: float | None = None,
    ) -> object:
        """Handle this queue's messages many a call: up to `size`, or what came within `linger` seconds of the first.

        The function takes `batch: Batch[Order]`. Messages named by `batch.fail` are tried again or dead-lettered alone,
        the others are acknowledged when it returns (H25); when it raises, the batch is split until single messages fail
        alone. Middleware surrounds each message of the batch, again with each part of one that was split; `call_next`
        returns None there, and raises what the message failed with.
        """
        place = declared_at()
        check_numbers(f"{place}: {self.spec.name}", size=size, linger=linger)
        if size < 1 or not 0 <= linger < inf:
            raise ConfigurationError(
                f"{self.spec.name}: batch_handler(size={size}, linger={linger}); use size >= 1 and linger >= 0 seconds"
            )
        depth = 3 if function is None else 4

        def register(function: Callable[..., object]) -> Callable[..., object]:
            self._register(function, place, None, concurrency, timeout, Batching(size, linger), depth)
            return function

        return register if function is None else register(function)

    def _register(
        self,
        function: Callable[..., object],
        place: str,
        emit: Topic[Any] | None,
        concurrency: int | None,
        timeout: float | None,
        batching: Batching | None,
        depth: int,
    ) -> None:
        if self.registration is not None:
            raise WiringError(
                f"{place}: queue {self.spec.name} already has the handler {self.registration.function.name}; "
                "one queue has one handler: give the second a queue of its own"
            )
        if self.binding.is_open:
            raise ConfigurationError(
                f"{place}: queue {self.spec.name}: a handler that is declared while the app is open would not run; "
                "declare it before"
            )
        check_numbers(f"{place}: {self.spec.name}", concurrency=concurrency, timeout=timeout)
        for word, number in (("concurrency", concurrency), ("timeout", timeout)):
            if number is not None and not number > 0:
                raise ConfigurationError(f"{place}: {self.spec.name}: {word} is {number}; use more than 0")
        if emit is not None and not isinstance(emit, Topic):
            raise WiringError(f"{place}: {self.spec.name}: emit is {emit!r}; give the topic itself")
        self.registration = Registration(
            inspected(function, depth=depth),
            emit,
            concurrency,
            timeout,
            batching,
        )

    def bind(self, runtime: Runtime) -> None:
        """Talk to this runtime from now on."""
        self.binding.open(runtime)

    def unbind(self, runtime: Runtime) -> None:
        """Talk to it no more."""
        self.binding.close(runtime)

    def __repr__(self) -> str:
        return f"<queue {self.spec.name}>"
