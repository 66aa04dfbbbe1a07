"""Groups of a FIFO queue whose tail is on disk: which of them come into memory next, and what that costs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from gated_store import Gate, drain, messages, opened, take

from pipeflow.clock import VirtualClock
from pipeflow.embedded import roll
from pipeflow.embedded.opening import Kept
from pipeflow.messages import Ack


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


async def one_by_one(store: Kept) -> list[bytes]:
    """Everything, one message at a time, each acknowledged before the next."""
    out: list[bytes] = []
    while taken := await take(store, "groups", 1):
        await store.settle("groups", [Ack(each.receipt) for each in taken])
        out += [each.body for each in taken]
    return out


NAMES = "zyxwvutsrqponmlkjihgfedcba"


async def test_Q76_groups_on_disk_come_by_the_age_of_their_oldest_message(store: Kept) -> None:
    for name in NAMES:
        await store.send("groups", messages(name, group=name))
    assert await one_by_one(store) == [name.encode() for name in NAMES]


async def test_Q76_groups_come_by_age_after_a_restart_too(path: Path, clock: VirtualClock) -> None:
    store = await opened(path, clock)
    for name in NAMES:
        await store.send("groups", messages(name, name + "2", group=name))
    await store.close()
    store = await opened(path, clock, "?hot_messages=8")
    taken = await one_by_one(store)
    assert [body for body in taken if len(body) == 1] == [name.encode() for name in NAMES]
    await store.close()


async def test_Q76_of_long_groups_the_one_that_waits_longest_is_next(path: Path, clock: VirtualClock) -> None:
    """Each is drained before the next: as much of it as is in memory, and what more of it is on disk after that."""
    store = await opened(path, clock, "?hot_messages=256")
    for n in range(150):
        for name in "cab":
            await store.send("groups", messages(f"{name}{n}", group=name))
    await store.close()
    store = await opened(path, clock, "?hot_messages=128")
    taken = [body.decode() for body in await one_by_one(store)]
    for name in "cab":
        assert [body for body in taken if body[0] == name] == [f"{name}{n}" for n in range(150)]
    assert [body for body in taken if body[1:] == "0"] == ["c0", "a0", "b0"]
    assert [body for body in taken if body[1:] == "149"] == ["c149", "a149", "b149"]
    await store.close()


async def at_once(store: Kept, limit: int) -> list[str]:
    """So many messages, acknowledged together."""
    taken = await take(store, "groups", limit)
    await store.settle("groups", [Ack(each.receipt) for each in taken])
    return [each.body.decode() for each in taken]


async def test_Q76_what_is_left_of_a_group_comes_behind_groups_that_wait_longer(
    path: Path, clock: VirtualClock
) -> None:
    store = await opened(path, clock, "?hot_messages=256")
    for n in range(150):
        for name in "cab":
            await store.send("groups", messages(f"{name}{n}", group=name))
    await store.close()
    store = await opened(path, clock, "?hot_messages=128")
    first = [(await at_once(store, 64))[0] for _ in range(2)]
    await clock.settle()
    assert store.nouns.head("groups").state.order.receivable(10) == 1, "the third is here, and nothing of the others"
    rest = [(await at_once(store, 64))[0] for _ in range(4)]
    assert [*first, *rest] == ["c0", "a0", "b0", "c64", "a64", "b64"]
    await store.close()


async def test_Q76_a_group_that_is_here_is_not_gone_on_with_before_the_others_had_their_turn(
    path: Path, clock: VirtualClock
) -> None:
    store = await opened(path, clock, "?hot_messages=10")
    await store.send("groups", [each for n in range(30) for name in NAMES for each in messages(f"{n}", group=name)])
    turns: list[str] = []
    while taken := await take(store, "groups", 1):
        turns += [each.group or "" for each in taken]
        await store.settle("groups", [Ack(each.receipt) for each in taken])
    assert len(turns) == 30 * len(NAMES)
    before = turns[: turns.index(NAMES[-1])]
    assert max(map(before.count, NAMES)) <= 10, "no more than memory holds"
    await store.close()


async def test_Q76_of_groups_that_left_memory_the_one_that_waits_longest_is_next(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roll, "TOGETHER", 1)
    store = await opened(path, clock, "?hot_messages=256")
    await store.send("groups", [each for name in "abcd" for each in messages(*[name] * 64, group=name)])
    for n in range(100):
        for name in "dbca":
            await store.send("groups", messages(f"{name}{n}", group=name))
    taken = await take(store, "groups", 256)
    await clock.settle()
    await store.settle("groups", [Ack(each.receipt) for each in taken])
    await clock.settle()
    assert [await at_once(store, 64) for _ in "dbca"] == [[f"{name}{n}" for n in range(64)] for name in "dbca"]
    await store.close()


async def test_Q80_behind_a_long_group_that_is_blocked_others_are_found_and_the_oldest_comes_next(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roll, "PASSED", 10)
    monkeypatch.setattr(roll, "HOPS", 100)
    store = await opened(path, clock)
    await store.send("groups", messages(*(f"{n}" for n in range(500)), group="blocked"))
    for name in NAMES:
        await store.send("groups", messages(name, group=name))
    (held,) = await take(store, "groups", 1)
    gate = Gate(store, "pass_over", monkeypatch)
    assert await one_by_one(store) == [name.encode() for name in NAMES]
    # Every row is passed once, however often the group is in the way; besides, each load looks on from there.
    assert gate.calls < 500 / 10 + 3 * len(NAMES)
    await store.settle("groups", [Ack(held.receipt)])
    assert await one_by_one(store) == [b"%d" % n for n in range(1, 500)]
    await store.close()


async def test_Q80_behind_very_much_of_a_blocked_group_another_is_found_by_its_name(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roll, "PASSED", 10)
    monkeypatch.setattr(roll, "HOPS", 2)
    store = await opened(path, clock)
    await store.send("groups", messages(*(f"{n}" for n in range(500)), group="blocked"))
    await store.send("groups", [*messages("y", group="y"), *messages("x", group="x")])
    (held,) = await take(store, "groups", 1)
    gate = Gate(store, "pass_over", monkeypatch)
    (found,) = await take(store, "groups", 1)
    assert found.body == b"x"
    # Some until enough of the blocked group is here, two in vain; all rows would be 50.
    assert gate.calls < 10
    await store.settle("groups", [Ack(held.receipt), Ack(found.receipt)])
    rest = await drain(store, "groups")
    rest.remove(b"y")  # whenever the other one is in somebody's hands
    assert rest == [b"%d" % n for n in range(1, 500)]
    await store.close()


async def test_what_comes_for_a_group_while_the_tail_is_passed_is_met_later(path: Path, clock: VirtualClock) -> None:
    store = await opened(path, clock)
    expected = []
    for n in range(100):
        name = NAMES[n % 7]
        await store.send("groups", messages(f"{name}{n}", group=name))
        expected.append(f"{name}{n}".encode())
        if n % 3 == 0:
            (taken,) = await take(store, "groups", 1)
            await store.settle("groups", [Ack(taken.receipt)])
            expected.remove(taken.body)
    rest = await one_by_one(store)
    assert sorted(rest) == sorted(expected)
    for name in NAMES[:7]:
        mine = [int(body[1:]) for body in rest if body[:1] == name.encode()]
        assert mine == sorted(mine)
    await store.close()


async def test_a_purge_and_new_messages_leave_nothing_unmet(store: Kept) -> None:
    for name in NAMES:
        await store.send("groups", messages(name, name, group=name))
    assert await store.purge("groups") == 52
    for name in NAMES[::-1]:
        await store.send("groups", messages(name, group=name))
    assert await one_by_one(store) == [name.encode() for name in NAMES[::-1]]
