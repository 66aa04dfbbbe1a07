"""Subscriptions to every topic of a name, on every store: topics made before and after, filters, FIFO, replay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeflow.archives import ArchiveRequest
from pipeflow.errors import ConfigurationError, InvalidFilter
from pipeflow.filters import where
from pipeflow.messages import Outgoing
from pipeflow.specs import DAY, FilterPolicy, QueueSpec, StreamSpec, Subscription, TopicSpec, Topology, archive_queue
from pipeflow.stats import PatternStats
from pipeflow.webhooks import REPLAYED, TOPIC

if TYPE_CHECKING:
    from tests.conformance.conftest import Desk


def pattern(
    topics: str = "orders-*", target: str = "audit", policy: FilterPolicy | None = None, kind: str = "queue"
) -> Subscription:
    return Subscription(topics, kind, target, policy, named=kind == "queue")  # type: ignore[arg-type]  # a builder


async def audit(desk: Desk, *subscriptions: Subscription, fifo: bool = False) -> None:
    await desk.store.declare(
        Topology(queues=(QueueSpec("audit", fifo=fifo),), subscriptions=subscriptions or (pattern(),))
    )


async def topics(desk: Desk, *names: str, fifo: bool = False) -> None:
    await desk.store.declare(Topology(tuple(TopicSpec(name, fifo=fifo) for name in names)))


async def publish(desk: Desk, topic: str, body: str, **fields: object) -> None:
    await desk.store.publish(topic, [Outgoing(body.encode(), **fields)])  # type: ignore[arg-type]  # a builder


async def came(desk: Desk, queue: str = "audit") -> list[tuple[str, str | None]]:
    return [(each.body.decode(), each.headers.get(TOPIC)) for each in await desk.take(queue=queue)]


async def test_topics_made_before_and_after_feed_who_takes_all_of_their_name(desk: Desk) -> None:
    await topics(desk, "orders-eu", "returns-eu")
    await audit(desk)
    await topics(desk, "orders-us", "my-orders-us")
    for topic in ("orders-eu", "orders-us", "returns-eu", "my-orders-us"):
        await publish(desk, topic, topic)
    assert await came(desk) == [("orders-eu", "orders-eu"), ("orders-us", "orders-us")]


async def test_a_message_that_came_by_one_of_several_topics_says_which_also_when_it_is_a_dead_letter(
    desk: Desk,
) -> None:
    await topics(desk, "orders-eu")
    await desk.store.declare(
        Topology(queues=(QueueSpec("audit", max_receives=1, dead_letters="audit-dlq"),), subscriptions=(pattern(),))
    )
    await publish(desk, "orders-eu", "a", headers={"traceparent": "00-1"})
    await desk.one("audit", visibility_timeout=1)
    await desk.advance(2)
    assert await came(desk) == []
    dead = await desk.one("audit-dlq")
    assert (dead.headers[TOPIC], dead.headers["traceparent"]) == ("orders-eu", "00-1")


async def test_a_filter_holds_for_every_topic_of_the_name(desk: Desk) -> None:
    await audit(desk, pattern(policy=where(kind="placed")))
    await topics(desk, "orders-eu", "orders-us")
    for topic in ("orders-eu", "orders-us"):
        await publish(desk, topic, f"{topic} placed", attributes={"kind": "placed"})
        await publish(desk, topic, f"{topic} void", attributes={"kind": "void"})
    assert [body for body, _ in await came(desk)] == ["orders-eu placed", "orders-us placed"]


async def test_a_subscription_to_the_topic_itself_goes_before_one_to_its_name(desk: Desk) -> None:
    await topics(desk, "orders-eu", "orders-us")
    await audit(desk, pattern(), Subscription("orders-eu", "queue", "audit", where(kind="placed")))
    for topic in ("orders-eu", "orders-us"):
        await publish(desk, topic, topic)
    await publish(desk, "orders-eu", "placed", attributes={"kind": "placed"})
    assert [body for body, _ in await came(desk)] == ["orders-us", "placed"], "once each, by the one filter"


async def test_a_subscription_by_name_that_came_between_stays_and_its_pattern_goes_on_when_it_ends(desk: Desk) -> None:
    await topics(desk, "orders-eu", "orders-us")
    await audit(desk)
    await audit(desk, pattern(), Subscription("orders-eu", "queue", "audit", where(kind="placed")))
    await publish(desk, "orders-eu", "lost")
    await publish(desk, "orders-us", "us")
    assert [body for body, _ in await came(desk)] == ["us"]
    await audit(desk)
    await publish(desk, "orders-eu", "eu")
    assert [body for body, _ in await came(desk)] == ["eu"]


async def test_T20_a_fifo_queue_takes_the_fifo_topics_of_a_name_and_holds_up_no_standard_one(desk: Desk) -> None:
    await audit(desk, fifo=True)
    await topics(desk, "orders-standard")
    await topics(desk, "orders-fifo", fifo=True)
    await publish(desk, "orders-standard", "a")
    await publish(desk, "orders-fifo", "b", group="g")
    assert await came(desk) == [("b", "orders-fifo")]


async def test_T4_a_topic_that_is_deleted_and_made_again_is_taken_again(desk: Desk) -> None:
    await audit(desk)
    await topics(desk, "orders-eu")
    assert await desk.store.delete_topic("orders-eu")
    assert (await desk.store.describe()).subscriptions == (pattern(),)
    await topics(desk, "orders-eu")
    await publish(desk, "orders-eu", "a")
    assert await came(desk) == [("a", "orders-eu")]


async def test_a_target_that_is_declared_without_its_pattern_takes_nothing_more(desk: Desk) -> None:
    await topics(desk, "orders-eu")
    await audit(desk)
    await desk.store.declare(Topology(queues=(QueueSpec("audit"),)))
    await publish(desk, "orders-eu", "a")
    assert await came(desk) == []


async def test_a_queue_that_is_deleted_takes_nothing_more(desk: Desk) -> None:
    await audit(desk)
    await topics(desk, "orders-eu")
    await desk.store.delete_queue("audit")
    await topics(desk, "orders-us")
    await publish(desk, "orders-eu", "a")
    await publish(desk, "orders-us", "a")
    assert (await desk.store.describe()).subscriptions == ()


async def test_a_stream_takes_all_topics_of_a_name(desk: Desk) -> None:
    await topics(desk, "orders-eu")
    await desk.store.declare(
        Topology(streams=(StreamSpec("lake", "memory://"),), subscriptions=(pattern(target="lake", kind="stream"),))
    )
    await topics(desk, "orders-us")
    await publish(desk, "orders-eu", "a")
    await publish(desk, "orders-us", "b")
    assert next(each for each in (await desk.store.stats()).streams if each.name == "lake").accepted == 2


async def test_T75_an_archive_is_replayed_to_who_takes_all_topics_of_a_name(desk: Desk) -> None:
    topic = TopicSpec("orders-eu", archive=DAY)
    await desk.store.declare(
        Topology(
            (topic,), (archive_queue(topic),), subscriptions=(Subscription("orders-eu", "queue", "orders-eu-archive"),)
        )
    )
    await publish(desk, "orders-eu", "before")
    await audit(desk)
    await publish(desk, "orders-eu", "after")
    (delivery,) = await desk.take(queue="audit")
    await desk.ack(delivery, queue="audit")
    report = await desk.store.archived(ArchiveRequest("orders-eu", "audit"))
    assert report.sent == 2
    again = await desk.take(queue="audit")
    assert [(each.body, each.headers[TOPIC], REPLAYED in each.headers) for each in again] == [
        (b"before", "orders-eu", True),
        (b"after", "orders-eu", True),
    ]


async def test_the_counts_say_who_takes_what(desk: Desk) -> None:
    await audit(desk)
    await topics(desk, "orders-eu", "returns")
    stats = await desk.store.stats()
    assert stats.patterns == [PatternStats("orders-*", "queue:audit")]
    assert {topic.name: topic.subscriptions for topic in stats.topics} == {"orders-eu": ["queue:audit"], "returns": []}


async def test_a_pattern_with_a_bad_filter_or_no_target_is_refused(desk: Desk) -> None:
    with pytest.raises(InvalidFilter):
        await audit(desk, pattern(policy=FilterPolicy("{")))
    with pytest.raises(ConfigurationError, match=r"orders-\*: there is no queue audit"):
        await desk.store.declare(Topology(subscriptions=(pattern(),)))
    assert (await desk.store.describe()).queues == ()
