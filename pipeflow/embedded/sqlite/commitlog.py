"""The append-only file in which groups are durable before the tables have them.

It lies beside the store as `<store>-log`, in two halves. A group is one frame behind the last one: one write and one
sync, however many rows it changes. A half is written over once the tables hold all it tells. Frames are numbered and
carry the salt of the owner's life, so that what an earlier pass or an earlier owner left behind is not taken for news.
"""

from __future__ import annotations

import errno
import os
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
        """Begin anew; frames of another salt are garbage from now on. The file's name is durable on return."""
        self.salt = salt
        self._base = self._end = 0
        if self._fd >= 0:
            return
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def frame(self, number: int, buffer: bytearray) -> None:
        """Fill in the header of a frame; `buffer` has room for it in front of the payload."""
        _FRAME.pack_into(buffer, 0, _MAGIC, self.salt, number, len(buffer) - HEADER, 0)
        crc = _crc(buffer)
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


def read(path: Path, half: int, salt: bytes, folded: int) -> tuple[list[bytes], int]:
    """(payloads of the frames behind number `folded` in order, up to the first that is torn or missing; how many whole
    ones lie behind that).
    """
    content = path.read_bytes()
    found: dict[int, bytes] = {}
    for base in (0, half):
        found |= _run(content, base, base + half, salt)
    payloads: list[bytes] = []
    number = folded + 1
    while number in found:
        payloads.append(found[number])
        number += 1
    return payloads, sum(each >= number for each in _all(content, salt))


def _run(content: bytes, start: int, end: int, salt: bytes) -> dict[int, bytes]:
    """By number: the frames that lie one behind the other from `start` on."""
    found: dict[int, bytes] = {}
    while (frame := _at(content, start, salt)) is not None:
        number, payload = frame
        found[number] = payload
        start += HEADER + len(payload)
        if start >= end:
            break
    return found


def _all(content: bytes, salt: bytes) -> list[int]:
    """Numbers of all sound frames, wherever they lie."""
    found: list[int] = []
    mark = _MAGIC + salt
    start = content.find(mark)
    while start >= 0:
        frame = _at(content, start, salt)
        if frame is not None:
            found.append(frame[0])
        start = content.find(mark, start + (HEADER + len(frame[1]) if frame is not None else 1))
    return found


def _at(content: bytes, start: int, salt: bytes) -> tuple[int, bytes] | None:
    if start + HEADER > len(content):
        return None
    magic, seasoned, number, length, crc = _FRAME.unpack_from(content, start)
    end = start + HEADER + length
    if magic != _MAGIC or seasoned != salt or end > len(content):
        return None
    if _crc(content[start:end]) != crc:
        return None
    return number, content[start + HEADER : end]


def _crc(frame: bytes | bytearray) -> int:
    return crc32(memoryview(frame)[HEADER:], crc32(frame[_SUMMED]))
