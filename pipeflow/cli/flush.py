"""`pipeflow flush`: what a stream holds is delivered now, by the app that runs."""

from __future__ import annotations

import anyio
import click

from pipeflow.cli import units
from pipeflow.cli.opening import ask, known, store_options, store_url
from pipeflow.cli.output import count, json_option, show_one
from pipeflow.errors import PipeflowError
from pipeflow.protocols import Store, StreamStats


async def stats_of(store: Store, stream: str) -> StreamStats:
    """The counts of one stream; NotFound with the nearest name when there is none."""
    await known(store, "stream", stream)
    return next(each for each in (await store.stats()).streams if each.name == stream)


async def flushed(store: Store, stream: str, timeout: float) -> int:
    """How many records the stream held when it was flushed."""
    held = (await stats_of(store, stream)).buffered
    with anyio.move_on_after(timeout):
        await store.flush(stream)
        return held
    left = await stats_of(store, stream)
    raise PipeflowError(
        f"stream {stream}: {count(left.buffered)} records ({units.size(left.buffered_bytes)}) still wait after "
        f"{units.seconds(timeout)}; the app goes on trying, and its log says what keeps its sink from taking them"
    )


@click.command()
@click.argument("stream")
@click.option(
    "--timeout", type=units.duration, default="60s", show_default=True, metavar="TIME", help="Give up after so long."
)
@store_options
@json_option
def flush(stream: str, timeout: float, broker: str | None, app: str | None, as_json: bool) -> None:
    """Deliver what STREAM holds now; return when it lies in its sink.

    The app that delivers the stream does it, so it must be running.
    """
    held = ask(store_url(broker, app), lambda store: flushed(store, stream, timeout))
    text = f"{stream}: {count(held)} records lie in its sink" if held else f"{stream}: nothing was buffered"
    show_one({"stream": stream, "records": held}, text, as_json=as_json)
