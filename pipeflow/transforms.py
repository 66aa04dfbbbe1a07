"""From a user's transform to what the engine calls: one record, many at once, or the event of a Firehose function.

Everything about a function's shape and its options is checked when it is declared.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableSequence, Sequence
from typing import Annotated, Any, TypeAlias, TypeVar, Union, cast, get_args, get_origin

from msgspec import Struct
from msgspec.structs import replace

from pipeflow.arns import function_arn
from pipeflow.codecs import Codec, type_name
from pipeflow.engine import lambdas
from pipeflow.engine.failures import Coded
from pipeflow.engine.plan import Attempt, BatchTransform, Derive, Derived
from pipeflow.errors import CodecError, ConfigurationError, WiringError
from pipeflow.messages import Outgoing
from pipeflow.specs import StreamSpec
from pipeflow.wiring.functions import threaded

T = TypeVar("T")

Finish: TypeAlias = Callable[[Any], Outgoing]
"""A value encoded and placed. CodecError: it is not of the payload type. Misplaced: there is no place for it."""

LambdaHandler: TypeAlias = Callable[[dict[str, Any], Any], object]
"""`handler(event, context)` as AWS Lambda calls it, or the same as a coroutine function."""

MOST_RECORDS = 10_000
MOST_RETRIES = 300
LONGEST_WAIT = 900.0
"""Firehose: S24."""


# One record


def one_by_one(function: Callable[[T], object], codec: Codec[T], finish: Finish) -> Derive:
    """What a single transform makes of a record: its result, each of a list of them, or nothing."""
    decode, finished = codec.decode, _finishing(codec, finish)
    if is_async(function):
        transform = cast(Callable[[T], Awaitable[object]], function)

        async def derive_later(body: bytes) -> Derived:
            value = await transform(decode(body))
            return finished(value) if value is None or type(value) is list else finish(value)

        return derive_later

    def derive(body: bytes) -> Derived:
        # One call less for what most transforms return: 50 of 1,500 ns.
        value = function(decode(body))
        return finished(value) if value is None or type(value) is list else finish(value)

    return derive


def _finishing(codec: Codec[T], finish: Finish) -> Callable[[object], Derived]:
    several = not is_list(codec.kind)

    def finished(value: object) -> Derived:
        if value is None:
            return None
        if several and type(value) is list:
            return [finish(each) for each in value if each is not None]
        return finish(value)

    return finished


def is_list(kind: object) -> bool:
    """Whether a payload of this type may be a list: then a list is one value, and not several."""
    origin = get_origin(kind) or kind
    if origin in (Union, types.UnionType):
        return any(map(is_list, get_args(kind)))
    if origin is Annotated:
        return is_list(get_args(kind)[0])
    return origin in (list, object, Any, Sequence, MutableSequence, Collection, Iterable)


# Many at once


class _Undecoded(Struct, frozen=True):
    error: CodecError


def batchwise(
    function: Callable[[list[T]], object], codec: Codec[T], finish: Finish, options: BatchTransform
) -> BatchTransform:
    """What a batch transform makes of records; those that do not decode are not shown to it."""
    call, finished = _called_async(function), _finishing(codec, finish)

    def settled(value: object) -> Derived | Exception:
        try:
            return value if isinstance(value, Exception) else finished(value)
        except Exception as error:
            return error

    async def derive(attempt: Attempt) -> list[Derived | Exception]:
        values: list[object] = [_decoded(codec, part.body) for part in attempt.parts]
        given = [value for value in values if not isinstance(value, _Undecoded)]
        answers = iter(_as_many(await call(given), len(given)) if given else ())
        return [value.error if isinstance(value, _Undecoded) else settled(next(answers)) for value in values]

    return replace(options, derive=derive)


def _decoded(codec: Codec[T], body: bytes) -> object:
    try:
        return codec.decode(body)
    except CodecError as error:
        return _Undecoded(error)


def _as_many(answers: object, count: int) -> Sequence[object]:
    if isinstance(answers, Sequence) and not isinstance(answers, str | bytes) and len(answers) == count:
        return answers
    found = f"{len(answers)} results" if isinstance(answers, Sequence) else type(answers).__name__
    raise Coded(
        "Transform.WrongLength",
        f"the batch transform returned {found} for {count} records; return a list with one for each, None to drop it",
    )


# The event of a Firehose function


def lambda_batchwise(
    handler: LambdaHandler, stream: str, place: lambdas.Place, options: BatchTransform
) -> BatchTransform:
    """What a function made for Firehose makes of records (Firehose: S25-S29)."""
    call = _called_async(handler)
    name = called(handler)
    arn = function_arn(name)

    async def derive(attempt: Attempt) -> list[Derived | Exception]:
        if len(attempt.parts) == 1 and lambdas.is_too_large(attempt.parts[0]):
            raise Coded("Lambda.RequestTooLarge", f"one record of {len(attempt.parts[0].body)} bytes is no event")
        context = lambdas.LambdaContext(attempt, name, arn, lambdas.invocation_id(attempt))
        return lambdas.read(await call(lambdas.event(attempt, stream), context), attempt.parts, place)

    return replace(options, derive=derive, lambda_arn=arn)


# Shapes and options


def check_shape(function: Callable[..., object], stream: str, kind: str, wanted: str, parameters: int) -> None:
    """WiringError unless the function takes so many positional arguments."""
    if not callable(function):
        raise WiringError(f"stream {stream}: {function!r} is no function; write `{wanted}`")
    needed = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
    ]
    if len(needed) != parameters or any(parameter.kind is parameter.KEYWORD_ONLY for parameter in needed):
        raise WiringError(
            f"stream {stream}: {kind} {called(function)} takes {len(needed)} parameters; "
            f"write `{wanted.format(called(function))}`"
        )


def check_options(options: BatchTransform, spec: StreamSpec, kind: str, *, most_bytes: int | None = None) -> None:
    """ConfigurationError names the option and what it may be (Firehose: S24)."""
    most = min(spec.max_buffered, most_bytes) if most_bytes is not None else spec.max_buffered
    bound = "max_buffered" if most == spec.max_buffered else "an event"
    for name, given, allowed in (
        ("size", options.size, 1 <= options.size <= MOST_RECORDS),
        ("buffer_bytes", options.buffer_bytes, 1 <= options.buffer_bytes <= most),
        ("buffer_seconds", options.buffer_seconds, 0 <= options.buffer_seconds <= LONGEST_WAIT),
        ("retries", options.retries, 0 <= options.retries <= MOST_RETRIES),
        ("timeout", options.timeout, options.timeout is None or options.timeout > 0),
    ):
        if not allowed:
            remedy = {
                "size": f"1 to {MOST_RECORDS}",
                "buffer_bytes": f"1 to {most}, what {bound} holds",
                "buffer_seconds": f"0 to {LONGEST_WAIT:.0f}",
                "retries": f"0 to {MOST_RETRIES}",
                "timeout": "more than 0 s, or None",
            }[name]
            raise ConfigurationError(f"stream {spec.name}: {kind}: {name} is {given}; use {remedy}")


async def no_derive(attempt: Attempt) -> Sequence[Derived | Exception]:
    """Stands where the function comes that is being declared."""
    raise AssertionError("options are no transform")


def _called_async(function: Callable[..., object]) -> Callable[..., Awaitable[object]]:
    """A plain function runs in a thread, so that it may take its time."""
    return cast(Callable[..., Awaitable[object]], function) if is_async(function) else threaded(function, threads=1)


def is_async(function: Callable[..., object]) -> bool:
    """Whether calling it gives a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def called(function: Callable[..., object]) -> str:
    """The name of a function in errors."""
    return getattr(function, "__name__", repr(function))


def wanted_of(kind: type[Any]) -> str:
    """How a transform of this payload type is written."""
    name = type_name(kind)
    return f"def {{}}(record: {name}) -> {name} | list[{name}] | None"
