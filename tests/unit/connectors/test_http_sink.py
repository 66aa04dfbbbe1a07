"""Records to an HTTP endpoint by the contract of Firehose: what is sent, and what acknowledges it."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
from http_endpoint import http_endpoint
from scripted_egress import Scripted, reply

from pipeflow.errors import ConfigurationError, ObjectRefused, SinkUnavailable
from pipeflow.messages import Records
from pipeflow.protocols import Object, RecordBatch, RecordSink
from pipeflow.registry import open_sink
from pipeflow.specs import Endpoint, StreamSpec
from pipeflow_connectors.egress import Answer, Kind
from pipeflow_connectors.http_sink import MAX_BODY, HttpSink, request_id

PLAIN = Endpoint()


def batch(*bodies: bytes, name: str = "hooks-1", delimiter: bytes = b"") -> RecordBatch:
    return RecordBatch(name, "hooks", 1000.5, [Records(7, 990.0, list(bodies))], delimiter)


def sink_of(*answers: Answer | Kind, endpoint: Endpoint = PLAIN, url: str = "https://hooks.example.org/in") -> HttpSink:
    return HttpSink(url, endpoint, Scripted(*answers))


ID = request_id("hooks-1")


# What is sent


async def test_S75_a_request_has_the_headers_of_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_KEY", "s3cret")
    options = Endpoint(access_key="env:HOOK_KEY", attributes={"team": "bl\u00e5"}, gzip=True)
    async with http_endpoint() as endpoint:
        sink = HttpSink(endpoint.url, options)
        await sink.deliver(batch(b"a"))
        await sink.close()
        (request,) = endpoint.requests
    assert request.line == "POST /in?feed=a%20b HTTP/1.1"
    told = {name: value for name, value in request.headers.items() if name.startswith(("x-amz", "content-"))}
    del told["content-length"]
    assert told == {
        "content-type": "application/json",
        "content-encoding": "gzip",
        "x-amz-firehose-protocol-version": "1.0",
        "x-amz-firehose-request-id": ID,
        "x-amz-firehose-source-arn": "arn:aws:firehose:us-east-1:000000000000:deliverystream/hooks",
        "x-amz-firehose-access-key": "s3cret",
        "x-amz-firehose-common-attributes": '{"commonAttributes": {"team": "bl\\u00e5"}}',
    }
    assert request.said == {"requestId": ID, "timestamp": 1_000_500, "records": [{"data": "YQ=="}]}


async def test_S75_what_is_not_configured_is_not_sent() -> None:
    async with http_endpoint() as endpoint:
        sink = HttpSink(endpoint.url, PLAIN)
        await sink.deliver(batch(b"a"))
        await sink.close()
        (request,) = endpoint.requests
    assert not {"content-encoding", "x-amz-firehose-access-key", "x-amz-firehose-common-attributes"} & {
        *request.headers
    }


@pytest.mark.parametrize(
    "options",
    [
        {"attributes": {f"k{n}": "" for n in range(51)}},
        {"attributes": {"": "x"}},
        {"attributes": {"k" * 257: "x"}},
        {"attributes": {"k": "x" * 1025}},
        {"access_key": "hunter2"},
        {"timeout": 0},
        {"networks": ("10.0.0.1/8",)},
    ],
)
def test_S75_what_the_contract_does_not_take_is_refused_when_it_is_written(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Endpoint(**options)  # type: ignore[arg-type]  # one option at a time
    assert "hunter2" not in str(refused.value)


async def test_S76_records_are_base64_in_order_with_what_the_stream_appends() -> None:
    egress = Scripted()
    sink = HttpSink("https://hooks.example.org/", PLAIN, egress)
    await sink.deliver(batch(b"a", b"", b"\xff\x00", delimiter=b"\n"))
    records = json.loads(egress.contents[0])["records"]
    assert [base64.b64decode(record["data"]) for record in records] == [b"a\n", b"\n", b"\xff\x00\n"]


def test_S76_a_segment_of_more_than_10000_records_is_several_requests_with_ids_of_their_own() -> None:
    sink = sink_of()
    blocks = [Records(1, 1.0, [b"x"] * 15_000), Records(15_001, 2.0, [b"y"] * 6_000)]
    parts = sink.split(RecordBatch("hooks-1", "hooks", 3.0, blocks))
    assert [part.records for part in parts] == [10_000, 10_000, 1_000]
    assert len({request_id(part.name) for part in parts}) == 3
    assert [(block.first, block.at, len(block.bodies)) for part in parts for block in part.blocks] == [
        (1, 1.0, 10_000), (10_001, 1.0, 5_000), (15_001, 2.0, 5_000), (20_001, 2.0, 1_000),
    ]  # fmt: skip
    assert [part.name for part in sink.split(RecordBatch("hooks-1", "hooks", 3.0, blocks))] == [p.name for p in parts]


async def test_S76_no_body_is_over_64_mib() -> None:
    egress = Scripted()
    sink = HttpSink("https://hooks.example.org/", PLAIN, egress)
    whole = batch(*[bytes(1 << 20)] * 60)
    parts = sink.split(whole)
    assert len(parts) == 2
    for part in parts:
        await sink.deliver(part)
    assert all(len(content) <= MAX_BODY for content in egress.contents)
    assert sum(part.records for part in parts) == 60


def test_p19_the_request_id_is_a_guid_that_follows_from_the_name() -> None:
    assert request_id("hooks-1") == request_id("hooks-1") != request_id("hooks-2")
    assert [len(part) for part in request_id("hooks-1").split("-")] == [8, 4, 4, 4, 12]


# What acknowledges


async def test_S77_only_a_well_formed_200_with_the_requests_id_acknowledges() -> None:
    await sink_of(reply(ID)).deliver(batch(b"a"))
    await sink_of(reply(ID, headers={"content-type": "application/json; charset=utf-8"})).deliver(batch(b"a"))


@pytest.mark.parametrize(
    "broken",
    [
        reply("another"),
        reply(ID, timestamp="1578090903599"),
        reply(ID, timestamp=1.5),
        reply(ID, timestamp=None),
        reply(ID, errorMessage="x" * 8193),
        reply(ID, headers={"content-type": "text/html"}),
        reply(ID, headers={"content-type": ""}),
        reply(ID, headers={"content-encoding": "gzip"}),
        reply(ID, headers={"content-length": ""}),
        reply(ID, 302),
        reply(ID, 101),
        Answer(200, {"content-type": "application/json", "content-length": "0"}, b""),
        Answer(200, {"content-type": "application/json", "content-length": "2"}, b"[]"),
        Answer(413, {"content-type": "text/html", "content-length": "2"}, b"no"),
    ],
)
async def test_S77_any_breach_counts_as_500_and_is_tried_again(broken: Answer) -> None:
    with pytest.raises(SinkUnavailable, match="counts as 500") as failed:
        await sink_of(broken).deliver(batch(b"a"))
    assert failed.value.code == "HttpEndpoint.InvalidResponseFromDestination"


@pytest.mark.parametrize("status", [201, 202, 204, 400, 401, 403, 404, 429, 500, 503])
async def test_S77_S78_every_other_status_is_a_failure_that_is_tried_again(status: int) -> None:
    with pytest.raises(SinkUnavailable, match=rf"answered {status} \(busy\)") as failed:
        await sink_of(reply(ID, status, errorMessage="busy")).deliver(batch(b"a"))
    assert failed.value.code == "HttpEndpoint.DestinationException"


async def test_S78_status_413_is_final() -> None:
    with pytest.raises(ObjectRefused, match="413"):
        await sink_of(reply(ID, 413)).deliver(batch(b"a"))


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("86400", 120.0), ("", None), ("soon", None), ("-5", None), ("9" * 40, None)]
)
async def test_an_endpoint_may_ask_for_a_pause_but_not_for_a_long_one(header: str, seconds: float | None) -> None:
    with pytest.raises(SinkUnavailable) as failed:
        await sink_of(reply(ID, 503, headers={"retry-after": header})).deliver(batch(b"a"))
    assert failed.value.retry_after == seconds


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("timeout", "RequestTimeout"),
        ("too-large", "ResponseTooLarge"),
        ("reset", "ConnectionReset"),
        ("connect", "ConnectionFailed"),
        ("unresolved", "ConnectionFailed"),
        ("refused", "ConnectionFailed"),
    ],
)
async def test_S83_what_fails_has_firehoses_code(kind: Kind, code: str) -> None:
    with pytest.raises(SinkUnavailable) as failed:
        await sink_of(kind).deliver(batch(b"a"))
    assert failed.value.code == f"HttpEndpoint.{code}"


@pytest.mark.parametrize(
    ("attempt", "roll", "seconds"),
    [(1, 0.5, 2.0), (2, 0.5, 4.0), (6, 0.5, 64.0), (7, 0.5, 120.0), (5000, 0.5, 120.0), (1, 0.0, 1.7), (7, 1.0, 138.0)],
)
def test_S79_pauses_double_up_to_two_minutes_give_or_take_15_percent(attempt: int, roll: float, seconds: float) -> None:
    assert sink_of().pause(attempt, roll) == pytest.approx(seconds)


# The key


async def test_S82_a_key_that_changes_applies_to_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    egress = Scripted("connect")
    sink = HttpSink("https://hooks.example.org/", Endpoint(access_key="env:HOOK_KEY"), egress)
    monkeypatch.setenv("HOOK_KEY", "old")
    with pytest.raises(SinkUnavailable):
        await sink.deliver(batch(b"a"))
    monkeypatch.setenv("HOOK_KEY", "new")
    await sink.deliver(batch(b"a"))
    assert [headers["X-Amz-Firehose-Access-Key"] for headers in egress.headers] == ["old", "new"]


async def test_a_key_lies_in_a_file_for_its_owner_alone(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("s3cret\n")
    key.chmod(0o600)
    egress = Scripted()
    sink = HttpSink("https://hooks.example.org/", Endpoint(access_key=f"file:{key}"), egress)
    sink.prepare()
    await sink.deliver(batch(b"a"))
    assert egress.headers[0]["X-Amz-Firehose-Access-Key"] == "s3cret"
    key.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        sink.prepare()
    with pytest.raises(SinkUnavailable, match="chmod 600"):
        await sink.deliver(batch(b"a"))


@pytest.mark.parametrize("value", ["", "two\nlines", "caf\u00e9", "x" * 4097])
def test_a_key_that_is_no_header_is_told_without_its_value(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_KEY", value)
    with pytest.raises(ConfigurationError, match="env:HOOK_KEY") as refused:
        sink_of(endpoint=Endpoint(access_key="env:HOOK_KEY")).prepare()
    assert not value or value not in str(refused.value)


def test_a_key_that_is_missing_is_told_before_the_first_record() -> None:
    os.environ.pop("NO_SUCH_KEY", None)
    with pytest.raises(ConfigurationError, match="the environment has no NO_SUCH_KEY"):
        sink_of(endpoint=Endpoint(access_key="env:NO_SUCH_KEY")).prepare()


async def test_no_error_shows_the_key_the_path_or_the_query(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_KEY", "s3cret")
    options = Endpoint(access_key="env:HOOK_KEY")
    echo = "the key \x1b[31ms3cret is wrong"
    for said in (reply(ID, 403, errorMessage=echo), reply(ID, 413, errorMessage=echo), reply("s3cret"), "connect"):
        sink = sink_of(said, endpoint=options, url="https://hooks.example.org/token-1?sig=2")
        with pytest.raises((SinkUnavailable, ObjectRefused)) as failed:
            await sink.deliver(batch(b"a"))
        for text in (str(failed.value), str(sink), repr(sink)):
            assert [word for word in ("s3cret", "token-1", "sig", "\x1b") if word in text] == []


# Declaring


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"compression": "gzip"}, "Endpoint\\(gzip=True\\)"),
        ({"format": "csv"}, "format"),
        ({"prefix": "logs/"}, "prefix"),
        ({"partitioned": True}, "partition_by"),
        ({"extension": ".x"}, "extension"),
        ({"manifest": True}, "manifest"),
        ({"transformed": True}, "failures="),
        ({"decompress": "gzip"}, "failures="),
        ({"max_record": 48 << 20}, "max_record"),
        ({"failures": "https://example.org/"}, "objects"),
        ({"sink": "file://./lake", "endpoint": PLAIN}, "endpoint="),
    ],
)
def test_options_of_objects_are_refused_for_an_endpoint(options: dict[str, object], wrong: str) -> None:
    given = {"sink": "https://example.org/", "compression": "none", **options}
    with pytest.raises(ConfigurationError, match=wrong):
        StreamSpec("hooks", **given)  # type: ignore[arg-type]  # one option at a time


def test_S80_an_endpoint_is_tried_for_300_seconds_where_nothing_else_is_said() -> None:
    assert StreamSpec("hooks", "https://example.org/", compression="none").retry_limit == 300
    assert StreamSpec("hooks", "https://example.org/", compression="none", retry_seconds=7200).retry_limit == 7200


def test_http_is_for_this_machine_and_https_for_all_others() -> None:
    assert isinstance(open_sink("http://localhost:8080/in"), RecordSink)
    assert isinstance(open_sink("https://example.org/in", endpoint=Endpoint(gzip=True)), RecordSink)
    with pytest.raises(ConfigurationError, match="https://"):
        open_sink("http://example.org/in")


async def test_an_endpoint_takes_no_objects() -> None:
    with pytest.raises(ObjectRefused, match="records"):
        await sink_of().write(Object("a", [b""]))
