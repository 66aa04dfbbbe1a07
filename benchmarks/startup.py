"""How long a program waits for pipeflow: an empty interpreter, `import pipeflow`, and `pipeflow --version`.

The figure of the import is what it adds to an interpreter that imports nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

CASES = {
    "python": [sys.executable, "-c", "pass"],
    "import pipeflow": [sys.executable, "-c", "import pipeflow"],
    "pipeflow --version": [sys.executable, "-m", "pipeflow", "--version"],
}
RUNS_PER_ROUND = 3


def once(command: list[str]) -> float:
    """Milliseconds from start to end of one process."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    taken: dict[str, list[float]] = {case: [] for case in CASES}
    for command in CASES.values():
        once(command)
    for _ in range(rounds * RUNS_PER_ROUND):
        for case, command in CASES.items():
            taken[case].append(once(command))
    median = {case: statistics.median(times) for case, times in taken.items()}
    for case, ms in median.items():
        added = ms - median["python"]
        print(json.dumps({"case": case, "ms": round(ms, 1), "added_ms": round(added, 1), "runs": len(taken[case])}))


if __name__ == "__main__":
    main()
