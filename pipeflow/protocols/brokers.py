"""What a broker promises: topics and queues, five verbs, each over a batch; and what a broker may lack, as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from pipeflow.messages import (
    Delivery,
    Outgoing,
    Refused,
    Sent,
    Settled,
    Settlement,
    Stale,
    Want,
)
from pipeflow.specs import Topology

BEHIND = Refused("behind_refused", "an item of the same source before it was refused, and a source does not pass it")


class Features(Struct, frozen=True):
    """What a broker can do, as data. A noun that asks for more is refused when the app opens, by name; a message that
    asks for more, by whoever sends it."""

    durable: bool
    fifo: bool = True
    """Order in groups, of FIFO queues and topics; and groups that share a standard queue."""
    dedup: bool = True
    max_delay: float = 366 * 86_400.0
    """Seconds."""
    ttl: bool = True
    """Messages can have a time to live of their own."""
    priorities: bool = True
    """Of what is ready in a standard queue the highest priority comes first."""
    atomic_emits: bool = True
    """An acknowledgement and what it emits commit together."""
    record_log: bool = True
    checkpoints: bool = True
    """Source positions commit with what they belong to."""
    admin: bool = True
    rates: bool = True
    """A queue can bound how many messages it hands out in any second."""
    archives: bool = True
    """A topic can keep what was published, to be replayed."""
    delayed_keys: bool = True
    """A delayed message can be replaced and cancelled by its key."""
    reconnects: bool = False
    """Reached over a connection: what was Unavailable may work again, so the engine asks again instead of ending."""


class Broker(Protocol):
    """Topics and queues. The order of results is the order of the input; a refused item is a value, not an exception.

    Every verb but `receive` answers after the group that was open when it ran, also when it changed nothing.
    """

    features: Features

    async def declare(self, topology: Topology) -> None:
        """Make what is missing, migrate what changed where that is safe; SpecConflict with a diff where not."""

    async def publish(self, topic: str, batch: Sequence[Outgoing]) -> Sequence[Sent | Refused]:
        """Accept each message for every subscription that matches it now, all in one commit. NotFound: no topic.

        Behind a refused message with a checkpoint nothing of the batch is accepted: its source must not pass it.
        """
        ...

    async def send(self, queue: str, batch: Sequence[Outgoing]) -> Sequence[Sent | Refused]:
        """Accept each message into one queue. NotFound: no such queue. Behind a refused one with a checkpoint: none.

        A message with a key takes the place of the one of this key that is still delayed, in the same commit.
        """
        ...

    async def cancel_delayed(self, queue: str, key: str) -> bool:
        """Delete the message of this key if it is still delayed; whether there was one.

        RefusedError: a FIFO queue, or no key. Once a message is visible its key is free.
        """
        ...

    async def receive(self, queue: str, want: Want) -> Sequence[Delivery]:
        """What is ready now, at most `want.limit`; waits up to `want.wait` for the first. Empty when time came."""
        ...

    async def settle(self, queue: str, batch: Sequence[Settlement]) -> Sequence[Settled | Stale | Refused]:
        """Decide the fate of received messages, with everything they emit, in one commit.

        Refused: an emit of this settlement cannot be accepted; nothing of the settlement was done, the message is
        still held.
        """
        ...

    async def position(self, source: str) -> bytes | None:
        """The last committed position of a source, encoded; None when it never committed."""
        ...
