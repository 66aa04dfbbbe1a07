"""Memory while a sink is down, measured from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_S17_an_hour_without_a_sink_takes_the_memory_of_the_bound_and_loses_nothing() -> None:
    places = [str(HERE.parent / "rigs"), *filter(None, [os.environ.get("PYTHONPATH")])]
    ran = subprocess.run(
        [sys.executable, str(HERE / "dead_sink.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        cwd=HERE.parent.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=110,
    )
    told = json.loads(ran.stdout)
    assert told["bound"] <= told["held"] < told["bound"] + 2048
    assert told["waiting"] < told["put"], "`put` did not wait"
    assert told["delivered"] == told["put"]
    # Measured: 1.1 times the bound; each record is a bytes object with its head and its place in a list.
    assert told["peak"] - told["before"] < 1.6 * told["bound"]
