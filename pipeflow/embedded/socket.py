"""The owner's Unix socket: other processes of the same user reach the store through it, with all of its promises.

The door has no semantics: a frame becomes one call of the store, its result one frame. Calls run side by side and are
answered as they finish. A client that goes away takes its waiting calls with it; what it had received waits for its
visibility timeout, and what it had asked to change is changed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
from anyio import CancelScope
from anyio.abc import TaskGroup
from msgspec.structs import replace

from pipeflow.audit import Caller, caller
from pipeflow.embedded import verbs
from pipeflow.embedded.auditing import user_name
from pipeflow.embedded.frames import MAX_FRAME, Frames, listening_socket, short_named, socket_path
from pipeflow.embedded.newer import LEARNED
from pipeflow.embedded.parts import Held
from pipeflow.embedded.remote import connect
from pipeflow.embedded.verbs import VERBS, Answer, Call, Verb, Welcome, encode
from pipeflow.errors import (
    ConfigurationError,
    FeatureMissing,
    Indeterminate,
    Overloaded,
    PipeflowError,
    RefusedError,
    Unavailable,
)
from pipeflow.messages import Delivery, Release, Want
from pipeflow.protocols import Store
from pipeflow.version import __version__

__all__ = ["OwnerSocket", "connect", "serve", "socket_path"]

logger = logging.getLogger("pipeflow")

MAX_CALLS = 1024
"""Calls under way on one connection; the client is told, and keeps within it."""

MAX_HELD = 256 << 20
"""Bytes of calls under way on one connection; beyond, its further frames wait in the kernel."""

MAX_ANSWERED = 32 << 20
"""Bytes of bodies that one receive hands out: half a frame, so that attributes and failures fit beside them."""

UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding raises: ill-formed msgpack, another shape, text that is no UTF-8, nesting without end."""

LINGER = 5.0
"""Seconds that calls under way at the end have to finish; a commit takes milliseconds."""


async def serve(store: Store, path: Path, task_group: TaskGroup) -> OwnerSocket:
    """Listen at `path` for as long as the task group lives, or until the returned socket is closed."""
    owner = OwnerSocket()
    await owner.start(store, path, task_group)
    return owner


class OwnerSocket:
    """Listens while the store is open. Start it holding the store's lock, close it before the store."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self._server: asyncio.Server | None = None
        self._sessions: set[_Session] = set()

    async def start(self, store: Store, path: Path, task_group: TaskGroup) -> None:
        """Listen at `path`, the database's with `.sock` behind it; calls run in `task_group`.

        A socket left by a dead owner is replaced. Where no socket can be made, a warning says so and the store is
        served to its own process alone.
        """
        path = short_named(path)
        try:
            listener = listening_socket(path)
        except OSError as error:
            logger.warning("%s: other processes cannot reach this store: %s", path, error.strerror or error)
            return
        self.path = path
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: self._open_session(store, task_group), sock=listener
        )

    def _open_session(self, store: Store, task_group: TaskGroup) -> Frames:
        session = _Session(store, task_group, self._sessions)
        self._sessions.add(session)
        return session.frames

    async def close(self) -> None:
        """Take no more calls, finish those that change something, take the socket away. Idempotent."""
        if self._server is None:
            return
        server, self._server = self._server, None
        # The name goes first: who comes now is to find nothing rather than an owner on its way out.
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        server.close()
        with anyio.move_on_after(LINGER, shield=True):
            async with anyio.create_task_group() as closing:
                for session in tuple(self._sessions):
                    closing.start_soon(session.close)
        for session in tuple(self._sessions):
            session.frames.abort()


class _Session:
    """One client: greeted, then served until it goes."""

    def __init__(self, store: Store, task_group: TaskGroup, sessions: set[_Session]) -> None:
        self.frames = Frames(self._on_frame, self._on_lost, self._on_open, self._refuse)
        self._store = store
        self._task_group = task_group
        self._sessions = sessions
        self._calls: dict[int, tuple[Verb, CancelScope]] = {}
        self._unasked = 0
        self._held = 0
        self._parts = Held()
        self._greeted = False
        self._caller: Caller | None = None
        """Who is at the other end: what they do is told by their name."""
        self._done = anyio.Event()
        self._closing = False

    def _on_open(self) -> None:
        peer = self.frames.peer()
        if peer is None:
            return
        process, user = peer
        if user not in (os.geteuid(), 0):
            self._refuse(f"this store belongs to user {os.geteuid()}; a process of user {user} may not use it")
        self._caller = Caller(user_name(user), user, process)

    def _refuse(self, reason: str) -> None:
        self._tell(0, RefusedError("Refused", reason))
        self.frames.close()

    def _on_lost(self, _: Exception | None) -> None:
        self._sessions.discard(self)
        self._stop_waiting()
        self._finished()

    def _on_frame(self, frame: bytes) -> None:
        try:
            if not self._greeted:
                self._greet(frame)
                return
            call = verbs.read_call(frame)
        except UNREADABLE as error:
            self._refuse(f"a frame that is no call: {error}")
            return
        if call.verb == verbs.CANCEL:
            self._cancel(call)
        elif self._closing:
            self._tell(call.id, Unavailable(f"{self._store.url}: its owner is closing; {call.verb} was not begun"))
        else:
            self._accept(call, len(frame))

    def _greet(self, frame: bytes) -> None:
        hello = verbs.read_hello(frame)
        if hello.magic != verbs.MAGIC:
            self._refuse(f"a greeting from {hello.magic!r}; this is pipeflow")
            return
        if hello.protocol != verbs.PROTOCOL:
            told = ConfigurationError(
                f"{self._store.url}: its owner (process {os.getpid()}, pipeflow {__version__}) speaks version "
                f"{verbs.PROTOCOL} of the socket's protocol, this program (pipeflow {hello.version}) version "
                f"{hello.protocol}; run both with the same pipeflow"
            )
            self._tell(0, told)
            self.frames.close()
            return
        self._greeted = True
        if self._caller is None:
            self._caller = Caller(user_name(os.geteuid()), os.geteuid(), hello.pid)
        welcome = Welcome(
            verbs.MAGIC, verbs.PROTOCOL, __version__, os.getpid(), self._store.features, MAX_CALLS, dict(LEARNED)
        )
        self.frames.write(encode(welcome))

    def _cancel(self, call: Call) -> None:
        known = self._calls.get(call.id)
        # Only waiting may be taken back: a change half asked for is a change nobody knows the end of.
        if known is not None and known[0].waits:
            known[1].cancel()

    def _accept(self, call: Call, size: int) -> None:
        verb = VERBS.get(call.verb)
        if verb is None:
            known = ", ".join(VERBS)
            told = f"the owner (pipeflow {__version__}) does not know the verb {call.verb!r}; it knows {known}"
            self._tell(call.id, FeatureMissing(told))
        elif len(self._calls) + self._unasked >= MAX_CALLS:
            self._tell(call.id, Overloaded(f"{MAX_CALLS} calls are under way on this connection; wait for answers"))
        elif call.id in self._calls:
            self._refuse(f"call {call.id} is under way; give the next call an id of its own")
        else:
            try:
                arguments = self._parts.whole(verb.read_arguments(verb.arguments.decode(call.arguments)))
            except PipeflowError as error:  # a spec that is refused when it is made
                self._tell(call.id, error)
            except UNREADABLE as error:
                self._tell(call.id, RefusedError("Malformed", f"{verb.name}: arguments that do not fit: {error}"))
            else:
                self._start(call.id, verb, arguments, size)

    def _start(self, id: int, verb: Verb, arguments: tuple[Any, ...], size: int) -> None:
        scope = CancelScope()
        if id:
            self._calls[id] = verb, scope
        else:
            self._unasked += 1
        self._held += size
        if self._held > MAX_HELD:
            self.frames.read_on(False)
        self._task_group.start_soon(self._serve, id, verb, arguments, size, scope)

    async def _serve(self, id: int, verb: Verb, arguments: tuple[Any, ...], size: int, scope: CancelScope) -> None:
        caller.set(self._caller)
        try:
            with scope:
                await self._answer(id, verb, arguments, scope)
        finally:
            if scope.cancel_called:
                self._tell(id, Unavailable(f"{verb.name}: taken back"))
            if id:
                del self._calls[id]
            else:
                self._unasked -= 1
            self._held -= size
            if self._held <= MAX_HELD:
                self.frames.read_on(True)
            self._finished()

    async def _answer(self, id: int, verb: Verb, arguments: tuple[Any, ...], scope: CancelScope) -> None:
        try:
            if verb.stream:
                await self._stream(id, getattr(self._store, verb.name)(*arguments))
            elif verb.name == "receive":
                await self._receive(id, scope, *arguments)
            elif verb.name in ("part", "rest"):
                self._say(id, "done", getattr(self._parts, verb.name)(*arguments))
            else:
                result = getattr(self._store, verb.name)(*arguments)
                self._say(id, "done", verb.write_result(None if verb.name == "demand" else await result))
        except PipeflowError as error:
            self._tell(id, error)
        except Exception as error:
            logger.exception("%s, asked for through the socket, failed", verb.name)
            told = f"{verb.name}: the owner (process {os.getpid()}) failed on its side: {error!r}; its log says more"
            self._tell(id, Indeterminate(told))
        await self.frames.drained()

    async def _receive(self, id: int, scope: CancelScope, queue: str, want: Want) -> None:
        bounded = replace(want, durable=True, max_bytes=min(want.max_bytes, MAX_ANSWERED))
        deliveries = await self._store.receive(queue, bounded)
        if scope.cancel_called or not self.frames.open:
            await self._give_back(queue, deliveries)
            return
        try:
            self._say(id, "done", self._parts.cut(deliveries))
        except RefusedError:
            await self._give_back(queue, deliveries)
            raise

    async def _give_back(self, queue: str, deliveries: Any) -> None:
        # Nobody has seen them, so nothing is lost by giving them to the next receiver now.
        held: list[Delivery] = list(deliveries)
        if held:
            with CancelScope(shield=True):
                await self._store.settle(queue, [Release(delivery.receipt) for delivery in held])

    async def _stream(self, id: int, items: AsyncIterator[object]) -> None:
        try:
            async for item in items:
                self._say(id, "item", item)
                await self.frames.drained()
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()
        self._say(id, "done", None)

    def _say(self, id: int, kind: Any, content: object) -> None:
        frame = encode(Answer(id, kind, msgspec.Raw(encode(content))))
        if len(frame) > MAX_FRAME:
            raise RefusedError(
                "TooLong", f"the answer has {len(frame)} bytes, a frame {MAX_FRAME}; ask for less at once"
            )
        if id:
            self.frames.write(frame)

    def _tell(self, id: int, error: PipeflowError) -> None:
        self.frames.write(encode(Answer(id, "error", msgspec.Raw(encode(verbs.fault(error))))))

    def _stop_waiting(self) -> None:
        for verb, scope in tuple(self._calls.values()):
            if verb.waits:
                scope.cancel()

    def _finished(self) -> None:
        if not self._calls and not self._unasked and (self._closing or not self.frames.open):
            self._done.set()

    async def close(self) -> None:
        """Answer what is under way, give up what waits, and hang up."""
        self._closing = True
        self._stop_waiting()
        self._finished()
        await self._done.wait()
        # What lies unread in the kernel was never begun, and the client is to know that.
        self.frames.write(encode(verbs.FAREWELL))
        self.frames.close()
