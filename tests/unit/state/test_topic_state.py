"""Who is given what of a publish (SNS: T20, T28, T29, T47, T49, T69-T71, T80)."""

from __future__ import annotations

from hashlib import sha256

import pytest

from pipeflow.errors import ConfigurationError, InvalidFilter
from pipeflow.filters import where, where_body
from pipeflow.messages import Outgoing, Refused
from pipeflow.specs import FilterPolicy, Subscription, TopicSpec
from pipeflow.state.topic import TopicState


def topic(*subscriptions: Subscription, fifo: bool = False, content_dedup: bool = False) -> TopicState:
    state = TopicState(TopicSpec("orders", fifo=fifo, content_dedup=content_dedup))
    for subscription in subscriptions:
        state.subscribe(subscription)
    return state


def to(target: str, filter: FilterPolicy | None = None) -> Subscription:
    return Subscription("orders", "queue", target, filter)


def targets(state: TopicState, message: Outgoing) -> list[str]:
    return [subscription.target for subscription in state.route(message)]


def code(state: TopicState, message: Outgoing) -> str | None:
    refused = state.refusal(message)
    assert refused is None or isinstance(refused, Refused)
    return refused.code if refused else None


def test_every_subscription_without_a_filter_is_given_every_message_in_order_of_subscribing() -> None:
    assert targets(topic(to("b"), to("a")), Outgoing(b"x")) == ["b", "a"]


def test_T80_a_topic_without_subscribers_accepts_and_gives_to_nobody() -> None:
    state = topic()
    assert state.refusal(Outgoing(b"x")) is None
    assert state.route(Outgoing(b"x")) == []


def test_T47_T49_a_filter_lets_through_what_matches_and_nothing_else() -> None:
    state = topic(
        to("all"), to("placed", where(kind="placed")), to("big", where_body({"total": [{"numeric": [">", 9]}]}))
    )
    assert targets(state, Outgoing(b'{"total": 10}', {"kind": "placed"})) == ["all", "placed", "big"]
    assert targets(state, Outgoing(b'{"total": 9}', {"kind": "paid"})) == ["all"]
    assert targets(state, Outgoing(b"no json")) == ["all"]


def test_T29_a_subscription_sees_only_what_is_published_after_it() -> None:
    state = topic(to("early"))
    before = state.route(Outgoing(b"x"))
    state.subscribe(to("late"))
    assert [subscription.target for subscription in before] == ["early"]
    assert targets(state, Outgoing(b"x")) == ["early", "late"]


def test_T13_subscribing_again_takes_the_new_filter_in_the_old_place() -> None:
    state = topic(to("a", where(kind="x")), to("b"))
    state.subscribe(to("a", where(kind="y")))
    assert targets(state, Outgoing(b"", {"kind": "y"})) == ["a", "b"]
    assert [subscription.target for subscription in state.subscriptions] == ["a", "b"]


def test_T18_unsubscribing_is_idempotent() -> None:
    state = topic(to("a", where(kind="x")), to("b"))
    state.unsubscribe(to("a"))
    state.unsubscribe(to("a"))
    assert targets(state, Outgoing(b"")) == ["b"]


def test_a_queue_and_a_stream_of_one_name_are_two_targets() -> None:
    state = topic(to("lake"), Subscription("orders", "stream", "lake"))
    assert [(each.kind, each.target) for each in state.route(Outgoing(b""))] == [("queue", "lake"), ("stream", "lake")]


def test_T20_a_fifo_queue_cannot_subscribe_to_a_standard_topic() -> None:
    with pytest.raises(ConfigurationError, match="ledger: a FIFO queue cannot subscribe to the standard topic orders"):
        topic().subscribe(to("ledger"), fifo=True)
    topic(fifo=True).subscribe(to("standard"))
    topic(fifo=True).subscribe(to("ledger"), fifo=True)


def test_a_subscription_of_another_topic_or_with_a_bad_policy_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="subscribes to other, not orders"):
        topic().subscribe(Subscription("other", "queue", "a"))
    state = topic()
    with pytest.raises(InvalidFilter):
        state.subscribe(to("a", FilterPolicy("{")))
    assert state.subscriptions == []


def test_T28_a_group_on_a_standard_topic_is_legal_and_a_dedup_id_is_too() -> None:
    assert code(topic(), Outgoing(b"", group="g")) is None
    assert code(topic(), Outgoing(b"", dedup_id="d")) is None
    assert code(topic(), Outgoing(b"", dedup_id="with space")) == "InvalidDedup"
    assert code(topic(), Outgoing(b"", key="k")) == "bad_key"
    assert code(topic(), Outgoing(b"", group="with space")) == "InvalidGroup"


def test_T28_the_group_of_a_standard_topic_goes_to_standard_queues_only() -> None:
    lake = Subscription("orders", "stream", "lake")
    state = topic(to("a"), lake)
    message = Outgoing(b"x", group="g")
    assert state.addressed(message, to("a")).group == "g"
    assert state.addressed(message, lake).group is None


def test_T69_a_fifo_topic_needs_a_group_and_takes_a_dedup_id() -> None:
    state = topic(fifo=True)
    assert code(state, Outgoing(b"")) == "GroupRequired"
    assert code(state, Outgoing(b"", group="g")) is None
    assert code(state, Outgoing(b"", group="g", dedup_id="d")) is None
    assert code(state, Outgoing(b"", group="", dedup_id="d")) == "InvalidGroup"
    assert code(state, Outgoing(b"", group="g", dedup_id="d" * 129)) == "InvalidDedup"
    assert code(topic(fifo=True, content_dedup=True), Outgoing(b"", group="g")) is None


def test_T70_a_publish_goes_by_its_own_dedup_id_or_the_hash_of_its_body() -> None:
    state = topic(fifo=True, content_dedup=True)
    body = Outgoing(b"x", {"kind": "a"}, group="g")
    assert state.dedup_id(body) == sha256(b"x").hexdigest()
    assert state.dedup_id(Outgoing(b"x", group="g", dedup_id="mine")) == "mine"
    assert topic().dedup_id(Outgoing(b"x")) is None
    assert topic(fifo=True).dedup_id(Outgoing(b"x", group="g")) is None, "by nothing, unless the publisher says so"


def test_T71_a_fifo_queue_is_given_group_and_dedup_id_and_a_standard_one_neither() -> None:
    state = topic(fifo=True, content_dedup=True)
    state.subscribe(to("ledger"), fifo=True)
    state.subscribe(to("plain"))
    message = Outgoing(b"x", {"kind": "a"}, {"h": "1"}, group="g", checkpoint=("s", b"1"), id="i")
    hashed = state.dedup_id(message)
    assert state.addressed(message, to("ledger"), hashed) == Outgoing(
        b"x", {"kind": "a"}, {"h": "1"}, group="g", dedup_id=hashed, id="i"
    )
    assert state.addressed(message, to("plain"), hashed) == Outgoing(b"x", {"kind": "a"}, {"h": "1"}, id="i")
