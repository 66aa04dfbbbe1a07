"""What callers of one process share: messages that are fetched many at a time, and threads for what blocks."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from _brokers.peer import Ended, Taken

T = TypeVar("T")


class Fetched:
    """Messages fetched for all callers; more are asked for before the last one is taken."""

    def __init__(self, fetch: Callable[[], Awaitable[Sequence[Taken]]], enough: int) -> None:
        self._fetch = fetch
        self._enough = enough
        self._here: deque[Taken] = deque()
        self._fetching: asyncio.Task[None] | None = None

    async def take(self, limit: int) -> Sequence[Taken]:
        while True:
            if len(self._here) < self._enough and self._fetching is None:
                self._fetching = asyncio.ensure_future(self._more())
            if self._here:
                return [self._here.popleft() for _ in range(min(limit, len(self._here)))]
            assert self._fetching is not None
            await self._fetching

    async def _more(self) -> None:
        try:
            self._here.extend(await self._fetch())
        finally:
            self._fetching = None

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)


class _Call(NamedTuple):
    work: Callable[[Any], Any]
    future: asyncio.Future[Any]
    always: bool


class Threads:
    """Threads with something of their own each, for libraries whose calls block."""

    def __init__(self, count: int, prepare: Callable[[], Any]) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._run, args=(prepare,), daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def call(self, work: Callable[[Any], T], *, always: bool = False) -> asyncio.Future[T]:
        """What the work returns; `always`: it is done also when the time is over."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._calls.put(_Call(work, future, always))
        return future

    def end(self) -> None:
        """Calls that no thread has begun are not made."""
        for _ in range(self._calls.qsize()):
            try:
                call = self._calls.get_nowait()
            except Empty:
                return
            if call is None or call.always:
                self._calls.put(call)
            else:
                call.future.set_exception(Ended())

    async def close(self) -> None:
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _run(self, prepare: Callable[[], Any]) -> None:
        own, broken = None, None
        try:
            own = prepare()
        except Exception as error:
            broken = error
        while (call := self._calls.get()) is not None:
            try:
                if broken is not None:
                    raise broken
                answer = call.work(own)
            except Exception as error:
                self._loop.call_soon_threadsafe(call.future.set_exception, error)
            else:
                self._loop.call_soon_threadsafe(call.future.set_result, answer)
