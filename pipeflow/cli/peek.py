"""`pipeflow peek` and `purge`: look at a queue without touching it, or empty it."""

from __future__ import annotations

import sys

import click
import msgspec

from pipeflow.cli import units
from pipeflow.cli.main import suggestion
from pipeflow.cli.opening import ask, known, store_options, store_url
from pipeflow.cli.output import Column, Row, count, fail_empty_option, found, json_option, one_line, show, show_one
from pipeflow.errors import InvalidFilter
from pipeflow.filters import parse_where, view
from pipeflow.protocols import Peeked, Store
from pipeflow.specs import FilterPolicy

FIELDS = {"id", "state", "attempt", "error", "reason", "sent_at", "age", "group", "sequence", "body", "attributes"}
"""What `--where` sees of a message, as `pipeflow.filters.view` shows it."""

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
MESSAGES = (ID, Column("state"), ATTEMPT, AGE, TTL, GROUP, BODY)
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
    row["ttl"] = None if message.expires_at is None else max(0.0, message.expires_at - now)
    row["dead_letter_source"] = message.dead_letter_source
    row["failures"] = [msgspec.structs.asdict(failure) for failure in message.failures]
    return row


def wanted(where: str | None, now: float) -> FilterPolicy | None:
    """The policy of `--where`; InvalidFilter when it names what no message has, which would silently match nothing."""
    if where is None:
        return None
    policy = parse_where(where, now)
    for name in msgspec.json.decode(policy.policy, type=dict[str, object]):
        if name not in FIELDS and not name.startswith(("body.", "attributes.")):
            raise InvalidFilter(
                f"where {where!r}: no field {name!r}{suggestion(name, FIELDS)}: there are {', '.join(sorted(FIELDS))}, "
                "body.FIELD and attributes.NAME"
            )
    return policy


async def look(store: Store, queue: str, *, where: str | None, limit: int, dead: bool) -> list[Row]:
    """Messages in delivery order that `where` takes, at most `limit`."""
    await known(store, "queue", queue)
    now = store.clock.now()
    messages = await store.peek(queue, limit, dead, wanted(where, now))
    return [row_of(message, now) for message in messages]


@click.command()
@click.argument("queue")
@click.option("--where", metavar="EXPR", help="Such as 'attempt>2', 'error=ValueError', 'body.total>=10', 'age>2h'.")
@click.option("--dead", is_flag=True, help="Its dead letters instead.")
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True)
@store_options
@json_option
@fail_empty_option
def peek(
    queue: str,
    where: str | None,
    dead: bool,
    limit: int,
    broker: str | None,
    app: str | None,
    as_json: bool,
    fail_empty: bool,
) -> None:
    """Look at the messages of QUEUE in the order of their delivery, without touching them.

    --where joins conditions by commas or `and`; it sees id, state, attempt, error, reason, age, group, sequence,
    body.FIELD and attributes.NAME.
    """
    url = store_url(broker, app)
    rows = ask(url, lambda store: look(store, queue, where=where, limit=limit, dead=dead))
    show(rows, DEAD if dead else MESSAGES, as_json=as_json, empty=f"nothing to see in {queue}")
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
