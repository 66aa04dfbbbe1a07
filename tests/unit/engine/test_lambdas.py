"""What a Firehose function is given and what its reply means: a line for each rule."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeflow.clock import VirtualClock
from pipeflow.engine.batchwise import Batchwise
from pipeflow.engine.failures import Coded, Misplaced, code_of
from pipeflow.engine.lambdas import (
    MOST_BYTES,
    MOST_RECORDS,
    PAYLOAD,
    LambdaContext,
    event,
    invocation_id,
    is_too_large,
    read,
)
from pipeflow.engine.plan import Attempt, BatchTransform, Part
from pipeflow.messages import Outgoing
from pipeflow.names import Chance
from pipeflow.transforms import no_derive

PARTS = [Part("a", b"one", 1.5), Part("b", b"two", 2.0)]


def data(body: bytes) -> str:
    return b64encode(body).decode()


def ok(id: str, body: bytes = b"X", **more: object) -> dict[str, object]:
    return {"recordId": id, "result": "Ok", "data": data(body), **more}


def place(body: bytes, keys: Mapping[str, str] | None) -> Outgoing:
    return Outgoing(body, partition="/".join(f"{key}={value}" for key, value in keys.items()) if keys else None)


def replied(*records: object) -> list[Any]:
    return read({"records": list(records)}, PARTS, place)


def refused(*records: object) -> str:
    with pytest.raises(Coded) as raised:
        replied(*records)
    return raised.value.code


def test_S25_an_event_has_ids_times_in_milliseconds_and_data_in_base64() -> None:
    made = event(Attempt(PARTS, VirtualClock()), "lake")
    assert made == {
        "invocationId": "a-2-1",
        "deliveryStreamArn": "arn:aws:firehose:us-east-1:000000000000:deliverystream/lake",
        "region": "us-east-1",
        "records": [
            {"recordId": "a", "approximateArrivalTimestamp": 1500, "data": data(b"one")},
            {"recordId": "b", "approximateArrivalTimestamp": 2000, "data": data(b"two")},
        ],
    }
    json.dumps(made)


def test_S25_a_context_tells_the_time_that_remains() -> None:
    clock = VirtualClock(10.0)
    attempt = Attempt(PARTS, clock, until=70.5)
    assert LambdaContext(attempt, "f", "arn", invocation_id(attempt)).get_remaining_time_in_millis() == 60_500


def test_S26_ok_replaces_a_record_dropped_drops_it_and_processing_failed_fails_it() -> None:
    first, second = replied({"recordId": "b", "result": "Dropped"}, ok("a", b"ONE"))
    assert first == Outgoing(b"ONE")
    assert second is None
    failed, _ = replied({"recordId": "a", "result": "ProcessingFailed", "data": data(b"?")}, ok("b"))
    assert code_of(failed) == "Lambda.ProcessingFailedStatus"


@pytest.mark.parametrize("result", ["ok", "OK", "dropped", "PROCESSINGFAILED", "", None, 1])
def test_S26_results_are_spelled_exactly_so(result: object) -> None:
    assert refused({**ok("a"), "result": result}, ok("b")) == "Lambda.JsonProcessingException"


def test_S27_the_order_of_a_reply_is_free() -> None:
    assert replied(ok("b", b"TWO"), ok("a", b"ONE")) == [Outgoing(b"ONE"), Outgoing(b"TWO")]


def test_S27_every_record_comes_back_exactly_once() -> None:
    assert refused(ok("a")) == "Lambda.MissingRecordId"
    assert refused() == "Lambda.MissingRecordId"
    assert refused(ok("a"), ok("b"), ok("c")) == "Lambda.MissingRecordId"
    assert refused(ok("a"), ok("a"), ok("b")) == "Lambda.DuplicatedRecordId"


@pytest.mark.parametrize(
    "reply",
    [None, "text", [], {}, {"records": None}, {"records": "ab"}, {"records": [1]}, {"records": [{"result": "Ok"}]}],
)
def test_S27_a_reply_of_another_form_fails_its_batch(reply: object) -> None:
    with pytest.raises(Coded) as raised:
        read(reply, PARTS, place)
    assert raised.value.code == "Lambda.JsonProcessingException"


@pytest.mark.parametrize("wrong", ["not base64!", None, 7, "YQ", "Y!Q=="])
def test_S27_data_that_is_no_base64_fails_its_batch(wrong: object) -> None:
    assert refused(ok("a"), {**ok("b"), "data": wrong}) == "Lambda.JsonProcessingException"
    assert replied(ok("a"), {"recordId": "b", "result": "Dropped", "data": wrong})[1] is None


def test_S24_a_reply_beyond_six_mebibytes_fails_its_batch() -> None:
    assert refused(ok("a", bytes(PAYLOAD)), ok("b")) == "Lambda.ResponseTooLarge"


def test_S53_partition_keys_come_from_the_metadata_of_the_reply() -> None:
    first, second = replied(ok("a", metadata={"partitionKeys": {"day": "1", "to": "JFK"}}), ok("b", metadata={}))
    assert first.partition == "day=1/to=JFK"
    assert second.partition is None


@pytest.mark.parametrize("keys", [{"day": 1}, ["day"], "day", {1: "day"}])
def test_S53_partition_keys_that_are_no_texts_fail_their_record_alone(keys: object) -> None:
    first, second = replied(ok("a", metadata={"partitionKeys": keys}), ok("b"))
    assert isinstance(first, Misplaced)
    assert isinstance(second, Outgoing)


@given(st.lists(st.integers(0, 400_000), max_size=60), st.integers(1, MOST_BYTES))
def test_S24_batches_hold_every_record_in_order_and_their_events_stay_below_six_mebibytes(
    sizes: list[int], buffer_bytes: int
) -> None:
    batchwise = Batchwise(BatchTransform(no_derive, MOST_RECORDS, buffer_bytes), "lake", VirtualClock(), Chance(1))
    parts = [Part(f"{n:028d}", bytes(size), 1e9) for n, size in enumerate(sizes)]
    batches = batchwise.cut(parts)
    assert [part for batch in batches for part in batch] == parts
    assert all(len(batch) == 1 or sum(len(part.body) for part in batch) <= buffer_bytes for batch in batches)


def test_S24_an_event_of_the_most_records_and_bytes_stays_below_six_mebibytes() -> None:
    size = MOST_BYTES // MOST_RECORDS
    parts = [Part(f"{n:028d}", b"x" * size, 1.6e9) for n in range(MOST_RECORDS)]
    assert len(json.dumps(event(Attempt(parts, VirtualClock()), "s" * 64))) < PAYLOAD
    alone = Part("0" * 28, bytes(PAYLOAD * 3 // 4 - 750), 1.6e9)
    assert not is_too_large(alone)
    assert len(json.dumps(event(Attempt([alone], VirtualClock()), "s" * 64))) <= PAYLOAD
    assert is_too_large(Part("0", bytes(PAYLOAD * 3 // 4), 0.0))
