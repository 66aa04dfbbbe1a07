"""Which store a command works on, and how it is reached: through its owner while an app runs, else as its owner."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import unquote, urlsplit

import anyio
import click

from pipeflow.cli.main import suggestion
from pipeflow.clock import Signal, SystemClock
from pipeflow.errors import ConfigurationError, NotFound, Unavailable
from pipeflow.protocols import Store
from pipeflow.registry import open_store

T = TypeVar("T")
PATIENCE = 10.0
"""Seconds in which some owner of the store must let us in."""

PAUSE = 0.02
"""Seconds between two looks: other commands hold a store for a few hundredths."""

C = TypeVar("C", bound=Callable[..., object])


def store_options(command: C) -> C:
    """`--broker` and `--app`, handed to the command as `broker` and `app`."""
    named = click.option("--app", metavar="MODULE:APP", help="Take the store of this app.")(command)
    return click.option(
        "--broker",
        metavar="URL",
        envvar="PIPEFLOW_BROKER",
        show_envvar=True,
        help="The store, such as sqlite:///shop.db. Default: that of the app.",
    )(named)


def store_url(broker: str | None, app: str | None) -> str:
    """The URL of the store: as given, else the app's. ConfigurationError when there is neither."""
    if broker is not None:
        return broker
    from pipeflow.cli.loading import load_app, usual_target

    if app is None and usual_target() is None:
        raise ConfigurationError(
            f"{Path.cwd()}: no store is named here; pass --broker sqlite:///FILE, set PIPEFLOW_BROKER, or name the app "
            "with --app MODULE:APP"
        )
    return load_app(app).broker


def database_of(url: str) -> Path | None:
    """The file of a sqlite URL, None for every other: sqlite:///relative.db, sqlite:////absolute.db."""
    parts = urlsplit(url)
    if parts.scheme != "sqlite" or parts.netloc:
        return None
    return Path(unquote(parts.path.removeprefix("/")))


def ask(url: str, work: Callable[[Store], Awaitable[T]]) -> T:
    """What `work` answers about the store at this URL, which must exist: asking creates nothing.

    An owner may go away meanwhile. What was not begun then is done with the next one: `work` is called again, and goes
    on where it was.
    """
    check_reachable(url)
    return anyio.run(_answered, url, work)


async def _answered(url: str, work: Callable[[Store], Awaitable[T]]) -> T:
    clock = SystemClock()
    until = clock.now() + PATIENCE
    while True:
        async with opened(url) as store:
            try:
                return await work(store)
            except Unavailable:
                if not store.features.reconnects or clock.now() >= until:
                    raise
        await clock.wait(Signal(), clock.now() + PAUSE)


def check_reachable(url: str) -> None:
    """ConfigurationError for a store that holds nothing a command could look at."""
    if urlsplit(url).scheme == "memory":
        raise ConfigurationError(
            f"{url}: a store in memory lives and ends inside its app; use sqlite:///FILE to reach it from outside"
        )
    database = database_of(url)
    if database is None:
        return
    if database.is_dir() or (database.exists() and not database.stat().st_size):
        what = "a directory" if database.is_dir() else "empty"
        raise ConfigurationError(f"{url}: {database.absolute()} is {what}, no store; name another with --broker")
    if not database.exists():
        raise ConfigurationError(
            f"{url}: there is no file {database.absolute()}; start the app to make it, or name another with --broker"
        )


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    """The store, through its owner when there is one; closed at the end."""
    store = await open_store(url, client=True)
    try:
        yield store
    finally:
        await store.close()


async def known(store: Store, kind: Literal["queue", "topic", "stream"], name: str) -> None:
    """NotFound, with the nearest name there is, unless the store has such a noun."""
    topology = await store.describe()
    specs: dict[str, Iterable[str]] = {
        "queue": [spec.name for spec in topology.queues],
        "topic": [spec.name for spec in topology.topics],
        "stream": [spec.name for spec in topology.streams],
    }
    names = list(specs[kind])
    if name not in names:
        hint = suggestion(name, names) or f"; it has {', '.join(names) or 'none'}"
        raise NotFound(f"no {kind} {name!r} in {store.url}{hint}")
