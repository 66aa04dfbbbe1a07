"""`pipeflow cancel`: take a delayed message back by its key."""

from __future__ import annotations

import click

from pipeflow.cli.opening import ask, known, store_options, store_url
from pipeflow.cli.output import fail_empty_option, found, json_option, show_one
from pipeflow.protocols import Store


async def take_back(store: Store, queue: str, key: str) -> bool:
    """Whether a message of this key was still delayed, and now is gone."""
    await known(store, "queue", queue)
    return await store.cancel_delayed(queue, key)


@click.command()
@click.argument("queue")
@click.argument("key")
@store_options
@json_option
@fail_empty_option
def cancel(queue: str, key: str, broker: str | None, app: str | None, as_json: bool, fail_empty: bool) -> None:
    """Take back the message that was sent to QUEUE with this KEY, if it is still delayed."""
    cancelled = ask(store_url(broker, app), lambda store: take_back(store, queue, key))
    text = f"{queue}: {key} cancelled" if cancelled else f"{queue}: no message of key {key} is delayed"
    show_one({"queue": queue, "key": key, "cancelled": cancelled}, text, as_json=as_json)
    found(cancelled, fail_empty)
