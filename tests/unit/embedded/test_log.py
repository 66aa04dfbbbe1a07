"""The record log: every record in exactly one place, every move one commit, and what a crash at any of them leaves."""

import asyncio
import os
from collections.abc import AsyncIterator
from math import inf
from pathlib import Path

import pytest
from record_owner import Owner
from stream_rig import rig

from pipeflow.embedded.log import Log
from pipeflow.embedded.sqlite import streams
from pipeflow.engine.plan import DeliveryPlan
from pipeflow.errors import NotFound, ObjectRefused, Overloaded, RefusedError, SpecConflict, Unavailable
from pipeflow.messages import Manifest, ObjectFacts, Outgoing, Position, Records, Refused, Segment, Trouble
from pipeflow.sinks.file import FileSink
from pipeflow.sinks.objects import ERRORS
from pipeflow.specs import StreamSpec


def stream(**options: object) -> StreamSpec:
    return StreamSpec("lake", "memory://lake", **options)  # type: ignore[arg-type]  # built from a dict


def out(*bodies: str, partition: str | None = None) -> list[Outgoing]:
    return [Outgoing(body.encode(), partition=partition) for body in bodies]


async def read(log: Log, segment: Segment) -> list[str]:
    return [body.decode() async for block in log.outlet.read(segment) for body in block.bodies]


async def flat(blocks: AsyncIterator[Records]) -> list[Records]:
    return [block async for block in blocks]


async def sealed(log: Log) -> Segment:
    segment = await log.outlet.seal("lake")
    assert segment is not None
    return segment


def manifest(segment: Segment) -> Manifest:
    return Manifest([ObjectFacts(segment.name, 10, 1, segment.records)])


async def test_positions_count_from_one_in_the_order_of_acceptance() -> None:
    log = Owner().open(stream())
    assert await log.append("lake", out("a", "b")) == [Position(1), Position(2)]
    assert await log.append("lake", out("c")) == [Position(3)]


async def test_an_unknown_stream_is_told_with_the_known_ones() -> None:
    log = Owner().open(stream())
    with pytest.raises(NotFound, match="declared streams: lake"):
        await log.append("pond", out("a"))


async def test_a_record_too_large_is_refused_and_its_neighbours_are_not() -> None:
    log = Owner().open(stream(max_record=3))
    answers = await log.append("lake", out("abc", "abcd", ""))
    assert answers[0] == Position(1)
    assert isinstance(answers[1], Refused)
    assert "max_record=3" in answers[1].reason
    assert answers[2] == Position(2)


async def test_S57_a_partition_from_outside_that_leaves_the_root_is_refused_at_the_door() -> None:
    log = Owner().open(stream(partitioned=True))
    (answer,) = await log.append("lake", out("a", partition="../../etc"))
    assert isinstance(answer, Refused)


async def test_S33_a_buffer_is_sealed_when_its_time_comes_and_not_before() -> None:
    owner = Owner()
    log = owner.open(stream(buffer_seconds=60))
    await log.append("lake", out("a"))
    signal, due = log.outlet.ripens("lake")
    assert signal.fired
    assert due == 1060.0
    assert await log.outlet.seal("lake") is None
    await owner.clock.advance(60)
    segment = await sealed(log)
    assert (segment.reason, segment.records, segment.opened_at, segment.sealed_at) == ("time", 1, 1000.0, 1060.0)
    assert await read(log, segment) == ["a"]


async def test_a_seal_is_committed_with_a_sync_whatever_the_durability() -> None:
    owner = Owner()
    log = owner.open(stream())
    await log.append("lake", out("a"))
    log.outlet.demand("lake")
    owner.syncs.clear()
    await sealed(log)
    assert owner.syncs == [True]


async def test_records_are_journaled_as_blobs_of_many() -> None:
    owner = Owner()
    log = owner.open(stream())
    log.append_in_group("lake", out("a", "b"))
    log.append_in_group("lake", out("c"))
    await owner.committed()
    assert owner.count("record_block") == 1
    await log.append("lake", out("d"))
    assert owner.count("record_block") == 2


async def test_a_commit_forgets_the_records_and_remembers_the_object() -> None:
    owner = Owner()
    log = owner.open(stream())
    await log.append("lake", out("a", "b"))
    log.outlet.demand("lake")
    segment = await sealed(log)
    await log.outlet.commit(segment, manifest(segment))
    await log.outlet.commit(segment, manifest(segment))
    assert (owner.count("record_block"), owner.count("record_segment"), owner.count("record_manifest")) == (0, 0, 1)
    (stats,) = log.stats()
    assert (stats.accepted, stats.delivered, stats.buffered, stats.objects, stats.object_bytes) == (2, 2, 0, 1, 10)
    with pytest.raises(NotFound):
        await flat(log.outlet.read(segment))


async def test_counters_and_sequences_survive_a_restart() -> None:
    owner = Owner()
    log = owner.open(stream())
    await log.append("lake", out("a", "b"))
    log.outlet.demand("lake")
    segment = await sealed(log)
    await log.outlet.commit(segment, manifest(segment))
    again = Owner(owner.snapshot).open(stream())
    assert await again.append("lake", out("c")) == [Position(3)]
    again.outlet.demand("lake")
    later = await sealed(again)
    assert (later.first, later.id) == (3, 2)
    assert again.stats()[0].delivered == 2


async def test_p20_an_open_buffer_keeps_its_age_over_a_restart() -> None:
    owner = Owner()
    await owner.open(stream(buffer_seconds=60)).append("lake", out("a"))
    log = Owner(owner.snapshot, at=1030.0).open(stream(buffer_seconds=60))
    assert log.outlet.ripens("lake")[1] == 1060.0


async def test_p17_a_sealed_segment_is_handed_out_again_after_a_crash_just_as_it_was() -> None:
    owner = Owner()
    log = owner.open(stream())
    await log.append("lake", out("a", "b"))
    log.outlet.demand("lake")
    before = await sealed(log)
    again = Owner(owner.snapshot, at=5000.0).open(stream(format="raw", compression="none"))
    assert again.outlet.ripens("lake")[1] == -inf
    after = await sealed(again)
    assert after == before
    assert await read(again, after) == ["a", "b"]
    assert await again.outlet.seal("lake") is None


async def test_a_segment_given_back_is_handed_out_again_a_parked_one_is_not() -> None:
    log = Owner().open(stream())
    await log.append("lake", out("a"))
    log.outlet.demand("lake")
    segment = await sealed(log)
    log.outlet.hand_back(segment)
    assert await sealed(log) == segment
    await log.outlet.note(segment, Trouble(1, reason="no", parked_at=1.0))
    assert await log.outlet.seal("lake") is None
    with pytest.raises(ObjectRefused, match=r"lake-.*parked"):
        await log.outlet.delivered("lake")


async def test_S19_with_a_transform_records_lie_in_the_intake_until_they_are_derived() -> None:
    owner = Owner()
    log = owner.open(stream(transformed=True))
    await log.append("lake", out("a", "b", "c"))
    log.outlet.demand("lake")
    assert await log.outlet.seal("lake") is None
    (block,) = await log.intake("lake", Position(0), 100)
    assert (block.first, block.bodies) == (1, [b"a", b"b", b"c"])
    await log.derive("lake", Position(3), [*out("A", partition="p"), *out("bad", partition=ERRORS)], dropped=1)
    assert await log.intake("lake", Position(0), 100) == []
    first, second = await sealed(log), await sealed(log)  # the demand reached them, as they were accepted before it
    assert (first.partition, second.partition) == ("p", ERRORS)
    assert second.name.startswith("errors/")
    (stats,) = log.stats()
    assert (stats.accepted, stats.dropped, stats.failed, stats.buffered) == (3, 1, 0, 2)


async def test_intake_that_was_handed_out_does_not_grow() -> None:
    log = Owner().open(stream(transformed=True))
    log.append_in_group("lake", out("a"))
    (block,) = await log.intake("lake", Position(0), 100)
    log.append_in_group("lake", out("b"))
    assert block.bodies == [b"a"]
    await log.derive("lake", Position(1), [])
    assert [each.bodies for each in await log.intake("lake", Position(0), 100)] == [[b"b"]]


async def test_a_record_that_kills_the_process_is_found_and_becomes_suspect() -> None:
    spec = stream(transformed=True)
    owner = Owner()
    await owner.open(spec).append("lake", out(*map(str, range(40))))
    snapshot, derived, tries = owner.snapshot, [], 0
    for _death in range(20):
        owner = Owner(snapshot)
        log = owner.open(spec)
        while blocks := await log.intake("lake", Position(0), 100):
            (block,) = blocks
            snapshot = owner.snapshot
            if b"23" in block.bodies and not block.suspect:
                tries += 1
                break  # the process dies
            if block.suspect:
                assert block.bodies == [b"23"]
            derived += block.bodies
            await log.derive("lake", Position(block.first + len(block.bodies) - 1), [])
            snapshot = owner.snapshot
        else:
            break
    assert derived == [str(n).encode() for n in range(40)]
    assert tries == 4  # all 40, ten at a time, and twice alone


async def test_part_of_a_block_may_be_derived_and_the_rest_survives_a_restart() -> None:
    owner = Owner()
    log = owner.open(stream(transformed=True))
    await log.append("lake", out("a", "b", "c"))
    await log.derive("lake", Position(2), out("A", "B"))
    for each in (log, Owner(owner.snapshot).open(stream(transformed=True))):
        assert [(block.first, block.bodies) for block in await each.intake("lake", Position(0), 9)] == [(3, [b"c"])]


async def test_a_partitioned_stream_takes_records_without_a_partition_into_its_intake() -> None:
    log = Owner().open(stream(partitioned=True))
    log.append_in_group("lake", out("from a topic"))
    await log.append("lake", out("put", partition="p"))
    assert [block.bodies for block in await log.intake("lake", Position(0), 9)] == [[b"from a topic"]]
    log.outlet.demand("lake")
    assert (await sealed(log)).partition == "p"


async def test_at_its_bound_put_waits_put_nowait_raises_and_a_delivery_makes_room() -> None:
    owner = Owner()
    log = owner.open(stream(buffer_bytes=10, max_buffered=20, delimiter=b""))
    await log.append("lake", out("x" * 10, "y" * 10))
    lane = log.lane("lake")
    assert lane is not None
    with pytest.raises(Overloaded, match="max_buffered"):
        lane.add([b"z"])
    waiting = asyncio.ensure_future(log.append("lake", out("z")))
    room = asyncio.ensure_future(log.room("lake"))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert not room.done()
    segment = await sealed(log)
    await log.outlet.commit(segment, manifest(segment))
    assert await waiting == [Position(3)]
    await room


async def test_intake_is_held_back_while_the_buffers_behind_it_are_full() -> None:
    log = Owner().open(stream(transformed=True, buffer_bytes=10, max_buffered=10, delimiter=b""))
    log.append_in_group("lake", out("a"))
    await log.derive("lake", Position(1), out("x" * 10))
    log.append_in_group("lake", out("b"))
    assert await log.intake("lake", Position(0), 9) == []
    segment = await sealed(log)
    await log.outlet.commit(segment, manifest(segment))
    assert len(await log.intake("lake", Position(0), 9)) == 1


async def test_delivered_waits_for_what_was_accepted_before_it_and_for_nothing_else() -> None:
    log = Owner().open(stream())
    await log.append("lake", out("a"))
    waiting = asyncio.ensure_future(log.outlet.delivered("lake"))
    await asyncio.sleep(0)
    log.outlet.demand("lake")
    segment = await sealed(log)
    await log.append("lake", out("later"))
    assert not waiting.done()
    await log.outlet.commit(segment, manifest(segment))
    await waiting


async def test_delivered_waits_for_what_is_derived_from_the_intake() -> None:
    log = Owner().open(stream(transformed=True))
    await log.append("lake", out("a"))
    log.outlet.demand("lake")
    waiting = asyncio.ensure_future(log.outlet.delivered("lake"))
    await asyncio.sleep(0)
    await log.derive("lake", Position(1), out("A"))
    segment = await sealed(log)
    assert segment.reason == "demand"
    assert not waiting.done()
    await log.outlet.commit(segment, manifest(segment))
    await waiting


async def test_a_store_that_fails_tells_whoever_waits() -> None:
    log = Owner().open(stream())
    await log.append("lake", out("a"))
    waiting = asyncio.ensure_future(log.outlet.delivered("lake"))
    await asyncio.sleep(0)
    log.fail(Unavailable("gone"))
    with pytest.raises(Unavailable):
        await waiting


async def test_memory_streams_never_touch_the_journal_and_name_the_boot() -> None:
    owner = Owner()
    log = owner.open(stream(durability="memory"))
    await log.append("lake", out("a"))
    log.outlet.demand("lake")
    segment = await sealed(log)
    await log.outlet.commit(segment, manifest(segment))
    assert "-b1-" in segment.name
    assert owner.gathering.streams == []
    assert owner.syncs == []
    assert log.stats()[0].delivered == 1


async def test_a_lane_takes_records_without_a_call_and_counts_them_all() -> None:
    owner = Owner()
    log = owner.open(stream(durability="memory", buffer_bytes=100))
    lane = log.lane("lake")
    assert lane is not None
    assert lane.left == 0
    for n in range(100):
        body = b"%02d" % n
        left = lane.left - len(body) - 1
        if left > 0:
            lane.left = left
            lane.bodies.append(body)
        else:
            lane.add([body])
    log.outlet.demand("lake")
    records = []
    while (segment := await log.outlet.seal("lake")) is not None:
        records += await read(log, segment)
        assert segment.size <= 102
        assert segment.last - segment.first + 1 == segment.records
    assert records == [f"{n:02d}" for n in range(100)]
    assert log.stats()[0].accepted == 100


async def test_a_lane_grants_nothing_that_would_let_a_record_past_the_limit() -> None:
    log = Owner().open(stream(durability="memory", max_record=3))
    lane = log.lane("lake")
    assert lane is not None
    lane.add([b"abc"])
    assert lane.left <= 3 + len(b"\n")
    with pytest.raises(RefusedError, match="max_record=3"):
        lane.add([b"abcd"])


async def test_a_lane_refuses_what_append_refuses() -> None:
    log = Owner().open(stream(durability="memory", max_record=3, partitioned=True))
    lane = log.lane("lake")
    assert lane is not None
    with pytest.raises(RefusedError, match="max_record"):
        lane.add([b"abcd"], "p")
    with pytest.raises(RefusedError, match="partition"):
        lane.add([b"abc"], "../p")
    with pytest.raises(RefusedError, match="max_record"):
        lane.spread([b"abc", b"abcd"], ["p", "p"])
    with pytest.raises(RefusedError, match="partition"):
        lane.spread([b"abc", b"abc"], ["p", "../p"])
    assert log.stats()[0].accepted == 0
    lane.spread([b"abc", b"ab"], ["p", "q"])
    assert (log.stats()[0].accepted, log.stats()[0].open_partitions) == (2, 2)


async def test_p7_a_damaged_blob_is_set_aside_and_counted_never_delivered() -> None:
    owner = Owner()
    log = owner.open(stream())
    await log.append("lake", out("good"))
    await log.append("lake", out("bad", "bad"))
    owner.connection.execute("UPDATE record_block SET blob = CAST(replace(blob, 'bad', 'BAD') AS BLOB)")
    again = Owner(owner.snapshot)
    log = again.open(stream())
    assert again.count("record_quarantine") == 1
    log.outlet.demand("lake")
    assert await read(log, await sealed(log)) == ["good"]
    assert await log.append("lake", out("next")) == [Position(4)]


async def test_p7_a_sealed_segment_with_damage_is_never_written_over_its_object() -> None:
    owner = Owner()
    log = owner.open(stream())
    await log.append("lake", out("good"))
    await log.append("lake", out("bad"))
    log.outlet.demand("lake")
    await sealed(log)
    owner.connection.execute("UPDATE record_block SET blob = CAST(replace(blob, 'bad', 'BAD') AS BLOB)")
    snapshot = owner.snapshot
    for _ in range(2):  # the second opening finds the damaged blob gone already, and must not be fooled
        again = Owner(snapshot)
        log = again.open(stream())
        assert await log.outlet.seal("lake") is None
        with pytest.raises(ObjectRefused):
            await log.outlet.delivered("lake")
        snapshot = again.snapshot


async def test_S36_new_options_concern_buffers_opened_after_the_update() -> None:
    log = Owner().open(stream(buffer_seconds=60))
    await log.append("lake", out("a"))
    log.declare(stream(buffer_seconds=5))
    assert log.outlet.ripens("lake")[1] == 1060.0
    log.outlet.demand("lake")
    await sealed(log)
    await log.append("lake", out("b"))
    assert log.outlet.ripens("lake")[1] == 1005.0


async def test_a_bound_that_is_lowered_below_what_waits_stops_nobody_from_putting() -> None:
    owner = Owner()
    await owner.open(stream(buffer_seconds=3600)).append("lake", out("a" * 30))
    log = Owner(owner.snapshot).open(stream(buffer_seconds=3600), stream(buffer_bytes=10, max_buffered=10))
    assert await read(log, await sealed(log)) == ["a" * 30]


async def test_records_that_waited_for_a_transform_that_is_gone_are_delivered_as_they_came() -> None:
    owner = Owner()
    await owner.open(stream(transformed=True)).append("lake", out("a", "b"))
    again = Owner(owner.snapshot)
    log = again.open(stream(transformed=True), stream())
    log.outlet.demand("lake")
    await again.committed()
    assert await read(log, await sealed(log)) == ["a", "b"]
    (block,) = again.connection.execute("SELECT chunk FROM record_block").fetchall()
    assert block != (0,)


async def test_durability_changes_only_while_nothing_waits() -> None:
    log = Owner().open(stream())
    await log.append("lake", out("a"))
    with pytest.raises(SpecConflict, match="lake: durability was None and is declared 'memory'"):
        log.declare(stream(durability="memory"))
    log.outlet.demand("lake")
    segment = await sealed(log)
    await log.outlet.commit(segment, manifest(segment))
    log.declare(stream(durability="memory"))


async def test_statements_of_the_hot_path_use_an_index() -> None:
    owner = Owner()
    for statement in (
        streams.DELETE_INTAKE,
        streams.DELETE_CHUNK,
        streams.DELETE_SEGMENT,
        streams.QUARANTINE_CHUNK,
    ):
        parameters = ("lake", 1)
        plan = " ".join(row[3] for row in owner.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))
        assert "SCAN" not in plan
        assert "TEMP B-TREE" not in plan


async def test_a_write_that_a_kill_left_of_a_memory_stream_is_swept_and_no_other(tmp_path: Path) -> None:
    spec = stream(durability="memory")
    for name in (".tmp-lake-b0-1-3f9a0c12.gz", ".tmp-pond-b0-1-3f9a0c12.gz", ".tmp-lake-b0-1-another.gz"):
        (tmp_path / name).write_bytes(b"")
    async with rig(DeliveryPlan(spec), sink=FileSink(str(tmp_path))) as r:
        await r.store.append("lake", out("a"))
        await r.deliver()
        left = sorted(name for name in os.listdir(tmp_path) if name.startswith(".tmp"))
        assert left == [".tmp-lake-b0-1-another.gz", ".tmp-pond-b0-1-3f9a0c12.gz"]
