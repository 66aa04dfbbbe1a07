"""From a URL to a bucket: what may stand in `s3://bucket/prefix?region=..`, and that no secret ever does.

Credentials come from the environment, where every tool of the provider looks for them; a URL is printed and logged.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Struct

from pipeflow.errors import ConfigurationError, ObjectRefused
from pipeflow.names import check_name

_OPTIONS = {
    "s3": ("region", "endpoint", "anonymous", "allow_http", "timeout"),
    "gs": ("endpoint", "allow_http", "timeout"),  # Google takes no writes of strangers
    "az": ("account", "endpoint", "anonymous", "allow_http", "timeout"),
}
_WRITE = {
    "s3": "s3://bucket/prefix",
    "gs": "gs://bucket/prefix",
    "az": "az://container/prefix",
}
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
_YES_OR_NO = {"true": True, "1": True, "false": False, "0": False}


class Place(Struct, frozen=True):
    """Where objects go, as the URL and the environment say."""

    scheme: str
    bucket: str
    prefix: str = ""
    """Without slashes at its ends; empty for the whole bucket."""
    region: str | None = None
    account: str | None = None
    endpoint: str | None = None
    anonymous: bool = False
    timeout: float = 60.0
    """Seconds that one request may take; a part of 8 MiB needs them at 1.1 Mbit/s."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    @property
    def plain_http(self) -> bool:
        """Whether the endpoint was allowed to be reached without TLS."""
        return self.endpoint is not None and self.endpoint.startswith("http://")


def parse(url: str, environment: Mapping[str, str]) -> Place:
    """The place a URL names; ConfigurationError with the remedy, and without the URL's secrets, when it is not right.

    Options of the URL come before variables of the environment.
    """
    scheme = url.partition("://")[0]
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(f"sink {scheme}://...: {error}; write {_WRITE[scheme]}") from error
    if "@" in parts.netloc:
        raise ConfigurationError(
            f"sink {scheme}://...@{parts.netloc.rpartition('@')[2]}: credentials do not belong in a URL, which is "
            "logged and shown; leave them to the environment"
        )
    bucket = parts.netloc
    shown = f"{scheme}://{bucket}{parts.path}"
    if not bucket or ":" in bucket or parts.fragment:
        raise ConfigurationError(f"sink {shown!r} names no bucket alone; write {_WRITE[scheme]}")
    options = _options(scheme, parts.query, shown)
    endpoint = options.get("endpoint") or next(filter(None, map(environment.get, _ENDPOINTS[scheme])), None)
    return Place(
        scheme,
        bucket,
        prefix=_prefix(unquote(parts.path), shown),
        region=options.get("region"),
        account=options.get("account"),
        endpoint=None if endpoint is None else _endpoint(endpoint, _flag(options, "allow_http", shown), shown),
        anonymous=_flag(options, "anonymous", shown),
        timeout=_seconds(options.get("timeout", "60"), shown),
    )


def _options(scheme: str, query: str, shown: str) -> dict[str, str]:
    known = _OPTIONS[scheme]
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        # The value is never shown: it may be a key that somebody hoped to pass.
        if name not in known:
            raise ConfigurationError(
                f"sink {shown!r}: option {name!r} is unknown; use {', '.join(known)}, "
                "and leave credentials to the environment"
            )
        if name in options or not value:
            raise ConfigurationError(f"sink {shown!r}: option {name!r} is {'empty' if not value else 'there twice'}")
        options[name] = value
    return options


def _flag(options: Mapping[str, str], name: str, shown: str) -> bool:
    value = options.get(name, "false").lower()
    if value not in _YES_OR_NO:
        raise ConfigurationError(f"sink {shown!r}: {name} is true or false")
    return _YES_OR_NO[value]


def _seconds(text: str, shown: str) -> float:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 3600:
        raise ConfigurationError(f"sink {shown!r}: timeout is in whole seconds, from 1 to 3600")
    return float(text)


def _prefix(path: str, shown: str) -> str:
    prefix = path.strip("/")
    if prefix:
        try:
            check_name(prefix)
        except ObjectRefused as error:
            raise ConfigurationError(f"sink {shown!r}: the prefix cannot begin a name: {error}") from error
    return prefix


def _endpoint(endpoint: str, allow_http: bool, shown: str) -> str:
    try:
        parts = urlsplit(endpoint)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ConfigurationError(f"sink {shown!r}: the endpoint is no plain URL; write https://host:port")
    if "@" in parts.netloc:
        raise ConfigurationError(f"sink {shown!r}: credentials do not belong in the endpoint; use the environment")
    if parts.scheme == "http" and not allow_http and not _is_loopback(host):
        raise ConfigurationError(
            f"sink {shown!r}: {parts.scheme}://{parts.netloc} would send records in the clear; use https, "
            "or say allow_http=true"
        )
    return endpoint.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
