"""What an outbox is made of: rows that a program writes in its own transactions, sent once those committed.

The table lies in the program's own database. Here is what the relay asks of it, so that another database than SQLite is
one class more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from msgspec import Struct

from pipeflow.messages import Outgoing


class NotNow(Exception):
    """It cannot be done now; what was to be sent waits in its table."""


class OutboxRow(Struct, frozen=True):
    """One message that waits in an outbox."""

    id: int
    """Grows in the order of commits, so that all rows up to one can be told from all behind it."""
    kind: Literal["topic", "queue"]
    target: str
    message: Outgoing
    unreadable: str = ""
    """Why it cannot be sent: whoever wrote it wrote something else than a message."""


class Awaiting(Struct, frozen=True):
    """What lies in an outbox for one topic or queue."""

    kind: str
    target: str
    pending: int
    """Rows that are to be sent; one that was sent is deleted a second or two later."""
    oldest_at: float | None
    """Epoch seconds at which the oldest of these was written; None: there is none."""
    aside: int
    """Rows that could not be sent."""


class Aside(Struct, frozen=True):
    """One row that could not be sent and was set aside."""

    id: int
    kind: str
    target: str
    size: int
    """Bytes of its body."""
    at: float
    """Epoch seconds at which it was written, or last retried."""
    failure: str


class OutboxTable(Protocol):
    """The rows of one outbox, as the relay sees them. NotNow: the database cannot be used, ask again."""

    async def open(self) -> None:
        """Connect. ConfigurationError: no outbox can be there."""

    async def identity(self, upto: int) -> tuple[str, int] | None:
        """What tells this outbox from every other, also of its name, and a row up to which all were sent before it had
        that: `upto`, when this call gives it one. None: nothing was ever written to it.
        """
        ...

    async def read(self, after: int, again: bool) -> Sequence[OutboxRow] | None:
        """Rows behind this one, in order, some at a time; none that were set aside.

        None: nothing was committed since the last call, which is looked at unless `again`.
        """
        ...

    async def set_aside(self, id: int, reason: str) -> None:
        """Pass over this row from now on and keep it, with the reason; committed when it returns."""

    async def forget(self, upto: int) -> None:
        """Delete the rows up to this one, but not those that were set aside."""

    async def close(self) -> None:
        """Let go of the database."""
