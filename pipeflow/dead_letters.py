"""A queue's dead letters in Python: changed where they lie, sent back, deleted, and what was done to them.

`queue.peek(dead=True)` looks at them. An edit is checked against the queue's own type before anything changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Generic, TypeVar

from msgspec.structs import replace

from pipeflow.errors import CodecError
from pipeflow.specs import FilterPolicy

if TYPE_CHECKING:
    from pipeflow.audit import Entry
    from pipeflow.letters import Change, Discarded, Redriven
    from pipeflow.protocols import Store
    from pipeflow.queue import Queue

T = TypeVar("T")

__all__ = ["DeadLetters"]


class DeadLetters(Generic[T]):
    """What became of the messages of one queue that failed for good. Made by `queue.dead_letters`."""

    __slots__ = ("_queue",)

    def __init__(self, queue: Queue[T]) -> None:
        self._queue = queue

    @property
    def _store(self) -> Store:
        return self._queue.binding.runtime.store

    async def edit(self, id: str, /, *terms: str, value: T | None = None, user: str = "") -> Change:
        """Change one letter where it lies, in one commit: parts, as "body.total=0", or its whole value, or both.

        Its id, its place and what is not named stay. CodecError: the queue's handler could not read the outcome.
        NotFound, RefusedError: as of `Admin.edit`.
        """
        from pipeflow.edits import parse_edit
        from pipeflow.letters import Rewrite

        body = self._queue.codec.encode(value) if value is not None else None
        edit = parse_edit(terms, body, raw=self._queue.codec.name != "json")
        request = Rewrite(self._queue.name, id, edit, user=user)
        if terms:
            tried = await self._store.edit(replace(request, dry_run=True))
            self._check(tried)
            request = replace(request, expects=tried.before.digest)
        return await self._store.edit(request)

    async def redrive(
        self,
        *terms: str,
        ids: Iterable[str] | None = None,
        where: str | FilterPolicy | None = None,
        to: Queue[T] | None = None,
        limit: int | None = None,
        dry_run: bool = False,
        user: str = "",
    ) -> Redriven:
        """Send letters back, each with a new id and no attempts, changed as `terms` say, or only say what would be.

        Each is moved and changed in one commit; one that the terms do not fit stays, and is counted. CodecError: the
        handler could not read what they make of the first three, and nothing was moved.
        """
        from pipeflow.edits import parse_edit
        from pipeflow.letters import Redrive

        request = Redrive(
            self._queue.name,
            to.name if to is not None else None,
            self._condition(where),
            limit,
            dry_run,
            ids=tuple(ids) if ids is not None else None,
            edit=parse_edit(terms) if terms else None,
            user=user,
        )
        if terms:
            tried = await self._store.redrive(replace(request, dry_run=True))
            for change in tried.changes:
                self._check(change)
            if dry_run:
                return tried
        return await self._store.redrive(request)

    async def discard(
        self,
        *,
        ids: Iterable[str] | None = None,
        where: str | FilterPolicy | None = None,
        every: bool = False,
        limit: int | None = None,
        dry_run: bool = False,
        user: str = "",
    ) -> Discarded:
        """Delete letters for good: these, those that match, or every one. ConfigurationError: none is said."""
        from pipeflow.letters import Discard

        chosen = tuple(ids) if ids is not None else None
        return await self._store.discard(
            Discard(self._queue.name, chosen, self._condition(where), every, limit, dry_run, user)
        )

    async def audit(self, limit: int = 100) -> list[Entry]:
        """What was done to them, and by whom, newest first."""
        return await self._store.audit(self._queue.name, limit)

    def _condition(self, where: str | FilterPolicy | None) -> FilterPolicy | None:
        if not isinstance(where, str):
            return where
        from pipeflow.filters import parse_where

        return parse_where(where, self._queue.binding.runtime.clock.now())

    def _check(self, change: Change) -> None:
        """CodecError when the handler could not read what an edit makes; a body that is shown in part is let pass."""
        if change.after.size != len(change.after.body):
            return
        try:
            self._queue.codec.decode(change.after.body)
        except CodecError as error:
            raise CodecError(
                f"{self._queue.name}: {change.id} is not changed, as its handler could not read it: {error}"
            ) from None
