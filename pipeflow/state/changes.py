"""What the state machine of a queue tells: which of its messages changed, and which left."""

from __future__ import annotations

from typing import Protocol

from pipeflow.state.stored import Stored


class Changes(Protocol):
    """Where a state machine tells what it changed."""

    def changed(self, message: Stored) -> None:
        """It is new, or one of its fields is: remember it as it is now."""

    def gone(self, message: Stored) -> None:
        """It is deleted."""

    def moved(self, message: Stored) -> None:
        """It left this queue for another, which will tell the rest."""


class NoChanges:
    """Where a queue without a memory beyond memory tells its changes."""

    def changed(self, message: Stored) -> None:
        return

    def gone(self, message: Stored) -> None:
        return

    def moved(self, message: Stored) -> None:
        return
