"""The way of a message into one queue or stream: checks, deduplication, and moves to the dead letters and back.

Everything here is synchronous: what one call does is in one group, and so in one commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from hashlib import sha256
from math import inf
from typing import Any

from msgspec.structs import replace

from pipeflow.embedded.group import Gathering
from pipeflow.embedded.head import Head
from pipeflow.embedded.journal import Journal, Known, Recovered
from pipeflow.embedded.keys import Keys
from pipeflow.embedded.log import Log
from pipeflow.embedded.nouns import Nouns
from pipeflow.embedded.records import replays_of, replays_of_topic
from pipeflow.embedded.rewriting import Rewritten, rewrite
from pipeflow.embedded.topic_head import TopicHead
from pipeflow.embedded.weighing import unfit, weigh
from pipeflow.letters import PROVENANCE, Passage, sent_back
from pipeflow.messages import Claim, Outgoing, Position, Refused, Sent
from pipeflow.names import IdPool
from pipeflow.protocols import BEHIND
from pipeflow.specs import QueueSpec
from pipeflow.state.dedup import dedup_key
from pipeflow.state.stored import LONGEST_OF_SQS, READY, Stored, kept_from
from pipeflow.state.wishes import unfit_ids, unfulfillable, unseen, unusable_key, unwaitable

DEDUP_IN_MEMORY = 200_000
"""Ids of one queue or topic that memory keeps; older ones of the window are asked of the journal."""
REDRIVEN = "pipeflow-redriven-from"


class Intake:
    """Takes messages in for the broker."""

    def __init__(
        self, nouns: Nouns, gathering: Gathering, ids: IdPool, log: Log, recovered: Recovered, journal: Journal
    ) -> None:
        self.sources = dict(recovered.sources)
        """By source: its last position, encoded. Committed with what it belongs to."""
        self.using: list[Keys] = []
        """Keys of queues that the step under way sends to; `used` ends it."""
        self._nouns = nouns
        self._gathering = gathering
        self._ids = ids
        self._log = log
        self._journal = journal
        self._last_body = recovered.last_body
        windows = {_scope(head): head.dedup for head in nouns.heads()}
        windows |= {_scope(topic): topic.dedup for topic in nouns.topics()}
        for known in recovered.known:
            window = windows.get(known.scope)
            if window is not None:
                window.add(known.key, known.at, known.id, known.sequence)
        for window in windows.values():
            window.shed_upto = recovered.known_upto
        self.shed_upto = recovered.known_upto
        """Some window let ids go that were accepted up to then; while it is within their time the journal is asked."""

    # -- batches -------------------------------------------------------------------------------------------------

    # A position behind a refusal would pass over it, so the batch ends there.

    def send_all(self, head: Head, batch: Sequence[Outgoing], now: float) -> list[Sent | Refused]:
        """Take a batch into one queue, in order; nothing behind the refusal of what carries a position."""
        results: list[Sent | Refused] = []
        given: Sequence[Any] = batch
        if len(batch) > 1 and any(outgoing.key is not None for outgoing in given):
            # What one of them replaces must not leave memory while another is sent before it.
            for lane in head.lanes:
                self._use(lane.keys)
        for outgoing in given:
            results.append(self.send(head, outgoing, now))
            if outgoing.checkpoint is not None and isinstance(results[-1], Refused):
                break
        if self.using:
            self.used()
        return results + [BEHIND] * (len(batch) - len(results))

    def append_all(self, stream: str, batch: Sequence[Outgoing]) -> list[Position | Refused]:
        """The same into a stream that has room."""
        refused = ((n, why) for n, each in enumerate(batch) if (why := self._log.check(stream, each)) is not None)
        first, why = next(refused, (len(batch), None))
        results = list(self._log.append_in_group(stream, batch[:first]))
        for outgoing in batch[:first]:
            self.note_position(outgoing)
        if why is not None:
            results += [why, *[BEHIND] * (len(batch) - first - 1)]
        return results

    # -- one queue -----------------------------------------------------------------------------------------------

    def send(self, head: Head, outgoing: Outgoing, now: float) -> Sent | Refused:
        """Take one message into one queue, or say why not."""
        given: Any = (
            outgoing  # what a careless caller made of it is refused below; compiled code would raise for its type
        )
        spec, body = head.spec, given.body
        if type(body) is bytes and len(body) <= spec.max_body and outgoing == Outgoing(body) and self._takes_all(spec):
            # Most messages are a body and nothing else: what could be wrong with the rest is not asked one by one.
            id = self._ids.new(now)
            message = Stored(0, id, body, len(body), now, now)
            self.add(head, message, None, now)
            return Sent(id, message.place)
        bad = unfit(spec.name, outgoing)
        if bad is not None:
            return bad
        size = weigh(outgoing)
        refused = self.refusal(spec, outgoing, size)
        if given.ttl is not None:
            refused = refused or unseen(spec, given.ttl, given.delay)
        if refused is not None:
            return refused
        key = dedup_key_of(spec, outgoing)
        if key is not None:
            original = head.dedup.find(key, now)
            if original is not None:
                self.note_position(outgoing)
                return Sent(original[0], original[1], duplicate=True)
        id = outgoing.id or self._ids.new(now)
        message = Stored(
            0,
            id,
            outgoing.body,
            size,
            now,
            now,
            outgoing.attributes,
            outgoing.headers,
            outgoing.group,
            outgoing.dedup_id,
        )
        if outgoing.ttl is not None:
            message.expires_at = now + outgoing.ttl
        lane = self._nouns.lane(head, outgoing.priority) if outgoing.priority else head
        replaced = False
        if outgoing.key is not None:
            for each in head.lanes:
                self._use(each.keys)
            replaced = self.take_back(head, outgoing.key, now)
            if (spec.delay if outgoing.delay is None else outgoing.delay) > 0:
                message.key = outgoing.key
        self.add(lane, message, outgoing.delay, now, outgoing.claim)
        if key is not None:
            self.remember(head, key, now, id, message.place)
        self.note_position(outgoing)
        return Sent(id, message.place, False, replaced)

    def take_back(self, head: Head, key: str, now: float) -> bool:
        """Delete the message of this key while it is delayed, whatever its priority; whether there was one."""
        return any(lane.keys.take_back(key, now) for lane in head.lanes)

    def _use(self, keys: Keys) -> None:
        if not keys.in_use:
            # What this step sends is to be found by the next message of its key, wherever it went.
            keys.begin()
            self.using.append(keys)

    def used(self) -> None:
        """The step that used keys is done."""
        for keys in self.using:
            keys.end()
        self.using.clear()

    def add(self, head: Head, message: Stored, delay: float | None, now: float, claim: Claim | None = None) -> None:
        """Put a message that was checked into its queue; a claim holds the body of one that is kept aside."""
        # An explicit 0 on a FIFO queue does not cancel the queue's delay (SQS: Q33).
        wait = head.spec.delay if delay is None or head.spec.fifo else delay
        if wait > LONGEST_OF_SQS:
            message.kept_from = kept_from(message.kept_from, wait)
        head.counters.sent += 1
        if message.expires_at != inf:
            head.counters.expiring = True
        if claim is not None:
            message.body, message.body_crc = None, claim.crc
            message.claim, message.shared = claim, claim.number
        else:
            self._gathering.size += message.size
        head.add(message, now, wait)
        if not head.touched:
            head.touch()

    def _takes_all(self, spec: QueueSpec) -> bool:
        """Whether a queue asks nothing of a message but its size: every other rule that a mere body can break."""
        return not (spec.fifo or spec.content_dedup or self._journal.full)

    def refusal(self, spec: QueueSpec, outgoing: Outgoing, size: int) -> Refused | None:
        """Why a queue cannot take this message of that size; None when it can."""
        given: Any = outgoing
        if size > spec.max_body:
            return Refused(
                "too_large",
                f"{spec.name}: the message has {size} bytes with its attributes, the limit is {spec.max_body}; send a"
                " reference to it, or raise max_body",
            )
        if spec.fifo and given.group is None:
            return Refused("missing_group", f"{spec.name}: a FIFO queue needs group=... with every message")
        if given.group is not None or given.dedup_id is not None:
            refused = unfit_ids(spec.name, given)
            if refused is not None:
                return refused
        if given.delay is not None:
            refused = unwaitable(spec.name, given.delay, fifo=spec.fifo)
            if refused is not None:
                return refused
        if given.ttl is not None or given.priority or type(given.priority) is not int:
            refused = unfulfillable(spec.name, given, fifo=spec.fifo)
            if refused is not None:
                return refused
        if given.key is not None:
            refused = unusable_key(spec, given.key)
            if refused is not None:
                return refused
        if self._journal.full:
            return Refused("disk_full", f"{spec.name}: the disk of the store is nearly full; free space and send again")
        return None

    # -- moves ---------------------------------------------------------------------------------------------------

    def bury_all(self, head: Head, now: float) -> None:
        """Move what failed for good to the dead letters: one change, so that it is in one place or the other (P13)."""
        state = head.state
        if state.expired:
            head.counters.expired += state.expired
            state.expired = 0
        for message in state.buried:
            self.bury(head, message, now)
        state.buried.clear()
        head.touch()

    def bury(self, head: Head, message: Stored, now: float) -> None:
        """Move a message that left its queue into the dead letters, as it is (SQS: Q90-Q94)."""
        head.counters.buried += 1
        dead = head.dead
        if dead is None:
            head.discard(message)
            return
        # A message of its own: deadlines of the old one still lie about in the queue it left.
        message = replace(message)
        if head.spec.dead_letter_age == "arrival" or head.spec.fifo:
            message.kept_from = now
        message.source = head.spec.name
        if head.spec.fifo:
            message.dedup_id = message.id
        message.stops = 0
        message.tried = message.receives - message.releases
        # Whoever looks at dead letters is to find it, however late.
        message.expires_at = inf
        self._move_in(self._nouns.lane(dead, head.priority), message, now)

    def redrive(self, dead: Head, target: Head, message: Stored, after: Rewritten | None, now: float) -> None:
        """Move a dead letter to a queue as a new message: new id, no attempts, full retention (SQS: Q99).

        It may be changed on the way, and it remembers where it was.
        """
        message = replace(message)
        passage = Passage(now, message.id, message.source or "", dead.spec.name)
        been = sent_back(message.headers, message.id, message.sent_at, passage)
        message.headers = {**(message.headers or {}), REDRIVEN: message.id, PROVENANCE: been}
        if after is not None:
            rewrite(message, after, self._gathering)
        message.id = self._ids.new(now)
        message.sent_at = message.kept_from = now
        message.expires_at = inf
        message.receives = message.releases = message.tried = 0
        message.first_received_at = message.received_at = 0.0
        message.source = None
        message.dedup_id = None
        dead.counters.redriven += 1
        dead.touch()
        target = self._nouns.lane(target, dead.priority)
        target.counters.sent += 1
        self._move_in(target, message, now)

    def _move_in(self, target: Head, message: Stored, now: float) -> None:
        # A twin: the queue it left may still pass over the old one in its line, and must not find it ready again.
        message = copy(message)
        message.state = READY
        message.until = 0.0
        message.boot = message.held_by = 0
        message.durable = message.suspect = False
        message.key = None
        target.add(message, now, 0.0)
        target.touch()

    # -- what is remembered beside messages ----------------------------------------------------------------------

    def remember(self, head: Head | TopicHead, key: bytes, at: float, id: str, sequence: int) -> None:
        """Take what comes under this id within the window for a duplicate."""
        gathering = self._gathering
        head.dedup.add(key, at, id, sequence, group=gathering.number)
        if not self._journal.instant:
            gathering.known.append(Known(_scope(head), key, at, id, sequence))
            # What the disk does not have yet stays.
            while len(head.dedup) > DEDUP_IN_MEMORY and head.dedup.shed(gathering.written):
                self.shed_upto = max(self.shed_upto, head.dedup.shed_upto)

    def note_position(self, outgoing: Outgoing) -> None:
        """Remember how far a source came, in the group its message is in."""
        if outgoing.checkpoint is not None:
            source, position = outgoing.checkpoint
            self.sources[source] = position
            if not self._journal.instant:
                self._gathering.sources[source] = position

    def next_body(self) -> int:
        """A number for a body that several rows may hold."""
        self._last_body += 1
        return self._last_body

    def forget_archive(self, topic: str) -> None:
        """Of a topic that is gone no replay goes on: another of its name has messages of its own."""
        for name in [name for name in self.sources if name.startswith(replays_of_topic(topic))]:
            del self.sources[name]
            if not self._journal.instant:
                self._gathering.sources[name] = None

    def forget_replays(self, stream: str) -> None:
        """Of a stream that is gone no replay goes on."""
        first, last = replays_of(stream)
        for name in [name for name in self.sources if first < name < last]:
            del self.sources[name]
            self._gathering.sources.pop(name, None)


def _scope(head: Head | TopicHead) -> int:
    # Queues and topics are numbered together.
    return head.number


def dedup_key_of(spec: QueueSpec, outgoing: Outgoing) -> bytes | None:
    """Under which id a queue remembers this message; None: under none."""
    id = outgoing.dedup_id
    if id is None:
        if not spec.content_dedup:
            return None
        id = outgoing.claim.digest if outgoing.claim is not None else sha256(outgoing.body).hexdigest()
    return dedup_key(id, outgoing.group) if spec.dedup_scope == "group" else dedup_key(id)
