"""The batching core: when a buffer closes, what it holds, and what bounds it."""

from itertools import count, pairwise
from math import inf
from random import Random

import pytest

from pipeflow.specs import Buffering
from pipeflow.state.buffer import Block, Buffers, Chunk, measure


def buffers(
    size: int = 100,
    seconds: float = 60.0,
    separator: int = 0,
    max_partitions: int = 500,
    max_buffered: int = 1 << 30,
) -> Buffers:
    return Buffers(
        Buffering(size, seconds),
        count(1).__next__,
        separator=separator,
        max_partitions=max_partitions,
        max_buffered=max_buffered,
    )


def bodies(chunk: Chunk | None) -> list[bytes]:
    assert chunk is not None
    return [body for block in chunk.blocks for body in block.bodies]


def test_S33_an_empty_buffer_never_closes() -> None:
    core = buffers()
    core.ripen(1e9)
    core.demand("drain")
    assert core.next() is None
    assert core.due == inf


def test_S33_the_size_closes_a_buffer_at_once_and_exactly_there() -> None:
    core = buffers(size=100)
    core.append("", [b"x" * 99], 0.0, 1)
    assert core.next() is None
    core.append("", [b"y"], 0.0, 1)
    chunk = core.next()
    assert chunk is not None
    assert (chunk.size, chunk.records, chunk.reason) == (100, 2, "size")


def test_S33_the_interval_counts_from_the_first_record_not_from_the_last() -> None:
    core = buffers(seconds=60)
    core.append("", [b"a"], 10.0, 1)
    core.append("", [b"b"], 65.0, 2)
    assert core.due == 70.0
    core.ripen(69.999)
    assert core.next() is None
    core.ripen(70.0)
    chunk = core.next()
    assert bodies(chunk) == [b"a", b"b"]
    assert chunk is not None
    assert (chunk.reason, chunk.opened_at) == ("time", 10.0)
    assert core.due == inf


def test_S34_the_size_counts_separators() -> None:
    core = buffers(size=100, separator=1)
    core.append("", [b"x" * 49, b"x" * 48], 0.0, 1)
    assert core.next() is None
    core.append("", [b""], 0.0, 1)
    chunk = core.next()
    assert chunk is not None
    assert chunk.size == 100


def test_S34_a_record_is_never_split_and_the_object_exceeds_the_size_by_less_than_one() -> None:
    core = buffers(size=100)
    core.append("", [b"x" * 60, b"y" * 60, b"z" * 60, b"q" * 500, b"r"], 0.0, 1)
    assert bodies(core.next()) == [b"x" * 60, b"y" * 60]
    assert bodies(core.next()) == [b"z" * 60, b"q" * 500]
    assert core.next() is None
    assert bodies(core.open[""]) == [b"r"]


def test_S11_an_empty_record_is_a_record() -> None:
    core = buffers()
    core.append("", [b""], 0.0, 1)
    core.demand("demand")
    chunk = core.next()
    assert bodies(chunk) == [b""]


def test_S16_arrival_times_are_milliseconds_and_never_go_backwards() -> None:
    core = buffers()
    core.append("", [b"a"], 5.00049, 1)
    core.append("", [b"b"], 4.0, 2)
    assert [block.at for block in core.open[""].blocks] == [5.0, 5.0]


def test_S36_new_hints_concern_buffers_that_open_afterwards() -> None:
    core = buffers(size=100, seconds=60)
    core.append("", [b"a"], 0.0, 1)
    core.buffering = Buffering(2, 5)
    core.append("", [b"b"], 1.0, 2)
    core.append("p", [b"c"], 2.0, 3)
    assert (core.open[""].limit, core.open[""].due) == (100, 60.0)
    assert (core.open["p"].limit, core.open["p"].due) == (2, 7.0)
    assert core.due == 7.0


def test_bounds_that_are_lowered_close_what_is_beyond_them() -> None:
    core = buffers(size=100, max_buffered=1000)
    for at, partition in enumerate("abc"):
        core.append(partition, [b"12345"], at, at + 1)
    core.max_partitions = 2
    core.fit()
    assert [chunk.partition for chunk in core.closed] == ["a"]
    core.buffering = Buffering(6, 60)
    core.max_buffered = 6
    core.fit()
    assert [chunk.partition for chunk in core.closed] == ["a", "b"]
    assert core.open_size == 5


def test_S37_an_interval_of_zero_is_due_with_the_first_record() -> None:
    core = buffers(seconds=0)
    core.append("", [b"a", b"b"], 3.0, 1)
    core.ripen(3.0)
    assert bodies(core.next()) == [b"a", b"b"]


def test_S38_each_partition_has_its_own_size_and_its_own_interval() -> None:
    core = buffers(size=10, seconds=60)
    core.append("a", [b"12345"], 0.0, 1)
    core.append("b", [b"1234567890"], 30.0, 1)
    chunk = core.next()
    assert chunk is not None
    assert chunk.partition == "b"
    core.ripen(60.0)
    chunk = core.next()
    assert chunk is not None
    assert chunk.partition == "a"


def test_S56_at_the_bound_of_open_partitions_the_least_recently_used_leaves_early() -> None:
    core = buffers(max_partitions=2)
    core.append("a", [b"1"], 0.0, 1)
    core.append("b", [b"2"], 0.0, 1)
    core.append("a", [b"3"], 0.0, 1)
    core.append("c", [b"4"], 0.0, 1)
    chunk = core.next()
    assert chunk is not None
    assert (chunk.partition, chunk.reason) == ("b", "pressure")
    assert set(core.open) == {"a", "c"}


def test_many_open_partitions_do_not_fill_the_bound_before_one_is_ripe() -> None:
    core = buffers(size=100, max_buffered=1000)
    for n in range(20):
        core.append(str(n), [b"x" * 60], 0.0, 1)
    assert core.open_size <= 500
    chunk = core.next()
    assert chunk is not None
    assert chunk.reason == "pressure"


def test_S72_order_is_kept_inside_a_partition_and_ranges_do_not_overlap() -> None:
    core = buffers(size=50)
    rolls = Random(7)
    accepted: dict[str, list[bytes]] = {}
    for n in range(500):
        partition = rolls.choice("abc")
        batch = [b"%d-%d" % (n, i) for i in range(rolls.randrange(1, 9))]
        accepted.setdefault(partition, []).extend(batch)
        core.append(partition, list(batch), n / 10, n // 3)
    core.demand("drain")
    ranges: dict[str, list[tuple[int, int]]] = {}
    delivered: dict[str, list[bytes]] = {}
    while (chunk := core.next()) is not None:
        delivered.setdefault(chunk.partition, []).extend(bodies(chunk))
        ranges.setdefault(chunk.partition, []).append((chunk.first, chunk.last))
        assert chunk.size == measure(chunk.blocks, 0)
        assert chunk.records == len(bodies(chunk))
        assert chunk.size < 50 + max(map(len, bodies(chunk)))
    assert delivered == accepted
    for spans in ranges.values():
        assert all(earlier[1] < later[0] for earlier, later in pairwise(spans))
    assert core.open_size == core.closed_size == 0


@pytest.mark.parametrize("seed", range(5))
def test_S72_records_spread_over_partitions_lie_where_they_would_one_by_one(seed: int) -> None:
    rolls = Random(seed)
    spread, single = (buffers(size=60, separator=1, max_partitions=4) for _ in range(2))
    at = 0.0
    for _ in range(200):
        at += rolls.choice([0.0, 0.001, 0.05, 0.3])
        batch = [b"x" * rolls.randrange(12) for _ in range(rolls.randrange(1, 9))]
        partitions = [rolls.choice("abcdef") for _ in batch]
        if rolls.random() < 0.2:  # both ways in are used beside each other
            spread.append("a", list(batch), at, 0)
            partitions = ["a"] * len(batch)
        else:
            spread.spread(partitions, batch, at)
        for partition, body in zip(partitions, batch, strict=True):
            single.append(partition, [body], at, 0)
        assert spread.open_size == sum(chunk.size for chunk in spread.open.values())
        assert spread.due == single.due
        if rolls.random() < 0.1:
            spread.ripen(at)
            single.ripen(at)
    for core in (spread, single):
        core.demand("drain")
    while (chunk := single.next()) is not None:
        twin = spread.next()
        assert twin is not None
        assert (twin.partition, twin.first, twin.last, twin.size, twin.records, twin.reason) == (
            (chunk.partition, chunk.first, chunk.last, chunk.size, chunk.records, chunk.reason)
        )
        assert bodies(twin) == bodies(chunk)
        assert twin.blocks[-1].last == twin.last
        assert twin.opened_at == chunk.opened_at
    assert spread.next() is None


def test_S16_records_spread_in_memory_share_a_moment_of_a_tenth_of_a_second() -> None:
    core = buffers()
    for at in (1.0, 1.05, 1.099, 1.1, 1.25):
        core.spread(["a", "b"], [b"1", b"2"], at)
    assert [(block.at, len(block.bodies)) for block in core.open["a"].blocks] == [(1.0, 3), (1.1, 1), (1.25, 1)]


def test_a_block_grows_within_an_era_and_not_beyond_it() -> None:
    core = buffers()
    begun = core.append("", [b"a"], 1.0, 1)
    assert core.append("", [b"b"], 1.0, 1) == []
    assert [block for _, block in core.append("", [b"c"], 1.0, 2)] == [core.open[""].blocks[1]]
    assert begun[0][1].bodies == [b"a", b"b"]


def test_what_comes_through_a_grant_is_counted_when_it_is_absorbed() -> None:
    core = buffers(size=100, separator=1)
    core.append("", [b"first"], 0.0, 0)
    granted, taken = core.grant(1.0, 0, 50)
    assert granted == 50
    taken += [b"second", b"third"]
    core.absorb(13)
    assert (core.placed, core.open[""].records, core.open[""].size) == (3, 3, 19)
    granted, _ = core.grant(2.0, 0, 500)
    assert granted == 81
    core.absorb(0)
    core.append("", [b"x" * 80], 2.0, 0)
    assert bodies(core.next()) == [b"first", b"second", b"third", b"x" * 80]


@pytest.mark.parametrize("size", [3, 100])
def test_a_restored_buffer_keeps_its_age_and_closes_when_it_is_full(size: int) -> None:
    core = buffers(size=size, seconds=60)
    core.restore(9, "p", [Block(5, 10.0, -1, [b"ab"]), Block(9, 20.0, -1, [b"cd"])])
    assert core.placed == 9
    if size == 3:
        chunk = core.next()
        assert chunk is not None
        assert (chunk.id, chunk.first, chunk.last, chunk.reason) == (9, 5, 9, "size")
    else:
        assert core.due == 70.0
        core.append("p", [b"e"], 30.0, 1)
        assert core.open["p"].last == 10
