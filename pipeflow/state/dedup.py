"""The five-minute window in which an equal deduplication id is a duplicate (SQS: Q71).

The record survives delivery and deletion of the message; a duplicate answers with the original's id and sequence and
does not extend the window. Digests are kept in buckets of 30 seconds, so that forgetting is dropping a dictionary.
"""

from __future__ import annotations

from pipeflow.names import digest

WINDOW = 300.0
BUCKET = 30.0


class Dedup:
    """The accepted deduplication ids of one queue or topic."""

    __slots__ = ("shed_upto", "_buckets", "_count")

    def __init__(self) -> None:
        self.shed_upto = 0.0
        """Up to here memory let ids go; only a journal knows them."""
        self._buckets: list[tuple[float, dict[bytes, tuple[float, str, int]]]] = []
        self._count = 0

    def find(self, key: bytes, now: float) -> tuple[str, int] | None:
        """(id, sequence) of the accepted original, or None."""
        self._forget(now)
        for _, bucket in self._buckets:
            known = bucket.get(key)
            if known is not None and now - known[0] < WINDOW:
                return known[1], known[2]
        return None

    def add(self, key: bytes, at: float, id: str, sequence: int, seen: float | None = None) -> None:
        """Remember a message accepted `at`; one that memory had let go goes to what was `seen` last."""
        moment = at if seen is None else seen
        start = moment - moment % BUCKET
        if not self._buckets or self._buckets[-1][0] != start:
            self._buckets.append((start, {}))
        self._buckets[-1][1][key] = (at, id, sequence)
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def _forget(self, now: float) -> None:
        while self._buckets and now - self._buckets[0][0] >= WINDOW + BUCKET:
            self._count -= len(self._buckets.pop(0)[1])

    def shed(self) -> None:
        """Drop the oldest bucket from memory."""
        start, bucket = self._buckets.pop(0)
        self._count -= len(bucket)
        self.shed_upto = start + BUCKET


def dedup_key(dedup_id: str, group: str | None = None) -> bytes:
    """The digest under which an id is remembered; `group` where the scope is the group (SQS: Q73)."""
    if group is None:
        return digest(dedup_id.encode())
    return digest(dedup_id.encode() + b"\0" + group.encode())
