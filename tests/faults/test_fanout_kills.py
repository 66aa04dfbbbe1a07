"""Eight kills of a process that publishes to ten queues and a stream; `scripts/faults fanout` does two hundred."""

from __future__ import annotations

from pathlib import Path

import pytest

from fanout_kills import TARGETS, Oracle, campaign, clean


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_T29_T60_a_publish_is_in_all_of_its_targets_or_in_none_when_the_process_is_killed(
    durability: str, tmp_path: Path
) -> None:
    cycles = 8 if durability == "full" else 4
    result = campaign(cycles, seed=7, durability=durability, directory=tmp_path)
    assert clean(result), result
    assert isinstance(result["copies"], int)
    assert isinstance(result["records"], int)
    assert result["copies"] > result["records"] > 0


def heard(*lines: str) -> Oracle:
    oracle = Oracle()
    for line in lines:
        oracle.hear(line)
    return oracle


def test_the_oracle_notices_a_publish_that_reached_some_targets_only() -> None:
    story = ["publish - a.1", *(f"got {target} a.1" for target in TARGETS)]
    assert heard(*story).torn() == []
    assert heard(*story[:-1]).torn() == ["a.1"]
    assert heard("publish - a.1").torn() == [], "none is well"


def test_the_oracle_lets_a_copy_go_that_was_handed_out_before_its_publish_was_on_disk() -> None:
    oracle = Oracle()
    oracle.life = "a"
    for line in ("publish - a.1", "got copy1 a.1", "publish - a.2", "got copy1 a.2", "acked copy1 a.2"):
        oracle.hear(line)
    assert oracle.torn() == ["a.2"], "what was acknowledged was on disk"


def test_the_oracle_notices_a_publish_that_is_nowhere_and_one_that_nobody_made() -> None:
    assert heard("publish - a.1", "published - a.1").lost() == ["a.1"]
    assert heard("got copy1 damaged").ghosts == ["damaged"]


def test_the_oracle_notices_a_record_that_is_there_twice() -> None:
    assert heard("publish - a.1", "got lake a.1", "got copy1 a.1", "got copy1 a.1").twice == []
    assert heard("publish - a.1", "got lake a.1", "got lake a.1").twice == ["a.1"]


def test_the_oracle_notices_a_copy_that_comes_back() -> None:
    assert heard("publish - a.1", "got copy1 a.1", "acked copy1 a.1", "got copy2 a.1").undead == []
    assert heard("publish - a.1", "got copy1 a.1", "acked copy1 a.1", "got copy1 a.1").undead == ["copy1 a.1"]
