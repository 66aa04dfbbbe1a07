"""P22: a tenth of the backlog that `scripts/faults backlog` works off; memory stays as small, for it is bounded."""

from __future__ import annotations

from pathlib import Path

from backlog import campaign, clean


def test_p22_a_backlog_on_disk_is_worked_off_in_order_in_bounded_memory(tmp_path: Path) -> None:
    result = campaign(tmp_path, 100_000)
    assert clean(result), result
