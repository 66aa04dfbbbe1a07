"""What happened: one value per kind of thing, emitted per batch to synchronous observers.

Observers cannot change anything. One that raises is reported once on the `pipeflow` logger and left out from then on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from msgspec import Struct

from pipeflow.messages import Failure, ObjectFacts

logger = logging.getLogger("pipeflow")


class Published(Struct, frozen=True, tag=True):
    """Messages were accepted by a topic."""

    at: float
    topic: str
    count: int


class Queued(Struct, frozen=True, tag=True):
    """Messages were accepted straight by a queue."""

    at: float
    queue: str
    count: int


class Handled(Struct, frozen=True, tag=True):
    """A handler returned and its messages are acknowledged, durable."""

    at: float
    queue: str
    ids: list[str]
    seconds: float


class Retried(Struct, frozen=True, tag=True):
    """An attempt failed; the message comes back after `delay` seconds."""

    at: float
    queue: str
    id: str
    attempt: int
    delay: float
    failure: Failure | None


class Buried(Struct, frozen=True, tag=True):
    """A message went to the dead letters."""

    at: float
    queue: str
    id: str
    attempt: int
    failure: Failure | None


class Released(Struct, frozen=True, tag=True):
    """Messages were given back unharmed."""

    at: float
    queue: str
    ids: list[str]


class Lost(Struct, frozen=True, tag=True):
    """A visibility timeout could not be kept: the handler was cancelled, its acknowledgement is not accepted."""

    at: float
    queue: str
    ids: list[str]


class Refusal(Struct, frozen=True, tag=True):
    """A broker refused something in the background, such as a source's item or an emit."""

    at: float
    place: str
    reason: str


class Delivered(Struct, frozen=True, tag=True):
    """A buffer became objects in a sink. `reason`: size, time, drain, demand or pressure."""

    at: float
    stream: str
    partition: str
    reason: str
    records: int
    size: int
    objects: list[ObjectFacts]
    seconds: float


class DeliveryFailed(Struct, frozen=True, tag=True):
    """A sink could not take a segment; it is tried again at `again_at`, or parked when that is None."""

    at: float
    stream: str
    name: str
    reason: str
    again_at: float | None


class SourceStopped(Struct, frozen=True, tag=True):
    """A source ended (`reason` empty), was refused, or raised and starts again at `again_at`."""

    at: float
    source: str
    reason: str = ""
    again_at: float | None = None


class Started(Struct, frozen=True, tag=True):
    """The app is open: handlers run."""

    at: float
    app: str


class Stopped(Struct, frozen=True, tag=True):
    """The app is closed; `given_back` messages were released unfinished."""

    at: float
    app: str
    given_back: int


Event: TypeAlias = (
    Published
    | Queued
    | Handled
    | Retried
    | Buried
    | Released
    | Lost
    | Refusal
    | Delivered
    | DeliveryFailed
    | SourceStopped
    | Started
    | Stopped
)

Observer: TypeAlias = Callable[[Event], None]


class Observers:
    """Tells every observer; false when there is none, so that callers can skip making the event."""

    __slots__ = ("_observers",)

    def __init__(self, observers: list[Observer] | None = None) -> None:
        self._observers = list(observers or [])

    def __bool__(self) -> bool:
        return bool(self._observers)

    def add(self, observer: Observer) -> None:
        """Tell this one too, from now on."""
        self._observers.append(observer)

    def discard(self, observer: Observer) -> None:
        """Tell this one nothing more; no error when it was not told."""
        if observer in self._observers:
            self._observers.remove(observer)

    def emit(self, event: Event) -> None:
        """Hand one event to every observer, in the order they were added."""
        for observer in tuple(self._observers):
            try:
                observer(event)
            except Exception:
                self._observers.remove(observer)
                logger.exception("observer %r raised and is left out from now on", observer)
