"""`pipeflow replay`: what a stream delivered is read back from its files and published again, each record once."""

from __future__ import annotations

import re

import click
import msgspec

from pipeflow.cli import units
from pipeflow.cli.archives import policy_text
from pipeflow.cli.bodies import attributes
from pipeflow.cli.opening import ask, known, store_options, store_url
from pipeflow.cli.output import count, json_option, say, show_one
from pipeflow.engine.replay import Replay, Replayed, Target, replayed
from pipeflow.protocols import Store
from pipeflow.specs import FilterPolicy

_RELATIVE = re.compile(r"-?\d+(\.\d+)?[a-z]+\Z")


def destination(written: str) -> Target:
    """`topic:NAME`, `queue:NAME` or `stream:NAME`; for click's options."""
    match written.partition(":"):
        case ("topic" | "queue" | "stream") as kind, _, name if name:
            return Target(kind, name)
    raise click.BadParameter(f"{written!r} is no target; write topic:NAME, queue:NAME or stream:NAME")


def edge(written: str | None, now: float) -> tuple[int | None, float | None]:
    """(sequence, None) for a whole number, (None, epoch seconds) for a time or for so long ago."""
    if written is None:
        return None, None
    text = written.strip()
    return (int(text), None) if text.isdigit() else (None, units.moment(text.removeprefix("-"), now))


def told(done: Replayed) -> str:
    """What happened, in a sentence."""
    covers = f"{count(done.records)} records in {count(done.files)} files"
    if done.dry_run:
        left = f", {count(done.before)} of them published before" if done.before else ""
        return f"{done.stream} to {done.to}: {covers}{left}; nothing was published"
    if not done.published and done.before:
        return f"{done.stream} to {done.to}: done already, {covers}; --again begins anew"
    before = f", {count(done.before)} before" if done.before else ""
    return f"{done.stream} to {done.to}: {count(done.published)} records published{before}, out of {covers}"


@click.command()
@click.argument("stream")
@click.option(
    "--to", "target", type=destination, required=True, metavar="TARGET", help="topic:NAME, queue:NAME or stream:NAME."
)
@click.option(
    "--from", "start", metavar="SEQ|TIME", help="From this sequence, time, or so long ago: 500, 2013-01-01, 2h."
)
@click.option("--until", "end", metavar="SEQ|TIME", help="To this sequence, time, or so long ago.")
@click.option("--partition", metavar="PATH", help="Files of this partition, as in their names.")
@click.option("--where", metavar="JSON", help="Only records whose body this filter policy takes, or @FILE.")
@click.option("--errors", is_flag=True, help="The failed records instead, as they came.")
@click.option(
    "--attr", "attr", multiple=True, metavar="NAME=TEXT", help="An attribute of each message; NAME:=JSON too."
)
@click.option("--group", metavar="NAME", help="Message group of each message, for FIFO targets.")
@click.option("--rate", type=units.rate, metavar="N/s", help="Records a second, at most: 100/s, 6000/m.")
@click.option(
    "--name", default="", metavar="NAME", help="Keep its position under this name; default: by what is asked."
)
@click.option("--again", is_flag=True, help="From the beginning, though it was begun or done before.")
@click.option("--skip-damaged", is_flag=True, help="Go on without files that are missing or damaged, and name them.")
@click.option("--dry-run", is_flag=True, help="Count what would be published, and publish nothing.")
@store_options
@json_option
def replay(
    stream: str,
    target: Target,
    start: str | None,
    end: str | None,
    partition: str | None,
    where: str | None,
    errors: bool,
    attr: tuple[str, ...],
    group: str | None,
    rate: float | None,
    name: str,
    again: bool,
    skip_damaged: bool,
    dry_run: bool,
    broker: str | None,
    app: str | None,
    as_json: bool,
) -> None:
    """Publish again what STREAM delivered, from its files, each record once.

    Stopped anywhere, the same command goes on exactly there; done, it says so. Messages carry the attribute `replayed`.
    """

    policy = FilterPolicy(policy_text(where), "body") if where is not None else None
    seen: list[bytes | None] = []

    async def work(store: Store) -> Replayed:
        await known(store, "stream", stream)
        await known(store, target.kind, target.name)
        now = store.clock.now()
        (first, since), (last, until) = edge(start, now), edge(end, now)
        relative = any(text is not None and _RELATIVE.match(text) for text in (start, end))
        asked = Replay(
            stream,
            target,
            first or 0,
            last,
            since,
            until,
            f"{start} {end}" if relative else "",
            partition,
            policy,
            errors,
            attributes(attr) or {},
            group,
            name,
            again,
            rate,
            skip_damaged,
            dry_run,
        )
        # Asked again because the store's owner left: what was begun anew is not begun anew once more.
        position = await store.position(asked.source)
        seen.append(position)
        if position != seen[0]:
            asked = msgspec.structs.replace(asked, again=False)
        return await replayed(asked, store, store.clock)

    done = ask(store_url(broker, app), work)
    show_one(msgspec.structs.asdict(done), told(done), as_json=as_json)
    for file in done.skipped:
        say(f"skipped: {file}")
