"""A message that was in flight at two unclean stops runs with nothing beside it, so that innocents are not blamed."""

from __future__ import annotations

from pipeflow.clock import Clock, Signal


class Gate:
    """Counts the handlers that run, and lets one have the whole process when it must."""

    __slots__ = ("_clock", "busy", "closed", "_outside", "_alone", "stopping")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.busy = 0
        """Handlers that run now: each adds one when it starts and calls `left` when it is done."""
        self.closed = False
        self.stopping = False
        self._outside: list[Signal] = []
        self._alone: Signal | None = None

    async def admit(self, signal: Signal, alone: bool) -> bool:
        """Return when this handler may start, with nothing beside it if `alone`; False when the program stops first."""
        while self.closed and not self.stopping:
            self._outside.append(signal)
            await self._clock.wait(signal)
        if not alone or self.stopping:
            return not self.stopping
        self.closed = True
        self._alone = signal
        try:
            while self.busy and not self.stopping:
                await self._clock.wait(signal)
        finally:
            self._alone = None
            if self.busy or self.stopping:
                self.open()  # it does not run, so nobody need wait for it
        return not self.stopping

    def left(self, alone: bool) -> None:
        """A handler is done: the one that waits to be alone may go, or everybody."""
        self.busy -= 1
        if alone:
            self.open()
        elif self._alone is not None and not self.busy:
            self._alone.fire()

    def open(self) -> None:
        """Let everybody in who waits outside."""
        self.closed = False
        waiting, self._outside = self._outside, []
        for signal in waiting:
            signal.fire()

    def stop(self) -> None:
        """Nobody starts any more."""
        self.stopping = True
        if self._alone is not None:
            self._alone.fire()
        self.open()
