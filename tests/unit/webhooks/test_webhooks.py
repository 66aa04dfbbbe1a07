"""Webhooks in the real engine on virtual time, with an endpoint in memory (SNS: T11-T13, T18-T20, T59-T66)."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from pipeflow import App, ConfigurationError, RefusedError
from pipeflow.messages import Want
from pipeflow.testing import harness
from pipeflow.webhook import Webhook
from pipeflow.webhooks import TOKEN_LIFE, DeliveryPolicy, Notice, Verdict

BUSY = Verdict(False, reason="https://example.org: answered 503")
GONE = Verdict(False, permanent=True, reason="https://example.org: answered 410")


def shop(**options: object) -> tuple[App, Webhook]:
    app = App("shop")
    orders = app.topic("orders", str)
    hook = app.webhook("hook", orders, url="https://example.org/in", **options)  # type: ignore[arg-type]
    return app, hook


async def test_T11_T29_nothing_but_the_request_to_confirm_is_posted_before_somebody_confirmed() -> None:
    app, hook = shop()
    async with harness(app) as h:
        await app.topics[0].publish("early")
        await h.settle()
        endpoint = h.endpoint(hook)
        assert [notice.kind for notice in endpoint.notices] == ["SubscriptionConfirmation"]
        assert [each.state for each in await hook.subscriptions()] == ["pending"]
        await hook.confirm(endpoint.token)
        await app.topics[0].publish("late")
        await h.settle()
        assert [json.loads(notice.body)["Message"] for notice in endpoint.posted] == ['"late"']
        assert [each.state for each in await hook.subscriptions()] == ["confirmed"]


async def test_T19_a_token_that_is_none_confirms_nothing_and_the_right_one_may_be_used_again() -> None:
    app, hook = shop()
    app.topic("other", str)
    async with harness(app) as h:
        await h.settle()
        token = h.endpoint(hook).token
        assert len(bytes.fromhex(token)) >= 16
        with pytest.raises(RefusedError, match="topic other: no subscription waits for this token"):
            await h.runtime.store.confirm("other", token)
        for wrong in ("", token[:-1], "f" * len(token)):
            with pytest.raises(RefusedError, match="no subscription waits for this token"):
                await hook.confirm(wrong)
        first = await h.runtime.store.confirm("orders", token)
        assert await h.runtime.store.confirm("orders", token) == first
        await h.advance(2 * TOKEN_LIFE)
        assert await h.runtime.store.confirm("orders", token) == first


async def test_T11_a_token_holds_for_three_days_and_the_next_start_asks_anew(tmp_path: Path) -> None:
    app, hook = shop()
    store = f"sqlite:///{tmp_path}/shop.db"
    async with harness(app, store=store) as h:
        await h.settle()
        old = h.endpoint(hook).token
        await h.advance(TOKEN_LIFE)
        with pytest.raises(RefusedError):
            await hook.confirm(old)
        clock = h.clock
    async with harness(app, store=store, clock=clock) as h:
        await h.settle()
        assert h.endpoint(hook).token != old
        await hook.confirm(h.endpoint(hook).token)


async def test_T13_a_restart_keeps_the_confirmation_and_another_endpoint_has_to_confirm_itself(tmp_path: Path) -> None:
    app, hook = shop()
    store = f"sqlite:///{tmp_path}/shop.db"
    async with harness(app, store=store) as h:
        await h.settle()
        await hook.confirm(h.endpoint(hook).token)
    async with harness(app, store=store) as h:
        await app.topics[0].publish("a")
        await h.settle()
        assert [notice.kind for notice in h.endpoint(hook).notices] == ["Notification"]
    other = App("shop")
    moved = other.webhook("hook", other.topic("orders", str), url="https://example.net/in")
    async with harness(other, store=store) as h:
        await other.topics[0].publish("b")
        await h.settle()
        assert [notice.kind for notice in h.endpoint(moved).notices] == ["SubscriptionConfirmation"]


async def test_T54_a_request_to_confirm_says_what_and_how() -> None:
    app, hook = shop(public_url="https://shop.example/sns")
    async with harness(app) as h:
        await h.settle()
        (notice,) = h.endpoint(hook).notices
        said = json.loads(notice.body)
    arn = "arn:aws:sns:us-east-1:000000000000:orders"
    assert list(said) == ["Type", "MessageId", "Token", "TopicArn", "Message", "SubscribeURL", "Timestamp"]
    assert said["SubscribeURL"] == (
        f"https://shop.example/sns?Action=ConfirmSubscription&TopicArn={arn}&Token={said['Token']}"
    )
    assert said["Message"].startswith(f"You have chosen to subscribe to the topic {arn}.\n")
    assert (notice.id, notice.topic, notice.subscription) == (said["MessageId"], arn, None)


async def test_T59_T61_what_the_endpoint_cannot_take_now_is_tried_again_by_the_policy() -> None:
    app, hook = shop(handshake=False, retry=DeliveryPolicy(retries=3, min_delay=10, max_delay=30, no_delay_retries=1))
    async with harness(app) as h:
        at: list[float] = []

        def answer(notice: Notice) -> Verdict:
            at.append(h.clock.now())
            return BUSY

        endpoint = h.endpoint(hook)
        endpoint.answer = answer
        await app.topics[0].publish("a")
        await h.advance(3600)
        gaps = [later - earlier for earlier, later in pairwise(at)]
        assert len(at) == 4
        assert gaps[0] == 0
        assert 9 <= gaps[1] <= 10
        assert 27 <= gaps[2] <= 30
        assert len({notice.id for notice in endpoint.posted}) == 1, "P15: the same id at every attempt"
        assert len({notice.body for notice in endpoint.posted}) == 1


async def test_T59_a_client_error_is_not_tried_again() -> None:
    app, hook = shop(handshake=False)
    async with harness(app) as h:
        h.endpoint(hook).answer = lambda notice: GONE
        await app.topics[0].publish("a")
        await h.advance(3600)
        assert len(h.endpoint(hook).posted) == 1


async def test_T64_T65_dead_letters_hold_what_the_endpoint_would_have_got() -> None:
    app, hook = shop(handshake=False)
    dead = app.queue("hook-dlq", bytes, codec="raw", dead_letters=False)
    async with harness(app) as h:
        h.endpoint(hook).answer = lambda notice: GONE
        await app.topics[0].publish("a", kind="placed")
        await h.settle()
        (notice,) = h.endpoint(hook).posted
        (letter,) = await h.runtime.store.receive(dead.name, Want())
        assert letter.body == notice.body
        assert letter.failures[-1].message == "https://example.org: answered 410"
        assert letter.dead_letter_source == "hook"


async def test_T65_dead_letters_of_raw_delivery_are_the_bare_text_with_its_attributes() -> None:
    app, hook = shop(handshake=False, raw=True)
    async with harness(app) as h:
        h.endpoint(hook).answer = lambda notice: GONE
        await app.topics[0].publish("a", kind="placed")
        await h.settle()
        (notice,) = h.endpoint(hook).posted
        (letter,) = await h.runtime.store.peek("hook", dead=True)
        assert (letter.body, letter.attributes) == (b'"a"', {"kind": "placed"})
        assert (notice.body, notice.raw) == (b'"a"', True)


async def test_T66_without_dead_letters_a_message_is_dropped_and_the_subscription_stays() -> None:
    app, hook = shop(handshake=False, dead_letters=False)
    async with harness(app) as h:
        endpoint = h.endpoint(hook)
        endpoint.answer = lambda notice: GONE
        await app.topics[0].publish("a")
        await h.settle()
        endpoint.answer = lambda notice: Verdict(True)
        await app.topics[0].publish("b")
        await h.settle()
        assert len(endpoint.posted) == 2
        (stats,) = (await h.runtime.store.stats()).queues
        assert (stats.ready, stats.in_flight, stats.delayed) == (0, 0, 0)


def test_T20_a_fifo_topic_takes_no_webhook() -> None:
    app = App("shop")
    orders = app.topic("orders", str, fifo=True)
    with pytest.raises(ConfigurationError, match=r"test_webhooks\.py:\d+: webhook hook: topic orders is FIFO"):
        app.webhook("hook", orders, url="https://example.org/in")


async def test_T49_a_filter_says_what_is_posted() -> None:
    app = App("shop")
    orders = app.topic("orders", str)
    hook = app.webhook("hook", orders.where(kind="placed"), url="https://example.org/in", handshake=False, raw=True)
    async with harness(app) as h:
        await orders.publish("a", kind="placed")
        await orders.publish("b", kind="void")
        await h.settle()
        assert [notice.body for notice in h.endpoint(hook).posted] == [b'"a"']


async def test_T61_no_more_requests_a_second_than_were_asked_for() -> None:
    app, hook = shop(handshake=False, retry=DeliveryPolicy(max_per_second=2))
    async with harness(app) as h:
        await app.topics[0].publish_many([str(n) for n in range(10)])
        await h.settle()
        assert len(h.endpoint(hook).posted) == 1
        await h.advance(2)
        assert len(h.endpoint(hook).posted) == 5
        await h.advance(10)
        assert len(h.endpoint(hook).posted) == 10


async def test_P15_an_endpoint_that_keeps_failing_is_left_alone_and_no_attempt_is_lost_meanwhile() -> None:
    app, hook = shop(handshake=False, concurrency=5, retry=DeliveryPolicy(retries=3, min_delay=1, max_delay=1))
    async with harness(app) as h:
        endpoint = h.endpoint(hook)
        endpoint.answer = lambda notice: BUSY
        await app.topics[0].publish_many([str(n) for n in range(40)])
        await h.settle()
        assert len(endpoint.posted) == 5, "after five failures it rests"
        await h.advance(1.5)
        assert len(endpoint.posted) == 6, "then one asks for all"
        endpoint.answer = lambda notice: Verdict(True)
        await h.advance(120)
        assert len({notice.id for notice in endpoint.posted}) == 40
        assert await h.runtime.store.peek("hook", dead=True) == []


async def test_P15_at_most_so_many_requests_are_under_way_at_once() -> None:
    app, hook = shop(handshake=False, concurrency=3)
    async with harness(app) as h:
        endpoint = h.endpoint(hook)
        under_way = most = 0
        real = endpoint.post

        async def slow(notice: Notice) -> Verdict:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await h.sleep(1)
            under_way -= 1
            return await real(notice)

        endpoint.post = slow  # type: ignore[method-assign]  # the same endpoint, slower
        await app.topics[0].publish_many([str(n) for n in range(9)])
        await h.advance(10)
        assert (most, len(endpoint.posted)) == (3, 9)


async def test_P15_retries_go_on_after_a_restart_under_the_same_id(tmp_path: Path) -> None:
    app, hook = shop(handshake=False)
    store = f"sqlite:///{tmp_path}/shop.db"
    async with harness(app, store=store) as h:
        h.endpoint(hook).answer = lambda notice: BUSY
        await app.topics[0].publish("a")
        await h.settle()
        (first,) = h.endpoint(hook).posted
        clock = h.clock
    async with harness(app, store=store, clock=clock) as h:
        await h.settle()
        assert h.endpoint(hook).posted == [], "the queue keeps the time"
        await h.advance(30)
        (second,) = h.endpoint(hook).posted
    assert (first.id, first.body) == (second.id, second.body)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"raw": "true"}, "raw is 'true'; use True or False"),
        ({"handshake": 1}, "handshake is 1; use True or False"),
        ({"timeout": 0}, "timeout is 0 and concurrency 10"),
        ({"concurrency": 0}, "concurrency 0; use"),
        ({"concurrency": 1.5}, "concurrency 1.5; use"),
        ({"public_url": "shop.example/sns"}, "no URL that a query can follow"),
        ({"public_url": "https://shop.example/sns?a=b"}, "no URL that a query can follow"),
        ({"public_url": "https://shop.example/#sns"}, "no URL that a query can follow"),
        ({"url": "ftp://example.org"}, "url is no http:// or https:// URL"),
    ],
)
def test_T16_an_option_that_is_none_is_refused_where_it_is_declared(options: dict[str, object], words: str) -> None:
    app = App("shop")
    orders = app.topic("orders", str)
    with pytest.raises(ConfigurationError, match=r"test_webhooks\.py:\d+: webhook hook: ") as raised:
        app.webhook("hook", orders, **{"url": "https://example.org/in", **options})  # type: ignore[arg-type]
    assert words in str(raised.value)


async def test_T12_T15_what_a_subscription_is_can_be_read_and_says_that_it_is_pending() -> None:
    app, hook = shop(raw=True)
    async with harness(app) as h:
        (facts,) = await hook.subscriptions()
        assert (facts.topic, facts.webhook, facts.endpoint) == ("orders", "hook", "https://example.org/in")
        assert (facts.state, facts.confirmed_at) == ("pending", None)
        await h.settle()
        await h.advance(60)
        await hook.confirm(h.endpoint(hook).token)
        (confirmed,) = await hook.subscriptions()
        assert (confirmed.state, confirmed.confirmed_at, confirmed.arn) == ("confirmed", h.clock.now(), facts.arn)
        (subscription,) = (await h.runtime.store.describe()).subscriptions
        assert (subscription.raw, subscription.handshake) == (True, True)


async def test_P15_a_message_that_waits_for_an_endpoint_that_rests_is_given_back_unharmed_at_the_end() -> None:
    app, hook = shop(handshake=False, retry=DeliveryPolicy(retries=0))
    async with harness(app) as h:
        h.endpoint(hook).answer = lambda notice: BUSY
        await app.topics[0].publish_many([str(n) for n in range(20)])
        await h.settle()
        dead = len(await h.runtime.store.peek("hook", dead=True))
        assert dead == 5, "those that were posted"
        left = await h.runtime.store.peek("hook", 100)
        assert len(left) == 15
