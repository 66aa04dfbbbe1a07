"""Time: the only place that asks for it.

Tasks that wait park on a `Signal` through `Clock.wait`, so that a virtual clock knows exactly when nothing can happen
any more: an awake task holds a token of `Activity`, parking returns it, and whoever wakes a task hands one over with
the wake-up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from heapq import heappop, heappush
from math import inf
from typing import Protocol


def step_aside() -> None:
    """Let a thread that waits for the interpreter have it, and go on.

    A thread that compresses or writes gives the interpreter up for each call and then waits up to 5 ms for a loop that
    never pauses; `asyncio.sleep(0)` is no pause. With this at every turn of a producer, gzip files of records of 100 B
    by `put` went from 0.67 to 0.75 of one thread's limit in one run, 0.70 to 0.81 at best (benchmarks/batching.py).
    """
    time.sleep(0)


class Activity:
    """Counts the tasks that are awake. `idle()` returns when there are none, and so nothing can happen by itself."""

    __slots__ = ("awake", "_waiters", "_counted")

    def __init__(self) -> None:
        self.awake = 0
        self._waiters: list[asyncio.Future[None]] = []
        self._counted: set[asyncio.Task[object]] = set()

    def take(self) -> None:
        """One more task is awake, or is about to be."""
        self.awake += 1

    def give_back(self) -> None:
        """One task parked or ended."""
        self.awake -= 1
        if not self.awake:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()

    async def idle(self) -> None:
        """Return when no task is awake."""
        while True:
            # The loop may still hold call-backs of tasks that were never counted, such as the caller's own children.
            await asyncio.sleep(0)
            if not self.awake:
                return
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    async def awake_while(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run one task's whole life under a token that was taken when it was started."""
        task = asyncio.current_task()
        assert task is not None
        self._counted.add(task)
        try:
            await work()
        finally:
            self._counted.discard(task)
            self.give_back()

    def counts_me(self) -> bool:
        """Whether the running task holds a token; a test that calls in from outside holds none."""
        return asyncio.current_task() in self._counted


class Signal:
    """Something one task waits for. `fire` wakes it, or is remembered until it next waits; firing twice wakes once."""

    __slots__ = ("fired", "_waiter", "_activity")

    def __init__(self) -> None:
        self.fired = False
        self._waiter: asyncio.Future[bool] | None = None
        self._activity: Activity | None = None

    def fire(self) -> None:
        """Wake the waiting task now, or the next one that waits."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            self.fired = True
            return
        self._waiter = None
        if self._activity is not None:
            self._activity.take()
        waiter.set_result(True)

    def park(self, waiter: asyncio.Future[bool], activity: Activity | None) -> None:
        """Clocks only: make `waiter` the one that `fire` wakes."""
        assert self._waiter is None or self._waiter.done(), "two tasks wait on one signal"
        self._waiter = waiter
        self._activity = activity

    def leave(self, waiter: asyncio.Future[bool]) -> None:
        """Clocks only: `waiter` waits no more; another task may already be the one that waits."""
        if self._waiter is waiter:
            self._waiter = None

    def keep(self, waiter: asyncio.Future[bool]) -> None:
        """Clocks only: the task was cancelled; a firing that had reached it is remembered for the next that waits."""
        if waiter.done() and not waiter.cancelled() and waiter.result():
            self.fired = True


class Clock(Protocol):
    """Epoch seconds that never go backwards, and waiting for a signal or a moment."""

    activity: Activity

    def now(self) -> float: ...

    def floor(self, at: float) -> None:
        """Never answer less than `at` again: what a store remembers of earlier runs."""

    async def wait(self, signal: Signal, until: float = inf) -> bool:
        """True when the signal fired, and it is consumed; False when `until` came first."""
        ...


def _boot_time() -> Callable[[], float]:
    # CLOCK_BOOTTIME goes on while a laptop sleeps, so its deadlines pass meanwhile; monotonic elsewhere.
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    if boot is None:
        return time.monotonic
    # Without a frame of Python's around it: a message asks four times.
    return partial(time.clock_gettime, boot)


class SystemClock:
    """Wall time at the start, advanced by boot time: a wall clock set back or forward while running changes nothing."""

    def __init__(self) -> None:
        self.activity = Activity()
        self._ticks = _boot_time()
        self._base = time.time() - self._ticks()

    def now(self) -> float:
        return self._base + self._ticks()

    def floor(self, at: float) -> None:
        behind = at - self.now()
        if behind > 0:
            self._base += behind

    async def wait(self, signal: Signal, until: float = inf) -> bool:
        while True:
            if signal.fired:
                signal.fired = False
                return True
            # The loop's timers may be early, and stand still while a laptop sleeps: so they are short, and looped.
            if await self._wait_a_while(signal, until):
                return True
            if self.now() >= until:
                return False

    async def _wait_a_while(self, signal: Signal, until: float) -> bool:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        timer = None
        if until != inf:
            timer = loop.call_later(min(max(0.0, until - self.now()), _LONGEST_TIMER), _time_came, waiter)
        signal.park(waiter, None)
        try:
            return await waiter
        except asyncio.CancelledError:
            signal.keep(waiter)
            raise
        finally:
            signal.leave(waiter)
            if timer is not None:
                timer.cancel()


_LONGEST_TIMER = 60.0
"""Seconds: how late a parked task may learn that its moment passed while the machine slept."""


def _time_came(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)


class VirtualClock:
    """Time that stands still until `advance`, and then steps from timer to timer."""

    def __init__(self, start: float = 0.0) -> None:
        self.activity = Activity()
        self._now = start
        self._timers: list[tuple[float, int, asyncio.Future[bool]]] = []
        self._count = 0

    def now(self) -> float:
        return self._now

    def floor(self, at: float) -> None:
        self._now = max(self._now, at)

    async def wait(self, signal: Signal, until: float = inf) -> bool:
        if signal.fired:
            signal.fired = False
            return True
        if until <= self._now:
            return False
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        signal.park(waiter, self.activity)
        if until != inf:
            self._count += 1
            heappush(self._timers, (until, self._count, waiter))
        counted = self.activity.counts_me()
        if counted:
            self.activity.give_back()
        try:
            fired = await waiter
        except asyncio.CancelledError:
            handed = waiter.done() and not waiter.cancelled()
            signal.keep(waiter)
            self._resume(counted, handed)
            raise
        else:
            self._resume(counted, True)
            return fired
        finally:
            signal.leave(waiter)

    def _resume(self, counted: bool, handed: bool) -> None:
        # A wake-up hands a token over, a cancellation does not. A task nobody counts only lends it while it resumes.
        if counted and not handed:
            self.activity.take()
        if handed and not counted:
            self.activity.give_back()

    async def settle(self) -> None:
        """Return when everything that can happen at this moment has happened."""
        await self.activity.idle()

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass, stopping at every timer on the way."""
        if seconds < 0:
            raise ValueError(f"advance({seconds}): time does not go backwards")
        target = self._now + seconds
        await self.settle()
        while self._timers and self._timers[0][0] <= target:
            until, _, waiter = heappop(self._timers)
            if waiter.done():
                continue
            self._now = max(self._now, until)
            self.activity.take()
            waiter.set_result(False)
            await self.settle()
        self._now = max(self._now, target)
