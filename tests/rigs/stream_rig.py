"""A store around a real record log, a sink and the delivery of one stream, on a virtual clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
from anyio.abc import TaskGroup
from record_owner import Owner

from pipeflow.embedded.log import Log
from pipeflow.engine.delivery import Delivery
from pipeflow.engine.plan import DeliveryPlan
from pipeflow.events import Event, Observers
from pipeflow.names import Chance
from pipeflow.protocols import Features, Sink, Store, StoreStats, StreamStats
from pipeflow.sinks.memory import MemorySink


class LogStore:
    """The record log's verbs, as a store shows them."""

    def __init__(self, owner: Owner, log: Log) -> None:
        self.features = Features(durable=not owner.journal.instant)
        self.log = log
        self._owner = owner

    def __getattr__(self, verb: str) -> Any:
        return getattr(
            next(part for part in (self.log, self.log.outlet, self.log.parking) if hasattr(part, verb)), verb
        )

    async def stats(self) -> StoreStats:
        return StoreStats("rig://", self._owner.store_id, "full", self._owner.boot, 0, [], [], self.log.stats())


class Rig:
    """Everything a delivery test looks at."""

    def __init__(self, plan: DeliveryPlan, owner: Owner, sink: Sink, failures: Sink | None = None) -> None:
        self.failures = failures
        self.owner = owner
        self.clock = owner.clock
        self.log = owner.open(plan.spec)
        self.store = cast(Store, LogStore(owner, self.log))
        self.sink = cast(MemorySink, sink)
        """Tests with another kind look at it themselves."""
        self.events: list[Event] = []
        self.plan = plan
        self.tasks: TaskGroup
        self.delivery: Delivery
        self._scope: anyio.CancelScope

    async def stats(self) -> StreamStats:
        return self.log.stats()[0]

    async def deliver(self) -> None:
        """Flush: everything accepted lies in the sink."""
        self.store.demand("lake")
        await self.store.delivered("lake")
        await self.clock.settle()

    def start(self) -> None:
        """Begin a delivery."""
        self.delivery = Delivery(
            self.plan,
            store=self.store,
            sink=self.sink,
            failures=self.failures,
            clock=self.clock,
            chance=Chance(7),
            observers=Observers([self.events.append]),
        )
        self._scope = anyio.CancelScope()
        self.tasks.start_soon(self._run)

    async def _run(self) -> None:
        with self._scope:
            async with anyio.create_task_group() as tasks:
                self.delivery.start(tasks)

    def stop(self) -> None:
        """End the delivery, as a shutdown does."""
        self._scope.cancel()


@asynccontextmanager
async def rig(
    plan: DeliveryPlan,
    *,
    sink: Sink | None = None,
    failures: Sink | None = None,
    owner: Owner | None = None,
    durable: bool = True,
) -> AsyncIterator[Rig]:
    """A running delivery; it ends with the block."""
    made = Rig(plan, owner or Owner(at=0.0, instant=not durable), sink or MemorySink(), failures)
    async with anyio.create_task_group() as tasks:
        made.tasks = tasks
        made.start()
        await anyio.lowlevel.checkpoint()
        await made.clock.settle()
        yield made
        tasks.cancel_scope.cancel()
