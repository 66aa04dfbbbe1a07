"""One message as its queue holds it, and the states it can be in (SQS: Q1)."""

from __future__ import annotations

from math import inf
from typing import Final

from msgspec import Struct

from pipeflow.messages import AttributeValue, Claim, Failure
from pipeflow.webhooks import REPLAYED

READY: Final = 0
DELAYED: Final = 1
IN_FLIGHT: Final = 2
GONE: Final = 3


class Stored(Struct, gc=False):
    """One message as its queue holds it. `row` is the key it is on disk under, 0 when it is not."""

    place: int
    """Its position in the queue; the sequence number of FIFO messages."""
    id: str
    body: bytes | None
    """None when only the disk has it, and always when it is kept aside."""
    size: int
    sent_at: float
    kept_from: float
    """Retention counts from here."""
    attributes: dict[str, AttributeValue] | None = None
    headers: dict[str, str] | None = None
    group: str | None = None
    dedup_id: str | None = None
    delay: float = 0.0
    receives: int = 0
    releases: int = 0
    first_received_at: float = 0.0
    received_at: float = 0.0
    state: int = READY
    until: float = 0.0
    """Due when delayed, deadline when in flight."""
    boot: int = 0
    """Boot of the receive that its current receipt names; 0 when it was given back."""
    held_by: int = 0
    """Boot in which it was in flight; 0 when nobody holds it."""
    durable: bool = False
    """Held by a consumer outside the owner's process: keeps its deadline across a restart."""
    stops: int = 0
    """Unclean stops during which it was in flight."""
    suspect: bool = False
    """It was here at the last stop, and that was not a clean one."""
    failures: list[Failure] | None = None
    source: str | None = None
    """The queue whose dead letter it is."""
    envelope: tuple[str, str] | None = None
    """(topic, subject) when it is rendered as an SNS envelope at receive."""
    shared: int = 0
    """Number of the stored body it shares with other queues; 0: its own."""
    queue: int = 0
    row: int = 0
    body_crc: int | None = None
    claim: Claim | None = None
    """Where its body is kept aside; `shared` is its number then."""
    expires_at: float = inf
    """When its own time to live ends; the queue's retention holds besides."""
    key: str | None = None
    """What it can be replaced or cancelled by, until it is visible for the first time."""
    tried: int = 0
    """Attempts in the queues whose dead letter it is: dead letters that may fail themselves count anew (SQS: Q95)."""

    @property
    def attempt(self) -> int:
        """Which attempt in this queue its newest receive was."""
        return self.receives - self.releases - self.tried


LONGEST_OF_SQS: Final = 900.0
"""Seconds: the longest delay that SQS has (Q33)."""


def kept_from(sent_at: float, delay: float) -> float:
    """From when retention counts: the send (SQS: Q2 l); the end of a delay longer than any that SQS has.

    Else a message delayed for longer than its queue keeps messages would be gone before anybody could see it.
    """
    return sent_at + delay if delay > LONGEST_OF_SQS else sent_at


def redelay(message: Stored, delay: float) -> None:
    """Let a message of a FIFO queue that is still delayed wait for the queue's own delay, as it is now (SQS: Q17).

    A replayed one keeps the delay it came with: it tells when it was published, not when it came.
    """
    if message.headers is None or REPLAYED not in message.headers:
        message.until = message.sent_at + delay
        message.kept_from = kept_from(message.sent_at, delay)
