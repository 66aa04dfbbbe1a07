"""The group commit: what gathers while one group is written is the next one, without a timer.

Groups are ordered, so a later commit implies every earlier one. A failed commit ends it: memory is ahead of the disk
then, so everybody who waits for that group or the next one is told that nothing is known, and nobody is answered again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence

from pipeflow.clock import Clock, Signal
from pipeflow.embedded.group import Gathering
from pipeflow.embedded.journal import Journal
from pipeflow.errors import Indeterminate, PipeflowError, Unavailable


class _AtOnce:
    """Awaited, it returns without suspending."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


_AT_ONCE = _AtOnce()


class Commits:
    """The open group of one store, the one that is being written, and everybody who waits for either."""

    def __init__(self, journal: Journal, clock: Clock, url: str, failed: Callable[[Unavailable], None]) -> None:
        self.gathering = Gathering()
        self.failure: Unavailable | None = None
        """Why nothing is acknowledged any more."""
        self._journal = journal
        self._clock = clock
        self._url = url
        self._failed = failed
        self._ended = False
        self._work = Signal()
        self._loop: asyncio.AbstractEventLoop | None = None

    def done(self) -> Awaitable[None]:
        """To be awaited at once: it returns when everything done until now survives a crash.

        Callers await the future itself: a coroutine around it cost each of them half a microsecond.
        """
        if self._journal.instant:
            return _AT_ONCE
        if self._ended:
            raise self.failure or Unavailable(f"{self._url}: the store is closed; open it again")
        waiter: asyncio.Future[None] = (self._loop or self._its_loop()).create_future()
        self.gathering.waiters.append(waiter)
        if not self._work.fired:
            self._work.fire()
        return waiter

    def _its_loop(self) -> asyncio.AbstractEventLoop:
        # Kept: asking for the running loop is a system call in Python 3.11.
        self._loop = asyncio.get_running_loop()
        return self._loop

    def behind(self) -> None:
        """Let what changed go with the next group; nobody waits for it."""
        if not self._journal.instant and not self._work.fired:
            self._work.fire()

    async def run(self, idle: Callable[[], Awaitable[None]]) -> None:
        """Write group after group until cancelled or one fails; `idle` when the journal asks for it."""
        gathering = self.gathering
        while True:
            if not await self._clock.wait(self._work, until=self._journal.idle_at):
                await idle()
                continue
            while not gathering.empty:
                frozen, waiters = gathering.freeze(self._clock.now())
                try:
                    await self._journal.commit(frozen)
                except PipeflowError as error:
                    self.fail(error, waiters)
                    return
                except BaseException as error:
                    # A bug of ours, or the end of the store: nobody may be left waiting for this group.
                    self.fail(Indeterminate(f"{self._url}: the commit was cut off ({error!r})"), waiters)
                    raise
                gathering.written = gathering.number - 1
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(None)
                # Callers just woken may add to the group that is gathered next; do not race ahead of them.
                await asyncio.sleep(0)

    def fail(self, error: PipeflowError, waiters: Sequence[asyncio.Future[None]] = ()) -> None:
        """A commit failed: memory is ahead of the disk, so nothing may be acknowledged any more."""
        if not isinstance(error, Indeterminate):
            error = Indeterminate(str(error))
        self.failure = Unavailable(f"{self._url}: the store failed and is closed ({error}); start again to recover")
        self.failure.__cause__ = error
        self._let_go(error, waiters)
        self._failed(self.failure)

    def end(self) -> None:
        """Nobody commits any more: who still waits is told that nothing is known."""
        self._ended = True
        self._let_go(Indeterminate(f"{self._url}: the store was closed before this was committed"))

    def _let_go(self, error: PipeflowError, waiters: Sequence[asyncio.Future[None]] = ()) -> None:
        for waiter in [*waiters, *self.gathering.waiters]:
            if not waiter.done():
                waiter.set_exception(error)
        self.gathering.waiters.clear()
