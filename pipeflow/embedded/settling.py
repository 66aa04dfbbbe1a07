"""What becomes of received messages, decided one by one as their receivers said, in one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeflow.embedded.arguments import unkept
from pipeflow.embedded.head import Head
from pipeflow.messages import Ack, Refused, Settled, Settlement, Stale

if TYPE_CHECKING:
    from pipeflow.embedded.broker import EmbeddedBroker


def settle_all(
    broker: EmbeddedBroker, head: Head, batch: Sequence[Settlement], emits: bool
) -> list[Settled | Stale | Refused]:
    """Decide the fate of each message of a batch, and take in what its handler emitted; one step of one group."""
    now = broker.clock.now()
    touched: list[Head] = [*head.lanes]
    for lane in head.lanes:
        lane.tick(now)
    results: list[Settled | Stale | Refused] = []
    ranked = len(head.lanes) > 1
    state, counters = head.state, head.counters
    due_changed = emits
    # As their callers made them: compiled code takes the fields of what has a type to be as declared.
    given: Sequence[Any] = batch
    for settlement in given:
        kind: Any = type(settlement)
        if ranked:
            lane = head.lane_with(settlement.receipt.place)
            state, counters = lane.state, lane.counters
        if kind is not Ack:
            due_changed = True
            results.append(unkept(head.spec.name, settlement) or state.settle(settlement, now, broker.boot))
            continue
        refused = broker.emitting.refusal(settlement.emits) if settlement.emits else None
        if refused is not None:
            results.append(refused)
            continue
        result = state.settle(settlement, now, broker.boot, bool(settlement.superseded_ok))
        if isinstance(result, Settled):
            counters.acked += 1
            for emit in settlement.emits or ():
                broker.emitting.emit(emit, now, touched)
        results.append(result)
    head.touch()
    for lane in head.lanes:
        lane.tail.shed()
        if lane.state.buried:
            broker.bury(lane, now)
    # What is only deleted makes nothing due earlier.
    if due_changed:
        broker.after_intake(dict.fromkeys(touched))
    else:
        for lane in head.lanes:
            broker.wake(lane)
    return results
