"""A proxy that spoils HTTP: requests refused or lost, responses lost, cut in half or never given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import Enum
from random import Random
from typing import TypeAlias


class Fault(Enum):
    """What becomes of one request."""

    ERROR = "500 Internal Server Error"
    SLOW_DOWN = "503 Slow Down"
    RESET = "the connection ends before the request is carried out"
    LOST = "the request is carried out, its response is lost"
    CUT = "the request is carried out, half of its response comes"
    SILENCE = "the request is carried out, its response never comes"


Plan: TypeAlias = Callable[[str, str], Fault | None]
"""The fate of a request by its method and target."""

_ANSWERS = {
    Fault.ERROR: (500, "InternalError"),
    Fault.SLOW_DOWN: (503, "SlowDown"),
}


class FaultProxy:
    """One that forwards to a port of the loopback. `plan` may be changed at any time; None lets everything pass."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self.plan: Plan | None = None
        self.requests: list[tuple[str, str]] = []
        """(method, target) of every request, in order."""
        self.faults: list[Fault] = []
        self.endpoint = ""
        self._ended = asyncio.Event()
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def end(self) -> None:
        """Hang up on everybody."""
        self._ended.set()
        for writer in self._connections.values():
            writer.transport.abort()
        await asyncio.gather(*self._connections)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        mine = asyncio.current_task()
        assert mine is not None
        self._connections[mine] = writer
        try:
            while (request := await _read_request(reader)) is not None:
                method, target, raw = request
                self.requests.append((method, target))
                fault = self.plan(method, target) if self.plan is not None else None
                if fault is not None:
                    self.faults.append(fault)
                if not await self._answer(fault, raw, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away, as clients do
        finally:
            writer.transport.abort()
            del self._connections[mine]

    async def _answer(self, fault: Fault | None, raw: bytes, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        if fault in _ANSWERS:
            status, code = _ANSWERS[fault]
            body = f"<Error><Code>{code}</Code><Message>injected</Message></Error>"
            writer.write(f"HTTP/1.1 {status} {code}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            await writer.drain()
            return True
        if fault is Fault.RESET:
            return False
        response = await self._forwarded(raw)
        if fault is Fault.LOST:
            return False
        if fault is Fault.SILENCE:
            await self._ended.wait()
            return False
        if fault is Fault.CUT:
            writer.write(response[: len(response) // 2])
            await writer.drain()
            return False
        writer.write(response)
        await writer.drain()
        return False  # the response says so, too

    async def _forwarded(self, raw: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            writer.write(raw)
            await writer.drain()
            return await reader.read()
        finally:
            writer.transport.abort()


@asynccontextmanager
async def fault_proxy(upstream: int) -> AsyncIterator[FaultProxy]:
    """A proxy on a free port; it ends with the block."""
    proxy = FaultProxy(upstream)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=1 << 20)
    proxy.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.end()


def by_chance(share: float, seed: int, kinds: tuple[Fault, ...] = tuple(Fault)) -> Plan:
    """Spoil a share of all requests, each in a way of its own."""
    rolls = Random(seed)
    return lambda method, target: rolls.choice(kinds) if rolls.random() < share else None


def one_after_another(*fates: Fault | None) -> Plan:
    """These fates for the first requests; everything behind them passes."""
    waiting = iter(fates)
    return lambda method, target: next(waiting, None)


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, str, bytes] | None:
    """(method, target, all of it with `Connection: close`); None when no other comes."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = lines[0].split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    assert "transfer-encoding" not in headers, "requests of the library have a length"
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    kept = [line for line in lines if not line.lower().startswith("connection:")]
    return method, target, "\r\n".join([*kept, "Connection: close", "", ""]).encode("latin-1") + body
