"""An HTTP endpoint on this machine that acknowledges as Firehose's contract wants it, or fails as it is told."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from msgspec import Struct


class Request(Struct):
    """One request as it came: header names in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["x-amz-firehose-request-id"]

    @property
    def said(self) -> dict[str, Any]:
        text = gzip.decompress(self.body) if self.headers.get("content-encoding") == "gzip" else self.body
        said: dict[str, Any] = json.loads(text)
        return said

    @property
    def records(self) -> list[bytes]:
        return [base64.b64decode(record["data"]) for record in self.said["records"]]


def answer(
    status: int = 200, body: bytes = b"", headers: dict[str, str] | None = None, *, length: int | None = None
) -> bytes:
    """An answer as bytes; `length` replaces the true one, -1 leaves it out."""
    fields = {"Content-Type": "application/json"}
    if length != -1:
        fields["Content-Length"] = str(len(body) if length is None else length)
    fields |= headers or {}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"HTTP/1.1 {status} Reason\r\n{head}\r\n".encode() + body


def acknowledged(request: Request, status: int = 200, **changes: object) -> bytes:
    """What the contract wants, but for the changes."""
    said: dict[str, object] = {"requestId": request.id, "timestamp": 1_578_090_903_599, **changes}
    return answer(status, json.dumps(said).encode())


class Hang(Exception):
    """Never answer."""


class Reset(Exception):
    """Break the connection off."""


Behaviour = Callable[[Request], bytes]


class HttpEndpoint:
    """Answers by `behaviour`; every request is kept."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.behaviour: Behaviour = acknowledged
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}/in?feed=a%20b"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *fields = head.decode().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields if f)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                request = Request(line, headers, body)
                self.requests.append(request)
                writer.write(self.behaviour(request))
                await writer.drain()
        except Hang:
            await reader.read()
        except Reset:
            # Without lingering, closing sends a reset instead of an end.
            taken: socket.socket = writer.get_extra_info("socket")
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def http_endpoint(context: ssl.SSLContext | None = None) -> AsyncIterator[HttpEndpoint]:
    """A running endpoint; it hangs up with the block."""
    endpoint = HttpEndpoint()
    server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0, ssl=context)
    endpoint.port = server.sockets[0].getsockname()[1]
    try:
        yield endpoint
    finally:
        server.close()


def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
