"""A source goes on exactly after its last committed position.

Items are published in order, many in one call, each with the position that commits with it. A source runs ahead of its
commits by a bounded number of items. One that is refused stops; one that raises starts again, later and later, from
what was committed; one that ends has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial

from pipeflow.clock import Clock, Signal
from pipeflow.engine.lacking import lacking
from pipeflow.engine.outcome import told_to_stop
from pipeflow.engine.plan import SourceItem, SourcePlan, Unfit
from pipeflow.engine.scopes import task_scope
from pipeflow.engine.supervise import AGAIN, Supervisor, spawn
from pipeflow.errors import ConfigurationError, RefusedError
from pipeflow.events import Observers, Published, Refusal, SourceStopped
from pipeflow.messages import Position, Refused, Sent
from pipeflow.names import Chance
from pipeflow.protocols import Store

logger = logging.getLogger("pipeflow")

AHEAD = 1_000
"""Items a source may be ahead of its last commit."""


class SourceRunner:
    """Runs one source until it ends or is refused."""

    def __init__(
        self,
        plan: SourcePlan,
        *,
        store: Store,
        clock: Clock,
        chance: Chance,
        observers: Observers,
        supervisor: Supervisor,
        progressed: Callable[[], None],
    ) -> None:
        self.plan = plan
        self.ended = False
        self.refused: RefusedError | None = None
        """Why it was stopped for good, with the position in its text."""
        self._store = store
        self._lacking = lacking(store)
        self._clock = clock
        self._chance = chance
        self._observers = observers
        self._supervisor = supervisor
        self._progressed = progressed
        self._ahead: deque[SourceItem] = deque()
        self._flying = 0
        self._arrived = Signal()
        self._taken = Signal()
        self._exhausted = False
        self._failures = 0

    async def run(self) -> None:
        """Follow the source to its end."""
        try:
            while not await self._follow():
                pass
        except RefusedError as refused:
            self.refused = refused
            logger.error("%s", refused)
            self._tell(str(refused), None)
        else:
            self._tell("", None)
        self.ended = True
        self._progressed()

    async def _follow(self) -> bool:
        """Run the generator once from the last commit; False when it raised and shall start again."""
        position = await self._supervisor.call(lambda: self._store.position(self.plan.name), self.plan.place)
        self._exhausted = False
        self._ahead.clear()
        raised: list[BaseException] = []
        async with task_scope() as group:
            spawn(group, self._clock, lambda: self._read(position, raised), f"source {self.plan.name}")
            await self._publish()
        if not raised:
            return True
        if isinstance(raised[0], Unfit):
            raise self._refusal("Unfit", str(raised[0]), raised[0].position)
        await self._pause(raised[0])
        return False

    async def _read(self, position: bytes | None, raised: list[BaseException]) -> None:
        items = self.plan.start(position)
        try:
            async for item in items:
                self._ahead.append(item)
                if len(self._ahead) == 1:
                    self._arrived.fire()
                if len(self._ahead) + self._flying >= AHEAD:
                    await self._room()
        except ConfigurationError:
            raise  # the source will never work as it is
        except BaseException as error:
            if told_to_stop(error):
                raise
            raised.append(error)
        finally:
            self._exhausted = True
            self._arrived.fire()
            await _close(items)

    async def _room(self) -> None:
        while len(self._ahead) + self._flying >= AHEAD:
            await self._clock.wait(self._taken)

    async def _publish(self) -> None:
        while self._ahead or not self._exhausted:
            if not self._ahead:
                await self._clock.wait(self._arrived)
                # A generator that does not wait fills the bound before this runs; one that does is not waited for.
                continue
            batch, self._ahead = self._ahead, deque()
            self._flying = len(batch)
            answers = await self._supervisor.call(partial(self._send, batch), self.plan.place)
            self._flying = 0
            self._taken.fire()
            self._look(batch, answers)

    async def _send(self, items: deque[SourceItem]) -> list[Sent | Position | Refused]:
        messages = [item.message for item in items]
        if self.plan.kind == "topic":
            if self._lacking is not None:
                self._lacking.check(f"{self.plan.place}: topic {self.plan.target}", messages)
            return list(await self._store.publish(self.plan.target, messages))
        return list(await self._store.append(self.plan.target, messages))

    def _look(self, batch: deque[SourceItem], answers: list[Sent | Position | Refused]) -> None:
        accepted = 0
        for item, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Refused):
                self._count(accepted)
                raise self._refusal(answer.code, answer.reason, item.position)
            accepted += 1
        self._failures = 0
        self._count(accepted)

    def _refusal(self, code: str, reason: str, position: str) -> RefusedError:
        self._observers.emit(Refusal(self._clock.now(), f"source {self.plan.name}", reason))
        return RefusedError(
            code, f"source {self.plan.name} ({self.plan.place}) stopped at position {position}: {reason}"
        )

    def _count(self, accepted: int) -> None:
        if accepted and self.plan.kind == "topic":
            self._observers.emit(Published(self._clock.now(), self.plan.target, accepted))

    async def _pause(self, error: BaseException) -> None:
        self._failures += 1
        pause = AGAIN.delay(self._failures, self._chance.roll())
        again_at = self._clock.now() + pause
        logger.warning(
            "source %s (%s) raised and starts again in %.1f s from its last committed position: %s: %s",
            self.plan.name, self.plan.place, pause, type(error).__name__, error, exc_info=error,
        )  # fmt: skip
        self._tell(f"{type(error).__name__}: {error}", again_at)
        await self._clock.wait(Signal(), again_at)

    def _tell(self, reason: str, again_at: float | None) -> None:
        self._observers.emit(SourceStopped(self._clock.now(), self.plan.name, reason, again_at))


async def _close(items: AsyncIterator[SourceItem]) -> None:
    close = getattr(items, "aclose", None)
    if close is not None:
        try:
            await close()
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.warning("a source raised while it was closed", exc_info=True)
