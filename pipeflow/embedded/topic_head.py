"""What the store holds of one topic, beside what lies in its queues."""

from __future__ import annotations

from pipeflow.embedded.head import Head
from pipeflow.embedded.journal import TopicCounters
from pipeflow.specs import TopicSpec
from pipeflow.state.dedup import Dedup
from pipeflow.state.topic import TopicState


class TopicHead:
    """One topic: its state machine, its counters, and the heads of the queues it feeds."""

    __slots__ = ("counters", "dedup", "heads", "number", "spec", "state", "streams")

    def __init__(self, spec: TopicSpec, number: int, counters: TopicCounters) -> None:
        self.spec = spec
        self.number = number
        self.counters = counters
        self.dedup = Dedup()
        self.state = TopicState(spec)
        self.heads: dict[str, Head] = {}
        """By name: every queue with a subscription here."""
        self.streams: list[str] = []
