"""Everything that routers declare, checked as a whole: what the broker is told when the app opens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeflow.codecs import type_name
from pipeflow.errors import ConfigurationError
from pipeflow.names import is_meant, is_pattern, may_meet
from pipeflow.router import Router
from pipeflow.specs import DAY, QueueSpec, Subscription, Topology, archive_of, archive_queue, check_backups
from pipeflow.topic import Topic

if TYPE_CHECKING:
    from pipeflow.stream import Stream

DEAD_LETTER_RETENTION = 14 * DAY


def topology_of(routers: Sequence[Router]) -> Topology:
    """Every noun and subscription of these routers; ConfigurationError when they cannot be together."""
    _distinct("topic", (topic for router in routers for topic in router.topics))
    _distinct("stream", (stream for router in routers for stream in router.streams))
    _distinct_sources(routers)
    _distinct("queue", (each for router in routers for each in (*router.queues, *router.webhooks)))
    queues = {queue.name: queue.spec for router in routers for queue in router.queues}
    queues |= {webhook.name: webhook.spec for router in routers for webhook in router.webhooks}
    archived = [topic.spec for router in routers for topic in router.topics if topic.spec.archive]
    for topic in archived:
        if archive_of(topic.name) in queues:
            raise ConfigurationError(
                f"queue {archive_of(topic.name)} has the name of the archive of topic {topic.name}; choose another"
            )
    topology = Topology(
        topics=tuple(topic.spec for router in routers for topic in router.topics),
        queues=(*_with_dead_letters(queues), *map(archive_queue, archived)),
        streams=tuple(stream.spec for router in routers for stream in router.streams),
        subscriptions=(
            *(subscription for router in routers for subscription in router.subscriptions),
            *(Subscription(topic.name, "queue", archive_of(topic.name)) for topic in archived),
        ),
    )
    check_backups({stream.name: stream for stream in topology.streams})
    _check_origins(topology)
    _check_patterns(routers)
    _check_targets(routers)
    return topology


def _with_dead_letters(queues: Mapping[str, QueueSpec]) -> Iterator[QueueSpec]:
    """Every queue, and the dead letters that nobody declared."""
    made: set[str] = set()
    for spec in queues.values():
        yield spec
        name = spec.dead_letters
        if name is None or name in made:
            continue
        declared = queues.get(name)
        if declared is None:
            made.add(name)
            yield QueueSpec(
                name,
                fifo=spec.fifo,
                max_receives=None,
                retention=DEAD_LETTER_RETENTION,
                max_body=spec.max_body,
                holds_dead_letters=True,
            )
        elif declared.fifo != spec.fifo:
            raise ConfigurationError(
                f"queue {spec.name}: its dead letters {name} must be {'FIFO' if spec.fifo else 'standard'} like it "
                "(SQS: Q87); declare them with the same fifo="
            )


def _distinct(kind: str, nouns: Iterator[Any]) -> None:
    places: dict[str, str] = {}
    for noun in nouns:
        if noun.name in places:
            raise ConfigurationError(
                f"{kind} {noun.name} is declared at {places[noun.name]} and again at {noun.binding.place}; import the "
                "first one, or give one router a prefix"
            )
        places[noun.name] = noun.binding.place


def _distinct_sources(routers: Sequence[Router]) -> None:
    names: dict[str, str] = {}
    for outbox in (outbox for router in routers for outbox in router.outboxes):
        if outbox.name in names:
            raise ConfigurationError(
                f"{outbox.place}: outbox {outbox.name} is declared twice; the name tells outboxes apart, so give one "
                'another: app.outbox(path, name="...")'
            )
        names[outbox.name] = f"the outbox {outbox.path}"
    for source in (source for router in routers for source in router.sources):
        if source.name in names:
            raise ConfigurationError(
                f"source {source.name} is both {names[source.name]} and {source.function.name}; positions are kept by "
                'name, so give one another: @app.source(topic, name="...")'
            )
        names[source.name] = source.function.name


def _check_targets(routers: Sequence[Router]) -> None:
    own = {id(noun) for router in routers for nouns in (router.topics, router.streams) for noun in nouns}
    targets: list[tuple[str, Topic[Any] | Stream[Any]]] = [
        (f"the handler {queue.registration.function.name} emits to", queue.registration.emit)
        for router in routers
        for queue in router.queues
        if queue.registration is not None and queue.registration.emit is not None
    ]
    targets += [(f"source {source.name} feeds", source.target) for router in routers for source in router.sources]
    for who, target in targets:
        if id(target) not in own:
            raise ConfigurationError(
                f"{who} {target.binding.noun} ({target.binding.place}), which is on a router that this app does not "
                "include; add app.include(router)"
            )


def _check_origins(topology: Topology) -> None:
    topics = {topic.name: topic for topic in topology.topics}
    queues = {queue.name: queue for queue in topology.queues}
    taken: dict[tuple[str, str], dict[str, None]] = {}
    for subscription in topology.subscriptions:
        name, who = subscription.topic, f"{subscription.kind} {subscription.target}"
        before = taken.setdefault((subscription.kind, subscription.target), {})
        if name in before:
            raise ConfigurationError(f"{who} subscribes to {name} twice; write both as alternatives of one filter")
        if is_pattern(name):
            _check_pattern(who, name, before)
            sources = [topic for topic in topology.topics if is_meant(topic.name, name)]
        elif name in topics:
            sources = [topics[name]]
        else:
            raise ConfigurationError(
                f"{who} subscribes to topic {name}, which is on a router that this app does not include; add "
                "app.include(router)"
            )
        before[name] = None
        for topic in sources:
            if subscription.endpoint and topic.fifo:
                raise ConfigurationError(
                    f"webhook {subscription.target} subscribes to {name}, and topic {topic.name} is FIFO, and requests "
                    "keep no order; name fewer topics, or subscribe a FIFO queue and post from its handler (SNS: T20)"
                )
            if subscription.kind == "queue" and queues[subscription.target].fifo and not topic.fifo:
                raise ConfigurationError(
                    f"{who} is FIFO and topic {topic.name} is not: the order is lost before it comes in; declare the "
                    "topic with fifo=True, or the queue without"
                )


def _check_pattern(who: str, pattern: str, before: Iterable[str]) -> None:
    """Which of two filters holds must not be a question of which topics there are."""
    for other in before:
        if is_pattern(other) and may_meet(pattern, other):
            raise ConfigurationError(
                f"{who} subscribes to {other} and to {pattern}, and a topic may be named by both; give one of them a "
                "queue or stream of its own"
            )


def _check_patterns(routers: Sequence[Router]) -> None:
    topics = [topic for router in routers for topic in router.topics]
    for pattern in (pattern for router in routers for pattern in router.patterns):
        for topic in topics:
            misfit = pattern.misfit(topic)
            if misfit is not None:
                raise ConfigurationError(
                    f"{pattern.place}: topics {pattern.name} takes {type_name(pattern.type)}, and topic {topic.name} "
                    f"({topic.binding.place}) {misfit}; name fewer topics, or take a union of types, or bytes"
                )
