"""pipeflow: a store in this process."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from operator import attrgetter
from pathlib import Path

from _brokers.peer import Absent
from pipeflow.messages import Ack, Delivery, Outgoing, Want
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology
from pipeflow.state import queue as hot_path

SOURCES = Path(__file__).resolve().parents[2] / "pipeflow"


class Pipeflow:
    """Every caller uses the store as it is."""

    server = None
    body = attrgetter("body")

    def __init__(self, store: Store) -> None:
        self._store = store

    async def sender(self) -> Pipeflow:
        return self

    async def taker(self) -> Pipeflow:
        return self

    def send(self, bodies: Sequence[bytes]) -> Awaitable[object]:
        return self._store.send("q", [Outgoing(body) for body in bodies])

    def take(self, limit: int) -> Awaitable[Sequence[Delivery]]:
        return self._store.receive("q", Want(limit, wait=0.2))

    def ack(self, taken: Sequence[Delivery]) -> Awaitable[object]:
        return self._store.settle("q", [Ack(each.receipt) for each in taken])

    def end(self) -> None:
        return

    async def left(self) -> int:
        (queue,) = (await self._store.stats()).queues
        return queue.ready + queue.delayed + queue.in_flight

    async def close(self) -> None:
        await self._store.close()


async def open_peer(setting: str, folder: Path) -> Pipeflow:
    store = await open_store(f"sqlite:///{folder}/pipeflow.db?durability={setting}")
    await store.declare(Topology(queues=(QueueSpec("q", visibility_timeout=300.0, max_in_flight=1_000_000),)))
    return Pipeflow(store)


async def open_compiled(setting: str, folder: Path) -> Pipeflow:
    if hot_path.__file__.endswith(".py"):
        raise Absent("it is not in build/compiled; scripts/compiled --build makes it")
    other = differing(Path(hot_path.__file__).parents[1], SOURCES)
    if other is not None:
        raise Absent(f"build/compiled was made of another {other} than is here; scripts/compiled --build makes it anew")
    return await open_peer(setting, folder)


def differing(made: Path, sources: Path) -> str | None:
    """The first module that a build has otherwise than the sources; it carries those it was made of."""
    names = {path.relative_to(place) for place in (made, sources) for path in place.rglob("*.py")}
    return next(
        (f"{sources.name}/{name}" for name in sorted(names) if _read(made / name) != _read(sources / name)), None
    )


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
