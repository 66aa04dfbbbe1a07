"""One system under the load of many callers, each awaiting every one of its own calls."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from pathlib import Path

from _distance import Distance
from _rounds import quantile

from _brokers.peer import Books, Ended, Peer, Sender, Taker

WARM = 0.15
"""Seconds before counting starts: the callers are then spread over the groups of commits."""
LONGER = 3
"""How often the time is prolonged while fewer than two messages of each caller have come through."""
LONGEST = 20
"""How often while none has: a rate of nothing says nothing."""
FILLERS, FILL = 20, 50
PATIENCE = 60.0
"""Seconds for a system to end."""
SETTLE = 2.0
"""Seconds a server has to bring its own books up to date, where it answers before it has."""
_TICKS = os.sysconf("SC_CLK_TCK")


async def fill(peer: Peer, books: Books, count: int) -> None:
    """Bring it `count` messages behind."""
    senders = [await peer.sender() for _ in range(FILLERS)]

    async def some(sender: Sender, share: int) -> None:
        for start in range(0, share, FILL):
            bodies = books.make(min(FILL, share - start))
            await sender.send(bodies)
            books.sent += len(bodies)

    await asyncio.gather(*(some(sender, count // FILLERS) for sender in senders))


class Callers:
    """Pairs that stay connected from cell to cell: one of each sends, the other receives and acknowledges."""

    def __init__(self, peer: Peer, books: Books, behind: int) -> None:
        self._peer = peer
        self._low, self._high = behind // 2, behind + behind // 2
        self._books = books
        self._senders: list[Sender] = []
        self._takers: list[Taker] = []

    async def drive(self, callers: int, batch: int, seconds: float) -> dict[str, float]:
        """So many of them for so long; what came of it."""
        while len(self._senders) < callers:
            self._senders.append(await self._peer.sender())
            self._takers.append(await self._peer.taker())
        books, clock = self._books, time.perf_counter
        distance = Distance(books.sent - books.acked, self._low, self._high)
        sends: list[float] = []

        async def produce(sender: Sender) -> None:
            while not distance.over:
                if not distance.may_send(batch):
                    await distance.sender()
                    continue
                began = clock()
                await sender.send(books.make(batch))
                sends.append(clock() - began)
                books.sent += batch
                distance.has_sent(batch)

        async def consume(taker: Taker) -> None:
            while not distance.over:
                if not distance.may_take(batch):
                    await distance.taker()
                    continue
                taken = await taker.take(batch)
                books.check(taken)
                if taken:
                    await taker.ack(taken)
                books.acked += len(taken)
                distance.has_acked(len(taken), batch)

        gc.collect()
        async with asyncio.TaskGroup() as tasks:
            for sender, taker in zip(self._senders[:callers], self._takers[:callers], strict=True):
                tasks.create_task(_until_ended(produce(sender)))
                tasks.create_task(_until_ended(consume(taker)))
            await asyncio.sleep(WARM)
            sends.clear()
            start, mine, theirs, began = distance.sent + distance.acked, time.process_time(), self._served(), clock()
            for times in range(1, LONGEST + 1):
                await asyncio.sleep(seconds)
                done = distance.sent + distance.acked - start
                if done >= 4 * callers * batch or (done and times >= LONGER):
                    break
            took = clock() - began
            mine, theirs = time.process_time() - mine, self._served() - theirs
            done = distance.sent + distance.acked - start
            took_each = sorted(sends)
            distance.end()
            self._peer.end()
        await self._close_books()
        # What was sent and what was acknowledged differ by how the distance moved: half of either counts.
        messages = done / 2
        return {
            "per_second": messages / took,
            "p50": quantile(took_each, 0.50) * 1e3,
            "p99": quantile(took_each, 0.99) * 1e3,
            "client_us": mine / max(1.0, messages) * 1e6,
            "server_us": theirs / max(1.0, messages) * 1e6,
        }

    async def _close_books(self) -> None:
        until = time.perf_counter() + SETTLE
        while (left := await self._peer.left()) != self._books.sent - self._books.acked:
            if time.perf_counter() > until:
                break
            await asyncio.sleep(0.02)
        self._books.close(left)

    def _served(self) -> float:
        return processor_seconds(self._peer.server) if self._peer.server is not None else 0.0


async def _until_ended(work: object) -> None:
    try:
        await work  # type: ignore[misc]  # a coroutine
    except Ended:
        pass


def processor_seconds(pid: int) -> float:
    """What a process and its children have used; 0 where no /proc says so."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, fields = stat.read_text().rsplit(")", 1)
        except OSError:
            continue  # it ended meanwhile
        columns = fields.split()
        if name.startswith(f"{pid} ("):
            # Its own, and that of children which have ended.
            ticks += sum(map(int, columns[11:15]))
        elif int(columns[1]) == pid:
            ticks += int(columns[11]) + int(columns[12])
    return ticks / _TICKS
