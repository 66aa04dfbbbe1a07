"""What a store cannot do for single messages: whoever asks for it is told, and nothing is sent without."""

from __future__ import annotations

from collections.abc import Iterable

from pipeflow.errors import FeatureMissing
from pipeflow.messages import Outgoing
from pipeflow.protocols import Features, Store


class Lacking:
    """The options of messages that one store has nothing for."""

    __slots__ = ("_has", "_url")

    def __init__(self, has: Features, url: str) -> None:
        self._has = has
        self._url = url

    def check(self, target: str, batch: Iterable[Outgoing]) -> None:
        """FeatureMissing: a message asks for what the store cannot do. None of the batch is sent."""
        for message in batch:
            reason = self.reason(target, message)
            if reason is not None:
                raise FeatureMissing(reason)

    def reason(self, target: str, message: Outgoing) -> str | None:
        """What this message asks for in vain; None when the store can do all of it."""
        has = self._has
        for in_vain, what, remedy in (
            (message.priority and not has.priorities, f"priority={message.priority}", "a queue of its own"),
            (message.ttl is not None and not has.ttl, "ttl=", "the retention of the queue"),
            (message.key is not None and not has.delayed_keys, "key=", "a message that is ignored when it comes"),
            (message.dedup_id is not None and not has.dedup, "dedup_id=", "a handler that may see it again"),
            (message.group is not None and not has.fifo, "group=", "a queue for each"),
            ((message.delay or 0.0) > has.max_delay, f"delay={message.delay}", f"at most {has.max_delay:g} s"),
        ):
            if in_vain:
                return f"{target}: {what} cannot be done by the store {self._url}; use {remedy}, or another store"
        return None


def lacking(store: Store) -> Lacking | None:
    """What this store lacks for messages; None when it lacks nothing."""
    has = store.features
    everything = Features(durable=has.durable)
    asked = ("priorities", "ttl", "delayed_keys", "dedup", "fifo", "max_delay")
    if all(getattr(has, each) == getattr(everything, each) for each in asked):
        return None
    return Lacking(has, store.url)
