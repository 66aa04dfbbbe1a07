"""Dead letters on their way back: at once while the caller waits, or as a move that outlives caller and process.

Every dead letter is looked at, those only on disk too, in chunks of one commit each. The remembered move is part of
that commit, so a crash leaves each letter in one place or the other and the count right, and the next start goes on.
One move at a time takes from a queue of dead letters (SQS: Q97).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import anyio
import msgspec
from msgspec.structs import replace

from pipeflow.clock import Signal
from pipeflow.embedded.head import Head
from pipeflow.embedded.inspection import CHUNK, asks_about_bodies, length, matcher, scan, seen
from pipeflow.embedded.journal import Declared
from pipeflow.errors import NotFound, PipeflowError, RefusedError
from pipeflow.moves import KEPT, Move, MoveState
from pipeflow.protocols import Redrive, Redriven
from pipeflow.state.stored import IN_FLIGHT, Stored

if TYPE_CHECKING:
    from pipeflow.embedded.broker import EmbeddedBroker

IDS_SHOWN = 100
STEPS_A_SECOND = 10
"""Commits a second that a move with a rate makes of it, where the rate allows so many."""

_encode = msgspec.msgpack.Encoder().encode


class Moving:
    """The moves of a store: those under way, and the last that ended."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self._broker = broker
        self._moves: dict[str, Move] = {}
        """By id, in the order of starting."""
        self._to_begin: list[str] = []
        self._begun = Signal()
        self._stops: dict[str, Signal] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        """By queue of dead letters: who takes from it."""

    def restore(self, moves: list[Move]) -> None:
        """Remember what an earlier process remembered, and go on with what was under way."""
        for move in sorted(moves, key=lambda move: move.id):
            self._moves[move.id] = move
            if move.under_way:
                self._to_begin.append(move.id)

    async def run(self) -> None:
        """Carry out moves, side by side, for as long as the store is open."""
        clock = self._broker.clock
        async with anyio.create_task_group() as tasks:
            while True:
                for id in self._to_begin:
                    clock.activity.take()
                    tasks.start_soon(clock.activity.awake_while, partial(self._carry_out, id))
                self._to_begin.clear()
                await clock.wait(self._begun, inf)

    # -- what is asked for ---------------------------------------------------------------------------------------

    async def redrive(self, request: Redrive) -> Redriven:
        """Move matching dead letters now, or only count them; the caller waits."""
        if request.rate is not None:
            raise RefusedError("HasRate", f"{request.queue}: a redrive with a rate takes its time; start a move of it")
        dead = self._broker.nouns.dead_of(request.queue)
        async with self._turn(dead):
            move, tally = self._made(request), Tally()
            async for letters in self._matching(move, tally, CHUNK):
                if not request.dry_run:
                    tally.moved += self._take_along(move, letters)
                    await self._broker.committed()
        return Redriven(tally.examined, tally.matched, tally.moved, tally.ids)

    async def start(self, request: Redrive) -> Move:
        """Begin a move, on disk when this returns; RefusedError while another takes from the same dead letters."""
        if request.dry_run:
            raise RefusedError("DryRun", f"{request.queue}: a dry run is counted by redrive, it is no move")
        dead = self._broker.nouns.dead_of(request.queue)
        self._refuse_second(dead)
        move = self._made(request)
        self._moves[move.id] = move
        self._remember(move)
        old = [each.id for each in self._moves.values() if each.source == move.source][:-KEPT]
        for id in old:
            self._forget(id)
        self._to_begin.append(move.id)
        self._begun.fire()
        await self._broker.committed()
        return move

    def listed(self, queue: str | None) -> list[Move]:
        """The last moves of one queue's dead letters, or of all, newest first (SQS: Q100)."""
        source = self._broker.nouns.dead_of(queue).spec.name if queue is not None else None
        return [move for move in reversed(self._moves.values()) if source in (None, move.source)]

    async def cancel(self, id: str) -> Move:
        """Stop a move: what was moved stays moved (SQS: Q101). The answer says how many; NotFound, RefusedError."""
        move = self._moves.get(id)
        if move is None:
            raise NotFound(f"there is no move {id}; `pipeflow dlq moves` lists the last {KEPT} of each queue")
        if not move.under_way:
            raise RefusedError("Ended", f"move {id} of {move.queue} has ended: it is {move.state}")
        move = self._change(id, state="cancelling")
        if id in self._stops:
            self._stops[id].fire()
        await self._broker.committed()
        return self._moves[id]

    def forget_queue(self, name: str) -> None:
        """A queue of dead letters is gone, and with it its moves; one under way fails by itself."""
        for move in [move for move in self._moves.values() if move.source == name and not move.under_way]:
            self._forget(move.id)

    # -- how it is done ------------------------------------------------------------------------------------------

    def _made(self, request: Redrive) -> Move:
        broker = self._broker
        nouns, now = broker.nouns, broker.clock.now()
        dead = nouns.dead_of(request.queue)
        target = nouns.head(request.to if request.to is not None else request.queue)
        _check_target(dead, target)
        matcher(request.where, now)
        return Move(
            broker.new_id(),
            request.queue,
            dead.spec.name,
            request.to,
            request.where,
            request.limit,
            request.rate,
            dead.counters.last_place,
            now,
            length(dead),
        )

    def _refuse_second(self, dead: Head) -> None:
        other = next((m for m in self._moves.values() if m.source == dead.spec.name and m.under_way), None)
        if other is not None:
            raise RefusedError(
                "MoveUnderWay",
                f"move {other.id} takes from {other.source} already, and one does at a time; wait for it or cancel it:"
                f" `pipeflow dlq moves {other.queue} --cancel {other.id}`",
            )

    @asynccontextmanager
    async def _turn(self, dead: Head) -> AsyncIterator[None]:
        """One at a time: what one has read of a tail, another must not have moved."""
        self._refuse_second(dead)
        async with self._turns.setdefault(dead.spec.name, asyncio.Lock()):
            yield

    async def _carry_out(self, id: str) -> None:
        stop = self._stops[id] = Signal()
        move = self._moves[id]
        try:
            async with self._turns.setdefault(move.source, asyncio.Lock()):
                await self._until_done(id, stop)
        except (NotFound, RefusedError) as error:
            self._end(id, "failed", str(error))
        except PipeflowError:
            # The store failed or is closing: whoever opens it next goes on.
            return
        finally:
            del self._stops[id]
        self._broker.written_behind()

    async def _until_done(self, id: str, stop: Signal) -> None:
        clock, rate = self._broker.clock, self._moves[id].rate
        size = CHUNK if rate is None else max(1, min(CHUNK, int(rate / STEPS_A_SECOND)))
        due = clock.now()
        async for letters in self._matching(self._moves[id], Tally(self._moves[id].moved), size):
            if self._moves[id].state == "cancelling":
                break
            moved = self._take_along(self._moves[id], letters)
            self._change(id, moved=self._moves[id].moved + moved)
            await self._broker.committed()
            if rate is not None and self._moves[id].state == "running":
                due = max(due, clock.now()) + moved / rate
                await clock.wait(stop, due)
        self._end(id, "cancelled" if self._moves[id].state == "cancelling" else "completed")

    async def _matching(self, move: Move, tally: Tally, size: int) -> AsyncIterator[list[Stored]]:
        """The letters that a move is about, so many at a time, as they are when they are asked for."""
        broker = self._broker
        dead = broker.nouns.head(move.source)
        matches, whole = matcher(move.where, broker.clock.now()), asks_about_bodies(move.where)
        dead.tail.watch()
        try:
            # What is read must be what this process did until now; what leaves meanwhile is noted.
            await broker.committed()
            async for chunk in scan(dead, broker.journal, size):
                letters: list[Stored] = []
                for message in chunk:
                    if message.place > move.upto or dead.tail.has_left(message.place):
                        continue
                    tally.examined += 1
                    if message.state == IN_FLIGHT or not matches(await seen(broker.claims, dead, message, whole)):
                        continue
                    if dead.tail.has_left(message.place):
                        continue  # while its body was read
                    tally.note(message)
                    letters.append(message)
                    if tally.matched == move.limit:
                        break
                yield letters
                if tally.matched == move.limit:
                    return
                dead.tail.unwatch()
                dead.tail.watch()
                await broker.committed()
        finally:
            dead.tail.unwatch()

    def _take_along(self, move: Move, letters: list[Stored]) -> int:
        """Move letters, each as a new message (SQS: Q99), into the open group; how many."""
        broker = self._broker
        nouns, now = broker.nouns, broker.clock.now()
        dead = nouns.head(move.source)
        to = nouns.head(move.to) if move.to is not None else None
        for message in letters:
            target = to or nouns.find_head(message.source or "") or nouns.head(move.queue)
            if message.place in dead.state.known or not dead.tail.has(message):
                dead.state.move_out(message)
            else:
                dead.tail.take(message)
            broker.inlet.redrive(dead, target, message, now)
        if letters:
            broker.after_intake(nouns.heads() if to is None else [to])
            broker.tending.feed(dead)
        return len(letters)

    # -- what is remembered --------------------------------------------------------------------------------------

    def _change(self, id: str, **fields: object) -> Move:
        move = self._moves[id] = replace(self._moves[id], **fields)
        self._remember(move)
        return move

    def _end(self, id: str, state: MoveState, failure: str = "") -> None:
        self._change(id, state=state, ended_at=self._broker.clock.now(), failure=failure)

    def _remember(self, move: Move) -> None:
        if not self._broker.journal.instant:
            self._broker.gathering.declared.append(Declared("move", move.id, 0, _encode(move)))

    def _forget(self, id: str) -> None:
        del self._moves[id]
        if not self._broker.journal.instant:
            self._broker.gathering.declared.append(Declared("move", id, 0, None))


class Tally:
    """What one pass over the letters met."""

    def __init__(self, matched: int = 0) -> None:
        self.examined = 0
        self.matched = matched
        """Those of earlier processes count towards the limit."""
        self.moved = 0
        self.ids: list[str] = []

    def note(self, message: Stored) -> None:
        """One more that matches."""
        self.matched += 1
        if len(self.ids) < IDS_SHOWN:
            self.ids.append(message.id)


def _check_target(dead: Head, target: Head) -> None:
    if dead.spec.fifo != target.spec.fifo:
        kind = "FIFO" if dead.spec.fifo else "standard"
        raise NotFound(f"{target.spec.name}: dead letters of a {kind} queue go to a {kind} queue; name one with --to")
