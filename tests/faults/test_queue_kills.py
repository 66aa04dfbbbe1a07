"""Ten kills of a process that works on queues; `scripts/faults queue` does two hundred."""

from __future__ import annotations

from pathlib import Path

import pytest

from queue_kills import Oracle, campaign, clean


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_nothing_acknowledged_is_lost_and_nothing_deleted_comes_back_when_the_process_is_killed(
    durability: str, tmp_path: Path
) -> None:
    """Q1, Q2, Q75: a message is delivered until it is acknowledged and never after, groups stay in order."""
    cycles = 10 if durability == "full" else 4
    result = campaign(cycles, seed=7, durability=durability, directory=tmp_path)
    assert clean(result), result
    assert isinstance(result["sent"], int)
    assert result["sent"] > 0


def heard(*lines: str) -> Oracle:
    oracle = Oracle()
    for line in lines:
        oracle.hear(line)
    return oracle


def test_the_oracle_notices_a_lost_message() -> None:
    assert heard("send work a.1", "sent work a.1").lost() == ["a.1"]
    assert heard("send work a.1", "sent work a.1", "got work a.1", "ack work a.1").lost() == []


def test_the_oracle_notices_a_message_delivered_after_its_acknowledgement() -> None:
    story = ("send work a.1", "sent work a.1", "got work a.1", "ack work a.1", "acked work a.1", "got work a.1")
    assert heard(*story).undead == ["a.1"]


def test_the_oracle_notices_a_message_nobody_sent() -> None:
    assert heard("got work a.1").ghosts == ["a.1"]


def test_the_oracle_notices_a_group_out_of_order() -> None:
    sent = ("send ledger g.1", "sent ledger g.1", "send ledger g.2", "sent ledger g.2")
    assert heard(*sent, "got ledger g.2").reordered == ["g.2 before g.1"]
    assert heard(*sent, "got ledger g.1", "got ledger g.2").reordered == []
    assert heard(*sent, "got ledger g.1", "back ledger g.1", "got ledger g.2").reordered == ["g.2 before g.1"]
