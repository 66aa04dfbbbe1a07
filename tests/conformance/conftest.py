"""One suite for every broker: each test runs on each store below, on a clock that stands still until it is advanced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pipeflow.clock import VirtualClock
from pipeflow.messages import (
    Ack,
    AttributeValue,
    Delivery,
    Outgoing,
    Refused,
    Sent,
    Settled,
    Settlement,
    Stale,
    Want,
)
from pipeflow.protocols import QueueStats, Store
from pipeflow.registry import open_store
from pipeflow.specs import FilterPolicy, QueueSpec, Subscription, TopicSpec, Topology

START = 1_000_000.0


class Desk:
    """A store with short words for what tests do to it; queue "q" and topic "t" unless another is named."""

    def __init__(self, store: Store, clock: VirtualClock) -> None:
        self.store = store
        self.clock = clock

    async def queue(self, name: str = "q", **options: object) -> None:
        """Declare a queue, or change one."""
        await self.store.declare(Topology(queues=(QueueSpec(name, **options),)))  # type: ignore[arg-type]  # a builder

    async def fan_out(
        self,
        *queues: QueueSpec,
        fifo: bool = False,
        content_dedup: bool = False,
        raw: bool = True,
        **filters: FilterPolicy,
    ) -> None:
        """Declare topic "t" with a subscription for each queue."""
        await self.store.declare(
            Topology(
                topics=(TopicSpec("t", fifo=fifo, content_dedup=content_dedup),),
                queues=queues,
                subscriptions=tuple(
                    Subscription("t", "queue", queue.name, filters.get(queue.name), raw) for queue in queues
                ),
            )
        )

    async def send(self, *bodies: str, queue: str = "q", **fields: object) -> list[Sent]:
        """Send messages that must be accepted."""
        messages = [Outgoing(body.encode(), **fields) for body in bodies]  # type: ignore[arg-type]  # a builder
        return [accepted(result) for result in await self.store.send(queue, messages)]

    async def publish(
        self, body: str, attributes: dict[str, AttributeValue] | None = None, **fields: object
    ) -> Sent | Refused:
        """Publish one message to topic "t"."""
        message = Outgoing(body.encode(), attributes, **fields)  # type: ignore[arg-type]  # a builder
        return (await self.store.publish("t", [message]))[0]

    async def take(
        self, limit: int = 10, queue: str = "q", visibility_timeout: float | None = None, wait: float = 0.0
    ) -> list[Delivery]:
        """Receive what is there now, in as many receives as it takes: one may bring less than there is (SQS: Q46)."""
        taken: list[Delivery] = []
        while len(taken) < limit:
            want = Want(limit=limit - len(taken), wait=wait, visibility_timeout=visibility_timeout)
            more = await self.store.receive(queue, want)
            taken += more
            if not more or visibility_timeout == 0:
                break
        return taken

    async def bodies(self, limit: int = 10, queue: str = "q") -> list[str]:
        """Receive, and look at the bodies only."""
        return [delivery.body.decode() for delivery in await self.take(limit, queue)]

    async def one(self, queue: str = "q", visibility_timeout: float | None = None) -> Delivery:
        """Receive the one message that is there."""
        (delivery,) = await self.take(1, queue, visibility_timeout)
        return delivery

    async def settle(self, *settlements: Settlement, queue: str = "q") -> Sequence[Settled | Stale | Refused]:
        """Settle as one batch."""
        return await self.store.settle(queue, list(settlements))

    async def ack(self, *deliveries: Delivery, queue: str = "q") -> None:
        """Acknowledge; every receipt must be good."""
        results = await self.settle(*(Ack(delivery.receipt) for delivery in deliveries), queue=queue)
        assert all(isinstance(result, Settled) for result in results), results

    async def stats(self, queue: str = "q") -> QueueStats:
        """Counts of one queue."""
        return next(stats for stats in (await self.store.stats()).queues if stats.name == queue)

    async def counts(self, queue: str = "q") -> tuple[int, int, int]:
        """(ready, delayed, in flight)."""
        stats = await self.stats(queue)
        return stats.ready, stats.delayed, stats.in_flight

    async def advance(self, seconds: float) -> None:
        """Let time pass."""
        await self.clock.advance(seconds)

    @asynccontextmanager
    async def waiting(self, queue: str = "q", wait: float = 20.0, limit: int = 10) -> AsyncIterator[Waiting]:
        """A receiver that has parked."""
        async with asyncio.TaskGroup() as tasks:
            want = Want(limit=limit, wait=wait)
            task = tasks.create_task(_receive(self.store, queue, want))
            await self.clock.settle()
            await asyncio.sleep(0)
            assert not task.done(), "it found something at once"
            yield Waiting(task)


class Waiting:
    """A receive in progress."""

    def __init__(self, task: asyncio.Task[list[Delivery]]) -> None:
        self._task = task

    async def bodies(self) -> list[str]:
        """What it was given; a receiver that is never woken fails the test."""
        async with asyncio.timeout(10):
            return [delivery.body.decode() for delivery in await self._task]


async def _receive(store: Store, queue: str, want: Want) -> list[Delivery]:
    return list(await store.receive(queue, want))


def accepted(result: Sent | Refused) -> Sent:
    """The result, which must not be a refusal."""
    assert isinstance(result, Sent), result
    return result


def stores(place: Path) -> dict[str, str]:
    """URL by name. A hot head of 3 messages makes every queue longer than that go through the cold tail."""
    return {
        "memory": "memory://",
        "sqlite": f"sqlite:///{place}/store.db?durability=normal",
        "cold": f"sqlite:///{place}/store.db?durability=normal&hot_messages=3",
    }


@pytest.fixture(params=["memory", "sqlite", "cold"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the store under test lives."""
    return stores(tmp_path)[request.param]


@pytest.fixture
async def desk(url: str) -> AsyncIterator[Desk]:
    """An open store, closed after the test."""
    clock = VirtualClock(START)
    store = await open_store(url, clock=clock, seed=1)
    try:
        yield Desk(store, clock)
    finally:
        await store.close()
