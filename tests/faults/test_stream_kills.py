"""P17 with real processes: a short form of the campaign in `stream_kills.py`."""

from pathlib import Path

from stream_kills import campaign


def test_p17_files_hold_each_acknowledged_record_once_after_kill_9_at_any_moment(tmp_path: Path) -> None:
    result = campaign(tmp_path, cycles=8, seed=7)
    assert result["acknowledged"] > 0
    assert result["files"] > 0
    assert (result["missing"], result["twice"], result["temporary"]) == (0, 0, 0)
