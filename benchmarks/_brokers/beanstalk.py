"""beanstalkd: a connection for each caller, its few words of protocol spoken here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from pathlib import Path

from _brokers.peer import BODY, Taken
from _brokers.servers import Server, free_port, program

WITH_BODY = (b"RESERVED ", b"OK ")
SYNC = {"always": ["-f", "0"], "50 ms": ["-f", "50"]}


class Connection:
    """Sends commands and waits for as many answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, commands: Sequence[bytes], begins: bytes) -> list[tuple[bytes, bytes]]:
        self._writer.write(b"".join(commands))
        return [await self._answer(begins) for _ in commands]

    async def _answer(self, begins: bytes) -> tuple[bytes, bytes]:
        line = await self._reader.readuntil(b"\r\n")
        if not line.startswith(begins):
            raise OSError(f"beanstalkd answered {line!r}")
        if not line.startswith(WITH_BODY):
            return line, b""
        body = await self._reader.readexactly(int(line[line.rindex(b" ") :]) + 2)
        return line, body[:-2]

    def send(self, bodies: Sequence[bytes]) -> Awaitable[object]:
        return self.ask([b"put 0 0 600 %d\r\n%b\r\n" % (len(body), body) for body in bodies], b"INSERTED")

    async def take(self, limit: int) -> Sequence[Taken]:
        answers = await self.ask([b"reserve-with-timeout 10\r\n"] * limit, b"RESERVED")
        return [(body, line.split()[1]) for line, body in answers]

    def ack(self, taken: Sequence[Taken]) -> Awaitable[object]:
        return self.ask([b"delete %b\r\n" % job for _, job in taken], b"DELETED")

    def close(self) -> None:
        self._writer.close()


class Beanstalkd:
    body = BODY

    def __init__(self, server: Server, port: int) -> None:
        self._process = server
        self._port = port
        self._connections: list[Connection] = []
        self.server = server.pid

    async def sender(self) -> Connection:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", self._port))
        self._connections.append(connection)
        return connection

    taker = sender

    def end(self) -> None:
        return

    async def left(self) -> int:
        connection = await self.sender()
        ((_, said),) = await connection.ask([b"stats-tube default\r\n"], b"OK")
        self._connections.remove(connection)
        connection.close()
        counts = dict(line.split(b": ") for line in said.splitlines() if b": " in line)
        return int(counts[b"current-jobs-ready"]) + int(counts[b"current-jobs-reserved"])

    async def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self._process.stop()


async def open_peer(setting: str, folder: Path) -> Beanstalkd:
    port = free_port()
    command = [program("beanstalkd"), "-l", "127.0.0.1", "-p", str(port), "-b", str(folder), *SYNC[setting]]
    return Beanstalkd(Server(command, port, folder), port)
