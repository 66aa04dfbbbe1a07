"""What a queue is: everything that decides what it does with a message."""

from __future__ import annotations

from math import inf
from typing import Final, Literal

from msgspec import Struct

from pipeflow.errors import ConfigurationError
from pipeflow.names import queue_name
from pipeflow.specs.numbers import check_numbers
from pipeflow.specs.tags import check_tags

DAY = 86_400.0
YEAR = 366 * DAY

LARGEST_BODY: Final = 2 << 30
"""Bytes of a body that any queue may take."""


class Backoff(Struct, frozen=True):
    """How long a failed message waits: `base * factor ** (attempt - 1)`, at most `cap`, with full jitter."""

    base: float = 1.0
    factor: float = 2.0
    cap: float = 300.0

    def __post_init__(self) -> None:
        if self.base < 0 or self.factor < 1 or self.cap < self.base:
            raise ConfigurationError(f"{self}: use base >= 0, factor >= 1 and cap >= base")

    def delay(self, attempt: int, roll: float) -> float:
        """Seconds before the next try after failed attempt `attempt`; `roll` in [0, 1) is the jitter."""
        try:
            wait = self.base * self.factor ** (attempt - 1)
        except OverflowError:  # beyond any float, so beyond the cap
            wait = self.cap
        return roll * min(self.cap, wait)


class QueueSpec(Struct, frozen=True):
    """One queue with everything that decides what it does."""

    name: str
    fifo: bool = False
    visibility_timeout: float = 30.0
    max_receives: int | None = 5
    """None: never dead-lettered."""
    dead_letters: str | None = None
    """The queue that takes what failed `max_receives` times; made with the queue when it is not there."""
    dead_letter_age: Literal["arrival", "sent"] = "arrival"
    """Whether retention in the dead letters counts from the move (the default) or from the first send (SQS: Q92)."""
    delay: float = 0.0
    retention: float = 4 * DAY
    max_in_flight: int = 120_000
    max_body: int = LARGEST_BODY
    content_dedup: bool = False
    dedup_scope: Literal["queue", "group"] = "queue"
    holds_dead_letters: bool = False
    """Made as the dead letters of another queue."""
    archives: bool = False
    """Made as the archive of a topic: nobody sends to it or receives from it."""
    dead_letters_from: tuple[str, ...] | None = None
    """The queues that may name this one as their dead letters; None: all, (): none (SQS: Q88)."""
    tags: dict[str, str] = {}
    """Words for operators; they change nothing (SQS: Q20)."""
    max_per_second: float | None = None
    """Messages that are handed out in any second, to all receivers together; None: no limit (SQS: Q78)."""

    def __post_init__(self) -> None:
        queue_name(self.name)
        check_tags(self.name, self.tags)
        check_numbers(
            self.name,
            max_receives=self.max_receives,
            visibility_timeout=self.visibility_timeout,
            delay=self.delay,
            retention=self.retention,
            max_in_flight=self.max_in_flight,
            max_body=self.max_body,
            max_per_second=self.max_per_second,
        )
        if self.max_receives is not None and not 1 <= self.max_receives <= 1000:
            raise ConfigurationError(
                f"{self.name}: max_receives is {self.max_receives}; use 1 to 1000, or dead_letters=False for no limit"
            )
        if not 0 <= self.visibility_timeout <= 43_200:
            raise ConfigurationError(f"{self.name}: visibility_timeout is {self.visibility_timeout}; use 0 to 43200 s")
        if not 0 <= self.delay <= YEAR:
            raise ConfigurationError(f"{self.name}: delay is {self.delay}; use 0 s to a year")
        if not self.retention > 0:
            raise ConfigurationError(f"{self.name}: retention is {self.retention}; use more than 0 s")
        if self.max_in_flight < 1:
            raise ConfigurationError(f"{self.name}: max_in_flight is {self.max_in_flight}; use at least 1")
        if not 1 <= self.max_body <= LARGEST_BODY:
            raise ConfigurationError(f"{self.name}: max_body is {self.max_body}; use 1 byte to 2 GiB")
        rate = self.max_per_second
        if rate is not None and (not 0 < rate < inf or (rate > 1 and rate != int(rate))):
            raise ConfigurationError(
                f"{self.name}: max_per_second is {rate}; use a whole number, or less than 1 for one message every so "
                "many seconds"
            )
        if self.dead_letters is not None:
            queue_name(self.dead_letters)
        if self.dead_letters == self.name:
            raise ConfigurationError(f"{self.name}: a queue cannot be its own dead letters; name another queue")
