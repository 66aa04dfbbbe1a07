"""The last step of a receive: a message becomes a delivery, its body read back where memory had no room for it."""

from __future__ import annotations

from pipeflow.embedded.head import Head
from pipeflow.embedded.intake import Intake
from pipeflow.embedded.journal import Journal
from pipeflow.messages import Delivery, Receipt
from pipeflow.state.stored import GONE, Stored


def delivery(head: Head, message: Stored, inlet: Intake) -> Delivery:
    """What a receiver gets of a message that was just handed out."""
    body = message.body
    assert body is not None
    attributes = message.attributes
    headers = message.headers
    if message.envelope is not None:
        body = inlet.envelope(message, body)
        attributes = None
    return Delivery(
        message.id,
        head.spec.name,
        body,
        Receipt(message.place, message.boot, message.receives),
        message.receives - message.releases,
        message.sent_at,
        message.until,
        message.place,
        attributes or {},
        headers or {},
        message.group,
        message.dedup_id,
        message.receives,
        message.first_received_at,
        message.stops >= 2,
        message.failures or [],
        message.source,
    )


async def reload(head: Head, taken: list[Stored], journal: Journal) -> list[Stored]:
    """Read bodies back that memory had no room for; what can still be handed out then.

    A damaged one leaves its message out, counted; so does a purge, and a newer receive.
    """
    receives = [message.receives for message in taken]
    absent = [message for message in taken if message.body is None]
    bodies = await journal.bodies([(message.row, message.shared) for message in absent])
    for message, body in zip(absent, bodies, strict=True):
        if message.state == GONE or message.body is not None:
            continue
        if body is not None:
            message.body = body
            head.bytes += message.size
        else:
            head.lose(message)
    return [
        message
        for message, receive in zip(taken, receives, strict=True)
        if message.state != GONE and message.receives == receive
    ]
