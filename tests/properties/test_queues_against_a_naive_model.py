"""A broker does what a naive model of a queue says, on long random walks.

SQS: Q1, Q2, Q51, Q55, Q59-Q62, Q75, Q89, Q107.

The model keeps one list of messages and looks at all of them for every question. It knows nothing of heads, tails,
journals or heaps. What the rules leave open (which of several equal messages comes first) it takes over from the broker
after checking that it was allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from pipeflow.clock import VirtualClock
from pipeflow.messages import (
    Ack,
    Bury,
    Defer,
    Delivery,
    Extend,
    Outgoing,
    Receipt,
    Release,
    Settled,
    Settlement,
    Want,
)
from pipeflow.protocols import QueueStats, Redrive, Store
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology

STEPS = 700
TIMEOUT = 10.0
RETENTION = 120.0
MAX_RECEIVES = 4
CAP = 12


@dataclass
class Item:
    """One message as the model sees it; its body is its name."""

    body: str
    group: str | None
    place: int
    kept_from: float
    state: str = "ready"
    until: float = 0.0
    visible_since: float = 0.0
    receives: int = 0
    releases: int = 0
    given_back: bool = False
    """Deferred or released since its last receive: that receipt is worth nothing any more."""

    @property
    def attempts(self) -> int:
        return self.receives - self.releases


@dataclass
class Model:
    """The rules of a queue, read one by one."""

    fifo: bool
    live: dict[str, Item] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    places: int = 0
    sent: int = 0
    acked: int = 0
    expired: int = 0
    buried: int = 0
    purged: int = 0

    def send(self, body: str, group: str | None, delay: float, now: float) -> None:
        self.places += 1
        self.sent += 1
        item = Item(body, group, self.places, now, visible_since=now)
        if delay > 0:
            item.state, item.until = "delayed", now + delay
        self.live[body] = item

    def pass_time(self, now: float) -> None:
        for item in list(self.live.values()):
            if item.kept_from + RETENTION <= now:
                del self.live[item.body]
                self.expired += 1
            elif item.state != "ready" and item.until <= now:
                item.state, item.visible_since = "ready", item.until

    def count(self, state: str) -> int:
        return sum(item.state == state for item in self.live.values())

    def blocked(self, item: Item) -> bool:
        """Whether the prefix rule holds a ready message back."""
        return self.fifo and any(
            other.group == item.group and other.place < item.place and other.state != "ready"
            for other in self.live.values()
        )

    def receivable(self) -> list[Item]:
        return [item for item in self.live.values() if item.state == "ready" and not self.blocked(item)]

    def received(self, body: str, timeout: float, now: float, together: list[str]) -> Item:
        """One message of a receive; `together` is what it brought before this one."""
        item = self.live.get(body)
        assert item is not None, f"{body} was handed out and should be gone"
        assert item.state == "ready", f"{body} was handed out while it was {item.state}"
        earlier = {each.body for each in self.live.values() if each.group == item.group and each.place < item.place}
        assert not self.fifo or earlier <= {*together}, f"{body} was handed out before {earlier} of its group"
        assert item.attempts < MAX_RECEIVES, f"{body} was handed out once too often"
        item.receives += 1
        item.given_back = False
        item.state, item.until = "in_flight", now + timeout
        return item

    def settle(self, settlement: Settlement, body: str, now: float) -> bool:
        """Whether it is done; what it does."""
        item = self.live.get(body)
        if item is None or item.given_back or item.receives != settlement.receipt.receive:
            if isinstance(settlement, Ack) and settlement.superseded_ok and item is not None and not self.fifo:
                self._leave(item)
                self.acked += 1
                return True
            return False
        held = item.state == "in_flight"
        if not held and (self.fifo or not isinstance(settlement, Ack | Bury)):
            return False
        match settlement:
            case Ack():
                self._leave(item)
                self.acked += 1
            case Bury():
                self.bury(item)
            case Extend(visibility_timeout=timeout):
                item.until = now + timeout
                if timeout <= 0:
                    item.state, item.visible_since = "ready", now
            case Defer(delay=delay):
                item.given_back = True
                item.state, item.until, item.visible_since = ("delayed" if delay > 0 else "ready"), now + delay, now
            case Release():
                item.given_back = True
                item.releases += 1
                item.state, item.visible_since = "ready", 0.0  # the front
        return True

    def bury(self, item: Item) -> None:
        self._leave(item)
        self.dead.add(item.body)
        self.buried += 1

    def purge(self) -> int:
        count = len(self.live)
        self.purged += count
        self.live.clear()
        return count

    def _leave(self, item: Item) -> None:
        del self.live[item.body]


class Walk:
    """One random walk of broker and model side by side."""

    def __init__(self, store: Store, clock: VirtualClock, model: Model, seed: int, *, hot: bool) -> None:
        self.store = store
        self.clock = clock
        self.model = model
        self.random = Random(seed)
        self.hot = hot
        self.receipts: list[tuple[str, Receipt]] = []
        self.names = 0
        self.redriven = 0

    async def step(self) -> None:
        weights = {
            self.send: 30,
            self.receive: 30,
            self.settle: 35,
            self.advance: 20,
            self.redrive: 2,
            self.purge: 0.3,
        }
        (action,) = self.random.choices(list(weights), list(weights.values()))
        await action()
        await self.compare()

    async def send(self) -> None:
        batch: list[Outgoing] = []
        for _ in range(self.random.choice([1, 1, 1, 2, 5, 12])):
            self.names += 1
            body, group = f"m{self.names}", (self.random.choice("abcd") if self.model.fifo else None)
            delay = 0.0 if self.model.fifo else self.random.choice([0, 0, 0, 0, 3, 15, 40])
            batch.append(Outgoing(body.encode(), group=group, delay=delay or None))
            self.model.send(body, group, delay, self.clock.now())
        await self.store.send("q", batch)

    async def receive(self) -> None:
        timeout = self.random.choice([TIMEOUT, TIMEOUT, 3.0, 25.0])
        limit = self.random.choice([1, 1, 3, 10])
        taken = await self.store.receive("q", Want(limit=limit, visibility_timeout=timeout))
        self.model.pass_time(self.clock.now())
        room = min(limit, CAP - self.model.count("in_flight"))
        assert len(taken) <= max(0, room)
        await self.look_at_the_dead()
        since = {body: item.visible_since for body, item in self.model.live.items()}
        self.take(taken, timeout)
        if room > 0 and (self.hot or not taken) and len(taken) < room:
            left = [item.body for item in self.model.receivable()]
            assert not left, f"{left} were ready, a receive of {limit} brought {len(taken)}"
        if self.hot and not self.model.fifo:
            order = [since[delivery.body.decode()] for delivery in taken]
            assert order == sorted(order), "the oldest visible comes first"

    def take(self, taken: Sequence[Delivery], timeout: float) -> None:
        together: list[str] = []
        for delivery in taken:
            body = delivery.body.decode()
            item = self.model.received(body, timeout, self.clock.now(), together)
            together.append(body)
            assert delivery.receives == item.receives
            assert delivery.attempt == item.attempts
            assert delivery.deadline == item.until
            assert delivery.group == item.group
            self.receipts.append((body, delivery.receipt))

    async def look_at_the_dead(self) -> None:
        """A receive moves messages that were seen often enough; which of them it met is the broker's choice."""
        for body in await self.dead() - self.model.dead:
            item = self.model.live[body]
            assert item.state == "ready", f"{body} was buried while it was {item.state}"
            assert item.attempts >= MAX_RECEIVES, f"{body} was buried after {item.attempts} attempts"
            self.model.bury(item)

    async def dead(self) -> set[str]:
        return {peeked.body.decode() for peeked in await self.store.peek("q", limit=100_000, dead=True)}

    async def settle(self) -> None:
        if not self.receipts:
            return
        self.model.pass_time(self.clock.now())
        chosen = self.random.sample(self.receipts, min(len(self.receipts), self.random.choice([1, 1, 2, 5])))
        settlements = [self.settlement(receipt) for _, receipt in chosen]
        results = await self.store.settle("q", settlements)
        expected = [
            self.model.settle(settlement, body, self.clock.now())
            for settlement, (body, _) in zip(settlements, chosen, strict=True)
        ]
        assert [isinstance(result, Settled) for result in results] == expected, list(
            zip(settlements, chosen, strict=True)
        )
        # Some used receipts stay, to be refused later.
        self.receipts = [entry for entry in self.receipts if entry not in chosen or self.random.random() < 0.3][-60:]

    def settlement(self, receipt: Receipt) -> Settlement:
        ways: list[Settlement] = [
            Ack(receipt),
            Ack(receipt),
            Ack(receipt),
            # An old receipt may not find a message that left memory; a newest one always does.
            Ack(receipt, superseded_ok=self.hot),
            Defer(receipt, self.random.choice([0.0, 5.0, 30.0])),
            Extend(receipt, self.random.choice([0.0, 1.0, 20.0, 60.0])),
            Release(receipt),
            Bury(receipt),
        ]
        return self.random.choice(ways)

    async def advance(self) -> None:
        seconds = self.random.choice([0.5, 1.0, 3.0, 10.0, 10.0, 45.0])
        await self.clock.advance(seconds)
        self.model.pass_time(self.clock.now())

    async def redrive(self) -> None:
        done = await self.store.redrive(Redrive("q"))
        assert done.moved == len(self.model.dead)
        for peeked in sorted(await self.store.peek("q", limit=100_000), key=lambda peeked: peeked.sequence):
            body = peeked.body.decode()
            if body in self.model.dead:
                assert (peeked.attempt, peeked.state) == (0, "ready")
                self.model.send(body, peeked.group, 0.0, self.clock.now())
                self.model.dead.discard(body)
        assert not self.model.dead
        self.redriven += done.moved
        # A redriven message has a new place; receipts of the old one name nothing.
        self.receipts.clear()

    async def purge(self) -> None:
        unnoticed = await self.unnoticed()
        self.model.expired -= unnoticed
        self.model.purged += unnoticed
        assert await self.store.purge("q") == self.model.purge() + unnoticed

    async def unnoticed(self) -> int:
        """How many expired messages of the cold tail have not been met yet; without a tail, none."""
        self.model.pass_time(self.clock.now())
        unnoticed = self.model.expired - (await self.stats()).expired
        assert unnoticed == 0 if self.hot else unnoticed >= 0
        return unnoticed

    async def stats(self) -> QueueStats:
        return next(stats for stats in (await self.store.stats()).queues if stats.name == "q")

    async def compare(self) -> None:
        model, stats, unnoticed = self.model, await self.stats(), await self.unnoticed()
        if self.hot:
            assert (stats.ready, stats.delayed) == (model.count("ready"), model.count("delayed"))
        waiting = model.count("ready") + model.count("delayed")
        assert (stats.ready + stats.delayed, stats.in_flight) == (waiting + unnoticed, model.count("in_flight"))
        totals = (stats.dead, stats.sent, stats.acked, stats.buried, stats.purged, stats.redriven)
        assert totals == (len(model.dead), model.sent, model.acked, model.buried, model.purged, self.redriven)

    async def drain(self) -> None:
        """At the end everything that is there comes out, and nothing else."""
        await self.clock.advance(TIMEOUT)
        expected = {item.body for item in self.model.live.values()}
        while self.model.live:
            self.model.pass_time(self.clock.now())
            taken = await self.store.receive("q", Want(limit=10, visibility_timeout=TIMEOUT))
            await self.look_at_the_dead()
            self.take(taken, TIMEOUT)
            await self.acknowledge(taken)
            if not taken:
                await self.clock.advance(5.0)
        await self.compare()
        assert await self.store.receive("q", Want()) == [], expected

    async def acknowledge(self, taken: Iterable[Delivery]) -> None:
        for delivery in taken:
            ack = Ack(delivery.receipt)
            assert await self.store.settle("q", [ack]) == [Settled()]
            assert self.model.settle(ack, delivery.body.decode(), self.clock.now())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fifo", [False, True], ids=["standard", "fifo"])
@pytest.mark.parametrize("kind", ["memory", "sqlite", "cold"])
async def test_Q1_Q2_a_queue_does_what_the_naive_model_says(tmp_path: Path, kind: str, fifo: bool, seed: int) -> None:
    clock = VirtualClock(1_000_000.0)
    options = {"sqlite": "durability=normal", "cold": "durability=normal&hot_messages=3"}
    url = "memory://" if kind == "memory" else f"sqlite:///{tmp_path}/store.db?{options[kind]}"
    store = await open_store(url, clock=clock, seed=seed)
    spec = QueueSpec(
        "q",
        fifo=fifo,
        visibility_timeout=TIMEOUT,
        retention=RETENTION,
        max_receives=MAX_RECEIVES,
        max_in_flight=CAP,
        dead_letters="dead",
    )
    try:
        await store.declare(Topology(queues=(spec,)))
        walk = Walk(store, clock, Model(fifo), seed, hot=kind != "cold")
        for _ in range(STEPS):
            await walk.step()
        await walk.drain()
    finally:
        await store.close()
