"""An app in the real engine, on a store of its own, under virtual time. The app object is untouched.

Nothing is written outside the store that was asked for: every stream delivers into memory, whatever its sink.
"""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar, cast

from anyio import move_on_after, sleep

from pipeflow.app import App
from pipeflow.clock import Signal, VirtualClock
from pipeflow.engine.runtime import Runtime
from pipeflow.engine.scopes import task_scope
from pipeflow.events import Event
from pipeflow.protocols import Peeked, Store
from pipeflow.queue import Queue
from pipeflow.registry import open_store
from pipeflow.sinks.memory import MemorySink
from pipeflow.stream import Stream
from pipeflow.testing.chaos import Chaos, Misfortune
from pipeflow.testing.endpoints import MemoryPoster
from pipeflow.testing.seeds import seeds
from pipeflow.testing.tap import Tap
from pipeflow.topic import Topic
from pipeflow.webhook import Webhook

T = TypeVar("T")


class Harness:
    """What a test holds of a running app: its clock, and probes that look without touching.

    Probes answer at once and see what has happened up to now; `settle` first where something may still be under way.
    """

    def __init__(
        self,
        runtime: Runtime,
        tap: Tap,
        clock: VirtualClock,
        *,
        seed: int,
        sinks: Mapping[str, MemorySink],
        posters: Mapping[str, MemoryPoster],
        events: list[Event],
    ) -> None:
        self.runtime = runtime
        self.clock = clock
        self.seed = seed
        """What jitter, ids and misfortune come from; the same seed repeats them."""
        self.events = events
        """What observers were told since the app opened, in order."""
        self._tap = tap
        self._sinks = sinks
        self._posters = posters

    async def settle(self) -> None:
        """Return when everything that can happen at this moment has happened."""
        await self._watched("settle", self.clock.settle)

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass; everything that falls due on the way happens at its own moment, and has happened."""
        await self._watched("advance", partial(self.clock.advance, seconds))

    async def sleep(self, seconds: float) -> None:
        """What a handler or a fake calls to take its time: returns when `seconds` of virtual time have passed."""
        await self.clock.wait(Signal(), self.clock.now() + seconds)

    async def _watched(self, verb: str, work: Callable[[], Awaitable[None]]) -> None:
        # A handler that waits for what only the test can give it would keep the test waiting for ever, in silence.
        async with task_scope() as group:
            group.start_soon(self._complain, verb)
            await work()
            group.cancel_scope.cancel()

    async def _complain(self, verb: str) -> None:
        before = None
        while (now := (self.clock.now(), len(self.events), self._busy())) != before:
            before = now
            await sleep(PATIENCE)
        raise RuntimeError(
            f"{verb}: nothing has happened for {PATIENCE:g} s of real time: {self._busy() or 'something'} is at work "
            "and waits for this test or for real time; let it wait with `await h.sleep(seconds)`, or give it what it "
            "waits for before this call"
        )

    def _busy(self) -> str:
        return ", ".join(
            f"{consumer.plan.name} with {delivery.id}"
            for consumer in self.runtime.consumers
            for slot in consumer.slots
            for delivery in slot.held
        )

    def published(self, topic: Topic[T]) -> list[T]:
        """The payloads the topic accepted since the app opened, by callers, handlers and sources, in order."""
        return [topic.codec.decode(outgoing.body) for outgoing in self._tap.published.get(topic.name, ())]

    def queued(self, queue: Queue[T]) -> list[T]:
        """The payloads that wait in the queue, ready or delayed, in the order of delivery."""
        return [queue.codec.decode(each.body) for each in self._peek(queue) if each.state != "in_flight"]

    def in_flight(self, queue: Queue[T]) -> list[T]:
        """The payloads that were received and are neither acknowledged nor given back."""
        return [queue.codec.decode(each.body) for each in self._peek(queue) if each.state == "in_flight"]

    def dead(self, queue: Queue[T]) -> list[T]:
        """The payloads in the dead letters of the queue, oldest first."""
        return [queue.codec.decode(each.body) for each in self._peek(queue, dead=True)]

    def objects(self, stream: Stream[T]) -> dict[str, bytes]:
        """What the stream delivered: each object's name with its content, decompressed."""
        return {name: _decompressed(name, content) for name, content in self._sinks[stream.name].objects.items()}

    def endpoint(self, webhook: Webhook) -> MemoryPoster:
        """What stands in for the webhook's endpoint: what it was posted, and what it answers."""
        return self._posters[webhook.name]

    def _peek(self, queue: Queue[T], *, dead: bool = False) -> list[Peeked]:
        peeking = self.runtime.store.peek(queue.name, _ALL, dead)
        try:
            # In memory nothing is waited for, and others' turns are passed over, so that a probe need not be awaited.
            while peeking.send(None) is None:
                pass
        except StopIteration as end:
            peeked: list[Peeked] = end.value
            return peeked
        peeking.close()
        raise RuntimeError(
            f"{queue.name}: part of the queue lies on disk, which a probe cannot wait for; "
            "use `await h.runtime.store.peek(...)`, or a harness on memory://"
        )


PATIENCE = 10.0
"""Seconds of real time without any progress after which waiting is taken for a mistake."""

LAST_FLUSH = 1.0
"""Seconds of real time that streams get at the end to deliver what they hold."""

_ALL = 1 << 62


def _decompressed(name: str, content: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.decompress(content)
    if name.endswith(".zst"):
        import zstandard

        return zstandard.decompress(content)
    return content


async def _flush(store: Store, streams: Collection[str]) -> None:
    # The app stops without grace, as nobody moves its clock any more; so what streams hold is delivered before. The
    # bound is for a transform that waits for ever.
    with move_on_after(LAST_FLUSH):
        for stream in streams:
            store.demand(stream, "drain")
            await store.delivered(stream)


@asynccontextmanager
async def harness(
    app: App,
    *,
    store: str = "memory://",
    clock: VirtualClock | None = None,
    seed: int | None = None,
    provide: Mapping[type, object] | None = None,
    chaos: Chaos | None = None,
) -> AsyncIterator[Harness]:
    """Run the app until the block ends, then stop it: streams deliver, what handlers have in hand is given back.

    `provide` replaces what providers would make, by type. `chaos` adds misfortune; what it does follows from `seed`.
    """
    clock = VirtualClock() if clock is None else clock
    chosen = seeds.choose(seed)
    topology = app.topology()
    sinks = {stream.name: MemorySink() for stream in topology.streams}
    posters = {webhook.name: MemoryPoster() for router in app.walk() for webhook in router.webhooks}
    misfortune = Misfortune(chaos, chosen) if chaos is not None else None
    opened = await open_store(store, clock=clock, seed=chosen)
    tap = Tap(opened, misfortune, [queue.name for queue in topology.queues if queue.fifo])
    events: list[Event] = []
    try:
        async with app.running(
            store=cast(Store, tap),
            clock=clock,
            provide=provide,
            seed=chosen,
            grace=0.0,
            sinks=sinks,
            posters=posters,
            middleware=[tap.middleware] if chaos is not None else [],
            observers=[events.append],
        ) as runtime:
            yield Harness(runtime, tap, clock, seed=chosen, sinks=sinks, posters=posters, events=events)
            await _flush(runtime.store, sinks)
    finally:
        await opened.close()
