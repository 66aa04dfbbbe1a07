"""NATS JetStream: a work queue in a file stream; one connection for all callers, as its client is used.

A pull consumer fetches for all callers; each awaits the server's answer to its publish and to its acknowledgement. A
batch is ten of them at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

from _brokers.peer import BODY, Absent, Taken
from _brokers.servers import SBIN, Server, free_port, program
from _brokers.shared import Fetched

PATIENCE = 60.0
CONFIG = """
listen: "127.0.0.1:{port}"
jetstream {{
    store_dir: "{folder}"
    {sync}
}}
"""
SYNC = {"as it comes": "", "always": "sync_interval: always"}


class JetStream:
    body = BODY

    def __init__(self, server: Server, client: Any, stream: Any, subscription: Any) -> None:
        self._process = server
        self._client = client
        self._stream = stream
        self._subscription = subscription
        self._fetched = Fetched(self._fetch, 64)
        self.take = self._fetched.take
        self.server = server.pid

    async def sender(self) -> JetStream:
        return self

    async def taker(self) -> JetStream:
        return self

    def send(self, bodies: Sequence[bytes]) -> Awaitable[object]:
        publish = self._stream.publish
        if len(bodies) == 1:
            return publish("q", bodies[0])
        return asyncio.gather(*(publish("q", body) for body in bodies))

    async def _fetch(self) -> Sequence[Taken]:
        return [(message.data, message) for message in await self._subscription.fetch(256, PATIENCE)]

    def ack(self, taken: Sequence[Taken]) -> Awaitable[object]:
        if len(taken) == 1:
            return taken[0][1].ack_sync(PATIENCE)
        return asyncio.gather(*(message.ack_sync(PATIENCE) for _, message in taken))

    def end(self) -> None:
        return

    async def left(self) -> int:
        return int((await self._stream.stream_info("q")).state.messages)

    async def close(self) -> None:
        await self._fetched.close()
        await self._client.close()
        self._process.stop()


async def open_peer(setting: str, folder: Path) -> JetStream:
    try:
        import nats
        from nats.js.api import ConsumerConfig, RetentionPolicy, StorageType, StreamConfig
    except ImportError:
        raise Absent("the package nats-py is not installed") from None
    port = free_port()
    config = folder / "nats.conf"
    config.write_text(CONFIG.format(port=port, folder=folder, sync=SYNC[setting]))
    server = Server([program("nats-server", *SBIN), "-c", str(config)], port, folder)
    client = await nats.connect(f"nats://127.0.0.1:{port}")
    stream = client.jetstream(timeout=PATIENCE)
    await stream.add_stream(
        StreamConfig("q", subjects=["q"], retention=RetentionPolicy.WORK_QUEUE, storage=StorageType.FILE)
    )
    consumer = ConsumerConfig(ack_wait=600, max_ack_pending=100_000)
    return JetStream(server, client, stream, await stream.pull_subscribe("q", "workers", config=consumer))
