"""Eight kills of a process that works with large bodies; `scripts/faults claims` does two hundred."""

from __future__ import annotations

from pathlib import Path

import pytest

from claims_kills import campaign, clean


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_no_large_body_is_missing_and_none_is_left_behind_when_the_process_is_killed(
    durability: str, tmp_path: Path
) -> None:
    result = campaign(8 if durability == "full" else 4, seed=7, durability=durability, directory=tmp_path)
    assert clean(result), result
    assert isinstance(result["sent"], int)
    assert result["sent"] > 0
