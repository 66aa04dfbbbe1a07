"""The way of what handlers publish: the step that settles their message takes it in, or is refused as a whole."""

from __future__ import annotations

from collections.abc import Sequence

from pipeflow.embedded.fanout import FanOut
from pipeflow.embedded.head import Head
from pipeflow.embedded.intake import Intake
from pipeflow.embedded.log import Log
from pipeflow.embedded.nouns import Nouns
from pipeflow.embedded.weighing import unfit, weigh
from pipeflow.messages import Emit, Refused
from pipeflow.state.wishes import unseen


class Emitting:
    """Takes emits in for the broker."""

    def __init__(self, nouns: Nouns, inlet: Intake, fan_out: FanOut, log: Log) -> None:
        self._nouns = nouns
        self._inlet = inlet
        self._fan_out = fan_out
        self._log = log

    def refusal(self, emits: Sequence[Emit]) -> Refused | None:
        """Why one of these could not be taken; None when all can."""
        for emit in emits:
            refused = self._emit_refusal(emit)
            if refused is not None:
                return refused
        return None

    def _emit_refusal(self, emit: Emit) -> Refused | None:
        message = emit.message
        bad = unfit(emit.target, message)
        if bad is not None:
            return bad
        if emit.kind == "stream":
            if emit.target not in self._log:
                return Refused("not_found", f"there is no stream {emit.target}")
            return self._log.check(emit.target, message)
        if emit.kind == "queue":
            head = self._nouns.find_head(emit.target)
            if head is None:
                return Refused("not_found", f"there is no queue {emit.target}")
            refused = self._inlet.refusal(head.spec, message, weigh(message))
            if message.ttl is not None:
                refused = refused or unseen(head.spec, message.ttl, message.delay)
            return refused
        topic = self._nouns.find_topic(emit.target)
        if topic is None:
            return Refused("not_found", f"there is no topic {emit.target}")
        return topic.state.refusal(message) or self._fan_out.refusal(topic, message)

    def emit(self, emit: Emit, now: float, touched: list[Head]) -> None:
        """Take in what a handler published; `refusal` said before that it can be."""
        if emit.kind == "stream":
            self._log.append_in_group(emit.target, [emit.message])
        elif emit.kind == "queue":
            head = self._nouns.head(emit.target)
            self._inlet.send(head, emit.message, now)
            touched += head.lanes
        else:
            topic = self._nouns.topic(emit.target)
            self._fan_out.publish(topic, emit.message, now, touched)
