"""Bodies too large for the store are kept aside (a claim check): written, referred to, and deleted, in this order.

    write and sync the bytes > commit the rows that refer to them ... commit that no row does > delete the bytes

So a crash anywhere leaves bytes that nobody refers to, or bytes that a list in the store says are to be deleted, and
never a row without its bytes. References are counted where those of shared bodies are, in the commit of the rows. The
boot of the store that wrote a body is part of its name: what an earlier boot left and no row refers to is an orphan,
and what this one writes is never taken for one.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path
from sys import maxsize
from typing import Protocol, TypeVar
from zlib import crc32

import anyio
import anyio.to_thread
import msgspec
from msgspec.structs import replace

from pipeflow.clock import Clock
from pipeflow.embedded.arguments import check_outgoing
from pipeflow.embedded.group import Gathering
from pipeflow.embedded.head import Head
from pipeflow.embedded.journal import Declared, Journal
from pipeflow.errors import (
    ConfigurationError,
    ObjectDamaged,
    ObjectMissing,
    ObjectRefused,
    RefusedError,
    SinkError,
    SinkUnavailable,
    Unavailable,
)
from pipeflow.messages import Ack, Claim, Outgoing, Receipt, Refused, Release, Settled, Settlement, Stale
from pipeflow.protocols import Object, ReadableSink
from pipeflow.registry import open_sink
from pipeflow.sinks.file import FileSink
from pipeflow.specs import LARGEST_BODY, ClaimSpec
from pipeflow.state.stored import GONE, Stored

T = TypeVar("T")
Settle = Callable[[list[Settlement]], Awaitable[Sequence[Settled | Stale | Refused]]]

logger = logging.getLogger("pipeflow")

UNREACHABLE = (SinkError, ConfigurationError)
"""A place that does not answer, that refuses, or that this process lacks a package for: it may be another time."""

AGAIN = 5.0
"""Seconds until a message is tried again whose body cannot be reached; that is no attempt."""
TIDY_AGAIN = 60.0
"""Seconds until bodies are tried again that could not be deleted."""
CHUNK = 100
"""Bodies that are deleted between two looks at the list."""
AT_ONCE = 8
"""Bodies that are deleted at the same time from a bucket."""
SHOWN = 4096
"""Bytes of a body that an operator is shown."""


class Claiming(Protocol):
    """What claims need of the broker they are part of."""

    url: str
    boot: int
    store_id: str

    @property
    def clock(self) -> Clock: ...

    @property
    def journal(self) -> Journal: ...

    @property
    def gathering(self) -> Gathering: ...

    def check_open(self) -> None: ...

    async def committed(self) -> None: ...

    def written_behind(self) -> None: ...

    def after_intake(self, heads: Iterable[Head]) -> None: ...

    def new_id(self) -> str: ...


class Keeping:
    """Reads bodies that are kept aside and keeps others, for messages that are changed where they lie."""

    def __init__(self, claims: Claims, dry_run: bool) -> None:
        self._claims = claims
        self._dry_run = dry_run
        self.written: list[Claim] = []
        self.waited = False
        """Whether others had a turn meanwhile."""

    async def read(self, claim: Claim) -> bytes:
        """The bytes as they were sent. RefusedError: they are gone or damaged; Unavailable: not now."""
        self.waited = True
        try:
            return await self._claims.read(claim)
        except (ObjectMissing, ObjectDamaged) as error:
            raise RefusedError("Unfit", f"its body of {claim.size} bytes is gone or damaged: {error}") from error
        except UNREACHABLE as error:
            raise Unavailable(f"a body of {claim.size} bytes cannot be reached now: {error}") from error

    async def keep(self, body: bytes) -> Claim | None:
        """Where a body lies from now on, in a dry run what would be known of it; None: with its message.

        RefusedError: there is no room; Unavailable: not now.
        """
        claims = self._claims
        if not claims.is_large(body):
            return None
        self.waited = True
        if self._dry_run:
            return Claim(0, "", "", len(body), *await anyio.to_thread.run_sync(_fingerprints, body))
        return await claims.write(body, self.written)


class Claims:
    """The bodies that a store keeps aside."""

    def __init__(self, broker: Claiming) -> None:
        self._broker = broker
        self._aside = broker.journal.aside
        self._sinks: dict[str, ReadableSink] = {}
        self._number: Callable[[], int]
        self.spec = ClaimSpec()
        self._inline = maxsize

    def restore(self, spec: ClaimSpec | None, number: Callable[[], int]) -> None:
        """Go on as an earlier process was told; `number` makes numbers for bodies that are counted."""
        self._number = number
        if self._aside is not None:
            self.spec = spec or self.spec
            self._inline = self.spec.inline_bytes

    @property
    def declared(self) -> ClaimSpec | None:
        """What an app said, if one did."""
        return self.spec if self.spec != ClaimSpec() else None

    def check(self, spec: ClaimSpec | None) -> None:
        """ConfigurationError: bodies cannot lie there."""
        if spec is not None and self._aside is not None:
            self.sink(spec.url)

    def declare(self, spec: ClaimSpec | None) -> None:
        """Keep bodies there from now on; what lies elsewhere stays there."""
        if spec is None or spec == self.spec or self._aside is None:
            return
        self.spec = spec
        self._inline = spec.inline_bytes
        self._broker.gathering.declared.append(Declared("claims", "", 0, msgspec.msgpack.encode(spec)))

    def sink(self, place: str) -> ReadableSink:
        """Where bodies of this place lie. ConfigurationError: nothing can lie there."""
        sink = self._sinks.get(place)
        if sink is None:
            assert self._aside is not None
            opened = open_sink(place, base=str(self._aside.parent)) if place else FileSink(str(self._aside))
            if not isinstance(opened, ReadableSink):
                raise ConfigurationError(
                    f"claims {place!r}: bodies must be read back and deleted there; use a directory (file://...) or a "
                    "bucket (s3://..., gs://..., az://...)"
                )
            sink = self._sinks[place] = opened
        return sink

    # -- in ------------------------------------------------------------------------------------------------------

    def wanted(self, batch: Sequence[Outgoing]) -> bool:
        """Whether one of these is too large to lie in the store, and not yet aside. It is asked at every send."""
        inline = self._inline
        if type(batch) is not list:
            # What can be gone through once would be at its end here, and nothing be left to send.
            check_outgoing(batch)
        try:
            for outgoing in batch:
                if len(outgoing.body) > inline and _is_large(outgoing, inline):
                    return True
        except (AttributeError, TypeError):
            check_outgoing(batch)
            # What is not even a text is refused later, by name.
            return any(_is_large(outgoing, inline) for outgoing in batch)
        return False

    async def around(
        self, batch: Sequence[Outgoing], verb: Callable[[list[Outgoing]], Awaitable[T]], limit: int = LARGEST_BODY
    ) -> T:
        """Write what is large, then call with messages that say where it lies.

        Unavailable, RefusedError (the disk is full): nothing was done.

        What is above `limit` is going to be refused for its size, and is not written.
        """
        self._broker.check_open()
        written: list[Claim] = []
        try:
            return await verb([await self._set_aside(outgoing, limit, written) for outgoing in batch])
        finally:
            self._hand_over(written)

    async def around_acks(self, batch: Sequence[Settlement], verb: Settle) -> list[Settled | Stale | Refused]:
        """Write what is large of what handlers emitted, then settle; an Ack whose emits cannot be kept is refused.

        The others are settled: they share nothing with it but the call, and an error would be that of the whole app.
        """
        self._broker.check_open()
        written: list[Claim] = []
        kept: list[Settlement] = []
        refused: dict[int, Refused] = {}
        away: Refused | None = None
        try:
            for n, settlement in enumerate(batch):
                if away is not None and self._is_wanted(settlement):
                    # Each may take as long as the place takes not to answer, and holds up all the others.
                    refused[n] = away
                    continue
                try:
                    kept.append(await self._with_emits_aside(settlement, written))
                except RefusedError as error:
                    refused[n] = Refused(error.code, str(error))
                except (Unavailable, *UNREACHABLE) as error:
                    refused[n] = Refused("ClaimUnavailable", str(error))
                    away = Refused("ClaimUnavailable", f"as for another emit of the same call, {error}")
            answers = iter(await verb(kept))
        finally:
            self._hand_over(written)
        return [refused[n] if n in refused else next(answers) for n in range(len(batch))]

    @contextmanager
    def keeping(self, dry_run: bool = False) -> Iterator[Keeping]:
        """The time in which other bodies are made for messages: what no message got by its end goes again."""
        keeping = Keeping(self, dry_run)
        try:
            yield keeping
        finally:
            if keeping.written:
                self._hand_over(keeping.written)

    def _hand_over(self, written: Sequence[Claim]) -> None:
        # Also what was taken: a body goes when no row refers to it in the commit of this, or in an earlier one.
        for claim in written:
            self._broker.gathering.claims[claim.number] = claim
        self._broker.written_behind()
        self._broker.gathering.freed.fire()

    def _is_wanted(self, settlement: Settlement) -> bool:
        return isinstance(settlement, Ack) and self.wanted([emit.message for emit in settlement.emits])

    async def _with_emits_aside(self, settlement: Settlement, written: list[Claim]) -> Settlement:
        if not isinstance(settlement, Ack) or not settlement.emits:
            return settlement
        emits = [
            replace(emit, message=await self._set_aside(emit.message, LARGEST_BODY, written))
            if self.wanted((emit.message,))
            else emit
            for emit in settlement.emits
        ]
        return replace(settlement, emits=emits)

    def is_large(self, body: bytes) -> bool:
        """Whether a body does not lie in the store."""
        return len(body) > self._inline

    async def write(self, body: bytes, written: list[Claim]) -> Claim:
        """Keep another body of a message that is here; Unavailable, RefusedError: nothing was changed."""
        return await self._write(body, written, "nothing was changed")

    async def _set_aside(self, outgoing: Outgoing, limit: int, written: list[Claim]) -> Outgoing:
        if not self.wanted((outgoing,)):
            return outgoing
        if len(outgoing.body) > limit:
            return replace(outgoing, claim=Claim(0, "", "", len(outgoing.body), 0, ""))
        return replace(outgoing, claim=await self._write(outgoing.body, written))

    async def _write(self, body: bytes, written: list[Claim], undone: str = "nothing was sent") -> Claim:
        broker, place = self._broker, self.spec.url
        crc, digest = await anyio.to_thread.run_sync(_fingerprints, body)
        number = self._number()
        # By the number it is found out, without a list of all, whether a row refers to it.
        name = f"{broker.store_id}-{broker.boot:08x}-n{number:x}-{broker.new_id()}"
        claim = Claim(number, place, name, len(body), crc, digest)
        written.append(claim)
        try:
            if not place:
                await anyio.to_thread.run_sync(self._make_room, len(body))
            await self.sink(place).write(Object(name, [body]))
        except (SinkUnavailable, OSError) as error:
            raise Unavailable(
                f"{broker.url}: a body of {len(body)} bytes cannot be kept aside ({error}); {undone}"
            ) from error
        except ObjectRefused as error:
            raise RefusedError("ClaimRefused", f"{broker.url}: a body may not be kept aside: {error}") from error
        return claim

    def _make_room(self, size: int) -> None:
        assert self._aside is not None
        if not self._broker.journal.has_room(size):
            raise RefusedError(
                "disk_full",
                f"{self._broker.url}: the disk has no room for a body of {size} bytes beside what the store needs; free"
                " space and try again. Nothing was done",
            )
        if not self._aside.is_dir():
            # As private as the store itself. FileSink syncs what it makes, not what it finds.
            self._aside.mkdir(mode=0o700, exist_ok=True)
            directory = os.open(self._aside.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    # -- out -----------------------------------------------------------------------------------------------------

    async def read(self, claim: Claim) -> bytes:
        """The bytes as they were sent. ObjectMissing, ObjectDamaged, SinkUnavailable."""
        body = await self.sink(claim.place).read(claim.name)
        if len(body) != claim.size or await anyio.to_thread.run_sync(crc32, body) != claim.crc:
            raise ObjectDamaged(f"{claim.place or self._aside}: {claim.name} is not what was written there")
        return body

    async def fetch(self, head: Head, message: Stored) -> bytes | None:
        """The body of a message that was just taken; None when it cannot be handed out.

        One that is missing or damaged has its message set aside, as a damaged row has; others go on. One that cannot be
        reached is tried again later, which counts as no attempt.
        """
        claim, receives = message.claim, message.receives
        assert claim is not None
        try:
            return await self.read(claim)
        except (ObjectMissing, ObjectDamaged) as error:
            failure: Exception = error
            lost = True
            if not message.row:
                await self._broker.committed()
        except UNREACHABLE as error:
            failure, lost = error, False
        if message.state == GONE or message.receives != receives:
            return None  # acknowledged by somebody else, purged, or received again
        if not lost:
            self._try_later(head, message, failure)
        else:
            head.tail.lose(message)
            logger.error(
                "%s: message %s is set aside, as its body of %d bytes is gone or damaged: %s. Nothing brings it back "
                "but a backup of %s",
                head.spec.name, message.id, claim.size, failure, claim.place or self._aside,
            )  # fmt: skip
        self._broker.written_behind()
        return None

    def _try_later(self, head: Head, message: Stored, error: Exception) -> None:
        logger.warning(
            "%s: message %s is tried again in %g s, as its body cannot be reached: %s",
            head.spec.name, message.id, AGAIN, error,
        )  # fmt: skip
        broker = self._broker
        receipt = Receipt(message.place, message.boot, message.receives)
        head.state.settle(Release(receipt, AGAIN), broker.clock.now(), broker.boot)
        broker.after_intake((head,))

    async def shown(self, claim: Claim, whole: bool = False) -> bytes:
        """What an operator sees of a body: its first bytes; nothing where it cannot be read."""
        try:
            if whole or claim.place:
                return (await self.read(claim))[: None if whole else SHOWN]
            assert self._aside is not None
            return await anyio.to_thread.run_sync(_beginning, self._aside / claim.name)
        except (*UNREACHABLE, OSError):
            return b""

    # -- away ----------------------------------------------------------------------------------------------------

    @property
    def places(self) -> list[str]:
        """Where bodies may lie: beside the store, if any ever did, and where an app said."""
        beside = [""] if self._aside is not None and self._aside.is_dir() else []
        return beside + ([self.spec.url] if self.spec.url else [])

    async def run(self) -> None:
        """Delete bodies whose last reference went, for as long as the store is open."""
        broker = self._broker
        while True:
            until = inf
            try:
                await self._tidy()
            except UNREACHABLE as error:
                logger.warning(
                    "%s: bodies that nobody needs are deleted later, as they cannot be reached: %s", broker.url, error
                )
                until = broker.clock.now() + TIDY_AGAIN
            await broker.clock.wait(broker.gathering.freed, until)
            await broker.committed()

    async def _tidy(self) -> None:
        """Delete what the list names now, all that can be; what failed stays on the list."""
        journal = self._broker.journal
        upto, after, failed = await journal.last_doomed(), 0, list[Exception]()
        if upto and journal.durability != "full":
            # A commit that is not synced may be lost, and with it that nobody needs them.
            self._broker.gathering.sync = True
            await self._broker.committed()
        while after < upto:
            doomed = await journal.doomed(after, upto, CHUNK)
            if not doomed:
                break
            after = doomed[-1][0]
            beside = [claim.name for _, claim in doomed if claim is not None and not claim.place]
            if beside:
                await anyio.to_thread.run_sync(self._unlink, beside)
            elsewhere = [(number, claim) for number, claim in doomed if claim is not None and claim.place]
            left: set[int] = set()
            for start in range(0, len(elsewhere), AT_ONCE):
                # Senders are many, so this must not fall behind them by going one at a time.
                left |= await self._delete(elsewhere[start : start + AT_ONCE], failed)
            await journal.undoom([number for number, _ in doomed if number not in left])
        if failed:
            raise failed[0]

    async def _delete(self, claims: Sequence[tuple[int, Claim]], failed: list[Exception]) -> set[int]:
        """Delete these at once; the numbers of those that could not be."""
        left: set[int] = set()

        async def delete(number: int, claim: Claim) -> None:
            try:
                await self.sink(claim.place).delete(claim.name)
            except UNREACHABLE as error:
                failed.append(error)
                left.add(number)

        async with anyio.create_task_group() as tasks:
            for number, claim in claims:
                tasks.start_soon(delete, number, claim)
        return left

    def _unlink(self, names: Sequence[str]) -> None:
        """Without a sync: a file that a power cut brings back is an orphan of an earlier boot."""
        assert self._aside is not None
        for name in names:
            try:
                (self._aside / name).unlink(missing_ok=True)
            except OSError as error:
                raise SinkUnavailable(f"{self._aside / name}: {error.strerror}") from error


def _is_large(outgoing: Outgoing, inline: int) -> bool:
    return type(outgoing.body) is bytes and len(outgoing.body) > inline and outgoing.claim is None


def _fingerprints(body: bytes) -> tuple[int, str]:
    return crc32(body), hashlib.sha256(body).hexdigest()


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(SHOWN)
