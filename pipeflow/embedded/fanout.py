"""The way of a message through a topic into every queue and stream that takes it.

Everything here is synchronous: what one call does is in one group, and so in one commit. A publish is refused as a
whole when one of its targets cannot take it; nothing is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pipeflow.embedded.group import Gathering
from pipeflow.embedded.head import Head
from pipeflow.embedded.intake import Intake, dedup_key_of
from pipeflow.embedded.journal import Journal
from pipeflow.embedded.log import Log
from pipeflow.embedded.nouns import Nouns
from pipeflow.embedded.topic_head import TopicHead
from pipeflow.embedded.weighing import unfit, weigh
from pipeflow.messages import Outgoing, Refused, Sent
from pipeflow.names import IdPool
from pipeflow.protocols import BEHIND
from pipeflow.specs import Subscription
from pipeflow.state.dedup import dedup_key
from pipeflow.state.envelope import SUBJECT, render_envelope, topic_arn, with_signature
from pipeflow.state.stored import Stored
from pipeflow.webhooks import REPLAYED, SIGNED, TOPIC

SHARE_FROM = 256
"""Bytes from which a body that goes to several queues is stored once; smaller ones are cheaper as copies."""
OWN_TEXT = 16 << 20
"""Bytes of a text that a publish has for one kind of subscriber only: it lies in the store, however large."""
SEQUENCE = "pipeflow-topic-sequence"
"""The header in which an enveloped copy carries its FIFO topic's sequence (SNS: T72)."""


class FanOut:
    """Takes publishes in for the broker."""

    def __init__(
        self, nouns: Nouns, inlet: Intake, gathering: Gathering, ids: IdPool, log: Log, journal: Journal
    ) -> None:
        self._nouns = nouns
        self._inlet = inlet
        self._gathering = gathering
        self._ids = ids
        self._log = log
        self._journal = journal

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
                self._inlet.note_position(outgoing)
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
                refused = self._inlet.refusal(head.spec, mine, own)
                queues.append((head, target, mine, own))
            else:
                record = mine if target.raw else _enveloped(topic, mine, id, now)
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
            self._inlet.remember(topic, key, now, id, counters.last_sequence if spec.fifo else 0)
        self._inlet.note_position(outgoing)
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
        self._inlet.add(lane, message, delay, now, mine.claim)
        if key is not None:
            self._inlet.remember(head, key, now, id, message.place)

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
            return self._inlet.refusal(topic.heads[target.target].spec, mine, weigh(mine)) or mine
        if not target.raw:
            kept = marked.get(SEQUENCE)
            mine = _enveloped(topic, mine, archived.id, archived.sent_at, int(kept) if kept else None)
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
        self._inlet.add(topic.heads[target.target], message, 0.0, now, mine.claim)

    def refusal(self, topic: TopicHead, message: Outgoing) -> Refused | None:
        """Why no subscription of a topic could be given this message; None when all can."""
        for target in topic.state.route(message):
            mine = topic.state.addressed(message, target, message.dedup_id)
            if target.kind == "queue":
                refused = self._inlet.refusal(topic.heads[target.target].spec, mine, weigh(mine))
            else:
                refused = self._log.check(target.target, mine)
            if refused is not None:
                return refused
        return None

    def _share(self, body: bytes) -> int:
        if len(body) < SHARE_FROM or self._journal.instant:
            return 0
        return self._inlet.next_body()


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


def envelope(message: Stored, body: bytes) -> bytes:
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
