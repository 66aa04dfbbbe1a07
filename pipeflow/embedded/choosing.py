"""Which dead letters an operator's action is about, read so many at a time, those only on disk too.

One action at a time takes from a queue of dead letters (SQS: Q97): what one has read of a tail, another must not have
moved. A letter that somebody else handles meanwhile, or that is in a receiver's hands, is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from pipeflow.embedded.head import Head
from pipeflow.embedded.inspection import CHUNK, Matches, as_it_is, asks_about_bodies, look, matcher, scan
from pipeflow.errors import RefusedError
from pipeflow.specs import FilterPolicy
from pipeflow.state.stored import GONE, IN_FLIGHT, Stored

if TYPE_CHECKING:
    from pipeflow.embedded.broker import EmbeddedBroker

IDS_SHOWN = 100


class Choice(Struct, frozen=True):
    """Letters of one queue: these, those that match, or all, of those that lie there now."""

    letters: str
    """The queue that holds them."""
    ids: frozenset[str] | None
    where: FilterPolicy | None
    limit: int | None
    upto: int
    """What came later stays: one that fails again is not taken for ever."""


class Tally:
    """What one pass over the letters met."""

    def __init__(self, matched: int = 0) -> None:
        self.examined = 0
        self.matched = matched
        """Those of earlier processes count towards the limit."""
        self.ids: list[str] = []

    def note(self, message: Stored) -> None:
        """One more that matches."""
        self.matched += 1
        if len(self.ids) < IDS_SHOWN:
            self.ids.append(message.id)


class Choosing:
    """Reads letters for those who act on them, and lets one of them at a time."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self._broker = broker
        self._turns: dict[str, asyncio.Lock] = {}
        """By queue of dead letters: who takes from it."""

    @asynccontextmanager
    async def turn(self, letters: str) -> AsyncIterator[None]:
        """The time in which nobody else acts on these letters."""
        async with self._turns.setdefault(letters, asyncio.Lock()):
            yield

    def forget_queue(self, letters: str) -> None:
        """It is deleted; who acts on what was in it finds nothing more."""
        self._turns.pop(letters, None)

    async def matching(self, choice: Choice, tally: Tally, size: int = CHUNK) -> AsyncGenerator[list[Stored], None]:
        """The letters that are meant, so many at a time, as they are when they are asked for."""
        if choice.limit is not None and tally.matched >= choice.limit:
            return  # an earlier process took the last one, and died before it said so
        missing = set(choice.ids) if choice.ids is not None else None
        for lane in self._broker.nouns.head(choice.letters).lanes:
            async with aclosing(self._matching_in(lane, choice, tally, missing, size)) as chunks:
                async for letters in chunks:
                    yield letters
            if tally.matched == choice.limit or missing == set():
                return

    async def _matching_in(
        self, dead: Head, choice: Choice, tally: Tally, missing: set[str] | None, size: int
    ) -> AsyncGenerator[list[Stored], None]:
        broker = self._broker
        matches, whole = matcher(choice.where, broker.clock.now()), asks_about_bodies(choice.where)
        dead.tail.watch()
        try:
            # What is read must be what this process did until now; what leaves meanwhile is noted.
            await broker.committed()
            async with aclosing(scan(dead, broker.journal, size)) as chunks:
                async for chunk in chunks:
                    found: list[Stored] = []
                    aside = await self._matching_aside(dead, chunk, matches) if whole else {}
                    # Reading those takes time, and a letter may come into memory meanwhile.
                    for message in as_it_is(dead, chunk, set()) if aside else chunk:
                        if message.place > choice.upto or dead.tail.has_left(message.place):
                            continue
                        tally.examined += 1
                        if missing is not None and message.id not in missing:
                            continue
                        fits = aside.get(message.place)
                        if message.state == IN_FLIGHT or not (matches(look(dead, message)) if fits is None else fits):
                            continue
                        if missing is not None:
                            missing.discard(message.id)
                        tally.note(message)
                        found.append(message)
                        if tally.matched == choice.limit or missing == set():
                            break
                    yield found
                    if tally.matched == choice.limit or missing == set():
                        return
                    dead.tail.unwatch()
                    dead.tail.watch()
                    await broker.committed()
        finally:
            dead.tail.unwatch()

    async def _matching_aside(self, dead: Head, chunk: list[Stored], matches: Matches) -> dict[int, bool]:
        """By place, of letters whose bodies are kept aside, whether they match; one is read at a time.

        Unavailable: one cannot be reached now. Nobody can say of it that it matches, or that it does not.
        """
        claims = self._broker.claims
        found: dict[int, bool] = {}
        with claims.keeping() as keeping:
            for message in chunk:
                if message.claim is not None:
                    try:
                        body = await keeping.read(message.claim)
                    except RefusedError:
                        found[message.place] = False  # what nobody can read is not what is asked for
                        continue
                    found[message.place] = matches(replace(look(dead, message), body=body))
        return found

    def still(self, letters: list[Stored]) -> list[Stored]:
        """Those of a chunk that others, who had a turn, have left where they were, as they are now."""
        found: dict[int, Stored] = {}
        for lane in dict.fromkeys(map(self.lane_of, letters)):
            mine = [each for each in letters if each.queue == lane.number and not lane.tail.has_left(each.place)]
            found |= {each.place: each for each in as_it_is(lane, mine, set()) if each.state not in (IN_FLIGHT, GONE)}
        return [found[each.place] for each in letters if each.place in found]

    def lane_of(self, message: Stored) -> Head:
        """Which priority of which queue a letter lies in."""
        return self._broker.gathering.owners[message.queue]

    def take_out(self, message: Stored) -> Head:
        """Take a letter out of its queue, wherever it lies, for another to take in or for nobody; where it lay."""
        dead = self.lane_of(message)
        if message.place in dead.state.known or not dead.tail.has(message):
            dead.state.move_out(message)
        else:
            dead.tail.take(message)
        return dead
