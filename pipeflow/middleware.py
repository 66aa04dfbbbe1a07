"""Middleware is composed once, when the app starts; an app without it pays nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from pipeflow.messages import Delivery
from pipeflow.protocols import Handle, Middleware

__all__ = ["Handle", "Middleware", "composed"]


def composed(middleware: Sequence[Middleware], handle: Handle) -> Handle:
    """The chain with the first of `middleware` outermost and `handle` innermost: plain calls, no task in between."""
    for layer in reversed(middleware):
        handle = _around(layer, handle)
    return handle


def _around(layer: Middleware, inner: Handle) -> Handle:
    def call(delivery: Delivery) -> Awaitable[object]:
        return layer(delivery, inner)

    return call
