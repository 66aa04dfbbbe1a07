"""The audit of a store: what operators did, each entry in the group of what it tells, and so in its commit.

An action that takes several commits has one entry, which each of them writes anew with what has been done until then.
What an earlier process did not finish is over, unless a move goes on with it: that is told when the entry is read, so
that no start reads entries.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from msgspec.structs import replace

from pipeflow.audit import CUT_OFF, IDS_KEPT, KEPT, TEXT_KEPT, Action, Caller, Entry, caller
from pipeflow.edits import Edit
from pipeflow.embedded.sqlite.audit import entries, entry_of
from pipeflow.errors import NotFound
from pipeflow.specs import FilterPolicy
from pipeflow.texts import encodable

if TYPE_CHECKING:
    from pipeflow.embedded.broker import EmbeddedBroker


class Told:
    """The entry of an action of several commits, once it has done anything."""

    entry: Entry | None = None

    @property
    def count(self) -> int:
        """How many messages it was done to."""
        return self.entry.count if self.entry is not None else 0


class Trail:
    """Writes entries into the open group, and reads them back."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self._broker = broker
        self._last = 0
        self._earlier = 0
        """The newest entry of earlier processes."""
        self._under_way: list[Told] = []
        self._volatile: deque[Entry] = deque(maxlen=KEPT)
        """Of a store that forgets."""

    def restore(self, last: int) -> None:
        """Go on behind the newest entry of earlier processes."""
        self._last = self._earlier = last

    def begin(
        self,
        action: Action,
        queue: str,
        *,
        letters: str = "",
        user: str = "",
        selection: str = "",
        to: str | None = None,
        edit: Edit | None = None,
        move: str = "",
        count: int = 0,
        note: str = "",
        finished: bool = True,
    ) -> Entry:
        """A new entry of who asks, in the open group."""
        who = caller.get() or own()
        self._last += 1
        return self.put(
            Entry(
                self._last,
                self._broker.clock.now(),
                action,
                queue,
                encodable(user or who.user),
                who.uid,
                who.pid,
                letters,
                _cut(selection),
                to,
                _cut(edit.text) if edit is not None else "",
                count,
                move=move,
                note=encodable(note),
                finished=finished,
            )
        )

    def put(self, entry: Entry) -> Entry:
        """The entry as it is from now on, in the open group."""
        if not self._broker.journal.instant:
            self._broker.gathering.audit[entry.number] = entry
            return entry
        if self._volatile and entry.number <= self._volatile[-1].number:
            for position, known in enumerate(self._volatile):
                if known.number == entry.number:
                    self._volatile[position] = entry
        else:
            self._volatile.append(entry)
        return entry

    def counted(self, entry: Entry, ids: list[str], digests: list[tuple[str, str]] | None = None) -> Entry:
        """The entry with so many more messages, in the open group."""
        room = IDS_KEPT - len(entry.ids)
        return self.put(
            replace(
                entry,
                count=entry.count + len(ids),
                ids=entry.ids + ids[:room],
                digests=entry.digests + (digests or [])[:room],
            )
        )

    @contextmanager
    def telling(self) -> Iterator[Told]:
        """The time in which an action is under way: whatever ends it, its entry says so, in the open group."""
        told, failure = Told(), ""
        self._under_way.append(told)
        try:
            yield told
        except asyncio.CancelledError:
            failure = "cancelled: whoever asked for it waits no more"
            raise
        except BaseException as error:
            failure = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._under_way.remove(told)
            self._end(told, failure)
            self._broker.written_behind()

    def _end(self, told: Told, failure: str) -> None:
        if told.entry is not None:
            self.put(replace(told.entry, finished=True, failure=_cut(failure)))

    def end_all(self) -> None:
        """The store closes: of what is under way nothing more is done."""
        for told in self._under_way:
            self._end(told, CUT_OFF)

    async def find(self, number: int) -> Entry | None:
        """One entry, committed; None when there is none, or none any more."""
        if self._broker.journal.instant:
            return next((entry for entry in self._volatile if entry.number == number), None)
        await self._broker.committed()
        entry = await self._broker.journal.read(entry_of, number)
        return entry and self._as_it_ended(entry)

    async def read(self, name: str | None, limit: int, before: int | None) -> list[Entry]:
        """Entries below a number, newest first: of one queue's dead letters or of a stream, or all. NotFound."""
        subject = self._subject(name) if name is not None else None
        below = before if before is not None else self._last + 1
        if self._broker.journal.instant:
            fitting = (e for e in reversed(self._volatile) if e.number < below and subject in (None, subject_of(e)))
            return [entry for entry, _ in zip(fitting, range(limit), strict=False)]
        await self._broker.committed()
        return [self._as_it_ended(entry) for entry in await self._broker.journal.read(entries, subject, below, limit)]

    def _as_it_ended(self, entry: Entry) -> Entry:
        if entry.finished or entry.number > self._earlier or self._broker.moving.goes_on(entry.number):
            return entry
        return replace(entry, finished=True, failure=CUT_OFF)

    def _subject(self, name: str) -> str:
        nouns = self._broker.nouns
        head = nouns.find_head(name)
        if head is not None:
            return head.dead.spec.name if head.dead is not None else name
        if nouns.has_stream(name):
            return f"stream {name}"
        raise NotFound(f"there is neither a queue nor a stream {name}; without a name the audit tells of all")


def subject_of(entry: Entry) -> str:
    """What an entry is found by: the queue that holds the letters, or the stream."""
    return entry.letters or f"stream {entry.queue}"


def selection_of(ids: Iterable[str] | None, where: FilterPolicy | None, limit: int | None) -> str:
    """Which messages were asked for, in a line."""
    parts = [f"id {id}" for id in ids] if ids is not None else []
    if where is not None:
        parts.append(f"where {where.policy}")
    if not parts:
        parts.append("all")
    if limit is not None:
        parts.append(f"at most {limit}")
    return ", ".join(parts)


@cache
def own() -> Caller:
    """This process."""
    return Caller(user_name(os.geteuid()), os.geteuid(), os.getpid())


def user_name(uid: int) -> str:
    """What the system calls this user."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _cut(text: str) -> str:
    text = encodable(text)
    return text if len(text) <= TEXT_KEPT else f"{text[: TEXT_KEPT - 3]}..."
