"""Break one line at a time and see that the tests notice: tests that cannot fail prove nothing.

    python tests/faults/mutants.py [NAME ...]
    python tests/faults/mutants.py queues topics stores

Each mutant is a copy of the tree with one line changed. It is caught when a test fails and survives when all pass. What
caught each is printed as a table, and the figures as one JSON line.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import broken_queues
import broken_stores
import broken_topics
from mutant import Mutant

ROOT = Path(__file__).resolve().parents[2]
LISTS = {"queues": broken_queues.MUTANTS, "topics": broken_topics.MUTANTS, "stores": broken_stores.MUTANTS}
SIDE_BY_SIDE = 2
TIMEOUT = 30
"""Seconds for one test: a mutant may wait for ever."""


def tree(folder: Path) -> None:
    """A copy of what the tests need."""
    for name in ("pipeflow", "tests", "connectors"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


def check(mutant: Mutant) -> None:
    """LookupError when its line is not there any more."""
    if mutant.line not in (ROOT / mutant.path).read_text():
        raise LookupError(f"mutant {mutant.name}: {mutant.path} has no line {mutant.line!r} any more; adapt it")


def caught(mutant: Mutant, folder: Path) -> str | None:
    """The test that noticed; None when none did."""
    file = folder / mutant.path
    whole = file.read_text()
    file.write_text(whole.replace(mutant.line, mutant.broken, 1))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "--timeout", str(TIMEOUT), *mutant.tests],
            cwd=folder,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{folder}:{folder / 'connectors'}", "PYTHONDONTWRITEBYTECODE": "1"},
        )
    finally:
        file.write_text(whole)
    if done.returncode == 0:
        return None
    named = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED tests", "ERROR tests"))]
    if not named and "Timeout" not in done.stdout + done.stderr:
        raise RuntimeError(f"mutant {mutant.name}: pytest ended with {done.returncode}\n{done.stdout[-2000:]}")
    return named[0].rpartition("::")[2] if named else "a timeout"


def run(chosen: list[Mutant]) -> dict[str, str | None]:
    """What caught each; two copies of the tree are broken side by side."""
    folders: SimpleQueue[Path] = SimpleQueue()

    def one(mutant: Mutant) -> str | None:
        folder = folders.get()
        try:
            by = caught(mutant, folder)
        finally:
            folders.put(folder)
        print(f"{mutant.name:45} {by or 'SURVIVED'}", file=sys.stderr, flush=True)
        return by

    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for n in range(SIDE_BY_SIDE):
            tree(Path(name) / str(n))
            folders.put(Path(name) / str(n))
        return dict(zip([mutant.name for mutant in chosen], pool.map(one, chosen), strict=True))


def chosen(wanted: list[str]) -> list[Mutant]:
    """Those of these names and lists; all of them for none."""
    every = {mutant.name: mutant for mutants in LISTS.values() for mutant in mutants}
    found: list[Mutant] = []
    for name in wanted or LISTS:
        if name not in LISTS and name not in every:
            raise SystemExit(f"there is no mutant {name}; lists are {', '.join(LISTS)}")
        found += LISTS[name] if name in LISTS else [every[name]]
    return found


def main() -> int:
    mutants = chosen(sys.argv[1:])
    for mutant in mutants:
        check(mutant)
    began = time.monotonic()
    by = run(mutants)
    survivors = [name for name, test in by.items() if test is None]
    print("mutant | caught by\n--- | ---")
    for name, test in by.items():
        print(f"{name} | {test or '**survived**'}")
    figures = {"mutants": len(by), "caught": len(by) - len(survivors), "survivors": survivors}
    print(json.dumps({"campaign": "mutants", **figures, "seconds": round(time.monotonic() - began)}))
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
