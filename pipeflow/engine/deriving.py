"""From the intake to the buffers: each record is unpacked, transformed and partitioned, in this order (Firehose: S19).

A record that fails goes to the error output as it came, beside the good ones. Intake out and results in are one commit,
so a record is never derived twice once that is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from inspect import iscoroutinefunction
from itertools import islice
from math import inf

import anyio.to_thread
from msgspec import Struct, field

from pipeflow.clock import Clock, Signal
from pipeflow.engine.batchwise import Batchwise, Result
from pipeflow.engine.failures import Deadly, Misplaced, as_exception, failure
from pipeflow.engine.outcome import told_to_stop
from pipeflow.engine.plan import BatchTransform, DeliveryPlan, Derived, Part, Place
from pipeflow.engine.unpack import Unpack, Unpackable, unpack_all, unpacker
from pipeflow.messages import Outgoing, Position, Records
from pipeflow.names import Chance
from pipeflow.protocols import Store

BATCH = 1_000
"""Records of the intake that one commit moves on, about: whole blocks."""

TURN = 64
"""Records after which the event loop gets its turn."""

LOT = 8 << 20
"""Bytes that one commit moves on where records become larger or more than they were: what is in hand at a time."""

INLINE = 32 << 10
"""Bytes that are unpacked on the loop: they take less than going to a thread and back."""


class _Taken(Struct):
    """One record as it was accepted, and what is in it."""

    body: bytes
    at: float
    sequence: int
    parts: list[bytes] | Exception
    results: list[Result] = field(default_factory=list)
    """One for each part."""


class _Made(Struct):
    """What came of the intake up to a position."""

    upto: int
    outputs: list[Outgoing]
    dropped: int = 0


class Deriving:
    """The task of one stream that empties its intake."""

    def __init__(self, plan: DeliveryPlan, store: Store, clock: Clock, chance: Chance) -> None:
        self.arrived = Signal()
        """Fired when there may be something in the intake."""
        self._plan = plan
        self._name = plan.spec.name
        self._limit = plan.spec.max_record
        self._store = store
        self._clock = clock
        self._unpack = unpacker(plan.spec)
        self._batchwise = None if plan.batch is None else Batchwise(plan.batch, self._name, clock, chance)
        self.needed = plan.derive is not None or plan.batch is not None
        """Whether this stream has an intake to empty."""

    async def run(self) -> None:
        """Until cancelled; what was not derived then waits in the intake."""
        if self._plan.placing is None:
            await self._run(None)
        else:
            async with self._plan.placing(self._clock) as place:
                await self._run(place)

    async def _run(self, place: Place | None) -> None:
        while True:
            rest_too = True
            if self._plan.batch is not None:
                rest_too = await self._gathered(self._plan.batch)
            blocks = await self._store.intake(self._name, Position(0), self._most())
            if not blocks:
                await self._clock.wait(self.arrived)
                continue
            made = await self._made(blocks, rest_too, place)
            await self._store.derive(self._name, Position(made.upto), made.outputs, made.dropped)

    def _most(self) -> int:
        return BATCH if self._plan.batch is None else max(BATCH, self._plan.batch.size)

    async def _gathered(self, batch: BatchTransform) -> bool:
        """Return when a batch is there, by records, bytes or seconds, or a flush waits for what is (Firehose: S24).

        False: a rest that fills no batch is left to gather on.
        """
        while True:
            waiting = self._store.waiting(self._name)
            until = inf
            if waiting is not None:
                until = waiting.since + batch.buffer_seconds
                if waiting.hurried or self._clock.now() >= until:
                    return True
                if waiting.records >= batch.size or waiting.size >= batch.buffer_bytes:
                    return False
            await self._clock.wait(self.arrived, until)

    async def _made(self, blocks: Sequence[Records], rest_too: bool, place: Place | None) -> _Made:
        if self._unpack is None and self._batchwise is None and place is None:
            return await self._one_by_one(blocks)
        taken = await self._taken(blocks)
        if self._batchwise is not None:
            taken = await self._in_batches(self._batchwise, taken, rest_too)
        else:
            await self._singly(taken)
        if place is not None:
            await _placed(taken, place)
        made = _Made(taken[-1].sequence, [])
        for record in taken:
            self._settle(record, made)
        return made

    # One record is one part, and derived alone: what most streams do

    async def _one_by_one(self, blocks: Sequence[Records]) -> _Made:
        derive, limit = self._plan.derive, self._limit
        assert derive is not None
        later = iscoroutinefunction(derive)
        outputs: list[Outgoing] = []
        dropped, turn, left = 0, TURN, LOT
        for block in blocks:
            for n, body in enumerate(block.bodies):
                try:
                    if block.suspect:
                        raise _deadly()
                    result = (await derive(body)) if later else derive(body)  # type: ignore[misc]  # `later` says so
                    if isinstance(result, Outgoing):
                        if len(result.body) > limit:
                            raise _too_large(result, limit)
                        outputs.append(result)
                    elif isinstance(result, list) and result:
                        left -= self._weigh(result)
                        outputs += result
                    else:
                        dropped += 1
                except BaseException as error:
                    if told_to_stop(error):
                        raise
                    outputs.append(failure(body, error, arrived_at=block.at, now=self._clock.now()))
                if left < 0:
                    return _Made(block.first + n, outputs, dropped)
                turn -= 1
                if not turn:
                    turn = TURN
                    await asyncio.sleep(0)
        return _Made(blocks[-1].first + len(blocks[-1].bodies) - 1, outputs, dropped)

    # Records of several parts, or derived in batches

    async def _taken(self, blocks: Sequence[Records]) -> list[_Taken]:
        """Records with their parts: as many of the first as unpack to one lot, and at least one."""
        taken: list[_Taken] = []
        left = LOT
        for block in blocks:
            parts: Sequence[list[bytes] | Exception]
            if block.suspect:
                parts = [_deadly()] * len(block.bodies)
            elif self._unpack is not None:
                parts = await _unpacked(self._unpack, block.bodies, left)
            else:
                parts = [[body] for body in block.bodies]
            for n, (body, found) in enumerate(zip(block.bodies, parts, strict=False)):
                taken.append(_Taken(body, block.at, block.first + n, found))
                left -= len(body) if isinstance(found, Exception) else sum(map(len, found))
            if left < 0:
                break
        return taken

    async def _singly(self, taken: Sequence[_Taken]) -> None:
        derive = self._plan.derive
        assert derive is not None
        later, turn = iscoroutinefunction(derive), TURN
        for record in taken:
            for part in [] if isinstance(record.parts, Exception) else record.parts:
                derived: Derived | Exception
                try:
                    derived = (await derive(part)) if later else derive(part)  # type: ignore[misc, assignment]  # as it says
                except BaseException as error:
                    if told_to_stop(error):
                        raise
                    derived = as_exception(error)
                record.results.append((derived, 1))
                turn -= 1
                if not turn:
                    turn = TURN
                    await asyncio.sleep(0)

    async def _in_batches(self, batchwise: Batchwise, taken: list[_Taken], rest_too: bool) -> list[_Taken]:
        """The records that were derived: all of them, or those that make whole batches."""
        batches = batchwise.cut([part for record in taken for part in _parts(record)])
        if not rest_too and len(batches) > 1 and not batchwise.is_full(batches[-1]):
            first = batches[-1][0].id
            rest = next((n for n, record in enumerate(taken) if _holds(record, first)), 0)
            if rest and _id(taken[rest], 0) == first:
                batches.pop()
                taken = taken[:rest]
        results = iter([result for batch in batches for result in await batchwise.derived(batch)])
        for record in taken:
            record.results = list(islice(results, 0 if isinstance(record.parts, Exception) else len(record.parts)))
        return taken

    def _settle(self, record: _Taken, made: _Made) -> None:
        """What goes on of one record. A compressed one that fails in part fails whole, as it came (Firehose: S22)."""
        if isinstance(record.parts, Exception):
            made.outputs.append(self._failed(record, record.body, record.parts, 1))
            return
        outputs: list[Outgoing] = []
        dropped = 0 if record.parts else 1
        compressed = self._plan.spec.decompress is not None
        for part, (derived, attempts) in zip(record.parts, record.results, strict=True):
            if type(derived) is Outgoing and len(derived.body) <= self._limit:
                outputs.append(derived)
                continue
            try:
                if isinstance(derived, Exception):
                    raise derived
                several = [derived] if isinstance(derived, Outgoing) else derived or []
                self._weigh(several)
            except Exception as error:
                if compressed:
                    made.outputs.append(self._failed(record, record.body, error, attempts))
                    return
                outputs.append(self._failed(record, part, error, attempts))
            else:
                outputs += several
                dropped += not several
        made.outputs += outputs
        made.dropped += dropped

    def _failed(self, record: _Taken, body: bytes, error: Exception, attempts: int) -> Outgoing:
        batch = self._plan.batch
        return failure(
            body,
            error,
            arrived_at=record.at,
            now=self._clock.now(),
            attempts=attempts,
            lambda_arn=None if batch is None else batch.lambda_arn,
        )

    def _weigh(self, outputs: Sequence[Outgoing]) -> int:
        """Bytes of all of them; an error when one is larger than a record may be."""
        for output in outputs:
            if len(output.body) > self._limit:
                raise _too_large(output, self._limit)
        return sum(len(output.body) for output in outputs)


async def _placed(taken: Sequence[_Taken], place: Place) -> None:
    """Partitions for what came of the records without one; what has none there fails with its part."""
    waiting = [
        output
        for record in taken
        for derived, _ in record.results
        for output in _several(derived)
        if output.partition is None
    ]
    if not waiting:
        return
    answers = iter(await place([output.body for output in waiting]))
    for record in taken:
        record.results = [(_with_places(derived, answers), attempts) for derived, attempts in record.results]


def _with_places(derived: Derived | Exception, answers: Iterator[str | Exception]) -> Derived | Exception:
    placed: list[Outgoing] = []
    wrong: Exception | None = None
    for output in _several(derived):
        answer = output.partition if output.partition is not None else next(answers)
        if isinstance(answer, Exception):
            wrong = wrong or Misplaced(str(answer))
        else:
            placed.append(Outgoing(output.body, partition=answer))
    return wrong or (derived if isinstance(derived, Exception) else placed)


def _several(derived: Derived | Exception) -> Sequence[Outgoing]:
    if isinstance(derived, Exception) or derived is None:
        return ()
    return [derived] if isinstance(derived, Outgoing) else derived


async def _unpacked(unpack: Unpack, bodies: Sequence[bytes], left: int) -> list[list[bytes] | Unpackable]:
    if sum(map(len, bodies)) <= INLINE:
        return unpack_all(unpack, bodies, left)
    return await anyio.to_thread.run_sync(unpack_all, unpack, bodies, left, abandon_on_cancel=True)


def _parts(record: _Taken) -> Iterator[Part]:
    if isinstance(record.parts, Exception):
        return
    for n, body in enumerate(record.parts):
        yield Part(_id(record, n), body, record.at)


def _id(record: _Taken, part: int) -> str:
    return f"{record.sequence:020d}{part:08d}"


def _holds(record: _Taken, id: str) -> bool:
    return id.startswith(_id(record, 0)[:20])


def _deadly() -> Deadly:
    return Deadly("the process died each time this record was transformed; it is not tried again")


def _too_large(output: Outgoing, limit: int) -> ValueError:
    return ValueError(f"{len(output.body)} bytes came of it; max_record={limit}")
