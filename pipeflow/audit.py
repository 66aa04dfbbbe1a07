"""What operators did to a store, as it is remembered: each entry is in the commit of what it tells.

The last 10,000 entries are kept, for 90 days.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final, Literal, TypeAlias

from msgspec import Struct

Action: TypeAlias = Literal[
    "edit",
    "redrive",
    "move",
    "cancel",
    "end",
    "discard",
    "purge",
    "delete",
    "retry parked",
    "discard parked",
    "damaged",
]
"""What was done. `move` began a move, counts what it moves, and is followed by `cancel` or `end`; `damaged` is an entry
that does not read back."""

KEPT: Final = 10_000
"""Entries of one store; the oldest go when a new one comes."""
KEPT_SECONDS: Final = 90 * 86_400.0
"""An entry that is older goes when a new one comes."""
CUT_OFF: Final = "cut off: its process ended before it was through"
"""The failure of an action that nobody goes on with."""
IDS_KEPT: Final = 100
"""Of the messages of one entry."""
TEXT_KEPT: Final = 2_000
"""Characters of a selection or an edit."""


class Entry(Struct, frozen=True):
    """One action. Where it takes several commits, each of them counts on."""

    number: int
    """Increasing, never used twice."""
    at: float
    """When it began."""
    action: Action
    queue: str
    """As it was named: of an action on dead letters the queue they come from, of one on parked segments the stream."""
    user: str
    """Who: the name that was given with `user=`, else that of the process's user."""
    uid: int = -1
    """User id of the process that asked."""
    pid: int = 0
    letters: str = ""
    """The queue that holds the dead letters."""
    selection: str = ""
    """Which ones were asked for."""
    to: str | None = None
    """Where they went; None: each to the queue it came from."""
    edit: str = ""
    """What was changed."""
    count: int = 0
    ids: list[str] = []
    """Of the first 100."""
    digests: list[tuple[str, str]] = []
    """Of edits, beside each id: fingerprints of the body before and after."""
    move: str = ""
    """Id of the move that it is about."""
    note: str = ""
    finished: bool = True
    """False: it is under way."""
    failure: str = ""
    """Why it ended before it was through; what it did until then, which `count` tells, stays done."""


class Caller(Struct, frozen=True):
    """The process that asks for something."""

    user: str
    uid: int
    pid: int


caller: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""Who asks, set by the door they came through; None: this process."""
