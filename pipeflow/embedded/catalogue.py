"""What a stream delivered, and what is being merged of it: asked of its journal, or of a table in memory.

Streams with durability="memory", and stores in memory, remember the newest 100,000 files of this process; with
manifest=True all that are in the sink.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from pipeflow.embedded.channel import Channel
from pipeflow.embedded.ledger import Ledger
from pipeflow.embedded.records import Abandoned, CatalogueChange, Compacted, Compacting, Forgotten
from pipeflow.embedded.sqlite import catalogue as tables
from pipeflow.errors import ConfigurationError
from pipeflow.files import Compaction, CompactReport, CompactRequest, FileFacts, FileQuery, ManifestFacts
from pipeflow.protocols import Compact

T = TypeVar("T")


class StreamCatalogue:
    """The files of one stream; see `Catalogue`."""

    def __init__(self, ledger: Ledger, channel: Channel) -> None:
        self._ledger = ledger
        self._channel = channel
        self._name = channel.spec.name
        self.store_id = ledger.owner.store_id
        self.boot = None if channel.durable else ledger.owner.boot

    def new_id(self) -> int:
        """Higher than every id before it; it is on disk with what is begun under it."""
        return self._ledger.new_id()

    async def files(self, query: FileQuery) -> list[FileFacts]:
        """One page of the answer, in the order of sequences."""
        return await self._read(tables.files, query)

    async def partitions(self) -> list[str]:
        """Every partition that has files."""
        return await self._read(tables.partitions)

    async def manifests(self) -> list[ManifestFacts]:
        """Every manifest in the sink, in the order of ids."""
        return await self._read(tables.manifests)

    async def retired(self, before: float) -> list[str]:
        """Some of the files that were retired by then."""
        return await self._read(tables.retired, before)

    async def pending(self) -> list[Compaction]:
        """Begun and neither finished nor abandoned."""
        return await self._read(tables.pending)

    async def begin(self, compaction: Compaction) -> None:
        """On disk when it returns, at any durability: objects will carry its names."""
        await self._write(Compacting(compaction), sync=True)

    async def finish(self, compaction: Compaction, outputs: Sequence[FileFacts]) -> None:
        """Its swap is in the sink: outputs in, inputs retired, in one commit."""
        await self._write(Compacted(compaction, list(outputs), self._ledger.clock.now()))

    async def abandon(self, compaction: Compaction) -> None:
        """Its swap never was."""
        await self._write(Abandoned(self._name, compaction.id))

    async def forget(self, files: Sequence[str], manifests: Sequence[int]) -> None:
        """These are gone from the sink."""
        await self._write(Forgotten(self._name, list(files), list(manifests)))

    def serve(self, compact: Compact | None) -> None:
        """Who merges files of this stream in this process."""
        self._channel.compact = compact

    async def compact(self, request: CompactRequest) -> CompactReport:
        """Have them merged."""
        if self._channel.compact is None:
            raise ConfigurationError(
                f"stream {self._name}: nothing merges its files in process {os.getpid()}, which owns the store; "
                "declare the stream with manifest=True and run the app that delivers it, or stop that process first"
            )
        return await self._channel.compact(request)

    async def _read(self, question: Callable[..., T], *arguments: object) -> T:
        if self._channel.durable:
            return await self._ledger.owner.journal.read(question, self._name, *arguments)
        return self._ledger.volatile.read(question, self._name, *arguments)

    async def _write(self, change: CatalogueChange, sync: bool = False) -> None:
        if not self._channel.durable:
            self._ledger.volatile.write(change)
            return
        self._ledger.check()
        self._ledger.changes().append(change)
        self._ledger.count(self._channel)  # with the last id
        self._ledger.owner.gathering.sync |= sync
        await self._ledger.committed()
