"""One process owns a store: a lock the kernel releases when the owner dies, and files nobody else may read.

Two connections that write and checkpoint at once can damage a WAL in SQLite before 3.51.3; one owner rules that out.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from pipeflow.errors import ConfigurationError, StoreOwned, Unavailable


class Lock:
    """The flock on `<store>.lock`. Held until `release`; the file itself stays."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(path.name + ".lock")
        self._store = path
        self._fd: int | None = None

    def acquire(self, durability: str) -> str:
        """Own the store and say how it is written; the last owner's durability, empty when there was none.

        StoreOwned, with the owner's process id, when another process owns it.
        """
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise unusable(self._store, error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _words(fd)[0] or "unknown"
            os.close(fd)
            raise StoreOwned(
                f"{self._store} is owned by process {owner}; use app.client() or the command line, which go through"
                " its socket, or stop that process"
            ) from error
        _, last = _words(fd)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()} {durability}\n".encode(), 0)
        self._fd = fd
        return last

    def release(self) -> None:
        """Let go. Idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def owner_of(path: Path) -> int | None:
    """The process id that owns a store now, or None."""
    lock = path.with_name(path.name + ".lock")
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        owner, _ = _words(fd)
        return int(owner) if owner.isdigit() else -1
    else:
        return None
    finally:
        os.close(fd)


def _words(fd: int) -> tuple[str, str]:
    words = os.pread(fd, 64, 0).decode(errors="replace").split()
    return (words[0] if words else ""), (words[1] if len(words) > 1 else "")


def check_place(path: Path) -> None:
    """ConfigurationError where no store can be, before anything is made."""
    if path.is_dir():
        raise ConfigurationError(f"{path} is a directory; name a file in it, such as {path / 'store.db'}")
    if not path.parent.is_dir():
        raise ConfigurationError(f"{path}: there is no directory {path.parent}; make it, or name another place")


def make_file(path: Path) -> bool:
    """Create the store's file, readable by its user only, and make its name durable; False when it was there."""
    parent = path.parent
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        if not os.access(path, os.R_OK | os.W_OK):
            raise unusable(path, PermissionError(13, "it cannot be read and written")) from None
        if not path.stat().st_size:
            # Made by somebody else for us to fill: from now on it holds messages, which are for their user alone.
            path.chmod(0o600)
        return False
    except OSError as error:
        raise unusable(path, error) from error
    os.close(fd)
    directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return True


def keep_damaged(path: Path) -> None:
    """Copy a file to where nobody writes to it; the first copy stays."""
    aside = path.with_name(path.name + ".damaged")
    if path.exists() and not aside.exists():
        shutil.copy2(path, aside)


def unusable(path: Path, error: OSError) -> Unavailable | ConfigurationError:
    """The error for a place that cannot hold a store."""
    if isinstance(error, PermissionError):
        return ConfigurationError(f"{path}: {error.strerror}; make the directory writable for this user")
    if isinstance(error, FileNotFoundError):
        return ConfigurationError(f"{path}: there is no directory {path.parent}; make it, or name another place")
    return Unavailable(f"{path}: {error.strerror or error}; free space or repair the disk, then start again")
