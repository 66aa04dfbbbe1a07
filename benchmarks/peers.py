"""What would one take instead? Streams of bytes to gzip files and plain files, against what is at hand.

gzip: a naive asyncio.Queue batcher, python's logging with a handler to a gzip file, a Bytewax flow that collects and
compresses, and an AWS emulator (moto's server, boto3's put_record_batch(500) into its S3, which compresses nothing).
At level 6 all use zlib; streams also stand there as they are by default, with isal where it is installed. At level 1
the others have zlib's fastest and streams have isal's. plain: logging to a file, Bytewax's FileSink.

Streams and Bytewax run to the end of the last file. Streams sync every file and its directory, the others none. Slow
peers take a part of the records, and their time is counted up. A peer whose package is missing is skipped, and says so.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from _rounds import loop_factory
from _streaming import MANY, SIZE, Measured, Table, batch_of, part, put, put_many, streamed

from pipeflow.sinks.file import FileSink

HERE = Path(__file__).parent
PORT = 5_391


class Folders:
    """A new folder for everybody who writes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._count = count()

    def new(self) -> Path:
        folder = self._root / str(next(self._count))
        folder.mkdir()
        return folder

    def sink(self) -> FileSink:
        return FileSink(str(self.new()))


def naive(folders: Folders, level: int) -> Measured:
    """The batcher one writes first, its files compressed beside the loop."""

    async def measure(batch: list[bytes]) -> float:
        folder = folders.new()
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(10_000)

        def write(number: int, gathered: list[bytes]) -> None:
            (folder / f"{number}.gz").write_bytes(gzip.compress(b"\n".join([*gathered, b""]), level))

        async def collect() -> None:
            ended = False
            for number in count():
                gathered: list[bytes] = []
                size = 0
                deadline = time.monotonic() + 60
                while size < SIZE and not ended:
                    try:
                        record = await asyncio.wait_for(queue.get(), deadline - time.monotonic())
                    except TimeoutError:
                        break
                    if record is None:
                        ended = True
                    else:
                        gathered.append(record)
                        size += len(record) + 1
                await asyncio.to_thread(write, number, gathered)
                if ended:
                    return

        began = time.perf_counter()
        collector = asyncio.ensure_future(collect())
        for record in batch:
            await queue.put(record)
        await queue.put(None)
        await collector
        return time.perf_counter() - began

    return measure


def logged(folders: Folders, level: int | None) -> Measured:
    """One logging call a record; None: to a plain file."""

    async def measure(batch: list[bytes]) -> float:
        path = folders.new() / "log"
        opener: Any = open if level is None else partial(gzip.open, compresslevel=level)
        texts = [record.decode() for record in batch]
        logger = logging.Logger("bench", logging.INFO)
        with opener(path, "wt") as opened:
            logger.addHandler(logging.StreamHandler(opened))
            began = time.perf_counter()
            for text in texts:
                logger.info(text)
        return time.perf_counter() - began

    return measure


def bytewax(folders: Folders, kind: str, *level: int) -> Measured:
    async def measure(batch: list[bytes]) -> tuple[float, float]:
        folder = folders.new()
        (folder / "records").write_bytes(b"\n".join(batch))
        out = folder / "out"
        out.mkdir()
        command = [sys.executable, HERE / "_bytewax_flow.py", kind, folder / "records", out, *map(str, level)]
        process = await asyncio.create_subprocess_exec(*map(str, command), stdout=subprocess.PIPE)
        said, _ = await process.communicate()
        assert process.returncode == 0
        seconds, busy = json.loads(said.splitlines()[-1])
        return seconds, busy

    return measure


@contextmanager
def emulator() -> Iterator[int]:
    """The process id of moto's server on loopback, with a delivery stream into a bucket."""
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(PORT)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        client = _client("s3")
        for _ in range(200):
            try:
                client.create_bucket(Bucket="bench")
                break
            except Exception:
                time.sleep(0.1)
        arn = "arn:aws:s3:::bench"
        role = "arn:aws:iam::123456789012:role/bench"
        _client("firehose").create_delivery_stream(
            DeliveryStreamName="bench", S3DestinationConfiguration={"RoleARN": role, "BucketARN": arn}
        )
        yield server.pid
    finally:
        server.terminate()
        server.wait()


def _client(service: str) -> Any:
    import boto3

    return boto3.client(
        service,
        endpoint_url=f"http://127.0.0.1:{PORT}",
        region_name="us-east-1",
        aws_access_key_id="bench",
        aws_secret_access_key="bench",
    )


def emulated(server: int) -> Measured:
    async def measure(batch: list[bytes]) -> tuple[float, float]:
        client = _client("firehose")

        def work() -> float:
            began = time.perf_counter()
            for start in range(0, len(batch), MANY):
                entries = [{"Data": record + b"\n"} for record in batch[start : start + MANY]]
                client.put_record_batch(DeliveryStreamName="bench", Records=entries)
            return time.perf_counter() - began

        busy = time.process_time() + _cpu_of(server)
        seconds = await asyncio.to_thread(work)
        return seconds, time.process_time() + _cpu_of(server) - busy

    return measure


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ways(folders: Folders, bytewaxed: bool, server: int | None) -> dict[str, dict[str, Measured]]:
    def stream(compression: str, **options: Any) -> dict[str, Measured]:
        given = {"compression": compression, **options}
        return {
            f"put_many({MANY})": streamed(put_many, folders.sink, **given),
            "put": streamed(put, folders.sink, **given),
        }

    made: dict[str, dict[str, Measured]] = {}
    default = {f"{name}, default gzip": way for name, way in stream("gzip").items()}
    for level in (6, 1):
        table = default if level == 6 else {}
        table |= {f"{name}, level {level}": way for name, way in stream("gzip", compression_level=level).items()}
        table["naive asyncio.Queue"] = part(4, naive(folders, level))
        table["logging"] = part(4, logged(folders, level))
        if bytewaxed:
            table["bytewax collect"] = bytewax(folders, "gzip", level)
        if level == 6 and server is not None:
            table["moto put_record_batch(500)"] = part(16, emulated(server))
        made[f"gzip {level}"] = table
    made["plain"] = stream("none")
    made["plain"]["logging"] = part(4, logged(folders, None))
    if bytewaxed:
        made["plain"]["bytewax FileSink"] = bytewax(folders, "plain")
    return made


def installed(package: str) -> bool:
    found = importlib.util.find_spec(package) is not None
    if not found:
        print(f"skipped: {package} is not installed", file=sys.stderr)
    return found


async def measure(rounds: int, megabytes: int, sizes: Sequence[int], codecs: Sequence[str], server: int | None) -> None:
    bytewaxed = installed("bytewax")
    yardsticks = ["bytewax collect", "bytewax FileSink", "logging", "naive asyncio.Queue", "moto put_record_batch(500)"]
    targets = {f"put_many({MANY}), default gzip": ("bytewax collect", 8.0)}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        folders = Folders(Path(folder))
        for size in sizes:
            batch = batch_of(size, megabytes)
            for codec, table in ways(folders, bytewaxed, server).items():
                if codecs and codec not in codecs:
                    continue
                made = Table(table, yardsticks, codec=codec, size=size)
                await made.run(batch, rounds)
                known = codec == "gzip 6" and size == 1024 and "bytewax collect" in table
                made.tell(len(batch), targets if known else {})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=32, help="how much each way puts in each round")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1024], help="bytes of a record")
    parser.add_argument("--codecs", nargs="+", default=[], help="only these: 'gzip 6', 'gzip 1', plain")
    parser.add_argument("--quick", action="store_true", help="a second of everything: to test the benchmark")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.megabytes, options.sizes = 1, 1, [1024]
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        if installed("moto") and installed("boto3"):
            with emulator() as server:
                runner.run(measure(options.rounds, options.megabytes, options.sizes, options.codecs, server))
        else:
            runner.run(measure(options.rounds, options.megabytes, options.sizes, options.codecs, None))


if __name__ == "__main__":
    main()
