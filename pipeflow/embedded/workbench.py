"""Dead letters under an operator's hands: one is changed where it lies, some are deleted for good.

Whoever dies at any line leaves a letter as it was or as it is to be, and the audit says the same.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from pipeflow.audit import Action, Entry
from pipeflow.embedded.auditing import selection_of
from pipeflow.embedded.choosing import Choice, Tally
from pipeflow.embedded.head import Head
from pipeflow.embedded.rewriting import Rewritten, change_of, digests_of, rewrite, rewritten, seen
from pipeflow.errors import NotFound, RefusedError
from pipeflow.letters import Change, Discard, Discarded, Rewrite
from pipeflow.specs import QueueSpec
from pipeflow.state.stored import IN_FLIGHT, Stored

if TYPE_CHECKING:
    from pipeflow.embedded.broker import EmbeddedBroker


class Workbench:
    """The verbs of `Admin` for single dead letters, and for deleting them."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self._broker = broker

    async def edit(self, request: Rewrite) -> Change:
        """Change one letter in one commit, or only say what it would become. NotFound, RefusedError."""
        broker = self._broker
        head = broker.nouns.head(request.queue)
        dead = broker.nouns.dead_of(request.queue)
        broker.moving.refuse_beside(dead)
        if not request.dry_run:
            check_room(broker, request.queue)
        async with broker.choosing.turn(dead.spec.name):
            choice = Choice(dead.spec.name, frozenset((request.id,)), None, 1, dead.counters.last_place)
            async with aclosing(broker.choosing.matching(choice, Tally())) as chunks:
                async for letters in chunks:
                    for message in letters:
                        return await self._change(dead, message, head.spec, request)
        raise self._absent(dead, request)

    async def _change(self, dead: Head, message: Stored, spec: QueueSpec, request: Rewrite) -> Change:
        broker = self._broker
        _check_expected(request, message)
        with broker.claims.keeping(request.dry_run) as keeping:
            after = await rewritten(request.edit, message, spec, keeping)
            change = change_of(message, after)
            if request.dry_run:
                return change
            if keeping.waited:
                broker.check_open()
                still = broker.choosing.still([message])
                if not still:
                    raise self._absent(dead, request)
                message = still[0]
            self._rewrite(dead, message, after, request)
        await broker.committed()
        return change

    def _rewrite(self, dead: Head, message: Stored, after: Rewritten, request: Rewrite) -> None:
        """Into the open group: the letter as it is to be, and the entry that says so."""
        trail = self._broker.trail
        entry = trail.begin(
            "edit",
            request.queue,
            letters=dead.spec.name,
            user=request.user,
            selection=selection_of((request.id,), None, None),
            edit=request.edit,
        )
        trail.counted(entry, [message.id], digests_of([(message, after)]))
        lane = self._broker.choosing.lane_of(message)
        if lane.tail.has(message):
            rewrite(message, after, self._broker.gathering)
            lane.tail.changed(message)
            return
        lane.bytes -= message.size if message.body is not None else 0
        rewrite(message, after, self._broker.gathering)
        lane.bytes += message.size if message.body is not None else 0
        lane.state.changes.changed(message)

    def _absent(self, dead: Head, request: Rewrite) -> NotFound | RefusedError:
        known = (message for lane in dead.lanes for message in lane.state.known.values())
        if any(m.id == request.id and m.state == IN_FLIGHT for m in known):
            return RefusedError(
                "InFlight", f"{request.queue}: a receiver of {dead.spec.name} has {request.id}; wait until it is back"
            )
        return NotFound(f"{request.queue}: no dead letter {request.id}; `pipeflow dlq ls {request.queue}` lists them")

    async def discard(self, request: Discard) -> Discarded:
        """Delete letters for good, in chunks of one commit each, or only count them."""
        broker = self._broker
        dead = broker.nouns.dead_of(request.queue)
        broker.moving.refuse_beside(dead)
        async with broker.choosing.turn(dead.spec.name):
            tally = Tally()
            ids = frozenset(request.ids) if request.ids is not None else None
            choice = Choice(dead.spec.name, ids, request.where, request.limit, dead.counters.last_place)
            with broker.trail.telling() as told:
                async with aclosing(broker.choosing.matching(choice, tally)) as chunks:
                    async for letters in chunks:
                        if request.dry_run or not letters:
                            continue
                        broker.check_open()
                        told.entry = self._delete(dead, letters, told.entry or self._entered(dead, request))
                        await broker.committed()
            if told.entry is not None:
                await broker.committed()
        return Discarded(tally.examined, tally.matched, told.count, tally.ids)

    def _delete(self, dead: Head, letters: list[Stored], entry: Entry) -> Entry:
        broker = self._broker
        for message in letters:
            lane = broker.choosing.take_out(message)
            lane.discard(message)
            lane.counters.discarded += 1
            lane.touch()
        broker.after_intake(dead.lanes)
        return broker.trail.counted(entry, [message.id for message in letters])

    def _entered(self, dead: Head, request: Discard) -> Entry:
        return self._broker.trail.begin(
            "discard",
            request.queue,
            letters=dead.spec.name,
            user=request.user,
            selection=selection_of(request.ids, request.where, request.limit),
            finished=False,
        )

    def note_loss(self, action: Action, head: Head, count: int) -> None:
        """Somebody empties or deletes a queue: told in the audit if it holds dead letters."""
        name = head.spec.name
        if head.spec.holds_dead_letters or name in self._broker.nouns.sources():
            self._broker.trail.begin(action, name, letters=name, selection="all", count=count)


def check_room(broker: EmbeddedBroker, queue: str) -> None:
    """RefusedError while the disk has no room for other bodies; what is only moved or deleted takes none."""
    if broker.journal.full:
        raise RefusedError("disk_full", f"{queue}: the disk of the store is nearly full; free space, then edit again")


def _check_expected(request: Rewrite, message: Stored) -> None:
    if not request.expects:
        return
    digest = seen(message).digest
    if request.expects != digest:
        raise RefusedError(
            "Changed",
            f"{request.queue}: {request.id} was changed meanwhile: its body is {digest}, the edit was"
            f" made for {request.expects}; look at it again",
        )
