"""One open app: nested scopes own every task, and leaving them inside-out is the graceful drain.

    store > heartbeats > workers > intake

Intake is cancelled first; workers finish what they run within the grace, their visibility timeouts still extended;
what is unfinished is released, which is not an attempt; the settlements go out; the store closes last.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from anyio import CancelScope, fail_after, move_on_after
from anyio.abc import TaskGroup

from pipeflow.clock import Clock, Signal
from pipeflow.engine.consumer import Consumer
from pipeflow.engine.gate import Gate
from pipeflow.engine.lacking import lacking
from pipeflow.engine.plan import DeliveryPlan, HandlerPlan, SourcePlan
from pipeflow.engine.scopes import task_scope
from pipeflow.engine.sources import SourceRunner
from pipeflow.engine.supervise import Supervisor, spawn
from pipeflow.errors import BrokerError
from pipeflow.events import Observers, Published, Queued, Started, Stopped
from pipeflow.messages import Delivery, Outgoing, Position, Refused, Sent
from pipeflow.names import Chance
from pipeflow.protocols import Sink, Store

if TYPE_CHECKING:
    from pipeflow.engine.delivery import Delivery as StreamDelivery
    from pipeflow.engine.relay import OutboxRelay
    from pipeflow.engine.webhooks import Webhook, WebhookPlan
    from pipeflow.outboxes import OutboxTable
    from pipeflow.webhooks import Poster

logger = logging.getLogger("pipeflow")

LAST_WORDS = 5.0
"""Seconds that giving messages back may take when the program was told to stop at once."""

LOOK_AGAIN = 5.0
"""Seconds after which `until_idle` asks the store again, for what other processes or retention have done meanwhile."""


class Runtime:
    """What an app is while it is open. Overrides live here and end with it; the app is untouched."""

    def __init__(
        self, app: str, *, store: Store, clock: Clock, chance: Chance, observers: Observers, grace: float
    ) -> None:
        self.app = app
        self.store = store
        self.clock = clock
        self.observers = observers
        self.grace = grace
        self.consumers: list[Consumer] = []
        self.sources: list[SourceRunner] = []
        self.relays: list[OutboxRelay] = []
        self.deliveries: list[StreamDelivery] = []
        self._webhooks: list[Webhook] = []
        self._chance = chance
        self._gate = Gate(clock)
        self._supervisor = Supervisor(clock, chance, returns=store.features.reconnects)
        self.lacking = lacking(store)
        """What the store cannot do for messages; None: it can do everything."""
        self._progressed = Signal()
        self._stop = Signal()
        self._stopped = False
        self._draining = CancelScope()
        """Around what `stop_now` does not wait for."""

    # -- what it runs

    def consume(self, plan: HandlerPlan) -> None:
        """Run this handler when the scopes open."""
        self.consumers.append(
            Consumer(
                plan,
                self,
                store=self.store,
                clock=self.clock,
                chance=self._chance,
                observers=self.observers,
                supervisor=self._supervisor,
                gate=self._gate,
                progressed=self._progressed,
            )
        )

    def follow(self, plan: SourcePlan) -> None:
        """Run this source when the scopes open."""
        self.sources.append(
            SourceRunner(
                plan,
                store=self.store,
                clock=self.clock,
                chance=self._chance,
                observers=self.observers,
                supervisor=self._supervisor,
                progressed=self._progressed.fire,
            )
        )

    def relay(self, name: str, table: OutboxTable) -> None:
        """Relay this outbox when the scopes open."""
        from pipeflow.engine.relay import OutboxRelay  # for apps that have one

        self.relays.append(
            OutboxRelay(
                name,
                table,
                store=self.store,
                clock=self.clock,
                observers=self.observers,
                supervisor=self._supervisor,
                progressed=self._progressed.fire,
            )
        )

    def nudge(self, outbox: str) -> None:
        """Something is about to be committed there. From any thread."""
        for relay in self.relays:
            if relay.name == outbox:
                relay.nudge()

    def deliver(self, plan: DeliveryPlan, sink: Sink, failures: Sink | None = None) -> None:
        """Deliver this stream when the scopes open."""
        from pipeflow.engine.delivery import Delivery as StreamDelivery  # with its codecs, for apps with streams only

        self.deliveries.append(
            StreamDelivery(
                plan,
                store=self.store,
                sink=sink,
                failures=failures,
                clock=self.clock,
                chance=self._chance,
                observers=self.observers,
            )
        )

    def post(self, plan: WebhookPlan, poster: Poster) -> None:
        """Deliver to this webhook when the scopes open."""
        from pipeflow.engine.webhooks import Webhook  # for apps that have one

        webhook = Webhook(plan, poster, self.clock, self._chance)
        self._webhooks.append(webhook)
        self.consume(webhook.handler())

    def extended(self, delivery: Delivery, until: float) -> None:
        """A handler changed its message's visibility timeout."""
        for consumer in self.consumers:
            if consumer.plan.queue == delivery.queue:
                consumer.heartbeat.extended(delivery, until)

    @property
    def given_back(self) -> int:
        """Messages released unfinished so far."""
        return sum(consumer.settler.given_back for consumer in self.consumers)

    # -- what nouns ask of it

    async def publish(self, topic: str, batch: Sequence[Outgoing]) -> Sequence[Sent | Refused]:
        """Publish to a topic; durable when it returns. FeatureMissing: the store cannot do what a message asks for."""
        if self.lacking is not None:
            self.lacking.check(f"topic {topic}", batch)
        answers = await self.store.publish(topic, batch)
        if self.observers and (count := _accepted(answers)):
            self.observers.emit(Published(self.clock.now(), topic, count))
        return answers

    async def send(self, queue: str, batch: Sequence[Outgoing]) -> Sequence[Sent | Refused]:
        """Send to one queue; durable when it returns. FeatureMissing: the store cannot do what a message asks for."""
        if self.lacking is not None:
            self.lacking.check(f"queue {queue}", batch)
        answers = await self.store.send(queue, batch)
        if self.observers and (count := _accepted(answers)):
            self.observers.emit(Queued(self.clock.now(), queue, count))
        return answers

    async def append(self, stream: str, batch: Sequence[Outgoing]) -> Sequence[Position | Refused]:
        """Append to a stream; durable when it returns."""
        return await self.store.append(stream, batch)

    # -- life

    def stop(self) -> None:
        """Begin to drain. Called a second time: now."""
        if self._stopped:
            self.stop_now()
        self._stopped = True
        self._stop.fire()

    def stop_now(self) -> None:
        """Wait for no handler any more: what is unfinished is given back."""
        self._stopped = True
        self._stop.fire()
        for consumer in self.consumers:
            consumer.hurry()
        self._draining.cancel()

    async def stopped(self) -> None:
        """Return when `stop` was called."""
        while not self._stopped:
            await self.clock.wait(self._stop)

    @asynccontextmanager
    async def scopes(self) -> AsyncIterator[Runtime]:
        """Open the scopes, start everything, and leave them inside-out."""
        failed: Exception | None = None
        async with task_scope() as heartbeats:
            try:
                async with task_scope() as workers:
                    async with task_scope() as intake:
                        self._start(heartbeats, workers, intake)
                        try:
                            yield self
                        except Exception as error:
                            # Kept out of the task groups, which would wrap the caller's error in groups of theirs.
                            failed = error
                        intake.cancel_scope.cancel()
                    await self._drain(workers)
            finally:
                await self._give_back()
                with CancelScope(shield=True), move_on_after(LAST_WORDS):
                    for webhook in self._webhooks:
                        await webhook.close()
            for consumer in self.consumers:
                consumer.finish()
        self.observers.emit(Stopped(self.clock.now(), self.app, self.given_back))
        if failed is not None:
            raise failed

    def _start(self, heartbeats: TaskGroup, workers: TaskGroup, intake: TaskGroup) -> None:
        for consumer in self.consumers:
            consumer.start(heartbeats, workers, intake)
        for delivery in self.deliveries:
            delivery.start(workers)
        for source in self.sources:
            spawn(intake, self.clock, source.run, f"source {source.plan.name}")
        for relay in self.relays:
            spawn(intake, self.clock, relay.run, f"outbox {relay.name}")
        self.observers.emit(Started(self.clock.now(), self.app))

    async def _drain(self, workers: TaskGroup) -> None:
        self._gate.stop()
        for consumer in self.consumers:
            consumer.stop()
        until = self.clock.now() + self.grace
        for consumer in self.consumers:
            await consumer.left(until)
        with self._draining:
            async with task_scope() as draining:
                for delivery in self.deliveries:
                    spawn(draining, self.clock, partial(_drained, delivery, until), "drain streams")
        workers.cancel_scope.cancel()

    async def _give_back(self) -> None:
        # Shielded, as giving messages back must survive our own cancellation; bounded, as the store may be gone.
        for consumer in self.consumers:
            try:
                with CancelScope(shield=True), fail_after(LAST_WORDS):
                    await consumer.give_back()
            except (BrokerError, TimeoutError) as error:
                logger.warning(
                    "%s: messages could not be given back and return when their visibility timeout ends: %s",
                    consumer.plan.queue, str(error) or f"the broker did not answer within {LAST_WORDS} s",
                )  # fmt: skip

    async def until_idle(self) -> None:
        """Return when no source runs, nothing is ready, in flight or waiting for a retry in a queue handled here, and
        every stream is delivered. What was sent with a delay and never received is not waited for.

        RefusedError when a source was stopped by a refusal.
        """
        while not await self._idle():
            await self.clock.wait(self._progressed, self.clock.now() + LOOK_AGAIN)
        for source in self.sources:
            if source.refused is not None:
                raise source.refused

    async def _idle(self) -> bool:
        for relay in self.relays:
            await relay.caught_up()
        if not await self._queues_idle():
            return False
        for delivery in self.deliveries:
            self.store.demand(delivery.name)
            await self.store.delivered(delivery.name)
        return await self._queues_idle()

    async def _queues_idle(self) -> bool:
        if not all(source.ended for source in self.sources) or not all(each.quiet for each in self.consumers):
            return False
        handled = {consumer.plan.queue for consumer in self.consumers}
        stats = await self.store.stats()
        return not any(
            queue.ready or queue.retrying or queue.in_flight for queue in stats.queues if queue.name in handled
        )


async def _drained(delivery: StreamDelivery, until: float) -> None:
    try:
        await delivery.drain(until)
    finally:
        await delivery.close()


def _accepted(answers: Sequence[Sent | Refused]) -> int:
    return sum(isinstance(answer, Sent) for answer in answers)
