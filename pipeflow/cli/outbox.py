"""`pipeflow outbox`: what waits in an outbox, what could not be sent and why; sent again, or deleted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from pipeflow.cli import units
from pipeflow.cli.main import Suggesting
from pipeflow.cli.output import (
    Column,
    Row,
    count,
    fail_empty_option,
    found,
    json_option,
    number,
    one_line,
    show,
    show_one,
)
from pipeflow.cli.parked import chosen
from pipeflow.clock import SystemClock
from pipeflow.embedded.sqlite.outbox_file import OutboxFile

C = TypeVar("C", bound=Callable[..., object])

STATUS = (
    Column("kind"),
    Column("target", wide=True),
    number("pending"),
    Column("oldest", write=units.seconds, right=True),
    number("aside"),
)
ASIDE = (
    Column("id", right=True),
    Column("kind"),
    Column("target", wide=True),
    Column("size", write=units.size, right=True),
    Column("age", write=units.seconds, right=True),
    Column("failure", write=one_line, wide=True),
)


@click.group(cls=Suggesting)
def outbox() -> None:
    """Show what waits in an outbox; retry and discard what could not be sent."""


def outbox_options(command: C) -> C:
    """FILE and `--table`, handed to the command as `file` and `table`."""
    named = click.option(
        "--table", default="pipeflow_outbox", show_default=True, metavar="NAME", help="The table in that file."
    )(command)
    return click.argument("file", type=click.Path(path_type=Path))(named)


def waiting_rows(box: OutboxFile, now: float) -> list[Row]:
    """By target; `oldest`: seconds for which the oldest pending row has waited."""
    return [
        {
            "kind": each.kind,
            "target": each.target,
            "pending": each.pending,
            "oldest": None if each.oldest_at is None else max(0.0, now - each.oldest_at),
            "aside": each.aside,
        }
        for each in box.awaiting()
    ]


def aside_rows(box: OutboxFile, now: float) -> list[Row]:
    """Each row that was set aside; `age`: seconds since it was written."""
    return [{**msgspec.structs.asdict(each), "age": max(0.0, now - each.at)} for each in box.aside()]


@outbox.command("status")
@outbox_options
@json_option
@fail_empty_option
def status(file: Path, table: str, as_json: bool, fail_empty: bool) -> None:
    """Count what waits in the outbox of FILE and what was set aside, by topic and queue.

    A row stays for a second or two after it was sent. Rows that grow old wait for the app that relays them.
    """
    rows = waiting_rows(OutboxFile(file, table), SystemClock().now())
    show(rows, STATUS, as_json=as_json, empty=f"{file}: nothing waits")
    found(rows, fail_empty)


@outbox.command("ls")
@outbox_options
@json_option
@fail_empty_option
def ls(file: Path, table: str, as_json: bool, fail_empty: bool) -> None:
    """List the rows of FILE that could not be sent, and why."""
    rows = aside_rows(OutboxFile(file, table), SystemClock().now())
    show(rows, ASIDE, as_json=as_json, empty=f"{file}: nothing is set aside")
    found(rows, fail_empty)


@outbox.command("retry")
@outbox_options
@click.argument("ids", nargs=-1, type=int)
@click.option("--all", "every", is_flag=True, help="All of them.")
@json_option
def retry(file: Path, table: str, ids: tuple[int, ...], every: bool, as_json: bool) -> None:
    """Put rows of FILE that could not be sent at its end, under new ids.

    The running app sends them, or its next run.
    """
    tried = OutboxFile(file, table).retry(chosen(ids, every, "outbox ls"), SystemClock().now())
    show_one({"file": str(file), "rows": tried}, f"{file}: {count(tried)} rows are sent again", as_json=as_json)


@outbox.command("discard")
@outbox_options
@click.argument("ids", nargs=-1, type=int)
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.option("--yes", is_flag=True, help="Do it without asking.")
@json_option
def discard(file: Path, table: str, ids: tuple[int, ...], every: bool, yes: bool, as_json: bool) -> None:
    """Delete rows of FILE that could not be sent. There is no way back."""
    wanted = chosen(ids, every, "outbox ls")
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"discarding messages of {file} deletes them for good: add --yes")
        click.confirm(f"Delete messages of {file} that could not be sent for good?", abort=True, err=True)
    gone = OutboxFile(file, table).discard(wanted)
    show_one({"file": str(file), "rows": gone}, f"{file}: {count(gone)} rows deleted", as_json=as_json)
