"""Many queues with a filter each on one topic: a publish and a declaration cost what they reach, not what is there,
and what nobody uses costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest

from pipeflow.embedded.broker import EmbeddedBroker
from pipeflow.embedded.head import Head
from pipeflow.filters import Subject
from pipeflow.messages import Outgoing, Want
from pipeflow.registry import open_store
from pipeflow.specs import FilterPolicy, QueueSpec, Subscription, TopicSpec, Topology
from pipeflow.state.queue import QueueState

TENANTS = 2_000


def tenants(numbers: Iterable[int]) -> Topology:
    return Topology(
        topics=(TopicSpec("orders"),),
        queues=tuple(QueueSpec(f"q{n}", dead_letters="lost") for n in numbers),
        subscriptions=tuple(
            Subscription("orders", "queue", f"q{n}", FilterPolicy(f'{{"tenant": ["t{n}"]}}')) for n in numbers
        ),
    )


def to(tenant: int) -> Outgoing:
    return Outgoing(b"order", {"tenant": f"t{tenant}"})


@pytest.fixture
def ticked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every queue that was asked for its next deadline, as often as it was."""
    asked: list[object] = []
    next_due = QueueState.next_due

    def noted(self: QueueState) -> float:
        asked.append(self)
        return next_due(self)

    monkeypatch.setattr(QueueState, "next_due", noted)
    return asked


@pytest.mark.pure("compiled callers pass by a method that is put in the place of another")
@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_T47_a_publish_and_one_more_tenant_reach_their_queue_and_no_other(
    store: str, tmp_path: Path, ticked: list[object]
) -> None:
    broker = await open_store("memory://" if store == "memory" else f"sqlite:///{tmp_path}/many.db")
    assert isinstance(broker, EmbeddedBroker)
    await broker.declare(tenants(range(TENANTS)))
    ticked.clear()
    await broker.publish("orders", [to(7), to(7), to(8)])
    assert len(ticked) == 2
    await broker.publish("orders", [to(-1)])
    assert len(ticked) == 2
    await broker.declare(tenants([TENANTS]))
    assert len(ticked) == 4  # the queue and its dead letters
    await broker.publish("orders", [to(TENANTS)])
    for tenant, count in ((7, 2), (8, 1), (TENANTS, 1), (9, 0)):
        assert len(await broker.receive(f"q{tenant}", Want(10))) == count
    await broker.close()


async def test_T47_every_way_is_there_again_after_a_restart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/many.db"
    broker = await open_store(url)
    await broker.declare(tenants(range(100)))
    await broker.close()
    broker = await open_store(url)
    assert isinstance(broker, EmbeddedBroker)
    sieve = broker.nouns.topic("orders").state._sieve
    assert len(list(sieve.candidates(Subject(b"", {"tenant": "t7"})))) == 1
    await broker.publish("orders", [to(7)])
    assert [each.body for each in await broker.receive("q7", Want(10))] == [b"order"]
    head: Head = broker.nouns.head("q7")
    assert head.dead is broker.nouns.head("lost")
    await broker.close()


def timers() -> int:
    """How many timers the loop has."""
    scheduled = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]  # asyncio says it nowhere else
    return sum(not each.cancelled() for each in scheduled)


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_an_open_store_with_nothing_due_has_no_timer_and_one_for_all_queues_else(
    store: str, tmp_path: Path
) -> None:
    before = timers()
    broker = await open_store("memory://" if store == "memory" else f"sqlite:///{tmp_path}/many.db")
    await broker.declare(tenants(range(200)))
    await asyncio.sleep(0)
    assert timers() == before
    for tenant in range(200):
        await broker.send(f"q{tenant}", [Outgoing(b"later", delay=3600 + tenant)])
    for _ in range(3):
        await asyncio.sleep(0)  # the task that keeps the time has its turn
    assert timers() == before + 1
    await broker.close()
