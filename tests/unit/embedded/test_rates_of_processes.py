"""The rate of a queue over several processes, over restarts, and under handlers (SQS: Q78)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

import pipeflow
from pipeflow import App, Batch, Retry
from pipeflow.clock import VirtualClock
from pipeflow.messages import Ack, Outgoing, Want
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology
from pipeflow.testing import harness

CLIENT = """
import sys
import anyio
from pipeflow.messages import Ack, Want
from pipeflow.registry import open_store

async def receive(url):
    store = await open_store(url, client=True)
    while held := await store.receive("calls", Want(limit=10, wait=1.1)):
        for delivery in held:
            print(delivery.deadline, flush=True)
        await store.settle("calls", [Ack(delivery.receipt) for delivery in held])
    await store.close()

anyio.run(receive, sys.argv[1])
"""


def started(url: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(pipeflow.__file__).parents[1])}
    return subprocess.Popen([sys.executable, "-c", CLIENT, url], env=environment, stdout=subprocess.PIPE, text=True)


async def test_Q78_four_processes_together_are_given_no_more_than_the_rate_in_any_second(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db?durability=normal"
    store = await open_store(url)
    await store.declare(Topology(queues=(QueueSpec("calls", max_per_second=30),)))
    clients = [started(url) for _ in range(4)]
    try:
        await store.send("calls", [Outgoing(b"%d" % n) for n in range(70)])
        said = [await anyio.to_thread.run_sync(client.communicate) for client in clients]
    finally:
        for client in clients:
            client.kill()
        await store.close()
    times = sorted(float(line) for out, _ in said for line in out.splitlines())
    assert len(times) == 70
    assert all(later - earlier >= 1.0 for earlier, later in zip(times, times[30:], strict=False))


async def test_Q78_a_restart_gives_out_nothing_before_the_rate_allows_it(tmp_path: Path) -> None:
    url, clock = f"sqlite:///{tmp_path}/shop.db", VirtualClock(1000.0)
    for received in ([b"a"], [b"b"]):
        store = await open_store(url, clock=clock)
        await store.declare(Topology(queues=(QueueSpec("calls", max_per_second=0.1),)))
        if received == [b"a"]:
            await store.send("calls", [Outgoing(b"a"), Outgoing(b"b")])
        else:
            assert await store.receive("calls", Want()) == []
            await clock.advance(10)
        held = await store.receive("calls", Want())
        assert [each.body for each in held] == received
        await store.settle("calls", [Ack(each.receipt) for each in held])
        await store.close()


@pytest.mark.parametrize("store", ["memory://", "sqlite"])
async def test_Q78_handlers_are_called_at_the_rate_of_their_queue_retries_too(store: str, tmp_path: Path) -> None:
    app = App("shop")
    calls = app.queue("calls", int, max_per_second=2)
    at: list[float] = []

    @calls.handler(concurrency=8)
    async def call(number: int) -> None:
        at.append(h.clock.now() - began)
        if len(at) == 1:
            raise Retry(after=0)

    url = store if store == "memory://" else f"sqlite:///{tmp_path}/shop.db"
    async with harness(app, store=url) as h:
        began = h.clock.now()
        await calls.send_many(range(5))
        await h.advance(10)
    assert at == [0, 0, 1, 1, 2, 2]


async def test_Q78_a_batch_is_what_the_rate_allows() -> None:
    app = App("shop")
    rows = app.queue("rows", int, max_per_second=3)
    sizes: list[int] = []

    @rows.batch_handler(size=10)
    async def insert(batch: Batch[int]) -> None:
        sizes.append(len(batch))

    async with harness(app) as h:
        await rows.send_many(range(8))
        await h.advance(5)
    assert sizes == [3, 3, 2]


async def test_Q78_a_program_that_runs_until_it_is_idle_waits_for_the_rate(tmp_path: Path) -> None:
    app = App("shop", broker=f"sqlite:///{tmp_path}/shop.db")
    calls = app.queue("calls", int, max_per_second=20)
    seen: list[int] = []

    @calls.handler
    async def call(number: int) -> None:
        seen.append(number)

    async with app.client():
        await calls.send_many(range(25))
    with anyio.fail_after(20):
        await app.run_until_idle()
    assert sorted(seen) == list(range(25))
