"""`pipeflow replay`: from files to a queue, while an app runs and while none does, and through any number of kills."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen, TimeoutExpired

import anyio
import pytest
from click.testing import Result

from pipeflow.cli.loading import load_app
from pipeflow.messages import Want
from pipeflow.registry import open_store

Call = Callable[..., Result]
Python = Callable[..., "Popen[str]"]
URL = "sqlite:///shop.db"


@pytest.fixture
def delivered(shop: Path) -> Path:
    """A store with files of 3 and 300 records, and nobody who runs it."""

    async def fill() -> None:
        app = load_app(None)
        (lake,) = app.streams
        async with app:
            await lake.put_many([lake.type(str(n), n) for n in range(3)])
            await lake.flush()
            await lake.put_many([lake.type(str(n), n) for n in range(3, 303)])

    anyio.run(fill)
    return shop


def ids(queue: str) -> list[str]:
    """Everything in a queue, taken out of it."""

    async def take() -> list[str]:
        store = await open_store(URL)
        found: list[str] = []
        while batch := await store.receive(queue, Want(limit=1000, durable=True)):
            found += [json.loads(each.body)["id"] for each in batch]
        await store.close()
        return found

    return anyio.run(take)


def test_what_was_delivered_is_published_again_and_done_is_done(delivered: Path, call: Call) -> None:
    shown = call("replay", "lake", "--to", "queue:billing", "--dry-run")
    assert shown.stdout == "lake to queue:billing: 303 records in 2 files; nothing was published\n"
    shown = call("replay", "lake", "--to", "queue:billing", "--json")
    assert json.loads(shown.stdout) == {
        "stream": "lake", "to": "queue:billing", "files": 2, "records": 303, "before": 0, "published": 303,
        "skipped": [], "dry_run": False,
    }  # fmt: skip
    shown = call("replay", "lake", "--to", "queue:billing")
    assert "done already, 303 records in 2 files; --again begins anew" in shown.stdout
    shown = call("replay", "lake", "--to", "queue:billing", "--from", "301", "--until", "302")
    assert "2 records published, out of 300 records in 1 files" in shown.stdout
    shown = call("replay", "lake", "--to", "queue:billing", "--where", '{"total": [{"numeric": [">=", 301]}]}')
    assert "2 records published, out of 303 records in 2 files" in shown.stdout
    assert ids("billing") == [*map(str, range(303)), "300", "301", "301", "302"]


def test_it_works_through_the_owner_of_the_store_too(delivered: Path, call: Call, python: Python) -> None:
    process = python("-m", "pipeflow", "run", "--only", "lake")
    assert process.stderr is not None
    assert "Ctrl-C drains" in process.stderr.readline()
    assert "303 records published" in call("replay", "lake", "--to", "queue:billing", "--from=-1h").stdout
    assert "done already" in call("replay", "lake", "--to", "queue:billing", "--from=-1h").stdout
    assert "published" in call("replay", "lake", "--to", "queue:billing", "--from", "2013-01-01").stdout
    (billing,) = json.loads(call("queues", "--json").stdout)
    assert billing["ready"] == 606


def test_killed_any_number_of_times_it_publishes_each_record_once(delivered: Path, python: Python) -> None:
    roll = random.Random(31)
    runs = 0
    while True:
        runs += 1
        assert runs < 60
        process = python("-m", "pipeflow", "replay", "lake", "--to", "queue:billing", "--rate", "100/s")
        try:
            # A busy machine needs longer only to start: each life may be a little longer than the last.
            out, errors = process.communicate(timeout=0.6 + roll.random() * 0.8 + runs / 20)
        except TimeoutExpired:
            process.kill()
            process.communicate()
            continue
        assert process.returncode == 0, errors
        assert "records published" in out or "done already" in out
        break
    assert runs > 2
    assert Counter(ids("billing")) == Counter(map(str, range(303)))


def test_a_damaged_file_ends_it_by_name_or_is_passed_over(delivered: Path, call: Call) -> None:
    file = min((delivered / "lake").glob("*.gz"))
    file.write_bytes(b"rubbish")
    shown = call("replay", "lake", "--to", "queue:billing")
    assert shown.exit_code == 1
    assert f"file {file.name} in file://./lake: it has 7 bytes" in shown.stderr
    shown = call("replay", "lake", "--to", "queue:billing", "--skip-damaged")
    assert shown.exit_code == 0
    assert f"skipped: {file.name}" in shown.stderr
    assert len(ids("billing")) == 300


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--to", "billing"], 2, "'billing' is no target; write topic:NAME, queue:NAME or stream:NAME"),
        (["--to", "topic:order"], 1, "did you mean 'orders'?"),
        (["--to", "queue:billing", "--rate", "fast"], 2, "'fast' is no rate; write 100/s"),
        (["--to", "queue:billing", "--from", "soon"], 2, "'soon' is no time"),
        (["--to", "stream:lake"], 4, "would deliver every record a second time"),
    ],
)
def test_what_cannot_be_asked_is_told(
    delivered: Path, call: Call, arguments: list[str], code: int, reason: str
) -> None:
    shown = call("replay", "lake", *arguments)
    assert (shown.exit_code, reason in shown.stderr) == (code, True), shown.stderr
