"""The SNS envelope: a stored publish as SQS consumers of AWS expect it, rendered when it is received (SNS: T50, T51).

For queues nothing is signed: `SignatureVersion`, `Signature` and `SigningCertURL` are left out, as SNS itself does for
FIFO topics. A consumer that verifies signatures must be told so; a false signature would only fail later. Webhooks that
sign add theirs with `with_signature`.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from pipeflow.arns import ACCOUNT, REGION
from pipeflow.messages import AttributeValue
from pipeflow.names import digest

SUBJECT: Final = "subject"
"""The header that a publish carries its subject in."""


def topic_arn(name: str, *, fifo: bool = False) -> str:
    """What a topic is called in its envelopes (SNS: T2)."""
    return f"arn:aws:sns:{REGION}:{ACCOUNT}:{name}{'.fifo' if fifo else ''}"


def subscription_arn(topic: str, target: str, *, fifo: bool = False) -> str:
    """What a subscription is called: the same for the same topic and target (SNS: T2)."""
    made = digest(f"{topic}\0{target}".encode(), 16).hex()
    parts = (made[:8], made[8:12], made[12:16], made[16:20], made[20:])
    return f"{topic_arn(topic, fifo=fifo)}:{'-'.join(parts)}"


def with_signature(envelope: bytes, signed: Mapping[str, str]) -> bytes:
    """The envelope with what it was signed with, in the places of SNS: behind Timestamp, before attributes (T50)."""
    document: dict[str, object] = msgspec.json.decode(envelope, type=dict[str, object])
    attributes = document.pop("MessageAttributes", None)
    document.update(signed)
    if attributes is not None:
        document["MessageAttributes"] = attributes
    return msgspec.json.encode(document)


def render_envelope(
    topic: str,
    message_id: str,
    body: bytes,
    attributes: Mapping[str, AttributeValue] | None,
    *,
    published_at: float,
    subject: str | None = None,
    sequence: int | None = None,
    replayed: bool = False,
) -> bytes:
    """The envelope of one publish; `topic` is its ARN, `sequence` that of a FIFO topic. Equal input, equal bytes.

    A body that is not UTF-8 stands there in base64: JSON has no other way to hold it.
    """
    envelope: dict[str, object] = {"Type": "Notification", "MessageId": message_id}
    if sequence is not None:
        envelope["SequenceNumber"] = f"{sequence:020d}"
    envelope["TopicArn"] = topic
    if subject:
        envelope["Subject"] = subject
    envelope["Message"] = _text(body)
    envelope["Timestamp"] = timestamp(published_at)
    if replayed:
        envelope["Replayed"] = True
    if attributes:
        envelope["MessageAttributes"] = {name: _attribute(value) for name, value in attributes.items()}
    return msgspec.json.encode(envelope)


def timestamp(at: float) -> str:
    """`YYYY-MM-DDTHH:MM:SS.mmmZ` (SNS: T50)."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return b64encode(body).decode()


def _attribute(value: AttributeValue) -> dict[str, str]:
    match value:
        case bool():
            return {"Type": "String", "Value": "true" if value else "false"}
        case str():
            return {"Type": "String", "Value": value}
        case int() | float():
            return {"Type": "Number", "Value": str(value)}
        case bytes():
            return {"Type": "Binary", "Value": b64encode(value).decode()}
        case _:
            return {"Type": "String.Array", "Value": msgspec.json.encode(value).decode()}
