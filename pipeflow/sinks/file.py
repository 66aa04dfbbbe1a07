"""Objects as files: whole and durable or not there at all, and never outside the root (Firehose: S49, S84).

A file is written beside its place under a `.tmp-` name, synced, renamed, and its directory synced, with every
directory on the way that this process has not synced before. The walk follows no link.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from threading import Lock
from typing import TypeAlias

import anyio
import anyio.to_thread

from pipeflow.errors import ConfigurationError, ObjectMissing, ObjectRefused, SinkUnavailable
from pipeflow.names import check_name
from pipeflow.protocols import Object

Names: TypeAlias = list[str]

TEMPORARY = ".tmp-"
_TRIAL = f"{TEMPORARY}trial"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_REMEMBERED = 10_000
"""Directories known to be durable; forgotten all at once, then synced again."""

_TURNS = [Lock() for _ in range(64)]
"""By path, many for one. A cancelled write goes on in its thread; without a turn it would give the object's name to the
half-written temporary file of the same write done again."""

_REFUSED = {errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EISDIR, errno.EILSEQ}
_NOTHING_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO}
_REMEDIES = {
    errno.ENOSPC: "the disk is full: make space, delivery goes on by itself",
    errno.EDQUOT: "the quota is used up: make space, delivery goes on by itself",
    errno.EACCES: "permission denied: let this user write there",
    errno.EPERM: "not permitted: let this user write there",
    errno.EROFS: "the file system is read-only: mount it writable",
    errno.EIO: "the disk reports an error: check it, delivery is tried again",
}


class FileSink:
    """Writes objects beneath one directory, which is made when the first object comes."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self._durable: set[str] = set()

    def __str__(self) -> str:
        return f"file://{self.root}"

    async def write(self, obj: Object) -> None:
        """Durable when it returns. SinkUnavailable: path and remedy. ObjectRefused: the name is taken or impossible."""
        # A cancelled caller leaves the thread to itself: what it writes is whole, and the same when written again.
        await anyio.to_thread.run_sync(self._write, obj, abandon_on_cancel=True)

    async def read(self, name: str) -> bytes:
        """The file's bytes; ObjectMissing when there is none, or a link or a directory in its place."""
        return await anyio.to_thread.run_sync(self._read, name, abandon_on_cancel=True)

    async def delete(self, name: str) -> None:
        """Durably gone when it returns, also when it was not there. Its directory stays."""
        await anyio.to_thread.run_sync(self._delete, name, abandon_on_cancel=True)

    async def list(self, prefix: str = "") -> list[str]:
        """Names of files that begin with `prefix`, sorted; temporary files and links are none."""
        try:
            return sorted(
                await anyio.to_thread.run_sync(lambda: [*_names_below(self.root, prefix)], abandon_on_cancel=True)
            )
        except FileNotFoundError:
            return []  # nothing was ever written
        except OSError as error:
            raise self._translated(error, prefix) from error

    async def pages(self, prefix: str = "", size: int = 1000) -> AsyncGenerator[Names, None]:
        """The same, so many at a time, in no order."""
        names = _names_below(self.root, prefix)
        try:
            while page := await anyio.to_thread.run_sync(lambda: [*islice(names, size)]):
                yield page
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._translated(error, prefix) from error
        finally:
            names.close()

    def prepare(self) -> None:
        """Make the root and try to write there; ConfigurationError with the path and the remedy when that fails."""
        try:
            folder = self._open_root()
            try:
                _remove(folder, _TRIAL)
                _write_file(folder, _TRIAL, [])
                _remove(folder, _TRIAL)
            finally:
                os.close(folder)
        except OSError as error:
            remedy = _REMEDIES.get(error.errno or 0, "name a directory that can be made")
            raise ConfigurationError(f"sink file://{self.root}: {error.strerror}; {remedy}") from error

    async def sweep(self, mine: Callable[[str], bool], rewritten: bool) -> int:
        """Delete temporary files that a killed process left, unless its objects are written again anyway."""
        if rewritten:
            return 0  # each takes away its own temporary file, and a root may be large to walk through
        try:
            return await anyio.to_thread.run_sync(_sweep, self.root, mine)
        except OSError as error:
            raise self._translated(error, "") from error

    async def leftovers(self, mine: Callable[[str], bool]) -> Sequence[str]:
        """Temporary files of objects that `mine` picks, sorted: writes under way, and what killed processes left."""
        try:
            return await anyio.to_thread.run_sync(_leftovers, self.root, mine, abandon_on_cancel=True)
        except OSError as error:
            raise self._translated(error, "") from error

    async def close(self) -> None:
        """Nothing is held between writes."""

    def _write(self, obj: Object) -> None:
        segments = check_name(obj.name)
        try:
            folder = self._walk(segments[:-1])
        except OSError as error:
            raise self._translated(error, obj.name) from error
        try:
            with _TURNS[hash((self.root, obj.name)) % len(_TURNS)]:
                self._place(folder, segments[-1], obj)
        except OSError as error:
            raise self._translated(error, obj.name) from error
        finally:
            os.close(folder)

    def _place(self, folder: int, name: str, obj: Object) -> None:
        temporary = _temporary_name(name)
        if not obj.replace and _exists(folder, name):
            raise ObjectRefused(
                f"{os.path.join(self.root, obj.name)} exists and was not written by this store: "
                "was the store restored from a copy? Move the file away, then open the store again"
            )
        _remove(folder, temporary)
        try:
            _write_file(folder, temporary, obj.chunks)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            _remove_quietly(folder, temporary)
            raise
        os.fsync(folder)

    def _read(self, name: str) -> bytes:
        segments = check_name(name)
        try:
            with _descend(self.root, segments[:-1]) as folder:
                file = os.open(segments[-1], _OLD_FILE, dir_fd=folder)
                try:
                    if stat.S_ISREG(os.fstat(file).st_mode):
                        with open(file, "rb", closefd=False) as opened:
                            return opened.read()
                finally:
                    os.close(file)
        except OSError as error:
            if error.errno not in _NOTHING_THERE:
                raise self._translated(error, name) from error
        raise ObjectMissing(f"{os.path.join(self.root, name)}: no file lies there")

    def _delete(self, name: str) -> None:
        segments = check_name(name)
        try:
            with _descend(self.root, segments[:-1]) as folder:
                _remove(folder, segments[-1])
                # Also when it was gone: who removed it may have died before that was durable.
                os.fsync(folder)
        except OSError as error:
            if error.errno not in _NOTHING_THERE:
                raise self._translated(error, name) from error

    def _walk(self, segments: Sequence[str]) -> int:
        """A descriptor of the object's directory, made where missing; each level durable in the one above it."""
        here = self._open_root()
        path = self.root
        try:
            for segment in segments:
                path = f"{path}/{segment}"
                below = _enter(here, segment)
                if path not in self._durable:
                    # Also when it was there: the process that made it may have died before it was durable.
                    os.fsync(here)
                    self._remember(path)
                os.close(here)
                here = below
        except BaseException:
            os.close(here)
            raise
        return here

    def _open_root(self) -> int:
        if self.root not in self._durable:
            _make_durably(self.root)
            self._remember(self.root)
        try:
            return os.open(self.root, _DIRECTORY)
        except FileNotFoundError:
            # Removed under our feet: make it again, and believe nothing about what was below it.
            self._durable.clear()
            _make_durably(self.root)
            return os.open(self.root, _DIRECTORY)

    def _remember(self, path: str) -> None:
        if len(self._durable) >= _REMEMBERED:
            self._durable.clear()
        self._durable.add(path)

    def _translated(self, error: OSError, name: str) -> SinkUnavailable | ObjectRefused:
        path = os.path.join(self.root, name)
        if error.errno in _REFUSED:
            return ObjectRefused(f"{path}: {error.strerror}; a link or a file lies where a directory is needed")
        remedy = _REMEDIES.get(error.errno or 0, "is the directory there and writable?")
        return SinkUnavailable(f"{path}: {error.strerror or error}; {remedy}")


def _sweep(root: str, mine: Callable[[str], bool]) -> int:
    swept = 0
    if not os.path.isdir(root):
        return swept
    for _, found, folder in _files(root):
        if found.name.startswith(TEMPORARY) and mine(found.name.removeprefix(TEMPORARY)):
            _remove_quietly(folder, found.name)
            swept += 1
    return swept


def _leftovers(root: str, mine: Callable[[str], bool]) -> list[str]:
    return sorted(
        below + found.name
        for below, found, _ in (_files(root) if os.path.isdir(root) else ())
        if found.name.startswith(TEMPORARY) and mine(found.name.removeprefix(TEMPORARY))
    )


def _temporary_name(name: str) -> str:
    # Beside its place and with its name, so that writing the same object again replaces what a kill left. The end
    # carries the range and the store; a name too long for the prefix loses its beginning.
    return TEMPORARY + name[-(255 - len(TEMPORARY)) :]


@contextmanager
def _descend(root: str, segments: Sequence[str]) -> Iterator[int]:
    """A descriptor of a directory that is there already; no link is followed on the way below the root."""
    here = os.open(root, _DIRECTORY)
    try:
        for segment in segments:
            below = os.open(segment, _DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)


def _names_below(root: str, prefix: str) -> Generator[str, None, None]:
    for below, found, _ in _files(root, prefix):
        name = below + found.name
        if name.startswith(prefix) and not found.name.startswith(TEMPORARY) and _is_writable(name):
            yield name


def _files(root: str, prefix: str = "") -> Generator[tuple[str, os.DirEntry[str], int], None, None]:
    """(folder below the root, file, descriptor of the folder), as they come: a folder may hold millions."""
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            with _descend(root, below.split("/")[:-1]) as folder, os.scandir(folder) as entries:
                for found in entries:
                    if found.is_file(follow_symlinks=False):
                        yield below, found, folder
                    elif found.is_dir(follow_symlinks=False) and _may_hold(f"{below}{found.name}/", prefix):
                        waiting.append(f"{below}{found.name}/")
        except FileNotFoundError:
            if not below:
                raise
            # Deleted while we looked elsewhere.


def _may_hold(folder: str, prefix: str) -> bool:
    return folder.startswith(prefix) or prefix.startswith(folder)


def _is_writable(name: str) -> bool:
    try:
        check_name(name)
    except (ObjectRefused, UnicodeEncodeError):
        return False
    return True


def _enter(folder: int, segment: str) -> int:
    try:
        return os.open(segment, _DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        try:
            os.mkdir(segment, dir_fd=folder)
        except FileExistsError:
            pass  # another stream made it just now
        return os.open(segment, _DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)


def _make_durably(path: str) -> None:
    """The directory with its missing ancestors, each synced into its parent."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for new in reversed(missing):
        try:
            os.mkdir(new)
        except FileExistsError:
            if not os.path.isdir(new):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), new) from None
        parent = os.open(os.path.dirname(new), _DIRECTORY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)


def _write_file(folder: int, name: str, chunks: Sequence[bytes]) -> None:
    file = os.open(name, _NEW_FILE, 0o666, dir_fd=folder)
    try:
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                view = view[os.write(file, view) :]
        os.fsync(file)
    finally:
        os.close(file)


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _remove(folder: int, name: str) -> None:
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass


def _remove_quietly(folder: int, name: str) -> None:
    # The disk that refused the file may refuse this too; the next write of the same name takes it away.
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        pass
