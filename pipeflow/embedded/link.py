"""One connection to the owner of a store: calls go out, and answers find who asked.

A lost connection fails the calls under way: Indeterminate where something may have changed, Unavailable where nothing
can have. What a caller gave up waiting for is taken back, and messages that nobody took are released.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec

from pipeflow.embedded import verbs
from pipeflow.embedded.frames import MAX_FRAME, Frames, connected_socket
from pipeflow.embedded.newer import Fields, missing, unknown
from pipeflow.embedded.parts import forget
from pipeflow.embedded.sqlite.ownership import owner_of
from pipeflow.embedded.verbs import VERBS, Answer, Hello, Verb, Welcome, encode
from pipeflow.errors import ConfigurationError, FeatureMissing, Indeterminate, PipeflowError, RefusedError, Unavailable
from pipeflow.events import Event
from pipeflow.messages import Delivery, Release
from pipeflow.version import __version__

_WATCHED = 10_000
"""Events that wait for a slow watcher; later ones are missed."""
GREETING = 10.0
"""Seconds in which an owner that listens must say who it is: one that is stopped listens for ever."""


async def greeted(path: Path, database: Path, url: str) -> Link:
    """A connection to the owner that listens at `path`, once it has answered; Unavailable when nobody does."""
    link = Link(url)
    loop = asyncio.get_running_loop()
    try:
        connection = connected_socket(path)
    except OSError as error:
        owner = owner_of(database)
        remedy = (
            "it is gone: open the store again" if owner is None else f"process {owner} owns it: wait for it, or stop it"
        )
        raise Unavailable(
            f"{url}: the store's owner cannot be reached at {path} ({error.strerror or error}); {remedy}"
        ) from error
    await loop.create_unix_connection(lambda: link.frames, sock=connection)
    peer = link.frames.peer()
    if peer is not None and peer[1] not in (os.geteuid(), 0):
        link.close()
        raise ConfigurationError(f"{url}: the socket {path} belongs to user {peer[1]}; run this program as that user")
    with anyio.move_on_after(GREETING):
        await link.greet()
    if link.welcome is None:
        link.close()
        raise Unavailable(
            f"{url}: process {owner_of(database)} owns the store and has not answered for {GREETING:g} s: it is "
            "stopped, or something in it never lets go of its event loop; wait for it, or stop it"
        )
    return link


class Link:
    """One connection, from its greeting to its end."""

    def __init__(self, url: str) -> None:
        self.frames = Frames(self._on_frame, self._on_lost)
        self.welcome: Welcome | None = None
        self.lacks: Fields = {}
        """What this version may ask for and the owner does not know."""
        self._url = url
        self._greeting: asyncio.Future[Welcome] | None = None
        self._calls: dict[int, tuple[Verb, asyncio.Future[Any], tuple[object, ...]]] = {}
        """Those that have no answer yet."""
        self._streams: dict[int, asyncio.Queue[Event | PipeflowError | None]] = {}
        self._abandoned: dict[int, str] = {}
        self._room = anyio.CapacityLimiter(1)
        self._last_id = 0
        self._reason: PipeflowError | None = None
        self._in_order = False
        """The owner said farewell: what it has not answered it never began."""

    @property
    def open(self) -> bool:
        """Whether calls can be made on it."""
        return self.frames.open

    async def greet(self) -> None:
        """Say who we are; ConfigurationError when the owner speaks another version of the protocol."""
        self._greeting = asyncio.get_running_loop().create_future()
        self.frames.write(encode(Hello(verbs.MAGIC, verbs.PROTOCOL, __version__, os.getpid())))
        self.welcome = await self._greeting
        # A few calls are kept back for taking others back and for demands.
        self._room.total_tokens = max(1, self.welcome.calls - 16)
        self.lacks = missing(self.welcome.knows)

    async def ask(self, verb: Verb, *arguments: object) -> Any:
        """The result of one call, or its error as it was raised in the owner."""
        async with self._room:
            await self.frames.drained()
            id, frame = self._next(verb, arguments)
            answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            if not self.frames.open:
                raise self._lost(verb, sent=False)
            self.frames.write(frame)
            if not self.frames.open:
                # The owner hung up before it had the whole frame.
                raise self._lost(verb, sent=False)
            self._calls[id] = verb, answer, arguments
            try:
                return await answer
            except asyncio.CancelledError:
                if id in self._calls:
                    self._take_back(id, verb, arguments)
                elif verb.name == "receive" and not answer.cancelled() and answer.exception() is None:
                    # The answer woke the caller, who was cancelled before he ran: nobody has what it brought.
                    self._release(str(arguments[0]), answer.result())
                raise
            finally:
                self._calls.pop(id, None)

    async def many(self, verb: Verb, *arguments: object) -> AsyncIterator[Event]:
        """Every item that the owner answers; leaving the loop ends it there too."""
        id, frame = self._next(verb, arguments)
        items: asyncio.Queue[Event | PipeflowError | None] = asyncio.Queue(_WATCHED)
        self._streams[id] = items
        self.frames.write(frame)
        try:
            while (item := await items.get()) is not None:
                if isinstance(item, PipeflowError):
                    raise item
                yield item
        finally:
            del self._streams[id]
            self._take_back(id, verb, arguments)

    def tell(self, verb: Verb, *arguments: object) -> None:
        """Ask without waiting for an answer."""
        self.frames.write(encode((0, verb.name, arguments)))

    def close(self) -> None:
        """Hang up."""
        self.frames.close()

    def unknown(self, said: object) -> str | None:
        """Why the owner cannot be asked for this, as it does not know a part of it; None: it can."""
        if not self.lacks or (what := unknown(said, self.lacks)) is None:
            return None
        owner = self.welcome
        assert owner is not None
        return (
            f"{self._url}: the store's owner (process {owner.pid}, pipeflow {owner.version}) is older than this program"
            f" and does not know {what}; start it again with this pipeflow ({__version__})"
        )

    def _next(self, verb: Verb, arguments: tuple[object, ...]) -> tuple[int, bytes]:
        reason = self.unknown(arguments)
        if reason is not None:
            raise FeatureMissing(reason)
        self._last_id += 1
        try:
            frame = encode((self._last_id, verb.name, arguments))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise TypeError(f"{verb.name}: {error}") from None
        if len(frame) > MAX_FRAME:
            raise RefusedError(
                "TooLong",
                f"{verb.name}: {len(frame)} bytes in one call, more than the {MAX_FRAME} that the owner's socket takes",
            )
        return self._last_id, frame

    def _take_back(self, id: int, verb: Verb, arguments: tuple[object, ...]) -> None:
        if verb.waits:
            if verb.name == "receive":
                self._abandoned[id] = str(arguments[0])
            self.frames.write(encode((id, verbs.CANCEL, ())))

    def _on_frame(self, frame: bytes) -> None:
        try:
            if self.welcome is None and self._greeting is not None and not self._greeting.done():
                self._on_greeting(frame)
            else:
                self._on_answer(verbs.read_answer(frame))
        except msgspec.MsgspecError as error:
            self._reason = Unavailable(f"{self._url}: the owner's socket answered something unreadable: {error}")
            self.frames.abort()

    def _on_greeting(self, frame: bytes) -> None:
        assert self._greeting is not None
        try:
            self._greeting.set_result(verbs.read_welcome(frame))
        except msgspec.MsgspecError:
            answer = verbs.read_answer(frame)
            self._greeting.set_exception(verbs.raised(verbs.read_fault(answer.content)))

    def _on_answer(self, answer: Answer) -> None:
        if answer.id in self._streams:
            self._on_item(answer, self._streams[answer.id])
            return
        if not answer.id and answer.kind == "done":
            self._in_order = True
            return
        verb, future, arguments = self._calls.get(answer.id, (None, None, ()))
        if answer.kind == "error":
            error = verbs.raised(verbs.read_fault(answer.content))
            if not answer.id:
                self._reason = error
            elif future is not None and not future.done():
                future.set_exception(error)
            self._abandoned.pop(answer.id, None)
        elif verb is not None and future is not None and not future.done():
            future.set_result(verb.read_result(verb.result.decode(answer.content)))
        elif verb is not None and verb.name == "receive":
            # The caller is cancelled and did not run since.
            self._give_back(str(arguments[0]), answer)
        elif answer.id in self._abandoned:
            # The answer crossed the cancellation on its way.
            self._give_back(self._abandoned.pop(answer.id), answer)
        self._calls.pop(answer.id, None)

    def _on_item(self, answer: Answer, items: asyncio.Queue[Event | PipeflowError | None]) -> None:
        if items.full():
            return
        match answer.kind:
            case "item":
                items.put_nowait(VERBS["watch"].result.decode(answer.content))
            case "error":
                items.put_nowait(verbs.raised(verbs.read_fault(answer.content)))
            case "done":
                items.put_nowait(None)

    def _give_back(self, queue: str, answer: Answer) -> None:
        receive = VERBS["receive"]
        self._release(queue, receive.read_result(receive.result.decode(answer.content)))

    def _release(self, queue: str, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            forget(self, deliveries)
            self.tell(VERBS["settle"], queue, [Release(delivery.receipt) for delivery in deliveries])

    def _on_lost(self, _: Exception | None) -> None:
        if self._greeting is not None and not self._greeting.done():
            self._greeting.set_exception(self._reason or Unavailable(f"{self._url}: the owner hung up at the greeting"))
        for verb, future, _arguments in self._calls.values():
            if not future.done():
                future.set_exception(self._lost(verb, sent=not self._in_order))
        for items in self._streams.values():
            if items.full():
                items.get_nowait()
            items.put_nowait(self._lost(VERBS["watch"], sent=True))

    def _lost(self, verb: Verb, sent: bool) -> PipeflowError:
        why = f": {self._reason}" if self._reason is not None else ""
        if sent and verb.effect:
            return Indeterminate(
                f"{self._url}: the connection to the store's owner was lost during {verb.name}{why}; "
                "it may have happened: ask again with the same dedup id"
            )
        return Unavailable(f"{self._url}: the connection to the store's owner was lost{why}; {verb.name} did nothing")
