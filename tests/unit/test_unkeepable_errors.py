"""A handler may raise whatever it likes: the store, and everybody else's messages in it, go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeflow import App
from pipeflow.clock import VirtualClock
from pipeflow.registry import open_store


@pytest.mark.parametrize("scheme", ["sqlite", "memory"])
async def test_a_handler_whose_error_no_encoding_has_fails_its_message_and_nothing_else(
    tmp_path: Path, scheme: str
) -> None:
    """The store stopped, and at every later start again: the message was still there."""
    url = f"sqlite:///{tmp_path}/shop.db" if scheme == "sqlite" else "memory://"
    app = App("shop", broker=url)
    files = app.queue("files", str, max_receives=1)
    orders = app.queue("orders", str)
    handled: list[str] = []

    @files.handler
    async def read(name: str) -> None:
        raise FileNotFoundError(f"there is no {name}\udce9")

    @orders.handler
    async def take(order: str) -> None:
        handled.append(order)

    async with app.running() as running:
        await files.send("caf")
        await running.until_idle()
        await orders.send("1")
        await running.until_idle()
        (letter,) = await running.store.peek("files", dead=True)
    assert handled == ["1"]
    assert letter.failures[0].message == "there is no caf\\udce9"
    if scheme == "sqlite":
        store = await open_store(url, clock=VirtualClock(0.0))
        assert (await store.stats()).quarantined == 0
        await store.close()
