"""`pipeflow dlq`: what failed and why, and the way back. Dead letters are named by the queue they come from."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

import click
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from pipeflow.cli import units
from pipeflow.cli.audit import log
from pipeflow.cli.letters import (
    change_row,
    check_type,
    codec_of,
    differences,
    discard,
    edit_letter,
    one,
    show_letter,
    user_option,
    with_dead_letters,
)
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
from pipeflow.cli.peek import DEAD, search, wanted
from pipeflow.clock import Signal
from pipeflow.codecs import Codec
from pipeflow.edits import parse_edit
from pipeflow.errors import NotFound, RefusedError
from pipeflow.letters import Redrive, Redriven
from pipeflow.moves import Move
from pipeflow.protocols import Found, Peeked, Search, Store

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
    Column("edit", write=lambda edit: edit or "-", rare=True, wide=True),
    number("unfit", rare=True),
    Column("failure", write=one_line, rare=True),
)
LOOK_EVERY = 0.2
"""Seconds between two looks at a move that is waited for."""
MOST = 100_000
"""Dead letters that are looked at for grouping."""
LOOKED_AT = 100
"""Dead letters that a redrive with an edit tries on the queue's type before it begins."""


class Selection(Struct, frozen=True):
    """What was written about which letters, and how the queue they go to reads them."""

    ids: tuple[str, ...]
    where: str | None
    codec: Codec[Any] | None = None


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
    """List, show, edit, redrive and discard the dead letters of a queue, and tell who did."""


async def dead_rows(store: Store, queue: str, where: str | None, limit: int) -> tuple[list[Row], Found]:
    """The dead letters that `where` takes, in the order of delivery, and how far that went."""
    await with_dead_letters(store, queue)
    return await search(store, Search(queue, limit, True), [where] if where is not None else [])


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
    rows, looked = ask(url, lambda store: dead_rows(store, queue, where, most))
    nothing = f"{queue}: no dead letters" + (" that match" if where else "")
    if group_by is not None:
        show(grouped(rows, group_by), GROUPED, as_json=as_json, empty=nothing)
    else:
        show(rows, DEAD, as_json=as_json, empty=nothing)
    if not looked.complete:
        full = len(rows) < most
        more = "an answer holds 32 MiB, narrow it down with --where" if full else "--limit shows more"
        say(f"the first {count(len(rows))}; {more}")
    found(rows, fail_empty)


async def drive_back(store: Store, request: Redrive, selection: Selection) -> Redriven:
    """Move dead letters back, or only count them."""
    return await store.redrive(await _wanted(store, request, selection))


async def _wanted(store: Store, request: Redrive, selection: Selection) -> Redrive:
    await with_dead_letters(store, request.queue)
    if request.to is not None:
        await known(store, "queue", request.to)
    where = wanted(selection.where, store.clock.now())
    named = [await one(store, request.queue, id) for id in selection.ids]
    ids = tuple([letter.id for letter in named]) or None
    if request.edit is not None and selection.codec is not None:
        # Those that are named, or the first few, are looked at here, where the type is known; the store knows bodies.
        looked_at = named if named and where is None else await store.peek(request.queue, LOOKED_AT, True, where)
        for letter in looked_at:
            if ids is None or letter.id in ids:
                _check_fit(request, selection.codec, letter)
    return replace(request, where=where, ids=ids)


def _check_fit(request: Redrive, codec: Codec[Any], letter: Peeked) -> None:
    assert request.edit is not None
    try:
        check_type(request.to or request.queue, codec, request.edit, letter)
    except RefusedError:
        return  # the edit does not fit it: it stays, and is counted


async def drive_slowly(store: Store, request: Redrive, selection: Selection, detach: bool) -> Move:
    """Start a move and see it to its end, or not."""
    move = await store.start_move(await _wanted(store, request, selection))
    nobody = Signal()
    while move.under_way and not detach:
        await store.clock.wait(nobody, store.clock.now() + LOOK_EVERY)
        remembered = {each.id: each for each in await store.moves(request.queue)}
        if move.id not in remembered:
            raise NotFound(f"{request.queue}: move {move.id} is not remembered any more; pipeflow dlq log tells of it")
        move = remembered[move.id]
    return move


@dlq.command("redrive")
@click.argument("queue")
@click.option("--id", "ids", multiple=True, metavar="ID", help="Only this one; may be its beginning; repeat.")
@click.option("--where", metavar="EXPR", help="Only those that match, as in `pipeflow peek`.")
@click.option(
    "--edit", "terms", multiple=True, metavar="PATH=VALUE", help="Change each on its way: body.total=0; repeat."
)
@click.option("--to", metavar="QUEUE", help="Another queue than the one they came from.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
@click.option("--rate", metavar="N/s", type=RATE, help="So many a second at most, such as 100/s.")
@click.option("--detach", is_flag=True, help="Do not wait for its end; it goes on while an app has the store open.")
@click.option("--dry-run", is_flag=True, help="Count what would move, show what an edit makes of it, move nothing.")
@user_option
@store_options
@json_option
@fail_empty_option
def redrive(
    queue: str,
    ids: tuple[str, ...],
    where: str | None,
    terms: tuple[str, ...],
    to: str | None,
    limit: int | None,
    rate: float | None,
    detach: bool,
    dry_run: bool,
    user: str,
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
    edit = parse_edit(terms) if terms else None
    selection = Selection(ids, where, codec_of(to or queue, broker, app) if edit is not None else None)
    request = Redrive(queue, to, None, limit, dry_run, rate, None, edit, user)
    if (rate is not None or detach) and not dry_run:
        move = ask(url, lambda store: drive_slowly(store, request, selection, detach))
        show_one(move_row(move), _told(move), as_json=as_json)
        found(move.moved or detach, fail_empty)
        return
    moved = ask(url, lambda store: drive_back(store, replace(request, rate=None), selection))
    text = f"{count(moved.matched)} of {count(moved.examined)} dead letters match; "
    text += "nothing was moved" if dry_run else f"{count(moved.moved)} moved to {to or queue}"
    if moved.unfit:
        text += f"\nthe edit does not fit {count(moved.unfit)}, which stay; {moved.unfit_reason}"
    if dry_run:
        text = "\n\n".join([*map(differences, moved.changes), text])
    changes = [change_row(change) for change in moved.changes]
    row = {"queue": queue, "to": to or queue, "dry_run": dry_run, **msgspec.structs.asdict(moved), "changes": changes}
    show_one(row, text, as_json=as_json)
    found(moved.matched, fail_empty)


def move_row(move: Move) -> Row:
    """One move, as it is shown."""
    row = msgspec.structs.asdict(move)
    del row["upto"], row["entry"]
    row["edit"] = move.edit.text if move.edit is not None else None
    return {**row, "where": move.where.policy if move.where is not None else None}


def _told(move: Move) -> str:
    why = f" ({move.failure})" if move.failure else ""
    return f"move {move.id} of {move.queue}: {move.state}{why}, {count(move.moved)} of {count(move.to_move)} moved"


async def moves_of(store: Store, queue: str | None, cancel: str | None) -> list[Move]:
    """The moves that are remembered, once this one is cancelled."""
    if queue is not None:
        await with_dead_letters(store, queue)
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


for _command in (show_letter, edit_letter, discard, log):
    dlq.add_command(_command)
