"""Deleting nouns and emptying queues: what is in a queue goes, who waits is told, its rows leave the disk in chunks.

A deleted queue's number is not given to another before the last row is gone: until then a marker keeps it, so that a
restart goes on sweeping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeflow.specs import archive_of

if TYPE_CHECKING:
    from pipeflow.embedded.broker import EmbeddedBroker
    from pipeflow.embedded.head import Head


async def purge_queue(broker: EmbeddedBroker, name: str) -> int:
    """Delete every message of a queue; how many there were."""
    head = broker.nouns.head(name)
    count = 0
    for lane in head.lanes:
        on_disk = lane.tail.count
        count += lane.purge()
        if on_disk:
            broker.tending.sweep(lane)
    broker.workbench.note_loss("purge", head, count)
    await broker.committed()
    return count


async def delete_queue(broker: EmbeddedBroker, name: str) -> int:
    """Forget a queue (SQS: Q105, Q106); how many messages were in it."""
    head = broker.nouns.open_head(name)
    broker.nouns.check_unused(name)
    count = _remove(broker, head)
    await broker.committed()
    return count


def _remove(broker: EmbeddedBroker, head: Head) -> int:
    name = head.spec.name
    count = sum(lane.purge() for lane in head.lanes)
    broker.workbench.note_loss("delete", head, count)
    broker.nouns.remove_queue(head)
    broker.moving.forget_queue(name)
    broker.choosing.forget_queue(name)
    for lane in head.lanes:
        broker.tending.sweep(lane)
    for signal in [*head.waiters, *(signal for lane in head.lanes for signal in lane.tail.fed)]:
        signal.fire()
    return count


async def delete_stream(broker: EmbeddedBroker, name: str, drop: bool) -> int:
    """Forget a stream; how many records were dropped."""
    dropped = broker.nouns.delete_stream(name, drop)
    broker.inlet.forget_replays(name)
    await broker.committed()
    return dropped


async def delete_topic(broker: EmbeddedBroker, name: str) -> bool:
    """Forget a topic, its subscriptions, and what its archive still keeps; whether there was one."""
    deleted = broker.nouns.delete_topic(name)
    archive = broker.nouns.find_head(archive_of(name))
    if deleted and archive is not None and archive.spec.archives:
        _remove(broker, archive)
        broker.inlet.forget_archive(name)
    await broker.committed()
    return deleted
