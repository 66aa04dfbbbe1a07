"""What every part of the record log shares: its streams, and the change list of the group that gathers now."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar

from pipeflow.clock import Clock
from pipeflow.embedded.auditing import Trail
from pipeflow.embedded.channel import Channel
from pipeflow.embedded.records import Totals
from pipeflow.errors import NotFound, PipeflowError

if TYPE_CHECKING:
    from pipeflow.embedded.sqlite.volatile import Volatile

T = TypeVar("T")


class Group(Protocol):
    """What the log sees of the broker's gathering group. A taken group leaves new lists behind."""

    streams: list[object]
    sync: bool
    size: int


class Remembers(Protocol):
    """Whether the journal behind the broker keeps anything."""

    @property
    def instant(self) -> bool: ...

    async def read(self, question: Callable[..., T], *arguments: object) -> T: ...


class Owner(Protocol):
    """What the log needs of the broker it is part of."""

    store_id: str
    boot: int
    trail: Trail

    @property
    def clock(self) -> Clock: ...

    @property
    def gathering(self) -> Group: ...

    @property
    def journal(self) -> Remembers: ...

    async def committed(self) -> None: ...

    def written_behind(self) -> None: ...


class Ledger:
    """The streams by name, and the changes of them that the next commit carries, counters first."""

    def __init__(self, owner: Owner, last_id: int) -> None:
        self.owner = owner
        self.clock = owner.clock
        self.committed = owner.committed
        self.trail = owner.trail
        self.streams: dict[str, Channel] = {}
        self._era = 0
        self._last_id = last_id
        self._failed: PipeflowError | None = None

    @cached_property
    def volatile(self) -> Volatile:
        """The catalogue of streams in memory, made when the first of them delivers."""
        from pipeflow.embedded.sqlite.volatile import Volatile

        return Volatile()

    def stream(self, name: str) -> Channel:
        """NotFound: no stream of this name is declared."""
        try:
            return self.streams[name]
        except KeyError:
            known = ", ".join(sorted(self.streams)) or "none"
            raise NotFound(f"no stream {name!r}; declared streams: {known}") from None

    def totals(self) -> Totals:
        """The head of the gathering group's changes: absolute counts, and the era of what is appended now."""
        changes = self.owner.gathering.streams
        if not changes:
            self._era += 1
            changes.append(Totals(self._era))
        totals = changes[0]
        assert isinstance(totals, Totals)
        totals.last_id = self._last_id
        return totals

    def changes(self) -> list[object]:
        """Where a change of the record log goes."""
        self.totals()
        return self.owner.gathering.streams

    def count(self, log: Channel) -> None:
        """The stream's counters changed."""
        if log.durable:
            self.totals().streams[log.spec.name] = log.counters.copy()

    def new_id(self) -> int:
        """An id for a buffer, never used before in this store."""
        self._last_id += 1
        return self._last_id

    def tell(self, log: Channel) -> None:
        """Wake those whose flush got as far as they wait for."""
        for waiter in log.waiters:
            if waiter.placed is None and not (log.intake and log.intake[0].first <= waiter.accepted):
                waiter.placed = log.buffers.placed
            if log.is_past(waiter):
                waiter.signal.fire()

    def fail(self, error: PipeflowError) -> None:
        """The store failed or closes: whoever waits here is told."""
        self._failed = error
        for stream in self.streams.values():
            for signal in [*stream.rooms, *(waiter.signal for waiter in stream.waiters), stream.signal]:
                signal.fire()

    def check(self) -> None:
        """Raise what the store failed with."""
        if self._failed is not None:
            raise self._failed
