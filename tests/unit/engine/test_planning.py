"""Which small files are merged: neighbours of one kind, up to the target, and each byte a few times at most."""

from __future__ import annotations

from math import log2
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeflow.engine.planning import is_small, plan
from pipeflow.files import FileFacts, Merge
from pipeflow.sinks.objects import object_name


def file(first: int, last: int | None = None, size: int = 10, *, under: str | None = None, **other: Any) -> FileFacts:
    """A file of the stream `lake`, named as the store names it."""
    last = first if last is None else last
    name = object_name(
        "lake", "", first=first, last=last, opened_at=float(first), store_id="3f9a0c12", format="jsonl",
        compression="gzip", under=under,
    )  # fmt: skip
    made = FileFacts(
        name, "", "rows", first, last, last - first + 1, size, 7, 99, "jsonl", "gzip", 0, float(first), 1_000.0
    )
    return replace(made, **other)


def ranges(merges: list[Merge]) -> list[list[int]]:
    return [[each.first for each in merge.inputs] for merge in merges]


def test_neighbours_are_merged_up_to_the_target() -> None:
    files = [file(n) for n in range(1, 8)]
    assert ranges(plan("lake", files, 30)) == [[1, 2, 3], [4, 5, 6]]
    assert plan("lake", files, 30) == plan("lake", files, 30)


def test_the_merged_file_has_the_name_of_the_first_with_the_range_of_all() -> None:
    (merge,) = plan("lake", [file(1, 4), file(5, 9)], 100)
    assert merge.output == "lake-1970-01-01-00-00-01-000000000001-000000000009-3f9a0c12.jsonl.gz"


def test_a_file_that_is_nearly_large_enough_stays_and_nothing_is_merged_around_it() -> None:
    assert not is_small(file(3, size=75), 100)
    files = [file(1), file(2), file(3, size=75), file(4), file(5)]
    assert ranges(plan("lake", files, 100)) == [[1, 2], [4, 5]]


@pytest.mark.parametrize(
    "other",
    [{"format": "raw"}, {"compression": "zstd"}, {"shape": 1}, {"kind": "errors"}],
    ids=lambda other: next(iter(other)),
)
def test_files_of_different_kinds_are_not_merged_with_each_other(other: dict[str, Any]) -> None:
    files = [file(1), file(2, **other), file(3), file(4, **other)]
    assert ranges(plan("lake", files, 100)) == [[1, 3], [2, 4]]


@pytest.mark.parametrize("other", [{"format": ""}, {"format": "orc"}, {"compression": "zip"}])
def test_what_cannot_be_merged_stays(other: dict[str, Any]) -> None:
    assert plan("lake", [file(1, **other), file(2, **other)], 100) == []


def test_files_beneath_different_prefixes_stay_there() -> None:
    files = [file(1, under="a/05/"), file(2, under="a/05/"), file(3, under="a/06/"), file(4, under="a/06/")]
    assert ranges(plan("lake", files, 100)) == [[1, 2], [3, 4]]
    files = [file(1, under="logs-05-"), file(2, under="logs-06-")]
    assert plan("lake", files, 100) == []


def test_what_is_left_out_stands_between_those_that_are_merged() -> None:
    files = [file(n) for n in range(1, 6)]
    assert ranges(plan("lake", files, 100, leave=lambda each: each.first == 3)) == [[1, 2], [4, 5]]


def test_by_itself_no_file_is_merged_into_others_that_are_smaller_together() -> None:
    files = [file(1, size=100), file(2, size=30), file(3, size=20), file(4, size=9)]
    assert ranges(plan("lake", files, 1_000, eager=False)) == []
    assert ranges(plan("lake", [*files, file(5, size=12)], 1_000, eager=False)) == [[2, 3, 4, 5]]
    assert ranges(plan("lake", files, 1_000)) == [[1, 2, 3, 4]]


def test_by_itself_what_is_as_large_as_it_gets_is_merged() -> None:
    files = [file(1, size=50), file(2, size=20), file(3, size=60)]
    assert ranges(plan("lake", files, 100, eager=False)) == [[1, 2]]


sizes = st.lists(st.integers(min_value=1, max_value=120), max_size=40)


@given(sizes, st.booleans())
def test_every_plan_keeps_the_order_the_target_and_each_file_once(sizes: list[int], eager: bool) -> None:
    files = [file(n, size=size) for n, size in enumerate(sizes, 1)]
    merges = plan("lake", files, 100, eager=eager)
    merged = [each for merge in merges for each in merge.inputs]
    assert merged == sorted(merged, key=lambda each: each.first)
    assert len(set(merged)) == len(merged)
    assert all(sum(each.size for each in merge.inputs) <= 100 and len(merge.inputs) > 1 for merge in merges)
    for merge in merges:
        firsts = [each.first for each in merge.inputs]
        assert firsts == list(range(firsts[0], firsts[-1] + 1))


def test_a_byte_is_rewritten_a_few_times_however_many_files_come() -> None:
    files: list[FileFacts] = []
    written = 0
    most = 0
    for n in range(1, 4_097):
        files.append(file(n))
        for merge in plan("lake", files, 1 << 20, eager=False):
            gone = {each.first for each in merge.inputs}
            files = [each for each in files if each.first not in gone]
            files.append(file(merge.inputs[0].first, merge.inputs[-1].last, sum(each.size for each in merge.inputs)))
            files.sort(key=lambda each: each.first)
            written += files[-1].size
        most = max(most, len(files))
    assert most <= log2(4_096) + 1
    assert written <= 10 * 4_096 * log2(4_096)
