"""The owner's socket with a store that only remembers what it was asked: what the door itself promises."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import anyio
import msgspec
import pytest
from msgspec.structs import replace
from recalling_store import Recalling, served, serving

from pipeflow.clock import Signal, SystemClock
from pipeflow.embedded.frames import MAX_FRAME
from pipeflow.embedded.socket import OwnerSocket, connect, socket_path
from pipeflow.errors import (
    ConfigurationError,
    FeatureMissing,
    Indeterminate,
    InvalidFilter,
    NotFound,
    Overloaded,
    PipeflowError,
    RefusedError,
    StoreOwned,
    Unavailable,
)
from pipeflow.events import Published
from pipeflow.messages import (
    Ack,
    AttributeValue,
    Claim,
    Delivery,
    Emit,
    Outgoing,
    Position,
    Receipt,
    Refused,
    Release,
    Segment,
    Sent,
    Settled,
    Settlement,
    Stale,
    Want,
)
from pipeflow.protocols import Redrive, Redriven, Store
from pipeflow.specs import FilterPolicy, QueueSpec, StreamSpec, Subscription, TopicSpec, Topology


@pytest.fixture
def store() -> Recalling:
    return Recalling()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return socket_path(tmp_path / "shop.db")


def is_gone(path: Path) -> bool:
    return not path.exists()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def delivery(body: bytes = b"body") -> Delivery:
    attributes: dict[str, AttributeValue] = {"kind": "placed", "raw": b"\xff", "n": [1]}
    return Delivery("m1", "q", body, Receipt(1, 2, 3), 1, 1.0, 31.0, 5, attributes, priority=7, expires_at=3_601.0)


async def test_every_verb_gives_its_arguments_and_its_answer_unchanged(store: Recalling, path: Path) -> None:
    attributes: dict[str, AttributeValue] = {
        "kind": "placed",
        "total": 5,
        "raw": b"\xff\x00",
        "tags": ["a", 1, None, True],
        "ok": True,
    }
    message = Outgoing(b"\xffbody", attributes, {"h": "1"}, "g", "d", 1.5, "p", ("source", b"\x01"), "id", key="key")
    store.deliveries = [delivery()]
    topology = Topology(
        (TopicSpec("orders"),),
        (QueueSpec("billing", max_receives=None),),
        (StreamSpec("lake", "file://./lake", delimiter=b"\n"),),
        (Subscription("orders", "queue", "billing", FilterPolicy("{}", "body")),),
    )
    async with served(store, path) as client:
        assert client.features == replace(store.features, reconnects=True)
        await client.declare(topology)
        assert store.topology == topology == await client.describe()
        assert await client.send("q", [message, Outgoing(b"bad")]) == [Sent("id-q", 4, True), Refused("TooLong", "why")]
        assert store.sent == [message, Outgoing(b"bad")]
        assert await client.cancel_delayed("q", "key")
        assert await client.publish("t", [message]) == [Sent("id-t", 4, True)]
        assert await client.receive("q", Want(3)) == [delivery()]
        ack = Ack(Receipt(1, 2, 3), [Emit("topic", "orders", message)], True)
        assert await client.settle("q", [ack, Release(Receipt(1, 2, 4))]) == [Settled(), Stale("gone")]
        assert store.settled == [ack, Release(Receipt(1, 2, 4))]
        assert await client.position("new") is None
        assert await client.position("old") == b"\x00\xff"
        assert await client.append("lake", [Outgoing(b"a"), Outgoing(b"")]) == [Position(1), Refused("Empty", "no")]
        assert (await client.peek("q", 7, True, FilterPolicy("{}")))[0] == (await store.peek("q", 7))[0]
        assert await client.redrive(Redrive("q", dry_run=True)) == Redriven(3, 2, 1, ["q"])
        slowly = Redrive("q", to="other", where=FilterPolicy("{}"), limit=4, rate=2.5)
        assert await client.start_move(slowly) == await store.start_move(slowly)
        assert await client.moves() == await store.moves()
        assert await client.moves("q") == await store.moves("q")
        with pytest.raises(NotFound, match="there is no queue q"):
            await client.delete_queue("q")
        with pytest.raises(NotFound, match="there is no move m"):
            await client.cancel_move("m")
        assert (await client.stats()).owner == os.getpid()


async def test_receives_through_the_socket_are_always_durable_and_fit_a_frame(store: Recalling, path: Path) -> None:
    async with served(store, path) as client:
        await client.receive("q", Want(1))
    assert store.wants[0].durable
    assert store.wants[0].max_bytes <= MAX_FRAME // 2


@pytest.mark.parametrize(
    "error",
    [NotFound("no queue 'x'"), InvalidFilter("bad"), Unavailable("closed"), Indeterminate("maybe"), Overloaded("full")],
)
async def test_errors_arrive_with_their_class_and_text(store: Recalling, path: Path, error: PipeflowError) -> None:
    store.raising = error
    async with served(store, path) as client:
        with pytest.raises(type(error), match=str(error)):
            await client.send("q", [Outgoing(b"x")])


async def test_a_refused_error_keeps_its_code(store: Recalling, path: Path) -> None:
    store.raising = RefusedError("TooLong", "at most 1")
    async with served(store, path) as client:
        with pytest.raises(RefusedError, match="at most 1") as caught:
            await client.send("q", [Outgoing(b"x")])
    assert caught.value.code == "TooLong"


async def test_a_bug_in_the_owner_is_indeterminate_for_the_client(
    store: Recalling, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.raising = ZeroDivisionError("oops")
    async with served(store, path) as client:
        with pytest.raises(Indeterminate, match="oops"):
            await client.send("q", [Outgoing(b"x")])
    assert "failed" in caplog.text


async def test_a_waiting_receive_does_not_hold_up_other_calls(store: Recalling, path: Path) -> None:
    async with served(store, path) as client, anyio.create_task_group() as group:
        store.gate = anyio.Event()
        group.start_soon(client.receive, "q", Want(wait=20))
        await store.entered.wait()
        assert await client.position("old") == b"\x00\xff"
        store.gate.set()


async def test_many_calls_run_at_once_and_each_gets_its_own_answer(store: Recalling, path: Path) -> None:
    async with served(store, path) as client:
        answers = await asyncio.gather(*(client.send(f"q{n}", [Outgoing(b"x")]) for n in range(3000)))
    assert [answer[0] for answer in answers] == [Sent(f"id-q{n}", 4, True) for n in range(3000)]


async def test_a_cancelled_receive_is_taken_back_in_the_owner(store: Recalling, path: Path) -> None:
    async with served(store, path) as client:
        store.gate = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(client.receive, "q", Want(wait=20))
            await store.entered.wait()
            group.cancel_scope.cancel()
        await store.left.wait()
        assert await client.position("old") == b"\x00\xff"


@pytest.mark.parametrize("first", ["answer", "cancel"])
async def test_what_was_received_for_a_caller_that_was_cancelled_in_that_moment_is_given_back(
    store: Recalling, path: Path, first: str
) -> None:
    """The answer and the cancellation are both there before the caller runs: nobody has the messages."""
    store.deliveries = [delivery()]
    async with served(store, path) as client:
        link = client._link  # type: ignore[attr-defined]
        on_answer = link._on_answer

        def then_cancel(answer: object) -> None:
            if first == "cancel":
                waiting.cancel()
            on_answer(answer)
            waiting.cancel()

        link._on_answer = then_cancel
        waiting = asyncio.ensure_future(client.receive("q", Want(wait=20)))
        with pytest.raises(asyncio.CancelledError):
            await waiting
        link._on_answer = on_answer
        await client.position("old")
        assert store.settled == [Release(Receipt(1, 2, 3))]
        assert not link._abandoned


async def test_what_was_received_for_a_client_that_is_gone_is_given_back(store: Recalling, path: Path) -> None:
    """The answer was never written, so the messages need not wait for their visibility timeout."""

    class Slow(Recalling):
        async def receive(self, queue: str, want: Want) -> Sequence[Delivery]:
            with anyio.CancelScope(shield=True):
                await self._pass()
            return [delivery()]

        async def settle(self, queue: str, batch: Sequence[Settlement]) -> Sequence[Settled | Stale | Refused]:
            self.left.set()
            return await super().settle(queue, batch)

    slow = Slow()
    slow.gate = anyio.Event()
    async with serving(slow, path):
        client = await connect(path, slow.url, SystemClock())
        async with anyio.create_task_group() as group:
            group.start_soon(client.receive, "q", Want(wait=20))
            await slow.entered.wait()
            group.cancel_scope.cancel()
        await client.close()
        await caught_up(path)
        slow.gate.set()
        await slow.left.wait()
    assert slow.settled == [Release(Receipt(1, 2, 3))]


async def caught_up(path: Path) -> None:
    """Return when the owner has seen everything written before, also that a connection ended."""
    other = await connect(path, "sqlite:///shop.db", SystemClock())
    await other.position("new")
    await other.close()


async def test_a_connection_lost_during_a_change_is_indeterminate_and_the_next_call_connects_again(
    store: Recalling, path: Path
) -> None:
    async with serving(store, path) as owner:
        client = await connect(path, store.url, SystemClock())
        store.gate = anyio.Event()
        sending = asyncio.ensure_future(client.send("q", [Outgoing(b"x")]))
        await store.entered.wait()
        next(iter(owner._sessions)).frames.abort()
        with pytest.raises(Indeterminate, match="lost during send"):
            await sending
        store.gate.set()
        assert await client.send("q", [Outgoing(b"y")]) == [Sent("id-q", 4, True)]
        await client.close()


async def test_a_connection_lost_during_a_question_is_unavailable(store: Recalling, path: Path) -> None:
    async with serving(store, path) as owner:
        client = await connect(path, store.url, SystemClock())
        store.gate = anyio.Event()
        asking = asyncio.ensure_future(client.receive("q", Want(wait=5)))
        await store.entered.wait()
        next(iter(owner._sessions)).frames.abort()
        with pytest.raises(Unavailable, match="receive did nothing"):
            await asking
        await client.close()


async def test_a_closed_client_refuses_further_calls(store: Recalling, path: Path) -> None:
    async with served(store, path) as client:
        await client.close()
        with pytest.raises(Unavailable, match="closed"):
            await client.stats()


async def test_closing_the_owner_answers_changes_under_way_and_ends_waiting(store: Recalling, path: Path) -> None:
    async with anyio.create_task_group() as group:
        owner = OwnerSocket()
        await owner.start(cast(Store, store), path, group)
        client = await connect(path, store.url, SystemClock())
        store.gate = anyio.Event()
        sending = asyncio.ensure_future(client.send("q", [Outgoing(b"x")]))
        await store.entered.wait()
        receiving = asyncio.ensure_future(client.receive("q", Want(wait=60)))
        await caught_up(path)
        async with anyio.create_task_group() as closing:
            closing.start_soon(owner.close)
            await store.left.wait()
            with pytest.raises(Unavailable, match="send was not begun"):
                await client.send("q", [Outgoing(b"late")])
            store.gate.set()
        assert await sending == [Sent("id-q", 4, True)]
        with pytest.raises(Unavailable):
            await receiving
        assert is_gone(path)
        with pytest.raises(Unavailable, match="cannot be reached"):
            await client.stats()


async def test_what_only_the_owner_may_do_is_refused_by_name(store: Recalling, path: Path) -> None:
    segment = Segment(1, "lake", "", 1, 2, 2, 10, 1.0, 2.0, "size", "n", "jsonl", "none")
    async with served(store, path) as client:
        with pytest.raises(FeatureMissing, match="seal of stream 'lake'"):
            await client.seal("lake")
        with pytest.raises(FeatureMissing, match="derive"):
            await client.derive("lake", Position(1), [])
        with pytest.raises(FeatureMissing, match="read"):
            client.read(segment)
        assert client.lane("lake") is None


async def test_a_demand_reaches_the_owner_before_what_is_asked_next(store: Recalling, path: Path) -> None:
    async with served(store, path) as client:
        client.demand("lake", "flush")
        await client.delivered("lake")
    assert store.demanded == [("lake", "flush")]


async def test_events_are_watched_until_the_watcher_leaves(store: Recalling, path: Path) -> None:
    async with served(store, path) as client:
        seen = []
        watching = client.watch()
        async for event in watching:
            seen.append(event)
            if len(seen) == 2:
                break
        await watching.aclose()  # type: ignore[attr-defined]  # a generator
        await store.left.wait()
    assert seen == [Published(1.0, "orders", 2), Published(2.0, "orders", 3)]


async def test_a_batch_beyond_one_frame_goes_in_parts_and_answers_in_order(store: Recalling, path: Path) -> None:
    batch = [Outgoing(bytes([n]) * (9 << 20)) for n in range(6)]
    async with served(store, path) as client:
        assert len(await client.send("q", batch)) == 6
    assert [item.body[0] for item in store.sent] == [0, 1, 2, 3, 4, 5]


async def test_S14_a_connection_lost_inside_a_long_batch_says_how_much_of_it_is_done(
    store: Recalling, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [Outgoing(bytes([n]) * (9 << 20)) for n in range(6)]
    whole = Recalling.append

    async def append(self: Recalling, stream: str, part: list[Outgoing]) -> object:
        if part[0].body[0] > 1:
            raise Unavailable("the owner left")
        self.sent += part
        return await whole(self, stream, part)

    monkeypatch.setattr(Recalling, "append", append)
    async with served(store, path) as client:
        with pytest.raises(Indeterminate, match="the owner left; the first 2 of these 6 were answered before and are"):
            await client.append("lake", batch)
        with pytest.raises(Unavailable, match=r"^the owner left$"):
            await client.append("lake", batch[2:])
    assert [item.body[0] for item in store.sent] == [0, 1]


async def test_behind_a_refused_item_with_a_checkpoint_nothing_of_a_long_batch_is_asked_for(
    store: Recalling, path: Path
) -> None:
    long = [Outgoing(bytes([n]) * (9 << 20), checkpoint=("s", b"%d" % n)) for n in range(4)]
    async with served(store, path) as client:
        answers = await client.send("q", [*long[:2], Outgoing(b"bad", checkpoint=("s", b"x")), *long[2:]])
    assert [type(answer) for answer in answers] == [Sent, Sent, Refused, Refused, Refused]
    assert store.sent == [*long[:2], Outgoing(b"bad", checkpoint=("s", b"x"))]


async def test_a_message_beyond_one_frame_is_refused_before_it_is_sent(store: Recalling, path: Path) -> None:
    async with served(store, path) as client:
        with pytest.raises(RefusedError, match="more than the"):
            await client.send("q", [Outgoing(b"", headers={"long": "x" * MAX_FRAME})])
    assert store.sent == []


async def test_an_answer_beyond_one_frame_gives_its_messages_back_and_says_so(store: Recalling, path: Path) -> None:
    store.deliveries = [replace(delivery(b""), headers={"long": "x" * MAX_FRAME})]
    async with served(store, path) as client:
        with pytest.raises(RefusedError, match="ask for less"):
            await client.receive("q", Want(1))
    assert store.settled == [Release(Receipt(1, 2, 3))]


async def test_every_option_of_a_message_travels_but_where_its_body_lies(store: Recalling, path: Path) -> None:
    claim = Claim(1, "", "name", 3, 0, "")
    said = {each.name: each for each in msgspec.structs.fields(Outgoing)}
    values: dict[str, object] = {"body": b"b", "attributes": {"a": 1}, "headers": {"h": "x"}, "claim": claim}
    values |= {"checkpoint": ("s", b"1"), "partition": "p", "group": "g", "dedup_id": "d", "id": "i", "key": "k"}
    message = Outgoing(**{**dict.fromkeys(said, 7), **values})  # type: ignore[arg-type]  # what comes later is a number
    async with served(store, path) as client:
        await client.send("q", [message])
    assert store.sent == [replace(message, claim=None)]


async def test_only_its_user_may_open_the_socket(store: Recalling, path: Path) -> None:
    async with serving(store, path):
        assert mode(path) == 0o600
    assert is_gone(path)


async def test_a_socket_left_by_a_dead_owner_is_replaced(store: Recalling, path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    async with served(store, path) as client:
        assert await client.position("new") is None


@pytest.fixture
def occupied(path: Path) -> Path:
    path.write_text("mine")
    return path


async def test_a_file_that_is_no_socket_is_never_replaced(store: Recalling, occupied: Path) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        async with serving(store, occupied):
            pass
    assert caught.group_contains(ConfigurationError, match="no socket")
    assert mode(occupied) != 0o600


async def test_a_long_path_is_served_and_reached(store: Recalling, tmp_path: Path) -> None:
    directory = tmp_path.joinpath(*(["d" * 60] * 4))
    directory.mkdir(parents=True)
    path = socket_path(directory / ("shop" * 40 + ".db"))
    async with served(store, path) as client:
        assert path.parent == directory
        assert await client.position("new") is None
    assert is_gone(path)


async def test_a_directory_that_takes_no_socket_costs_only_the_socket(
    store: Recalling, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(store, tmp_path / "missing" / "shop.db.sock"):
        pass
    assert "cannot reach this store" in caplog.text


async def test_an_owner_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreOwned, match=r"shop\.db\.sock"):
        await connect(tmp_path / "shop.db.sock", "sqlite:///shop.db", SystemClock(), patience=0)


async def test_an_owner_that_listens_and_says_nothing_is_named_and_not_waited_for_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeflow.embedded.link.GREETING", 0.01)
    monkeypatch.setattr("pipeflow.embedded.link.owner_of", lambda database: 4711)
    with socket.socket(socket.AF_UNIX) as stopped:
        stopped.bind(str(path))
        stopped.listen()
        with pytest.raises(StoreOwned, match="process 4711 owns the store and has not answered"):
            await connect(path, "sqlite:///shop.db", SystemClock(), patience=0)


async def test_a_client_waits_for_an_owner_that_is_starting(
    store: Recalling, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Starting(SystemClock):
        async def wait(self, signal: Signal, until: float = 0.0) -> bool:
            await owner.start(cast(Store, store), path, group)
            return False

    monkeypatch.setattr("pipeflow.embedded.remote.owner_of", lambda database: 1)
    async with anyio.create_task_group() as group:
        owner = OwnerSocket()
        client = await connect(path, store.url, Starting(), patience=5)
        assert await client.position("new") is None
        await client.close()
        await owner.close()
