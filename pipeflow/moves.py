"""A move of dead letters as it is remembered: what was asked for, how far it came, how it ended (SQS: Q96-Q101)."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from msgspec import Struct

from pipeflow.edits import Edit
from pipeflow.specs import FilterPolicy

MoveState: TypeAlias = Literal["running", "cancelling", "completed", "cancelled", "failed"]

UNDER_WAY: Final = ("running", "cancelling")
KEPT: Final = 10
"""Moves of one queue's dead letters that are remembered, the newest (SQS: Q100)."""


class Move(Struct, frozen=True):
    """One move of dead letters, under way or ended."""

    id: str
    queue: str
    """Whose dead letters."""
    source: str
    """The queue that holds them: one move at a time takes from it (SQS: Q97)."""
    to: str | None
    """None: each goes back to the queue it came from (SQS: Q98)."""
    where: FilterPolicy | None
    limit: int | None
    rate: float | None
    """Messages a second at most; None: as fast as commits go."""
    upto: int
    """Letters that came after the start stay: one that fails again is not moved for ever."""
    started_at: float
    to_move: int
    """Dead letters at the start, whether they match or not."""
    moved: int = 0
    state: MoveState = "running"
    ended_at: float | None = None
    failure: str = ""
    """Why it failed."""
    ids: tuple[str, ...] | None = None
    """These letters alone."""
    edit: Edit | None = None
    """How each is changed on its way."""
    unfit: int = 0
    """Letters that the edit does not fit, met since the store was last opened: they stay."""
    entry: int = 0
    """The entry of the audit that counts what it moves."""

    @property
    def under_way(self) -> bool:
        """Whether it has not ended yet."""
        return self.state in UNDER_WAY
