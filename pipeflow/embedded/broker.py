"""The embedded broker: verbs over state machines, remembered by a journal.

Callers change the state machines at once and wait for the group their changes are in; receivers are woken before it is
committed. A delivery may so precede durability, an acknowledgement never does: when the process dies in between,
neither sender nor receiver was told "done". A failed commit closes the store: its callers get an indeterminate error
and every later call `Unavailable`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from pipeflow.archives import ArchiveReport, ArchiveRequest
from pipeflow.audit import Entry
from pipeflow.clock import Clock, Signal
from pipeflow.embedded import deleting, endpoints, inspection
from pipeflow.embedded.archive import Archives
from pipeflow.embedded.arguments import check_call, emits_of
from pipeflow.embedded.auditing import Trail
from pipeflow.embedded.catalogue import StreamCatalogue
from pipeflow.embedded.choosing import Choosing
from pipeflow.embedded.claims import Claims
from pipeflow.embedded.commits import Commits
from pipeflow.embedded.emitting import Emitting
from pipeflow.embedded.fanout import FanOut
from pipeflow.embedded.handout import at_once, check_want, hand_over, take_out
from pipeflow.embedded.head import HOT_MESSAGES, Head
from pipeflow.embedded.intake import Intake
from pipeflow.embedded.journal import Journal, Recovered
from pipeflow.embedded.log import Log
from pipeflow.embedded.moving import Moving
from pipeflow.embedded.nouns import Nouns
from pipeflow.embedded.orphans import Orphans
from pipeflow.embedded.recall import Recall
from pipeflow.embedded.searching import search
from pipeflow.embedded.settling import settle_all
from pipeflow.embedded.tending import Tending
from pipeflow.embedded.waiting import first
from pipeflow.embedded.workbench import Workbench
from pipeflow.errors import Indeterminate, PipeflowError, RefusedError, Unavailable
from pipeflow.events import Event, Observers
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
from pipeflow.names import IdPool
from pipeflow.protocols import Features, Found, Lane, Parked, Peeked, Search, StoreStats, Waiting
from pipeflow.specs import FilterPolicy, Topology
from pipeflow.state.wishes import unusable_key
from pipeflow.webhooks import SubscriptionFacts

logger = logging.getLogger("pipeflow")

GROUP_BYTES = 16 << 20
"""Bodies one group may gather before senders wait for the commit that runs."""


class Door(Protocol):
    """What lets other processes in."""

    async def close(self) -> None: ...


class EmbeddedBroker:
    """A store in this process. `async with` is not needed: `registry.open_store` opens it, `close` ends it."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        *,
        url: str,
        seed: int | None = None,
        hot_messages: int = HOT_MESSAGES,
    ) -> None:
        self.url = url
        self.clock = clock
        self.features = Features(durable=not journal.instant)
        self.journal = journal
        self.observers = Observers()
        self.boot = 0
        self.store_id = ""
        self.receipt_key = b""
        self.commits = Commits(journal, clock, url, self._stop)
        self.gathering = self.commits.gathering
        self._hot_messages = hot_messages
        self._ids = IdPool(seed)
        self._closing = False
        self.tending = Tending(self)
        self.trail = Trail(self)
        self.choosing = Choosing(self)
        self.moving = Moving(self)
        self.workbench = Workbench(self)
        self.archives = Archives(self)
        self.claims = Claims(self)
        self._stopped = Signal()
        self.nouns: Nouns
        self.inlet: Intake
        self.fan_out: FanOut
        self.emitting: Emitting
        self.recall: Recall
        self.log: Log

    # -- life ----------------------------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        """Own the broker's tasks until `close`: `ready` is called once the store is recovered."""
        recovered = await self.journal.recover()
        clean = False
        try:
            self._restore(recovered)
            await self.tending.take_held(recovered)
            async with anyio.create_task_group() as committing:
                if not self.journal.instant:
                    self._start(committing, partial(self.commits.run, self._idle))
                await self._tend(ready)
                if self.commits.failure is None:
                    self.trail.end_all()
                    # What changed behind the last caller's back goes with a last group; only then commits may stop.
                    await self.committed()
                committing.cancel_scope.cancel()
            clean = self.commits.failure is None
        finally:
            self._closing = True
            self.commits.end()
            with anyio.CancelScope(shield=True):
                await self.journal.close(clean)

    async def _tend(self, ready: Callable[[], None]) -> None:
        async with anyio.create_task_group() as tasks:
            if not self.journal.instant:
                self._start(tasks, self.tending.load_tails)
                self._start(tasks, self._keep_claims)
                self._start(tasks, self._sweep_claims)
            self._start(tasks, self.tending.keep_time)
            self._start(tasks, self.moving.run)
            door = await self.serve(tasks)
            ready()
            await self._until_closed()
            if door is not None:
                await door.close()
            tasks.cancel_scope.cancel()

    async def serve(self, tasks: TaskGroup) -> Door | None:
        """Let other processes in; a broker by itself does not."""
        return None

    def lost(self, error: BaseException) -> None:
        """The broker's own tasks died: nothing is acknowledged any more."""
        logger.error("%s: the store stopped", self.url, exc_info=error)
        self.fail(Indeterminate(f"{self.url}: the store stopped ({error!r})"))

    async def _until_closed(self) -> None:
        # Nobody counts this task, so it parks without a token: an open store that does nothing is idle.
        await self.clock.wait(self._stopped)

    def _start(self, tasks: TaskGroup, work: Callable[[], Awaitable[None]]) -> None:
        self.clock.activity.take()
        tasks.start_soon(self.clock.activity.awake_while, work)

    def _restore(self, recovered: Recovered) -> None:
        self.boot = recovered.boot
        self.store_id = recovered.store_id
        self.receipt_key = recovered.receipt_key
        self.clock.floor(recovered.clock)
        self.trail.restore(recovered.last_entry)
        self.log = Log(self, recovered.log)
        self.nouns = Nouns(self.journal, self.gathering, recovered, self.log, self._hot_messages)
        self.moving.restore(recovered.moves)
        for head in self.nouns.heads():
            if head.pace is not None:
                # What was handed out just before is not known: as much as may be.
                head.pace.took(head.pace.count, self.clock.now())
        self.inlet = Intake(self.nouns, self.gathering, self._ids, self.log, recovered, self.journal)
        self.fan_out = FanOut(self.nouns, self.inlet, self.gathering, self._ids, self.log, self.journal)
        self.emitting = Emitting(self.nouns, self.inlet, self.fan_out, self.log)
        self.claims.restore(recovered.claims, self.inlet.next_body)
        self.recall = Recall(self.nouns, self.inlet, self.journal, self.committed)

    async def close(self) -> None:
        """Commit what is gathered, then let go of the file. Idempotent; calls after it raise Unavailable."""
        if self._closing:
            return
        # First nobody comes in any more, then those who are in get their answer.
        self._closing = True
        if self.commits.failure is None and not self.journal.instant:
            with anyio.CancelScope(shield=True):
                try:
                    await self.committed()
                except PipeflowError:
                    pass  # the group's own callers were told; closing goes on
        self._stop(Unavailable(f"{self.url}: the store is closed; open it again"))

    @property
    def is_open(self) -> bool:
        """Whether the store has neither failed nor begun to close."""
        return self.commits.failure is None and not self._closing

    def check_open(self) -> None:
        """Unavailable when the store failed or is closed."""
        if self.commits.failure is not None:
            raise self.commits.failure
        if self._closing:
            raise Unavailable(f"{self.url}: the store is closed; open it again")

    # -- commits -------------------------------------------------------------------------------------------------

    async def committed(self) -> None:
        """Return when everything done until now survives a crash."""
        await self.commits.done()

    def written_behind(self) -> None:
        """Let what changed go with the next group; nobody waits for it."""
        self.commits.behind()

    async def _keep_claims(self) -> None:
        await self.tending.guarded(self.claims.run())

    async def _sweep_claims(self) -> None:
        await self.tending.guarded(Orphans(self, self.claims.sink).sweep(self.claims.places))

    async def _idle(self) -> None:
        await self.tending.guarded(self.journal.idle())

    def fail(self, error: PipeflowError) -> None:
        """Memory may be ahead of the disk: nothing is acknowledged any more."""
        self.commits.fail(error)

    def _stop(self, failure: Unavailable) -> None:
        self.log.fail(failure)
        for head in self.nouns.heads():
            for signal in [*head.waiters, *(signal for lane in head.lanes for signal in lane.tail.fed)]:
                signal.fire()
        self._stopped.fire()

    def new_id(self) -> str:
        """An id that orders by time."""
        return self._ids.new(self.clock.now())

    async def _room(self) -> None:
        self.check_open()
        while self.gathering.size > GROUP_BYTES and not self.journal.instant:
            await self.committed()
            self.check_open()

    # -- the verbs -----------------------------------------------------------------------------------------------

    async def declare(self, topology: Topology) -> None:
        self.check_open()
        while (unsettled := self.nouns.unsettled(topology)) is not None:
            await self.tending.fed(unsettled)
        now = self.clock.now()
        self.claims.check(topology.claims)
        declared = self.nouns.declare(topology, now)
        self.claims.declare(topology.claims)
        for head in declared:
            # New options may have ended delays or retention; time passes in one place.
            for lane in head.lanes:
                lane.tick(now)
        for head, request in self.nouns.subscriptions.requests_to_confirm(now):
            self.inlet.send(head, request, now)
            declared.append(head)
        self.after_intake(dict.fromkeys(lane for head in declared for lane in head.lanes))
        await self.committed()

    async def publish(self, topic: str, batch: Sequence[Outgoing]) -> Sequence[Sent | Refused]:
        if self.claims.wanted(batch):
            return await self.claims.around(batch, partial(self.publish, topic))
        await self._room()
        topic_head = self.nouns.topic(topic)
        for stream in topic_head.streams:
            await self.log.room(stream)
        if self.inlet.shed_upto:
            await self.recall.for_publish(topic_head, batch, self.clock.now())
        self.check_open()
        touched: list[Head] = []
        results = self.fan_out.publish_all(topic_head, batch, self.clock.now(), touched)
        self.after_intake(touched if len(batch) == 1 else dict.fromkeys(touched))
        await self.committed()
        return results

    async def send(self, queue: str, batch: Sequence[Outgoing]) -> Sequence[Sent | Refused]:
        if self.claims.wanted(batch):
            return await self.claims.around(batch, partial(self.send, queue), self.nouns.open_head(queue).spec.max_body)
        self.check_open()
        if self.gathering.size > GROUP_BYTES:
            await self._room()
        head = self.nouns.open_head(queue)
        if head.dedup.shed_upto:
            await self.recall.for_send(head, batch, self.clock.now())
            self.check_open()
        if (head.tail.delayed or len(head.lanes) > 1) and any(outgoing.key is not None for outgoing in batch):
            await self.recall.keys(head, (outgoing.key for outgoing in batch))
            self.check_open()
            head = self.nouns.open_head(queue)
        results = self.inlet.send_all(head, batch, self.clock.now())
        for lane in head.lanes:
            self._came_in(lane)
        await self.commits.done()
        return results

    async def cancel_delayed(self, queue: str, key: str) -> bool:
        self.check_open()
        head = self.nouns.open_head(queue)
        refused = unusable_key(head.spec, key)
        if refused is not None:
            raise RefusedError(refused.code, refused.reason)
        await self.recall.keys(head, (key,))
        self.check_open()
        done = self.inlet.take_back(self.nouns.open_head(queue), key, self.clock.now())
        self.inlet.used()
        await self.committed()
        return done

    def after_intake(self, heads: Iterable[Head]) -> None:
        """Messages came into these queues: wake whom that concerns."""
        if self.inlet.using:
            self.inlet.used()
        for head in heads:
            self._came_in(head)

    def _came_in(self, head: Head) -> None:
        self.tending.arm(head)
        self.wake(head)

    def wake(self, head: Head) -> None:
        """Wake who waits for what this queue has, in memory or on disk."""
        if head.waiters:
            head.wake()
        if head.tail.ready:
            # Memory may hold only what is in flight, or what its group holds back: who waits, waits for the tail.
            self.tending.feed(head)

    async def receive(self, queue: str, want: Want) -> Sequence[Delivery]:
        self.check_open()
        head = self.nouns.open_head(queue)
        check_want(head, want)
        now = self.clock.now()
        taken = take_out(self, head, want, now)
        if taken and at_once(taken, want):
            return hand_over(self, head, taken)
        return await first(self, head, want, taken, now + want.wait)

    async def settle(self, queue: str, batch: Sequence[Settlement]) -> Sequence[Settled | Stale | Refused]:
        self.check_open()
        head = self.nouns.head(queue)
        emits = emits_of(queue, batch)
        if emits:
            if self.claims.wanted([emit.message for emit in emits]):
                return await self.claims.around_acks(batch, partial(self.settle, queue))
            for stream in self.nouns.streams_fed_by(emits):
                await self.log.room(stream)
                self.check_open()
            if self.recall.needed(emits):
                await self.recall.for_emits(emits, self.clock.now())
                self.check_open()
                head = self.nouns.head(queue)
        results = settle_all(self, head, batch, bool(emits))
        await self.commits.done()
        return results

    def bury(self, head: Head, now: float) -> None:
        """Move what failed for good in this queue to its dead letters, and count what expired."""
        self.inlet.bury_all(head, now)
        if head.dead is not None:
            self.after_intake(head.dead.lanes)
        self.written_behind()

    async def position(self, source: str) -> bytes | None:
        self.check_open()
        return self.inlet.sources.get(source)

    # -- the record log ------------------------------------------------------------------------------------------

    async def append(self, stream: str, batch: Sequence[Outgoing]) -> Sequence[Position | Refused]:
        self.check_open()
        if not any(outgoing.checkpoint is not None for outgoing in batch):
            return await self.log.append(stream, batch)
        # A position goes with its record, never before it: first the room, then both in one group.
        await self.log.room(stream)
        self.check_open()
        results = self.inlet.append_all(stream, batch)
        await self.committed()
        return results

    async def intake(self, stream: str, after: Position, limit: int) -> Sequence[Records]:
        self.check_open()
        return await self.log.intake(stream, after, limit)

    def waiting(self, stream: str) -> Waiting | None:
        return self.log.waiting(stream)

    async def derive(self, stream: str, upto: Position, batch: Sequence[Outgoing], dropped: int = 0) -> None:
        self.check_open()
        await self.log.derive(stream, upto, batch, dropped)

    def ripens(self, stream: str) -> tuple[Signal, float]:
        return self.log.outlet.ripens(stream)

    async def seal(self, stream: str) -> Segment | None:
        self.check_open()
        return await self.log.outlet.seal(stream)

    def read(self, segment: Segment) -> AsyncIterator[Records]:
        self.check_open()
        return self.log.outlet.read(segment)

    async def commit(self, segment: Segment, manifest: Manifest) -> None:
        self.check_open()
        await self.log.outlet.commit(segment, manifest)

    def hand_back(self, segment: Segment) -> None:
        self.log.outlet.hand_back(segment)

    def trouble(self, segment: Segment) -> Trouble:
        return self.log.outlet.trouble(segment)

    async def note(self, segment: Segment, trouble: Trouble) -> None:
        self.check_open()
        await self.log.outlet.note(segment, trouble)

    async def expire(self, stream: str, max_age: float) -> float:
        self.check_open()
        return await self.log.parking.expire(stream, max_age)

    def lane(self, stream: str) -> Lane | None:
        self.check_open()
        return self.log.lane(stream)

    def delivering(self, stream: str, running: bool) -> None:
        self.log.outlet.delivering(stream, running)

    async def flush(self, stream: str) -> None:
        self.check_open()
        await self.log.outlet.flush(stream)

    def demand(self, stream: str, reason: str = "demand") -> None:
        self.log.outlet.demand(stream, reason)

    async def delivered(self, stream: str) -> None:
        self.check_open()
        await self.log.outlet.delivered(stream)

    # -- the admin -----------------------------------------------------------------------------------------------

    async def describe(self) -> Topology:
        self.check_open()
        return self.nouns.describe(self.claims.declared)

    async def peek(
        self, queue: str, limit: int = 10, dead: bool = False, where: FilterPolicy | None = None
    ) -> list[Peeked]:
        return (await self.search(Search(queue, limit, dead, where))).messages

    async def search(self, request: Search) -> Found:
        self.check_open()
        check_call("search", request)
        head = self.nouns.dead_of(request.queue) if request.dead else self.nouns.head(request.queue)
        for lane in head.lanes:
            if lane.tail.hungry:
                await self.tending.fed(lane)
            lane.tick(self.clock.now())
        return await search(self, head, request)

    async def purge(self, queue: str) -> int:
        self.check_open()
        return await deleting.purge_queue(self, queue)

    async def edit(self, request: Rewrite) -> Change:
        self.check_open()
        return await self.workbench.edit(request)

    async def discard(self, request: Discard) -> Discarded:
        self.check_open()
        check_call("discard", request)
        return await self.workbench.discard(request)

    async def audit(self, name: str | None = None, limit: int = 100, before: int | None = None) -> list[Entry]:
        self.check_open()
        check_call("audit", name, limit, before)
        return await self.trail.read(name, limit, before)

    async def redrive(self, request: Redrive) -> Redriven:
        self.check_open()
        check_call("redrive", request)
        return await self.moving.redrive(request)

    async def start_move(self, request: Redrive) -> Move:
        self.check_open()
        check_call("start_move", request)
        return await self.moving.start(request)

    async def moves(self, queue: str | None = None) -> list[Move]:
        self.check_open()
        return self.moving.listed(queue)

    async def cancel_move(self, id: str) -> Move:
        self.check_open()
        return await self.moving.cancel(id)

    async def parked(self, stream: str) -> list[Parked]:
        self.check_open()
        return self.log.parking.parked(stream)

    async def retry_parked(self, stream: str, ids: Sequence[int] | None = None) -> int:
        self.check_open()
        return await self.log.parking.retry(stream, ids)

    async def discard_parked(self, stream: str, ids: Sequence[int]) -> int:
        self.check_open()
        return await self.log.parking.discard(stream, ids)

    async def delete_queue(self, queue: str) -> int:
        self.check_open()
        return await deleting.delete_queue(self, queue)

    async def stats(self) -> StoreStats:
        self.check_open()
        return await inspection.stats(self)

    async def files(self, stream: str, query: FileQuery) -> list[FileFacts]:
        return await self.catalogue(stream).files(query)

    async def compact(self, stream: str, request: CompactRequest) -> CompactReport:
        return await self.catalogue(stream).compact(request)

    def catalogue(self, stream: str) -> StreamCatalogue:
        self.check_open()
        return self.log.catalogue(stream)

    async def delete_stream(self, stream: str, drop: bool = False) -> int:
        self.check_open()
        return await deleting.delete_stream(self, stream, drop)

    async def archived(self, request: ArchiveRequest) -> ArchiveReport:
        self.check_open()
        return await self.archives.ask(request)

    async def webhooks(self) -> list[SubscriptionFacts]:
        self.check_open()
        return self.nouns.subscriptions.webhooks(self.clock.now())

    async def confirm(self, topic: str, token: str) -> SubscriptionFacts:
        self.check_open()
        return await endpoints.confirm(self, topic, token)

    async def unsubscribe(self, arn: str, undo: bool = False) -> SubscriptionFacts | None:
        self.check_open()
        return await endpoints.unsubscribe(self, arn, undo)

    async def delete_topic(self, topic: str) -> bool:
        self.check_open()
        return await deleting.delete_topic(self, topic)

    def watch(self) -> AsyncIterator[Event]:
        return inspection.watch(self.observers)
