"""What a sender may ask for beyond delivery, and when that cannot be: a time to live."""

from __future__ import annotations

from pipeflow.messages import Outgoing, Refused
from pipeflow.specs import YEAR


def unfulfillable(name: str, message: Outgoing) -> Refused | None:
    """Why a message cannot be accepted with what it asks for; None when it can."""
    ttl, delay = message.ttl, message.delay
    if ttl is not None:
        if not 0 < ttl <= YEAR:
            return Refused("bad_ttl", f"{name}: ttl is {ttl}; use more than 0 s, up to a year, or leave it off")
        if delay is not None and ttl <= delay:
            return Refused(
                "bad_ttl",
                f"{name}: ttl is {ttl} and delay {delay}: it would be gone before it is visible; a ttl counts from the"
                " send, so make it longer than the delay",
            )
    return None
