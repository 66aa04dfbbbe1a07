"""`pipeflow send`, `publish` and `put`: bodies from arguments, files or stdin into the store, many in one commit."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar

import anyio.to_thread
import click
import msgspec

from pipeflow.cli.bodies import Body, attributes, batches, bodies, files_size
from pipeflow.cli.opening import ask, known, store_options, store_url
from pipeflow.cli.output import count, json_option, say, show_one
from pipeflow.cli.units import duration
from pipeflow.engine.lacking import lacking
from pipeflow.errors import CodecError
from pipeflow.messages import Outgoing, Position, Refused, Sent
from pipeflow.protocols import Store

C = TypeVar("C", bound=Callable[..., object])
Kind = Literal["queue", "topic", "stream"]

SHOWN = 10
"""Refused bodies that are told one by one; the rest are counted."""


class Tally(msgspec.Struct):
    """What became of the bodies."""

    target: str
    accepted: int = 0
    duplicates: int = 0
    refused: int = 0
    replaced: int = 0
    """Took the place of a delayed message of their key."""
    id: str | None = None
    """Of the only message, when there was one."""
    first: int | None = None
    last: int | None = None
    """Positions in a stream."""

    def count(self, body: Body, result: Sent | Position | Refused) -> None:
        """Add one result."""
        match result:
            case Refused():
                self.refused += 1
                if self.refused <= SHOWN:
                    click.echo(f"error: {body.place}: refused ({result.code}): {result.reason}", err=True)
            case Position():
                self.accepted += 1
                self.first = self.first or result.sequence
                self.last = result.sequence
            case Sent():
                self.accepted += 1
                self.duplicates += result.duplicate
                self.replaced += result.replaced
                self.id = result.id if self.accepted == 1 else None


class Delivering:
    """Hands every body over in batches, each acknowledged before the next; `like` holds everything but the body.

    `into` may be called again with another store, and goes on with the first batch that was not acknowledged.
    """

    def __init__(
        self, kind: Kind, name: str, like: Outgoing, source: Iterator[Body], moved: Callable[[int], None]
    ) -> None:
        self.tally = Tally(name)
        self._kind: Kind = kind
        self._name = name
        self._like = like
        self._batches = batches(source)
        self._batch: list[Body] | None = None
        self._moved = moved

    async def into(self, store: Store) -> Tally:
        """Hand over what is left."""
        await known(store, self._kind, self._name)
        lacks = lacking(store)
        if lacks is not None:
            lacks.check(f"{self._kind} {self._name}", (self._like,))
        # Whoever writes to stdin may take hours; meanwhile this loop serves the store to others, and hears Ctrl-C.
        while (batch := await anyio.to_thread.run_sync(self._next, abandon_on_cancel=True)) is not None:
            messages = [msgspec.structs.replace(self._like, body=body.content) for body in batch]
            results = await self._accept(store, messages)
            self._batch = None
            for body, result in zip(batch, results, strict=True):
                self.tally.count(body, result)
            self._moved(len(batch))
        return self.tally

    async def _accept(self, store: Store, messages: Sequence[Outgoing]) -> Sequence[Sent | Position | Refused]:
        match self._kind:
            case "queue":
                return await store.send(self._name, messages)
            case "topic":
                return await store.publish(self._name, messages)
            case "stream":
                return await store.append(self._name, messages)

    def _next(self) -> list[Body] | None:
        if self._batch is None:
            try:
                self._batch = next(self._batches, None)
            except CodecError:
                if self.tally.accepted:
                    say(f"{self._name}: {count(self.tally.accepted)} accepted before the error")
                raise
        return self._batch


@contextmanager
def progress(name: str, total: int | None) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """A bar on stderr when that is a terminal; (bytes were read, bodies were accepted)."""
    if not sys.stderr.isatty():
        yield (lambda size: None), (lambda number: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *([MofNCompleteColumn()] if total is None else [TextColumn("{task.percentage:>3.0f}%")]),
        TextColumn("{task.fields[accepted]:,} accepted"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(name, total=total, accepted=0)
        accepted = 0

        def moved(number: int) -> None:
            nonlocal accepted
            accepted += number
            bar.update(task, accepted=accepted)

        yield (lambda size: bar.advance(task, size)), moved


def carry_out(url: str, kind: Kind, name: str, arguments: Sequence[str], raw: bool, like: Outgoing) -> Tally:
    """The whole command, but for what it prints."""
    delivering: Delivering | None = None
    try:
        with progress(name, files_size(arguments)) as (read, moved):
            source = bodies(arguments, raw, read)
            delivering = Delivering(kind, name, like, source, moved)
            return ask(url, delivering.into)
    except KeyboardInterrupt:
        say(f"{name}: {count(delivering.tally.accepted if delivering else 0)} accepted before the interruption")
        if any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
            # The store is closed, but a thread waits for stdin, and Python would wait for that thread.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(128 + signal.SIGINT)
        raise


def report(tally: Tally, as_json: bool) -> None:
    """The id of a single message, else how many there were; exit code 1 when some were refused."""
    if as_json:
        show_one(msgspec.to_builtins(tally), "", as_json=True)
    elif tally.id is not None:
        click.echo(tally.id)
    if tally.id is None or tally.refused or tally.duplicates or tally.replaced:
        say(f"{tally.target}: {summary(tally)}")
    if tally.refused:
        raise click.exceptions.Exit(1)


def summary(tally: Tally) -> str:
    """`1,000 accepted, 2 duplicates, 1 refused`."""
    parts = [f"{count(tally.accepted)} accepted"]
    if tally.first is not None:
        parts.append(f"positions {tally.first} to {tally.last}")
    if tally.duplicates:
        parts.append(f"{count(tally.duplicates)} of them duplicates of earlier ones")
    if tally.replaced:
        parts.append(f"{count(tally.replaced)} took the place of a delayed one")
    if tally.refused:
        parts.append(f"{count(tally.refused)} refused")
    return ", ".join(parts)


def body_options(command: C) -> C:
    """What all three have in common."""
    command = click.option(
        "--raw", is_flag=True, help="Bytes as they are, in files one body a line: no JSON is asked for."
    )(command)
    return click.argument("body", nargs=-1)(command)


def message_options(command: C) -> C:
    """What messages have and records have not."""
    command = click.option("--dedup-id", metavar="ID", help="Suppresses a second message of this id for five minutes.")(
        command
    )
    command = click.option(
        "--priority", type=click.IntRange(0, 9), default=0, metavar="0-9", help="The highest in a queue comes first."
    )(command)
    command = click.option(
        "--ttl", type=duration, metavar="DURATION", help="Until it is gone, handled or not: 30s, 2h."
    )(command)
    command = click.option("--group", metavar="NAME", help="Message group: delivered in order.")(command)
    return click.option(
        "--attr", "attr", multiple=True, metavar="NAME=TEXT", help="An attribute; NAME:=JSON for numbers and lists."
    )(command)


def _check_single(arguments: Sequence[str], option: str, value: str | None) -> None:
    if value is not None and (len(arguments) != 1 or arguments[0] == "-"):
        raise click.UsageError(f"{option} names one message: give exactly one body")


@click.command()
@click.argument("queue")
@body_options
@message_options
@click.option("--delay", type=duration, metavar="DURATION", help="Until it becomes visible: 30s, 5m, 2h, 366d at most.")
@click.option(
    "--key", metavar="KEY", help="Takes the place of the delayed message of this key; `pipeflow cancel` ends it."
)
@store_options
@json_option
def send(
    queue: str,
    body: tuple[str, ...],
    raw: bool,
    attr: tuple[str, ...],
    group: str | None,
    dedup_id: str | None,
    ttl: float | None,
    priority: int,
    delay: float | None,
    key: str | None,
    broker: str | None,
    app: str | None,
    as_json: bool,
) -> None:
    """Send messages to QUEUE.

    Each BODY is one message. @FILE, or - for stdin (also when there is no BODY), holds one JSON document or one a line;
    lines go in batches, each durable before the next. Prints the id of a single message.
    """
    _check_single(body, "--dedup-id", dedup_id)
    _check_single(body, "--key", key)
    like = Outgoing(b"", attributes(attr), None, group, dedup_id, delay, ttl=ttl, priority=priority, key=key)
    report(carry_out(store_url(broker, app), "queue", queue, body, raw, like), as_json)


@click.command()
@click.argument("topic")
@body_options
@message_options
@store_options
@json_option
def publish(
    topic: str,
    body: tuple[str, ...],
    raw: bool,
    attr: tuple[str, ...],
    group: str | None,
    dedup_id: str | None,
    ttl: float | None,
    priority: int,
    broker: str | None,
    app: str | None,
    as_json: bool,
) -> None:
    """Publish messages to TOPIC: to every queue and stream whose filter takes them.

    BODY, @FILE and stdin as in `pipeflow send`. Prints the id of a single message.
    """
    _check_single(body, "--dedup-id", dedup_id)
    like = Outgoing(b"", attributes(attr), None, group, dedup_id, ttl=ttl, priority=priority)
    report(carry_out(store_url(broker, app), "topic", topic, body, raw, like), as_json)


@click.command()
@click.argument("stream")
@body_options
@store_options
@json_option
def put(stream: str, body: tuple[str, ...], raw: bool, broker: str | None, app: str | None, as_json: bool) -> None:
    """Put records into STREAM; the app that owns it delivers them to files.

    BODY, @FILE and stdin as in `pipeflow send`.
    """
    report(carry_out(store_url(broker, app), "stream", stream, body, raw, Outgoing(b"")), as_json)
