"""P18 with a real process and a real protocol: a short form of the campaign in `s3_faults.py`."""

from pathlib import Path

import pytest
from s3_server import S3Server

from s3_faults import campaign, clean


async def test_S70_S72_p18_objects_hold_each_acknowledged_record_once_through_lost_answers_and_kill_9_in_order(
    tmp_path: Path, s3: S3Server
) -> None:
    result = await campaign(tmp_path, s3, cycles=3, share=0.1, seed=7)
    assert result["objects"] > 0
    assert (result["missing"], result["twice"], result["disordered"], result["unfinished"]) == (0, 0, 0, 0)


@pytest.mark.parametrize("wrong", ["missing", "twice", "disordered", "unfinished"])
def test_a_result_with_a_fault_in_it_is_not_clean(wrong: str) -> None:
    good = {"acknowledged": 1, "missing": 0, "twice": 0, "disordered": 0, "unfinished": 0}
    assert clean(good)
    assert not clean(good | {wrong: 1})
    assert not clean(good | {"acknowledged": 0})
