"""The five-minute window in which an equal deduplication id is a duplicate (SQS: Q71).

The record survives delivery and deletion of the message; a duplicate answers with the original's id and sequence and
does not extend the window. Digests are kept in buckets of 30 seconds, so that forgetting is dropping a dictionary; a
full bucket is followed by another of the same time, so that a crowded window can let go a part of it.
"""

from __future__ import annotations

from pipeflow.names import digest

WINDOW = 300.0
BUCKET = 30.0
CROWDED = 50_000
"""Ids of one bucket: a find looks into each, so there are not too many of them."""


class Dedup:
    """The accepted deduplication ids of one queue or topic."""

    __slots__ = ("shed_upto", "_buckets", "_count")

    def __init__(self) -> None:
        self.shed_upto = 0.0
        """Up to here memory let ids go; only a journal knows them."""
        self._buckets: list[_Bucket] = []
        self._count = 0

    def find(self, key: bytes, now: float) -> tuple[str, int] | None:
        """(id, sequence) of the accepted original, or None."""
        self._forget(now)
        for bucket in self._buckets:
            known = bucket.ids.get(key)
            if known is not None and now - known[0] < WINDOW:
                return known[1], known[2]
        return None

    def add(self, key: bytes, at: float, id: str, sequence: int, seen: float | None = None, group: int = 0) -> None:
        """Remember a message accepted `at`; one that memory had let go goes to what was `seen` last.

        `group` is the number of the commit that makes a journal remember it too.
        """
        moment = at if seen is None else seen
        start = moment - moment % BUCKET
        buckets = self._buckets
        if not buckets or buckets[-1].start != start or len(buckets[-1].ids) >= CROWDED:
            buckets.append(_Bucket(start))
        bucket = buckets[-1]
        self._count -= len(bucket.ids)
        bucket.ids[key] = (at, id, sequence)
        self._count += len(bucket.ids)
        if group > bucket.group:
            bucket.group = group

    def __len__(self) -> int:
        return self._count

    def _forget(self, now: float) -> None:
        while self._buckets and now - self._buckets[0].start >= WINDOW + BUCKET:
            self._count -= len(self._buckets.pop(0).ids)

    def shed(self, written: int) -> bool:
        """Drop the oldest bucket from memory, if a journal has all of it: groups up to `written`; whether it did."""
        if self._buckets[0].group > written:
            return False
        bucket = self._buckets.pop(0)
        self._count -= len(bucket.ids)
        self.shed_upto = bucket.start + BUCKET
        return True


class _Bucket:
    """Ids of half a minute, or a part of it."""

    __slots__ = ("group", "ids", "start")

    def __init__(self, start: float) -> None:
        self.start = start
        self.ids: dict[bytes, tuple[float, str, int]] = {}
        self.group = 0


def dedup_key(dedup_id: str, group: str | None = None) -> bytes:
    """The digest under which an id is remembered; `group` where the scope is the group (SQS: Q73)."""
    if group is None:
        return digest(dedup_id.encode())
    return digest(dedup_id.encode() + b"\0" + group.encode())
