"""A broker does what a naive model of a queue says, on random walks over hot and cold stores, with restarts.

SQS: Q1, Q2, Q51, Q55, Q59-Q62, Q71, Q75, Q89, Q107, and keys of delayed messages. `scripts/faults walk` walks further.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from broker_walk import Walk

STEPS = 700


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fifo", [False, True], ids=["standard", "fifo"])
@pytest.mark.parametrize("kind", ["memory", "sqlite", "cold"])
async def test_Q1_Q2_a_queue_does_what_the_naive_model_says(tmp_path: Path, kind: str, fifo: bool, seed: int) -> None:
    await Walk(kind, fifo, tmp_path, seed).walk(STEPS)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["memory", "sqlite", "cold"])
async def test_a_queue_with_priorities_does_what_the_naive_model_says(tmp_path: Path, kind: str, seed: int) -> None:
    await Walk(kind, False, tmp_path, seed, priorities=(0, 0, 0, 1, 1, 5, 9)).walk(STEPS)
