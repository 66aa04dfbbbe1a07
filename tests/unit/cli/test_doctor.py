"""`pipeflow doctor`: what is wrong is found, named with a remedy, and fails the command; nothing is changed."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result

from pipeflow.cli import doctor
from pipeflow.messages import Outgoing
from pipeflow.protocols import Features
from pipeflow.registry import open_store
from pipeflow.specs import ClaimSpec, Topology

Call = Callable[..., Result]


def checks(result: Result) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(result.stdout)["checks"]}


def test_a_sound_store_passes_every_check(call: Call, store: str) -> None:
    shown = call("doctor", "--json")
    assert shown.exit_code == 0, shown.stdout
    found = checks(shown)
    assert json.loads(shown.stdout)["ok"] is True
    assert found["integrity"]["status"] == "ok"
    assert found["owner"]["detail"] == "nobody has it open"
    assert "durability full" in found["store"]["detail"]
    assert "2 messages" in found["nouns"]["detail"]
    assert found["dead letters"]["remedy"] == "pipeflow dlq ls billing --group-by error"


def test_checks_are_lines_with_their_remedy_below(call: Call, store: str) -> None:
    shown = call("doctor", store).stdout
    assert "ok   integrity" in shown
    assert "-> pipeflow dlq ls billing" in shown


def test_nouns_that_the_app_does_not_declare_are_named(call: Call, store: str, shop: Path) -> None:
    (shop / "app.py").write_text("from pipeflow import App\napp = App('x', broker='sqlite:///shop.db')\n")
    found = checks(call("doctor", "--app", "app:app", "--json"))
    assert found["code"]["status"] == "warn"
    assert "queue billing" in found["code"]["detail"]


def test_a_damaged_file_fails(call: Call, store: str, here: Path) -> None:
    path = here / "shop.db"
    content = bytearray(path.read_bytes())
    # Every page but the first: the header stays readable, the trees do not.
    content[4096:] = bytes(len(content) - 4096)
    path.write_bytes(content)
    shown = call("doctor", store, "--json")
    assert shown.exit_code == 1
    assert checks(shown)["integrity"]["status"] == "bad"
    assert "\n" not in checks(shown)["integrity"]["detail"]


def test_a_file_of_another_program_fails(call: Call, here: Path) -> None:
    with sqlite3.connect(here / "other.db") as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    shown = call("doctor", "sqlite:///other.db", "--json")
    assert shown.exit_code == 1
    assert "another program" in checks(shown)["integrity"]["detail"]


def test_a_store_that_is_not_there_fails_and_is_not_made(call: Call, here: Path) -> None:
    shown = call("doctor", "sqlite:///none.db")
    assert shown.exit_code == 1
    assert "BAD" in shown.stdout
    assert list(here.iterdir()) == []


def test_without_a_store_the_environment_is_examined(call: Call) -> None:
    shown = call("doctor")
    assert shown.exit_code == 0
    assert "sqlite" in shown.stdout
    assert "no store is named here" in shown.stdout


def test_a_file_that_others_can_read_is_a_warning(call: Call, store: str, here: Path) -> None:
    (here / "shop.db").chmod(0o644)
    check = checks(call("doctor", "--json"))["file"]
    assert check["status"] == "warn"
    assert check["remedy"] == "chmod 600 shop.db"


@pytest.mark.parametrize(("free", "status", "code"), [(1 << 20, "bad", 1), (512 << 20, "warn", 0), (1 << 40, "ok", 0)])
def test_a_disk_that_fills_up_is_told_before_it_is_full(
    call: Call, store: str, monkeypatch: pytest.MonkeyPatch, free: int, status: str, code: int
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    shown = call("doctor", "--json")
    assert checks(shown)["disk"]["status"] == status
    assert shown.exit_code == code


def test_a_network_file_system_fails(call: Call, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_filesystem", lambda path: "nfs4")
    shown = call("doctor", "--json")
    assert shown.exit_code == 1
    assert checks(shown)["filesystem"]["status"] == "bad"


def test_an_sqlite_with_the_wal_reset_bug_is_noted(call: Call, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "sqlite_version", lambda: (3, 51, 2))
    assert checks(call("doctor", "--json"))["sqlite"]["status"] == "note"
    monkeypatch.setattr(doctor, "sqlite_version", lambda: (3, 51, 3))
    assert checks(call("doctor", "--json"))["sqlite"]["status"] == "ok"


def large_bodies(here: Path) -> list[Path]:
    """Two messages of the store with bodies that lie beside it."""

    async def send() -> None:
        store = await open_store("sqlite:///shop.db")
        await store.declare(Topology(claims=ClaimSpec(inline_bytes=100)))
        await store.send("billing", [Outgoing(b"x" * 1_000), Outgoing(b"y" * 1_000)])
        await store.close()

    asyncio.run(send())
    return sorted(path for path in (here / "shop.db-claims").rglob("*") if path.is_file())


def test_large_bodies_are_counted_and_a_missing_one_is_named(call: Call, store: str, here: Path) -> None:
    first, _ = large_bodies(here)
    assert checks(call("doctor", "--json"))["large bodies"]["detail"].startswith("2 in files beside the store")
    first.unlink()
    shown = call("doctor", "--json")
    assert shown.exit_code == 1
    assert first.name in checks(shown)["large bodies"]["detail"]


def test_files_that_no_message_needs_are_noted_and_gone_while_the_store_is_open(
    call: Call, store: str, here: Path
) -> None:
    first, _ = large_bodies(here)
    orphan = first.with_name(first.name[:22] + "orphan")
    orphan.write_bytes(b"left by a crash")
    assert checks(call("doctor", "--json"))["large bodies"]["detail"] == "1 files that no message needs"

    async def until_gone() -> None:
        store = await open_store("sqlite:///shop.db")
        async with asyncio.timeout(20):
            while orphan.exists():  # noqa: ASYNC110  # nothing tells of it
                await asyncio.sleep(0.005)
        await store.close()

    asyncio.run(until_gone())
    assert checks(call("doctor", "--json"))["large bodies"]["status"] == "ok"


def test_what_the_store_cannot_do_is_said_by_doctor_and_keeps_the_app_from_running(
    call: Call, store: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "app.py").write_text(
        "from pipeflow import App\napp = App('x', broker='sqlite:///shop.db')\n"
        "ledger = app.queue('ledger', str, fifo=True)\n"
    )
    monkeypatch.setattr("pipeflow.embedded.broker.Features", partial(Features, fifo=False))
    shown = call("doctor", "--app", "app:app", "--json")
    assert shown.exit_code == 1
    assert checks(shown)["features"]["status"] == "bad"
    assert "queue ledger (app.py:3): fifo=True" in checks(shown)["features"]["detail"]
    sent = call("send", "lenient", "x", "--group", "g")
    assert sent.exit_code == 4
    assert "queue lenient: group= cannot be done by the store" in sent.stderr
    started = call("run", "app:app")
    assert started.exit_code == 4
    assert "queue ledger (app.py:3): fifo=True" in started.stderr
