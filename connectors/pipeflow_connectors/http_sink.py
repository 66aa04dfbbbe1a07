"""Records to an HTTP endpoint, as Firehose sends them: S75 to S83.

A segment is one request, or several when it is large. Each has an id that follows from the segment's name, so it is the
same at every attempt, after a restart too: delivery is at least once, and a receiver can tell. Only a well-formed
answer with status 200 and that id acknowledges; one that is not well-formed counts as a 500.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Protocol

import anyio.to_thread
import msgspec
from msgspec import Struct

from pipeflow.arns import stream_arn
from pipeflow.errors import ConfigurationError, ObjectRefused, SinkUnavailable
from pipeflow.messages import Records
from pipeflow.protocols import Object, RecordBatch
from pipeflow.specs import Endpoint
from pipeflow_connectors.addresses import Policy, names_loopback
from pipeflow_connectors.credentials import NoSecret, secret
from pipeflow_connectors.egress import Answer, Egress, EgressError, target_of

MAX_RECORDS = 10_000
MAX_BODY = 64 << 20
"""Bytes of one request before compression (Firehose: S76)."""
FRAME = 256
"""Bytes of a body around its records, at most."""
MAX_ANSWER = 1 << 20
MAX_MESSAGE = 8_192
SHOWN = 256
"""Characters of what an endpoint says that go into errors."""
LONGEST_PAUSE = 120.0
INLINE = 32 << 10
"""Bytes whose body is made on the loop."""

CODES = {
    "timeout": "HttpEndpoint.RequestTimeout",
    "too-large": "HttpEndpoint.ResponseTooLarge",
    "reset": "HttpEndpoint.ConnectionReset",
    "connect": "HttpEndpoint.ConnectionFailed",
    "unresolved": "HttpEndpoint.ConnectionFailed",
    "refused": "HttpEndpoint.ConnectionFailed",
}
INVALID = "HttpEndpoint.InvalidResponseFromDestination"
DECLINED = "HttpEndpoint.DestinationException"


class Asking(Protocol):
    """What the sink needs of an egress."""

    async def post(
        self, url: str, *, headers: dict[str, str], content: bytes, limit: int, timeout: float
    ) -> Answer: ...

    async def close(self) -> None: ...


class _Record(Struct, frozen=True):
    data: bytes


class _Body(Struct, frozen=True):
    requestId: str
    timestamp: int
    records: list[_Record]


class _Reply(Struct, frozen=True):
    requestId: str
    timestamp: int
    errorMessage: str | None = None


_read_reply = msgspec.json.Decoder(_Reply).decode


def open_http(url: str, *, base: str = ".", endpoint: Endpoint | None = None) -> HttpSink:
    """The endpoint at this URL; one that plainly is this machine may be asked without TLS."""
    return HttpSink(url, endpoint or Endpoint())


class HttpSink:
    """A `RecordSink`. Its key is read for every request, so a changed one applies to retries (Firehose: S82)."""

    def __init__(self, url: str, endpoint: Endpoint, egress: Asking | None = None) -> None:
        policy = Policy(names_loopback(_host(url)), endpoint.networks, endpoint.ports)
        target = target_of(url, policy)
        if target.scheme == "http" and not policy.loopback and not policy.networks:
            raise ConfigurationError(f"{target.origin}: http:// is for this machine only; write https://")
        self._url = url
        self._origin = target.origin
        self._endpoint = endpoint
        self._egress = egress or Egress(policy)

    def __str__(self) -> str:
        return self._origin

    def prepare(self) -> None:
        """ConfigurationError when the key cannot be read, before the first record."""
        if self._endpoint.access_key is not None:
            try:
                secret(self._endpoint.access_key)
            except NoSecret as error:
                raise ConfigurationError(f"{self._origin}: access_key {error}") from error

    def pause(self, attempt: int, roll: float) -> float:
        """Seconds before the attempt that follows failed attempt `attempt` (Firehose: S79)."""
        return min(LONGEST_PAUSE, 2.0 ** min(attempt, 10)) * (0.85 + 0.3 * roll)

    def split(self, batch: RecordBatch) -> Sequence[RecordBatch]:
        """Batches of at most 10,000 records and 64 MiB of body, in order (Firehose: S76)."""
        runs: list[list[Records]] = [[]]
        count = 0
        size = FRAME
        for block in batch.blocks:
            begin = 0
            for n, body in enumerate(block.bodies):
                weight = 4 * ((len(body) + len(batch.delimiter) + 2) // 3) + len('{"data":""},')
                if count and (count == MAX_RECORDS or size + weight > MAX_BODY):
                    _take(runs[-1], block, begin, n)
                    runs.append([])
                    begin, count, size = n, 0, FRAME
                count += 1
                size += weight
            _take(runs[-1], block, begin, len(block.bodies))
        if len(runs) == 1:
            return [batch]
        return [
            msgspec.structs.replace(batch, name=f"{batch.name}#{number}", blocks=run)
            for number, run in enumerate(runs, 1)
        ]

    async def deliver(self, batch: RecordBatch) -> None:
        """One request. SinkUnavailable: not acknowledged. ObjectRefused: too large for the endpoint (S78)."""
        id = request_id(batch.name)
        if sum(len(body) for block in batch.blocks for body in block.bodies) <= INLINE:
            content = self._content(id, batch)
        else:
            content = await anyio.to_thread.run_sync(self._content, id, batch, abandon_on_cancel=True)
        try:
            answer = await self._egress.post(
                self._url,
                headers=self._headers(id, batch.stream),
                content=content,
                limit=MAX_ANSWER,
                timeout=self._endpoint.timeout,
            )
        except EgressError as error:
            raise SinkUnavailable(str(error), code=CODES[error.kind]) from error
        except NoSecret as error:
            raise SinkUnavailable(f"{self._origin}: access_key {error}", code=DECLINED) from error
        self._judge(id, answer)

    async def write(self, obj: Object) -> None:
        """Never: an endpoint takes records."""
        raise ObjectRefused(f"{self._origin}: an HTTP endpoint takes records and no objects; use another sink for them")

    async def close(self) -> None:
        await self._egress.close()

    def _content(self, id: str, batch: RecordBatch) -> bytes:
        tail = batch.delimiter
        records = [_Record(body + tail if tail else body) for block in batch.blocks for body in block.bodies]
        content = msgspec.json.encode(_Body(id, round(batch.sealed_at * 1000), records))
        return gzip.compress(content, 6, mtime=0) if self._endpoint.gzip else content

    def _headers(self, id: str, stream: str) -> dict[str, str]:
        endpoint = self._endpoint
        headers = {
            "Content-Type": "application/json",
            "X-Amz-Firehose-Protocol-Version": "1.0",
            "X-Amz-Firehose-Request-Id": id,
            "X-Amz-Firehose-Source-Arn": stream_arn(stream),
        }
        if endpoint.gzip:
            headers["Content-Encoding"] = "gzip"
        if endpoint.access_key is not None:
            headers["X-Amz-Firehose-Access-Key"] = secret(endpoint.access_key)
        if endpoint.attributes:
            headers["X-Amz-Firehose-Common-Attributes"] = json.dumps({"commonAttributes": endpoint.attributes})
        return headers

    def _judge(self, id: str, answer: Answer) -> None:
        """Return for an acknowledgement (Firehose: S77)."""
        breach, reply = _well_formed(id, answer)
        if breach is not None:
            raise SinkUnavailable(
                f"{self._origin}: answered {answer.status}, which counts as 500: {breach}",
                code=INVALID,
                retry_after=_retry_after(answer),
            )
        if answer.status == 200:
            return
        said = self._shown(reply.errorMessage) if reply is not None and reply.errorMessage else "no message"
        if answer.status == 413:
            raise ObjectRefused(
                f"{self._origin}: answered 413, this request is too large ({said}); lower buffer_bytes", code=DECLINED
            )
        raise SinkUnavailable(
            f"{self._origin}: answered {answer.status} ({said})", code=DECLINED, retry_after=_retry_after(answer)
        )

    def _shown(self, text: str) -> str:
        """What an endpoint said, short, on one line, without the key that it may have said back."""
        if self._endpoint.access_key is not None:
            try:
                text = text.replace(secret(self._endpoint.access_key), "(the access key)")
            except NoSecret:
                return "a message that is not shown, as the access key in it cannot be found"
        return "".join(sign if sign.isprintable() else " " for sign in text[:SHOWN])


def request_id(name: str) -> str:
    """The GUID of a batch: equal names, equal ids."""
    digits = blake2b(name.encode(), digest_size=16).hexdigest()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _host(url: str) -> str:
    from urllib.parse import urlsplit

    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _take(run: list[Records], block: Records, begin: int, end: int) -> None:
    if end > begin:
        run.append(Records(block.first + begin, block.at, block.bodies[begin:end]))


def _well_formed(id: str, answer: Answer) -> tuple[str | None, _Reply | None]:
    """(what breaks the contract, what was said); the text never repeats the answer."""
    headers: Any = answer.headers
    if not (200 <= answer.status < 300 or 400 <= answer.status < 600):
        return "a status of neither 2xx, 4xx nor 5xx; redirects are not followed", None
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return "its Content-Type is not application/json", None
    if "content-encoding" in headers:
        return "it has a Content-Encoding", None
    if "content-length" not in headers:
        return "it has no Content-Length", None
    try:
        reply = _read_reply(answer.body)
    except msgspec.MsgspecError:
        return "its body is no JSON object with requestId and an integer timestamp", None
    if reply.requestId != id:
        return "its requestId is not that of the request", None
    if reply.errorMessage is not None and len(reply.errorMessage) > MAX_MESSAGE:
        return f"its errorMessage is longer than {MAX_MESSAGE} characters", None
    return None, reply


def _retry_after(answer: Answer) -> float | None:
    """Seconds that the endpoint asks for, at most as long as any pause; dates are not read."""
    text = answer.headers.get("retry-after", "")
    return min(float(text), LONGEST_PAUSE) if text.isdigit() and len(text) < 10 else None
