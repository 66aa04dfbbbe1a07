"""A look at the write-ahead log before SQLite opens it after an unclean stop.

SQLite ends a WAL at the first frame whose checksum fails, which is right for a torn tail and wrong for a flipped bit in
the middle: acknowledged commits behind it would vanish in silence. Two commits or more of the same generation behind a
damaged frame cannot be a torn tail when every commit was synced.
"""

from __future__ import annotations

import struct
from pathlib import Path

HEADER = 32
FRAME_HEADER = 24
_BIG_ENDIAN = 0x377F0683
_MASK = 0xFFFFFFFF


def commits_behind_damage(path: Path) -> tuple[int, int] | None:
    """(number of the first damaged frame, commits of its generation behind it); None when the log is sound."""
    try:
        log = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(log) < HEADER:
        return None
    magic, _, page_size, _, salt1, salt2, sum1, sum2 = struct.unpack(">8I", log[:HEADER])
    if magic & ~1 != _BIG_ENDIAN & ~1 or page_size == 0:
        return None
    order = ">" if magic & 1 else "<"
    state = _checksum(log[:24], order, (0, 0))
    if state != (sum1, sum2):
        return None
    size = FRAME_HEADER + page_size
    damaged = 0
    behind = 0
    for number, start in enumerate(range(HEADER, len(log) - size + 1, size), 1):
        _, commit, one, two, first, second = struct.unpack(">6I", log[start : start + FRAME_HEADER])
        if (one, two) != (salt1, salt2):
            # An older generation begins: what was written over ends here.
            break
        if not damaged:
            body = log[start : start + 8] + log[start + FRAME_HEADER : start + size]
            state = _checksum(body, order, state)
            if state != (first, second):
                damaged = number
        elif commit:
            behind += 1
    return (damaged, behind) if damaged and behind >= 2 else None


def _checksum(data: bytes, order: str, state: tuple[int, int]) -> tuple[int, int]:
    """SQLite's running WAL checksum over pairs of 32-bit words."""
    first, second = state
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for index in range(0, len(words), 2):
        first = (first + words[index] + second) & _MASK
        second = (second + words[index + 1] + first) & _MASK
    return first, second
