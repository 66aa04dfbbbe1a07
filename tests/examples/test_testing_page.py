"""The page about testing: its sink is one, and its test of it passes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipeflow.testing.sinks import CHECKS, Check

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "testing.md").read_text()


@pytest.fixture(scope="module")
def program() -> dict[str, Any]:
    (section,) = re.findall(r"^## Your sinks\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"__name__": "testing_page"}
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(compile(block, "docs/testing.md", "exec", dont_inherit=True), names)  # noqa: S102  # the page's own program
    return names


@pytest.mark.parametrize("check", CHECKS)
async def test_the_sink_of_the_page_keeps_what_every_sink_promises(
    program: dict[str, Any], check: Check, tmp_path: Path
) -> None:
    await program["test_a_shelf_keeps_what_every_sink_promises"](check=check, tmp_path=tmp_path)
