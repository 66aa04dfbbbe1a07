"""Everything an app declares, and where its store keeps large bodies."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from pipeflow.errors import ConfigurationError
from pipeflow.specs.queues import QueueSpec
from pipeflow.specs.secrets import check_secrets
from pipeflow.specs.streams import StreamSpec
from pipeflow.specs.topics import Subscription, TopicSpec

INLINE_BYTES: Final = 1 << 20
"""Bytes of a body that lie in the store with their message; larger ones are kept aside. SQS takes none (SQS: Q28)."""


class ClaimSpec(Struct, frozen=True):
    """Where bodies are kept that are too large to lie in the store with their messages."""

    url: str = ""
    """A sink that gives back what it took; empty: files beside the store."""
    inline_bytes: int = INLINE_BYTES
    """Larger bodies are kept aside."""

    def __post_init__(self) -> None:
        if not 1 <= self.inline_bytes <= 16 << 20:
            raise ConfigurationError(f"claims: inline_bytes is {self.inline_bytes}; use 1 byte to 16 MiB")
        if self.url and "://" not in self.url:
            raise ConfigurationError(f"claims {self.url!r} is no URL; write file://./{self.url}")
        check_secrets("claims:", self.url)


class Topology(Struct, frozen=True):
    """Everything an app declares, once, before its first message."""

    topics: tuple[TopicSpec, ...] = ()
    queues: tuple[QueueSpec, ...] = ()
    streams: tuple[StreamSpec, ...] = ()
    subscriptions: tuple[Subscription, ...] = ()
    claims: ClaimSpec | None = None
    """None leaves the store's own as it is."""
