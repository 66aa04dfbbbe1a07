"""What operators do to a store, and a store as a whole: a broker with a record log and an admin."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from pipeflow.archives import ArchiveReport, ArchiveRequest
from pipeflow.audit import Entry
from pipeflow.clock import Clock
from pipeflow.events import Event
from pipeflow.files import CompactReport, CompactRequest, FileFacts, FileQuery
from pipeflow.letters import Change, Discard, Discarded, Redrive, Redriven, Rewrite
from pipeflow.looking import Found, Peeked, Search
from pipeflow.moves import Move
from pipeflow.protocols.brokers import Broker
from pipeflow.protocols.logs import RecordLog
from pipeflow.specs import FilterPolicy, Topology
from pipeflow.stats import Parked, StoreStats
from pipeflow.webhooks import SubscriptionFacts


class Admin(Protocol):
    """What operators do to a store; every method works through the owner's socket too."""

    async def describe(self) -> Topology:
        """Every noun the store holds, declared by any program."""
        ...

    async def peek(
        self, queue: str, limit: int = 10, dead: bool = False, where: FilterPolicy | None = None
    ) -> list[Peeked]:
        """Messages in delivery order, without touching them; `dead` looks at the queue's dead letters."""
        ...

    async def search(self, request: Search) -> Found:
        """The same, and how far it looked: the whole queue if it must, in pages that hold nobody up for long."""
        ...

    async def purge(self, queue: str) -> int:
        """Delete every message, in flight or not; how many there were."""
        ...

    async def delete_queue(self, queue: str) -> int:
        """Forget a queue, its subscriptions and what is in it (SQS: Q105); how many messages were dropped.

        Receives that wait on it end with NotFound (Q106). RefusedError while it takes another queue's dead letters.
        """
        ...

    async def redrive(self, request: Redrive) -> Redriven:
        """Move dead letters back, each with a new id and no attempts (SQS: Q99), in chunks of one commit each.

        With an edit each is changed in the commit that moves it; one that it does not fit stays. RefusedError while a
        move that was started takes from them (Q97).
        """
        ...

    async def edit(self, request: Rewrite) -> Change:
        """Change one dead letter where it lies, in one commit. Its id, its place and all that is not named stay.

        NotFound: no such letter. RefusedError: the edit does not fit it, its body is not the expected one, a receiver
        has it, or a move takes from these letters.
        """
        ...

    async def discard(self, request: Discard) -> Discarded:
        """Delete dead letters for good, counted, in chunks of one commit each. RefusedError as of `redrive`."""
        ...

    async def audit(self, name: str | None = None, limit: int = 100, before: int | None = None) -> list[Entry]:
        """What operators did, newest first: to the dead letters of one queue, to one stream, or to all of the store.

        `before`: entries below this number, for the next page. Each entry is in the commit of what it tells; the last
        10,000 of a store are kept, for 90 days. NotFound: neither a queue nor a stream of this name.
        """
        ...

    async def start_move(self, request: Redrive) -> Move:
        """The same as a move that outlives its caller and the process, at `rate`: on disk when this returns.

        Without `to` each goes back to the queue it came from (SQS: Q98). RefusedError while another one takes from the
        same dead letters (Q97).
        """
        ...

    async def moves(self, queue: str | None = None) -> list[Move]:
        """The last ten moves of one queue's dead letters, or of each queue's, newest first (SQS: Q100)."""
        ...

    async def cancel_move(self, id: str) -> Move:
        """Stop a move; what was moved stays moved (SQS: Q101). NotFound; RefusedError when it has ended."""
        ...

    async def delete_stream(self, stream: str, drop: bool = False) -> int:
        """Forget a stream and everything about it, but not its objects; how many records were dropped.

        RefusedError while an app delivers it or a topic or stream feeds it, and, unless `drop`, while records wait in
        it. Firehose: S9 discards what waits; here that is asked for.
        """
        ...

    async def delete_topic(self, topic: str) -> bool:
        """Forget a topic and its subscriptions; whether there was one (SNS: T4). RefusedError: it has an archive."""
        ...

    async def archived(self, request: ArchiveRequest) -> ArchiveReport:
        """The next chunk of a topic's archive, sent again to one subscriber with the position it came to, or looked at.

        NotFound: no such topic, archive or subscriber. RefusedError: the subscriber cannot take it; nothing was sent.
        """
        ...

    async def webhooks(self) -> list[SubscriptionFacts]:
        """Every subscription of a webhook, and whether it is confirmed."""
        ...

    async def confirm(self, topic: str, token: str) -> SubscriptionFacts:
        """Deliver to the subscription that this token was sent for (SNS: T19). RefusedError: there is none."""
        ...

    async def unsubscribe(self, arn: str, undo: bool = False) -> SubscriptionFacts | None:
        """Deliver nothing more by this subscription of a webhook, and tell its endpoint (SNS: T18); None: no such.

        The endpoint is sent a token that brings it back within three days; `undo` asks it to confirm anew. What was
        published before still arrives. RefusedError: that is no ARN.
        """
        ...

    async def stats(self) -> StoreStats:
        """Counts from the store's own durable counters."""
        ...

    async def flush(self, stream: str) -> None:
        """Deliver what the stream holds now; return when it lies in its sink.

        ConfigurationError when the owner holds records of it and delivers none; ObjectRefused when some are parked.
        """
        ...

    async def files(self, stream: str, query: FileQuery) -> list[FileFacts]:
        """Delivered objects of a stream, one page. NotFound: no such stream."""
        ...

    async def parked(self, stream: str) -> list[Parked]:
        """The segments that could not be delivered, in the order of sealing. NotFound: no such stream."""
        ...

    async def retry_parked(self, stream: str, ids: Sequence[int] | None = None) -> int:
        """Deliver these again, or all that can be; how many. NotFound, RefusedError: nothing was done."""
        ...

    async def discard_parked(self, stream: str, ids: Sequence[int]) -> int:
        """Delete these for good, counted and logged; how many records. NotFound: nothing was done."""
        ...

    async def compact(self, stream: str, request: CompactRequest) -> CompactReport:
        """Merge small files, in the process that delivers the stream. ConfigurationError when none does."""
        ...

    def watch(self) -> AsyncIterator[Event]:
        """Events as they happen, from now on; slow watchers miss events rather than slow the store."""
        ...


class Store(Broker, RecordLog, Admin, Protocol):
    """A broker with a record log and an admin: what the embedded broker is."""

    url: str
    clock: Clock

    async def close(self) -> None:
        """Drain the open group and let go. Idempotent."""
