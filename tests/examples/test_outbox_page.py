"""The page about the outbox: its examples run, and do what the page says."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from pipeflow.testing import harness

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "outbox.md").read_text()


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the examples make, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {"__name__": "outbox_page"}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/outbox.md", "exec", dont_inherit=True), made)  # noqa: S102  # the page's own
    return made


async def test_a_transaction_that_fails_publishes_nothing_and_one_that_commits_does(program: dict[str, Any]) -> None:
    async with harness(program["app"]) as h:
        with pytest.raises(sqlite3.IntegrityError):
            program["place"](program["Order"]("1", 0))
        program["place"](program["Order"]("2", 5))
        await h.settle()
        assert program["billed"] == ["2"]
        assert h.queued(program["mail"]) == ["thank you for 2"]


async def test_with_aiosqlite_the_call_is_awaited(program: dict[str, Any]) -> None:
    async with harness(program["app"]) as h:
        assert await program["place_async"](program["Order"]("3", 7))
        await h.advance(1)
        assert program["billed"] == ["3"]


async def test_a_trigger_writes_to_the_outbox(program: dict[str, Any]) -> None:
    (trigger,) = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    async with harness(program["app"]) as h:
        program["place"](program["Order"]("4", 9))
        connection = sqlite3.connect("app.db")
        connection.execute("ALTER TABLE orders ADD COLUMN shipped_at REAL")
        connection.executescript(trigger)
        connection.execute("UPDATE orders SET shipped_at = 1.0")
        connection.commit()
        connection.close()
        await h.advance(1)
        assert program["billed"] == ["4", "4"]
