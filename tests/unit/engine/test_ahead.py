"""As many segments at once as there are cores to compress them, within bounds."""

from __future__ import annotations

import os

import pytest

from pipeflow.engine.ahead import ahead, cores
from pipeflow.messages import Column

FLAT = (Column("id", "int64"),)
NESTED = (Column("id", "int64"), Column("tags", "list", fields=(Column("element", "string"),)))


@pytest.mark.parametrize(("here", "expected"), [(1, 3), (2, 3), (3, 4), (4, 5), (8, 9), (64, 9)])
def test_segments_in_hand_follow_the_cores(here: int, expected: int) -> None:
    assert ahead("jsonl", (), here) == ahead("raw", (), here) == ahead("parquet", FLAT, here) == expected


@pytest.mark.parametrize(("format", "columns"), [("csv", FLAT), ("parquet", NESTED), ("orc", NESTED)])
def test_rows_are_made_of_one_segment_at_a_time_where_the_interpreter_makes_them(
    format: str, columns: tuple[Column, ...]
) -> None:
    assert ahead(format, columns, 1) == ahead(format, columns, 64) == 2


def test_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5, 7}, raising=False)
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1
