"""An app: a router with a life cycle. Declared once, opened as often as needed, unchanged by being open."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any

import anyio
from anyio import CancelScope, move_on_after
from anyio.abc import TaskStatus
from msgspec.structs import replace

from pipeflow.clock import Clock, SystemClock
from pipeflow.engine.outcome import RetryPolicy
from pipeflow.engine.plan import Batching, DeliveryPlan, HandlerPlan
from pipeflow.engine.runtime import Runtime
from pipeflow.engine.scopes import task_scope
from pipeflow.errors import ConfigurationError, MissingExtra
from pipeflow.events import Observer, Observers
from pipeflow.middleware import composed, composed_around_batches
from pipeflow.names import chance_source
from pipeflow.protocols import Middleware, Sink, Store
from pipeflow.queue import Queue
from pipeflow.router import Router, Source
from pipeflow.specs import INLINE_BYTES, ClaimSpec, Topology
from pipeflow.topic import Topic
from pipeflow.wiring.calls import Job, batch_call, checked, single_call
from pipeflow.wiring.features import check_features
from pipeflow.wiring.providers import Provisions, planned, provisions
from pipeflow.wiring.sources import checked_source, source_plan
from pipeflow.wiring.topology import topology_of

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from pipeflow.engine.webhooks import WebhookPlan
    from pipeflow.outbox import Outbox
    from pipeflow.stream import Stream
    from pipeflow.webhook import Webhook
    from pipeflow.webhooks import Poster

__all__ = ["App"]

GRACE = 30.0
"""Seconds that handlers get to finish when the app is told to stop."""

CLOSING = 10.0
"""Seconds that closing the store may take when the app is cancelled."""

ASYNC_CONCURRENCY = 10
THREADS = 4


class App(Router):
    """The program: everything declared on it and on the routers it includes, over one broker.

    `async with app:` runs everything and drains when left; `async with app.client():` only publishes and sends.
    The broker is, in this order: what the call that opens it says, PIPEFLOW_BROKER, `broker`, `sqlite:///<name>.db`.
    Bodies above `inline_bytes` (1 MiB) are kept aside, in files beside the store or in the sink whose URL is `claims`,
    and deleted with the last message that refers to them.
    """

    def __init__(
        self,
        name: str,
        /,
        *,
        broker: str | None = None,
        grace: float = GRACE,
        prefix: str = "",
        claims: str | None = None,
        inline_bytes: int | None = None,
    ) -> None:
        super().__init__(prefix=prefix)
        self.name = name
        self.broker = broker or f"sqlite:///{name}.db"
        self.grace = grace
        self.claims: ClaimSpec | None = None
        if claims is not None or inline_bytes is not None:
            self.claims = ClaimSpec(claims or "", INLINE_BYTES if inline_bytes is None else inline_bytes)
        self._entered: AbstractAsyncContextManager[Runtime] | None = None
        self._entered_in: asyncio.Task[object] | None = None
        self._runtimes: list[Runtime] = []

    # -- what it is

    def topology(self) -> Topology:
        """Everything declared, as the broker is told it; opens nothing. ConfigurationError when it cannot be."""
        return replace(topology_of(list(self.walk())), claims=self.claims)

    # -- running it

    @asynccontextmanager
    async def running(
        self,
        *,
        store: Store | None = None,
        clock: Clock | None = None,
        provide: Mapping[type, object] | None = None,
        seed: int | None = None,
        handlers: bool = True,
        only: Collection[str] | None = None,
        broker: str | None = None,
        grace: float | None = None,
        sinks: Mapping[str, Sink] | None = None,
        posters: Mapping[str, Poster] | None = None,
        middleware: Sequence[Middleware] = (),
        observers: Sequence[Observer] = (),
    ) -> AsyncIterator[Runtime]:
        """Open the app, with overrides that end with it, and drain it when left.

        `store`: an open one, which stays open. `provide`: values instead of providers, by type. `handlers=False`: only
        publish and send, as a client of the store's owner where there is one. `only`: the queues, streams, webhooks and
        sources that run here; a stream brings its backup. `sinks`: instead of those the streams name, by stream.
        `posters`: what posts instead of HTTP, by webhook. `middleware`: outside of all other. `observers`: told from
        the first event on. Nothing is opened before everything declared has been checked.
        """
        overrides = dict(provide or {})
        topology = self.topology()
        runs = _Selected(self, only, tuple(middleware), sinks or {}, posters or {}) if handlers else None
        providers = [provider for router in self.walk() for provider in router.providers]
        plan = planned(providers, overrides) if handlers else []
        if runs is not None:
            runs.check({key for key, _ in plan} | set(overrides))
            runs.open_sinks()
        async with AsyncExitStack() as stack:
            if store is None:
                store = await _opened(stack, self._url(broker), clock or SystemClock(), not handlers, seed)
            check_features(list(self.walk()), store.features, store.url)
            await store.declare(topology)
            runtime = Runtime(
                self.name,
                store=store,
                clock=clock or store.clock,
                chance=chance_source(seed),
                observers=Observers([*observers, *(each for router in self.walk() for each in router.observers)]),
                grace=self.grace if grace is None else grace,
            )
            stack.enter_context(self._bound(runtime))
            provided = await stack.enter_async_context(provisions(plan, overrides))
            if runs is not None:
                runs.start(runtime, provided)
            async with runtime.scopes():
                yield runtime

    @asynccontextmanager
    async def client(self, *, broker: str | None = None) -> AsyncIterator[App]:
        """Open the app to publish and send only; its handlers run elsewhere, or later."""
        async with self.running(handlers=False, broker=broker):
            yield self

    async def __aenter__(self) -> App:
        if self._entered is not None:
            raise ConfigurationError(f"app {self.name} is open already; leave the first `async with` before the second")
        entered = self.running()
        await entered.__aenter__()
        self._entered, self._entered_in = entered, asyncio.current_task()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._entered is not None
        if asyncio.current_task() is not self._entered_in:
            raise ConfigurationError(
                f"app {self.name} was opened in one task and left in another, as fixtures of pytest-asyncio do; its "
                "scopes belong to one task: open it inside the test, or use the fixture `pipeflow_harness`"
            )
        entered, self._entered = self._entered, None
        return await entered.__aexit__(kind, error, trace)

    def run(self, *, broker: str | None = None, only: Collection[str] | None = None, grace: float | None = None) -> int:
        """Run until SIGTERM or SIGINT, then drain; a second signal stops now. How many messages were given back.

        Threads of sync handlers that hang keep Python from exiting afterwards; `pipeflow run` leaves them behind.
        ConfigurationError: a loop runs here already, and `await app.serve()` is for inside one.
        """
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            raise ConfigurationError(f"app {self.name}: a loop runs here already; use `await app.serve()`")
        return anyio.run(
            partial(self.serve, broker=broker, only=only, grace=grace), backend_options={"use_uvloop": _has_uvloop()}
        )

    async def serve(
        self, *, broker: str | None = None, only: Collection[str] | None = None, grace: float | None = None
    ) -> int:
        """What `run` does, inside a loop that is there."""
        async with task_scope() as group:
            async with self.running(broker=broker, only=only, grace=grace) as runtime:
                await group.start(_heed_signals, runtime)
                await runtime.stopped()
            group.cancel_scope.cancel()
        return runtime.given_back

    async def run_until_idle(self, *, broker: str | None = None) -> None:
        """Run until no source runs, nothing is ready, in flight or waiting for a retry in any queue with a handler, and
        every stream is delivered.

        Opens the app if it is not open. Queues without a handler, dead letters among them, are not waited for, nor is
        what was sent with a delay and is not due.
        RefusedError: a source was stopped at an item that was refused.
        """
        if self._runtimes:
            await self._runtimes[-1].until_idle()
            return
        async with self.running(broker=broker) as runtime:
            await runtime.until_idle()

    # -- private

    def _url(self, broker: str | None) -> str:
        return broker or os.environ.get("PIPEFLOW_BROKER") or self.broker

    @contextmanager
    def _bound(self, runtime: Runtime) -> Iterator[None]:
        """Nouns talk to this runtime, and nothing more can be declared."""
        nouns: list[Topic[Any] | Queue[Any] | Stream[Any] | Webhook | Outbox] = [
            noun
            for router in self.walk()
            for nouns in (router.topics, router.queues, router.streams, router.webhooks, router.outboxes)
            for noun in nouns
        ]
        try:
            for noun in nouns:
                noun.bind(runtime)
            self._freeze(+1)
            self._runtimes.append(runtime)
            try:
                yield
            finally:
                self._runtimes.remove(runtime)
                self._freeze(-1)
        finally:
            for noun in nouns:
                noun.unbind(runtime)


class _Selected:
    """The handlers, streams and sources that run in this process."""

    def __init__(
        self,
        app: App,
        only: Collection[str] | None,
        outermost: tuple[Middleware, ...],
        sinks: Mapping[str, Sink],
        posters: Mapping[str, Poster],
    ) -> None:
        self._sinks = sinks
        self._posters = posters
        self._posting: list[tuple[WebhookPlan, Poster]] = []
        self._webhooks = [webhook for router in app.walk() for webhook in router.webhooks]
        self._topics = [topic for router in app.walk() for topic in router.topics]
        self._queues: list[tuple[Queue[Any], tuple[Middleware, ...]]] = [
            (queue, layers)
            for router, layers in app.layered(outermost)
            for queue in router.queues
            if queue.registration
        ]
        self._sources: list[Source] = [source for router in app.walk() for source in router.sources]
        self._outboxes = [outbox for router in app.walk() for outbox in router.outboxes]
        self._streams = [stream for router in app.walk() for stream in router.streams]
        self._deliveries: list[tuple[DeliveryPlan, Sink, Sink | None]] = []
        if only is not None:
            self._keep(set(only))

    def _keep(self, only: set[str]) -> None:
        known = {queue.name for queue, _ in self._queues}
        known |= {source.name for source in self._sources} | {stream.name for stream in self._streams}
        known |= {webhook.name for webhook in self._webhooks} | {outbox.name for outbox in self._outboxes}
        for name in sorted(only - known):
            import difflib  # slow to import, and needed for misspelt names only

            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(known)) or 'none'}"
            raise ConfigurationError(f"only {name!r}: no queue with a handler, stream or source has that name{hint}")
        self._queues = [(queue, layers) for queue, layers in self._queues if queue.name in only]
        self._sources = [source for source in self._sources if source.name in only]
        self._outboxes = [outbox for outbox in self._outboxes if outbox.name in only]
        self._webhooks = [webhook for webhook in self._webhooks if webhook.name in only]
        # A backup that nobody delivers would fill, and hold up the stream it belongs to.
        backups = {stream.spec.backup for stream in self._streams if stream.name in only}
        self._streams = [stream for stream in self._streams if stream.name in only | backups]

    def check(self, provided: set[object]) -> None:
        """WiringError when a function asks for what nothing provides."""
        for queue, _ in self._queues:
            checked(_job(queue), provided.__contains__)
        for source in self._sources:
            checked_source(source.name, source.function, provided.__contains__)

    def open_sinks(self) -> None:
        """Before the store: a URL that is refused, because it holds a secret perhaps, is never written down."""
        for webhook in self._webhooks:
            self._posting.append((webhook.plan(self._topics), self._posters.get(webhook.name) or _poster(webhook)))
        from pipeflow.registry import open_sink  # costs as much to import as the engine, and a client needs none

        for stream in self._streams:
            spec = stream.spec
            sink = self._sinks.get(stream.name)
            failures = sink  # a test that looks at the objects finds all of them in one place
            if sink is None:
                sink = open_sink(spec.sink, endpoint=spec.endpoint)
                failures = sink
                if spec.failures not in (None, spec.sink):
                    failures = open_sink(spec.failures)
            self._deliveries.append((stream.plan(), sink, failures))

    def start(self, runtime: Runtime, provided: Provisions) -> None:
        """Compile everything, and have the runtime run it when its scopes open."""
        for queue, layers in self._queues:
            runtime.consume(_handler_plan(queue, layers, provided))
        for source in self._sources:
            kind = "topic" if isinstance(source.target, Topic) else "stream"
            runtime.follow(
                source_plan(source.name, source.function, kind, source.target.name, source.target.item, provided)
            )
        for outbox in self._outboxes:
            from pipeflow.embedded.sqlite.outbox import SqliteOutbox

            runtime.relay(outbox.name, SqliteOutbox(outbox.path, outbox.table))
        for plan, sink, failures in self._deliveries:
            runtime.deliver(plan, sink, failures)
        for webhook, poster in self._posting:
            runtime.post(webhook, poster)


def _poster(webhook: Webhook) -> Poster:
    from pipeflow.registry import open_webhook

    try:
        return open_webhook(webhook.url, endpoint=webhook.endpoint, timeout=webhook.timeout, signing=webhook.signing)
    except MissingExtra:
        raise
    except ConfigurationError as error:
        raise ConfigurationError(f"webhook {webhook.name} ({webhook.binding.place}): {error}") from error


def _job(queue: Queue[Any]) -> Job:
    registration = queue.registration
    assert registration is not None
    return Job(
        registration.function,
        queue.name,
        queue.type,
        queue.codec.decode,
        batch=registration.batching is not None,
        threads=registration.concurrency or THREADS,
        emit=registration.emit,
    )


def _handler_plan(queue: Queue[Any], layers: tuple[Middleware, ...], provided: Provisions) -> HandlerPlan:
    registration = queue.registration
    assert registration is not None
    job = _job(queue)
    handle = handle_batch = None
    if job.batch:
        handle_batch = composed_around_batches(layers, batch_call(job, provided), fifo=queue.spec.fifo)
    else:
        handle = composed(layers, single_call(job, provided))
    default = ASYNC_CONCURRENCY if registration.function.kind == "coroutine" else THREADS
    return HandlerPlan(
        queue.name,
        registration.function.name,
        RetryPolicy(queue.spec.max_receives, queue.backoff),
        handle=handle,
        handle_batch=handle_batch,
        batching=registration.batching or Batching(1),
        fifo=queue.spec.fifo,
        concurrency=registration.concurrency or default,
        timeout=registration.timeout,
        visibility_timeout=queue.spec.visibility_timeout,
    )


async def _opened(stack: AsyncExitStack, url: str, clock: Clock, client: bool, seed: int | None) -> Store:
    from pipeflow.registry import open_store

    store = await open_store(url, clock=clock, client=client, seed=seed)

    async def close() -> None:
        # A cancelled program still drains its store: what was acknowledged is on disk, what gathers is tried.
        with CancelScope(shield=True), move_on_after(CLOSING):
            await store.close()

    stack.push_async_callback(close)
    return store


async def _heed_signals(runtime: Runtime, *, task_status: TaskStatus[None]) -> None:
    """Drain on the first signal, stop now on the second."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            runtime.stop()


def _has_uvloop() -> bool:
    return find_spec("uvloop") is not None
