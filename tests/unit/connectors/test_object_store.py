"""The sink over object stores: one object for one name through lost answers and failures; errors with remedies."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from fault_proxy import Fault, FaultProxy, Plan, fault_proxy, one_after_another
from http_endpoint import answer, http_endpoint
from obstore.store import MemoryStore
from s3_server import ENVIRONMENT, S3Server, refused_port

from pipeflow import App
from pipeflow.errors import ConfigurationError, MissingExtra, ObjectMissing, ObjectRefused, SinkUnavailable
from pipeflow.protocols import Object
from pipeflow.registry import open_sink
from pipeflow.sinks.objects import belongs
from pipeflow_connectors import aws_credentials
from pipeflow_connectors.object_errors import described, translated
from pipeflow_connectors.object_store import ObjectStoreSink
from pipeflow_connectors.object_urls import Place
from pipeflow_connectors.s3_uploads import Uploads
from pipeflow_connectors.sigv4 import Credentials

LARGE = b"x" * (17 << 20)
NAME = "a/lake-2013-01-01-05-15-00-000000000001-000000000500-3f9a0c1277aa.jsonl"


def obj(content: bytes = b"one\n", name: str = NAME, replace: bool = False) -> Object:
    return Object(name, [content[:2], content[2:]], 1, replace)


@pytest.fixture
async def proxy(s3: S3Server) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(s3.port) as made:
        yield made


@pytest.fixture
def bucket(s3: S3Server) -> str:
    return s3.bucket()


@pytest.fixture
def sink(proxy: FaultProxy, bucket: str) -> ObjectStoreSink:
    made = open_sink(f"s3://{bucket}/pre?endpoint={proxy.endpoint}&timeout=1")
    assert isinstance(made, ObjectStoreSink)
    return made


def only(method: str, part: str, *fates: Fault | None) -> Plan:
    """Fates for requests of one kind."""
    plan = one_after_another(*fates)
    return lambda did, target: plan(did, target) if did == method and part in target else None


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.CUT, Fault.SILENCE, Fault.ERROR, Fault.SLOW_DOWN, Fault.RESET])
@pytest.mark.parametrize("content", [b"one\n", LARGE], ids=["small", "large"])
async def test_S71_a_write_whose_answer_was_lost_is_done_again_and_makes_no_second_object(
    s3: S3Server, proxy: FaultProxy, sink: ObjectStoreSink, bucket: str, content: bytes, fault: Fault
) -> None:
    for method, part in (("PUT", ""), ("POST", "")):
        proxy.plan = only(method, part, fault)
        again = obj(content)
        try:
            await sink.write(again)
        except SinkUnavailable:
            again.replace = True  # as the delivery does
            await sink.write(again)
        assert s3.objects(bucket) == {f"pre/{NAME}": content}
        assert s3.uploads(bucket) == []
    await sink.write(obj(content))  # and once more as new: these are our own bytes


async def test_P18_a_versioned_bucket_shows_one_current_object_for_a_name(
    s3: S3Server, sink: ObjectStoreSink, bucket: str
) -> None:
    s3.client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    await sink.write(obj())
    await sink.write(obj(replace=True))
    assert s3.objects(bucket) == {f"pre/{NAME}": b"one\n"}
    assert len(s3.client.list_object_versions(Bucket=bucket)["Versions"]) == 2


@pytest.mark.parametrize("content", [b"one\n", LARGE], ids=["small", "large"])
async def test_somebody_elses_object_is_not_replaced(
    s3: S3Server, sink: ObjectStoreSink, bucket: str, content: bytes
) -> None:
    s3.client.put_object(Bucket=bucket, Key=f"pre/{NAME}", Body=b"theirs")
    with pytest.raises(ObjectRefused, match=r"exists and was not written by this store.*Move the object away"):
        await sink.write(obj(content))
    assert s3.objects(bucket) == {f"pre/{NAME}": b"theirs"}


async def test_S49_a_cancelled_upload_leaves_neither_object_nor_parts(
    s3: S3Server, proxy: FaultProxy, sink: ObjectStoreSink, bucket: str
) -> None:
    parts = asyncio.Event()

    def held(method: str, target: str) -> Fault | None:
        if "partNumber" in target:
            parts.set()
            return Fault.SILENCE
        return None

    proxy.plan = held
    task = asyncio.ensure_future(sink.write(obj(LARGE)))
    await parts.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert s3.uploads(bucket) == []
    assert s3.objects(bucket) == {}


async def test_an_upload_that_could_not_be_aborted_is_aborted_when_its_object_is_written_again(
    s3: S3Server, proxy: FaultProxy, sink: ObjectStoreSink, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.plan = _parts_and_aborts_fail
    with pytest.raises(SinkUnavailable):
        await sink.write(obj(LARGE))
    assert s3.uploads(bucket) == [f"pre/{NAME}"]
    assert "unfinished uploads may stay for now" in caplog.text
    proxy.plan = None
    await sink.write(obj(LARGE, replace=True))
    assert s3.uploads(bucket) == []
    assert s3.objects(bucket) == {f"pre/{NAME}": LARGE}


def _parts_and_aborts_fail(method: str, target: str) -> Fault | None:
    return Fault.RESET if "partNumber" in target or method in ("DELETE", "GET") else None


async def test_closing_aborts_what_could_not_be_aborted_before(
    s3: S3Server, proxy: FaultProxy, sink: ObjectStoreSink, bucket: str
) -> None:
    proxy.plan = _parts_and_aborts_fail
    with pytest.raises(SinkUnavailable):
        await sink.write(obj(LARGE, replace=True))
    proxy.plan = None
    assert s3.uploads(bucket) == [f"pre/{NAME}"]
    await sink.close()
    assert s3.uploads(bucket) == []


async def test_only_uploads_of_this_stream_and_this_store_are_swept(
    s3: S3Server, sink: ObjectStoreSink, bucket: str
) -> None:
    kept = ["pre/a/pond-1-2-mine.gz", "pre/a/lake-1-2-other.gz", "elsewhere/lake-1-2-mine.gz", "pre/notes"]
    for key in [*kept, "pre/lake-1-2-mine.gz", "pre/x=ü &+/lake-3-4-mine.gz"]:
        s3.begin_upload(bucket, key)
    assert await sink.sweep(belongs("lake", "mine"), rewritten=True) == 2
    assert sorted(s3.uploads(bucket)) == sorted(kept)


async def test_a_sweep_that_did_not_come_through_is_done_when_the_sink_closes(
    s3: S3Server, proxy: FaultProxy, sink: ObjectStoreSink, bucket: str
) -> None:
    s3.begin_upload(bucket, "pre/lake-1-2-mine.gz")
    proxy.plan = one_after_another(Fault.SLOW_DOWN)
    with pytest.raises(SinkUnavailable, match=r"s3://.*/pre: SlowDown"):
        await sink.sweep(belongs("lake", "mine"), rewritten=True)
    await sink.close()
    assert s3.uploads(bucket) == []


async def test_a_missing_bucket_is_told_before_the_first_write_and_delivery_begins_all_the_same(
    s3: S3Server, tmp_path: Path
) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    listener = logging.Handler()
    listener.emit = lambda record: told.put_nowait(record.getMessage())  # type: ignore[method-assign]  # a fake
    logging.getLogger("pipeflow").addHandler(listener)
    app = App("shop", broker=f"sqlite:///{tmp_path}/shop.db")
    lake = app.stream("lake", bytes, sink=f"s3://not-there/x?endpoint={s3.endpoint}", buffer_seconds=0.05)
    try:
        async with app:
            assert "leftovers" in (first := await told.get())
            assert "the bucket does not exist: create it" in first
            await lake.put(b"one")
            assert "the bucket does not exist: create it" in await told.get()
            s3.client.create_bucket(Bucket="not-there")
            await lake.flush()
    finally:
        logging.getLogger("pipeflow").removeHandler(listener)
    assert list(s3.objects("not-there").values()) != []


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("s3://{missing}?endpoint={endpoint}", "NoSuchBucket; the bucket does not exist: create it"),
        ("s3://b?endpoint=http://127.0.0.1:{closed}", "error sending request; is the endpoint reachable?"),
    ],
)
async def test_what_an_operator_can_repair_is_unavailable_with_the_remedy(
    s3: S3Server, url: str, complaint: str
) -> None:
    sink = open_sink(url.format(missing="nowhere", endpoint=s3.endpoint, closed=refused_port()))
    for content in (b"one\n", LARGE):
        with pytest.raises(SinkUnavailable) as told:
            await sink.write(obj(content))
        assert complaint in str(told.value)
        assert NAME in str(told.value)
        assert "Debug" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("status code: 403 Forbidden: <Code>AccessDenied</Code>", "AccessDenied; access denied: let these"),
        ("status code: 403 Forbidden: <Code>Other</Code>", "Other; access denied"),
        ("status code: 400 Bad Request: <Code>ExpiredToken</Code>", "ExpiredToken; the credentials have expired"),
        ("status code: 301 Moved: ", "status 301; the bucket lies in another region: name it with ?region="),
        ("status code: 503 Slow: <Code>SlowDown</Code>", "SlowDown; asked to slow down"),
        ("status code: 404 Not Found: <Code>NoSuchUpload</Code>", "NoSuchUpload; the upload had ended"),
        ("status code: 404 Not Found: <Code>NoSuchThing</Code>", "NoSuchThing; delivery is tried again"),
        ("status code: 404 Not Found: ", "status 404; the bucket does not exist"),
        ("status code: 502 Bad Gateway: <html>", "status 502; delivery is tried again"),
        ("PUT http://169.254.169.254/latest/api/token - x", "no credentials are found: set them in the environment"),
        (
            "Error performing PUT https://x/y?sig=hunter2 - dns error for https://x/y?sig=hunter2\nDebug sig=hunter2",
            "?...",
        ),
        ("", "no answer; is the endpoint reachable?"),
    ],
)
def test_answers_are_told_as_remedies_without_secrets(text: str, complaint: str) -> None:
    assert complaint in described(text)
    assert "hunter2" not in described(text)


@pytest.mark.parametrize("code", ["KeyTooLongError", "EntityTooLarge"])
def test_what_no_repair_makes_possible_is_refused(code: str) -> None:
    refused = translated(OSError(f"status code: 400 Bad: <Code>{code}</Code>"), "s3://lake/x")
    assert isinstance(refused, ObjectRefused)
    assert refused.code == f"S3.{code}"


@pytest.mark.parametrize(
    ("place", "text", "code"),
    [
        ("s3://lake/x", "status code: 503 Slow: <Code>SlowDown</Code>", "S3.SlowDown"),
        ("gs://lake/x", "status code: 502 Bad Gateway", "GoogleStorage.Status502"),
        ("az://lake/x", "error sending request", "Azure.Unreachable"),
    ],
)
def test_S63_error_codes_begin_with_their_component(place: str, text: str, code: str) -> None:
    assert translated(OSError(text), place).code == code


async def test_a_name_too_long_with_its_prefix_is_refused(s3: S3Server, bucket: str) -> None:
    sink = open_sink(f"s3://{bucket}/{'p' * 200}/{'q' * 200}?endpoint={s3.endpoint}")
    await sink.write(obj(name="/".join(["n" * 200] * 3)))
    with pytest.raises(ObjectRefused, match="longer than 1024 bytes with its prefix"):
        await sink.write(obj(name="/".join(["n" * 200] * 3) + "/" + "n" * 50))


async def test_half_an_answer_is_no_object_that_was_read(proxy: FaultProxy, sink: ObjectStoreSink) -> None:
    content = bytes(range(256)) * 4000
    await sink.write(obj(content))
    proxy.plan = only("GET", NAME, Fault.CUT)
    try:
        assert await sink.read(NAME) == content
    except SinkUnavailable:
        pass
    proxy.plan = None
    assert await sink.read(NAME) == content
    with pytest.raises(ObjectMissing, match=r"s3://.*/pre/nothing: no object lies there"):
        await sink.read("nothing")


async def test_lists_longer_than_a_page_are_whole() -> None:
    sink = ObjectStoreSink(MemoryStore(), Place("s3", "memory"))
    names = [f"a/{n:04d}" for n in range(2005)]
    for name in names:
        await sink.write(obj(name=name))
    assert await sink.list("a/") == names


async def test_uploads_are_listed_page_by_page_and_a_list_that_does_not_go_on_ends() -> None:
    page = "<R xmlns='s3'><IsTruncated>{}</IsTruncated><NextKeyMarker>{}</NextKeyMarker>{}</R>"
    one = "<Upload><Key>{}</Key><UploadId>1</UploadId></Upload>"
    answers = [page.format("true", "k1", one.format("k1")), page.format("false", "", one.format("k&amp;2"))]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().split(" ")[1])
        body = answers.pop(0) if len(answers) > 1 else answers[0]
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        writer.close()

    asked: list[str] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    uploads = Uploads(endpoint, "b", region="us-east-1", ask=None)
    found = await asyncio.to_thread(lambda: [upload.key for upload in uploads.unfinished("a b/")])
    assert found == ["k1", "k&2"]
    assert asked == ["/b?prefix=a%20b%2F&uploads=", "/b?key-marker=k1&prefix=a%20b%2F&upload-id-marker=&uploads="]
    for page_again, complaint in [
        (page.format("true", "k1", ""), "does not go on"),
        ("<!DOCTYPE x [<!ENTITY y 'z'>]><R/>", "is no list"),
        ("{}", "cannot be read"),
    ]:
        answers[:] = [page_again]
        with pytest.raises(SinkUnavailable, match=complaint):
            await asyncio.to_thread(lambda: list(uploads.unfinished("")))
    server.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_signed_request_follows_no_redirect(status: int) -> None:
    keys = Credentials("AKID", "secret")
    async with http_endpoint() as store, http_endpoint() as stranger:
        store.behaviour = lambda request: answer(status, headers={"Location": stranger.url})
        stranger.behaviour = lambda request: answer(200, b"<R><IsTruncated>false</IsTruncated></R>")
        uploads = Uploads(f"http://127.0.0.1:{store.port}", "b", region="us-east-1", ask=lambda: keys)
        with pytest.raises(SinkUnavailable, match=r"status 30|another region"):
            await asyncio.to_thread(lambda: list(uploads.unfinished("")))
    assert "authorization" in store.requests[0].headers
    assert stranger.requests == []


async def test_anonymous_requests_are_not_signed(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.bucket()
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    sink = open_sink(f"s3://{bucket}?endpoint={s3.endpoint}&anonymous=true")
    await sink.write(obj(LARGE))
    assert s3.objects(bucket) == {NAME: LARGE}


async def test_a_profile_is_read_by_botocore(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bucket = s3.bucket()
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "credentials").write_text("[mine]\naws_access_key_id = AKIAMINE\naws_secret_access_key = hush\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    async with fault_proxy(s3.port) as proxy:
        sink = open_sink(f"s3://{bucket}?endpoint={proxy.endpoint}")
        await sink.write(obj(LARGE))
    assert s3.objects(bucket) == {NAME: LARGE}
    ask, told = aws_credentials.find({"AWS_PROFILE": "mine"})
    assert told
    assert ask is not None
    assert ask().key_id == "AKIAMINE"


def test_a_profile_without_botocore_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(ConfigurationError, match="pip install botocore, or set AWS_ACCESS_KEY_ID"):
        aws_credentials.find({"AWS_PROFILE": "mine"})
    assert aws_credentials.find({}) == (None, False)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pipeflow_connectors.object_store")
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(MissingExtra, match=r"pip install 'pipeflow\[s3\]'"):
        open_sink("s3://lake")


def test_an_azure_sink_without_an_account_is_told_when_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(ConfigurationError, match=r"sink az://box: .*Account"):
        open_sink("az://box")


class _Answering:
    """A bucket of nobody's: it notes requests, and everything is there already."""

    def __init__(self, content: bytes) -> None:
        self.heads: list[str] = []
        self._content = content

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        self.heads.append(head)
        length = next((line[16:] for line in head.split("\r\n") if line.startswith("content-length:")), "0")
        await reader.readexactly(int(length))
        body = self._content if head.startswith("get") else b""
        status = "200 OK" if head.startswith("get") else "412 Precondition Failed"
        dated = "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\nETag: x\r\nConnection: close"
        writer.write(f"HTTP/1.1 {status}\r\n{dated}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()


@pytest.mark.parametrize(
    ("url", "condition"),
    [
        ("gs://lake/pre?endpoint={}", "x-goog-if-generation-match: 0"),
        ("az://lake/pre?anonymous=true&account=acme&endpoint={}", "if-none-match: *"),
    ],
)
async def test_google_and_azure_are_asked_to_create_and_never_to_replace(
    url: str, condition: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "hush")
    there = _Answering(b"one\n")
    server = await asyncio.start_server(there.serve, "127.0.0.1", 0)
    sink = open_sink(url.format(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    try:
        await sink.write(obj())  # our own bytes are there: an answer was lost
        assert there.heads[0].startswith("put ")
        assert f"/pre/{NAME.lower()}" in unquote(there.heads[0])
        assert condition in there.heads[0]
        with pytest.raises(ObjectRefused, match="was not written by this store"):
            await sink.write(obj(b"two\n"))
        await sink.close()
    finally:
        server.close()


def test_a_sink_is_shown_as_its_place() -> None:
    assert str(ObjectStoreSink(MemoryStore(), Place("gs", "lake", "a"))) == "gs://lake/a"
