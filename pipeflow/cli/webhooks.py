"""`pipeflow topics webhooks|confirm|unsubscribe|certificate`: endpoints that subscribe to topics, and their keys."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from pipeflow.cli.opening import ask, store_options, store_url
from pipeflow.cli.output import Column, fail_empty_option, found, json_option, show, show_one
from pipeflow.clock import SystemClock
from pipeflow.errors import ConfigurationError
from pipeflow.names import digest
from pipeflow.protocols import Store
from pipeflow.webhooks import SubscriptionFacts

COLUMNS = (
    Column("webhook", "webhook"),
    Column("topic", "topic"),
    Column("state", "state"),
    Column("endpoint", "endpoint", wide=True),
)


async def facts(store: Store) -> list[SubscriptionFacts]:
    """Every subscription of a webhook; of its URL what may be shown."""
    return [msgspec.structs.replace(each, endpoint=origin(each.endpoint)) for each in await store.webhooks()]


def origin(url: str) -> str:
    """A URL without its path and query: secrets lie there."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('?')[0].partition('/')[0]}"


@click.command()
@store_options
@json_option
@fail_empty_option
def webhooks(broker: str | None, app: str | None, as_json: bool, fail_empty: bool) -> None:
    """List the webhooks of topics, and whether they are confirmed."""
    url = store_url(broker, app)
    rows = [msgspec.structs.asdict(each) for each in ask(url, facts)]
    show(rows, COLUMNS, as_json=as_json, empty=f"no webhooks in {url}")
    found(rows, fail_empty)


@click.command()
@click.argument("topic")
@click.argument("token")
@store_options
@json_option
def confirm(topic: str, token: str, broker: str | None, app: str | None, as_json: bool) -> None:
    """Confirm the subscription of an endpoint to TOPIC with the TOKEN that it was sent."""
    confirmed = ask(store_url(broker, app), lambda store: store.confirm(topic, token))
    said = {"topic": topic, "webhook": confirmed.webhook, "arn": confirmed.arn}
    show_one(said, f"{confirmed.webhook}: gets what {topic} publishes from now on", as_json=as_json)


@click.command()
@click.argument("webhook")
@click.option("--topic", help="Of this topic alone; otherwise of all it subscribes to.")
@click.option("--undo", is_flag=True, help="Have an endpoint that was unsubscribed asked to confirm anew.")
@store_options
@json_option
@fail_empty_option
def unsubscribe(
    webhook: str, topic: str | None, undo: bool, broker: str | None, app: str | None, as_json: bool, fail_empty: bool
) -> None:
    """End the subscription of WEBHOOK, given by its name or as an ARN, and tell its endpoint so.

    The endpoint is sent a token that brings it back within three days. Starting the app again does not.
    """
    url = store_url(broker, app)
    left = ask(url, lambda store: leave(store, webhook, topic, undo))
    rows = [msgspec.structs.asdict(each) for each in left]
    show(rows, COLUMNS, as_json=as_json, empty=f"{webhook} subscribes to no topic in {url}")
    found(rows, fail_empty)


async def leave(store: Store, webhook: str, topic: str | None, undo: bool) -> list[SubscriptionFacts]:
    """What became of each subscription that is meant."""
    if webhook.startswith("arn:"):
        arns = [webhook]
    else:
        arns = [each.arn for each in await store.webhooks() if each.webhook == webhook and topic in (None, each.topic)]
    left = [await store.unsubscribe(arn, undo) for arn in arns]
    return [msgspec.structs.replace(each, endpoint=origin(each.endpoint)) for each in left if each is not None]


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", default="pipeflow", show_default=True, help="Whom the certificate names.")
@json_option
def certificate(directory: Path, name: str, as_json: bool) -> None:
    """Make a key and its certificate in DIRECTORY, for webhooks that sign."""
    from pipeflow_connectors.signing import make_certificate  # it needs an extra

    now = datetime.fromtimestamp(SystemClock().now(), UTC).replace(microsecond=0)
    private, public = make_certificate(name, now)
    directory.mkdir(parents=True, exist_ok=True)
    key = directory / "key.pem"
    shown = directory / f"SimpleNotificationService-{digest(public, 16).hex()}.pem"
    _written(key, private, 0o600)
    _written(shown, public, 0o644)
    text = f"{key} is the key, to be kept; {shown} the certificate, to be served"
    show_one({"key": str(key), "certificate": str(shown)}, text, as_json=as_json)


def _written(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise ConfigurationError(f"{path} exists, and what it signed would no longer verify; move it aside") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
