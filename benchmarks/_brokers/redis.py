"""Redis, and what is built on it: SAQ, taskiq's stream broker, dramatiq. Its streams as such: streams.py.

SAQ and taskiq have no call for many: a batch is ten calls at once. dramatiq's calls block: they run in threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

from _brokers.peer import BODY, Absent, Taken
from _brokers.servers import Server, free_port, program
from _brokers.shared import Fetched, Threads

POOL = 64
"""Connections, however many callers there are."""
THREADS = 8
"""Of dramatiq, whose workers have 8 each as it comes."""


def start(setting: str, folder: Path) -> tuple[Server, str]:
    """A server with an append-only file, synced `always` or `everysec`; its address."""
    port = free_port()
    command = [program("redis-server"), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    command += ["--save", "", "--appendonly", "yes", "--appendfsync", setting, "--maxclients", "10000"]
    return Server(command, port, folder), f"redis://127.0.0.1:{port}"


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
    pool = BlockingConnectionPool.from_url(url, max_connections=POOL, timeout=None, socket_timeout=None, protocol=2)
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
    broker = RedisStreamBroker(
        url, consumer_id="0", max_connection_pool_size=POOL, protocol=2, timeout=None, socket_timeout=None
    )
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
