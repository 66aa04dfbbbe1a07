"""`pipeflow topics webhooks|confirm|certificate`."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeflow import App
from pipeflow.cli.main import cli
from pipeflow.clock import VirtualClock
from pipeflow.testing.endpoints import MemoryPoster


def said(*words: str) -> str:
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    return result.output


async def started(database: Path) -> str:
    """A store with a webhook that was asked to confirm; the token."""
    app = App("shop", broker=f"sqlite:///{database}")
    app.webhook("hook", app.topic("orders", str), url="https://example.org/canary?key=canary")
    poster, clock = MemoryPoster(), VirtualClock(1_900_000_000.0)
    async with app.running(clock=clock, posters={"hook": poster}):
        await clock.settle()
    return poster.token


def test_T19_a_token_confirms_and_the_list_says_so_without_the_path_of_the_url(tmp_path: Path) -> None:
    import anyio

    token = anyio.run(started, tmp_path / "shop.db")
    store = ("--broker", f"sqlite:///{tmp_path}/shop.db")
    before = said("topics", "webhooks", "--json", *store)
    assert "canary" not in before
    assert [(row["webhook"], row["topic"], row["state"]) for row in json.loads(before)] == [
        ("hook", "orders", "pending")
    ]
    assert "gets what orders publishes from now on" in said("topics", "confirm", "orders", token, *store)
    assert json.loads(said("topics", "webhooks", "--json", *store))[0]["state"] == "confirmed"
    wrong = CliRunner().invoke(cli, ["topics", "confirm", "orders", "0" * 64, *store])
    assert wrong.exit_code != 0


def test_T18_a_webhook_is_unsubscribed_by_its_name_or_its_arn_and_asked_anew(tmp_path: Path) -> None:
    import anyio

    token = anyio.run(started, tmp_path / "shop.db")
    store = ("--broker", f"sqlite:///{tmp_path}/shop.db")
    said("topics", "confirm", "orders", token, *store)
    assert "canary" not in said("topics", "unsubscribe", "hook", *store)
    (row,) = json.loads(said("topics", "webhooks", "--json", *store))
    assert row["state"] == "unsubscribed"
    (row,) = json.loads(said("topics", "unsubscribe", row["arn"], "--undo", "--json", *store))
    assert row["state"] == "pending"
    assert json.loads(said("topics", "unsubscribe", "hook", "--topic", "other", "--json", *store)) == []
    absent = CliRunner().invoke(cli, ["topics", "unsubscribe", "other", "--fail-empty", *store])
    assert absent.exit_code == 3


def test_a_certificate_is_made_once_and_its_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    pytest.importorskip("pipeflow_connectors.signing", reason="pip install 'pipeflow[sign]'")
    made = json.loads(said("topics", "certificate", str(tmp_path / "keys"), "--json"))
    assert stat.S_IMODE(Path(made["key"]).stat().st_mode) == 0o600
    assert Path(made["certificate"]).name.startswith("SimpleNotificationService-")
    again = CliRunner().invoke(cli, ["topics", "certificate", str(tmp_path / "keys")])
    assert again.exit_code == 4
    assert "exists" in again.output
