"""The deduplication window across restarts, memory's bound and clocks that are set back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from gated_store import drain, messages, opened

from pipeflow.clock import VirtualClock
from pipeflow.embedded import intake
from pipeflow.embedded.opening import Kept
from pipeflow.embedded.sqlite import recovery
from pipeflow.messages import Outgoing, Sent


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1000.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def store(path: Path, clock: VirtualClock) -> AsyncIterator[Kept]:
    store = await opened(path, clock)
    yield store
    await store.close()


async def send_one(store: Kept, dedup_id: str) -> Sent:
    (sent,) = await store.send("groups", [Outgoing(dedup_id.encode(), group="a", dedup_id=dedup_id)])
    assert isinstance(sent, Sent)
    return sent


async def test_Q71_a_duplicate_that_only_the_disk_remembered_does_not_extend_the_window(
    store: Kept, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "DEDUP_IN_MEMORY", 2)
    original = await send_one(store, "x")
    for n in range(4):
        await clock.advance(31.0)
        await send_one(store, f"{n}")
    await clock.advance(100.0)
    again = await send_one(store, "x")
    assert (again.id, again.duplicate) == (original.id, True)
    await clock.advance(80.0)  # 304 s after the original, 80 s after the duplicate
    assert not (await send_one(store, "x")).duplicate


async def test_Q71_ids_of_the_window_beyond_what_a_start_brings_along_are_still_known(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "KNOWN_KEPT", 2)
    store = await opened(path, clock)
    first = await send_one(store, "0")
    for n in range(1, 6):
        await clock.advance(1.0)
        await send_one(store, f"{n}")
    await store.close()
    store = await opened(path, clock)
    again = await send_one(store, "0")
    assert (again.id, again.duplicate) == (first.id, True)
    await store.close()


async def test_Q71_a_wall_clock_set_back_between_two_starts_stops_no_window_and_no_delay(path: Path) -> None:
    store = await opened(path, VirtualClock(1_000_000.0))
    first = await send_one(store, "x")
    await store.send("work", messages("late", delay=10.0))
    await store.close()
    clock = VirtualClock(0.0)
    store = await opened(path, clock)
    assert clock.now() >= 1_000_000.0
    again = await send_one(store, "x")
    assert (again.id, again.duplicate) == (first.id, True)
    await clock.advance(10.0)
    assert await drain(store, "work") == [b"late"]
    await store.close()


# -- closing ----------------------------------------------------------------------------------------------------------
