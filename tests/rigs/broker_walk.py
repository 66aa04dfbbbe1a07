"""A random walk of every verb of a broker beside the naive model of a queue.

What the rules leave open the model takes over from the broker after checking that it was allowed: which of several
messages that are ready comes first. What ended is counted when it did, wherever it lay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random

from msgspec.structs import replace
from naive_queue import Accepted, Model

from pipeflow.clock import VirtualClock
from pipeflow.messages import Ack, Bury, Defer, Delivery, Extend, Outgoing, Receipt, Release, Sent, Settlement, Want
from pipeflow.protocols import QueueStats, Redrive, Store
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology

TIMEOUT = 10.0
RETENTION = 120.0
RETENTIONS = (40.0, RETENTION, RETENTION, 300.0)
DELAYS = (0.0, 0.0, 4.0, 15.0)
MAX_RECEIVES = 4
CAP = 12
OPTIONS = {"sqlite": "durability=normal", "cold": "durability=normal&hot_messages=3&log_bytes=8192"}


class Walk:
    """One random walk of broker and model side by side."""

    def __init__(self, kind: str, fifo: bool, folder: Path, seed: int, priorities: Sequence[int] = (0,)) -> None:
        self.kind = kind
        self.url = "memory://" if kind == "memory" else f"sqlite:///{folder}/store.db?{OPTIONS[kind]}"
        self.spec = QueueSpec(
            "q",
            fifo=fifo,
            visibility_timeout=TIMEOUT,
            retention=RETENTION,
            max_receives=MAX_RECEIVES,
            max_in_flight=CAP,
            dead_letters="dead",
        )
        self.store: Store
        self.clock = VirtualClock(1_000_000.0)
        self.model = Model(self.spec)
        self.dead: set[str] = set()
        self.random = Random(seed)
        self.hot = kind != "cold"
        self.priorities = priorities
        self.receipts: list[tuple[str, Receipt]] = []
        self.names = 0
        self.redriven = 0
        self.ids: dict[int, str] = {}
        """By place in the model: the id that the broker gave."""

    async def walk(self, steps: int) -> None:
        await self.open()
        try:
            for _ in range(steps):
                await self.step()
            await self.drain()
        finally:
            await self.store.close()

    async def open(self) -> None:
        # Another seed for every life: two that begin at the same moment are not to give out the same ids.
        self.store = await open_store(self.url, clock=self.clock, seed=self.random.randrange(1 << 32))
        await self.store.declare(Topology(queues=(self.spec,)))

    async def step(self) -> None:
        weights = {
            self.send: 30,
            self.receive: 30,
            self.settle: 35,
            self.advance: 20,
            self.cancel: 4,
            self.redrive: 2,
            self.purge: 0.3,
            self.respec: 1,
            self.restart: 0.7 if self.kind == "cold" else 0.0,
        }
        (action,) = self.random.choices(list(weights), list(weights.values()))
        await action()
        await self.compare()

    async def send(self) -> None:
        batch: list[Outgoing] = []
        expected: list[tuple[int, bool, bool]] = []
        for _ in range(self.random.choice([1, 1, 1, 2, 5, 12])):
            self.names += 1
            body, group = f"m{self.names}", (self.random.choice("abcd") if self.spec.fifo else None)
            delay = self.spec.delay if self.spec.fifo else self.random.choice([0, 0, 0, 0, 3, 15, 40])
            key = None if self.spec.fifo else self.random.choice([None, None, None, "k", "l", "m"])
            ttl = self.random.choice([None, None, None, delay + 5.0, delay + 20.0, 60.0])
            priority = 0 if self.spec.fifo else self.random.choice(self.priorities)
            id = self.random.choice([None, None, None, "1", "2"])
            batch.append(
                Outgoing(
                    body.encode(),
                    group=group,
                    delay=None if self.spec.fifo else delay or None,
                    ttl=ttl,
                    key=key,
                    dedup_id=id,
                    priority=priority,
                )
            )
            expected.append(self.sent(body, group, delay, ttl, key, id, priority))
        for result, (place, duplicate, replaced) in zip(await self.store.send("q", batch), expected, strict=True):
            assert isinstance(result, Sent)
            assert (result.duplicate, result.replaced) == (duplicate, replaced)
            assert self.ids.setdefault(place, result.id) == result.id, "a duplicate is answered with its original's id"

    def sent(
        self,
        body: str,
        group: str | None,
        delay: float,
        ttl: float | None,
        key: str | None,
        id: str | None,
        priority: int,
    ) -> tuple[int, bool, bool]:
        """What a send does to the model: (place of what counts, whether it was there, whether another went)."""
        now = self.clock.now()
        original = self.model.original(id, group, now) if id is not None else None
        if original is not None:
            return original.place, True, False
        replaced = key is not None and self.model.cancel(key, now)
        item = self.model.send(body, group, delay, now, ttl=ttl)
        item.key, item.priority = key, priority
        if id is not None:
            self.model.accepted.append(Accepted(id, group, now, item.place))
        return item.place, False, replaced

    async def cancel(self) -> None:
        if not self.spec.fifo:
            key = self.random.choice("klm")
            assert await self.store.cancel_delayed("q", key) == self.model.cancel(key, self.clock.now())

    async def receive(self) -> None:
        timeout = self.random.choice([TIMEOUT, TIMEOUT, 3.0, 25.0])
        limit = self.random.choice([1, 1, 3, 10])
        durable = self.random.random() < 0.3
        taken = await self.store.receive("q", Want(limit=limit, visibility_timeout=timeout, durable=durable))
        self.model.pass_time(self.clock.now())
        room = min(limit, CAP - self.model.count("in_flight"))
        assert len(taken) <= max(0, room)
        await self.look_at_the_dead()
        since = {body: item.visible_since for body, item in self.model.live.items()}
        rank = {body: item.priority for body, item in self.model.live.items()}
        self.take(taken, timeout)
        self.check_priorities([rank[delivery.body.decode()] for delivery in taken])
        for delivery in taken:
            self.model.live[delivery.body.decode()].durable = durable
        if room > 0 and (self.hot or not taken) and len(taken) < room:
            left = [item.body for item in self.model.receivable()]
            assert not left, f"{left} were ready, a receive of {limit} brought {len(taken)}"
        if self.hot and not self.spec.fifo:
            names = [delivery.body.decode() for delivery in taken]
            order = [(-rank[name], since[name]) for name in names]
            assert order == sorted(order), "the oldest visible comes first, in the highest priority"

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

    def check_priorities(self, taken: list[int]) -> None:
        """The highest first, and none while a higher one is ready (SQS knows no priorities)."""
        assert taken == sorted(taken, reverse=True)
        left = [item.priority for item in self.model.receivable() if not self.model.exhausted(item)]
        assert not taken or not left or min(taken) >= max(left), f"{taken} went before {max(left)}"

    async def look_at_the_dead(self) -> None:
        """A receive moves messages that were seen often enough; which of them it met is the broker's choice."""
        for body in await self.peek_at_the_dead() - self.dead:
            item = self.model.live[body]
            assert item.state == "ready", f"{body} was buried while it was {item.state}"
            assert item.attempts >= MAX_RECEIVES, f"{body} was buried after {item.attempts} attempts"
            self.model.bury(item)
        self.take_letters()

    def take_letters(self) -> None:
        self.dead.update(item.body for item in self.model.letters)
        self.model.letters.clear()

    async def peek_at_the_dead(self) -> set[str]:
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
        self.take_letters()
        assert [type(result) for result in results] == expected, list(zip(settlements, chosen, strict=True))
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
            Release(receipt, self.random.choice([0.0, 0.0, 7.0])),
            Bury(receipt),
        ]
        return self.random.choice(ways)

    async def advance(self) -> None:
        seconds = self.random.choice([0.5, 1.0, 3.0, 10.0, 10.0, 45.0])
        await self.clock.advance(seconds)
        self.model.pass_time(self.clock.now())

    async def redrive(self) -> None:
        done = await self.store.redrive(Redrive("q"))
        assert done.moved == len(self.dead)
        for peeked in sorted(await self.store.peek("q", limit=100_000), key=lambda peeked: peeked.sequence):
            body = peeked.body.decode()
            if body in self.dead:
                assert (peeked.attempt, peeked.state) == (0, "ready")
                self.model.send(body, peeked.group, 0.0, self.clock.now()).priority = peeked.priority
                self.dead.discard(body)
        assert not self.dead
        self.redriven += done.moved
        # A redriven message has a new place; receipts of the old one name nothing.
        self.receipts.clear()

    async def purge(self) -> None:
        assert await self.store.purge("q") == self.model.purge()

    async def respec(self) -> None:
        """The queue has another retention, and a FIFO queue another delay, for what is there too (SQS: Q17, Q18)."""
        delay = self.random.choice(DELAYS) if self.spec.fifo else 0.0
        self.spec = replace(self.spec, retention=self.random.choice(RETENTIONS), delay=delay)
        await self.store.declare(Topology(queues=(self.spec,)))
        self.model.respec(self.spec, self.clock.now())

    async def restart(self) -> None:
        """The store is closed and opened: outside consumers hold what they hold, all else is ready (SQS: Q55)."""
        await self.store.close()
        await self.open()
        self.model.restart(self.clock.now())
        # An old receipt may not find a message that is not in memory; one that is held is.
        held = {item.body for item in self.model.live.values() if item.state == "in_flight"}
        newest = {item.body: item.receives for item in self.model.live.values()}
        self.receipts = [each for each in self.receipts if each[0] in held and each[1].receive == newest[each[0]]]

    async def stats(self) -> QueueStats:
        return next(stats for stats in (await self.store.stats()).queues if stats.name == "q")

    async def compare(self) -> None:
        # What a new process finds on disk, or a new retention ends there, is counted within the same moment.
        await self.clock.settle()
        model, stats = self.model, await self.stats()
        model.pass_time(self.clock.now())
        assert (stats.ready, stats.delayed) == (model.count("ready"), model.count("delayed"))
        assert stats.retrying == model.retrying()
        assert (stats.in_flight, stats.expired) == (model.count("in_flight"), model.expired)
        totals = (stats.dead, stats.sent, stats.acked, stats.buried, stats.purged, stats.redriven)
        assert totals == (len(self.dead), model.sent, model.acked, model.buried, model.purged, self.redriven)
        assert stats.cancelled == model.cancelled

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
            (answer,) = await self.store.settle("q", [ack])
            assert type(answer) is self.model.settle(ack, delivery.body.decode(), self.clock.now())
