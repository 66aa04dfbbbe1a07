"""The way of a message into queues and streams: checks, deduplication, fan-out, and moves to the dead letters.

Everything here is synchronous: what one call does is in one group, and so in one commit. A publish is refused as a
whole when one of its targets cannot take it; nothing is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from hashlib import sha256
from math import inf

import msgspec
from msgspec.structs import replace

from pipeflow.embedded.group import Gathering
from pipeflow.embedded.head import Head
from pipeflow.embedded.journal import Journal, Known, Recovered
from pipeflow.embedded.keys import Keys
from pipeflow.embedded.log import Log
from pipeflow.embedded.nouns import Nouns, TopicHead
from pipeflow.embedded.records import replays_of
from pipeflow.embedded.rewriting import Rewritten, rewrite
from pipeflow.embedded.weighing import unfit, weigh
from pipeflow.letters import PROVENANCE, Passage, sent_back
from pipeflow.messages import Claim, Emit, Outgoing, Position, Refused, Sent
from pipeflow.names import IdPool, valid_group
from pipeflow.protocols import BEHIND
from pipeflow.specs import QueueSpec, Subscription
from pipeflow.state.dedup import dedup_key
from pipeflow.state.envelope import SUBJECT, render_envelope, topic_arn, with_signature
from pipeflow.state.stored import LONGEST_OF_SQS, READY, Stored, kept_from
from pipeflow.state.wishes import unfulfillable, unseen, unusable_key, unwaitable
from pipeflow.webhooks import REPLAYED, SIGNED, TOPIC

SHARE_FROM = 256
"""Bytes from which a body that goes to several queues is stored once; smaller ones are cheaper as copies."""
DEDUP_IN_MEMORY = 200_000
"""Ids of one queue or topic that memory keeps; older ones of the window are asked of the journal."""
OWN_TEXT = 16 << 20
"""Bytes of a text that a publish has for one kind of subscriber only: it lies in the store, however large."""
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

    def publish_all(
        self, topic: TopicHead, batch: Sequence[Outgoing], now: float, touched: list[Head]
    ) -> list[Sent | Refused]:
        """Take a batch into a topic, in order; nothing behind the refusal of what carries a position.

        The queues that got something are added to `touched`, one as often as it did.
        """
        results: list[Sent | Refused] = []
        for outgoing in batch:
            results.append(self.publish(topic, outgoing, now, touched))
            if outgoing.checkpoint is not None and isinstance(results[-1], Refused):
                break
        return results + [BEHIND] * (len(batch) - len(results))

    def send_all(self, head: Head, batch: Sequence[Outgoing], now: float) -> list[Sent | Refused]:
        """The same into one queue."""
        results: list[Sent | Refused] = []
        for outgoing in batch:
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
        spec, body = head.spec, outgoing.body
        if type(body) is bytes and len(body) <= spec.max_body and outgoing == Outgoing(body) and self._takes_all(spec):
            # Most messages are a body and nothing else: what could be wrong with the rest is not asked one by one.
            id = self._ids.new(now)
            message = Stored(0, id, body, len(body), now, now)
            self._add(head, message, None, now)
            return Sent(id, message.place)
        bad = unfit(spec.name, outgoing)
        if bad is not None:
            return bad
        size = weigh(outgoing)
        refused = self._refusal(spec, outgoing, size)
        if outgoing.ttl is not None:
            refused = refused or unseen(spec, outgoing.ttl, outgoing.delay)
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
        self._add(lane, message, outgoing.delay, now, outgoing.claim)
        if key is not None:
            self._remember(head, key, now, id, message.place)
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

    def _add(self, head: Head, message: Stored, delay: float | None, now: float, claim: Claim | None = None) -> None:
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

    def _refusal(self, spec: QueueSpec, outgoing: Outgoing, size: int) -> Refused | None:
        if size > spec.max_body:
            return Refused(
                "too_large",
                f"{spec.name}: the message has {size} bytes with its attributes, the limit is {spec.max_body}; send a"
                " reference to it, or raise max_body",
            )
        if spec.fifo and outgoing.group is None:
            return Refused("missing_group", f"{spec.name}: a FIFO queue needs group=... with every message")
        if outgoing.group is not None or outgoing.dedup_id is not None:
            refused = _bad_ids(spec.name, outgoing)
            if refused is not None:
                return refused
        if outgoing.delay is not None:
            refused = unwaitable(spec.name, outgoing.delay, fifo=spec.fifo)
            if refused is not None:
                return refused
        if outgoing.ttl is not None or outgoing.priority:
            refused = unfulfillable(spec.name, outgoing, fifo=spec.fifo)
            if refused is not None:
                return refused
        if outgoing.key is not None:
            refused = unusable_key(spec, outgoing.key)
            if refused is not None:
                return refused
        if self._journal.full:
            return Refused("disk_full", f"{spec.name}: the disk of the store is nearly full; free space and send again")
        return None

    # -- topics --------------------------------------------------------------------------------------------------

    def publish(self, topic: TopicHead, outgoing: Outgoing, now: float, touched: list[Head]) -> Sent | Refused:
        """Take one message for every subscription that matches it, or for none when one cannot take it."""
        spec = topic.spec
        state = topic.state
        refused = unfit(spec.name, outgoing) or state.refusal(outgoing)
        if refused is not None:
            return refused
        dedup_id = state.dedup_id(outgoing)
        key = None
        if dedup_id is not None:
            key = dedup_key(dedup_id, outgoing.group if spec.dedup_scope == "group" else None)
            original = topic.dedup.find(key, now)
            if original is not None:
                self.note_position(outgoing)
                return Sent(original[0], original[1], duplicate=True)
        size = weigh(outgoing)
        one_body = True
        queues: list[tuple[Head, Subscription, Outgoing, int]] = []
        streams: list[tuple[str, Outgoing]] = []
        id = outgoing.id or self._ids.new(now)
        for target in state.route(outgoing):
            mine = state.addressed(outgoing, target, dedup_id)
            if target.kind == "queue":
                head = topic.heads[target.target]
                own = size
                if mine.body is not outgoing.body:
                    one_body, own = False, weigh(mine)
                    if len(mine.body) > OWN_TEXT:
                        return Refused("too_large", f"{spec.name}: a text of instead= has at most {OWN_TEXT} bytes")
                refused = self._refusal(head.spec, mine, own)
                queues.append((head, target, mine, own))
            else:
                record = mine if target.raw else self._enveloped(topic, mine, id, now)
                refused = self._log.check(target.target, record)
                streams.append((target.target, record))
            if refused is not None:
                return refused
        counters = topic.counters
        counters.last_sequence += 1
        counters.published += 1
        counters.delivered += len(queues) + len(streams)
        shared = self._share(outgoing.body) if one_body and len(queues) > 1 else 0
        for head, target, mine, own in queues:
            self._deliver(topic, head, target, mine, id, shared, own, now)
            touched += head.lanes
        for stream, record in streams:
            self._log.append_in_group(stream, [record])
        if not self._journal.instant:
            self._gathering.topics[topic.number] = counters
        if key is not None:
            self._remember(topic, key, now, id, counters.last_sequence if spec.fifo else 0)
        self.note_position(outgoing)
        return Sent(id, counters.last_sequence if spec.fifo else 0)

    def _deliver(
        self,
        topic: TopicHead,
        head: Head,
        target: Subscription,
        mine: Outgoing,
        id: str,
        shared: int,
        size: int,
        now: float,
    ) -> None:
        key = dedup_key_of(head.spec, mine)
        if key is not None and head.dedup.find(key, now) is not None:
            return
        headers, envelope = mine.headers, None
        if target.endpoint or target.named:
            headers = {**(headers or {}), TOPIC: topic.spec.name}
        if not target.raw:
            envelope = (topic_arn(topic.spec.name, fifo=topic.spec.fifo), (headers or {}).get(SUBJECT, ""))
        if topic.spec.fifo and (not target.raw or head.spec.archives):
            headers = {**(headers or {}), SEQUENCE: str(topic.counters.last_sequence)}
        message = Stored(0, id, mine.body, size, now, now, mine.attributes, headers, mine.group, mine.dedup_id)
        message.envelope = envelope
        message.shared = shared
        if mine.ttl is not None and not head.spec.archives:
            message.expires_at = now + mine.ttl
        # A FIFO queue delays as a whole (SQS: Q33), so a publish's own delay is for standard queues. An archive has no
        # delay at all: it is read in the order of publishing.
        delay = 0.0 if head.spec.archives else None if head.spec.fifo else mine.delay
        lane = self._nouns.lane(head, mine.priority) if mine.priority and not head.spec.archives else head
        self._add(lane, message, delay, now, mine.claim)
        if key is not None:
            self._remember(head, key, now, id, message.place)

    @staticmethod
    def _enveloped(topic: TopicHead, message: Outgoing, id: str, now: float, sequence: int | None = None) -> Outgoing:
        """A record that holds the envelope of a publish (SNS: T56)."""
        headers = message.headers or {}
        if topic.spec.fifo and sequence is None:
            sequence = topic.counters.last_sequence + 1
        body = render_envelope(
            topic_arn(topic.spec.name, fifo=topic.spec.fifo),
            id,
            message.body,
            message.attributes,
            published_at=now,
            subject=headers.get(SUBJECT),
            sequence=sequence if topic.spec.fifo else None,
            replayed=REPLAYED in headers,
        )
        return Outgoing(body, headers=message.headers)

    def redelivery(self, topic: TopicHead, target: Subscription, archived: Stored, body: bytes) -> Outgoing | Refused:
        """An archived publish as one subscription is sent it again, same id and body and marked; or why it cannot be.

        Of one that is kept aside a queue needs no body: it refers to the same bytes.
        SNS: T75. Deduplication neither hinders it nor hears of it (T76).
        """
        marked = {**(archived.headers or {}), REPLAYED: "1"}
        publish = Outgoing(
            body, archived.attributes, marked, archived.group, archived.dedup_id, None, None, None, archived.id,
            archived.claim,
        )  # fmt: skip
        mine = topic.state.addressed(publish, target, archived.dedup_id)
        if target.kind == "queue":
            return self._refusal(topic.heads[target.target].spec, mine, weigh(mine)) or mine
        if not target.raw:
            kept = marked.get(SEQUENCE)
            mine = self._enveloped(topic, mine, archived.id, archived.sent_at, int(kept) if kept else None)
        return self._log.check(target.target, mine) or mine

    def redeliver(self, topic: TopicHead, target: Subscription, archived: Stored, mine: Outgoing, now: float) -> None:
        """Deliver what `redelivery` made of an archived publish."""
        if target.kind == "stream":
            self._log.append_in_group(target.target, [mine])
            return
        marked = mine.headers or {}
        if target.endpoint or target.named:
            marked = {**marked, TOPIC: topic.spec.name}
        message = Stored(
            0, archived.id, mine.body, weigh(mine), archived.sent_at, now, mine.attributes, marked, mine.group,
            mine.dedup_id,
        )  # fmt: skip
        if not target.raw:
            message.envelope = (topic_arn(topic.spec.name, fifo=topic.spec.fifo), marked.get(SUBJECT, ""))
        self._add(topic.heads[target.target], message, 0.0, now, mine.claim)

    def _share(self, body: bytes) -> int:
        if len(body) < SHARE_FROM or self._journal.instant:
            return 0
        return self.next_body()

    def next_body(self) -> int:
        """A number for a body that several rows may hold."""
        self._last_body += 1
        return self._last_body

    def envelope(self, message: Stored, body: bytes) -> bytes:
        """The SNS envelope of an enveloped copy, rendered anew at each receive (SNS: T50, T51)."""
        assert message.envelope is not None
        topic, subject = message.envelope
        headers = message.headers or {}
        sequence, signed = headers.get(SEQUENCE), headers.get(SIGNED)
        rendered = render_envelope(
            topic,
            message.id,
            body,
            message.attributes,
            published_at=message.sent_at,
            subject=subject or None,
            sequence=int(sequence) if sequence is not None else None,
            replayed=REPLAYED in headers,
        )
        if signed is None:
            return rendered
        return with_signature(rendered, msgspec.json.decode(signed, type=dict[str, str]))

    # -- emits ---------------------------------------------------------------------------------------------------

    def refusal(self, emits: Sequence[Emit]) -> Refused | None:
        """Why one of these could not be taken; None when all can."""
        for emit in emits:
            refused = self._emit_refusal(emit)
            if refused is not None:
                return refused
        return None

    def _emit_refusal(self, emit: Emit) -> Refused | None:
        message = emit.message
        bad = unfit(emit.target, message)
        if bad is not None:
            return bad
        if emit.kind == "stream":
            if emit.target not in self._log:
                return Refused("not_found", f"there is no stream {emit.target}")
            return self._log.check(emit.target, message)
        if emit.kind == "queue":
            head = self._nouns.find_head(emit.target)
            if head is None:
                return Refused("not_found", f"there is no queue {emit.target}")
            refused = self._refusal(head.spec, message, weigh(message))
            if message.ttl is not None:
                refused = refused or unseen(head.spec, message.ttl, message.delay)
            return refused
        topic = self._nouns.find_topic(emit.target)
        if topic is None:
            return Refused("not_found", f"there is no topic {emit.target}")
        return topic.state.refusal(message) or self._target_refusal(topic, message)

    def _target_refusal(self, topic: TopicHead, message: Outgoing) -> Refused | None:
        for target in topic.state.route(message):
            mine = topic.state.addressed(message, target, message.dedup_id)
            if target.kind == "queue":
                refused = self._refusal(topic.heads[target.target].spec, mine, weigh(mine))
            else:
                refused = self._log.check(target.target, mine)
            if refused is not None:
                return refused
        return None

    def emit(self, emit: Emit, now: float, touched: list[Head]) -> None:
        """Take in what a handler published; `refusal` said before that it can be."""
        if emit.kind == "stream":
            self._log.append_in_group(emit.target, [emit.message])
        elif emit.kind == "queue":
            head = self._nouns.head(emit.target)
            self.send(head, emit.message, now)
            touched += head.lanes
        else:
            topic = self._nouns.topic(emit.target)
            self.publish(topic, emit.message, now, touched)

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
        message.receives = message.releases = 0
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

    def _remember(self, head: Head | TopicHead, key: bytes, at: float, id: str, sequence: int) -> None:
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

    def forget_replays(self, stream: str) -> None:
        """Of a stream that is gone no replay goes on."""
        first, last = replays_of(stream)
        for name in [name for name in self.sources if first < name < last]:
            del self.sources[name]
            self._gathering.sources.pop(name, None)


SEQUENCE = "pipeflow-topic-sequence"
"""The header in which an enveloped copy carries its FIFO topic's sequence (SNS: T72)."""


def _scope(head: Head | TopicHead) -> int:
    # Queues and topics are numbered together.
    return head.number


def _bad_ids(name: str, outgoing: Outgoing) -> Refused | None:
    for what, value in (("group", outgoing.group), ("dedup_id", outgoing.dedup_id)):
        if value is not None and not valid_group(value):
            return Refused(
                f"bad_{what}", f"{name}: {what} {value!r} must be 1 to 128 letters, digits or punctuation, no spaces"
            )
    return None


def dedup_key_of(spec: QueueSpec, outgoing: Outgoing) -> bytes | None:
    """Under which id a queue remembers this message; None: under none."""
    id = outgoing.dedup_id
    if id is None:
        if not spec.content_dedup:
            return None
        id = outgoing.claim.digest if outgoing.claim is not None else sha256(outgoing.body).hexdigest()
    return dedup_key(id, outgoing.group) if spec.dedup_scope == "group" else dedup_key(id)
