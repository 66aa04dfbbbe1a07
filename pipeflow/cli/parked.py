"""`pipeflow parked`: segments that could not be delivered: list them, deliver them again, delete them."""

from __future__ import annotations

import sys

import click
import msgspec

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
    show,
    show_one,
)
from pipeflow.protocols import Store

PARKED = (
    Column("id", right=True),
    Column("name", "object", wide=True),
    number("records"),
    Column("size", write=units.size, right=True),
    Column("age", "parked", units.seconds, right=True),
    number("attempts"),
    Column("code", "error"),
    Column("reason", write=one_line, wide=True),
)


@click.group(cls=Suggesting)
def parked() -> None:
    """List, retry and discard what a stream could not deliver."""


async def parked_rows(store: Store, stream: str) -> list[Row]:
    """The parked segments in the order of sealing; `age`: seconds since they were parked."""
    await known(store, "stream", stream)
    now = store.clock.now()
    return [
        {**msgspec.structs.asdict(segment), "age": max(0.0, now - segment.parked_at)}
        for segment in await store.parked(stream)
    ]


async def tried_again(store: Store, stream: str, ids: list[int] | None) -> int:
    """Hand parked segments to the sink again, all for None; how many."""
    await known(store, "stream", stream)
    return await store.retry_parked(stream, ids)


async def discarded(store: Store, stream: str, ids: list[int] | None) -> tuple[int, int]:
    """Delete parked segments, all for None; how many, and their records."""
    await known(store, "stream", stream)
    chosen = [segment.id for segment in await store.parked(stream)] if ids is None else ids
    return len(set(chosen)), await store.discard_parked(stream, chosen)


def chosen(ids: tuple[int, ...], every: bool, listing: str = "parked ls") -> list[int] | None:
    """The ids as given, None for all; UsageError for neither or both."""
    if bool(ids) == every:
        raise click.UsageError(f"name the ids that `pipeflow {listing}` shows, or all of them by --all")
    return None if every else list(ids)


@parked.command("ls")
@click.argument("stream")
@store_options
@json_option
@fail_empty_option
def ls(stream: str, broker: str | None, app: str | None, as_json: bool, fail_empty: bool) -> None:
    """List the parked segments of STREAM and what is wrong with them."""
    rows = ask(store_url(broker, app), lambda store: parked_rows(store, stream))
    show(rows, PARKED, as_json=as_json, empty=f"{stream}: nothing is parked")
    found(rows, fail_empty)


@parked.command("retry")
@click.argument("stream")
@click.argument("ids", nargs=-1, type=int)
@click.option("--all", "every", is_flag=True, help="All that can be delivered.")
@store_options
@json_option
def retry(stream: str, ids: tuple[int, ...], every: bool, broker: str | None, app: str | None, as_json: bool) -> None:
    """Deliver parked segments of STREAM again; they keep their names and have all of retry_seconds before them.

    Without a running app they are delivered by its next run.
    """
    wanted = chosen(ids, every)
    tried = ask(store_url(broker, app), lambda store: tried_again(store, stream, wanted))
    show_one(
        {"stream": stream, "segments": tried}, f"{stream}: {count(tried)} segments are tried again", as_json=as_json
    )


@parked.command("discard")
@click.argument("stream")
@click.argument("ids", nargs=-1, type=int)
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.option("--yes", is_flag=True, help="Do it without asking.")
@store_options
@json_option
def discard(
    stream: str, ids: tuple[int, ...], every: bool, yes: bool, broker: str | None, app: str | None, as_json: bool
) -> None:
    """Delete parked segments of STREAM and their records, counted and logged. There is no way back."""
    wanted = chosen(ids, every)
    url = store_url(broker, app)
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"discarding records of {stream} deletes them for good: add --yes")
        click.confirm(f"Delete parked records of {stream} in {url} for good?", abort=True, err=True)
    segments, records = ask(url, lambda store: discarded(store, stream, wanted))
    row = {"stream": stream, "segments": segments, "records": records}
    show_one(row, f"{stream}: {count(segments)} segments with {count(records)} records deleted", as_json=as_json)
