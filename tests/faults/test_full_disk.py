"""A disk that runs full: nothing acknowledged is lost, a full queue can be drained, and work goes on by itself.

P6, P17. On a small file system of its own, which needs the right to mount one; and under a limit on file sizes, which
any process may set for itself.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pipeflow.embedded.opening import Kept
from pipeflow.embedded.sqlite.journal import SqliteJournal
from pipeflow.errors import Indeterminate, Unavailable
from pipeflow.messages import Ack, Extend, Outgoing, Refused, Sent, Settled, Want
from pipeflow.protocols import Object, Store
from pipeflow.registry import open_sink, open_store
from pipeflow.specs import QueueSpec, Topology

BODY = b"x" * 20_000
TOPOLOGY = Topology(queues=(QueueSpec("q", max_receives=None),))


def mounted(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no right to mount a small file system: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "disk", "32m")


@pytest.fixture
def large_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "large", "192m")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "small", "1m")


async def opened(url: str) -> Store:
    store = await open_store(url)
    await store.declare(TOPOLOGY)
    return store


async def fill(store: Store, start: int) -> tuple[list[int], Exception | None]:
    """Send until that is refused or fails: what was acknowledged, and the failure."""
    acknowledged: list[int] = []
    for number in range(start, start + 10_000):
        try:
            (answer,) = await store.send("q", [Outgoing(b"%d:" % number + BODY)])
        except (Indeterminate, Unavailable) as error:
            return acknowledged, error
        if isinstance(answer, Refused):
            assert answer.code == "disk_full"
            return acknowledged, None
        assert isinstance(answer, Sent)
        acknowledged.append(number)
    raise AssertionError("the disk never ran full")


async def drain(store: Store) -> list[int]:
    out: list[int] = []
    while deliveries := await store.receive("q", Want(10)):
        assert await store.settle("q", [Ack(each.receipt) for each in deliveries]) == [Settled()] * len(deliveries)
        out += [int(each.body.partition(b":")[0]) for each in deliveries]
    return out


@pytest.mark.parametrize("min_free", [0, 1 << 20, 12 << 20])
@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_p6_a_full_disk_refuses_sends_loses_nothing_lets_deletes_through_and_goes_on_by_itself(
    disk: Path, min_free: int, durability: str
) -> None:
    url = f"sqlite:///{disk}/store.db?min_free={min_free}&durability={durability}"
    store = await opened(url)
    start = 0
    for _ in range(4):
        acknowledged, failure = await fill(store, start)
        assert failure is None, "a full disk is a refusal, not a failure"
        assert len(acknowledged) > 100
        start = acknowledged[-1] + 1
        assert await drain(store) == acknowledged
    acknowledged, _ = await fill(store, start)
    await store.close()
    store = await opened(url)
    assert await drain(store) == acknowledged, "and over a restart"
    await store.close()


async def test_p6_a_disk_that_others_fill_to_the_last_byte_still_lets_a_queue_be_drained(disk: Path) -> None:
    url = f"sqlite:///{disk}/store.db?min_free=0"
    store = await opened(url)
    sent = [int(n) for n in range(300)]
    for number in sent:
        await store.send("q", [Outgoing(b"%d:" % number + BODY)])
    eat(disk / "other")
    assert await drain(store) == sent
    (disk / "other").unlink()
    await store.send("q", [Outgoing(b"0:again")])
    # That one may have been refused; the look at the disk that it took lets the next one in.
    assert isinstance((await store.send("q", [Outgoing(b"1:again")]))[0], Sent)
    assert (await drain(store))[-1] == 1
    await store.close()


@pytest.mark.parametrize("hot_messages", [100_000, 20], ids=["hot", "cold tail"])
async def test_p6_what_lies_in_the_commit_log_only_is_drained_on_a_disk_that_others_fill(
    large_disk: Path, hot_messages: int
) -> None:
    """A cold tail is read from the tables, so all of the log has to go there first."""
    url = f"sqlite:///{large_disk}/store.db?min_free=0&hot_messages={hot_messages}"
    store = await opened(url)
    await fill_log(store)
    assert (large_disk / "store.db-log").stat().st_size > 24 << 20
    eat(large_disk / "other")
    drained: list[int] = []
    while deliveries := await store.receive("q", Want(10)):
        assert await store.settle("q", [Ack(each.receipt) for each in deliveries]) == [Settled()] * len(deliveries)
        drained += [int(each.body.partition(b":")[0]) for each in deliveries]
        with suppress(OSError), (large_disk / "other").open("ab", buffering=0) as other:
            other.write(bytes(50_000))  # who fills the disk goes on
    assert drained == [*range(1500)]
    await store.close()
    store = await opened(url)
    assert await drain(store) == []
    await store.close()


@pytest.mark.parametrize("hot_messages", [100_000, 20], ids=["hot", "cold tail"])
async def test_p6_the_older_half_of_the_log_goes_into_the_tables_on_a_disk_that_others_fill(
    large_disk: Path, hot_messages: int
) -> None:
    """The younger half is full of acknowledgements then, and is to go on where the older one lies."""
    store = await opened(f"sqlite:///{large_disk}/store.db?min_free=0&hot_messages={hot_messages}&log_bytes={32 << 20}")
    await fill_log(store)
    eat(large_disk / "other")
    assert isinstance(store, Kept)
    assert isinstance(store.journal, SqliteJournal)
    log = store.journal._ahead._log
    assert log._base
    held = await store.receive("q", Want(10))
    rounds = 0
    while log._base:
        # Each changes rows that only the log tells of, or the tables when they hold all of it; none lets them go.
        rounds += 1
        extensions = [Extend(each.receipt, 600 + rounds) for each in held]
        assert await store.settle("q", extensions) == [Settled()] * 10
    assert rounds > 100
    assert await store.settle("q", [Ack(each.receipt) for each in held]) == [Settled()] * 10
    assert await drain(store) == [*range(10, 1500)]
    await store.close()


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from test_full_disk import eat, fill_log, opened
async def main():
    store = await opened(sys.argv[1])
    await fill_log(store)
    if sys.argv[3] == "gone":
        Path(sys.argv[2], "store.db.ballast").unlink()
    eat(Path(sys.argv[2], "other"))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


async def killed_on_a_full_disk(url: str, disk: Path, ballast: str) -> None:
    here = str(Path(__file__).parent)
    environment = {"PYTHONPATH": f"{here}:{here}/../.."}
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, url, str(disk), ballast, env=environment)
    assert await child.wait() == -9


async def test_p6_a_store_that_was_killed_opens_on_a_disk_that_others_filled(large_disk: Path) -> None:
    url = f"sqlite:///{large_disk}/store.db?min_free=0&hot_messages=20"
    await killed_on_a_full_disk(url, large_disk, "there")
    assert (large_disk / "store.db-log").stat().st_size > 24 << 20
    store = await opened(url)
    assert await drain(store) == [*range(1500)]
    await store.close()


async def test_p6_a_store_that_has_to_stop_says_on_which_disk_and_how_much_it_needs(large_disk: Path) -> None:
    url = f"sqlite:///{large_disk}/store.db?min_free=0&hot_messages=20"
    await killed_on_a_full_disk(url, large_disk, "gone")
    says = rf"the disk of {large_disk} is full; free \d\d MiB on it, then start again. What was acknowledged is kept"
    with pytest.raises(Unavailable, match=says):
        await opened(url)
    (large_disk / "other").unlink()
    store = await opened(url)
    assert await drain(store) == [*range(1500)]
    await store.close()


async def test_p6_a_store_does_without_the_commit_log_where_what_it_told_might_not_fit(disk: Path) -> None:
    store = await opened(f"sqlite:///{disk}/store.db?min_free=0")
    await store.send("q", [Outgoing(b"0:")])
    assert (disk / "store.db-log").stat().st_size == 0
    await store.close()
    store = await opened(f"sqlite:///{disk}/store.db?min_free=0&log_bytes=100000")
    await store.send("q", [Outgoing(b"1:")])
    assert (disk / "store.db-log").stat().st_size > 0
    assert await drain(store) == [0, 1]
    await store.close()


async def fill_log(store: Store) -> None:
    """Send 30 MB."""
    for number in range(1500):
        await store.send("q", [Outgoing(b"%d:" % number + BODY)])


def eat(path: Path) -> None:
    """Write until there is no room for one more byte."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


async def test_p17_a_sink_on_a_full_disk_says_so_leaves_nothing_behind_and_works_when_there_is_room(
    small_disk: Path,
) -> None:
    sink = open_sink(f"file://{small_disk}")
    await sink.write(Object("first", [b"a" * 300_000]))
    with pytest.raises(Exception, match="space"):
        await sink.write(Object("second", [b"b" * 900_000]))
    assert [path.name for path in small_disk.rglob("*") if path.is_file()] == ["first"]
    (small_disk / "first").unlink()
    await sink.write(Object("second", [b"b" * 900_000]))
    assert (small_disk / "second").stat().st_size == 900_000
    await sink.close()


LIMITED = """
import asyncio, resource, sys
from test_full_disk import fill, opened
async def main():
    store = await opened(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, resource.RLIM_INFINITY))
    acknowledged, failure = await fill(store, 0)
    print(acknowledged[-1], type(failure).__name__)
    await store.close()
asyncio.run(main())
"""


async def test_p5_a_file_that_may_not_grow_is_an_indeterminate_error_and_loses_nothing(tmp_path: Path) -> None:
    """RLIMIT_FSIZE: the write fails as a broken disk does, so the store is closed and opened again from the disk."""
    assert resource.RLIMIT_FSIZE
    url = f"sqlite:///{tmp_path}/store.db"
    here = str(Path(__file__).parent)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LIMITED, url, stdout=asyncio.subprocess.PIPE, env={"PYTHONPATH": f"{here}:{here}/../.."}
    )
    said, _ = await child.communicate()
    last, error = said.decode().split()
    assert error == "Indeterminate"
    store = await opened(url)
    drained = await drain(store)
    assert drained[: int(last) + 1] == list(range(int(last) + 1))
    assert len(drained) - int(last) - 1 in (0, 1), "what was in doubt is there or not"
    await store.close()
