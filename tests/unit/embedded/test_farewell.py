"""An owner that hangs up in order says so last: what it has not answered by then was never begun."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pipeflow.clock import SystemClock
from pipeflow.embedded import verbs
from pipeflow.embedded.remote import connect
from pipeflow.embedded.verbs import encode
from pipeflow.errors import Indeterminate, PipeflowError, Unavailable
from pipeflow.messages import Outgoing
from pipeflow.protocols import Features


class Owner:
    """Greets, takes one call, and hangs up without answering it."""

    def __init__(self, farewell: bool) -> None:
        self.farewell = farewell

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.frame(reader)
        features = Features(durable=True)
        self.say(writer, encode(verbs.Welcome(verbs.MAGIC, verbs.PROTOCOL, "0", 1, features, 64)))
        await self.frame(reader)
        if self.farewell:
            self.say(writer, encode(verbs.FAREWELL))
        writer.close()

    @staticmethod
    async def frame(reader: asyncio.StreamReader) -> bytes:
        return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))

    @staticmethod
    def say(writer: asyncio.StreamWriter, frame: bytes) -> None:
        writer.write(len(frame).to_bytes(4, "big") + frame)


@pytest.mark.parametrize(("farewell", "error"), [(True, Unavailable), (False, Indeterminate)])
async def test_a_call_unanswered_at_the_end_was_begun_only_if_there_was_no_farewell(
    tmp_path: Path, farewell: bool, error: type[PipeflowError]
) -> None:
    server = await asyncio.start_unix_server(Owner(farewell).serve, tmp_path / "s.db.sock")
    store = await connect(tmp_path / "s.db.sock", "sqlite:///s.db", SystemClock())
    with pytest.raises(error):
        await store.send("q", [Outgoing(b"x")])
    await store.close()
    server.close()
    await server.wait_closed()
