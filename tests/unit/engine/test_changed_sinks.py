"""A stream may get another sink while a segment is half delivered: nothing of it is taken for delivered."""

from __future__ import annotations

import base64
import json

import msgspec
from record_owner import Owner
from stream_rig import rig

from pipeflow.engine.plan import DeliveryPlan
from pipeflow.errors import SinkUnavailable
from pipeflow.messages import Column, Outgoing, Records
from pipeflow.protocols import Object, RecordBatch
from pipeflow.sinks.memory import MemorySink
from pipeflow.specs import StreamSpec

SPEC = StreamSpec("lake", "memory://lake", compression="none")
DOWN = SinkUnavailable("down")


class Endpoint(MemorySink):
    """Takes so many records, one in a request, and then no more."""

    def __init__(self, takes: int = 1_000) -> None:
        super().__init__()
        self.takes = takes
        self.got: list[bytes] = []

    def split(self, batch: RecordBatch) -> list[RecordBatch]:
        return [
            msgspec.structs.replace(
                batch, name=f"{batch.name}#{block.first + n}", blocks=[Records(1, block.at, [body])]
            )
            for block in batch.blocks
            for n, body in enumerate(block.bodies)
        ]

    async def deliver(self, batch: RecordBatch) -> None:
        if len(self.got) == self.takes:
            raise DOWN
        self.got += [body for block in batch.blocks for body in block.bodies]


class NoErrors(MemorySink):
    """Takes no errors."""

    async def write(self, obj: Object) -> None:
        if obj.name.startswith("errors/"):
            raise DOWN
        await super().write(obj)


async def half_delivered(spec: StreamSpec, sink: MemorySink, failures: MemorySink | None = None) -> bytes:
    """The store, when this sink had some of three records and then failed for a minute."""
    owner = Owner(at=0.0)
    async with rig(DeliveryPlan(spec), owner=owner, sink=sink, failures=failures) as r:
        await r.store.append("lake", [Outgoing(body) for body in (b'{"n":1}', b'{"n":2}', b"odd")])
        r.store.demand("lake")
        await r.clock.advance(60)
        assert (await r.stats()).buffered == 3
    return owner.snapshot


async def test_what_an_endpoint_took_in_part_is_written_whole_to_the_files_that_take_its_place() -> None:
    endpoint = Endpoint(takes=2)
    snapshot = await half_delivered(SPEC, endpoint)
    assert len(endpoint.got) == 2
    async with rig(DeliveryPlan(SPEC), owner=Owner(snapshot, at=100.0)) as r:
        await r.deliver()
        assert list(r.sink.objects.values()) == [b'{"n":1}\n{"n":2}\nodd\n']
        stats = await r.stats()
        assert (stats.delivered, stats.objects, stats.object_bytes) == (3, 1, 20)


async def test_what_files_took_in_part_is_sent_whole_to_the_endpoint_that_takes_their_place() -> None:
    table = msgspec.structs.replace(SPEC, format="csv", columns=(Column("n", "int64"),))
    files = NoErrors()
    snapshot = await half_delivered(table, files)
    assert len(files.objects) == 1
    async with rig(DeliveryPlan(table), owner=Owner(snapshot, at=100.0), sink=Endpoint()) as r:
        await r.deliver()
        assert r.sink.got == [b'{"n":1}', b'{"n":2}', b"odd"]  # type: ignore[attr-defined]


async def test_what_an_endpoint_took_in_part_and_was_diverted_lies_whole_in_failures() -> None:
    failing = msgspec.structs.replace(SPEC, failures="memory://failed", retry_seconds=5)
    failures = NoErrors()
    snapshot = await half_delivered(failing, Endpoint(takes=2), failures)
    assert failures.objects == {}
    emptied = MemorySink()
    async with rig(DeliveryPlan(failing), owner=Owner(snapshot, at=100.0), failures=emptied) as r:
        await r.deliver()
        (content,) = emptied.objects.values()
        bodies = [base64.b64decode(json.loads(line)["rawData"]) for line in content.splitlines()]
        assert bodies == [b'{"n":1}', b'{"n":2}', b"odd"]
        assert (r.sink.objects, (await r.stats()).failed) == ({}, 3)
