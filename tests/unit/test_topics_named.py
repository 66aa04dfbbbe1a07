"""Topics by pattern, as an app declares them: what fits, what is refused, and what a handler sees."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from pipeflow import App, Message, Router
from pipeflow.errors import ConfigurationError, InvalidName
from pipeflow.names import is_meant, may_meet, topic_pattern
from pipeflow.testing import harness


class Order(msgspec.Struct, tag=True):
    id: str


class Refund(msgspec.Struct, tag=True):
    id: str


NAMES = some.text("ab-", min_size=1, max_size=6)
PATTERNS = some.text("ab*", min_size=1, max_size=6)


@given(PATTERNS, PATTERNS, some.lists(NAMES, max_size=20))
def test_two_patterns_may_meet_when_a_name_is_meant_by_both(one: str, other: str, names: list[str]) -> None:
    if any(is_meant(name, one) and is_meant(name, other) for name in names):
        assert may_meet(one, other)


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("orders-*", "*-eu", True),
        ("orders-*", "orders-eu-*", True),
        ("*", "*", True),
        ("a*b", "*ab*b", True),
        ("orders-*", "returns-*", False),
        ("*-eu", "*-us", False),
        ("a*b", "a", False),
        ("a*", "b", False),
        ("", "*", True),
    ],
)
def test_whether_two_patterns_may_meet(one: str, other: str, meet: bool) -> None:
    assert may_meet(one, other) is meet
    assert may_meet(other, one) is meet


def test_a_star_is_any_run_of_characters_and_nothing_else_is_special() -> None:
    assert is_meant("orders-", "orders-*")
    assert is_meant("orders-eu-1", "orders-*")
    assert is_meant("a-x-b", "a*x*b")
    assert not is_meant("orders", "orders-*")
    assert not is_meant("my-orders-1", "orders-*")
    for wrong in ("orders", "a**b", "a?*", "a.*", "", "*" * 300):
        with pytest.raises(InvalidName, match=re.escape(repr(wrong))):
            topic_pattern(wrong)


async def test_a_handler_takes_all_topics_of_a_name_and_sees_which_it_was() -> None:
    app = App("shop")
    eu = app.topic("orders-eu", Order)
    audit = app.queue("audit", Order, app.topics_named("orders-*", Order).where(kind="placed"))
    us = app.topic("orders-us", Order)
    seen: list[tuple[str, str | None]] = []

    @audit.handler
    async def note(message: Message[Order]) -> None:
        seen.append((message.body.id, message.topic))

    async with harness(app) as h:
        await eu.publish(Order("1"), kind="placed")
        await us.publish(Order("2"), kind="placed")
        await us.publish(Order("3"), kind="void")
        await audit.send(Order("4"))
        await h.settle()
    assert seen == [("1", "orders-eu"), ("2", "orders-us"), ("4", None)]


async def test_a_queue_of_two_topics_is_told_which_and_a_queue_of_one_is_not() -> None:
    app = App("shop")
    eu, us = app.topic("eu", Order), app.topic("us", Order)
    both, one = app.queue("both", Order, eu, us), app.queue("one", Order, eu)
    seen: list[tuple[str, str | None]] = []

    @both.handler
    async def of_both(message: Message[Order]) -> None:
        seen.append((message.queue, message.topic))

    @one.handler
    async def of_one(message: Message[Order]) -> None:
        seen.append((message.queue, message.topic))

    async with harness(app) as h:
        await eu.publish(Order("1"))
        await us.publish(Order("2"))
        await h.settle()
    assert sorted(seen, key=str) == [("both", "eu"), ("both", "us"), ("one", None)]


async def test_a_topic_of_another_program_with_another_type_ends_in_the_dead_letters(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db?durability=normal"
    shop, other = App("shop"), App("other")
    audit = shop.queue("audit", Order, shop.topics_named("orders-*", Order))
    refunds = other.topic("orders-refunds", Refund)
    handled: list[str] = []

    @audit.handler
    async def note(order: Order) -> None:
        handled.append(order.id)

    async with harness(shop, store=url):
        pass
    async with harness(other, store=url):
        await refunds.publish(Refund("1"))
    async with harness(shop, store=url) as h:
        await h.settle()
        assert handled == []
        (dead,) = await h.runtime.store.peek("audit", dead=True)
        assert dead.failures[0].type == "CodecError"


def test_a_topic_of_the_app_that_does_not_fit_the_type_is_refused_with_both_places() -> None:
    app = App("shop")
    app.queue("audit", Order, app.topics_named("orders-*", Order))
    app.topic("orders-eu", Order)
    app.topology()
    app.topic("orders-refunds", Refund)
    with pytest.raises(
        ConfigurationError, match=r"test_topics_named.py:\d+: topics orders-\* takes Order, and topic orders-refunds"
    ):
        app.topology()


def test_a_union_takes_its_types_and_bytes_take_all() -> None:
    app = App("shop")
    app.topic("orders-eu", Order)
    app.topic("orders-refunds", Refund)
    app.queue("raw", bytes, app.topics_named("orders-*", bytes))
    app.queue("both", Order | Refund, app.topics_named("orders-*", Order | Refund))  # type: ignore[arg-type]
    app.topology()
    app.topic("orders-packed", Order, codec="msgpack")
    with pytest.raises(ConfigurationError, match=r"topic orders-packed .* has codec='msgpack'"):
        app.topology()


def test_two_patterns_of_one_queue_that_may_meet_are_refused() -> None:
    app = App("shop")
    app.queue("audit", Order, app.topics_named("orders-*", Order), app.topics_named("*-eu", Order))
    with pytest.raises(ConfigurationError, match=r"subscribes to orders-\* and to \*-eu"):
        app.topology()


@pytest.mark.parametrize("twice", ["topic", "pattern"])
def test_a_queue_that_subscribes_to_one_topic_twice_is_refused(twice: str) -> None:
    app = App("shop")
    topic = app.topic("orders-eu", Order)
    origin = topic if twice == "topic" else app.topics_named("orders-*", Order)
    app.queue("audit", Order, origin.where(kind="placed"), origin.where(kind="paid"))
    with pytest.raises(ConfigurationError, match="twice; write both as alternatives of one filter"):
        app.topology()


def test_T20_a_fifo_queue_of_a_name_that_means_a_standard_topic_of_the_app_is_refused() -> None:
    app = App("shop")
    app.queue("audit", Order, app.topics_named("orders-*", Order), fifo=True)
    app.topic("orders-eu", Order)
    with pytest.raises(ConfigurationError, match="queue audit is FIFO and topic orders-eu is not"):
        app.topology()


def test_a_pattern_without_a_star_is_refused() -> None:
    app = App("shop")
    with pytest.raises(ConfigurationError, match=r"test_topics_named.py:\d+: topics 'orders'"):
        app.topics_named("orders", Order)


def test_a_router_names_topics_with_its_prefix() -> None:
    router = Router(prefix="eu-")
    assert router.topics_named("orders-*", Order).name == "eu-orders-*"
