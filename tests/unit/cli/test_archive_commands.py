"""`pipeflow topics replay` and `pipeflow match --history`."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

from pipeflow import App
from pipeflow.cli.main import cli


async def filled(database: Path) -> None:
    app = App("shop", broker=f"sqlite:///{database}")
    orders = app.topic("orders", int, archive=30)
    app.queue("all", int, orders)
    app.queue("placed", int, orders.where(kind="placed"))
    app.queue("elsewhere", int)
    async with app.client():
        for n in range(6):
            await orders.publish(n, kind="placed" if n % 3 else "void")


@pytest.fixture
def store(tmp_path: Path) -> tuple[str, str]:
    anyio.run(filled, tmp_path / "shop.db")
    return ("--broker", f"sqlite:///{tmp_path}/shop.db")


def said(*words: str) -> str:
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    return result.output


def test_T75_a_replay_is_counted_then_done_then_done_already(store: tuple[str, str]) -> None:
    words = ("topics", "replay", "orders", "--to", "placed", "--from", "1h", *store)
    assert "orders to placed: 4 of 6 messages; nothing was delivered" in said(*words, "--dry-run")
    assert "orders to placed: 4 messages delivered, out of 6" in said(*words)
    assert "orders to placed: done already, 4 messages; --again begins anew" in said(*words)
    assert json.loads(said(*words, "--again", "--json"))["sent"] == 4
    queues = {row["name"]: row["ready"] for row in json.loads(said("queues", "--json", *store))}
    assert queues == {"all": 6, "placed": 12, "elsewhere": 0}, "an archive is listed with --all"
    assert "orders-archive" in said("queues", "--all", *store)


def test_a_replay_takes_only_what_a_policy_takes(store: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text('{"kind": ["placed", "void"]}')
    words = ("topics", "replay", "orders", "--to", "placed", "--scope", "attributes", *store)
    assert json.loads(said(*words, "--policy", '{"kind": ["void"]}', "--dry-run", "--json"))["matched"] == 0
    assert json.loads(said(*words, "--policy", f"@{tmp_path}/policy.json", "--json"))["sent"] == 4
    assert json.loads(said(*words, "--json"))["sent"] == 4, "another replay"


def test_a_replay_to_nobody_is_refused_by_name(store: tuple[str, str]) -> None:
    result = CliRunner().invoke(cli, ["topics", "replay", "orders", "--to", "elsewhere", *store])
    assert result.exit_code != 0
    assert "elsewhere does not subscribe to topic orders; these do: all, placed" in result.output


def test_what_would_have_matched_is_told_with_the_first_ids(store: tuple[str, str]) -> None:
    words = ("match", "--policy", '{"kind": ["void"]}', "--scope", "attributes", "--history", "orders", *store)
    told = said(*words).splitlines()
    assert told[0] == "orders: 2 of 6 archived messages match"
    assert len(told) == 3
    assert json.loads(said(*words, "--json"))["matched"] == 2
    none = CliRunner().invoke(cli, [*words, "--until", "1h", "--fail-empty"])
    assert none.exit_code == 3


def test_match_needs_an_event_or_a_history() -> None:
    result = CliRunner().invoke(cli, ["match", "--policy", "{}"])
    assert result.exit_code == 2
    assert "name a file with events, - for stdin, or --history TOPIC" in result.output
