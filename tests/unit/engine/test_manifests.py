"""`manifest=True`: after each commit a reader of manifests sees its objects, all or none, and nothing else, ever."""

from __future__ import annotations

from zlib import crc32

import msgspec
import pytest
from manifest_reader import listed, seen
from record_owner import Owner
from stream_rig import rig
from stream_steps import Crash, Steps, WatchedSink

from pipeflow import App
from pipeflow.engine.plan import DeliveryPlan
from pipeflow.errors import ConfigurationError, ObjectRefused, SinkUnavailable
from pipeflow.messages import Column, Outgoing
from pipeflow.protocols import Object
from pipeflow.sinks import manifest
from pipeflow.sinks.manifest import FOLDER, Entry, Listing, live
from pipeflow.sinks.memory import MemorySink
from pipeflow.specs import StreamSpec

SPEC = StreamSpec("lake", "memory://lake", compression="none", buffer_bytes=30, manifest=True)
PLAN = DeliveryPlan(SPEC)


def manifests(sink: MemorySink) -> dict[str, bytes]:
    return {name: content for name, content in sink.objects.items() if name.startswith(FOLDER)}


async def test_a_manifest_tells_all_of_a_commit() -> None:
    async with rig(PLAN) as r:
        await r.store.append("lake", [Outgoing(b"one"), Outgoing(b"two")])
        await r.deliver()
        ((name, content),) = manifests(r.sink).items()
        ((data, whole),) = [each for each in r.sink.objects.items() if each[0] != name]
    assert name == ".manifest/lake/000000000001-000000000002-1-3f9a0c12.json"
    assert msgspec.json.decode(content) == {
        "version": 1,
        "stream": "lake",
        "store": "3f9a0c12",
        "added": [
            {
                "name": data, "partition": "", "kind": "rows", "records": 2, "size": len(whole), "crc32": crc32(whole),
                "first": 1, "last": 2, "opened_at": 0.0, "format": "jsonl", "compression": "none", "generation": 0,
            }
        ],
        "removed": [],
    }  # fmt: skip


async def test_rows_and_what_did_not_fit_are_told_by_one_manifest() -> None:
    columns = (Column("id", "int64", True),)
    spec = StreamSpec("lake", "memory://lake", format="csv", compression="none", columns=columns, manifest=True)
    async with rig(DeliveryPlan(spec)) as r:
        await r.store.append("lake", [Outgoing(b'{"id": 1}')] * 7 + [Outgoing(b'{"id": "one"}')] * 3)
        await r.deliver()
        assert len(manifests(r.sink)) == 1
        told = {entry.kind: entry.records for entry in listed(r.sink.objects).values()}
    assert told == {"rows": 7, "errors": 3}


async def test_without_it_nothing_extra_is_written() -> None:
    async with rig(DeliveryPlan(StreamSpec("lake", "memory://lake"))) as r:
        await r.store.append("lake", [Outgoing(b"one")])
        await r.deliver()
        assert len(r.sink.objects) == 1


async def run_with_steps() -> list[Crash]:
    owner, sink = Owner(at=0.0), WatchedSink()
    steps = Steps(owner, sink)
    async with rig(PLAN, owner=owner, sink=sink) as r:
        for n in range(4):
            records = [f"{n}-{i}" for i in range(10)]
            await r.store.append("lake", [Outgoing(record.encode()) for record in records])
            steps.acknowledged.update(records)
            await r.clock.advance(30)
        await r.deliver()
        steps.take()
    return steps.crashes


async def test_p17_wherever_it_stops_a_reader_sees_whole_objects_only_and_in_the_end_each_record_once() -> None:
    crashes = await run_with_steps()
    assert len(crashes) > 20
    for snapshot, objects, acknowledged, _ in crashes:
        assert set(seen(objects).values()) <= {1}
        sink = MemorySink()
        sink.objects.update(objects)
        async with rig(PLAN, owner=Owner(snapshot, at=200.0), sink=sink) as r:
            await r.deliver()
            assert len(manifests(sink)) == r.owner.count("record_listing") == r.owner.count("record_manifest")
        found = seen(sink.objects)
        assert acknowledged <= set(found)
        assert set(found.values()) == {1}
        # What was told before the crash is told again as it was.
        assert all(sink.objects[name] == content for name, content in objects.items())


class Refusing(MemorySink):
    """Takes data, and manifests when it is told to."""

    error: Exception | None = None

    async def write(self, obj: Object) -> None:
        if obj.name.startswith(FOLDER) and self.error is not None:
            raise self.error
        await super().write(obj)


async def test_a_manifest_that_cannot_be_written_is_tried_again_before_anything_is_forgotten() -> None:
    sink = Refusing()
    sink.error = SinkUnavailable("down")
    async with rig(PLAN, sink=sink) as r:
        await r.store.append("lake", [Outgoing(b"one")])
        r.store.demand("lake")
        await r.clock.advance(30)
        assert (len(sink.objects), r.owner.count("record_manifest"), r.owner.count("record_segment")) == (1, 0, 1)
        sink.error = None
        await r.clock.advance(120)
        assert seen(sink.objects) == {"one": 1}
        assert r.owner.count("record_manifest") == 1


async def test_a_manifest_that_is_refused_parks_its_segment_and_a_retry_writes_it() -> None:
    sink = Refusing()
    sink.error = ObjectRefused("not here")
    async with rig(PLAN, sink=sink) as r:
        await r.store.append("lake", [Outgoing(b"one")])
        r.store.demand("lake")
        await r.clock.advance(30)
        assert (seen(sink.objects), r.owner.count("record_segment")) == ({}, 1)
        sink.error = None
        await r.log.parking.retry("lake", None)
        await r.clock.advance(30)
        assert seen(sink.objects) == {"one": 1}


async def test_streams_of_memory_durability_tell_too_and_boots_keep_apart() -> None:
    spec = StreamSpec("lake", "memory://lake", compression="none", durability="memory", manifest=True)
    sink = MemorySink()
    for boot in (1, 2):
        owner = Owner(at=0.0)
        owner.boot = boot
        async with rig(DeliveryPlan(spec), owner=owner, sink=sink) as r:
            await r.store.append("lake", [Outgoing(f"boot {boot}".encode())])
            await r.deliver()
    assert sorted(seen(sink.objects)) == ["boot 1", "boot 2"]
    assert len(manifests(sink)) == 2


# Reading


def entry(name: str, first: int = 1) -> Entry:
    return Entry(name, "", "rows", 1, 10, 7, first, first, 0.0, "jsonl", "gzip")


def told(added: list[Entry], removed: list[str]) -> Listing:
    return Listing(1, "lake", "3f9a0c12", added, removed)


def test_what_counts_is_added_and_not_removed_in_any_order_of_reading() -> None:
    manifests = [told([entry("b", 2)], []), told([entry("c", 1)], ["a"]), told([entry("a", 1)], [])]
    assert list(live(manifests)) == list(live(manifests[::-1])) == ["c", "b"]


def test_a_manifest_of_a_later_version_is_refused() -> None:
    later = msgspec.json.encode({"version": 2, "stream": "lake", "store": "x", "added": [], "removed": [], "new": 1})
    with pytest.raises(ObjectRefused, match="version 2; this pipeflow reads 1"):
        live([later])
    with pytest.raises(ObjectRefused, match="no manifest"):
        live([b"{"])


def test_fields_that_a_later_version_adds_are_passed_over() -> None:
    content = manifest.encode("lake", "3f9a0c12", [])
    more = {**msgspec.json.decode(content), "note": "hello"}
    assert live([msgspec.json.encode(more)]) == {}


# Declaring


def test_a_stream_whose_name_makes_no_folder_is_refused_when_it_is_declared() -> None:
    app = App("shop")
    with pytest.raises(ConfigurationError, match=r"stream con: manifest=True: .*; give it another name"):
        app.stream("con", bytes, sink="memory://lake", manifest=True)


def test_merging_needs_manifests_and_a_format_that_can_be_merged() -> None:
    app = App("shop")
    with pytest.raises(ConfigurationError, match=r"lake: target_bytes merges files.*; add manifest=True"):
        app.stream("lake", bytes, sink="memory://lake", target_bytes=1 << 20)
    with pytest.raises(ConfigurationError, match="compression='zip' is not merged; use jsonl, raw or csv"):
        app.stream("lake", bytes, sink="memory://lake", target_bytes=1 << 20, manifest=True, compression="zip")
    with pytest.raises(ConfigurationError, match="target_bytes is 0; use at least 1"):
        app.stream("lake", bytes, sink="memory://lake", target_bytes=0, manifest=True)


class Counted(Refusing):
    """Knows how often it was given data."""

    writes = 0

    async def write(self, obj: Object) -> None:
        self.writes += not obj.name.startswith(FOLDER)
        await super().write(obj)


async def test_objects_that_only_their_manifest_waits_for_are_not_written_again_by_the_next_process() -> None:
    owner, sink = Owner(at=0.0), Counted()
    sink.error = SinkUnavailable("down")
    async with rig(PLAN, owner=owner, sink=sink) as r:
        await r.store.append("lake", [Outgoing(b"one")])
        r.store.demand("lake")
        await r.clock.advance(30)
        snapshot = owner.snapshot
    sink.error = None
    async with rig(PLAN, owner=Owner(snapshot, at=200.0), sink=sink) as r:
        await r.deliver()
    assert seen(sink.objects) == {"one": 1}
    assert sink.writes == 1
