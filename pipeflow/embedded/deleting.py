"""Deleting a queue: what is in it goes with it, who waits on it is told, and its rows leave the disk in chunks.

Its number is not given to another queue before the last row is gone: until then a marker keeps it, so that a restart
goes on sweeping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeflow.embedded.broker import EmbeddedBroker


async def delete_queue(broker: EmbeddedBroker, name: str) -> int:
    """Forget a queue (SQS: Q105, Q106); how many messages were in it."""
    nouns = broker.nouns
    head = nouns.open_head(name)
    nouns.check_unused(name)
    count = head.purge()
    nouns.remove_queue(head)
    broker.moving.forget_queue(name)
    broker.tending.sweep(head)
    for signal in [*head.waiters, *head.tail.fed]:
        signal.fire()
    head.waiters.clear()
    await broker.committed()
    return count
