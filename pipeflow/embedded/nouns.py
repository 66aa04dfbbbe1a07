"""The nouns of a store: which queues, topics and streams there are, and how a declaration changes them.

A declaration is idempotent. What changed is migrated where that is safe and refused with a diff where it is not; a noun
that vanished from the code keeps its messages (`doctor` lists it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from itertools import islice

import msgspec
from msgspec import Struct

from pipeflow.embedded.confirmations import Confirmations
from pipeflow.embedded.group import Gathering
from pipeflow.embedded.head import LANES, Head
from pipeflow.embedded.journal import Counters, Declared, Journal, Recovered, TopicCounters
from pipeflow.embedded.log import Log
from pipeflow.embedded.subscriptions import Subscriptions
from pipeflow.embedded.topic_head import TopicHead
from pipeflow.errors import ConfigurationError, NotFound, RefusedError, SpecConflict
from pipeflow.filters import check_filter
from pipeflow.messages import Emit
from pipeflow.names import is_pattern
from pipeflow.specs import (
    DAY,
    LARGEST_BODY,
    ClaimSpec,
    QueueSpec,
    StreamSpec,
    Subscription,
    TopicSpec,
    Topology,
    check_backups,
)

DEAD_LETTER_RETENTION = 14 * DAY
FIXED = {"fifo", "dedup_scope"}
"""Properties of a queue or topic that its messages depend on: never changed in place (SQS: Q7)."""

COMPARED = 1_000
"""Names that one nobody knows is compared with, for the error to say what was meant."""

_encode = msgspec.msgpack.Encoder().encode


class Nouns:
    """Every noun of the store by name."""

    def __init__(
        self, journal: Journal, gathering: Gathering, recovered: Recovered, log: Log, hot_messages: int
    ) -> None:
        self._journal = journal
        self._gathering = gathering
        self._log = log
        self._hot_messages = hot_messages
        self._heads: dict[str, Head] = {}
        self._by_number: dict[int, Head] = {}
        self._gone: dict[int, Head] = {}
        """By number: deleted queues whose rows are being swept."""
        self._begin_behind = 0
        """The last place of any queue that was deleted: a receipt for it fits no message of one made later (Q51)."""
        self._topics: dict[str, TopicHead] = {}
        self._streams: dict[str, StreamSpec] = {}
        self._last_number = 0
        for queue in recovered.queues:
            self._make_head(queue.spec, queue.number, queue.counters).tail.recall(queue.waiting)
        for known in recovered.lanes:
            lane = self._add_lane(self._by_number[known.of], known.priority, known.number, known.counters)
            lane.tail.recall(known.waiting)
        for head in self._heads.values() if not recovered.clean else ():
            for lane in head.lanes:
                lane.tail.suspect_upto = head.places.last_place
        for queue in recovered.gone:
            self._gone[queue.number] = Head(queue.spec, queue.number, queue.counters, gathering, journal, hot_messages)
            self._last_number = max(self._last_number, queue.number)
        for topic in recovered.topics:
            self._topics[topic.spec.name] = TopicHead(topic.spec, topic.number, topic.counters)
            self._last_number = max(self._last_number, topic.number)
        for stream in recovered.streams:
            self._streams[stream.name] = stream
            log.declare(stream)
        confirmations = Confirmations(recovered.sources, gathering, journal)
        self.subscriptions = Subscriptions(
            self._topics, self._heads, confirmations, self._remember, recovered.subscriptions
        )
        self._lead_to_dead_letters(self._heads.values())

    # -- finding -------------------------------------------------------------------------------------------------

    def head(self, name: str) -> Head:
        """The queue of this name, or NotFound."""
        try:
            return self._heads[name]
        except (KeyError, TypeError):
            raise _not_found("queue", name, self._heads) from None

    def open_head(self, name: str) -> Head:
        """The queue of this name, for who sends to it or receives from it; RefusedError for an archive."""
        head = self.head(name)
        if head.spec.archives:
            raise RefusedError(
                "Archive", f"queue {name} is the archive of a topic; replay it: pipeflow topics replay TOPIC --to QUEUE"
            )
        return head

    def topic(self, name: str) -> TopicHead:
        """The topic of this name, or NotFound."""
        try:
            return self._topics[name]
        except (KeyError, TypeError):
            raise _not_found("topic", name, self._topics) from None

    def find_head(self, name: str) -> Head | None:
        """The queue of this name, if there is one."""
        return self._heads.get(name)

    def find_topic(self, name: str) -> TopicHead | None:
        """The topic of this name, if there is one."""
        return self._topics.get(name)

    def head_by_number(self, number: int) -> Head | None:
        """The queue of this number, if there is one."""
        return self._by_number.get(number)

    def heads(self) -> list[Head]:
        """Every queue, in the order of declaration."""
        return list(self._heads.values())

    def lanes(self) -> Iterator[Head]:
        """Every priority of every queue."""
        for head in self._heads.values():
            yield from head.lanes

    def lane(self, head: Head, priority: int) -> Head:
        """Where messages of this priority go in a queue; made with the first of them."""
        for lane in head.lanes:
            if lane.priority == priority:
                return lane
        number = self._next_number()
        self._remember("lane", str(number), number, (head.number, priority))
        return self._add_lane(head, priority, number, Counters())

    def topics(self) -> list[TopicHead]:
        """Every topic, in the order of declaration."""
        return list(self._topics.values())

    def dead_of(self, name: str) -> Head:
        """The dead letters of a queue, or NotFound when it has none."""
        head = self.head(name)
        if head.dead is None:
            hint = (
                "; it holds dead letters itself: name the queue they came from" if head.spec.holds_dead_letters else ""
            )
            raise NotFound(f"queue {name} has no dead letters{hint}")
        return head.dead

    def streams_fed_by(self, emits: Sequence[Emit]) -> Iterator[str]:
        """Streams that these emits go to, straight or through a topic."""
        for emit in emits:
            if emit.kind == "stream":
                yield emit.target
            elif emit.kind == "topic":
                topic = self._topics.get(emit.target)
                if topic is not None:
                    yield from topic.streams

    def has_stream(self, name: str) -> bool:
        """Whether there is a stream of this name."""
        return name in self._streams

    def describe(self, claims: ClaimSpec | None) -> Topology:
        """Everything the store holds."""
        return Topology(
            topics=tuple(topic.spec for topic in self._topics.values()),
            queues=tuple(head.spec for head in self._heads.values()),
            streams=tuple(self._streams.values()),
            subscriptions=tuple(self.subscriptions),
            claims=claims,
        )

    # -- declaring -----------------------------------------------------------------------------------------------

    def declare(self, topology: Topology, now: float) -> list[Head]:
        """Check everything, then change everything: a refused declaration changes nothing. The queues it speaks of.

        What is there already and as declared is not looked at, so that one more tenant costs what one costs.
        """
        queues = self._with_dead_letters(topology)
        self._check(topology, queues)
        for topic in topology.topics:
            self._declare_topic(topic)
        for queue in queues:
            self._declare_queue(queue, now)
        for stream in topology.streams:
            self._log.declare(stream)
            if self._streams.get(stream.name) != stream:
                self._streams[stream.name] = stream
                self._remember("stream", stream.name, 0, stream)
        self.subscriptions.declare(topology)
        heads = [self._heads[queue.name] for queue in queues]
        self._lead_to_dead_letters(heads)
        return heads

    def unsettled(self, topology: Topology) -> Head | None:
        """A queue that is to have another delay while an earlier one is not yet that of all it has (SQS: Q17)."""
        for queue in topology.queues:
            head = self._heads.get(queue.name)
            if head is not None and head.spec.delay != queue.delay and not head.tail.settled:
                return head
        return None

    def delete_stream(self, stream: str, drop: bool) -> int:
        """Forget a stream; how many records were dropped. RefusedError while something feeds or uses it."""
        if stream not in self._streams:
            raise _not_found("stream", stream, self._streams)
        topics = [each.topic for each in self.subscriptions if each.kind == "stream" and each.target == stream]
        originals = [each.name for each in self._streams.values() if each.backup == stream]
        if topics or originals:
            who = ", ".join([f"topic {name}" for name in topics] + [f"stream {name}" for name in originals])
            raise RefusedError(
                "InUse",
                f"stream {stream}: {who} still feeds it; take that out of the app and start the app once, then delete",
            )
        dropped = self._log.delete(stream, drop)
        del self._streams[stream]
        self._remember("stream", stream, 0, None)
        return dropped

    def delete_topic(self, name: str) -> bool:
        """Forget a topic and its subscriptions; whether there was one (SNS: T4). What lies in queues stays.

        RefusedError while it has an archive (T74).
        """
        topic = self._topics.get(name)
        if topic is None:
            return False
        if topic.spec.archive:
            raise RefusedError(
                "InvalidState",
                f"topic {name} keeps an archive; take archive= out of the app and start the app once, then delete",
            )
        self.subscriptions.forget_topic(name)
        del self._topics[name]
        self._remember("topic", name, 0, None)
        return True

    def sources(self) -> dict[str, list[str]]:
        """By queue that holds dead letters: the queues they come from (SQS: Q104)."""
        found: dict[str, list[str]] = {}
        for head in self._heads.values():
            if head.spec.dead_letters is not None:
                found.setdefault(head.spec.dead_letters, []).append(head.spec.name)
        return found

    def check_unused(self, queue: str) -> None:
        """RefusedError while another queue's dead letters would have nowhere to go."""
        sources = self.sources().get(queue)
        if sources:
            raise RefusedError(
                "InUse",
                f"queue {queue}: it takes the dead letters of {', '.join(sources)}; delete that first, or declare it"
                " with other dead letters",
            )

    def remove_queue(self, head: Head) -> None:
        """Forget a queue and its subscriptions; its number stays taken until `swept`."""
        name = head.spec.name
        self.subscriptions.forget_queue(name)
        del self._heads[name]
        self._begin_behind = max(self._begin_behind, head.counters.last_place)
        self._remember("queue", name, head.number, None)
        for lane in head.lanes:
            self._gone[lane.number] = lane
            if lane is not head:
                self._remember("lane", str(lane.number), lane.number, None)
            self._remember("gone", str(lane.number), lane.number, head.spec)

    def gone(self) -> list[Head]:
        """Deleted queues whose rows may still lie on disk."""
        return list(self._gone.values())

    def swept(self, head: Head) -> bool:
        """No row of a purged queue is left; whether it was deleted, and is now gone for good."""
        if self._gone.pop(head.number, None) is None:
            return False
        self._by_number.pop(head.number, None)
        self._remember("gone", str(head.number), head.number, None)
        return True

    def _with_dead_letters(self, topology: Topology) -> list[QueueSpec]:
        """The declared queues, and the dead letters they name that nobody declares."""
        declared = {queue.name for queue in topology.queues}
        queues = list(topology.queues)
        for queue in topology.queues:
            name = queue.dead_letters
            if name is None or name in declared:
                continue
            declared.add(name)
            known = self._heads.get(name)
            made = QueueSpec(
                name,
                fifo=queue.fifo,
                max_receives=None,
                retention=DEAD_LETTER_RETENTION,
                max_body=LARGEST_BODY,
                holds_dead_letters=True,
            )
            queues.append(known.spec if known is not None else made)
        return queues

    def _check(self, topology: Topology, queues: Sequence[QueueSpec]) -> None:
        declared = {queue.name: queue for queue in queues}

        def queue_of(name: str) -> QueueSpec | None:
            known = self._heads.get(name)
            return declared.get(name) or (known.spec if known is not None else None)

        for queue in queues:
            known = self._heads.get(queue.name)
            if known is not None:
                _refuse_changes("queue", known.spec, queue, FIXED)
            target = queue_of(queue.dead_letters) if queue.dead_letters is not None else None
            if target is not None and target.fifo != queue.fifo:
                kind = "FIFO" if queue.fifo else "standard"
                raise ConfigurationError(
                    f"{queue.name}: its dead letters {target.name} must be a {kind} queue like itself (SQS: Q87)"
                )
            allowed = target.dead_letters_from if target is not None else None
            if target is not None and allowed is not None and queue.name not in allowed:
                raise ConfigurationError(
                    f"{queue.name}: {target.name} takes dead letters of {', '.join(allowed) or 'no queue'} only; name"
                    f" it in dead_letters_from of {target.name}, or use other dead letters (SQS: Q88)"
                )
        topics = {topic.spec.name: topic.spec for topic in self._topics.values()}
        for topic in topology.topics:
            if topic.name in topics:
                _refuse_changes("topic", topics[topic.name], topic, FIXED)
            topics[topic.name] = topic
        for stream in topology.streams:
            conflict = self._log.conflict(stream)
            if conflict is not None:
                raise SpecConflict(conflict)
        streams = self._streams | {stream.name: stream for stream in topology.streams}
        check_backups(streams)
        for subscription in topology.subscriptions:
            if subscription.filter is not None and subscription not in self.subscriptions:
                check_filter(subscription.filter)
            self._check_subscription(subscription, topics, queue_of, streams)

    @staticmethod
    def _check_subscription(
        subscription: Subscription,
        topics: dict[str, TopicSpec],
        queue_of: Callable[[str], QueueSpec | None],
        streams: dict[str, StreamSpec],
    ) -> None:
        name = subscription.topic
        topic = topics.get(name)
        if topic is None and not is_pattern(name):
            raise ConfigurationError(f"{subscription.target}: there is no topic {name}; declare it first")
        if subscription.kind == "stream":
            if subscription.target not in streams:
                raise ConfigurationError(f"{name}: there is no stream {subscription.target}; declare it first")
            return
        queue = queue_of(subscription.target)
        if queue is None:
            raise ConfigurationError(f"{name}: there is no queue {subscription.target}; declare it first")
        if queue.fifo and topic is not None and topic.dedup_scope == "group" and queue.dedup_scope != "group":
            raise ConfigurationError(
                f"{queue.name}: it would take for duplicates what {name} does not, as that deduplicates by group; "
                'declare the queue with dedup_scope="group", too (SNS: T70)'
            )
        if queue.fifo and topic is not None and not topic.fifo:
            raise ConfigurationError(
                f"{queue.name}: a FIFO queue cannot subscribe to the standard topic {topic.name}; make the topic FIFO"
                " (SNS: T20)"
            )

    def _declare_topic(self, spec: TopicSpec) -> None:
        topic = self._topics.get(spec.name)
        if topic is None:
            topic = self._topics[spec.name] = TopicHead(spec, self._next_number(), TopicCounters())
            self.subscriptions.join(topic)
        elif topic.spec == spec:
            return
        topic.spec = topic.state.spec = spec
        self.subscriptions.lay_archive(topic)
        self._remember("topic", spec.name, topic.number, spec)

    def _declare_queue(self, spec: QueueSpec, now: float) -> None:
        head = self._heads.get(spec.name)
        if head is None:
            counters = Counters(created_at=now, modified_at=now, last_place=self._begin_behind)
            head = self._make_head(spec, self._next_number(), counters)
        elif head.spec == spec:
            return
        elif msgspec.structs.replace(head.spec, tags=spec.tags) != spec:
            # Tags are words about a queue, not options of it (SQS: Q103).
            head.counters.modified_at = now
        head.touch()
        # Messages keep what they were sent with; a new retention holds for all of them at once (SQS: Q17, Q18).
        head.respec(spec, now)
        self._remember("queue", spec.name, head.number, spec)

    def _lead_to_dead_letters(self, heads: Iterable[Head]) -> None:
        for head in heads:
            name = head.spec.dead_letters
            for lane in head.lanes:
                lane.dead = self._heads.get(name) if name is not None else None

    def _make_head(self, spec: QueueSpec, number: int, counters: Counters) -> Head:
        # An archive is read in order and by chunks, and needs nothing of it in memory.
        limit = 0 if spec.archives else self._hot_messages
        head = Head(spec, number, counters, self._gathering, self._journal, limit)
        self._heads[spec.name] = head
        self._by_number[number] = head
        self._last_number = max(self._last_number, number)
        return head

    def _add_lane(self, head: Head, priority: int, number: int, counters: Counters) -> Head:
        head.counters.last_place = max(head.counters.last_place, counters.last_place)
        limit = max(1, self._hot_messages // LANES)
        lane = Head(head.spec, number, counters, self._gathering, self._journal, limit, head, priority)
        head.add_lane(lane)
        self._by_number[number] = lane
        self._last_number = max(self._last_number, number)
        return lane

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def _remember(self, kind: str, name: str, number: int, spec: object | None) -> None:
        if not self._journal.instant:
            self._gathering.declared.append(Declared(kind, name, number, _encode(spec) if spec is not None else None))


def _refuse_changes(kind: str, known: Struct, wanted: Struct, fixed: set[str]) -> None:
    changed = [
        f"{name}: {getattr(known, name)!r} in the store, {getattr(wanted, name)!r} in the code"
        for name in known.__struct_fields__
        if name in fixed and getattr(known, name) != getattr(wanted, name)
    ]
    if changed:
        name = getattr(known, "name")  # noqa: B009  # both are specs with a name
        raise SpecConflict(
            f"{kind} {name} cannot be changed in place ({'; '.join(changed)}); declare it under a new name, or use"
            " another store"
        )


def _not_found(kind: str, name: str, known: Iterable[str]) -> NotFound:
    # Against all names of a store of a hundred thousand queues it would take seconds.
    near = get_close_matches(str(name), islice(known, COMPARED), n=1)
    hint = f"; did you mean {near[0]}?" if near else "; declare it in the app and start the app once"
    return NotFound(f"there is no {kind} {name}{hint}")
