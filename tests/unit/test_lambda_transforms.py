"""A handler written for Firehose transforms a stream unmodified: events, replies, failures and partition keys."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from lake import LAKE, errors, good, opened, raw, stats

from pipeflow import App
from pipeflow.clock import VirtualClock
from pipeflow.errors import ConfigurationError
from pipeflow.sinks.memory import MemorySink


class Order(msgspec.Struct, frozen=True):
    id: str
    total: int = 1


def answer(record: dict[str, Any], result: str = "Ok", body: bytes | None = None, **keys: str) -> dict[str, Any]:
    reply: dict[str, Any] = {"recordId": record["recordId"], "result": result, "data": record["data"]}
    if body is not None:
        reply["data"] = base64.b64encode(body).decode()
    if keys:
        reply["metadata"] = {"partitionKeys": keys}
    return reply


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_S25_S26_S28_S30_an_unmodified_handler_transforms_a_stream(kind: str) -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", bytes, **LAKE, format="jsonl")
    events: list[dict[str, Any]] = []
    remaining: list[int] = []

    def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
        events.append(event)
        remaining.append(context.get_remaining_time_in_millis())
        output = []
        for record in event["records"]:
            body = base64.b64decode(record["data"])
            if body == b"drop":
                output.append({"recordId": record["recordId"], "result": "Dropped"})
            elif body == b"fail":
                output.append(answer(record, "ProcessingFailed"))
            else:
                output.append(answer(record, body=body.upper() + b"\n" + body))
        return {"records": output[::-1]}

    async def later(event: dict[str, Any], context: Any) -> dict[str, Any]:
        return handler(event, context)

    lake.lambda_transform(handler if kind == "plain" else later)
    async with opened(app, sink, VirtualClock(7.25)) as runtime:
        await lake.put_many([b"a", b"drop", b"fail", b"b"])
        await lake.flush()
        found = await stats(runtime)
    assert good(sink) == [b"A", b"a", b"B", b"b"]
    assert (found.delivered, found.dropped, found.failed, found.added) == (2, 1, 1, 0)
    (event,) = events
    assert event["deliveryStreamArn"].endswith(":deliverystream/lake")
    assert {record["approximateArrivalTimestamp"] for record in event["records"]} == {7250}
    assert remaining == [300_000]
    (error,) = errors(sink)
    assert error == {
        "attemptsMade": 1,
        "arrivalTimestamp": 7250,
        "errorCode": "Lambda.ProcessingFailedStatus",
        "errorMessage": "the function answered ProcessingFailed for this record",
        "attemptEndingTimestamp": 7250,
        "rawData": base64.b64encode(b"fail").decode(),
        "lambdaArn": f"arn:aws:lambda:us-east-1:000000000000:function:{'handler' if kind == 'plain' else 'later'}",
    }


async def test_S27_S60_S63_a_batch_that_the_reply_breaks_lies_whole_in_the_error_output() -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", bytes, **LAKE, format="jsonl")
    calls: list[int] = []

    @lake.lambda_transform
    async def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
        calls.append(len(event["records"]))
        return {"records": [answer(record) for record in event["records"][:-1]]}

    async with opened(app, sink):
        await lake.put_many([b"a", b"b"])
        await lake.flush()
    assert calls == [2], "a malformed reply is not asked for again"
    assert [raw(error) for error in errors(sink)] == [b"a", b"b"]
    assert {error["errorCode"] for error in errors(sink)} == {"Lambda.MissingRecordId"}


async def test_S29_a_handler_that_keeps_raising_sends_its_batch_to_the_error_output() -> None:
    app, sink, clock = App("shop"), MemorySink(), VirtualClock()
    lake = app.stream("lake", bytes, **LAKE, format="jsonl")
    ids: list[list[str]] = []

    async def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
        ids.append([record["recordId"] for record in event["records"]])
        raise RuntimeError("no database")

    lake.lambda_transform(handler, retries=2, buffer_seconds=1)
    async with opened(app, sink, clock):
        await lake.put_many([b"a", b"b"])
        await clock.advance(100)
        await lake.flush()
    assert ids == [ids[0]] * 3
    assert [(error["errorCode"], error["attemptsMade"]) for error in errors(sink)] == [("Lambda.FunctionError", 3)] * 2
    assert errors(sink)[0]["errorMessage"] == "RuntimeError: no database"


async def test_S24_a_handler_is_called_for_a_megabyte_or_a_minute() -> None:
    app, sink, clock = App("shop"), MemorySink(), VirtualClock()
    lake = app.stream("lake", bytes, **LAKE, format="raw")
    sizes: list[int] = []

    @lake.lambda_transform
    async def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
        sizes.append(len(event["records"]))
        return {"records": [answer(record) for record in event["records"]]}

    async with opened(app, sink, clock):
        await lake.put_many([bytes(300_000)] * 4)
        await clock.settle()
        assert sizes == [3]
        await clock.advance(60)
        assert sizes == [3, 1]


def test_S24_an_event_has_three_mebibytes_at_most() -> None:
    lake = App("shop").stream("lake", bytes, **LAKE)
    with pytest.raises(ConfigurationError, match="buffer_bytes is 4194304; use 1 to 3145728, what an event holds"):
        lake.lambda_transform(lambda event, context: event, buffer_bytes=4 << 20)


async def test_S24_a_record_that_is_larger_than_an_event_goes_to_the_error_output_alone() -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", bytes, **LAKE, format="raw")

    @lake.lambda_transform
    async def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
        return {"records": [answer(record) for record in event["records"]]}

    async with opened(app, sink) as runtime:
        await lake.put_many([b"a", bytes(6 << 20), b"b"])
        await lake.flush()
        assert ((await stats(runtime)).delivered, (await stats(runtime)).failed) == (2, 1)
    assert [error["errorCode"] for error in errors(sink)] == ["Lambda.RequestTooLarge"]


KEYED: dict[str, Any] = {
    "prefix": "carrier=!{partitionKeyFromLambda:carrier}/",
    "error_prefix": "errors/!{firehose:error-output-type}/",
}


@pytest.mark.parametrize(
    ("options", "folder"), [(KEYED, "carrier=UA"), ({}, "carrier=UA"), ({"prefix": "p/"}, "p/1970/01/01/00")]
)
async def test_S53_a_handler_gives_partition_keys(options: dict[str, Any], folder: str) -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", bytes, **LAKE, format="jsonl", **options)

    @lake.lambda_transform
    def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
        return {"records": [answer(record, carrier="UA") for record in event["records"]]}

    async with opened(app, sink):
        await lake.put(b"a")
        await lake.flush()
    (name,) = sink.objects
    assert name.rpartition("/")[0] == folder


async def test_S53_S58_a_record_without_the_keys_of_the_prefix_is_a_partitioning_failure() -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", bytes, **LAKE, format="jsonl", **KEYED)

    @lake.lambda_transform
    def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
        first, second = event["records"]
        return {"records": [answer(first, body=b"A"), answer(second, carrier="UA")]}

    async with opened(app, sink):
        await lake.put_many([b"a", b"b"])
        await lake.flush()
    assert good(sink) == [b"b"]
    (error,) = errors(sink)
    assert error["errorCode"] == "DynamicPartitioning.MetadataExtractionFailed"
    assert raw(error) == b"a"
    assert "lambdaArn" not in error


async def test_S53_keys_of_a_handler_stand_beside_those_of_partition_by() -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream(
        "lake",
        Order,
        **LAKE,
        partition_by=lambda order: {"id": order.id},
        prefix="!{partitionKeyFromLambda:carrier}/!{partitionKeyFromQuery:id}/",
        error_prefix="errors/!{firehose:error-output-type}/",
    )

    @lake.lambda_transform
    def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
        return {"records": [answer(record, carrier="UA") for record in event["records"]]}

    async with opened(app, sink):
        await lake.put(Order("7"))
        await lake.flush()
    assert [name.rpartition("/")[0] for name in sink.objects] == ["UA/7"]


async def test_S53_S54_keys_that_nothing_gives_are_told_before_anything_runs() -> None:
    app = App("shop")
    app.stream("lake", bytes, **LAKE, **KEYED)
    with pytest.raises(
        ConfigurationError, match=r"test_lambda_transforms.py.*nothing gives them; add partition_by.* or a lambda"
    ):
        async with opened(app, MemorySink()):
            raise AssertionError("it is refused before")
