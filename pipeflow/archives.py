"""What is asked of a topic's archive and what it answers: plain data for store, engine and command line."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from pipeflow.specs import FilterPolicy

CHUNK: Final = 500
"""Messages that one call looks at: one commit."""
IDS_SHOWN: Final = 100


class ArchiveRequest(Struct, frozen=True):
    """The next messages of an archive, to one subscriber; or only looked at, without one or as a dry run."""

    topic: str
    to: str | None = None
    """The queue, webhook or stream that gets them; it must subscribe to the topic."""
    since: float | None = None
    """Published at this time or later, in epoch seconds."""
    until: float | None = None
    """Published before this time; None: before the replay began."""
    policy: FilterPolicy | None = None
    """What is taken of that, besides what the subscriber's own filter takes; None: all."""
    name: str = ""
    """What its position is kept under, besides topic and subscriber."""
    again: bool = False
    """From the beginning, though it was begun before."""
    dry_run: bool = False
    """Say what the subscriber would get, and deliver nothing."""
    after: int = 0
    """Where it is only looked at: go on behind this place."""
    limit: int = CHUNK

    @staticmethod
    def name_of(since: object, until: object, policy: FilterPolicy | None) -> str:
        """What a position is kept under where nobody names it: the same call goes on, another is another replay."""
        return f"{since} {until}" if policy is None else f"{since} {until} {policy.scope} {policy.policy}"


class ArchiveReport(Struct, frozen=True):
    """What one call did, or several together."""

    examined: int = 0
    matched: int = 0
    sent: int = 0
    before: int = 0
    """Sent by calls before the first of these, under the same name."""
    ids: list[str] = []
    """Of what matched, the first hundred."""
    last: int = 0
    """The place to go on behind."""
    done: bool = False
