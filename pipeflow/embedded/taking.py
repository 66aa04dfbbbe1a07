"""What a receive takes from a queue: what is ready in memory, else what the cold tail brings there.

A queue that saw priorities is a row of queues, one for each. The highest that has something ready is taken from first,
and a lower one only when none above it has anything, in memory or on disk: so a message of high priority is next,
however many of a lower one were sent before. Within one priority everything is as in a queue without any: the longest
visible first, tenants in their fair order.
"""

from __future__ import annotations

from pipeflow.embedded.handout import Handing, give_back, hand_out, take_out
from pipeflow.embedded.head import Head
from pipeflow.messages import Delivery, Receipt, Want
from pipeflow.state.stored import Stored


async def take(broker: Handing, head: Head, want: Want, taken: list[Stored]) -> list[Delivery]:
    """Deliveries of what was just taken out, or of what the tail has when that is nothing."""
    while True:
        if taken:
            deliveries = await hand_out(broker, head, taken, want)
            if deliveries:
                return deliveries
        elif len(head.lanes) > 1:
            return await _take_by_priority(broker, head, want)
        elif head.pace is not None and head.pace.room <= 0:
            return []
        elif not head.tail.ready or head.state.order.available():
            # Nothing more is there, or what is there must wait: for room in flight, or to run alone.
            return []
        elif head.state.in_flight >= head.spec.max_in_flight:
            return []
        else:
            before = head.tail.progress
            await _fed(broker, head)
            if head.tail.progress == before and not head.state.order.available():
                return []
        taken = take_out(broker, head, want, broker.clock.now())


async def _fed(broker: Handing, lane: Head) -> None:
    """Wait for a load of this tail, as one whom a message of it will go to: no other is to be woken for that."""
    head = lane.root
    head.comes()
    try:
        await broker.tending.fed(lane)
    except BaseException:
        head.came()
        head.wake()
        raise
    head.came()


async def _take_by_priority(broker: Handing, head: Head, want: Want) -> list[Delivery]:
    dry: set[Head] = set()
    """Lanes whose tail was asked, and had nothing that can be handed out now."""
    while True:
        taken, hungry = _from_the_top(broker, head, want, dry)
        if head.pace is not None:
            # Only now is it known when there is room again, and of no lane alone.
            broker.tending.arm(head)
        if taken:
            if head.waiters:
                # A message that was received for no time at all is there for the next one.
                head.wake()
            deliveries = await _hand_out_all(broker, taken, want)
            if deliveries:
                return deliveries
        elif hungry is None:
            return []
        else:
            before = hungry.tail.progress
            await _fed(broker, hungry)
            if hungry.tail.progress == before and not hungry.state.order.available():
                dry.add(hungry)


def _from_the_top(
    broker: Handing, head: Head, want: Want, dry: set[Head]
) -> tuple[list[tuple[Head, list[Stored]]], Head | None]:
    """What each priority gives, from the highest to the first that has to be looked for on disk; and that one."""
    now, lanes, pace = broker.clock.now(), head.lanes, head.pace
    for lane in lanes:
        lane.tick(now)
    limit = want.limit if pace is None else min(want.limit, pace.room)
    in_flight = sum(lane.state.in_flight for lane in lanes)
    taken: list[tuple[Head, list[Stored]]] = []
    count = size = 0
    for lane in lanes:
        if count >= limit or in_flight >= head.spec.max_in_flight or any(each.state.runs_alone for each in lanes):
            return taken, None
        state = lane.state
        beside = in_flight - state.in_flight
        more = state.receive(
            limit - count,
            want.max_bytes,
            now,
            broker.boot,
            want.visibility_timeout,
            want.durable,
            beside=beside,
            size=size,
        )
        if state.buried or state.expired:
            broker.bury(lane, now)
        broker.tending.arm(lane)
        broker.tending.feed(lane)
        if more:
            taken.append((lane, more))
            count += len(more)
            size += sum(message.size for message in more)
            in_flight = beside + state.in_flight
            if pace is not None:
                pace.took(len(more), now)
        if state.order.available():
            # What is left of it must wait, for room or to run alone, and nothing goes before it.
            return taken, None
        if lane not in dry and (lane.tail.ready or lane.tail.delayed_due(now)):
            return taken, lane
    return taken, None


async def _hand_out_all(broker: Handing, taken: list[tuple[Head, list[Stored]]], want: Want) -> list[Delivery]:
    receipts = [
        (lane, [Receipt(message.place, message.boot, message.receives) for message in messages])
        for lane, messages in taken
    ]
    deliveries: list[Delivery] = []
    for n, (lane, messages) in enumerate(taken):
        try:
            deliveries += await hand_out(broker, lane, messages, want)
        except BaseException:
            # That one gave back its own; the others are nobody's either.
            for other, theirs in receipts[:n] + receipts[n + 1 :]:
                give_back(broker, other, theirs)
            raise
    return deliveries
