"""Bodies from arguments, files and stdin, each with its place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from pipeflow.cli.bodies import BATCH, Body, attributes, batches, bodies, files_size
from pipeflow.errors import CodecError


def contents(arguments: Sequence[str], raw: bool = False) -> list[bytes]:
    return [body.content for body in bodies(arguments, raw)]


def test_an_argument_is_one_body() -> None:
    assert list(bodies(['{"a":1}', "2"], raw=False)) == [Body(b'{"a":1}', "argument 1"), Body(b"2", "argument 2")]


def test_a_file_of_json_lines_is_one_body_a_line(tmp_path: Path) -> None:
    file = tmp_path / "orders.jsonl"
    file.write_bytes(b'{"a":1}\r\n\n  {"a":2}\n')
    assert list(bodies([f"@{file}"], raw=False)) == [Body(b'{"a":1}', f"{file}:1"), Body(b'{"a":2}', f"{file}:3")]


def test_a_document_over_many_lines_is_one_body(tmp_path: Path) -> None:
    file = tmp_path / "order.json"
    file.write_text('{\n  "a": 1\n}\n')
    assert contents([f"@{file}"]) == [b'{\n  "a": 1\n}']


def test_raw_lines_are_bytes_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b" plain \xff text\nmore\n")
    assert contents([f"@{file}"], raw=True) == [b" plain \xff text", b"more"]


@pytest.mark.parametrize("written", ["hello", '{"a":', "[1,]", "[" * 5000])
def test_what_is_no_json_is_refused_with_its_place_and_the_remedy(written: str) -> None:
    with pytest.raises(CodecError, match=r"argument 1: .* is no JSON .* --raw"):
        contents([written])


def test_a_bad_line_is_named_after_the_good_ones_were_handed_out(tmp_path: Path) -> None:
    file = tmp_path / "orders.jsonl"
    file.write_text("1\n2\nthree\n4\n")
    handed: list[Body] = []
    with pytest.raises(CodecError, match=r"orders\.jsonl:3"):
        handed.extend(body for batch in batches(bodies([f"@{file}"], raw=False)) for body in batch)
    assert [body.content for body in handed] == [b"1", b"2"]


def test_batches_are_bounded_in_number_and_bytes() -> None:
    many = batches(Body(b"x", "") for _ in range(BATCH * 2 + 1))
    assert [len(batch) for batch in many] == [BATCH, BATCH, 1]
    large = batches(Body(bytes(3 << 20), "") for _ in range(3))
    assert [len(batch) for batch in large] == [2, 1]


def test_what_was_read_is_told_for_the_progress_bar(tmp_path: Path) -> None:
    file = tmp_path / "orders.jsonl"
    file.write_text("1\n2\n")
    told: list[int] = []
    assert len(list(bodies([f"@{file}"], False, told.append))) == 2
    assert sum(told) == files_size([f"@{file}"]) == 4
    assert files_size(["-"]) is None


def test_attributes_are_text_or_json() -> None:
    written = ["kind=placed", "total:=5", "tags:=[1,null]", "url=a=b", "ok:=true"]
    expected = {"kind": "placed", "total": 5, "tags": [1, None], "url": "a=b", "ok": True}
    assert attributes(written) == expected
    assert attributes([]) is None


@pytest.mark.parametrize("written", ["kind", "=x", "total:=five", "map:={}"])
def test_a_bad_attribute_is_a_usage_error_with_an_example(written: str) -> None:
    with pytest.raises(click.UsageError, match="--attr"):
        attributes([written])
