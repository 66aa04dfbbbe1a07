"""What a topic published is kept and delivered again, to one subscriber (SNS: T74-T76)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from pipeflow import App, ConfigurationError, RefusedError, num
from pipeflow.archives import ArchiveReport, ArchiveRequest
from pipeflow.clock import VirtualClock
from pipeflow.embedded import archive as archives
from pipeflow.engine.archives import through
from pipeflow.errors import NotFound
from pipeflow.messages import Ack, Delivery, Outgoing, Want
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.specs import DAY, FilterPolicy, QueueSpec, StreamSpec, Subscription, TopicSpec, Topology, archive_queue
from pipeflow.testing import harness
from pipeflow.webhooks import TEXTS, TOKEN

START = 1_900_000_000.0


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/a.db"


@asynccontextmanager
async def archive(
    url: str, *, fifo: bool = False, raw: bool = True, days: float = 10, filter: FilterPolicy | None = None
) -> AsyncIterator[tuple[Store, VirtualClock]]:
    """A topic "t" with an archive and the queues "q" and "other"."""
    clock = VirtualClock(START)
    store = await open_store(url, clock=clock)
    await store.declare(topology(fifo=fifo, raw=raw, days=days, filter=filter))
    try:
        yield store, clock
    finally:
        await store.close()


def topology(
    *, fifo: bool = False, raw: bool = True, days: float = 10, filter: FilterPolicy | None = None, late: bool = False
) -> Topology:
    topic = TopicSpec("t", fifo=fifo, archive=days * DAY)
    names = ("q", "other", "late") if late else ("q", "other")
    return Topology(
        topics=(topic,),
        queues=(*(QueueSpec(name, fifo=fifo) for name in names), archive_queue(topic)),
        subscriptions=(
            *(Subscription("t", "queue", name, filter if name == "q" else None, raw) for name in names),
            Subscription("t", "queue", "t-archive"),
        ),
    )


async def publish(store: Store, *bodies: str, **fields: Any) -> None:
    await store.publish("t", [Outgoing(body.encode(), **fields) for body in bodies])


async def drain(store: Store, queue: str = "q") -> list[Delivery]:
    taken: list[Delivery] = []
    while more := await store.receive(queue, Want(limit=1000)):
        await store.settle(queue, [Ack(each.receipt) for each in more])
        taken += more
    return taken


async def replay(store: Store, clock: VirtualClock, to: str = "q", **options: Any) -> tuple[int, int]:
    report = await through(ArchiveRequest("t", to, **options), store, clock)
    assert report.done
    return report.examined, report.sent


async def test_T75_a_replay_delivers_what_was_published_again_and_to_nobody_else(url: str) -> None:
    async with archive(url) as (store, clock):
        await publish(store, "a", "b", attributes={"kind": "placed"})
        first = await drain(store)
        await drain(store, "other")
        await clock.advance(3600)
        assert await replay(store, clock) == (2, 2)
        again = await drain(store)
        assert [(each.id, each.body, each.attributes, each.sent_at) for each in again] == [
            (each.id, each.body, each.attributes, each.sent_at) for each in first
        ]
        assert [each.attempt for each in again] == [1, 1]
        assert {each.headers["pipeflow-replayed"] for each in again} == {"1"}
        assert "pipeflow-replayed" not in first[0].headers
        assert await drain(store, "other") == []


async def test_T75_a_replay_goes_from_a_time_until_another(url: str) -> None:
    async with archive(url) as (store, clock):
        for body in "abcde":
            await publish(store, body)
            await clock.advance(100)
        await drain(store)
        assert (await replay(store, clock, since=START + 100, until=START + 300))[1] == 2
        assert [each.body for each in await drain(store)] == [b"b", b"c"]
        assert (await replay(store, clock, since=START + 350, name="end"))[1] == 1
        assert [each.body for each in await drain(store)] == [b"e"]


async def test_T75_a_replay_honours_the_filter_of_its_subscriber(url: str) -> None:
    async with archive(url, filter=FilterPolicy('{"kind": ["placed"]}')) as (store, clock):
        await publish(store, "a", attributes={"kind": "placed"})
        await publish(store, "b", attributes={"kind": "void"})
        await drain(store)
        assert await replay(store, clock) == (2, 1)
        assert [each.body for each in await drain(store)] == [b"a"]


async def test_T75_an_envelope_says_that_it_is_a_replay_and_keeps_id_and_time(url: str) -> None:
    async with archive(url, raw=False) as (store, clock):
        await publish(store, "a")
        (first,) = await drain(store)
        await clock.advance(60)
        await replay(store, clock)
        (again,) = await drain(store)
        marked = json.loads(again.body)
        assert marked.pop("Replayed") is True
        assert marked == json.loads(first.body)


async def test_T75_a_fifo_replay_keeps_the_order_of_groups_and_the_sequence(url: str) -> None:
    async with archive(url, fifo=True, raw=False) as (store, clock):
        for n in range(6):
            await publish(store, str(n), group="ab"[n % 2], dedup_id=str(n))
        first = [json.loads(each.body) for each in await drain(store)]
        await clock.advance(1)
        await replay(store, clock)
        again = [json.loads(each.body) for each in await drain(store)]
        key = "SequenceNumber"
        assert sorted((each[key], each["Message"]) for each in again) == sorted(
            (each[key], each["Message"]) for each in first
        )
        assert [each["Message"] for each in again if int(each["Message"]) % 2] == ["1", "3", "5"]


async def test_T76_a_replay_is_no_duplicate_of_the_first_and_a_later_publish_none_of_it(
    url: str,
) -> None:
    async with archive(url, fifo=True) as (store, clock):
        await publish(store, "a", group="g", dedup_id="1")
        await drain(store)
        await clock.advance(240)
        assert await replay(store, clock) == (1, 1)
        assert len(await drain(store)) == 1
        await clock.advance(60)  # five minutes from the publish, and one from the replay
        await publish(store, "b", group="g", dedup_id="1")
        assert [each.body for each in await drain(store)] == [b"b"]


async def test_T75_what_is_published_while_a_replay_runs_is_not_for_it(url: str) -> None:
    async with archive(url) as (store, clock):
        await publish(store, "a", "b")
        await drain(store)
        assert (await store.archived(ArchiveRequest("t", "q", limit=1))).sent == 1
        await publish(store, "c")
        await replay(store, clock)
        assert sorted(each.body for each in await drain(store)) == [b"a", b"b", b"c"]


async def test_a_replay_that_is_done_says_so_and_begins_anew_when_asked(url: str) -> None:
    async with archive(url) as (store, clock):
        await publish(store, "a", "b")
        await drain(store)
        await replay(store, clock)
        report = await through(ArchiveRequest("t", "q"), store, clock)
        assert (report.sent, report.before, report.done) == (0, 2, True)
        assert (await replay(store, clock, again=True))[1] == 2
        assert len(await drain(store)) == 4


async def test_a_replay_goes_on_after_a_restart_where_it_was(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    async with archive(url) as (store, clock):
        await publish(store, *map(str, range(10)))
        await drain(store)
        await store.archived(ArchiveRequest("t", "q", limit=4))
    async with archive(url) as (store, clock):
        report = await through(ArchiveRequest("t", "q"), store, clock)
        assert (report.sent, report.before) == (6, 4)
        assert sorted(int(each.body) for each in await drain(store)) == list(range(10))


async def test_a_replay_keeps_to_its_rate(url: str) -> None:
    async with archive(url) as (store, clock):
        await publish(store, *map(str, range(20)))
        began = clock.now()

        async def slowly() -> None:
            await through(ArchiveRequest("t", "q", name="r"), store, clock, rate=10)

        async with anyio.create_task_group() as group:
            clock.activity.take()
            group.start_soon(clock.activity.awake_while, slowly)
            await clock.advance(1)
            assert len(await drain(store)) == 20 + 10 + 2
            await clock.advance(10)
        assert clock.now() >= began + 2


async def test_T75_a_subscriber_that_came_later_gets_what_was_before_it(url: str) -> None:
    async with archive(url) as (store, clock):
        await publish(store, "a")
        await store.declare(topology(late=True))
        assert await drain(store, "late") == []
        await replay(store, clock, to="late")
        assert [each.body for each in await drain(store, "late")] == [b"a"]


async def test_T75_a_replay_goes_into_a_stream_too(url: str) -> None:
    clock = VirtualClock(START)
    store = await open_store(url, clock=clock)
    topic = TopicSpec("t", archive=DAY)
    await store.declare(
        Topology(
            topics=(topic,),
            queues=(archive_queue(topic),),
            streams=(StreamSpec("s", "memory://s"),),
            subscriptions=(Subscription("t", "stream", "s"), Subscription("t", "queue", "t-archive")),
        )
    )
    await publish(store, "a", "b")
    await replay(store, clock, to="stream:s")
    (stats,) = (await store.stats()).streams
    assert stats.accepted == 4
    await store.close()


@pytest.mark.parametrize("fifo", [False, True])
async def test_T74_what_is_too_old_is_deleted(url: str, fifo: bool) -> None:
    async with archive(url, fifo=fifo, days=1) as (store, clock):
        await publish(store, *map(str, range(1200)), group="g" if fifo else None)
        await clock.advance(DAY / 2)
        await publish(store, "new", group="g" if fifo else None)
        await clock.advance(DAY / 2 + 3600)
        kept = next(each for each in (await store.stats()).queues if each.name == "t-archive")
        assert (kept.ready, kept.expired, kept.archives) == (1, 1200, True)
        assert (await through(ArchiveRequest("t"), store, clock)).examined == 1
        await clock.advance(DAY)
        kept = next(each for each in (await store.stats()).queues if each.name == "t-archive")
        assert (kept.ready, kept.expired) == (0, 1201)


async def test_T74_an_archive_survives_a_restart_and_shares_bodies_with_the_deliveries(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    large = "x" * 100_000
    async with archive(url) as (store, clock):
        await publish(store, *[large] * 20)
    size = sum(path.stat().st_size for path in tmp_path.glob("a.db*") if "ballast" not in path.name)
    assert size < 2 * 20 * len(large), "two queues and the archive hold one body"
    async with archive(url) as (store, clock):
        await drain(store)
        await drain(store, "other")
        assert (await replay(store, clock))[1] == 20
        assert {len(each.body) for each in await drain(store)} == {len(large)}


async def test_T74_an_archive_that_is_no_longer_declared_keeps_what_it_has_and_takes_nothing_more(url: str) -> None:
    async with archive(url) as (store, clock):
        await publish(store, "a")
        await store.declare(Topology(topics=(TopicSpec("t"),)))
        await publish(store, "b")
        assert (await through(ArchiveRequest("t"), store, clock)).examined == 1


async def test_nobody_sends_to_an_archive_or_receives_from_it(url: str) -> None:
    async with archive(url) as (store, _):
        with pytest.raises(RefusedError, match="is the archive of a topic; replay it"):
            await store.send("t-archive", [Outgoing(b"a")])
        with pytest.raises(RefusedError, match="is the archive of a topic; replay it"):
            await store.receive("t-archive", Want())


async def test_a_replay_to_nobody_or_of_nothing_is_refused_by_name(url: str) -> None:
    async with archive(url) as (store, _):
        with pytest.raises(NotFound, match="billing does not subscribe to topic t; these do: q, other"):
            await store.archived(ArchiveRequest("t", "billing"))
        await store.declare(Topology(topics=(TopicSpec("plain"),)))
        with pytest.raises(NotFound, match="topic plain has no archive; declare it with archive=DAYS"):
            await store.archived(ArchiveRequest("plain", "q"))


async def test_the_verbs_of_topics_work_through_the_socket_of_the_owner(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    async with archive(url) as (store, clock):
        await publish(store, "a")
        client = await open_store(url, clock=clock, client=True)
        assert (await client.archived(ArchiveRequest("t", "q"))).sent == 1
        assert await client.webhooks() == []
        with pytest.raises(RefusedError, match="no subscription waits for this token"):
            await client.confirm("t", "0" * 64)
        with pytest.raises(RefusedError, match="keeps an archive"):
            await client.delete_topic("t")
        await client.close()


async def test_what_would_have_matched_is_counted_and_nothing_is_delivered() -> None:
    app = App("shop")
    orders = app.topic("orders", str, archive=30)
    billing = app.queue("billing", str, orders.where(kind="never"))
    async with harness(app) as h:
        for n in range(1200):
            await orders.publish(str(n), kind="placed" if n % 3 else "void", total=n)
        report = await orders.matching(orders.where(kind="placed", total=num("<", 9)))
        assert (report.examined, report.matched, len(report.ids), report.sent) == (1200, 6, 6, 0)
        assert h.queued(billing) == []


async def test_a_noun_is_replayed_to_by_itself() -> None:
    app = App("shop")
    orders = app.topic("orders", str, archive=30)
    billing = app.queue("billing", str, orders)
    async with harness(app) as h:
        await orders.publish("a")
        assert (await orders.replay(billing)).sent == 1
        assert h.queued(billing) == ["a", "a"]


async def test_T75_a_replay_to_a_webhook_posts_and_to_one_that_has_not_confirmed_nothing() -> None:
    app = App("shop")
    orders = app.topic("orders", str, archive=30)
    hook = app.webhook("hook", orders, url="https://example.org/in")
    async with harness(app) as h:
        await orders.publish("a")
        with pytest.raises(RefusedError, match="hook has not confirmed its subscription to topic orders"):
            await orders.replay(hook)
        await h.settle()
        await hook.confirm(h.endpoint(hook).token)
        await orders.replay(hook)
        await h.settle()
        (notice,) = h.endpoint(hook).posted
        said = json.loads(notice.body)
        assert (said["Message"], said["Replayed"], notice.id) == ('"a"', True, said["MessageId"])


@pytest.mark.parametrize("days", [0, -1, 366])
def test_T74_an_archive_is_kept_for_up_to_a_year(days: float) -> None:
    with pytest.raises(ConfigurationError, match="archive is"):
        App("shop").topic("orders", str, archive=days)


def test_the_name_of_an_archive_is_taken() -> None:
    app = App("shop")
    app.topic("orders", str, archive=1)
    app.queue("orders-archive", str)
    with pytest.raises(ConfigurationError, match="has the name of the archive of topic orders"):
        app.topology()


async def test_T75_a_replay_that_one_message_stops_has_sent_nothing_of_its_chunk(url: str) -> None:
    """Its position stays before the chunk, so what had been sent of it would be sent again."""
    async with archive(url) as (store, clock):
        await publish(store, "a", "b" * 50, "c")
        small = topology(late=True)
        queues = tuple(replace(queue, max_body=10) if queue.name == "late" else queue for queue in small.queues)
        await store.declare(replace(small, queues=queues))
        for _ in range(2):
            with pytest.raises(RefusedError, match="max_body"):
                await replay(store, clock, "late")
        assert await drain(store, "late") == []
        await store.declare(topology(late=True))
        assert await replay(store, clock, "late") == (3, 3)
        assert [each.body for each in await drain(store, "late")] == [b"a", b"b" * 50, b"c"]


async def test_T74_a_delayed_publish_is_in_the_archive_at_once_and_in_its_place(url: str) -> None:
    async with archive(url) as (store, clock):
        await publish(store, "late", delay=600.0)
        await clock.advance(60)
        await publish(store, "early")
        assert await replay(store, clock, "other") == (2, 2)
        assert [each.body for each in await drain(store, "other")] == [b"early", b"late", b"early"]
        await clock.advance(600)
        assert await replay(store, clock, "other", again=True, since=START + 30) == (1, 1)


async def test_T70_the_archive_of_a_topic_that_deduplicates_by_group_keeps_what_the_topic_took(url: str) -> None:
    topic = TopicSpec("t", fifo=True, dedup_scope="group", archive=10 * DAY)
    queues = (QueueSpec("q", fifo=True, dedup_scope="group"), archive_queue(topic))
    clock = VirtualClock(START)
    store = await open_store(url, clock=clock)
    await store.declare(Topology((topic,), queues, (), tuple(Subscription("t", "queue", q.name) for q in queues)))
    for group in ("a", "b", "a"):
        await publish(store, group, group=group, dedup_id="same")
    assert await replay(store, clock) == (2, 2)
    await store.close()


async def test_T75_a_replay_that_goes_on_later_leaves_out_nothing_though_its_times_are_said_as_ages(url: str) -> None:
    async with archive(url) as (store, clock):
        for body in "abcdef":
            await publish(store, body)
            await clock.advance(60)
        await drain(store)
        hour = ArchiveRequest("t", "q", since=clock.now() - 300, until=clock.now() - 60, name="last 5m", limit=1)
        assert (await store.archived(hour)).sent == 1
        await clock.advance(600)
        later = replace(hour, since=clock.now() - 300, until=clock.now() - 60)
        while not (await store.archived(later)).done:
            pass
        assert [each.body for each in await drain(store)] == [b"b", b"c", b"d", b"e"]


@pytest.mark.parametrize("dry_run", [True, False])
async def test_T48_a_filter_on_bodies_looks_at_the_text_of_its_subscriber_in_a_replay_too(
    url: str, dry_run: bool
) -> None:
    placed = FilterPolicy('{"card": [null]}', "body")
    texts = {TEXTS: json.dumps({"queue": '{"card": null}'})}
    async with archive(url, filter=placed) as (store, clock):
        await publish(store, '{"card": "4000"}', headers=texts)
        await publish(store, '{"card": null}', headers={TEXTS: json.dumps({"queue": '{"card": "4000"}'})})
        (first,) = await drain(store)
        report = await through(ArchiveRequest("t", "q", dry_run=dry_run), store, clock)
        assert (report.matched, report.ids, report.sent) == (1, [first.id], 0 if dry_run else 1)
        assert [each.body for each in await drain(store)] == ([] if dry_run else [b'{"card": null}'])


async def test_a_dry_run_says_what_a_replay_would_send_and_changes_nothing() -> None:
    app = App("shop")
    orders = app.topic("orders", str, archive=30)
    named = app.queue("named", str, app.topics_named("ord*", str).where(kind="placed"))
    hook = app.webhook("hook", orders, url="https://example.org/in")
    async with harness(app) as h:
        for n in range(1200):
            await orders.publish(str(n), kind="placed" if n % 3 else "void")
        before = len(h.queued(named))
        report = await orders.replay(named, dry_run=True)
        assert (report.examined, report.matched, report.sent, report.done) == (1200, 800, 0, True)
        assert len(h.queued(named)) == before == 800
        assert (await orders.replay(named)).sent == 800, "a dry run is not the beginning of it"
        with pytest.raises(RefusedError, match="hook has not confirmed"):
            await orders.replay(hook, dry_run=True)


async def test_a_chunk_of_large_bodies_is_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "CHUNK_BYTES", 100_000)
    async with archive(f"sqlite:///{tmp_path}/a.db") as (store, clock):
        await publish(store, *["x" * 10_000] * 100, "small", *["y" * 50_000] * 4)
        chunks: list[ArchiveReport] = []
        request = ArchiveRequest("t")
        while not chunks or not chunks[-1].done:
            chunks.append(await store.archived(request))
            request = replace(request, after=chunks[-1].last)
        assert sum(chunk.examined for chunk in chunks) == 105
        assert max(chunk.examined for chunk in chunks) <= 17
        assert await replay(store, clock, "other") == (105, 105)


async def test_T75_a_row_that_cannot_be_read_brings_nothing_older_into_a_replay(tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    async with archive(f"sqlite:///{database}") as (store, clock):
        for n in range(8):
            await publish(store, f"{n}")
            await clock.advance(100)
    with sqlite3.connect(database) as raw:
        ((number,),) = raw.execute("SELECT number FROM nouns WHERE kind = 'queue' AND name = 't-archive'").fetchall()
        keys = [key for (key,) in raw.execute("SELECT key FROM messages WHERE key >> 43 = ? ORDER BY key", (number,))]
        assert len(keys) == 8
        raw.execute("UPDATE messages SET crc = crc + 1 WHERE key IN (?, ?)", keys[3:5])
    raw.close()
    async with archive(f"sqlite:///{database}") as (store, clock):
        await drain(store)
        await replay(store, clock, since=START + 600)
        assert [each.body for each in await drain(store)] == [b"6", b"7"]


async def test_a_replay_takes_a_part_of_what_its_subscriber_takes_and_another_part_is_another_replay() -> None:
    app = App("shop")
    orders = app.topic("orders", str, archive=30)
    billing = app.queue("billing", str, orders.where(kind="placed"))
    async with harness(app) as h:
        for n in range(6):
            await orders.publish(str(n), kind="placed" if n % 2 else "void", total=n)
        small = orders.where(total=num("<", 4))
        assert (await orders.replay(billing, where=small, dry_run=True)).ids == (
            await orders.replay(billing, where=small)
        ).ids
        assert (await orders.replay(billing, where=orders.where(total=num(">=", 4)).filter)).sent == 1
        assert (await orders.replay(billing, where=small)).before == 2
        assert h.queued(billing) == ["1", "3", "5", "1", "3", "5"]


async def test_T75_a_replay_that_several_ask_for_at_a_time_delivers_each_message_once(url: str) -> None:
    async with archive(url) as (store, _):
        await publish(store, *(str(n) for n in range(40)))
        await drain(store)

        async def asked(again: bool) -> int:
            sent, request = 0, ArchiveRequest("t", "q", name="x", again=again, limit=6)
            while True:
                report = await store.archived(request)
                sent, request = sent + report.sent, replace(request, again=False)
                if report.done:
                    return sent

        for again in (False, True):
            sent = [0, 0, 0]

            async def one(n: int, again: bool = again, sent: list[int] = sent) -> None:
                sent[n] = await asked(again)

            async with anyio.create_task_group() as group:
                for n in range(3):
                    group.start_soon(one, n)
            bodies = sorted(int(each.body) for each in await drain(store))
            assert len(bodies) == sum(sent)
            assert set(bodies) == set(range(40))
            assert again or len(bodies) == 40


@pytest.mark.parametrize("gone", ["subscriber", "topic"])
async def test_T75_a_replay_whose_topic_or_subscriber_goes_meanwhile_says_so_and_delivers_nothing(
    tmp_path: Path, gone: str
) -> None:
    async with archive(f"sqlite:///{tmp_path}/a.db") as (store, _):
        await publish(store, "a", "b")
        await drain(store)
        await store.declare(Topology(topics=(TopicSpec("t"),)))  # one that archives is not deleted
        found: list[type[Exception]] = []

        async def asked() -> None:
            try:
                await store.archived(ArchiveRequest("t", "q", name="x"))
            except NotFound as error:
                found.append(type(error))

        async def leave() -> None:
            await (store.delete_queue("q") if gone == "subscriber" else store.delete_topic("t"))

        async with anyio.create_task_group() as group:
            group.start_soon(asked)
            group.start_soon(leave)
        assert found == [NotFound]
        if gone == "topic":
            assert await drain(store) == []


async def test_T4_a_restart_remembers_that_a_deleted_topic_was_replayed_and_confirmed_by_nobody(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    hook = Subscription("t", "queue", "other", endpoint="https://example.org/in", handshake=True)
    async with archive(url) as (store, clock):
        await publish(store, "old")
        assert await replay(store, clock) == (1, 1)
        await drain(store, "other")
        await store.declare(Topology(topics=(TopicSpec("t"),), queues=(QueueSpec("other"),), subscriptions=(hook,)))
        (asked,) = await store.receive("other", Want())
        await store.confirm("t", asked.headers[TOKEN])
        await store.delete_topic("t")
    with sqlite3.connect(tmp_path / "a.db") as connection:
        assert connection.execute("SELECT name FROM sources").fetchall() == []
    connection.close()
    clock = VirtualClock(START)
    store = await open_store(url, clock=clock)
    try:
        assert [queue.name for queue in (await store.describe()).queues] == ["q", "other"]
        await store.declare(replace(topology(), subscriptions=(*topology().subscriptions[::2], hook)))
        assert [each.state for each in await store.webhooks()] == ["pending"]
        await drain(store)
        await publish(store, "new")
        assert await replay(store, clock) == (1, 1)
        assert [each.body for each in await drain(store)] == [b"new", b"new"]
    finally:
        await store.close()


async def test_Q17_a_message_that_is_replayed_to_a_fifo_queue_keeps_the_delay_it_came_with(url: str) -> None:
    """Its own time is that of the publish: a delay counted from there would be over long since."""
    async with archive(url, fifo=True) as (store, clock):
        await publish(store, "a", group="g", dedup_id="1")
        await clock.advance(3600)
        await drain(store)
        plain = topology(fifo=True)
        for delay in (60.0, 120.0):
            queues = tuple(replace(queue, delay=delay) if queue.name == "q" else queue for queue in plain.queues)
            await store.declare(replace(plain, queues=queues))
            if delay == 60.0:
                assert await replay(store, clock) == (1, 1)
            assert await drain(store) == []
        await clock.advance(59)
        assert await drain(store) == []
        await clock.advance(1)
        assert [each.body for each in await drain(store)] == [b"a"]
