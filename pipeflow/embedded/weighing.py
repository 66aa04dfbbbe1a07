"""What a message weighs, and whether it can be kept at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pipeflow.messages import AttributeValue, Claim, Outgoing, Refused

PARTS = "pipeflow-parts"
"""The header by which a body that travels in parts is told from one that is here: nobody else may say it."""

_encode = msgspec.msgpack.Encoder().encode
# Group and deduplication id have rules of their own.
_Kept = tuple[dict[str, Any] | None, dict[str, str] | None, Any, Any, str | None, tuple[str, bytes] | None]
_read = msgspec.msgpack.Decoder(_Kept).decode
_NOTHING = (None,) * 6


def unfit(name: str, outgoing: Outgoing) -> Refused | None:
    """A value that cannot be kept is refused here: encoded with everybody's group it would fail all of them."""
    if type(outgoing.body) is not bytes:
        return Refused("bad_body", f"{name}: the body is {type(outgoing.body).__name__}; encode it to bytes")
    kept = outgoing.attributes, outgoing.headers, outgoing.group, outgoing.dedup_id, outgoing.id, outgoing.checkpoint
    if kept == _NOTHING and outgoing.claim is None:
        return None
    try:
        # Back again too: what does not read back is a damaged row after the next start.
        _read(_encode(kept))
    except (TypeError, ValueError, OverflowError) as error:
        return Refused(
            "bad_attributes",
            f"{name}: attributes, headers, group or ids cannot be kept ({error}); use plain text, numbers of 64 bits,"
            " booleans, bytes, and lists of them",
        )
    if outgoing.headers and PARTS in outgoing.headers:
        return Refused(
            "bad_headers", f"{name}: the header {PARTS} is what the store's socket uses itself; choose another name"
        )
    if outgoing.claim is not None and type(outgoing.claim) is not Claim:
        return Refused("bad_claim", f"{name}: claim is what the store itself says of a large body; leave it off")
    return None


def weigh(outgoing: Outgoing) -> int:
    """Bytes of a message: its body, and name and value of each attribute (SQS: Q26); headers are free."""
    size = len(outgoing.body) if outgoing.claim is None else outgoing.claim.size
    if outgoing.attributes:
        size += attributes_size(outgoing.attributes)
    return size


def attributes_size(attributes: Mapping[str, AttributeValue]) -> int:
    """Bytes of attributes as SQS counts them: name, type and value."""
    size = 0
    for name, value in attributes.items():
        if isinstance(value, bytes):
            size += len(value) + 6
        elif isinstance(value, str):
            size += len(value.encode()) + 6
        else:
            size += len(str(value)) + 6
        size += len(name.encode())
    return size
