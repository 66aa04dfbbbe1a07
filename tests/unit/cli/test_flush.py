"""`pipeflow flush`: what a stream holds is delivered by the app that runs, or it is told why it is not."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import anyio
import pytest
from click.testing import Result

from pipeflow.cli.flush import flushed
from pipeflow.embedded.remote import connect
from pipeflow.errors import ConfigurationError, PipeflowError, SinkUnavailable
from pipeflow.protocols import Object
from pipeflow.sinks.memory import MemorySink

Call = Callable[..., Result]
Python = Callable[..., "Popen[str]"]


def started(python: Python, *arguments: str) -> Popen[str]:
    process = python("-m", "pipeflow", "run", *arguments)
    assert process.stderr is not None
    assert "Ctrl-C drains" in process.stderr.readline()
    return process


def test_S33_what_a_running_app_holds_is_delivered_on_demand(shop: Path, python: Python, call: Call) -> None:
    started(python)
    assert call("put", "lake", '{"id":"1","total":5}', '{"id":"2","total":6}').exit_code == 0
    assert not (shop / "lake").exists() or not list((shop / "lake").glob("*.gz"))
    shown = call("flush", "lake", "--json")
    assert json.loads(shown.stdout) == {"stream": "lake", "records": 2}
    (object,) = (shop / "lake").glob("*.gz")
    assert gzip.decompress(object.read_bytes()).splitlines() == [b'{"id":"1","total":5}', b'{"id":"2","total":6}']
    assert call("flush", "lake").stdout == "lake: nothing was buffered\n"


def test_a_store_that_no_app_runs_says_what_to_do_and_does_not_wait(call: Call, store: str) -> None:
    assert call("put", "lake", "1").exit_code == 0
    shown = call("flush", "lake")
    assert shown.exit_code == 4
    assert "stream lake: nothing delivers it in process" in shown.stderr
    assert "run the app that declares it" in shown.stderr


def test_an_app_that_runs_without_the_stream_says_so(shop: Path, python: Python, call: Call) -> None:
    process = started(python, "--only", "billing")
    assert call("put", "lake", "1").exit_code == 0
    shown = call("flush", "lake")
    assert shown.exit_code == 4
    assert f"nothing delivers it in process {process.pid}" in shown.stderr


def test_a_stream_that_is_not_there_is_told_with_the_nearest(call: Call, store: str) -> None:
    shown = call("flush", "lak")
    assert shown.exit_code == 1
    assert "did you mean 'lake'?" in shown.stderr


async def test_a_flush_that_takes_too_long_says_how_much_waits_and_goes_on_in_the_app(shop: Path) -> None:
    class Down(MemorySink):
        up = False

        async def write(self, obj: Object) -> None:
            if not self.up:
                raise SinkUnavailable("down")
            await super().write(obj)

    from pipeflow.cli.loading import load_app

    app, sink = load_app(None), Down()
    async with app.running(sinks={"lake": sink}) as runtime:
        client = await connect(shop / "shop.db.sock", "sqlite:///shop.db", runtime.clock)
        await app.streams[0].put(app.streams[0].type("1", 5))
        with pytest.raises(PipeflowError, match=r"stream lake: 1 records \(\d+ B\) still wait after 0.1s"):
            await flushed(client, "lake", 0.1)
        sink.up = True
        with anyio.fail_after(30):
            assert await flushed(client, "lake", 30) == 1
        assert len(sink.objects) == 1
        await client.close()


async def test_a_flush_ends_with_the_delivery_it_waits_for(shop: Path) -> None:
    from pipeflow.cli.loading import load_app

    tried = anyio.Event()

    class Never(MemorySink):
        async def write(self, obj: Object) -> None:
            tried.set()
            raise SinkUnavailable("down")

    app = load_app(None)
    async with app.running(handlers=False) as keeper:
        # The store stays open when the app ends: only its deliveries go.
        client = await connect(shop / "shop.db.sock", "sqlite:///shop.db", keeper.clock)
        ended: list[str] = []

        async def ask() -> None:
            try:
                await client.flush("lake")
            except ConfigurationError as error:
                ended.append(str(error))

        with anyio.fail_after(30):
            async with (
                anyio.create_task_group() as tasks,
                app.running(sinks={"lake": Never()}, store=keeper.store, grace=0.0),
            ):
                await app.streams[0].put(app.streams[0].type("1", 5))
                tasks.start_soon(ask)
                await tried.wait()
        assert "stream lake: nothing delivers it" in ended[0]
        await client.close()
