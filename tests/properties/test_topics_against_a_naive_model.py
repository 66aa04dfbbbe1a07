"""Topics deliver what a naive model says, to whom it says, on random walks over hot and cold stores, with kills.

SNS: T20, T28, T29, T49-T52, T69-T72, T75, T76. `scripts/faults walk 0 --topics 100000` walks further.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from topic_walk import Walk

STEPS = 500


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["memory", "sqlite", "cold"])
async def test_T29_T71_topics_do_what_the_naive_model_says(tmp_path: Path, kind: str, seed: int) -> None:
    walk = Walk(kind, tmp_path, seed)
    await walk.walk(STEPS)
    met = ("published", "delivered", "duplicates", "refused", "replayed", "received")
    assert all(walk.seen.get(what, 0) > 3 for what in met), walk.seen
