"""P17 with real processes: a short form of `sink_kills.py`, which kills thousands of times and at every call."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sink_programs import PROGRAMS, audit, clean
from sink_sweep import why_not

CAMPAIGN = Path(__file__).with_name("sink_kills.py")


def campaign(*arguments: str) -> dict[str, object]:
    done = subprocess.run([sys.executable, str(CAMPAIGN), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    last: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return last


@pytest.mark.parametrize("program", PROGRAMS)
def test_p17_objects_hold_each_acknowledged_record_once_after_kill_9_at_any_moment(program: str) -> None:
    result = campaign("4", "--no-sweep", "--program", program)
    assert result["kills"] == 4
    assert result["wrong"] == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_p17_objects_hold_each_acknowledged_record_once_after_kill_9_at_calls_that_change_the_disk(
    program: str,
) -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    result = campaign("0", "--step", "110", "--program", program)
    swept = result["swept"]
    assert isinstance(swept, dict)
    # A life may make a call less than the one that was counted: then it ends by itself, and is audited all the same.
    assert swept[program]["points"] > 1
    assert swept[program]["died"] > swept[program]["points"] / 2


def test_a_missing_a_double_and_a_half_written_object_are_found(tmp_path: Path) -> None:
    (tmp_path / "acknowledged").write_text("0-1\n0-2\n0-4\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jsonl").write_text('{"id":"0-1"}\n{"id":"0-2"}\n')
    (tmp_path / "out" / "b.jsonl").write_text('{"id":"0-2"}\n')
    (tmp_path / "out" / ".tmp-c.jsonl").write_text('{"id":"0-4"}\n')
    result = audit("plain", tmp_path)
    assert result == {"acknowledged": 3, "files": 3, "missing": 1, "twice": 1, "temporary": 1}
    assert not clean(result)
