"""The order of a fair queue as a naive reader of its rules sees it, and a random walk of both (SQS: Q81-Q84).

The model keeps a list of messages and looks at all of them for every question: no heaps, no lines of tenants.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random

from pipeflow.messages import Ack, Defer, Receipt, Release, Settlement
from pipeflow.specs import QueueSpec
from pipeflow.state.order import Line
from pipeflow.state.queue import QueueState
from pipeflow.state.stored import IN_FLIGHT, READY, Stored

MANY, SILENCE, HALF_LIFE = 30, 300.0, 60.0


class Quietly:
    """Nobody remembers."""

    def changed(self, message: Stored) -> None: ...

    def gone(self, message: Stored) -> None: ...

    def moved(self, message: Stored) -> None: ...


@dataclass
class Item:
    """One message as the model sees it."""

    message: Stored
    ready: float
    """When it became ready, as a number that only grows; below all others when it was given back."""


class Model:
    """Who is noisy, and whose message is next."""

    def __init__(self) -> None:
        self.items: dict[int, Item] = {}
        self.noisy: dict[str, float] = {}
        self.sent: dict[str, float] = {}
        self.taken: Counter[str] = Counter()
        self.spent: list[tuple[float, str | None, float]] = []
        self.last = 0
        self.first = 0

    def in_flight(self, tenant: str | None = None) -> int:
        return sum(i.message.state == IN_FLIGHT and tenant in (None, i.message.group) for i in self.items.values())

    def ready(self) -> list[Item]:
        return sorted((i for i in self.items.values() if i.message.state == READY), key=lambda item: item.ready)

    def busy(self, now: float, tenant: str | None = None) -> float:
        return sum(
            cost * float(0.5 ** ((now - at) / HALF_LIFE)) for at, who, cost in self.spent if tenant in (None, who)
        )

    def is_loud(self, tenant: str, now: float) -> bool:
        if self.taken[tenant] < MANY:
            return False
        mine = self.in_flight(tenant)
        return (mine >= MANY and mine * 10 > self.in_flight()) or self.busy(now, tenant) * 10 > self.busy(now)

    def forget(self) -> None:
        waiting = {item.message.group for item in self.ready()}
        for calm in [tenant for tenant in self.noisy if tenant not in waiting]:
            self.calm(calm)
        for tenant in {*self.taken, *self.sent} - {*self.noisy}:
            if not self.in_flight(tenant) and all(i.message.group != tenant for i in self.ready()):
                self.calm(tenant)
                self.sent.pop(tenant, None)

    def calm(self, tenant: str) -> None:
        self.noisy.pop(tenant, None)
        self.taken.pop(tenant, None)
        self.spent = [(at, who if who != tenant else "", cost) for at, who, cost in self.spent]

    def next(self, now: float) -> int | None:
        for tenant, since in list(self.noisy.items()):
            if now - max(since, self.sent.get(tenant, 0.0)) >= SILENCE:
                self.calm(tenant)
        for item in self.ready():
            who = item.message.group
            if who is None or who not in self.noisy:
                if who is None or not self.is_loud(who, now):
                    return item.message.place
                self.noisy[who] = now
        waiting: dict[str, Item] = {}
        for item in self.ready():
            assert item.message.group is not None
            waiting.setdefault(item.message.group, item)
        for calm in [tenant for tenant in self.noisy if tenant not in waiting]:
            self.calm(calm)
        if not waiting:
            return None
        return min(waiting.values(), key=lambda i: (self.in_flight(i.message.group), i.ready)).message.place


class Walk:
    """Queue and model side by side."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 1_000_000.0
        self.state = QueueState(QueueSpec("q", max_receives=None, visibility_timeout=43_200), Line(), Quietly())
        self.model = Model()
        self.places = 0
        self.met_noisy = 0

    def send(self) -> None:
        tenant = self.random.choices(["A", "B", "C", "D", None], [60, 10, 4, 2, 6])[0]
        for _ in range(self.random.choice([1, 5, 40]) if tenant == "A" else 1):
            self.places += 1
            message = Stored(self.places, str(self.places), b"x", 1, self.now, self.now, group=tenant)
            self.state.add(message, self.now)
            self.model.last += 1
            self.model.items[self.places] = Item(message, self.model.last)
            if tenant is not None:
                self.model.sent[tenant] = self.now

    def receive(self) -> None:
        for _ in range(self.random.choice([1, 3, 10, 30])):
            self.model.forget()
            expected = self.model.next(self.now)
            taken = self.state.receive(1, 1 << 20, self.now, boot=1)
            assert [message.place for message in taken] == ([expected] if expected is not None else [])
            for message in taken:
                self.met_noisy += message.group in self.model.noisy
                if message.group is not None:
                    self.model.taken[message.group] += 1
            self.model.forget()

    def settle(self) -> None:
        held = [item for item in self.model.items.values() if item.message.state == IN_FLIGHT]
        for item in self.random.sample(held, min(len(held), self.random.choice([1, 5, 40]))):
            message = item.message
            receipt = Receipt(message.place, 1, message.receives)
            ways: list[Settlement] = [Ack(receipt), Ack(receipt), Defer(receipt, 0), Release(receipt)]
            settlement = self.random.choice(ways)
            self.model.spent.append((self.now, message.group or "", max(0.001, self.now - message.received_at)))
            self.state.tick(self.now)
            self.state.settle(settlement, self.now, boot=1)
            if isinstance(settlement, Ack):
                del self.model.items[message.place]
                self.model.forget()
            elif isinstance(settlement, Release):
                self.model.first -= 1
                item.ready = self.model.first
            else:
                self.model.last += 1
                item.ready = self.model.last

    def advance(self) -> None:
        self.now += self.random.choice([0.01, 0.5, 2.0, 20.0, 130.0, 310.0])

    def walk(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        self.random.choices([self.send, self.receive, self.settle, self.advance], [6, 6, 4, 2])[0]()
        assert self.state.in_flight == self.model.in_flight()
        assert self.state.ready == len(self.model.ready())
        assert [m.place for m in self.state.order.all()] == [i.message.place for i in self.model.ready()]
