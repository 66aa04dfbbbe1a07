"""What the tables do not hold yet: the groups of one half of the commit log, merged into what they come to.

A message that came and went never reaches the tables. Everything is absolute, so that taking the same groups in again
after a crash comes to the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from pipeflow.embedded.journal import FrozenGroup, Known
from pipeflow.embedded.sqlite.logged import Logged
from pipeflow.embedded.sqlite.statements import INSERT_COLUMNS

_GROUP, _EXPIRES, _KEPT, _BODY, _SHARED = 2, 4, 5, 8, 9
"""Where these columns are in a row."""
_PAGE, _ROW = 8192, 512
"""Bytes: of a page, and about of a row without its body, indexes included."""


class Pending:
    """Merged groups: rows to insert, to change and to delete, and what else has its newest value here."""

    __slots__ = (
        "rows",
        "changes",
        "former",
        "gone",
        "bytes",
        "bodies",
        "releases",
        "queues",
        "topics",
        "known",
        "sources",
        "clock",
        "last",
    )

    def __init__(self) -> None:
        self.rows: dict[int, list[Any]] = {}
        """By key: every column of a row that the tables do not have."""
        self.changes: dict[int, tuple[Any, ...]] = {}
        """By key: an update of a row that the tables have, maybe under another key, which is in it."""
        self.former: dict[int, list[int]] = {}
        """By key of a change, after a crash: other keys that its row may lie under."""
        self.gone: set[int] = set()
        """Keys of rows that the tables have."""
        self.bytes = 0
        """Of the bodies of the rows to insert."""
        self.bodies: dict[int, tuple[bytes, int]] = {}
        self.releases: dict[int, int] = {}
        self.queues: dict[int, bytes] = {}
        self.topics: dict[int, bytes] = {}
        self.known: list[Known] = []
        self.sources: dict[str, bytes | None] = {}
        self.clock = 0.0
        self.last = 0
        """Number of the last group in here; 0: there is none."""

    @property
    def touched(self) -> int:
        """Rows to insert, to change and to delete."""
        return len(self.rows) + len(self.changes) + len(self.gone)

    @property
    def size(self) -> int:
        """Everything that goes into the tables in parts."""
        return self.touched + len(self.known)

    @property
    def room(self) -> int:
        """Bytes that it may take in the tables: of pages with large rows up to a half is left over."""
        inside = min(2 * self.bytes, self.bytes + _PAGE * len(self.rows)) + _ROW * self.size
        # A shared body goes there in one transaction, which is in the WAL and in the file.
        return inside + 2 * sum([len(body) for body, _ in self.bodies.values()])

    def take(self, group: Logged, number: int, older: Pending | None, *, again: bool = False) -> None:
        """Merge the next group in. What `older` still has to insert and this group deletes is forgotten there.

        `again`: the tables may have got rows of these groups before a crash, so what goes is to be looked for there.
        """
        rows, inserts = self.rows, group.inserts
        for start in range(0, len(inserts), INSERT_COLUMNS):
            rows[inserts[start]] = inserts[start : start + INSERT_COLUMNS]
        self.bytes += _length(inserts[_BODY::INSERT_COLUMNS])
        for update in group.updates:
            self._change(update, again)
        if group.deletes:
            self._delete(group.deletes, older, again)
        for body, (content, refs) in group.bodies.items():
            held = self.bodies.get(body)
            self.bodies[body] = content, refs + (held[1] if held is not None else 0)
        for body, refs in group.releases.items():
            self.releases[body] = self.releases.get(body, 0) + refs
            held = self.bodies.get(body)
            if held is not None and held[1] == self.releases[body]:
                # Every row that came with it in here is gone.
                del self.bodies[body], self.releases[body]
        self.queues.update(group.queues)
        self.topics.update(group.topics)
        self.known += group.known
        self.sources.update(group.sources)
        self.clock = group.clock
        self.last = number

    def _change(self, update: Sequence[Any], again: bool) -> None:
        key, due, held, head, crc, old, group, expires, kept = update
        row = self.rows.pop(old, None)
        if row is not None:
            if kept is None:
                group, expires, kept = row[_GROUP], row[_EXPIRES], row[_KEPT]
            self.rows[key] = [key, due, group, held, expires, kept, head, crc, row[_BODY], row[_SHARED]]
            if again and key != old:
                self.gone.discard(key)
                self.gone.add(old)
            return
        change = self.changes.pop(old, None)
        if change is not None:
            if again:
                # A part of what the tables have already may have brought it here.
                former = self.former.pop(old, [])
                if old not in former:  # the key is the same at every change but a move
                    former.append(old)
                self.former[key] = former
            old = change[5]
            if kept is None:
                group, expires, kept = change[6:]
        self.changes[key] = key, due, held, head, crc, old, group, expires, kept

    def _delete(self, keys: list[int], older: Pending | None, again: bool) -> None:
        rows, changes, gone = self.rows, self.changes, self.gone
        before = older.rows if older is not None else {}
        freed = freed_before = 0
        for key in keys:
            row = rows.pop(key, None)
            if row is not None:
                freed += len(row[_BODY] or b"")
                if again:
                    gone.add(key)
                continue
            if changes and key in changes:
                if again:
                    gone.add(key)
                    gone.update(self.former.pop(key, ()))
                key = changes.pop(key)[5]
            row = before.pop(key, None)
            if row is None:
                gone.add(key)
            else:
                freed_before += len(row[_BODY] or b"")
        self.bytes -= freed
        if older is not None:
            older.bytes -= freed_before

    def some(self, count: int, most_bytes: int) -> FrozenGroup:
        """Up to `count` rows to insert, to change and to delete and ids to know, and of bodies what comes to
        `most_bytes` first.

        Each of them may be there again after a crash, as each says how it is and not what becomes of it.
        """
        group = _frozen([], self.clock)
        for row in islice(self.rows.values(), count):
            group.inserts += row
            count -= 1
            most_bytes -= len(row[_BODY] or b"")
            if most_bytes < 0:
                return group
        for key in islice(self.changes, count):
            group.updates += self._updates(key)
            count -= 1
        group.deletes = [*islice(self.gone, count)]
        group.known = self.known[: count - len(group.deletes)]
        return group

    def _updates(self, key: int) -> list[tuple[Any, ...]]:
        """The update under this key; of all keys that the row may lie under it does under one."""
        change = self.changes[key]
        return [change, *[(*change[:5], old, *change[6:]) for old in self.former.get(key, ())]]

    def forget(self, group: FrozenGroup) -> None:
        """The tables hold this one of `some`."""
        for key in group.inserts[::INSERT_COLUMNS]:
            del self.rows[key]
        self.bytes -= _length(group.inserts[_BODY::INSERT_COLUMNS])
        for key in {update[0] for update in group.updates}:
            del self.changes[key]
            self.former.pop(key, None)
        self.gone.difference_update(group.deletes)
        del self.known[: len(group.known)]

    def rest(self) -> FrozenGroup:
        """Everything in here, as one group."""
        inserts = [value for row in self.rows.values() for value in row]
        group = _frozen(inserts, self.clock)
        group.updates = [update for key in self.changes for update in self._updates(key)]
        group.deletes = [*self.gone]
        group.bodies = self.bodies
        group.releases = self.releases
        group.queues = [*self.queues.items()]
        group.topics = [*self.topics.items()]
        group.known = self.known
        group.sources = self.sources
        return group


def _length(bodies: list[bytes | None]) -> int:
    return sum(map(len, filter(None, bodies)))


def _frozen(inserts: list[Any], clock: float) -> FrozenGroup:
    return FrozenGroup(
        inserts=inserts,
        updates=[],
        deletes=[],
        bodies={},
        claims={},
        releases={},
        queues=[],
        topics=[],
        known=[],
        sources={},
        streams=[],
        declared=[],
        damaged=[],
        rewritten={},
        audit=[],
        clock=clock,
        sync=False,
    )
