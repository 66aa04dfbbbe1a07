"""`pipeflow files`: what a stream delivered, from the store's own catalogue, and whether it still lies there whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from pipeflow.cli import units
from pipeflow.cli.main import Suggesting
from pipeflow.cli.opening import ask, known, store_options, store_url
from pipeflow.cli.output import Column, Row, count, fail_empty_option, found, json_option, number, say, show
from pipeflow.errors import ConfigurationError
from pipeflow.files import PAGE, FileFacts, FileQuery
from pipeflow.protocols import ReadableSink, Store

if TYPE_CHECKING:
    from pipeflow.engine.verification import Verified

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


FINDINGS = (Column("what"), Column("name", "file"), Column("detail", wide=True))


async def verified(store: Store, stream: str) -> Verified:
    """Everything that lies in the stream's sink against the catalogue."""
    from pipeflow.engine.verification import verify as look
    from pipeflow.registry import open_sink

    await known(store, "stream", stream)
    spec = next(spec for spec in (await store.describe()).streams if spec.name == stream)
    if spec.sink.startswith("memory:"):
        raise ConfigurationError(
            f"stream {stream}: {spec.shown_sink} lies in the process that runs the app, out of reach"
        )
    sink = open_sink(spec.sink)
    try:
        if not isinstance(sink, ReadableSink):
            raise ConfigurationError(
                f"stream {stream}: {spec.shown_sink} does not give back what it took; only sinks such as file:// and "
                "s3:// are verified"
            )
        return await look(spec, store, sink)
    finally:
        await sink.close()


@files.command("verify")
@click.argument("stream")
@store_options
@json_option
def verify(stream: str, broker: str | None, app: str | None, as_json: bool) -> int:
    """Read every file of STREAM back and compare it with the catalogue. Exit code 1 when something is wrong.

    Told are files that are missing or not what was delivered, files that bear the store's mark and that it does not
    know, temporary files, and manifests that say something else than the catalogue. Nothing is repaired.
    """
    result = ask(store_url(broker, app), lambda store: verified(store, stream))
    findings = [msgspec.structs.asdict(finding) for finding in result.findings]
    if as_json:
        click.echo(msgspec.json.encode({**msgspec.structs.asdict(result), "ok": not findings}).decode())
    else:
        show(findings, FINDINGS, as_json=False)
        say(
            f"{stream}: {count(result.files)} files with {count(result.records)} records, {units.size(result.size)}; "
            + (f"{count(len(findings))} findings" if findings else "all as delivered")
        )
    return int(bool(findings))


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
