"""What a stream delivered is read back and published again, each record once.

A replay has a name, under which its position is kept like a source's: it commits with the messages it belongs to. So
after a stop anywhere, the same replay asked for again goes on exactly there. It covers the files that lay in the sink
when it began; files that are delivered or merged meanwhile change nothing about it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from hashlib import sha256
from math import inf
from typing import Literal

import anyio.to_thread
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from pipeflow.checksum import crc32
from pipeflow.clock import Clock, Signal
from pipeflow.engine.supervise import AGAIN
from pipeflow.errors import (
    ConfigurationError,
    NotFound,
    ObjectDamaged,
    ObjectMissing,
    RefusedError,
    SinkUnavailable,
    SpecConflict,
)
from pipeflow.files import FileFacts, FileQuery, check_span
from pipeflow.filters import compile_filter
from pipeflow.formats.reading_back import Shape, checked, count, records, unreadable
from pipeflow.messages import AttributeValue, Outgoing, Position, Refused, Sent
from pipeflow.protocols import ReadableSink, Sink, Store
from pipeflow.registry import open_sink
from pipeflow.sinks.manifest import shape_of
from pipeflow.specs import FilterPolicy, StreamSpec, Topology

CHUNK = 500
"""Records of one commit, at most ..."""

CHUNK_BYTES = 4 << 20
"""... and their bytes, about."""

TRIES = 6
"""How often a sink is asked that cannot be read now."""

MARK = "replayed"
"""The attribute that tells a replayed message from a first one: the stream it was read back from."""


class Target(Struct, frozen=True):
    """Where records go."""

    kind: Literal["topic", "queue", "stream"]
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


class Replay(Struct, frozen=True):
    """Which records are published again, and how."""

    stream: str
    to: Target
    first: int = 0
    """From this sequence ..."""
    last: int | None = None
    """... to this one. Of csv, Parquet and ORC, and of partitioned streams: whole files that have some of them."""
    since: float | None = None
    """Whole files that may hold records which arrived at this time or later ..."""
    until: float | None = None
    """... and until this one."""
    asked: str = ""
    """How these times were written, where that means another time each time: then this names the replay."""
    partition: str | None = None
    where: FilterPolicy | None = None
    """Only records that this policy on bodies takes."""
    errors: bool = False
    """The failed records in place of the others, as they came."""
    attributes: dict[str, AttributeValue] = {}
    group: str | None = None
    """The message group, which a FIFO target needs."""
    name: str = ""
    """Under what its position is kept; none: one that follows from everything above."""
    again: bool = False
    """From the beginning, though a replay of this name was begun or done."""
    rate: float | None = None
    """Records a second, at most."""
    skip_damaged: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        check_span(self.first, self.last, self.since, self.until, f"replay of {self.stream}")

    @property
    def source(self) -> str:
        """The name of its position."""
        if self.name:
            return f"replay/{self.name}"
        times = (None, None) if self.asked else (self.since, self.until)
        same = replace(self, since=times[0], until=times[1], again=False, rate=None, skip_damaged=False, dry_run=False)
        asked = msgspec.json.encode(same)
        return f"replay/{self.stream}/{self.to}/{sha256(asked).hexdigest()[:12]}"


class Replayed(Struct, frozen=True):
    """What a replay did."""

    stream: str
    to: str
    files: int
    """It covers so many ..."""
    records: int
    """... with so many records."""
    before: int
    """Published by earlier runs of this replay ..."""
    published: int
    """... and by this one."""
    skipped: list[str]
    """Files that were damaged or missing."""
    dry_run: bool = False


class _At(Struct, frozen=True, array_like=True):
    """How far a replay came."""

    asked_at: float
    """It covers the files that were delivered until then and had not been replaced by then."""
    files: int = 0
    records: int = 0
    names: int = 0
    """CRC-32 of their names."""
    since: float | None = None
    until: float | None = None
    published: int = 0
    file: tuple[int, str] = (0, "")
    index: int = 0
    """Records of that file that are behind it."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_At).decode


async def replayed(replay: Replay, store: Store, clock: Clock, sink: Sink | None = None) -> Replayed:
    """Publish what is left of a replay. `sink`: the stream's own where it is open; else it is opened by its URL.

    ConfigurationError, NotFound: it cannot be done as asked. RefusedError: the target does not take a record.
    ObjectDamaged, ObjectMissing: a file is not what it was. SpecConflict: files of a replay begun earlier are gone.
    """
    topology = await store.describe()
    spec = _found(replay.stream, topology)
    fifo = _checked(replay, topology)
    own = open_sink(spec.sink) if sink is None else sink
    try:
        if not isinstance(own, ReadableSink):
            raise ConfigurationError(
                f"stream {spec.name}: its sink {spec.shown_sink} does not give back what it took; only sinks such as "
                "file:// and s3:// are replayed from"
            )
        return await _Replaying(replay, spec, fifo, store, own, clock).run()
    finally:
        if sink is None:
            await own.close()


class _Replaying:
    """One run of a replay."""

    def __init__(
        self, replay: Replay, spec: StreamSpec, fifo: bool, store: Store, sink: ReadableSink, clock: Clock
    ) -> None:
        self._replay = replay
        self._spec = spec
        self._fifo = fifo
        self._store = store
        self._sink = sink
        self._clock = clock
        self._at: _At
        self._before = 0
        self._skipped: list[str] = []
        self._kept: bytes | None = None
        """The position as the store has it."""
        self._due = -inf
        self._takes = compile_filter(replay.where) if replay.where is not None else None
        self._merged_at: dict[str, float] = {}

    async def run(self) -> Replayed:
        """Publish what is left of it."""
        replay = self._replay
        kept = await self._store.position(replay.source)
        covered, files = await self._covered(_decode(kept) if kept is not None and not replay.again else None)
        self._kept = kept
        self._at = covered
        self._before = covered.published
        if not replay.dry_run:
            for file in files:
                behind = file.cursor < covered.file or (file.cursor == covered.file and covered.index >= file.records)
                if not behind:
                    await self._publish_file(file)
        return Replayed(
            replay.stream,
            str(replay.to),
            covered.files,
            covered.records,
            self._before,
            self._at.published - self._before,
            self._skipped,
            replay.dry_run,
        )

    # Which files

    async def _covered(self, known: _At | None) -> tuple[_At, list[FileFacts]]:
        """The position to go on from, and all files it covers; a new one covers what is there now.

        They are listed once, before the first is read: one that the catalogue forgets meanwhile is then missed.
        """
        at = known or _At(-inf, since=self._replay.since, until=self._replay.until)
        if known is None:
            # Until the newest change that shows, not until now: an earlier one may be on its way into the store.
            async for file in self._matching(at):
                at = replace(at, asked_at=max(at.asked_at, file.delivered_at, file.retired_at or -inf))
        files = [file async for file in self._matching(at) if await self._covers(at, file)]
        names = 0
        for file in files:
            names = crc32(file.name.encode(), names)
        now = replace(at, files=len(files), records=sum(file.records for file in files), names=names)
        if known is not None and now != known:
            raise SpecConflict(
                f"replay {self._replay.source} cannot go on: of the {at.files} files with {at.records} records that it "
                "began with some were merged into new ones and deleted since. "
                f"{at.published} records were published: begin anew with --again, from where that is right"
            )
        return now, files

    async def _covers(self, at: _At, file: FileFacts) -> bool:
        """Whether this was the file to read when the replay began."""
        if file.retired_at is not None and file.retired_at <= at.asked_at:
            return False
        return await self._since(file) <= at.asked_at

    async def _since(self, file: FileFacts) -> float:
        """When it was there to be read: a merged one from when those that it was made of were retired."""
        if not file.generation:
            return file.delivered_at
        known = self._merged_at.get(file.name)
        if known is None:
            query = FileQuery(file.first, file.last, partition=file.partition, retired=True)
            known = -inf  # those it was made of are long gone
            async for each in self._pages(query):
                inside = file.first <= each.first and each.last <= file.last and each.kind == file.kind
                if inside and each.generation < file.generation and each.retired_at is not None:
                    known = max(known, each.retired_at)
            self._merged_at[file.name] = known
        return known

    async def _matching(self, at: _At) -> AsyncIterator[FileFacts]:
        replay = self._replay
        kind = "errors" if replay.errors else "rows"
        query = FileQuery(replay.first, replay.last, at.since, at.until, replay.partition, retired=True)
        async for file in self._pages(query):
            if file.kind == kind:
                yield file

    async def _pages(self, query: FileQuery) -> AsyncIterator[FileFacts]:
        while True:
            page = await self._store.files(self._replay.stream, query)
            for file in page:
                yield file
            if len(page) < query.limit:
                return
            query = replace(query, after=page[-1].cursor)

    # One file

    async def _publish_file(self, file: FileFacts) -> None:
        shape = self._shape(file)
        try:
            content = await self._content(file)
            found = await anyio.to_thread.run_sync(count, content, shape)
            if found != file.records:
                raise ObjectDamaged(
                    f"it reads as {found} records, and {file.records} were written; some hold {shape.delimiter!r}, "
                    "which is to stand between them"
                )
        except (ObjectDamaged, ObjectMissing) as error:
            merged = "; it may have been merged into a larger one" if isinstance(error, ObjectMissing) else ""
            told = f"stream {self._replay.stream}: file {file.name} in {self._spec.shown_sink}: {error}{merged}"
            if not self._replay.skip_damaged:
                raise type(error)(f"{told}; repair it, or go on without it: --skip-damaged") from error
            self._skipped.append(file.name)
            return
        start = self._at.index if file.cursor == self._at.file else 0
        index = 0
        batches = records(content, shape)
        while (batch := await anyio.to_thread.run_sync(next, batches, None)) is not None:
            if index + len(batch) > start:
                wanted = await anyio.to_thread.run_sync(self._wanted, file, batch, index, start)
                await self._publish_all(file, wanted)
            index += len(batch)

    def _wanted(self, file: FileFacts, batch: Sequence[bytes], index: int, start: int) -> list[tuple[int, bytes]]:
        """Those that are asked for, with their index in the file. For worker threads."""
        wanted = [(n, body) for n, body in enumerate(batch, index) if n >= start and self._is_asked_for(file, n)]
        takes = self._takes
        return wanted if takes is None else [(n, body) for n, body in wanted if takes(body, {})]

    async def _publish_all(self, file: FileFacts, wanted: list[tuple[int, bytes]]) -> None:
        for chunk in _chunks(wanted, self._limit()):
            await self._pace(len(chunk))
            await self._publish(file, chunk)

    def _is_asked_for(self, file: FileFacts, index: int) -> bool:
        # Elsewhere nothing says which sequence a record has: it may be a row of several, or one of several partitions.
        one_by_one = file.records == file.last - file.first + 1
        if not one_by_one or file.format not in ("jsonl", "raw") or file.kind == "errors":
            return True
        sequence = file.first + index
        return self._replay.first <= sequence <= (self._replay.last or sequence)

    def _shape(self, file: FileFacts) -> Shape:
        spec = self._spec
        if file.kind == "errors":
            return Shape("jsonl", file.compression, errors=True)
        format = file.format or spec.format
        delimiter = spec.separator
        if file.shape and format in ("jsonl", "raw"):
            likely = [each for each in (delimiter, b"\n", b"") if shape_of(each, ()) == file.shape]
            if not likely:
                raise SpecConflict(
                    f"stream {spec.name}: file {file.name} was written with another delimiter than {delimiter!r}, "
                    "which the stream has now; declare it with that one again to replay the file"
                )
            delimiter = likely[0]
        shape = Shape(format, file.compression or spec.compression, delimiter, spec.columns)
        reason = unreadable(shape)
        if reason is not None:
            raise ConfigurationError(f"stream {spec.name}: file {file.name} cannot be replayed: {reason}")
        return shape

    async def _content(self, file: FileFacts) -> bytes:
        attempt = 0
        while True:
            attempt += 1
            try:
                content = await self._sink.read(file.name)
                break
            except SinkUnavailable:
                if attempt >= TRIES:
                    raise
                await self._clock.wait(Signal(), self._clock.now() + AGAIN.delay(attempt, 1.0))
        return await anyio.to_thread.run_sync(partial(checked, content, size=file.size, crc=file.crc))

    # Publishing

    def _limit(self) -> int:
        rate = self._replay.rate
        return CHUNK if rate is None else max(1, min(CHUNK, int(rate / 4)))

    async def _pace(self, size: int) -> None:
        """Wait until so many records more are within the rate."""
        if self._replay.rate is None:
            return
        now = self._clock.now()
        self._due = max(self._due, now)
        if self._due > now:
            await self._clock.wait(Signal(), self._due)
        self._due += size / self._replay.rate

    async def _publish(self, file: FileFacts, chunk: Sequence[tuple[int, bytes]]) -> None:
        replay = self._replay
        if await self._store.position(replay.source) != self._kept:
            raise ConfigurationError(
                f"replay {replay.source} runs somewhere else at the same time; wait for it, or stop it, then go on"
            )
        messages: list[Outgoing] = []
        at = self._at
        for index, body in chunk:
            at = replace(at, published=at.published + 1, file=file.cursor, index=index + 1)
            messages.append(self._message(file, index, body, at))
        answers = await self._send(messages)
        for (index, _), answer in zip(chunk, answers, strict=True):
            if isinstance(answer, Refused):
                raise RefusedError(
                    answer.code,
                    f"replay of stream {replay.stream} stopped at record {index} of file {file.name}: {answer.reason}",
                )
        self._at = at
        last = messages[-1].checkpoint
        assert last is not None
        self._kept = last[1]

    def _message(self, file: FileFacts, index: int, body: bytes, at: _At) -> Outgoing:
        replay = self._replay
        checkpoint = (replay.source, _encode(at))
        if replay.to.kind == "stream":
            return Outgoing(body, checkpoint=checkpoint)
        return Outgoing(
            body,
            {**replay.attributes, MARK: replay.stream},
            group=replay.group,
            # Of this run, file and record: a FIFO target wants one, and a second replay is no duplicate of the first.
            dedup_id=f"{at.asked_at:.3f}-{file.crc:08x}-{file.first}-{index}" if self._fifo else None,
            checkpoint=checkpoint,
        )

    async def _send(self, messages: list[Outgoing]) -> Sequence[Sent | Position | Refused]:
        match self._replay.to:
            case Target("topic", name):
                return await self._store.publish(name, messages)
            case Target("queue", name):
                return await self._store.send(name, messages)
            case Target(_, name):
                return await self._store.append(name, messages)


def _chunks(wanted: list[tuple[int, bytes]], limit: int) -> Iterator[list[tuple[int, bytes]]]:
    chunk: list[tuple[int, bytes]] = []
    size = 0
    for item in wanted:
        chunk.append(item)
        size += len(item[1])
        if len(chunk) >= limit or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _found(stream: str, topology: Topology) -> StreamSpec:
    for spec in topology.streams:
        if spec.name == stream:
            return spec
    raise NotFound(f"no stream {stream!r}; there are {', '.join(spec.name for spec in topology.streams) or 'none'}")


def _checked(replay: Replay, topology: Topology) -> bool:
    """Whether the target is FIFO; ConfigurationError or NotFound when it cannot be replayed to."""
    to = replay.to
    known = {
        "topic": {spec.name: spec.fifo for spec in topology.topics},
        "queue": {spec.name: spec.fifo for spec in topology.queues},
        "stream": {spec.name: False for spec in topology.streams},
    }[to.kind]
    if to.name not in known:
        raise NotFound(f"no {to.kind} {to.name!r} to replay to; there are {', '.join(known) or 'none'}")
    if to == Target("stream", replay.stream) and not replay.errors:
        raise ConfigurationError(
            f"stream {replay.stream}: a replay into itself would deliver every record a second time; name another "
            "stream, or replay its failed records"
        )
    if replay.errors and replay.partition is not None:
        raise ConfigurationError(
            f"stream {replay.stream}: failed records are kept beside all partitions; leave the partition off"
        )
    if replay.where is not None and replay.where.scope != "body":
        raise ConfigurationError(
            f"replay of stream {replay.stream}: records have no attributes to choose by; use where_body(...)"
        )
    if replay.rate is not None and not replay.rate > 0:
        raise ConfigurationError(f"replay of stream {replay.stream}: rate is {replay.rate}; use more than 0")
    if known[to.name] and replay.group is None:
        raise ConfigurationError(f"{to} is FIFO: name the group of the replayed messages")
    return known[to.name]
