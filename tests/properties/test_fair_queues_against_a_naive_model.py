"""The order of a fair queue is what a naive reading of its rules says, on random walks (SQS: Q81-Q84)."""

from __future__ import annotations

import pytest
from naive_fair_queue import Walk


@pytest.mark.parametrize("seed", range(6))
def test_Q82_Q83_Q84_whose_message_is_next_is_what_the_naive_model_says(seed: int) -> None:
    walk = Walk(seed)
    walk.walk(250)
    assert walk.met_noisy, "some tenant was noisy and served"
