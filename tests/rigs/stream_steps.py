"""A process that is abandoned at every step: a commit, or a change of the sink before or after it took effect.

At each step the store's file and the sink's objects are copied as they are, for a new process to go on from.
"""

from __future__ import annotations

from record_owner import Owner

from pipeflow.protocols import Object
from pipeflow.sinks.memory import MemorySink

Crash = tuple[bytes, dict[str, bytes], set[str], set[str]]
"""(store's file, objects, acknowledged records, records that were offered)"""


class Steps:
    """Copies everything at every step."""

    def __init__(self, owner: Owner, sink: WatchedSink) -> None:
        self.owner = owner
        self.sink = sink
        self.acknowledged: set[str] = set()
        self.offered: set[str] = set()
        self.crashes: list[Crash] = []
        owner.on_commit = self.take
        sink.steps = self

    def take(self) -> None:
        self.crashes.append(
            (self.owner.snapshot, dict(self.sink.objects), set(self.acknowledged), set(self.offered)),
        )


class WatchedSink(MemorySink):
    """A step before and after each write and each deletion."""

    steps: Steps | None = None

    async def write(self, obj: Object) -> None:
        if self.steps is not None:
            self.steps.take()
        await super().write(obj)
        if self.steps is not None:
            self.steps.take()

    async def delete(self, name: str) -> None:
        if self.steps is not None:
            self.steps.take()
        await super().delete(name)
        if self.steps is not None:
            self.steps.take()
