"""Handlers compiled to calls: nothing is looked up by name or inspected per message.

The common case, a function of the payload and of what lives as long as the app, becomes decode and call. Every other
goes through a frame that holds what one call has: the payload, its message, its context, what lives for one message.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeAlias

from msgspec import Struct

from pipeflow.codecs import record_type, type_name
from pipeflow.context import Context, envelope
from pipeflow.engine.outcome import Failed
from pipeflow.engine.plan import HandleBatch
from pipeflow.engine.slot import caused_by, current_slot
from pipeflow.errors import CodecError, WiringError
from pipeflow.messages import Batch, Delivery, Message
from pipeflow.protocols import Handle
from pipeflow.topic import Topic
from pipeflow.wiring.functions import Function, Needs, takes, threaded, wraps
from pipeflow.wiring.providers import Provisions, scope_for

__all__ = ["Job", "batch_call", "checked", "single_call"]


class Job(Struct, frozen=True):
    """What is compiled: a function, the queue it hangs on, and how it is called."""

    function: Function
    queue: str
    payload: type[object]
    decode: Callable[[bytes], object]
    batch: bool
    threads: int
    emit: Topic[object] | None = None


class Frame(Struct):
    """What one call has."""

    body: object
    message: Message[object] | None
    context: Context | None
    values: Mapping[object, object]


Getter: TypeAlias = Callable[[Frame], object]
Get: TypeAlias = tuple[Needs, Getter | None]
"""A parameter and where it comes from; None: a value that lives as long as the app."""


def checked(job: Job, knows: Callable[[object], bool]) -> None:
    """WiringError when a parameter of the function cannot be served; `knows` says what is provided."""
    if job.function.kind in ("async generator", "generator"):
        raise WiringError(
            f"{job.function.name}: a handler returns and does not yield; to publish many, ask for `ctx: Context` and "
            "call ctx.publish for each"
        )
    for number, need in enumerate(job.function.needs()):
        if _getter(job, need, first=number == 0) is None and not knows(need.type) and not need.optional:
            raise WiringError(_unserved(job, need, first=number == 0))


def _unserved(job: Job, need: Needs, *, first: bool) -> str:
    payload = type_name(job.payload)
    asked = f"{job.function.name}: nothing provides parameter {need}"
    if first and job.batch:
        return f"{asked}; queue {job.queue} carries {payload}: write `batch: Batch[{payload}]`, or provide it"
    wants = f"declare an @app.provide function that results in {type_name(need.type)}"
    if first:
        return (
            f"{asked}; queue {job.queue} carries {payload}: write `{need.name}: {payload}` or "
            f"`{need.name}: Message[{payload}]`, or {wants}"
        )
    return f"{asked}; {wants}"


def _getter(job: Job, need: Needs, *, first: bool) -> Getter | None:
    """Where a parameter comes from within one call; None when it is not from there."""
    if need.type is Context:
        return lambda frame: frame.context
    if job.batch:
        return (lambda frame: frame.body) if wraps(need.type, Batch, job.payload, job.function) else None
    if wraps(need.type, Message, job.payload, job.function):
        return lambda frame: frame.message
    if need.type == job.payload or (first and takes(need.type, job.payload)):
        return lambda frame: frame.body
    return None


def single_call(job: Job, provisions: Provisions) -> Handle:
    """The call of one message. Does not suspend where the function does not, but for threads and scoped providers."""
    call = _called(job)
    needs = job.function.needs()
    gets = _gets(job, needs, provisions)
    decode = job.decode
    constants = {need.name: provisions.values[need.type] for need, getter in gets if getter is None}
    if job.emit is None and _plain(job, gets):
        simple = partial(call, **constants) if constants else call
        return lambda delivery: simple(decode(delivery.body))
    return _framed(job, call, gets, needs, provisions)


def _plain(job: Job, gets: Sequence[Get]) -> bool:
    """Whether the payload comes first and everything else lives as long as the app and goes by name."""
    if not gets or gets[0][1] is None or not gets[0][0].positional:
        return False
    need, _ = gets[0]
    if need.type is Context or wraps(need.type, Message, job.payload, job.function):
        return False
    return all(
        getter is None and other.parameter.kind is not other.parameter.POSITIONAL_ONLY for other, getter in gets[1:]
    )


def _called(job: Job) -> Callable[..., Awaitable[object]]:
    if job.function.kind == "coroutine":
        return job.function.call
    return threaded(job.function.call, job.threads)


def _gets(job: Job, needs: Sequence[Needs], provisions: Provisions) -> list[Get]:
    gets: list[Get] = []
    for number, need in enumerate(needs):
        getter = _getter(job, need, first=number == 0)
        if getter is None and need.type in provisions.scoped:
            getter = _scoped(need.type)
        if getter is None and need.type not in provisions.values:
            continue  # it has a default, as `checked` has seen
        gets.append((need, getter))
    return gets


def _scoped(key: object) -> Getter:
    return lambda frame: frame.values[key]


def _framed(
    job: Job,
    call: Callable[..., Awaitable[object]],
    gets: Sequence[Get],
    needs: Sequence[Needs],
    provisions: Provisions,
) -> Handle:
    decode, emit = job.decode, job.emit
    expected = None if emit is None else record_type(emit.type)
    run = _runner(call, gets, needs, provisions)
    needs_context = any(need.type is Context for need in needs)
    needs_message = needs_context or any(wraps(need.type, Message, job.payload, job.function) for need in needs)

    async def handle(delivery: Delivery) -> object:
        slot = current_slot.get()
        slot.emits = []
        body = decode(delivery.body)
        message = envelope(body, delivery) if needs_message else None
        context = Context(slot, (delivery,), message) if needs_context else None
        try:
            result = await run(Frame(body, message, context, {}))
            if emit is not None and result is not None:
                if expected is not None and not isinstance(result, expected):
                    raise TypeError(_not_emitted(job, result))
                slot.emits.append(emit.emission(result, caused_by(delivery)))
        except BaseException:
            slot.emits = []  # middleware may swallow the error: what the failed call published goes nowhere
            raise
        finally:
            if context is not None:
                context.close()
        return result

    return handle


def _not_emitted(job: Job, result: object) -> str:
    assert job.emit is not None
    payload = type_name(job.emit.type)
    return (
        f"{job.function.name} returned {type(result).__name__}, and emit={job.emit.name} publishes {payload}: return "
        f"one {payload} or None; to publish several, ask for `ctx: Context` and call ctx.publish for each"
    )


def _runner(
    call: Callable[..., Awaitable[object]], gets: Sequence[Get], needs: Sequence[Needs], provisions: Provisions
) -> Callable[[Frame], Awaitable[object]]:
    """The call with its arguments taken from a frame, inside the providers that live for one message."""
    places = [
        (None if _by_position(need, gets) else need.name, getter or _constant(provisions.values[need.type]))
        for need, getter in gets
    ]
    positional = [getter for name, getter in places if name is None]
    named: dict[str, Getter] = {name: getter for name, getter in places if name is not None}
    enter = scope_for(needs, provisions)

    def plain(frame: Frame) -> Awaitable[object]:
        if not named:
            return call(*[getter(frame) for getter in positional])
        keywords: dict[str, Any] = {name: getter(frame) for name, getter in named.items()}
        return call(*[getter(frame) for getter in positional], **keywords)

    if enter is None:
        return plain

    async def scoped(frame: Frame) -> object:
        async with AsyncExitStack() as stack:
            frame.values = await enter(stack)
            return await plain(frame)

    return scoped


def _by_position(need: Needs, gets: Sequence[Get]) -> bool:
    # The first by position, as a handler may call its payload what it likes; later ones by name, as an earlier
    # parameter with a default may have stayed away.
    return need.parameter.kind is need.parameter.POSITIONAL_ONLY or (need is gets[0][0] and need.positional)


def _constant(value: object) -> Getter:
    return lambda frame: value


def batch_call(job: Job, provisions: Provisions) -> HandleBatch:
    """The call of one batch: which messages failed and why. A body that does not decode fails alone."""
    call = _called(job)
    needs = job.function.needs()
    run = _runner(call, _gets(job, needs, provisions), needs, provisions)
    needs_context = any(need.type is Context for need in needs)
    decode = job.decode

    async def handle(deliveries: Sequence[Delivery]) -> Mapping[str, BaseException]:
        slot = current_slot.get()
        slot.emits = []
        failures: dict[str, BaseException] = {}
        messages: list[Message[object]] = []
        for delivery in deliveries:
            try:
                messages.append(envelope(decode(delivery.body), delivery))
            except CodecError as error:
                failures[delivery.id] = error
        if not messages:
            return failures
        batch = Batch(messages)
        context = Context(slot, tuple(deliveries), None) if needs_context else None
        try:
            await run(Frame(batch, None, context, {}))
        except BaseException:
            slot.emits = []  # as above: middleware of a message that is alone may swallow the error
            raise
        finally:
            if context is not None:
                context.close()
        for id, reason in batch.failed.items():
            failures[id] = reason if isinstance(reason, BaseException) else Failed(reason)
        return failures

    return handle
