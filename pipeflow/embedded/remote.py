"""A store in another process, reached through its owner's socket: the same verbs, the same errors.

A lost connection fails the calls under way; the next call connects again. What only the owner may do with a stream is
refused by name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import anyio
from msgspec.structs import replace

from pipeflow.archives import ArchiveReport, ArchiveRequest
from pipeflow.audit import Entry
from pipeflow.clock import Clock, Signal
from pipeflow.embedded.arguments import check_outgoing, unwanted
from pipeflow.embedded.frames import short_named
from pipeflow.embedded.link import Link, greeted
from pipeflow.embedded.parts import Ahead, complete, in_parts
from pipeflow.embedded.sqlite.ownership import owner_of
from pipeflow.embedded.verbs import VERBS, Verb
from pipeflow.errors import (
    FeatureMissing,
    Indeterminate,
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
from pipeflow.webhooks import SubscriptionFacts

PATIENCE = 5.0
"""Seconds that an owner which holds the lock has to open its socket: it may be recovering."""

_SLICE = 24 << 20
"""Bytes of bodies in one frame of a batch; a longer batch goes as several calls, in order."""


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
        self._link: Link | None = None
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
        if not isinstance(want, Want):
            raise unwanted(queue, want)
        link = await self._connected()
        return await complete(link, queue, await link.ask(VERBS["receive"], queue, replace(want, durable=True)))

    async def settle(self, queue: str, batch: Sequence[Settlement]) -> Sequence[Settled | Stale | Refused]:
        """As Broker.settle; what an older owner does not know is refused alone: others settle beside it."""
        link = await self._connected()
        refused: dict[int, Refused] = {}
        if link.lacks:
            refused = {n: Refused("FeatureMissing", why) for n, each in enumerate(batch) if (why := link.unknown(each))}
            batch = [each for n, each in enumerate(batch) if n not in refused]
        outcomes: list[Settled | Stale | Refused] = await self._ask_in_parts(VERBS["settle"], queue, batch)
        for n, refusal in refused.items():
            outcomes.insert(n, refusal)
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

    async def _connected(self) -> Link:
        if self._closed:
            raise Unavailable(f"{self.url}: this connection to the store's owner was closed")
        if self._link is not None and self._link.open:
            return self._link
        async with self._connecting:
            if self._link is None or not self._link.open:
                self._link = await greeted(self._path, self._database, self.url)
                assert self._link.welcome is not None
                self.features = replace(self._link.welcome.features, reconnects=True)
                self._send_demands(self._link)
        return self._link

    def _send_demands(self, link: Link) -> None:
        for stream, reason in self._demanded.items():
            link.tell(VERBS["demand"], stream, reason)
        self._demanded.clear()


def _slices(batch: Sequence[Outgoing]) -> list[list[Outgoing]]:
    check_outgoing(batch)
    parts: list[list[Outgoing]] = [[]]
    size = 0
    for message in batch:
        size += len(message.body)
        if size > _SLICE and parts[-1]:
            parts.append([])
            size = len(message.body)
        parts[-1].append(message)
    return parts
