"""Redis, and what is built on it: streams with a consumer group, SAQ, taskiq's stream broker, dramatiq.

Streams: a connection for each caller, redis-py with hiredis; what is acknowledged is deleted too; a batch is a
pipeline. SAQ and taskiq have no call for many: a batch is ten calls at once. dramatiq's calls block: they run in
threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

from _brokers.peer import BODY, Absent, Taken
from _brokers.servers import Server, free_port, program
from _brokers.shared import Fetched, Threads

STREAM, GROUP = "q", "g"
POOL = 64
"""Connections of SAQ and of taskiq, however many callers there are."""
THREADS = 8
"""Of dramatiq, whose workers have 8 each as it comes."""


def start(setting: str, folder: Path) -> tuple[Server, str]:
    """A server with an append-only file, synced `always` or `everysec`; its address."""
    port = free_port()
    command = [program("redis-server"), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    command += ["--save", "", "--appendonly", "yes", "--appendfsync", setting, "--maxclients", "10000"]
    return Server(command, port, folder), f"redis://127.0.0.1:{port}"


class Caller:
    """One connection to a stream."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name

    def send(self, bodies: Sequence[bytes]) -> Awaitable[object]:
        if len(bodies) == 1:
            return self._client.xadd(STREAM, {"b": bodies[0]})
        pipe = self._client.pipeline(transaction=False)
        for body in bodies:
            pipe.xadd(STREAM, {"b": body})
        return pipe.execute()

    async def take(self, limit: int) -> Sequence[Taken]:
        found = await self._client.xreadgroup(GROUP, self._name, {STREAM: ">"}, count=limit)
        return [(fields[b"b"], id) for _, entries in found for id, fields in entries]

    def ack(self, taken: Sequence[Taken]) -> Awaitable[object]:
        ids = [id for _, id in taken]
        pipe = self._client.pipeline(transaction=False)
        pipe.xack(STREAM, GROUP, *ids)
        pipe.xdel(STREAM, *ids)
        return pipe.execute()


class Streams:
    body = BODY

    def __init__(self, server: Server, url: str) -> None:
        from redis.asyncio import Redis

        self._process = server
        self._open = lambda: Redis.from_url(url, protocol=2, single_connection_client=True)
        self._main = Redis.from_url(url, protocol=2)
        self._callers: list[Any] = []
        self.server = server.pid

    async def declare(self) -> None:
        await self._main.xgroup_create(STREAM, GROUP, id="0", mkstream=True)

    async def sender(self) -> Caller:
        client = await self._open().initialize()
        self._callers.append(client)
        return Caller(client, f"c{len(self._callers)}")

    taker = sender

    def end(self) -> None:
        return

    async def left(self) -> int:
        return int(await self._main.xlen(STREAM))

    async def close(self) -> None:
        for client in [*self._callers, self._main]:
            await client.aclose()
        self._process.stop()


async def open_streams(setting: str, folder: Path) -> Streams:
    try:
        import redis  # noqa: F401
    except ImportError:
        raise Absent("the package redis is not installed") from None
    server, url = start(setting, folder)
    streams = Streams(server, url)
    await streams.declare()
    return streams


class Saq:
    """A job is a message; finishing it deletes it."""

    body = BODY

    def __init__(self, server: Server, queue: Any, complete: Any) -> None:
        self._process = server
        self._queue = queue
        self._complete = complete
        self.server = server.pid

    async def sender(self) -> Saq:
        return self

    taker = sender

    def send(self, bodies: Sequence[bytes]) -> Awaitable[object]:
        enqueue = self._queue.enqueue
        return asyncio.gather(*(enqueue("work", ttl=-1, timeout=600, body=body.decode()) for body in bodies))

    async def take(self, limit: int) -> Sequence[Taken]:
        jobs = await asyncio.gather(*(self._queue.dequeue(timeout=10) for _ in range(limit)))
        return [(job.kwargs["body"].encode(), job) for job in jobs if job is not None]

    def ack(self, taken: Sequence[Taken]) -> Awaitable[object]:
        return asyncio.gather(*(self._queue.finish(job, self._complete) for _, job in taken))

    def end(self) -> None:
        return

    async def left(self) -> int:
        return int(await self._queue.count("incomplete"))

    async def close(self) -> None:
        await self._queue.disconnect()
        self._process.stop()


async def open_saq(setting: str, folder: Path) -> Saq:
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
        from saq import Status
        from saq.queue.redis import RedisQueue
    except ImportError:
        raise Absent("the package saq is not installed") from None
    server, url = start(setting, folder)
    pool = BlockingConnectionPool.from_url(url, max_connections=POOL, timeout=None, protocol=2)
    queue: Any = RedisQueue(Redis(connection_pool=pool), max_concurrent_ops=POOL)
    return Saq(server, queue, Status.COMPLETE)


class Taskiq:
    """A task's call is a message; a listener fetches for all callers, a hundred at a time, as it comes."""

    body = BODY

    def __init__(self, server: Server, broker: Any) -> None:
        self._process = server
        self._broker = broker
        self._listening = broker.listen()
        self._fetched = Fetched(self._listen, 32)
        self.take = self._fetched.take
        self.server = server.pid

        @broker.task(task_name="work")
        async def work(body: str) -> None:
            return None

        self._work = work

    async def sender(self) -> Taskiq:
        return self

    async def taker(self) -> Taskiq:
        return self

    def send(self, bodies: Sequence[bytes]) -> Awaitable[object]:
        return asyncio.gather(*(self._work.kiq(body.decode()) for body in bodies))

    async def _listen(self) -> Sequence[Taken]:
        message = await anext(self._listening)
        called = self._broker.formatter.loads(message.data)
        return [(called.args[0].encode(), message.ack)]

    def ack(self, taken: Sequence[Taken]) -> Awaitable[object]:
        return asyncio.gather(*(ack() for _, ack in taken))

    def end(self) -> None:
        return

    async def left(self) -> int:
        from redis.asyncio import Redis

        async with Redis(connection_pool=self._broker.connection_pool) as client:
            (group,) = await client.xinfo_groups("taskiq")
        return int(group["lag"]) + int(group["pending"])

    async def close(self) -> None:
        await self._fetched.close()
        await self._listening.aclose()
        await self._broker.shutdown()
        self._process.stop()


async def open_taskiq(setting: str, folder: Path) -> Taskiq:
    try:
        from taskiq_redis import RedisStreamBroker
    except ImportError:
        raise Absent("the packages taskiq and taskiq-redis are not installed") from None
    server, url = start(setting, folder)
    broker = RedisStreamBroker(url, consumer_id="0", max_connection_pool_size=POOL, protocol=2, timeout=None)
    await broker.startup()
    return Taskiq(server, broker)


class Dramatiq:
    """An actor's message is a message; one consumer fetches for all callers, as one does in a worker."""

    body = BODY

    def __init__(self, server: Server, broker: Any, message: Any) -> None:
        self._process = server
        self._broker = broker
        self._message = message
        self._consumer = broker.consume("default", prefetch=4_096, timeout=50)
        self._consuming = Threads(1, lambda: None)
        self._threads = Threads(THREADS, lambda: None)
        self.take = Fetched(self._fetch, 64).take
        self.server = server.pid

    async def sender(self) -> Dramatiq:
        return self

    async def taker(self) -> Dramatiq:
        return self

    def _made(self, body: bytes) -> Any:
        return self._message(queue_name="default", actor_name="work", args=(body.decode(),), kwargs={}, options={})

    def send(self, bodies: Sequence[bytes]) -> Awaitable[object]:
        return self._threads.call(lambda _: [self._broker.enqueue(self._made(body)) for body in bodies])

    async def _fetch(self) -> Sequence[Taken]:
        def fetch(_: object) -> list[Taken]:
            found = []
            while (message := next(self._consumer)) is not None:
                found.append((message.args[0].encode(), message))
                if len(found) == 128:
                    break
                if not self._consumer.message_cache:
                    break
            return found

        return await self._consuming.call(fetch)

    def ack(self, taken: Sequence[Taken]) -> Awaitable[object]:
        return self._threads.call(lambda _: [self._consumer.ack(message) for _, message in taken], always=True)

    def end(self) -> None:
        self._threads.end()

    async def left(self) -> int:
        return int(await asyncio.to_thread(self._broker.client.hlen, "dramatiq:default.msgs"))

    async def close(self) -> None:
        await self._consuming.close()
        await self._threads.close()
        self._process.stop()


async def open_dramatiq(setting: str, folder: Path) -> Dramatiq:
    try:
        from dramatiq import Message
        from dramatiq.brokers.redis import RedisBroker
    except ImportError:
        raise Absent("the package dramatiq is not installed") from None
    server, url = start(setting, folder)
    broker = RedisBroker(url=url, middleware=[])
    broker.declare_queue("default")
    return Dramatiq(server, broker, Message)
