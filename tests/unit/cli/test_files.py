"""`pipeflow files`: which files hold what, from the catalogue of a store that nobody owns or an app has open."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import anyio
import click
import pytest
from click.testing import Result

from pipeflow import App
from pipeflow.cli.units import clock_time, moment
from pipeflow.clock import VirtualClock

Call = Callable[..., Result]
AT = 1_000_000.0


async def deliver(*batches: list[bytes], **options: Any) -> None:
    """One file for each batch, an hour after the other."""
    app = App("shop", broker="sqlite:///shop.db")
    lake = app.stream("lake", bytes, sink="file://./lake", format="jsonl", **options)
    clock = VirtualClock(AT)
    async with app.running(clock=clock):
        for batch in batches:
            await lake.put_many(batch)
            await lake.flush()
            await clock.advance(3600)


@pytest.fixture
def delivered(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with three files of 2, 3 and 1 records, and the directory they lie in."""
    monkeypatch.setenv("PIPEFLOW_BROKER", "sqlite:///shop.db")
    anyio.run(deliver, [b"1", b"2"], [b"3", b"4", b"5"], [b"6"])
    return here / "lake"


def rows(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    decoded: list[dict[str, Any]] = json.loads(result.stdout)
    return decoded


def test_files_are_listed_with_range_size_checksum_and_time(call: Call, delivered: Path) -> None:
    first, second, third = rows(call("files", "ls", "lake", "--json"))
    assert [(row["first"], row["last"], row["records"]) for row in (first, second, third)] == [
        (1, 2, 2),
        (3, 5, 3),
        (6, 6, 1),
    ]
    content = (delivered / first["name"]).read_bytes()
    assert (first["size"], first["crc32"]) == (len(content), f"{crc32(content):08x}")
    assert second["opened_at"] == second["delivered_at"] == AT + 3600


def test_a_range_of_sequences_chooses_files(call: Call, delivered: Path) -> None:
    assert [
        row["first"] for row in rows(call("files", "ls", "lake", "--from-seq", "4", "--to-seq", "5", "--json"))
    ] == [3]
    assert [row["first"] for row in rows(call("files", "ls", "lake", "--from-seq", "5", "--json"))] == [3, 6]
    nothing = call("files", "ls", "lake", "--from-seq", "7", "--fail-empty")
    assert (nothing.exit_code, nothing.stdout) == (3, "")
    assert "lake: no files that match" in nothing.stderr


def test_times_choose_files(call: Call, delivered: Path) -> None:
    since = clock_time(AT + 3600)
    assert [row["first"] for row in rows(call("files", "ls", "lake", "--since", since, "--json"))] == [3, 6]
    assert [row["first"] for row in rows(call("files", "ls", "lake", "--until", since, "--json"))] == [1, 3]
    refused = call("files", "ls", "lake", "--since", "yesterday")
    assert refused.exit_code == 2
    assert "write 2026-11-25T08:00:00Z, or 2h" in refused.stderr


def test_in_a_pipe_every_file_is_a_line(call: Call, delivered: Path) -> None:
    head, *lines = call("files", "ls", "lake").stdout.splitlines()
    assert head.split()[:5] == ["file", "first", "last", "records", "size"]
    assert len(lines) == 3


def test_files_that_lie_as_they_were_delivered_verify(call: Call, delivered: Path) -> None:
    result = call("files", "verify", "lake")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "lake: 3 files with 6 records" in result.stderr
    assert "all as delivered" in result.stderr


def test_damage_is_told_and_the_exit_code_is_1(call: Call, delivered: Path) -> None:
    first, second, _ = sorted(path.name for path in delivered.iterdir())
    (delivered / first).unlink()
    content = bytearray((delivered / second).read_bytes())
    content[-1] ^= 1
    (delivered / second).write_bytes(content)
    result = call("files", "verify", "lake", "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert [(finding["what"], finding["name"]) for finding in told["findings"]] == [
        ("missing", first), ("damaged", second),
    ]  # fmt: skip
    assert (told["ok"], told["files"]) == (False, 1)
    plain = call("files", "verify", "lake")
    assert [line.split()[0] for line in plain.stdout.splitlines()] == ["what", "missing", "damaged"]
    assert "2 findings" in plain.stderr


def test_a_sink_in_memory_cannot_be_verified_from_outside(
    call: Call, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deliver() -> None:
        app = App("shop", broker="sqlite:///shop.db")
        app.stream("lake", bytes, sink="memory://lake")
        async with app.running():
            pass

    monkeypatch.setenv("PIPEFLOW_BROKER", "sqlite:///shop.db")
    anyio.run(deliver)
    result = call("files", "verify", "lake")
    assert result.exit_code == 4
    assert "lies in the process that runs the app" in result.stderr


def test_an_unknown_stream_is_told_with_the_nearest(call: Call, delivered: Path) -> None:
    result = call("files", "ls", "lakes")
    assert result.exit_code == 1
    assert "did you mean 'lake'" in result.stderr


@pytest.mark.parametrize(
    ("written", "expected"),
    [("1h", AT - 3600), ("1970-01-12T13:46:40Z", AT), ("1970-01-12T13:46:40", AT), ("1970-01-12", 950_400.0)],
)
def test_moments_are_times_or_so_long_ago(written: str, expected: float) -> None:
    assert moment(written, AT) == expected


def test_what_is_no_moment_is_refused_with_examples() -> None:
    with pytest.raises(click.BadParameter, match="2h for so long ago"):
        moment("soon", AT)
