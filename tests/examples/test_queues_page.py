"""The page about queues: its examples run, and do what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pipeflow.testing import harness

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "queues.md").read_text()


def program_of(heading: str) -> dict[str, Any]:
    """What the example below this heading makes when it is run."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    program: dict[str, Any] = {"__name__": "queues_page"}
    # Its annotations are types, as in a file of its own, and not the texts that they are in this one.
    exec(compile(block, "docs/queues.md", "exec", dont_inherit=True), program)  # noqa: S102  # the page's own program
    return program


async def test_Q83_the_small_customer_waits_for_thirty_invoices_at_most() -> None:
    program = program_of("Fair queues")
    async with harness(program["app"]) as h:
        await program["at_month_end"]()
        await h.settle()
    customers = [invoice.customer for invoice in program["done"]]
    assert len(customers) == 10_001
    assert customers.index("small") <= 30
