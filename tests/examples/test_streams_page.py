"""The page about streams: its example runs, and its objects are called what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pipeflow.clock import VirtualClock
from pipeflow.sinks.memory import MemorySink
from pipeflow.sinks.timestamps import fields

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "streams.md").read_text()


async def test_the_example_delivers_under_the_name_that_the_page_shows(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    program: dict[str, Any] = {"__name__": "streams_page"}
    exec(block, program)  # noqa: S102  # the page's own program
    (shown,) = re.findall(r"^    (year=2013/.*)$", PAGE, re.MULTILINE)
    clock, sink = VirtualClock(1_356_996_600.0), MemorySink()  # 2012-12-31 23:30 UTC
    async with program["app"].running(clock=clock, broker=f"sqlite:///{tmp_path}/s.db", sinks={"lake": sink}):
        await program["lake"].put(program["Flight"]("1", "UA"))
        await program["lake"].flush()
    (name,) = sink.objects
    mark = r"-[0-9a-f]{12}\."  # of the store, and random
    assert re.sub(mark, "", name) == re.sub(mark, "", shown)


def test_every_letter_that_the_page_teaches_is_one() -> None:
    (paragraph,) = re.findall(r"\*\*Patterns\*\*(.*?)\n\n", PAGE, re.DOTALL)
    patterns = [text for text in re.findall(r"`([^`]+)`", paragraph) if not any(map(str.isdigit, text))]
    assert len(patterns) > 10
    assert all(fields(pattern) for pattern in patterns)
