"""`pipeflow topics replay`, and `match --history`: what a topic's archive kept, delivered again or looked through."""

from __future__ import annotations

from typing import Literal

import click
import msgspec

from pipeflow.archives import ArchiveReport, ArchiveRequest
from pipeflow.cli import units
from pipeflow.cli.opening import ask, known, store_options, store_url
from pipeflow.cli.output import count, json_option, show_one
from pipeflow.engine.archives import through
from pipeflow.protocols import Store
from pipeflow.specs import FilterPolicy

Scope = Literal["body", "attributes"]


def looked_through(
    url: str, topic: str, start: str | None, end: str | None, policy: FilterPolicy | None, to: str | None = None
) -> ArchiveReport:
    """What of an archive a policy takes, and the filter of a subscriber if there is one."""

    async def work(store: Store) -> ArchiveReport:
        await known(store, "topic", topic)
        now = store.clock.now()
        request = ArchiveRequest(topic, to, _moment(start, now), _moment(end, now), policy, dry_run=True)
        return await through(request, store, store.clock)

    return ask(url, work)


def told(topic: str, to: str, done: ArchiveReport) -> str:
    """What happened, in a sentence."""
    if not done.sent and done.before:
        return f"{topic} to {to}: done already, {count(done.before)} messages; --again begins anew"
    before = f", {count(done.before)} before" if done.before else ""
    return f"{topic} to {to}: {count(done.sent)} messages delivered{before}, out of {count(done.examined)}"


@click.command()
@click.argument("topic")
@click.option("--to", "target", required=True, metavar="SUBSCRIBER", help="A queue, webhook or stream of the topic.")
@click.option("--from", "start", metavar="TIME", help="From this time, or so long ago: 2026-01-01, 2h.")
@click.option("--until", "end", metavar="TIME", help="To this time, or so long ago; default: now.")
@click.option("--policy", metavar="JSON", help="Of that only what this filter policy takes, or the one in @FILE.")
@click.option("--scope", type=click.Choice(["body", "attributes"]), default="body", show_default=True)
@click.option("--rate", type=units.rate, metavar="N/s", help="Messages a second, at most: 100/s, 6000/m.")
@click.option("--name", default="", metavar="NAME", help="Keep its position under this name; default: by the times.")
@click.option("--again", is_flag=True, help="From the beginning, though it was begun or done before.")
@click.option("--dry-run", is_flag=True, help="Count what would be delivered, and deliver nothing.")
@store_options
@json_option
def replay(
    topic: str,
    target: str,
    start: str | None,
    end: str | None,
    policy: str | None,
    scope: Scope,
    rate: float | None,
    name: str,
    again: bool,
    dry_run: bool,
    broker: str | None,
    app: str | None,
    as_json: bool,
) -> None:
    """Deliver what TOPIC published, and its archive kept, again to one subscriber; nobody else gets it.

    Stopped anywhere, the same command goes on exactly there; done, it says so.
    """
    url = store_url(broker, app)
    only = FilterPolicy(policy_text(policy), scope) if policy is not None else None
    if dry_run:
        done = looked_through(url, topic, start, end, only, target)
        text = f"{topic} to {target}: {count(done.matched)} of {count(done.examined)} messages; nothing was delivered"
        show_one(msgspec.structs.asdict(done), text, as_json=as_json)
        return
    begun = False

    async def work(store: Store) -> ArchiveReport:
        nonlocal begun
        await known(store, "topic", topic)
        now = store.clock.now()
        named = name or ArchiveRequest.name_of(start, end, only)
        # Asked again because the store's owner left: what was begun anew is not begun anew once more.
        anew, begun = again and not begun, True
        request = ArchiveRequest(topic, target, _moment(start, now), _moment(end, now), only, named, anew)
        return await through(request, store, store.clock, rate)

    done = ask(url, work)
    show_one(msgspec.structs.asdict(done), told(topic, target, done), as_json=as_json)


def policy_text(written: str) -> str:
    """The policy, or what stands in @FILE."""
    if not written.startswith("@"):
        return written
    with open(written[1:]) as file:
        return file.read()


def _moment(written: str | None, now: float) -> float | None:
    return None if written is None else units.moment(written.strip().removeprefix("-"), now)
