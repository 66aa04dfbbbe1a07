"""Webhooks that are unsubscribed, and brought back (SNS: T11, T18, T54)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeflow import App, RefusedError
from pipeflow.clock import VirtualClock
from pipeflow.registry import open_store
from pipeflow.testing import harness
from pipeflow.testing.running import Harness
from pipeflow.webhook import Webhook
from pipeflow.webhooks import TOKEN_LIFE, Verdict

ARN = "arn:aws:sns:us-east-1:000000000000:orders"


def shop(url: str = "https://example.org/in", **options: object) -> tuple[App, Webhook]:
    app = App("shop")
    orders = app.topic("orders", str)
    return app, app.webhook("hook", orders, url=url, **options)  # type: ignore[arg-type]


async def confirmed(h: Harness, hook: Webhook) -> None:
    await h.settle()
    await hook.confirm(h.endpoint(hook).token)


async def published(h: Harness, app: App, *values: str) -> None:
    for value in values:
        await app.topics[0].publish(value)
    await h.settle()


def kinds(h: Harness, hook: Webhook) -> list[str]:
    return [notice.kind for notice in h.endpoint(hook).notices]


async def states(hook: Webhook) -> list[str]:
    return [each.state for each in await hook.subscriptions()]


async def test_T54_an_endpoint_that_is_unsubscribed_is_told_so_and_gets_nothing_more() -> None:
    app, hook = shop(public_url="https://shop.example/sns")
    async with harness(app) as h:
        await confirmed(h, hook)
        await published(h, app, "a")
        (facts,) = await hook.subscriptions()
        await hook.unsubscribe()
        await published(h, app, "b")
        assert kinds(h, hook) == ["SubscriptionConfirmation", "Notification", "UnsubscribeConfirmation"]
        assert await states(hook) == ["unsubscribed"]
        notice = h.endpoint(hook).notices[-1]
        said = json.loads(notice.body)
    assert list(said) == ["Type", "MessageId", "Token", "TopicArn", "Message", "SubscribeURL", "Timestamp"]
    assert said["Message"] == (
        f"You have chosen to deactivate subscription {facts.arn}.\n"
        "To cancel this operation and restore the subscription, visit the SubscribeURL included in this message."
    )
    assert said["SubscribeURL"].endswith(f"?Action=ConfirmSubscription&TopicArn={ARN}&Token={said['Token']}")
    assert (notice.topic, notice.subscription) == (ARN, facts.arn)


async def test_T54_the_token_it_was_told_brings_it_back_and_the_first_one_does_not() -> None:
    app, hook = shop()
    async with harness(app) as h:
        await confirmed(h, hook)
        first = h.endpoint(hook).token
        await hook.unsubscribe()
        await published(h, app, "missed")
        with pytest.raises(RefusedError, match="no subscription waits for this token"):
            await hook.confirm(first)
        await hook.confirm(h.endpoint(hook).token)
        await published(h, app, "b")
        assert [json.loads(notice.body)["Message"] for notice in h.endpoint(hook).posted] == ['"b"']
        assert await states(hook) == ["confirmed"]


async def test_T54_what_was_published_before_still_arrives() -> None:
    app, hook = shop()
    async with harness(app) as h:
        await confirmed(h, hook)
        await app.topics[0].publish("a")
        await hook.unsubscribe()
        await h.settle()
        assert kinds(h, hook)[1:] == ["Notification", "UnsubscribeConfirmation"]


async def test_T5_T18_unsubscribing_again_or_what_is_not_there_is_no_error_and_what_is_no_arn_is() -> None:
    app, hook = shop()
    async with harness(app) as h:
        await confirmed(h, hook)
        store = h.runtime.store
        await hook.unsubscribe()
        await hook.unsubscribe()
        await h.settle()
        assert kinds(h, hook).count("UnsubscribeConfirmation") == 1
        assert await store.unsubscribe(f"{ARN}:11111111-1111-1111-1111-111111111111") is None
        for arn, elements in (("hook", 1), ("arn:aws:sns:us-east-1:1", 5)):
            with pytest.raises(RefusedError, match=f"at least 6 elements, not {elements}"):
                await store.unsubscribe(arn)
        assert await store.unsubscribe("arn:aws:sns:us-east-1:1:orders") is None
        await hook.confirm(h.endpoint(hook).token)  # the one it was sent when it was unsubscribed first
        assert await states(hook) == ["confirmed"]


async def test_T18_one_that_never_confirmed_is_told_nothing_and_is_asked_no_more(tmp_path: Path) -> None:
    app, hook = shop()
    url = f"sqlite:///{tmp_path}/shop.db"
    async with harness(app, store=url) as h:
        await h.settle()
        await hook.unsubscribe()
        await h.settle()
        assert kinds(h, hook) == ["SubscriptionConfirmation"]
        with pytest.raises(RefusedError):
            await hook.confirm(h.endpoint(hook).token)
        await h.advance(2 * TOKEN_LIFE)
        clock = h.clock
    async with harness(app, store=url, clock=clock) as h:
        await h.settle()
        assert kinds(h, hook) == []
        assert await states(hook) == ["unsubscribed"]


async def test_T54_a_restart_begins_nothing_anew_and_its_token_holds_for_three_days(tmp_path: Path) -> None:
    app, hook = shop()
    url = f"sqlite:///{tmp_path}/shop.db"
    async with harness(app, store=url) as h:
        await confirmed(h, hook)
        await hook.unsubscribe()
        await h.settle()
        token, clock = h.endpoint(hook).token, h.clock
    async with harness(app, store=url, clock=clock) as h:
        await published(h, app, "a")
        assert kinds(h, hook) == []
        await h.advance(TOKEN_LIFE)
        with pytest.raises(RefusedError):
            await hook.confirm(token)
        assert await states(hook) == ["unsubscribed"]


async def test_an_operator_has_an_endpoint_asked_anew() -> None:
    app, hook = shop()
    async with harness(app) as h:
        await confirmed(h, hook)
        (facts,) = await hook.subscriptions()
        assert (await h.runtime.store.unsubscribe(facts.arn, undo=True)) == facts, "it is subscribed: nothing to undo"
        await hook.unsubscribe()
        await h.settle()
        asked = await h.runtime.store.unsubscribe(facts.arn, undo=True)
        assert asked is not None
        assert asked.state == "pending"
        await h.settle()
        assert kinds(h, hook)[1:] == ["UnsubscribeConfirmation", "SubscriptionConfirmation"]
        await confirmed(h, hook)
        await published(h, app, "b")
        assert len(h.endpoint(hook).posted) == 1


async def test_one_without_a_handshake_is_told_and_comes_back_by_its_token_or_at_once() -> None:
    app, hook = shop(handshake=False)
    async with harness(app) as h:
        await hook.unsubscribe()
        await published(h, app, "missed")
        assert kinds(h, hook) == ["UnsubscribeConfirmation"]
        await hook.confirm(h.endpoint(hook).token)
        await published(h, app, "b")
        assert kinds(h, hook)[1:] == ["Notification"]
        await hook.unsubscribe()
        (facts,) = await hook.subscriptions()
        await h.runtime.store.unsubscribe(facts.arn, undo=True)
        await published(h, app, "c")
        assert kinds(h, hook)[2:] == ["UnsubscribeConfirmation", "Notification"]


async def test_T13_another_endpoint_begins_anew(tmp_path: Path) -> None:
    app, hook = shop()
    url = f"sqlite:///{tmp_path}/shop.db"
    async with harness(app, store=url) as h:
        await confirmed(h, hook)
        await hook.unsubscribe()
        await h.settle()
    moved, other = shop("https://example.net/in")
    async with harness(moved, store=url) as h:
        await h.settle()
        assert kinds(h, other) == ["SubscriptionConfirmation"]


async def test_of_two_topics_one_may_be_left_also_through_the_socket_of_the_owner(tmp_path: Path) -> None:
    app = App("shop")
    topics = [app.topic("orders", str), app.topic("returns", str)]
    hook = app.webhook("hook", *topics, url="https://example.org/in")
    url = f"sqlite:///{tmp_path}/shop.db"
    async with harness(app, store=url) as h:
        await h.settle()
        for notice in h.endpoint(hook).notices[:2]:
            said = json.loads(notice.body)
            facts = await h.runtime.store.confirm(said["TopicArn"].rpartition(":")[2], said["Token"])
            assert facts.topic == said["TopicArn"].rpartition(":")[2]
        left = (await hook.subscriptions())[0]
        client = await open_store(url, clock=h.clock, client=True)
        gone = await client.unsubscribe(left.arn)
        await client.close()
        assert gone is not None
        assert gone.state == "unsubscribed"
        for topic in topics:
            await topic.publish(topic.name)
        await h.settle()
        assert [json.loads(notice.body)["Message"] for notice in h.endpoint(hook).posted] == ['"returns"']


async def test_T54_after_a_kill_it_is_unsubscribed_and_will_be_told_or_neither(tmp_path: Path) -> None:
    app, hook = shop()
    url = f"sqlite:///{tmp_path}/shop.db"
    async with harness(app, store=url) as h:
        await confirmed(h, hook)
        h.endpoint(hook).answer = lambda notice: Verdict(False, reason="https://example.org: no answer")
        await hook.unsubscribe()
        # What a kill leaves: the files as they are now.
        for name in ("shop.db-log", "shop.db", "shop.db-wal"):
            shutil.copy(tmp_path / name, tmp_path / f"copy{name[4:]}")
        clock = VirtualClock(h.clock.now())
    again, hook = shop()
    async with harness(again, store=f"sqlite:///{tmp_path}/copy.db", clock=clock) as h:
        await h.advance(60)
        assert kinds(h, hook) == ["UnsubscribeConfirmation"]
        assert await states(hook) == ["unsubscribed"]
