"""How often and how late an endpoint is tried again (SNS: T7, T61-T63)."""

from __future__ import annotations

import pytest

from pipeflow import App
from pipeflow.errors import ConfigurationError
from pipeflow.webhooks import BackoffFunction, DeliveryPolicy, Retries, effective


def delays(retries: Retries, roll: float = 0.0) -> list[float]:
    return [retries.delay(retry, roll) for retry in range(1, retries.retries + 1)]


def test_T7_where_nothing_is_said_there_are_three_retries_twenty_seconds_apart() -> None:
    assert effective(None, None) == Retries(3, 20.0, 20.0, 0, 0, 0, "linear", None, "text/plain; charset=UTF-8")
    assert delays(Retries()) == [20.0, 20.0, 20.0]


def test_T7_T62_a_webhook_is_merged_over_its_topic_and_that_over_the_default() -> None:
    topic = DeliveryPolicy(retries=5, max_delay=60)
    merged = effective(topic, DeliveryPolicy(retries=7, backoff="geometric"))
    assert (merged.retries, merged.min_delay, merged.max_delay, merged.backoff) == (7, 20.0, 60, "geometric")


def test_T62_a_topic_that_allows_no_override_passes_over_what_its_webhooks_say() -> None:
    assert effective(DeliveryPolicy(retries=5), DeliveryPolicy(retries=7), override=False).retries == 5
    app = App("shop")
    orders = app.topic("orders", bytes, retry=DeliveryPolicy(retries=5), retry_override=False)
    bills = app.topic("bills", bytes, retry=DeliveryPolicy(retries=4))
    hook = app.webhook("hook", orders, bills, url="https://example.org/in", retry=DeliveryPolicy(retries=7))
    assert {topic: retries.retries for topic, retries in hook.retries.items()} == {"orders": 5, "bills": 7}


def test_T61_the_phases_follow_one_another() -> None:
    policy = Retries(9, 2, 32, no_delay_retries=2, min_delay_retries=2, max_delay_retries=2, backoff="linear")
    assert delays(policy) == [0, 0, 2, 2, 2, 17, 32, 32, 32]


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [
        ("linear", [1, 6, 11, 16, 21]),
        ("arithmetic", [1, 4.125, 8.5, 14.125, 21]),
        ("geometric", [1, 21**0.25, 21**0.5, 21**0.75, 21]),
        ("exponential", [1, 1 + 20 * (2**1.25 - 1) / 31, 1 + 20 * (2**2.5 - 1) / 31, 1 + 20 * (2**3.75 - 1) / 31, 21]),
    ],
)
def test_T61_the_backoff_goes_from_the_least_to_the_most_delay(backoff: BackoffFunction, expected: list[float]) -> None:
    assert delays(Retries(5, 1, 21, backoff=backoff)) == pytest.approx(expected)


def test_T63_jitter_takes_up_to_a_tenth_off_and_is_an_argument() -> None:
    assert delays(Retries(1), roll=0.5) == [19.0]
    assert delays(Retries(1), roll=0.999) == pytest.approx([18.002])


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (DeliveryPolicy(retries=101), "retries is 101; use 0 to 100"),
        (DeliveryPolicy(min_delay=0.5), "use 1 s up to 3600 s"),
        (DeliveryPolicy(min_delay=30), "use 1 s up to 3600 s, the least first"),
        (DeliveryPolicy(max_delay=3601), "use 1 s up to 3600 s"),
        (DeliveryPolicy(no_delay_retries=2, max_delay_retries=2), "are more than retries=3; raise it"),
        (DeliveryPolicy(backoff="cubic"), "use linear, arithmetic, geometric or exponential"),  # type: ignore[arg-type]
        (DeliveryPolicy(max_per_second=0.5), "max_per_second is 0.5; use at least 1"),
        (DeliveryPolicy(retries=100, min_delay=40, max_delay=40), "its delays come to 4000 s, at most 3600"),
        (DeliveryPolicy(content_type="a\nb"), "is no header"),
    ],
)
def test_T61_a_policy_out_of_its_ranges_is_refused_where_it_is_declared(policy: DeliveryPolicy, words: str) -> None:
    app = App("shop")
    orders = app.topic("orders", bytes)
    with pytest.raises(ConfigurationError, match=r"test_delivery_policy\.py:\d+: webhook hook: ") as raised:
        app.webhook("hook", orders, url="https://example.org/in", retry=policy)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("no_delay_retries", -1), ("retries", 2.5), ("retries", True), ("max_delay_retries", "1"), ("min_delay", "20"),
        ("max_delay", -1), ("max_per_second", float("nan")), ("content_type", 5), ("content_type", None),
    ],
)  # fmt: skip
def test_T61_what_is_no_number_of_its_kind_is_refused_at_once(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=rf"DeliveryPolicy: {name} is .*; use "):
        DeliveryPolicy(**{name: value})  # type: ignore[arg-type]  # what a careless caller writes
    assert DeliveryPolicy(max_per_second=None).max_per_second is None
