"""Small files become large ones: a reader of manifests sees each record once at every step, whatever dies."""

from __future__ import annotations

import gzip
import io
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from manifest_reader import listed, seen
from msgspec.structs import replace
from record_owner import Owner
from stream_rig import Rig, rig
from stream_steps import Crash, Steps, WatchedSink

from pipeflow.embedded.sqlite.volatile import Volatile
from pipeflow.engine.compaction import EVERY, MANIFESTS, Compactor
from pipeflow.engine.plan import DeliveryPlan
from pipeflow.errors import ConfigurationError, SinkUnavailable
from pipeflow.files import CompactRequest, FileQuery
from pipeflow.messages import Outgoing
from pipeflow.protocols import Object, Sink
from pipeflow.sinks.manifest import FOLDER
from pipeflow.sinks.memory import MemorySink
from pipeflow.specs import Format, StreamSpec

SPEC = StreamSpec("lake", "memory://lake", compression="gzip", buffer_bytes=30, manifest=True)
PLAN = DeliveryPlan(SPEC)


def compactor(r: Rig, sink: MemorySink | None = None) -> Compactor:
    return Compactor(r.plan.spec, r.log.catalogue("lake"), sink or r.sink, r.clock)


async def fill(r: Rig, *rounds: int) -> list[str]:
    """Three records a file, one file a round; the last one alone."""
    records = []
    for n in rounds:
        records += [f"{n}-{i}" for i in range(3)]
        await r.store.append("lake", [Outgoing(record.encode()) for record in records[-3:]])
        await r.deliver()
    return records


def data(objects: dict[str, bytes]) -> list[str]:
    return [name for name in objects if not name.startswith(FOLDER)]


def manifests(objects: dict[str, bytes]) -> list[str]:
    return [name for name in objects if name.startswith(FOLDER)]


async def test_small_files_become_one_and_are_deleted_when_they_were_kept_long_enough() -> None:
    async with rig(PLAN) as r:
        records = await fill(r, *range(6))
        report = await compactor(r).run(CompactRequest(target=1 << 20, keep=100.0))
        ((name, entry),) = listed(r.sink.objects).items()
        assert (entry.first, entry.last, entry.records, entry.generation) == (1, 18, 18, 1)
        assert gzip.decompress(r.sink.objects[name]).decode().split() == records
        (merged,) = report.merged
        assert (merged.output, merged.files, merged.size_after) == (name, 6, len(r.sink.objects[name]))
        assert (len(data(r.sink.objects)), len(manifests(r.sink.objects)), report.deleted) == (7, 7, 0)
        await r.clock.advance(99)
        assert (await compactor(r).run(CompactRequest(target=1 << 20, keep=100.0))).deleted == 0
        assert len(manifests(r.sink.objects)) == 7
        await r.clock.advance(1)
        assert (await compactor(r).run(CompactRequest(target=1 << 20, keep=100.0))).deleted == 6
        assert (data(r.sink.objects), len(manifests(r.sink.objects))) == ([name], 1)
        assert seen(r.sink.objects) == dict.fromkeys(records, 1)
        (file,) = await r.log.catalogue("lake").files(FileQuery(retired=True))
        assert (file.name, file.size, file.crc, file.generation) == (name, entry.size, entry.crc32, 1)


async def test_the_catalogue_tells_merged_files_and_those_they_took_the_place_of() -> None:
    async with rig(PLAN) as r:
        await fill(r, 1, 2)
        await compactor(r).run(CompactRequest(target=1 << 20))
        catalogue = r.log.catalogue("lake")
        (merged,) = await catalogue.files(FileQuery(2, 2))
        assert (merged.first, merged.last, merged.retired_at) == (1, 6, None)
        assert [(each.first, each.retired_at) for each in await catalogue.files(FileQuery(2, 2, retired=True))] == [
            (1, r.clock.now()),
            (1, None),
        ]


async def test_a_dry_run_tells_what_would_be_merged_and_changes_nothing() -> None:
    async with rig(PLAN) as r:
        await fill(r, 1, 2, 3)
        before, rows = dict(r.sink.objects), r.owner.snapshot
        report = await compactor(r).run(CompactRequest(target=1 << 20, dry_run=True))
        assert [(each.files, each.records, each.size_after) for each in report.merged] == [(3, 9, 0)]
        assert (r.sink.objects, r.owner.snapshot) == (before, rows)


async def test_files_younger_than_asked_for_stay() -> None:
    async with rig(PLAN) as r:
        await fill(r, 1, 2)
        await r.clock.advance(100)
        await fill(r, 3, 4)
        report = await compactor(r).run(CompactRequest(target=1 << 20, older_than=50.0))
        assert [each.files for each in report.merged] == [2]


async def test_merged_files_are_at_most_as_large_as_the_target() -> None:
    async with rig(PLAN) as r:
        records = await fill(r, *range(40))
        await compactor(r).run(CompactRequest(target=150))
        assert all(entry.size <= 150 for entry in listed(r.sink.objects).values())
        assert seen(r.sink.objects) == dict.fromkeys(records, 1)
        assert len(listed(r.sink.objects)) < 20


async def test_many_tiny_files_become_one_though_not_in_one_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeflow.engine.planning.MOST_INPUTS", 4)
    monkeypatch.setattr("pipeflow.engine.compaction.MERGES", 2)
    monkeypatch.setattr("pipeflow.engine.compaction.PLANNED_FOR", 10)
    async with rig(PLAN) as r:
        records = await fill(r, *range(30))
        await compactor(r).run(CompactRequest(target=1 << 20))
        assert len(listed(r.sink.objects)) == 1
        assert seen(r.sink.objects) == dict.fromkeys(records, 1)


async def test_each_partition_is_merged_by_itself_and_errors_with_errors() -> None:
    spec = StreamSpec(
        "lake", "memory://lake", compression="gzip", partitioned=True, transformed=True, manifest=True, buffer_bytes=10
    )

    def derive(body: bytes) -> Outgoing:
        if body.startswith(b"bad"):
            raise ValueError("bad")
        return Outgoing(body, partition=f"p{body[:1].decode()}")

    async with rig(DeliveryPlan(spec, derive)) as r:
        for n in range(4):
            await r.store.append("lake", [Outgoing(f"{p}{n}".encode()) for p in ("a", "b", "bad")])
            await r.deliver()
        await compactor(r).run(CompactRequest(target=1 << 20))
        told = {(entry.kind, entry.partition): entry.records for entry in listed(r.sink.objects).values()}
        assert told == {("rows", "pa"): 4, ("rows", "pb"): 4, ("errors", ""): 4}


async def test_what_was_delivered_without_manifests_is_told_of_once_there_are_some() -> None:
    owner, sink = Owner(at=0.0), MemorySink()
    async with rig(DeliveryPlan(StreamSpec("lake", "memory://lake")), owner=owner, sink=sink) as r:
        records = await fill(r, 1, 2)
        assert manifests(sink.objects) == []
    async with rig(PLAN, owner=Owner(owner.snapshot, at=100.0), sink=sink) as r:
        await r.clock.settle()
        assert seen(sink.objects) == dict.fromkeys(records, 1)


async def test_what_was_delivered_without_manifests_is_told_of_also_where_the_sink_failed_at_first() -> None:
    async def two(r: Rig, *bodies: str) -> None:
        await r.store.append("lake", [Outgoing(body.encode(), partition=body[0]) for body in bodies])
        await r.deliver()

    owner, sink = Owner(at=0.0), Ill()
    spec = StreamSpec("lake", "memory://lake", partitioned=True)
    async with rig(DeliveryPlan(spec), owner=owner, sink=sink) as r:
        await two(r, "a1", "b1")
    sink.left = 0
    told = replace(spec, manifest=True)
    async with rig(DeliveryPlan(told), owner=Owner(owner.snapshot, at=100.0), sink=sink) as r:
        sink.left = 10**9
        await two(r, "a2", "b2")
        await r.clock.advance(EVERY)
        assert seen(sink.objects) == dict.fromkeys(["a1", "a2", "b1", "b2"], 1)


async def test_what_was_sealed_before_there_were_manifests_is_told_of_too() -> None:
    owner, sink = Owner(at=0.0), Ill()
    async with rig(DeliveryPlan(StreamSpec("lake", "memory://lake")), owner=owner, sink=sink) as r:
        records = await fill(r, 1)
        sink.left = 0
        records.append("2-0")
        await r.store.append("lake", [Outgoing(b"2-0")])
        r.store.demand("lake")
        await r.clock.advance(60)
        assert owner.count("record_segment") == 1
    sink.left = 10**9
    async with rig(PLAN, owner=Owner(owner.snapshot, at=100.0), sink=sink) as r:
        await r.deliver()
        assert seen(sink.objects) == dict.fromkeys(records, 1)


async def test_a_file_that_is_not_what_was_delivered_is_never_merged(caplog: pytest.LogCaptureFixture) -> None:
    async with rig(PLAN) as r:
        await fill(r, 1, 2, 3, 4)
        first, broken, *_ = data(r.sink.objects)
        r.sink.objects[broken] = b"?" + r.sink.objects[broken][1:]
        (merged,) = (await compactor(r).run(CompactRequest(target=1 << 20))).merged
        assert f"{broken}: its CRC-32 is" in caplog.text
        # It is left out, and so is the one before it, which has no neighbour then.
        assert merged.records == 6
        assert list(listed(r.sink.objects)) == [first, broken, merged.output]
        assert r.owner.count("record_compaction") == 0


async def test_a_file_that_is_gone_stops_its_merge_only(caplog: pytest.LogCaptureFixture) -> None:
    async with rig(PLAN) as r:
        await fill(r, 1, 2)
        del r.sink.objects[data(r.sink.objects)[0]]
        assert (await compactor(r).run(CompactRequest(target=1 << 20))).merged == []
        assert "files are left unmerged" in caplog.text
        assert r.owner.count("record_compaction") == 0


async def test_manifests_become_one_when_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeflow.engine.compaction.MANIFESTS", 5)
    assert MANIFESTS == 100
    async with rig(PLAN) as r:
        records = await fill(r, *range(8))
        await r.clock.advance(2 * EVERY)
        assert seen(r.sink.objects) == dict.fromkeys(records, 1)
        assert len(listed(r.sink.objects)) == 8
        await r.clock.advance(3600 + EVERY)
        assert len(manifests(r.sink.objects)) == 1
        assert seen(r.sink.objects) == dict.fromkeys(records, 1)


# A step at a time


class Reading(WatchedSink):
    """A step before each reading too."""

    async def read(self, name: str) -> bytes:
        if self.steps is not None:
            self.steps.take()
        return await super().read(name)


@asynccontextmanager
async def stepping(
    snapshot: bytes | None = None, objects: dict[str, bytes] | None = None
) -> AsyncIterator[tuple[Rig, Steps]]:
    owner, sink = Owner(snapshot, at=0.0 if snapshot is None else 50_000.0), Reading()
    sink.objects.update(objects or {})
    async with rig(PLAN, owner=owner, sink=sink) as r:
        steps = Steps(owner, sink)
        yield r, steps


async def run_with_steps() -> tuple[list[Crash], list[str]]:
    """Files, merged, more files, merged again, and everything deleted that may be; and all records."""
    async with stepping() as (r, steps):
        compact = compactor(r)
        records: list[str] = []
        for begin in (0, 4, 8):
            records += await fill(r, *range(begin, begin + 4))
            steps.acknowledged.update(records)
            await compact.run(CompactRequest(target=1 << 20, keep=10.0))
            await r.clock.advance(20)
        await compact.run(CompactRequest(target=1 << 20, keep=0.0))
        steps.take()
    return steps.crashes, records


async def test_p17_a_reader_sees_each_record_once_at_every_step_of_merging_and_deleting() -> None:
    crashes, records = await run_with_steps()
    assert len(crashes) > 100
    for _, objects, acknowledged, _ in crashes:
        found = seen(objects)
        assert set(found.values()) <= {1}
        assert acknowledged <= set(found)
    assert seen(crashes[-1][1]) == dict.fromkeys(records, 1)
    assert len(data(crashes[-1][1])) == len(manifests(crashes[-1][1])) == 1


async def test_p17_wherever_it_stops_the_next_process_ends_what_was_begun_and_leaves_nothing_behind() -> None:
    crashes, _ = await run_with_steps()
    for snapshot, objects, _, _ in crashes:
        async with stepping(snapshot, objects) as (r, steps):
            await r.deliver()
            kept = set(seen(steps.sink.objects))
            before = kept | set(await fill(r, 50, 51))
            await compactor(r).run(CompactRequest(target=1 << 20, keep=0.0))
            await compactor(r).run(CompactRequest(target=1 << 20, keep=0.0))
            steps.take()
            found = seen(steps.sink.objects)
            assert found == dict.fromkeys(before, 1)
            assert r.owner.count("record_compaction") == 0
            catalogue = r.log.catalogue("lake")
            told = await catalogue.files(FileQuery(retired=True))
            assert sorted(file.name for file in told) == sorted(data(steps.sink.objects))
            assert [each.name for each in await catalogue.manifests()] == manifests(steps.sink.objects)
        for _, later, _, _ in steps.crashes:
            assert set(seen(later).values()) <= {1}
            assert kept <= set(seen(later)) or later == objects


async def test_p17_a_second_crash_while_the_first_is_recovered_from_changes_nothing() -> None:
    crashes, _ = await run_with_steps()
    for snapshot, objects, _, _ in crashes[:: len(crashes) // 9]:
        async with stepping(snapshot, objects) as (r, steps):
            await r.deliver()
            records = set(seen(steps.sink.objects))
            await compactor(r).run(CompactRequest(target=1 << 20, keep=0.0))
        for again, later, _, _ in steps.crashes:
            async with stepping(again, later) as (r, further):
                await r.deliver()
                await compactor(r).run(CompactRequest(target=1 << 20, keep=0.0))
                assert seen(further.sink.objects) == dict.fromkeys(records, 1)


async def test_files_that_arrive_while_others_are_merged_are_untouched() -> None:
    class Slow(MemorySink):
        """Delivers another file when the first is read for merging."""

        rig: Rig | None = None

        async def read(self, name: str) -> bytes:
            if self.rig is not None and not name.startswith(FOLDER):
                r, self.rig = self.rig, None
                await fill(r, 99)
            return await super().read(name)

    sink = Slow()
    async with rig(PLAN, sink=sink) as r:
        records = await fill(r, 1, 2, 3)
        sink.rig = r
        await compactor(r).run(CompactRequest(target=1 << 20, keep=0.0))
        expected = dict.fromkeys([*records, "99-0", "99-1", "99-2"], 1)
        assert seen(sink.objects) == expected
        await compactor(r).run(CompactRequest(target=1 << 20, keep=0.0))
        await compactor(r).run(CompactRequest(target=1 << 20, keep=0.0))
        assert seen(sink.objects) == expected
        assert len(data(sink.objects)) == 1


class Ill(MemorySink):
    """Fails when it is to write or delete, after so many times."""

    left = 10**9

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise SinkUnavailable("down")

    async def write(self, obj: Object) -> None:
        self._count()
        await super().write(obj)

    async def delete(self, name: str) -> None:
        self._count()
        await super().delete(name)


@pytest.mark.parametrize("steps", range(16))
async def test_a_sink_that_fails_at_any_step_loses_nothing_and_the_next_call_goes_on(steps: int) -> None:
    sink = Ill()
    async with rig(PLAN, sink=sink) as r:
        records = await fill(r, *range(6))
        compact = compactor(r)
        sink.left = steps
        try:
            await compact.run(CompactRequest(target=1 << 20, keep=0.0))
        except SinkUnavailable:
            pass
        assert seen(sink.objects) == dict.fromkeys(records, 1)
        sink.left = 10**9
        await compact.run(CompactRequest(target=1 << 20, keep=0.0))
        assert seen(sink.objects) == dict.fromkeys(records, 1)
        assert len(data(sink.objects)) == 1


# By itself

DAY = 86_400


async def test_a_record_a_minute_for_a_day_leaves_few_files_without_anybody_asking() -> None:
    spec = StreamSpec("lake", "memory://lake", manifest=True, target_bytes=128 << 20)
    async with rig(DeliveryPlan(spec)) as r:
        most = 0
        for minute in range(DAY // 60):
            await r.store.append("lake", [Outgoing(b'{"minute":%d,"temperature":21.5}' % minute)])
            await r.clock.advance(60)
            most = max(most, len(listed(r.sink.objects)))
        await r.deliver()
        await r.clock.advance(EVERY)
        left = listed(r.sink.objects)
        assert sum(entry.records for entry in left.values()) == DAY // 60 == 1_440
        # Ten files of the last ten minutes, and one of each size before them: ten minutes, twenty, forty ...
        assert most <= 10 + 8
        assert len(left) <= 8
        # What was merged away is kept for an hour.
        assert len(data(r.sink.objects)) < 100
        await r.clock.advance(3600 + EVERY)
        assert len(data(r.sink.objects)) == len(left)
        await compactor(r).run(CompactRequest(keep=0.0))
        await compactor(r).run(CompactRequest(keep=0.0))
        assert len(data(r.sink.objects)) == 1
        assert seen(r.sink.objects) == Counter(
            {f'{{"minute":{minute},"temperature":21.5}}': 1 for minute in range(1_440)}
        )


async def test_without_a_target_nothing_is_merged_by_itself() -> None:
    async with rig(PLAN) as r:
        await fill(r, *range(20))
        await r.clock.advance(3 * EVERY)
        assert len(listed(r.sink.objects)) == 20
        with pytest.raises(ConfigurationError, match="Pass --target 128MiB"):
            await compactor(r).run(CompactRequest())


async def test_a_sink_that_is_down_stops_merging_and_not_delivery(caplog: pytest.LogCaptureFixture) -> None:
    class Unreadable(MemorySink):
        async def read(self, name: str) -> bytes:
            raise SinkUnavailable("down")

    spec = StreamSpec("lake", "memory://lake", compression="gzip", manifest=True, target_bytes=1 << 20)
    async with rig(DeliveryPlan(spec), sink=Unreadable()) as r:
        records = await fill(r, *range(5))
        await r.clock.advance(EVERY)
        records += await fill(r, 5)
        assert seen(r.sink.objects) == dict.fromkeys(records, 1)
        assert "small files stay as they are for now: down" in caplog.text


async def test_a_stream_in_memory_is_merged_too() -> None:
    spec = StreamSpec("lake", "memory://lake", durability="memory", manifest=True)
    async with rig(DeliveryPlan(spec)) as r:
        records = await fill(r, 1, 2, 3)
        await compactor(r).run(CompactRequest(target=1 << 20, keep=0.0))
        await compactor(r).run(CompactRequest(target=1 << 20, keep=0.0))
        assert seen(r.sink.objects) == dict.fromkeys(records, 1)
        assert len(r.sink.objects) == 2


async def test_readers_keep_every_file_of_a_stream_in_memory_that_delivered_more_than_such_streams_remember(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Volatile.__init__, "__defaults__", (4,))
    async with rig(PLAN, durable=False) as r:
        records = await fill(r, *range(6))
        for n in range(6, 12):
            await compactor(r).run(CompactRequest(target=1 << 20, keep=0.0))
            records += await fill(r, n)
        await compactor(r).run(CompactRequest(target=1 << 20, keep=0.0))
        assert seen(r.sink.objects) == dict.fromkeys(records, 1)
        assert len(data(r.sink.objects)) == 1


async def test_a_sink_that_gives_nothing_back_is_refused_before_the_first_record() -> None:
    class WriteOnly:
        async def write(self, obj: Object) -> None: ...

        async def close(self) -> None: ...

    sink: Sink = WriteOnly()
    with pytest.raises(ExceptionGroup) as caught:
        async with rig(PLAN, sink=sink):
            pass
    assert "needs a sink that gives back what it took" in str(caught.value.exceptions[0])


async def test_merged_parquet_and_csv_files_read_like_the_small_ones() -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="reads Parquet files back: pip install 'pipeflow[parquet]'")
    from pipeflow.messages import Column

    formats: list[Format] = ["csv", "parquet"]
    for format in formats:
        spec = StreamSpec(
            "lake", "memory://lake", format=format, compression="zstd", columns=(Column("n", "int64"),), manifest=True
        )
        async with rig(DeliveryPlan(spec)) as r:
            for n in range(5):
                await r.store.append("lake", [Outgoing(b'{"n": %d}' % n), Outgoing(b'{"n": "bad"}')])
                await r.deliver()
            await compactor(r).run(CompactRequest(target=1 << 20))
            told = {entry.kind: entry for entry in listed(r.sink.objects).values()}
            assert (len(listed(r.sink.objects)), told["rows"].records, told["errors"].records) == (2, 5, 5)
            content = r.sink.objects[told["rows"].name]
            if format == "parquet":
                assert pq.read_table(io.BytesIO(content)).column("n").to_pylist() == list(range(5))
            else:
                import zstandard

                text = zstandard.ZstdDecompressor().stream_reader(content).read().decode()
                assert text.split() == ["n", "0", "1", "2", "3", "4"]
