"""Transforms of many records at once: retries on the clock, bisection, timeouts, and how records gather for them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from itertools import pairwise

import anyio
import pytest
from record_owner import Owner
from stream_rig import Rig, rig

from pipeflow.clock import Signal
from pipeflow.engine.failures import Coded
from pipeflow.engine.plan import Attempt, BatchTransform, DeliveryPlan, Derived
from pipeflow.messages import Outgoing
from pipeflow.specs import StreamSpec


class Called:
    """A transform that remembers its calls, and may fail."""

    def __init__(self, fail: Callable[[list[bytes], int], Exception | None] = lambda bodies, number: None) -> None:
        self.calls: list[tuple[float, list[bytes]]] = []
        self.fail = fail

    async def __call__(self, attempt: Attempt) -> Sequence[Derived | Exception]:
        bodies = [part.body for part in attempt.parts]
        self.calls.append((attempt.clock.now(), bodies))
        error = self.fail(bodies, attempt.number)
        if error is not None:
            raise error
        return [Outgoing(body.upper()) for body in bodies]

    @property
    def sizes(self) -> list[int]:
        return [len(bodies) for _, bodies in self.calls]


def plan(called: Called, spec: dict[str, object] | None = None, **options: object) -> DeliveryPlan:
    made = StreamSpec("lake", "memory://lake", compression="none", transformed=True, **(spec or {}))  # type: ignore[arg-type]
    return DeliveryPlan(made, batch=BatchTransform(called, **options))  # type: ignore[arg-type]


def out(*bodies: bytes) -> list[Outgoing]:
    return [Outgoing(body) for body in bodies]


def good(r: Rig) -> list[bytes]:
    return b"".join(content for name, content in r.sink.objects.items() if not name.startswith("errors/")).split()


def failed(r: Rig) -> dict[bytes, tuple[str, int]]:
    """Code and attempts of each record in the error output, by what it was."""
    lines = b"".join(content for name, content in r.sink.objects.items() if name.startswith("errors/")).splitlines()
    return {
        base64.b64decode(error["rawData"]): (error["errorCode"], error["attemptsMade"])
        for error in map(json.loads, lines)
    }


# Gathering


async def test_S24_records_gather_until_they_are_enough() -> None:
    called = Called()
    async with rig(plan(called, size=3, buffer_seconds=60)) as r:
        await r.store.append("lake", out(b"a", b"b"))
        await r.clock.advance(59)
        assert called.calls == []
        await r.store.append("lake", out(b"c"))
        await r.clock.settle()
        assert called.calls == [(59.0, [b"a", b"b", b"c"])]


async def test_S24_records_gather_until_they_are_enough_bytes() -> None:
    called = Called()
    async with rig(plan(called, buffer_bytes=10, buffer_seconds=60)) as r:
        await r.store.append("lake", out(b"aaaa"))
        await r.clock.settle()
        assert called.calls == []
        await r.store.append("lake", out(b"bbbb", b"cccc"))
        await r.clock.settle()
        assert [bodies for _, bodies in called.calls] == [[b"aaaa", b"bbbb"]]
        await r.clock.advance(60)
        assert [bodies for _, bodies in called.calls][1:] == [[b"cccc"]]


async def test_S24_a_batch_has_as_many_bytes_as_it_may() -> None:
    called = Called()
    async with rig(plan(called, buffer_bytes=8, buffer_seconds=60)) as r:
        await r.store.append("lake", out(b"aaaa", b"bbbb", b"cccc"))
        await r.clock.settle()
        assert [bodies for _, bodies in called.calls] == [[b"aaaa", b"bbbb"]]


async def test_at_the_bound_nothing_gathers_on_as_nothing_more_can_come() -> None:
    called = Called()
    bounds: dict[str, object] = {"buffer_bytes": 20, "max_buffered": 20, "format": "jsonl"}
    async with rig(plan(called, bounds, buffer_bytes=14, buffer_seconds=900)) as r:
        with anyio.fail_after(10):
            for n in range(10, 40):
                await r.store.append("lake", out(b"%d" % n))
                await r.clock.settle()
        assert r.clock.now() == 0.0
        await r.deliver()
        assert good(r) == [b"%d" % n for n in range(10, 40)]


async def test_S24_records_gather_until_the_first_of_them_has_waited_long_enough() -> None:
    called = Called()
    async with rig(plan(called, buffer_seconds=60)) as r:
        await r.store.append("lake", out(b"a"))
        await r.clock.advance(40)
        await r.store.append("lake", out(b"b"))
        await r.clock.advance(19.9)
        assert called.calls == []
        await r.clock.advance(0.1)
        assert called.calls == [(60.0, [b"a", b"b"])]


async def test_S24_what_fills_no_batch_waits_for_its_own_time() -> None:
    called = Called()
    async with rig(plan(called, size=2, buffer_seconds=60)) as r:
        await r.store.append("lake", out(b"a", b"b", b"c", b"d", b"e"))
        await r.clock.settle()
        assert called.sizes == [2, 2]
        await r.clock.advance(60)
        assert called.calls[2:] == [(60.0, [b"e"])]
        await r.deliver()
        assert good(r) == [b"A", b"B", b"C", b"D", b"E"]


@pytest.mark.parametrize("how", ["flush", "drain"])
async def test_S24_a_flush_and_a_drain_do_not_wait_for_the_seconds(how: str) -> None:
    called = Called()
    async with rig(plan(called, buffer_seconds=900)) as r:
        await r.store.append("lake", out(b"a"))
        if how == "flush":
            await r.deliver()
        else:
            assert await r.delivery.drain(until=1.0)
        assert r.clock.now() == 0.0
        assert good(r) == [b"A"]


async def test_S24_records_gather_in_the_durable_intake() -> None:
    called = Called()
    async with rig(plan(called, buffer_seconds=60)) as r:
        await r.store.append("lake", out(b"a"))
        await r.clock.settle()
        snapshot = r.owner.snapshot
    async with rig(plan(called, buffer_seconds=60), owner=Owner(snapshot, at=1.0)) as r:
        await r.deliver()
        assert good(r) == [b"A"]


async def test_S24_records_that_an_earlier_process_left_do_not_wait_again() -> None:
    called = Called()
    async with rig(plan(called, buffer_seconds=60)) as r:
        await r.store.append("lake", out(b"a"))
        snapshot = r.owner.snapshot
    async with rig(plan(called, buffer_seconds=60), owner=Owner(snapshot, at=1.0)) as r:
        await r.clock.settle()
        assert called.calls == [(1.0, [b"a"])]


# Failing


async def test_S29_a_batch_that_fails_is_tried_again_later_and_later_and_keeps_its_order() -> None:
    called = Called(lambda bodies, number: OSError("down") if number < 4 else None)
    async with rig(plan(called, size=2, buffer_seconds=0)) as r:
        await r.store.append("lake", out(b"a", b"b", b"c"))
        await r.clock.advance(200)
        times = [at for at, bodies in called.calls if b"a" in bodies]
        assert len(times) == 4
        assert all(gap <= 2**n for n, gap in enumerate(b - a for a, b in pairwise(times)))
        assert times[-1] > 0.0
        await r.deliver()
        assert good(r) == [b"A", b"B", b"C"]
        assert failed(r) == {}


@pytest.mark.parametrize("poison", [{b"7"}, {b"0"}, {b"3", b"9"}, {b"1", b"2"}])
async def test_S29_a_poison_record_takes_no_other_down_and_its_attempts_are_counted(poison: set[bytes]) -> None:
    called = Called(lambda bodies, number: ValueError("poison") if poison & set(bodies) else None)
    async with rig(plan(called, retries=2, buffer_seconds=0)) as r:
        await r.store.append("lake", out(*(b"%d" % n for n in range(10))))
        await r.clock.advance(60)
        await r.deliver()
        assert called.sizes[:3] == [10, 10, 10]
        assert good(r) == [b"%d" % n for n in range(10) if b"%d" % n not in poison]
        found = failed(r)
        assert set(found) == poison
        tried = {body: sum(body in bodies for _, bodies in called.calls) for body in poison}
        assert found == {body: ("Transform.ValueError", times) for body, times in tried.items()}
        stats = await r.stats()
        assert (stats.accepted, stats.delivered, stats.failed, stats.dropped, stats.added) == (
            10, 10 - len(poison), len(poison), 0, 0,
        )  # fmt: skip


async def test_S29_a_batch_that_is_not_split_goes_to_the_error_output_whole() -> None:
    called = Called(lambda bodies, number: ValueError("poison") if b"2" in bodies else None)
    async with rig(plan(called, retries=1, buffer_seconds=0, size=3, bisects=False, lambda_arn="arn")) as r:
        await r.store.append("lake", out(*(b"%d" % n for n in range(6))))
        await r.clock.advance(60)
        await r.deliver()
        assert called.sizes == [3, 3, 3]
        assert good(r) == [b"3", b"4", b"5"]
        assert failed(r) == dict.fromkeys([b"0", b"1", b"2"], ("Lambda.FunctionError", 2))


@pytest.mark.parametrize(("bisects", "code"), [(True, "Transform.SystemExit"), (False, "Lambda.FunctionError")])
async def test_S29_a_function_that_exits_has_failed_like_one_that_raises(bisects: bool, code: str) -> None:
    async def leaving(attempt: Attempt) -> Sequence[Derived | Exception]:
        if b"2" in [part.body for part in attempt.parts]:
            raise SystemExit(3)
        return out(*(part.body for part in attempt.parts))

    arn = None if bisects else "arn"
    spec = StreamSpec("lake", "memory://lake", compression="none", transformed=True)
    transform = BatchTransform(leaving, retries=1, buffer_seconds=0, bisects=bisects, lambda_arn=arn)
    async with rig(DeliveryPlan(spec, batch=transform)) as r:
        await r.store.append("lake", out(b"1", b"2"))
        await r.clock.advance(60)
        await r.deliver()
        assert failed(r) == ({b"2": (code, 3)} if bisects else dict.fromkeys([b"1", b"2"], (code, 2)))


async def test_S29_an_answer_of_the_wrong_form_is_not_tried_again() -> None:
    called = Called(lambda bodies, number: Coded("Transform.WrongLength", "1 of 2"))
    async with rig(plan(called, buffer_seconds=0)) as r:
        await r.store.append("lake", out(b"a", b"b"))
        await r.deliver()
        assert called.sizes == [2]
        assert failed(r) == dict.fromkeys([b"a", b"b"], ("Transform.WrongLength", 1))


async def test_S29_a_call_that_takes_too_long_is_ended_and_counts_as_failed() -> None:
    ended: list[str] = []

    async def slow(attempt: Attempt) -> Sequence[Derived | Exception]:
        assert attempt.until == attempt.clock.now() + 5
        if b"slow" in [part.body for part in attempt.parts]:
            try:
                await attempt.clock.wait(Signal())
            finally:
                ended.append(f"{attempt.clock.now():.0f}")
        return [Outgoing(part.body) for part in attempt.parts]

    spec = StreamSpec("lake", "memory://lake", compression="none", transformed=True)
    transform = BatchTransform(slow, retries=0, timeout=5, buffer_seconds=0)
    async with rig(DeliveryPlan(spec, batch=transform)) as r:
        await r.store.append("lake", out(b"quick", b"slow"))
        await r.clock.advance(30)
        await r.deliver()
        assert ended == ["5", "10"]
        assert good(r) == [b"quick"]
        assert failed(r) == {b"slow": ("Transform.TimeoutError", 2)}


async def test_a_stream_that_stops_while_it_waits_for_a_retry_keeps_its_records() -> None:
    called = Called(lambda bodies, number: OSError("down"))
    async with rig(plan(called, buffer_seconds=0, retries=300)) as r:
        await r.store.append("lake", out(b"a"))
        await r.clock.advance(10)
        r.stop()
        await r.clock.settle()
        assert (await r.stats()).buffered == 1
        called.fail = lambda bodies, number: None
        r.start()
        await r.clock.settle()
        await r.deliver()
        assert good(r) == [b"A"]


# Beside what unpacks


async def test_S19_batches_are_made_of_parts_and_a_part_keeps_its_record() -> None:
    called = Called(lambda bodies, number: ValueError("poison") if b'{"n":3}' in bodies else None)
    async with rig(plan(called, {"split": "json"}, size=2, retries=0, buffer_seconds=60)) as r:
        await r.store.append("lake", out(b'{"n":1}{"n":2}{"n":3}', b'{"n":4}', b"  "))
        await r.deliver()
        assert called.sizes == [2, 2, 1, 1]
        assert good(r) == [b'{"N":1}', b'{"N":2}', b'{"N":4}']
        assert failed(r) == {b'{"n":3}': ("Transform.ValueError", 2)}
        stats = await r.stats()
        assert (stats.accepted, stats.added, stats.delivered, stats.failed, stats.dropped) == (3, 2, 3, 1, 1)
