"""The room on the disk: when new messages are refused, and what is kept back so that a full queue can be drained."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

CHECKPOINT_BYTES = 4 << 20
"""Bytes of pages in the WAL at which a checkpoint runs between groups: a small one stalls a commit for milliseconds,
one of 64 MiB for 100. It is what the slowest hundredth of sends waits for (benchmarks/latency.py)."""
SPACE_CHECK_BYTES = 8 << 20
BALLAST = 8 << 20
"""Bytes kept in a file beside the store, given up when the disk is full: a full queue can still be drained."""
LEAST_FREE = 2 * CHECKPOINT_BYTES
"""Free space below which sends are refused whatever was asked for: what the WAL may still bring into the file, twice.
The file keeps its size when messages leave it, so what a full queue needs to be drained must be left beside it."""
MIN_FREE = (64 << 20) * 2
"""Free space below which sends are refused: the WAL's bound and 64 MiB."""


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

    def look(self, connection: sqlite3.Connection) -> int:
        """See whether there is room for new messages; bytes that they may take."""
        # The file never shrinks: what was deleted leaves its room in it, for what comes next.
        (pages,) = connection.execute("PRAGMA freelist_count").fetchone()
        # Room that a missing ballast will take is not free: else giving it up would let new messages eat it.
        missing = 0 if self._ballast.exists() else BALLAST
        spare: int = self.free + pages * self.page - missing - self._least
        self.full = spare < 0
        self.look_at = min(SPACE_CHECK_BYTES, spare // 2)
        return spare

    def lay_ballast(self) -> None:
        """Keep some room back, where there is room for that."""
        if self.full or self._ballast.exists() or self.free < BALLAST:
            return
        fd = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, BALLAST)
        except OSError as error:
            # Somebody else was faster, or no file may be that large: then it goes without.
            self.full = error.errno != errno.EFBIG
            self._ballast.unlink()
        finally:
            os.close(fd)

    def release_ballast(self) -> bool:
        """Give the room that was kept to deletes and checkpoints; False when it was given already."""
        self.full = True
        if not self._ballast.exists():
            return False
        self._ballast.unlink()
        return True
