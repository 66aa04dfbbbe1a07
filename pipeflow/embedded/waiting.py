"""A receive that waits for its first message (SQS: Q48).

As many receivers are woken as there are messages for them: those that were woken and have not looked yet count, so that
messages which come one by one wake no more than those which come at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeflow.clock import Signal
from pipeflow.embedded.handout import take_out
from pipeflow.embedded.head import Head
from pipeflow.embedded.taking import take
from pipeflow.messages import Delivery, Want
from pipeflow.state.stored import Stored

if TYPE_CHECKING:
    from pipeflow.embedded.broker import EmbeddedBroker


async def first(broker: EmbeddedBroker, head: Head, want: Want, taken: list[Stored], until: float) -> list[Delivery]:
    """Deliveries of what was just taken out, or of what comes first until then."""
    name = head.spec.name
    while True:
        deliveries = await take(broker, head, want, taken)
        if deliveries:
            return deliveries
        if want.wait <= 0:
            return []
        signal = Signal()
        head.waiters[signal] = None
        try:
            fired = await broker.clock.wait(signal, until)
        except BaseException:
            # Woken and cancelled at once: the message this wake-up was for is somebody else's now.
            if head.looks(signal):
                head.wake()
            raise
        head.looks(signal)
        broker.check_open()
        head = broker.nouns.open_head(name)  # or it was deleted meanwhile (SQS: Q106)
        taken = take_out(broker, head, want, broker.clock.now())
        if not fired:
            # Time came; what became ready in this very moment still counts.
            return await take(broker, head, want, taken)
