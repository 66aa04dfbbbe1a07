"""A reader that knows nothing but the sink: it lists the manifests and takes what they add and do not remove."""

from __future__ import annotations

import gzip
from collections import Counter

from pipeflow.sinks.manifest import FOLDER, Entry, live


def listed(objects: dict[str, bytes]) -> dict[str, Entry]:
    """What counts, by name, given everything that lies in a sink."""
    return live(content for name, content in objects.items() if name.startswith(FOLDER))


def seen(objects: dict[str, bytes]) -> Counter[str]:
    """How often each record is seen, one a line; KeyError where a manifest tells of an object that is not there."""
    return Counter(line for name in listed(objects) for line in text(name, objects[name]).splitlines())


def text(name: str, content: bytes) -> str:
    """An object of lines."""
    return (gzip.decompress(content) if name.endswith(".gz") else content).decode()
