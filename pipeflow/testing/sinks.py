"""What every sink promises, as checks for your own: run each on an empty place.

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    async def test_my_sink(check, tmp_path):
        await check(Place(lambda: MySink(tmp_path)))

A check that finds a promise broken raises AssertionError with a sentence that says which.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import TypeAlias

import anyio
from msgspec import Struct

from pipeflow.errors import ObjectMissing, ObjectRefused
from pipeflow.protocols import Object, ReadableSink, Sink

__all__ = ["CHECKS", "Check", "Place"]

LARGE = 20 << 20
"""Bytes of an object that no sink should take in one piece."""

NAMES = [
    "plain",
    "a/b/c.jsonl.gz",
    "carrier=UA/month=2013-01/lake-1.parquet",
    "errors/!processing/x",
    "with space/and+plus/100%/%2F/%41",
    "name=%3Fq%23/Zürich/東京/😀",
    "quote'\"&<x>;:@$,*()",
    "s" * 240,  # some stores of files put a few letters behind it for as long as they write
]
"""Odd ones, all of which a stream may give to its objects."""

OUTSIDE = ["", "/etc/x", "../x", "a/../../x", "a//b", "a/./b", "a/", "nul\x00", "line\nfeed", "back\\slash", "u\u0308"]
"""No sink writes under these; whatever is done about them would make two objects one, or leave the root."""


class Place(Struct, frozen=True):
    """A place for objects that nothing was written to yet."""

    open: Callable[[], Sink]
    """A sink that writes there; a later call opens the same place again."""
    contents: Callable[[], Awaitable[Mapping[str, bytes]]] | None = None
    """All whole objects by name; needed where the sink is no ReadableSink."""


Check: TypeAlias = Callable[[Place], Awaitable[None]]


async def an_object_is_there_whole_when_its_write_returns(place: Place) -> None:
    """All of its pieces in their order, under its name, and nothing else."""
    async with aclosing(_Closing(place.open())) as sink:
        await sink.write(_object("a/b", b"one\n", b"", b"two\n"))
        await _expect(place, {"a/b": b"one\ntwo\n"})


async def an_object_outlives_the_sink_that_wrote_it(place: Place) -> None:
    """A sink that is opened at the same place later finds it."""
    async with aclosing(_Closing(place.open())) as sink:
        await sink.write(_object("a", b"one\n"))
    await _expect(place, {"a": b"one\n"})


async def the_same_name_is_replaced_whole(place: Place) -> None:
    """Nothing of a longer object stays behind a shorter one."""
    async with aclosing(_Closing(place.open())) as sink:
        await sink.write(_object("a", b"long " * 1000))
        await sink.write(_object("a", b"short"))
        await _expect(place, {"a": b"short"})


async def the_same_bytes_twice_are_one_object(place: Place) -> None:
    """So that a write whose answer was lost can be done again."""
    async with aclosing(_Closing(place.open())) as sink:
        await sink.write(_object("a", b"same", replace=False))
        await sink.write(_object("a", b"same"))
        await _expect(place, {"a": b"same"})


async def a_name_taken_by_other_bytes_is_refused_to_a_new_object(place: Place) -> None:
    """`replace=False` never replaces; what was there stays."""
    async with aclosing(_Closing(place.open())) as sink:
        for size in (10, LARGE):
            name, before = f"of-{size}", b"somebody else's"
            await sink.write(_object(name, before, replace=False))
            try:
                await sink.write(_object(name, b"x" * size, replace=False))
            except ObjectRefused:
                pass
            else:
                raise AssertionError(f"write of {size} bytes with replace=False to a taken name: no ObjectRefused")
        await _expect(place, {"of-10": before, f"of-{LARGE}": before})


async def an_empty_object_is_an_object(place: Place) -> None:
    """Without pieces, and with an empty one."""
    async with aclosing(_Closing(place.open())) as sink:
        await sink.write(_object("none"))
        await sink.write(_object("empty", b"", replace=False))
        await _expect(place, {"none": b"", "empty": b""})


async def a_large_object_is_whole(place: Place) -> None:
    """In pieces of uneven sizes, new and as a replacement."""
    pieces = [bytes([n % 251]) * (LARGE // 7 + n) for n in range(7)]
    async with aclosing(_Closing(place.open())) as sink:
        await sink.write(_object("new", *pieces, replace=False))
        await sink.write(_object("again", b"small"))
        await sink.write(_object("again", *pieces))
        await _expect(place, {"new": b"".join(pieces), "again": b"".join(pieces)})


async def odd_names_stay_as_they_are(place: Place) -> None:
    """Nothing is decoded, encoded or made lower case: two names are two objects."""
    names = [*NAMES, "A/B/c", "a%2Fb%2Fc"]
    async with aclosing(_Closing(place.open())) as sink:
        for name in names:
            await sink.write(_object(name, name.encode(), replace=False))
        await _expect(place, {name: name.encode() for name in names})


async def names_that_leave_the_root_are_refused(place: Place) -> None:
    """ObjectRefused, and nothing is written anywhere below."""
    async with aclosing(_Closing(place.open())) as sink:
        for name in OUTSIDE:
            try:
                await sink.write(_object(name, b"x"))
            except ObjectRefused:
                continue
            raise AssertionError(f"write to {name!r}: no ObjectRefused; call pipeflow.names.check_name first")
        await _expect(place, {})


async def objects_of_different_names_can_be_written_at_once(place: Place) -> None:
    """Streams share a sink's place, and directories on the way are made by whoever comes first."""
    objects = {f"{n % 3}/{n % 2}/{n}": str(n).encode() * 1000 for n in range(24)}
    async with aclosing(_Closing(place.open())) as sink, anyio.create_task_group() as tasks:
        for name, content in objects.items():
            tasks.start_soon(sink.write, _object(name, content, replace=False))
    await _expect(place, objects)


async def a_cancelled_write_leaves_its_object_whole_or_not_there(place: Place) -> None:
    """At whatever moment; and the same write done again succeeds."""
    content = b"x" * LARGE
    async with aclosing(_Closing(place.open())) as sink:
        for milliseconds in (0, 1, 10, 40, 160):
            name = f"after-{milliseconds}"
            with anyio.move_on_after(milliseconds / 1000):
                await sink.write(_object(name, content))
            there = (await _contents(place)).get(name, content)
            _say(there == content, f"a write cancelled after {milliseconds} ms left {len(there)} of {LARGE} bytes")
            await sink.write(_object(name, content))
        await _expect(place, {f"after-{milliseconds}": content for milliseconds in (0, 1, 10, 40, 160)})


async def closing_twice_is_no_error(place: Place) -> None:
    """Whoever ends in a hurry may do so."""
    sink = place.open()
    _say(isinstance(sink, Sink), f"{sink!r} is no Sink: it needs async `write` and `close`")
    await sink.close()
    await sink.close()


async def what_is_not_there_is_told_when_it_is_read(place: Place) -> None:
    """ObjectMissing, in an empty place, beside other objects, and for a folder."""
    async with aclosing(_Closing(place.open())) as sink:
        if not isinstance(sink.inner, ReadableSink):
            return
        for name in ("a/b/c", "a/b/x", "a/b"):
            try:
                await sink.inner.read(name)
            except ObjectMissing:
                pass
            else:
                raise AssertionError(f"read of {name!r}, which is not there: no ObjectMissing")
            await sink.write(_object("a/b/c2", b"c"))


async def a_deleted_object_is_gone_and_may_be_deleted_again(place: Place) -> None:
    """Only that one, and its name is free for a new object."""
    async with aclosing(_Closing(place.open())) as sink:
        if not isinstance(sink.inner, ReadableSink):
            return
        await sink.inner.delete("a/b")
        for name in ("a/b", "a/bc", "a/b2/c"):
            await sink.write(_object(name, b"1"))
        await sink.inner.delete("a/b")
        await sink.inner.delete("a/b")
        await _expect(place, {"a/bc": b"1", "a/b2/c": b"1"})
        await sink.write(_object("a/b", b"2", replace=False))
        await _expect(place, {"a/b": b"2", "a/bc": b"1", "a/b2/c": b"1"})


async def names_are_listed_sorted_by_how_they_begin(place: Place) -> None:
    """A beginning is any text, not only a folder."""
    async with aclosing(_Closing(place.open())) as sink:
        if not isinstance(sink.inner, ReadableSink):
            return
        names = ["a-1", "a/b/10", "a/b/2", "a/bc/1", "b/2", "é/1"]
        for name in reversed(names):
            await sink.write(_object(name, b"1"))
        for beginning in ("", "a", "a/", "a/b", "a/b/", "a/b/1", "b", "c", "a/b/2/", "é"):
            expected = [name for name in names if name.startswith(beginning)]
            listed = await sink.inner.list(beginning)
            _say(listed == expected, f"list({beginning!r}) is {listed}, not {expected}")


CHECKS: Sequence[Check] = (
    an_object_is_there_whole_when_its_write_returns,
    an_object_outlives_the_sink_that_wrote_it,
    the_same_name_is_replaced_whole,
    the_same_bytes_twice_are_one_object,
    a_name_taken_by_other_bytes_is_refused_to_a_new_object,
    an_empty_object_is_an_object,
    a_large_object_is_whole,
    odd_names_stay_as_they_are,
    names_that_leave_the_root_are_refused,
    objects_of_different_names_can_be_written_at_once,
    a_cancelled_write_leaves_its_object_whole_or_not_there,
    closing_twice_is_no_error,
    what_is_not_there_is_told_when_it_is_read,
    a_deleted_object_is_gone_and_may_be_deleted_again,
    names_are_listed_sorted_by_how_they_begin,
)
"""Every check; those of reading pass where a sink cannot be read."""


class _Closing:
    """A sink as something that `aclosing` closes."""

    def __init__(self, inner: Sink) -> None:
        self.inner = inner
        self.write = inner.write
        self.aclose = inner.close


def _object(name: str, *chunks: bytes, replace: bool = True) -> Object:
    return Object(name, chunks, 1, replace)


async def _contents(place: Place) -> Mapping[str, bytes]:
    if place.contents is not None:
        return await place.contents()
    async with aclosing(_Closing(place.open())) as sink:
        _say(isinstance(sink.inner, ReadableSink), "the sink cannot be read: give Place a `contents`")
        assert isinstance(sink.inner, ReadableSink)
        return {name: await sink.inner.read(name) for name in await sink.inner.list()}


async def _expect(place: Place, expected: Mapping[str, bytes]) -> None:
    found = await _contents(place)
    _say(set(found) == set(expected), f"objects {sorted(found)} lie there, and not {sorted(expected)}")
    for name, content in expected.items():
        _say(
            found[name] == content,
            f"{name!r} holds {found[name][:40]!r}..., {len(found[name])} bytes, not {content[:40]!r}...",
        )


def _say(holds: bool, broken: str) -> None:
    if not holds:
        raise AssertionError(broken)
