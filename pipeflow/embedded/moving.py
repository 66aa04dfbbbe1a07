"""Dead letters on their way back: at once while the caller waits, or as a move that outlives caller and process.

Every dead letter is looked at, those only on disk too, in chunks of one commit each. The remembered move and its entry
in the audit are part of that commit, so a crash leaves each letter in one place or the other and the counts right, and
the next start goes on. One move at a time takes from a queue of dead letters (SQS: Q97).
"""

from __future__ import annotations

import logging
from contextlib import aclosing
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import anyio
import msgspec
from msgspec.structs import replace

from pipeflow.audit import Action, Entry
from pipeflow.clock import Signal
from pipeflow.embedded.auditing import selection_of
from pipeflow.embedded.choosing import Choice, Tally
from pipeflow.embedded.claims import AGAIN, Keeping
from pipeflow.embedded.head import Head
from pipeflow.embedded.inspection import CHUNK, length, matcher
from pipeflow.embedded.journal import Declared
from pipeflow.embedded.rewriting import Fitting, Rewritten, digests_of
from pipeflow.embedded.workbench import check_room
from pipeflow.errors import NotFound, PipeflowError, RefusedError, Unavailable
from pipeflow.letters import Redrive, Redriven
from pipeflow.moves import KEPT, Move, MoveState
from pipeflow.state.stored import Stored
from pipeflow.texts import encodable

if TYPE_CHECKING:
    from pipeflow.embedded.broker import EmbeddedBroker

logger = logging.getLogger("pipeflow")

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
        self._ends: dict[str, list[Signal]] = {}
        """By id: who waits for its end."""
        self._entries: dict[str, Entry] = {}
        """By id: the audit's entry of each move that is carried out."""

    def restore(self, moves: list[Move]) -> None:
        """Remember what an earlier process remembered, and go on with what was under way."""
        for move in sorted(moves, key=lambda move: move.id):
            self._moves[move.id] = move
            if move.under_way:
                self._to_begin.append(move.id)

    def goes_on(self, entry: int) -> bool:
        """Whether this entry of the audit is that of a move that is under way."""
        return any(move.entry == entry for move in self._moves.values() if move.under_way)

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
        broker = self._broker
        dead = broker.nouns.dead_of(request.queue)
        self.refuse_beside(dead)
        if request.edit is not None and not request.dry_run:
            check_room(broker, request.queue)
        async with broker.choosing.turn(dead.spec.name):
            move, tally = self._made(request), Tally()
            fitting = Fitting(request.edit, broker.nouns.head(request.to or request.queue).spec)
            with broker.trail.telling() as told:
                async with aclosing(broker.choosing.matching(_choice(move), tally)) as chunks:
                    async for letters in chunks:
                        left = letters
                        while left:
                            with broker.claims.keeping(request.dry_run) as keeping:
                                fit, left = await self._fit(fitting, left, keeping)
                                if fit and not request.dry_run:
                                    broker.check_open()
                                    entry = told.entry or self._entered("redrive", move, request.user)
                                    told.entry = self._take_along(move, fit, replace(entry, note=fitting.note))
                            await broker.committed()
                            left = broker.choosing.still(left)
                if told.entry is not None:
                    told.entry = replace(told.entry, note=fitting.note)
            if told.entry is not None:
                await broker.committed()
        return Redriven(
            tally.examined, tally.matched, told.count, tally.ids, fitting.unfit, fitting.reason, fitting.changes
        )

    async def start(self, request: Redrive) -> Move:
        """Begin a move, on disk when this returns; RefusedError while another takes from the same dead letters."""
        if request.dry_run:
            raise RefusedError("DryRun", f"{request.queue}: a dry run is counted by redrive, it is no move")
        dead = self._broker.nouns.dead_of(request.queue)
        self.refuse_beside(dead)
        if request.edit is not None:
            check_room(self._broker, request.queue)
        move = self._made(request)
        move = replace(move, entry=self._entered("move", move, request.user).number)
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
        self._broker.trail.begin("cancel", move.queue, letters=move.source, move=id)
        if id in self._stops:
            self._stops[id].fire()
        await self._broker.committed()
        if self._moves[id].under_way:
            # Its step is being committed: then it is at its end, and so is the count.
            ended = Signal()
            self._ends.setdefault(id, []).append(ended)
            await self._broker.clock.wait(ended)
            await self._broker.committed()
        return self._moves[id]

    def refuse_beside(self, dead: Head) -> None:
        """RefusedError while a move takes from these letters."""
        other = next((m for m in self._moves.values() if m.source == dead.spec.name and m.under_way), None)
        if other is not None:
            raise RefusedError(
                "MoveUnderWay",
                f"move {other.id} takes from {other.source} already, and one does at a time; wait for it or cancel it:"
                f" `pipeflow dlq moves {other.queue} --cancel {other.id}`",
            )

    def forget_queue(self, name: str) -> None:
        """A queue of dead letters is gone, and with it its moves; one under way fails by itself."""
        for move in [move for move in self._moves.values() if move.source == name and not move.under_way]:
            self._forget(move.id)

    # -- how it is done ------------------------------------------------------------------------------------------

    def _made(self, request: Redrive) -> Move:
        broker = self._broker
        nouns, now = broker.nouns, broker.clock.now()
        dead = nouns.dead_of(request.queue)
        target = nouns.open_head(request.to if request.to is not None else request.queue)
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
            ids=request.ids,
            edit=request.edit,
        )

    async def _carry_out(self, id: str) -> None:
        stop = self._stops[id] = Signal()
        try:
            self._entries[id] = await self._entry_of(id)
            while not await self._carried(id, stop):
                await self._broker.clock.wait(stop, self._broker.clock.now() + AGAIN)
        except PipeflowError as error:
            if not self._broker.is_open:
                return  # whoever opens the store next goes on
            self._end(id, "failed", str(error))
        except Exception as error:
            # Nobody awaits a move: what it raised would end the store, and every later start of it.
            self._end(id, "failed", f"{type(error).__name__}: {error}")
        finally:
            del self._stops[id]
            for ended in self._ends.pop(id, []):
                ended.fire()
        self._broker.written_behind()

    async def _carried(self, id: str, stop: Signal) -> bool:
        """Whether the move has come to its end; False: a body that it needs cannot be reached now."""
        move = self._moves[id]
        if move.state == "cancelling":
            self._end(id, "cancelled")
            return True
        try:
            async with self._broker.choosing.turn(move.source):
                await self._until_done(id, stop)
        except Unavailable as error:
            self._broker.check_open()
            logger.warning("move %s of %s goes on in %g s: %s", id, move.queue, AGAIN, error)
            return False
        return True

    async def _entry_of(self, id: str) -> Entry:
        entry = await self._broker.trail.find(self._moves[id].entry)
        if entry is None:
            # A move of an older version, or one that outlived its entry.
            entry = self._entered("move", self._moves[id])
            self._change(id, entry=entry.number)
        return entry

    async def _until_done(self, id: str, stop: Signal) -> None:
        broker = self._broker
        clock, move, rate = broker.clock, self._moves[id], self._moves[id].rate
        dead = broker.nouns.head(move.source)
        size = CHUNK if rate is None else max(1, min(CHUNK, int(rate / STEPS_A_SECOND)))
        due = clock.now()
        # The queue it was asked for may be gone, and its letters be those of others.
        measure = broker.nouns.find_head(move.to or move.queue) or broker.nouns.head(move.source)
        fitting = Fitting(move.edit, measure.spec)
        async with aclosing(broker.choosing.matching(_choice(move), Tally(move.moved), size)) as chunks:
            async for letters in chunks:
                if self._moves[id].state == "cancelling":
                    break
                left = letters
                while left and self._moves[id].state == "running":
                    with broker.claims.keeping() as keeping:
                        # Those that the edit did not fit before a crash lie there still, and are counted anew.
                        fit, left = await self._fit(fitting, left, keeping)
                        broker.check_open()
                        entry = replace(self._entries[id], note=fitting.note)
                        self._entries[id] = self._take_along(move, fit, entry)
                        self._change(id, moved=self._moves[id].moved + len(fit), unfit=fitting.unfit)
                    await broker.committed()
                    if rate is not None and self._moves[id].state == "running":
                        due = max(due, clock.now()) + len(fit) / rate
                        await clock.wait(stop, due)
                    left = broker.choosing.still(left)
        if self._moves[id].state == "running" and broker.nouns.find_head(move.source) is not dead:
            raise NotFound(f"the dead letters {move.source} were deleted meanwhile")
        self._end(id, "cancelled" if self._moves[id].state == "cancelling" else "completed")

    async def _fit(
        self, fitting: Fitting, letters: list[Stored], keeping: Keeping
    ) -> tuple[list[tuple[Stored, Rewritten | None]], list[Stored]]:
        """Letters that can be moved now, with what they become, and those whose turn comes after them."""
        fit, left = await fitting.fit(letters, keeping)
        if keeping.waited:
            after = {message.place: rewritten for message, rewritten in fit}
            still = self._broker.choosing.still([message for message, _ in fit])
            fit = [(message, after[message.place]) for message in still]
        return fit, left

    def _take_along(self, move: Move, letters: list[tuple[Stored, Rewritten | None]], entry: Entry) -> Entry:
        """Move letters, each as a new message (SQS: Q99), into the open group; their entry in the audit with them."""
        broker = self._broker
        nouns, now = broker.nouns, broker.clock.now()
        dead = nouns.head(move.source)
        # Before anything is moved: what one of them cannot do, none of them has done.
        names = [_destination(move, message) for message, _ in letters]
        targets = {name: self._target(dead, name, move) for name in dict.fromkeys(names)}
        for (message, after), name in zip(letters, names, strict=True):
            lane = broker.choosing.take_out(message)
            broker.inlet.redrive(lane, targets[name], message, after, now)
        if not letters:
            return entry
        # What left may have been before others of its group: who waits for letters is told too.
        broker.after_intake([lane for head in (*targets.values(), dead) for lane in head.lanes])
        return broker.trail.counted(entry, [message.id for message, _ in letters], digests_of(letters))

    def _target(self, dead: Head, name: str, move: Move) -> Head:
        """The queue that letters go to; NotFound when it is gone, or another one of its name takes no such letters."""
        target = self._broker.nouns.find_head(name)
        if target is None and move.to is None:
            raise NotFound(f"there is no queue {name} any more, which letters came from; name one for them with --to")
        target = target or self._broker.nouns.head(name)
        _check_target(dead, target)
        return target

    # -- what is remembered --------------------------------------------------------------------------------------

    def _entered(self, action: Action, move: Move, user: str = "") -> Entry:
        """A new entry in the audit, that counts what is moved."""
        return self._broker.trail.begin(
            action,
            move.queue,
            letters=move.source,
            user=user,
            selection=selection_of(move.ids, move.where, move.limit),
            to=move.to,
            edit=move.edit,
            move=move.id if action == "move" else "",
            count=move.moved,
            finished=False,
        )

    def _change(self, id: str, **fields: object) -> Move:
        move = self._moves[id] = replace(self._moves[id], **fields)
        self._remember(move)
        return move

    def _end(self, id: str, state: MoveState, failure: str = "") -> None:
        failure = encodable(failure)
        move = self._change(id, state=state, ended_at=self._broker.clock.now(), failure=failure)
        entry = self._entries.pop(id, None)
        if entry is not None:
            self._broker.trail.put(replace(entry, finished=True, failure=failure))
        note = f"{state}: {failure}" if failure else state
        self._broker.trail.begin("end", move.queue, letters=move.source, move=id, count=move.moved, note=note)

    def _remember(self, move: Move) -> None:
        if not self._broker.journal.instant:
            self._broker.gathering.declared.append(Declared("move", move.id, 0, _encode(move)))

    def _forget(self, id: str) -> None:
        del self._moves[id]
        if not self._broker.journal.instant:
            self._broker.gathering.declared.append(Declared("move", id, 0, None))


def _choice(move: Move) -> Choice:
    ids = frozenset(move.ids) if move.ids is not None else None
    return Choice(move.source, ids, move.where, move.limit, move.upto)


def _destination(move: Move, message: Stored) -> str:
    # Never to another queue than it came from (SQS: Q98). What was sent to the dead letters came from none.
    return move.to or message.source or move.queue


def _check_target(dead: Head, target: Head) -> None:
    if dead.spec.fifo != target.spec.fifo:
        kind = "FIFO" if dead.spec.fifo else "standard"
        raise NotFound(f"{target.spec.name}: dead letters of a {kind} queue go to a {kind} queue; name one with --to")
