"""Infrastructure that fails is asked again, later and later; our own bugs are not.

Only here are calls to a broker repeated. A broker in this process that failed stays failed, and its error ends the
program; one that is reached over a connection comes back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from anyio.abc import TaskGroup

from pipeflow.clock import Clock, Signal
from pipeflow.errors import Indeterminate, Unavailable
from pipeflow.names import Chance
from pipeflow.specs import Backoff

R = TypeVar("R")

logger = logging.getLogger("pipeflow")

AGAIN = Backoff(base=0.2, factor=2.0, cap=60.0)
"""How long infrastructure and sources are left alone after a failure (H73)."""


class Supervisor:
    """Makes calls that outlive their broker's absences."""

    __slots__ = ("_clock", "_chance", "_returns")

    def __init__(self, clock: Clock, chance: Chance, *, returns: bool) -> None:
        self._clock = clock
        self._chance = chance
        self._returns = returns
        """Whether a broker that was out of reach may come back."""

    async def call(self, what: Callable[[], Awaitable[R]], place: str) -> R:
        """The result of `what`, repeated with capped jitter while the broker is out of reach."""
        attempt = 0
        while True:
            try:
                return await what()
            except (Unavailable, Indeterminate) as error:
                if not self._returns:
                    raise
                attempt += 1
                pause = AGAIN.delay(attempt, self._chance.roll())
                logger.warning("%s: %s; again in %.1f s", place, error, pause)
                await self._clock.wait(Signal(), self._clock.now() + pause)


def spawn(group: TaskGroup, clock: Clock, work: Callable[[], Awaitable[None]], name: str) -> None:
    """Start a task that the clock counts as awake until it parks."""
    clock.activity.take()
    group.start_soon(clock.activity.awake_while, partial(_run, work, name), name=name)


async def _run(work: Callable[[], Awaitable[None]], name: str) -> None:
    try:
        await work()
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            # Nobody cancelled this task; as it is, the error would end all its siblings, and the program in silence.
            raise RuntimeError(f"{name}: something it waited for was cancelled") from error
        raise
