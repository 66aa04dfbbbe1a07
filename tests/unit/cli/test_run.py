"""`pipeflow run` as a process, and the other commands while it runs."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest
from click.testing import Result

Call = Callable[..., Result]
Python = Callable[..., "Popen[str]"]


def started(python: Python, *arguments: str) -> Popen[str]:
    """A running app: it has said that it runs."""
    process = python("-m", "pipeflow", "run", *arguments)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "Ctrl-C drains" in line, line + process.stderr.read()
    return process


def ended(process: Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=90)
    return process.returncode, errors


def handled(call: Call, number: int) -> None:
    """Look until the counter says so; every look is a process of its own to the app."""
    for _ in range(1000):
        (billing,) = json.loads(call("queues", "--json").stdout)
        if billing["acked"] >= number:
            return
    raise AssertionError("not handled")


def test_an_app_runs_until_sigterm_and_drains(shop: Path, python: Python) -> None:
    process = started(python)
    process.send_signal(signal.SIGTERM)
    code, errors = ended(process)
    assert code == 0, errors
    assert "draining" in errors


def test_every_command_works_while_the_app_runs(shop: Path, python: Python, call: Call) -> None:
    process = started(python, "app:app")
    sent = call("publish", "orders", '{"id":"1","total":5}', "--attr", "kind=placed")
    assert sent.exit_code == 0, sent.stderr
    handled(call, 1)
    assert call("send", "billing", '{"id":"2","total":7}').exit_code == 0
    assert call("send", "billing", "--raw", "no json").exit_code == 0
    handled(call, 2)
    assert call("put", "lake", '{"id":"3","total":7}').exit_code == 0
    assert json.loads(call("streams", "--json").stdout)[0]["accepted"] == 2
    assert json.loads(call("topics", "--json").stdout)[1]["published"] == 1
    doctor = json.loads(call("doctor", "--json").stdout)
    assert doctor["ok"] is True
    assert any(str(process.pid) in check["detail"] for check in doctor["checks"] if check["name"] == "owner")
    letters: list[dict[str, object]] = []
    while not letters:
        letters = json.loads(call("dlq", "ls", "billing", "--json").stdout)
    assert letters[0]["error"] == "CodecError"
    assert json.loads(call("dlq", "redrive", "billing", "--dry-run", "--json").stdout)["matched"] == 1
    assert "purged" in call("purge", "billing-dlq", "--yes", "--json").stdout
    assert call("peek", "billing").exit_code == 0
    process.send_signal(signal.SIGINT)
    assert ended(process)[0] == 0


CLIENT = """
import anyio
from app import Order, app, billing, lake, orders

async def place() -> None:
    async with app.client():
        print(await orders.publish(Order("9", 3), kind="placed"))
        await billing.send(Order("11", 5))
        await lake.put(Order("10", 4))
        await lake.flush()
        await lake.put(Order("12", 4))

anyio.run(place)
"""


def test_a_second_program_publishes_as_a_client_of_the_first(shop: Path, python: Python, call: Call) -> None:
    started(python)
    client = python("-c", f"import sys; sys.path.insert(0, '.')\n{CLIENT}")
    published, errors = client.communicate(timeout=60)
    assert client.returncode == 0, errors
    assert len(published.strip()) == 36
    handled(call, 2)
    (stream,) = json.loads(call("streams", "--json").stdout)
    assert (stream["accepted"], stream["delivered"], stream["buffered"]) == (3, 2, 1)
    assert len(list((shop / "lake").iterdir())) == 1


def stuck(call: Call, shop: Path) -> None:
    """Have the handler hold a message for good."""
    assert call("send", "billing", '{"id":"s","total":999}').exit_code == 0
    while not (shop / "stuck").exists():
        call("queues")


def test_messages_given_back_end_with_five_and_wait_for_the_next_start(shop: Path, python: Python, call: Call) -> None:
    process = started(python, "--grace", "10ms")
    stuck(call, shop)
    process.send_signal(signal.SIGTERM)
    code, errors = ended(process)
    assert code == 5, errors
    assert "1 messages given back" in errors
    (billing,) = json.loads(call("queues", "--json").stdout)
    assert (billing["ready"], billing["in_flight"]) == (1, 0)


def test_a_second_signal_stops_now_and_is_told_by_the_exit_code(shop: Path, python: Python, call: Call) -> None:
    process = started(python, "--grace", "1h")
    stuck(call, shop)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    assert "draining" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 143


HANGING = """
import time

import msgspec

from pipeflow import App


class Order(msgspec.Struct, frozen=True):
    id: str


app = App("shop", broker="sqlite:///shop.db")
billing = app.queue("billing", Order)


@billing.handler
def charge(order: Order) -> None:
    open("stuck", "w").close()
    time.sleep(3600)
"""

DEAF = """
import asyncio

import msgspec

from pipeflow import App


class Order(msgspec.Struct, frozen=True):
    id: str


app = App("shop", broker="sqlite:///shop.db")
billing = app.queue("billing", Order)


@billing.handler
async def charge(order: Order) -> None:
    open("stuck", "w").close()
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
"""


@pytest.mark.parametrize(("signals", "code"), [(1, 5), (2, 143)])
def test_a_thread_that_hangs_does_not_keep_the_process(
    shop: Path, python: Python, call: Call, signals: int, code: int
) -> None:
    (shop / "app.py").write_text(HANGING)
    process = started(python, "--grace", "10ms" if signals == 1 else "1h")
    stuck(call, shop)
    assert process.stderr is not None
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        assert "draining" in process.stderr.readline() or signals == 2
    assert ended(process)[0] == code
    (billing,) = json.loads(call("queues", "--json").stdout)
    assert (billing["ready"], billing["in_flight"]) == (1, 0)  # given back before it was left behind


def test_a_handler_that_does_not_stop_does_not_keep_the_process(shop: Path, python: Python, call: Call) -> None:
    (shop / "app.py").write_text(DEAF)
    impatient = "import pipeflow.cli.run as run; run.OVERTIME = 0.2; from pipeflow.cli.main import main; main()"
    process = python("-c", impatient, "run", "--grace", "10ms")
    assert process.stderr is not None
    assert "Ctrl-C drains" in process.stderr.readline()
    stuck(call, shop)
    process.send_signal(signal.SIGTERM)
    code, errors = ended(process)
    assert code == 5
    assert "left handlers behind" in errors
    (billing,) = json.loads(call("queues", "--json").stdout)
    assert (billing["ready"], billing["in_flight"]) == (1, 0)


FILLING = """
import os
import resource
import time

import msgspec

from pipeflow import App


class Order(msgspec.Struct, frozen=True):
    id: str


app = App("shop", broker="sqlite:///shop.db")
billing = app.queue("billing", Order)


@billing.handler
def charge(order: Order) -> None:
    if order.id == "hangs":
        time.sleep(3600)
    while not os.path.exists("acknowledged"):
        time.sleep(0.01)
    # No file may grow from here on: what a full disk does to whoever writes.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
"""


@pytest.mark.parametrize("hangs", [False, True])
def test_a_store_that_fails_under_a_running_app_ends_it_with_74_and_loses_nothing(
    shop: Path, python: Python, call: Call, hangs: bool
) -> None:
    (shop / "app.py").write_text(FILLING)
    process = started(python)
    if hangs:
        assert call("send", "billing", '{"id":"hangs"}').exit_code == 0
    assert call("send", "billing", '{"id":"1"}').exit_code == 0
    # A delivery may come before its send is on disk: the disk fails only once the sender was told.
    (shop / "acknowledged").touch()
    code, errors = ended(process)
    assert code == 74, errors
    assert any(line.startswith("error: ") and "shop.db" in line for line in errors.splitlines()), errors
    assert "Traceback" not in errors
    (billing,) = json.loads(call("queues", "--json").stdout)
    assert (billing["ready"], billing["acked"]) == (1 + hangs, 0)


def test_a_second_owner_is_refused_by_name(shop: Path, python: Python) -> None:
    first = started(python)
    second = python("-m", "pipeflow", "run")
    code, errors = ended(second)
    assert code == 4
    assert str(first.pid) in errors
    assert "Traceback" not in errors


def test_only_what_is_named_runs(shop: Path, python: Python, call: Call) -> None:
    process = python("-m", "pipeflow", "run", "--only", "bilin")
    code, errors = ended(process)
    assert code == 4
    assert "did you mean billing?" in errors
    assert process.stdout is not None


@pytest.mark.parametrize("arguments", [["--grace", "soon"], ["--nope"]])
def test_wrong_usage_ends_with_two(shop: Path, call: Call, arguments: list[str]) -> None:
    assert call("run", *arguments).exit_code == 2


def test_another_broker_than_the_apps_may_be_named(shop: Path, python: Python) -> None:
    process = started(python, "--broker", "sqlite:///other.db")
    assert (shop / "other.db").exists()
    assert not (shop / "shop.db").exists()
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 0
