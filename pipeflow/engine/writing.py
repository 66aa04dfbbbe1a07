"""One segment's way into the sink: tried again later and later, until it is delivered, diverted, parked or too old.

What an attempt met is on disk before the next one begins, so a restart neither forgets how long it has been tried nor
sends again what the sink has. Records leave in four ways only, each counted: into the sink, into the sink for failures,
by an operator, or by `max_age` where the stream asks for it.
"""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Callable, Sequence
from math import inf
from typing import Protocol, TypeAlias, assert_never, runtime_checkable

import anyio.to_thread
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from pipeflow.clock import Clock, Signal
from pipeflow.engine.supervise import AGAIN
from pipeflow.errors import ObjectRefused, SinkUnavailable
from pipeflow.events import DeliveryFailed, Observers
from pipeflow.formats.compress import compressor
from pipeflow.formats.convert import MESSAGE_LIMIT, Converted
from pipeflow.messages import Manifest, Records, Segment, Trouble
from pipeflow.names import Chance
from pipeflow.protocols import Object, RecordBatch, RecordSink, Sink, Store
from pipeflow.sinks.layout import Layout
from pipeflow.sinks.manifest import manifest_object
from pipeflow.sinks.objects import ERRORS, is_errors
from pipeflow.sinks.prefixes import UNANSWERED, UNDELIVERED
from pipeflow.specs import COLUMNAR, StreamSpec

logger = logging.getLogger("pipeflow")

HAIR = 1e-6
"""Seconds that sums of pauses may be off."""


class Again(Struct, frozen=True):
    """Try it again after so many seconds."""

    after: float


class Divert(Struct, frozen=True):
    """Write its records to the sink for failures."""


class Park(Struct, frozen=True):
    """Leave it to an operator."""


class Expire(Struct, frozen=True):
    """Drop it: the stream asked for that at this age."""


Verdict: TypeAlias = Again | Divert | Park | Expire


class Limits(Struct, frozen=True):
    """What a stream says about segments that fail."""

    retry_seconds: float = inf
    max_age: float = inf
    failures: bool = False
    """Whether there is a sink for them."""
    refused_too: bool = False
    """Whether that takes what is refused for good as well; else it is parked, for somebody to remove the cause."""


def decide(
    error: SinkUnavailable | ObjectRefused, trouble: Trouble, limits: Limits, *, age: float, pause: float
) -> Verdict:
    """What becomes of a segment whose attempt just failed; `age` is that of its youngest record."""
    if isinstance(error, ObjectRefused):
        return Divert() if limits.failures and limits.refused_too else Park()
    if age >= limits.max_age:
        return Expire()
    left = limits.retry_seconds - trouble.waited
    if left <= HAIR:
        return Divert() if limits.failures else Park()
    return Again(min(max(pause, error.retry_after or 0.0), left))


@runtime_checkable
class _Pacing(Protocol):
    """A sink with a backoff of its own: seconds before the try that follows failed attempt `attempt`."""

    def pause(self, attempt: int, roll: float) -> float: ...


class _Undelivered(Struct, frozen=True):
    """One record as it lies in the sink for failures: Firehose's members of S60, without the function's."""

    attemptsMade: int
    arrivalTimestamp: int
    errorCode: str
    errorMessage: str
    attemptEndingTimestamp: int
    rawData: str


class _Unanswered(_Undelivered, frozen=True):
    """One record that an HTTP endpoint did not take (Firehose: S61)."""

    subsequenceNumber: str
    dataId: str


class Writer:
    """Writes the segments of one stream, one at a time."""

    def __init__(
        self,
        spec: StreamSpec,
        *,
        store: Store,
        sink: Sink,
        failures: Sink | None,
        clock: Clock,
        chance: Chance,
        observers: Observers,
        on_failure: Callable[[], None],
    ) -> None:
        self.hurry = Signal()
        """Fired to try again at once."""
        self._name = spec.name
        self._layout = Layout(spec)
        self._store = store
        self._sink = sink
        self._failures = failures if spec.failures is not None else None
        self._clock = clock
        self._chance = chance
        self._observers = observers
        self._on_failure = on_failure
        self._durable = store.features.durable and spec.durability != "memory"
        records = isinstance(sink, RecordSink)
        self._error_type = UNANSWERED if records else UNDELIVERED
        self._limits = Limits(
            refused_too=records,
            retry_seconds=spec.retry_limit,
            max_age=inf if spec.max_age is None else spec.max_age,
            failures=self._failures is not None,
        )

    async def write(self, segment: Segment, made: Converted) -> Manifest | None:
        """What the segment became, to be committed; None when it is parked."""
        trouble = _counting(self._store.trouble(segment), requests=bool(made.batches))
        if trouble.diverted_to and self._failures is not None:
            return await self._divert(self._failures, segment, made, trouble)
        if is_errors(segment.partition) and isinstance(self._sink, RecordSink):
            return await self._write_errors(segment, made, trouble)
        objects: Sequence[Object | RecordBatch] = made.batches or made.objects
        if trouble.attempts and trouble.done < len(objects):
            obj = objects[trouble.done]
            if isinstance(obj, Object):
                # Earlier attempts may have got as far as the name, unless it was refused to them.
                obj.replace = not trouble.untouched
        attempt = 0
        while trouble.done < len(objects):
            obj = objects[trouble.done]
            try:
                await self._hand_over(obj)
            except (SinkUnavailable, ObjectRefused) as error:
                attempt += 1
                untouched = isinstance(error, ObjectRefused) and isinstance(obj, Object) and not obj.replace
                if isinstance(obj, Object) and not untouched:
                    obj.replace = True
                trouble = self._met(trouble, error, untouched)
                age = self._clock.now() - (await self._blocks(segment))[-1].at
                match decide(error, trouble, self._limits, age=age, pause=self._pause(attempt)):
                    case Again(after):
                        trouble = await self._wait(segment, trouble, error, after)
                    case Divert():
                        assert self._failures is not None
                        return await self._divert(self._failures, segment, made, trouble)
                    case Park():
                        await self._park(segment, trouble, error)
                        return None
                    case Expire():
                        return self._expired(segment, made, trouble)
                    case other:
                        assert_never(other)
            else:
                trouble = replace(trouble, done=trouble.done + 1, untouched=False)
        return made.manifest

    async def tell(self, segment: Segment, manifest: Manifest) -> bool:
        """Write the manifest of what was delivered; it is tried for ever. False: it was refused, the segment parked."""
        obj = manifest_object(segment, manifest.objects)
        attempt = 0
        while True:
            try:
                await self._sink.write(obj)
                return True
            except (SinkUnavailable, ObjectRefused) as error:
                attempt += 1
                trouble = self._met(self._store.trouble(segment), error, untouched=False)
                trouble = replace(trouble, done=len(manifest.objects), requests=False)
                if isinstance(error, ObjectRefused):
                    await self._park(segment, trouble, error)
                    return False
                await self._wait(segment, trouble, error, self._pause(attempt))

    async def _hand_over(self, obj: Object | RecordBatch) -> None:
        if isinstance(obj, Object):
            await self._sink.write(obj)
        else:
            assert isinstance(self._sink, RecordSink)
            await self._sink.deliver(obj)

    def _met(self, trouble: Trouble, error: SinkUnavailable | ObjectRefused, untouched: bool) -> Trouble:
        return replace(
            trouble,
            attempts=trouble.attempts + 1,
            at=self._clock.now(),
            code=error.code,
            reason=str(error)[:MESSAGE_LIMIT],
            untouched=untouched,
        )

    def _pause(self, attempt: int) -> float:
        roll = self._chance.roll()
        return self._sink.pause(attempt, roll) if isinstance(self._sink, _Pacing) else AGAIN.delay(attempt, roll)

    async def _wait(
        self, segment: Segment, trouble: Trouble, error: SinkUnavailable | ObjectRefused, after: float
    ) -> Trouble:
        await self._store.note(segment, trouble)
        began = self._clock.now()
        self._say_failed(segment, str(error), began + after)
        logger.warning("stream %s: %s; again in %.1f s", self._name, error, after)
        await self._clock.wait(self.hurry, began + after)
        return replace(trouble, waited=trouble.waited + self._clock.now() - began)

    async def _park(self, segment: Segment, trouble: Trouble, error: SinkUnavailable | ObjectRefused) -> None:
        await self._store.note(segment, replace(trouble, parked_at=self._clock.now()))
        self._say_failed(segment, str(error), None)
        logger.error(
            "stream %s: %s is parked after %d attempts: %s; `pipeflow parked ls %s` shows it",
            self._name, segment.name, trouble.attempts, error, self._name,
        )  # fmt: skip

    def _expired(self, segment: Segment, made: Converted, trouble: Trouble) -> Manifest:
        dropped = _left(segment, made, trouble)
        logger.error(
            "stream %s: %d records of %s are dropped: they are older than max_age=%s, and %d attempts failed: %s",
            self._name, dropped, segment.name, self._limits.max_age, trouble.attempts, trouble.reason,
        )  # fmt: skip
        return Manifest(made.manifest.objects[: trouble.done], expired=dropped)

    # To the sink for failures

    async def _divert(self, failures: Sink, segment: Segment, made: Converted, trouble: Trouble) -> Manifest | None:
        """Write what is left of it as error records until that is done (Firehose: S73), under a name kept before."""
        if not trouble.diverted_to:
            trouble = replace(trouble, diverted_to=await self._failures_name(segment))
            await self._store.note(segment, trouble)
        obj = await self._undelivered(segment, made, trouble)
        refused = await self._insist(failures, segment, obj)
        if refused is not None:
            await self._park(segment, replace(trouble, diverted_to=""), refused)
            return None
        self._say_failed(segment, trouble.reason, None)
        logger.error(
            "stream %s: %s could not be delivered in %d attempts (%s); its records lie in %s, as %s",
            self._name, segment.name, trouble.attempts, trouble.reason, failures, trouble.diverted_to,
        )  # fmt: skip
        return Manifest(made.manifest.objects[: trouble.done], failed=_left(segment, made, trouble))

    async def _write_errors(self, segment: Segment, made: Converted, trouble: Trouble) -> Manifest | None:
        """Failed records of a sink that takes no objects: the sink for failures is where they belong."""
        refused: ObjectRefused | None = ObjectRefused(
            "records that failed need a sink for objects; declare the stream with failures='file://./failed'"
        )
        if self._failures is not None:
            (obj,) = made.objects
            refused = await self._insist(self._failures, segment, obj)
        if refused is None:
            return Manifest([])
        await self._park(segment, self._met(trouble, refused, False), refused)
        return None

    async def _insist(self, failures: Sink, segment: Segment, obj: Object) -> ObjectRefused | None:
        """Write it, however long that takes (Firehose: S73); why it was refused, if it was."""
        attempt = 0
        while True:
            try:
                await failures.write(obj)
                return None
            except SinkUnavailable as error:
                attempt += 1
                after = AGAIN.delay(attempt, self._chance.roll())
                self._say_failed(segment, str(error), self._clock.now() + after)
                logger.warning(
                    "stream %s: neither its sink nor that for failures works (%s); again in %.1f s",
                    self._name, error, after,
                )  # fmt: skip
                await self._clock.wait(self.hurry, self._clock.now() + after)
            except ObjectRefused as error:
                return error

    async def _failures_name(self, segment: Segment) -> str:
        stats = await self._store.stats()
        return self._layout.name(
            ERRORS,
            first=segment.first,
            last=segment.last,
            opened_at=segment.opened_at,
            store_id=stats.store_id,
            boot=None if self._durable else stats.boot,
            error_type=self._error_type,
            format=segment.format,
            compression=segment.compression,
        )

    async def _undelivered(self, segment: Segment, made: Converted, trouble: Trouble) -> Object:
        if made.batches:
            blocks = [block for batch in made.batches[trouble.done :] for block in batch.blocks]
        elif is_errors(segment.partition) or trouble.done:
            # These are error records already, ready to be written.
            obj = made.objects[trouble.done]
            return Object(trouble.diverted_to, obj.chunks, obj.records)
        else:
            blocks = await self._blocks(segment)
        content = await anyio.to_thread.run_sync(
            _error_lines, segment, blocks, trouble, self._error_type == UNANSWERED, abandon_on_cancel=True
        )
        return Object(trouble.diverted_to, [content], _left(segment, made, trouble))

    async def _blocks(self, segment: Segment) -> list[Records]:
        return [block async for block in self._store.read(segment)]

    def _say_failed(self, segment: Segment, reason: str, again_at: float | None) -> None:
        self._on_failure()
        if self._observers:
            self._observers.emit(DeliveryFailed(self._clock.now(), self._name, segment.name, reason, again_at))


def _counting(trouble: Trouble, *, requests: bool) -> Trouble:
    """As it stands before a sink of this kind: one that was declared in place of the other kind has nothing of it."""
    return trouble if trouble.requests == requests else replace(trouble, done=0, requests=requests)


def _left(segment: Segment, made: Converted, trouble: Trouble) -> int:
    """Records that the sink does not have."""
    if not trouble.done:
        return segment.records
    if made.batches:
        return sum(batch.records for batch in made.batches[trouble.done :])
    return made.manifest.failed  # behind the object of those that fit comes that of those that did not


def _error_record(
    segment: Segment, trouble: Trouble, at: float, sequence: int, body: bytes, http: bool
) -> _Undelivered:
    shared = (
        trouble.attempts,
        round(at * 1000),
        trouble.code,
        trouble.reason,
        round(trouble.at * 1000),
        b64encode(body).decode(),
    )
    if not http:
        return _Undelivered(*shared)
    return _Unanswered(*shared, subsequenceNumber=str(sequence), dataId=f"{segment.name}/{sequence}")


def _error_lines(segment: Segment, blocks: Sequence[Records], trouble: Trouble, http: bool) -> bytes:
    """The records one JSON object a line, compressed like all errors of the stream. For worker threads."""
    lines = [
        msgspec.json.encode(_error_record(segment, trouble, block.at, block.first + n, body, http))
        for block in blocks
        for n, body in enumerate(block.bodies)
    ]
    lines.append(b"")
    content = b"\n".join(lines)
    if segment.format in COLUMNAR:
        return content
    return compressor(segment.compression, segment.compression_level)(content, trouble.diverted_to)
