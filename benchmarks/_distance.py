"""How far consumers are behind producers, kept between two bounds."""

from __future__ import annotations

import asyncio
from collections import deque


class Distance:
    """Keeps consumers between two distances behind the producers, counting what is under way as the worst of both."""

    def __init__(self, start: int, low: float, high: float) -> None:
        self.sent = self.acked = 0
        self._ahead = self._behind = start
        self._low, self._high = low, high
        self._senders: deque[asyncio.Future[None]] = deque()
        self._takers: deque[asyncio.Future[None]] = deque()
        self.over = False

    def may_send(self, count: int) -> bool:
        """Whether it may, and then it has to; else it waits for its turn."""
        if self._ahead + count > self._high:
            return False
        self._ahead += count
        return True

    def may_take(self, count: int) -> bool:
        if self._behind - count < self._low:
            return False
        self._behind -= count
        return True

    def has_sent(self, count: int) -> None:
        self.sent += count
        self._behind += count
        _wake(self._takers)

    def has_acked(self, count: int, wanted: int) -> None:
        self.acked += count
        self._ahead -= count
        self._behind += wanted - count
        _wake(self._senders)

    def end(self) -> None:
        self.over = True
        while self._senders or self._takers:
            _wake(self._senders)
            _wake(self._takers)

    def sender(self) -> asyncio.Future[None]:
        return _turn(self._senders)

    def taker(self) -> asyncio.Future[None]:
        return _turn(self._takers)


def _turn(waiting: deque[asyncio.Future[None]]) -> asyncio.Future[None]:
    turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting.append(turn)
    return turn


def _wake(waiting: deque[asyncio.Future[None]]) -> None:
    if waiting:
        waiting.popleft().set_result(None)
