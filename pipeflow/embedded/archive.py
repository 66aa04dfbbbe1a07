"""What topics published, kept for a time, and delivered again to one subscriber (SNS: T74-T76).

An archive is a queue that nobody receives from: each publish lies in it as in any other queue, its body shared with the
deliveries, on disk only. A chunk of a replay is one commit with the position it came to, so that a crash anywhere
leaves each message sent or not sent, and never both. What is too old ends as in any other queue.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from pipeflow.archives import IDS_SHOWN, ArchiveReport, ArchiveRequest
from pipeflow.clock import Clock
from pipeflow.embedded.claims import Claims
from pipeflow.embedded.fanout import FanOut
from pipeflow.embedded.head import Head
from pipeflow.embedded.intake import Intake
from pipeflow.embedded.journal import Journal
from pipeflow.embedded.log import Log
from pipeflow.embedded.nouns import Nouns
from pipeflow.embedded.records import replays_of_topic
from pipeflow.embedded.topic_head import TopicHead
from pipeflow.errors import NotFound, ObjectDamaged, ObjectMissing, RefusedError
from pipeflow.filters import compile_filter
from pipeflow.messages import Outgoing, Refused
from pipeflow.specs import FilterPolicy, Subscription, archive_of
from pipeflow.state.stored import Stored
from pipeflow.state.topic import own_text
from pipeflow.webhooks import TEXTS

logger = logging.getLogger("pipeflow")

CHUNK_BYTES = 16 << 20
"""Of messages that one chunk reads at most: as much as one group of commits gathers."""
ASIDE_BYTES = 64 << 20
"""Bytes of bodies kept aside that one chunk of a replay to a stream reads."""


class Archiving(Protocol):
    """What archives need of the broker they are part of."""

    nouns: Nouns
    inlet: Intake
    fan_out: FanOut
    log: Log
    claims: Claims

    @property
    def clock(self) -> Clock: ...

    @property
    def journal(self) -> Journal: ...

    async def committed(self) -> None: ...

    def after_intake(self, heads: Iterable[Head]) -> None: ...


class Position(Struct, frozen=True, array_like=True):
    """How far a replay came."""

    place: int
    upto: int
    """The last place it goes to: what is published while it runs is not for it."""
    sent: int
    done: bool = False
    since: float | None = None
    until: float | None = None
    """As they were said at first: who says "an hour ago" once more, to go on, does not mean another hour."""


class Archives:
    """The archives of a store."""

    def __init__(self, broker: Archiving) -> None:
        self._broker = broker

    async def beginnings(self) -> dict[str, float]:
        """By topic, when the oldest of what its archive holds was published (SNS: T6)."""
        found: dict[str, float] = {}
        for topic in self._broker.nouns.topics():
            head = self._broker.nouns.find_head(archive_of(topic.spec.name))
            if head is not None and head.spec.archives:
                oldest, _ = await self._read(head, 0, 1)
                found.update((topic.spec.name, each.sent_at) for each in oldest)
        return found

    # -- asking --------------------------------------------------------------------------------------------------

    async def ask(self, request: ArchiveRequest) -> ArchiveReport:
        """The next chunk of an archive, sent to its subscriber or only looked at."""
        topic = self._broker.nouns.topic(request.topic)
        head = self._broker.nouns.find_head(archive_of(topic.spec.name))
        if head is None or not head.spec.archives:
            raise NotFound(
                f"topic {request.topic} has no archive; declare it with archive=DAYS, and what is published from then "
                "on can be replayed"
            )
        target = _subscriber(topic, request.to) if request.to is not None else None
        if target is None or request.dry_run:
            return await self._look(head, request, target)
        return await self._replay(topic, head, target, request)

    async def _look(self, head: Head, request: ArchiveRequest, target: Subscription | None) -> ArchiveReport:
        after = request.after or await self._start(head, request.since)
        chunk, last = await self._read(head, after, request.limit)
        inside = [message for message in chunk if _before(message, request.until)]
        taken = await self._taken(inside, request.since, request.policy, target)
        done = last == 0 or len(inside) < len(chunk) or last >= head.counters.last_place
        return ArchiveReport(len(inside), len(taken), 0, 0, [each.id for each in taken[:IDS_SHOWN]], last, done)

    async def _replay(
        self, topic: TopicHead, head: Head, target: Subscription, request: ArchiveRequest
    ) -> ArchiveReport:
        broker = self._broker
        source = f"{replays_of_topic(topic.spec.name)}{target.kind}:{target.target}/{request.name}"
        known = broker.inlet.sources.get(source)
        if known is None or request.again:
            begin = await self._start(head, request.since)
            position = Position(begin, head.counters.last_place, 0, False, request.since, request.until)
        else:
            position = msgspec.msgpack.decode(known, type=Position)
        if position.done:
            return ArchiveReport(before=position.sent, last=position.place, done=True)
        chunk, last = await self._read(head, position.place, request.limit)
        if target.kind == "stream":
            chunk, last = _bounded(chunk, last)
        inside = [each for each in chunk if each.place <= position.upto and _before(each, position.until)]
        taken = await self._taken(inside, position.since, request.policy, target)
        bodies = await self._bodies(taken, target)
        if target.kind == "stream":
            await broker.log.room(target.target)
        now = broker.clock.now()
        # From here on nothing waits: all of it goes in one group, with the position, or nothing of it.
        if broker.inlet.sources.get(source) != known or broker.nouns.find_topic(topic.spec.name) is not topic:
            # While this waited somebody else went on with it, or there is another topic.
            return await self.ask(replace(request, again=False))
        target = _subscriber(topic, f"{target.kind}:{target.target}")  # it may have gone meanwhile
        taken = [message for message in taken if _is_whole(message, bodies, target, head, now)]
        made: list[tuple[Stored, Outgoing]] = []
        for message in taken:
            body = bodies.get(message.place, message.body or b"")
            mine = broker.fan_out.redelivery(topic, target, message, body)
            if isinstance(mine, Refused):
                raise RefusedError(mine.code, f"replay of topic {request.topic}: message {message.id}: {mine.reason}")
            made.append((message, mine))
        for message, mine in made:
            broker.fan_out.redeliver(topic, target, message, mine, now)
        done = last == 0 or len(inside) < len(chunk) or last >= position.upto
        place, sent = max(last, position.place), position.sent + len(taken)
        after = Position(place, position.upto, sent, done, position.since, position.until)
        broker.inlet.note_position(Outgoing(b"", checkpoint=(source, msgspec.msgpack.encode(after))))
        if target.kind == "queue":
            broker.after_intake([topic.heads[target.target]])
        await broker.committed()
        ids = [each.id for each in taken[:IDS_SHOWN]]
        return ArchiveReport(len(inside), len(taken), len(taken), position.sent, ids, after.place, done)

    async def _start(self, head: Head, since: float | None) -> int:
        """The place behind which what was published since then lies: times go up with places, so by halves."""
        if since is None:
            return 0
        low, high = head.counters.purged_upto, head.counters.last_place
        while low < high:
            middle = (low + high) // 2
            found, _ = await self._read(head, middle, 1)
            if found and found[0].sent_at < since:
                low = found[0].place
            else:
                high = middle
        return low

    async def _read(self, head: Head, after: int, limit: int) -> tuple[list[Stored], int]:
        """Messages behind a place, in order, and the last place looked at; 0 when there is nothing more."""
        after = max(after, head.counters.purged_upto)
        if self._broker.journal.instant:
            every = sorted((each for each in head.state.all() if each.place > after), key=lambda each: each.place)
            return every[:limit], every[:limit][-1].place if every else 0
        await self._broker.committed()
        last = 0
        while True:
            loaded = await self._broker.journal.load(head.number, after, limit, CHUNK_BYTES)
            if not loaded.last:
                return [], last
            after = last = loaded.last
            found = [message for message in loaded.messages if message.place > head.counters.purged_upto]
            if found:
                return found, last

    async def _taken(
        self, messages: list[Stored], since: float | None, policy: FilterPolicy | None, target: Subscription | None
    ) -> list[Stored]:
        """What a policy and the filter of a subscriber take, by the text that subscriber gets (SNS: T48).

        Bodies kept aside are read one at a time, where a filter looks at them.
        """
        # Rows that cannot be read blur where the search for the time to begin at ends.
        recent = [each for each in messages if since is None or each.sent_at >= since]
        filters = [each for each in (policy, target.filter if target is not None else None) if each is not None]
        if not filters:
            return recent
        looks_inside = any(each.scope == "body" for each in filters)
        takes = [compile_filter(each) for each in filters]
        taken: list[Stored] = []
        for message in recent:
            body = await self._text(message, target) if looks_inside else b""
            if body is not None and all(each(body, message.attributes or {}) for each in takes):
                taken.append(message)
        return taken

    async def _text(self, message: Stored, target: Subscription | None) -> bytes | None:
        if target is not None and message.headers is not None and TEXTS in message.headers:
            own = own_text(Outgoing(b"", headers=message.headers), target)
            if own is not None:
                return own
        return message.body or b"" if message.claim is None else await self._read_aside(message)

    async def _bodies(self, messages: list[Stored], target: Subscription) -> dict[int, bytes]:
        """By place: bodies kept aside that a stream takes as records; queues refer to them where they are."""
        if target.kind == "queue":
            return {}
        read = {each.place: await self._read_aside(each) for each in messages if each.claim is not None}
        return {place: body for place, body in read.items() if body is not None}

    async def _read_aside(self, message: Stored) -> bytes | None:
        assert message.claim is not None
        try:
            return await self._broker.claims.read(message.claim)
        except (ObjectMissing, ObjectDamaged) as error:
            logger.error("archived message %s is left out of the replay: %s", message.id, error)
            return None


def _is_whole(message: Stored, bodies: dict[int, bytes], target: Subscription, head: Head, now: float) -> bool:
    """Whether its body is there: one that is kept aside may have gone, with the archive's row, since that was read."""
    if message.claim is None:
        return True
    gone = message.kept_from <= now - head.spec.retention or message.place <= head.counters.purged_upto
    return not gone and (target.kind == "queue" or message.place in bodies)


def _bounded(chunk: list[Stored], last: int) -> tuple[list[Stored], int]:
    """As much of it as may be in memory at once, at least one message, and the last place of that."""
    size = 0
    for n, message in enumerate(chunk):
        size += message.claim.size if message.claim is not None else 0
        if n and size > ASIDE_BYTES:
            return chunk[:n], chunk[n - 1].place
    return chunk, last


def _subscriber(topic: TopicHead, name: str) -> Subscription:
    kind, _, rest = name.partition(":")
    for subscription in topic.state.subscriptions:
        if subscription.target not in (name, rest) or (rest and subscription.kind != kind):
            continue
        if topic.state.is_pending(subscription):
            raise RefusedError(
                "NotConfirmed", f"{name} has not confirmed its subscription to topic {topic.spec.name}; it gets nothing"
            )
        if subscription.target != archive_of(topic.spec.name):
            return subscription
    known = [each.target for each in topic.state.subscriptions if each.target != archive_of(topic.spec.name)]
    raise NotFound(
        f"{name} does not subscribe to topic {topic.spec.name}; these do: {', '.join(known) or 'none'}. A replay goes "
        "to one of them"
    )


def _before(message: Stored, until: float | None) -> bool:
    return until is None or message.sent_at < until
