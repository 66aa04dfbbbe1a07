"""SIGKILL `pipeflow demo` at random moments, resume it, and read the files with a program that knows nothing of it.

    python tests/faults/demo_kills.py [kills] [--seed N]

A run is killed and resumed on the same directory until it ends by itself; then its figures must be those of the data
and its files must hold every flight exactly once. Directories follow one another until there were enough kills.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHECK = ROOT / "examples" / "flights" / "check.py"
FIGURES = {
    "published": 27_004,
    "delayed": 1_852,
    "alerts": 207,
    "cancelled_dead": 521,
    "redriven": 521,
    "records_in_files": 27_004,
}
LONGEST = 30.0
"""Seconds in which a resumed run must end."""


def start(directory: Path, *, resume: bool) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeflow", "demo", "--json", "--out", str(directory)]
    return subprocess.Popen(
        command + ["--resume"] * resume, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[str], seconds: float) -> str | None:
    """What it printed when it ended by itself within `seconds`; None when it was killed instead."""
    try:
        said, complaint = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return None
    if process.returncode != 0:
        raise AssertionError(f"pipeflow demo ended with {process.returncode}: {complaint[-4_000:]}")
    return said


def wrong(said: str, directory: Path) -> list[str]:
    """What is not as it should be about a run that ended."""
    figures = json.loads(said)
    complaints = [
        f"{name} is {figures.get(name)}, not {expected}"
        for name, expected in FIGURES.items()
        if figures.get(name) != expected
    ]
    lake = directory / "lake"
    files = [path for path in lake.rglob("*") if path.is_file()]
    if len(files) != figures["files"]:
        complaints.append(f"{len(files)} files lie in the lake, {figures['files']} were counted")
    checked = subprocess.run(
        [sys.executable, "-I", str(CHECK), str(directory)], text=True, capture_output=True, check=False
    )
    if checked.returncode != 0:
        complaints.append(f"the files: {checked.stdout}{checked.stderr[-2_000:]}")
    return complaints


def campaign(kills: int, seed: int, directory: Path) -> dict[str, object]:
    """Kill that often, over as many directories as it takes; the figures, all violations named."""
    dice, done, resumes, complaints = random.Random(seed), 0, [], []
    began = time.monotonic()
    said = finish(start(directory / "clean", resume=False), 120)
    clean = time.monotonic() - began
    complaints += wrong(said, directory / "clean") if said is not None else ["a clean run took over two minutes"]
    job = 0
    while done < kills and not complaints:
        job += 1
        place = directory / f"job{job}"
        said, resume = None, False
        while said is None:
            began = time.monotonic()
            # Half a run at most, so that a job is killed several times, in all of its phases.
            said = finish(start(place, resume=resume), dice.uniform(0.2, clean / 2) if done < kills else LONGEST)
            if said is None and done == kills:
                complaints.append(f"a resumed run took over {LONGEST} s")
                break
            if said is None:
                done, resume = done + 1, True
            else:
                resumes.append(round(time.monotonic() - began, 2))
                complaints += wrong(said, place)
    return {
        "campaign": "demo_kills",
        "seed": seed,
        "kills": done,
        "jobs": job,
        "clean_seconds": round(clean, 2),
        "last_resume_seconds_max": max(resumes, default=None),
        "violations": complaints,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="kill -9 the demo, resume it, and audit its files")
    parser.add_argument("kills", nargs="?", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = campaign(options.kills, options.seed, Path(directory))
    print(json.dumps(result))
    return 1 if result["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
