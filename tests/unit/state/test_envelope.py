"""The SNS envelope (SNS: T2, T50, T51, T58, T72)."""

from __future__ import annotations

import json
from uuid import UUID

import pytest

from pipeflow.messages import AttributeValue
from pipeflow.state.envelope import render_envelope, subscription_arn, timestamp, topic_arn

ARN = "arn:aws:sns:us-east-1:000000000000:orders"


def test_T2_a_subscription_is_named_by_its_topics_arn_and_a_uuid_of_its_own() -> None:
    arns = {subscription_arn(topic, target) for topic in ("a", "b") for target in ("x", "y")}
    assert len(arns) == 4
    assert subscription_arn("a", "x") in arns, "the same for the same"
    for arn in arns:
        topic, _, own = arn.rpartition(":")
        assert topic in (topic_arn("a"), topic_arn("b"))
        assert str(UUID(own)) == own


def test_T2_a_topic_is_named_by_its_arn() -> None:
    assert topic_arn("orders") == ARN
    assert topic_arn("orders", fifo=True) == ARN + ".fifo"


def test_T50_the_keys_stand_in_the_order_of_sns() -> None:
    rendered = render_envelope(ARN, "m1", b'{"a": "\xc3\xbc"}', {"kind": "placed"}, published_at=1.5, subject="hello")
    assert list(json.loads(rendered)) == [
        "Type",
        "MessageId",
        "TopicArn",
        "Subject",
        "Message",
        "Timestamp",
        "MessageAttributes",
    ]
    assert json.loads(rendered) == {
        "Type": "Notification",
        "MessageId": "m1",
        "TopicArn": ARN,
        "Subject": "hello",
        "Message": '{"a": "ü"}',
        "Timestamp": "1970-01-01T00:00:01.500Z",
        "MessageAttributes": {"kind": {"Type": "String", "Value": "placed"}},
    }


def test_T50_subject_and_attributes_are_left_out_when_there_are_none() -> None:
    for attributes in (None, dict[str, AttributeValue]()):
        rendered = json.loads(render_envelope(ARN, "m1", b"x", attributes, published_at=0))
        assert list(rendered) == ["Type", "MessageId", "TopicArn", "Message", "Timestamp"]


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        ("a", "String", "a"),
        (True, "String", "true"),
        (False, "String", "false"),
        (5, "Number", "5"),
        (1.5, "Number", "1.5"),
        (b"\xff", "Binary", "/w=="),
        (["a", 1, None], "String.Array", '["a",1,null]'),
    ],
)
def test_T50_attributes_have_type_and_value(value: AttributeValue, kind: str, text: str) -> None:
    rendered = json.loads(render_envelope(ARN, "m1", b"x", {"k": value}, published_at=0))
    assert rendered["MessageAttributes"] == {"k": {"Type": kind, "Value": text}}


def test_T51_T72_a_fifo_envelope_carries_its_sequence_in_twenty_digits_and_no_signature() -> None:
    rendered = json.loads(render_envelope(ARN + ".fifo", "m1", b"x", None, published_at=0, sequence=7))
    assert list(rendered)[:4] == ["Type", "MessageId", "SequenceNumber", "TopicArn"]
    assert rendered["SequenceNumber"] == "00000000000000000007"
    assert not {"Signature", "SignatureVersion", "SigningCertURL"} & set(rendered)


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_357_000_000.001, "2013-01-01T00:26:40.001Z"),
        (1_357_000_000.9999, "2013-01-01T00:26:40.999Z"),
    ],
)
def test_T50_T58_the_timestamp_is_the_moment_of_publishing_in_milliseconds(at: float, text: str) -> None:
    assert timestamp(at) == text


def test_a_body_that_is_no_text_stands_in_base64() -> None:
    assert json.loads(render_envelope(ARN, "m1", b"\xff\xfe", None, published_at=0))["Message"] == "//4="


def test_T58_the_same_publish_renders_the_same_bytes() -> None:
    first, again = (render_envelope(ARN, "m1", b"x", {"a": 1}, published_at=5.25) for _ in range(2))
    assert first == again
