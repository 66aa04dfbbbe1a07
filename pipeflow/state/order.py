"""Which ready message of a queue comes next: the contract, and the order of a standard queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from typing import Protocol

from pipeflow.state.stored import READY, Stored


class Order(Protocol):
    """Which ready message comes next."""

    def add(self, message: Stored) -> None:
        """A message came in, ready or delayed."""

    def ready_again(self, message: Stored, front: bool) -> None:
        """A message became ready: by time, by failure or given back (`front`)."""

    def released_from(self, message: Stored) -> None:
        """A message left the queue."""

    def candidates(self, now: float) -> Generator[Stored, None, None]:
        """Ready messages in order; each must be taken out of READY before the next is asked for, or the walk ends.

        To be closed: only then is what was looked at last, and not taken, in its place again.
        """
        ...

    def available(self) -> bool:
        """Whether a receive would find something."""
        ...

    def receivable(self, most: int) -> int:
        """How many receives of one message each would find one, as far as `most`; so many are ready at least."""
        ...

    def all(self) -> Iterator[Stored]:
        """Every message it knows, in order, whatever its state."""
        ...

    def clear(self) -> None: ...


_EMPTY: deque[Stored] = deque()
"""The line of every queue that had none yet: an empty deque has 760 bytes, half of what an idle queue needs."""


class Line:
    """The order of a standard queue: oldest visible first (SQS: Q55)."""

    __slots__ = ("_line",)

    def __init__(self) -> None:
        self._line = _EMPTY

    def add(self, message: Stored) -> None:
        if message.state == READY:
            if self._line is _EMPTY:
                self._line = deque()
            self._line.append(message)

    def ready_again(self, message: Stored, front: bool) -> None:
        if self._line is _EMPTY:
            self._line = deque()
        if front:
            self._line.appendleft(message)
        else:
            self._line.append(message)

    def released_from(self, message: Stored) -> None:
        # Left in the line and passed over: its state says GONE.
        pass

    def candidates(self, now: float) -> Generator[Stored, None, None]:
        line = self._line
        while line:
            # Out of the line before it is looked at: a message that comes back at once queues up anew, once.
            message = line.popleft()
            if message.state != READY:
                continue
            try:
                yield message
            finally:
                if message.state == READY:
                    line.appendleft(message)
            if message.state == READY:
                return

    def available(self) -> bool:
        line = self._line
        while line and line[0].state != READY:
            line.popleft()
        return bool(line)

    def receivable(self, most: int) -> int:
        return most

    def all(self) -> Iterator[Stored]:
        return (message for message in tuple(self._line) if message.state == READY)

    def clear(self) -> None:
        self._line.clear()
