"""What a program asks for and its store cannot do: said by name before anything runs, not at the first message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeflow.errors import FeatureMissing
from pipeflow.protocols import Features
from pipeflow.router import Router

__all__ = ["check_features", "missing"]


def check_features(routers: Sequence[Router], features: Features, url: str) -> None:
    """FeatureMissing with everything declared that this store cannot do: the thing, its place, the remedy."""
    found = list(missing(routers, features))
    if found:
        raise FeatureMissing(f"the store {url} cannot do what is declared: {'; '.join(found)}; or use another store")


def missing(routers: Sequence[Router], features: Features) -> Iterator[str]:
    """One line for each option that the store has nothing for."""
    for router in routers:
        for noun, place, lacks in _asked(router, features):
            for what, remedy in lacks:
                yield f"{noun} ({place}): {what}: {remedy}" if place else f"{noun}: {what}: {remedy}"


def _asked(router: Router, has: Features) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """(noun, place, [(what it asks for in vain, remedy)]) of everything one router declares."""
    for topic in router.topics:
        of_topic = topic.spec
        yield (
            topic.binding.noun,
            topic.binding.place,
            _lacks(
                (of_topic.fifo and not has.fifo, "fifo=True, and there is no order in groups", "leave fifo off"),
                (of_topic.content_dedup and not has.dedup, "content_dedup=True finds no duplicates", "leave it off"),
                (of_topic.archive and not has.archives, "archive= keeps nothing", "leave it off"),
            ),
        )
    for queue in router.queues:
        of_queue = queue.spec
        rate = of_queue.max_per_second
        yield (
            queue.binding.noun,
            queue.binding.place,
            _lacks(
                (of_queue.fifo and not has.fifo, "fifo=True, and there is no order in groups", "leave fifo off"),
                (of_queue.content_dedup and not has.dedup, "content_dedup=True finds no duplicates", "leave it off"),
                (rate is not None and not has.rates, f"max_per_second={rate} bounds nothing", "leave it off"),
                (
                    of_queue.delay > has.max_delay,
                    f"delay={of_queue.delay:g} is longer than messages can be delayed",
                    f"use at most {has.max_delay:g} s",
                ),
            ),
        )
    for stream in router.streams:
        yield (
            stream.binding.noun,
            stream.binding.place,
            _lacks(
                (not has.record_log, "there is no log for its records", "declare it on an app of its own"),
            ),
        )
    for webhook in router.webhooks:
        handshake = any(each.handshake for each in router.subscriptions if each.target == webhook.name)
        yield (
            webhook.binding.noun,
            webhook.binding.place,
            _lacks(
                (handshake and not has.admin, "handshake=True can never be confirmed", "use handshake=False"),
            ),
        )
    positions = (not has.checkpoints, "positions are not committed with messages", "run it beside another store")
    for source in router.sources:
        yield f"source {source.function.name}", "", _lacks(positions)
    for outbox in router.outboxes:
        yield f"outbox {outbox.path}", outbox.place, _lacks(positions)


def _lacks(*asked: tuple[object, str, str]) -> list[tuple[str, str]]:
    return [(what, remedy) for in_vain, what, remedy in asked if in_vain]
