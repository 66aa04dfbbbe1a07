"""Streams into an HTTP endpoint, a real one on virtual time: what a receiver gets, and where the rest goes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from http_endpoint import Behaviour, Hang, Request, Reset, acknowledged, answer, closed_port, http_endpoint
from msgspec import Struct
from record_owner import Owner
from scripted_egress import Scripted
from stream_rig import Rig, rig

from pipeflow import App
from pipeflow.engine.plan import DeliveryPlan
from pipeflow.errors import ConfigurationError
from pipeflow.events import DeliveryFailed
from pipeflow.messages import Outgoing
from pipeflow.sinks.memory import MemorySink
from pipeflow.specs import Endpoint, StreamSpec
from pipeflow_connectors.egress import Answer, Kind
from pipeflow_connectors.http_sink import INVALID, HttpSink

PLAIN = Endpoint()


class Order(Struct):
    id: str


def hooks(url: str, **options: object) -> StreamSpec:
    return StreamSpec("lake", url, **{"compression": "none", "failures": "memory://failed", **options})  # type: ignore[arg-type]


def out(*bodies: str) -> list[Outgoing]:
    return [Outgoing(body.encode()) for body in bodies]


async def flushed(r: Rig) -> None:
    r.store.demand("lake")
    await r.clock.settle()


async def test_S76_a_stream_delivers_its_records_as_they_were_put() -> None:
    async with (
        http_endpoint() as endpoint,
        rig(DeliveryPlan(hooks(endpoint.url)), sink=HttpSink(endpoint.url, PLAIN)) as r,
    ):
        await r.store.append("lake", out("a", "b"))
        await r.deliver()
        stats = await r.stats()
        await r.sink.close()
    assert [request.records for request in endpoint.requests] == [[b"a", b"b"]]
    assert (stats.accepted, stats.delivered, stats.failed, stats.buffered, stats.objects) == (2, 2, 0, 0, 0)


def refuse(request: Request) -> bytes:
    return acknowledged(request, 503, errorMessage="busy")


def reset(request: Request) -> bytes:
    raise Reset


def hang(request: Request) -> bytes:
    raise Hang


def taken_then_reset() -> Behaviour:
    """It has the records, and the answer is lost: the first time."""
    times = 0

    def behave(request: Request) -> bytes:
        nonlocal times
        times += 1
        if times == 1:
            raise Reset
        return acknowledged(request)

    return behave


async def test_p19_S71_an_answer_that_was_lost_is_asked_for_again_under_the_same_id() -> None:
    async with http_endpoint() as endpoint:
        endpoint.behaviour = taken_then_reset()
        async with rig(DeliveryPlan(hooks(endpoint.url)), sink=HttpSink(endpoint.url, PLAIN)) as r:
            await r.store.append("lake", out("a"))
            r.store.demand("lake")
            await r.clock.advance(10)
            assert (await r.stats()).delivered == 1
            await r.sink.close()
        first, second = endpoint.requests
    assert (first.id, first.body) == (second.id, second.body)


async def test_p19_the_id_is_the_same_after_a_restart() -> None:
    async with http_endpoint() as endpoint:
        endpoint.behaviour = refuse
        owner = Owner(at=0.0)
        plan = DeliveryPlan(hooks(endpoint.url))
        async with rig(plan, sink=HttpSink(endpoint.url, PLAIN), owner=owner) as r:
            await r.store.append("lake", out("a"))
            await flushed(r)
            await r.sink.close()
        endpoint.behaviour = acknowledged
        async with rig(plan, sink=HttpSink(endpoint.url, PLAIN), owner=Owner(owner.snapshot, at=60.0)) as r:
            await r.clock.settle()
            assert (await r.stats()).delivered == 1
            await r.sink.close()
        assert len({request.id for request in endpoint.requests}) == 1 < len(endpoint.requests)
        assert len({request.body for request in endpoint.requests}) == 1


async def test_S82_a_url_that_changed_takes_what_is_being_retried_under_the_same_id() -> None:
    owner = Owner(at=0.0)
    async with http_endpoint() as old, http_endpoint() as new:
        old.behaviour = refuse
        async with rig(DeliveryPlan(hooks(old.url)), sink=HttpSink(old.url, PLAIN), owner=owner) as r:
            await r.store.append("lake", out("a"))
            await flushed(r)
            await r.sink.close()
        later = Owner(owner.snapshot, at=60.0)
        async with rig(DeliveryPlan(hooks(new.url)), sink=HttpSink(new.url, PLAIN), owner=later) as r:
            await r.clock.settle()
            await r.sink.close()
        (request,) = new.requests
        assert request.records == [b"a"]
        assert request.id == old.requests[0].id


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (refuse, "HttpEndpoint.DestinationException"),
        (reset, "HttpEndpoint.ConnectionReset"),
        (hang, "HttpEndpoint.RequestTimeout"),
        (lambda request: answer(307, b"", {"Location": "http://169.254.169.254/"}), INVALID),
        (lambda request: answer(200, b"<html>"), INVALID),
        (lambda request: answer(200, bytes((1 << 20) + 1)), "HttpEndpoint.ResponseTooLarge"),
        (None, "HttpEndpoint.ConnectionFailed"),
    ],
)  # fmt: skip
async def test_S61_S80_S81_S83_what_an_endpoint_does_not_take_in_time_becomes_error_records(
    behaviour: Behaviour | None, code: str
) -> None:
    failures = MemorySink()
    async with http_endpoint() as endpoint:
        url = endpoint.url if behaviour is not None else f"http://localhost:{closed_port()}/"
        endpoint.behaviour = behaviour or acknowledged
        sink = HttpSink(url, Endpoint(timeout=0.2 if behaviour is hang else 10.0))
        async with rig(DeliveryPlan(hooks(url, retry_seconds=0)), sink=sink, failures=failures) as r:
            await r.clock.advance(5)
            await r.store.append("lake", out("a", "b"))
            await r.clock.advance(2)
            await r.deliver()
            stats = await r.stats()
            await sink.close()
    ((name, content),) = failures.objects.items()
    assert name.startswith("errors/http-endpoint-failed/lake-")
    first, second = map(json.loads, content.splitlines())
    assert base64.b64decode(second.pop("rawData")) == b"b"
    assert first.pop("errorMessage").startswith(f"http://localhost:{url.split(':')[2].split('/')[0]}")
    assert first.pop("dataId").startswith("lake-")
    assert first == {
        "attemptsMade": 1,
        "arrivalTimestamp": 5000,
        "errorCode": code,
        "attemptEndingTimestamp": 7000,
        "rawData": base64.b64encode(b"a").decode(),
        "subsequenceNumber": "1",
    }
    assert (stats.failed, stats.delivered, stats.buffered) == (2, 0, 0)


async def test_S79_S80_retries_back_off_for_300_seconds_and_then_the_records_go_to_failures() -> None:
    failures = MemorySink()
    down: list[Kind] = ["connect"] * 100
    egress = Scripted(*down)
    sink = HttpSink("https://hooks.example.org/", PLAIN, egress)
    async with rig(DeliveryPlan(hooks("https://hooks.example.org/")), sink=sink, failures=failures) as r:
        await r.store.append("lake", out("a"))
        await flushed(r)
        await r.clock.advance(299)
        assert failures.objects == {}
        await r.clock.advance(2)
        assert len(failures.objects) == 1
        moments = [event.at for event in r.events if isinstance(event, DeliveryFailed)]
        pauses = [later - earlier for earlier, later in pairwise(moments)]
        for n, pause in enumerate(pauses[:6], 1):
            assert 0.85 * 2**n <= pause <= 1.15 * 2**n
        assert len(egress.contents) == 9  # 1, and one after 2, 4, 8, 16, 32, 64, 120 and what is left


async def test_S80_an_answer_that_comes_after_the_time_still_counts() -> None:
    class Slow(Scripted):
        """Answers the second time after an hour."""

        async def post(self, url: str, **asked: object) -> Answer:
            if self.contents:
                await r.clock.wait(never, r.clock.now() + 3600)
            return await super().post(url, **asked)  # type: ignore[arg-type]  # handed on as it came

    from pipeflow.clock import Signal

    never = Signal()
    failures = MemorySink()
    sink = HttpSink("https://hooks.example.org/", PLAIN, Slow("connect"))
    async with rig(
        DeliveryPlan(hooks("https://hooks.example.org/", retry_seconds=10)), sink=sink, failures=failures
    ) as r:
        await r.store.append("lake", out("a"))
        await flushed(r)
        await r.clock.advance(2 * 3600)
        assert (await r.stats()).delivered == 1
        assert failures.objects == {}


@pytest.mark.parametrize("kept", [True, False])
async def test_S78_what_is_too_large_for_the_endpoint_is_never_sent_again_and_never_lost(kept: bool) -> None:
    """AWS drops such a batch, from the error bucket too; here it goes to `failures`, or is parked: S78."""
    failures = MemorySink()
    async with http_endpoint() as endpoint:
        endpoint.behaviour = lambda request: acknowledged(request, 413)
        options = {} if kept else {"failures": None}
        async with rig(
            DeliveryPlan(hooks(endpoint.url, **options)), sink=HttpSink(endpoint.url, PLAIN), failures=failures
        ) as r:
            await r.store.append("lake", out("a"))
            await flushed(r)
            await r.clock.advance(3600)
            stats = await r.stats()
            await r.sink.close()
        assert len(endpoint.requests) == 1
    assert (stats.failed, stats.parked, len(failures.objects)) == ((1, 0, 1) if kept else (0, 1, 0))


async def test_of_several_requests_those_that_were_taken_are_not_sent_again_and_only_the_rest_fails() -> None:
    failures = MemorySink()
    answers: list[Callable[[Request], bytes]] = [acknowledged, refuse]
    async with http_endpoint() as endpoint:
        endpoint.behaviour = lambda request: (answers.pop(0) if answers else refuse)(request)
        sink = HttpSink(endpoint.url, PLAIN)
        options = hooks(endpoint.url, retry_seconds=5, buffer_bytes=20_000)
        async with rig(DeliveryPlan(options), sink=sink, failures=failures) as r:
            await r.store.append("lake", out(*["x"] * 10_000, *["y"] * 2_000))
            await flushed(r)
            await r.clock.advance(60)
            stats = await r.stats()
            await sink.close()
    sizes = [len(request.records) for request in endpoint.requests]
    assert sizes[0] == 10_000
    assert set(sizes[1:]) == {2_000}
    (content,) = failures.objects.values()
    records = [json.loads(line) for line in content.splitlines()]
    assert {record["rawData"] for record in records} == {"eQ=="}
    assert [record["subsequenceNumber"] for record in records[:2]] == ["10001", "10002"]
    assert (stats.delivered, stats.failed) == (10_000, 2_000)


async def test_S81_records_that_a_transform_failed_go_to_failures() -> None:
    def derive(body: bytes) -> Outgoing:
        if body == b"bad":
            raise ValueError("no")
        return Outgoing(body.upper())

    failures = MemorySink()
    egress = Scripted()
    sink = HttpSink("https://hooks.example.org/", PLAIN, egress)
    options = hooks("https://hooks.example.org/", transformed=True)
    async with rig(DeliveryPlan(options, derive), sink=sink, failures=failures) as r:
        await r.store.append("lake", out("a", "bad"))
        await r.deliver()
        assert json.loads(egress.contents[0])["records"] == [{"data": base64.b64encode(b"A").decode()}]
        (content,) = failures.objects.values()
        assert json.loads(content)["errorCode"] == "Transform.ValueError"
        assert ((await r.stats()).delivered, (await r.stats()).failed) == (1, 1)


# In an app


async def test_an_app_delivers_typed_records_to_an_endpoint_and_says_what_it_does_not_take(tmp_path: Path) -> None:
    async with http_endpoint() as endpoint:
        app = App("hooks", broker=f"sqlite:///{tmp_path / 'hooks.db'}")
        with pytest.raises(ConfigurationError, match="leave format off"):
            app.stream("odd", Order, sink=endpoint.url, format="jsonl")
        orders = app.stream("orders", Order, sink=endpoint.url, delimiter=b"\n", buffer_seconds=0)
        async with app:
            await orders.put(Order("o-1"))
            await orders.flush()
        (request,) = endpoint.requests
    assert request.records == [b'{"id":"o-1"}\n']
