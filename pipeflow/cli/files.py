"""`pipeflow files`: what a stream delivered, from the store's own catalogue, and whether it still lies there whole."""

from __future__ import annotations

import click
import msgspec

from pipeflow.cli import units
from pipeflow.cli.main import Suggesting
from pipeflow.cli.opening import ask, known, store_options, store_url
from pipeflow.cli.output import Column, Row, fail_empty_option, found, json_option, number, show
from pipeflow.files import PAGE, FileFacts, FileQuery
from pipeflow.protocols import Store

FILES = (
    Column("name", "file", wide=True),
    number("first"),
    number("last"),
    number("records"),
    Column("size", "size", units.size, right=True, plain=str),
    Column("crc32", "crc-32"),
    Column("opened_at", "oldest record", units.clock_time, spare=True),
    Column("delivered_at", "delivered", units.clock_time),
    Column("kind", spare=True),
    number("generation", rare=True, spare=True),
    Column("retired_at", "retired", lambda at: units.clock_time(at) if at else "-", rare=True, spare=True),
)


def row_of(file: FileFacts) -> Row:
    """One file as it is shown."""
    row = msgspec.structs.asdict(file)
    del row["crc"], row["shape"]
    return {**row, "crc32": f"{file.crc:08x}"}


async def every_file(store: Store, stream: str, query: FileQuery) -> list[FileFacts]:
    """All pages of the answer."""
    await known(store, "stream", stream)
    files: list[FileFacts] = []
    while True:
        page = await store.files(stream, query)
        files += page
        if len(page) < query.limit:
            return files
        query = msgspec.structs.replace(query, after=page[-1].cursor)


@click.group(cls=Suggesting)
def files() -> None:
    """List and verify the files that a stream delivered."""


@files.command("ls")
@click.argument("stream")
@click.option("--from-seq", type=click.IntRange(min=0), default=0, metavar="N", help="Files with record N or later.")
@click.option("--to-seq", type=click.IntRange(min=0), metavar="N", help="Files with record N or earlier.")
@click.option("--since", metavar="TIME", help="Files that may hold records which arrived since: a time, or 2h.")
@click.option("--until", metavar="TIME", help="Files that may hold records which arrived until then.")
@click.option("--partition", metavar="PATH", help="Files of this partition, as in their names.")
@click.option("--retired", is_flag=True, help="Those too whose place a merged file has taken.")
@store_options
@json_option
@fail_empty_option
def ls(
    stream: str,
    from_seq: int,
    to_seq: int | None,
    since: str | None,
    until: str | None,
    partition: str | None,
    retired: bool,
    broker: str | None,
    app: str | None,
    as_json: bool,
    fail_empty: bool,
) -> None:
    """Which files of STREAM hold which records: range, size, CRC-32, and when they were delivered."""

    async def work(store: Store) -> list[FileFacts]:
        now = store.clock.now()
        times = [None if text is None else units.moment(text, now) for text in (since, until)]
        query = FileQuery(from_seq, to_seq, times[0], times[1], partition, retired, None, PAGE)
        return await every_file(store, stream, query)

    rows = [row_of(file) for file in ask(store_url(broker, app), work)]
    show(rows, FILES, as_json=as_json, empty=f"{stream}: no files" + (" that match" if from_seq or to_seq else ""))
    found(rows, fail_empty)
