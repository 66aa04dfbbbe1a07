"""Redis streams with a consumer group; what is acknowledged is deleted too. redis-py with hiredis, in two ways.

`Pooled` is how the client is used: callers take a connection of a pool for each call, a batch is a pipeline. `Joined`
is what a program may build before it: what its callers ask for at once goes out as one pipeline, and one reader fetches
for all of them.

The client as it comes gives a call up after five seconds and makes it again. A send that is made again is there twice,
so here nothing is: a call waits as long as it takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from _brokers.peer import BODY, Absent, Sender, Taken, Taker
from _brokers.redis import POOL, start
from _brokers.servers import Server
from _brokers.shared import Fetched

STREAM, GROUP = "q", "g"
UNDER_WAY = 4
"""Pipelines at once: 1,024 callers by 10 have 34,000 messages a second with them, and 26,000 with one."""
READ, ENOUGH = 1_024, 512
"""Messages that a reader fetches at once, and how many of them are left when it fetches the next."""

Command: TypeAlias = tuple[Any, ...]


class Pooled:
    """Every caller takes a connection for a call, and gives it back."""

    body = BODY

    def __init__(self, server: Server, client: Any) -> None:
        self._process = server
        self._client = client
        self.server = server.pid

    async def sender(self) -> Sender:
        return self

    async def taker(self) -> Taker:
        return self

    def send(self, bodies: Sequence[bytes]) -> Awaitable[object]:
        if len(bodies) == 1:
            return self._client.xadd(STREAM, {"b": bodies[0]})
        pipe = self._client.pipeline(transaction=False)
        for body in bodies:
            pipe.xadd(STREAM, {"b": body})
        return pipe.execute()

    async def take(self, limit: int) -> Sequence[Taken]:
        found = await self._client.xreadgroup(GROUP, "c", {STREAM: ">"}, count=limit)
        return [(fields[b"b"], id) for _, entries in found for id, fields in entries]

    def ack(self, taken: Sequence[Taken]) -> Awaitable[object]:
        ids = [id for _, id in taken]
        pipe = self._client.pipeline(transaction=False)
        pipe.xack(STREAM, GROUP, *ids)
        pipe.xdel(STREAM, *ids)
        return pipe.execute()

    def end(self) -> None:
        return

    async def left(self) -> int:
        return int(await self._client.xlen(STREAM))

    async def close(self) -> None:
        await self._client.aclose()
        self._process.stop()


class Joined(Pooled):
    """Callers share pipelines, and what a reader has fetched."""

    def __init__(self, server: Server, client: Any) -> None:
        super().__init__(server, client)
        self._asked: list[tuple[asyncio.Future[None], Sequence[Command]]] = []
        self._pipelines: set[asyncio.Task[None]] = set()
        self._fetched = Fetched(partial(super().take, READ), ENOUGH)
        self.take = self._fetched.take  # type: ignore[method-assign]  # the reader's, in place of a call of its own

    def send(self, bodies: Sequence[bytes]) -> Awaitable[object]:
        return self._ask([("XADD", STREAM, "*", "b", body) for body in bodies])

    def ack(self, taken: Sequence[Taken]) -> Awaitable[object]:
        ids = [id for _, id in taken]
        return self._ask([("XACK", STREAM, GROUP, *ids), ("XDEL", STREAM, *ids)])

    def _ask(self, commands: Sequence[Command]) -> asyncio.Future[None]:
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append((answered, commands))
        if len(self._pipelines) < UNDER_WAY:
            pipeline = asyncio.ensure_future(self._carry_out())
            self._pipelines.add(pipeline)
            pipeline.add_done_callback(self._pipelines.discard)
        return answered

    async def _carry_out(self) -> None:
        while self._asked:
            mine, self._asked = self._asked, []
            pipe = self._client.pipeline(transaction=False)
            for _, commands in mine:
                for command in commands:
                    pipe.execute_command(*command)
            try:
                await pipe.execute()
            except Exception as error:
                for answered, _ in mine:
                    if not answered.done():
                        answered.set_exception(error)
                return
            for answered, _ in mine:
                if not answered.done():
                    answered.set_result(None)

    async def close(self) -> None:
        await self._fetched.close()
        await super().close()


async def open_pooled(setting: str, folder: Path) -> Pooled:
    return await _open(Pooled, setting, folder)


async def open_joined(setting: str, folder: Path) -> Pooled:
    return await _open(Joined, setting, folder)


async def _open(way: Callable[[Server, Any], Pooled], setting: str, folder: Path) -> Pooled:
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError:
        raise Absent("the package redis is not installed") from None
    server, url = start(setting, folder)
    never_again = Retry(NoBackoff(), 0)
    pool = BlockingConnectionPool.from_url(
        url, max_connections=POOL, timeout=None, socket_timeout=None, retry=never_again, protocol=2
    )
    client = Redis.from_pool(pool)
    await client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    return way(server, client)
