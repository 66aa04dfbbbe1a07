"""Processing as programs declare it: unpacking, and transforms of one record and of many."""

from __future__ import annotations

import base64
import gzip
import json
import threading
from random import Random
from typing import Any

import msgspec
import pytest
from lake import LAKE, errors, good, opened, raw, stats

from pipeflow import App, Failed
from pipeflow.clock import SystemClock, VirtualClock
from pipeflow.errors import ConfigurationError, WiringError
from pipeflow.sinks.memory import MemorySink
from pipeflow.transforms import is_list


class Order(msgspec.Struct, frozen=True):
    id: str
    total: int = 1


def document(*lines: str) -> bytes:
    return json.dumps({"messageType": "DATA_MESSAGE", "logEvents": [{"message": line} for line in lines]}).encode()


# Order


async def test_S19_unpacked_then_split_then_transformed_then_partitioned_then_delimited_then_compressed() -> None:
    app, sink = App("shop"), MemorySink()
    seen: list[bytes] = []

    def folder(line: bytes) -> str:
        seen.append(b"partition " + line)
        return line[:1].decode()

    lake = app.stream(
        "lake",
        bytes,
        sink="memory://",
        format="jsonl",
        decompress="gzip",
        split=b"####",
        log_messages=True,
        partition_by=folder,
    )

    @lake.transform
    def upper(line: bytes) -> bytes:
        seen.append(b"transform " + line)
        return line.upper()

    async with opened(app, sink):
        await lake.put(gzip.compress(document("a", "b") + b"####" + document("c")))
        await lake.flush()
    assert seen == [b"%s %s" % (stage, line) for line in (b"a", b"b", b"c")
                    for stage, line in ((b"transform", line), (b"partition", line.upper()))]  # fmt: skip
    assert {name.partition("/")[0]: gzip.decompress(content) for name, content in sink.objects.items()} == {
        "A": b"A\n",
        "B": b"B\n",
        "C": b"C\n",
    }


async def test_S19_rows_are_made_of_what_was_split_and_transformed() -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", bytes, **LAKE, format="csv", columns=["id"], split="json")

    @lake.transform
    def twice(body: bytes) -> list[bytes]:
        return [body, body]

    async with opened(app, sink):
        await lake.put(b'{"id":"a"} {"id":"b"}')
        await lake.flush()
    assert good(sink) == [b"id", b"a", b"a", b"b", b"b"]


# Unpacking


@pytest.mark.parametrize("durability", [None, "memory"])
async def test_S20_S21_what_is_put_is_split_without_a_transform(durability: Any) -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", bytes, **LAKE, format="jsonl", split="json", durability=durability)
    async with opened(app, sink) as runtime:
        await lake.put(b'{"n":1}{"n":2}')
        await lake.put_many([b'{"n":3}', b"[1,2]", b'\n{"n":4}\n'])
        lake.put_nowait(b'{"n":5}{"n":6}')
        await lake.flush()
        found = await stats(runtime)
    assert good(sink) == [b'{"n":1}', b'{"n":2}', b'{"n":3}', b"[1,2]", b'{"n":4}', b'{"n":5}', b'{"n":6}']
    assert (found.accepted, found.added, found.delivered, found.dropped, found.failed) == (5, 2, 7, 0, 0)


async def test_S18_S22_what_does_not_unpack_lies_as_it_came_under_an_error_type_of_its_own() -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream(
        "lake",
        bytes,
        **LAKE,
        format="jsonl",
        decompress="gzip",
        log_messages=True,
        prefix="good/",
        error_prefix="errors/!{firehose:error-output-type}/",
    )
    strange = gzip.compress(b'{"hello":"world"}')
    control = gzip.compress(json.dumps({"messageType": "CONTROL_MESSAGE", "logEvents": [{"message": "x"}]}).encode())
    async with opened(app, sink) as runtime:
        await lake.put_many([b"plain", gzip.compress(document("a", "b")), strange, control])
        await lake.flush()
        found = await stats(runtime)
    assert good(sink) == [b"a", b"b"]
    first, second = errors(sink)
    assert (first["errorCode"], raw(first)) == ("Decompression.InvalidGzip", b"plain")
    assert (second["errorCode"], raw(second)) == ("Decompression.InvalidSource", strange)
    assert "no document of a log subscription" in second["errorMessage"]
    assert {name.rpartition("/")[0] for name in sink.objects if "errors/" in name} == {"errors/decompression-failed"}
    assert (found.accepted, found.added, found.delivered, found.dropped, found.failed) == (4, 1, 2, 1, 2)


async def test_S22_a_later_failure_delivers_the_compressed_record_once_and_no_part_of_it() -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", bytes, **LAKE, format="jsonl", decompress="gzip", split=b"|")

    @lake.transform
    def strict(line: bytes) -> bytes:
        if line.startswith(b"bad"):
            raise ValueError(line.decode())
        return line

    whole, broken = gzip.compress(b"a|b"), gzip.compress(b"c|bad1|bad2")
    async with opened(app, sink) as runtime:
        await lake.put_many([whole, broken])
        await lake.flush()
        found = await stats(runtime)
    assert good(sink) == [b"a", b"b"]
    (error,) = errors(sink)
    assert raw(error) == broken
    assert (error["errorCode"], error["errorMessage"]) == ("Transform.ValueError", "bad1")
    assert (found.accepted, found.added, found.delivered, found.failed) == (2, 1, 2, 1)


async def test_S60_of_a_split_record_the_part_that_failed_lies_in_the_error_output() -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", bytes, **LAKE, format="jsonl", split="json")

    @lake.transform
    async def strict(body: bytes) -> bytes:
        if b"2" in body:
            raise ValueError("two")
        return body

    async with opened(app, sink, VirtualClock(5.0)):
        await lake.put(b'{"n":1}{"n":2}{"n":3}')
        await lake.flush()
    assert good(sink) == [b'{"n":1}', b'{"n":3}']
    assert errors(sink) == [
        {
            "attemptsMade": 1,
            "arrivalTimestamp": 5000,
            "errorCode": "Transform.ValueError",
            "errorMessage": "two",
            "attemptEndingTimestamp": 5000,
            "rawData": base64.b64encode(b'{"n":2}').decode(),
        }
    ]


async def test_large_records_are_unpacked_a_lot_at_a_time() -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", bytes, **LAKE, format="jsonl", decompress="gzip", split="json")
    body = gzip.compress(
        b"".join(b'{"n":%d,"pad":"%s"}' % (n, Random(n).randbytes(2_000).hex().encode()) for n in range(400))
    )
    async with opened(app, sink) as runtime:
        await lake.put_many([body] * 12)
        await lake.flush()
        assert (await stats(runtime)).delivered == 4_800
    assert [json.loads(line)["n"] for line in good(sink)] == list(range(400)) * 12


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"log_messages": True}, 'lake: log_messages=True .* add decompress="gzip"'),
        ({"split": b""}, "lake: split is an empty delimiter"),
        ({"split": "lines"}, "split is 'lines'; use \"json\", or a delimiter as bytes"),
        ({"decompress": "zip"}, "decompress is 'zip'; use one of gzip"),
    ],
)
def test_S20_S22_unpacking_options_are_checked_when_they_are_declared(options: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        App("shop").stream("lake", bytes, **LAKE, **options)


def test_a_stream_that_unpacks_is_declared_of_bytes() -> None:
    with pytest.raises(ConfigurationError, match="this stream takes Order; declare it of bytes"):
        App("shop").stream("lake", Order, **LAKE, split="json")


# One record


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_a_transform_may_return_several_records(kind: str) -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", Order, **LAKE, partition_by=lambda order: order.id[:1])

    def several(order: Order) -> list[Order]:
        return [Order(f"{order.id}{n}", n) for n in range(order.total)]

    async def later(order: Order) -> list[Order]:
        return several(order)

    lake.transform(several if kind == "plain" else later)
    async with opened(app, sink) as runtime:
        await lake.put_many([Order("a", 2), Order("b", 0), Order("c", 1)])
        await lake.flush()
        found = await stats(runtime)
    assert {name.partition("/")[0]: content.count(b"\n") for name, content in sink.objects.items()} == {"a": 2, "c": 1}
    assert (found.accepted, found.added, found.delivered, found.dropped, found.failed) == (3, 1, 3, 1, 0)


async def test_one_of_several_that_fails_fails_their_record() -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", bytes, **LAKE, format="jsonl", max_record=5)

    @lake.transform
    def several(body: bytes) -> list[bytes]:
        return [b"ok", body + body]

    async with opened(app, sink) as runtime:
        await lake.put_many([b"abc", b"d"])
        await lake.flush()
        found = await stats(runtime)
    assert good(sink) == [b"ok", b"dd"]
    assert [(error["errorCode"], raw(error)) for error in errors(sink)] == [("Transform.ValueError", b"abc")]
    assert (found.accepted, found.added, found.delivered, found.failed) == (2, 1, 2, 1)


async def test_where_the_payload_is_a_list_a_list_is_one_record() -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", list[int], **LAKE)

    @lake.transform
    def reversed(numbers: list[int]) -> list[int]:
        return numbers[::-1]

    async with opened(app, sink):
        await lake.put([1, 2])
        await lake.flush()
    assert good(sink) == [b"[2,1]"]


def test_payloads_that_may_be_lists_are_known() -> None:
    assert all(map(is_list, [list, list[int], list[int] | None, object, Any]))
    assert not any(map(is_list, [bytes, str, Order, dict[str, list[int]], Order | None]))


async def test_a_transform_that_makes_much_of_little_is_committed_a_lot_at_a_time() -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", bytes, **LAKE, format="raw")

    @lake.transform
    def much(body: bytes) -> list[bytes]:
        return [body * 100_000] * 10

    async with opened(app, sink) as runtime:
        await lake.put_many([b"x"] * 40)
        await lake.flush()
        assert (await stats(runtime)).delivered == 400
    assert sum(map(len, sink.objects.values())) == 40_000_000


# Many at once


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_a_batch_transform_keeps_drops_multiplies_and_fails_records_by_their_place(kind: str) -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", Order, **LAKE)
    threads: list[str] = []

    def by_total(orders: list[Order]) -> list[Order | list[Order] | Failed | Exception | None]:
        threads.append(threading.current_thread().name)
        fates: list[Any] = [orders[0], None, [Order("x"), Order("y")], Failed("too old"), ValueError("wrong")]
        return [fates[order.total] for order in orders]

    async def later(orders: list[Order]) -> list[Order | list[Order] | Failed | Exception | None]:
        return by_total(orders)

    lake.batch_transform(size=10)(by_total if kind == "plain" else later)
    async with opened(app, sink) as runtime:
        from pipeflow.messages import Outgoing

        await lake.put_many([Order(str(n), n) for n in range(5)])
        await runtime.store.append("lake", [Outgoing(b"no json")])
        await lake.flush()
        found = await stats(runtime)
    assert [json.loads(line)["id"] for line in good(sink)] == ["0", "x", "y"]
    assert [(error["errorCode"], error["errorMessage"]) for error in errors(sink)][:2] == [
        ("Transform.Failed", "too old"),
        ("Transform.ValueError", "wrong"),
    ]
    assert errors(sink)[2]["errorCode"] == "Transform.CodecError"
    assert (found.accepted, found.added, found.delivered, found.dropped, found.failed) == (6, 1, 3, 1, 3)
    assert (threading.current_thread().name in threads) == (kind == "coroutine")


async def test_a_batch_transform_of_the_wrong_length_fails_its_batch() -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", bytes, **LAKE)

    @lake.batch_transform()
    async def short(bodies: list[bytes]) -> list[bytes]:
        return bodies[1:]

    async with opened(app, sink):
        await lake.put_many([b"a", b"b"])
        await lake.flush()
    assert [raw(error) for error in errors(sink)] == [b"a", b"b"]
    assert {error["errorCode"] for error in errors(sink)} == {"Transform.WrongLength"}
    assert "1 results for 2 records; return a list with one for each" in errors(sink)[0]["errorMessage"]


async def test_a_plain_batch_transform_that_hangs_is_left_behind_at_its_timeout() -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", bytes, **LAKE)
    release = threading.Event()

    @lake.batch_transform(timeout=0.05, retries=0)
    def hang(bodies: list[bytes]) -> list[bytes]:
        release.wait(60)
        return bodies

    try:
        async with app.running(clock=SystemClock(), sinks={"lake": sink}, broker="memory://"):
            await lake.put(b"a")
            await lake.flush()
    finally:
        release.set()
    assert [error["errorCode"] for error in errors(sink)] == ["Transform.TimeoutError"]


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"size": 0}, "stream lake: batch_transform: size is 0; use 1 to 10000"),
        ({"buffer_bytes": 0}, "buffer_bytes is 0; use 1 to 1000, what max_buffered holds"),
        ({"buffer_bytes": 1001}, "buffer_bytes is 1001; use 1 to 1000"),
        ({"buffer_bytes": 1, "buffer_seconds": -1}, "buffer_seconds is -1; use 0 to 900"),
        ({"buffer_bytes": 1, "retries": 301}, "retries is 301; use 0 to 300"),
        ({"buffer_bytes": 1, "timeout": 0}, "timeout is 0; use more than 0 s, or None"),
    ],
)
def test_S24_batching_options_are_checked_when_they_are_declared(options: dict[str, Any], remedy: str) -> None:
    lake = App("shop").stream("lake", bytes, **LAKE, buffer_bytes=1000, max_buffered=1000)
    with pytest.raises(ConfigurationError, match=remedy):
        lake.batch_transform(**options)


def test_a_stream_has_one_transform_of_any_kind() -> None:
    lake = App("shop").stream("lake", bytes, **LAKE)
    with pytest.raises(WiringError, match=r"batch_transform wrong takes 2 parameters; write `def wrong\(records: list"):

        @lake.batch_transform()
        def wrong(bodies: list[bytes], other: int) -> list[bytes]:
            return bodies

    with pytest.raises(WiringError, match=r"takes 1 parameters; write `def <lambda>\(event, context\)`"):
        lake.lambda_transform(lambda event: event)  # type: ignore[misc, arg-type]

    @lake.batch_transform()
    def first(bodies: list[bytes]) -> list[bytes]:
        return bodies

    with pytest.raises(WiringError, match="has a transform, first; call one from the other"):
        lake.transform(lambda body: body)
    with pytest.raises(WiringError, match="has a transform, first"):
        lake.lambda_transform(lambda event, context: event)
