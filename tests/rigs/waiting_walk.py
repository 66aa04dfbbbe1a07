"""Receivers that wait, and are cancelled at any moment, on random schedules: nobody waits beside what he could have.

Whatever wakes a receiver that is cancelled in the same breath must wake the next; what was handed to one that went away
must be free again (SQS: Q48). The order of tasks is the event loop's; how far it comes between two steps is chance.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from random import Random

from pipeflow.clock import VirtualClock
from pipeflow.embedded.opening import Kept
from pipeflow.embedded.remote import connect
from pipeflow.embedded.socket import socket_path
from pipeflow.messages import Ack, Bury, Defer, Delivery, Extend, Outgoing, Release, Settlement, Want
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology

CAP = 4
ROUNDS = {"memory": 2, "sqlite": 3, "cold": 4, "socket": 5}
QUEUES = (
    QueueSpec("work", visibility_timeout=20.0, max_in_flight=CAP, max_receives=50, dead_letters="dead"),
    QueueSpec("line", fifo=True, visibility_timeout=20.0, max_in_flight=CAP, max_receives=50, dead_letters="dead-line"),
)


class Schedule:
    """One random schedule over one store; `through` a socket, receivers are in another program."""

    def __init__(self, kind: str, folder: Path, seed: int) -> None:
        self.kind = kind
        self.random = Random(f"{kind} {seed}")
        self.path = folder / "store.db"
        self.clock = VirtualClock(1000.0)
        self.store: Kept
        self.desk: Store
        """Where receivers ask: the store itself, or a client of it."""
        self.receivers: list[tuple[str, asyncio.Task[Sequence[Delivery]]]] = []
        self.held: list[Delivery] = []
        self.sent = 0
        self.cancelled = self.taken = 0

    async def run(self, steps: int) -> None:
        hot = "&hot_messages=3" if self.kind == "cold" else ""
        url = "memory://" if self.kind == "memory" else f"sqlite:///{self.path}?durability=normal{hot}"
        store = await open_store(url, clock=self.clock)
        assert isinstance(store, Kept)
        self.store = self.desk = store
        try:
            await store.declare(Topology(queues=QUEUES))
            if self.kind == "socket":
                self.desk = await connect(socket_path(self.path), url, self.clock)
            for _ in range(steps):
                await self.step()
                await self.turns(self.random.choice([0, 0, 1, 2, 3, 5]))
                if self.random.random() < 0.3:
                    await self.check()
            await self.end()
        finally:
            await self.cancel_all()
            if self.desk is not store:
                await self.desk.close()
            await store.close()

    async def turns(self, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    async def quiet(self) -> None:
        """Return when nothing happens any more by itself: nothing has changed for some rounds."""
        still = 0
        before: object = None
        while still < ROUNDS[self.kind]:
            await self.turns(6)
            await self.clock.settle()
            if self.kind != "memory":
                await self.store.journal.check()  # type: ignore[attr-defined]  # the thread has done what it had
            heads = [(head.state.in_flight, head.tail.progress, len(head.waiters)) for head in self.store.nouns.heads()]
            seen = heads, [task.done() for _, task in self.receivers]
            still = still + 1 if seen == before else 0
            before = seen

    # -- steps ---------------------------------------------------------------------------------------------------

    async def step(self) -> None:
        self.collect()
        weights = {
            self.wait: 35, self.cancel: 12, self.send: 12, self.race: 20, self.settle: 25, self.empty: 10,
            self.advance: 4,
        }  # fmt: skip
        (action,) = self.random.choices(list(weights), list(weights.values()))
        await action()

    async def wait(self) -> None:
        if len(self.receivers) < 8:
            queue = self.random.choice(["work", "line"])
            want = Want(self.random.choice([1, 1, 3]), wait=self.random.choice([0.0, 15.0, 1000.0]))
            self.receivers.append((queue, asyncio.create_task(self.receive(queue, want))))

    async def receive(self, queue: str, want: Want) -> Sequence[Delivery]:
        return await self.desk.receive(queue, want)

    async def cancel(self) -> None:
        if self.receivers:
            self.random.choice(self.receivers)[1].cancel()
            self.cancelled += 1

    async def race(self) -> None:
        """One message for several who wait; the first of them is cancelled before, while or after it is woken."""
        queue = self.random.choice(["work", "line"])
        await self.send_to(queue, 1)
        await self.turns(self.random.choice([0, 0, 0, 1, 2]))
        first = next((task for name, task in self.receivers if name == queue and not task.done()), None)
        if first is not None:
            first.cancel()
            self.cancelled += 1

    async def send(self) -> None:
        await self.send_to(self.random.choice(["work", "line"]), self.random.choice([1, 1, 2, 4]))

    async def send_to(self, queue: str, count: int) -> None:
        fifo = queue == "line"
        batch = []
        for _ in range(count):
            self.sent += 1
            group = self.random.choice("ab") if fifo else None
            delay = None if fifo else self.random.choice([None, None, 5.0])
            batch.append(Outgoing(f"{queue}{self.sent}".encode(), group=group, delay=delay))
        await self.store.send(queue, batch)

    async def settle(self) -> None:
        if self.held:
            delivery = self.held.pop(self.random.randrange(len(self.held)))
            receipt = delivery.receipt
            ways: list[Settlement] = [Ack(receipt), Ack(receipt), Extend(receipt, 0.0), Defer(receipt, 7.0)]
            ways += [Defer(receipt, 0.0), Release(receipt), Bury(receipt)]
            await self.store.settle(delivery.queue, [self.random.choice(ways)])

    async def empty(self) -> None:
        """Somebody works off what there is, so that those who come next wait."""
        for queue in ("work", "line"):
            mine, self.held = [e for e in self.held if e.queue == queue], [e for e in self.held if e.queue != queue]
            await self.store.settle(queue, [Ack(each.receipt) for each in mine])
            while taken := await self.store.receive(queue, Want(10)):
                await self.store.settle(queue, [Ack(each.receipt) for each in taken])

    async def advance(self) -> None:
        await self.clock.advance(self.random.choice([1.0, 5.0, 20.0]))
        self.collect()
        self.held = [delivery for delivery in self.held if delivery.deadline > self.clock.now()]

    # -- what must hold ------------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Take what receivers brought; of one that was cancelled there is nothing."""
        waiting = []
        for queue, task in self.receivers:
            if not task.done():
                waiting.append((queue, task))
            elif not task.cancelled():
                self.taken += len(task.result())
                self.held += [each for each in task.result() if each.deadline > self.clock.now()]
        self.receivers = waiting

    async def check(self) -> None:
        """Nobody waits while there is something for him, and what is in flight is in somebody's hands."""
        await self.quiet()
        self.collect()
        for queue in ("work", "line"):
            state = self.store.nouns.head(queue).state
            waiting = sum(name == queue for name, _ in self.receivers)
            ready = await self.receivable(queue)
            room = state.in_flight < CAP
            assert not (waiting and ready and room), f"{waiting} wait for {queue} beside {ready}"
            in_hands = {each.receipt for each in self.held if each.queue == queue}
            assert state.in_flight == len(in_hands), f"{queue}: {state.in_flight} in flight, {in_hands} in hands"

    async def receivable(self, queue: str) -> list[str]:
        """What a receive would bring, seen without one: on a FIFO queue, what is first in its group."""
        first: dict[object, str] = {}
        found: list[str] = []
        for peeked in sorted(await self.store.peek(queue, limit=1000), key=lambda peeked: peeked.sequence):
            group = peeked.group if queue == "line" else peeked.id
            if group not in first and peeked.state == "ready":
                found.append(peeked.body.decode())
            first.setdefault(group, peeked.state)
        return found

    async def end(self) -> None:
        """At the end one patient receiver for each queue empties it."""
        await self.cancel_all()
        await self.quiet()
        self.collect()
        for queue in ("work", "line"):
            await self.store.settle(queue, [Ack(each.receipt) for each in self.held if each.queue == queue])
            await self.clock.advance(30.0)
            while taken := await self.desk.receive(queue, Want(10)):
                await self.store.settle(queue, [Ack(each.receipt) for each in taken])
            assert await self.store.peek(queue) == [], "everything came"

    async def cancel_all(self) -> None:
        for _, task in self.receivers:
            task.cancel()
        await asyncio.gather(*(task for _, task in self.receivers), return_exceptions=True)
