"""A store in another process, reached through its owner's socket: the same verbs, the same errors.

A lost connection fails the calls under way: Indeterminate where something may have changed, Unavailable where nothing
can have. The next call connects again. What only the owner may do with a stream is refused by name.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import anyio
import msgspec
from msgspec.structs import replace

from pipeflow.archives import ArchiveReport, ArchiveRequest
from pipeflow.audit import Entry
from pipeflow.clock import Clock, Signal
from pipeflow.embedded import verbs
from pipeflow.embedded.frames import MAX_FRAME, Frames, connected_socket, short_named
from pipeflow.embedded.parts import Ahead, complete, forget, in_parts
from pipeflow.embedded.sqlite.ownership import owner_of
from pipeflow.embedded.verbs import VERBS, Answer, Hello, Verb, Welcome, encode
from pipeflow.errors import (
    ConfigurationError,
    FeatureMissing,
    Indeterminate,
    PipeflowError,
    RefusedError,
    StoreOwned,
    Unavailable,
)
from pipeflow.events import Event
from pipeflow.files import CompactReport, CompactRequest, FileFacts, FileQuery
from pipeflow.letters import Change, Discard, Discarded, Redrive, Redriven, Rewrite
from pipeflow.messages import (
    Delivery,
    Manifest,
    Outgoing,
    Position,
    Records,
    Refused,
    Release,
    Segment,
    Sent,
    Settled,
    Settlement,
    Stale,
    Trouble,
    Want,
)
from pipeflow.moves import Move
from pipeflow.protocols import (
    BEHIND,
    Catalogue,
    Features,
    Found,
    Lane,
    Parked,
    Peeked,
    Search,
    Store,
    StoreStats,
    Waiting,
)
from pipeflow.specs import FilterPolicy, Topology
from pipeflow.version import __version__
from pipeflow.webhooks import SubscriptionFacts

PATIENCE = 5.0
"""Seconds that an owner which holds the lock has to open its socket: it may be recovering."""

_SLICE = 24 << 20
"""Bytes of bodies in one frame of a batch; a longer batch goes as several calls, in order."""

_WATCHED = 10_000
"""Events that wait for a slow watcher; later ones are missed."""


async def connect(path: Path, url: str, clock: Clock, *, patience: float = PATIENCE) -> Store:
    """The store whose owner listens at `path`; waits up to `patience` seconds for it to do so.

    StoreOwned: the store has an owner that does not answer.
    """
    store = RemoteStore(path, url, clock)
    await store.open(patience)
    return store


class RemoteStore:
    """Implements Store for a process that does not own it."""

    def __init__(self, path: Path, url: str, clock: Clock) -> None:
        self.url = url
        self.clock = clock
        self.features = Features(durable=True, reconnects=True)
        self._path = short_named(path)
        self._database = path.with_name(path.name.removesuffix(".sock"))
        self._link: _Link | None = None
        self._connecting = anyio.Lock()
        self._demanded: dict[str, str] = {}
        self._part_keys = count(1)
        self._closed = False

    async def open(self, patience: float) -> None:
        """Connect, trying again while the owner may still be starting."""
        until = self.clock.now() + patience
        while True:
            try:
                await self._connected()
                return
            except Unavailable as error:
                # An owner that is gone will not open its socket: the caller may have the store itself.
                if self.clock.now() >= until or owner_of(self._database) is None:
                    raise StoreOwned(str(error)) from error
            await self.clock.wait(Signal(), min(until, self.clock.now() + 0.05))

    async def declare(self, topology: Topology) -> None:
        await self._ask(VERBS["declare"], topology)

    async def publish(self, topic: str, batch: Sequence[Outgoing]) -> Sequence[Sent | Refused]:
        """As Broker.publish; a batch beyond one frame commits in several parts, in order."""
        return await self._in_slices("publish", topic, batch)

    async def send(self, queue: str, batch: Sequence[Outgoing]) -> Sequence[Sent | Refused]:
        """As Broker.send; a batch beyond one frame commits in several parts, in order."""
        return await self._in_slices("send", queue, batch)

    async def cancel_delayed(self, queue: str, key: str) -> bool:
        cancelled: bool = await self._ask(VERBS["cancel_delayed"], queue, key)
        return cancelled

    async def append(self, stream: str, batch: Sequence[Outgoing]) -> Sequence[Position | Refused]:
        """As RecordLog.append; a batch beyond one frame commits in several parts, in order."""
        return await self._in_slices("append", stream, batch)

    async def _in_slices(self, verb: str, target: str, batch: Sequence[Outgoing]) -> list[Any]:
        results: list[Any] = []
        for part in _slices(batch):
            if len(results) > 0 and isinstance(results[-1], Refused) and part[0].checkpoint is not None:
                break
            try:
                results += await self._ask_in_parts(VERBS[verb], target, part)
            except (Indeterminate, Unavailable) as error:
                if not results:
                    raise
                raise Indeterminate(
                    f"{error}; the first {len(results)} of these {len(batch)} were answered before and are done: "
                    "do not send them again"
                ) from error
        results += [BEHIND] * (len(batch) - len(results))
        return results

    async def receive(self, queue: str, want: Want) -> Sequence[Delivery]:
        """As Broker.receive, always committed before it answers: this process may die alone."""
        link = await self._connected()
        return await complete(link, queue, await link.ask(VERBS["receive"], queue, replace(want, durable=True)))

    async def settle(self, queue: str, batch: Sequence[Settlement]) -> Sequence[Settled | Stale | Refused]:
        outcomes: list[Settled | Stale | Refused] = await self._ask_in_parts(VERBS["settle"], queue, batch)
        return outcomes

    async def position(self, source: str) -> bytes | None:
        position: bytes | None = await self._ask(VERBS["position"], source)
        return position

    def demand(self, stream: str, reason: str = "demand") -> None:
        """Make every open buffer of the stream ripe; at the next call when the connection is down."""
        self._demanded[stream] = reason
        if self._link is not None and self._link.open:
            self._send_demands(self._link)

    async def delivered(self, stream: str) -> None:
        await self._ask(VERBS["delivered"], stream)

    async def flush(self, stream: str) -> None:
        await self._ask(VERBS["flush"], stream)

    async def describe(self) -> Topology:
        topology: Topology = await self._ask(VERBS["describe"])
        return topology

    async def peek(
        self, queue: str, limit: int = 10, dead: bool = False, where: FilterPolicy | None = None
    ) -> list[Peeked]:
        messages: list[Peeked] = await self._ask(VERBS["peek"], queue, limit, dead, where)
        return messages

    async def search(self, request: Search) -> Found:
        found: Found = await self._ask(VERBS["search"], request)
        return found

    async def purge(self, queue: str) -> int:
        count: int = await self._ask(VERBS["purge"], queue)
        return count

    async def delete_queue(self, queue: str) -> int:
        count: int = await self._ask(VERBS["delete_queue"], queue)
        return count

    async def edit(self, request: Rewrite) -> Change:
        change: Change = await self._ask(VERBS["edit"], request)
        return change

    async def discard(self, request: Discard) -> Discarded:
        discarded: Discarded = await self._ask(VERBS["discard"], request)
        return discarded

    async def audit(self, name: str | None = None, limit: int = 100, before: int | None = None) -> list[Entry]:
        entries: list[Entry] = await self._ask(VERBS["audit"], name, limit, before)
        return entries

    async def redrive(self, request: Redrive) -> Redriven:
        redriven: Redriven = await self._ask(VERBS["redrive"], request)
        return redriven

    async def start_move(self, request: Redrive) -> Move:
        move: Move = await self._ask(VERBS["start_move"], request)
        return move

    async def moves(self, queue: str | None = None) -> list[Move]:
        moves: list[Move] = await self._ask(VERBS["moves"], queue)
        return moves

    async def cancel_move(self, id: str) -> Move:
        move: Move = await self._ask(VERBS["cancel_move"], id)
        return move

    async def parked(self, stream: str) -> list[Parked]:
        segments: list[Parked] = await self._ask(VERBS["parked"], stream)
        return segments

    async def retry_parked(self, stream: str, ids: Sequence[int] | None = None) -> int:
        count: int = await self._ask(VERBS["retry_parked"], stream, ids)
        return count

    async def discard_parked(self, stream: str, ids: Sequence[int]) -> int:
        records: int = await self._ask(VERBS["discard_parked"], stream, ids)
        return records

    async def delete_stream(self, stream: str, drop: bool = False) -> int:
        dropped: int = await self._ask(VERBS["delete_stream"], stream, drop)
        return dropped

    async def delete_topic(self, topic: str) -> bool:
        deleted: bool = await self._ask(VERBS["delete_topic"], topic)
        return deleted

    async def archived(self, request: ArchiveRequest) -> ArchiveReport:
        report: ArchiveReport = await self._ask(VERBS["archived"], request)
        return report

    async def webhooks(self) -> list[SubscriptionFacts]:
        found: list[SubscriptionFacts] = await self._ask(VERBS["webhooks"])
        return found

    async def confirm(self, topic: str, token: str) -> SubscriptionFacts:
        confirmed: SubscriptionFacts = await self._ask(VERBS["confirm"], topic, token)
        return confirmed

    async def unsubscribe(self, arn: str, undo: bool = False) -> SubscriptionFacts | None:
        left: SubscriptionFacts | None = await self._ask(VERBS["unsubscribe"], arn, undo)
        return left

    async def stats(self) -> StoreStats:
        stats: StoreStats = await self._ask(VERBS["stats"])
        return stats

    async def files(self, stream: str, query: FileQuery) -> list[FileFacts]:
        files: list[FileFacts] = await self._ask(VERBS["files"], stream, query)
        return files

    async def compact(self, stream: str, request: CompactRequest) -> CompactReport:
        report: CompactReport = await self._ask(VERBS["compact"], stream, request)
        return report

    def catalogue(self, stream: str) -> Catalogue | None:
        """None: files are asked for with `files`, and merged by the owner."""
        return None

    async def watch(self) -> AsyncIterator[Event]:
        """Events as they happen, until the connection is lost, which raises Unavailable."""
        link = await self._connected()
        async for event in link.many(VERBS["watch"]):
            yield event

    async def intake(self, stream: str, after: Position, limit: int) -> Sequence[Records]:
        self._owners_business("intake", stream)

    def waiting(self, stream: str) -> Waiting | None:
        self._owners_business("waiting", stream)

    async def derive(self, stream: str, upto: Position, batch: Sequence[Outgoing], dropped: int = 0) -> None:
        self._owners_business("derive", stream)

    def ripens(self, stream: str) -> tuple[Signal, float]:
        self._owners_business("ripens", stream)

    async def seal(self, stream: str) -> Segment | None:
        self._owners_business("seal", stream)

    def read(self, segment: Segment) -> AsyncIterator[Records]:
        self._owners_business("read", segment.stream)

    async def commit(self, segment: Segment, manifest: Manifest) -> None:
        self._owners_business("commit", segment.stream)

    def hand_back(self, segment: Segment) -> None:
        self._owners_business("hand_back", segment.stream)

    def delivering(self, stream: str, running: bool) -> None:
        self._owners_business("delivering", stream)

    def trouble(self, segment: Segment) -> Trouble:
        self._owners_business("trouble", segment.stream)

    async def note(self, segment: Segment, trouble: Trouble) -> None:
        self._owners_business("note", segment.stream)

    async def expire(self, stream: str, max_age: float) -> float:
        self._owners_business("expire", stream)

    def lane(self, stream: str) -> Lane | None:
        """None: records go through `append`."""
        return None

    def _owners_business(self, verb: str, stream: str) -> NoReturn:
        raise FeatureMissing(
            f"{self.url}: {verb} of stream {stream!r} is done by the store's owner alone; "
            "this process reaches the store through the owner's socket"
        )

    async def close(self) -> None:
        """Hang up. The owner goes on."""
        self._closed = True
        if self._link is not None:
            self._link.close()

    async def _ask(self, verb: Verb, *arguments: object) -> Any:
        link = await self._connected()
        return await link.ask(verb, *arguments)

    async def _ask_in_parts(self, verb: Verb, target: str, batch: Sequence[Outgoing] | Sequence[Settlement]) -> Any:
        """The same with bodies that may be larger than a frame."""
        if not in_parts(batch):
            return await self._ask(verb, target, batch)
        link = await self._connected()
        return await link.ask(verb, target, await Ahead(link, self._part_keys).batch(batch))

    async def _connected(self) -> _Link:
        if self._closed:
            raise Unavailable(f"{self.url}: this connection to the store's owner was closed")
        if self._link is not None and self._link.open:
            return self._link
        async with self._connecting:
            if self._link is None or not self._link.open:
                self._link = await _greeted(self._path, self._database, self.url)
                assert self._link.welcome is not None
                self.features = replace(self._link.welcome.features, reconnects=True)
                self._send_demands(self._link)
        return self._link

    def _send_demands(self, link: _Link) -> None:
        for stream, reason in self._demanded.items():
            link.tell(VERBS["demand"], stream, reason)
        self._demanded.clear()


def _slices(batch: Sequence[Outgoing]) -> list[list[Outgoing]]:
    parts: list[list[Outgoing]] = [[]]
    size = 0
    for message in batch:
        size += len(message.body)
        if size > _SLICE and parts[-1]:
            parts.append([])
            size = len(message.body)
        parts[-1].append(message)
    return parts


async def _greeted(path: Path, database: Path, url: str) -> _Link:
    link = _Link(url)
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
    await link.greet()
    return link


class _Link:
    """One connection to the owner, from its greeting to its end."""

    def __init__(self, url: str) -> None:
        self.frames = Frames(self._on_frame, self._on_lost)
        self.welcome: Welcome | None = None
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

    def _next(self, verb: Verb, arguments: tuple[object, ...]) -> tuple[int, bytes]:
        self._last_id += 1
        frame = encode((self._last_id, verb.name, arguments))
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
