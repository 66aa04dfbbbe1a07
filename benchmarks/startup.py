"""How long a program waits for pipeflow: an empty interpreter, `import pipeflow`, and `pipeflow --version`.

`added_ms` is what it adds to an interpreter that imports nothing. Modules are compiled before, as they are for
everybody but the first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

CASES = {
    "python": [sys.executable, "-c", "pass"],
    "import pipeflow": [sys.executable, "-c", "import pipeflow"],
    "pipeflow --version": [sys.executable, "-m", "pipeflow", "--version"],
}
RUNS_PER_ROUND = 3
TARGET = 150.0
"""Milliseconds that `import pipeflow` may take, the interpreter's own start included."""


def once(command: list[str], environment: dict[str, str]) -> float:
    """Milliseconds from start to end of one process."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description="how long a program waits for pipeflow")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round: to test the benchmark")
    options = parser.parse_args()
    taken: dict[str, list[float]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory(prefix="bench-") as compiled:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for command in CASES.values():
            once(command, environment)
        for _ in range(1 if options.quick else options.rounds * RUNS_PER_ROUND):
            for case, command in CASES.items():
                taken[case].append(once(command, environment))
    median = {case: statistics.median(times) for case, times in taken.items()}
    for case, ms in median.items():
        added = ms - median["python"]
        result = {"case": case, "ms": round(ms, 1), "added_ms": round(added, 1), "runs": len(taken[case])}
        if case == "import pipeflow":
            result |= {"target_ms": TARGET, "reached": ms < TARGET}
        print(json.dumps(result))
        print(f"{case:20} {ms:6.1f} ms", file=sys.stderr)


if __name__ == "__main__":
    main()
