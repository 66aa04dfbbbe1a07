"""Topics as a naive reader of their rules sees them: who is to get what of each publish, as a list.

SNS: T20, T28, T29, T49-T52, T58, T70-T72, T75, T76, T80; SQS: Q71, Q73, Q91.

Nothing here knows of stores: a publish is looked at by each subscription in turn, and what each queue owes its
consumers is a list of copies, from which an acknowledgement takes one. Filters are read by `naive_filters`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from msgspec.structs import replace
from naive_filters import naive

from pipeflow.messages import Delivery, Outgoing
from pipeflow.specs import QueueSpec, Subscription, TopicSpec
from pipeflow.webhooks import TOPIC

WINDOW = 300.0


@dataclass
class Publish:
    """One publish that was taken."""

    topic: TopicSpec
    outgoing: Outgoing
    id: str
    sequence: int
    at: float

    @property
    def dedup_id(self) -> str | None:
        if self.outgoing.dedup_id is None and self.topic.fifo and self.topic.content_dedup:
            return sha256(self.outgoing.body).hexdigest()
        return self.outgoing.dedup_id


@dataclass
class Copy:
    """One message that a queue owes its consumers."""

    queue: str
    id: str
    says: Any
    """What a consumer can see of it, in a form that compares."""
    group: str | None
    dedup_id: str | None
    replayed: bool
    by: str | None = None
    """The topic it says it came by, where its queue has a subscription to several."""
    order: int = 0
    """Copies of one queue and group come in this order for the first time, where the queue is FIFO."""
    due: float = 0.0
    """Not before this moment."""
    came: bool = False


@dataclass
class Replay:
    """How far a replay came."""

    behind: int = 0
    """How many publishes of the archive are done with."""
    upto: int | None = None
    """How many there were when it first came further: what is published while it runs is not for it."""
    sent: int = 0


@dataclass
class Model:
    """The rules of topics, read one by one."""

    topics: dict[str, TopicSpec]
    queues: dict[str, QueueSpec]
    subscriptions: list[Subscription] = field(default_factory=list)
    taken: dict[str, list[Publish]] = field(default_factory=dict)
    """By topic: what was published, oldest first; of a topic with an archive this is the archive."""
    accepted: dict[str, list[tuple[str, str | None, float, str, int]]] = field(default_factory=dict)
    """By FIFO queue: (dedup id, group, when, id, order) of what it took."""
    owed: list[Copy] = field(default_factory=list)
    places: dict[tuple[str, int], Copy] = field(default_factory=dict)
    """Of FIFO queues and their dead letters: which copy lies where."""
    copies: int = 0
    delivered: int = 0

    # -- publishing ----------------------------------------------------------------------------------------------

    def refuses(self, topic: TopicSpec, outgoing: Outgoing, now: float) -> bool:
        """A publish is refused for what it is, or for what one of its targets cannot take (T69)."""
        if topic.fifo and outgoing.group is None:
            return True
        if self.original(topic, outgoing, now) is not None:
            return False
        return any(len(outgoing.body) > self.queues[each.target].max_body for each in self.matching(topic, outgoing))

    def original(self, topic: TopicSpec, outgoing: Outgoing, now: float) -> Publish | None:
        """What this publish repeats within five minutes, in any group or in its own (T70)."""
        wanted = Publish(topic, outgoing, "", 0, now).dedup_id
        if wanted is None:
            return None
        for each in self.taken[topic.name]:
            in_scope = topic.dedup_scope == "topic" or each.outgoing.group == outgoing.group
            if each.dedup_id == wanted and now - each.at < WINDOW and in_scope:
                return each
        return None

    def matching(self, topic: TopicSpec, outgoing: Outgoing) -> list[Subscription]:
        return [each for each in self.feeding(topic) if lets_through(each, outgoing)]

    def feeding(self, topic: TopicSpec) -> list[Subscription]:
        """By queue: the subscription to this topic, else that to a name with stars which is this topic's, too.

        The latter give a FIFO queue FIFO topics only (T20).
        """
        found = []
        for queue in self.queues.values():
            own = [each for each in self.subscriptions if (each.topic, each.target) == (topic.name, queue.name)]
            starred = [
                replace(each, topic=topic.name)
                for each in self.subscriptions
                if each.target == queue.name and "*" in each.topic and means(each.topic, topic.name)
            ]
            found += own or (starred if topic.fifo or not queue.fifo else [])
        return found

    def publish(self, topic: TopicSpec, outgoing: Outgoing, id: str, now: float) -> Publish:
        """It was taken: each matching subscription has a copy (T29)."""
        taken = Publish(topic, outgoing, id, len(self.taken[topic.name]) + 1, now)
        self.taken[topic.name].append(taken)
        for subscription in self.matching(topic, outgoing):
            self.deliver(subscription, taken, now)
        return taken

    def deliver(self, subscription: Subscription, publish: Publish, now: float, replayed: bool = False) -> None:
        queue = self.queues[subscription.target]
        to_fifo = queue.fifo and publish.topic.fifo
        group = publish.outgoing.group if to_fifo or not publish.topic.fifo else None
        dedup_id = publish.dedup_id if to_fifo else None
        self.delivered += not replayed
        if dedup_id is not None and not replayed:
            if self.repeated(queue, dedup_id, group, now) is not None:
                return  # the queue's own window knows it: sent straight, or by another topic
            self.accepted[queue.name].append((dedup_id, group, now, publish.id, 0))
        by = publish.topic.name if subscription.named else None
        delay = queue.delay if queue.fifo else 0.0 if replayed else publish.outgoing.delay or 0.0
        says = said(publish, subscription.raw, replayed)
        self.owe(queue, publish.id, says, group, dedup_id, replayed, by, now + delay)

    def owe(
        self,
        queue: QueueSpec,
        id: str,
        says: Any,
        group: str | None,
        dedup_id: str | None,
        replayed: bool = False,
        by: str | None = None,
        due: float = 0.0,
    ) -> None:
        self.copies += 1
        self.owed.append(Copy(queue.name, id, says, group, dedup_id, replayed, by, self.copies, due))

    # -- queues --------------------------------------------------------------------------------------------------

    def repeated(self, queue: QueueSpec, dedup_id: str, group: str | None, now: float) -> str | None:
        """The id of what the queue took with this dedup id within five minutes (SQS: Q71, Q73)."""
        for known, its_group, at, id, _ in self.accepted[queue.name]:
            if known == dedup_id and now - at < WINDOW and (queue.dedup_scope == "queue" or its_group == group):
                return id
        return None

    def came(self, delivery: Delivery, replayed: bool, now: float) -> Copy:
        """The copy that this delivery is: owed, complete, and in the order of its group."""
        queue = delivery.dead_letter_source or delivery.queue
        says = as_seen(delivery)
        found = [copy for copy in self.owed if (copy.queue, copy.id, copy.replayed) == (queue, delivery.id, replayed)]
        assert found, f"{queue}: {delivery.id} came and is not owed"
        by = delivery.headers.get(TOPIC)
        alike = [copy for copy in found if (copy.says, copy.group, copy.by) == (says, delivery.group, by)]
        assert alike, f"{queue}: {delivery.id} says {says} in group {delivery.group} by {by}; expected {found}"
        is_letter = delivery.dead_letter_source is not None
        fifo = self.queues[queue].fifo
        # Replays make copies that are alike: on a FIFO queue each has a place by which it is known again.
        place = delivery.queue, delivery.sequence
        known = self.places.get(place)
        copy = known if known in alike else next((each for each in alike if each.came is is_letter), alike[0])
        if fifo:
            self.places[place] = copy
        assert delivery.dedup_id == (copy.id if is_letter and fifo else copy.dedup_id), delivery
        assert copy.due <= now, f"{queue}: {copy} came before it was due"
        if fifo and not copy.came:
            earlier = [
                each
                for each in self.owed
                if (each.queue, each.group) == (queue, copy.group) and each.order < copy.order and not each.came
            ]
            assert not earlier, f"{queue}: {copy} came before {earlier} of its group"
        copy.came = True
        return copy

    def acknowledged(self, copy: Copy) -> None:
        """One copy less is owed: this one, or one that replays made just like it."""
        alike = [
            each
            for each in self.owed
            if (each.queue, each.id, each.says, each.group, each.replayed, each.by)
            == (copy.queue, copy.id, copy.says, copy.group, copy.replayed, copy.by)
        ]
        assert alike, f"{copy} was acknowledged once too often"
        self.owed.remove(copy if copy in alike else alike[0])

    # -- archives ------------------------------------------------------------------------------------------------

    def replay(
        self,
        replay: Replay,
        subscription: Subscription,
        since: float,
        until: float | None,
        policy: dict[str, Any] | None,
        limit: int,
        now: float,
    ) -> tuple[list[str], bool] | None:
        """One call of a replay: (ids of what was sent, whether none is left) (T75).

        None when something of it is too large for the subscriber: then nothing is sent.
        """
        archive = self.taken[subscription.topic]
        behind, upto = replay.behind, len(archive) if replay.upto is None else replay.upto
        while behind < len(archive) and archive[behind].at < since:
            behind += 1
        chunk = [
            each
            for n, each in enumerate(archive[behind : behind + limit], behind)
            if n < upto and (until is None or each.at < until)
        ]
        sent = [
            each
            for each in chunk
            if (policy is None or naive_takes(policy, each.outgoing)) and lets_through(subscription, each.outgoing)
        ]
        if any(len(each.outgoing.body) > self.queues[subscription.target].max_body for each in sent):
            return None
        for each in sent:
            self.deliver(subscription, each, now, replayed=True)
        replay.behind, replay.upto = behind + len(chunk), upto
        replay.sent += len(sent)
        left = archive[replay.behind : upto]
        return [each.id for each in sent], not left or (until is not None and left[0].at >= until)


# -- what a copy says ----------------------------------------------------------------------------------------------


def means(pattern: str, name: str) -> bool:
    """Whether a name is that of a pattern, `*` being any run of characters."""
    if not pattern or pattern[0] != "*":
        return pattern[:1] == name[:1] and (not pattern or means(pattern[1:], name[1:]))
    return any(means(pattern[1:], name[n:]) for n in range(len(name) + 1))


def lets_through(subscription: Subscription, outgoing: Outgoing) -> bool:
    if subscription.filter is None:
        return True
    policy = json.loads(subscription.filter.policy)
    if subscription.filter.scope == "body":
        return bool(naive(policy, json.loads(outgoing.body)))
    return naive_takes(policy, outgoing)


def naive_takes(policy: dict[str, Any], outgoing: Outgoing) -> bool:
    attributes = outgoing.attributes or {}
    return bool(naive(policy, attributes) and (attributes or not policy))


def said(publish: Publish, raw: bool, replayed: bool) -> Any:
    """What a consumer is told: the body and its attributes, or an envelope (T50-T52)."""
    outgoing = publish.outgoing
    if raw:
        return outgoing.body, outgoing.attributes or {}
    envelope: dict[str, Any] = {
        "Type": "Notification",
        "MessageId": publish.id,
        "TopicArn": publish.topic.name + (".fifo" if publish.topic.fifo else ""),
        "Message": outgoing.body.decode(),
        "Timestamp": datetime.fromtimestamp(publish.at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
    }
    if publish.topic.fifo:
        envelope["SequenceNumber"] = str(publish.sequence).rjust(20, "0")
    if outgoing.headers:
        envelope["Subject"] = outgoing.headers["subject"]
    if replayed:
        envelope["Replayed"] = True
    if outgoing.attributes:
        envelope["MessageAttributes"] = {name: typed(value) for name, value in outgoing.attributes.items()}
    return envelope


def typed(value: object) -> dict[str, object]:
    if isinstance(value, bool):
        return {"Type": "String", "Value": "true" if value else "false"}
    if isinstance(value, int | float):
        return {"Type": "Number", "Value": str(value)}
    if isinstance(value, list):
        return {"Type": "String.Array", "Value": value}
    return {"Type": "String", "Value": value}


def as_seen(delivery: Delivery) -> Any:
    """A delivery in the form of `said`."""
    if not delivery.body.startswith(b'{"Type":"Notification"'):
        return delivery.body, delivery.attributes
    assert delivery.attributes == {}, "the attributes of an enveloped message are in the envelope"
    envelope = json.loads(delivery.body)
    envelope["TopicArn"] = envelope["TopicArn"].rpartition(":")[2]
    for value in envelope.get("MessageAttributes", {}).values():
        if value["Type"] == "String.Array":
            value["Value"] = json.loads(value["Value"])
    return envelope
