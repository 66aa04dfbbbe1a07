"""What a Firehose function is given and what its reply means. Pure: every rule below has a one-line test.

    event   {"invocationId", "deliveryStreamArn", "region",
             "records": [{"recordId", "approximateArrivalTimestamp", "data"}]}
    reply   {"records": [{"recordId", "result", "data", "metadata": {"partitionKeys": {...}}}]}

`data` is base64, times are milliseconds since 1970. A reply that breaks the contract fails its whole batch with a code
of its own (Firehose: S25-S28).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from msgspec import Struct

from pipeflow.arns import REGION, stream_arn
from pipeflow.engine.failures import Coded, Misplaced
from pipeflow.engine.plan import Attempt, Derived, Part
from pipeflow.messages import Outgoing

PAYLOAD = 6 << 20
"""Bytes that an event and a reply may have (Firehose: S24)."""

MOST_BYTES = 3 << 20
"""Bytes of records for one event. In base64, and with what stands around `MOST_RECORDS` of them, below `PAYLOAD`."""

MOST_RECORDS = 10_000

_AROUND = 128
"""Bytes of an event's JSON around each record, and more than that."""

Place: TypeAlias = Callable[[bytes, Mapping[str, str] | None], Outgoing]
"""The record that a function made, with the partition that its keys stand for; Misplaced when they stand for none."""


class LambdaContext(Struct, frozen=True):
    """The second argument of a handler: as much of AWS's as a function that transforms records asks for."""

    attempt: Attempt
    function_name: str
    invoked_function_arn: str
    aws_request_id: str
    memory_limit_in_mb: str = "128"
    function_version: str = "$LATEST"
    log_group_name: str = ""
    log_stream_name: str = ""
    identity: None = None
    client_context: None = None

    def get_remaining_time_in_millis(self) -> int:
        """Until the timeout of this invocation."""
        return max(0, round((self.attempt.until - self.attempt.clock.now()) * 1000))


def invocation_id(attempt: Attempt) -> str:
    """The same for the same records and the same number of tries."""
    return f"{attempt.parts[0].id}-{len(attempt.parts)}-{attempt.number}"


def is_too_large(part: Part) -> bool:
    """Whether a record alone makes an event that is larger than it may be."""
    return len(part.body) * 4 // 3 + 1_000 > PAYLOAD


def event(attempt: Attempt, stream: str) -> dict[str, Any]:
    """What the handler is given (Firehose: S25)."""
    return {
        "invocationId": invocation_id(attempt),
        "deliveryStreamArn": stream_arn(stream),
        "region": REGION,
        "records": [
            {
                "recordId": part.id,
                "approximateArrivalTimestamp": round(part.at * 1000),
                "data": b64encode(part.body).decode(),
            }
            for part in attempt.parts
        ],
    }


def read(reply: object, parts: Sequence[Part], place: Place) -> list[Derived | Exception]:
    """What became of each record, in the order of the event, whatever the reply's (Firehose: S26-S28).

    Coded when the reply answers for records twice or not at all, or is not of its form.
    """
    answers = _answers(reply)
    asked = {part.id for part in parts}
    missing = [part.id for part in parts if part.id not in answers]
    if missing:
        raise Coded("Lambda.MissingRecordId", f"the reply lacks {len(missing)} of {len(parts)} records: {missing[0]}")
    foreign = next((id for id in answers if id not in asked), None)
    if foreign is not None:
        raise Coded("Lambda.MissingRecordId", f"the reply answers for {foreign!r:.80}, which the event does not have")
    return [_answer(answers[part.id], place) for part in parts]


def _answers(reply: object) -> dict[str, Mapping[str, Any]]:
    records = reply.get("records") if isinstance(reply, Mapping) else None
    if not isinstance(records, Sequence) or isinstance(records, str | bytes):
        raise _malformed(f"the reply is {type(reply).__name__} without a list `records`")
    answers: dict[str, Mapping[str, Any]] = {}
    size = 0
    for record in records:
        if not isinstance(record, Mapping) or not isinstance(record.get("recordId"), str):
            raise _malformed("a record of the reply has no `recordId`")
        if record.get("result") not in ("Ok", "Dropped", "ProcessingFailed"):
            raise _malformed(f"`result` is {record.get('result')!r:.80}; use Ok, Dropped or ProcessingFailed")
        if record["recordId"] in answers:
            raise Coded("Lambda.DuplicatedRecordId", f"the reply answers twice for {record['recordId']}")
        answers[record["recordId"]] = record
        data = record.get("data")
        size += _AROUND + (len(data) if isinstance(data, str) else 0)
    if size > PAYLOAD:
        raise Coded("Lambda.ResponseTooLarge", f"the reply has {size} bytes; at most {PAYLOAD}")
    for record in answers.values():
        if record["result"] == "Ok":
            _data(record)  # before any record is taken: a malformed reply fails its batch
    return answers


def _answer(record: Mapping[str, Any], place: Place) -> Derived | Exception:
    match record["result"]:
        case "Dropped":
            return None
        case "ProcessingFailed":
            return Coded("Lambda.ProcessingFailedStatus", "the function answered ProcessingFailed for this record")
    try:
        return place(_data(record), _keys(record))
    except Exception as error:
        return error


def _data(record: Mapping[str, Any]) -> bytes:
    data = record.get("data")
    if isinstance(data, str):
        try:
            return b64decode(data, validate=True)
        except ValueError:
            pass
    raise _malformed(f"`data` of record {record['recordId']} is no text in base64")


def _keys(record: Mapping[str, Any]) -> Mapping[str, str] | None:
    """The partition keys that the function gave (Firehose: S53)."""
    metadata = record.get("metadata")
    keys = metadata.get("partitionKeys") if isinstance(metadata, Mapping) else None
    if keys is None:
        return None
    if not isinstance(keys, Mapping) or not all(isinstance(each, str) for pair in keys.items() for each in pair):
        raise Misplaced(f"metadata.partitionKeys is {keys!r:.200}; write texts under names")
    return keys


def _malformed(reason: str) -> Coded:
    return Coded("Lambda.JsonProcessingException", reason)
