"""A receive: messages are taken out of their queue and become deliveries, waiting for the disk only where they must."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any, Protocol

from pipeflow.clock import Clock
from pipeflow.embedded.arguments import MOST, NUMBERS, NUMBERS_OR_NONE, unwanted
from pipeflow.embedded.claims import Claims
from pipeflow.embedded.fanout import envelope
from pipeflow.embedded.head import Head
from pipeflow.embedded.journal import Journal
from pipeflow.embedded.tending import Tending
from pipeflow.errors import ConfigurationError
from pipeflow.messages import Delivery, Receipt, Release, Want
from pipeflow.names import valid_group
from pipeflow.state.queue import LONGEST_HOLD
from pipeflow.state.stored import GONE, IN_FLIGHT, Stored


class Handing(Protocol):
    """What handing out needs of the broker it is part of."""

    boot: int
    claims: Claims
    tending: Tending

    @property
    def clock(self) -> Clock: ...

    @property
    def journal(self) -> Journal: ...

    async def committed(self) -> None: ...

    def written_behind(self) -> None: ...

    def bury(self, head: Head, now: float) -> None: ...


def check_want(head: Head, want: Any) -> None:
    """ConfigurationError for a receive that asks for what its queue cannot give. TypeError: for what is no number."""
    # By its class: an `is` of the type itself would make it a Want, whose fields compiled code takes to be as declared.
    kind: Any = type(want)
    if (
        kind is not Want
        or type(want.limit) is not int
        or type(want.max_bytes) is not int
        or type(want.durable) is not bool
        or type(want.wait) not in NUMBERS
        or type(want.visibility_timeout) not in NUMBERS_OR_NONE
    ):
        raise unwanted(head.spec.name, want)
    if want.limit < 1 or not (want.wait <= MOST or want.wait == inf):
        # Who is woken and takes nothing keeps the wake-up from others.
        raise ConfigurationError(
            f"{head.spec.name}: a receive of {want.limit} that waits {want.wait} s; ask for at least 1, and wait 0 s or"
            " longer (SQS: Q46, Q47)"
        )
    timeout = want.visibility_timeout
    if timeout is not None and not 0 <= timeout <= LONGEST_HOLD:
        raise ConfigurationError(
            f"{head.spec.name}: visibility_timeout of a receive is {timeout}; use 0 to {LONGEST_HOLD:g} s (SQS: Q50)"
        )
    if want.attempt_id is not None and not (head.spec.fifo and valid_group(want.attempt_id)):
        raise ConfigurationError(
            f"{head.spec.name}: attempt_id {want.attempt_id!r} is for FIFO queues, 1 to 128 letters, digits or"
            " punctuation (SQS: Q57)"
        )


def take_out(broker: Handing, head: Head, want: Want, now: float) -> list[Stored]:
    """What a receiver may have now; nothing of a queue with priorities, of which `taking` knows whose turn it is."""
    if len(head.lanes) > 1:
        return []
    head.tick(now)
    state, pace = head.state, head.pace
    taken = state.receive(
        want.limit if pace is None else min(want.limit, pace.room),
        want.max_bytes,
        now,
        broker.boot,
        want.visibility_timeout,
        want.durable,
        want.attempt_id,
    )
    if state.buried or state.expired:
        broker.bury(head, now)
    if pace is not None and taken:
        pace.took(len(taken), now)
    broker.tending.arm(head)
    if head.tail.ready:
        broker.tending.feed(head)
    if taken and head.waiters:
        # A message that was received for no time at all is there for the next one.
        head.wake()
    return taken


def at_once(taken: list[Stored], want: Want) -> bool:
    """Whether messages that were just taken can be handed out without waiting for the disk."""
    if want.durable:
        return False
    for message in taken:  # noqa: SIM110  # a generator costs more than what it looks at
        if message.body is None or message.suspect:
            return False
    return True


def hand_over(broker: Handing, head: Head, taken: list[Stored]) -> list[Delivery]:
    """The same as `hand_out`, of what can be handed out at once."""
    deliveries = [delivery(head, message) for message in taken]
    broker.written_behind()
    if not head.has_room:
        for message in taken:
            head.drop_body(message)
    return deliveries


async def hand_out(broker: Handing, head: Head, taken: list[Stored], want: Want) -> list[Delivery]:
    """Messages that were just taken, as deliveries; given back unharmed when the receiver is cancelled meanwhile.

    Those of a receive with an id stay in flight: it can be repeated.
    """
    receipts = [Receipt(message.place, message.boot, message.receives) for message in taken]
    try:
        aside: dict[int, bytes] = {}
        if any(message.body is None for message in taken):
            taken, aside = await reload(broker, head, taken)
        deliveries = [delivery(head, message, aside.get(message.place)) for message in taken]
        if want.durable or any(message.suspect for message in taken):
            await broker.committed()
        else:
            broker.written_behind()
    except asyncio.CancelledError:
        # Who named this receive asks again and gets the same; where it was a repeat, its first caller has them (Q57).
        if want.attempt_id is None:
            give_back(broker, head, receipts)
        raise
    for message in taken:
        head.drop_body(message)
    return deliveries


def give_back(broker: Handing, head: Head, receipts: list[Receipt]) -> None:
    """Let go of what was taken for a receiver that is gone: nobody will ever settle it."""
    # From last to first, each to the front: they stay in order.
    for receipt in reversed(receipts):
        head.state.settle(Release(receipt), broker.clock.now(), broker.boot)
    head.wake()
    broker.written_behind()


def delivery(head: Head, message: Stored, body: bytes | None = None) -> Delivery:
    """What a receiver gets of a message that was just handed out; `body` is that of one that is kept aside."""
    if body is None:
        body = message.body
    assert body is not None
    attributes = message.attributes
    headers = message.headers
    if message.envelope is not None:
        body = envelope(message, body)
        attributes = None
    return Delivery(
        message.id,
        head.spec.name,
        body,
        Receipt(message.place, message.boot, message.receives),
        message.attempt,
        message.sent_at,
        # Received for no time at all it is visible already, and has no deadline any more (SQS: Q2 e).
        message.until if message.state == IN_FLIGHT else message.received_at,
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
        head.priority,
        message.expires_at if message.expires_at != inf else None,
    )


async def reload(broker: Handing, head: Head, taken: list[Stored]) -> tuple[list[Stored], dict[int, bytes]]:
    """Read bodies back that memory had no room for; what can still be handed out then, and what was kept aside.

    A damaged one leaves its message out, counted; so does a purge, and a newer receive. What was kept aside, by place,
    is not put back into memory: who receives it is the only one who holds it.
    """
    receives = [message.receives for message in taken]
    absent = [message for message in taken if message.body is None and message.claim is None]
    bodies = await broker.journal.bodies([(message.row, message.shared) for message in absent]) if absent else []
    for message, body in zip(absent, bodies, strict=True):
        if message.state == GONE or message.body is not None:
            continue
        if body is not None:
            message.body = body
            head.bytes += message.size
        else:
            head.tail.lose(message)
    aside: dict[int, bytes] = {}
    if any(message.claim is not None and message.suspect for message in taken):
        # Already reading it may have been what killed the process: the receive counts before that.
        await broker.committed()
    for message in taken:
        if message.claim is not None:
            found = await broker.claims.fetch(head, message)
            if found is not None:
                aside[message.place] = found
    left = [
        message
        for message, receive in zip(taken, receives, strict=True)
        if message.state != GONE and message.receives == receive and (message.claim is None or message.place in aside)
    ]
    return left, aside
