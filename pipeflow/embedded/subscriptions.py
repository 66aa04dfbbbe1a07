"""Subscriptions: which way leads from which topic to which queue or stream.

A subscription belongs to its target: the targets a program declares have exactly the subscriptions it declares. One
that names many topics by a pattern gives way to one that names a topic itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec.structs import replace

from pipeflow.embedded.confirmations import Confirmations
from pipeflow.embedded.head import Head
from pipeflow.embedded.topic_head import TopicHead
from pipeflow.errors import RefusedError
from pipeflow.messages import Outgoing
from pipeflow.names import is_meant, is_pattern
from pipeflow.specs import Subscription, Topology, archive_of
from pipeflow.state.envelope import subscription_arn
from pipeflow.webhooks import SubscriptionFacts


class Subscriptions:
    """Every subscription of the store, in the order of declaration, and the ways they lay."""

    def __init__(
        self,
        topics: Mapping[str, TopicHead],
        heads: Mapping[str, Head],
        confirmations: Confirmations,
        remember: Callable[[str, str, int, object | None], None],
        recovered: Iterable[Subscription],
    ) -> None:
        self._topics = topics
        self._heads = heads
        self._confirmations = confirmations
        self._remember = remember
        self._known = {_key(subscription): subscription for subscription in recovered}
        self._patterns: list[Subscription] | None = None
        """Those that name many topics, once somebody asked."""
        for subscription in [*self._known.values()]:
            self._connect(subscription)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._known.values())

    def __contains__(self, subscription: Subscription) -> bool:
        """Whether it is there as it is."""
        return self._known.get(_key(subscription)) == subscription

    def patterns(self) -> list[Subscription]:
        """Subscriptions to every topic that a pattern names."""
        if self._patterns is None:
            self._patterns = [each for each in self._known.values() if is_pattern(each.topic)]
        return self._patterns

    def requests_to_confirm(self, now: float) -> list[tuple[Head, Outgoing]]:
        """(queue, request) for each endpoint that is to be asked to confirm now."""
        asking = [each for each in self._endpoints() if each.handshake]
        heads = [self._heads[each.target] for each in asking]
        idle = {head.spec.name: not (head.tail.count or head.state.known) for head in heads}
        found = self._confirmations.requests(asking, now, idle)
        return [(self._heads[name], request) for name, request in found]

    def confirm(self, topic: str, token: str, now: float) -> Subscription:
        """Deliver to the subscription that this token is for, from now on. RefusedError for any other."""
        confirmed = self._confirmations.confirm(topic, token, self._endpoints(), now)
        self._connect(confirmed)
        return confirmed

    def unsubscribe(self, arn: str, undo: bool, now: float) -> tuple[Head, Outgoing] | None:
        """End the subscription of an endpoint, or begin it anew; (queue, what the endpoint is to be told)."""
        if arn.count(":") < 5:
            raise RefusedError("InvalidArn", f"{arn!r}: an ARN has at least 6 elements, not {arn.count(':') + 1}")
        for each in self._endpoints():
            if subscription_arn(each.topic, each.target) == arn:
                say = self._confirmations.come_back if undo else self._confirmations.leave
                told = say(each, now)
                self._connect(each)
                return None if told is None else (self._heads[each.target], told)
        return None

    def webhooks(self, now: float) -> list[SubscriptionFacts]:
        """Every subscription of an endpoint."""
        return self._confirmations.facts(self._endpoints(), now)

    def _endpoints(self) -> Iterator[Subscription]:
        """Those of endpoints: of one to a pattern one for each topic it lays a way from, as each is confirmed."""
        for each in self._known.values():
            if not each.endpoint:
                continue
            if not is_pattern(each.topic):
                yield each
                continue
            for name, topic in self._topics.items():
                if is_meant(name, each.topic) and (name, each.kind, each.target) not in self._known:
                    meant = self._subscription(topic, each.kind, each.target)
                    if meant is not None:
                        yield meant

    def join(self, topic: TopicHead) -> None:
        """Lay the ways from a new topic to those that name it by a pattern."""
        for pattern in self.patterns():
            if is_meant(topic.spec.name, pattern.topic):
                self._lay(topic, pattern)

    def lay_archive(self, topic: TopicHead) -> None:
        """Lay the way from a topic to its archive anew: it may have one, or none, since now."""
        archive = self._known.get((topic.spec.name, "queue", archive_of(topic.spec.name)))
        if archive is not None:
            self._lay(topic, archive)

    def forget_topic(self, name: str) -> None:
        """Forget the subscriptions to a topic that goes."""
        for key in [key for key in self._known if key[0] == name]:
            del self._known[key]
            self._remember("subscription", "\0".join(key), 0, None)
        self._confirmations.forget(topic=name)

    def forget_queue(self, name: str) -> None:
        """End the subscriptions of a queue that goes."""
        for key in [key for key in self._known if key[1:] == ("queue", name)]:
            self._unsubscribe(key)
        self._confirmations.forget(webhook=name)

    def declare(self, topology: Topology) -> None:
        """Give the targets that are declared what is declared for them, and nothing else."""
        owned = {("queue", queue.name) for queue in topology.queues} | {("stream", s.name) for s in topology.streams}
        wanted = {_key(subscription): subscription for subscription in topology.subscriptions}
        for key in [key for key in self._known if key[1:] in owned and key not in wanted]:
            self._unsubscribe(key)
        for key, subscription in wanted.items():
            if self._known.get(key) != subscription:
                self._known[key] = subscription
                self._remember("subscription", "\0".join(key), 0, subscription)
                self._connect(subscription)

    def _unsubscribe(self, key: tuple[str, str, str]) -> None:
        subscription = self._known.pop(key)
        self._remember("subscription", "\0".join(key), 0, None)
        self._connect(subscription)

    def _connect(self, changed: Subscription) -> None:
        """Lay the way from its topic to its target anew, or from every topic that a pattern names."""
        if not is_pattern(changed.topic):
            self._lay(self._topics[changed.topic], changed)
            return
        self._patterns = None
        for topic in self._topics.values():
            if is_meant(topic.spec.name, changed.topic):
                self._lay(topic, changed)

    def _lay(self, topic: TopicHead, changed: Subscription) -> None:
        """Lay the way from one topic to one target as the subscriptions now have it."""
        kind, target = changed.kind, changed.target
        subscription = self._subscription(topic, kind, target)
        if subscription is None:
            topic.state.unsubscribe(changed)
            if kind == "queue":
                topic.heads.pop(target, None)
            elif target in topic.streams:
                topic.streams.remove(target)
            return
        fifo = kind == "queue" and self._heads[target].spec.fifo
        topic.state.subscribe(subscription, fifo=fifo, pending=self._confirmations.pending(subscription))
        if kind == "queue":
            topic.heads[target] = self._heads[target]
        elif target not in topic.streams:
            topic.streams.append(target)

    def _subscription(self, topic: TopicHead, kind: str, target: str) -> Subscription | None:
        """What a topic gives to a target: by the subscription that names it, else by the first pattern that means it.

        A FIFO queue takes no standard topic that a pattern names, and an endpoint no FIFO topic (SNS: T20): whoever
        declares that topic need not know of them.
        """
        name = topic.spec.name
        named = self._known.get((name, kind, target))
        if named is not None:
            # A topic that archives no more: what it has kept so far grows old.
            return None if target == archive_of(name) and not topic.spec.archive else named
        for pattern in self.patterns():
            if (pattern.kind, pattern.target) == (kind, target) and is_meant(name, pattern.topic):
                if kind == "queue" and self._heads[target].spec.fifo and not topic.spec.fifo:
                    return None
                if pattern.endpoint and topic.spec.fifo:
                    return None
                return replace(pattern, topic=name)
        return None


def _key(subscription: Subscription) -> tuple[str, str, str]:
    return subscription.topic, subscription.kind, subscription.target
