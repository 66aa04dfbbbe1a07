"""A stream called `lake` as a program declares it, its sink in memory, and what lies in that sink in the end."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pipeflow import App
from pipeflow.clock import VirtualClock
from pipeflow.engine.runtime import Runtime
from pipeflow.protocols import StreamStats
from pipeflow.sinks.memory import MemorySink

LAKE: dict[str, Any] = {"sink": "memory://", "compression": "none"}


@asynccontextmanager
async def opened(app: App, sink: MemorySink, clock: VirtualClock | None = None) -> AsyncIterator[Runtime]:
    async with app.running(clock=clock or VirtualClock(), sinks={"lake": sink}, broker="memory://", seed=7) as runtime:
        yield runtime


async def stats(runtime: Runtime) -> StreamStats:
    (found,) = (await runtime.store.stats()).streams
    return found


def good(sink: MemorySink) -> list[bytes]:
    return b"".join(content for name, content in sink.objects.items() if "errors/" not in name).splitlines()


def errors(sink: MemorySink) -> list[dict[str, Any]]:
    lines = b"".join(content for name, content in sink.objects.items() if "errors/" in name).splitlines()
    return [json.loads(line) for line in lines]


def raw(error: dict[str, Any]) -> bytes:
    return base64.b64decode(error["rawData"])
