"""Looking into a queue: what an operator asks for, and what a message looks like from outside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, TypeAlias, get_args

from msgspec import Struct

from pipeflow.errors import ConfigurationError
from pipeflow.letters import Provenance
from pipeflow.messages import AttributeValue, Failure
from pipeflow.specs import FilterPolicy
from pipeflow.specs.numbers import check_numbers


class Peeked(Struct, frozen=True):
    """One message as an operator sees it: no receive counted, no receipt handed out."""

    id: str
    queue: str
    state: str
    """ready, delayed or in_flight."""
    body: bytes
    attempt: int
    sent_at: float
    sequence: int
    attributes: dict[str, AttributeValue]
    group: str | None
    dedup_id: str | None
    failures: list[Failure]
    dead_letter_source: str | None
    visible_at: float | None = None
    size: int = 0
    """Bytes with its attributes. Of a body that is kept aside, for being large, `body` is the beginning."""
    expires_at: float | None = None
    """When its own time to live ends; None where the queue's retention alone holds."""
    headers: dict[str, str] = {}
    """Internal ones: trace, correlation, content type."""
    first_received_at: float | None = None
    received_at: float | None = None
    """The newest receive."""
    kept_until: float | None = None
    """When its queue's retention ends for it."""
    provenance: Provenance | None = None
    """Where it has been, if it was redriven."""
    key: str | None = None
    """What it can be replaced or cancelled by, while it is delayed."""
    priority: int = 0
    """0 to 9: of what is ready the highest comes first."""


FOUND_BYTES: Final = 32 << 20
"""Where a search of a store on disk ends, whatever its limit: half of what a frame through the owner's socket takes."""

State: TypeAlias = Literal["ready", "delayed", "in_flight"]


class Search(Struct, frozen=True):
    """Which messages of a queue are looked for: those that answer to all of it."""

    queue: str
    limit: int = 10
    """Of what is found: there it stops, or at 32 MiB of it."""
    dead: bool = False
    """Its dead letters instead."""
    where: FilterPolicy | None = None
    """Over the view of `pipeflow.filters.view`, as `parse_where` makes it."""
    contains: bytes | None = None
    """Somewhere in the body, as it was sent."""
    state: State | None = None

    def __post_init__(self) -> None:
        check_numbers(self.queue, limit=self.limit)
        if self.state not in (None, *get_args(State)):
            raise ConfigurationError(f"{self.queue}: state is {self.state!r}; use {', '.join(get_args(State))}")
        if self.where is not None and not isinstance(self.where, FilterPolicy):
            raise ConfigurationError(
                f"{self.queue}: where is {self.where!r:.80}; write conditions as one text, such as 'attempt>2'"
            )
        if self.limit < 1:
            raise ConfigurationError(f"{self.queue}: limit is {self.limit}; use at least 1 message")


class Found(Struct, frozen=True):
    """What a search found, in the order of delivery, and how far it looked."""

    messages: list[Peeked]
    examined: int
    """How many messages it looked at."""
    complete: bool
    """It looked through the whole queue; else it stopped at its limit, or at 32 MiB."""

    def __iter__(self) -> Iterator[Peeked]:
        return iter(self.messages)

    def __len__(self) -> int:
        return len(self.messages)
