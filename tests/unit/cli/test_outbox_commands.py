"""`pipeflow outbox`: what waits is counted; what could not be sent is listed, retried, and deleted only on purpose."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from pipeflow import App
from pipeflow.testing import harness

Call = Callable[..., Result]


class Desk:
    """An app with an outbox in app.db, one of whose rows names a topic that is gone."""

    def __init__(self) -> None:
        self.app = App("shop")
        self.orders = self.app.topic("orders", str)
        self.work = self.app.queue("work", str, self.orders)
        self.outbox = self.app.outbox("app.db")

    def write(self, *texts: str) -> None:
        connection = sqlite3.connect("app.db")
        for text in texts:
            self.outbox.publish(connection, self.orders, text)
        self.outbox.send(connection, self.work, "sent")
        connection.commit()
        connection.close()

    def break_one(self, text: str) -> None:
        """The row of this text names a topic that nobody declares."""
        connection = sqlite3.connect("app.db")
        connection.execute("UPDATE pipeflow_outbox SET target = 'gone' WHERE body = ?", (f'"{text}"'.encode(),))
        connection.commit()
        connection.close()


@pytest.fixture
def desk(here: Path) -> Desk:
    return Desk()


def rows(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def test_what_waits_is_counted_by_target_with_the_age_of_the_oldest(call: Call, desk: Desk) -> None:
    desk.write("a", "b")
    connection = sqlite3.connect("app.db")
    connection.execute("UPDATE pipeflow_outbox SET id = id - 3600000000 WHERE body = ?", (b'"a"',))
    connection.commit()
    connection.close()
    orders, work = rows(call("outbox", "status", "app.db", "--json"))
    assert (orders["kind"], orders["target"], orders["pending"], orders["aside"]) == ("topic", "orders", 2, 0)
    assert 3600 <= orders["oldest"] < 3700
    assert (work["kind"], work["target"], work["pending"]) == ("queue", "work", 1)
    assert work["oldest"] < 100
    assert "orders" in call("outbox", "status", "app.db").stdout
    assert call("outbox", "ls", "app.db", "--fail-empty").exit_code == 3


async def test_what_could_not_be_sent_is_listed_with_why_and_sent_when_it_is_retried(call: Call, desk: Desk) -> None:
    desk.write("a", "b", "c")
    desk.break_one("b")
    async with harness(desk.app) as h:
        await h.advance(5)
        assert h.queued(desk.work) == ["a", "c", "sent"]
        (aside,) = rows(call("outbox", "ls", "app.db", "--json"))
        assert (aside["kind"], aside["target"], aside["size"]) == ("topic", "gone", 3)
        assert "there is no topic gone" in aside["failure"]
        (status,) = rows(call("outbox", "status", "app.db", "--json"))
        assert (status["pending"], status["oldest"], status["aside"]) == (0, None, 1)
        connection = sqlite3.connect("app.db")
        connection.execute("UPDATE pipeflow_outbox SET target = 'orders'")
        connection.commit()
        connection.close()
        assert "1 rows are sent again" in call("outbox", "retry", "app.db", str(aside["id"])).stdout
        await h.advance(5)
        assert h.queued(desk.work) == ["a", "c", "sent", "b"]
        assert rows(call("outbox", "status", "app.db", "--json")) == []


def test_a_retry_and_a_discard_take_the_rows_they_name_and_no_other(call: Call, desk: Desk) -> None:
    desk.write("a", "b", "c")
    connection = sqlite3.connect("app.db")
    connection.execute("UPDATE pipeflow_outbox SET failure = 'why' WHERE kind = 'topic'")
    connection.commit()
    connection.close()
    first, second, third = (row["id"] for row in rows(call("outbox", "ls", "app.db", "--json")))
    assert call("outbox", "retry", "app.db").exit_code == 2
    assert call("outbox", "retry", "app.db", str(first), "--all").exit_code == 2
    assert "pipeflow outbox ls" in call("outbox", "retry", "app.db").stderr
    unknown = call("outbox", "retry", "app.db", str(first), "77")
    assert unknown.exit_code == 1
    assert "row 77 is not set aside" in unknown.stderr
    assert len(rows(call("outbox", "ls", "app.db", "--json"))) == 3, "a refused retry changes nothing"
    assert json.loads(call("outbox", "retry", "app.db", str(second), "--json").stdout) == {"file": "app.db", "rows": 1}
    assert [row["id"] for row in rows(call("outbox", "ls", "app.db", "--json"))] == [first, third]
    refused = call("outbox", "discard", "app.db", str(first))
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert "1 rows deleted" in call("outbox", "discard", "app.db", str(first), "--yes").stdout
    assert [row["id"] for row in rows(call("outbox", "ls", "app.db", "--json"))] == [third]
    assert "1 rows deleted" in call("outbox", "discard", "app.db", "--all", "--yes").stdout
    pending = {row["target"]: row["pending"] for row in rows(call("outbox", "status", "app.db", "--json"))}
    assert pending == {"work": 1, "orders": 1}, "what waits is not discarded"


def test_a_look_makes_no_file_and_no_table_and_says_what_is_not_there(call: Call, desk: Desk, store: str) -> None:
    missing = call("outbox", "status", "none.db")
    assert missing.exit_code == 1
    assert "none.db: there is no such file" in missing.stderr
    assert "outbox .: this is no file" in call("outbox", "status", ".").stderr
    assert not Path("none.db").exists()
    sqlite3.connect("other.db").close()
    Path("other.db").touch()
    assert "no table pipeflow_outbox" in call("outbox", "status", "other.db").stderr
    Path("text.db").write_text("no database, and longer than the header of one: " + "x" * 200)
    assert "name the SQLite file that your own tables lie in" in call("outbox", "ls", "text.db").stderr
    assert "outbox shop.db: this database is a store of pipeflow" in call("outbox", "ls", "shop.db").stderr
    desk.write("a")
    assert call("outbox", "ls", "app.db", "--table", "no table").exit_code == 4
    assert "no table mine" in call("outbox", "ls", "app.db", "--table", "mine").stderr
    with sqlite3.connect("app.db") as connection:
        connection.execute("CREATE TABLE orders (number, kind)")
    connection.close()
    for command in (["status"], ["ls"], ["retry", "--all"], ["discard", "--all", "--yes"]):
        told = call("outbox", *command, "app.db", "--table", "orders")
        assert (told.exit_code, "its table orders is no outbox" in told.stderr) == (1, True)


def test_a_database_that_somebody_holds_is_looked_at_all_the_same_and_a_change_says_who_is_in_the_way(
    call: Call, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeflow.embedded.sqlite.outbox_file.BUSY", 0.01)
    desk.write("a")
    with sqlite3.connect("app.db") as held:
        held.execute("UPDATE pipeflow_outbox SET failure = 'why'")
        assert sum(row["pending"] for row in rows(call("outbox", "status", "app.db", "--json"))) == 2
        told = call("outbox", "discard", "app.db", "--all", "--yes")
        assert told.exit_code == 1
        assert "end what holds the database" in told.stderr
    held.close()


def test_doctor_names_the_outboxes_whose_rows_could_not_be_sent(call: Call, desk: Desk, here: Path, store: str) -> None:
    (here / "app.py").write_text(
        "from pipeflow import App\napp = App('shop', broker='sqlite:///shop.db')\n"
        "app.outbox('app.db')\napp.outbox('none.db')\n"
    )

    def said() -> dict[str, tuple[str, str]]:
        checks = json.loads(call("doctor", "--app", "app:app", "--json").stdout)["checks"]
        return {each["name"]: (each["status"], each["detail"]) for each in checks if "outbox" in each["name"]}

    desk.write("a")
    assert said() == {"outbox app.db": ("ok", "2 rows pending")}
    connection = sqlite3.connect("app.db")
    connection.execute("UPDATE pipeflow_outbox SET failure = 'why' WHERE kind = 'topic'")
    connection.commit()
    connection.close()
    assert said() == {"outbox app.db": ("warn", "1 rows could not be sent")}
