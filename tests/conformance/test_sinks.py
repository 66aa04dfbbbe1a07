"""One suite for every sink, the one that third parties run on theirs (S49, S84)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from azure_server import ACCOUNT
from obstore.store import LocalStore, MemoryStore

from pipeflow.protocols import Object, ReadableSink, Sink, SweepingSink
from pipeflow.registry import open_sink
from pipeflow.sinks.file import FileSink
from pipeflow.sinks.memory import MemorySink
from pipeflow.testing import sinks
from pipeflow.testing.sinks import CHECKS, Check, Place
from pipeflow_connectors.object_store import ObjectStoreSink
from pipeflow_connectors.object_urls import Place as Bucket

KINDS = ["file", "memory", "library-memory", "library-files", "s3", "s3-prefix", "azure", "azure-prefix"]


def _name(check: Check) -> str:
    return getattr(check, "__name__", "check")


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place of every kind."""
    match request.param:
        case "file":
            return Place(partial(open_sink, "file://lake", base=str(tmp_path)))
        case "memory":
            memory = MemorySink()
            return Place(lambda: memory)
        case "library-memory":
            objects = MemoryStore()
            return Place(lambda: ObjectStoreSink(objects, Bucket("s3", "memory")))
        case "library-files":
            return Place(lambda: ObjectStoreSink(LocalStore(tmp_path), Bucket("s3", "files")))
    prefix = "/deep/pre%20fix/x=1" if request.param.endswith("-prefix") else ""
    if request.param.startswith("azure"):
        azure = request.getfixturevalue("azure")
        options = f"account={ACCOUNT}&endpoint={azure.endpoint}&allow_http=true"
        return Place(partial(open_sink, f"az://{azure.container()}{prefix}?{options}"))
    s3 = request.getfixturevalue("s3")
    return Place(partial(open_sink, f"s3://{s3.bucket()}{prefix}?endpoint={s3.endpoint}"))


@pytest.mark.parametrize("check", CHECKS, ids=_name)
async def test_S49_S84_every_sink_keeps(place: Place, check: Check) -> None:
    await check(place)


def test_our_sinks_can_be_read_and_what_is_killed_leaves_is_swept(place: Place) -> None:
    sink = place.open()
    assert isinstance(sink, ReadableSink)
    assert isinstance(sink, SweepingSink | MemorySink)


class _Broken(MemorySink):
    """A sink that keeps every promise but those that a subclass breaks."""


class _Appends(_Broken):
    async def write(self, obj: Object) -> None:
        before = self.objects.get(obj.name, b"")
        await super().write(obj)
        self.objects[obj.name] = before + self.objects[obj.name]


class _KeepsTheFirstPiece(_Broken):
    async def write(self, obj: Object) -> None:
        await super().write(Object(obj.name, obj.chunks[:1], obj.records, obj.replace))


class _Replaces(_Broken):
    async def write(self, obj: Object) -> None:
        await super().write(Object(obj.name, obj.chunks, obj.records, True))


class _SkipsEmptyOnes(_Broken):
    async def write(self, obj: Object) -> None:
        if obj.size:
            await super().write(obj)


class _LowersNames(_Broken):
    async def write(self, obj: Object) -> None:
        await super().write(Object(obj.name.lower(), obj.chunks, obj.records, True))


class _TakesAnyName(_Broken):
    async def write(self, obj: Object) -> None:
        self.objects[obj.name] = b"".join(obj.chunks)


class _WritesInPlace(_Broken):
    async def write(self, obj: Object) -> None:
        import anyio

        for end in range(1, obj.size, 1 << 20):
            self.objects[obj.name] = b"".join(obj.chunks)[:end]
            await anyio.lowlevel.checkpoint()
        await super().write(obj)


class _ReadsNothingAsEmpty(_Broken):
    async def read(self, name: str) -> bytes:
        return self.objects.get(name, b"")


class _DeletesByBeginning(_Broken):
    async def delete(self, name: str) -> None:
        self.objects = {other: content for other, content in self.objects.items() if not other.startswith(name)}


class _ListsFolders(_Broken):
    async def list(self, prefix: str = "") -> list[str]:
        return sorted(name for name in self.objects if name.startswith(f"{prefix.rstrip('/')}/" if prefix else ""))


class _Forgets(_Broken):
    async def close(self) -> None:
        self.objects.clear()


class _ClosesOnce(_Broken):
    closed = False

    async def close(self) -> None:
        assert not self.closed
        self.closed = True


BROKEN: list[tuple[Callable[[], Sink], Check]] = [
    (_KeepsTheFirstPiece, sinks.an_object_is_there_whole_when_its_write_returns),
    (_KeepsTheFirstPiece, sinks.a_large_object_is_whole),
    (_Forgets, sinks.an_object_outlives_the_sink_that_wrote_it),
    (_Appends, sinks.the_same_name_is_replaced_whole),
    (_Appends, sinks.the_same_bytes_twice_are_one_object),
    (_Replaces, sinks.a_name_taken_by_other_bytes_is_refused_to_a_new_object),
    (_SkipsEmptyOnes, sinks.an_empty_object_is_an_object),
    (_LowersNames, sinks.odd_names_stay_as_they_are),
    (_TakesAnyName, sinks.names_that_leave_the_root_are_refused),
    (_KeepsTheFirstPiece, sinks.a_large_object_is_whole),
    (_WritesInPlace, sinks.a_cancelled_write_leaves_its_object_whole_or_not_there),
    (_Forgets, sinks.objects_of_different_names_can_be_written_at_once),
    (_ClosesOnce, sinks.closing_twice_is_no_error),
    (_ReadsNothingAsEmpty, sinks.what_is_not_there_is_told_when_it_is_read),
    (_DeletesByBeginning, sinks.a_deleted_object_is_gone_and_may_be_deleted_again),
    (_ListsFolders, sinks.names_are_listed_sorted_by_how_they_begin),
]


@pytest.mark.parametrize(("broken", "check"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
async def test_every_check_finds_a_sink_that_breaks_its_promise(broken: Callable[[], Sink], check: Check) -> None:
    sink = broken()
    with pytest.raises(AssertionError):
        await check(Place(lambda: sink))


def test_every_check_is_proven_able_to_fail() -> None:
    assert {check for _, check in BROKEN} == set(CHECKS)


async def test_a_sink_that_cannot_be_read_is_checked_by_what_its_place_holds(tmp_path: Path) -> None:
    class WriteOnly:
        async def write(self, obj: Object) -> None:
            await FileSink(str(tmp_path)).write(obj)

        async def close(self) -> None: ...

    async def contents() -> dict[str, bytes]:
        files = (path for path in tmp_path.rglob("*") if path.is_file())
        return {str(path.relative_to(tmp_path)): path.read_bytes() for path in files}

    for check in (sinks.the_same_name_is_replaced_whole, sinks.names_are_listed_sorted_by_how_they_begin):
        await check(Place(WriteOnly, contents))
    with pytest.raises(AssertionError, match="give Place a `contents`"):
        await sinks.the_same_name_is_replaced_whole(Place(WriteOnly))
