"""What becomes of a segment that its sink does not take: tried again, diverted, parked, or dropped where asked."""

from __future__ import annotations

import base64
import gzip
import json
import logging
from math import inf

import anyio
import pytest
from record_owner import Owner
from stream_rig import Rig, rig

from pipeflow.engine.plan import DeliveryPlan
from pipeflow.engine.writing import Again, Divert, Expire, Limits, Park, Verdict, decide
from pipeflow.errors import ObjectRefused, SinkUnavailable
from pipeflow.events import DeliveryFailed
from pipeflow.messages import Outgoing, Trouble
from pipeflow.protocols import Object
from pipeflow.sinks.memory import MemorySink
from pipeflow.specs import StreamSpec

HOUR = 3600.0
DOWN = SinkUnavailable("down")
NEVER = ObjectRefused("not yours")


def spec(**options: object) -> StreamSpec:
    return StreamSpec("lake", "memory://lake", **{"compression": "none", **options})  # type: ignore[arg-type]


def out(*bodies: str) -> list[Outgoing]:
    return [Outgoing(body.encode()) for body in bodies]


class Sick(MemorySink):
    """Fails while it is sick, in the way it is told to; `fooled`: it takes the object and fails all the same."""

    def __init__(self, sickness: Exception | None = None, fooled: bool = False) -> None:
        super().__init__()
        self.sickness = sickness
        self.fooled = fooled
        self.tries: list[str] = []

    async def write(self, obj: Object) -> None:
        self.tries.append(obj.name)
        if self.sickness is None or self.fooled:
            await super().write(obj)
        if self.sickness is not None:
            raise self.sickness


# The decision


@pytest.mark.parametrize(
    ("error", "waited", "limits", "age", "verdict"),
    [
        (DOWN, 1e9, Limits(), 1e9, Again(7.0)),
        (DOWN, 0.0, Limits(retry_seconds=300), 0, Again(7.0)),
        (DOWN, 298.0, Limits(retry_seconds=300), 0, Again(2.0)),
        (DOWN, 300.0, Limits(retry_seconds=300), 0, Park()),
        (DOWN, 300.0, Limits(retry_seconds=300, failures=True), 0, Divert()),
        (DOWN, 0.0, Limits(retry_seconds=0), 0, Park()),
        (DOWN, 0.0, Limits(max_age=60), 59.9, Again(7.0)),
        (DOWN, 0.0, Limits(max_age=60), 60.0, Expire()),
        (SinkUnavailable("busy", retry_after=30), 0.0, Limits(), 0, Again(30.0)),
        (SinkUnavailable("busy", retry_after=30), 290.0, Limits(retry_seconds=300), 0, Again(10.0)),
        (NEVER, 0.0, Limits(failures=True), 0, Park()),
        (NEVER, 0.0, Limits(max_age=60), 1e9, Park()),
    ],
)
def test_S59_S70_what_becomes_of_a_segment_whose_attempt_failed(
    error: SinkUnavailable | ObjectRefused, waited: float, limits: Limits, age: float, verdict: Verdict
) -> None:
    assert decide(error, Trouble(1, waited), limits, age=age, pause=7.0) == verdict


# Without a limit


async def test_S17_S70_a_dead_sink_is_tried_for_days_and_nothing_is_dropped_by_time() -> None:
    sink = Sick(DOWN)
    async with rig(DeliveryPlan(spec()), sink=sink) as r:
        await r.store.append("lake", out("a"))
        r.store.demand("lake")
        await r.clock.advance(72 * HOUR)
        assert (await r.stats()).buffered == 1
        sink.sickness = None
        await r.clock.advance(60)
        assert list(sink.objects.values()) == [b"a\n"]


async def test_S71_a_write_that_came_through_after_all_is_replaced_and_makes_no_second_object() -> None:
    sink = Sick(DOWN, fooled=True)
    async with rig(DeliveryPlan(spec()), sink=sink) as r:
        await r.store.append("lake", out("a"))
        r.store.demand("lake")
        await r.clock.advance(60)
        assert len(set(sink.tries)) == 1 < len(sink.tries)
        sink.sickness = None
        await r.clock.advance(60)
        assert list(sink.objects.values()) == [b"a\n"]


# Parking


async def parked(r: Rig, sink: Sick, *bodies: str) -> None:
    """These records are parked after `retry_seconds`; the sink works again."""
    sink.sickness = DOWN
    await r.store.append("lake", out(*bodies))
    r.store.demand("lake")
    await r.clock.advance(HOUR)
    sink.sickness = None


async def test_what_is_parked_leaves_room_to_those_who_put_as_long_as_any_is_left() -> None:
    sink = Sick(DOWN)
    options = {"retry_seconds": 0, "buffer_bytes": 20, "max_buffered": 20, "buffer_seconds": 3600}
    async with rig(DeliveryPlan(spec(**options)), sink=sink) as r:
        await r.store.append("lake", out("a" * 9))
        r.store.demand("lake")
        await r.clock.settle()
        assert (await r.stats()).parked == 1
        sink.sickness = None
        with anyio.fail_after(10):
            for _ in range(9):
                await r.store.append("lake", out("bb"))
        assert r.clock.now() == 0.0


async def test_S59_after_retry_seconds_a_segment_is_parked_and_later_ones_pass_it() -> None:
    sink = Sick(DOWN)
    async with rig(DeliveryPlan(spec(retry_seconds=300)), sink=sink) as r:
        await r.store.append("lake", out("a"))
        r.store.demand("lake")
        await r.clock.advance(299)
        assert r.log.parking.parked("lake") == []
        await r.clock.advance(2)
        (segment,) = r.log.parking.parked("lake")
        assert (segment.records, segment.code, segment.reason) == (1, "Sink.Unavailable", "down")
        assert segment.attempts == len(sink.tries) > 3
        sink.sickness = None
        await r.store.append("lake", out("b"))
        with pytest.raises(ObjectRefused, match=r"parked \(down\).*`pipeflow parked retry lake --all`"):
            await r.deliver()
        assert list(sink.objects.values()) == [b"b\n"]
        stats = await r.stats()
        assert (stats.parked, stats.parked_segments, stats.buffered, stats.delivered) == (1, 1, 1, 1)


async def test_a_parked_segment_is_delivered_under_its_name_when_it_is_retried() -> None:
    sink = Sick()
    async with rig(DeliveryPlan(spec(retry_seconds=10)), sink=sink) as r:
        await parked(r, sink, "a", "b")
        (segment,) = r.log.parking.parked("lake")
        assert await r.log.parking.retry("lake", [segment.id]) == 1
        await r.clock.settle()
        assert sink.objects == {segment.name: b"a\nb\n"}
        stats = await r.stats()
        assert (stats.parked, stats.buffered, stats.buffered_bytes, stats.delivered) == (0, 0, 0, 2)


async def test_an_object_that_an_attempt_left_behind_is_replaced_by_the_operators_retry() -> None:
    sink = Sick()
    sink.fooled = True
    async with rig(DeliveryPlan(spec(retry_seconds=10)), sink=sink) as r:
        await parked(r, sink, "a")
        assert list(sink.objects.values()) == [b"a\n"]
        await r.log.parking.retry("lake", None)
        await r.clock.settle()
        assert (await r.stats()).delivered == 1


async def test_an_object_of_somebody_else_is_not_replaced_by_a_retry_after_a_restart() -> None:
    sink = Sick(NEVER)
    owner = Owner(at=0.0)
    async with rig(DeliveryPlan(spec()), sink=sink, owner=owner) as r:
        await r.clock.advance(1)
        await r.store.append("lake", out("a"))
        r.store.demand("lake")
        await r.clock.settle()
        (segment,) = r.log.parking.parked("lake")
    sink.sickness = None
    sink.objects[segment.name] = b"theirs"
    async with rig(DeliveryPlan(spec()), sink=sink, owner=Owner(owner.snapshot, at=50.0)) as r:
        await r.log.parking.retry("lake", None)
        await r.clock.settle()
        assert sink.objects[segment.name] == b"theirs"
        assert len(r.log.parking.parked("lake")) == 1
        del sink.objects[segment.name]
        await r.log.parking.retry("lake", None)
        await r.clock.settle()
        assert sink.objects[segment.name] == b"a\n"


async def test_a_retry_has_all_of_retry_seconds_before_it_and_goes_on_counting_attempts() -> None:
    sink = Sick()
    async with rig(DeliveryPlan(spec(retry_seconds=10)), sink=sink) as r:
        await parked(r, sink, "a")
        (first,) = r.log.parking.parked("lake")
        sink.sickness = DOWN
        await r.log.parking.retry("lake", None)
        await r.clock.advance(9)
        assert r.log.parking.parked("lake") == []
        await r.clock.advance(HOUR)
        (second,) = r.log.parking.parked("lake")
        assert second.attempts > first.attempts + 1


async def test_what_is_parked_counts_against_the_bound_and_discarding_makes_room() -> None:
    sink = Sick(DOWN)
    async with rig(DeliveryPlan(spec(retry_seconds=0, buffer_bytes=10, max_buffered=20)), sink=sink) as r:
        await r.store.append("lake", out("123456789"))
        await r.store.append("lake", out("123456789"))
        await r.clock.settle()
        putting = anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def put() -> None:
                await r.store.append("lake", out("more"))
                putting.set()

            tasks.start_soon(put)
            await r.clock.settle()
            assert not putting.is_set()
            sink.sickness = None
            first, _ = r.log.parking.parked("lake")
            assert await r.log.parking.discard("lake", [first.id]) == 1
            await r.clock.settle()
            assert putting.is_set()
        stats = await r.stats()
        assert (stats.discarded, stats.parked, stats.accepted) == (1, 1, 3)


async def test_a_drain_delivers_what_can_be_beside_what_is_parked() -> None:
    sink = Sick()
    async with rig(DeliveryPlan(spec(retry_seconds=10)), sink=sink) as r:
        await parked(r, sink, "a")
        await r.store.append("lake", out("b"))
        assert not await r.delivery.drain(r.clock.now() + 30)
        assert list(sink.objects.values()) == [b"b\n"]


async def test_S59_what_was_waited_before_a_restart_counts_and_the_downtime_does_not() -> None:
    sink = Sick(DOWN)
    owner = Owner(at=0.0)
    plan = DeliveryPlan(spec(retry_seconds=300))
    async with rig(plan, sink=sink, owner=owner) as r:
        await r.store.append("lake", out("a"))
        r.store.demand("lake")
        await r.clock.advance(250)
        tries = len(sink.tries)
    async with rig(plan, sink=sink, owner=Owner(owner.snapshot, at=HOUR)) as r:
        assert len(sink.tries) > tries
        assert r.log.parking.parked("lake") == []
        # At most the last pause, which the crash cut off, is waited again.
        await r.clock.advance(50 + 60)
        (segment,) = r.log.parking.parked("lake")
        assert segment.attempts == len(sink.tries)


# The sink for failures


async def test_S59_S60_with_failures_the_records_become_error_records_there_and_the_segment_is_done() -> None:
    sink, failures = Sick(DOWN), Sick()
    options = spec(retry_seconds=0, failures="memory://failed", compression="gzip")
    async with rig(DeliveryPlan(options), sink=sink, failures=failures) as r:
        await r.clock.advance(5)
        await r.store.append("lake", out("a", "b"))
        await r.clock.advance(2)
        await r.deliver()
        ((name, content),) = failures.objects.items()
        assert name.startswith("errors/delivery-failed/lake-")
        assert name.endswith("-undelivered.jsonl.gz")
        first, second = map(json.loads, gzip.decompress(content).splitlines())
        assert first == {
            "attemptsMade": 1,
            "arrivalTimestamp": 5000,
            "errorCode": "Sink.Unavailable",
            "errorMessage": "down",
            "attemptEndingTimestamp": 7000,
            "rawData": base64.b64encode(b"a").decode(),
        }
        assert base64.b64decode(second["rawData"]) == b"b"
        stats = await r.stats()
        assert (stats.accepted, stats.delivered, stats.failed, stats.buffered, stats.parked) == (2, 0, 2, 0, 0)
        assert sink.objects == {}


async def test_S45_the_error_prefix_says_where_they_lie_with_a_type_of_their_own() -> None:
    failures = Sick()
    options = spec(retry_seconds=0, failures="memory://failed", error_prefix="bad/!{firehose:error-output-type}/")
    async with rig(DeliveryPlan(options), sink=Sick(DOWN), failures=failures) as r:
        await r.store.append("lake", out("a"))
        await r.deliver()
        (name,) = failures.objects
        assert name.startswith("bad/delivery-failed/lake-")


async def test_S73_while_neither_sink_works_the_stream_waits_and_loses_nothing() -> None:
    sink, failures = Sick(DOWN), Sick(SinkUnavailable("full"))
    options = spec(retry_seconds=5, failures="memory://failed", buffer_bytes=4, max_buffered=8)
    async with rig(DeliveryPlan(options), sink=sink, failures=failures) as r:
        await r.store.append("lake", out("abc"))
        await r.clock.advance(24 * HOUR)
        assert (await r.stats()).buffered == 1
        failures.sickness = None
        await r.clock.advance(60)
        assert len(failures.objects) == 1
        assert ((await r.stats()).failed, (await r.stats()).buffered) == (1, 0)


async def test_a_crash_between_the_failures_object_and_its_commit_writes_it_again_and_delivers_nothing_twice() -> None:
    sink, failures = Sick(DOWN), Sick(SinkUnavailable("full"), fooled=True)
    owner = Owner(at=0.0)
    plan = DeliveryPlan(spec(retry_seconds=0, failures="memory://failed"))
    async with rig(plan, sink=sink, failures=failures, owner=owner) as r:
        await r.store.append("lake", out("a"))
        r.store.demand("lake")
        await r.clock.settle()
        written = dict(failures.objects)
        assert len(written) == 1
    sink.sickness = failures.sickness = None
    async with rig(plan, sink=sink, failures=failures, owner=Owner(owner.snapshot, at=90.0)) as r:
        await r.clock.settle()
        assert failures.objects == written
        assert sink.objects == {}
        assert (await r.stats()).failed == 1


async def test_a_segment_that_the_sink_for_failures_refuses_is_parked() -> None:
    options = spec(retry_seconds=0, failures="memory://failed")
    async with rig(DeliveryPlan(options), sink=Sick(DOWN), failures=Sick(NEVER)) as r:
        await r.store.append("lake", out("a"))
        r.store.demand("lake")
        await r.clock.settle()
        (segment,) = r.log.parking.parked("lake")
        assert segment.reason == "down"


async def test_error_records_that_cannot_be_delivered_are_diverted_as_they_are() -> None:
    def derive(body: bytes) -> Outgoing:
        raise ValueError("no")

    failures = Sick()
    options = spec(retry_seconds=0, failures="memory://failed", transformed=True)
    async with rig(DeliveryPlan(options, derive), sink=Sick(DOWN), failures=failures) as r:
        await r.store.append("lake", out("a"))
        await r.deliver()
        (content,) = failures.objects.values()
        assert json.loads(content)["errorCode"] == "Transform.ValueError"
        assert (await r.stats()).failed == 1


async def test_the_name_in_failures_says_how_it_is_packed_also_when_the_stream_packs_otherwise_by_now() -> None:
    owner, failures = Owner(at=0.0), MemorySink()
    first = spec(retry_seconds=HOUR, failures="memory://failed", compression="gzip")
    async with rig(DeliveryPlan(first), owner=owner, sink=Sick(DOWN), failures=failures) as r:
        await r.store.append("lake", out("a"))
        r.store.demand("lake")
        await r.clock.advance(10)
    then = spec(retry_seconds=1, failures="memory://failed")
    async with rig(DeliveryPlan(then), owner=Owner(owner.snapshot, at=20.0), sink=Sick(DOWN), failures=failures) as r:
        await r.clock.advance(HOUR)
    ((name, content),) = failures.objects.items()
    assert name.endswith(".jsonl.gz")
    assert json.loads(gzip.decompress(content))["rawData"] == base64.b64encode(b"a").decode()


# Dropping by age


async def test_S17_only_a_stream_that_asks_for_it_drops_what_is_too_old_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = Sick(DOWN)
    async with rig(DeliveryPlan(spec(max_age=24 * HOUR)), sink=sink) as r:
        await r.store.append("lake", out("old"))
        r.store.demand("lake")
        await r.clock.advance(23 * HOUR)
        assert (await r.stats()).buffered == 1
        with caplog.at_level(logging.ERROR, "pipeflow"):
            await r.clock.advance(1 * HOUR + 60)
        assert "max_age" in caplog.text
        stats = await r.stats()
        assert (stats.expired, stats.buffered, stats.delivered, stats.failed) == (1, 0, 0, 0)
        sink.sickness = None
        await r.store.append("lake", out("new"))
        await r.deliver()
        assert list(sink.objects.values()) == [b"new\n"]


async def test_S17_what_is_parked_is_dropped_at_that_age_too() -> None:
    sink = Sick()
    async with rig(DeliveryPlan(spec(max_age=24 * HOUR, retry_seconds=10)), sink=sink) as r:
        await parked(r, sink, "a")
        await r.clock.advance(22 * HOUR)
        assert len(r.log.parking.parked("lake")) == 1
        await r.clock.advance(1 * HOUR)
        assert r.log.parking.parked("lake") == []
        assert ((await r.stats()).expired, (await r.stats()).buffered_bytes) == (1, 0)


def refused(body: bytes) -> Outgoing:
    raise ValueError("odd")


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({}, (1, 0, 0, 0)),
        ({"max_age": HOUR}, (0, 1, 0, 0)),
        ({"max_age": HOUR, "retry_seconds": 10}, (0, 1, 0, 0)),
        ({"retry_seconds": 10}, (0, 0, 1, 0)),
        ({"retry_seconds": 10, "failures": "memory://failed"}, (0, 0, 0, 1)),
    ],
)
async def test_a_failed_record_is_counted_once_whether_it_waits_is_too_old_discarded_or_in_failures(
    limits: dict[str, object], left: tuple[int, int, int, int]
) -> None:
    sink = Sick(DOWN)
    plan = DeliveryPlan(spec(transformed=True, **limits), refused)
    async with rig(plan, sink=sink, failures=MemorySink() if "failures" in limits else None) as r:
        await r.store.append("lake", out("a"))
        await r.clock.settle()
        stats = await r.stats()
        assert (stats.buffered, stats.failed) == (1, 0)
        r.store.demand("lake")
        await r.clock.advance(2 * HOUR)
        await r.log.parking.discard("lake", [each.id for each in r.log.parking.parked("lake")])
        stats = await r.stats()
        assert (stats.buffered, stats.expired, stats.discarded, stats.failed) == left


async def test_an_old_record_whose_sink_works_is_delivered() -> None:
    async with rig(DeliveryPlan(spec(max_age=5, buffer_seconds=60))) as r:
        await r.store.append("lake", out("a"))
        await r.clock.advance(60)
        assert list(r.sink.objects.values()) == [b"a\n"]


# An hour without a sink


async def test_S17_S73_an_hour_without_a_sink_at_full_rate_holds_the_bound_and_loses_nothing() -> None:
    sink = Sick(DOWN)
    bound = 1 << 20
    options = spec(partitioned=True, buffer_bytes=16 << 10, buffer_seconds=60, max_buffered=bound, max_partitions=500)
    async with rig(DeliveryPlan(options), sink=sink) as r:
        put: list[bytes] = []
        largest = 0

        async def produce() -> None:
            for n in range(40_000):
                body = b"%06d" % n + bytes(94)
                await r.store.append("lake", [Outgoing(body, partition=f"p{n % 500}")])
                put.append(body)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(produce)
            for _ in range(60):
                await r.clock.advance(60)
                stats = await r.stats()
                largest = max(largest, stats.buffered_bytes)
                assert stats.open_partitions <= 500
                assert stats.buffered == len(put)
            assert bound <= largest < bound + 200
            assert len(put) < 11_000
            sink.sickness = None
            while len(put) < 40_000:
                await r.clock.advance(60)
        await r.deliver()
        found = sorted(line for content in sink.objects.values() for line in content.split(b"\n") if line)
        assert found == sorted(put)
        failures = [event for event in r.events if isinstance(event, DeliveryFailed)]
        assert 60 <= len(failures) < 1000  # asked about once a minute, not in a circle


def test_infinity_is_what_none_means() -> None:
    assert spec().retry_limit == inf
    assert spec(retry_seconds=3).retry_limit == 3
