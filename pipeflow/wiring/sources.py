"""Source functions compiled: given the last committed position, they yield what comes after it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, get_args, get_origin

import msgspec

from pipeflow.codecs import type_name
from pipeflow.engine.plan import SourceItem, SourcePlan, Unfit
from pipeflow.errors import ConfigurationError, WiringError
from pipeflow.messages import At, Outgoing
from pipeflow.wiring.functions import MISSING, Function
from pipeflow.wiring.providers import Provisions, arguments

__all__ = ["checked_source", "source_plan"]

Make = Callable[[At[object, object], tuple[str, bytes]], Outgoing]
"""The message of one item, with its checkpoint."""


def checked_source(name: str, function: Function, knows: Callable[[object], bool]) -> None:
    """WiringError when the function is no source or asks for what nothing provides."""
    needs = function.needs()
    if function.kind != "async generator" or not needs or not needs[0].positional:
        raise WiringError(
            f"{function.name}: source {name} is an async generator function that takes its last position first; write "
            f"`async def {name}(position: int | None) -> AsyncIterator[At[int, Order]]`, and yield At(position, order)"
        )
    for need in needs[1:]:
        if not knows(need.type) and not need.optional:
            raise WiringError(
                f"{function.name}: nothing provides parameter {need}; declare an @app.provide function that results in "
                f"{type_name(need.type)}, and that lives as long as the app"
            )


def source_plan(
    name: str, function: Function, kind: str, target: str, make: Make, provisions: Provisions
) -> SourcePlan:
    """The source as the engine runs it."""
    args, keywords = arguments(function, function.needs()[1:], provisions.values)
    decode = _decoder(name, function)

    async def start(committed: bytes | None) -> AsyncIterator[SourceItem]:
        position = None if committed is None else decode(committed)
        async with aclosing(function.call(position, *args, **keywords)) as items:
            async for item in items:
                if not isinstance(item, At):
                    raise ConfigurationError(
                        f"{function.name}: source {name} yielded {type(item).__name__}; yield At(position, payload)"
                    )
                encoded = encode(item.position)
                try:
                    message = make(item, (name, encoded))
                except Exception as error:
                    raise Unfit(f"{type(error).__name__}: {error}", encoded.decode()) from error
                yield SourceItem(message, encoded.decode())

    def encode(position: object) -> bytes:
        try:
            return msgspec.json.encode(position)
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            raise ConfigurationError(
                f"{function.name}: source {name} yielded a position that cannot be kept, {position!r}: {error}; use a "
                "number, text, or a Struct or tuple of them"
            ) from error

    return SourcePlan(name, function.name, kind, target, start)


def _decoder(name: str, function: Function) -> Callable[[bytes], object]:
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_position_type(function))

    def decode(committed: bytes) -> object:
        try:
            return decoder.decode(committed)
        except msgspec.DecodeError as error:
            raise ConfigurationError(
                f"{function.name}: the committed position {committed.decode(errors='replace')} of source {name} is not "
                f"what its annotation says: {error}; give the source a new name to begin again"
            ) from error

    return decode


def _position_type(function: Function) -> Any:
    result = function.result()
    for inner in () if result is MISSING else get_args(result):
        if get_origin(inner) is At:
            return get_args(inner)[0]
    return Any
