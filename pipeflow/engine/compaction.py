"""Small files become large ones, which readers of manifests see in one step, whatever dies meanwhile.

    plan > begin (journal, synced) > write the merged files > write the swap manifest > finish (journal)
    ... some time later > delete the manifests and the files whose place was taken > forget them (journal)

Until the swap is there its readers see the small files, from then on the large one. It adds every file of its partition
that counts, so that the manifests before it can go: a partition with nothing new has one. After a crash what was begun
is done again under the same names; where the swap is there already, only the journal is told. Manifests are deleted in
the order of their ids, so the one that removes a file outlives every one that adds it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence

import anyio.to_thread
from msgspec.structs import replace

from pipeflow.checksum import crc32
from pipeflow.clock import Clock, Signal
from pipeflow.engine.planning import PLANNED_FOR, plan
from pipeflow.errors import ConfigurationError, MissingExtra, ObjectDamaged, ObjectMissing, ObjectRefused, SinkError
from pipeflow.files import (
    Compaction,
    CompactReport,
    CompactRequest,
    FileFacts,
    FileQuery,
    Merge,
    Merged,
)
from pipeflow.formats.merging import merging
from pipeflow.formats.reading_back import checked
from pipeflow.protocols import Catalogue, Object, ReadableSink, Sink
from pipeflow.sinks import manifest
from pipeflow.sinks.objects import store_mark
from pipeflow.specs import StreamSpec

logger = logging.getLogger("pipeflow")

EVERY = 600.0
"""Seconds between two looks at a stream with target_bytes. Each byte is rewritten a few times at most, see `plan`."""

MANIFESTS = 100
"""Manifests of one partition at which they become one, also when there is nothing to merge."""

MERGES = 32
"""Merges of one swap: it tells of the whole partition, and so costs as much for one as for all."""


def readable(spec: StreamSpec, sink: Sink) -> ReadableSink:
    """The sink, if files in it can be merged; ConfigurationError names what is missing."""
    if not spec.manifest:
        raise ConfigurationError(
            f"stream {spec.name}: without manifests readers would see merged records twice; declare it with "
            "manifest=True"
        )
    if not isinstance(sink, ReadableSink):
        raise ConfigurationError(
            f"stream {spec.name}: manifest=True needs a sink that gives back what it took, such as file:// or s3://; "
            f"{spec.shown_sink} does not"
        )
    return sink


class Compactor:
    """Merges the small files of one stream. One call runs at a time."""

    def __init__(self, spec: StreamSpec, catalogue: Catalogue, sink: ReadableSink, clock: Clock) -> None:
        self._spec = spec
        self._name = spec.name
        self._catalogue = catalogue
        self._sink = sink
        self._clock = clock
        self._running = asyncio.Lock()
        self._odd: set[str] = set()
        """Files that did not read back as they were delivered: they are left alone."""
        self._fresh: set[str] | None = None
        """Partitions with files that `keep_up` has not looked at; None: all of them."""

    def delivered(self, partition: str) -> None:
        """There is a new file."""
        if self._fresh is not None:
            self._fresh.add(partition)

    async def run(self, request: CompactRequest) -> CompactReport:
        """Merge what there is to merge, and delete what was merged away long enough ago.

        SinkUnavailable: what was done stays, what was begun is gone on with at the next call.
        """
        target = request.target or self._spec.target_bytes
        if target is None:
            raise ConfigurationError(
                f"stream {self._name}: how large may a merged file be? Pass --target 128MiB (target=), or declare the "
                "stream with target_bytes="
            )
        return await self._all(request, target, eager=True)

    async def keep_up(self) -> None:
        """For ever: look every ten minutes for files that are worth merging, and for manifests that have become many.

        What fails is logged and tried at the next look.
        """
        while True:
            fresh, self._fresh = self._fresh, set()
            try:
                await self._all(CompactRequest(), self._spec.target_bytes or 0, eager=False, partitions=fresh)
            except SinkError as error:
                self._fresh = None
                logger.warning("stream %s: small files stay as they are for now: %s", self._name, error)
            await self._clock.wait(Signal(), self._clock.now() + EVERY)

    async def adopt(self) -> None:
        """Tell readers of partitions whose files no manifest tells of: they were delivered without.

        All of it is begun before any is done: what fails is gone on with at the next look, whatever is delivered there
        meanwhile.
        """
        async with self._running:
            told = {each.partition for each in await self._catalogue.manifests()}
            told.update(each.partition for each in await self._catalogue.pending())
            untold = [each for each in await self._catalogue.partitions() if each not in told]
            begun = [await self._begun(partition, []) for partition in untold]
            for compaction in filter(None, begun):
                await self._complete(compaction)

    async def _all(
        self, request: CompactRequest, target: int, *, eager: bool, partitions: set[str] | None = None
    ) -> CompactReport:
        async with self._running:
            merged: list[Merged] = []
            if not request.dry_run:
                for compaction in await self._catalogue.pending():
                    merged += await self._complete(compaction)
            for partition in sorted(await self._catalogue.partitions() if partitions is None else partitions):
                merged += await self._partition(partition, request, target, eager)
            deleted = 0
            if not request.dry_run:
                await self._collect()
                deleted = await self._delete(self._clock.now() - request.keep)
            return CompactReport(merged, deleted, len(await self._catalogue.manifests()))

    # One partition

    async def _partition(self, partition: str, request: CompactRequest, target: int, eager: bool) -> list[Merged]:
        done: list[Merged] = []
        before = self._clock.now() - request.older_than
        after: tuple[int, str] | None = None
        found = 0
        while True:
            files, after = await self._some(partition, target, after)
            merges = plan(
                self._name,
                files,
                target,
                eager=eager,
                leave=lambda file: file.delivered_at > before or file.name in self._odd,
            )
            found += len(merges)
            if request.dry_run:
                done += [_merged(partition, merge) for merge in merges]
            else:
                for start in range(0, len(merges), MERGES):
                    done += await self._swap(partition, merges[start : start + MERGES])
            if after is not None:
                continue
            if not eager or request.dry_run or not found:
                break
            found = 0  # what came of many tiny files may be small itself
        return done

    async def _some(
        self, partition: str, target: int, after: tuple[int, str] | None
    ) -> tuple[list[FileFacts], tuple[int, str] | None]:
        """The next files up to a bound, and where to go on; None: that was all."""
        files: list[FileFacts] = []
        while target:
            page = await self._catalogue.files(FileQuery(partition=partition, after=after))
            files += page
            if len(page) < FileQuery().limit:
                break
            after = page[-1].cursor
            if len(files) >= PLANNED_FOR:
                return files, after
        return files, None

    async def _collect(self) -> None:
        """Where manifests have become many, one takes their place."""
        counts = Counter(each.partition for each in await self._catalogue.manifests() if each.replaced_at is None)
        for partition, count in counts.items():
            if count > MANIFESTS:
                await self._swap(partition, [])

    async def _swap(self, partition: str, merges: Sequence[Merge]) -> list[Merged]:
        """Begin a compaction and complete it."""
        compaction = await self._begun(partition, merges)
        return [] if compaction is None else await self._complete(compaction)

    async def _begun(self, partition: str, merges: Sequence[Merge]) -> Compaction | None:
        """A compaction that whoever comes next completes; None: the partition has no files."""
        files = await self._live(partition)
        if not files:
            return None
        id = self._catalogue.new_id()
        compaction = Compaction(
            id=id,
            stream=self._name,
            partition=partition,
            merges=list(merges),
            manifest=manifest.manifest_name(
                self._name,
                first=files[0].first,
                last=max(file.last for file in files),
                id=id,
                store_id=self._catalogue.store_id,
                boot=self._catalogue.boot,
            ),
            replaces=[
                each.id for each in await self._catalogue.manifests()
                if each.partition == partition and each.replaced_at is None
            ],
            level=self._level(merges),
        )  # fmt: skip
        await self._catalogue.begin(compaction)
        return compaction

    def _level(self, merges: Sequence[Merge]) -> int | None:
        spec = self._spec
        same = all(merge.inputs[0].compression == spec.compression for merge in merges)
        return spec.compression_level if same else None

    async def _live(self, partition: str) -> list[FileFacts]:
        files: list[FileFacts] = []
        query = FileQuery(partition=partition)
        while True:
            page = await self._catalogue.files(query)
            files += page
            if len(page) < query.limit:
                return files
            query = replace(query, after=page[-1].cursor)

    # One compaction

    async def _complete(self, compaction: Compaction) -> list[Merged]:
        """Do what was begun, from wherever it stands."""
        outputs = await self._swapped(compaction)
        if outputs is None:
            try:
                outputs = [await self._merge(merge, compaction.level) for merge in compaction.merges]
            except (ObjectMissing, ObjectRefused, MissingExtra) as error:
                await self._give_up(compaction, error)
                return []
            await self._write_swap(compaction, outputs)
        await self._catalogue.finish(compaction, outputs)
        done = [
            _merged(compaction.partition, merge, output.size)
            for merge, output in zip(compaction.merges, outputs, strict=True)
        ]
        for each in done:
            logger.info("stream %s: %d files became %s", self._name, each.files, each.output)
        return done

    async def _swapped(self, compaction: Compaction) -> list[FileFacts] | None:
        """The merged files, where an earlier process got as far as the swap."""
        try:
            told = manifest.decode(await self._sink.read(compaction.manifest))
        except ObjectMissing:
            return None
        entries = {entry.name: entry for entry in told.added}
        return [
            _output(merge, size=entry.size, crc=entry.crc32, raw_size=_raw_size(merge))
            for merge in compaction.merges
            for entry in [entries[merge.output]]
        ]

    async def _merge(self, merge: Merge, level: int | None) -> FileFacts:
        """Write the file that takes the place of several."""
        made = merging(merge.inputs[0], level)
        for file in merge.inputs:
            content = await self._sink.read(file.name)
            try:
                checked(content, size=file.size, crc=file.crc)
                await anyio.to_thread.run_sync(made.add, content, abandon_on_cancel=True)
            except (ObjectDamaged, ObjectRefused) as error:
                self._odd.add(file.name)
                raise ObjectRefused(f"{file.name}: {error}; see `pipeflow files verify {self._name}`") from error
        chunks, raw_size = await anyio.to_thread.run_sync(made.finish, abandon_on_cancel=True)
        crc = 0
        for chunk in chunks:
            crc = crc32(chunk, crc)
        output = _output(merge, size=sum(map(len, chunks)), crc=crc, raw_size=raw_size or _raw_size(merge))
        await self._sink.write(Object(merge.output, chunks, output.records))
        return output

    async def _write_swap(self, compaction: Compaction, outputs: Sequence[FileFacts]) -> None:
        removed = [file.name for merge in compaction.merges for file in merge.inputs]
        gone = set(removed)
        kept = [file for file in await self._live(compaction.partition) if file.name not in gone]
        told = manifest.encode(self._name, store_mark(self._catalogue.store_id), [*kept, *outputs], removed)
        await self._sink.write(Object(compaction.manifest, [told]))

    async def _give_up(self, compaction: Compaction, error: Exception) -> None:
        """One of its inputs is not what it was: nothing is merged with it, and nothing of it was visible."""
        logger.error("stream %s: files are left unmerged: %s", self._name, error)
        if not isinstance(error, ObjectRefused):
            self._odd.update(file.name for merge in compaction.merges for file in merge.inputs)
        for merge in compaction.merges:
            await self._sink.delete(merge.output)
        await self._catalogue.abandon(compaction)

    # Afterwards

    async def _delete(self, before: float) -> int:
        """Take away what nobody reads any more; how many files."""
        manifests = [each for each in await self._catalogue.manifests() if each.replaced_at is not None]
        gone = []
        for each in manifests:  # in the order of their ids: nothing that was removed comes back
            if each.replaced_at is None or each.replaced_at > before:
                break
            await self._sink.delete(each.name)
            gone.append(each.id)
        if gone:
            await self._catalogue.forget([], gone)
        deleted = 0
        while names := await self._catalogue.retired(before):
            for name in names:
                await self._sink.delete(name)
            await self._catalogue.forget(names, [])
            deleted += len(names)
        return deleted


def _output(merge: Merge, *, size: int, crc: int, raw_size: int) -> FileFacts:
    inputs = merge.inputs
    return replace(
        inputs[0],
        name=merge.output,
        last=inputs[-1].last,
        records=sum(file.records for file in inputs),
        size=size,
        crc=crc,
        raw_size=raw_size,
        delivered_at=max(file.delivered_at for file in inputs),
        generation=max(file.generation for file in inputs) + 1,
    )


def _raw_size(merge: Merge) -> int:
    return sum(file.raw_size for file in merge.inputs)


def _merged(partition: str, merge: Merge, size_after: int = 0) -> Merged:
    inputs = merge.inputs
    return Merged(
        partition, merge.output, len(inputs), sum(file.records for file in inputs),
        sum(file.size for file in inputs), size_after,
    )  # fmt: skip
