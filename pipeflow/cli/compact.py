"""`pipeflow compact`: small files become large ones, in the process that owns the store; in this one when none does."""

from __future__ import annotations

import click
import msgspec

from pipeflow.cli import units
from pipeflow.cli.opening import ask, known, store_options, store_url
from pipeflow.cli.output import Column, count, json_option, number, say, show
from pipeflow.files import CompactReport, CompactRequest
from pipeflow.protocols import Store

MERGED = (
    Column("output", "file", wide=True),
    number("files", "of files"),
    number("records"),
    Column("size_before", "bytes before", units.size, right=True, plain=str),
    Column("size_after", "bytes after", units.size, right=True, plain=str, rare=True),
    Column("partition", rare=True, spare=True),
)


async def compacted(store: Store, stream: str, request: CompactRequest) -> CompactReport:
    """Ask the owner, or do it here."""
    await known(store, "stream", stream)
    catalogue = store.catalogue(stream)
    if catalogue is None:
        return await store.compact(stream, request)
    from pipeflow.engine.compaction import Compactor, readable
    from pipeflow.registry import open_sink

    spec = next(spec for spec in (await store.describe()).streams if spec.name == stream)
    sink = readable(spec, open_sink(spec.sink))
    try:
        return await Compactor(spec, catalogue, sink, store.clock).run(request)
    finally:
        await sink.close()


@click.command()
@click.argument("stream")
@click.option("--target", metavar="SIZE", help="How large a merged file may be, such as 128MiB. Default: target_bytes.")
@click.option("--older-than", metavar="DURATION", default="0", help="Only files delivered so long ago.")
@click.option(
    "--keep", metavar="DURATION", default="1h", show_default=True, help="How long merged-away files stay for readers."
)
@click.option("--dry-run", is_flag=True, help="Tell what would be merged, and change nothing.")
@store_options
@json_option
def compact(
    stream: str,
    target: str | None,
    older_than: str,
    keep: str,
    dry_run: bool,
    broker: str | None,
    app: str | None,
    as_json: bool,
) -> None:
    """Merge the small files of STREAM, which is declared with manifest=True.

    Readers of its manifests see each record once at every moment. What was merged away is deleted by the first look
    that comes later than --keep. Stopped, it goes on where it was at the next call.
    """
    request = CompactRequest(
        None if target is None else units.bytes_of(target),
        units.duration(older_than),
        units.duration(keep),
        dry_run,
    )
    report = ask(store_url(broker, app), lambda store: compacted(store, stream, request))
    rows = [msgspec.structs.asdict(merged) for merged in report.merged]
    show(rows, MERGED, as_json=as_json, empty=f"{stream}: nothing to merge")
    if report.deleted:
        say(f"{count(report.deleted)} files that were merged away earlier are deleted")
