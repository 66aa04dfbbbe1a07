"""The room on the disk: when new messages are refused, and what is kept back so that a full queue can be drained."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

CHECKPOINT_BYTES = 4 << 20
"""Bytes of pages in the WAL at which a checkpoint runs between groups: a small one stalls a commit for milliseconds,
one of 64 MiB for 100. It is what the slowest hundredth of sends waits for (benchmarks/latency.py)."""
SPACE_CHECK_BYTES = 4 << 20
BALLAST = 8 << 20
"""Bytes kept at least in a file beside the store, given up when the disk is full: a full queue can still be drained."""
PIECE = 4 << 20
"""Bytes of it that are given up, or kept back, at once: others on the disk may be waiting for them."""
LOG_PIECE = 256 << 10
"""As many when the commit log wants them: thousands of acknowledgements."""
FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
"""What SQLite says when there is no room for the file, the WAL or its index."""
LEAST_FREE = 2 * CHECKPOINT_BYTES
"""Free space below which sends are refused whatever was asked for: what the WAL may still bring into the file, twice.
The file keeps its size when messages leave it, so what a full queue needs to be drained must be left beside it."""
MIN_FREE = (64 << 20) * 2
"""Free space below which sends are refused: the WAL's bound and 64 MiB."""


def is_full(error: Exception) -> bool:
    """Whether it says that there is no room on the disk."""
    return getattr(error, "sqlite_errorcode", None) in FULL


class Room:
    """The disk under one store, and the ballast on it."""

    def __init__(self, path: Path, min_free: int) -> None:
        self.full = False
        """The disk is nearly full: sends are refused, deletes still fit."""
        self.look_at = 0
        """Bytes written since the last look at which the next is due."""
        self.page = 0
        """Bytes of a page of the tables, which stay what they were when the file was made."""
        self._folder = path.parent
        self._least = max(min_free, LEAST_FREE)
        self._ballast = path.with_name(path.name + ".ballast")

    def measure(self, connection: sqlite3.Connection) -> None:
        """Learn how large the pages of the tables are."""
        (self.page,) = connection.execute("PRAGMA page_size").fetchone()

    @property
    def checkpoint_frames(self) -> int:
        """Pages in the WAL at which a checkpoint is due."""
        return CHECKPOINT_BYTES // self.page

    @property
    def free(self) -> int:
        """Bytes that nobody uses."""
        space = os.statvfs(self._folder)
        return space.f_bavail * space.f_frsize

    def has_room(self, size: int) -> bool:
        """Whether the store can go on when so many bytes are written beside it."""
        return self.free - size >= self._least

    def look(self, connection: sqlite3.Connection, told: int) -> int:
        """See whether there is room for new messages; bytes that there are beyond what is never used.

        `told`: what only the commit log told may take so many in the tables.
        """
        # The file never shrinks: what was deleted leaves its room in it, for what comes next.
        (pages,) = connection.execute("PRAGMA freelist_count").fetchone()
        # Room that a missing ballast will take is not free: else giving it up would let new messages eat it.
        beyond: int = self.free + pages * self.page + self._held - BALLAST - self._least
        self.full = beyond < told
        self.look_at = min(SPACE_CHECK_BYTES, (beyond - told) // 2)
        return beyond

    @property
    def _held(self) -> int:
        """Bytes of the ballast."""
        try:
            return self._ballast.stat().st_size
        except FileNotFoundError:
            return 0

    def lay_ballast(self, told: int) -> None:
        """Keep some room back, where there is room for that: also for what only the commit log told, if others should
        fill the disk before it is in the tables.
        """
        held, wanted = self._held, BALLAST + -(-told // PIECE) * PIECE
        if wanted <= held <= wanted + PIECE or (held < wanted and (self.full or self.free < wanted - held)):
            return
        fd = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if held < wanted:
                os.posix_fallocate(fd, held, wanted - held)
            else:
                os.ftruncate(fd, wanted)
        except OSError as error:
            # Somebody else was faster, or no file may be that large: then it goes without.
            self.full = error.errno != errno.EFBIG
            os.ftruncate(fd, held)
            if not held:
                self._ballast.unlink()
        finally:
            os.close(fd)

    def release_ballast(self, size: int = PIECE) -> bool:
        """Give so much of the room that was kept to deletes and checkpoints; False when all of it was given already."""
        self.full = True
        held = self._held
        if held > size:
            os.truncate(self._ballast, held - size)
        else:
            self._ballast.unlink(missing_ok=True)
        return held > 0
