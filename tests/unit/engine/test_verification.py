"""What lies in a sink against the catalogue: every kind of damage is found, and work that goes on is none."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeflow import App, Stream
from pipeflow.engine.verification import Verified, verify
from pipeflow.errors import SinkUnavailable
from pipeflow.files import FileFacts
from pipeflow.protocols import Object, Store
from pipeflow.sinks.file import FileSink


class Lake:
    """A stream with a few files below a directory."""

    def __init__(self, stream: Stream[Any], store: Store, root: Path) -> None:
        self.stream = stream
        self.store = store
        self.root = root

    async def verified(self, sink: FileSink | None = None) -> Verified:
        return await verify(self.stream.spec, self.store, sink or FileSink(str(self.root)))

    async def found(self) -> list[tuple[str, str]]:
        return [(finding.what, finding.name) for finding in (await self.verified()).findings]

    async def names(self) -> list[str]:
        return [file.name for file in await self.stream.files()]


@asynccontextmanager
async def lake(tmp_path: Path, type: type[Any] = bytes, files: int = 3, **options: Any) -> AsyncIterator[Lake]:
    """Files of two records each."""
    app = App("shop", broker=f"sqlite:///{tmp_path}/shop.db")
    if type is bytes:
        options = {"delimiter": b"\n", **options}
    stream = app.stream("lake", type, sink=f"file://{tmp_path}/lake", **options)
    async with app.running() as runtime:
        for n in range(files):
            await stream.put_many([b"%d" % n, b"more"] if type is bytes else [{"n": n}, {"n": -n}])
            await stream.flush()
        yield Lake(stream, runtime.store, tmp_path / "lake")


KINDS: list[tuple[type[Any], dict[str, Any]]] = [
    (bytes, {}),
    (bytes, {"compression": "none", "manifest": True}),
    (bytes, {"compression": "zstd"}),
    (bytes, {"delimiter": b""}),
    (dict, {"format": "jsonl", "compression": "zip"}),
    (dict, {"format": "csv", "columns": ["n"], "manifest": True}),
    (dict, {"format": "parquet", "schema": {"n": "int64"}}),
]


@pytest.mark.parametrize(("type", "options"), KINDS, ids=lambda each: str(each))
async def test_what_lies_there_as_it_was_delivered_is_no_finding(
    type: type[Any], options: dict[str, Any], tmp_path: Path
) -> None:
    if options.get("format") == "parquet":
        pytest.importorskip("pyarrow", reason="writes Parquet files: pip install 'pipeflow[parquet]'")
    async with lake(tmp_path, type, **options) as it:
        result = await it.verified()
        assert (result.files, result.records, result.findings) == (3, 6, [])


@pytest.mark.parametrize("options", [{}, {"prefix": "a-", "error_prefix": "failed-"}], ids=["plain", "prefixed"])
async def test_what_lies_in_its_own_sink_because_it_was_not_delivered_is_no_finding(
    options: dict[str, Any], tmp_path: Path
) -> None:
    sink = Down(str(tmp_path / "lake"))
    place = f"file://{tmp_path}/lake"
    app = App("shop", broker=f"sqlite:///{tmp_path}/shop.db")
    stream = app.stream("lake", bytes, sink=place, failures=place, retry_seconds=0, **options)
    async with app.running(sinks={"lake": sink}) as runtime:
        await stream.put(b"a")
        await stream.flush()
        assert len(await sink.list()) == 1
        assert (await verify(stream.spec, runtime.store, sink)).findings == []


class Down(FileSink):
    """Takes nothing but what it would not take."""

    async def write(self, obj: Object) -> None:
        if "undelivered" not in obj.name:
            raise SinkUnavailable("down")
        await super().write(obj)


async def test_f46_every_flipped_byte_is_found(tmp_path: Path) -> None:
    async with lake(tmp_path, files=1) as it:
        (name,) = await it.names()
        whole = (it.root / name).read_bytes()
        for place in range(len(whole)):
            for bit in (1, 128):
                damaged = bytearray(whole)
                damaged[place] ^= bit
                (it.root / name).write_bytes(damaged)
                assert await it.found() == [("damaged", name)]
        (it.root / name).write_bytes(whole)
        assert await it.found() == []


Harm = Callable[[Path], object]
HARMS: dict[str, tuple[Harm, str]] = {
    "cut short": (lambda file: file.write_bytes(file.read_bytes()[:-1]), "has {less} bytes, and {size} were written"),
    "longer": (lambda file: file.write_bytes(file.read_bytes() + b"x"), "has {more} bytes, and {size} were written"),
    "empty": (lambda file: file.write_bytes(b""), "has 0 bytes"),
    "other": (lambda file: file.write_bytes(bytes(file.stat().st_size)), "CRC-32 is"),
}


@pytest.mark.parametrize("harm", HARMS)
async def test_a_file_that_is_not_what_was_delivered_is_told_with_the_difference(harm: str, tmp_path: Path) -> None:
    do, said = HARMS[harm]
    async with lake(tmp_path) as it:
        name = (await it.names())[1]
        size = (it.root / name).stat().st_size
        do(it.root / name)
        (finding,) = (await it.verified()).findings
        assert (finding.what, finding.name) == ("damaged", name)
        assert said.format(less=size - 1, size=size, more=size + 1) in finding.detail


async def test_a_file_that_is_gone_is_told_with_its_records(tmp_path: Path) -> None:
    async with lake(tmp_path) as it:
        name = (await it.names())[1]
        (it.root / name).unlink()
        (finding,) = (await it.verified()).findings
    assert (finding.what, finding.name) == ("missing", name)
    assert "records 3 to 4 (2) are not there" in finding.detail


async def test_a_file_with_fewer_records_than_were_delivered_is_found(tmp_path: Path) -> None:
    class Lying:
        """A catalogue that has the facts of another content."""

        def __init__(self, store: Store, file: FileFacts) -> None:
            self._store, self._file = store, file

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

        async def files(self, stream: str, query: Any) -> list[FileFacts]:
            return [] if query.after else [self._file]

    from zlib import crc32

    from msgspec.structs import replace

    async with lake(tmp_path, files=1) as it:
        (file,) = await it.stream.files()
        content = gzip.compress(b"one\n")
        (it.root / file.name).write_bytes(content)
        lying: Any = Lying(it.store, replace(file, size=len(content), crc=crc32(content)))
        (finding,) = (await verify(it.stream.spec, lying, FileSink(str(it.root)))).findings
    assert (finding.what, finding.detail) == ("damaged", "it has 1 records, and 2 were written")


async def test_files_that_bear_the_stores_mark_and_are_unknown_are_told_and_no_others(tmp_path: Path) -> None:
    async with lake(tmp_path) as it:
        first = (await it.names())[0]
        twin = first.replace("000000000001", "000000000009")
        (it.root / twin).write_bytes(b"")
        (it.root / "mine.txt").write_bytes(b"of somebody else")
        (it.root / first.replace("lake-", "pond-")).write_bytes(b"of another stream")
        (it.root / f".tmp-{twin}").write_bytes(b"")
        (it.root / ".tmp-trial").write_bytes(b"")
        assert await it.found() == [("foreign", twin), ("leftover", f".tmp-{twin}")]


async def test_what_manifests_say_is_what_the_catalogue_says(tmp_path: Path) -> None:
    async with lake(tmp_path, manifest=True) as it:
        names = await it.names()
        first, second, third = sorted((it.root / ".manifest" / "lake").iterdir())
        content = first.read_bytes()
        first.unlink()
        second.write_bytes(b"{")
        assert await it.found() == [
            ("manifest", f".manifest/lake/{second.name}"), ("manifest", f".manifest/lake/{second.name}"),
            ("untold", names[0]), ("untold", names[1]),
        ]  # fmt: skip
        first.write_bytes(content)
        second.write_bytes(third.read_bytes().replace(names[2].encode(), b"elsewhere.gz"))
        assert await it.found() == [("untold", names[1]), ("manifest", "elsewhere.gz")]


async def test_merged_files_and_those_they_took_the_place_of_are_no_findings(tmp_path: Path) -> None:
    async with lake(tmp_path, manifest=True) as it:
        await it.stream.compact(target=1 << 20)
        result = await it.verified()
        assert (result.files, result.records, result.findings) == (1, 6, [])
        await it.stream.compact(target=1 << 20, keep=0.0)
        assert (await it.verified()).findings == []


async def test_what_is_delivered_and_merged_while_it_looks_is_no_finding(tmp_path: Path) -> None:
    class Busy(FileSink):
        """Work goes on between two looks."""

        left = 4

        async def read(self, name: str) -> bytes:
            if self.left:
                self.left -= 1
                await it.stream.put_many([b"new", b"more"])
                await it.stream.flush()
                if self.left == 2:
                    await it.stream.compact(target=1 << 20, keep=0.0)
                    await it.stream.compact(target=1 << 20, keep=0.0)
            return await super().read(name)

    async with lake(tmp_path, manifest=True) as it:
        sink = Busy(str(it.root))
        assert (await it.verified(sink)).findings == []
        assert sink.left == 0
