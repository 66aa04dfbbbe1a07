"""`pipeflow compact`: as the store's owner when nobody is, through the owner while the app runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from click.testing import Result
from manifest_reader import listed, seen

from pipeflow import App, Stream
from pipeflow.cli.units import bytes_of
from pipeflow.errors import ConfigurationError
from pipeflow.registry import open_store

Call = Callable[..., Result]


def declared(**options: object) -> tuple[App, Stream[bytes]]:
    app = App("shop", broker="sqlite:///shop.db")
    return app, app.stream("lake", bytes, sink="file://./lake", delimiter=b"\n", **options)  # type: ignore[arg-type]


async def deliver(app: App, lake: Stream[bytes], files: int) -> None:
    async with app.running():
        for n in range(files):
            await lake.put(b"%d" % n)
            await lake.flush()


@pytest.fixture
def delivered(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five files of one record each."""
    monkeypatch.setenv("PIPEFLOW_BROKER", "sqlite:///shop.db")
    anyio.run(deliver, *declared(manifest=True), 5)
    return here / "lake"


def objects(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_small_files_become_one_when_nobody_owns_the_store(call: Call, delivered: Path) -> None:
    planned = call("compact", "lake", "--target", "1MiB", "--dry-run", "--json")
    assert [row["files"] for row in json.loads(planned.stdout)] == [5]
    assert len(listed(objects(delivered))) == 5
    result = call("compact", "lake", "--target", "1MiB", "--json")
    (row,) = json.loads(result.stdout)
    assert (row["files"], row["records"], result.exit_code) == (5, 5, 0)
    assert seen(objects(delivered)) == dict.fromkeys("01234", 1)
    (file,) = json.loads(call("files", "ls", "lake", "--json").stdout)
    assert (file["name"], file["generation"]) == (row["output"], 1)
    assert len(json.loads(call("files", "ls", "lake", "--retired", "--json").stdout)) == 6
    again = call("compact", "lake", "--target", "1MiB", "--keep", "0s")
    assert (again.stdout, again.exit_code) == ("", 0)
    assert "nothing to merge" in again.stderr
    assert "5 files that were merged away earlier are deleted" in again.stderr
    assert len([name for name in objects(delivered) if not name.startswith(".")]) == 1


def test_files_younger_than_asked_for_stay(call: Call, delivered: Path) -> None:
    assert "nothing to merge" in call("compact", "lake", "--target", "1MiB", "--older-than", "1h").stderr


async def test_while_the_app_runs_its_process_does_it(here: Path, call: Call) -> None:
    app, lake = declared(manifest=True)
    async with app.running():
        for n in range(3):
            await lake.put(b"%d" % n)
            await lake.flush()
        arguments = ("compact", "lake", "--target", "1MiB", "--json", "--broker", "sqlite:///shop.db")
        result = await anyio.to_thread.run_sync(lambda: call(*arguments))
        assert [row["files"] for row in json.loads(result.stdout)] == [3]
        report = await lake.compact(target=1 << 20, keep=0.0)
        assert (report.merged, report.deleted) == ([], 3)
    assert seen(objects(here / "lake")) == dict.fromkeys("012", 1)


async def test_an_owner_that_does_not_deliver_the_stream_says_so(here: Path, call: Call) -> None:
    app, _ = declared(manifest=True)
    await deliver(app, _, 1)
    store = await open_store("sqlite:///shop.db")
    try:
        arguments = ("compact", "lake", "--target", "1MiB", "--broker", "sqlite:///shop.db")
        result = await anyio.to_thread.run_sync(lambda: call(*arguments))
        assert result.exit_code == 4
        assert "nothing merges its files in process" in result.stderr
    finally:
        await store.close()


def test_a_stream_without_manifests_is_told_what_is_missing(
    here: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPEFLOW_BROKER", "sqlite:///shop.db")
    anyio.run(deliver, *declared(), 2)
    result = call("compact", "lake", "--target", "1MiB")
    assert result.exit_code == 4
    assert "declare it with manifest=True" in result.stderr


def test_without_a_target_one_is_asked_for(call: Call, delivered: Path) -> None:
    result = call("compact", "lake")
    assert result.exit_code == 4
    assert "Pass --target 128MiB" in result.stderr


async def test_without_a_running_app_the_python_call_says_what_is_missing(here: Path) -> None:
    app, lake = declared(manifest=True)
    async with app.client():
        with pytest.raises(ConfigurationError, match="nothing merges its files"):
            await lake.compact(target=1 << 20)


@pytest.mark.parametrize(
    ("written", "expected"),
    [("128MiB", 128 << 20), ("512kib", 512 << 10), ("1GB", 10**9), ("5", 5), ("1.5 MB", 1_500_000)],
)
def test_sizes_are_read_in_every_unit(written: str, expected: int) -> None:
    assert bytes_of(written) == expected
