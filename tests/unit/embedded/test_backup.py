"""Source record backup: every way into a stream also fills its backup, in one commit, wherever the process stops."""

from __future__ import annotations

from collections import Counter
from typing import cast

import anyio
import pytest
from record_owner import Owner
from stream_rig import LogStore

from pipeflow.embedded.log import Log
from pipeflow.engine.delivery import Delivery
from pipeflow.engine.plan import DeliveryPlan
from pipeflow.errors import Overloaded, RefusedError
from pipeflow.events import Observers
from pipeflow.messages import Manifest, Outgoing, Position, Refused
from pipeflow.names import Chance
from pipeflow.protocols import Object, Store
from pipeflow.sinks.memory import MemorySink
from pipeflow.specs import StreamSpec


def lake(**options: object) -> StreamSpec:
    return StreamSpec("lake", "memory://lake", backup="originals", **options)  # type: ignore[arg-type]  # from a dict


def originals(**options: object) -> StreamSpec:
    return StreamSpec("originals", "memory://originals", **options)  # type: ignore[arg-type]  # from a dict


def out(*bodies: str) -> list[Outgoing]:
    return [Outgoing(body.encode()) for body in bodies]


def accepted(log: Log) -> dict[str, int]:
    return {stats.name: stats.accepted for stats in log.stats()}


async def buffered(log: Log, stream: str) -> list[bytes]:
    """Every record that waits in the stream, whether for its transform or for delivery."""
    held = [body for block in await log.intake(stream, Position(0), 1_000_000) for body in block.bodies]
    log.outlet.demand(stream)
    while (segment := await log.outlet.seal(stream)) is not None:
        held += [body async for block in log.outlet.read(segment) for body in block.bodies]
    return held


@pytest.mark.parametrize("options", [{}, {"transformed": True}, {"partitioned": True}], ids=str)
async def test_S31_what_a_stream_accepts_lies_in_its_backup_as_it_came(options: dict[str, object]) -> None:
    log = Owner().open(lake(**options), originals(delimiter=b""))
    assert await log.append("lake", out("a", "b")) == [Position(1), Position(2)]
    assert log.append_in_group("lake", out("c")) == [Position(3)]
    lane = log.lane("lake")
    assert lane is not None
    lane.add([b"d", b"e"])
    assert accepted(log) == {"lake": 5, "originals": 5}
    assert await buffered(log, "originals") == [b"a", b"b", b"c", b"d", b"e"]
    assert await buffered(log, "lake") == [b"a", b"b", b"c", b"d", b"e"]


@pytest.mark.parametrize("durability", [None, "memory"])
async def test_S31_records_that_are_spread_over_partitions_lie_in_the_backup_in_the_order_they_came(
    durability: str | None,
) -> None:
    log = Owner().open(lake(durability=durability, partitioned=True), originals(durability=durability))
    lane = log.lane("lake")
    assert lane is not None
    lane.spread([b"a", b"b", b"c"], ["p", "q", "p"])
    assert await buffered(log, "originals") == [b"a", b"b", b"c"]
    assert await buffered(log, "lake") == [b"a", b"c", b"b"]


@pytest.mark.parametrize("durability", [None, "memory"])
async def test_S31_the_lane_of_a_stream_with_a_backup_grants_nothing_that_would_pass_the_backup(
    durability: str | None,
) -> None:
    log = Owner().open(lake(durability=durability), originals(durability=durability))
    lane = log.lane("lake")
    assert lane is not None
    lane.add([b"first"])
    assert lane.left == 0


async def test_S31_a_backup_that_is_declared_later_ends_what_the_lane_had_granted() -> None:
    plain = StreamSpec("lake", "memory://lake", durability="memory")
    log = Owner().open(plain, originals(durability="memory"))
    lane = log.lane("lake")
    assert lane is not None
    lane.add([b"first"])
    assert lane.left > 0
    log.declare(lake(durability="memory"))
    assert lane.left == 0
    lane.add([b"second"])
    assert await buffered(log, "originals") == [b"second"]


async def test_S31_a_record_that_the_backup_refuses_is_refused_whole_and_by_its_name() -> None:
    log = Owner().open(lake(), originals(max_record=3))
    first, long, last = await log.append("lake", out("abc", "abcd", "x"))
    assert (first, last) == (Position(1), Position(2))
    assert isinstance(long, Refused)
    assert long.code == "TooLarge"
    assert "stream originals: a record of 4 bytes; the limit is max_record=3" in long.reason
    assert log.check("lake", Outgoing(b"abcd")) == long
    lane = log.lane("lake")
    assert lane is not None
    with pytest.raises(RefusedError, match="stream originals: a record of 4 bytes"):
        lane.add([b"x", b"abcd"])
    assert accepted(log) == {"lake": 2, "originals": 2}


async def test_S31_putting_waits_while_the_backup_is_at_its_bound() -> None:
    owner = Owner()
    log = owner.open(lake(delimiter=b""), originals(buffer_bytes=10, max_buffered=10, delimiter=b""))
    await log.append("lake", out("0123456789"))
    lane = log.lane("lake")
    assert lane is not None
    with pytest.raises(Overloaded, match="stream originals: 10 bytes wait for memory://originals"):
        lane.add([b"x"])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.append, "lake", out("next"))
        tasks.start_soon(log.room, "lake")
        await owner.clock.settle()
        assert accepted(log) == {"lake": 1, "originals": 1}
        segment = await log.outlet.seal("originals")
        assert segment is not None
        await log.outlet.commit(segment, Manifest([]))
    assert accepted(log) == {"lake": 2, "originals": 2}


async def test_S31_a_partitioned_backup_takes_records_into_its_intake() -> None:
    log = Owner().open(lake(), originals(partitioned=True))
    await log.append("lake", out("a"))
    (block,) = await log.intake("originals", Position(0), 10)
    assert block.bodies == [b"a"]
    assert await buffered(log, "lake") == [b"a"]


async def test_S13_a_refused_record_stops_none_behind_it_and_answers_keep_length_and_order() -> None:
    log = Owner().open(StreamSpec("lake", "memory://lake", max_record=3))
    answers = await log.append("lake", out("a", "long", "b", "longer", "", "c"))
    assert [type(answer) for answer in answers] == [Position, Refused, Position, Refused, Position, Position]
    assert [answer.sequence for answer in answers if isinstance(answer, Position)] == [1, 2, 3, 4]
    assert await buffered(log, "lake") == [b"a", b"b", b"", b"c"]


class Stores:
    """Two streams with a running delivery each; at every commit and write, what a crash then would leave."""

    def __init__(self, owner: Owner, kept: dict[str, dict[str, bytes]]) -> None:
        self.owner = owner
        self.log = owner.open(LAKE.spec, ORIGINALS.spec)
        self.sinks = {name: Watched(self) for name in ("lake", "originals")}
        for name, objects in kept.items():
            self.sinks[name].objects.update(objects)
        self.acknowledged: list[str] = []
        self.crashes: list[tuple[bytes, dict[str, dict[str, bytes]], list[str]]] = []
        owner.on_commit = self.take

    def take(self) -> None:
        kept = {name: dict(sink.objects) for name, sink in self.sinks.items()}
        self.crashes.append((self.owner.snapshot, kept, list(self.acknowledged)))

    async def run(self, rounds: int) -> None:
        store = cast(Store, LogStore(self.owner, self.log))
        async with anyio.create_task_group() as tasks:
            for plan in (LAKE, ORIGINALS):
                sink = self.sinks[plan.spec.name]
                delivery = Delivery(
                    plan, store=store, sink=sink, clock=self.owner.clock, chance=Chance(7), observers=Observers()
                )
                delivery.start(tasks)
            await anyio.lowlevel.checkpoint()
            for round in range(rounds):
                records = [f"{round}-{n}" for n in range(10)]
                await self.log.append("lake", out(*records))
                self.acknowledged += records
                await self.owner.clock.advance(20)
            for name in self.sinks:
                store.demand(name)
                await store.delivered(name)
            tasks.cancel_scope.cancel()

    def lines(self, stream: str) -> Counter[str]:
        objects = self.sinks[stream].objects.items()
        return Counter(
            line for name, content in objects if not name.startswith("errors/") for line in content.decode().split()
        )


class Watched(MemorySink):
    def __init__(self, stores: Stores) -> None:
        super().__init__()
        self.stores = stores

    async def write(self, obj: Object) -> None:
        await super().write(obj)
        self.stores.take()


def without_sevens(body: bytes) -> Outgoing | None:
    if body.endswith(b"9"):
        raise ValueError("nine")
    return None if body.endswith(b"7") else Outgoing(b"+" + body)


LAKE = DeliveryPlan(lake(compression="none", transformed=True, buffer_bytes=30), without_sevens)
ORIGINALS = DeliveryPlan(originals(compression="none", delimiter=b"\n", buffer_bytes=50, buffer_seconds=10))


async def test_S31_wherever_it_stops_both_hold_what_was_acknowledged_exactly_once() -> None:
    stores = Stores(Owner(at=0.0), {})
    await stores.run(5)
    assert len(stores.crashes) > 40
    for snapshot, kept, acknowledged in stores.crashes:
        again = Stores(Owner(snapshot, at=500.0), kept)
        await again.run(0)
        found, transformed = again.lines("originals"), again.lines("lake")
        assert set(found.values()) | set(transformed.values()) <= {1}
        assert set(acknowledged) <= set(found)
        # The backup and the stream agree to the record, also on what was accepted and not acknowledged yet.
        assert set(transformed) == {"+" + record for record in found if record[-1] not in "79"}
