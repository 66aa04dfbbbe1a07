"""At most so many messages in any second."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from pipeflow.state.pace import Pace


def most_in_any(seconds: float, gone: list[tuple[float, int]]) -> int:
    """The naive reading: look at the window that ends with each of them."""
    return max(
        (sum(number for at, number in gone if end - seconds < at <= end) for end, _ in gone),
        default=0,
    )


@settings(deadline=None)
@given(
    rate=some.sampled_from([0.1, 0.5, 1, 3, 10]),
    steps=some.lists(some.tuples(some.sampled_from([0, 0.125, 0.25, 1, 7]), some.integers(1, 12)), max_size=40),
)
def test_Q78_no_second_has_more_than_is_allowed_and_none_is_held_back_that_may_go(
    rate: float, steps: list[tuple[float, int]]
) -> None:
    pace, now = Pace(rate), 1000.0
    gone: list[tuple[float, int]] = []
    for pause, wanted in steps:
        now += pause
        pace.tick(now)
        allowed = pace.count - sum(number for at, number in gone if at + pace.seconds > now)
        assert pace.room == allowed
        number = min(wanted, pace.room)
        if number > 0:
            pace.took(number, now)
            gone.append((now, number))
        assert (pace.again == inf) is (pace.room > 0)
    assert most_in_any(pace.seconds, gone) <= pace.count


def test_a_million_a_second_are_remembered_in_a_thousand_entries() -> None:
    pace = Pace(1_000_000)
    for n in range(100_000):
        pace.took(10, n / 100_000)
    assert pace.room == 0
    assert len(pace._given) <= 1001
    pace.tick(1.0025)
    assert 1000 <= pace.room <= 3000


@pytest.mark.parametrize(("rate", "count", "seconds"), [(10, 10, 1.0), (1, 1, 1.0), (0.1, 1, 10.0), (0.5, 1, 2.0)])
def test_a_rate_below_one_is_one_message_every_so_many_seconds(rate: float, count: int, seconds: float) -> None:
    pace = Pace(rate)
    assert (pace.count, pace.seconds) == (count, seconds)
    pace.took(count, 5.0)
    assert pace.again == 5.0 + seconds
    pace.tick(pace.again)
    assert pace.room == count
