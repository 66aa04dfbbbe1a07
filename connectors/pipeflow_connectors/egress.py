"""The one way out to HTTP endpoints: every request to one goes through here, to an address that was looked at.

A name is resolved once per request, every address it has is checked, and the connection is made to a checked one, under
the name for TLS and `Host`. So a name that changes its mind between look and connect changes nothing. Redirects are
answers like others, proxies are not asked, answers are read to a limit and never unpacked. No text of an error holds a
path, a query or a header: credentials lie there.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, TypeAlias
from urllib.parse import SplitResult, urlsplit

import anyio
from msgspec import Struct

from pipeflow.errors import ConfigurationError, MissingExtra
from pipeflow_connectors.addresses import Policy

try:
    import httpx
except ImportError as error:
    raise MissingExtra("a request over HTTP", "http") from error

CONNECT_TIMEOUT = 10.0
"""Seconds for one address; the next one is tried then."""

USUAL_PORTS = {"http": 80, "https": 443}
_FORBIDDEN = re.compile(r"[^\x21-\x7e]|[\\^`{|}<>\"]")

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
Kind: TypeAlias = Literal["refused", "unresolved", "connect", "reset", "timeout", "too-large"]


class EgressError(Exception):
    """No whole answer. `kind` says why: `refused` by the policy, `connect`: nothing was sent, and so on."""

    def __init__(self, kind: Kind, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.status = status
        """Of an answer that was too large to be read to its end."""


class Answer(Struct, frozen=True):
    """What came back: header names in lower case, the body as it was sent."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Target(Struct, frozen=True):
    """A URL that may be asked, taken apart; `path` is sent as it was written."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """What errors may show of it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.port == USUAL_PORTS[self.scheme]
        return f"{self.scheme}://{host}" + ("" if usual else f":{self.port}")


def target_of(url: str, policy: Policy) -> Target:
    """The URL taken apart; ConfigurationError for one that no request may go to, whatever its name resolves to."""
    parts, port = _split(url)
    host = parts.hostname or ""
    shown = f"{parts.scheme}://{host}"
    if parts.scheme not in USUAL_PORTS:
        raise ConfigurationError(f"{shown}: only http:// and https:// are asked")
    if _FORBIDDEN.search(url) or not host:
        raise ConfigurationError(
            f"{shown}: a URL needs a host and has no spaces, control characters, backslashes or letters beyond ASCII; "
            "percent-encode them, and write hosts in their xn-- form"
        )
    if "@" in parts.netloc:
        raise ConfigurationError(f"{shown}: a URL holds no user and no password; name the key by access_key='env:NAME'")
    if "#" in url:
        raise ConfigurationError(f"{shown}: a fragment is never sent; leave out what follows the #")
    if port < 1024 and port not in (80, 443, *policy.ports):
        raise ConfigurationError(f"{shown}: port {port} is not asked; allow it by ports=({port},), or use 443")
    path = url.partition("://")[2][len(parts.netloc) :]
    return Target(parts.scheme, host, port, path if path.startswith("/") else f"/{path}")


def _split(url: str) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"this is no URL ({error}); write https://host/path") from error
    return parts, USUAL_PORTS.get(parts.scheme, 0) if port is None else port


async def resolved(host: str, port: int) -> Sequence[str]:
    """Every address of a host, in the system's order."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Egress:
    """Asks under one policy. Connections to one origin are kept and used again; `close` ends them."""

    def __init__(self, policy: Policy, *, resolve: Resolve = resolved) -> None:
        self.policy = policy
        self._resolve = resolve
        self._transports: dict[str, httpx.AsyncHTTPTransport] = {}

    async def post(self, url: str, *, headers: Mapping[str, str], content: bytes, limit: int, timeout: float) -> Answer:
        """The answer, whatever its status; its body is at most `limit` bytes. All of it within `timeout` seconds.

        ConfigurationError: the URL may not be asked. EgressError: no answer.
        """
        target = target_of(url, self.policy)
        try:
            with anyio.fail_after(timeout):
                return await self._first(target, await self._addresses(target), headers, content, limit)
        except TimeoutError as error:
            raise EgressError("timeout", f"{target.origin}: no answer within {timeout:g} s") from error

    async def close(self) -> None:
        """Hang up."""
        transports, self._transports = list(self._transports.values()), {}
        for transport in transports:
            await transport.aclose()

    async def _addresses(self, target: Target) -> Sequence[str]:
        """Where the host lies now: all of it in order, or none of it is asked."""
        try:
            addresses = await self._resolve(target.host, target.port)
        except OSError as error:
            raise EgressError("unresolved", f"{target.origin}: its name has no address ({error.strerror})") from error
        if not addresses:
            raise EgressError("unresolved", f"{target.origin}: its name has no address")
        for address in addresses:
            refusal = self.policy.refusal(address)
            if refusal is not None:
                raise EgressError("refused", f"{target.origin}: {refusal}")
        if target.scheme == "http" and not self.policy.allows_plain(addresses):
            raise EgressError(
                "refused", f"{target.origin}: requests leave this machine over https only; write https://"
            )
        return addresses

    async def _first(
        self, target: Target, addresses: Sequence[str], headers: Mapping[str, str], content: bytes, limit: int
    ) -> Answer:
        """The answer of the first address that can be connected to; what was sent is not sent to another."""
        for address in addresses[:-1]:
            try:
                return await self._ask(target, address, headers, content, limit)
            except EgressError as error:
                if error.kind != "connect":
                    raise
        return await self._ask(target, addresses[-1], headers, content, limit)

    async def _ask(
        self, target: Target, address: str, headers: Mapping[str, str], content: bytes, limit: int
    ) -> Answer:
        # A transport, unlike a client, asks the environment for certificates only (SSL_CERT_FILE), never for proxies.
        transport = self._transports.get(target.origin)
        if transport is None:
            transport = self._transports[target.origin] = httpx.AsyncHTTPTransport(retries=0)
        request = httpx.Request(
            "POST",
            httpx.URL(scheme=target.scheme, host=address, port=target.port, path="/"),
            headers={"Host": target.origin.partition("://")[2], "Accept-Encoding": "identity", **headers},
            content=content,
            extensions={
                "target": target.path.encode("ascii"),
                "sni_hostname": target.host,
                "timeout": {"connect": CONNECT_TIMEOUT, "pool": None, "read": None, "write": None},
            },
        )
        try:
            response = await transport.handle_async_request(request)
            try:
                body = await _body(response, limit, target)
            finally:
                await response.aclose()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise EgressError("connect", f"{target.origin}: cannot connect to {address} ({error})") from error
        except httpx.TransportError as error:
            raise EgressError("reset", f"{target.origin}: the connection broke ({type(error).__name__})") from error
        return Answer(response.status_code, {name.lower(): value for name, value in response.headers.items()}, body)


async def _body(response: httpx.Response, limit: int, target: Target) -> bytes:
    read = bytearray()
    async for part in response.aiter_raw():
        read += part
        if len(read) > limit:
            status = response.status_code
            raise EgressError("too-large", f"{target.origin}: answered {status} with over {limit} bytes", status)
    return bytes(read)
