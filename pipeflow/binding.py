"""Which open runtime a noun talks to: nouns are declared once, runtimes come and go.

Inside a handler it is the handler's own runtime; anywhere else the one that was opened last. The noun is unchanged by
being open: a test harness binds it, and lets go of it again.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pipeflow.engine.slot import current_slot
from pipeflow.errors import ConfigurationError

if TYPE_CHECKING:
    from pipeflow.engine.runtime import Runtime

__all__ = ["Binding", "causes", "declared_at"]


class Binding:
    """The runtimes one noun is open in. Nouns share nothing else with the apps that include them."""

    __slots__ = ("noun", "place", "_open")

    def __init__(self, noun: str, place: str = "") -> None:
        self.noun = noun
        """How errors call it: "topic orders"."""
        self.place = place
        """Where it was declared: "shop.py:21"."""
        self._open: list[Runtime] = []

    def open(self, runtime: Runtime) -> None:
        """Talk to this runtime from now on."""
        if any(other.app != runtime.app for other in self._open):
            raise ConfigurationError(
                f"{self.noun} ({self.place}) is open in app {self._open[-1].app}; "
                f"declare one of its own for app {runtime.app}: apps may share a broker, never a noun"
            )
        self._open.append(runtime)

    def close(self, runtime: Runtime) -> None:
        """Talk to it no more."""
        if runtime in self._open:
            self._open.remove(runtime)

    @property
    def is_open(self) -> bool:
        """Whether an app with it is open."""
        return bool(self._open)

    @property
    def runtime(self) -> Runtime:
        """The runtime to talk to now; ConfigurationError when none is open."""
        slot = current_slot.get(None)
        if slot is not None and slot.runtime in self._open:
            return slot.runtime
        if self._open:
            return self._open[-1]
        raise ConfigurationError(
            f"{self.noun}: its app is not open; use it inside `async with app:`, `async with app.client():` "
            "or a handler, and include its router in the app"
        )


def causes() -> dict[str, str] | None:
    """Headers that tie what is published now to the message being handled now; None outside handlers."""
    slot = current_slot.get(None)
    return None if slot is None else slot.causes()


def declared_at(depth: int = 2) -> str:
    """The file and line of the caller's caller, for errors that name the place."""
    frame = sys._getframe(depth)
    return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
