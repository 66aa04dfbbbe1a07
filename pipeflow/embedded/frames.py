"""Frames on a Unix socket: four bytes of length, big-endian, then as many bytes of msgpack; never more than the bound.

Reading is a protocol and not a task, so a connection costs none; whoever owns it is called back, frame by frame.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from pipeflow.errors import ConfigurationError
from pipeflow.names import digest

logger = logging.getLogger("pipeflow")

MAX_FRAME = 64 << 20
"""Bytes of one frame; a longer one is refused and ends the connection."""

_LONGEST_ADDRESS = 100
"""Bytes: what every system takes in a socket's address (Linux 107, macOS 103)."""

_LONGEST_NAME = 60
"""Bytes: leaves room in an address for a short way to the directory."""

_LENGTH = struct.Struct(">I")


class Frames(asyncio.Protocol):
    """One connection, cut into frames. `on_frame` gets each one, `on_lost` is called once, with the reason or None."""

    def __init__(
        self,
        on_frame: Callable[[bytes], None],
        on_lost: Callable[[Exception | None], None],
        on_open: Callable[[], None] = lambda: None,
        on_refused: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._on_open = on_open
        self._on_refused = on_refused
        self._buffer = bytearray()
        self._needed = 0
        self._paused = False
        self._drained: list[asyncio.Future[None]] = []
        self._transport: asyncio.Transport | None = None

    @property
    def open(self) -> bool:
        """Whether frames can be written."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Other loops have transports of their own, which only look like asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=1 << 20)
        self._on_open()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 4 and self.open:
            if not self._needed:
                (self._needed,) = _LENGTH.unpack_from(buffer)
                if self._needed > MAX_FRAME:
                    self._on_refused(f"a frame of {self._needed} bytes; at most {MAX_FRAME} are taken")
                    self.close()
                    return
            end = 4 + self._needed
            if len(buffer) < end:
                return
            frame = bytes(memoryview(buffer)[4:end])
            del buffer[:end]
            self._needed = 0
            self._on_frame(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.resume_writing()
        self._on_lost(exc)

    def write(self, frame: bytes) -> None:
        """Hand one frame over; on a connection that is gone it vanishes. The bound is the caller's business."""
        if self._transport is not None:
            self._transport.writelines((_LENGTH.pack(len(frame)), frame))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        for waiter in self._drained:
            if not waiter.done():
                waiter.set_result(None)
        self._drained.clear()

    async def drained(self) -> None:
        """Return when the other side takes what is written, or is gone; at once when it keeps up."""
        while self._paused:
            waiter = asyncio.get_running_loop().create_future()
            self._drained.append(waiter)
            await waiter

    def read_on(self, wanted: bool) -> None:
        """Take further frames, or let them wait in the other side's kernel."""
        if self._transport is None or self._transport.is_closing():
            return
        if wanted and not self._transport.is_reading():
            self._transport.resume_reading()
        elif not wanted and self._transport.is_reading():
            self._transport.pause_reading()

    def close(self) -> None:
        """Send what is written, then end the connection."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def peer(self) -> tuple[int, int] | None:
        """(process, user) at the other end, as the system says; None where it does not tell."""
        if self._transport is None or not hasattr(socket, "SO_PEERCRED"):
            return None
        # Not every loop's socket answers getsockopt; every one has a descriptor.
        with socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno())) as peer:
            packed = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        process, user, _ = struct.unpack("3i", packed)
        return process, user


def socket_path(database: str | os.PathLike[str]) -> Path:
    """Where the owner of this database file listens: beside it, with `.sock` behind its name."""
    path = Path(os.path.realpath(database))
    return short_named(path.with_name(f"{path.name}.sock"))


def short_named(path: Path) -> Path:
    """The path, with a fingerprint for its last part where that is too long for any address."""
    name = os.fsencode(path.name)
    return path if len(name) <= _LONGEST_NAME else path.with_name(f"{digest(name, 8).hex()}.sock")


@contextmanager
def address_of(path: Path) -> Iterator[str]:
    """An address that the system takes for this path, however long its directory is."""
    if len(os.fsencode(path)) <= _LONGEST_ADDRESS:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        # Linux alone has the directory's descriptor as a path; elsewhere one must go through it.
        if os.path.isdir(f"/proc/self/fd/{directory}"):
            yield f"/proc/self/fd/{directory}/{path.name}"
        else:
            with _short_link(path) as address:
                yield address
    finally:
        os.close(directory)


@contextmanager
def _short_link(path: Path) -> Iterator[str]:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="pf", dir=os.environ.get("XDG_RUNTIME_DIR")) as directory:
        link = Path(directory, "d")
        link.symlink_to(path.parent, target_is_directory=True)
        yield str(link / path.name)


def listening_socket(path: Path) -> socket.socket:
    """A socket that listens at this path, readable by its user alone; replaces one that a dead owner left.

    Call it only while holding the store's lock: then whatever socket lies there is nobody's.
    """
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        # On Linux the mode of the descriptor becomes the mode of the file, so it is never wider for a moment.
        os.fchmod(listener.fileno(), 0o600)
        with address_of(path) as address:
            listener.bind(address)
            os.chmod(path, 0o600)
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    return listener


def _clear(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigurationError(f"{path}: something that is no socket lies where the store's socket belongs; move it")
    path.unlink()


def connected_socket(path: Path) -> socket.socket:
    """A socket connected to the owner that listens at this path; OSError when nobody does."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with address_of(path) as address:
            # A Unix socket connects at once or not at all, unless the owner's backlog is full.
            connection.settimeout(5)
            connection.connect(address)
        connection.setblocking(False)
    except BaseException:
        connection.close()
        raise
    return connection
