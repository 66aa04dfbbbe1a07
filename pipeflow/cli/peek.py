"""`pipeflow peek` and `purge`: look at a queue without touching it, or empty it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import get_args

import click
import msgspec
from msgspec.structs import replace

from pipeflow.cli import units
from pipeflow.cli.opening import ask, known, store_options, store_url
from pipeflow.cli.output import Column, Row, count, fail_empty_option, found, json_option, one_line, say, show, show_one
from pipeflow.filters import parse_where, view
from pipeflow.protocols import Found, Peeked, Search, State, Store
from pipeflow.specs import FilterPolicy

LONGEST = 200
"""Characters of a body in a listing that is no table."""


def _shortened(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def _written(body: object) -> str:
    return _shortened(body if isinstance(body, str) else msgspec.json.encode(body).decode())


ID = Column("id")
ATTEMPT = Column("attempt", right=True)
AGE = Column("age", write=units.seconds, right=True)
GROUP = Column("group", rare=True)
BODY = Column("body", write=_written, wide=True)
TTL = Column("ttl", write=units.seconds, right=True, rare=True)
PRIORITY = Column("priority", right=True, rare=True)
MESSAGES = (ID, Column("state"), ATTEMPT, AGE, TTL, PRIORITY, GROUP, BODY)
DEAD = (
    ID,
    Column("attempt", right=True, spare=True),
    AGE,
    Column("error"),
    Column("reason", write=_shortened, wide=True),
    Column("body", write=_written, wide=True, spare=True),
)


def row_of(message: Peeked, now: float) -> Row:
    """A message as `--where` sees it, with everything else that is known of it."""
    row: dict[str, object] = msgspec.json.decode(view(message, now))
    row["queue"] = message.queue
    row["size"] = message.size
    row["dedup_id"] = message.dedup_id
    row["visible_at"] = message.visible_at
    row["priority"] = message.priority
    row["ttl"] = None if message.expires_at is None else max(0.0, message.expires_at - now)
    row["key"] = message.key
    row["dead_letter_source"] = message.dead_letter_source
    row["failures"] = [msgspec.structs.asdict(failure) for failure in message.failures]
    return row


def wanted(where: str | Sequence[str] | None, now: float) -> FilterPolicy | None:
    """The policy of `--where`, given once or several times; InvalidFilter when it names what no message has."""
    lines = [where] if isinstance(where, str) else where
    return parse_where(", ".join(lines), now) if lines else None


async def search(store: Store, request: Search, where: Sequence[str]) -> tuple[list[Row], Found]:
    """What is looked for, as rows, and how far that went."""
    await known(store, "queue", request.queue)
    now = store.clock.now()
    found = await store.search(replace(request, where=wanted(where, now)))
    return [row_of(message, now) for message in found], found


@click.command()
@click.argument("queue")
@click.option(
    "--where",
    multiple=True,
    metavar="EXPR",
    help="Such as 'attempt>2', 'error=ValueError', 'body.total>=10', 'age>2h'. All of several must hold.",
)
@click.option("--contains", metavar="TEXT", help="Only with this text somewhere in the body.")
@click.option("--state", type=click.Choice(get_args(State)), help="Only in this state.")
@click.option("--dead", is_flag=True, help="Its dead letters instead.")
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True)
@store_options
@json_option
@fail_empty_option
def peek(
    queue: str,
    where: tuple[str, ...],
    contains: str | None,
    state: State | None,
    dead: bool,
    limit: int,
    broker: str | None,
    app: str | None,
    as_json: bool,
    fail_empty: bool,
) -> None:
    """Look at the messages of QUEUE in the order of their delivery, without touching them.

    --where joins conditions by commas or `and`; it sees id, state, attempt, error, reason, age, group, dedup_id, key,
    priority, sequence, body.FIELD and attributes.NAME. The whole queue is looked through until --limit messages, or
    32 MiB of them, are found.
    """
    needle = contains.encode() if contains is not None else None
    request = Search(queue, limit, dead, None, needle, state)
    rows, looked = ask(store_url(broker, app), lambda store: search(store, request, where))
    show(rows, DEAD if dead else MESSAGES, as_json=as_json, empty=f"nothing to see in {queue}")
    full = not looked.complete and len(looked) < limit
    if where or contains or state or full:
        more = "an answer holds 32 MiB, narrow it down with --where" if full else "--limit shows more"
        rest = "" if looked.complete else f"; {more}"
        say(f"{queue}: {count(len(looked))} found, {count(looked.examined)} looked at{rest}")
    found(rows, fail_empty)


async def empty(store: Store, queue: str) -> int:
    """Delete everything; how many messages there were."""
    await known(store, "queue", queue)
    return await store.purge(queue)


@click.command()
@click.argument("queue")
@click.option("--yes", is_flag=True, help="Do it without asking.")
@store_options
@json_option
def purge(queue: str, yes: bool, broker: str | None, app: str | None, as_json: bool) -> None:
    """Delete every message of QUEUE, also those in flight. There is no way back."""
    url = store_url(broker, app)
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"purging {queue} deletes its messages for good: add --yes")
        click.confirm(f"Delete every message of {queue} in {url} for good?", abort=True, err=True)
    purged = ask(url, lambda store: empty(store, queue))
    show_one({"queue": queue, "purged": purged}, f"{queue}: {count(purged)} messages deleted", as_json=as_json)
