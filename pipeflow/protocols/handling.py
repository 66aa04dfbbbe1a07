"""The chain around a handler, as middleware sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from pipeflow.messages import (
    Delivery,
)

Handle: TypeAlias = Callable[[Delivery], Awaitable[object]]
"""The rest of the chain: give it the delivery, get what the handler returned."""

Middleware: TypeAlias = Callable[[Delivery, Handle], Awaitable[Any]]
