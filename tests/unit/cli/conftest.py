"""A small shop in a directory of its own, a store with something in it, and a way to call the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner, Result

import pipeflow
from pipeflow.cli.main import cli
from pipeflow.messages import Bury, Failure, Outgoing, Want
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, StreamSpec, Subscription, TopicSpec, Topology

SHOP = """
import asyncio

import msgspec

from pipeflow import App


class Order(msgspec.Struct, frozen=True):
    id: str
    total: int


app = App("shop", broker="sqlite:///shop.db")
orders = app.topic("orders", Order)
alerts = app.topic("alerts", Order)
billing = app.queue("billing", Order, orders.where(kind="placed"))
lake = app.stream("lake", Order, orders, sink="file://./lake")


@billing.handler(emit=alerts)
async def charge(order: Order) -> Order | None:
    if order.total < 0:
        raise ValueError("negative total")
    if order.total == 999:
        open("stuck", "w").close()
        await asyncio.Event().wait()
    return None
"""

TOPOLOGY = Topology(
    (TopicSpec("orders"), TopicSpec("alerts")),
    (
        QueueSpec("billing", dead_letters="billing-dlq"),
        QueueSpec("billing-dlq", holds_dead_letters=True),
        QueueSpec("lenient", max_receives=None, max_body=1 << 20),
    ),
    (StreamSpec("lake", "file://./lake"),),
    (Subscription("orders", "queue", "billing"), Subscription("orders", "stream", "lake")),
)

Call = Callable[..., Result]
Python = Callable[..., "subprocess.Popen[str]"]
ROOT = str(Path(pipeflow.__file__).parents[1])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PIPEFLOW_BROKER", raising=False)
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def shop(here: Path) -> Path:
    """The directory of an app that was never started."""
    (here / "app.py").write_text(SHOP)
    return here


@pytest.fixture
def store(here: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store that nobody owns: two ready messages and three dead letters in `billing`, PIPEFLOW_BROKER names it."""
    url = "sqlite:///shop.db"
    anyio.run(fill, url)
    monkeypatch.setenv("PIPEFLOW_BROKER", url)
    return url


async def fill(url: str) -> None:
    """Declare, send, and bury three."""
    opened = await open_store(url)
    await opened.declare(TOPOLOGY)
    await opened.send("billing", [Outgoing(b'{"id":"%d","total":%d}' % (n, n), {"kind": "placed"}) for n in range(3)])
    held = await opened.receive("billing", Want(limit=3))
    now = opened.clock.now()
    kinds = ["ValueError", "ValueError", "KeyError"]
    failures = [Failure(now, 1, kind, f"bad {kind}", "0badc0de") for kind in kinds]
    await opened.settle("billing", [Bury(each.receipt, why) for each, why in zip(held, failures, strict=True)])
    await opened.send("billing", [Outgoing(b'{"id":"a","total":5}'), Outgoing(b"\xff\x00 no text")])
    await opened.close()


@pytest.fixture
def call(here: Path) -> Call:
    """`call("queues", "--json")` runs the command; its result has exit_code, stdout and stderr."""

    def run(*arguments: str, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(cli, list(arguments), input=input, prog_name="pipeflow")

    return run


@pytest.fixture
def python() -> Iterator[Python]:
    """`python("-m", "pipeflow", ...)` starts a process of its own; none outlives the test."""
    started: list[subprocess.Popen[str]] = []
    path = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])

    def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        environment = {**os.environ, "PYTHONPATH": path}
        process = subprocess.Popen([sys.executable, *arguments], env=environment, text=True, **pipes)
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()
