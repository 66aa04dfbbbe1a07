"""What an operator sees of a store: its messages without touching them, and its counts.

Looking counts no receive and hands out no receipt.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from math import inf
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import astuple, replace

from pipeflow.embedded.claims import Claims
from pipeflow.embedded.head import Head
from pipeflow.embedded.journal import Journal
from pipeflow.events import Event, Observers
from pipeflow.filters import compile_filter, view
from pipeflow.letters import provenance_of
from pipeflow.protocols import Peeked, QueueStats, StoreStats, TopicStats
from pipeflow.specs import FilterPolicy, archive_of
from pipeflow.state.stored import DELAYED, GONE, IN_FLIGHT, READY, Stored
from pipeflow.stats import PatternStats

if TYPE_CHECKING:
    from pipeflow.embedded.broker import EmbeddedBroker
    from pipeflow.embedded.topic_head import TopicHead

CHUNK = 500
SCANNED_BYTES = 8 << 20
"""Of the bodies of one chunk: an edit of them all is one group, with the old ones beside it."""
AGED = 5_000
"""Messages whose ages are looked at between two turns of others: some 1 ms."""
STATES = {READY: "ready", DELAYED: "delayed", IN_FLIGHT: "in_flight"}

Matches = Callable[[Peeked], bool]


def matcher(where: FilterPolicy | None, now: float) -> Matches:
    """A predicate over what an operator sees of a message."""
    if where is None:
        return lambda peeked: True
    compiled = compile_filter(where)
    return lambda peeked: compiled(view(peeked, now), {})


def asks_about_bodies(where: FilterPolicy | None) -> bool:
    """Whether the predicate needs more of a body than its beginning."""
    return where is not None and "body" in where.policy


async def scan(head: Head, journal: Journal, size: int = CHUNK) -> AsyncGenerator[list[Stored], None]:
    """Every message of one priority, first those in memory, then those only on disk, in chunks of `size` at most.

    A chunk has its bodies until the next is asked for; where memory is short of room, it lets them go then.
    """
    hot = list(head.state.all())
    seen = {message.place for message in hot}
    # As it is now: what a load brings into memory from here on is met where it lay.
    tail, delayed = bool(head.tail.ready), bool(head.tail.delayed)
    for chunk in _chunks(hot, size):
        lent = await _lend(head, journal, chunk)
        try:
            yield [message for message in chunk if message.place and message.state in STATES and _can_be_seen(message)]
        finally:
            for message, receives in lent:
                if message.receives == receives:
                    # Else somebody receives it, and counts on its body.
                    head.drop_body(message)
    after = head.counters.purged_upto
    while tail:
        loaded = await journal.load(head.number, after, size, SCANNED_BYTES)
        if not loaded.last:
            break
        after = loaded.last
        yield as_it_is(head, loaded.messages, seen)
    due = (0.0, 0)
    while delayed:
        loaded = await journal.load_delayed(head.number, *due, size, SCANNED_BYTES)
        if not loaded.last:
            break
        due = loaded.due, loaded.last + 1
        yield as_it_is(head, loaded.messages, seen)


def _chunks(messages: list[Stored], size: int) -> Iterator[list[Stored]]:
    """So many at a time, and so many bytes of bodies."""
    chunk: list[Stored] = []
    room = SCANNED_BYTES
    for message in messages:
        weight = message.size if message.claim is None else 0
        if chunk and (len(chunk) == size or weight > room):
            yield chunk
            chunk, room = [], SCANNED_BYTES
        chunk.append(message)
        room -= weight
    if chunk:
        yield chunk


async def _lend(head: Head, journal: Journal, chunk: list[Stored]) -> list[tuple[Stored, int]]:
    """Put bodies back that memory had no room for; whose, and how often each had been received."""
    absent = [m for m in chunk if m.place and m.body is None and m.claim is None and m.state != IN_FLIGHT]
    receives = [message.receives for message in absent]
    bodies = await journal.bodies([(message.row, message.shared) for message in absent]) if absent else []
    lent: list[tuple[Stored, int]] = []
    for message, received, body in zip(absent, receives, bodies, strict=True):
        if body is not None and message.body is None and message.state != GONE:
            message.body = body
            head.bytes += message.size
            lent.append((message, received))
    return lent


def _can_be_seen(message: Stored) -> bool:
    # Of one in somebody's hands nobody asks for the body.
    return _is_here(message) or message.state == IN_FLIGHT


def as_it_is(head: Head, read: list[Stored], seen: set[int]) -> list[Stored]:
    """What was read of the tail, as it is now: a load may have brought some of it into memory meanwhile."""
    unseen = [message for message in read if message.place not in seen]
    if all(head.tail.has(message) for message in unseen):
        return unseen
    hot = {message.place: message for message in head.state.all() if _is_here(message)}
    now = (message if head.tail.has(message) else hot.get(message.place) for message in unseen)
    return [message for message in now if message is not None]


def _is_here(message: Stored) -> bool:
    return message.body is not None or message.claim is not None


async def seen(claims: Claims, head: Head, message: Stored, whole: bool) -> Peeked:
    """One message as an operator sees it: of a body that is kept aside the beginning, or the whole of it."""
    if message.claim is None:
        return look(head, message)
    return replace(look(head, message), body=await claims.shown(message.claim, whole))


def look(head: Head, message: Stored) -> Peeked:
    """One message as an operator sees it, without a body where that is kept aside."""
    return Peeked(
        id=message.id,
        queue=head.spec.name,
        state=STATES.get(message.state, "ready"),
        body=message.body or b"",
        attempt=message.receives - message.releases,
        sent_at=message.sent_at,
        sequence=message.place,
        attributes=message.attributes or {},
        group=message.group,
        dedup_id=message.dedup_id,
        failures=message.failures or [],
        dead_letter_source=message.source,
        visible_at=message.until if message.state != READY else None,
        size=message.size,
        expires_at=message.expires_at if message.expires_at != inf else None,
        headers=message.headers or {},
        first_received_at=message.first_received_at or None,
        received_at=message.received_at or None,
        kept_until=message.kept_from + head.spec.retention,
        provenance=provenance_of(message.headers),
        key=message.key,
        priority=head.priority,
    )


async def stats(broker: EmbeddedBroker) -> StoreStats:
    """Counts from the counters that are journaled with every group, and ages of what waits longest."""
    archived_since = await broker.archives.beginnings()
    since: dict[int, float] = {}
    for lane in list(broker.nouns.lanes()):
        lane.tick(broker.clock.now())
        if lane.tail.hungry and not lane.state.order.available():
            # What is loaded first is what waits longest; a store that was opened just now has nothing of it in memory.
            await broker.tending.fed(lane)
        since[lane.number] = await _oldest(lane, broker.clock.now())
    now = broker.clock.now()
    for lane in broker.nouns.lanes():
        lane.tick(now)
    sources = broker.nouns.sources()
    queues = [_queue_stats(head, now, since, sources.get(head.spec.name, [])) for head in broker.nouns.heads()]
    topics = [
        _topic_stats(topic, broker.nouns.find_head(archive_of(topic.spec.name)), archived_since)
        for topic in broker.nouns.topics()
    ]
    return StoreStats(
        url=broker.url,
        store_id=broker.store_id,
        durability=broker.journal.durability,
        boot=broker.boot,
        owner=os.getpid(),
        queues=queues,
        topics=topics,
        streams=broker.log.stats(),
        patterns=[
            PatternStats(each.topic, f"{each.kind}:{each.target}") for each in broker.nouns.subscriptions.patterns()
        ],
        quarantined=sum(queue.quarantined for queue in queues),
    )


def _topic_stats(topic: TopicHead, archive: Head | None, archived_since: Mapping[str, float]) -> TopicStats:
    known = topic.state.subscriptions
    return TopicStats(
        name=topic.spec.name,
        fifo=topic.spec.fifo,
        published=topic.counters.published,
        delivered=topic.counters.delivered,
        subscriptions=[f"{each.kind}:{each.target}" for each in known],
        pending=[f"{each.kind}:{each.target}" for each in known if topic.state.is_pending(each)],
        archived=length(archive) if archive is not None and archive.spec.archives else 0,
        archived_since=archived_since.get(topic.spec.name),
        tags=topic.spec.tags,
    )


def _queue_stats(head: Head, now: float, since: Mapping[int, float], sources: list[str]) -> QueueStats:
    counts = [_counts(lane) for lane in head.lanes]
    total = counts[0] if len(counts) == 1 else Counts(*map(sum, zip(*map(astuple, counts), strict=True)))
    dead = head.dead
    oldest = min(since.get(lane.number, inf) for lane in head.lanes)
    return QueueStats(
        name=head.spec.name,
        fifo=head.spec.fifo,
        ready=total.ready,
        delayed=total.delayed,
        retrying=total.retrying,
        in_flight=total.in_flight,
        dead=length(dead) if dead is not None else 0,
        sent=total.sent,
        acked=total.acked,
        expired=total.expired,
        buried=total.buried,
        redriven=sum(lane.counters.redriven for lane in dead.lanes) if dead is not None else 0,
        discarded=sum(lane.counters.discarded for lane in dead.lanes) if dead is not None else 0,
        purged=total.purged,
        quarantined=total.quarantined,
        cancelled=total.cancelled,
        oldest_age=max(0.0, now - oldest) if oldest != inf else 0.0,
        holds_dead_letters=head.spec.holds_dead_letters,
        archives=head.spec.archives,
        dead_letters_of=sources,
        created_at=head.counters.created_at,
        modified_at=head.counters.modified_at,
        tags=head.spec.tags,
    )


async def _oldest(lane: Head, now: float) -> float:
    """Since when the oldest message is here that is ready, in flight or to be tried again; inf when there is none.

    That is when it was sent, died, or came due after a long delay: the moment from which retention counts.
    """
    here = [*lane.state.order.all(), *lane.state.known.values()]
    ended = now - lane.spec.retention  # which memory may not have deleted yet
    oldest = inf
    for start in range(0, len(here), AGED):
        if start:
            await asyncio.sleep(0)
        for message in here[start : start + AGED]:
            if ended < message.kept_from < oldest and (message.state == READY or message.receives):
                oldest = message.kept_from if message.state != GONE else oldest
    return oldest


class Counts(Struct):
    """What is counted of one priority of a queue."""

    ready: int
    delayed: int
    retrying: int
    in_flight: int
    sent: int
    acked: int
    expired: int
    buried: int
    purged: int
    quarantined: int
    cancelled: int


def _counts(lane: Head) -> Counts:
    state, tail, counters, delays = lane.state, lane.tail, lane.counters, lane.tail.delays
    # A FIFO queue's delayed messages lie among those that are ready.
    waiting, retrying = (delays.count, delays.retrying) if delays is not None else (0, tail.retrying)
    return Counts(
        state.ready + tail.ready - waiting,
        state.delayed + tail.delayed + waiting,
        state.retrying + retrying,
        state.in_flight,
        counters.sent,
        counters.acked,
        counters.expired,
        counters.buried,
        counters.purged,
        counters.quarantined,
        counters.cancelled,
    )


def length(head: Head) -> int:
    """How many messages a queue has, in whatever state."""
    states = ((lane.state, lane.tail) for lane in head.lanes)
    return sum(state.ready + state.delayed + state.in_flight + tail.count for state, tail in states)


async def watch(observers: Observers) -> AsyncIterator[Event]:
    """Events as they happen, from now on; a slow watcher misses events rather than slow the store."""
    events: asyncio.Queue[Event] = asyncio.Queue(maxsize=1024)

    def note(event: Event) -> None:
        if not events.full():
            events.put_nowait(event)

    observers.add(note)
    try:
        while True:
            yield await events.get()
    finally:
        observers.discard(note)
