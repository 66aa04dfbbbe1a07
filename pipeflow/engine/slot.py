"""One worker's place: what it holds, what its handler emitted, and the one scope that can cancel it.

A slot lives as long as its worker; nothing here is made per message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextvars import ContextVar
from math import inf
from typing import TYPE_CHECKING

from anyio import CancelScope

from pipeflow.clock import Signal
from pipeflow.messages import Delivery, Emit

if TYPE_CHECKING:
    from pipeflow.engine.runtime import Runtime


class Slot:
    """What one worker has in hand."""

    __slots__ = ("runtime", "signal", "scope", "held", "run", "emits", "timeout_at", "started", "timed_out", "lost")

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.signal = Signal()
        """Wakes the worker when it is idle or waits at the gate."""
        self.scope = CancelScope()
        self.held: Sequence[Delivery] = ()
        """What the handler works on now: one message, or one batch."""
        self.run: deque[Delivery] = deque()
        """What comes after it on this worker and no other: the rest of a FIFO group, in order."""
        self.emits: list[Emit] = []
        self.timeout_at = inf
        self.started = 0.0
        self.timed_out = False
        self.lost: set[str] = set()
        """Ids whose visibility timeout could not be kept: somebody else may have them."""

    def lose(self, delivery: Delivery) -> bool:
        """Cancel the handler that works on a message which is no longer ours; False when the slot has moved on."""
        if not any(held is delivery for held in self.held):
            return False
        self.lost.add(delivery.id)
        self._cancel()
        return True

    def expire(self) -> None:
        """Cancel the handler: its time is up."""
        self.timeout_at = inf
        self.timed_out = True
        self._cancel()

    def _cancel(self) -> None:
        if not self.scope.cancel_called:
            # A cancelled task is woken by nobody who could hand it a token, so it is counted from here on.
            self.runtime.clock.activity.take()
            self.scope.cancel()

    def stopped(self) -> None:
        """The handler that was cancelled has ended."""
        self.timed_out = False
        self.lost.clear()
        self.runtime.clock.activity.give_back()

    def causes(self) -> dict[str, str] | None:
        """Correlation and causation of what is published now; None when no single message is the cause."""
        return None if len(self.held) != 1 else caused_by(self.held[0])


def caused_by(delivery: Delivery) -> dict[str, str]:
    """Headers of a message published because of this one: the same correlation, this one as its cause."""
    return {"correlation": delivery.headers.get("correlation", delivery.id), "causation": delivery.id}


current_slot: ContextVar[Slot] = ContextVar("pipeflow_slot")
"""The slot of the worker this code runs in, in its threads too; unset outside handlers."""
