"""What becomes of a delivery, rule by rule."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from msgspec import structs

from pipeflow.engine.outcome import Cancelled, EmitRefused, Raised, Result, RetryPolicy, Returned, decide, describe
from pipeflow.errors import CodecError, Reject, Retry
from pipeflow.messages import Ack, Bury, Defer, Delivery, Emit, Outgoing, Receipt, Refused, Release, Settlement
from pipeflow.specs import Backoff

POLICY = RetryPolicy(5, Backoff(base=1.0, factor=2.0, cap=300.0))


def delivery(attempt: int = 1) -> Delivery:
    return Delivery("id", "billing", b"{}", Receipt(1, 1, attempt), attempt, 0.0, 30.0, 1)


def fate(result: Result, attempt: int = 1, policy: RetryPolicy = POLICY, roll: float = 0.5) -> Settlement:
    return decide(delivery(attempt), result, policy, roll, now=7.0)


def test_returning_acknowledges_with_what_was_emitted() -> None:
    emits = [Emit("topic", "receipts", Outgoing(b"1"))]
    assert fate(Returned(emits)) == Ack(Receipt(1, 1, 1), emits)


@pytest.mark.parametrize("error", [Reject("no"), CodecError("not JSON")])
def test_what_is_rejected_or_does_not_decode_is_dead_at_once(error: Exception) -> None:
    settlement = fate(Raised(error))
    assert isinstance(settlement, Bury)
    assert settlement.failure is not None
    assert settlement.failure.type == type(error).__name__


@pytest.mark.parametrize(("attempt", "expected"), [(1, Defer), (4, Defer), (5, Bury), (6, Bury)])
def test_the_fifth_failure_is_the_last(attempt: int, expected: type[Settlement]) -> None:
    assert isinstance(fate(Raised(ValueError()), attempt), expected)
    assert isinstance(fate(Raised(Retry(3)), attempt), expected)


def test_without_a_limit_no_failure_is_the_last() -> None:
    assert isinstance(fate(Raised(ValueError()), 10_000, RetryPolicy(None)), Defer)


@pytest.mark.parametrize("code", ["ClaimUnavailable", "disk_full"])
def test_what_cannot_be_kept_for_now_waits_later_and_later_and_is_never_the_last_attempt(code: str) -> None:
    error = EmitRefused.by("billing", Refused(code, "out of reach"))
    waited = [
        decide(structs.replace(delivery(5), receives=5 + released), Raised(error), POLICY, 1.0, now=7.0)
        for released in (0, 1, 2, 20)
    ]
    assert waited == [Release(Receipt(1, 1, 5), delay) for delay in (0.2, 0.4, 0.8, 60.0)]


def test_an_emit_that_is_refused_for_good_is_a_failure_like_others() -> None:
    error = EmitRefused.by("billing", Refused("too_large", "the limit is 10"))
    settlement = fate(Raised(error), attempt=5)
    assert isinstance(settlement, Bury)
    assert settlement.failure is not None
    assert settlement.failure.type == "RefusedError"
    assert isinstance(fate(Raised(error)), Defer)


def test_retry_waits_as_long_as_it_says_and_a_negative_time_is_now() -> None:
    later, now = fate(Raised(Retry(after=90))), fate(Raised(Retry(after=-1)))
    assert isinstance(later, Defer)
    assert isinstance(now, Defer)
    assert (later.delay, now.delay) == (90, 0)


def test_retry_without_a_time_waits_as_the_backoff_says() -> None:
    settlement = fate(Raised(Retry()), attempt=3)
    assert isinstance(settlement, Defer)
    assert settlement.delay == 2.0


@pytest.mark.parametrize(("attempt", "roll", "delay"), [(1, 0.5, 0.5), (4, 0.5, 4.0), (4, 0.0, 0.0), (99, 0.5, 150.0)])
def test_backoff_doubles_up_to_its_cap_with_full_jitter_H73(attempt: int, roll: float, delay: float) -> None:
    settlement = fate(Raised(ValueError()), attempt, RetryPolicy(None, POLICY.backoff), roll)
    assert isinstance(settlement, Defer)
    assert settlement.delay == delay


def test_what_was_stopped_is_released_and_not_an_attempt_H72() -> None:
    assert fate(Cancelled(), attempt=5) == Release(Receipt(1, 1, 5))


def test_a_failure_keeps_type_message_attempt_and_time() -> None:
    failure = describe(ValueError("x" * 5000), delivery(3), now=7.0)
    assert (failure.at, failure.attempt, failure.type) == (7.0, 3, "ValueError")
    assert failure.message == "x" * 1000 + "..."


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even that")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("no such file: caf\udce9.txt, naïve"), "no such file: caf\\udce9.txt, naïve"),
        (Mute(), "(its text cannot be had: RuntimeError)"),
    ],
    ids=["surrogate", "mute"],
)
def test_what_an_error_cannot_say_is_no_second_error(error: Exception, told: str) -> None:
    """Half a surrogate pair, as in the name of a file that is no UTF-8, could not be kept: its commit failed."""
    failure = describe(error, delivery(), 0.0)
    assert failure.message == told
    assert failure.message.encode()


def test_failures_at_one_place_have_one_digest_and_at_another_place_another() -> None:
    def first(text: str) -> None:
        raise ValueError(text)

    def second() -> None:
        raise ValueError("b")

    digests: list[str] = []
    calls: list[Callable[[], None]] = [partial(first, "a"), partial(first, "b"), second]
    for call in calls:
        try:
            call()
        except ValueError as error:
            digests.append(describe(error, delivery(), 0.0).digest)
    assert len(digests[0]) == 8
    assert digests[0] == digests[1] != digests[2]
