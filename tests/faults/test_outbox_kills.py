"""Six kills of a program with an outbox; `scripts/faults outbox` does two hundred."""

from __future__ import annotations

from pathlib import Path

import pytest

from outbox_kills import campaign, clean


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_each_order_that_was_committed_is_published_once_when_the_program_is_killed(
    durability: str, tmp_path: Path
) -> None:
    result = campaign(6 if durability == "full" else 3, seed=7, durability=durability, directory=tmp_path)
    assert clean(result), result
    assert isinstance(result["orders"], int)
    assert result["orders"] > 0
