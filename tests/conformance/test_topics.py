"""What every broker does with topics and emits (SNS: T20, T28-T30, T49-T52, T69-T72, T80)."""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from pipeflow.errors import ConfigurationError, InvalidFilter, SpecConflict
from pipeflow.filters import where, where_body
from pipeflow.messages import Ack, Emit, Manifest, ObjectFacts, Outgoing, Refused, Sent, Settled, Stale
from pipeflow.specs import FilterPolicy, QueueSpec, StreamSpec, Subscription, TopicSpec, Topology

if TYPE_CHECKING:
    from tests.conformance.conftest import Desk


async def test_T29_every_subscription_has_its_own_copy(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("a"), QueueSpec("b"))
    await desk.publish("x" * 1000)
    first = await desk.one("a")
    await desk.ack(first, queue="a")
    assert await desk.bodies(queue="b") == ["x" * 1000]
    topic = (await desk.store.stats()).topics[0]
    assert (topic.published, topic.delivered) == (1, 2)


async def test_T29_a_subscription_made_later_does_not_see_earlier_publishes(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("a"))
    await desk.publish("early")
    await desk.fan_out(QueueSpec("a"), QueueSpec("b"))
    await desk.publish("late")
    assert await desk.bodies(queue="a") == ["early", "late"]
    assert await desk.bodies(queue="b") == ["late"]


async def test_a_subscription_that_is_no_longer_declared_by_its_queue_ends(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("a"), QueueSpec("b"))
    await desk.store.declare(Topology(queues=(QueueSpec("a"),)))
    await desk.publish("x")
    assert await desk.bodies(queue="a") == []
    assert await desk.bodies(queue="b") == ["x"]


async def test_T14_a_subscription_of_a_queue_that_is_not_there_is_refused_and_changes_nothing(desk: Desk) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        await desk.store.declare(
            Topology(topics=(TopicSpec("t"),), subscriptions=(Subscription("t", "queue", "nowhere"),))
        )
    assert (await desk.store.describe()).topics == ()


async def test_a_bad_policy_is_refused_and_changes_nothing(desk: Desk) -> None:
    with pytest.raises(InvalidFilter):
        await desk.fan_out(QueueSpec("a"), a=FilterPolicy('{"a": 1}'))
    described = await desk.store.describe()
    assert described.topics == ()
    assert described.queues == ()


async def test_T20_a_fifo_queue_cannot_subscribe_to_a_standard_topic(desk: Desk) -> None:
    with pytest.raises(ConfigurationError, match="FIFO"):
        await desk.fan_out(QueueSpec("a", fifo=True))


async def test_T49_a_filter_lets_through_what_matches(desk: Desk) -> None:
    await desk.fan_out(
        QueueSpec("all"),
        QueueSpec("placed"),
        QueueSpec("late"),
        placed=where(kind="placed"),
        late=where_body({"delay": [{"numeric": [">=", 60]}]}),
    )
    await desk.publish('{"delay": 75}', {"kind": "placed"})
    await desk.publish('{"delay": "NA"}', {"kind": "placed"})
    await desk.publish("no json")
    assert len(await desk.bodies(queue="all")) == 3
    assert len(await desk.bodies(queue="placed")) == 2
    assert await desk.bodies(queue="late") == ['{"delay": 75}']
    stats = await desk.stats("late")
    assert (stats.sent, stats.dead, stats.buried) == (1, 0, 0)


async def test_T80_a_topic_without_subscribers_accepts_and_returns_ids(desk: Desk) -> None:
    await desk.fan_out()
    sent = await desk.publish("x")
    assert isinstance(sent, Sent)
    assert sent.id
    assert (await desk.store.stats()).topics[0].published == 1


async def test_T52_raw_delivery_is_the_body_with_its_attributes_under_the_id_of_the_publish(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("a"))
    attributes = {"s": "x", "n": 1.5, "b": b"\xff"}
    sent = await desk.publish("text", attributes)  # type: ignore[arg-type]  # every kind
    delivery = await desk.one("a")
    assert isinstance(sent, Sent)
    assert delivery.id == sent.id
    assert delivery.body == b"text"
    assert delivery.attributes == attributes


async def test_T50_T58_enveloped_delivery_renders_the_envelope_of_the_publish_and_sets_no_attributes(
    desk: Desk,
) -> None:
    await desk.fan_out(QueueSpec("a", max_receives=None), raw=False)
    sent = await desk.publish("text", {"kind": "x"}, headers={"subject": "hello"})
    assert isinstance(sent, Sent)
    published_at = "1970-01-12T13:46:40.000Z"
    bodies = []
    for _ in range(2):
        delivery = await desk.one("a", visibility_timeout=0)
        bodies.append(delivery.body)
        assert delivery.attributes == {}
        await desk.advance(60)
    envelope = json.loads(bodies[0])
    assert list(envelope) == ["Type", "MessageId", "TopicArn", "Subject", "Message", "Timestamp", "MessageAttributes"]
    assert envelope["MessageId"] == sent.id
    assert envelope["Message"] == "text"
    assert envelope["Subject"] == "hello"
    assert envelope["TopicArn"].endswith(":t")
    assert envelope["Timestamp"] == published_at
    assert envelope["MessageAttributes"] == {"kind": {"Type": "String", "Value": "x"}}
    assert bodies[0] == bodies[1], "retries keep id and time (T58)"


async def test_T51_T72_a_fifo_envelope_carries_its_sequence(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("a"), fifo=True, raw=False)
    await desk.publish("x", group="g", dedup_id="1")
    second = await desk.publish("y", group="g", dedup_id="2")
    assert isinstance(second, Sent)
    envelopes = [json.loads(body) for body in await desk.bodies(queue="a")]
    assert envelopes[1]["SequenceNumber"] == f"{second.sequence:020d}"
    assert len(envelopes[0]["SequenceNumber"]) == 20
    assert envelopes[0]["SequenceNumber"] < envelopes[1]["SequenceNumber"]
    assert envelopes[0]["TopicArn"].endswith(":t.fifo")
    assert "Signature" not in envelopes[0]


async def test_T28_the_group_of_a_publish_to_a_standard_topic_goes_to_standard_queues(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("a"))
    await desk.publish("x", group="tenant")
    assert (await desk.one("a")).group == "tenant"


async def test_a_standard_topic_deduplicates_for_five_minutes_and_keeps_the_id_to_itself(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("a"), QueueSpec("b"))
    first = await desk.publish("x", dedup_id="1")
    assert isinstance(first, Sent)
    assert await desk.publish("y", dedup_id="1") == Sent(first.id, 0, duplicate=True)
    for queue in "ab":
        (delivery,) = await desk.take(queue=queue)
        assert (delivery.body, delivery.dedup_id) == (b"x", None)
        await desk.ack(delivery, queue=queue)
    await desk.advance(299.9)
    assert await desk.publish("y", dedup_id="1") == Sent(first.id, 0, duplicate=True)
    await desk.advance(0.1)
    later = await desk.publish("z", dedup_id="1")
    assert isinstance(later, Sent)
    assert not later.duplicate
    assert await desk.bodies(queue="b") == ["z"]
    assert isinstance(await desk.publish("x", dedup_id="a b"), Refused)


async def test_T30_T71_a_fifo_topic_keeps_the_order_of_each_group_in_each_queue(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("f", fifo=True), QueueSpec("s"), fifo=True)
    for n in range(6):
        await desk.publish(str(n), group="ab"[n % 2], dedup_id=str(n))
    taken = []
    while more := await desk.take(queue="f"):
        taken += more
        await desk.ack(*more, queue="f")
    assert [delivery.body.decode() for delivery in taken if delivery.group == "a"] == ["0", "2", "4"]
    assert [delivery.body.decode() for delivery in taken if delivery.group == "b"] == ["1", "3", "5"]
    assert [delivery.dedup_id for delivery in taken if delivery.group == "a"] == ["0", "2", "4"]
    plain = await desk.take(queue="s")
    assert [delivery.body.decode() for delivery in plain] == list("012345")
    assert {(delivery.group, delivery.dedup_id) for delivery in plain} == {(None, None)}


async def test_T69_a_fifo_topic_needs_a_group(desk: Desk) -> None:
    await desk.fan_out(fifo=True)
    assert isinstance(await desk.publish("x", dedup_id="1"), Refused)
    assert isinstance(await desk.publish("x", group="a b", dedup_id="1"), Refused)
    assert isinstance(await desk.publish("x", group="g", dedup_id="1"), Sent)


async def test_T70_a_duplicate_publish_answers_with_the_original_and_delivers_nothing(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("f", fifo=True), QueueSpec("s"), fifo=True)
    first = await desk.publish("x", group="g", dedup_id="1")
    assert isinstance(first, Sent)
    for passed in (0, 299):
        await desk.advance(passed)
        again = await desk.publish("y", group="g", dedup_id="1")
        assert isinstance(again, Sent)
        assert (again.id, again.sequence, again.duplicate) == (first.id, first.sequence, True)
    await desk.advance(1)
    later = await desk.publish("z", group="g", dedup_id="1")
    assert isinstance(later, Sent)
    assert not later.duplicate
    assert await desk.bodies(queue="f") == ["x", "z"]
    assert await desk.bodies(queue="s") == ["x", "z"]


async def test_T70_a_topic_that_deduplicates_by_group_takes_one_id_once_in_each_group(desk: Desk) -> None:
    topic = TopicSpec("t", fifo=True, dedup_scope="group")
    subscriptions = (Subscription("t", "queue", "f"), Subscription("t", "queue", "s"))
    ledger = QueueSpec("f", fifo=True, dedup_scope="group")
    await desk.store.declare(Topology((topic,), (ledger, QueueSpec("s")), subscriptions=subscriptions))
    for body, group in (("x", "g"), ("y", "h"), ("z", "g")):
        sent = await desk.publish(body, group=group, dedup_id="1")
        assert isinstance(sent, Sent)
        assert sent.duplicate is (body == "z")
    assert sorted(await desk.bodies(queue="f")) == ["x", "y"]
    assert await desk.bodies(queue="s") == ["x", "y"]


async def test_T70_a_fifo_queue_that_would_take_for_duplicates_what_its_topic_does_not_is_refused(desk: Desk) -> None:
    topic = TopicSpec("t", fifo=True, dedup_scope="group")
    with pytest.raises(ConfigurationError, match='declare the queue with dedup_scope="group", too'):
        await desk.store.declare(
            Topology((topic,), (QueueSpec("f", fifo=True),), subscriptions=(Subscription("t", "queue", "f"),))
        )
    assert (await desk.store.describe()).topics == ()
    await desk.fan_out(fifo=True)
    with pytest.raises(SpecConflict, match="dedup_scope: 'topic' in the store, 'group' in the code"):
        await desk.store.declare(Topology((topic,)))


async def test_T70_T71_content_deduplication_of_a_topic_hands_its_hash_to_fifo_queues(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("f", fifo=True), fifo=True, content_dedup=True)
    await desk.publish("x", group="g")
    again = await desk.publish("x", {"other": 1}, group="g")
    assert isinstance(again, Sent)
    assert again.duplicate
    assert (await desk.one("f")).dedup_id == sha256(b"x").hexdigest()


async def test_T60_a_delivery_to_a_queue_is_part_of_the_publish_that_all_targets_take_or_none(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("big"), QueueSpec("small", max_body=10))
    refused = await desk.publish("x" * 100)
    assert isinstance(refused, Refused)
    assert "small" in refused.reason
    assert await desk.bodies(queue="big") == []
    topic = (await desk.store.stats()).topics[0]
    assert (topic.published, topic.delivered) == (0, 0)
    assert isinstance(await desk.publish("x"), Sent)
    assert await desk.bodies(queue="big") == await desk.bodies(queue="small") == ["x"]


async def test_T60_a_refused_message_of_a_batch_is_taken_by_no_target_and_keeps_out_no_other(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("big"), QueueSpec("small", max_body=10))
    answers = await desk.store.publish("t", [Outgoing(b"a"), Outgoing(b"x" * 100), Outgoing(b"b")])
    assert [isinstance(answer, Sent) for answer in answers] == [True, False, True]
    assert await desk.bodies(queue="big") == await desk.bodies(queue="small") == ["a", "b"]


async def test_a_publish_waits_for_a_stream_that_is_full_and_reaches_nobody_meanwhile(desk: Desk) -> None:
    lake = StreamSpec("lake", "memory://lake", buffer_bytes=10, max_buffered=10, delimiter=b"")
    subscriptions = (Subscription("t", "queue", "a"), Subscription("t", "stream", "lake"))
    await desk.store.declare(Topology((TopicSpec("t"),), (QueueSpec("a"),), (lake,), subscriptions))
    await desk.publish("x" * 10)
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(desk.publish("y"))
        await desk.clock.settle()
        assert not waiting.done()
        assert await desk.bodies(queue="a") == ["x" * 10]
        segment = await desk.store.seal("lake")
        assert segment is not None
        await desk.store.commit(segment, Manifest([ObjectFacts(segment.name, 10, 1, segment.records)]))
        assert isinstance(await waiting, Sent)
    assert await desk.bodies(queue="a") == ["y"]


async def test_what_a_settlement_emits_commits_with_its_acknowledgement(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("a"))
    await desk.queue()
    await desk.queue("other")
    await desk.send("x", "y")
    delivery, late = await desk.take()
    emits = [Emit("topic", "t", Outgoing(b"to topic")), Emit("queue", "other", Outgoing(b"to queue"))]
    assert await desk.settle(Ack(delivery.receipt, emits)) == [Settled()]
    assert await desk.bodies(queue="a") == ["to topic"]
    assert await desk.bodies(queue="other") == ["to queue"]
    stale = await desk.settle(Ack(delivery.receipt, emits))
    assert isinstance(stale[0], Stale)
    assert await desk.bodies(queue="a") == [], "a stale acknowledgement emits nothing"
    bad = await desk.settle(Ack(late.receipt, [emits[1], Emit("queue", "nowhere", Outgoing(b""))]))
    assert isinstance(bad[0], Refused)
    assert await desk.bodies(queue="other") == [], "nothing of a refused settlement is done"
    await desk.ack(late)


async def test_positions_of_sources_commit_with_what_they_belong_to(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("a"))
    assert await desk.store.position("s") is None
    await desk.publish("x", checkpoint=("s", b"1"))
    assert await desk.store.position("s") == b"1"
    refused = await desk.publish("x", group="a b", checkpoint=("s", b"2"))
    assert isinstance(refused, Refused)
    assert await desk.store.position("s") == b"1"


async def test_Q71_a_duplicate_on_a_standard_topic_is_answered_as_its_original_was(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("a"))
    first = await desk.publish("x", dedup_id="once")
    again = await desk.publish("y", dedup_id="once")
    assert isinstance(first, Sent)
    assert again == Sent(first.id, first.sequence, duplicate=True)
    assert await desk.bodies(queue="a") == ["x"]
