"""What tests of an app need: the real engine, in memory, under virtual time. Nothing loads before it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeflow.clock import VirtualClock
    from pipeflow.testing.chaos import Chaos
    from pipeflow.testing.running import Harness, harness

__all__ = ["Chaos", "Harness", "VirtualClock", "harness"]

_HOMES = {
    "Chaos": "pipeflow.testing.chaos",
    "Harness": "pipeflow.testing.running",
    "VirtualClock": "pipeflow.clock",
    "harness": "pipeflow.testing.running",
}


def __getattr__(name: str) -> object:
    # pytest imports this package with the plugin in every run, also in those that test something else.
    from importlib import import_module

    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
