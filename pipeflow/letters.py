"""What operators ask about dead letters and what they are answered: which ones, where to, changed how.

A letter that is sent back is a new message, so where it has been is written into a header of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

from pipeflow.edits import Edit
from pipeflow.errors import ConfigurationError
from pipeflow.messages import AttributeValue
from pipeflow.specs import FilterPolicy

PROVENANCE: Final = "pipeflow-provenance"
"""The header that tells where a redriven message has been."""
PASSAGES_KEPT: Final = 10
SAMPLES: Final = 3
"""Letters of which a dry run shows what an edit would make of them."""
SHOWN_BYTES: Final = 64 << 10
"""Of a body before and after an edit."""


class Passage(Struct, frozen=True):
    """One way back from the dead letters."""

    at: float
    id: str
    """What its message was called there."""
    source: str
    """Whose dead letter it was."""
    letters: str
    """The queue that held it."""


class Provenance(Struct, frozen=True):
    """Where a message has been before it got its id."""

    id: str
    """What it was called when it was sent."""
    sent_at: float
    redrives: int
    passages: list[Passage]
    """The last ten, oldest first."""


def provenance_of(headers: Mapping[str, str] | None) -> Provenance | None:
    """Where a message with these headers has been; None: it was never redriven."""
    written = (headers or {}).get(PROVENANCE)
    if written is None:
        return None
    try:
        return msgspec.json.decode(written, type=Provenance)
    except msgspec.MsgspecError:
        return None  # a header is whatever a sender made it


def sent_back(headers: Mapping[str, str] | None, id: str, sent_at: float, passage: Passage) -> str:
    """The header of a letter that takes this way back."""
    known = provenance_of(headers) or Provenance(id, sent_at, 0, [])
    passages = [*known.passages[-(PASSAGES_KEPT - 1) :], passage]
    return msgspec.json.encode(Provenance(known.id, known.sent_at, known.redrives + 1, passages)).decode()


class Redrive(Struct, frozen=True):
    """Which dead letters go where. `where` looks at the view of `pipeflow.filters.view`; None takes all."""

    queue: str
    """The queue whose dead letters are meant, not the dead letters' own name."""
    to: str | None = None
    """Another queue than the one they came from."""
    where: FilterPolicy | None = None
    limit: int | None = None
    dry_run: bool = False
    rate: float | None = None
    """Of a move that is started: messages a second at most."""
    ids: tuple[str, ...] | None = None
    """These alone."""
    edit: Edit | None = None
    """Each is changed so on its way, in one commit; one that it does not fit stays where it is."""
    user: str = ""
    """Who asks, for the audit; without it the user of the process."""

    def __post_init__(self) -> None:
        if self.rate is not None and not self.rate > 0:
            raise ConfigurationError(f"{self.queue}: rate is {self.rate}; use more than 0 messages a second")


class Seen(Struct, frozen=True):
    """A message as an edit finds or leaves it."""

    body: bytes
    """Its first 64 KiB; nothing of one that is kept aside, for being large."""
    size: int
    """Bytes of all of it."""
    digest: str
    attributes: dict[str, AttributeValue]


class Change(Struct, frozen=True):
    """What an edit makes of one letter."""

    id: str
    before: Seen
    after: Seen


class Redriven(Struct, frozen=True):
    """How many dead letters were looked at, matched and moved."""

    examined: int
    matched: int
    moved: int
    ids: list[str]
    """Of the first 100 that matched."""
    unfit: int = 0
    """Matched, but the edit does not fit them: they stayed."""
    unfit_reason: str = ""
    """Of the first of those."""
    changes: list[Change] = []
    """What the edit makes of the first three."""


class Rewrite(Struct, frozen=True):
    """A change to one dead letter, which keeps its place, its id and everything else."""

    queue: str
    """The queue whose dead letter it is."""
    id: str
    edit: Edit
    expects: str = ""
    """Fingerprint of the body that the change was made for: another one is refused."""
    dry_run: bool = False
    user: str = ""


class Discard(Struct, frozen=True):
    """Which dead letters are deleted for good: these, or those that match, or every one; never none of the three."""

    queue: str
    ids: tuple[str, ...] | None = None
    where: FilterPolicy | None = None
    every: bool = False
    limit: int | None = None
    dry_run: bool = False
    user: str = ""

    def __post_init__(self) -> None:
        if self.every == (self.ids is not None or self.where is not None):
            raise ConfigurationError(
                f"{self.queue}: which dead letters are to be deleted? name ids or a condition, or say every one of them"
            )


class Discarded(Struct, frozen=True):
    """How many dead letters were looked at, matched and deleted."""

    examined: int
    matched: int
    discarded: int
    ids: list[str]
    """Of the first 100 that matched."""
