"""A shop with an outbox, in a directory of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from outbox_shop import Shop


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)
