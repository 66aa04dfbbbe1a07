"""The face behind which every system stands, and the books that are kept over its messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from operator import itemgetter
from typing import Any, Protocol

SIZE = 1_024
_REST = b"".join(b"%c" % (32 + n % 95) for n in range(SIZE - 16))
"""Text, because some of the systems carry JSON."""

Taken = tuple[bytes, Any]
"""Of most systems: the body of a message that was received, and what its acknowledgement needs."""
BODY: Callable[[Any], bytes] = itemgetter(0)


class Absent(Exception):
    """A system that cannot be measured here, and why."""


class Wrong(Exception):
    """A system lost a message, made one up, or delivered one twice."""


class Ended(Exception):
    """The time is over; the call was not begun."""


class Sender(Protocol):
    def send(self, bodies: Sequence[bytes]) -> Awaitable[object]:
        """Returns when all of them are committed, as far as the system promises it."""


class Taker(Protocol):
    def take(self, limit: int) -> Awaitable[Sequence[Any]]: ...

    def ack(self, taken: Sequence[Any]) -> Awaitable[object]:
        """Returns when all of them are gone, as far as the system promises it."""


class Peer(Protocol):
    """One system, empty, with its server running where it has one."""

    server: int | None
    """The process whose time, with that of its children, is the server's."""

    body: Callable[[Any], bytes]
    """Of a message that was taken."""

    async def sender(self) -> Sender:
        """What one caller sends with: a connection of its own where that is how it is used."""

    async def taker(self) -> Taker: ...

    def end(self) -> None:
        """The time is over: calls that wait for a thread need not begin."""

    async def left(self) -> int:
        """How many messages it has that are not acknowledged, from its own books."""

    async def close(self) -> None: ...


class Books:
    """Makes messages that are all different, and sees to it that each comes back once and as it was sent."""

    def __init__(self, body: Callable[[Any], bytes]) -> None:
        self._body = body
        self.made = self.sent = self.acked = 0
        self._seen = bytearray()

    def make(self, count: int) -> list[bytes]:
        first = self.made
        self.made += count
        self._seen += bytes(count)
        return [b"%016d" % number + _REST for number in range(first, first + count)]

    def check(self, taken: Sequence[Any]) -> None:
        seen = self._seen
        for body in map(self._body, taken):
            number = int(body[:16])
            if body[16:] != _REST or number >= self.made:
                raise Wrong(f"a message came back that was never sent: {body[:32]!r}")
            if seen[number]:
                raise Wrong(f"message {number} came twice")
            seen[number] = 1

    def close(self, left: int) -> None:
        """Nothing is missing and nothing too much: what was sent is acknowledged or still there."""
        if self.sent - self.acked != left:
            raise Wrong(f"{self.sent} were sent and {self.acked} acknowledged, but {left} are left")
