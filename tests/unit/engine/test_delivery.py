"""Delivery: from the store's log to objects, on the real engine and an exact virtual clock."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from stream_rig import Rig, rig

from pipeflow.engine.failures import Misplaced
from pipeflow.engine.plan import DeliveryPlan
from pipeflow.errors import ObjectRefused, Overloaded, SinkUnavailable
from pipeflow.events import Delivered, DeliveryFailed
from pipeflow.messages import Outgoing
from pipeflow.protocols import Object
from pipeflow.sinks.memory import MemorySink
from pipeflow.specs import StreamSpec


def spec(**options: object) -> StreamSpec:
    return StreamSpec("lake", "memory://lake", **{"compression": "none", **options})  # type: ignore[arg-type]


def out(*bodies: str) -> list[Outgoing]:
    return [Outgoing(body.encode()) for body in bodies]


class Sick(MemorySink):
    """Fails while it is sick, in the way it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.sickness: Exception | None = None
        self.tries = 0

    async def write(self, obj: Object) -> None:
        self.tries += 1
        if self.sickness is not None:
            raise self.sickness
        await super().write(obj)


async def test_S33_a_buffer_is_delivered_when_its_time_comes() -> None:
    async with rig(DeliveryPlan(spec(buffer_seconds=60))) as r:
        await r.store.append("lake", out("a"))
        await r.clock.advance(59.9)
        assert r.sink.objects == {}
        await r.store.append("lake", out("b"))
        await r.clock.advance(0.1)
        assert list(r.sink.objects.values()) == [b"a\nb\n"]


async def test_S33_a_buffer_is_delivered_when_it_is_full() -> None:
    async with rig(DeliveryPlan(spec(buffer_bytes=6))) as r:
        await r.store.append("lake", out("abc", "d", "e"))
        await r.clock.settle()
        assert list(r.sink.objects.values()) == [b"abc\nd\n"]


@pytest.mark.parametrize(
    ("format", "delimiter", "content"),
    [("jsonl", None, b"a\nb\n"), ("raw", None, b"ab"), ("raw", b";", b"a;b;")],
)
async def test_S23_a_delimiter_follows_every_record_the_last_included(
    format: str, delimiter: bytes | None, content: bytes
) -> None:
    async with rig(DeliveryPlan(spec(format=format, delimiter=delimiter))) as r:
        await r.store.append("lake", out("a", "b"))
        await r.deliver()
        assert list(r.sink.objects.values()) == [content]


async def test_S21_and_S72_order_is_kept_inside_an_object_and_objects_are_made_in_flush_order() -> None:
    async with rig(DeliveryPlan(spec(buffer_bytes=50))) as r:
        numbers = [f"{n:03d}" for n in range(100)]
        await r.store.append("lake", out(*numbers))
        await r.deliver()
        assert b"".join(r.sink.objects.values()).decode().split() == numbers
        assert list(r.sink.objects) == sorted(r.sink.objects)


async def test_a_sink_that_fails_is_tried_again_later_and_later_and_nothing_is_lost() -> None:
    sink = Sick()
    sink.sickness = SinkUnavailable("disk full")
    async with rig(DeliveryPlan(spec()), sink=sink) as r:
        await r.store.append("lake", out("a"))
        r.store.demand("lake")
        await r.clock.advance(3600)
        failures = [event for event in r.events if isinstance(event, DeliveryFailed)]
        assert len(failures) == sink.tries >= 3
        assert all(event.again_at is not None and event.again_at - event.at <= 60 for event in failures)
        sink.sickness = None
        await r.clock.advance(60)
        assert list(r.sink.objects.values()) == [b"a\n"]
        assert (await r.stats()).buffered == 0


async def test_a_dead_sink_stops_accepting_at_the_bound_and_never_loses() -> None:
    sink = Sick()
    sink.sickness = SinkUnavailable("down")
    async with rig(DeliveryPlan(spec(buffer_bytes=10, max_buffered=20)), sink=sink) as r:
        for n in range(4):
            await r.store.append("lake", out(f"{n}234"))
        lane = r.store.lane("lake")
        assert lane is not None
        with pytest.raises(Overloaded):
            lane.add([b"more"])
        sink.sickness = None
        await r.clock.advance(3600)
        await r.store.append("lake", out("more"))
        await r.deliver()
        assert b"".join(r.sink.objects.values()) == b"0234\n1234\n2234\n3234\nmore\n"


async def test_a_refused_object_is_parked_and_later_ones_go_on() -> None:
    sink = Sick()
    async with rig(DeliveryPlan(spec(buffer_bytes=2)), sink=sink) as r:
        sink.sickness = ObjectRefused("not yours")
        await r.store.append("lake", out("a"))
        await r.clock.settle()
        sink.sickness = None
        await r.store.append("lake", out("b"))
        await r.clock.settle()
        assert list(r.sink.objects.values()) == [b"b\n"]
        (failed,) = [event for event in r.events if isinstance(event, DeliveryFailed)]
        assert failed.again_at is None
        with pytest.raises(ObjectRefused):
            await r.store.delivered("lake")


async def test_an_object_of_that_name_that_is_not_ours_is_not_replaced() -> None:
    async with rig(DeliveryPlan(spec())) as r:
        await r.clock.advance(1)
        await r.store.append("lake", out("a"))
        await r.deliver()
        (name,) = r.sink.objects
        foreign = name.replace("000000000001", "000000000002")
        foreign = foreign.replace("-000000000002-000000000002-", "-000000000002-000000000002-")
        r.sink.objects[foreign] = b"theirs"
        await r.store.append("lake", out("b"))
        with pytest.raises(ObjectRefused):
            await r.deliver()
        assert r.sink.objects[foreign] == b"theirs"


async def test_delivered_events_tell_why_what_and_how_much() -> None:
    async with rig(DeliveryPlan(spec(compression="gzip"))) as r:
        await r.store.append("lake", out("abc"))
        await r.deliver()
        (event,) = [event for event in r.events if isinstance(event, Delivered)]
        assert (event.stream, event.partition, event.reason, event.records, event.size) == ("lake", "", "demand", 1, 4)
        (facts,) = event.objects
        content = r.sink.objects[facts.name]
        assert facts.size == len(content)
        assert gzip.decompress(content) == b"abc\n"


# Transforms


def upper(body: bytes) -> Outgoing | None:
    if body == b"bad":
        raise ValueError("not this one")
    return None if body == b"drop" else Outgoing(body.upper())


async def upper_later(body: bytes) -> Outgoing | None:
    await anyio.lowlevel.checkpoint()
    return upper(body)


@pytest.mark.parametrize("derive", [upper, upper_later])
async def test_S28_ok_is_delivered_dropped_is_gone_and_failed_lies_beside_them(
    derive: Callable[[bytes], Outgoing | None],
) -> None:
    async with rig(DeliveryPlan(spec(transformed=True), derive)) as r:
        await r.store.append("lake", out("a", "drop", "bad", "b"))
        await r.deliver()
        good = {name: content for name, content in r.sink.objects.items() if not name.startswith("errors/")}
        (failed,) = [content for name, content in r.sink.objects.items() if name.startswith("errors/")]
        assert list(good.values()) == [b"A\nB\n"]
        record = json.loads(failed)
        assert base64.b64decode(record["rawData"]) == b"bad"
        stats = await r.stats()
        assert (stats.accepted, stats.delivered, stats.dropped, stats.failed, stats.buffered) == (4, 2, 1, 1, 0)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(3), RecursionError()])
async def test_S28_whatever_a_transform_raises_is_its_records_failure(error: BaseException) -> None:
    def strict(body: bytes) -> Outgoing | None:
        if body == b"bad":
            raise error
        return Outgoing(body)

    async with rig(DeliveryPlan(spec(transformed=True), strict)) as r:
        await r.store.append("lake", out("a", "bad", "b"))
        await r.deliver()
        stats = await r.stats()
        assert (stats.accepted, stats.delivered, stats.failed, stats.buffered) == (3, 2, 1, 0)


async def test_S60_an_error_record_has_the_members_of_firehose_with_numbers_as_numbers() -> None:
    async with rig(DeliveryPlan(spec(transformed=True), upper)) as r:
        await r.clock.advance(5.5)
        await r.store.append("lake", out("bad"))
        await r.deliver()
        (line,) = r.sink.objects.values()
        assert json.loads(line) == {
            "attemptsMade": 1,
            "arrivalTimestamp": 5500,
            "errorCode": "Transform.ValueError",
            "errorMessage": "not this one",
            "attemptEndingTimestamp": 5500,
            "rawData": base64.b64encode(b"bad").decode(),
        }
        assert line.endswith(b"}\n")


async def test_S63_an_error_code_starts_with_the_component_that_failed() -> None:
    def misplaced(body: bytes) -> Outgoing | None:
        raise Misplaced("KeyError: 'carrier'")

    async with rig(DeliveryPlan(spec(partitioned=True), misplaced)) as r:
        await r.store.append("lake", out("a"))
        await r.deliver()
        (line,) = r.sink.objects.values()
        assert json.loads(line)["errorCode"] == "DynamicPartitioning.MetadataExtractionFailed"


async def test_S63_errors_use_the_buffer_and_the_compression_of_the_stream() -> None:
    async with rig(
        DeliveryPlan(spec(transformed=True, compression="gzip", format="raw", buffer_seconds=7), upper)
    ) as r:
        await r.store.append("lake", out("bad", "bad"))
        await r.clock.advance(6.9)
        assert r.sink.objects == {}
        await r.clock.advance(0.1)
        ((name, content),) = r.sink.objects.items()
        assert name.endswith(".jsonl.gz")
        assert len(gzip.decompress(content).splitlines()) == 2


async def test_S34_the_size_counts_what_the_transform_made() -> None:
    async with rig(DeliveryPlan(spec(transformed=True, buffer_bytes=10), lambda body: Outgoing(body * 5))) as r:
        await r.store.append("lake", out("ab"))
        await r.clock.settle()
        assert list(r.sink.objects.values()) == [b"ababababab\n"]


async def test_S30_one_record_in_is_at_most_one_record_out_and_may_hold_several_lines() -> None:
    async with rig(DeliveryPlan(spec(transformed=True), lambda body: Outgoing(b"x\ny"))) as r:
        await r.store.append("lake", out("a"))
        await r.deliver()
        assert list(r.sink.objects.values()) == [b"x\ny\n"]
        assert (await r.stats()).delivered == 1


# Draining


async def test_S86_a_drain_delivers_every_open_buffer_and_says_so() -> None:
    async with rig(DeliveryPlan(spec())) as r:
        await r.store.append("lake", out("a"))
        assert await r.delivery.drain(r.clock.now() + 30)
        (event,) = [event for event in r.events if isinstance(event, Delivered)]
        assert event.reason == "drain"


async def test_a_drain_takes_what_still_has_to_be_transformed() -> None:
    async with rig(DeliveryPlan(spec(transformed=True), upper)) as r:
        await r.store.append("lake", out("a", "b"))
        assert await r.delivery.drain(r.clock.now() + 30)
        assert list(r.sink.objects.values()) == [b"A\nB\n"]


@pytest.mark.parametrize("durability", [None, "memory"])
async def test_a_drain_with_a_dead_sink_ends_in_time(durability: str | None) -> None:
    sink = Sick()
    sink.sickness = SinkUnavailable("down")
    async with rig(DeliveryPlan(spec(durability=durability)), sink=sink, durable=True) as r:
        await r.store.append("lake", out("a"))
        if durability is None:
            # The store keeps the records: there is nothing to wait for.
            assert not await r.delivery.drain(r.clock.now() + 30)
        else:
            async with anyio.create_task_group() as tasks:
                ended: list[bool] = []

                async def drain() -> None:
                    ended.append(await r.delivery.drain(r.clock.now() + 30))

                tasks.start_soon(drain)
                await r.clock.settle()
                await r.clock.advance(29)
                assert ended == []
                await r.clock.advance(1)
            assert ended == [False]


async def test_segments_in_hand_are_given_back_when_delivery_ends() -> None:
    sink = Sick()
    sink.sickness = SinkUnavailable("down")
    async with rig(DeliveryPlan(spec(buffer_bytes=2)), sink=sink) as r:
        await r.store.append("lake", out("a", "b", "c", "d", "e"))
        await r.clock.settle()
        r.stop()
        await r.clock.settle()
        sink.sickness = None
        r.start()
        await r.deliver()
        assert b"".join(r.sink.objects.values()) == b"a\nb\nc\nd\ne\n"


@asynccontextmanager
async def two_streams(first: DeliveryPlan, second: DeliveryPlan) -> AsyncIterator[tuple[Rig, Rig]]:
    async with rig(first) as one, rig(second) as other:
        yield one, other


async def test_zstd_and_gzip_read_back() -> None:
    zstandard = pytest.importorskip("zstandard")
    plans = DeliveryPlan(spec(compression="zstd")), DeliveryPlan(spec(compression="gzip"))
    async with two_streams(*plans) as (one, other):
        for r in (one, other):
            await r.store.append("lake", out("a", "b"))
            await r.deliver()
        (packed,) = one.sink.objects.values()
        assert zstandard.ZstdDecompressor().decompress(packed) == b"a\nb\n"
        (packed,) = other.sink.objects.values()
        assert gzip.decompress(packed) == b"a\nb\n"
