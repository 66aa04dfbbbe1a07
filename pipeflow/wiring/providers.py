"""What `@app.provide` gives: entered in the order of declaration, left in reverse, keyed by the type it results in.

Providers of the app live as long as the app is open. Those with per="message" live as long as one call of a handler,
and see the exception that ended it.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Literal, TypeAlias, get_args, get_origin

from msgspec import Struct

from pipeflow.codecs import type_name
from pipeflow.errors import WiringError
from pipeflow.wiring.functions import MISSING, Function, Needs

Scope: TypeAlias = Literal["app", "message"]

_ASYNC = (AsyncIterator, AsyncGenerator, AsyncIterable)
_SYNC = (Iterator, Generator, Iterable)


class Provider(Struct, frozen=True):
    """One provider as it was declared."""

    function: Function
    per: Scope = "app"

    def key(self) -> object:
        """The type it provides. WiringError when its annotation does not say."""
        result = self.function.result()
        if result is MISSING or result is None or result is type(None):
            raise WiringError(
                f"{self.function.name}: a provider is known by its result; annotate it, such as "
                "`-> AsyncIterator[Payments]` for one that yields, or `-> Payments`"
            )
        wrapped = {"async generator": _ASYNC, "generator": _SYNC}.get(self.function.kind, ())
        if not wrapped:
            return result
        if get_origin(result) not in wrapped:
            raise WiringError(
                f"{self.function.name}: it yields, so its result is AsyncIterator[...] or Iterator[...], "
                f"not {type_name(result)}"
            )
        return get_args(result)[0]

    async def enter(self, stack: AsyncExitStack, values: Mapping[object, object]) -> object:
        """Make the value, and register with the stack what ends it."""
        args, keywords = arguments(self.function, self.function.needs(), values)
        match self.function.kind:
            case "async generator":
                return await stack.enter_async_context(asynccontextmanager(self.function.call)(*args, **keywords))
            case "generator":
                return stack.enter_context(contextmanager(self.function.call)(*args, **keywords))
            case "coroutine":
                return await self.function.call(*args, **keywords)
            case "function":
                return self.function.call(*args, **keywords)


class Provisions(Struct, frozen=True):
    """Everything provided to one open app: the values there are, and the providers that make one per message."""

    values: Mapping[object, object]
    scoped: Mapping[object, Provider]

    def knows(self, key: object) -> bool:
        """Whether a parameter of this type can be served."""
        return key in self.values or key in self.scoped


def planned(providers: Sequence[Provider], overrides: Mapping[type, object]) -> list[tuple[object, Provider]]:
    """The providers that run, by key, in the order of declaration; WiringError when one cannot be served."""
    plan: list[tuple[object, Provider]] = []
    known: set[object] = set(overrides)
    lasting: set[object] = set(overrides)
    for provider in providers:
        key = provider.key()
        if key in overrides:
            continue
        if key in known:
            first = next(earlier for other, earlier in plan if other == key)
            raise WiringError(
                f"{provider.function.name}: {type_name(key)} is already provided by {first.function.name}; "
                'tell two of one type apart: `-> AsyncIterator[Annotated[Db, "replica"]]`'
            )
        _check(provider, lasting if provider.per == "app" else known)
        plan.append((key, provider))
        known.add(key)
        if provider.per == "app":
            lasting.add(key)
    return plan


def _check(provider: Provider, known: set[object]) -> None:
    for need in provider.function.needs():
        if need.type not in known and not need.optional:
            raise WiringError(
                f"{provider.function.name}: parameter {need} is provided by nothing declared before it"
                + (" that lives as long as the app" if provider.per == "app" else "")
                + f"; declare an @app.provide for {type_name(need.type)} above it"
            )


@asynccontextmanager
async def provisions(
    plan: Sequence[tuple[object, Provider]], overrides: Mapping[type, object]
) -> AsyncIterator[Provisions]:
    """Enter the app's providers; leave them in reverse."""
    values: dict[object, object] = {key: value for key, value in overrides.items()}  # noqa: C416  # other key type
    async with AsyncExitStack() as stack:
        for key, provider in plan:
            if provider.per == "app":
                values[key] = await provider.enter(stack, values)
        yield Provisions(values, {key: provider for key, provider in plan if provider.per == "message"})


def scope_for(
    needs: Sequence[Needs], provisions: Provisions
) -> Callable[[AsyncExitStack], Awaitable[Mapping[object, object]]] | None:
    """What enters the per-message providers these parameters need, those they need first; None when there are none."""
    wanted: dict[object, Provider] = {}
    for need in needs:
        _want(need.type, provisions, wanted)
    if not wanted:
        return None

    async def enter(stack: AsyncExitStack) -> Mapping[object, object]:
        values = dict(provisions.values)
        for key, provider in wanted.items():
            values[key] = await provider.enter(stack, values)
        return values

    return enter


def _want(key: object, provisions: Provisions, wanted: dict[object, Provider]) -> None:
    provider = provisions.scoped.get(key)
    if provider is None or key in wanted:
        return
    for need in provider.function.needs():
        _want(need.type, provisions, wanted)
    wanted[key] = provider


def arguments(
    function: Function, needs: Sequence[Needs], values: Mapping[object, object]
) -> tuple[list[object], dict[str, Any]]:
    """The arguments of a call, by position and by name; parameters with defaults may stay away."""
    args: list[object] = []
    keywords: dict[str, Any] = {}
    for need in needs:
        if need.type not in values:
            if need.optional:
                continue
            raise WiringError(f"{function.name}: nothing provides parameter {need}")
        if need.parameter.kind is need.parameter.POSITIONAL_ONLY:
            args.append(values[need.type])
        else:
            keywords[need.name] = values[need.type]
    return args, keywords
