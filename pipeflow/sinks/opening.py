"""Sinks by URL: `file://./relative`, `file:///absolute`, `memory://name`."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeflow.errors import ConfigurationError
from pipeflow.protocols import Sink
from pipeflow.sinks.file import FileSink
from pipeflow.sinks.memory import MemorySink


def open_file(url: str, *, base: str) -> Sink:
    """A directory of this machine; a relative one is below `base`."""
    place = unquote(url.removeprefix("file://"))
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise ConfigurationError(f"sink {url!r}: a file sink takes no options; write file://./directory")
    if not place.strip("/"):
        raise ConfigurationError(f"sink {url!r} names no directory; write file://./directory or file:///directory")
    return FileSink(str(Path(base) / place))


def open_memory(url: str, *, base: str) -> Sink:
    """Objects in this process, for tests."""
    return MemorySink()
