"""The append-only file in which groups are durable before the tables have them.

It lies beside the store as `<store>-log`, in two halves. A group is one frame behind the last one: one write and one
sync, however many rows it changes. A half is written over once the tables hold all it tells. Frames are numbered and
carry the salt of the owner's life, so that what an earlier pass or an earlier owner left behind is not taken for news.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Final
from zlib import crc32

_MAGIC: Final = b"pfcl"
_FRAME: Final = Struct(">4s8sQII")
"""Magic, salt, number, length of what follows, checksum of all but the magic."""
HEADER: Final = _FRAME.size
_SUMMED: Final = slice(4, HEADER - 4)
SALT_BYTES: Final = 8
LEAST_HALF: Final = 4096
_WINDOW: Final = 1 << 20
"""Bytes that are looked through at once for where a frame begins."""


class NoRoom(Exception):
    """The disk is full: the frame was not written, and the last one is the last."""


class CommitLog:
    """The file of one owner: frames go behind the last one in one half until it is full, then into the other."""

    def __init__(self, path: Path, half: int) -> None:
        self.path = path
        self.half = half
        self.salt = b""
        self._fd = -1
        self._base = 0
        self._end = 0

    def open(self, salt: bytes) -> None:
        """Begin anew, empty: the tables hold what an earlier owner logged. The file's name is durable on return."""
        self.salt = salt
        self._base = self._end = 0
        if self._fd >= 0:
            return
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.ftruncate(self._fd, 0)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def frame(self, number: int, buffer: bytearray) -> None:
        """Fill in the header of a frame; `buffer` has room for it in front of the payload."""
        _FRAME.pack_into(buffer, 0, _MAGIC, self.salt, number, len(buffer) - HEADER, 0)
        crc = crc32(memoryview(buffer)[HEADER:], crc32(buffer[_SUMMED]))
        buffer[HEADER - 4 : HEADER] = crc.to_bytes(4, "big")

    def has_room(self, size: int) -> bool:
        """Whether a frame of that many bytes fits behind the last one."""
        return self._end + size <= self._base + self.half

    @property
    def used(self) -> int:
        """Bytes of frames in the younger half."""
        return self._end - self._base

    def append(self, frame: bytearray) -> None:
        """Write a whole frame, or NoRoom."""
        start = self._end
        with memoryview(frame) as view:
            while start < self._end + len(frame):
                try:
                    start += os.pwrite(self._fd, view[start - self._end :], start)
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                        raise
                    raise NoRoom from error
        self._end = start

    def sync(self) -> None:
        """Return when every frame is on the disk."""
        if self._fd >= 0:
            os.fdatasync(self._fd)

    def turn(self) -> None:
        """Go on at the start of the other half: what it tells, the tables hold."""
        self._base = self._end = self.half - self._base

    def close(self, *, remove: bool) -> None:
        """Let go; `remove` the file when the tables hold everything."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if remove:
            self.path.unlink(missing_ok=True)


def payloads(fd: int, half: int, salt: bytes, folded: int) -> Iterator[bytes]:
    """Those of the frames behind number `folded`, in order, up to the first that is torn or missing; one in memory."""
    number = folded + 1
    for base in sorted((0, half), key=lambda base: (_frame(fd, base, base + half, salt) or (0,))[0]):
        start, end = base, base + half
        while (frame := _frame(fd, start, end, salt)) is not None:
            found, payload = frame
            if found > number:
                return
            if found == number:
                yield payload
                number += 1
            start += HEADER + len(payload)


def whole(fd: int, half: int, salt: bytes, number: int) -> int:
    """How many sound frames there are from that number on, wherever they lie."""
    count = 0
    for start, end in ((0, half), (half, 2 * half)):
        while start < end:
            frame = _frame(fd, start, end, salt)
            if frame is not None:
                count += frame[0] >= number
                start += HEADER + len(frame[1])
            else:
                start = _mark(fd, start + 1, end, salt)
    return count


def _mark(fd: int, start: int, end: int, salt: bytes) -> int:
    """Where from `start` on the next frame may begin, or `end`."""
    mark = _MAGIC + salt
    while window := os.pread(fd, min(_WINDOW, end - start), start):
        at = window.find(mark)
        if at >= 0:
            return start + at
        if start + len(window) >= end:
            break
        start += max(1, len(window) - len(mark) + 1)  # a mark may lie across the end of the window
    return end


def _frame(fd: int, start: int, end: int, salt: bytes) -> tuple[int, bytes] | None:
    """(number, payload) of the frame there, when it is whole."""
    header = os.pread(fd, HEADER, start)
    if len(header) < HEADER:
        return None
    magic, seasoned, number, length, crc = _FRAME.unpack(header)
    if magic != _MAGIC or seasoned != salt or start + HEADER + length > end:
        return None
    payload = os.pread(fd, length, start + HEADER)
    if len(payload) < length or crc32(payload, crc32(header[_SUMMED])) != crc:
        return None
    return number, payload
