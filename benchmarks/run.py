"""Runs the benchmarks beside it and collects what they print: one JSON object per line and result.

    scripts/bench [--rounds N] [--quick] [--out FILE] [--list] [name ...]

A benchmark is a script that takes `--rounds N` and `--quick`, interleaves what it compares, and prints one JSON object
a line; every other line goes to stderr. The collected file has the machine and the versions on its first line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGES = ("pipeflow", "aiosqlite", "anyio", "msgspec", "uvloop", "isal", "zstandard", "pyarrow", "jq")


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    import sqlite3

    return {
        "benchmark": "machine",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "sqlite": sqlite3.sqlite_version,
        "packages": {name: found for name in PACKAGES if (found := installed(name)) is not None},
    }


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def run(name: str, rounds: int, quick: bool) -> tuple[list[dict[str, object]], bool]:
    """The results of one benchmark, as they are printed, and whether it ended well."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / f"{name}.py"), "--rounds", str(rounds), *(["--quick"] if quick else [])],
        stdout=subprocess.PIPE,
        text=True,
        cwd=HERE.parent,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )
    results = []
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                print(line, end="", flush=True)
                results.append({"benchmark": name, **json.loads(line)})
            else:
                print(line, end="", file=sys.stderr)
    return results, process.returncode == 0


def main() -> int:
    there = sorted(path.stem for path in HERE.glob("[!_]*.py") if path.stem != "run")
    parser = argparse.ArgumentParser(description="run the benchmarks and collect their results")
    parser.add_argument("names", nargs="*", metavar="name", help=f"one of: {', '.join(there)}; all without a name")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; the figures mean nothing")
    parser.add_argument("--out", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and end")
    options = parser.parse_args()
    if options.list:
        print("\n".join(there))
        return 0
    unknown = sorted(set(options.names) - set(there))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(there)}")
    collected, failed = [machine()], []
    for name in options.names or there:
        results, well = run(name, options.rounds, options.quick)
        collected += results
        failed += [] if well else [name]
    options.out.write_text("".join(json.dumps(result) + "\n" for result in collected))
    print(f"{len(collected) - 1} results in {options.out}", file=sys.stderr)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
