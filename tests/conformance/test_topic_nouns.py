"""Topics as nouns: made again, deleted, with one text per protocol (SNS: T3, T4, T6, T10, T17, T25, T48, T56, T77)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from pipeflow.archives import ArchiveRequest
from pipeflow.errors import NotFound, RefusedError, SpecConflict
from pipeflow.filters import where_body
from pipeflow.messages import Outgoing, Refused, Sent
from pipeflow.specs import DAY, FilterPolicy, QueueSpec, StreamSpec, Subscription, TopicSpec, Topology, archive_queue
from pipeflow.webhooks import TEXTS, TOKEN

if TYPE_CHECKING:
    from tests.conformance.conftest import Desk


def texts(**texts: str) -> dict[str, str]:
    return {TEXTS: msgspec.json.encode(texts).decode()}


async def test_T3_a_topic_made_again_is_the_same_and_its_kind_is_never_changed(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("q"))
    await desk.publish("a")
    await desk.fan_out(QueueSpec("q"))
    await desk.publish("b")
    assert await desk.bodies() == ["a", "b"]
    assert (await desk.store.stats()).topics[0].published == 2
    with pytest.raises(SpecConflict, match="topic t cannot be changed in place"):
        await desk.store.declare(Topology(topics=(TopicSpec("t", fifo=True),)))


async def test_T4_deleting_a_topic_deletes_its_subscriptions_and_leaves_what_was_delivered(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("q"))
    await desk.publish("a")
    assert await desk.store.delete_topic("t")
    assert not await desk.store.delete_topic("t"), "one that is not there is no error"
    topology = await desk.store.describe()
    assert (topology.topics, topology.subscriptions) == ((), ())
    with pytest.raises(NotFound):
        await desk.publish("b")
    assert await desk.bodies() == ["a"]
    await desk.store.declare(Topology(topics=(TopicSpec("t"),)))
    assert isinstance(await desk.publish("c"), Sent)
    assert await desk.bodies() == []


async def test_T4_what_the_archive_of_a_deleted_topic_keeps_goes_with_it(desk: Desk) -> None:
    archived = TopicSpec("t", archive=DAY)
    kept = Topology(
        (archived,),
        (QueueSpec("q"), archive_queue(archived)),
        subscriptions=(Subscription("t", "queue", "q"), Subscription("t", "queue", "t-archive")),
    )
    await desk.store.declare(kept)
    await desk.publish("old")
    again = ArchiveRequest("t", "q", name="all")
    assert (await desk.store.archived(again)).sent == 1
    await desk.store.declare(Topology((TopicSpec("t"),)))
    await desk.store.delete_topic("t")
    assert "t-archive" not in [queue.name for queue in (await desk.store.describe()).queues]
    await desk.store.declare(kept)
    await desk.publish("new")
    assert await desk.bodies() == ["old", "old", "new"]
    assert (await desk.store.archived(again)).sent == 1, "another topic of its name begins with nothing"
    assert await desk.bodies() == ["new"]


async def test_T4_T11_who_confirmed_a_topic_or_queue_that_is_deleted_is_asked_anew_by_another(desk: Desk) -> None:
    hook = Topology(
        (TopicSpec("t"),),
        (QueueSpec("hook"),),
        subscriptions=(Subscription("t", "queue", "hook", endpoint="https://example.org/in", handshake=True),),
    )

    async def state() -> list[str]:
        await desk.store.declare(hook)
        return [each.state for each in await desk.store.webhooks()]

    assert await state() == ["pending"]
    await desk.store.confirm("t", (await desk.take(queue="hook"))[0].headers[TOKEN])
    assert await state() == ["confirmed"]
    await desk.store.delete_topic("t")
    assert await state() == ["pending"]
    await desk.publish("not for it")
    (asked,) = await desk.take(queue="hook")
    await desk.store.confirm("t", asked.headers[TOKEN])
    await desk.store.delete_queue("hook")
    assert await state() == ["pending"]


async def test_T74_a_topic_that_archives_is_not_deleted(desk: Desk) -> None:
    topic = TopicSpec("t", archive=DAY)
    await desk.store.declare(
        Topology((topic,), (archive_queue(topic),), subscriptions=(Subscription("t", "queue", "t-archive"),))
    )
    with pytest.raises(RefusedError, match="keeps an archive"):
        await desk.store.delete_topic("t")
    await desk.store.declare(Topology((TopicSpec("t"),)))
    assert await desk.store.delete_topic("t")


async def test_T10_T11_queues_and_streams_get_what_is_published_at_once(desk: Desk) -> None:
    await desk.store.declare(
        Topology(
            (TopicSpec("t"),),
            (QueueSpec("q"),),
            (StreamSpec("s", "memory://s"),),
            (Subscription("t", "queue", "q"), Subscription("t", "stream", "s")),
        )
    )
    await desk.publish("a")
    assert await desk.bodies() == ["a"]
    assert (await desk.store.stats()).streams[0].accepted == 1


async def test_T17_an_empty_policy_takes_everything_of_either_scope(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("a"), QueueSpec("b"), a=FilterPolicy("{}", "attributes"), b=FilterPolicy("{}", "body"))
    await desk.publish("no json")
    await desk.publish('{"x": 1}', {"kind": "k"})
    assert await desk.bodies(queue="a") == ["no json", '{"x": 1}']
    assert await desk.bodies(queue="b") == ["no json", '{"x": 1}']


async def test_T25_a_publish_says_something_else_to_the_protocols_it_names(desk: Desk) -> None:
    await desk.store.declare(
        Topology(
            (TopicSpec("t"),),
            (QueueSpec("q"), QueueSpec("hook")),
            (StreamSpec("s", "memory://s", format="raw"),),
            (
                Subscription("t", "queue", "q"),
                Subscription("t", "queue", "hook", endpoint="https://example.org/in"),
                Subscription("t", "stream", "s"),
            ),
        )
    )
    body = "default" * 100
    await desk.publish(body, headers=texts(webhook="ü" * 10, stream="s"))
    (plain,), (hook,) = await desk.take(), await desk.take(queue="hook")
    assert plain.body == body.encode()
    assert hook.body == ("ü" * 10).encode("latin-1")
    assert TEXTS not in plain.headers
    assert TEXTS not in hook.headers
    assert (await desk.store.stats()).streams[0].buffered_bytes == 1


async def test_T25_a_text_that_is_too_large_for_its_target_refuses_the_publish(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("q", max_body=10))
    answer = await desk.publish("small", headers=texts(queue="x" * 11))
    assert isinstance(answer, Refused)
    assert isinstance(await desk.publish("x" * 11, headers=texts(queue="small")), Sent)
    await desk.fan_out(QueueSpec("q", max_body=64 << 20))
    answer = await desk.publish("small", headers=texts(queue="x" * ((16 << 20) + 1)))
    assert isinstance(answer, Refused)
    assert "at most 16777216 bytes" in answer.reason


async def test_T48_a_filter_on_bodies_looks_at_the_text_its_subscriber_gets(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("q"), q=where_body({"kind": ["placed"]}))
    await desk.publish('{"kind": "void"}', headers=texts(queue='{"kind": "placed"}'))
    await desk.publish('{"kind": "placed"}', headers=texts(queue='{"kind": "void"}'))
    await desk.publish('{"kind": "placed", "n": 3}', headers=texts(webhook="{}"))
    assert await desk.bodies() == ['{"kind": "placed"}', '{"kind": "placed", "n": 3}']


async def test_T56_a_stream_takes_the_envelope_or_the_message_alone(desk: Desk) -> None:
    await desk.store.declare(
        Topology(
            topics=(TopicSpec("t"),),
            streams=(StreamSpec("raw", "memory://r", format="raw"), StreamSpec("whole", "memory://w", buffer_bytes=1)),
            subscriptions=(Subscription("t", "stream", "raw"), Subscription("t", "stream", "whole", raw=False)),
        )
    )
    sent = await desk.publish("hello", {"kind": "placed"})
    assert isinstance(sent, Sent)
    segment = await desk.store.seal("whole")
    assert segment is not None
    (record,) = [body async for records in desk.store.read(segment) for body in records.bodies]
    said = json.loads(record)
    assert list(said) == ["Type", "MessageId", "TopicArn", "Message", "Timestamp", "MessageAttributes"]
    assert (said["Message"], said["MessageId"]) == ("hello", sent.id)
    assert next(each for each in (await desk.store.stats()).streams if each.name == "raw").buffered_bytes == 5


async def test_T77_tags_are_kept_with_the_topic_and_shown(desk: Desk) -> None:
    await desk.store.declare(Topology((TopicSpec("t", tags={"team": "shop"}),)))
    assert (await desk.store.describe()).topics[0].tags == {"team": "shop"}
    assert (await desk.store.stats()).topics[0].tags == {"team": "shop"}
    await desk.store.declare(Topology((TopicSpec("t", tags={}),)))
    assert (await desk.store.describe()).topics[0].tags == {}


async def test_T6_a_topic_says_who_has_not_confirmed_and_what_its_archive_holds_since_when(desk: Desk) -> None:
    topic = TopicSpec("t", archive=DAY)
    await desk.store.declare(
        Topology(
            (topic, TopicSpec("plain")),
            (QueueSpec("q"), QueueSpec("hook"), archive_queue(topic)),
            subscriptions=(
                Subscription("t", "queue", "q"),
                Subscription("t", "queue", "hook", endpoint="https://example.org", handshake=True),
                Subscription("t", "queue", "t-archive"),
            ),
        )
    )
    stats = (await desk.store.stats()).topics[0]
    assert (stats.pending, stats.archived, stats.archived_since) == (["queue:hook"], 0, None)
    await desk.advance(10)
    began = desk.clock.now()
    await desk.publish("a")
    await desk.advance(10)
    await desk.publish("b")
    first, plain = (await desk.store.stats()).topics
    assert (first.published, first.delivered, first.archived, first.archived_since) == (2, 4, 2, began)
    assert (plain.pending, plain.archived, plain.archived_since) == ([], 0, None)


async def test_T29_a_publish_with_texts_is_archived_whole_and_replayed_to_each_in_its_own(desk: Desk) -> None:
    topic = TopicSpec("t", archive=DAY)
    await desk.store.declare(
        Topology(
            (topic,),
            (QueueSpec("q"), archive_queue(topic)),
            subscriptions=(Subscription("t", "queue", "q"), Subscription("t", "queue", "t-archive")),
        )
    )

    await desk.store.publish("t", [Outgoing(b"default", headers=texts(queue="own"))])
    assert await desk.bodies() == ["own"]
    await desk.store.archived(ArchiveRequest("t", "q"))
    assert await desk.bodies() == ["own"]


async def test_T5_T78_a_topic_that_is_not_there_is_not_found_by_a_batch_either(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("q"))
    with pytest.raises(NotFound, match="there is no topic tt; did you mean t"):
        await desk.store.publish("tt", [Outgoing(b"a"), Outgoing(b"b")])
    with pytest.raises(NotFound):
        await desk.store.confirm("tt", "token")


async def test_T22_a_publish_answers_with_an_id_and_on_fifo_topics_with_a_sequence(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("q", fifo=True), fifo=True)
    first, second = await desk.publish("a", group="g"), await desk.publish("b", group="g")
    assert isinstance(first, Sent)
    assert isinstance(second, Sent)
    assert len({first.id, second.id}) == 2
    assert 0 < first.sequence < second.sequence
    await desk.store.declare(Topology((TopicSpec("plain"),)))
    (plain,) = await desk.store.publish("plain", [Outgoing(b"a")])
    assert isinstance(plain, Sent)
    assert (bool(plain.id), plain.sequence) == (True, 0)
