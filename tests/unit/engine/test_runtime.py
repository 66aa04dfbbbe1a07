"""The scopes of an open app: how it drains, stops at once, fails, and when it is idle."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import anyio
import msgspec
import pytest

from pipeflow import App, At, Batch, Context, Message, Retry, Unavailable
from pipeflow.clock import Signal, VirtualClock
from pipeflow.engine.runtime import Runtime
from pipeflow.engine.scopes import task_scope
from pipeflow.engine.supervise import Supervisor, spawn
from pipeflow.errors import Indeterminate
from pipeflow.events import Event, Released, Started, Stopped
from pipeflow.messages import Settled, Settlement
from pipeflow.names import Chance
from pipeflow.protocols import Store
from pipeflow.registry import open_store


class Order(msgspec.Struct, frozen=True):
    id: int


class Rig:
    """One store and one virtual clock, for apps that open and close on them."""

    def __init__(self, store: Store, clock: VirtualClock) -> None:
        self.store = store
        self.clock = clock
        self.events: list[Event] = []

    @asynccontextmanager
    async def open(self, app: App, grace: float = 0.0, store: Store | None = None) -> AsyncIterator[Runtime]:
        async with app.running(
            store=store or self.store, clock=self.clock, seed=1, grace=grace, observers=[self.events.append]
        ) as runtime:
            yield runtime

    async def ready(self, queue: str) -> list[tuple[str, int]]:
        """State and attempts of everything in a queue."""
        return [(each.state, each.attempt) for each in await self.store.peek(queue, 100)]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    clock = VirtualClock()
    store = await open_store("memory://", clock=clock, seed=1)
    yield Rig(store, clock)
    await store.close()


def slow_shop(seconds: float, attempts: list[int]) -> App:
    app = App("shop")
    work = app.queue("work", Order)

    @work.handler(concurrency=2)
    async def handle(message: Message[Order], ctx: Context) -> None:
        attempts.append(message.attempt)
        await ctx.sleep(seconds)

    return app


async def advancing(clock: VirtualClock, seconds: int) -> None:
    for _ in range(seconds):
        await clock.advance(1)


async def test_leaving_waits_for_what_runs_and_starts_nothing_more_H72(rig: Rig) -> None:
    attempts: list[int] = []
    app = slow_shop(10, attempts)
    async with anyio.create_task_group() as group:
        async with rig.open(app, grace=30.0) as runtime:
            await app.queues[0].send_many([Order(n) for n in range(5)])
            await rig.clock.settle()
            group.start_soon(advancing, rig.clock, 15)
        assert runtime.given_back == 0
    assert attempts == [1, 1]  # two ran to their end, the other three were never started
    assert await rig.ready("work") == [("ready", 0)] * 3


async def test_what_the_grace_does_not_suffice_for_is_released_and_no_attempt_H72(rig: Rig) -> None:
    attempts: list[int] = []
    app = slow_shop(1000, attempts)
    async with anyio.create_task_group() as group:
        async with rig.open(app, grace=100.0) as runtime:
            await app.queues[0].send_many([Order(1), Order(2)])
            await rig.clock.settle()
            group.start_soon(advancing, rig.clock, 150)
        # The visibility timeout of 30 s was extended all through the grace, or the attempts would be more.
        assert runtime.given_back == 2
    assert attempts == [1, 1]
    assert await rig.ready("work") == [("ready", 0), ("ready", 0)]
    assert [type(event) for event in rig.events[-2:]] == [Released, Stopped]


async def test_a_second_stop_waits_for_nobody(rig: Rig) -> None:
    attempts: list[int] = []
    app = slow_shop(1000, attempts)
    async with rig.open(app, grace=10_000.0) as runtime:
        await app.queues[0].send(Order(1))
        await rig.clock.settle()
        runtime.stop()
        await runtime.stopped()
        runtime.stop()
    assert runtime.given_back == 1
    assert await rig.ready("work") == [("ready", 0)]


@pytest.mark.parametrize("batch", [False, True])
async def test_a_handler_that_shrugs_the_end_off_is_not_acknowledged_for_it_H72(rig: Rig, batch: bool) -> None:
    app = App("shop")
    work = app.queue("work", Order)
    begun = asyncio.Event()

    async def half() -> None:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            pass

    if batch:

        @work.batch_handler()
        async def handle_batch(batch: Batch[Order]) -> None:
            await half()
    else:

        @work.handler
        async def handle(order: Order) -> None:
            await half()

    async with rig.open(app) as runtime:
        await work.send(Order(1))
        await begun.wait()
    assert runtime.given_back == 1
    assert await rig.ready("work") == [("ready", 0)]


async def test_a_task_that_dies_of_somebody_elses_cancellation_is_an_error_and_not_a_silent_end() -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    async def program() -> None:
        async with task_scope() as group:
            spawn(group, VirtualClock(), work, "worker 1 of q")

    with pytest.raises(RuntimeError, match="worker 1 of q: something it waited for was cancelled"):
        await program()


async def test_the_callers_error_comes_out_as_it_is_after_the_drain(rig: Rig) -> None:
    attempts: list[int] = []
    app = slow_shop(1000, attempts)

    async def body() -> None:
        async with rig.open(app):
            await app.queues[0].send(Order(1))
            await rig.clock.settle()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await body()
    assert await rig.ready("work") == [("ready", 0)]


async def test_a_cancelled_program_gives_its_messages_back(rig: Rig) -> None:
    attempts: list[int] = []
    app = slow_shop(1000, attempts)
    with anyio.CancelScope() as scope:
        async with rig.open(app, grace=10_000.0):
            await app.queues[0].send(Order(1))
            await rig.clock.settle()
            scope.cancel()
            await anyio.sleep_forever()
    assert attempts == [1]
    assert await rig.ready("work") == [("ready", 0)]


async def test_started_comes_first_and_stopped_last(rig: Rig) -> None:
    async with rig.open(App("shop")):
        pass
    assert [type(event) for event in rig.events] == [Started, Stopped]


class Failing:
    """A store whose settlements fail so many times."""

    def __init__(self, store: Store, times: int, reconnects: bool) -> None:
        self._store = store
        self._times = times
        self.features = msgspec.structs.replace(store.features, reconnects=reconnects)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def settle(self, queue: str, batch: list[Settlement]) -> list[Settled]:
        self._times -= 1
        if self._times >= 0:
            raise Indeterminate("the disk is gone")
        return await self._store.settle(queue, batch)  # type: ignore[return-value]  # no stale ones here


async def test_a_store_in_this_process_that_fails_ends_the_program_with_its_own_error(rig: Rig) -> None:
    app = slow_shop(0, [])

    async def body() -> None:
        async with rig.open(app, store=Failing(rig.store, 99, False)):  # type: ignore[arg-type]  # delegates
            await app.queues[0].send(Order(1))
            await anyio.sleep_forever()

    with pytest.raises(Indeterminate, match="the disk is gone"):
        await body()


async def test_a_broker_that_comes_back_is_asked_again_with_growing_pauses_H73(rig: Rig) -> None:
    app = slow_shop(0, [])
    async with rig.open(app, store=Failing(rig.store, 3, True)):  # type: ignore[arg-type]  # delegates
        await app.queues[0].send(Order(1))
        await rig.clock.advance(10)
        assert await rig.ready("work") == []


async def test_other_errors_are_not_asked_again() -> None:
    calls: list[int] = []

    async def bug() -> None:
        calls.append(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Supervisor(VirtualClock(), Chance(1), returns=True).call(bug, "here")
    assert calls == [1]


async def test_pauses_between_calls_are_capped_and_jittered_H73() -> None:
    clock, times = VirtualClock(), []

    async def gone() -> None:
        times.append(clock.now())
        if len(times) < 20:
            raise Unavailable("not yet")

    async with anyio.create_task_group() as group:
        group.start_soon(Supervisor(clock, Chance(1), returns=True).call, gone, "here")
        await asyncio.sleep(0)
        while len(times) < 20:
            await clock.advance(1)
            await asyncio.sleep(0)
    gaps = [b - a for a, b in pairwise(times)]
    assert max(gaps) <= 60
    assert max(gaps) > 10
    assert len(set(gaps)) > 10


async def test_idle_is_when_sources_have_ended_and_retries_are_done_and_buffers_delivered(rig: Rig) -> None:
    app = App("shop")
    orders = app.topic("orders", Order)
    work = app.queue("work", Order, orders)
    nobody = app.queue("nobody", Order, orders)
    lake = app.stream("lake", Order, orders, sink="memory://idle-lake", buffer_seconds=900)
    done: list[int] = []

    @app.source(orders)
    async def replay(position: int | None) -> AsyncIterator[At[int, Order]]:
        for number in range(5):
            await rig.clock.wait(Signal(), rig.clock.now() + 10)
            yield At(number, Order(number))

    @work.handler
    async def handle(message: Message[Order]) -> None:
        if message.attempt < 3:
            raise Retry(after=100)
        done.append(message.body.id)

    async with anyio.create_task_group() as group:
        async with rig.open(app):
            group.start_soon(advancing, rig.clock, 400)
            await app.run_until_idle()
            assert sorted(done) == [0, 1, 2, 3, 4]
            assert rig.clock.now() >= 250
            stats = await rig.store.stats()
            assert [(each.name, each.buffered) for each in stats.streams] == [(lake.name, 0)]
            assert next(each.ready for each in stats.queues if each.name == nobody.name) == 5
        group.cancel_scope.cancel()


async def test_what_was_sent_for_later_is_not_waited_for_and_its_retries_are(rig: Rig) -> None:
    app = App("shop")
    work = app.queue("work", Order)
    attempts: list[int] = []

    @work.handler
    async def handle(message: Message[Order]) -> None:
        attempts.append(message.attempt)
        if message.attempt < 3:
            raise Retry(after=100)

    async with anyio.create_task_group() as group:
        async with rig.open(app):
            await work.send(Order(1), delay=3600)
            await app.run_until_idle()
            assert rig.clock.now() == 0
            group.start_soon(advancing, rig.clock, 4000)
            while not attempts:
                await rig.clock.wait(Signal(), rig.clock.now() + 1)
            await app.run_until_idle()
            assert attempts == [1, 2, 3]
            assert rig.clock.now() >= 3800
        group.cancel_scope.cancel()


async def test_until_idle_returns_at_once_when_there_is_nothing_to_do(rig: Rig) -> None:
    async with rig.open(slow_shop(1, [])) as runtime:
        await asyncio.wait_for(runtime.until_idle(), 5)


PROGRAM = """
import sys, asyncio
import msgspec
from pipeflow import App, Context
app = App("shop", broker=sys.argv[1], grace=float(sys.argv[2]))
work = app.queue("work", str)
@work.handler(concurrency=1)
async def handle(text: str, ctx: Context) -> None:
    print("started", text, flush=True)
    await ctx.sleep(float(text))
    print("done", text, flush=True)
async def fill() -> None:
    async with app.client():
        await work.send(sys.argv[3])
asyncio.run(fill())
print("given back", app.run(), flush=True)
"""


def program(tmp_path: Path, grace: str, seconds: str) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, f"sqlite:///{tmp_path}/shop.db", grace, seconds],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


def test_sigterm_drains(tmp_path: Path) -> None:
    with program(tmp_path, "30", "0.5") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started 0.5\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "done 0.5\ngiven back 0\n"
    assert process.returncode == 0


def test_a_second_signal_stops_now(tmp_path: Path) -> None:
    with program(tmp_path, "3000", "3000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started 3000\n"
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "given back 1\n"
    assert process.returncode == 0
