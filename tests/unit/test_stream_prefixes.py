"""Streams with prefixes, from the declaration to the objects; and after a crash, the same names again."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from record_owner import Owner

from pipeflow import App
from pipeflow.clock import VirtualClock
from pipeflow.errors import ConfigurationError, RefusedError, SinkUnavailable, SpecConflict
from pipeflow.events import DeliveryFailed, Event
from pipeflow.messages import Manifest, Outgoing, Position, Refused
from pipeflow.protocols import Object
from pipeflow.sinks.file import FileSink
from pipeflow.sinks.layout import Layout
from pipeflow.sinks.memory import MemorySink
from pipeflow.sinks.objects import belongs, store_mark, stream_mark
from pipeflow.specs import StreamSpec
from pipeflow.stream import Stream
from pipeflow.testing import harness

PREFIX = "year=!{timestamp:yyyy}/!{partitionKeyFromLambda:carrier}/!{firehose:random-string}/"
ERROR_PREFIX = "errors/!{firehose:error-output-type}/"
NEW_YEARS_EVE = 1_356_996_600.0
"""2012-12-31 23:30 UTC: in Berlin it is 2013."""


class Flight(msgspec.Struct, frozen=True):
    number: str
    carrier: str


def by_carrier(flight: Flight) -> dict[str, str]:
    return {"carrier": flight.carrier}


class Down(MemorySink):
    """Takes nothing."""

    async def write(self, obj: Object) -> None:
        raise SinkUnavailable("down")


def declared(app: App, prefix: str = PREFIX) -> Stream[Flight]:
    return app.stream(
        "lake",
        Flight,
        sink="memory://lake",
        partition_by=by_carrier,
        prefix=prefix,
        error_prefix=ERROR_PREFIX,
        timezone="Europe/Berlin",
        extension=".jsonl.gz",
    )


async def test_records_lie_beneath_the_evaluated_prefix_and_failed_ones_beneath_the_error_prefix() -> None:
    """S42, S45, S47, S53: the keys come from the transform's result, the time from the oldest record."""
    app = App("prefixes")
    lake = declared(app)

    @lake.transform
    def strict(flight: Flight) -> Flight:
        if flight.number == "0":
            raise ValueError("no such flight")
        return flight

    async with harness(app) as h:
        await lake.put_many([Flight("1", "UA"), Flight("2", "../../etc"), Flight("0", "AA")])
        await h.advance(60)
        names = sorted(h.objects(lake))
    assert [name.split("/")[1] for name in names] == ["processing-failed", "%2E.%2F..%2Fetc", "UA"]
    assert all(name.endswith(".jsonl.gz") for name in names)


@pytest.mark.parametrize(
    ("prefix", "wrong"),
    [
        ("!{timestamp:yyyy}/", "uses no key of what partition_by returns"),
        ("!{timestamp:bb}/", r"stream lake: prefix .*column 13: .*the letter 'b' is unknown"),
    ],
)
def test_S40_a_prefix_is_taken_apart_when_the_stream_is_declared(prefix: str, wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=wrong):
        declared(App("prefixes"), prefix)


async def test_S54_a_record_whose_keys_are_not_those_of_the_prefix_is_refused_to_its_producer() -> None:
    app = App("prefixes")
    lake = app.stream(
        "lake",
        Flight,
        sink="memory://lake",
        partition_by=lambda flight: flight.carrier,
        prefix="!{partitionKeyFromLambda:carrier}/",
        error_prefix="errors/",
    )
    async with harness(app):
        with pytest.raises(RefusedError, match="return a dict with the key carrier"):
            await lake.put(Flight("1", "UA"))


async def test_after_a_restart_between_seal_and_write_objects_have_the_names_they_were_sealed_with(
    tmp_path: Path,
) -> None:
    """S42, S43, P17: also when the prefix has changed in between, and the day."""
    broker, events = f"sqlite:///{tmp_path}/lake.db", list[Event]()
    first = App("prefixes")
    lake = declared(first)
    first.observe(events.append)
    clock = VirtualClock(NEW_YEARS_EVE)
    async with first.running(clock=clock, sinks={"lake": Down()}, broker=broker, grace=0) as runtime:
        await lake.put_many([Flight("1", "UA"), Flight("2", "AA")])
        runtime.store.demand("lake")
        await clock.settle()
    sealed = {event.name for event in events if isinstance(event, DeliveryFailed)}
    assert len(sealed) == 1  # the second waits behind the first

    sink = MemorySink()
    second = App("prefixes")
    lake = declared(second, "changed/!{partitionKeyFromLambda:carrier}/")
    async with second.running(clock=VirtualClock(NEW_YEARS_EVE + 86_400), sinks={"lake": sink}, broker=broker):
        await lake.flush()
    assert sealed < set(sink.objects)
    assert {name.split("/")[0] for name in sink.objects} == {"year=2013"}
    assert {name.split("/")[1] for name in sink.objects} == {"UA", "AA"}


KEYED = StreamSpec(
    "lake",
    "memory://lake",
    compression="none",
    partitioned=True,
    prefix="!{firehose:random-string}/!{partitionKeyFromLambda:carrier}/",
    error_prefix=ERROR_PREFIX,
)


async def test_S43_the_random_parts_of_a_name_are_durable_before_anything_is_written_under_it() -> None:
    owner = Owner()
    log = owner.open(KEYED)
    await log.append("lake", [Outgoing(b"1", partition="carrier=UA")])
    log.outlet.demand("lake")
    sealed = await log.outlet.seal("lake")
    assert sealed is not None
    again = await Owner(owner.snapshot, at=9e8).open(KEYED).outlet.seal("lake")
    assert again == sealed


@pytest.mark.parametrize("partition", ["", "UA", "carrier=", "carrier=../..", "carrier=UA/day=1"])
async def test_S57_a_store_refuses_partitions_that_the_prefix_cannot_name_whoever_sends_them(partition: str) -> None:
    log = Owner().open(KEYED)
    (answer,) = await log.append("lake", [Outgoing(b"1", partition=partition)])
    assert isinstance(answer, Refused)
    lane = log.lane("lake")
    assert lane is not None
    with pytest.raises(RefusedError):
        lane.add([b"1"], partition)
    with pytest.raises(RefusedError):
        await log.derive("lake", Position(0), [Outgoing(b"1", partition=partition)])


async def test_S10_keys_may_change_once_the_records_that_wait_under_the_old_ones_are_delivered() -> None:
    log = Owner().open(KEYED)
    await log.append("lake", [Outgoing(b"1", partition="carrier=UA")])
    changed = replace(KEYED, prefix="!{partitionKeyFromLambda:origin}/")
    with pytest.raises(SpecConflict, match=r"cannot name .*run once as it was"):
        log.declare(changed)
    log.outlet.demand("lake")
    segment = await log.outlet.seal("lake")
    assert segment is not None
    log.declare(changed)  # what is sealed has its name already
    await log.outlet.commit(segment, Manifest([]))


async def test_a_store_refuses_a_prefix_that_means_nothing_before_anything_is_declared() -> None:
    log = Owner().open()
    with pytest.raises(ConfigurationError, match="column 1"):
        log.conflict(StreamSpec("lake", "memory://lake", prefix="!{time:yyyy}"))


async def test_what_a_killed_process_left_behind_a_prefix_without_slash_is_swept(tmp_path: Path) -> None:
    sink = FileSink(str(tmp_path))
    of = Layout(StreamSpec("b", "file:///x", prefix="!{timestamp:'a-'}", error_prefix="e/"))
    name = of.name("", first=1, last=2, opened_at=0.0, store_id="3f9a0c12", boot=1)
    for left in (name, name.replace("a-b-", "a-c-").replace(stream_mark("b"), stream_mark("c"))):
        (tmp_path / f".tmp-{left}").touch()
    assert await sink.sweep(belongs("b", store_mark("3f9a0c12")), rewritten=False) == 1
    assert next(path.name for path in tmp_path.iterdir()).startswith(".tmp-a-c-")
