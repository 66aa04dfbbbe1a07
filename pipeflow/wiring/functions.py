"""Signatures say what functions need: read when decorated, compiled to a call when the app starts.

A parameter is served by its type: the payload or its `Message` or `Batch`, `Context`, and what `@app.provide` gives.
What nothing serves is a WiringError that names the function, the place, the parameter and what to write.
"""

from __future__ import annotations

import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

from anyio import CapacityLimiter, to_thread
from msgspec import Struct

from pipeflow.codecs import type_name
from pipeflow.errors import WiringError

__all__ = ["Function", "Needs", "inspected", "threaded"]

Kind: TypeAlias = Literal["coroutine", "async generator", "generator", "function"]

MISSING = inspect.Parameter.empty


class Function(Struct, frozen=True):
    """A function as it was decorated: what it needs is known by name, and by type once annotations resolve."""

    call: Callable[..., Any]
    name: str
    """For errors: "charge (shop.py:31)"."""
    kind: Kind
    parameters: tuple[inspect.Parameter, ...]
    returns: object
    names: Mapping[str, object]
    """What the place of decoration could see: annotations of functions inside functions need it."""

    def needs(self) -> list[Needs]:
        """Every parameter with its type. WiringError when a name in an annotation is not known at run time."""
        return [Needs(parameter, self._resolved(parameter.annotation, parameter.name)) for parameter in self.parameters]

    def result(self) -> object:
        """The annotated result; MISSING when there is none."""
        return MISSING if self.returns is MISSING else self._resolved(self.returns, "the result")

    def _resolved(self, annotation: object, what: str) -> object:
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        scope = getattr(inspect.unwrap(self.call), "__globals__", {})
        try:
            return typing.get_type_hints(holder, dict(scope), dict(self.names), include_extras=True)["it"]
        except NameError as error:
            raise WiringError(
                f"{self.name}: the annotation {annotation!r} of {what} names {error.name!r}, which is not there at run "
                "time; import it outside `if TYPE_CHECKING:`, or define it before the app starts"
            ) from error
        except (TypeError, SyntaxError, AttributeError) as error:
            raise WiringError(f"{self.name}: the annotation {annotation!r} of {what} is no type: {error}") from error


class Needs(Struct, frozen=True):
    """One parameter and its type."""

    parameter: inspect.Parameter
    type: object

    @property
    def name(self) -> str:
        return self.parameter.name

    @property
    def positional(self) -> bool:
        """Whether it is passed by position."""
        return self.parameter.kind is not inspect.Parameter.KEYWORD_ONLY

    @property
    def optional(self) -> bool:
        """Whether the function does without it."""
        return self.parameter.default is not MISSING

    def __str__(self) -> str:
        return f"{self.name}: {type_name(self.type)}"


def inspected(function: Callable[..., Any], *, depth: int = 2) -> Function:
    """Read a function's shape now; WiringError when no call could ever serve it."""
    if not callable(function):
        raise WiringError(f"{function!r} is no function; decorate a function or a callable object")
    name = called(function)
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError, NameError) as error:
        raise WiringError(f"{name}: its signature cannot be read: {error}") from error
    for parameter in signature.parameters.values():
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise WiringError(
                f"{name}: parameter *{parameter.name} cannot be served by type; name each parameter and its type"
            )
        if parameter.annotation is MISSING and parameter.default is MISSING:
            raise WiringError(
                f"{name}: parameter {parameter.name} has no type; write it, such as `{parameter.name}: Order`"
            )
    parameters = tuple(parameter for parameter in signature.parameters.values() if parameter.annotation is not MISSING)
    frame = sys._getframe(depth)
    names = {} if frame.f_locals is frame.f_globals else dict(frame.f_locals)
    return Function(function, name, _kind(function), parameters, signature.return_annotation, names)


def called(function: Callable[..., Any]) -> str:
    """How errors name a function: "charge (shop.py:31)"."""
    inner = inspect.unwrap(function)
    while isinstance(inner, partial):
        inner = inner.func
    code = getattr(inner, "__code__", None) or getattr(_bound_call(inner), "__code__", None)
    name = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    short = name.rpartition("<locals>.")[2]
    return f"{short} ({os.path.basename(code.co_filename)}:{code.co_firstlineno})" if code is not None else short


def _kind(function: Callable[..., Any]) -> Kind:
    shapes = (function, _bound_call(function))
    if any(map(inspect.isasyncgenfunction, shapes)):
        return "async generator"
    if any(map(inspect.iscoroutinefunction, shapes)):
        return "coroutine"
    if any(map(inspect.isgeneratorfunction, shapes)):
        return "generator"
    return "function"


def _bound_call(function: Callable[..., Any]) -> object:
    """The method behind a callable object."""
    return type(function).__call__


def takes(annotation: object, payload: object) -> bool:
    """Whether a parameter of this annotation can take a payload of this type."""
    if annotation == payload or annotation is Any or annotation is object or isinstance(annotation, TypeVar):
        return True
    origin = get_origin(annotation)
    if origin is Union or origin is types.UnionType:
        return any(takes(part, payload) for part in get_args(annotation))
    if origin is typing.Annotated:
        return takes(get_args(annotation)[0], payload)
    plain = get_origin(payload) or payload
    return isinstance(annotation, type) and isinstance(plain, type) and issubclass(plain, annotation)


def wraps(annotation: object, wrapper: type, payload: object, function: Function) -> bool:
    """Whether an annotation is `wrapper` or `wrapper[payload]`; WiringError when it wraps something else."""
    if annotation is wrapper:
        return True
    if get_origin(annotation) is not wrapper:
        return False
    (inner,) = get_args(annotation)
    if takes(inner, payload):
        return True
    raise WiringError(
        f"{function.name}: it asks for {wrapper.__name__}[{type_name(inner)}], but its queue carries "
        f"{type_name(payload)}; write {wrapper.__name__}[{type_name(payload)}]"
    )


def threaded(function: Callable[..., Any], threads: int) -> Callable[..., Any]:
    """The function in a thread of its own, at most so many at a time; cancelling leaves the thread to end by itself."""
    limiter = CapacityLimiter(threads)

    async def call(*args: object, **keywords: object) -> object:
        result = await to_thread.run_sync(partial(function, *args, **keywords), abandon_on_cancel=True, limiter=limiter)
        if isinstance(result, Coroutine):
            # Nothing of it has run: to go on as if it had would lose what it was to do.
            result.close()
            raise TypeError(
                f"{called(function)} is no `async def` and returned a coroutine, of which nothing has run: write it, "
                "and what it is decorated with, as `async def`, and await what it calls"
            )
        return result

    return call
