"""Webhooks of every topic that a pattern names, whoever declares it and when (SNS: T11, T13, T20, T54, T62)."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipeflow import App, ConfigurationError
from pipeflow.asgi import Scope, subscriptions
from pipeflow.messages import Outgoing
from pipeflow.registry import open_store
from pipeflow.specs import TopicSpec, Topology
from pipeflow.testing import harness
from pipeflow.testing.running import Harness
from pipeflow.webhook import Webhook
from pipeflow.webhooks import DeliveryPolicy, Notice, Verdict


def shop(**options: object) -> tuple[App, Webhook]:
    """An app of two topics, and a webhook of all of their name."""
    app = App("shop")
    hook = app.webhook("hook", app.topics_named("orders-*", str), url="https://example.org/in", **options)  # type: ignore[arg-type]
    for name in ("orders-eu", "orders-us", "bills"):
        app.topic(name, str)
    return app, hook


def name_of(notice: Notice) -> str:
    return notice.topic.rpartition(":")[2]


def tokens(h: Harness, hook: Webhook) -> dict[str, str]:
    """By topic: the token of the last request to confirm."""
    asked = [each for each in h.endpoint(hook).notices if each.kind == "SubscriptionConfirmation"]
    return {name_of(each): json.loads(each.body)["Token"] for each in asked}


def posted(h: Harness, hook: Webhook) -> list[tuple[str, str]]:
    return [(name_of(each), json.loads(json.loads(each.body)["Message"])) for each in h.endpoint(hook).posted]


async def states(hook: Webhook) -> dict[str, str]:
    return {each.topic: each.state for each in await hook.subscriptions()}


async def publish_to_all(h: Harness, app: App) -> None:
    for topic in app.topics:
        await topic.publish(topic.name)
    await h.settle()


async def test_T11_each_topic_of_a_name_is_confirmed_by_itself_and_the_others_post_nothing() -> None:
    app, hook = shop()
    async with harness(app) as h:
        await h.settle()
        assert list(tokens(h, hook)) == ["orders-eu", "orders-us"]
        await hook.confirm(tokens(h, hook)["orders-us"])
        await publish_to_all(h, app)
        assert posted(h, hook) == [("orders-us", "orders-us")]
        assert await states(hook) == {"orders-eu": "pending", "orders-us": "confirmed"}


async def test_T11_a_topic_that_another_program_declares_later_is_asked_for_at_once(tmp_path: Path) -> None:
    app, hook = shop()
    url = f"sqlite:///{tmp_path}/shop.db"
    async with harness(app, store=url) as h:
        await h.settle()
        client = await open_store(url, clock=h.clock, client=True)
        await client.declare(Topology(topics=(TopicSpec("orders-uk"),)))
        await h.settle()
        token = tokens(h, hook)["orders-uk"]
        assert (await client.confirm("orders-uk", token)).state == "confirmed"
        await client.close()
        assert (await states(hook))["orders-uk"] == "confirmed"


async def test_T13_a_restart_keeps_what_was_confirmed_of_a_name_and_another_endpoint_confirms_anew(
    tmp_path: Path,
) -> None:
    app, hook = shop()
    url = f"sqlite:///{tmp_path}/shop.db"
    async with harness(app, store=url) as h:
        await h.settle()
        await hook.confirm(tokens(h, hook)["orders-eu"])
    async with harness(app, store=url) as h:
        await publish_to_all(h, app)
        assert posted(h, hook) == [("orders-eu", "orders-eu")]
    moved = App("shop")
    other = moved.webhook("hook", moved.topics_named("orders-*", str), url="https://example.net/in")
    async with harness(moved, store=url) as h:
        await h.settle()
        assert await states(other) == {"orders-eu": "pending", "orders-us": "pending"}


async def test_T54_one_topic_of_a_name_may_be_left_and_come_back() -> None:
    app, hook = shop(handshake=False)
    async with harness(app) as h:
        (arn,) = [each.arn for each in await hook.subscriptions() if each.topic == "orders-eu"]
        await h.runtime.store.unsubscribe(arn)
        await publish_to_all(h, app)
        assert await states(hook) == {"orders-eu": "unsubscribed", "orders-us": "confirmed"}
        assert posted(h, hook) == [("orders-us", "orders-us")]
        await h.runtime.store.unsubscribe(arn, undo=True)
        await publish_to_all(h, app)
        assert sorted(posted(h, hook)) == [("orders-eu", "orders-eu"), *[("orders-us", "orders-us")] * 2]


async def test_a_topic_that_is_named_itself_goes_before_the_name_of_many_and_is_confirmed_once() -> None:
    app = App("shop")
    eu = app.topic("orders-eu", str)
    app.topic("orders-us", str)
    many = app.topics_named("orders-*", str)
    hook = app.webhook("hook", eu.where(kind="paid"), many, url="https://example.org/in")
    async with harness(app) as h:
        await h.settle()
        requests = [name_of(each) for each in h.endpoint(hook).notices]
        assert requests == ["orders-eu", "orders-us"]
        assert [each.topic for each in await hook.subscriptions()] == requests
        for token in tokens(h, hook).values():
            await hook.confirm(token)
        await publish_to_all(h, app)
        assert posted(h, hook) == [("orders-us", "orders-us")]


async def test_T20_fifo_topics_of_a_name_are_passed_over_and_those_of_the_app_refused(tmp_path: Path) -> None:
    app, hook = shop(handshake=False)
    url = f"sqlite:///{tmp_path}/shop.db"
    async with harness(app, store=url) as h:
        await h.runtime.store.declare(Topology(topics=(TopicSpec("orders-fifo", fifo=True),)))
        assert list(await states(hook)) == ["orders-eu", "orders-us"]
    app.topic("orders-in-order", str, fifo=True)
    with pytest.raises(
        ConfigurationError, match=r"webhook hook subscribes to orders-\*, and topic orders-in-order is FIFO"
    ):
        app.topology()


async def test_T62_topics_of_a_name_have_their_own_policies_and_those_of_other_programs_the_webhooks() -> None:
    app = App("shop")
    own = DeliveryPolicy(retries=1, min_delay=5, max_delay=5)
    hook = app.webhook(
        "hook", app.topics_named("orders-*", str), url="https://example.org/in", handshake=False, retry=own
    )
    app.topic("orders-eu", str, retry=DeliveryPolicy(retries=3), retry_override=False)
    plan = hook.plan(app.topics)
    assert ({name: each.retries for name, each in plan.retries.items()}, plan.otherwise.retries) == (
        {"orders-eu": 3},
        1,
    )
    async with harness(app) as h:
        await h.runtime.store.declare(Topology(topics=(TopicSpec("orders-uk"),)))
        h.endpoint(hook).answer = lambda notice: Verdict(False, reason="answered 503")
        for name in ("orders-eu", "orders-uk"):
            await h.runtime.store.publish(name, [Outgoing(b'"a"')])
        await h.advance(3600)
        attempts = [name for name, _ in posted(h, hook)]
    assert (attempts.count("orders-eu"), attempts.count("orders-uk")) == (4, 2)


async def test_T19_the_url_in_the_request_confirms_a_topic_of_a_name() -> None:
    app, hook = shop(public_url="https://shop.example/sns")
    async with harness(app) as h:
        await h.settle()
        asked = json.loads(h.endpoint(hook).notices[0].body)["SubscribeURL"]
        assert await status(app, urlsplit(asked).query.replace("orders-eu", "bills")) == 403
        assert await status(app, urlsplit(asked).query) == 200
        assert await states(hook) == {"orders-eu": "confirmed", "orders-us": "pending"}


async def status(app: App, query: str) -> int:
    sent: list[Scope] = []

    async def send(message: Scope) -> None:
        sent.append(message)

    async def receive() -> Scope:
        raise AssertionError("a GET has no body")

    await subscriptions(app)({"type": "http", "method": "GET", "query_string": query.encode()}, receive, send)
    return int(sent[0]["status"])
