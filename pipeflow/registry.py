"""From a URL to a store or a sink: the built-in table first, then entry points.

Factories are imported when their scheme is asked for, so that nothing is loaded that nobody uses. Third parties offer
theirs as entry points of the groups `pipeflow.brokers` and `pipeflow.sinks`, named by scheme.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from pipeflow.clock import Clock, SystemClock
from pipeflow.errors import UnknownScheme
from pipeflow.protocols import Sink, Store
from pipeflow.specs import Endpoint
from pipeflow.webhooks import Poster, Signing

OpenStore = Callable[..., Awaitable[Store]]
OpenSink = Callable[..., Sink]

BROKERS = {
    "memory": "pipeflow.embedded.opening:open_memory",
    "sqlite": "pipeflow.embedded.opening:open_sqlite",
}
WEBHOOKS = dict.fromkeys(("http", "https"), "pipeflow_connectors.webhook:open_webhook")
SINKS = {
    "file": "pipeflow.sinks.opening:open_file",
    "memory": "pipeflow.sinks.opening:open_memory",
    "s3": "pipeflow_connectors.object_store:open_s3",
    "gs": "pipeflow_connectors.object_store:open_gs",
    "az": "pipeflow_connectors.object_store:open_az",
    "http": "pipeflow_connectors.http_sink:open_http",
    "https": "pipeflow_connectors.http_sink:open_http",
}


async def open_store(url: str, *, clock: Clock | None = None, client: bool = False, seed: int | None = None) -> Store:
    """Open the store a URL names; the caller closes it.

    `client=False` owns it, or raises StoreOwned when another process does. `client=True` goes through the owner's
    socket when there is an owner, and owns it otherwise. UnknownScheme: nothing answers to the URL.
    """
    factory: OpenStore = _find("broker", url, BROKERS, "pipeflow.brokers")
    return await factory(url, clock=clock or SystemClock(), client=client, seed=seed)


def open_sink(url: str, *, base: str = ".", endpoint: Endpoint | None = None) -> Sink:
    """The sink a URL names; relative places are below `base`. UnknownScheme: nothing answers to the URL."""
    factory: OpenSink = _find("sink", url, SINKS, "pipeflow.sinks")
    return factory(url, base=base) if endpoint is None else factory(url, base=base, endpoint=endpoint)


def open_webhook(url: str, *, endpoint: Endpoint, timeout: float, signing: Signing | None) -> Poster:
    """What posts to the endpoint at a URL. ConfigurationError: no request may go there; MissingExtra."""
    factory: Callable[..., Poster] = _find("webhook", url, WEBHOOKS, "pipeflow.webhooks")
    return factory(url, endpoint=endpoint, timeout=timeout, signing=signing)


def _find(kind: str, url: str, known: dict[str, str], group: str) -> Any:
    scheme, separator, _ = url.partition("://")
    if separator and scheme in known:
        module, _, name = known[scheme].partition(":")
        return getattr(import_module(module), name)
    others = {point.name: point for point in entry_points(group=group)}
    if separator and scheme in others:
        return others[scheme].load()
    if kind == "broker" and url and not separator:
        raise UnknownScheme(f"broker {url!r} is no URL; write sqlite:///{url}")
    schemes = ", ".join(f"{name}://" for name in sorted({*known, *others}))
    raise UnknownScheme(f"{kind} {_shown(url)!r}: no {kind} answers to this URL; use one of {schemes}")


def _shown(url: str) -> str:
    """Scheme and host: passwords and keys stand around them."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}://{re.split('[/?#]', rest)[0].rpartition('@')[2]}" if separator else url
