"""`pipeflow dlq log`: who did what to which dead letters and parked records."""

from __future__ import annotations

import click
import msgspec

from pipeflow.audit import Entry
from pipeflow.cli import units
from pipeflow.cli.opening import ask, store_options, store_url
from pipeflow.cli.output import Column, Row, fail_empty_option, found, json_option, number, one_line, show

LOG = (
    Column("number", right=True),
    Column("at", write=units.clock_time),
    Column("action"),
    Column("queue"),
    number("count"),
    Column("user"),
    Column("pid", right=True, spare=True),
    Column("selection", write=one_line, wide=True),
    Column("edit", write=one_line, wide=True, rare=True),
    Column("to", write=lambda to: to or "-", rare=True),
    Column("note", write=one_line, wide=True, rare=True),
)


def entry_row(entry: Entry) -> Row:
    """One entry, as it is shown."""
    row = msgspec.structs.asdict(entry)
    state = "under way" if not entry.finished else entry.failure
    row["note"] = "; ".join(filter(None, [state, entry.note]))
    return row


@click.command("log")
@click.argument("queue", required=False)
@click.option("--limit", type=click.IntRange(min=1, max=10_000), default=50, show_default=True)
@click.option(
    "--before", type=click.IntRange(min=1), metavar="NUMBER", help="Entries below this one, for the next page."
)
@store_options
@json_option
@fail_empty_option
def log(
    queue: str | None,
    limit: int,
    before: int | None,
    broker: str | None,
    app: str | None,
    as_json: bool,
    fail_empty: bool,
) -> None:
    """Tell what was done to the dead letters of QUEUE, or of every queue and stream, newest first.

    The last 10,000 entries of a store are kept, for 90 days. --json has ids, and fingerprints of edited bodies.
    """
    entries = ask(store_url(broker, app), lambda store: store.audit(queue, limit, before))
    show([entry_row(entry) for entry in entries], LOG, as_json=as_json, empty="nothing was done")
    found(entries, fail_empty)
