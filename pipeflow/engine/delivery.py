"""One stream's way out: intake > transform > buffers > seal > convert and compress > sink > commit.

Segments are written one after another in the order of sealing; `writing` says what becomes of one that the sink does
not take. Nothing here holds up a queue; the bound of the stream does that for whoever fills it.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import Protocol, runtime_checkable

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from msgspec import Struct

from pipeflow.clock import Clock, Signal
from pipeflow.engine.ahead import ahead, cores
from pipeflow.engine.compaction import Compactor, readable
from pipeflow.engine.deriving import Deriving
from pipeflow.engine.plan import DeliveryPlan
from pipeflow.engine.supervise import spawn
from pipeflow.engine.writing import Writer
from pipeflow.errors import ObjectRefused, SinkError
from pipeflow.events import Delivered, Observers
from pipeflow.formats.convert import Converted, convert, ready
from pipeflow.messages import Manifest, Segment
from pipeflow.names import Chance
from pipeflow.protocols import Catalogue, RecordBatch, RecordSink, Sink, Store, SweepingSink
from pipeflow.sinks.objects import belongs, is_errors, store_mark
from pipeflow.specs import COLUMNAR, TABULAR

logger = logging.getLogger("pipeflow")

INLINE = 32 << 10
"""Bytes that are encoded on the loop: compressing them takes less than going to a thread and back."""

INLINE_PLAIN = 256 << 10
"""The same where nothing is compressed: joining holds the interpreter, in a thread too. 500 partitions of 131 KB each:
100 us an object, 180 through a thread (benchmarks/partitions.py)."""


class _Slot(Struct):
    """A sealed segment on its way; `made` when it is converted."""

    segment: Segment
    made: Converted | None = None


@runtime_checkable
class _Preparing(Protocol):
    def prepare(self) -> None: ...


class Delivery:
    """The tasks of one stream in the process that owns the store."""

    def __init__(
        self,
        plan: DeliveryPlan,
        *,
        store: Store,
        sink: Sink,
        failures: Sink | None = None,
        clock: Clock,
        chance: Chance,
        observers: Observers,
    ) -> None:
        # A missing package or a directory that cannot be written is told before the first record.
        ready(plan.spec)
        for each in (sink, failures):
            if isinstance(each, _Preparing):
                each.prepare()
        self.plan = plan
        self.name = plan.spec.name
        self.sink = sink
        self._store = store
        self._clock = clock
        self._observers = observers
        self._failures = failures
        self._writer = Writer(
            plan.spec,
            store=store,
            sink=sink,
            failures=failures,
            clock=clock,
            chance=chance,
            observers=observers,
            on_failure=self._on_failure,
        )
        self._deriving = Deriving(plan, store, clock, chance)
        if plan.spec.manifest:
            readable(plan.spec, sink)
        self._compactor: Compactor | None = None
        self._catalogue: Catalogue | None = None
        self._durable = store.features.durable and plan.spec.durability != "memory"
        self._started_at = 0.0
        self._ripe = Signal()
        self._aged = Signal()
        self._ahead = ahead(plan.spec.format, plan.spec.columns, cores())
        self._line: deque[_Slot] = deque()
        """Segments in the order of their sealing, which is the order of their writing."""
        self._tasks: TaskGroup
        self._filled = Signal()
        self._emptied = Signal()
        self._draining = False
        self._drained = Signal()
        self._given_up = False

    def start(self, tasks: TaskGroup) -> None:
        """Run until the task group is cancelled; segments in hand are then given back to the store."""
        self._started_at = self._clock.now()
        self._tasks = tasks
        self._store.delivering(self.name, True)
        self._catalogue = self._store.catalogue(self.name)
        if self.plan.spec.manifest and self._catalogue is not None:
            sink = readable(self.plan.spec, self.sink)
            self._compactor = Compactor(self.plan.spec, self._catalogue, sink, self._clock)
            self._catalogue.serve(self._compactor.run)
        spawn(tasks, self._clock, self._listen, f"stream {self.name}: listen")
        spawn(tasks, self._clock, self._seal, f"stream {self.name}: seal")
        spawn(tasks, self._clock, self._write, f"stream {self.name}: write")
        if self._deriving.needed:
            spawn(tasks, self._clock, self._deriving.run, f"stream {self.name}: derive")
        if self.plan.spec.max_age is not None:
            spawn(tasks, self._clock, partial(self._expire, self.plan.spec.max_age), f"stream {self.name}: expire")

    async def close(self) -> None:
        """Let go of the sinks."""
        await self.sink.close()
        if self._failures is not None and self._failures is not self.sink:
            await self._failures.close()

    async def drain(self, until: float) -> bool:
        """Deliver everything accepted so far, at most until then. True: done.

        What a durable stream could not deliver stays in the store; so the first failure of its sink ends the wait.
        """
        self._draining = True
        self._store.demand(self.name, "drain")
        self._writer.hurry.fire()
        done = False

        async def finish() -> None:
            nonlocal done
            try:
                await self._store.delivered(self.name)
                done = True
            except ObjectRefused as error:
                logger.error("%s", error)
                self._given_up = True
            self._drained.fire()

        async with anyio.create_task_group() as tasks:
            spawn(tasks, self._clock, finish, f"stream {self.name}: drain")
            while not done and not self._given_up:
                if not await self._clock.wait(self._drained, until):
                    break
            tasks.cancel_scope.cancel()
        if not done and not self._durable and await self._holds_records():
            logger.error(
                "stream %s: %s did not take everything in time; what was buffered is lost", self.name, self.sink
            )
        return done

    async def _holds_records(self) -> bool:
        stats = await self._store.stats()
        return any(stream.buffered for stream in stats.streams if stream.name == self.name)

    async def _listen(self) -> None:
        signal, _ = self._store.ripens(self.name)
        while True:
            await self._clock.wait(signal)
            self._ripe.fire()
            self._deriving.arrived.fire()
            self._aged.fire()

    async def _expire(self, max_age: float) -> None:
        while True:
            await self._clock.wait(self._aged, await self._store.expire(self.name, max_age))

    # From buffers to objects

    async def _seal(self) -> None:
        await self._sweep()
        await self._keep_files()
        while True:
            while len(self._line) >= self._ahead:
                await self._clock.wait(self._emptied)
            segment = await self._store.seal(self.name)
            if segment is None:
                await self._clock.wait(self._ripe, self._store.ripens(self.name)[1])
                continue
            slot = _Slot(segment)
            self._line.append(slot)
            if _is_quick(segment):
                await self._encode(slot)
            else:
                spawn(self._tasks, self._clock, partial(self._encode, slot), f"stream {self.name}: encode")

    async def _sweep(self) -> None:
        sweeping = [sink for sink in (self.sink, self._failures) if isinstance(sink, SweepingSink)]
        if not sweeping:
            return
        mine = belongs(self.name, store_mark((await self._store.stats()).store_id))
        for sink in sweeping:
            try:
                await sink.sweep(mine, rewritten=self.plan.spec.durability != "memory")
            except SinkError as error:
                logger.warning("stream %s: leftovers of earlier runs stay: %s", self.name, error)

    async def _keep_files(self) -> None:
        if self._compactor is None:
            return
        try:
            await self._compactor.adopt()
        except SinkError as error:
            logger.warning("stream %s: files delivered before manifest=True are not told of: %s", self.name, error)
        spawn(self._tasks, self._clock, self._compactor.keep_up, f"stream {self.name}: compact")

    async def _encode(self, slot: _Slot) -> None:
        segment = slot.segment
        blocks = [block async for block in self._store.read(segment)]
        # Sealed before this delivery began: an object of its name may be there already, and is its own.
        again = segment.sealed_at <= self._started_at
        if isinstance(self.sink, RecordSink) and not is_errors(segment.partition):
            batch = RecordBatch(segment.name, segment.stream, segment.sealed_at, blocks, segment.delimiter)
            slot.made = Converted([], Manifest([]), self.sink.split(batch))
        elif _is_quick(segment):
            slot.made = convert(segment, blocks, again)
        else:
            slot.made = await anyio.to_thread.run_sync(convert, segment, blocks, again, abandon_on_cancel=True)
        self._filled.fire()

    async def _write(self) -> None:
        try:
            while True:
                while not self._line or self._line[0].made is None:
                    await self._clock.wait(self._filled)
                await self._deliver(self._line[0].segment, self._line[0].made)
                self._line.popleft()
                self._emptied.fire()
        finally:
            for slot in self._line:
                self._store.hand_back(slot.segment)
            if self._catalogue is not None:
                self._catalogue.serve(None)
            self._store.delivering(self.name, False)

    async def _deliver(self, segment: Segment, made: Converted) -> None:
        """Write the segment's objects until the sink has them, then forget its records."""
        manifest = await self._writer.write(segment, made)
        if manifest is None:
            return
        if segment.manifest_name and manifest.objects and not await self._writer.tell(segment, manifest):
            return
        await self._store.commit(segment, manifest)
        if self._compactor is not None:
            self._compactor.delivered(segment.partition)
        if self._observers and (manifest.objects or not manifest.failed + manifest.expired):
            self._observers.emit(
                Delivered(
                    at=self._clock.now(),
                    stream=self.name,
                    partition="errors" if is_errors(segment.partition) else segment.partition,
                    reason=segment.reason,
                    records=segment.records,
                    size=segment.size,
                    objects=manifest.objects,
                    seconds=self._clock.now() - segment.sealed_at,
                )
            )

    def _on_failure(self) -> None:
        """A drain waits for no sink that fails where the store keeps the records."""
        if self._draining and self._durable:
            self._given_up = True
            self._drained.fire()


def _is_quick(segment: Segment) -> bool:
    if segment.format in COLUMNAR or segment.compression_level is not None:
        return False  # a level of one's own may take long, however little it is
    plain = segment.compression == "none" and segment.format not in TABULAR
    return segment.size <= (INLINE_PLAIN if plain else INLINE)
