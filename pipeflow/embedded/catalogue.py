"""What a stream delivered, asked of its journal; of a stream in memory only, of a table in memory.

Streams with durability="memory", and stores in memory, remember the newest 100,000 files of this process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pipeflow.embedded.channel import Channel
from pipeflow.embedded.ledger import Ledger
from pipeflow.embedded.sqlite import catalogue as tables
from pipeflow.files import FileFacts, FileQuery

T = TypeVar("T")


class StreamCatalogue:
    """The files of one stream."""

    def __init__(self, ledger: Ledger, channel: Channel) -> None:
        self._ledger = ledger
        self._channel = channel

    async def files(self, query: FileQuery) -> list[FileFacts]:
        """One page of the answer, in the order of sequences."""
        return await self._read(tables.files, self._channel.spec.name, query)

    async def _read(self, question: Callable[..., T], *arguments: object) -> T:
        if self._channel.durable:
            return await self._ledger.owner.journal.read(question, *arguments)
        return self._ledger.volatile.read(question, *arguments)
