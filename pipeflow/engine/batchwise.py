"""Transforms of many records at once: a batch that fails is tried again, then split until the culprits stand alone.

Retries wait on the clock, later and later, and those behind the batch wait with it: so order is kept. What a batch
answers wrongly is a bug, and is not tried again (Firehose: S29).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeAlias

import anyio

from pipeflow.clock import Clock, Signal
from pipeflow.engine.failures import Coded, as_exception, word_of
from pipeflow.engine.outcome import told_to_stop
from pipeflow.engine.plan import Attempt, BatchTransform, Derived, Part
from pipeflow.engine.supervise import spawn
from pipeflow.names import Chance
from pipeflow.specs import Backoff

logger = logging.getLogger("pipeflow")

Result: TypeAlias = tuple[Derived | Exception, int]
"""What became of one record, and how often it was tried."""

AGAIN = Backoff(base=1.0, factor=2.0, cap=60.0)
"""How long a batch that failed is left alone."""


class Batchwise:
    """Calls one stream's batch transform."""

    def __init__(self, plan: BatchTransform, stream: str, clock: Clock, chance: Chance) -> None:
        self._plan = plan
        self._stream = stream
        self._clock = clock
        self._chance = chance

    def cut(self, parts: Sequence[Part]) -> list[list[Part]]:
        """The batches of these records, in order: none has more records or bytes than it may, unless it is one."""
        batches: list[list[Part]] = []
        left = 0
        for part in parts:
            left -= len(part.body)
            if not batches or left < 0 or len(batches[-1]) == self._plan.size:
                batches.append([])
                left = self._plan.buffer_bytes - len(part.body)
            batches[-1].append(part)
        return batches

    def is_full(self, batch: Sequence[Part]) -> bool:
        """Whether a batch has nothing to wait for."""
        return len(batch) >= self._plan.size or sum(len(part.body) for part in batch) >= self._plan.buffer_bytes

    async def derived(self, batch: Sequence[Part]) -> list[Result]:
        """What became of each record of one batch, in their order."""
        number = 0
        while True:
            number += 1
            answer = await self._call(batch, number)
            if not isinstance(answer, Exception):
                return [(derived, number) for derived in answer]
            if isinstance(answer, Coded):
                return [(answer, number)] * len(batch)
            if number > self._plan.retries:
                break
            pause = AGAIN.delay(number, self._chance.roll())
            logger.warning(
                "stream %s: its transform failed on %d records: %s: %s; again in %.1f s",
                self._stream, len(batch), word_of(answer), answer, pause,
            )  # fmt: skip
            await self._clock.wait(Signal(), self._clock.now() + pause)
        if len(batch) == 1 or not self._plan.bisects:
            return [(self._final(answer), number)] * len(batch)
        return await self._bisected(batch, number)

    async def _bisected(self, batch: Sequence[Part], number: int) -> list[Result]:
        """Both halves and their halves, each tried once: whoever is not to blame gets through."""
        results: list[Result] = []
        middle = (len(batch) + 1) // 2
        waiting = [(batch[middle:], number + 1), (batch[:middle], number + 1)]
        while waiting:
            part, number = waiting.pop()
            answer = await self._call(part, number)
            if not isinstance(answer, Exception):
                results += [(derived, number) for derived in answer]
            elif len(part) == 1 or isinstance(answer, Coded):
                results += [(self._final(answer), number)] * len(part)
            else:
                middle = (len(part) + 1) // 2
                waiting += [(part[middle:], number + 1), (part[:middle], number + 1)]
        return results

    def _final(self, error: Exception) -> Exception:
        if self._plan.lambda_arn is None or isinstance(error, Coded):
            return error
        if isinstance(error, TimeoutError):
            return Coded("Lambda.FunctionTimedOut", str(error))
        return Coded("Lambda.FunctionError", f"{word_of(error)}: {error}")

    async def _call(self, batch: Sequence[Part], number: int) -> Sequence[Derived | Exception] | Exception:
        """The answers, as many as records; or what the call failed with."""
        timeout = self._plan.timeout
        if timeout is None:
            return await self._answer(Attempt(batch, self._clock, number))
        answers: list[Sequence[Derived | Exception] | Exception] = []
        done = Signal()
        until = self._clock.now() + timeout

        async def call() -> None:
            answers.append(await self._answer(Attempt(batch, self._clock, number, until)))
            done.fire()

        async with anyio.create_task_group() as tasks:
            spawn(tasks, self._clock, call, f"stream {self._stream}: transform")
            if not await self._clock.wait(done, until):
                tasks.cancel_scope.cancel()
                return TimeoutError(f"not done after {timeout} s")
        return answers[0]

    async def _answer(self, attempt: Attempt) -> Sequence[Derived | Exception] | Exception:
        try:
            return await self._plan.derive(attempt)
        except BaseException as error:
            if told_to_stop(error):
                raise
            return as_exception(error)
