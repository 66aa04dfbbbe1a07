"""The file sink: whole files, durable, beneath the root, and errors that say what to do."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeflow.errors import ConfigurationError, ObjectMissing, ObjectRefused, SinkUnavailable
from pipeflow.protocols import Object, ReadableSink
from pipeflow.sinks.file import FileSink
from pipeflow.sinks.memory import MemorySink
from pipeflow.sinks.objects import belongs


def obj(name: str = "a/b/lake-1.jsonl", content: bytes = b"one\n", replace: bool = False) -> Object:
    return Object(name, [content[:2], content[2:]], 1, replace)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


async def test_S49_a_written_object_is_there_whole_and_nothing_else_is(tmp_path: Path) -> None:
    await FileSink(str(tmp_path / "deep" / "lake")).write(obj())
    assert files(tmp_path) == {"deep/lake/a/b/lake-1.jsonl": b"one\n"}


def test_sinks_say_where_they_are(tmp_path: Path) -> None:
    assert str(FileSink(str(tmp_path))) == f"file://{tmp_path}"
    assert str(MemorySink()) == "memory sink"


async def test_the_same_object_again_replaces_it_whole(tmp_path: Path) -> None:
    sink = FileSink(str(tmp_path))
    await sink.write(obj())
    await sink.write(obj(content=b"two\n", replace=True))
    assert files(tmp_path) == {"a/b/lake-1.jsonl": b"two\n"}


async def test_a_name_that_this_store_did_not_write_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "lake-1.jsonl").write_bytes(b"somebody else's")
    with pytest.raises(ObjectRefused, match=r"lake-1\.jsonl exists.*Move the file away"):
        await FileSink(str(tmp_path)).write(obj())
    assert files(tmp_path) == {"a/b/lake-1.jsonl": b"somebody else's"}


async def test_what_a_kill_left_half_written_is_replaced_by_the_next_write(tmp_path: Path) -> None:
    (tmp_path / ".tmp-lake-1").write_bytes(b"hal")
    await FileSink(str(tmp_path)).write(obj("lake-1", replace=True))
    assert files(tmp_path) == {"lake-1": b"one\n"}


async def test_only_this_stores_leftovers_of_this_stream_are_swept(tmp_path: Path) -> None:
    kept = [".tmp-lake-1-2-other.gz", ".tmp-pond-1-2-mine.gz", "lake-1-2-mine.gz", "notes.txt"]
    for name in [*kept, ".tmp-lake-1-2-mine.gz"]:
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / name).write_bytes(b"")
    assert await FileSink(str(tmp_path)).sweep(belongs("lake", "mine"), rewritten=False) == 1
    assert sorted(os.listdir(tmp_path / "a")) == sorted(kept)


async def test_S84_a_link_inside_the_root_is_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "lake", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "a").symlink_to(outside)
    with pytest.raises(ObjectRefused, match="link"):
        await FileSink(str(root)).write(obj())
    assert files(outside) == {}


async def test_S84_a_link_in_the_place_of_the_object_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    root = tmp_path / "lake"
    root.mkdir()
    (root / "x").symlink_to(target)
    (root / ".tmp-x").symlink_to(target)
    await FileSink(str(root)).write(obj("x", replace=True))
    assert target.read_bytes() == b"precious"
    assert (root / "x").read_bytes() == b"one\n"


async def test_a_root_that_vanished_is_made_again(tmp_path: Path) -> None:
    sink = FileSink(str(tmp_path / "lake"))
    await sink.write(obj("x/1"))
    (tmp_path / "lake" / "x" / "1").unlink()
    (tmp_path / "lake" / "x").rmdir()
    (tmp_path / "lake").rmdir()
    await sink.write(obj("x/1"))
    assert files(tmp_path) == {"lake/x/1": b"one\n"}


async def test_a_root_below_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ObjectRefused, match=str(tmp_path / "file" / "lake")):
        await FileSink(str(tmp_path / "file" / "lake")).write(obj("x"))


def test_a_root_that_cannot_be_written_is_told_before_the_first_record(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=f"{tmp_path}/file/lake.*name a directory"):
        FileSink(str(tmp_path / "file" / "lake")).prepare()
    FileSink(str(tmp_path / "lake")).prepare()
    assert os.listdir(tmp_path / "lake") == []


@pytest.mark.parametrize(
    ("code", "remedy"),
    [(errno.ENOSPC, "make space"), (errno.EIO, "check it"), (errno.EACCES, "let this user write")],
)
async def test_a_disk_that_refuses_is_unavailable_with_path_and_remedy_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, remedy: str
) -> None:
    def refuse(fd: int) -> None:
        raise OSError(code, os.strerror(code))

    sink = FileSink(str(tmp_path))
    await sink.write(obj("x/1"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(SinkUnavailable, match=f"{tmp_path}/x/2.*{remedy}"):
            await sink.write(obj("x/2"))
    assert files(tmp_path) == {"x/1": b"one\n"}
    await sink.write(obj("x/2", replace=True))
    assert set(files(tmp_path)) == {"x/1", "x/2"}


async def test_content_is_synced_before_the_name_and_the_name_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def noted(kind: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(*args: object, **kwargs: object) -> None:
            if kind == "fsync":
                assert isinstance(args[0], int)
                steps.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{args[0]}')).name}")
            else:
                steps.append(kind)
            real(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "fsync", noted("fsync", os.fsync))
    monkeypatch.setattr(os, "rename", noted("rename", os.rename))
    sink = FileSink(str(tmp_path / "lake"))
    await sink.write(obj("a/b/x"))
    assert steps == [f"fsync {tmp_path.name}", "fsync lake", "fsync a", "fsync .tmp-x", "rename", "fsync b"]
    steps.clear()
    await sink.write(obj("a/b/y"))
    assert steps == ["fsync .tmp-y", "rename", "fsync b"]


async def test_the_memory_sink_keeps_the_same_promises() -> None:
    sink = MemorySink()
    await sink.write(obj())
    with pytest.raises(ObjectRefused):
        await sink.write(obj())
    await sink.write(obj(content=b"two\n", replace=True))
    with pytest.raises(ObjectRefused):
        await sink.write(obj("../x"))
    await sink.close()
    assert sink.objects == {"a/b/lake-1.jsonl": b"two\n"}


@pytest.fixture(params=["file", "memory"])
def readable(request: pytest.FixtureRequest, tmp_path: Path) -> ReadableSink:
    sink = FileSink(str(tmp_path / "lake")) if request.param == "file" else MemorySink()
    assert isinstance(sink, ReadableSink)
    return sink


async def test_what_was_written_is_read_back_and_listed_by_the_beginning_of_its_name(readable: ReadableSink) -> None:
    for name in ("b/2", "a/b/2", "a/b/10", "a/bc/1", "a-1"):
        await readable.write(obj(name, name.encode()))
    assert await readable.read("a/b/10") == b"a/b/10"
    assert await readable.list() == ["a-1", "a/b/10", "a/b/2", "a/bc/1", "b/2"]
    assert await readable.list("a/b") == ["a/b/10", "a/b/2", "a/bc/1"]
    assert await readable.list("a/b/") == ["a/b/10", "a/b/2"]
    assert await readable.list("a/b/1") == ["a/b/10"]
    assert await readable.list("c") == []


async def test_a_deleted_object_is_gone_and_deleting_it_again_is_no_error(readable: ReadableSink) -> None:
    assert await readable.list() == []
    await readable.delete("a/b/lake-1.jsonl")
    await readable.write(obj())
    await readable.delete("a/b/lake-1.jsonl")
    await readable.delete("a/b/lake-1.jsonl")
    assert await readable.list() == []
    with pytest.raises(ObjectMissing, match=r"lake-1\.jsonl"):
        await readable.read("a/b/lake-1.jsonl")


async def test_S84_reading_and_deleting_never_leave_the_root(readable: ReadableSink) -> None:
    for name in ("../x", "a/../../x", "/etc/passwd", ""):
        with pytest.raises(ObjectRefused):
            await readable.read(name)
        with pytest.raises(ObjectRefused):
            await readable.delete(name)


async def test_S84_links_and_temporary_files_are_neither_listed_nor_read_nor_deleted_through(tmp_path: Path) -> None:
    root, outside = tmp_path / "lake", tmp_path / "outside"
    (outside / "a").mkdir(parents=True)
    (outside / "a" / "secret").write_bytes(b"secret")
    root.mkdir()
    (root / "folder").symlink_to(outside / "a")
    (root / "file").symlink_to(outside / "a" / "secret")
    (root / ".tmp-lake-1").write_bytes(b"hal")
    os.mkfifo(root / "pipe")
    (root / os.fsdecode(b"\xff")).write_bytes(b"")
    sink = FileSink(str(root))
    await sink.write(obj("lake-1"))
    assert await sink.list() == ["lake-1"]
    for name in ("folder/secret", "file", "pipe", "folder"):
        with pytest.raises(ObjectMissing):
            await sink.read(name)
    await sink.delete("folder/secret")
    await sink.delete("file")
    assert files(outside) == {"a/secret": b"secret"}
    assert not (root / "file").is_symlink()


async def test_a_deletion_is_durable_when_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = FileSink(str(tmp_path))
    await sink.write(obj())
    synced: list[int] = []
    real = os.fsync

    def recorded(file: int) -> None:
        synced.append(os.fstat(file).st_ino)
        real(file)

    monkeypatch.setattr(os, "fsync", recorded)
    await sink.delete("a/b/lake-1.jsonl")
    assert synced == [(tmp_path / "a" / "b").stat().st_ino]
