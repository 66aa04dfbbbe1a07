"""Python's own queues in SQLite files: huey, persist-queue, litequeue. Their calls block, so a thread makes them.

One thread: more of them wait for the same lock of the same file. A batch is ten calls in one hop to it. huey deletes
what it hands out: it has nothing to acknowledge, and a message is gone when its worker dies. The others keep what is
acknowledged until they are told to forget it: they are told now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from _brokers.peer import BODY, Absent, Taken
from _brokers.shared import Threads

KEPT = 500
"""Acknowledged messages until they are deleted."""


class Library:
    """What a library has for a send, a receive, an acknowledgement and a count, on its thread."""

    server = None
    body = BODY

    def __init__(
        self,
        prepare: Callable[[], Any],
        put: Callable[[Any, bytes], object],
        get: Callable[[Any], Taken | None],
        done: Callable[[Any, Any], object] | None,
        size: Callable[[Any], int],
    ) -> None:
        self._threads = Threads(1, prepare)
        self._put, self._get, self._done, self._size = put, get, done, size

    async def sender(self) -> Library:
        return self

    taker = sender

    async def send(self, bodies: Sequence[bytes]) -> object:
        return await self._threads.call(lambda own: [self._put(own, body) for body in bodies])

    async def take(self, limit: int) -> Sequence[Taken]:
        def take(own: Any) -> list[Taken]:
            return [found for _ in range(limit) if (found := self._get(own)) is not None]

        return await self._threads.call(take)

    async def ack(self, taken: Sequence[Taken]) -> object:
        done = self._done
        if done is None:
            return None
        # Received is received: an acknowledgement is made also when the time is over.
        return await self._threads.call(lambda own: [done(own, receipt) for _, receipt in taken], always=True)

    def end(self) -> None:
        self._threads.end()

    async def left(self) -> int:
        return await self._threads.call(self._size)

    async def close(self) -> None:
        await self._threads.close()


async def open_huey(setting: str, folder: Path) -> Library:
    try:
        from huey import SqliteHuey
    except ImportError:
        raise Absent("the package huey is not installed") from None

    def prepare() -> Any:
        huey = SqliteHuey("q", filename=str(folder / "huey.db"), fsync=setting == "fsync", results=False)
        return huey.task(name="work")(lambda body: None)

    def get(work: Any) -> Taken | None:
        task = work.huey.dequeue()
        return None if task is None else (task.args[0], None)

    return Library(
        prepare, lambda work, body: work.huey.enqueue(work.s(body)), get, None, lambda work: work.huey.pending_count()
    )


async def open_persist_queue(setting: str, folder: Path) -> Library:
    try:
        from persistqueue import SQLiteAckQueue
    except ImportError:
        raise Absent("the package persist-queue is not installed") from None

    def get(queue: Any) -> Taken | None:
        found = queue.get(block=False, raw=True)
        return found["data"], found

    acked = count(1)

    def ack(queue: Any, found: Any) -> None:
        queue.ack(found)
        if next(acked) % KEPT == 0:
            queue.clear_acked_data(max_delete=KEPT, keep_latest=0)

    return Library(
        lambda: SQLiteAckQueue(str(folder), auto_commit=True),
        lambda queue, body: queue.put(body),
        get,
        ack,
        lambda queue: queue.active_size(),
    )


async def open_litequeue(setting: str, folder: Path) -> Library:
    try:
        from litequeue import LiteQueue
    except ImportError:
        raise Absent("the package litequeue is not installed") from None

    def get(queue: Any) -> Taken | None:
        message = queue.pop()
        return None if message is None else (message.data.encode(), message.message_id)

    acked = count(1)

    def done(queue: Any, id: str) -> None:
        queue.done(id)
        if next(acked) % KEPT == 0:
            queue.prune()

    return Library(
        lambda: LiteQueue(str(folder / "lite.db")),
        lambda queue, body: queue.put(body.decode()),
        get,
        done,
        lambda queue: queue.qsize(),
    )
