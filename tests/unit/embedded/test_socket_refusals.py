"""What the owner's socket does not take: other versions, other words, too much, and what cannot be read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from recalling_store import Recalling, served, serving

from pipeflow.clock import SystemClock
from pipeflow.embedded import socket as door
from pipeflow.embedded import verbs
from pipeflow.embedded.frames import MAX_FRAME
from pipeflow.embedded.socket import connect, socket_path
from pipeflow.errors import ConfigurationError, Overloaded, PipeflowError, RefusedError
from pipeflow.messages import Outgoing, Want


@pytest.fixture
def store() -> Recalling:
    return Recalling()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return socket_path(tmp_path / "shop.db")


class Raw:
    """A client that says whatever it likes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __aenter__(self) -> Raw:
        self.reader, self.writer = await asyncio.open_unix_connection(str(self._path))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        await self.writer.wait_closed()

    async def ask(self, said: object) -> bytes:
        frame = verbs.encode(said)
        self.writer.write(len(frame).to_bytes(4, "big") + frame)
        return await self.answer()

    async def answer(self) -> bytes:
        return await self.reader.readexactly(int.from_bytes(await self.reader.readexactly(4), "big"))

    async def greeted(self) -> Raw:
        await self.ask(verbs.Hello(verbs.MAGIC, verbs.PROTOCOL, "0", 1))
        return self


def refusal(frame: bytes) -> PipeflowError:
    answer = verbs.read_answer(frame)
    assert answer.kind == "error"
    return verbs.raised(verbs.read_fault(answer.content))


async def test_another_version_of_the_protocol_is_refused_with_both_named(store: Recalling, path: Path) -> None:
    async with serving(store, path), Raw(path) as raw:
        error = refusal(await raw.ask(verbs.Hello(verbs.MAGIC, 99, "9.9", 1)))
        assert isinstance(error, ConfigurationError)
        assert "version 1 " in str(error)
        assert "version 99" in str(error)
        assert await raw.reader.read() == b""


async def test_an_unknown_verb_is_refused_by_name_and_the_connection_goes_on(store: Recalling, path: Path) -> None:
    async with serving(store, path), Raw(path) as raw:
        await raw.greeted()
        assert "'close'" in str(refusal(await raw.ask((1, "close", ()))))
        assert "arguments that do not fit" in str(refusal(await raw.ask((2, "purge", (5,)))))
        assert verbs.read_answer(await raw.ask((3, "position", ("new",)))).kind == "done"


async def test_what_cannot_be_read_is_refused_and_the_connection_goes_on(store: Recalling, path: Path) -> None:
    deep: list[object] = []
    for _ in range(100):
        deep = [deep]
    async with serving(store, path), Raw(path) as raw:
        await raw.greeted()
        nameless: tuple[object, ...] = ([], [["no spaces please"]], [], [])
        assert isinstance(refusal(await raw.ask((1, "declare", (nameless,)))), PipeflowError)
        assert isinstance(refusal(await raw.ask((2, "send", ("q", [[b"x", {"a": {"b": deep}}]])))), PipeflowError)
        assert isinstance(refusal(await raw.ask((3, "send", (b"\xff", [])))), PipeflowError)
        assert verbs.read_answer(await raw.ask((4, "position", ("new",)))).kind == "done"
    assert store.sent == []


async def test_a_frame_beyond_the_bound_ends_the_connection_with_a_reason(store: Recalling, path: Path) -> None:
    async with serving(store, path), Raw(path) as raw:
        await raw.greeted()
        raw.writer.write((MAX_FRAME + 1).to_bytes(4, "big"))
        assert str(MAX_FRAME) in str(refusal(await raw.answer()))
        assert await raw.reader.read() == b""


async def test_garbage_ends_the_connection_and_no_other(store: Recalling, path: Path) -> None:
    async with served(store, path) as client, Raw(path) as raw:
        raw.writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert isinstance(refusal(await raw.answer()), RefusedError)
        assert await client.position("new") is None


async def test_calls_beyond_the_bound_of_a_connection_are_refused(
    store: Recalling, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "MAX_CALLS", 2)
    store.gate = anyio.Event()
    async with serving(store, path), Raw(path) as raw:
        await raw.greeted()
        for id in (1, 2):
            frame = verbs.encode((id, "receive", ("q", Want())))
            raw.writer.write(len(frame).to_bytes(4, "big") + frame)
        assert isinstance(refusal(await raw.ask((3, "stats", ()))), Overloaded)


async def test_large_calls_under_way_hold_back_reading_until_they_are_answered(
    store: Recalling, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "MAX_HELD", 1000)
    async with served(store, path) as client:
        answers = await asyncio.gather(*(client.send("q", [Outgoing(bytes(900))]) for _ in range(50)))
    assert len(answers) == 50


async def test_another_user_is_refused(store: Recalling, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeflow.embedded.frames.Frames.peer", lambda self: (1, os.geteuid() + 1))
    async with serving(store, path):
        with pytest.raises(ConfigurationError, match="belongs to user"):
            await connect(path, store.url, SystemClock(), patience=0)
        async with Raw(path) as raw:
            assert "may not use it" in str(refusal(await raw.answer()))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda client: client.send("q", [Outgoing(b"1"), 5]), "item 1 of a batch to send is an int; use Outgoing"),
        (lambda client: client.send("q", [Outgoing(b"1", headers={"x": "\ud800"})]), "send: 'utf-8' codec"),
        (lambda client: client.receive("q", 5), "q: a receive asks with an int; use Want"),
        (lambda client: client.settle("q", [object]), "settle: Encoding objects of type type is unsupported"),
    ],
)
async def test_what_cannot_be_said_on_the_socket_is_named_and_the_connection_goes_on(
    store: Recalling, path: Path, call: Callable[[Any], Awaitable[object]], told: str
) -> None:
    async with served(store, path) as client:
        with pytest.raises(TypeError) as raised:
            await call(client)
        assert str(raised.value).startswith(told)
        await client.send("q", [Outgoing(b"good")])
    assert [message.body for message in store.sent] == [b"good"]
