"""Whether what was delivered still lies in the sink as it was delivered, and whether something lies there besides.

Every object is read: size and CRC-32 are those of the catalogue, and it holds as many records. Names are listed before
the catalogue is asked, and what looks wrong is looked at again at the end, so that deliveries and merges that go on
meanwhile are no findings. Nothing is repaired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import anyio.to_thread
from msgspec import Struct
from msgspec.structs import replace

from pipeflow.errors import MissingExtra, ObjectDamaged, ObjectMissing, ObjectRefused
from pipeflow.files import FileFacts, FileQuery
from pipeflow.formats.reading_back import Shape, checked, count
from pipeflow.protocols import ReadableSink, Store
from pipeflow.sinks import manifest
from pipeflow.sinks.manifest import FOLDER, Listing, shape_of
from pipeflow.sinks.objects import belongs, store_mark, tells_of_undelivered
from pipeflow.specs import StreamSpec

What: TypeAlias = Literal["missing", "damaged", "foreign", "leftover", "untold", "manifest"]
"""Gone; not what was delivered; marked as this store's and unknown to it; a temporary file; in no manifest; a manifest
that is damaged, or tells of what is not there."""


class Finding(Struct, frozen=True):
    """One thing that is wrong."""

    what: What
    name: str
    detail: str


class Verified(Struct, frozen=True):
    """What was looked at, and what is wrong."""

    files: int
    records: int
    size: int
    findings: list[Finding]


@runtime_checkable
class _Leaving(Protocol):
    """A sink whose unfinished writes can be seen."""

    async def leftovers(self, mine: Callable[[str], bool]) -> Sequence[str]: ...


async def verify(spec: StreamSpec, store: Store, sink: ReadableSink) -> Verified:
    """Look at every object of the stream. SinkUnavailable: not now."""
    return await _Verification(spec, store, sink).run()


class _Verification:
    def __init__(self, spec: StreamSpec, store: Store, sink: ReadableSink) -> None:
        self._spec = spec
        self._name = spec.name
        self._store = store
        self._sink = sink
        self._shape = shape_of(spec.separator, spec.columns)
        self._findings: list[Finding] = []
        self._files = self._records = self._size = 0

    async def run(self) -> Verified:
        stats = await self._store.stats()
        mark = store_mark(stats.store_id)
        mine = belongs(self._name, mark)
        lying = [
            name
            for name in await self._sink.list()
            if not name.startswith(FOLDER) and mine(name) and not tells_of_undelivered(name, mark)
        ]
        told = await self._told(mark) if self._spec.manifest else None
        known = await self._look_at_files()
        if self._spec.durability != "memory" and stats.durability != "memory":
            # What earlier processes delivered of a stream in memory is in nobody's catalogue.
            await self._look_again([name for name in lying if name not in known])
            if told is not None:
                await self._compare(told, known)
        if isinstance(self._sink, _Leaving):
            for name in await self._sink.leftovers(mine):
                self._find("leftover", name, "a write that was not finished; the next one of this name takes it away")
        return Verified(self._files, self._records, self._size, self._findings)

    def _find(self, what: What, name: str, detail: str) -> None:
        self._findings.append(Finding(what, name, detail))

    # Files

    async def _look_at_files(self) -> set[str]:
        """Every file of the catalogue against what lies there; their names."""
        known: set[str] = set()
        query = FileQuery(retired=True)
        while True:
            page = await self._store.files(self._name, query)
            for file in page:
                known.add(file.name)
                await self._look_at(file)
            if len(page) < query.limit:
                return known
            query = replace(query, after=page[-1].cursor)

    async def _look_at(self, file: FileFacts) -> None:
        try:
            content = await self._sink.read(file.name)
        except ObjectMissing:
            if await self._counts(file):
                self._find("missing", file.name, f"records {file.first} to {file.last} ({file.records}) are not there")
            return
        try:
            checked(content, size=file.size, crc=file.crc)
            await anyio.to_thread.run_sync(partial(self._check_records, file, content), abandon_on_cancel=True)
        except (ObjectDamaged, MissingExtra) as error:
            self._find("damaged", file.name, str(error))
            return
        if file.retired_at is None:
            self._files += 1
            self._records += file.records
            self._size += file.size

    def _check_records(self, file: FileFacts, content: bytes) -> None:
        shape = self._shape_of(file)
        if shape is None:
            return
        found = count(content, shape)
        # A record of lines may hold line breaks of its own, never fewer.
        if found < file.records or (found > file.records and shape.format not in ("jsonl", "raw")):
            raise ObjectDamaged(f"it has {found} records, and {file.records} were written")

    def _shape_of(self, file: FileFacts) -> Shape | None:
        """How to count its records; None where nobody can."""
        if file.kind == "errors":
            return Shape("jsonl", file.compression)
        if file.format in ("jsonl", "raw"):
            delimiter = self._spec.separator
            counted = delimiter and file.shape == self._shape
            return Shape(file.format, file.compression, delimiter) if counted else None
        return Shape(file.format, file.compression) if file.format in ("csv", "parquet", "orc") else None

    async def _counts(self, file: FileFacts) -> bool:
        """Whether the catalogue still says that it is there: it may have been merged away while we looked."""
        query = FileQuery(file.first, file.first, partition=file.partition, limit=10_000)
        return any(each.name == file.name for each in await self._store.files(self._name, query))

    async def _look_again(self, names: list[str]) -> None:
        """Files that the catalogue did not know: they may have been committed, or deleted, since they were listed."""
        known = await self._names(FileQuery(retired=True)) if names else set()
        for name in names:
            if name not in known and name in await self._sink.list(name):
                self._find("foreign", name, "it bears this store's mark, and the store does not know it")

    async def _names(self, query: FileQuery) -> set[str]:
        names: set[str] = set()
        while page := await self._store.files(self._name, query):
            names.update(file.name for file in page)
            query = replace(query, after=page[-1].cursor)
        return names

    # Manifests

    async def _told(self, mark: str) -> list[Listing]:
        """Every manifest of the stream and this store."""
        told: list[Listing] = []
        for name in await self._sink.list(manifest.folder(self._name)):
            if manifest.mark_of(name) != mark:
                continue
            try:
                told.append(manifest.decode(await self._sink.read(name)))
            except ObjectMissing:
                pass  # replaced since it was listed, by one that is listed next time
            except ObjectRefused as error:
                self._find("manifest", name, str(error))
        return told

    async def _compare(self, told: list[Listing], known: set[str]) -> None:
        """What readers of manifests see is what the catalogue says, but for what changed while we looked."""
        seen = set(manifest.live(told))
        counted = await self._names(FileQuery())
        if seen ^ counted:
            # Once more: deliveries and merges go on.
            seen_now = set(manifest.live(await self._told(store_mark((await self._store.stats()).store_id))))
            for name in sorted((counted & known) - seen - seen_now):
                self._find("untold", name, "no manifest tells of it")
            for name in sorted((seen & seen_now) - counted - known):
                self._find("manifest", name, "a manifest tells of it, and the store does not know it")
