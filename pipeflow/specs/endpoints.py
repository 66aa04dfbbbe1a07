"""How the HTTP endpoint of a stream or a webhook is spoken to."""

from __future__ import annotations

import re

from msgspec import Struct

from pipeflow.errors import ConfigurationError


class Endpoint(Struct, frozen=True):
    """How a stream speaks to the HTTP endpoint that its sink names, and where that may lie (Firehose: S75, S76)."""

    access_key: str | None = None
    """Where the key is: "env:NAME", or "file:PATH" with mode 0600. Read anew for every request (Firehose: S82)."""
    gzip: bool = False
    """Compress the body of requests."""
    attributes: dict[str, str] = {}
    """At most 50 pairs that go with every request."""
    timeout: float = 180.0
    """Seconds that one request and its answer may take (Firehose: 3 min, S77)."""
    networks: tuple[str, ...] = ()
    """Networks such as "10.1.0.0/16" that it may lie in although they are not public."""
    ports: tuple[int, ...] = ()
    """Ports below 1024 that it may listen on, besides 80 and 443."""

    def __post_init__(self) -> None:
        if self.access_key is not None and not re.match(r"(env|file):.", self.access_key):
            # What was given may be the key itself, so it is not repeated here.
            raise ConfigurationError(
                "Endpoint: access_key is where the key is, not the key: write 'env:NAME' or 'file:PATH'"
            )
        if len(self.attributes) > 50:
            raise ConfigurationError(f"Endpoint: {len(self.attributes)} attributes; use at most 50")
        for name, value in self.attributes.items():
            if not 1 <= len(name) <= 256 or len(value) > 1024:
                raise ConfigurationError(
                    f"Endpoint: attribute {name[:40]!r}: use a name of 1 to 256 characters and a value of at most 1024"
                )
        if not 0 < self.timeout <= 3600:
            raise ConfigurationError(f"Endpoint: timeout is {self.timeout}; use more than 0 s, at most 3600")
        for network in self.networks:
            _check_network(network)


def _check_network(network: str) -> None:
    from ipaddress import ip_network  # for programs that name some

    try:
        ip_network(network)
    except ValueError as error:
        raise ConfigurationError(f"Endpoint: network {network!r}: {error}; write one such as '10.1.0.0/16'") from error
