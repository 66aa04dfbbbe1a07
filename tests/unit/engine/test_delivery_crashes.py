"""P17: the process is abandoned at every step there is, and the files still hold each acknowledged record once.

A step is a commit, or a write of the sink before or after it took effect. At each the store's file and the sink's
objects are copied as they are; then a new process goes on from the copies, and the files are counted.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from msgspec.structs import replace
from record_owner import Owner
from stream_rig import rig
from stream_steps import Crash, Steps, WatchedSink

from pipeflow.engine.plan import Attempt, BatchTransform, DeliveryPlan, Derived
from pipeflow.errors import Failed, SinkUnavailable
from pipeflow.events import Delivered
from pipeflow.messages import Column, Outgoing, Position
from pipeflow.protocols import Object
from pipeflow.sinks.memory import MemorySink
from pipeflow.specs import StreamSpec


def derived(body: bytes) -> Outgoing | None:
    if body.endswith(b"7"):
        return None
    if body.endswith(b"9"):
        raise ValueError("nine")
    return Outgoing(body, partition=f"part{body[-1:].decode()}")


def placed(body: bytes) -> Outgoing | None:
    return Outgoing(body, partition=f"part{body[-1:].decode()}")


SPEC = StreamSpec("lake", "memory://lake", compression="none", buffer_bytes=30, max_partitions=3)
PLANS = {
    "plain": DeliveryPlan(SPEC),
    "partitioned": DeliveryPlan(
        StreamSpec("lake", "memory://lake", compression="none", buffer_bytes=12, max_partitions=3, partitioned=True),
        placed,
    ),
    "transformed": DeliveryPlan(
        StreamSpec("lake", "memory://lake", compression="none", buffer_bytes=12, transformed=True, partitioned=True),
        derived,
    ),
}


async def run_with_steps(plan: DeliveryPlan, rounds: int) -> list[Crash]:
    owner, sink = Owner(at=0.0), WatchedSink()
    steps = Steps(owner, sink)
    async with rig(plan, owner=owner, sink=sink) as r:
        for n in range(rounds):
            records = [f"{n}-{i}" for i in range(10)]
            steps.offered.update(records)
            answers = await r.store.append("lake", [Outgoing(record.encode()) for record in records])
            assert all(isinstance(answer, Position) for answer in answers)
            steps.acknowledged.update(records)
            if n % 2:
                await r.clock.advance(30)
        await r.deliver()
        steps.take()
    return steps.crashes


async def go_on_from(plan: DeliveryPlan, crash: Crash) -> Counter[str]:
    """Open the copy, deliver everything, and count the records in the files."""
    snapshot, objects, _, _ = crash
    sink = MemorySink()
    sink.objects.update(objects)
    async with rig(plan, owner=Owner(snapshot, at=200.0), sink=sink) as r:
        await r.deliver()
        stats = await r.stats()
        assert stats.accepted == stats.delivered + stats.dropped + stats.failed
        assert stats.buffered == stats.buffered_bytes == 0
        assert r.owner.count("record_block") == r.owner.count("record_segment") == 0
        assert r.owner.count("record_manifest") == len(sink.objects) == stats.objects
    return Counter(
        line for name, content in sink.objects.items() if not name.startswith("errors/")
        for line in content.decode().split()
    )  # fmt: skip


@pytest.mark.parametrize("kind", PLANS)
async def test_p17_wherever_it_stops_files_hold_each_acknowledged_record_exactly_once(kind: str) -> None:
    plan = PLANS[kind]
    crashes = await run_with_steps(plan, rounds=6)
    assert len(crashes) > 30
    for crash in crashes:
        _, _, acknowledged, offered = crash
        found = await go_on_from(plan, crash)
        kept = {record for record in acknowledged if kind != "transformed" or record[-1] not in "79"}
        assert kept <= set(found)
        assert set(found) <= offered
        assert set(found.values()) <= {1}


async def in_batches(attempt: Attempt) -> Sequence[Derived | Exception]:
    """Drops sevens, refuses nines, doubles ones, and takes no batch with a poisonous three."""
    bodies = [part.body for part in attempt.parts]
    if any(body.endswith(b"3") for body in bodies):
        raise ValueError("three")
    return [multiplied(body) if not body.endswith(b"9") else Failed("nine") for body in bodies]


def multiplied(body: bytes) -> Derived:
    if body.endswith(b"9"):
        raise ValueError("nine")
    if body.endswith(b"3"):
        raise ValueError("three")
    if body.endswith(b"7"):
        return None
    if body.endswith(b"1"):
        return [Outgoing(body + b"x", partition="ones"), Outgoing(body + b"y", partition="others")]
    return Outgoing(body, partition="rest")


MADE_SPEC = StreamSpec("lake", "memory://lake", compression="none", buffer_bytes=30, transformed=True, partitioned=True)
PACKED_SPEC = replace(MADE_SPEC, decompress="gzip", split="delimiter", split_delimiter=b"|")
GATHERING = BatchTransform(in_batches, size=4, buffer_seconds=10, retries=1)
MAKING = {
    "one to many": DeliveryPlan(MADE_SPEC, multiplied),
    "in batches": DeliveryPlan(MADE_SPEC, batch=GATHERING),
    "unpacked": DeliveryPlan(PACKED_SPEC, multiplied),
    "unpacked in batches": DeliveryPlan(PACKED_SPEC, batch=GATHERING),
}


def expected_of(record: str) -> list[str]:
    """What lies in the files of one record: its lines, or itself in the errors."""
    if record[-1] in "39":
        return [f"errors/{record}"]
    return {"7": [], "1": [f"{record}x", f"{record}y"]}.get(record[-1], [record])


def found_in(objects: dict[str, bytes]) -> Counter[str]:
    found: Counter[str] = Counter()
    for name, content in objects.items():
        for line in content.decode().split():
            if name.startswith("errors/"):
                raw = base64.b64decode(json.loads(line)["rawData"])
                came = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
                found[f"errors/{came.decode()}"] += 1
            else:
                found[line] += 1
    return found


def packed(records: list[str]) -> list[bytes]:
    """Two records in each, but those that fail alone: a compressed record fails whole."""
    bad = [record for record in records if record[-1] in "39"]
    fine = [record for record in records if record not in bad]
    pairs = ["|".join(fine[n : n + 2]) for n in range(0, len(fine), 2)]
    return [gzip.compress(each.encode(), mtime=0) for each in [*pairs, *bad]]


@pytest.mark.parametrize("kind", MAKING)
async def test_p17_S22_wherever_it_stops_all_that_became_of_a_record_is_there_exactly_once(kind: str) -> None:
    plan = MAKING[kind]
    owner, sink = Owner(at=0.0), WatchedSink()
    steps = Steps(owner, sink)
    async with rig(plan, owner=owner, sink=sink) as r:
        for n in range(4):
            records = [f"{n}-{i}" for i in range(10)]
            steps.offered.update(records)
            bodies = packed(records) if "unpacked" in kind else [record.encode() for record in records]
            await r.store.append("lake", [Outgoing(body) for body in bodies])
            steps.acknowledged.update(records)
            if n % 2:
                await r.clock.advance(30)
        r.store.demand("lake")
        await r.clock.advance(60)
        await r.deliver()
        steps.take()
    assert len(steps.crashes) > 20
    for snapshot, objects, acknowledged, offered in steps.crashes:
        after = MemorySink()
        after.objects.update(objects)
        async with rig(plan, owner=Owner(snapshot, at=200.0), sink=after) as r:
            r.store.demand("lake")
            await r.clock.advance(60)
            await r.deliver()
            stats = await r.stats()
            assert stats.accepted + stats.added == stats.delivered + stats.dropped + stats.failed
            assert stats.buffered == stats.buffered_bytes == 0
        found = found_in(after.objects)
        assert {line for record in acknowledged for line in expected_of(record)} <= set(found)
        assert set(found) <= {line for record in offered for line in expected_of(record)}
        assert set(found.values()) <= {1}


async def test_p17_a_second_crash_while_the_first_is_recovered_from_changes_nothing() -> None:
    plan = PLANS["transformed"]
    crashes = await run_with_steps(plan, rounds=4)
    for snapshot, objects, acknowledged, _ in crashes[:: len(crashes) // 7]:
        owner, sink = Owner(snapshot, at=100.0), WatchedSink()
        sink.objects.update(objects)
        steps = Steps(owner, sink)
        async with rig(plan, owner=owner, sink=sink) as r:
            await r.deliver()
        for again in steps.crashes:
            found = await go_on_from(plan, again)
            assert {record for record in acknowledged if record[-1] not in "79"} <= set(found)
            assert set(found.values()) <= {1}


COLUMNS = (Column("id", "string", True), Column("n", "int64"))


def numbered(round: int, n: int) -> bytes:
    """A record; every fourth does not fit."""
    return f'{{"id":"{round}-{n}","n":{n}}}'.encode() if n % 4 else f'{{"n":"{round}-{n}"}}'.encode()


async def run_columnar(plan: DeliveryPlan) -> list[Crash]:
    owner, sink = Owner(at=0.0), WatchedSink()
    steps = Steps(owner, sink)
    async with rig(plan, owner=owner, sink=sink) as r:
        for round in range(3):
            await r.store.append("lake", [Outgoing(numbered(round, n)) for n in range(10)])
            steps.acknowledged.update(f"{round}-{n}" for n in range(10))
            if round == 1:
                await r.clock.advance(60)
        await r.deliver()
        steps.take()
    return steps.crashes


@pytest.mark.parametrize("format", ["csv", "parquet", "orc"])
async def test_p17_S62_wherever_it_stops_rows_and_misfits_are_each_in_one_object_under_the_same_names(
    format: str,
) -> None:
    if format != "csv":
        pytest.importorskip("pyarrow", reason="reads columnar files back with pyarrow: pip install 'pipeflow[parquet]'")
    plan = DeliveryPlan(
        StreamSpec("lake", "memory://lake", format=format, compression="none", buffer_bytes=150, columns=COLUMNS)  # type: ignore[arg-type]
    )
    crashes = await run_columnar(plan)
    whole = crashes[-1][1]
    assert any(name.startswith("errors/") for name in whole)
    for snapshot, objects, acknowledged, _ in crashes:
        sink = MemorySink()
        sink.objects.update(objects)
        async with rig(plan, owner=Owner(snapshot, at=200.0), sink=sink) as r:
            await r.deliver()
            stats = await r.stats()
            assert stats.accepted == stats.delivered + stats.failed
            assert r.owner.count("record_manifest") == len(sink.objects) == stats.objects
        found = Counter(_ids(sink.objects, format))
        assert acknowledged <= set(found)
        assert set(found.values()) <= {1}
        # What was begun before the crash is written again as it was, not beside itself.
        assert all(sink.objects[name] == content for name, content in objects.items())


def _ids(objects: dict[str, bytes], format: str) -> Iterator[str]:
    for name, content in objects.items():
        if name.startswith("errors/"):
            for line in content.splitlines():
                yield json.loads(base64.b64decode(json.loads(line)["rawData"]))["n"]
        elif format == "csv":
            yield from (row["id"] for row in csv.DictReader(io.StringIO(content.decode(), newline="")))
        else:
            import pyarrow as pa
            import pyarrow.orc
            import pyarrow.parquet

            read = pyarrow.orc.read_table if format == "orc" else pyarrow.parquet.read_table
            yield from map(str, read(pa.BufferReader(content)).column("id").to_pylist())


async def test_S62_a_sink_that_fails_between_two_objects_gets_both_once_it_is_well() -> None:
    class Halfway(MemorySink):
        ill = True

        async def write(self, obj: Object) -> None:
            if obj.name.startswith("errors/") and self.ill:
                raise SinkUnavailable("down")
            await super().write(obj)

    sink = Halfway()
    plan = DeliveryPlan(StreamSpec("lake", "memory://lake", format="csv", compression="gzip", columns=COLUMNS))
    async with rig(plan, sink=sink) as r:
        await r.store.append("lake", [Outgoing(numbered(0, n)) for n in range(10)])
        r.store.demand("lake")
        await r.clock.advance(10)
        assert [name.rpartition(".csv")[2] for name in sink.objects] == [".gz"]
        sink.ill = False
        await r.clock.advance(60)
        stats = await r.stats()
        assert (stats.delivered, stats.failed, stats.objects, stats.buffered) == (7, 3, 2, 0)
        (error,) = [name for name in sink.objects if name.startswith("errors/lake-")]
        assert error.endswith(".jsonl.gz")
        (delivered,) = [event for event in r.events if isinstance(event, Delivered)]
        assert [facts.name for facts in delivered.objects] == list(sink.objects)
