"""Bodies kept aside that no row refers to: what a crash left of sends that were never answered.

They are looked for when a store is opened, behind its first answers, a page of names at a time: each name of an earlier
boot says which number its references are counted under, so memory holds one page, however many bodies there are. What
this boot writes is never looked at, and what a row refers to is never deleted.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing

from pipeflow.clock import Signal
from pipeflow.embedded.claims import TIDY_AGAIN, UNREACHABLE, Claiming
from pipeflow.embedded.sqlite.pointers import pointers, pointers_behind
from pipeflow.messages import Claim
from pipeflow.protocols import PagingSink, ReadableSink, SweepingSink

logger = logging.getLogger("pipeflow")

PAGE = 100
"""Names that are looked at, and rows that are read, between two turns of others: 1 ms of the journal's thread."""
UNNUMBERED = 100_000
"""Names of older versions, which say no number, that memory gathers: all rows are gone through for so many at once."""
_NUMBER = re.compile(r"n([0-9a-f]{1,15})-")


class Orphans:
    """Finds and deletes them."""

    def __init__(self, broker: Claiming, sink: Callable[[str], ReadableSink]) -> None:
        self._broker = broker
        self._sink = sink

    async def sweep(self, places: Iterable[str]) -> None:
        """Delete what lies in these places; one that cannot be reached is tried again for as long as it takes."""
        clock = self._broker.clock
        for place in places:
            while True:
                try:
                    await self._sweep(place)
                    break
                except UNREACHABLE as error:
                    logger.warning("%s: what a crash left aside is still there: %s", self._broker.url, error)
                await clock.wait(Signal(), clock.now() + TIDY_AGAIN)

    async def _sweep(self, place: str) -> None:
        sink = self._sink(place)
        if isinstance(sink, SweepingSink):
            await sink.sweep(self._is_old, False)
        unnumbered: list[str] = []
        async with aclosing(_pages(sink, f"{self._broker.store_id}-")) as pages:
            async for page in pages:
                numbers = {name: self._number(name) for name in page if self._is_old(name)}
                await self._delete(sink, await self._unneeded(place, numbers))
                unnumbered += [name for name, number in numbers.items() if number is None]
                if len(unnumbered) >= UNNUMBERED:
                    await self._delete(sink, await self._unneeded_of(place, unnumbered))
                    unnumbered.clear()
        if unnumbered:
            await self._delete(sink, await self._unneeded_of(place, unnumbered))

    def _is_old(self, name: str) -> bool:
        """Whether an earlier boot of this store wrote it; other stores may use the same place."""
        store, _, rest = name.partition("-")
        try:
            return store == self._broker.store_id and int(rest[:8], 16) < self._broker.boot
        except ValueError:
            return False

    @staticmethod
    def _number(name: str) -> int | None:
        found = _NUMBER.match(name.split("-", 2)[2]) if name.count("-") > 1 else None
        return int(found[1], 16) if found is not None else None

    async def _unneeded(self, place: str, numbers: dict[str, int | None]) -> list[str]:
        asked = [number for number in numbers.values() if number is not None]
        if not asked:
            return []
        kept = await self._broker.journal.read(pointers, asked)
        unneeded: list[str] = []
        for name, number in numbers.items():
            if number is None:
                continue
            claim = kept.get(number, _NOTHING)
            if claim is None:
                logger.error("%s: the pointer to %s is damaged, so it is taken for needed", self._broker.url, name)
            elif (claim.place, claim.name) != (place, name):
                unneeded.append(name)
        return unneeded

    async def _unneeded_of(self, place: str, names: list[str]) -> set[str]:
        left, after = set(names), 0
        while left and (page := await self._broker.journal.read(pointers_behind, after, PAGE)):
            after = page[-1][0]
            for _, claim in page:
                if claim is None:
                    logger.error(
                        "%s: a pointer is damaged, so no body of an older version is taken for an orphan",
                        self._broker.url,
                    )
                    return set()
                if claim.place == place:
                    left.discard(claim.name)
        return left

    async def _delete(self, sink: ReadableSink, names: Iterable[str]) -> None:
        synced = self._broker.journal.durability == "full"
        for name in names:
            if not synced:
                # That no row refers to it may be known from a commit that a power cut takes back.
                self._broker.gathering.sync = True
                await self._broker.committed()
                synced = True
            await sink.delete(name)


_NOTHING = Claim(0, "", "", 0, 0, "")


async def _pages(sink: ReadableSink, prefix: str) -> AsyncGenerator[list[str], None]:
    if isinstance(sink, PagingSink):
        async with aclosing(sink.pages(prefix, PAGE)) as pages:
            async for page in pages:
                yield page
        return
    names = await sink.list(prefix)
    for start in range(0, len(names), PAGE):
        yield names[start : start + PAGE]
