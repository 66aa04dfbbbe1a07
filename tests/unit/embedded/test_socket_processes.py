"""Two processes and one SQLite store: the owner's socket with the real broker behind it, and either of them dying."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import anyio
import pytest

import pipeflow
from pipeflow.embedded.remote import RemoteStore
from pipeflow.errors import PipeflowError, StoreOwned, Unavailable
from pipeflow.messages import Ack, Outgoing, Release, Sent, Settled, Want
from pipeflow.protocols import Redrive
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, StreamSpec, Subscription, TopicSpec, Topology
from pipeflow.webhooks import TOPIC

OWNER = """
import sys
import anyio
from pipeflow.registry import open_store

async def own(url):
    store = await open_store(url)
    print("owning", flush=True)
    await anyio.to_thread.run_sync(sys.stdin.readline)
    await store.close()

anyio.run(own, sys.argv[1], backend_options={"use_uvloop": sys.argv[2] == "uvloop"})
"""

CLIENT = """
import sys
import anyio
from pipeflow.messages import Want
from pipeflow.registry import open_store

async def receive(url):
    store = await open_store(url, client=True)
    held = await store.receive("billing", Want(limit=1, wait=20, visibility_timeout=float(sys.argv[2])))
    print(held[0].id, flush=True)
    sys.stdin.readline()

anyio.run(receive, sys.argv[1])
"""

TOPOLOGY = Topology(
    (TopicSpec("orders"),),
    (QueueSpec("billing", dead_letters="billing-dlq"), QueueSpec("billing-dlq", holds_dead_letters=True)),
    (StreamSpec("lake", "memory://lake"),),
    (Subscription("orders", "queue", "billing"), Subscription("orders", "stream", "lake")),
)

Start = Callable[..., "subprocess.Popen[str]"]
LOOPS = ["asyncio", *(["uvloop"] if find_spec("uvloop") else [])]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/shop.db"


@pytest.fixture
def start() -> Iterator[Start]:
    """A process that runs a script and has printed its first line."""
    started: list[subprocess.Popen[str]] = []

    def run(script: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            env={**os.environ, "PYTHONPATH": str(Path(pipeflow.__file__).parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        with process:
            process.kill()


async def owning(start: Start, url: str, loop: str = "asyncio") -> subprocess.Popen[str]:
    process = start(OWNER, url, loop)
    assert await line_of(process) == "owning"
    return process


async def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return (await anyio.to_thread.run_sync(process.stdout.readline)).strip()


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_second_process_uses_the_store_without_being_told(start: Start, url: str, loop: str) -> None:
    await owning(start, url, loop)
    store = await open_store(url, client=True)
    assert isinstance(store, RemoteStore)
    await store.declare(TOPOLOGY)
    assert await store.describe() == TOPOLOGY
    sent = await store.publish("orders", [Outgoing(b"%d" % n, {"kind": "x", "raw": b"\xff"}) for n in range(2000)])
    assert all(isinstance(each, Sent) for each in sent)
    received = await store.receive("billing", Want(limit=2000))
    assert [delivery.body for delivery in received] == [b"%d" % n for n in range(2000)]
    assert received[0].attributes == {"kind": "x", "raw": b"\xff"}
    outcomes = await store.settle("billing", [Ack(delivery.receipt) for delivery in received])
    assert outcomes == [Settled()] * 2000
    assert (await store.peek("billing")) == []
    assert (await store.redrive(Redrive("billing"))).moved == 0
    stats = await store.stats()
    assert (stats.queues[0].acked, stats.streams[0].accepted) == (2000, 2000)
    await store.close()


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_waiting_receive_is_woken_by_another_connection(start: Start, url: str, loop: str) -> None:
    await owning(start, url, loop)
    receiver = await open_store(url, client=True)
    sender = await open_store(url, client=True)
    await sender.declare(TOPOLOGY)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(receiver.receive("billing", Want(wait=20)))
        await sender.send("billing", [Outgoing(b"now")])
    assert [delivery.body for delivery in waiting.result()] == [b"now"]
    await receiver.close()
    await sender.close()


async def test_a_second_owner_is_refused_with_the_owners_process(start: Start, url: str) -> None:
    owner = await owning(start, url)
    with pytest.raises(StoreOwned, match=str(owner.pid)):
        await open_store(url)


async def test_what_a_client_held_when_it_died_comes_back_at_its_visibility_timeout(start: Start, url: str) -> None:
    await owning(start, url)
    store = await open_store(url, client=True)
    await store.declare(TOPOLOGY)
    await store.send("billing", [Outgoing(b"held")])
    client = start(CLIENT, url, "0.5")
    id = await line_of(client)
    client.send_signal(signal.SIGKILL)
    assert await store.receive("billing", Want()) == []
    (again,) = await store.receive("billing", Want(wait=20))
    assert (again.id, again.attempt) == (id, 2)
    await store.close()


async def test_after_its_owner_was_killed_a_store_fails_clearly_and_is_owned_again(start: Start, url: str) -> None:
    owner = await owning(start, url)
    store = await open_store(url, client=True)
    await store.declare(TOPOLOGY)
    (sent,) = await store.send("billing", [Outgoing(b"kept")])
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(outcome_of(store.receive("lonely", Want(wait=60))))
        assert isinstance(await waiting, PipeflowError)  # no such queue, said by the owner
        waiting = group.create_task(outcome_of(store.receive("billing-dlq", Want(wait=60))))
        await store.position("none")
        owner.send_signal(signal.SIGKILL)
        assert isinstance(await waiting, Unavailable)
    await anyio.to_thread.run_sync(owner.wait)
    with pytest.raises(Unavailable, match="it is gone: open the store again"):
        await store.stats()

    # The socket of the dead owner still lies there; the next owner replaces it, and old clients find their way.
    await owning(start, url)
    assert (await store.stats()).queues[0].ready == 1
    (delivery,) = await store.receive("billing", Want())
    assert isinstance(sent, Sent)
    assert delivery.id == sent.id
    assert await store.settle("billing", [Release(delivery.receipt)]) == [Settled()]
    await store.close()


async def outcome_of(call: object) -> object:
    try:
        return await call  # type: ignore[misc]  # any awaitable
    except PipeflowError as error:
        return error


async def test_an_owner_that_closes_lets_the_next_process_own_the_store(start: Start, url: str) -> None:
    owner = await owning(start, url)
    store = await open_store(url, client=True)
    await store.declare(TOPOLOGY)
    assert owner.stdin is not None
    owner.stdin.write("\n")
    owner.stdin.flush()
    await anyio.to_thread.run_sync(owner.wait)
    await store.close()
    mine = await open_store(url, client=True)
    assert not isinstance(mine, RemoteStore)
    assert await mine.describe() == TOPOLOGY
    await mine.close()


async def test_topics_that_another_program_declares_are_taken_by_their_name(start: Start, url: str) -> None:
    await owning(start, url)
    store = await open_store(url, client=True)
    assert isinstance(store, RemoteStore)
    pattern = Subscription("orders-*", "queue", "audit", named=True)
    await store.declare(Topology(queues=(QueueSpec("audit"),), subscriptions=(pattern,)))
    await store.declare(Topology((TopicSpec("orders-eu"), TopicSpec("returns"))))
    for topic in ("orders-eu", "returns"):
        await store.publish(topic, [Outgoing(topic.encode())])
    (delivery,) = await store.receive("audit", Want())
    assert (delivery.body, delivery.headers) == (b"orders-eu", {TOPIC: "orders-eu"})
    assert (await store.describe()).subscriptions == (pattern,)
    await store.close()
