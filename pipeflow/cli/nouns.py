"""`pipeflow queues`, `topics` and `streams`: what the store holds, from its own durable counters."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from pipeflow.cli import units
from pipeflow.cli.archives import replay
from pipeflow.cli.main import Suggesting
from pipeflow.cli.opening import ask, known, store_options, store_url
from pipeflow.cli.output import Column, count, fail_empty_option, found, json_option, number, show, show_one
from pipeflow.cli.webhooks import certificate, confirm, unsubscribe, webhooks
from pipeflow.names import is_meant
from pipeflow.protocols import QueueStats, Store, StoreStats, StreamStats

AGE = Column("oldest_age", "oldest", lambda age: units.seconds(age) if age else "-", right=True)

TAGS = Column("tags", "tags", lambda tags: ", ".join(f"{key}={tags[key]}" for key in tags) if tags else "-", rare=True)

QUEUES = (
    Column("name", "queue"),
    Column("fifo", "order", lambda fifo: "fifo" if fifo else "-", rare=True),
    number("ready"),
    number("delayed"),
    number("in_flight", "in flight"),
    number("dead"),
    AGE,
    number("sent"),
    number("acked", spare=True),
    number("buried", spare=True),
    number("quarantined", "damaged", rare=True),
    Column("dead_letters_of", "dead letters of", lambda names: ", ".join(names) if names else "-", rare=True),
    TAGS,
)

TOPICS = (
    Column("name", "topic"),
    Column("fifo", "order", lambda fifo: "fifo" if fifo else "-", rare=True),
    number("published"),
    number("delivered"),
    Column("subscriptions", "taken by", ", ".join, wide=True),
    Column("pending", "not confirmed", lambda names: ", ".join(names) or "-", rare=True),
    number("archived", rare=True),
    Column("archived_since", "since", lambda at: units.clock_time(at) if at else "-", rare=True),
    TAGS,
)

STREAMS = (
    Column("name", "stream"),
    number("accepted"),
    Column("accepted_bytes", "taken in", units.size, right=True, spare=True),
    number("throttled", rare=True),
    number("buffered"),
    Column("buffered_bytes", "in buffers", units.size, right=True, spare=True),
    AGE,
    number("open_partitions", "partitions", spare=True),
    number("delivered"),
    Column("delivered_bytes", "given out", units.size, right=True, spare=True),
    Column("delivered_at", "last delivery", lambda at: units.clock_time(at) if at else "-", spare=True),
    number("delivery_failures", "failed attempts", rare=True),
    number("failed", rare=True),
    number("parked", rare=True),
    number("expired", rare=True),
    number("discarded", rare=True),
    number("objects"),
    Column("object_bytes", "in objects", units.size, right=True, spare=True),
    Column("backup", "originals in", rare=True),
)


async def stats_of(store: Store) -> StoreStats:
    """Every counter there is."""
    return await store.stats()


def queue_stats(url: str, every: bool) -> list[QueueStats]:
    """The queues by name; queues made for dead letters only when `every` is asked for."""
    stats = ask(url, stats_of)
    return sorted(
        (q for q in stats.queues if every or not (q.holds_dead_letters or q.archives)), key=lambda queue: queue.name
    )


def topic_rows(url: str) -> list[dict[str, Any]]:
    """The topics by name, then who takes all topics of a name; those count nothing themselves."""
    stats = ask(url, stats_of)
    rows = [msgspec.structs.asdict(topic) for topic in sorted(stats.topics, key=lambda topic: topic.name)]
    for pattern in sorted({each.pattern for each in stats.patterns}):
        takers = [each.target for each in stats.patterns if each.pattern == pattern]
        meant = [topic["name"] for topic in rows if "topics" not in topic and is_meant(topic["name"], pattern)]
        rows.append({"name": pattern, "subscriptions": takers, "topics": meant})
    return rows


def stream_stats(url: str) -> list[StreamStats]:
    """The streams by name."""
    return sorted(ask(url, stats_of).streams, key=lambda stream: stream.name)


@click.group(cls=Suggesting, invoke_without_command=True)
@click.option("--all", "every", is_flag=True, help="With the queues that hold dead letters or archives.")
@store_options
@json_option
@fail_empty_option
@click.pass_context
def queues(
    context: click.Context, every: bool, broker: str | None, app: str | None, as_json: bool, fail_empty: bool
) -> None:
    """List queues and what is in them; or delete one.

    dead: in its dead letters now; buried: ever moved there; oldest: how long the oldest message is there that is ready,
    in flight or waits for a retry.
    """
    if context.invoked_subcommand is not None:
        return
    url = store_url(broker, app)
    rows = [msgspec.structs.asdict(stats) for stats in queue_stats(url, every)]
    show(rows, QUEUES, as_json=as_json, empty=f"no queues in {url}")
    found(rows, fail_empty)


async def delete_queue(store: Store, queue: str, yes: bool) -> int:
    """Forget it; how many messages were dropped."""
    await known(store, "queue", queue)
    if not yes:
        stats = next(each for each in (await store.stats()).queues if each.name == queue)
        held = stats.ready + stats.delayed + stats.in_flight
        raise click.UsageError(f"this deletes {queue} and the {count(held)} messages in it; say so with --yes")
    return await store.delete_queue(queue)


@queues.command("delete")
@click.argument("queue")
@click.option("--yes", is_flag=True, help="Delete what is in it, too.")
@store_options
@json_option
def drop_queue(queue: str, yes: bool, broker: str | None, app: str | None, as_json: bool) -> None:
    """Delete QUEUE from the store with all that is in it; its dead letters stay."""
    dropped = ask(store_url(broker, app), lambda store: delete_queue(store, queue, yes))
    text = f"{queue}: deleted, {count(dropped)} messages dropped"
    show_one({"queue": queue, "dropped": dropped}, text, as_json=as_json)


@click.group(cls=Suggesting, invoke_without_command=True)
@store_options
@json_option
@fail_empty_option
@click.pass_context
def topics(context: click.Context, broker: str | None, app: str | None, as_json: bool, fail_empty: bool) -> None:
    """List topics and who takes from them; or look after their webhooks and archives.

    A line for `orders-*` says who takes all topics of such a name.
    """
    if context.invoked_subcommand is not None:
        return
    url = store_url(broker, app)
    rows = topic_rows(url)
    show(rows, TOPICS, as_json=as_json, empty=f"no topics in {url}")
    found(rows, fail_empty)


@click.group(cls=Suggesting, invoke_without_command=True)
@store_options
@json_option
@fail_empty_option
@click.pass_context
def streams(context: click.Context, broker: str | None, app: str | None, as_json: bool, fail_empty: bool) -> None:
    """List streams, what they hold and what they delivered; or delete one."""
    if context.invoked_subcommand is not None:
        return
    url = store_url(broker, app)
    rows = [msgspec.structs.asdict(stats) for stats in stream_stats(url)]
    show(rows, STREAMS, as_json=as_json, empty=f"no streams in {url}")
    found(rows, fail_empty)


async def delete_stream(store: Store, stream: str, drop: bool) -> int:
    """Forget it; how many records were dropped."""
    await known(store, "stream", stream)
    return await store.delete_stream(stream, drop)


@streams.command("delete")
@click.argument("stream")
@click.option("--drop", is_flag=True, help="Also while records wait in it: they are lost.")
@store_options
@json_option
def delete(stream: str, drop: bool, broker: str | None, app: str | None, as_json: bool) -> None:
    """Delete STREAM from the store: what it holds, counts and remembers. The files it delivered stay."""
    dropped = ask(store_url(broker, app), lambda store: delete_stream(store, stream, drop))
    text = f"{stream}: deleted" + (f", {count(dropped)} records dropped" if dropped else "")
    show_one({"stream": stream, "dropped": dropped}, text, as_json=as_json)


async def forget_topic(store: Store, topic: str) -> bool:
    """Delete it; whether there was one."""
    return await store.delete_topic(topic)


@topics.command("delete")
@click.argument("topic")
@store_options
@json_option
def delete_topic(topic: str, broker: str | None, app: str | None, as_json: bool) -> None:
    """Delete TOPIC, its subscriptions and what is left of its archive. What lies in queues and streams stays."""
    deleted = ask(store_url(broker, app), lambda store: forget_topic(store, topic))
    show_one(
        {"topic": topic, "deleted": deleted}, f"{topic}: {'deleted' if deleted else 'is not there'}", as_json=as_json
    )


topics.add_command(replay)
topics.add_command(webhooks)
topics.add_command(confirm)
topics.add_command(unsubscribe)
topics.add_command(certificate)
