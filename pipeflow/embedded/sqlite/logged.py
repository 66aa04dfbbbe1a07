"""A group as it lies in the commit log.

Not a part of `pending.py`: a compiled module does not tell msgspec what the fields of its classes are made of.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pipeflow.embedded.journal import FrozenGroup, Known


class Logged(msgspec.Struct, array_like=True, gc=False):
    """A group as it lies in the log. Every field as FrozenGroup has it."""

    inserts: list[Any]
    updates: list[tuple[int, float | None, float | None, bytes, int, int, str | None, float | None, float | None]]
    deletes: list[int]
    bodies: dict[int, tuple[bytes, int]]
    releases: dict[int, int]
    queues: list[tuple[int, bytes]]
    topics: list[tuple[int, bytes]]
    known: list[Known]
    sources: dict[str, bytes | None]
    clock: float


encode_into = msgspec.msgpack.Encoder().encode_into
decode = msgspec.msgpack.Decoder(Logged).decode


def logged(group: FrozenGroup) -> Logged | None:
    """What the log has to remember of a group; None when it holds what only the tables take."""
    if group.streams or group.declared or group.damaged or group.claims or group.rewritten or group.audit:
        return None
    return Logged(
        group.inserts,
        group.updates,
        group.deletes,
        group.bodies,
        group.releases,
        group.queues,
        group.topics,
        group.known,
        group.sources,
        group.clock,
    )
