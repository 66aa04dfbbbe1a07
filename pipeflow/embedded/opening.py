"""Stores by URL: `memory://`, and one SQLite file as `sqlite:///relative.db` or `sqlite:////absolute.db`.

A store outlives the call that opens it and may be closed by another task (a lifespan, a fixture), while a task group
must be left by the task that entered it. So each open store has one keeper: a task that owns the store's task group
from the first line to the last, and ends when the store is closed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from anyio.abc import TaskGroup

from pipeflow.clock import Clock, Signal, SystemClock
from pipeflow.embedded.broker import Door, EmbeddedBroker
from pipeflow.embedded.head import HOT_MESSAGES
from pipeflow.embedded.journal import Forget, Journal
from pipeflow.embedded.remote import connect
from pipeflow.embedded.socket import OwnerSocket
from pipeflow.embedded.sqlite.ahead import LEAST_BYTES, LOG_BYTES, MOST_BYTES
from pipeflow.embedded.sqlite.journal import SqliteJournal
from pipeflow.embedded.sqlite.ownership import owner_of
from pipeflow.embedded.sqlite.room import MIN_FREE
from pipeflow.errors import ConfigurationError, StoreOwned
from pipeflow.names import new_secret
from pipeflow.protocols import Store

logger = logging.getLogger("pipeflow")

_open: dict[tuple[str, asyncio.AbstractEventLoop], Kept] = {}
"""Stores that are open in this process, by real path and loop: a second App on the same file shares the broker."""

PATIENCE = 10.0
"""Seconds in which some owner of the store must let a client in."""
PAUSE = 0.02
"""Seconds between two looks: commands hold a store for a few hundredths."""

OPTIONS = {"accept_loss", "durability", "hot_messages", "log_bytes", "min_free"}


class Kept(EmbeddedBroker):
    """An embedded broker with its keeper. `close` ends it when every opener has closed."""

    def __init__(self, journal: Journal, clock: Clock, *, url: str, seed: int | None, hot_messages: int) -> None:
        super().__init__(journal, clock, url=url, seed=seed, hot_messages=hot_messages)
        self.openers = 1
        self.place: tuple[str, asyncio.AbstractEventLoop] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._socket_path: Path | None = None
        self._opened: asyncio.Future[None] | None = None

    async def open(self, socket_path: Path | None) -> None:
        """Recover, and keep the store open until `close`."""
        self._socket_path = socket_path
        opened = self._opened = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep(opened), name=f"keeper of {self.url}")
        await asyncio.shield(opened)

    async def join(self) -> None:
        """One more opener, who waits for the first one's recovery; what that fails with, this does too."""
        assert self._opened is not None
        self.openers += 1
        await asyncio.shield(self._opened)

    async def _keep(self, opened: asyncio.Future[None]) -> None:
        def ready() -> None:
            if not opened.done():
                opened.set_result(None)

        try:
            await self.run(ready)
        except asyncio.CancelledError:
            # The program's loop ends around an open store. What was acknowledged is on disk; the next start recovers.
            logger.warning("%s: the program ended without closing the store", self.url)
            opened.cancel()
            raise
        except BaseException as error:
            if not opened.done():
                opened.set_exception(error)
                return
            self.lost(error)
        finally:
            if self.place is not None:
                _open.pop(self.place, None)

    async def serve(self, tasks: TaskGroup) -> Door | None:
        """Let other processes in, where the store has a place they can find."""
        if self._socket_path is None:
            return None
        socket = OwnerSocket()
        await socket.start(self, self._socket_path, tasks)
        return socket

    async def close(self) -> None:
        """Drain and let go, once every opener has closed."""
        self.openers -= 1
        if self.openers > 0:
            return
        await super().close()
        if self._keeper is not None:
            await asyncio.shield(self._keeper)


async def open_memory(url: str, *, clock: Clock, client: bool, seed: int | None) -> Store:
    """A store that forgets: for tests, and for what need not survive."""
    journal = Forget(store_id="memory", receipt_key=new_secret())
    broker = Kept(journal, clock, url=url, seed=seed, hot_messages=HOT_MESSAGES)
    await broker.open(None)
    return broker


async def open_sqlite(url: str, *, clock: Clock, client: bool, seed: int | None) -> Store:
    """A store in one file. With `client`, through its owner's socket when another process owns it."""
    path, options = _parse(url)
    real = _real(path)
    place = (str(real), asyncio.get_running_loop())
    if not client:
        return await _shared(place) or await _own(place, real, url, options, clock, seed)
    # Another program may own the store for the blink of its work: its going and coming is waited out. The lock has no
    # signal, and a virtual clock no say in what other processes do.
    wall = SystemClock()
    until = wall.now() + PATIENCE
    while True:
        shared = await _shared(place)
        if shared is not None:
            return shared
        try:
            if owner_of(real) is not None:
                return await connect(real.with_name(real.name + ".sock"), url, clock)
            return await _own(place, real, url, options, clock, seed)
        except StoreOwned:
            if wall.now() >= until:
                raise
        await wall.wait(Signal(), wall.now() + PAUSE)


async def _shared(place: tuple[str, asyncio.AbstractEventLoop]) -> Kept | None:
    known = _open.get(place)
    if known is None or known.openers <= 0:
        return None
    await known.join()
    return known


async def _own(
    place: tuple[str, asyncio.AbstractEventLoop],
    real: Path,
    url: str,
    options: dict[str, str],
    clock: Clock,
    seed: int | None,
) -> Store:
    journal = SqliteJournal(
        real,
        clock,
        durability=options.get("durability", "full"),
        min_free=int(options.get("min_free", MIN_FREE)),
        accept_loss=options.get("accept_loss") == "1",
        log_bytes=int(options.get("log_bytes", LOG_BYTES)),
    )
    broker = Kept(journal, clock, url=url, seed=seed, hot_messages=int(options.get("hot_messages", HOT_MESSAGES)))
    broker.place = place
    _open[place] = broker
    await broker.open(real.with_name(real.name + ".sock"))
    return broker


def _real(path: str) -> Path:
    return Path(os.path.realpath(path))


def _parse(url: str) -> tuple[str, dict[str, str]]:
    place, _, query = url.removeprefix("sqlite://").partition("?")
    if not place.startswith("/") or len(place) < 2:
        raise ConfigurationError(
            f"broker {url!r}: write sqlite:///file.db for a file beside the program, sqlite:////path/file.db otherwise"
        )
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - OPTIONS)
    if unknown:
        raise ConfigurationError(f"broker {url!r}: unknown option {unknown[0]}; known are {', '.join(sorted(OPTIONS))}")
    if options.get("durability", "full") not in ("full", "normal"):
        raise ConfigurationError(f"broker {url!r}: durability is {options['durability']!r}; use full or normal")
    for name in ("accept_loss", "hot_messages", "log_bytes", "min_free"):
        if name in options and not options[name].isdecimal():
            raise ConfigurationError(f"broker {url!r}: {name} is {options[name]!r}; use a whole number")
    log_bytes = int(options.get("log_bytes", LOG_BYTES))
    if log_bytes and not LEAST_BYTES <= log_bytes <= MOST_BYTES:
        raise ConfigurationError(
            f"broker {url!r}: log_bytes is {log_bytes}; use {LEAST_BYTES} (8 KiB) to {MOST_BYTES} (1 GiB), or 0 for a"
            f" store without a commit log. Without the option it is {LOG_BYTES} (64 MiB)"
        )
    return unquote(place[1:]), options
