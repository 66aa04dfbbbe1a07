"""Which systems are compared, at which setting, and when each of them syncs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from _brokers.peer import Peer

FULL, BACKGROUND = "full", "background"
"""Synced before it answers; or later, or never."""


class System(NamedTuple):
    name: str
    kind: str
    opener: str
    """Module and function."""
    setting: str
    syncs: str
    """When, in the words of the page."""
    color: str
    built: bool = False
    """More than its client: what a program has to build before it. The target is about the others."""
    compiled: bool = False
    """pipeflow from build/compiled."""

    def open(self, folder: Path) -> Awaitable[Peer]:
        module, function = self.opener.split(":")
        opener: Callable[[str, Path], Awaitable[Peer]] = getattr(import_module(f"_brokers.{module}"), function)
        return opener(self.setting, folder)


PIPEFLOW = {FULL: "pipeflow full", BACKGROUND: "pipeflow normal"}
COMPILED = {kind: f"{name}, compiled" for kind, name in PIPEFLOW.items()}

SYSTEMS = (
    System(PIPEFLOW[FULL], FULL, "embedded:open_peer", "full", "each group of commits", "#d62728"),
    System(COMPILED[FULL], FULL, "embedded:open_compiled", "full", "each group of commits", "#ff7f7f", compiled=True),
    System("PostgreSQL", FULL, "postgres:open_peer", "on", "each commit, claims aside", "#1f4e9c"),
    System("Redis streams, always", FULL, "streams:open_pooled", "always", "each turn of its loop", "#e08214"),
    System(
        "Redis streams joined, always", FULL, "streams:open_joined", "always", "each turn of its loop", "#b35806", True
    ),
    System("beanstalkd, always", FULL, "beanstalk:open_peer", "always", "each put and delete", "#2ca02c"),
    System("NATS JetStream, always", FULL, "jetstream:open_peer", "always", "each write", "#17becf"),
    System("SAQ, Redis always", FULL, "redis:open_saq", "always", "as Redis does", "#9467bd"),
    System("taskiq, Redis always", FULL, "redis:open_taskiq", "always", "as Redis does", "#8c564b"),
    System("dramatiq, Redis always", FULL, "redis:open_dramatiq", "always", "as Redis does", "#bc80bd"),
    System("huey, SQLite fsync", FULL, "libraries:open_huey", "fsync", "each send and each receive", "#7f7f7f"),
    System("persist-queue, SQLite", FULL, "libraries:open_persist_queue", "", "each call", "#bcbd22"),
    System(PIPEFLOW[BACKGROUND], BACKGROUND, "embedded:open_peer", "normal", "within 100 ms", "#d62728"),
    System(
        COMPILED[BACKGROUND], BACKGROUND, "embedded:open_compiled", "normal", "within 100 ms", "#ff7f7f", compiled=True
    ),
    System("PostgreSQL, asynchronous", BACKGROUND, "postgres:open_peer", "off", "within 600 ms", "#1f4e9c"),
    System("Redis streams, everysec", BACKGROUND, "streams:open_pooled", "everysec", "every second", "#e08214"),
    System(
        "Redis streams joined, everysec", BACKGROUND, "streams:open_joined", "everysec", "every second", "#b35806", True
    ),
    System("beanstalkd, 50 ms", BACKGROUND, "beanstalk:open_peer", "50 ms", "every 50 ms", "#2ca02c"),
    System("NATS JetStream", BACKGROUND, "jetstream:open_peer", "as it comes", "every two minutes", "#17becf"),
    System("SAQ, Redis everysec", BACKGROUND, "redis:open_saq", "everysec", "every second", "#9467bd"),
    System("taskiq, Redis everysec", BACKGROUND, "redis:open_taskiq", "everysec", "every second", "#8c564b"),
    System("dramatiq, Redis everysec", BACKGROUND, "redis:open_dramatiq", "everysec", "every second", "#bc80bd"),
    System("huey, SQLite", BACKGROUND, "libraries:open_huey", "no fsync", "never", "#7f7f7f"),
    System("litequeue, SQLite", BACKGROUND, "libraries:open_litequeue", "", "at checkpoints", "#bcbd22"),
)
