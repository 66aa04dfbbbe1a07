"""`pipeflow dlq`: what failed and why, and the way back. Dead letters are named by the queue they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from typing import Any

import click
import msgspec
from msgspec.structs import replace

from pipeflow.cli import units
from pipeflow.cli.main import Suggesting
from pipeflow.cli.opening import ask, known, store_options, store_url
from pipeflow.cli.output import (
    Column,
    Row,
    count,
    fail_empty_option,
    found,
    json_option,
    number,
    one_line,
    say,
    show,
    show_one,
)
from pipeflow.cli.peek import DEAD, look, row_of, wanted
from pipeflow.clock import Signal
from pipeflow.errors import ConfigurationError, NotFound
from pipeflow.filters import parse_where
from pipeflow.moves import Move
from pipeflow.protocols import Redrive, Redriven, Store
from pipeflow.specs import QueueSpec

GROUPED = (
    Column("error"),
    Column("reason", write=one_line, wide=True),
    Column("count", write=count, right=True),
    Column("oldest", write=units.seconds, right=True),
    Column("newest", write=units.seconds, right=True),
    Column("example", spare=True),
)
MOVES = (
    Column("id"),
    Column("queue"),
    Column("state"),
    number("moved"),
    number("to_move", "at the start"),
    Column("rate", write=lambda rate: f"{rate:g}/s" if rate else "-", right=True),
    Column("to", write=lambda to: to or "-"),
    Column("failure", write=one_line, rare=True),
)
LOOK_EVERY = 0.2
"""Seconds between two looks at a move that is waited for."""
MOST = 100_000
"""Dead letters that are looked at for grouping."""


class _Rate(click.ParamType[float]):
    """`100/s`, or `100`."""

    name = "rate"

    def convert(self, value: object, param: click.Parameter | None, context: click.Context | None) -> float:
        try:
            rate = float(str(value).removesuffix("/s"))
        except ValueError:
            rate = 0.0
        if not 0 < rate < inf:
            self.fail(f"{value!r} is no rate; write messages a second, such as 100/s", param, context)
        return rate


RATE = _Rate()


@click.group(cls=Suggesting)
def dlq() -> None:
    """List, show and redrive the dead letters of a queue."""


async def _with_dead_letters(store: Store, queue: str) -> QueueSpec:
    await known(store, "queue", queue)
    spec = next(spec for spec in (await store.describe()).queues if spec.name == queue)
    if spec.dead_letters is None:
        source = [other.name for other in (await store.describe()).queues if other.dead_letters == queue]
        hint = f"; it holds those of {', '.join(source)}: name that queue" if source else ""
        raise ConfigurationError(f"{queue}: this queue has no dead letters{hint}")
    return spec


async def dead_rows(store: Store, queue: str, where: str | None, limit: int) -> list[Row]:
    """The dead letters that `where` takes, oldest first."""
    await _with_dead_letters(store, queue)
    return await look(store, queue, where=where, limit=limit, dead=True)


def grouped(rows: Sequence[Row], by: str) -> list[Row]:
    """One row for each value of `by`, the most frequent first."""
    groups: dict[object, list[Any]] = {}
    for row in rows:
        failures: Any = row["failures"]
        key = (failures[-1]["digest"] if failures else "") if by == "place" else row[by]
        groups.setdefault(key, []).append(row)
    told: list[dict[str, Any]] = [
        {
            "error": members[0]["error"],
            "reason": members[0]["reason"] if len({row["reason"] for row in members}) == 1 else "(several)",
            "count": len(members),
            "oldest": max(row["age"] for row in members),
            "newest": min(row["age"] for row in members),
            "example": members[0]["id"],
        }
        for members in groups.values()
    ]
    told.sort(key=lambda group: -int(group["count"]))
    return list(told)


@dlq.command("ls")
@click.argument("queue")
@click.option("--where", metavar="EXPR", help="As in `pipeflow peek`.")
@click.option(
    "--group-by",
    type=click.Choice(["error", "reason", "place"]),
    help="Count them by class of error, by its text, or by the place in the code that raised it.",
)
@click.option("--limit", type=click.IntRange(min=1), help=f"Default 100; {count(MOST)} with --group-by.")
@store_options
@json_option
@fail_empty_option
def ls(
    queue: str,
    where: str | None,
    group_by: str | None,
    limit: int | None,
    broker: str | None,
    app: str | None,
    as_json: bool,
    fail_empty: bool,
) -> None:
    """List the dead letters of QUEUE."""
    url = store_url(broker, app)
    most = limit or (MOST if group_by else 100)
    rows = ask(url, lambda store: dead_rows(store, queue, where, most))
    nothing = f"{queue}: no dead letters" + (" that match" if where else "")
    if group_by is not None:
        show(grouped(rows, group_by), GROUPED, as_json=as_json, empty=nothing)
    else:
        show(rows, DEAD, as_json=as_json, empty=nothing)
    if len(rows) == most:
        say(f"the first {count(most)}; --limit shows more")
    found(rows, fail_empty)


async def one(store: Store, queue: str, id: str) -> Row:
    """The dead letter whose id is, or uniquely begins with, `id`."""
    await _with_dead_letters(store, queue)
    now = store.clock.now()
    pattern = f"id='{id}'" if len(id) >= 36 else f"id={id}*"
    letters = await store.peek(queue, 10, True, parse_where(pattern, now))
    if len(letters) == 1:
        return row_of(letters[0], now)
    if letters:
        ids = ", ".join(letter.id for letter in letters)
        raise NotFound(f"{queue}: several dead letters begin with {id!r}: {ids}; write more of the id")
    raise NotFound(f"{queue}: no dead letter {id!r}; pipeflow dlq ls {queue} lists them")


def written(row: Row) -> str:
    """Everything about one message, for a person."""
    failures: Any = row["failures"]
    lines = [
        f"{key + ':':<12} {row[key] if key != 'age' else units.seconds(float(str(row[key])))}"
        for key in ("id", "queue", "dead_letter_source", "attempt", "age", "group", "dedup_id", "sequence")
        if row[key] is not None
    ]
    attributes: Any = row["attributes"]
    lines += [
        f"{'attribute:':<12} {name} = {msgspec.json.encode(value).decode()}" for name, value in attributes.items()
    ]
    lines += [f"{'failed:':<12} {_failure(failure)}" for failure in failures]
    body = row["body"]
    text = body if isinstance(body, str) else msgspec.json.format(msgspec.json.encode(body)).decode()
    return "\n".join([*lines, "", text])


def _failure(failure: Mapping[str, Any]) -> str:
    at = datetime.fromtimestamp(failure["at"], UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    place = f"  [{failure['digest']}]" if failure["digest"] else ""
    return f"{at}  attempt {failure['attempt']}  {failure['type']}: {one_line(failure['message'])}{place}"


@dlq.command("show")
@click.argument("queue")
@click.argument("id")
@store_options
@json_option
def show_letter(queue: str, id: str, broker: str | None, app: str | None, as_json: bool) -> None:
    """Show one dead letter of QUEUE whole: every failed attempt, attributes, body. ID may be its beginning."""
    row = ask(store_url(broker, app), lambda store: one(store, queue, id))
    show_one(row, written(row), as_json=as_json)


async def drive_back(store: Store, request: Redrive, where: str | None) -> Redriven:
    """Move dead letters back, or only count them."""
    return await store.redrive(await _wanted(store, request, where))


async def _wanted(store: Store, request: Redrive, where: str | None) -> Redrive:
    await _with_dead_letters(store, request.queue)
    if request.to is not None:
        await known(store, "queue", request.to)
    return replace(request, where=wanted(where, store.clock.now()))


async def drive_slowly(store: Store, request: Redrive, where: str | None, detach: bool) -> Move:
    """Start a move and see it to its end, or not."""
    move = await store.start_move(await _wanted(store, request, where))
    nobody = Signal()
    while move.under_way and not detach:
        await store.clock.wait(nobody, store.clock.now() + LOOK_EVERY)
        move = next(each for each in await store.moves(request.queue) if each.id == move.id)
    return move


@dlq.command("redrive")
@click.argument("queue")
@click.option("--where", metavar="EXPR", help="Only those that match, as in `pipeflow peek`.")
@click.option("--to", metavar="QUEUE", help="Another queue than the one they came from.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
@click.option("--rate", metavar="N/s", type=RATE, help="So many a second at most, such as 100/s.")
@click.option("--detach", is_flag=True, help="Do not wait for its end; it goes on while an app has the store open.")
@click.option("--dry-run", is_flag=True, help="Count what would move, and move nothing.")
@store_options
@json_option
@fail_empty_option
def redrive(
    queue: str,
    where: str | None,
    to: str | None,
    limit: int | None,
    rate: float | None,
    detach: bool,
    dry_run: bool,
    broker: str | None,
    app: str | None,
    as_json: bool,
    fail_empty: bool,
) -> None:
    """Send the dead letters of QUEUE back to where they came from, with new ids and no attempts.

    With --rate or --detach it is a move that is remembered: it goes on after a crash, `pipeflow dlq moves` shows how
    far it is, and an interrupt of this command does not stop it.
    """
    url = store_url(broker, app)
    request = Redrive(queue, to, None, limit, dry_run, rate)
    if (rate is not None or detach) and not dry_run:
        move = ask(url, lambda store: drive_slowly(store, request, where, detach))
        show_one(move_row(move), _told(move), as_json=as_json)
        found(move.moved or detach, fail_empty)
        return
    moved = ask(url, lambda store: drive_back(store, replace(request, rate=None), where))
    text = f"{count(moved.matched)} of {count(moved.examined)} dead letters match; "
    text += "nothing was moved" if dry_run else f"{count(moved.moved)} moved to {to or queue}"
    row = {"queue": queue, "to": to or queue, "dry_run": dry_run, **msgspec.structs.asdict(moved)}
    show_one(row, text, as_json=as_json)
    found(moved.matched, fail_empty)


def move_row(move: Move) -> Row:
    """One move, as it is shown."""
    row = msgspec.structs.asdict(move)
    del row["upto"]
    return {**row, "where": move.where.policy if move.where is not None else None}


def _told(move: Move) -> str:
    why = f" ({move.failure})" if move.failure else ""
    return f"move {move.id} of {move.queue}: {move.state}{why}, {count(move.moved)} of {count(move.to_move)} moved"


async def moves_of(store: Store, queue: str | None, cancel: str | None) -> list[Move]:
    """The moves that are remembered, once this one is cancelled."""
    if queue is not None:
        await _with_dead_letters(store, queue)
    if cancel is not None:
        await store.cancel_move(cancel)
    return await store.moves(queue)


@dlq.command("moves")
@click.argument("queue", required=False)
@click.option("--cancel", metavar="ID", help="Stop this one first; what it moved stays moved.")
@store_options
@json_option
@fail_empty_option
def moves(
    queue: str | None, cancel: str | None, broker: str | None, app: str | None, as_json: bool, fail_empty: bool
) -> None:
    """List the last ten moves of the dead letters of QUEUE, or of every queue, newest first."""
    rows = [move_row(move) for move in ask(store_url(broker, app), lambda store: moves_of(store, queue, cancel))]
    show(rows, MOVES, as_json=as_json, empty="no moves")
    found(rows, fail_empty)
