"""Receivers that wait and are cancelled at any moment leave no message behind and no receiver asleep (SQS: Q48).

`scripts/faults walk 0 --waiting 5000` runs thousands of schedules.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from waiting_walk import Schedule

SCHEDULES = {"memory": 150, "sqlite": 12, "cold": 12, "socket": 12}


@pytest.mark.parametrize("kind", SCHEDULES)
async def test_Q48_a_receiver_that_is_woken_and_cancelled_passes_its_wake_up_on(tmp_path: Path, kind: str) -> None:
    cancelled = taken = 0
    for seed in range(SCHEDULES[kind]):
        folder = tmp_path / f"{seed}"
        folder.mkdir()
        schedule = Schedule(kind, folder, seed)
        await schedule.run(80)
        cancelled += schedule.cancelled
        taken += schedule.taken
    assert min(cancelled, taken) > SCHEDULES[kind]
