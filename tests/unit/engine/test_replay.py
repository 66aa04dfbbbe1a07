"""A replay publishes what lies in the files, each record once, wherever it is stopped; and says what it cannot read."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from msgspec.structs import replace

from pipeflow.clock import VirtualClock
from pipeflow.embedded.opening import open_sqlite
from pipeflow.engine.compaction import Compactor
from pipeflow.engine.delivery import Delivery
from pipeflow.engine.plan import DeliveryPlan
from pipeflow.engine.replay import MARK, Replay, Replayed, Target, replayed
from pipeflow.engine.scopes import task_scope
from pipeflow.engine.supervise import spawn
from pipeflow.errors import (
    ConfigurationError,
    NotFound,
    ObjectDamaged,
    ObjectMissing,
    RefusedError,
    SinkUnavailable,
    SpecConflict,
    Unavailable,
)
from pipeflow.events import Observers
from pipeflow.files import CompactRequest, FileFacts, FileQuery
from pipeflow.filters import num, where, where_body
from pipeflow.messages import Delivery as Received
from pipeflow.messages import Outgoing, Want
from pipeflow.names import Chance
from pipeflow.protocols import Store
from pipeflow.sinks.memory import MemorySink
from pipeflow.specs import QueueSpec, StreamSpec, Subscription, TopicSpec, Topology

WORK = Target("queue", "work")


def topology(**lake: Any) -> Topology:
    return Topology(
        topics=(TopicSpec("orders"),),
        queues=(QueueSpec("work", max_receives=None), QueueSpec("fifo", fifo=True), QueueSpec("tiny", max_body=30)),
        streams=(
            StreamSpec("lake", "memory://lake", **{"compression": "none", **lake}),
            StreamSpec("copy", "memory://copy", compression="none"),
        ),
        subscriptions=(Subscription("orders", "queue", "work"), Subscription("orders", "stream", "copy")),
    )


class Lake:
    """A store with a stream that delivered files into memory."""

    def __init__(self, store: Store, clock: VirtualClock) -> None:
        self.store = store
        self.clock = clock
        self.sink = MemorySink()

    async def deliver(self, *batches: Sequence[str], derive: Any = None) -> None:
        """One file, or more, for each batch."""
        (spec,) = [each for each in (await self.store.describe()).streams if each.name == "lake"]
        plan = DeliveryPlan(spec, derive)
        async with task_scope() as tasks:
            delivery = Delivery(
                plan, store=self.store, sink=self.sink, clock=self.clock, chance=Chance(7), observers=Observers()
            )
            delivery.start(tasks)
            for batch in batches:
                await self.store.append("lake", [Outgoing(body.encode()) for body in batch])
                await self.store.flush("lake")
                await self.clock.advance(10)
            tasks.cancel_scope.cancel()

    async def replay(self, to: Target = WORK, store: Store | None = None, **options: Any) -> Replayed:
        return await replayed(Replay("lake", to, **options), store or self.store, self.clock, self.sink)

    async def received(self, queue: str = "work") -> list[Received]:
        found: list[Received] = []
        while batch := await self.store.receive(queue, Want(limit=1000)):
            found += batch
        return found

    async def bodies(self, queue: str = "work") -> list[str]:
        return [each.body.decode() for each in await self.received(queue)]


@asynccontextmanager
async def lake(tmp_path: Path, **options: Any) -> AsyncIterator[Lake]:
    clock = VirtualClock(1000.0)
    store = await open_sqlite(f"sqlite:///{tmp_path}/s.db", clock=clock, client=False, seed=7)
    await store.declare(topology(**options))
    try:
        yield Lake(store, clock)
    finally:
        await store.close()


def numbered(start: int, end: int) -> list[str]:
    return [f'{{"n":{n}}}' for n in range(start, end)]


async def test_records_are_published_in_order_with_a_mark_and_a_second_run_has_nothing_to_do(tmp_path: Path) -> None:
    async with lake(tmp_path, buffer_bytes=200) as one:
        await one.deliver(numbered(0, 30), numbered(30, 40))
        done = await one.replay()
        assert (done.published, done.before, done.records, done.skipped) == (40, 0, 40, [])
        assert done.files == len(one.sink.objects) > 2
        messages = await one.received()
        assert [each.body.decode() for each in messages] == numbered(0, 40)
        assert {each.attributes[MARK] for each in messages} == {"lake"}
        again = await one.replay()
        assert (again.published, again.before) == (0, 40)
        assert (await one.replay(again=True)).published == 40
        assert (await one.replay(name="nightly")).published == 40
        assert (await one.replay(name="nightly")).published == 0


async def test_a_topic_gives_replayed_records_to_whoever_takes_them(tmp_path: Path) -> None:
    async with lake(tmp_path) as one:
        await one.deliver(numbered(0, 3))
        await one.replay(Target("topic", "orders"), attributes={"kind": "old"})
        assert [each.attributes for each in await one.received()] == [{"kind": "old", MARK: "lake"}] * 3
        assert {each.name: each.accepted for each in (await one.store.stats()).streams} == {"lake": 3, "copy": 3}
        await one.replay(Target("stream", "copy"))
        assert {each.name: each.accepted for each in (await one.store.stats()).streams} == {"lake": 3, "copy": 6}


async def test_a_fifo_queue_needs_a_group_and_suppresses_nothing_of_a_second_replay(tmp_path: Path) -> None:
    async with lake(tmp_path) as one:
        await one.deliver(["same", "same"], ["same"])
        with pytest.raises(ConfigurationError, match="queue:fifo is FIFO: name the group"):
            await one.replay(Target("queue", "fifo"))
        await one.replay(Target("queue", "fifo"), group="g")
        await one.deliver(["new"])
        await one.replay(Target("queue", "fifo"), group="g", again=True)
        (stats,) = [each for each in (await one.store.stats()).queues if each.name == "fifo"]
        assert stats.ready == 7


async def test_a_range_of_sequences_a_time_and_a_dry_run_choose(tmp_path: Path) -> None:
    async with lake(tmp_path) as one:
        await one.deliver(numbered(0, 10), numbered(10, 20), numbered(20, 30))
        dry = await one.replay(first=5, last=15, dry_run=True)
        assert (dry.files, dry.records, dry.published, dry.dry_run) == (2, 20, 0, True)
        assert (await one.replay(first=5, last=15)).published == 11
        assert await one.bodies() == numbered(4, 15)
        # Files were delivered at 1000, 1010 and 1020.
        assert (await one.replay(since=1005.0, until=1015.0)).published == 10
        assert await one.bodies() == numbered(10, 20)


async def test_relative_times_are_those_of_the_run_that_began(tmp_path: Path) -> None:
    async with lake(tmp_path) as one:
        await one.deliver(numbered(0, 10), numbered(10, 20))
        store = Stopping(one.store, after=1)
        with pytest.raises(Unavailable):
            await one.replay(store=cast(Store, store), since=995.0, asked="-35s")
        await one.clock.advance(20)
        assert (await one.replay(since=1015.0, asked="-35s")).published == 10


async def test_a_policy_on_bodies_chooses_records_also_after_a_stop(tmp_path: Path) -> None:
    async with lake(tmp_path) as one:
        await one.deliver([*numbered(0, 10), "no JSON"], numbered(10, 20))
        policy = where_body({"n": num(">=", 7, "<", 13)})
        with pytest.raises(Unavailable):
            await one.replay(store=cast(Store, Stopping(one.store, after=1)), where=policy)
        done = await one.replay(where=policy)
        assert (done.before, done.published, done.records) == (3, 3, 21)
        assert await one.bodies() == numbered(7, 13)
        assert (await one.replay()).published == 21
        with pytest.raises(ConfigurationError, match=r"no attributes to choose by; use where_body"):
            await one.replay(where=where(n=7))


async def test_partitions_are_replayed_alone(tmp_path: Path) -> None:
    def by_last(body: bytes) -> Outgoing:
        return Outgoing(body, partition=body[-1:].decode())

    async with lake(tmp_path, partitioned=True) as one:
        await one.deliver(["a1", "b2", "c1", "d2"], derive=by_last)
        assert (await one.replay(partition="1")).published == 2
        assert await one.bodies() == ["a1", "c1"]


async def test_S60_failed_records_are_replayed_as_they_came_into_the_stream_itself(tmp_path: Path) -> None:
    def derive(body: bytes) -> Outgoing:
        if body.startswith(b"bad"):
            raise ValueError("bad")
        return Outgoing(b"+" + body)

    async with lake(tmp_path, transformed=True) as one:
        await one.deliver(["1", "bad 2", "3", "bad 4"], derive=derive)
        with pytest.raises(ConfigurationError, match="would deliver every record a second time"):
            await one.replay(Target("stream", "lake"))
        assert (await one.replay(errors=True)).published == 2
        assert await one.bodies() == ["bad 2", "bad 4"]
        assert (await one.replay(Target("stream", "lake"), errors=True)).published == 2
        assert (await one.replay()).published == 2
        assert await one.bodies() == ["+1", "+3"]


async def test_the_rate_is_kept_on_the_clock(tmp_path: Path) -> None:
    async with lake(tmp_path) as one:
        await one.deliver(numbered(0, 100))
        start = one.clock.now()
        async with task_scope() as tasks:

            async def run() -> None:
                await one.replay(rate=20.0)
                ended.append(one.clock.now())

            ended: list[float] = []
            spawn(tasks, one.clock, run, "replay")
            while not ended:
                await one.clock.advance(0.25)
        assert 4.5 <= ended[0] - start <= 5.5


class Stopping:
    """A store whose connection is lost at the nth publish, before or after its commit."""

    def __init__(self, store: Store, *, before: int = 0, after: int = 0) -> None:
        self._store = store
        self._before = before
        self._after = after
        self.sends = 0

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._store, verb)

    async def send(self, queue: str, batch: Sequence[Outgoing]) -> Any:
        self.sends += 1
        if self.sends == self._before:
            raise Unavailable("lost")
        answers = await self._store.send(queue, batch)
        if self.sends == self._after:
            raise Unavailable("lost")
        return answers


@pytest.mark.parametrize("format", ["jsonl", "csv"])
async def test_wherever_it_is_stopped_each_record_is_replayed_exactly_once(tmp_path: Path, format: str) -> None:
    from pipeflow.messages import Column

    columns = {"columns": (Column("n", "int64"),)} if format == "csv" else {}
    async with lake(tmp_path, format=format, buffer_bytes=300, **columns) as one:
        await one.deliver(numbered(0, 60), numbered(60, 100))
        chunks = Stopping(one.store)
        await one.replay(store=cast(Store, chunks), name="whole")
        expected = await one.bodies()
        assert len(expected) == 100
        assert chunks.sends == len(one.sink.objects) > 3
        for stop in range(1, chunks.sends + 1):
            for how in ("before", "after"):
                store = Stopping(one.store, **{how: stop})
                with pytest.raises(Unavailable):
                    await one.replay(store=cast(Store, store), name=f"{how}-{stop}")
                # What arrives meanwhile is no part of it.
                done = await one.replay(name=f"{how}-{stop}")
                assert done.before + done.published == 100
                assert await one.bodies() == expected


async def test_a_replay_that_stops_at_every_commit_gets_through(tmp_path: Path) -> None:
    async with lake(tmp_path, buffer_bytes=1000) as one:
        await one.deliver(numbered(0, 300))
        for _ in range(100):
            try:
                done = await one.replay(store=cast(Store, Stopping(one.store, after=1)))
            except Unavailable:
                await one.deliver(numbered(900, 903))
                continue
            break
        assert (done.published, done.before) == (0, 300)
        assert Counter(await one.bodies()) == Counter(numbered(0, 300))


async def test_a_stop_inside_a_file_goes_on_inside_it(tmp_path: Path) -> None:
    async with lake(tmp_path) as one:
        await one.deliver(numbered(0, 1200))
        for n in (1, 2, 3):
            with pytest.raises(Unavailable):
                await one.replay(store=cast(Store, Stopping(one.store, after=n)), name=str(n))
            done = await one.replay(name=str(n))
            assert done.before == min(1200, n * 500)
            assert await one.bodies() == numbered(0, 1200)


async def test_a_damaged_file_is_told_before_any_of_it_is_published_and_can_be_passed_over(tmp_path: Path) -> None:
    async with lake(tmp_path) as one:
        await one.deliver(numbered(0, 10), numbered(10, 20), numbered(20, 30))
        _, second, third = one.sink.objects
        content = one.sink.objects[second]
        one.sink.objects[second] = content.replace(b"15", b"51")
        with pytest.raises(ObjectDamaged, match=f"file {second} in memory://lake: its CRC-32 is .*--skip-damaged"):
            await one.replay()
        assert await one.bodies() == numbered(0, 10)
        one.sink.objects[second] = content
        del one.sink.objects[third]
        with pytest.raises(ObjectMissing, match=f"file {third} in memory://lake"):
            await one.replay()
        assert await one.bodies() == numbered(10, 20)
        done = await one.replay(skip_damaged=True)
        assert (done.before, done.published, done.skipped) == (20, 0, [third])


async def test_a_record_that_holds_the_delimiter_is_found_before_it_is_split(tmp_path: Path) -> None:
    async with lake(tmp_path, format="raw", delimiter=b"\n") as one:
        await one.deliver(["one", "two\nlines"])
        with pytest.raises(ObjectDamaged, match="it reads as 3 records, and 2 were written; some hold"):
            await one.replay()
        assert await one.bodies() == []


async def test_objects_without_borders_and_other_delimiters_are_refused_by_name(tmp_path: Path) -> None:
    async with lake(tmp_path, format="raw") as one:
        await one.deliver(["a", "b"])
        with pytest.raises(
            ConfigurationError, match=r"file lake-.* cannot be replayed: format='raw' without a delimiter"
        ):
            await one.replay()
        await one.store.declare(topology(format="raw", delimiter=b"##"))
        await one.deliver(["c", "d"])
        await one.store.declare(topology(format="raw", delimiter=b"\n"))
        with pytest.raises(SpecConflict, match="was written with another delimiter than"):
            await one.replay(first=3)
        await one.store.declare(topology(format="raw", delimiter=b"##"))
        assert (await one.replay(first=3)).published == 2


async def test_a_record_that_the_target_refuses_stops_it_there_and_by_name(tmp_path: Path) -> None:
    async with lake(tmp_path) as one:
        await one.deliver(["fine", "x" * 40, "fine too"])
        for published in (1, 0):
            with pytest.raises(RefusedError, match=r"stopped at record 1 of file lake-.*the limit is 30"):
                await one.replay(Target("queue", "tiny"))
            assert len(await one.bodies("tiny")) == published


async def test_a_sink_that_is_away_for_a_while_is_asked_again(tmp_path: Path) -> None:
    class Away(MemorySink):
        left = 3

        async def read(self, name: str) -> bytes:
            self.left -= 1
            if self.left >= 0:
                raise SinkUnavailable("away")
            return await super().read(name)

    async with lake(tmp_path) as one:
        one.sink = Away()
        await one.deliver(numbered(0, 3))
        async with task_scope() as tasks:

            async def run() -> None:
                await one.replay()

            spawn(tasks, one.clock, run, "replay")
            await one.clock.advance(60)
        assert len(await one.bodies()) == 3


class Merged:
    """A store whose catalogue says that files were merged, as compaction does."""

    def __init__(self, store: Store, at: float, sink: MemorySink, deleted: bool = False) -> None:
        self._store = store
        self._at = at
        self._sink = sink
        self._deleted = deleted

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._store, verb)

    async def files(self, stream: str, query: FileQuery) -> list[FileFacts]:
        from zlib import crc32

        whole = await self._store.files(stream, FileQuery(retired=True))
        content = b"".join(self._sink.objects[file.name] for file in whole)
        self._sink.objects["merged"] = content
        merged = replace(
            whole[0],
            name="merged",
            last=whole[-1].last,
            records=sum(file.records for file in whole),
            size=len(content),
            crc=crc32(content),
            delivered_at=max(file.delivered_at for file in whole),
            generation=1,
        )
        retired = [] if self._deleted else [replace(file, retired_at=self._at) for file in whole]
        found = sorted([merged, *retired], key=lambda file: file.cursor)
        return [
            file for file in found
            if (query.after is None or file.cursor > query.after) and query.partition in (None, file.partition)
        ]  # fmt: skip


async def test_files_that_were_merged_before_it_began_are_replayed_once_as_one(tmp_path: Path) -> None:
    async with lake(tmp_path) as one:
        await one.deliver(numbered(0, 10), numbered(10, 20))
        store = cast(Store, Merged(one.store, one.clock.now(), one.sink))
        done = await one.replay(store=store)
        assert (done.files, done.published) == (1, 20)
        assert await one.bodies() == numbered(0, 20)


async def test_files_that_are_merged_while_it_runs_are_replayed_once_as_they_were(tmp_path: Path) -> None:
    async with lake(tmp_path) as one:
        await one.deliver(numbered(0, 10), numbered(10, 20), numbered(20, 30))
        with pytest.raises(Unavailable):
            await one.replay(store=cast(Store, Stopping(one.store, after=1)))
        done = await one.replay(store=cast(Store, Merged(one.store, one.clock.now(), one.sink)))
        assert (done.files, done.before, done.published) == (3, 10, 20)
        assert await one.bodies() == numbered(0, 30)


async def test_a_replay_whose_files_were_merged_and_deleted_meanwhile_says_how_far_it_was(tmp_path: Path) -> None:
    async with lake(tmp_path) as one:
        await one.deliver(numbered(0, 10), numbered(10, 20))
        with pytest.raises(Unavailable):
            await one.replay(store=cast(Store, Stopping(one.store, after=1)))
        with pytest.raises(SpecConflict, match=r"of the 2 files with 20 records .* 10 records were published"):
            await one.replay(store=cast(Store, Merged(one.store, one.clock.now(), one.sink, deleted=True)))


@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_what_compaction_merges_before_and_inside_a_replay_is_replayed_once(
    tmp_path: Path, compression: str
) -> None:
    async with lake(tmp_path, manifest=True, compression=compression) as one:
        spec = (await one.store.describe()).streams[0]
        catalogue = cast(Any, one.store).log.catalogue("lake")

        async def compact(keep: float = 3600.0) -> None:
            await one.clock.advance(10)
            await Compactor(spec, catalogue, one.sink, one.clock).run(CompactRequest(target=1 << 20, keep=keep))

        await one.deliver(numbered(0, 10), numbered(10, 20))
        await compact()
        await one.deliver(numbered(20, 30), numbered(30, 40))
        stopping = Stopping(one.store, after=2)
        with pytest.raises(Unavailable):
            await one.replay(store=cast(Store, stopping))
        await compact()
        for name, files in ((None, 3), ("anew", 1)):
            done = await one.replay(name=name or "")
            assert (done.files, done.before + done.published) == (files, 40)
            assert await one.bodies() == numbered(0, 40)
        with pytest.raises(Unavailable):
            await one.replay(store=cast(Store, Stopping(one.store, after=1)), name="late")
        await one.deliver(numbered(40, 50))
        await compact(keep=0.0)
        await compact(keep=0.0)
        with pytest.raises(
            SpecConflict, match=r"were merged into new ones and deleted since\. 40 records were published"
        ):
            await one.replay(name="late")


async def test_a_file_that_is_merged_away_and_deleted_while_it_runs_is_missed(tmp_path: Path) -> None:
    async with lake(tmp_path) as one:
        await one.deliver(numbered(0, 10), numbered(10, 20), numbered(20, 30))
        _, second, _ = one.sink.objects

        class Forgetting(Stopping):
            async def send(self, queue: str, batch: Sequence[Outgoing]) -> Any:
                one.sink.objects.pop(second, None)
                return await super().send(queue, batch)

            async def files(self, stream: str, query: FileQuery) -> list[FileFacts]:
                found = await one.store.files(stream, query)
                return [file for file in found if file.name in one.sink.objects]

        with pytest.raises(ObjectMissing, match=f"file {second} .* it may have been merged into a larger one"):
            await one.replay(store=cast(Store, Forgetting(one.store)))
        assert await one.bodies() == numbered(0, 10)


async def test_two_runs_of_one_replay_at_once_are_found_out(tmp_path: Path) -> None:
    async with lake(tmp_path) as one:
        await one.deliver(numbered(0, 10), numbered(10, 20))

        class Other(Stopping):
            async def send(self, queue: str, batch: Sequence[Outgoing]) -> Any:
                answers = await super().send(queue, batch)
                await one.replay()
                return answers

        with pytest.raises(ConfigurationError, match="runs somewhere else at the same time"):
            await one.replay(store=cast(Store, Other(one.store)))
        assert Counter(await one.bodies()) == Counter(numbered(0, 20))


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"to": Target("topic", "nope")}, NotFound, "no topic 'nope' to replay to; there are orders"),
        ({"rate": 0.0}, ConfigurationError, "use more than 0"),
        ({"errors": True, "partition": "x"}, ConfigurationError, "leave the partition off"),
    ],
)
async def test_what_cannot_be_asked_is_refused_at_once(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], reason: str
) -> None:
    async with lake(tmp_path) as one:
        with pytest.raises(error, match=reason):
            await one.replay(**options)
        with pytest.raises(NotFound, match="no stream 'pond'; there are lake, copy"):
            await replayed(Replay("pond", WORK), one.store, one.clock, one.sink)


async def test_a_sink_that_gives_nothing_back_is_told(tmp_path: Path) -> None:
    class Onward:
        async def write(self, obj: object) -> None: ...

        async def close(self) -> None: ...

    async with lake(tmp_path) as one:
        with pytest.raises(ConfigurationError, match="its sink memory://lake does not give back what it took"):
            await replayed(Replay("lake", WORK), one.store, one.clock, cast(Any, Onward()))


def test_a_replay_is_named_by_what_is_asked_and_not_by_how_fast() -> None:
    one = Replay("lake", WORK, first=5)
    assert one.source == Replay("lake", WORK, first=5, rate=3.0, again=True, dry_run=True).source
    assert one.source != Replay("lake", WORK, first=6).source
    assert one.source.startswith("replay/lake/queue:work/")
    assert replace(one, name="x").source == "replay/x"
    assert msgspec.json.encode(one)


@pytest.mark.parametrize(
    ("first", "last", "since", "until", "said"),
    [
        (3, 1, None, None, "replay of lake: the sequences are 3 to 1"),
        (-1, None, None, None, "replay of lake: the sequences are -1 to None"),
        (0, None, 20.0, 10.0, "replay of lake: the times are 20.0 to 10.0"),
    ],
)
def test_a_span_that_holds_nothing_is_refused(
    first: int, last: int | None, since: float | None, until: float | None, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Replay("lake", Target("topic", "again"), first, last, since, until)
    with pytest.raises(ConfigurationError, match=said.replace("replay of lake", "files")):
        FileQuery(first, last, since, until)


def test_a_page_of_no_files_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="files: limit is 0; use at least 1"):
        FileQuery(limit=0)
